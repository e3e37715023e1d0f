"""Keeps the time for the jobs, and outlives what goes wrong in them.

One thread keeps the time. The jobs run in three lanes, each one job after another: frames; pages
and upkeep; mail. So a slow report holds up no frame, and a silent mail server no report.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job as Scheduled
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy.exc import DBAPIError

from qc import db
from qc._files import told_time
from qc._time import utc_now
from qc.core.measurement import FileInfo
from qc.db.engine import for_writing
from qc.db.models import ScheduledJobRow
from qc.errors import ConfigurationError, QCError
from qc.monitoring.issues import ActiveIssues
from qc.pipeline.process import process_frames
from qc.project import Project
from qc.service.inboxes import InboxSet
from qc.service.systemd import ServiceManager
from qc.settings import Settings

logger = logging.getLogger(__name__)

SLICE_S = 30  # of frames, before the inboxes are looked at again: the newest night goes first
JUMP_S = 30  # by which the clock may be set without anybody asking why
FREQUENT = timedelta(minutes=10)
KEPT_EVERY = timedelta(minutes=1)  # that a job without news is seen to live
TICK_S = 1.0
STORE_RETRY_S = 10
SCAN = "scan"
ANOMALOUS = "anomalous"

Now = Callable[[], datetime]


@dataclass(frozen=True)
class Job:
    """Something that is done by itself, again and again.

    Attributes
    ----------
    work : callable
        Does it at a given time, and says in a few words what came of it; nothing if nothing did.
    when : callable
        By the settings: a span of time between two runs, or a crontab line of the observatory's.
    lane : str
        Where it queues.
    """

    name: str
    what: str
    work: "Callable[[Daemon, datetime], str]"
    when: Callable[[Settings], timedelta | str]
    lane: str

    def trigger(self, settings: Settings) -> BaseTrigger:
        """Return when it runs, for the scheduler."""
        when = self.when(settings)
        if isinstance(when, str):
            return CronTrigger.from_crontab(when, settings.schedule.time_zone)
        return IntervalTrigger(seconds=when.total_seconds(), timezone=UTC)

    def is_frequent(self, settings: Settings) -> bool:
        """Say whether it runs so often that a missed run need not be made up."""
        when = self.when(settings)
        return isinstance(when, timedelta) and when <= FREQUENT


class ClockMonitor:
    """Notices when the wall clock is set: against a clock that cannot be."""

    def __init__(self, now: Now, steady: Callable[[], float] = time.monotonic) -> None:
        self._now, self._steady = now, steady
        self._read = now(), steady()

    def jumped_s(self) -> float:
        """Return by how much it was set since the last call; 0 for what nobody need notice."""
        wall, steady = self._read
        self._read = self._now(), self._steady()
        jumped = (self._read[0] - wall).total_seconds() - (self._read[1] - steady)
        return jumped if abs(jumped) > JUMP_S else 0.0


class Daemon:
    """The watch over a project.

    Parameters
    ----------
    project : Project
        Opened for as long as the watch lasts.
    jobs : sequence of Job
    now : callable
        Tells the time.
    supervisor : Supervisor, optional
        Is told how it goes.
    """

    def __init__(
        self,
        project: Project,
        jobs: Sequence[Job],
        now: Now = utc_now,
        supervisor: ServiceManager | None = None,
    ) -> None:
        self.project = project
        self.jobs = jobs
        self.now = now
        self.inboxes = InboxSet(project.settings, self._is_recorded)
        self.troubles = ActiveIssues()
        self.waiting: dict[Path, date] = {}
        self.stopping = threading.Event()
        self.supervisor = supervisor or ServiceManager({})
        self._clock = ClockMonitor(now)
        self._has_jumped = False
        self._wake_at: float | None = None
        self._busy: set[str] = set()
        self._kept_at: dict[str, datetime] = {}
        self.to_tell: dict[str, str] = {}  # what the daemon knows of itself, by key
        self.scheduler = JobScheduler(self)

    @property
    def settings(self) -> Settings:
        """Return the project's settings."""
        return self.project.settings

    def run(self) -> None:
        """Keep watch until `stop`; what is in hand is finished first."""
        _ON_DUTY.append(self)
        try:
            self.inboxes.watch(lambda: self.wake_in(0))  # a first look, which begins the wait
            self.supervisor.say("READY=1")
            self.scheduler.start()  # returns when stopped
        finally:
            self.supervisor.say("STOPPING=1")
            _ON_DUTY.remove(self)
            self.inboxes.close()

    def stop(self) -> None:
        """Ask for the end; may be called from a signal handler."""
        self.stopping.set()

    def wake_in(self, seconds: float) -> None:
        """Look at the inboxes so soon, at the latest; may be called from another thread, often."""
        at = time.monotonic() + seconds
        if self._wake_at is None or at < self._wake_at:
            self._wake_at = at

    def tick(self) -> None:
        """Do what must be done every second whatever the jobs do."""
        self.supervisor.ping()
        jumped_s = self._clock.jumped_s()
        if jumped_s:
            logger.warning("clock was set", extra={"by_s": round(jumped_s)})
            self._has_jumped = True
        try:
            self._heed()
        except DBAPIError:  # a round of the schedule tells it
            self.wake_in(STORE_RETRY_S)

    def _heed(self) -> None:
        """Let the schedule follow a clock that was set, and a file that has come."""
        if self._has_jumped:
            self.scheduler.plan_anew(self.now())
            self._has_jumped = False
        is_due = self._wake_at is not None and time.monotonic() >= self._wake_at
        if is_due and SCAN not in self._busy:  # else the scheduler would drop the run
            self._wake_at = None
            self.scheduler.hasten(SCAN, self.now())

    def carry_out(self, job: Job) -> None:
        """Do a job, keep what came of it, and outlive whatever goes wrong."""
        started, run = self.now(), None
        self._busy.add(job.name)
        try:
            run = self._begin(job, started)
            words = job.work(self, started)
            self._end(job, run, started, words)
        except (DBAPIError, OSError, QCError) as error:
            self._failed(job, run, in_one_line(error))
        except Exception as error:
            logger.exception("job failed", extra={"job": job.name})  # a bug: told in full
            self._failed(job, run, f"{type(error).__name__}: {in_one_line(error)}")
        else:
            self.troubles.end(f"job {job.name}", self.now())
        finally:
            self._busy.discard(job.name)

    def await_turn(self, arrived: Iterable[Path], now: datetime) -> None:
        """Queue files: those of the newest night first, and in a night as they have come."""
        for path in arrived:
            taken = told_time(path.name) or now
            nights = (one.night_of(taken) for one in self.project.instruments)
            self.waiting.setdefault(path, min(nights))

    def process_waiting(self) -> Counter[str]:
        """Process what has arrived, for a slice of time; return how many came to what."""
        ends = time.monotonic() + SLICE_S
        counts = Counter[str]()
        while self.waiting and time.monotonic() < ends:
            newest_first = sorted(self.waiting, key=self.waiting.__getitem__, reverse=True)
            chunk = newest_first[: self.settings.batch_frames]
            for outcome in process_frames(chunk, self.project):
                counts[outcome.state] += 1
                counts[ANOMALOUS] += outcome.is_anomalous
                if self.stopping.is_set():
                    return counts
            for path in chunk:
                del self.waiting[path]
        return counts

    def last_night(self, now: datetime) -> date:
        """Return the night that ended last, for every instrument in use; or else for all."""
        with self.project.reads() as session:
            in_use = db.statistics.instruments_seen(session)
        used = [one for one in self.project.instruments if one.name in in_use]
        return min(one.night_of(now) for one in used or self.project.instruments)

    def renew(self) -> None:
        """Let edited thresholds and a newly trained classifier count from now on."""
        try:
            self.project = self.project.renewed()
        except ConfigurationError as error:  # half-edited: the old ones hold until it is mended
            self.troubles.begin("thresholds", in_one_line(error), self.now())
        else:
            self.troubles.end("thresholds", self.now())

    def _is_recorded(self, file: FileInfo) -> bool:
        with self.project.reads() as session:
            return db.frames.is_recorded(session, file)

    def _begin(self, job: Job, started: datetime) -> int | None:
        """Keep that a rare job has begun: if it is cut short, the row without an end tells."""
        if job.is_frequent(self.settings):
            return None
        logger.info("job begins", extra={"job": job.name})
        with self.project.writes.begin() as session:
            return db.job_runs.begin_run(session, job.name, started)

    def _end(self, job: Job, run: int | None, started: datetime, words: str) -> None:
        ended = self.now()
        if run is None and not words and not self._is_worth_keeping(job, ended):
            return
        with self.project.writes.begin() as session:
            if run is None:
                db.job_runs.record_run(session, job.name, started, ended, words)
            else:
                db.job_runs.end_run(session, run, ended, is_well=True, words=words)
        if words:
            took_s = round((ended - started).total_seconds(), 1)
            logger.info("job done", extra={"job": job.name, "took_s": took_s, "words": words})

    def _is_worth_keeping(self, job: Job, ended: datetime) -> bool:
        """Say whether a run without news should be told of, so that the job is seen to live."""
        kept = self._kept_at.get(job.name)
        if kept is not None and ended - kept < KEPT_EVERY:
            return False
        self._kept_at[job.name] = ended
        return True

    def _failed(self, job: Job, run: int | None, words: str) -> None:
        now = self.now()
        is_news = self.troubles.begin(f"job {job.name}", words, now)
        if run is None and not is_news:
            return
        # A database that is away is most often the very trouble that has just been told.
        with suppress(DBAPIError), self.project.writes.begin() as session:
            number = run if run is not None else db.job_runs.begin_run(session, job.name, now)
            db.job_runs.end_run(session, number, now, is_well=False, words=words)


