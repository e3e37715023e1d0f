"""The daemon of a project: queue of new files, jobs, clock, issues.

The jobs run in three lanes, each one job after another: frames; pages and maintenance; mail. A
slow report delays no frame, and a silent mail server no report.
"""

import datetime as dt
import logging
import threading
import time
from collections import Counter, abc
from contextlib import suppress
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from qc import _files, _time, core, db, errors
from qc.monitoring.issues import ActiveIssues
from qc.pipeline.batch import process_frames
from qc.project import ProjectContext
from qc.service import scheduler
from qc.service.inboxes import InboxSet
from qc.service.job import Job
from qc.service.systemd import ServiceManager
from qc.settings import Settings

logger = logging.getLogger(__name__)

SLICE_S = 30  # processing time between two scans: a new night takes precedence over an archive
CLOCK_TOLERANCE_S = 30  # smaller steps of the clock are ignored
HEARTBEAT = dt.timedelta(minutes=1)  # interval of recorded runs of a job without result
SCAN = "scan"
ANOMALOUS = "anomalous"

Now = abc.Callable[[], dt.datetime]


class ClockMonitor:
    """Detects steps of the wall clock by comparison with the monotonic clock.

    Parameters
    ----------
    now : callable
        Returns the time of the wall clock.
    monotonic : callable
        Returns the time of the monotonic clock, s.
    """

    def __init__(self, now: Now, monotonic: abc.Callable[[], float] = time.monotonic) -> None:
        self._now, self._monotonic = now, monotonic
        self._last = now(), monotonic()

    def measure_step_s(self) -> float:
        """Return the step of the wall clock since the last call, s; 0 if it is negligible."""
        wall, monotonic = self._last
        self._last = self._now(), self._monotonic()
        step_s = (self._last[0] - wall).total_seconds() - (self._last[1] - monotonic)
        return step_s if abs(step_s) > CLOCK_TOLERANCE_S else 0.0


