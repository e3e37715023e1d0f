"""How the project does, in numbers: for ``qc status``, for ``/healthz`` and for Prometheus."""

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from qc import db
from qc._project_lock import LockHolder, holder
from qc.project import Project
from qc.settings import Settings

logger = logging.getLogger(__name__)

LATE = timedelta(minutes=10)  # for a job beyond its time, or a file that waits
OLD_DEBT = timedelta(hours=1)  # for a mail that has not left
WEEKS = 8

Now = Callable[[], datetime]


@dataclass(frozen=True)
class JobHealth:
    """How a job does.

    Attributes
    ----------
    last_success, next_run : datetime or None
        None if there was none, or there is no schedule yet.
    began : datetime or None
        When its newest run did; None if it has never run.
    last_words : str
        What came of that.
    is_well : bool or None
        Whether that went well; None while it goes on, or when it was cut short.
    """

    name: str
    last_success: datetime | None
    next_run: datetime | None
    began: datetime | None
    last_words: str
    is_well: bool | None

    @property
    def words(self) -> str:
        """Say what became of its newest run."""
        if self.began is None:
            return ""
        if self.is_well is None:
            return f"began {self.began:%Y-%m-%d %H:%M} UT and has not ended"
        return self.last_words if self.is_well else f"failed: {self.last_words}"


@dataclass(frozen=True)
class ProjectHealth:
    """How a project does.

    Attributes
    ----------
    files : mapping of state to int
    lag_s : float or None
        From exposure to verdict, of the newest frame.
    mails_owed : int
    oldest_debt_s : float
        Age of the oldest thing that people have not been told of; 0 without one.
    troubles : tuple of str
        What is wrong, in sentences; none if all is well.
    """

    at: datetime
    daemon: LockHolder | None
    is_running: bool
    files: Mapping[str, int]
    lag_s: float | None
    mails_owed: int
    oldest_debt_s: float
    jobs: tuple[JobHealth, ...]
    troubles: tuple[str, ...]

    @property
    def is_well(self) -> bool:
        """Say whether nobody need look."""
        return not self.troubles


def read_health(session: Session, settings: Settings, now: datetime) -> ProjectHealth:
    """Return how a project does, from what is stored and from the daemon's lock."""
    who, is_running = holder(settings.project)
    jobs = _jobs(session)
    debt_s = _debt_s(session, settings, now)
    return ProjectHealth(
        at=now,
        daemon=who,
        is_running=is_running,
        files=db.statistics.frame_states(session),
        lag_s=db.statistics.newest_lag_s(session),
        mails_owed=db.statistics.alerts_owed(session),
        oldest_debt_s=debt_s,
        jobs=jobs,
        troubles=tuple(_troubles(who, is_running, jobs, debt_s, now)),
    )


def read_troubles(session: Session, settings: Settings, now: datetime) -> tuple[str, ...]:
    """Return what is wrong, in sentences, without counting all files for it."""
    who, is_running = holder(settings.project)
    debt_s = _debt_s(session, settings, now)
    return tuple(_troubles(who, is_running, _jobs(session), debt_s, now))


def _debt_s(session: Session, settings: Settings, now: datetime) -> float:
    """Return the age of the oldest debt; where nobody has asked to be told, nobody waits."""
    return _age_s(db.statistics.oldest_debt(session), now) if settings.subscription else 0.0


def health_record(health: ProjectHealth) -> dict[str, Any]:
    """Return a project's health as plain values."""
    record = asdict(health)
    return {"is_well": health.is_well, **record}


def _jobs(session: Session) -> tuple[JobHealth, ...]:
    successes, newest = db.job_runs.last_successes(session), db.job_runs.newest_runs(session)
    following = db.job_runs.next_runs(session)
    return tuple(
        JobHealth(
            name=name,
            last_success=successes.get(name),
            next_run=following.get(name),
            began=newest[name].started_at if name in newest else None,
            last_words=newest[name].words if name in newest else "",
            is_well=newest[name].is_well if name in newest else None,
        )
        for name in sorted(newest.keys() | following.keys())
    )


def _troubles(
    who: LockHolder | None,
    is_running: bool,
    jobs: Iterable[JobHealth],
    debt_s: float,
    now: datetime,
) -> Iterator[str]:
    if who is not None and not is_running:
        yield f"the daemon died without a word ({who}); start it with 'qc run'"
    if debt_s > OLD_DEBT.total_seconds():
        yield f"people have not been told of something for {debt_s / 3600:.1f} h"
    for job in jobs:
        if job.is_well is False:
            yield f"{job.name}: {job.last_words}"
        elif is_running and job.next_run is not None and now - job.next_run > LATE:
            yield f"{job.name}: should have run at {job.next_run:%Y-%m-%d %H:%M} UT"


