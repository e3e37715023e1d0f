"""Limit sets, their floors, and the evidence of many extensions in columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qc import core
from qc.detection.decision import widening
from qc.detection.thresholds import MetricLimit, Threshold

Doubles = NDArray[np.float64]
Booleans = NDArray[np.bool_]

GREATEST_HEIGHT = 2.0  # cosine distance of opposite directions


@dataclass(frozen=True)
class LimitSet:
    """Limits on each kind of evidence, without the date and reason of a threshold.

    They apply to an ample reference. The decision widens them for a smaller one.
    """

    merge_height: float
    residual: float
    metrics: Mapping[str, MetricLimit]

    def scaled(self, factor: float) -> "LimitSet":
        """Return all limits multiplied by a factor."""
        metrics = {name: scale_metric_limit(limit, factor) for name, limit in self.metrics.items()}
        return LimitSet(self.merge_height * factor, self.residual * factor, metrics)


@dataclass(frozen=True)
class LimitFloors:
    """Smallest limits to set: a telescope varies more than a quiet sample or a simulation."""

    merge_height: float
    residual: float
    alarm_z: float


FLOORS = LimitFloors(
    merge_height=4e-7,  # ten times the change of a cosine distance by rounding to float16
    residual=8.0,
    alarm_z=6.0,
)


def limits_of(threshold: Threshold) -> LimitSet:
    """Return a threshold's limits."""
    return LimitSet(threshold.merge_height, threshold.residual, threshold.metrics)


def floors_for(present: LimitSet) -> LimitFloors:
    """Return the floors, lowered to the present limits where a person set lower ones."""
    alarms = [limit.alarm for limit in present.metrics.values()]
    return LimitFloors(
        min(FLOORS.merge_height, present.merge_height),
        min(FLOORS.residual, present.residual),
        min([FLOORS.alarm_z, *alarms]),
    )


def raise_to_floors(limits: LimitSet, floors: LimitFloors) -> LimitSet:
    """Raise each limit to its floor.

    Parameters
    ----------
    limits : LimitSet
        Limits to raise; the merge height is also bounded by `GREATEST_HEIGHT`.
    floors : LimitFloors
        Smallest values.

    Returns
    -------
    LimitSet
    """
    metrics = {
        name: scale_metric_limit(limit, max(1.0, floors.alarm_z / limit.alarm))
        for name, limit in limits.metrics.items()
    }
    height = min(max(limits.merge_height, floors.merge_height), GREATEST_HEIGHT)
    return LimitSet(height, max(limits.residual, floors.residual), metrics)


def scale_metric_limit(limit: MetricLimit, factor: float) -> MetricLimit:
    """Scale a metric's warn and alarm limit.

    Parameters
    ----------
    limit : MetricLimit
        In units of sigma.
    factor : float

    Returns
    -------
    MetricLimit
    """
    return MetricLimit(warn=limit.warn * factor, alarm=limit.alarm * factor)


def evidence_ratio(evidence: core.Evidence, limits: LimitSet) -> float:
    """Return the strongest evidence in units of its limit; above 1 it is an anomaly.

    Unlike the score it depends on the evidence alone, and scales with the limits.

    Parameters
    ----------
    evidence : Evidence
        Of one extension.
    limits : LimitSet
        For an ample reference; widened for a smaller one.

    Returns
    -------
    float
        0 without evidence.
    """
    ratios = [
        abs(z) / limits.metrics[name].alarm
        for name, z in evidence.z.items()
        if name in limits.metrics
    ]
    if evidence.merge_height is not None:
        ratios.append(evidence.merge_height / limits.merge_height)
    if evidence.residual is not None:
        ratios.append(evidence.residual / limits.residual)
    return max(ratios, default=0.0) / widening(evidence.reference_size)


@dataclass(frozen=True)
class EvidenceTable:
    """Evidence of n extensions in columns, for evaluating many limits.

    Attributes
    ----------
    names : tuple of k str
        Metrics.
    values : (n, 2 + k) float array
        Merge height, residual and |z| of each metric; 0 where there is none.
    is_known : (n, 2 + k) bool array
        Where there is a value.
    widenings : (n,) float array
        Factor on the limits for the size of the reference.
    """

    names: tuple[str, ...]
    values: Doubles
    is_known: Booleans
    widenings: Doubles

    def __len__(self) -> int:
        """Return the number of extensions."""
        return len(self.values)

    @cached_property
    def normalised(self) -> Doubles:
        """Values as if each reference were ample: (n, 2 + k)."""
        return np.asarray(self.values / self.widenings[:, np.newaxis], np.float64)

    def select(self, rows: NDArray[np.intp] | Booleans) -> "EvidenceTable":
        """Return the rows with the given indices, or of a mask."""
        values, is_known = self.values[rows], self.is_known[rows]
        return EvidenceTable(self.names, values, is_known, self.widenings[rows])

    def above_floors(self) -> "EvidenceTable":
        """Return the table with evidence below the floors set to 0."""
        floors = [FLOORS.merge_height, FLOORS.residual, *(FLOORS.alarm_z for _ in self.names)]
        is_above = self.values > self.widenings[:, np.newaxis] * np.array(floors)
        return EvidenceTable(
            self.names, np.where(is_above, self.values, 0.0), self.is_known, self.widenings
        )

    def ratios(self, limits: LimitSet) -> Doubles:
        """Return `evidence_ratio` of each extension: (n,)."""
        metrics = limits.metrics
        alarms = [metrics[name].alarm if name in metrics else np.inf for name in self.names]
        ratios = self.values / np.array([limits.merge_height, limits.residual, *alarms])
        return np.asarray(ratios.max(axis=1, initial=0.0) / self.widenings, np.float64)


def tabulate(evidence: Sequence[core.Evidence]) -> EvidenceTable:
    """Return evidence as a table."""
    names = tuple(sorted({name for entry in evidence for name in entry.z}))
    rows = [[entry.merge_height, entry.residual, *map(entry.z.get, names)] for entry in evidence]
    values = np.array(rows, np.float64).reshape(len(rows), 2 + len(names))  # NaN for None
    factors = {n: widening(n) for n in {entry.reference_size for entry in evidence}}
    return EvidenceTable(
        names,
        np.abs(np.nan_to_num(values)),
        ~np.isnan(values),
        np.array([factors[entry.reference_size] for entry in evidence], np.float64),
    )
