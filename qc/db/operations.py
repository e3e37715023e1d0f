"""Operation: runs of jobs, pending alerts and results of injection tests."""

import datetime as dt
from collections import abc
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc._time import utc_now
from qc.core.enums import Topic
from qc.db.schema import models
from qc.db.schema.engine import insert_new


@dataclass(frozen=True)
class InjectionResult:
    """Counts of an injection test's trials that differ in their frame only."""

    night: dt.date
    instrument: str
    image_type: str
    kind: str
    strength: str
    tried: int
    found: int


def begin_run(session: Session, job: str, now: dt.datetime) -> int:
    """Insert the run of a job that has begun; return its id.

    Parameters
    ----------
    session : Session
    job : str
        Name of the job.
    now : datetime

    Returns
    -------
    int
    """
    row = models.JobRunRow(job=job, started_at=now)
    session.add(row)
    session.flush()
    return row.id


def end_run(session: Session, run: int, now: dt.datetime, *, is_well: bool, words: str) -> None:
    """Store the end of a run.

    Parameters
    ----------
    session : Session
    run : int
        Id of the run.
    now : datetime
    is_well : bool
        False after an error.
    words : str
        Result or error.
    """
    row = session.get_one(models.JobRunRow, run)
    row.ended_at, row.is_well, row.words = now, is_well, words


def record_run(
    session: Session, job: str, started: dt.datetime, ended: dt.datetime, words: str
) -> None:
    """Store a successful run; runs without a result prolong the previous such run.

    A scan each minute would otherwise fill the table.

    Parameters
    ----------
    session : Session
    job : str
        Name of the job.
    started, ended : datetime
    words : str
        Result; may be empty.
    """
    newest = session.scalar(
        sa.select(models.JobRunRow)
        .where(models.JobRunRow.job == job)
        .order_by(models.JobRunRow.id.desc())
        .limit(1)
    )
    if newest is not None and newest.is_well and not (newest.words or words):
        newest.ended_at = ended
    else:
        session.add(
            models.JobRunRow(job=job, started_at=started, ended_at=ended, is_well=True, words=words)
        )


def newest_runs(session: Session) -> abc.Mapping[str, models.JobRunRow]:
    """Return the newest run of each job."""
    newest = sa.select(sa.func.max(models.JobRunRow.id)).group_by(models.JobRunRow.job)
    query = (
        sa.select(models.JobRunRow)
        .where(models.JobRunRow.id.in_(newest))
        .order_by(models.JobRunRow.job)
    )
    return {row.job: row for row in session.scalars(query)}


def last_successes(session: Session) -> abc.Mapping[str, dt.datetime]:
    """Return the end of the last successful run of each job."""
    query = (
        sa.select(models.JobRunRow.job, sa.func.max(models.JobRunRow.ended_at))
        .where(models.JobRunRow.is_well.is_(True))
        .group_by(models.JobRunRow.job)
    )
    return {name: at for name, at in session.execute(query) if at is not None}


def next_runs(session: Session) -> abc.Mapping[str, dt.datetime]:
    """Return the time of the next run of each scheduled job."""
    query = sa.select(models.ScheduledJobRow.id, models.ScheduledJobRow.next_run_time)
    return {
        name: dt.datetime.fromtimestamp(at, dt.UTC)
        for name, at in session.execute(query)
        if at is not None
    }


def prune_runs(session: Session, before: dt.datetime) -> int:
    """Delete the runs before a time, except the newest of each job; return their number.

    Parameters
    ----------
    session : Session
    before : datetime

    Returns
    -------
    int
    """
    newest = sa.select(sa.func.max(models.JobRunRow.id)).group_by(models.JobRunRow.job)
    result = session.execute(
        sa.delete(models.JobRunRow).where(
            models.JobRunRow.started_at < before, models.JobRunRow.id.not_in(newest)
        )
    )
    return int(getattr(result, "rowcount", 0))


def add_alert(
    session: Session,
    topic: Topic,
    key: str,
    words: str,
    *,
    instrument: str | None = None,
    image_type: str | None = None,
    night: dt.date | None = None,
) -> bool:
    """Add a pending alert on an event other than a verdict, unless its key exists.

    Parameters
    ----------
    session : Session
    topic : Topic
    key : str
        Identity of the event: ``absence UVES UBB0 2026-11-19``.
    words : str
        Sentence for mail and report.
    instrument, image_type, night : optional
        Subject of the event.

    Returns
    -------
    bool
        False if the event had an alert already.
    """
    alert_id = insert_new(
        session,
        models.AlertRow,
        topic=topic,
        key=key,
        words=words,
        instrument=instrument,
        image_type=image_type,
        night=night,
        owed_at=utc_now(),
    )
    return alert_id is not None


def known_alert_keys(session: Session, keys: abc.Collection[str]) -> abc.Collection[str]:
    """Return those of some keys that an alert has, sent or not.

    Parameters
    ----------
    session : Session
    keys : collection of str

    Returns
    -------
    collection of str
    """
    rows = session.scalars(sa.select(models.AlertRow.key).where(models.AlertRow.key.in_(keys)))
    return {key for key in rows if key is not None}


def injection_results(
    session: Session, first: dt.date, last: dt.date
) -> abc.Sequence[InjectionResult]:
    """Return the trials of a range of nights and the detected faults among them.

    Parameters
    ----------
    session : Session
    first, last : date
        First and last night.

    Returns
    -------
    sequence of InjectionResult
    """
    columns = (
        models.SelfTestRow.night,
        models.SelfTestRow.instrument,
        models.SelfTestRow.image_type,
        models.SelfTestRow.kind,
        models.SelfTestRow.strength,
    )
    detected = sa.func.sum(sa.case((models.SelfTestRow.is_found, 1), else_=0))
    query = (
        sa.select(*columns, sa.func.count(), detected)
        .where(models.SelfTestRow.night >= first, models.SelfTestRow.night <= last)
        .group_by(*columns)
        .order_by(*columns)
    )
    return [InjectionResult(*row) for row in session.execute(query)]


def record_injections(
    session: Session, night: dt.date, rows: abc.Sequence[models.SelfTestRow]
) -> None:
    """Replace the trials of a night.

    Parameters
    ----------
    session : Session
    night : date
    rows : sequence of SelfTestRow
    """
    session.execute(sa.delete(models.SelfTestRow).where(models.SelfTestRow.night == night))
    session.add_all(rows)