def _age_s(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else (now - since).total_seconds()


# --- for machines ---------------------------------------------------------------------------------


class _HealthCollector(Collector):
    """The figures of a project, read when they are asked for."""

    def __init__(self, project: Project, now: Now, waiting: Callable[[], int]) -> None:
        self.project, self.now, self.waiting = project, now, waiting

    def collect(self) -> Iterator[Metric]:
        """Yield every figure; only that it is down, if the database cannot be asked."""
        yield _single("qc_files_waiting", "files that have arrived, unprocessed", self.waiting())
        up = GaugeMetricFamily("qc_database_up", "whether the database answers")
        try:
            with self.project.reads() as session:
                now = self.now()
                figures = [
                    *_gauges(read_health(session, self.project.settings, now)),
                    _distances(session, now),
                ]
        except DBAPIError:
            figures = []
        up.add_metric([], float(bool(figures)))
        yield up
        yield from figures


def _gauges(health: ProjectHealth) -> Iterator[Metric]:
    files = GaugeMetricFamily("qc_files", "files by what became of them", labels=["state"])
    for state, count in health.files.items():
        files.add_metric([state], count)
    yield files
    yield _single("qc_well", "1 if nobody need look", float(health.is_well))
    yield _single("qc_alerts_owed", "things people have not been told of", health.mails_owed)
    yield _single("qc_oldest_debt_seconds", "age of the oldest of them", health.oldest_debt_s)
    if health.lag_s is not None:
        yield _single("qc_lag_seconds", "exposure to verdict, newest frame", health.lag_s)
    success = GaugeMetricFamily(
        "qc_job_last_success_timestamp_seconds", "when a job last ended well", labels=["job"]
    )
    for job in health.jobs:
        if job.last_success is not None:
            success.add_metric([job.name], job.last_success.timestamp())
    yield success


def _single(name: str, words: str, value: float) -> Metric:
    gauge = GaugeMetricFamily(name, words)
    gauge.add_metric([], value)
    return gauge


def _distances(session: Session, now: datetime) -> Metric:
    """Return how far good frames are from their references: ageing shows before alarms do."""
    gauge = GaugeMetricFamily(
        "qc_distance_to_reference",
        "median of a week's nominal frames, merge height in units of its threshold",
        labels=["image_type", "week"],
    )
    first = (now - timedelta(weeks=WEEKS)).date()
    for image_type, week, distance in db.statistics.weekly_distances(session, first):
        gauge.add_metric([image_type, week], distance)
    return gauge


@contextmanager
def serve_health(
    project: Project, now: Now, waiting: Callable[[], int] = lambda: 0
) -> Iterator[int]:
    """Answer ``/healthz`` and ``/metrics`` for as long as the context lasts; give the port.

    ``/healthz`` is 200 if all is well and 503 if not, with the troubles as JSON.

    Parameters
    ----------
    waiting : callable
        Tells how many files have arrived and have not been processed.
    """
    settings = project.settings.health
    if not settings.port:
        yield 0
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_HealthCollector(project, now, waiting))
    with make_server(
        settings.host,
        settings.port,
        _application(project, registry, now),
        _HealthServer,
        _SilentHandler,
    ) as server:
        thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class _HealthServer(WSGIServer):
    timeout = 10


class _SilentHandler(WSGIRequestHandler):
    timeout = 10  # who says nothing must not keep the others waiting

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing: a scrape a minute is no event."""


def _application(project: Project, registry: CollectorRegistry, now: Now) -> Any:
    def answer(environment: Mapping[str, Any], start: Callable[..., Any]) -> list[bytes]:
        pages: dict[str, Callable[[], tuple[str, str, bytes]]] = {
            "/healthz": lambda: _healthz(project, now()),
            "/metrics": lambda: ("200 OK", "text/plain; version=0.0.4", generate_latest(registry)),
        }
        page = pages.get(environment.get("PATH_INFO", ""), _nothing)
        status, kind, body = page()
        start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    return answer


def _healthz(project: Project, now: datetime) -> tuple[str, str, bytes]:
    try:
        with project.reads() as session:
            troubles = read_troubles(session, project.settings, now)
    except DBAPIError as error:
        troubles = (f"the database: {' '.join(str(error.orig).split())}",)
    body = json.dumps({"is_well": not troubles, "troubles": troubles}).encode()
    return "503 Service Unavailable" if troubles else "200 OK", "application/json", body


def _nothing() -> tuple[str, str, bytes]:
    return "404 Not Found", "text/plain", b"there are /healthz and /metrics\n"
