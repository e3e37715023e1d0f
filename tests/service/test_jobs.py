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
from qc.db.engine import connect
from qc.db.models import ExtensionRow, FrameRow, JobRunRow, ScheduledJobRow, VerdictRow
from qc.io.instruments import read_instruments
from qc.service.jobs import JOBS
from qc.service.scheduler import Daemon
from qc.settings import read_settings
from tests.support.databases import write_settings
from tests.support.tiny import (
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


class Letters:
    """What a mail server was given."""

    def __init__(self, port):
        self.port = port
        self.messages = []

    async def handle_DATA(self, server, session, envelope):  # noqa: ARG002, N802
        self.messages.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 kept"


@pytest.fixture
def post():
    """A mail server on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    letters = Letters(port)
    controller = Controller(letters, hostname="127.0.0.1", port=port)
    controller.start()
    yield letters
    controller.stop()


@pytest.fixture
def settled(project_folder, inbox, post):
    """A project with a history, an inbox, and somebody who wants mail."""
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
def watching(project):
    watch = Daemon(project, JOBS)
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        wait_for_end(thread)


def rows(project, table):
    with project.reads() as session:
        return list(session.scalars(select(table)))


def test_a_frame_that_arrives_is_judged_and_people_are_told(settled, inbox, post):
    with open_tiny(settled) as project, watching(project):
        write_frame(inbox, 2, change=light_leak)
        wait_until(lambda: post.messages)
    [message] = post.messages
    assert message["Subject"].strip().startswith("[QC] TB0 2026-01-02: 1 of 1 bias anomalous")
    assert message["To"] == "me@here.example"


def test_a_good_frame_wakes_nobody_and_a_broken_one_is_tried_again(settled, inbox, post):
    with open_tiny(settled) as project, watching(project):
        write_frame(inbox, 2)
        (inbox / "broken.fits").write_bytes(b"no FITS")
        wait_until(
            lambda: len([row for row in rows(project, FrameRow) if "inbox" in row.path]) == 2
        )
        [failed] = [row for row in rows(project, FrameRow) if row.state == "failed"]
        wait_until(lambda: rows(project, JobRunRow))
    assert (failed.tries, failed.retry_at > failed.failed_since) == (1, True)
    assert not post.messages


class Choking(StandIn):
    """A network with a bug that a frame of much light brings to light."""

    def embed(self, inputs):
        if inputs.mean() > 2:
            raise ValueError("a bug")
        return super().embed(inputs)


def test_a_bug_that_one_frame_brings_to_light_holds_up_none_of_the_others(settled, inbox):
    def bright(image):
        image += 20000

    for number in range(3):
        write_frame(inbox, 2, number, change=bright if number == 1 else None)
    with open_tiny(settled, Choking()) as project:
        watch = Daemon(project, JOBS)
        watch.await_turn(sorted(inbox.iterdir()), utc_now())
        counts = watch.process_waiting()
        watch.inboxes.close()
        [failed] = [row for row in rows(project, FrameRow) if row.state == "failed"]
    assert (counts["processed"], counts["failed"], watch.waiting) == (2, 1, {})
    assert "a fault of the program: ValueError: a bug" in failed.reason
    assert failed.retry_at is not None


def test_the_night_in_hand_goes_before_an_archive_that_is_read(project):
    watch = Daemon(project, JOBS)
    names = [f"TINY.{when}.fits" for when in ("2026-01-05T20:00:00", "2026-01-09T20:00:00")]
    old, new = (project.settings.project / name for name in names)
    watch.await_turn([old, new], utc_now())
    assert max(watch.waiting, key=watch.waiting.__getitem__) == new
    watch.inboxes.close()


def test_every_job_is_listed_with_its_next_run(settled):
    with open_tiny(settled) as project, watching(project):
        wait_until(lambda: len(rows(project, ScheduledJobRow)) == len(JOBS))
        listed = rows(project, ScheduledJobRow)
    assert {row.id for row in listed} == {job.name for job in JOBS}
    assert all(row.next_run_time is not None for row in listed)


@pytest.mark.parametrize("name", [job.name for job in JOBS])
def test_each_job_goes_well_in_a_project_with_a_night(settled, name, inbox):
    [job] = [job for job in JOBS if job.name == name]
    with open_tiny(settled) as project:
        process(project, write_frame(inbox, 2))
        watch = Daemon(project, JOBS)
        watch.carry_out(job)
        watch.inboxes.close()
        assert not list(watch.troubles)


def test_the_night_that_is_reported_is_that_of_the_instrument_in_use(settled):
    with open_tiny(settled) as project:
        others = read_instruments()
        watch = Daemon(replace(project, instruments=(*others, *project.instruments)), JOBS)
        morning = datetime(2026, 1, 3, 11, tzinfo=UTC)  # the tiny one's nights begin at 12 UT
        assert watch.last_night(morning) == date(2026, 1, 2)
        assert watch.last_night(morning + timedelta(hours=2)) == date(2026, 1, 3)
        watch.inboxes.close()


def test_edited_thresholds_count_from_the_next_scan_on(settled):
    with open_tiny(settled) as project:
        watch = Daemon(project, JOBS)
        before = watch.project.thresholds.digest
        file = settled / "thresholds.yaml"
        file.write_text(file.read_text() + "\n# edited\n")
        watch.renew()
        assert watch.project.thresholds.digest != before
        file.write_text("nonsense: [")
        watch.renew()
        assert [trouble.key for trouble in watch.troubles] == ["thresholds"]
        watch.inboxes.close()


# --- a real process -------------------------------------------------------------------------------


@pytest.fixture
def installed(settled):
    """The same with limits for the network that a real process has."""
    instrument = write_instrument(settled / "instruments")
    shipped = (Path(__file__).parents[2] / "thresholds.yaml").read_text()
    limits = thresholds_text(instrument.image_types(), ResNet50Encoder().fingerprint)
    (settled / "thresholds.yaml").write_text(shipped + limits)
    return settled


def run_daemon(project_folder):
    """Begin a daemon that is expected to end by itself."""
    command = [sys.executable, "-m", "qc", "run", "--project", project_folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def daemon(project_folder):
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "qc", "run", "--project", project_folder]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "daemon begins" in line:
                    break
            yield process
        finally:
            process.kill()


@pytest.mark.once
def test_a_daemon_that_is_killed_is_followed_by_one_that_says_so_and_goes_on(
    installed, inbox, tmp_path
):
    with daemon(installed) as first:
        second = run_daemon(installed)
        assert second.returncode == 2
        assert f"process {first.pid}" in second.stderr
        first.send_signal(signal.SIGKILL)
    shutil.move(write_frame(tmp_path, 2), inbox)
    with daemon(installed) as third:
        wait_until(lambda: any("inbox" in path for path in verdicts_of(installed)))
        third.send_signal(signal.SIGTERM)
        assert third.wait(DEADLINE_S) == 0
        assert "daemon ends" in third.stderr.read()
    [verdict] = [count for path, count in verdicts_of(installed).items() if "inbox" in path]
    assert verdict == 1


@pytest.mark.postgresql
def test_two_project_folders_with_one_database_have_one_daemon(installed, tmp_path):
    other = shutil.copytree(installed, tmp_path / "other")
    (other / "daemon.lock").unlink(missing_ok=True)
    with daemon(installed):
        second = run_daemon(other)
    assert second.returncode == 2
    assert "a daemon on another host, or of another project folder" in second.stderr


def verdicts_of(project_folder):
    """How many verdicts there are on the extensions of each file."""
    engine = connect(read_settings(project_folder).database_url)
    query = (
        select(FrameRow.path, func.count(VerdictRow.id))
        .outerjoin(FrameRow.extensions)
        .outerjoin(VerdictRow, VerdictRow.extension_id == ExtensionRow.id)
        .group_by(FrameRow.id)
    )
    with Session(engine) as session:
        found = dict(session.execute(query).all())
    engine.dispose()
    return found


@pytest.mark.once
def test_status_names_a_daemon_that_died(installed):
    with daemon(installed) as process:
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(
        [sys.executable, "-m", "qc", "status", "--json", "--project", installed],
        capture_output=True,
        text=True,
        check=False,
    )
    health = json.loads(done.stdout)["health"]
    assert done.returncode == 1
    assert (health["is_running"], health["is_well"]) == (False, False)
    assert any("died without a word" in trouble for trouble in health["troubles"])
