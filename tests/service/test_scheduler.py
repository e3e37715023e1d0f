import sqlite3
import threading
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from apscheduler.util import obj_to_ref
from sqlalchemy import select

from qc import db
from qc.db.schema.models import JobRunRow, ScheduledJobRow
from qc.errors import ConfigurationError
from qc.service.daemon import ClockMonitor, Daemon
from qc.service.job import Job, check_schedule
from qc.service.scheduler import run_job
from qc.settings import ScheduleSettings, Settings
from tests.support.tiny_spectrograph import open_tiny
from tests.support.waiting import DEADLINE_S, wait_for_end, wait_until

OFTEN = timedelta(seconds=0.1)


def make_job(work, when: timedelta | str = OFTEN, name="work"):
    """Make a job of a function."""
    return Job(name, "test job", work, lambda _settings: when, "lane")


@contextmanager
def running_daemon(project, *jobs):
    daemon = Daemon(project, jobs)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        yield daemon
    finally:
        daemon.stop()
        wait_for_end(thread)


def runs_of(project, name="work"):
    with project.read_session() as session:
        query = select(JobRunRow).where(JobRunRow.job == name).order_by(JobRunRow.id)
        return list(session.scalars(query))


class FailingWork:
    """Work that raises the given errors one after another, then succeeds."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.times = 0

    def __call__(self, _watch, _now):
        self.times += 1
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return ""


def test_frequent_job_without_result_is_one_row(project):
    work = FailingWork()
    with running_daemon(project, make_job(work)):
        wait_until(lambda: work.times >= 5)
    [run] = runs_of(project)
    assert (run.is_well, run.words) == (True, "")


def test_results_of_runs_are_recorded(project):
    results = iter(["3 files", "2 files"])
    with running_daemon(project, make_job(lambda _watch, _now: next(results, ""))):
        wait_until(lambda: len(runs_of(project)) >= 2)
    assert [run.words for run in runs_of(project)][:2] == ["3 files", "2 files"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ConfigurationError("a file is wrong")]
)
def test_repeated_error_is_logged_once(project, caplog, error):
    work = FailingWork(error, error, error)
    with running_daemon(project, make_job(work)) as daemon:
        wait_until(lambda: work.times >= 5)
        wait_until(lambda: not list(daemon.issues))
    begun = [record for record in caplog.records if record.message == "issue begins"]
    over = [record for record in caplog.records if record.message == "issue ends"]
    assert (len(begun), len(over)) == (1, 1)
    failed = [run for run in runs_of(project) if run.is_well is False]
    assert len(failed) == 1
    assert str(error) in failed[0].words


def test_program_error_is_logged_with_traceback(project, caplog):
    work = FailingWork(KeyError("surprise"))
    with running_daemon(project, make_job(work)):
        wait_until(lambda: work.times >= 3)
    [record] = [entry for entry in caplog.records if entry.exc_info]
    assert "surprise" in caplog.text
    assert record.__dict__["job"] == "work"


def test_missed_runs_are_made_up_once(project):
    work = FailingWork()
    daily = make_job(work, when="0 8 * * *")
    with running_daemon(project, daily):
        wait_until(lambda: stored(project))
    assert work.times == 0
    ten_days_ago = datetime.now(UTC) - timedelta(days=10)
    with running_daemon(project, daily) as daemon:
        reschedule(daemon, ten_days_ago)
        wait_until(lambda: work.times == 1)
    again = FailingWork()
    often = FailingWork()
    with running_daemon(project, make_job(again, when="0 8 * * *"), make_job(often, name="often")):
        wait_until(lambda: often.times >= 3)
    assert (work.times, again.times) == (1, 0)


def stored(project):
    with project.read_session() as session:
        return dict(
            session.execute(select(ScheduledJobRow.id, ScheduledJobRow.next_run_time)).all()
        )


def reschedule(daemon, when):
    daemon.scheduler.modify_job("work", next_run_time=when)


def test_next_run_survives_restart_unless_times_change(project):
    work = FailingWork()
    for when, is_same in (("0 8 * * *", True), ("0 8 * * *", True), ("0 9 * * *", False)):
        before = stored(project)
        with running_daemon(project, make_job(work, when=when)):
            wait_until(lambda: stored(project) and (is_same or stored(project) != before))  # noqa: B023
        assert not before or (stored(project) == before) is is_same


def test_removed_job_leaves_the_schedule(project):
    with running_daemon(project, make_job(FailingWork(), when="0 8 * * *", name="old")):
        wait_until(lambda: "old" in stored(project))
    with running_daemon(project, make_job(FailingWork(), when="0 8 * * *", name="new")):
        wait_until(lambda: list(stored(project)) == ["new"])


def test_clock_monitor_detects_steps():
    wall, steady = [datetime(2026, 1, 1, tzinfo=UTC)], [0.0]
    clock = ClockMonitor(lambda: wall[0], lambda: steady[0])
    for moved_s, ticked_s, jumped_s in (
        (60, 60, 0),
        (3600, 10, 3590),
        (-3600, 10, -3610),
        (1, 1, 0),
    ):
        wall[0] += timedelta(seconds=moved_s)
        steady[0] += ticked_s
        assert clock.measure_step_s() == jumped_s


def test_replan_after_clock_set_back(project):
    work = FailingWork()
    with running_daemon(project, make_job(work, when=timedelta(hours=1))) as daemon:
        wait_until(lambda: stored(project))
        reschedule(daemon, datetime.now(UTC) + timedelta(days=365))
        daemon.scheduler.replan(datetime.now(UTC))
        next_run = datetime.fromtimestamp(stored(project)["work"], UTC)
    assert next_run - datetime.now(UTC) <= timedelta(hours=1)


@pytest.mark.sqlite
def test_locked_database_is_logged_once(project_folder, monkeypatch, caplog):
    monkeypatch.setattr(db.schema.engine, "_BUSY_MS", 100)
    work = FailingWork()
    monkeypatch.setattr("qc.service.scheduler.STORE_RETRY_S", 0.1)
    monkeypatch.setattr("qc.service.daemon.HEARTBEAT", timedelta(0))
    with open_tiny(project_folder) as project, running_daemon(project, make_job(work)) as daemon:
        wait_until(lambda: work.times >= 2)
        with closing(sqlite3.connect(project_folder / "qc.db")) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            wait_until(lambda: len(list(daemon.issues)) >= 1)
            for _ in range(5):
                threading.Event().wait(0.2)
            connection.rollback()
        before = work.times
        wait_until(lambda: work.times > before + 1 and not list(daemon.issues))
    begun = [record.issue for record in caplog.records if record.message == "issue begins"]
    assert len(begun) == len(set(begun))


@pytest.mark.sqlite
def test_daemon_start_waits_for_locked_database(project_folder, monkeypatch):
    monkeypatch.setattr(db.schema.engine, "_BUSY_MS", 100)
    monkeypatch.setattr("qc.service.scheduler.STORE_RETRY_S", 0.1)
    work = FailingWork()
    with (
        open_tiny(project_folder) as project,
        closing(sqlite3.connect(project_folder / "qc.db")) as connection,
    ):
        connection.execute("BEGIN EXCLUSIVE")
        with running_daemon(project, make_job(work, name="scan")) as daemon:
            daemon.request_scan(0)
            wait_until(lambda: [issue.key for issue in daemon.issues] == ["schedule"])
            connection.rollback()
            wait_until(lambda: work.times >= 2 and not list(daemon.issues))


def test_stop_waits_for_running_job(project):
    begun, may_end = threading.Event(), threading.Event()

    def work(_watch, _now):
        begun.set()
        may_end.wait(DEADLINE_S)
        return "done"

    with running_daemon(project, make_job(work)) as daemon:
        begun.wait(DEADLINE_S)
        daemon.stop()
        may_end.set()
    assert [run.words for run in runs_of(project)] == ["done"]


def test_job_table_refers_to_run_job():
    """Stored schedules contain this address: it must not change without a migration."""
    assert obj_to_ref(run_job) == "qc.service.scheduler:run_job"


def test_check_schedule_names_the_key_of_a_wrong_line(tmp_path):
    settings = Settings(project=tmp_path, schedule=ScheduleSettings(report="0 25 * * *"))
    with pytest.raises(ConfigurationError, match=r"schedule\.report: .*got '0 25 \* \* \*'"):
        check_schedule(settings)