class Daemon:
    """The daemon of a project.

    Parameters
    ----------
    project : ProjectContext
        Open for as long as the daemon runs.
    jobs : sequence of Job
        Jobs to schedule.
    now : callable
        Returns the time.
    service_manager : ServiceManager, optional
        Receives the state of the daemon.

    Attributes
    ----------
    issues : ActiveIssues
        Problems that last.
    queue : dict of Path to date
        Files to process, with their nights.
    pending_alerts : dict of str to str
        Alerts of the daemon about itself, by key.
    """

    def __init__(
        self,
        project: ProjectContext,
        jobs: abc.Sequence[Job],
        now: Now = _time.utc_now,
        service_manager: ServiceManager | None = None,
    ) -> None:
        self.project = project
        self.jobs = jobs
        self.now = now
        self.inboxes = InboxSet(project.settings, self.is_recorded)
        self.issues = ActiveIssues()
        self.queue: dict[Path, dt.date] = {}
        self.stopping = threading.Event()
        self.service_manager = service_manager or ServiceManager({})
        self.pending_alerts: dict[str, str] = {}
        self.scheduler = scheduler.JobScheduler(self)
        self._clock = ClockMonitor(now)
        self._has_clock_step = False
        self._scan_at: float | None = None
        self._running: set[str] = set()
        self._recorded_at: dict[str, dt.datetime] = {}

    @property
    def settings(self) -> Settings:
        """Return the project's settings."""
        return self.project.settings

    def run(self) -> None:
        """Run until `stop` is called; the current frame is finished first."""
        scheduler.ACTIVE.append(self)
        try:
            self.inboxes.watch(lambda: self.request_scan(0))
            self.service_manager.notify("READY=1")
            self.scheduler.start()  # returns after `stop`
        finally:
            self.service_manager.notify("STOPPING=1")
            scheduler.ACTIVE.remove(self)
            self.inboxes.close()

    def stop(self) -> None:
        """Request the end; may be called from a signal handler."""
        self.stopping.set()

    def request_scan(self, delay_s: float) -> None:
        """Scan the inboxes after a delay at the latest; may be called from another thread."""
        scan_at = time.monotonic() + delay_s
        if self._scan_at is None or scan_at < self._scan_at:
            self._scan_at = scan_at

    def tick(self) -> None:
        """Ping the service manager, check the clock and start a requested scan."""
        self.service_manager.ping()
        step_s = self._clock.measure_step_s()
        if step_s:
            logger.warning("clock was set", extra={"by_s": round(step_s)})
            self._has_clock_step = True
        try:
            if self._has_clock_step:
                self.scheduler.replan(self.now())
                self._has_clock_step = False
            is_due = self._scan_at is not None and time.monotonic() >= self._scan_at
            if is_due and SCAN not in self._running:  # APScheduler drops a concurrent run
                self._scan_at = None
                self.scheduler.run_now(SCAN, self.now())
        except DBAPIError:  # the scheduler's next round reports it
            self.request_scan(scheduler.STORE_RETRY_S)

    def execute(self, name: str) -> None:
        """Run a job by name, record its result, and report any error as an issue."""
        [job] = [job for job in self.jobs if job.name == name]
        started, run = self.now(), None
        self._running.add(name)
        try:
            run = self.record_begin(job, started)
            result = job.work(self, started)
            self.record_end(job, run, started, result)
        except (DBAPIError, OSError, errors.QCError) as error:
            self.record_failure(job, run, scheduler.describe_error(error))
        except Exception as error:
            logger.exception("job failed", extra={"job": name})  # a bug: with its traceback
            message = f"{type(error).__name__}: {scheduler.describe_error(error)}"
            self.record_failure(job, run, message)
        else:
            self.issues.end(f"job {name}", self.now())
        finally:
            self._running.discard(name)

    def enqueue(self, arrived: abc.Iterable[Path], now: dt.datetime) -> None:
        """Append files to the queue.

        Parameters
        ----------
        arrived : iterable of Path
            New files, in order of arrival.
        now : datetime
            Time of the scan; it determines the night of a file whose name contains no time.
        """
        for path in arrived:
            observed_at = _files.time_in_name(path.name) or now
            nights = (instrument.night_of(observed_at) for instrument in self.project.instruments)
            self.queue.setdefault(path, min(nights))

    def process_queue(self) -> Counter[str]:
        """Process queued files for a time slice, newest night first; count the outcomes."""
        deadline = time.monotonic() + SLICE_S
        counts = Counter[str]()
        while self.queue and time.monotonic() < deadline:
            newest_first = sorted(self.queue, key=self.queue.__getitem__, reverse=True)
            chunk = newest_first[: self.settings.batch_frames]
            for outcome in process_frames(chunk, self.project):
                counts[outcome.state] += 1
                counts[ANOMALOUS] += outcome.is_anomalous
                if self.stopping.is_set():
                    return counts
            for path in chunk:
                del self.queue[path]
        return counts

    def last_night(self, now: dt.datetime) -> dt.date:
        """Return the night that ended last for all instruments in use; without any, for all."""
        with self.project.read_session() as session:
            names = db.statistics.list_instruments(session)
        instruments = self.project.instruments
        in_use = [instrument for instrument in instruments if instrument.name in names]
        return min(instrument.night_of(now) for instrument in in_use or instruments)

    def reload_project(self) -> None:
        """Load edited thresholds and a newly trained classifier."""
        try:
            self.project = self.project.reload()
        except errors.ConfigurationError as error:  # the previous thresholds stay valid
            self.issues.begin("thresholds", scheduler.describe_error(error), self.now())
        else:
            self.issues.end("thresholds", self.now())

    def is_recorded(self, file: core.FileInfo) -> bool:
        """Return True if the database has this version of a file."""
        with self.project.read_session() as session:
            return db.frames.is_recorded(session, file)

    def record_begin(self, job: Job, started: dt.datetime) -> int | None:
        """Record the begin of a rare job: a row without an end shows an interrupted run.

        Parameters
        ----------
        job : Job
            Job that begins.
        started : datetime
            Time, UTC.

        Returns
        -------
        int or None
            Number of the run; None for a frequent job.
        """
        if job.is_frequent(self.settings):
            return None
        logger.info("job begins", extra={"job": job.name})
        with self.project.write_session.begin() as session:
            return db.operations.begin_run(session, job.name, started)

    def record_end(self, job: Job, run: int | None, started: dt.datetime, result: str) -> None:
        """Record the end of a job; a frequent job without result is recorded once a minute.

        Parameters
        ----------
        job : Job
            Job that has ended.
        run : int or None
            Number of the run, if its begin was recorded.
        started : datetime
            Time, UTC.
        result : str
            Result in words; may be empty.
        """
        ended = self.now()
        if run is None and not result and not self.is_heartbeat_due(job, ended):
            return
        with self.project.write_session.begin() as session:
            if run is None:
                db.operations.record_run(session, job.name, started, ended, result)
            else:
                db.operations.end_run(session, run, ended, is_well=True, words=result)
        if result:
            took_s = round((ended - started).total_seconds(), 1)
            logger.info("job done", extra={"job": job.name, "took_s": took_s, "words": result})

    def is_heartbeat_due(self, job: Job, ended: dt.datetime) -> bool:
        """Return True if no run of a job was recorded within the last minute.

        Parameters
        ----------
        job : Job
            Frequent job.
        ended : datetime
            End of its run, UTC.

        Returns
        -------
        bool
        """
        recorded_at = self._recorded_at.get(job.name)
        if recorded_at is not None and ended - recorded_at < HEARTBEAT:
            return False
        self._recorded_at[job.name] = ended
        return True

    def record_failure(self, job: Job, run: int | None, message: str) -> None:
        """Report a failed job as an issue; record it unless the issue is known.

        Parameters
        ----------
        job : Job
            Job that failed.
        run : int or None
            Number of the run, if its begin was recorded.
        message : str
            Error in one line.
        """
        now = self.now()
        is_new = self.issues.begin(f"job {job.name}", message, now)
        if run is None and not is_new:
            return
        # The most frequent cause is that the database is unavailable.
        with suppress(DBAPIError), self.project.write_session.begin() as session:
            number = run if run is not None else db.operations.begin_run(session, job.name, now)
            db.operations.end_run(session, number, now, is_well=False, words=message)
