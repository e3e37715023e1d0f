"""Job scheduler: APScheduler with its job table in the project's database."""

import datetime as dt
import threading
import time
from collections import abc
from contextlib import suppress
from typing import Any, Protocol

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job as ScheduledJob
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.base import BaseTrigger
from sqlalchemy.exc import DBAPIError

from qc import db
from qc.monitoring.issues import ActiveIssues
from qc.project import ProjectContext
from qc.service.job import Job
from qc.settings import Settings

TICK_S = 1.0
STORE_RETRY_S = 10


class JobRunner(Protocol):
    """The part of the daemon that the scheduler uses."""

    project: ProjectContext
    jobs: abc.Sequence[Job]
    now: abc.Callable[[], dt.datetime]
    issues: ActiveIssues
    stopping: threading.Event

    @property
    def settings(self) -> Settings:
        """Return the project's settings."""

    def tick(self) -> None:
        """Do the work of every second."""

    def execute(self, name: str) -> None:
        """Run a job by name."""


ACTIVE: list[JobRunner] = []  # the running daemon of this process


def run_job(name: str) -> None:
    """Run a job of the running daemon; the job table refers to this function by its address."""
    [runner] = ACTIVE
    runner.execute(name)


def describe_error(error: Exception) -> str:
    """Return the message of an error in one line, without the SQL statement."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(cause).split())


class JobScheduler(BlockingScheduler):
    """APScheduler that goes on after database errors and after a step of the clock.

    APScheduler's own loop ends at the first error of its job store, and its waiting time does not
    follow a clock that is set (decision 0058).
    """

    def __init__(self, runner: JobRunner) -> None:
        engine = db.schema.engine.for_writing(runner.project.engine)
        lanes = {lane: ThreadPoolExecutor(1) for lane in {job.lane for job in runner.jobs}}
        super().__init__(
            jobstores={"default": JobStore(self, engine)},
            executors=lanes,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone=dt.UTC,
        )
        self._runner = runner
        self._is_planned = False
        self.errors: list[DBAPIError] = []  # database errors of the current round

    def _main_loop(self) -> None:
        due = time.monotonic()
        while not self._runner.stopping.is_set():
            self._event.wait(max(0.0, min(due - time.monotonic(), TICK_S)))
            is_woken = self._event.is_set()
            self._event.clear()
            self._runner.tick()
            is_due = is_woken or time.monotonic() >= due
            if is_due and not self._runner.stopping.is_set():
                due = time.monotonic() + self.start_due_jobs()
        self.shutdown()

    def start_due_jobs(self) -> float:
        """Start the due jobs and return the time until the next one, s.

        An unavailable database is reported once, and its return after a round without error.
        """
        runner = self._runner
        self.errors.clear()
        wait_s: float | None = None
        try:
            if not self._is_planned:
                self.plan()
                self._is_planned = True
            wait_s = self._process_jobs()
        except DBAPIError as error:
            self.errors.append(error)
        if self.errors:
            runner.issues.begin("schedule", describe_error(self.errors[0]), runner.now())
            return STORE_RETRY_S
        runner.issues.end("schedule", runner.now())
        return TICK_S if wait_s is None else float(wait_s)

    def plan(self) -> None:
        """Update the stored schedule to the program's jobs and the settings.

        A job with unchanged times keeps its next run; a run that was missed is made up once.
        Frequent jobs begin at once.
        """
        stored = {job.id: job for job in self.get_jobs()}
        for name in stored.keys() - {job.name for job in self._runner.jobs}:
            self.remove_job(name)
        for job in self._runner.jobs:
            trigger = job.trigger(self._runner.settings)
            is_frequent = job.is_frequent(self._runner.settings)
            next_run = {"next_run_time": self._runner.now()} if is_frequent else {}
            if is_frequent or not is_unchanged(stored.get(job.name), job, trigger):
                self.add_job(
                    run_job,
                    trigger,
                    args=[job.name],
                    id=job.name,
                    name=job.title,
                    executor=job.lane,
                    replace_existing=True,
                    **next_run,
                )

    def replan(self, now: dt.datetime) -> None:
        """Bring forward runs that are too far in the future after the clock was set."""
        for job in self.get_jobs():
            following = job.trigger.get_next_fire_time(None, now)
            if following is not None and job.next_run_time > following:
                job.modify(next_run_time=following)

    def run_now(self, name: str, now: dt.datetime) -> None:
        """Set the next run of a job to now.

        Parameters
        ----------
        name : str
            Name of the job; an unknown job is ignored.
        now : datetime
            Time, UTC.
        """
        with suppress(JobLookupError):
            self.modify_job(name, next_run_time=now)


def is_unchanged(stored: ScheduledJob | None, job: Job, trigger: BaseTrigger) -> bool:
    """Return True if a stored job has the same times and lane.

    Parameters
    ----------
    stored : apscheduler.job.Job or None
        Job of the job table.
    job : Job
        Job of the program.
    trigger : BaseTrigger
        Trigger by the settings.

    Returns
    -------
    bool
    """
    if stored is None or stored.executor != job.lane:
        return False
    zones = [str(getattr(x, "timezone", "")) for x in (stored.trigger, trigger)]
    return str(stored.trigger) == str(trigger) and zones[0] == zones[1]


class JobStore(SQLAlchemyJobStore):
    """Job table in the project's database; passes on the error that APScheduler suppresses.

    Parameters
    ----------
    owner : JobScheduler
        Receives the errors.
    engine : Engine
        Engine for writing.
    """

    def __init__(self, owner: JobScheduler, engine: Any) -> None:
        table = db.schema.models.ScheduledJobRow.__tablename__
        super().__init__(engine=engine, tablename=table)
        self._owner = owner

    def start(self, scheduler: Any, alias: str) -> None:
        """Start without creating the table: a migration does, and the database may be away.

        Parameters
        ----------
        scheduler : BaseScheduler
            APScheduler's scheduler.
        alias : str
            Name of the job store.
        """
        super(SQLAlchemyJobStore, self).start(scheduler, alias)

    def get_due_jobs(self, now: dt.datetime) -> list[ScheduledJob]:
        """Return the due jobs; a database error is recorded and raised."""
        try:
            return list(super().get_due_jobs(now))
        except DBAPIError as error:
            self._owner.errors.append(error)
            raise
