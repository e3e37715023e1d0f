"""Counts, times and unprocessed files for status pages, monitoring and summaries."""

import collections.abc
import datetime as dt
from dataclasses import dataclass
from statistics import median

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import _files, core
from qc.db.schema import models
from qc.db.schema.engine import night_conditions


@dataclass(frozen=True)
class ArrivalCount:
    """Number of frames of one setup in one night.

    Attributes
    ----------
    last : datetime
        Time of observation of the last frame.
    """

    instrument: str
    night: dt.date
    setup: core.Setup
    frames: int
    last: dt.datetime


def unprocessed_files(session: Session) -> collections.abc.Sequence[models.FrameRow]:
    """Return the files that failed or were skipped, newest first."""
    return session.scalars(
        sa.select(models.FrameRow)
        .where(models.FrameRow.state != core.FrameState.PROCESSED)
        .order_by(models.FrameRow.processed_at.desc())
    ).all()


def failed_files(session: Session) -> collections.abc.Sequence[models.FrameRow]:
    """Return the files that failed, by name."""
    is_failed = models.FrameRow.state == core.FrameState.FAILED
    return session.scalars(
        sa.select(models.FrameRow).where(is_failed).order_by(models.FrameRow.name)
    ).all()


def list_instruments(session: Session) -> collections.abc.Sequence[str]:
    """Return the instruments with a processed frame, by name."""
    is_processed = models.FrameRow.state == core.FrameState.PROCESSED
    query = sa.select(models.FrameRow.instrument).where(is_processed).distinct()
    return sorted(name for name in session.scalars(query) if name)


def frames_by_night(session: Session, first: dt.date) -> collections.abc.Mapping[dt.date, int]:
    """Return the number of processed frames of each night with frames.

    Parameters
    ----------
    session : Session
    first : date
        First night.

    Returns
    -------
    mapping of date to int
    """
    query = (
        sa.select(models.FrameRow.night, sa.func.count())
        .where(models.FrameRow.night >= first)
        .group_by(models.FrameRow.night)
    )
    return {night: n for night, n in session.execute(query) if night}


def newest_night(session: Session) -> dt.date | None:
    """Return the newest night with a processed frame."""
    return session.scalar(sa.select(sa.func.max(models.FrameRow.night)))


def newest_of_types(
    session: Session, first: dt.date, last: dt.date
) -> collections.abc.Mapping[tuple[str, str], dt.datetime]:
    """Return the time of the newest frame of each image type in a range of nights.

    Parameters
    ----------
    session : Session
    first, last : date
        First and last night.

    Returns
    -------
    mapping of (str, str) to datetime
        By instrument and image type.
    """
    query = (
        sa.select(
            models.FrameRow.instrument,
            models.ExtensionRow.image_type,
            sa.func.max(models.FrameRow.observed_at),
        )
        .join(models.ExtensionRow.frame)
        .where(models.FrameRow.night >= first, models.FrameRow.night <= last)
        .group_by(models.FrameRow.instrument, models.ExtensionRow.image_type)
    )
    return {
        (instrument, image_type): at
        for instrument, image_type, at in session.execute(query)
        if instrument and at
    }


def frames_between(session: Session, first: dt.date, last: dt.date) -> tuple[int, int]:
    """Return the number and the newest id of the frames of a range of nights.

    Parameters
    ----------
    session : Session
    first, last : date
        First and last night.

    Returns
    -------
    count, newest : int
    """
    query = sa.select(sa.func.count(), sa.func.max(models.FrameRow.id)).where(
        models.FrameRow.night >= first, models.FrameRow.night <= last
    )
    count, newest = session.execute(query).one()
    return count, newest or 0


def frame_states(session: Session) -> collections.abc.Mapping[str, int]:
    """Return the number of files in each state."""
    query = sa.select(models.FrameRow.state, sa.func.count()).group_by(models.FrameRow.state)
    return {name: count for name, count in session.execute(query)}  # noqa: C416 - a Result has keys


