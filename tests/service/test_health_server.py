import json
import socket
import urllib.error
import urllib.request
from datetime import UTC, datetime

import pytest

from qc import db
from qc.core.enums import LabelName
from qc.service.health_server import serve_health
from tests.support.databases import write_settings
from tests.support.tiny_spectrograph import open_tiny, process, write_frame, write_history

NOW = datetime.now(UTC)


@pytest.fixture
def served(project_folder):
    """A project whose health endpoint listens on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    write_settings(
        project_folder, f"[health]\nport = {port}\n[[subscription]]\nto = ['me@here.example']\n"
    )
    with open_tiny(project_folder) as project, serve_health(project, lambda: NOW, lambda: 7):
        yield project, port


def fetch(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_healthz_of_a_new_project_is_200(served):
    _, port = served
    status, body = fetch(port, "/healthz")
    assert (status, json.loads(body)) == (200, {"is_well": True, "troubles": []})


def test_healthz_is_503_from_a_failed_job_to_its_next_success(served):
    project, port = served
    with project.write_session.begin() as session:
        run = db.operations.begin_run(session, "report", NOW)
        db.operations.end_run(session, run, NOW, is_well=False, words="no space left on device")
    status, body = fetch(port, "/healthz")
    assert status == 503
    assert json.loads(body)["troubles"] == ["report: no space left on device"]
    with project.write_session.begin() as session:
        db.operations.record_run(session, "report", NOW, NOW, "2026-01-01.html")
    assert fetch(port, "/healthz")[0] == 200


def test_metrics_contain_every_figure(served, inbox):
    project, port = served
    process(project, *write_history(inbox), label=LabelName.GOOD)
    process(project, write_frame(inbox, 2))
    with project.write_session.begin() as session:
        db.operations.record_run(session, "scan", NOW, NOW, "")
    status, text = fetch(port, "/metrics")
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert status == 200
    assert (figures["qc_database_up"], figures["qc_files_waiting"]) == ("1.0", "7.0")
    assert figures['qc_files{state="processed"}'] == "21.0"
    assert figures["qc_alerts_owed"] == "0.0"
    seconds = float(figures['qc_job_last_success_timestamp_seconds{job="scan"}'])
    assert seconds == pytest.approx(NOW.timestamp())
    assert float(figures["qc_lag_seconds"]) > 0


def test_other_paths_are_404(served):
    assert fetch(served[1], "/etc/passwd")[0] == 404
