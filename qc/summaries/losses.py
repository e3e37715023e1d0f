"""Losses of a period: missing calibrations, incomplete template sets and failed files."""

import datetime as dt
from collections import abc, defaultdict
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import core, db, io
from qc.db.schema import models
from qc.monitoring.missing import MissingReason
from qc.summaries import night_range

ROWS_PER_FETCH = 2000
_COMPLETENESS_JOB = "absence"  # name in the database


@dataclass(frozen=True)
class IncompleteSet:
    """Template set that ended early.

    Attributes
    ----------
    frames, size : int
        Number of frames that arrived, and that the template takes.
    missing : tuple of int
        Numbers of the missing frames, from 1.
    """

    template: str
    image_types: tuple[str, ...]
    frames: int
    size: int
    missing: tuple[int, ...]


def read_incomplete_sets(
    session: Session, span: night_range.NightRange
) -> tuple[IncompleteSet, ...]:
    """Return the template sets that ended early, oldest first.

    Parameters
    ----------
    session : Session
        Open session.
    span : NightRange
        Nights.

    Returns
    -------
    tuple of IncompleteSet
    """
    row = models.FrameRow
    query = (
        sa.select(row.instrument, row.template, row.template_number, row.template_size)
        .add_columns(models.ExtensionRow.image_type)
        .join(models.ExtensionRow.frame)
        .where(row.night >= span.first, row.night <= span.last, row.template != "")
        .order_by(row.observed_at, row.id)
    )
    sets: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for entry in session.execute(query.execution_options(yield_per=ROWS_PER_FETCH)):
        sets[entry.instrument, entry.template].append(entry)
    incomplete = []
    for (_, template), entries in sets.items():
        size = max(entry.template_size or 0 for entry in entries)
        numbers = {entry.template_number for entry in entries}
        types = tuple(sorted({entry.image_type for entry in entries}))
        lost = tuple(n for n in range(1, size + 1) if n not in numbers)
        if len(numbers) < size:
            incomplete.append(IncompleteSet(template, types, len(numbers), size, lost))
    return tuple(incomplete)


def read_missing(session: Session, span: night_range.NightRange) -> tuple[str, ...]:
    """Return the messages about missing calibrations, without incomplete sets.

    Parameters
    ----------
    session : Session
        Open session.
    span : NightRange
        Nights.

    Returns
    -------
    tuple of str
    """
    row = models.AlertRow
    query = (
        sa.select(row)
        .where(
            row.topic == core.Topic.ABSENCE,
            row.night >= span.first,
            row.night <= span.last,
            ~row.key.contains(MissingReason.SET_STOPPED),
        )
        .order_by(row.night, row.id)
    )
    return tuple(alert.words for alert in session.scalars(query))


def was_completeness_checked(session: Session, span: night_range.NightRange) -> bool:
    """Return True if the completeness check ran in a period.

    Parameters
    ----------
    session : Session
        Open session.
    span : NightRange
        Nights.

    Returns
    -------
    bool
    """
    row = models.JobRunRow
    query = sa.select(row.id).where(
        row.job == _COMPLETENESS_JOB,
        row.started_at >= span.begins,
        row.started_at < night_range.midnight(span.last) + dt.timedelta(days=2),
    )
    return session.scalar(query.limit(1)) is not None


def read_failed(
    session: Session,
    span: night_range.NightRange,
    instruments: abc.Sequence[io.Instrument],
    in_use: abc.Iterable[str],
) -> tuple[models.FrameRow, ...]:
    """Return the files that could not be judged, by their estimated time of observation.

    Parameters
    ----------
    session : Session
        Open session.
    span : NightRange
        Nights.
    instruments : sequence of Instrument
        Instrument definitions.
    in_use : iterable of str
        Names of the instruments that define the begin of a night; empty for all.

    Returns
    -------
    tuple of FrameRow
    """
    names = set(in_use)
    used = [instrument for instrument in instruments if instrument.name in names] or instruments
    hours = dt.timedelta(hours=min(instrument.night_starts_utc_hour for instrument in used))
    start, end = span.begins + hours, night_range.midnight(span.last) + hours + dt.timedelta(days=1)
    rows = db.statistics.failed_files(session)
    return tuple(row for row in rows if start <= db.statistics.estimate_observed_at(row) < end)
