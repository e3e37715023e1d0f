import sqlite3
import threading
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from qc import db
from qc.db.models import JobRunRow, ScheduledJobRow
from qc.errors import ConfigurationError
from qc.service.scheduler import ClockMonitor, Daemon, Job
from tests.support.tiny import open_tiny
from tests.support.waiting import DEADLINE_S, wait_for_end, wait_until

OFTEN = timedelta(seconds=0.1)


def job(work, when: timedelta | str = OFTEN, name="work"):
    """A job that does what it is told and remembers nothing."""
    return Job(name, "a test's", work, lambda _settings: when, "lane")


@contextmanager
def watching(project, *jobs):
    watch = Daemon(project, jobs)
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        wait_for_end(thread)


def runs_of(project, name="work"):
    with project.reads() as session:
        query = select(JobRunRow).where(JobRunRow.job == name).order_by(JobRunRow.id)
        return list(session.scalars(query))


class Doing:
    """Work that fails with the errors given, one after another, and then goes well."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.times = 0

    def __call__(self, _watch, _now):
        self.times += 1
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return ""


def test_a_job_without_news_is_one_row_that_shows_it_alive(project):
    work = Doing()
    with watching(project, job(work)):
        wait_until(lambda: work.times >= 5)
    [run] = runs_of(project)
    assert (run.is_well, run.words) == (True, "")


def test_what_came_of_a_run_is_kept(project):
    said = iter(["3 files", "2 files"])
    with watching(project, job(lambda _watch, _now: next(said, ""))):
        wait_until(lambda: len(runs_of(project)) >= 2)
    assert [run.words for run in runs_of(project)][:2] == ["3 files", "2 files"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ConfigurationError("a file is wrong")]
)
def test_trouble_is_said_once_however_often_it_is_met_and_the_watch_goes_on(project, caplog, error):
    work = Doing(error, error, error)
    with watching(project, job(work)) as watch:
        wait_until(lambda: work.times >= 5)
        wait_until(lambda: not list(watch.troubles))
    begun = [record for record in caplog.records if record.message == "trouble begins"]
    over = [record for record in caplog.records if record.message == "trouble is over"]
    assert (len(begun), len(over)) == (1, 1)
    failed = [run for run in runs_of(project) if run.is_well is False]
    assert len(failed) == 1
    assert str(error) in failed[0].words


def test_a_bug_is_told_in_full_and_stops_nothing(project, caplog):
    work = Doing(KeyError("surprise"))
    with watching(project, job(work)):
        wait_until(lambda: work.times >= 3)
    [told] = [record for record in caplog.records if record.exc_info]
    assert "surprise" in caplog.text
    assert told.__dict__["job"] == "work"


def test_runs_that_were_missed_for_ten_days_are_made_up_once(project):
    work = Doing()
    daily = job(work, when="0 8 * * *")
    with watching(project, daily):
        wait_until(lambda: stored(project))
    assert work.times == 0
    ten_days_ago = datetime.now(UTC) - timedelta(days=10)
    with watching(project, daily) as watch:
        reschedule(watch, ten_days_ago)
        wait_until(lambda: work.times == 1)
    again = Doing()
    often = Doing()
    with watching(project, job(again, when="0 8 * * *"), job(often, name="often")):
        wait_until(lambda: often.times >= 3)
    assert (work.times, again.times) == (1, 0)


def stored(project):
    with project.reads() as session:
        return dict(
            session.execute(select(ScheduledJobRow.id, ScheduledJobRow.next_run_time)).all()
        )


def reschedule(watch, when):
    watch.scheduler.modify_job("work", next_run_time=when)


def test_a_job_keeps_its_next_time_over_a_restart_unless_its_times_have_changed(project):
    work = Doing()
    for when, is_same in (("0 8 * * *", True), ("0 8 * * *", True), ("0 9 * * *", False)):
        before = stored(project)
        with watching(project, job(work, when=when)):
            wait_until(lambda: stored(project) and (is_same or stored(project) != before))  # noqa: B023
        assert not before or (stored(project) == before) is is_same


def test_a_job_that_is_no_more_is_forgotten(project):
    with watching(project, job(Doing(), when="0 8 * * *", name="old")):
        wait_until(lambda: "old" in stored(project))
    with watching(project, job(Doing(), when="0 8 * * *", name="new")):
        wait_until(lambda: list(stored(project)) == ["new"])


def test_a_clock_that_is_set_is_noticed_and_one_that_ticks_is_not():
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
        assert clock.jumped_s() == jumped_s


def test_after_the_clock_was_set_back_a_year_jobs_do_not_wait_for_it(project):
    work = Doing()
    with watching(project, job(work, when=timedelta(hours=1))) as watch:
        wait_until(lambda: stored(project))
        reschedule(watch, datetime.now(UTC) + timedelta(days=365))
        watch.scheduler.plan_anew(datetime.now(UTC))
        next_run = datetime.fromtimestamp(stored(project)["work"], UTC)
    assert next_run - datetime.now(UTC) <= timedelta(hours=1)


@pytest.mark.sqlite
def test_a_database_that_is_locked_for_long_is_said_once_and_caught_up_with(
    project_folder, monkeypatch, caplog
):
    monkeypatch.setattr(db.engine, "_BUSY_MS", 100)
    work = Doing()
    monkeypatch.setattr("qc.service.scheduler.STORE_RETRY_S", 0.1)
    monkeypatch.setattr("qc.service.scheduler.KEPT_EVERY", timedelta(0))
    with open_tiny(project_folder) as project, watching(project, job(work)) as watch:
        wait_until(lambda: work.times >= 2)
        with closing(sqlite3.connect(project_folder / "qc.db")) as other:
            other.execute("BEGIN EXCLUSIVE")
            wait_until(lambda: len(list(watch.troubles)) >= 1)
            for _ in range(5):
                threading.Event().wait(0.2)
            other.rollback()
        before = work.times
        wait_until(lambda: work.times > before + 1 and not list(watch.troubles))
    begun = [record.trouble for record in caplog.records if record.message == "trouble begins"]
    assert len(begun) == len(set(begun))


@pytest.mark.sqlite
def test_a_watch_that_begins_while_the_database_is_locked_waits_for_it(project_folder, monkeypatch):
    monkeypatch.setattr(db.engine, "_BUSY_MS", 100)
    monkeypatch.setattr("qc.service.scheduler.STORE_RETRY_S", 0.1)
    work = Doing()
    with (
        open_tiny(project_folder) as project,
        closing(sqlite3.connect(project_folder / "qc.db")) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        with watching(project, job(work, name="scan")) as watch:
            watch.wake_in(0)
            wait_until(lambda: [one.key for one in watch.troubles] == ["schedule"])
            other.rollback()
            wait_until(lambda: work.times >= 2 and not list(watch.troubles))


def test_the_watch_finishes_what_it_has_in_hand(project):
    begun, may_end = threading.Event(), threading.Event()

    def work(_watch, _now):
        begun.set()
        may_end.wait(DEADLINE_S)
        return "done"

    with watching(project, job(work)) as watch:
        begun.wait(DEADLINE_S)
        watch.stop()
        may_end.set()
    assert [run.words for run in runs_of(project)] == ["done"]