def verdict_counts(session: Session) -> collections.abc.Mapping[str, int]:
    """Return the number of extensions with each newest status."""
    newest = sa.select(sa.func.max(models.VerdictRow.id)).group_by(models.VerdictRow.extension_id)
    query = (
        sa.select(models.VerdictRow.status, sa.func.count())
        .where(models.VerdictRow.id.in_(newest))
        .group_by(models.VerdictRow.status)
    )
    return {name: count for name, count in session.execute(query)}  # noqa: C416 - a Result has keys


def encoder_counts(session: Session) -> collections.abc.Mapping[str, int]:
    """Return the number of embeddings of each encoder, by fingerprint."""
    query = (
        sa.select(models.EncoderRow.fingerprint, sa.func.count())
        .join(models.EmbeddingRow, models.EmbeddingRow.encoder_id == models.EncoderRow.id)
        .group_by(models.EncoderRow.fingerprint)
    )
    return {name: count for name, count in session.execute(query)}  # noqa: C416 - a Result has keys


def count_pending_alerts(session: Session) -> int:
    """Return the number of alerts without a sent notification that are not silenced."""
    count = sa.select(sa.func.count()).select_from(models.AlertRow)
    waiting = count.where(
        models.AlertRow.notification_id.is_(None),
        models.AlertRow.silence_id.is_(None),
        models.AlertRow.settled == "",
    )
    due = sa.select(models.DeliveryRow.notification_id).where(
        models.DeliveryRow.due_at.is_not(None)
    )
    unsent = count.where(models.AlertRow.notification_id.in_(due))
    return (session.scalar(waiting) or 0) + (session.scalar(unsent) or 0)


def oldest_pending_at(session: Session) -> dt.datetime | None:
    """Return the time of the oldest pending alert or delivery; None without any."""
    waiting = sa.select(sa.func.min(models.AlertRow.owed_at)).where(
        models.AlertRow.notification_id.is_(None), models.AlertRow.silence_id.is_(None)
    )
    unsent = sa.select(sa.func.min(models.DeliveryRow.owed_at)).where(
        models.DeliveryRow.due_at.is_not(None)
    )
    times = [session.scalar(query) for query in (waiting, unsent)]
    return min((time for time in times if time is not None), default=None)


def newest_lag_s(session: Session) -> float | None:
    """Return the seconds from exposure to verdict of the newest processed frame."""
    query = (
        sa.select(models.FrameRow.processed_at, models.FrameRow.observed_at)
        .where(models.FrameRow.state == core.FrameState.PROCESSED)
        .order_by(models.FrameRow.id.desc())
        .limit(1)
    )
    row = session.execute(query).first()
    return (row[0] - row[1]).total_seconds() if row and row[1] else None


def weekly_distances(session: Session, first: dt.date) -> list[tuple[str, str, float]]:
    """Return the median merge height of nominal frames by image type and week.

    Parameters
    ----------
    session : Session
    first : date
        First night.

    Returns
    -------
    list of (str, str, float)
        Image type, ISO week, median in units of the threshold of each verdict.
    """
    query = (
        sa.select(
            models.ExtensionRow.image_type,
            models.FrameRow.night,
            models.VerdictRow.merge_height / models.VerdictRow.threshold,
        )
        .join(models.ExtensionRow.frame)
        .join(models.VerdictRow, models.VerdictRow.extension_id == models.ExtensionRow.id)
        .where(
            models.FrameRow.night >= first,
            models.VerdictRow.status == core.Status.NOMINAL,
            models.VerdictRow.merge_height.is_not(None),
        )
    )
    ratios = collections.defaultdict[tuple[str, str], list[float]](list)
    for image_type, night, ratio in session.execute(query):
        if night is not None and ratio is not None:
            year, week, _ = night.isocalendar()
            ratios[image_type, f"{year}-W{week:02d}"].append(ratio)
    return [(*key, median(values)) for key, values in sorted(ratios.items())]


def last_processed_at(session: Session) -> dt.datetime | None:
    """Return the time when a file was last processed, failed or skipped."""
    return session.scalar(sa.select(sa.func.max(models.FrameRow.processed_at)))


