"""Health endpoint of the daemon: ``/healthz`` as JSON and ``/metrics`` for Prometheus."""

import datetime as dt
import json
import threading
from collections import abc
from contextlib import contextmanager
from typing import Any
from wsgiref import simple_server

import prometheus_client
from prometheus_client import core, registry
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from qc import db
from qc.monitoring import health
from qc.project import ProjectContext

WEEKS = 8  # of the distance to the reference

Now = abc.Callable[[], dt.datetime]


class HealthCollector(registry.Collector):
    """Prometheus metrics of a project, read at each scrape."""

    def __init__(self, project: ProjectContext, now: Now, waiting: abc.Callable[[], int]) -> None:
        self.project, self.now, self.waiting = project, now, waiting

    def collect(self) -> abc.Iterator[core.Metric]:
        """Yield every metric; if the database is down, only that."""
        yield gauge("qc_files_waiting", "files that have arrived, unprocessed", self.waiting())
        try:
            with self.project.read_session() as session:
                now = self.now()
                state = health.read_health(session, self.project.settings, now)
                metrics = [*health_metrics(state), distance_metric(session, now)]
        except DBAPIError:
            metrics = []
        yield gauge("qc_database_up", "whether the database answers", float(bool(metrics)))
        yield from metrics


def health_metrics(state: health.ProjectHealth) -> abc.Iterator[core.Metric]:
    """Yield the metrics of a project's health."""
    files = core.GaugeMetricFamily("qc_files", "files by state", labels=["state"])
    for name, count in state.files.items():
        files.add_metric([name], count)
    yield files
    yield gauge("qc_well", "1 without active issues", float(state.is_well))
    yield gauge("qc_alerts_owed", "alerts that were not sent", state.pending_alerts)
    yield gauge("qc_oldest_debt_seconds", "age of the oldest of them", state.oldest_pending_s)
    if state.lag_s is not None:
        yield gauge("qc_lag_seconds", "exposure to verdict, newest frame", state.lag_s)
    success = core.GaugeMetricFamily(
        "qc_job_last_success_timestamp_seconds", "last successful run of a job", labels=["job"]
    )
    for job in state.jobs:
        if job.last_success is not None:
            success.add_metric([job.name], job.last_success.timestamp())
    yield success


def distance_metric(session: Session, now: dt.datetime) -> core.Metric:
    """Return the weekly distance of nominal frames to their references.

    It shows ageing before alarms do.

    Parameters
    ----------
    session : Session
    now : datetime
        Aware.

    Returns
    -------
    Metric
    """
    metric = core.GaugeMetricFamily(
        "qc_distance_to_reference",
        "median of a week's nominal frames, merge height in units of its threshold",
        labels=["image_type", "week"],
    )
    first = (now - dt.timedelta(weeks=WEEKS)).date()
    for image_type, week, distance in db.statistics.weekly_distances(session, first):
        metric.add_metric([image_type, week], distance)
    return metric


def gauge(name: str, description: str, value: float) -> core.Metric:
    """Return a metric with a single value.

    Parameters
    ----------
    name, description : str
    value : float

    Returns
    -------
    Metric
    """
    metric = core.GaugeMetricFamily(name, description)
    metric.add_metric([], value)
    return metric


@contextmanager
def serve_health(
    project: ProjectContext, now: Now, waiting: abc.Callable[[], int] = lambda: 0
) -> abc.Iterator[int]:
    """Serve ``/healthz`` and ``/metrics`` while the context lasts.

    ``/healthz`` has status 200 without active issues, else 503, and lists the issues as JSON.

    Parameters
    ----------
    project : ProjectContext
    now : callable
        Returns the time, aware.
    waiting : callable
        Returns the number of files that have arrived and are not processed.

    Yields
    ------
    int
        Port; 0 if the settings disable the endpoint.
    """
    settings = project.settings.health
    if not settings.port:
        yield 0
        return
    metrics = prometheus_client.CollectorRegistry(auto_describe=False)
    metrics.register(HealthCollector(project, now, waiting))
    with simple_server.make_server(
        settings.host,
        settings.port,
        health_application(project, metrics, now),
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


class _HealthServer(simple_server.WSGIServer):
    timeout = 10  # seconds


class _SilentHandler(simple_server.WSGIRequestHandler):
    timeout = 10  # seconds; a silent client must not block the others

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - name of the base class
        """Log nothing, as there is a request every minute."""


def health_application(
    project: ProjectContext, metrics: prometheus_client.CollectorRegistry, now: Now
) -> Any:
    """Return the WSGI application of the endpoint.

    Parameters
    ----------
    project : ProjectContext
    metrics : CollectorRegistry
    now : callable
        Returns the time, aware.

    Returns
    -------
    callable
    """

    def respond(environment: abc.Mapping[str, Any], start: abc.Callable[..., Any]) -> list[bytes]:
        path = environment.get("PATH_INFO", "")
        if path == "/healthz":
            status, kind, body = healthz_response(project, now())
        elif path == "/metrics":
            body = prometheus_client.generate_latest(metrics)
            status, kind = "200 OK", "text/plain; version=0.0.4"
        else:
            body = b"there are /healthz and /metrics\n"
            status, kind = "404 Not Found", "text/plain"
        start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    return respond


def healthz_response(project: ProjectContext, now: dt.datetime) -> tuple[str, str, bytes]:
    """Return status, content type and body of ``/healthz``.

    Parameters
    ----------
    project : ProjectContext
    now : datetime
        Aware.

    Returns
    -------
    status, content_type : str
    body : bytes
    """
    try:
        with project.read_session() as session:
            issues = health.read_issues(session, project.settings, now)
    except DBAPIError as error:
        issues = (f"the database: {' '.join(str(error.orig).split())}",)
    body = json.dumps({"is_well": not issues, "troubles": issues}).encode()
    return "503 Service Unavailable" if issues else "200 OK", "application/json", body
