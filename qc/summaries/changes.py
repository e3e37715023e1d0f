"""Changes in a period: thresholds, interventions and trained classifiers."""

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import detection
from qc.db.schema import models
from qc.labels import epochs
from qc.summaries import night_range


@dataclass(frozen=True)
class LimitChange:
    """Entry of thresholds.yaml that became valid.

    Attributes
    ----------
    image_types : tuple of str
        Types that share the entry.
    old : Threshold or None
        Previous entry of the same encoder.
    """

    image_types: tuple[str, ...]
    old: detection.Threshold | None
    new: detection.Threshold

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Return the differences: name, old value, new value."""
        before = format_limits(self.old) if self.old else {}
        after = format_limits(self.new)
        names = [name for name in (before | after) if before.get(name) != after.get(name)]
        return [(name, before.get(name, "none"), after.get(name, "none")) for name in names]


@dataclass(frozen=True)
class TrainingSummary:
    """Trained classifier.

    Attributes
    ----------
    author : str
        Name of the person.
    reason : str
        Reason for its acceptance or refusal.
    labelled : int or None
        Number of labelled examples.
    macro_f1 : float or None
        Mean F1 over the kinds of fault; None without an evaluation.
    """

    trained_at: dt.datetime
    author: str
    accepted: bool
    reason: str
    labelled: int | None
    macro_f1: float | None


def find_limit_changes(
    thresholds: detection.Thresholds, span: night_range.NightRange
) -> tuple[LimitChange, ...]:
    """Return the entries of thresholds.yaml that became valid in a period.

    Parameters
    ----------
    thresholds : Thresholds
        Thresholds file.
    span : NightRange
        Nights.

    Returns
    -------
    tuple of LimitChange
        Image types that share an entry are one change.
    """
    names: dict[int, list[str]] = defaultdict(list)
    for name, entries in thresholds.entries.items():
        names[id(entries)].append(name)  # types that share a key of the file share the tuple
    shared = {id(entries): entries for entries in thresholds.entries.values()}
    changes = []
    for key, entries in shared.items():
        for position, entry in enumerate(entries):
            if span.first <= entry.since <= span.last:
                earlier = [old for old in entries[:position] if old.encoder == entry.encoder]
                old = earlier[-1] if earlier else None
                changes.append(LimitChange(tuple(names[key]), old, entry))
    return tuple(sorted(changes, key=lambda change: (change.new.since, change.image_types)))


def format_limits(entry: detection.Threshold) -> dict[str, str]:
    """Return the limits of an entry as text, by name."""
    metrics = {
        name.replace("_", " "): f"{limit.warn:g} / {limit.alarm:g} sigma"
        for name, limit in entry.metrics.items()
    }
    return {
        "merge height": f"{entry.merge_height:.3g}",
        "residual": f"{entry.residual:.3g} sigma",
        "false alarms": f"{entry.false_alarms:g}",
        **metrics,
    }


def read_interventions(
    session: Session, span: night_range.NightRange
) -> tuple[epochs.EpochEntry, ...]:
    """Return the interventions that began or were entered in a period, undone or not.

    Parameters
    ----------
    session : Session
        Open session.
    span : NightRange
        Nights.

    Returns
    -------
    tuple of EpochEntry
    """
    return tuple(
        entry
        for entry in epochs.read_log(session)
        if span.first <= entry.epoch.since <= span.last
        or span.first <= entry.epoch.at.date() <= span.last
    )


def read_trainings(session: Session, span: night_range.NightRange) -> tuple[TrainingSummary, ...]:
    """Return the classifiers trained in a period.

    Parameters
    ----------
    session : Session
        Open session.
    span : NightRange
        Nights.

    Returns
    -------
    tuple of TrainingSummary
    """
    row = models.ClassifierRow  # columns instead of rows: the content has megabytes
    query = (
        sa.select(row.trained_at, row.who, row.accepted, row.why, row.figures)
        .where(
            row.trained_at >= span.begins,
            row.trained_at < night_range.midnight(span.last) + dt.timedelta(days=2),
        )
        .order_by(row.id)
    )
    return tuple(
        TrainingSummary(
            trained_at=entry.trained_at,
            author=entry.who,
            accepted=entry.accepted,
            reason=entry.why,
            labelled=entry.figures.get("labelled"),
            macro_f1=((entry.figures.get("new") or {}).get("macro_f1") or {}).get("value"),
        )
        for entry in session.execute(query)
    )
