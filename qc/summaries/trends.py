"""Trend of a metric over years, with interventions and changes of limits."""

import datetime as dt
import functools
from collections import abc
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from qc import core, db, detection
from qc._time import noon
from qc.project import ProjectContext

Doubles = NDArray[np.float64]

MOST_POINTS = 3000  # of a plot: about two for each pixel


@dataclass(frozen=True)
class Quantity:
    """Quantity with a trend."""

    name: str
    unit: str
    description: str


_OF_VERDICTS = (
    Quantity("score", "", "Largest evidence in units of its limit."),
    Quantity("merge_height", "cosine distance", "Distance at which it joins its references."),
    Quantity("merge_ratio", "limits", "Merge height over its threshold."),
    Quantity("residual", "sigma", "Strongest pattern outside the variation of nominal frames."),
    Quantity("residual_ratio", "limits", "Residual over its limit on that night."),
)
QUANTITIES: abc.Mapping[str, Quantity] = {quantity.name: quantity for quantity in _OF_VERDICTS} | {
    name: Quantity(name, metric.unit, metric.meaning) for name, metric in detection.METRICS.items()
}


@dataclass(frozen=True)
class TrendEvent:
    """Event that may have changed a trend.

    Attributes
    ----------
    kind : str
        ``intervention`` or ``threshold``.
    words : str
        Description; a field of the REST API.
    """

    night: dt.date
    kind: str
    words: str


@dataclass(frozen=True)
class TrendMonth:
    """Statistics of a trend in one month."""

    month: dt.date
    frames: int
    median: float
    least: float
    greatest: float
    anomalous: int


