import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from embeddings.encoder import ResNet50Encoder
from qc._time import utc_now
from qc.core.enums import LabelName
from qc.db.schema.engine import connect
from qc.db.schema.models import ExtensionRow, FrameRow, JobRunRow, ScheduledJobRow, VerdictRow
from qc.io.instrument_files import read_instruments
from qc.service.daemon import Daemon
from qc.service.jobs import JOBS
from qc.settings import read_settings
from tests.support.databases import write_settings
from tests.support.tiny_spectrograph import (
    StandIn,
    light_leak,
    open_tiny,
    process,
    thresholds_text,
    write_frame,
    write_history,
    write_instrument,
)
from tests.support.waiting import DEADLINE_S, wait_for_end, wait_until


class MailHandler:
    """SMTP handler that keeps the messages."""

    def __init__(self, port):
        self.port = port
        self.messages = []

    async def handle_DATA(self, server, session, envelope):  # noqa: ARG002, N802
        self.messages.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 kept"


@pytest.fixture
def post():
    """A local mail server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    letters = MailHandler(port)
    controller = Controller(letters, hostname="127.0.0.1", port=port)
    controller.start()
    yield letters
    controller.stop()


@pytest.fixture
def project_with_mail(project_folder, inbox, post):
    """A project with a history, an inbox and a mail subscription."""
    with open_tiny(project_folder) as project:
        process(project, *write_history(project_folder), label=LabelName.GOOD)
    toml = f"""
