"""Health of a project: stored files, pending alerts, jobs and active issues."""

import datetime as dt
from collections import abc
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qc import _project_lock, db

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from qc.settings import Settings

OVERDUE = dt.timedelta(minutes=10)  # for a scheduled job
PENDING_TOO_LONG = dt.timedelta(hours=1)  # for an alert


@dataclass(frozen=True)
class JobHealth:
    """State of a job.

    Attributes
    ----------
    last_success, next_run : datetime or None
        None without a success, or without a schedule.
    began : datetime or None
        Start of the newest run; None if there is none.
    last_result : str
        Result of the newest run.
    is_well : bool or None
        Success of the newest run; None while it is running, or if it was interrupted.
    """

    name: str
    last_success: dt.datetime | None
    next_run: dt.datetime | None
    began: dt.datetime | None
    last_result: str
    is_well: bool | None

    @property
    def summary(self) -> str:
        """Result of the newest run, in words."""
        if self.began is None:
            return ""
        if self.is_well is None:
            return f"began {self.began:%Y-%m-%d %H:%M} UT and has not ended"
        return self.last_result if self.is_well else f"failed: {self.last_result}"


@dataclass(frozen=True)
class ProjectHealth:
    """State of a project.

    Attributes
    ----------
    files : mapping of state to int
    lag_s : float or None
        From exposure to verdict, of the newest frame.
    pending_alerts : int
    oldest_pending_s : float
        Age of the oldest alert that was not sent; 0 without one.
    issues : tuple of str
        Active issues, as sentences.
    """

    at: dt.datetime
    daemon: _project_lock.LockHolder | None
    is_running: bool
    files: abc.Mapping[str, int]
    lag_s: float | None
    pending_alerts: int
    oldest_pending_s: float
    jobs: tuple[JobHealth, ...]
    issues: tuple[str, ...]

    @property
    def is_well(self) -> bool:
        """True if there is no active issue."""
        return not self.issues


def read_health(session: "Session", settings: "Settings", now: dt.datetime) -> ProjectHealth:
    """Read the state of a project from its database and the daemon's lock.

    Parameters
    ----------
    session : Session
    settings : Settings
    now : datetime
        Aware.

    Returns
    -------
    ProjectHealth
    """
    daemon, is_running = _project_lock.read_holder(settings.project)
    jobs = read_jobs(session)
    pending_s = oldest_pending_s(session, settings, now)
    return ProjectHealth(
        at=now,
        daemon=daemon,
        is_running=is_running,
        files=db.statistics.frame_states(session),
        lag_s=db.statistics.newest_lag_s(session),
        pending_alerts=db.statistics.count_pending_alerts(session),
        oldest_pending_s=pending_s,
        jobs=jobs,
        issues=tuple(find_issues(daemon, is_running, jobs, pending_s, now)),
    )


def read_issues(session: "Session", settings: "Settings", now: dt.datetime) -> tuple[str, ...]:
    """Read the active issues of a project, without counting its files.

    Parameters
    ----------
    session : Session
    settings : Settings
    now : datetime
        Aware.

    Returns
    -------
    tuple of str
        Sentences.
    """
    daemon, is_running = _project_lock.read_holder(settings.project)
    pending_s = oldest_pending_s(session, settings, now)
    return tuple(find_issues(daemon, is_running, read_jobs(session), pending_s, now))


def oldest_pending_s(session: "Session", settings: "Settings", now: dt.datetime) -> float:
    """Return the age of the oldest alert that was not sent.

    Parameters
    ----------
    session : Session
    settings : Settings
    now : datetime
        Aware.

    Returns
    -------
    float
        In seconds; 0 without a pending alert or without subscriptions.
    """
    since = db.statistics.oldest_pending_at(session) if settings.subscription else None
    return 0.0 if since is None else (now - since).total_seconds()


def health_record(health: ProjectHealth) -> dict[str, Any]:
    """Return the state of a project as plain values, for JSON."""
    record = asdict(health)
    names = {
        "pending_alerts": "mails_owed",
        "oldest_pending_s": "oldest_debt_s",
        "issues": "troubles",
        "last_result": "last_words",
    }
    record["jobs"] = tuple(
        {names.get(name, name): value for name, value in job.items()} for job in record["jobs"]
    )
    renamed = {names.get(name, name): value for name, value in record.items()}
    return {"is_well": health.is_well, **renamed}


def read_jobs(session: "Session") -> tuple[JobHealth, ...]:
    """Read the state of each job."""
    successes, newest = db.operations.last_successes(session), db.operations.newest_runs(session)
    following = db.operations.next_runs(session)
    return tuple(
        JobHealth(
            name=name,
            last_success=successes.get(name),
            next_run=following.get(name),
            began=newest[name].started_at if name in newest else None,
            last_result=newest[name].words if name in newest else "",
            is_well=newest[name].is_well if name in newest else None,
        )
        for name in sorted(newest.keys() | following.keys())
    )


def find_issues(
    daemon: _project_lock.LockHolder | None,
    is_running: bool,
    jobs: abc.Iterable[JobHealth],
    pending_s: float,
    now: dt.datetime,
) -> abc.Iterator[str]:
    """Yield the active issues.

    Parameters
    ----------
    daemon : LockHolder or None
        Process that holds, or last held, the daemon's lock.
    is_running : bool
    jobs : iterable of JobHealth
    pending_s : float
        Age of the oldest pending alert.
    now : datetime
        Aware.

    Yields
    ------
    str
        A sentence.
    """
    if daemon is not None and not is_running:
        yield f"the daemon ended without shutdown ({daemon}); start it with 'qc service run'"
    if pending_s > PENDING_TOO_LONG.total_seconds():
        yield f"an alert has been pending for {pending_s / 3600:.1f} h"
    for job in jobs:
        if job.is_well is False:
            yield f"{job.name}: {job.last_result}"
        elif is_running and job.next_run is not None and now - job.next_run > OVERDUE:
            yield f"{job.name}: should have run at {job.next_run:%Y-%m-%d %H:%M} UT"