@dataclass(frozen=True)
class MetricTrend:
    """Trend of a quantity for an image type.

    Attributes
    ----------
    points : tuple of TrendPoint
        Oldest first.
    limit : tuple of (date, float)
        Limits with their first nights; empty without a limit.
    """

    image_type: str
    quantity: Quantity
    points: tuple[db.findings.TrendPoint, ...]
    events: tuple[TrendEvent, ...]
    limit: tuple[tuple[dt.date, float], ...]

    @functools.cached_property
    def months(self) -> list[TrendMonth]:
        """Return the statistics of each month."""
        by_month: dict[dt.date, list[db.findings.TrendPoint]] = {}
        for point in self.points:
            by_month.setdefault(point.night.replace(day=1), []).append(point)
        months = []
        for month, points in by_month.items():
            values = np.array([point.value for point in points])
            anomalous = sum(point.status == core.Status.ANOMALOUS for point in points)
            median, least, greatest = (float(f(values)) for f in (np.median, np.min, np.max))
            months.append(TrendMonth(month, len(points), median, least, greatest, anomalous))
        return months

    @functools.cached_property
    def plotted(self) -> list[db.findings.TrendPoint]:
        """Return the points of the plot, cached with the trend."""
        return self.thinned(MOST_POINTS)

    def thinned(self, most: int) -> list[db.findings.TrendPoint]:
        """Return fewer points with the same envelope: both extremes of each interval.

        Anomalous points stay, newest first, up to a third of `most`.
        """
        if len(self.points) <= most:
            return list(self.points)
        anomalous = [
            i for i, point in enumerate(self.points) if point.status == core.Status.ANOMALOUS
        ]
        extreme = extremes(np.array([point.value for point in self.points]), most // 3)
        selected = {*extreme.tolist(), *anomalous[-(most // 3) :]}
        return [self.points[i] for i in sorted(selected)]


def extremes(values: Doubles, intervals: int) -> NDArray[np.int64]:
    """Return the indices of the least and the greatest value of each interval.

    Parameters
    ----------
    values : (n,) float array
        In order of time.
    intervals : int
        Number of equal parts.

    Returns
    -------
    (k,) int array
        At most twice `intervals`, distinct, ascending.
    """
    indices = [
        part[position]
        for part in np.array_split(np.arange(len(values)), intervals)
        if len(part)
        for position in (values[part].argmin(), values[part].argmax())
    ]
    return np.unique(np.array(indices, np.int64))


def read_trend(
    project: ProjectContext,
    session: Session,
    image_type: str,
    name: str,
    first: dt.date,
    last: dt.date,
) -> MetricTrend:
    """Return the trend of a quantity between two nights.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    session : Session
        Open session.
    image_type : str
        Image type.
    name : str
        A key of `QUANTITIES`.
    first, last : date
        First and last night.

    Returns
    -------
    MetricTrend
    """
    entries = [
        entry
        for entry in project.thresholds.entries[image_type]
        if entry.encoder == project.encoder.fingerprint
    ]
    read = _READERS.get(name, functools.partial(_read_metric, name))
    points = tuple(read(session, image_type, first, last))
    if name == "residual_ratio":
        points = tuple(scale_to_limit(points, entries))
    events = [
        *read_interventions(project, session, image_type),
        *(
            TrendEvent(entry.since, "threshold", f"limits: {entry.why} ({entry.by})")
            for entry in entries
        ),
    ]
    within = [event for event in events if first <= event.night <= last]
    within.sort(key=lambda event: event.night)
    return MetricTrend(
        image_type, QUANTITIES[name], points, tuple(within), limits_of(entries, name)
    )


Reader = abc.Callable[[Session, str, dt.date, dt.date], abc.Iterator[db.findings.TrendPoint]]


def _read_metric(
    name: str, session: Session, image_type: str, first: dt.date, last: dt.date
) -> abc.Iterator[db.findings.TrendPoint]:
    return db.findings.metric_trend(session, image_type, name, first, last)


def _read_evidence(
    name: str, session: Session, image_type: str, first: dt.date, last: dt.date
) -> abc.Iterator[db.findings.TrendPoint]:
    return db.findings.verdict_trend(session, image_type, name, first, last)


def _read_merge_ratio(
    session: Session, image_type: str, first: dt.date, last: dt.date
) -> abc.Iterator[db.findings.TrendPoint]:
    for point in db.findings.verdict_trend(session, image_type, "merge_height", first, last):
        if point.limit:
            yield replace_value(point, point.value / point.limit)


_READERS: abc.Mapping[str, Reader] = {
    "score": functools.partial(_read_evidence, "score"),
    "merge_height": functools.partial(_read_evidence, "merge_height"),
    "merge_ratio": _read_merge_ratio,
    "residual": functools.partial(_read_evidence, "residual"),
    "residual_ratio": functools.partial(_read_evidence, "residual"),
}


def scale_to_limit(
    points: abc.Sequence[db.findings.TrendPoint], entries: abc.Sequence[detection.Threshold]
) -> abc.Iterator[db.findings.TrendPoint]:
    """Yield residuals over the limit of their night; nights before the first entry are left out.

    Parameters
    ----------
    points : sequence of TrendPoint
        Residuals, sigma.
    entries : sequence of Threshold
        Entries of the thresholds file, oldest first.

    Yields
    ------
    TrendPoint
    """
    for point in points:
        valid = [entry for entry in entries if entry.since <= point.night]
        if valid:
            yield replace_value(point, point.value / valid[-1].residual)


def replace_value(point: db.findings.TrendPoint, value: float) -> db.findings.TrendPoint:
    """Return a point with another value; faster than `dataclasses.replace`.

    Parameters
    ----------
    point : TrendPoint
        Point.
    value : float
        New value.

    Returns
    -------
    TrendPoint
    """
    return db.findings.TrendPoint(
        point.at,
        point.frame,
        point.number,
        point.night,
        value,
        point.status,
        point.encoder,
        point.limit,
    )


def limits_of(
    entries: abc.Sequence[detection.Threshold], name: str
) -> tuple[tuple[dt.date, float], ...]:
    """Return the limits of a quantity with their first nights.

    Parameters
    ----------
    entries : sequence of Threshold
        Entries of the thresholds file, oldest first.
    name : str
        A key of `QUANTITIES`.

    Returns
    -------
    tuple of (date, float)
        Empty for a quantity without a limit.
    """
    if name in {"score", "merge_ratio", "residual_ratio"}:
        return ((dt.date.min, 1.0),)
    if name in {"merge_height", "residual"}:
        return tuple((entry.since, float(getattr(entry, name))) for entry in entries)
    return ()


def read_interventions(
    project: ProjectContext, session: Session, image_type: str
) -> abc.Iterator[TrendEvent]:
    """Yield the interventions that concern an image type or its instrument.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    session : Session
        Open session.
    image_type : str
        Image type.

    Yields
    ------
    TrendEvent
    """
    scopes = {image_type} | {
        instrument.name
        for instrument in project.instruments
        if image_type in instrument.image_types()
    }
    for row in db.labels.epochs_between(session, dt.date(1900, 1, 1), dt.date.max):
        if row.scope in scopes:
            yield TrendEvent(row.since, "intervention", f"{row.why} ({row.who})")


def limit_steps(
    limit: abc.Sequence[tuple[dt.date, float]], first: dt.date, last: dt.date
) -> tuple[list[dt.datetime], list[float]]:
    """Return a limit as a step line between two nights.

    Parameters
    ----------
    limit : sequence of (date, float)
        Limits with their first nights.
    first, last : date
        First and last night.

    Returns
    -------
    times : list of datetime
    values : list of float
    """
    times: list[dt.datetime] = []
    values: list[float] = []
    ends = [*(since for since, _ in limit[1:]), last]
    for (since, value), end in zip(limit, ends[: len(limit)], strict=True):
        if end >= first and since <= last:
            times += [noon(max(since, first)), noon(min(end, last)) + dt.timedelta(hours=11)]
            values += [value, value]
    return times, values
