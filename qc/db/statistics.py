"""Counts and ages for status pages."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
from sqlalchemy import (
    and_,
    func,
    or_,
    select,
)
from sqlalchemy.orm import (
    Session,
)

from qc._files import told_time
from qc.core.enums import FrameState
from qc.core.frame import Setup
from qc.core.verdict import Status
from qc.db.engine import of_nights
from qc.db.models import (
    AlertRow,
    DeliveryRow,
    EmbeddingRow,
    EncoderRow,
    ExtensionRow,
    FrameRow,
    VerdictRow,
)


def unprocessed(session: Session) -> Sequence[FrameRow]:
    """Return the files that failed or were skipped, newest first."""
    return session.scalars(
        select(FrameRow)
        .where(FrameRow.state != FrameState.PROCESSED)
        .order_by(FrameRow.processed_at.desc())
    ).all()


def failed(session: Session) -> Sequence[FrameRow]:
    """Return the files that failed, by name."""
    query = select(FrameRow).where(FrameRow.state == FrameState.FAILED).order_by(FrameRow.name)
    return session.scalars(query).all()


def instruments_seen(session: Session) -> Sequence[str]:
    """Return the instruments of which a frame was processed, by name."""
    query = select(FrameRow.instrument).where(FrameRow.state == FrameState.PROCESSED).distinct()
    return sorted(name for name in session.scalars(query) if name)


def frames_by_night(session: Session, first: date) -> Mapping[date, int]:
    """Return how many frames were processed of each night that had any, from one on."""
    query = (
        select(FrameRow.night, func.count()).where(FrameRow.night >= first).group_by(FrameRow.night)
    )
    return {night: n for night, n in session.execute(query) if night}


def newest_night(session: Session) -> date | None:
    """Return the newest night of which a frame was processed."""
    return session.scalar(select(func.max(FrameRow.night)))


def newest_of_types(
    session: Session, first: date, last: date
) -> Mapping[tuple[str, str], datetime]:
    """Return when each image type of each instrument was had last in these nights."""
    query = (
        select(FrameRow.instrument, ExtensionRow.image_type, func.max(FrameRow.observed_at))
        .join(ExtensionRow.frame)
        .where(FrameRow.night >= first, FrameRow.night <= last)
        .group_by(FrameRow.instrument, ExtensionRow.image_type)
    )
    return {
        (instrument, image_type): at
        for instrument, image_type, at in session.execute(query)
        if instrument and at
    }


def frames_between(session: Session, first: date, last: date) -> tuple[int, int]:
    """Return how many frames these nights brought, and the number of the one that came last."""
    query = select(func.count(), func.max(FrameRow.id)).where(
        FrameRow.night >= first, FrameRow.night <= last
    )
    count, newest = session.execute(query).one()
    return count, newest or 0


def frame_states(session: Session) -> Mapping[str, int]:
    """Return how many files are in each state."""
    query = select(FrameRow.state, func.count()).group_by(FrameRow.state)
    return {name: count for name, count in session.execute(query)}  # noqa: C416 - a Result has keys


def verdict_counts(session: Session) -> Mapping[str, int]:
    """Return how many extensions have which newest verdict."""
    newest = select(func.max(VerdictRow.id)).group_by(VerdictRow.extension_id)
    query = (
        select(VerdictRow.status, func.count())
        .where(VerdictRow.id.in_(newest))
        .group_by(VerdictRow.status)
    )
    return {name: count for name, count in session.execute(query)}  # noqa: C416 - a Result has keys


def encoder_counts(session: Session) -> Mapping[str, int]:
    """Return how many embeddings each encoder made, by its fingerprint."""
    query = (
        select(EncoderRow.fingerprint, func.count())
        .join(EmbeddingRow, EmbeddingRow.encoder_id == EncoderRow.id)
        .group_by(EncoderRow.fingerprint)
    )
    return {name: count for name, count in session.execute(query)}  # noqa: C416 - a Result has keys


def alerts_owed(session: Session) -> int:
    """Return how many things people have not been told of yet, that are not silenced."""
    count = select(func.count()).select_from(AlertRow)
    waiting = count.where(
        AlertRow.notice_id.is_(None), AlertRow.silence_id.is_(None), AlertRow.settled == ""
    )
    owed = select(DeliveryRow.notice_id).where(DeliveryRow.due_at.is_not(None))
    unsent = count.where(AlertRow.notice_id.in_(owed))
    return (session.scalar(waiting) or 0) + (session.scalar(unsent) or 0)


def oldest_debt(session: Session) -> datetime | None:
    """Return since when people should have been told of something, the oldest such."""
    waiting = select(func.min(AlertRow.owed_at)).where(
        AlertRow.notice_id.is_(None), AlertRow.silence_id.is_(None)
    )
    unsent = select(func.min(DeliveryRow.owed_at)).where(DeliveryRow.due_at.is_not(None))
    found = [session.scalar(query) for query in (waiting, unsent)]
    return min((each for each in found if each is not None), default=None)


def newest_lag_s(session: Session) -> float | None:
    """Return the seconds from exposure to verdict of the frame that was judged last."""
    query = (
        select(FrameRow.processed_at, FrameRow.observed_at)
        .where(FrameRow.state == FrameState.PROCESSED)
        .order_by(FrameRow.id.desc())
        .limit(1)
    )
    row = session.execute(query).first()
    return (row[0] - row[1]).total_seconds() if row and row[1] else None


def weekly_distances(session: Session, first: date) -> list[tuple[str, str, float]]:
    """Return image type, ISO week and the median merge height of its nominal frames.

    In units of the threshold that each was held against; of nights from `first` on.
    """
    query = (
        select(
            ExtensionRow.image_type, FrameRow.night, VerdictRow.merge_height / VerdictRow.threshold
        )
        .join(ExtensionRow.frame)
        .join(VerdictRow, VerdictRow.extension_id == ExtensionRow.id)
        .where(
            FrameRow.night >= first,
            VerdictRow.status == Status.NOMINAL,
            VerdictRow.merge_height.is_not(None),
        )
    )
    ratios = defaultdict[tuple[str, str], list[float]](list)
    for image_type, night, ratio in session.execute(query):
        if night is not None and ratio is not None:
            year, week, _ = night.isocalendar()
            ratios[image_type, f"{year}-W{week:02d}"].append(ratio)
    return [(*key, float(np.median(found))) for key, found in sorted(ratios.items())]


def last_processed_at(session: Session) -> datetime | None:
    """Return when a file was last taken in."""
    return session.scalar(select(func.max(FrameRow.processed_at)))


def unprocessed_between(session: Session, start: datetime, end: datetime) -> Sequence[FrameRow]:
    """Return the files that failed or were skipped and may have been taken in a span of a day.

    Nobody knows when a file was taken that could not be read: those that have one of the span's
    dates in their names, or changed on disk within it.
    """
    first_ns, last_ns = (int(when.timestamp()) * 10**9 for when in (start, end))
    query = (
        select(FrameRow)
        .where(
            FrameRow.state.in_((FrameState.FAILED, FrameState.SKIPPED)),
            or_(
                FrameRow.name.contains(start.date().isoformat()),
                FrameRow.name.contains(end.date().isoformat()),
                and_(FrameRow.modified_ns >= first_ns, FrameRow.modified_ns < last_ns),
            ),
        )
        .order_by(FrameRow.name)
    )
    return session.scalars(query).all()


def taken_at(row: FrameRow) -> datetime:
    """Guess when a file that could not be read was taken: its name tells, or else the disk."""
    return told_time(row.name) or datetime.fromtimestamp(row.modified_ns / 1e9, UTC)


@dataclass(frozen=True)
class ArrivalCount:
    """What one night brought of one setup on one chip.

    Attributes
    ----------
    last : datetime
        When the last of them was taken.
    """

    instrument: str
    night: date
    setup: Setup
    frames: int
    last: datetime


def had_between(session: Session, first: date, last: date) -> Iterator[ArrivalCount]:
    """Yield which setups these nights brought, and how many frames of each."""
    setup = [getattr(ExtensionRow, name) for name in Setup.__dataclass_fields__]
    query = (
        select(
            FrameRow.instrument,
            FrameRow.night,
            func.count(func.distinct(FrameRow.id)),
            func.max(FrameRow.observed_at),
            *setup,
        )
        .join(ExtensionRow.frame)
        .where(*of_nights(first, last))
        .group_by(FrameRow.instrument, FrameRow.night, *setup)
    )
    for instrument, night, frames, at, *values in session.execute(query):
        yield ArrivalCount(instrument, night, Setup(*values), frames, at)


def is_catching_up(session: Session, now: datetime, since: datetime, late_s: float) -> bool:
    """Say whether since some time frames were taken in that long before had been taken.

    Frames of more than a week ago do not count: an archive's say nothing of tonight's.
    """
    query = select(FrameRow.processed_at, FrameRow.observed_at).where(
        FrameRow.processed_at >= since,
        FrameRow.processed_at <= now,
        FrameRow.observed_at >= now - timedelta(days=7),
    )
    late = timedelta(seconds=late_s)
    return any(taken and done - taken > late for done, taken in session.execute(query))


def frames_judged(
    session: Session, scope: str, first: date, last: date, least_references: int = 0
) -> int:
    """Return how many frames of an image type or instrument were judged by so many references."""
    newest = select(func.max(VerdictRow.id)).group_by(VerdictRow.extension_id)
    query = (
        select(func.count(func.distinct(ExtensionRow.frame_id)))
        .join(ExtensionRow.frame)
        .join(VerdictRow, VerdictRow.extension_id == ExtensionRow.id)
        .where(
            or_(ExtensionRow.image_type == scope, FrameRow.instrument == scope),
            FrameRow.night >= first,
            FrameRow.night <= last,
            VerdictRow.id.in_(newest),
            VerdictRow.reference_size >= least_references,
        )
    )
    return session.scalar(query) or 0
