"""What the daemon did and when: the questions asked of its runs, and what is put there."""

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from qc.db.models import JobRunRow, ScheduledJobRow


def begin_run(session: Session, job: str, now: datetime) -> int:
    """Keep that a job has begun, and return the run's number."""
    row = JobRunRow(job=job, started_at=now)
    session.add(row)
    session.flush()
    return row.id


def end_run(session: Session, run: int, now: datetime, *, is_well: bool, words: str) -> None:
    """Keep how a run ended."""
    row = session.get_one(JobRunRow, run)
    row.ended_at, row.is_well, row.words = now, is_well, words


def record_run(session: Session, job: str, started: datetime, ended: datetime, words: str) -> None:
    """Keep a run that went well. One without news prolongs the one before it, if that had none.

    A scan a minute would fill the table with what nobody will read.
    """
    newest = session.scalar(
        select(JobRunRow).where(JobRunRow.job == job).order_by(JobRunRow.id.desc()).limit(1)
    )
    if newest is not None and newest.is_well and not (newest.words or words):
        newest.ended_at = ended
    else:
        session.add(
            JobRunRow(job=job, started_at=started, ended_at=ended, is_well=True, words=words)
        )


def newest_runs(session: Session) -> Mapping[str, JobRunRow]:
    """Return the newest run of each job."""
    newest = select(func.max(JobRunRow.id)).group_by(JobRunRow.job)
    query = select(JobRunRow).where(JobRunRow.id.in_(newest)).order_by(JobRunRow.job)
    return {row.job: row for row in session.scalars(query)}


def last_successes(session: Session) -> Mapping[str, datetime]:
    """Return when each job last ended well."""
    query = (
        select(JobRunRow.job, func.max(JobRunRow.ended_at))
        .where(JobRunRow.is_well.is_(True))
        .group_by(JobRunRow.job)
    )
    return {name: at for name, at in session.execute(query) if at is not None}


def next_runs(session: Session) -> Mapping[str, datetime]:
    """Return when each scheduled job runs next."""
    query = select(ScheduledJobRow.id, ScheduledJobRow.next_run_time)
    return {
        name: datetime.fromtimestamp(at, UTC)
        for name, at in session.execute(query)
        if at is not None
    }


def prune_runs(session: Session, before: datetime) -> int:
    """Forget the runs of long ago, all but the newest of each job; return how many."""
    newest = select(func.max(JobRunRow.id)).group_by(JobRunRow.job)
    old = delete(JobRunRow).where(JobRunRow.started_at < before, JobRunRow.id.not_in(newest))
    done = session.execute(old)
    return int(getattr(done, "rowcount", 0))
