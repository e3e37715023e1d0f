"""Fit of limits to nominal extensions at a granted rate of false alarms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qc import core
from qc.detection.thresholds import MetricLimit
from qc.tuning import extreme_values
from qc.tuning import limits as limit_sets

Doubles = NDArray[np.float64]
Booleans = NDArray[np.bool_]

NOMINAL_NEEDED = 30  # extensions; the tail of a smaller sample is unknown
EVIDENCE_KINDS = 3  # merge height, residual, metrics
LEAST_FACTOR = 0.5  # fully correlated evidence needs no shared rate; two thirds is usual
FOLDS = 5  # parts of the sample, each evaluated with limits fitted to the others
TINY_LIMIT = 1e-9  # a limit is above zero
_WARN_FRACTION = 0.6  # of the alarm limit
_EXTENT_FACTOR = 1.2  # times the greatest |z| of the sample


def fit_limits(evidence: Sequence[core.Evidence], false_alarms: float) -> limit_sets.LimitSet:
    """Fit limits to nominal extensions, with a margin for the sample's uncertainty.

    Merge height and residual get a third of the rate each. The metrics share the rate: they are
    many, most of them are quiet, and no limit on them is below the floors.

    Parameters
    ----------
    evidence : sequence of n Evidence
        Of nominal extensions of one image type, each with a large enough reference; n at least 20.
    false_alarms : float
        Rate per extension.

    Returns
    -------
    LimitSet
    """
    table, rate = limit_sets.tabulate(evidence), false_alarms / EVIDENCE_KINDS
    tails = EvidenceTails.from_table(table)
    extents = metric_extents(metric_columns(table), false_alarms)
    limits = limit_sets.LimitSet(
        tails.merge_height.limit(rate),
        tails.residual.limit(rate),
        {name: round_metric_limit(extent) for name, extent in extents.items()},
    )
    return limit_sets.raise_to_floors(limits, limit_sets.FLOORS)


@dataclass(frozen=True)
class EvidenceTails:
    """Fitted tail of each kind of evidence, for any granted rate.

    Attributes
    ----------
    metrics : mapping of name to TailFit or float
        A metric that is equal in most extensions has no tail, but a greatest extent.
    """

    merge_height: extreme_values.TailFit
    residual: extreme_values.TailFit
    metrics: Mapping[str, extreme_values.TailFit | float]

    @classmethod
    def from_table(cls, table: limit_sets.EvidenceTable) -> "EvidenceTails":
        """Fit the tails of a table of nominal evidence."""
        height, residual = (
            extreme_values.fit_tail(table.normalised[table.is_known[:, column], column])
            for column in (0, 1)
        )
        metrics = {
            name: _EXTENT_FACTOR * float(sample.max())
            if np.median(sample) == 0
            else extreme_values.fit_tail(sample)
            for name, sample in metric_columns(table).items()
        }
        return cls(height, residual, metrics)

    def limits(self, false_alarms: float) -> limit_sets.LimitSet:
        """Return limits with the rate shared equally between the kinds of evidence."""
        rate = false_alarms / EVIDENCE_KINDS
        rate_per_metric = rate / max(len(self.metrics), 1)
        alarms = {
            name: tail if isinstance(tail, float) else tail.limit(rate_per_metric)
            for name, tail in self.metrics.items()
        }
        least_z = limit_sets.FLOORS.alarm_z / 2  # a constant metric needs a limit to scale
        return limit_sets.LimitSet(
            max(self.merge_height.limit(rate), TINY_LIMIT),
            max(self.residual.limit(rate), TINY_LIMIT),
            {
                name: MetricLimit(
                    warn=_WARN_FRACTION * max(alarm, least_z), alarm=max(alarm, least_z)
                )
                for name, alarm in alarms.items()
            },
        )


def metric_columns(table: limit_sets.EvidenceTable) -> dict[str, Doubles]:
    """Return |z|, as if against an ample reference, of the metrics that most extensions have."""
    columns = {
        name: table.normalised[table.is_known[:, column], column]
        for column, name in enumerate(table.names, start=2)
    }
    return {name: sample for name, sample in columns.items() if len(sample) > len(table) / 2}


def find_continuing(nominal: Doubles, doubtful: Doubles) -> Booleans:
    """Select the flagged, unlabelled frames that continue the tail of the nominal ones.

    Nominal frames alone, which the present limits let through, can only narrow the limits. All
    flagged frames together would widen them by every undiscovered fault. So the tail is extended
    step by step: up to the expected maximum of the accepted sample, until no frame is added.

    Parameters
    ----------
    nominal, doubtful : (n,), (f,) float arrays
        Ratios to the present limits; n at least `NOMINAL_NEEDED`.

    Returns
    -------
    (f,) bool array
    """
    accepted = np.zeros(len(doubtful), bool)
    while True:
        sample = np.concatenate([nominal, doubtful[accepted]])
        within = doubtful <= extreme_values.fit_tail(sample).limit(1 / len(sample))
        if (within <= accepted).all():
            return accepted
        accepted |= within


@dataclass(frozen=True)
class TuningResult:
    """New limits and their expected performance.

    Attributes
    ----------
    spread : Interval
        Range of common factors on the limits that agree with the sample; 1 for these limits.
    false_alarms : Interval
        Share of nominal extensions that these limits flag.
    """

    limits: limit_sets.LimitSet
    spread: extreme_values.Interval
    false_alarms: extreme_values.Interval


def tune_to_nominal(evidence: Sequence[core.Evidence], false_alarms: float) -> TuningResult:
    """Tune limits to a granted rate of false alarms, from nominal extensions alone.

    Each of the three kinds of evidence gets a third of the rate. Then all limits are scaled
    together until the rate of whole extensions beyond them is the granted one. Each extension is
    evaluated with limits fitted without it.

    Parameters
    ----------
    evidence : sequence of n Evidence
        Of nominal extensions in order of time, n at least `NOMINAL_NEEDED`.
    false_alarms : float
        Rate per extension.

    Returns
    -------
    TuningResult
    """
    return NominalSample(limit_sets.tabulate(evidence)).tune(false_alarms)


@dataclass(frozen=True)
class NominalSample:
    """Evidence of nominal extensions in order of time; the tails are fitted once for all rates."""

    table: limit_sets.EvidenceTable

    def tune(self, false_alarms: float) -> TuningResult:
        """Return limits for a granted rate of false alarms; see `tune_to_nominal`."""
        tail = extreme_values.fit_tail(self.held_out_factors(false_alarms))
        factor = max(tail.limit(false_alarms), LEAST_FACTOR)
        limits = limit_sets.raise_to_floors(
            self.tails.limits(false_alarms).scaled(factor), limit_sets.FLOORS
        )
        spread = relative_interval(tail, false_alarms, factor)
        return TuningResult(limits, spread, tail.rate_interval(factor))

    def held_out_factors(self, false_alarms: float) -> Doubles:
        """Return the ratio of each extension to limits that were fitted without it: (n,).

        Twenty limits fitted to a hundred extensions are closer to these than to the next hundred.
        Held-out ratios remove this bias.
        """
        factors = np.empty(len(self.table))
        for fold, (part, tails_of_others) in enumerate(self.folds):
            factors[fold::FOLDS] = part.ratios(tails_of_others.limits(false_alarms))
        return factors

    @cached_property
    def tails(self) -> EvidenceTails:
        """Tails of the whole sample."""
        return EvidenceTails.from_table(self.table)

    @cached_property
    def folds(self) -> tuple[tuple[limit_sets.EvidenceTable, EvidenceTails], ...]:
        """Extensions of each fold, and the tails of the other folds."""
        fold_of = np.arange(len(self.table)) % FOLDS
        above_floors = self.table.above_floors()
        return tuple(
            (
                above_floors.select(fold_of == fold),
                EvidenceTails.from_table(self.table.select(fold_of != fold)),
            )
            for fold in range(FOLDS)
        )


def relative_interval(
    tail: extreme_values.TailFit, false_alarms: float, factor: float
) -> extreme_values.Interval:
    """Return the interval of a tail's limit, in units of the chosen factor.

    Parameters
    ----------
    tail : TailFit
        Of ratios to limits.
    false_alarms : float
        Rate per extension.
    factor : float
        Factor that was applied to the limits.

    Returns
    -------
    Interval
        Contains 1.
    """
    interval = tail.limit_interval(false_alarms)
    return extreme_values.Interval(
        1.0, min(interval.low / factor, 1.0), max(interval.high / factor, 1.0)
    )


def metric_limits(
    z_scores: Sequence[Mapping[str, float]], false_alarms: float
) -> dict[str, MetricLimit]:
    """Return warn and alarm limits on |z| of every metric that most extensions have.

    The rate is shared between the metrics, because any of them can raise the alarm. Each one is
    therefore extrapolated to one extension in ten thousand.

    Parameters
    ----------
    z_scores : sequence of mapping of metric name to float
        Of nominal extensions, in units of sigma.
    false_alarms : float
        Rate per extension.

    Returns
    -------
    dict of metric name to MetricLimit
    """
    names = sorted({name for scores in z_scores for name in scores})
    samples = {
        name: np.abs([scores[name] for scores in z_scores if name in scores]).astype(np.float64)
        for name in names
    }
    common = {name: sample for name, sample in samples.items() if len(sample) > len(z_scores) / 2}
    extents = metric_extents(common, false_alarms)
    return {name: round_metric_limit(extent) for name, extent in extents.items()}


def metric_extents(samples: Mapping[str, Doubles], false_alarms: float) -> dict[str, float]:
    """Return the greatest nominal |z| of each metric.

    A count that is equal in most frames, such as hot-pixel clusters, has no tail to fit: a fit to
    its few other values ends at a hundred sigma.

    Parameters
    ----------
    samples : mapping of metric name to (n,) float array
        |z| of nominal extensions.
    false_alarms : float
        Rate per extension, shared between the metrics.

    Returns
    -------
    dict of metric name to float
    """
    return {
        name: _EXTENT_FACTOR * float(sample.max())
        if np.median(sample) == 0
        else extreme_values.tail_quantile(sample, false_alarms / len(samples))
        for name, sample in samples.items()
    }


def round_metric_limit(alarm: float) -> MetricLimit:
    """Return the limits of a metric, at least the floor, rounded to 0.1 sigma."""
    alarm = round(max(alarm, limit_sets.FLOORS.alarm_z), 1)
    return MetricLimit(warn=round(_WARN_FRACTION * alarm, 1), alarm=alarm)
