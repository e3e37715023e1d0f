import json
import socket
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest

from qc import db
from qc.core.enums import LabelName
from qc.db.statistics import weekly_distances
from qc.monitoring.health import read_health, serve_health
from tests.support.databases import write_settings
from tests.support.tiny import light_leak, open_tiny, process, write_frame, write_history

NOW = datetime.now(UTC)


@pytest.fixture
def served(project_folder):
    """A project that answers on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    write_settings(
        project_folder, f"[health]\nport = {port}\n[[subscription]]\nto = ['me@here.example']\n"
    )
    with open_tiny(project_folder) as project, serve_health(project, lambda: NOW, lambda: 7):
        yield project, port


def ask(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def read(project, now=NOW):
    with project.reads() as session:
        return read_health(session, project.settings, now)


def test_a_new_project_is_well(served):
    project, port = served
    assert read(project).is_well
    status, body = ask(port, "/healthz")
    assert (status, json.loads(body)) == (200, {"is_well": True, "troubles": []})


def test_a_job_that_failed_is_told_until_it_goes_well(served):
    project, port = served
    with project.writes.begin() as session:
        run = db.job_runs.begin_run(session, "report", NOW)
        db.job_runs.end_run(session, run, NOW, is_well=False, words="no space left on device")
    status, body = ask(port, "/healthz")
    assert status == 503
    assert json.loads(body)["troubles"] == ["report: no space left on device"]
    with project.writes.begin() as session:
        db.job_runs.record_run(session, "report", NOW, NOW, "2026-01-01.html")
    assert ask(port, "/healthz")[0] == 200


def test_a_debt_of_more_than_an_hour_is_told(served, inbox):
    project, _ = served
    process(project, *write_history(inbox), label=LabelName.GOOD)
    process(project, write_frame(inbox, 2, change=light_leak))
    now = datetime.now(UTC)
    assert read(project, now).is_well
    assert read(project, now).mails_owed == 1
    late = read(project, now + timedelta(hours=2))
    assert late.troubles == ("people have not been told of something for 2.0 h",)


def test_prometheus_reads_every_figure(served, inbox):
    project, port = served
    process(project, *write_history(inbox), label=LabelName.GOOD)
    process(project, write_frame(inbox, 2))
    with project.writes.begin() as session:
        db.job_runs.record_run(session, "scan", NOW, NOW, "")
    status, text = ask(port, "/metrics")
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert status == 200
    assert (figures["qc_database_up"], figures["qc_files_waiting"]) == ("1.0", "7.0")
    assert figures['qc_files{state="processed"}'] == "21.0"
    assert figures["qc_alerts_owed"] == "0.0"
    seconds = float(figures['qc_job_last_success_timestamp_seconds{job="scan"}'])
    assert seconds == pytest.approx(NOW.timestamp())
    assert float(figures["qc_lag_seconds"]) > 0


def test_ageing_shows_as_the_distance_of_nominal_frames_week_by_week(served, inbox):
    project, _ = served
    process(project, *write_history(inbox), label=LabelName.GOOD)
    process(project, *(write_frame(inbox, night) for night in (2, 3, 9)))
    with project.reads() as session:
        found = weekly_distances(session, datetime(2026, 1, 2, tzinfo=UTC).date())
    weeks = [(image_type, week) for image_type, week, _ in found]
    assert weeks == [("TB0", "2026-W01"), ("TB0", "2026-W02")]
    assert all(0 < distance < 1 for *_, distance in found)


def test_nothing_else_is_answered(served):
    assert ask(served[1], "/etc/passwd")[0] == 404
