"""The server as a process, and what each request of it has."""

import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from qc.core.enums import LabelName
from qc.db.models import EpochRow
from qc.project import create_project
from qc.web.api import uploads
from qc.web.rendering import Writes
from qc.web.server import send_at_once
from tests.support.browser import pages_of
from tests.support.tiny import process, write_frame, write_history
from tests.support.waiting import DEADLINE_S

pytest_plugins = ["tests.support.browser"]

MORNING = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_end_ends_well(unmade, how):
    create_project(unmade)
    command = [sys.executable, "-m", "qc", "serve", "--port", "0", "--project", str(unmade)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert server.stdout is not None
    try:
        address = server.stdout.readline().strip()
        assert httpx.get(address, timeout=DEADLINE_S).status_code == 200
        server.send_signal(how)
        assert server.wait(DEADLINE_S) == 0
    finally:
        server.kill()
        server.stdout.close()


def test_an_answer_leaves_as_it_is_written():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        send_at_once(listening)
        with socket.create_connection(listening.getsockname()) as _caller:
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def epochs_in(session):
    return session.scalar(select(func.count()).select_from(EpochRow))


def writing(project):
    """An application whose only page writes, and goes wrong without a reason; and what was seen."""
    app = FastAPI()
    app.state.project = project
    seen = []

    @app.middleware("http")
    async def look(request, answer):
        response = await answer(request)
        with project.reads() as session:  # before a byte of the answer has left
            seen.append(epochs_in(session))
        return response

    @app.post("/epochs")
    def enter(session: Writes, why: str = "") -> list[int]:
        row = EpochRow(scope="TINY", since=MORNING.date(), why=why, who="kim", at=MORNING)
        session.add(row)
        if not why:
            raise HTTPException(422, "no reason")
        return seen

    return TestClient(app), seen


def test_what_a_page_writes_is_kept_before_its_answer_leaves(project):
    client, seen = writing(project)
    assert client.post("/epochs?why=lamp").status_code == 200
    assert seen == [1]


def test_what_a_page_wrote_before_it_went_wrong_is_not_kept(project):
    client, seen = writing(project)
    assert client.post("/epochs").status_code == 422
    assert seen == [0]


def test_no_more_files_are_looked_at_at_once_than_may_be(project, inbox, monkeypatch):
    process(project, *write_history(inbox), label=LabelName.GOOD)
    monkeypatch.setattr(uploads, "AT_ONCE", 0)
    content = write_frame(inbox, 2).read_bytes()
    answer = pages_of(project).post("/api/v1/similar", files={"file": ("a.fits", content)})
    assert answer.status_code == 503
    assert "as many as may be at once" in answer.json()["error"]
    monkeypatch.setattr(uploads, "AT_ONCE", 1)
    pages = pages_of(project)
    for _ in range(2):  # a place is free again afterwards
        assert pages.post("/api/v1/similar", files={"file": ("a", content)}).status_code == 200


def test_the_report_of_a_night_is_a_page_once_it_was_written(project, pages):
    told = pages.get("/reports/2026-01-01")
    assert told.status_code == 404
    assert "qc report --night 2026-01-01" in told.text
    folder = project.settings.reports_folder
    folder.mkdir()
    (folder / "2026-01-01.html").write_text("<h1>the night</h1>")
    assert pages.get("/reports/2026-01-01").text == "<h1>the night</h1>"
    assert pages.get("/reports/..%2Fqc").status_code in {404, 422}


def test_a_frame_leads_to_its_like_its_review_and_its_report(project, inbox, pages):
    process(project, *write_history(inbox), label=LabelName.GOOD)
    page = pages.get("/frames/TINY.2026-01-01T20:00:00").text
    assert 'href="/similar?frame=TINY.2026-01-01T20%3A00%3A00"' in page
    review = next(part for part in page.split('"') if part.startswith("/review?at="))
    assert "TINY.2026-01-01T20:00:00" in pages.get(review.replace("&amp;", "&")).text
    assert "/reports/" not in page
    project.settings.reports_folder.mkdir()
    (project.settings.reports_folder / "2026-01-01.html").touch()
    assert 'href="/reports/2026-01-01"' in pages.get("/frames/TINY.2026-01-01T20:00:00").text
