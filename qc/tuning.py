"""Nominal frames to limits: how odd a good frame may look."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import genpareto

from qc.thresholds import MetricLimit

Doubles = NDArray[np.float64]

_TAIL = 0.1  # the part of the sample that a tail is fitted to
_SMALLEST_TAIL = 10  # excesses; fewer cannot tell an exponential from anything else
_HEAVIEST_SHAPE = 0.5  # a small sample's fit may find worse; then one outlier would set the limit
_LEAST_ALARM_Z = 6.0  # however quiet a metric was: a simulation has no surprises, a telescope has
_WARN_PART = 0.6
_FURTHEST = 1.2  # times the greatest |z| seen


def tail_quantile(sample: Doubles, false_alarms: float) -> float:
    """Return the value that a further nominal frame exceeds at the given rate.

    Peaks over threshold: a generalised Pareto distribution is fitted to the excesses over the
    sample's 90th percentile and extrapolated (Pickands 1975, Ann. Statist. 3, 119).

    Parameters
    ----------
    sample : (n,) float array
        Scores of nominal frames alone; no anomaly is needed.
    false_alarms : float
        Rate per frame, 0 to 1.

    Raises
    ------
    ValueError
        If the sample is too small to have a tail (fewer than 2 values).
    """
    if len(sample) < 2:
        raise ValueError(f"need at least 2 nominal frames to set a limit, got {len(sample)}")
    start = float(np.quantile(sample, 1 - _TAIL))
    excess = sample[sample > start] - start
    exceeding = len(excess) / len(sample)
    if false_alarms >= exceeding:
        return float(np.quantile(sample, 1 - false_alarms))
    shape, scale = _fit_tail(excess)
    return start + float(genpareto.isf(false_alarms / exceeding, shape, scale=scale))


def _fit_tail(excess: Doubles) -> tuple[float, float]:
    """Return shape and scale of the excesses; an exponential where they are few."""
    if len(excess) < _SMALLEST_TAIL:
        return 0.0, float(excess.mean())
    shape, _, scale = genpareto.fit(excess, floc=0)
    if shape > _HEAVIEST_SHAPE:
        return _HEAVIEST_SHAPE, float(excess.mean()) * (1 - _HEAVIEST_SHAPE)
    return max(float(shape), 0.0), float(scale)  # a bounded tail is a small sample's illusion


def metric_limits(
    z_scores: Sequence[Mapping[str, float]], false_alarms: float
) -> dict[str, MetricLimit]:
    """Return warn and alarm limits on |z| of every metric that most nominal frames have.

    The rate granted is shared out over the metrics, as any one of them can raise the alarm. So
    each is extrapolated to one frame in ten thousand.
    """
    names = sorted({name for each in z_scores for name in each})
    samples = {
        name: np.abs([each[name] for each in z_scores if name in each]).astype(np.float64)
        for name in names
    }
    known = {name: sample for name, sample in samples.items() if len(sample) > len(z_scores) / 2}
    return {
        name: _limit(_furthest_nominal(sample, false_alarms / len(known)))
        for name, sample in known.items()
    }


def _furthest_nominal(sample: Doubles, rate: float) -> float:
    """Return how far out a nominal frame may lie.

    A count that is the same in most frames, of hot pixels close together say, has no tail to fit:
    what is fitted to its rare other values ends at a hundred sigma.
    """
    if np.median(sample) == 0:
        return _FURTHEST * float(sample.max())
    return tail_quantile(sample, rate)


def _limit(alarm: float) -> MetricLimit:
    alarm = round(max(alarm, _LEAST_ALARM_Z), 1)
    return MetricLimit(warn=round(_WARN_PART * alarm, 1), alarm=alarm)
