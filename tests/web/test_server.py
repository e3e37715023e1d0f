"""Server process, database sessions of requests and uploads."""

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
from qc.db.schema.models import EpochRow
from qc.project import create_project
from qc.web.api import uploads
from qc.web.deps import WriteSession
from qc.web.server import disable_nagle
from tests.support.browser import pages_of
from tests.support.tiny_spectrograph import process, write_frame, write_history
from tests.support.waiting import DEADLINE_S

pytest_plugins = ["tests.support.browser"]

MORNING = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_server_stops_on_signal(unmade, how):
    create_project(unmade)
    command = [sys.executable, "-m", "qc", "web", "serve", "--port", "0", "--project", str(unmade)]
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


def test_disable_nagle_applies_to_connections():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        disable_nagle(listening)
        with socket.create_connection(listening.getsockname()) as _caller:
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def epochs_in(session):
    return session.scalar(select(func.count()).select_from(EpochRow))


def writing(project):
    """Return a client of a route that writes and fails without a reason, and the row counts."""
    app = FastAPI()
    app.state.project = project
    counts = []

    @app.middleware("http")
    async def look(request, answer):
        response = await answer(request)
        with project.read_session() as session:  # before a byte of the answer has left
            counts.append(epochs_in(session))
        return response

    @app.post("/epochs")
    def enter(session: WriteSession, why: str = "") -> list[int]:
        row = EpochRow(scope="TINY", since=MORNING.date(), why=why, who="kim", at=MORNING)
        session.add(row)
        if not why:
            raise HTTPException(422, "no reason")
        return counts

    return TestClient(app), counts


def test_write_session_commits_before_response(project):
    client, counts = writing(project)
    assert client.post("/epochs?why=lamp").status_code == 200
    assert counts == [1]


def test_write_session_rolls_back_on_error(project):
    client, counts = writing(project)
    assert client.post("/epochs").status_code == 422
    assert counts == [0]


def test_concurrent_uploads_are_limited(project, inbox, monkeypatch):
    process(project, *write_history(inbox), label=LabelName.GOOD)
    monkeypatch.setattr(uploads, "MOST_CONCURRENT", 0)
    content = write_frame(inbox, 2).read_bytes()
    answer = pages_of(project).post("/api/v1/similar", files={"file": ("a.fits", content)})
    assert answer.status_code == 503
    assert "the maximum" in answer.json()["error"]
    monkeypatch.setattr(uploads, "MOST_CONCURRENT", 1)
    pages = pages_of(project)
    for _ in range(2):  # a place is free again afterwards
        assert pages.post("/api/v1/similar", files={"file": ("a", content)}).status_code == 200


def test_report_page(project, pages):
    response = pages.get("/reports/2026-01-01")
    assert response.status_code == 404
    assert "qc report night --night 2026-01-01" in response.text
    folder = project.settings.reports_folder
    folder.mkdir()
    (folder / "2026-01-01.html").write_text("<h1>the night</h1>")
    assert pages.get("/reports/2026-01-01").text == "<h1>the night</h1>"
    assert pages.get("/reports/..%2Fqc").status_code in {404, 422}


def test_frame_page_links(project, inbox, pages):
    process(project, *write_history(inbox), label=LabelName.GOOD)
    page = pages.get("/frames/TINY.2026-01-01T20:00:00").text
    assert 'href="/similar?frame=TINY.2026-01-01T20%3A00%3A00"' in page
    review = next(part for part in page.split('"') if part.startswith("/review?at="))
    assert "TINY.2026-01-01T20:00:00" in pages.get(review.replace("&amp;", "&")).text
    assert "/reports/" not in page
    project.settings.reports_folder.mkdir()
    (project.settings.reports_folder / "2026-01-01.html").touch()
    assert 'href="/reports/2026-01-01"' in pages.get("/frames/TINY.2026-01-01T20:00:00").text