def unprocessed_between(
    session: Session, start: dt.datetime, end: dt.datetime
) -> collections.abc.Sequence[models.FrameRow]:
    """Return the failed or skipped files that may have been taken in a time span.

    The observation time of an unreadable file is unknown: its name must contain one of the dates,
    or its modification time must be in the span.

    Parameters
    ----------
    session : Session
    start, end : datetime
        At most a day apart.

    Returns
    -------
    sequence of FrameRow
    """
    first_ns, last_ns = (int(time.timestamp()) * 10**9 for time in (start, end))
    query = (
        sa.select(models.FrameRow)
        .where(
            models.FrameRow.state.in_((core.FrameState.FAILED, core.FrameState.SKIPPED)),
            sa.or_(
                models.FrameRow.name.contains(start.date().isoformat()),
                models.FrameRow.name.contains(end.date().isoformat()),
                sa.and_(
                    models.FrameRow.modified_ns >= first_ns, models.FrameRow.modified_ns < last_ns
                ),
            ),
        )
        .order_by(models.FrameRow.name)
    )
    return session.scalars(query).all()


def estimate_observed_at(row: models.FrameRow) -> dt.datetime:
    """Return the observation time of an unreadable file, by its name or modification time."""
    time = _files.time_in_name(row.name)
    return time or dt.datetime.fromtimestamp(row.modified_ns / 1e9, dt.UTC)


def arrivals_between(
    session: Session, first: dt.date, last: dt.date
) -> collections.abc.Iterator[ArrivalCount]:
    """Yield the number of frames of each setup and night in a range of nights.

    Parameters
    ----------
    session : Session
    first, last : date
        First and last night.

    Yields
    ------
    ArrivalCount
    """
    setup = [getattr(models.ExtensionRow, name) for name in core.Setup.__dataclass_fields__]
    query = (
        sa.select(
            models.FrameRow.instrument,
            models.FrameRow.night,
            sa.func.count(sa.func.distinct(models.FrameRow.id)),
            sa.func.max(models.FrameRow.observed_at),
            *setup,
        )
        .join(models.ExtensionRow.frame)
        .where(*night_conditions(first, last))
        .group_by(models.FrameRow.instrument, models.FrameRow.night, *setup)
    )
    for instrument, night, frames, at, *values in session.execute(query):
        yield ArrivalCount(instrument, night, core.Setup(*values), frames, at)


def is_catching_up(session: Session, now: dt.datetime, since: dt.datetime, late_s: float) -> bool:
    """Return True if delayed frames were processed recently.

    Frames older than a week are from an archive and do not count.

    Parameters
    ----------
    session : Session
    now, since : datetime
        Range of processing times.
    late_s : float
        Least delay from observation to processing, seconds.

    Returns
    -------
    bool
    """
    query = sa.select(models.FrameRow.processed_at, models.FrameRow.observed_at).where(
        models.FrameRow.processed_at >= since,
        models.FrameRow.processed_at <= now,
        models.FrameRow.observed_at >= now - dt.timedelta(days=7),
    )
    late = dt.timedelta(seconds=late_s)
    return any(
        observed_at and processed_at - observed_at > late
        for processed_at, observed_at in session.execute(query)
    )


def count_judged_frames(
    session: Session, scope: str, first: dt.date, last: dt.date, least_references: int = 0
) -> int:
    """Return the number of frames whose newest verdict has enough references.

    Parameters
    ----------
    session : Session
    scope : str
        An image type, or the name of an instrument.
    first, last : date
        First and last night.
    least_references : int

    Returns
    -------
    int
    """
    newest = sa.select(sa.func.max(models.VerdictRow.id)).group_by(models.VerdictRow.extension_id)
    query = (
        sa.select(sa.func.count(sa.func.distinct(models.ExtensionRow.frame_id)))
        .join(models.ExtensionRow.frame)
        .join(models.VerdictRow, models.VerdictRow.extension_id == models.ExtensionRow.id)
        .where(
            sa.or_(models.ExtensionRow.image_type == scope, models.FrameRow.instrument == scope),
            models.FrameRow.night >= first,
            models.FrameRow.night <= last,
            models.VerdictRow.id.in_(newest),
            models.VerdictRow.reference_size >= least_references,
        )
    )
    return session.scalar(query) or 0