instruments = "instruments"
[[inbox]]
path = "{inbox}"
[watch]
quiet_s = 0.2
[mail]
host = "127.0.0.1"
port = {post.port}
security = "none"
sender = "qc@here.example"
[alerts]
gather_s = 0
oldest_days = 100000
[[subscription]]
to = ["me@here.example"]
[health]
port = 0
"""
    write_settings(project_folder, toml)
    return project_folder


@contextmanager
def running_daemon(project):
    daemon = Daemon(project, JOBS)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        yield daemon
    finally:
        daemon.stop()
        wait_for_end(thread)


def rows(project, table):
    with project.read_session() as session:
        return list(session.scalars(select(table)))


def test_anomalous_frame_is_mailed(project_with_mail, inbox, post):
    with open_tiny(project_with_mail) as project, running_daemon(project):
        write_frame(inbox, 2, change=light_leak)
        wait_until(lambda: post.messages)
    [message] = post.messages
    assert message["Subject"].strip().startswith("[QC] TB0 2026-01-02: 1 of 1 bias anomalous")
    assert message["To"] == "me@here.example"


def test_nominal_frame_is_not_mailed_and_broken_file_is_retried(project_with_mail, inbox, post):
    with open_tiny(project_with_mail) as project, running_daemon(project):
        write_frame(inbox, 2)
        (inbox / "broken.fits").write_bytes(b"no FITS")
        wait_until(
            lambda: len([row for row in rows(project, FrameRow) if "inbox" in row.path]) == 2
        )
        [failed] = [row for row in rows(project, FrameRow) if row.state == "failed"]
        wait_until(lambda: rows(project, JobRunRow))
    assert (failed.tries, failed.retry_at > failed.failed_since) == (1, True)
    assert not post.messages


class FailingEncoder(StandIn):
    """Encoder that raises an error for bright frames."""

    def embed(self, inputs):
        if inputs.mean() > 2:
            raise ValueError("a bug")
        return super().embed(inputs)


def test_program_error_for_one_frame_delays_no_other(project_with_mail, inbox):
    def bright(image):
        image += 20000

    for number in range(3):
        write_frame(inbox, 2, number, change=bright if number == 1 else None)
    with open_tiny(project_with_mail, FailingEncoder()) as project:
        daemon = Daemon(project, JOBS)
        daemon.enqueue(sorted(inbox.iterdir()), utc_now())
        counts = daemon.process_queue()
        daemon.inboxes.close()
        [failed] = [row for row in rows(project, FrameRow) if row.state == "failed"]
    assert (counts["processed"], counts["failed"], daemon.queue) == (2, 1, {})
    assert "a fault of the program: ValueError: a bug" in failed.reason
    assert failed.retry_at is not None


def test_queue_prefers_the_newest_night(project):
    daemon = Daemon(project, JOBS)
    names = [f"TINY.{when}.fits" for when in ("2026-01-05T20:00:00", "2026-01-09T20:00:00")]
    old, new = (project.settings.project / name for name in names)
    daemon.enqueue([old, new], utc_now())
    assert max(daemon.queue, key=daemon.queue.__getitem__) == new
    daemon.inboxes.close()


def test_every_job_is_scheduled(project_with_mail):
    with open_tiny(project_with_mail) as project, running_daemon(project):
        wait_until(lambda: len(rows(project, ScheduledJobRow)) == len(JOBS))
        listed = rows(project, ScheduledJobRow)
    assert {row.id for row in listed} == {job.name for job in JOBS}
    assert all(row.next_run_time is not None for row in listed)


@pytest.mark.parametrize("name", [job.name for job in JOBS])
def test_job_succeeds(project_with_mail, name, inbox):
    [job] = [job for job in JOBS if job.name == name]
    with open_tiny(project_with_mail) as project:
        process(project, write_frame(inbox, 2))
        daemon = Daemon(project, JOBS)
        daemon.execute(job.name)
        daemon.inboxes.close()
        assert not list(daemon.issues)


def test_last_night_follows_the_instrument_in_use(project_with_mail):
    with open_tiny(project_with_mail) as project:
        packaged = read_instruments()
        daemon = Daemon(replace(project, instruments=(*packaged, *project.instruments)), JOBS)
        morning = datetime(
            2026, 1, 3, 11, tzinfo=UTC
        )  # nights of the tiny instrument begin at 12 UT
        assert daemon.last_night(morning) == date(2026, 1, 2)
        assert daemon.last_night(morning + timedelta(hours=2)) == date(2026, 1, 3)
        daemon.inboxes.close()


def test_reload_uses_edited_thresholds(project_with_mail):
    with open_tiny(project_with_mail) as project:
        daemon = Daemon(project, JOBS)
        before = daemon.project.thresholds.digest
        file = project_with_mail / "thresholds.yaml"
        file.write_text(file.read_text() + "\n# edited\n")
        daemon.reload_project()
        assert daemon.project.thresholds.digest != before
        file.write_text("nonsense: [")
        daemon.reload_project()
        assert [trouble.key for trouble in daemon.issues] == ["thresholds"]
        daemon.inboxes.close()


# --- a real process -------------------------------------------------------------------------------


@pytest.fixture
def real_encoder_project(project_with_mail):
    """A project with limits for the encoder of a real process."""
    instrument = write_instrument(project_with_mail / "instruments")
    shipped = (Path(__file__).parents[2] / "thresholds.yaml").read_text()
    limits = thresholds_text(instrument.image_types(), ResNet50Encoder().fingerprint)
    (project_with_mail / "thresholds.yaml").write_text(shipped + limits)
    return project_with_mail


def run_daemon(project_folder):
    """Run a daemon that is expected to exit."""
    command = [sys.executable, "-m", "qc", "service", "run", "--project", project_folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def daemon_process(project_folder):
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "qc", "service", "run", "--project", project_folder]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "daemon begins" in line:
                    break
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.once
def test_daemon_continues_after_a_kill(real_encoder_project, inbox, tmp_path):
    with daemon_process(real_encoder_project) as first:
        second = run_daemon(real_encoder_project)
        assert second.returncode == 2
        assert f"process {first.pid}" in second.stderr
        first.send_signal(signal.SIGKILL)
    shutil.move(write_frame(tmp_path, 2), inbox)
    with daemon_process(real_encoder_project) as third:
        wait_until(lambda: any("inbox" in path for path in verdicts_of(real_encoder_project)))
        third.send_signal(signal.SIGTERM)
        assert third.wait(DEADLINE_S) == 0
        assert "daemon ends" in third.stderr.read()
    [verdict] = [
        count for path, count in verdicts_of(real_encoder_project).items() if "inbox" in path
    ]
    assert verdict == 1


@pytest.mark.postgresql
def test_second_daemon_of_a_database_is_refused(real_encoder_project, tmp_path):
    second_folder = shutil.copytree(real_encoder_project, tmp_path / "other")
    (second_folder / "daemon.lock").unlink(missing_ok=True)
    with daemon_process(real_encoder_project):
        second = run_daemon(second_folder)
    assert second.returncode == 2
    assert "a daemon on another host, or of another project folder" in second.stderr


def verdicts_of(project_folder):
    """Return the number of verdicts by file."""
    engine = connect(read_settings(project_folder).database_url)
    query = (
        select(FrameRow.path, func.count(VerdictRow.id))
        .outerjoin(FrameRow.extensions)
        .outerjoin(VerdictRow, VerdictRow.extension_id == ExtensionRow.id)
        .group_by(FrameRow.id)
    )
    with Session(engine) as session:
        counts = dict(session.execute(query).all())
    engine.dispose()
    return counts


@pytest.mark.once
def test_status_reports_a_killed_daemon(real_encoder_project):
    with daemon_process(real_encoder_project) as process:
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(
        [sys.executable, "-m", "qc", "status", "--json", "--project", real_encoder_project],
        capture_output=True,
        text=True,
        check=False,
    )
    health = json.loads(done.stdout)["health"]
    assert done.returncode == 1
    assert (health["is_running"], health["is_well"]) == (False, False)
    assert any("ended without shutdown" in trouble for trouble in health["troubles"])