_ON_DUTY: list[Daemon] = []


def run_job(name: str) -> None:
    """Do a job by its name: what the stored schedule refers to, so that it outlives the process."""
    [watch] = _ON_DUTY
    [job] = [one for one in watch.jobs if one.name == name]
    watch.carry_out(job)


def in_one_line(error: Exception) -> str:
    """Return what an error says, without the statement that a database was given."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(said).split())


class JobScheduler(BlockingScheduler):
    """APScheduler's, but that it goes on when its store is away or the clock is set.

    Its own loop ends at the first error of the store, and waits for as long as a clock that has
    been set since had said.
    """

    def __init__(self, watch: Daemon) -> None:
        engine = for_writing(watch.project.engine)
        lanes = {lane: ThreadPoolExecutor(1) for lane in {job.lane for job in watch.jobs}}
        super().__init__(
            jobstores={"default": _JobStore(watch, engine)},
            executors=lanes,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone=UTC,
        )
        self._watch = watch
        self._is_planned = False
        self.errors: list[DBAPIError] = []  # of this round's dealings with the store

    def _main_loop(self) -> None:
        due = time.monotonic()
        while not self._watch.stopping.is_set():
            self._event.wait(max(0.0, min(due - time.monotonic(), TICK_S)))
            is_woken = self._event.is_set()
            self._event.clear()
            self._watch.tick()
            is_due = is_woken or time.monotonic() >= due
            if is_due and not self._watch.stopping.is_set():
                due = time.monotonic() + self._round()
        self.shutdown()

    def _round(self) -> float:
        """Start what is due; return in how many seconds the next is.

        That the database is away is told once; that it is back, after a round without error.
        """
        watch = self._watch
        self.errors.clear()
        wait_s: float | None = None
        try:
            if not self._is_planned:
                self._plan()
                self._is_planned = True
            wait_s = self._process_jobs()
        except DBAPIError as error:
            self.errors.append(error)
        if self.errors:
            watch.troubles.begin("schedule", in_one_line(self.errors[0]), watch.now())
            return STORE_RETRY_S
        watch.troubles.end("schedule", watch.now())
        return TICK_S if wait_s is None else float(wait_s)

    def _plan(self) -> None:
        """Bring the stored schedule to what the program and its settings say now.

        A job whose times have not changed keeps its next one: if that has passed meanwhile, it is
        made up once. Frequent jobs begin at once.
        """
        kept = {job.id: job for job in self.get_jobs()}
        for name in kept.keys() - {job.name for job in self._watch.jobs}:
            self.remove_job(name)
        for job in self._watch.jobs:
            trigger = job.trigger(self._watch.settings)
            is_frequent = job.is_frequent(self._watch.settings)
            at_once = {"next_run_time": self._watch.now()} if is_frequent else {}
            if is_frequent or not _is_as_before(kept.get(job.name), job, trigger):
                self.add_job(
                    run_job,
                    trigger,
                    args=[job.name],
                    id=job.name,
                    name=job.what,
                    executor=job.lane,
                    replace_existing=True,
                    **at_once,
                )

    def plan_anew(self, now: datetime) -> None:
        """After the clock was set: a time that now lies further off than the next is brought up."""
        for job in self.get_jobs():
            following = job.trigger.get_next_fire_time(None, now)
            if following is not None and job.next_run_time > following:
                job.modify(next_run_time=following)

    def hasten(self, name: str, now: datetime) -> None:
        """Let a job run now."""
        with suppress(JobLookupError):
            self.modify_job(name, next_run_time=now)


def _is_as_before(kept: Scheduled | None, job: Job, trigger: BaseTrigger) -> bool:
    """Say whether a stored job has the same times and lane."""
    if kept is None or kept.executor != job.lane:
        return False
    zones = [str(getattr(one, "timezone", "")) for one in (kept.trigger, trigger)]
    return str(kept.trigger) == str(trigger) and zones[0] == zones[1]


class _JobStore(SQLAlchemyJobStore):
    """The schedule in the project's own database; keeps the error that APScheduler swallows."""

    def __init__(self, watch: Daemon, engine: Any) -> None:
        super().__init__(engine=engine, tablename=ScheduledJobRow.__tablename__)
        self._watch = watch

    def start(self, scheduler: Any, alias: str) -> None:
        """Begin without making the table: a migration has, and the database may be away."""
        super(SQLAlchemyJobStore, self).start(scheduler, alias)

    def get_due_jobs(self, now: datetime) -> list[Scheduled]:
        try:
            return list(super().get_due_jobs(now))
        except DBAPIError as error:
            self._watch.scheduler.errors.append(error)
            raise
