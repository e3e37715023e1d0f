"""One number of an image type over the years, and what was done to the instrument meanwhile."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from qc import db
from qc._time import noon
from qc.core.verdict import Status
from qc.db.findings import TrendPoint
from qc.detection.metrics import METRICS
from qc.detection.thresholds import Threshold
from qc.project import Project

Doubles = NDArray[np.float64]

MOST_POINTS = 3000  # on a plot: about two to a pixel


@dataclass(frozen=True)
class Quantity:
    """What can be drawn over time."""

    name: str
    unit: str
    words: str


_OF_VERDICTS = (
    Quantity("score", "", "How odd the frame is: 1 is the limit."),
    Quantity("merge_height", "cosine distance", "Where it joins its references."),
    Quantity("merge_ratio", "limits", "Merge height over the threshold it was held against."),
    Quantity("residual", "sigma", "The strongest pattern that nominal variation cannot explain."),
    Quantity("residual_ratio", "limits", "Residual over the limit of its night."),
)
QUANTITIES: Mapping[str, Quantity] = {one.name: one for one in _OF_VERDICTS} | {
    name: Quantity(name, metric.unit, metric.meaning) for name, metric in METRICS.items()
}


@dataclass(frozen=True)
class TrendEvent:
    """Something that may have changed a trend.

    Attributes
    ----------
    kind : str
        ``intervention`` or ``threshold``.
    """

    night: date
    kind: str
    words: str


@dataclass(frozen=True)
class TrendMonth:
    """A month of a trend in numbers."""

    month: date
    frames: int
    median: float
    least: float
    greatest: float
    anomalous: int


@dataclass(frozen=True)
class MetricTrend:
    """A quantity of an image type over time.

    Attributes
    ----------
    points : tuple of Seen
        All of them, oldest first.
    limit : tuple of (date, float)
        From each of these nights on, the limit of the quantity, where it has one.
    """

    image_type: str
    quantity: Quantity
    points: tuple[TrendPoint, ...]
    events: tuple[TrendEvent, ...]
    limit: tuple[tuple[date, float], ...]

    @cached_property
    def months(self) -> list[TrendMonth]:
        """Return it month by month."""
        by_month: dict[date, list[TrendPoint]] = {}
        for one in self.points:
            by_month.setdefault(one.night.replace(day=1), []).append(one)
        return [_month(month, some) for month, some in by_month.items()]

    @cached_property
    def shown(self) -> list[TrendPoint]:
        """Return the points that are drawn, found once for as long as the trend is kept."""
        return self.thinned(MOST_POINTS)

    def thinned(self, most: int) -> list[TrendPoint]:
        """Return so few points that look like all: of each stretch of time both extremes.

        Anomalous ones stay, the newest first, up to a third.
        """
        if len(self.points) <= most:
            return list(self.points)
        odd = [i for i, one in enumerate(self.points) if one.status == Status.ANOMALOUS]
        kept = extremes(np.array([one.value for one in self.points]), most // 3)
        return [self.points[i] for i in sorted({*kept.tolist(), *odd[-(most // 3) :]})]


def _month(month: date, some: Sequence[TrendPoint]) -> TrendMonth:
    values = np.array([one.value for one in some])
    odd = sum(one.status == Status.ANOMALOUS for one in some)
    median, least, greatest = (float(f(values)) for f in (np.median, np.min, np.max))
    return TrendMonth(month, len(some), median, least, greatest, odd)


def extremes(values: Doubles, stretches: int) -> NDArray[np.int64]:
    """Return the indices of the least and the greatest value of each stretch.

    Parameters
    ----------
    values : (n,) float array
        In order of time.
    stretches : int
        Into so many equal parts the n are cut.

    Returns
    -------
    (k,) int array
        At most twice `stretches`, each once, in order.
    """
    found = [
        part[where]
        for part in np.array_split(np.arange(len(values)), stretches)
        if len(part)
        for where in (values[part].argmin(), values[part].argmax())
    ]
    return np.unique(np.array(found, np.int64))


def read_trend(
    project: Project, session: Session, image_type: str, name: str, first: date, last: date
) -> MetricTrend:
    """Return a quantity of a type between two nights.

    Parameters
    ----------
    name : str
        One of `QUANTITIES`.
    """
    entries = [
        entry
        for entry in project.thresholds.entries[image_type]
        if entry.encoder == project.encoder.fingerprint
    ]
    points = tuple(_POINTS.get(name, partial(_metric, name))(session, image_type, first, last))
    if name == "residual_ratio":
        points = tuple(_over_limit(points, entries))
    events = (*_interventions(project, session, image_type), *_changes(entries))
    shown = sorted((one for one in events if first <= one.night <= last), key=lambda one: one.night)
    return MetricTrend(image_type, QUANTITIES[name], points, tuple(shown), _limits(entries, name))


Reader = Callable[[Session, str, date, date], Iterator[TrendPoint]]


def _metric(
    name: str, session: Session, image_type: str, first: date, last: date
) -> Iterator[TrendPoint]:
    return db.findings.metric_seen(session, image_type, name, first, last)


def _of_verdict(
    name: str, session: Session, image_type: str, first: date, last: date
) -> Iterator[TrendPoint]:
    return db.findings.verdict_seen(session, image_type, name, first, last)


def _merge_ratio(
    session: Session, image_type: str, first: date, last: date
) -> Iterator[TrendPoint]:
    for one in db.findings.verdict_seen(session, image_type, "merge_height", first, last):
        if one.limit:
            yield _with(one, one.value / one.limit)


_POINTS: Mapping[str, Reader] = {
    "score": partial(_of_verdict, "score"),
    "merge_height": partial(_of_verdict, "merge_height"),
    "merge_ratio": _merge_ratio,
    "residual": partial(_of_verdict, "residual"),
    "residual_ratio": partial(_of_verdict, "residual"),
}


def _over_limit(points: Sequence[TrendPoint], entries: Sequence[Threshold]) -> Iterator[TrendPoint]:
    """Yield each residual over the limit that held in its night; none before the first."""
    for one in points:
        valid = [entry for entry in entries if entry.since <= one.night]
        if valid:
            yield _with(one, one.value / valid[-1].residual)


def _with(one: TrendPoint, value: float) -> TrendPoint:
    return TrendPoint(
        one.at, one.frame, one.number, one.night, value, one.status, one.encoder, one.limit
    )


def _limits(entries: Sequence[Threshold], name: str) -> tuple[tuple[date, float], ...]:
    if name in {"score", "merge_ratio", "residual_ratio"}:
        return ((date.min, 1.0),)
    if name in {"merge_height", "residual"}:
        return tuple((entry.since, float(getattr(entry, name))) for entry in entries)
    return ()


def _interventions(project: Project, session: Session, image_type: str) -> Iterator[TrendEvent]:
    scopes = {image_type} | {
        one.name for one in project.instruments if image_type in one.image_types()
    }
    for row in db.epochs.epochs_between(session, date(1900, 1, 1), date.max):
        if row.scope in scopes:
            yield TrendEvent(row.since, "intervention", f"{row.why} ({row.who})")


def _changes(entries: Sequence[Threshold]) -> Iterator[TrendEvent]:
    for entry in entries:
        yield TrendEvent(entry.since, "threshold", f"limits: {entry.why} ({entry.by})")


def steps(
    limit: Sequence[tuple[date, float]], first: date, last: date
) -> tuple[list[datetime], list[float]]:
    """Return a limit as a line of steps between two nights."""
    times: list[datetime] = []
    values: list[float] = []
    ends = [*(since for since, _ in limit[1:]), last]
    for (since, value), end in zip(limit, ends[: len(limit)], strict=True):
        if end >= first and since <= last:
            times += [noon(max(since, first)), noon(min(end, last)) + timedelta(hours=11)]
            values += [value, value]
    return times, values
