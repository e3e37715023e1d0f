"""Frames to limits: how odd a good frame may look, and how odd the bad ones do. Pure numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from qc.judge import Evidence, widening
from qc.tails import Interval, Tail, fit_tail, tail_quantile
from qc.thresholds import MetricLimit, Threshold

Doubles = NDArray[np.float64]
Booleans = NDArray[np.bool_]

NOMINAL_NEEDED = 30  # fewer say next to nothing of their tail
BAD_NEEDED = 5  # fewer do not make a curve
MOST_FALSE_ALARMS = 0.05  # of the nominal frames: beyond it, limits lie within the noise
_KINDS = 3  # of evidence: merge height, residual, metrics
_LEAST_FACTOR = 0.5  # evidence that always comes together needs no shared rate: two thirds is usual
_PARTS = 5  # of the sample, each held against limits fitted to the others
_LEAST_HEIGHT = 4e-7  # ten times what rounding an embedding to float16 moves a cosine distance
_LEAST_RESIDUAL = 8.0  # however quiet the sample was: a telescope has surprises
_LEAST_ALARM_Z = 6.0  # however quiet a metric was: a simulation has no surprises, a telescope has
_WARN_PART = 0.6
_FURTHEST = 1.2  # times the greatest |z| seen


@dataclass(frozen=True)
class Limits:
    """How far each kind of evidence may go, without the date and the reason of a threshold.

    They hold against an ample reference; the judge widens them for a smaller one.
    """

    merge_height: float
    residual: float
    metrics: Mapping[str, MetricLimit]

    def times(self, factor: float) -> "Limits":
        """Return all of them scaled together."""
        metrics = {name: _scaled(limit, factor) for name, limit in self.metrics.items()}
        return Limits(self.merge_height * factor, self.residual * factor, metrics)


def limits_of(threshold: Threshold) -> Limits:
    """Return a threshold's limits."""
    return Limits(threshold.merge_height, threshold.residual, threshold.metrics)


def ratio(evidence: Evidence, limits: Limits) -> float:
    """Return the strongest evidence in units of its limit: beyond 1 the judge has an anomaly.

    Unlike the score it needs nothing but the evidence, and scales with the limits.
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
class Tabulated:
    """The evidence of n extensions in columns, so that many limits can be tried on all of them.

    Attributes
    ----------
    names : tuple of k str
        Of the metrics.
    values : (n, 2 + k) float array
        Merge height, residual and each |z|; 0 where there is none.
    widenings : (n,) float array
    """

    names: tuple[str, ...]
    values: Doubles
    widenings: Doubles

    def ratios(self, limits: Limits) -> Doubles:
        """Return what `ratio` does of each: (n,)."""
        known = limits.metrics
        alarms = [known[name].alarm if name in known else np.inf for name in self.names]
        each = self.values / np.array([limits.merge_height, limits.residual, *alarms])
        return np.asarray(each.max(axis=1, initial=0.0) / self.widenings, np.float64)


def tabulate(evidence: Sequence[Evidence]) -> Tabulated:
    """Put evidence into columns."""
    names = tuple(sorted({name for one in evidence for name in one.z}))
    rows = [
        [one.merge_height or 0.0, one.residual or 0.0, *(abs(one.z.get(name, 0)) for name in names)]
        for one in evidence
    ]
    widenings = [widening(one.reference_size) for one in evidence]
    values = np.array(rows, np.float64).reshape(len(rows), 2 + len(names))
    return Tabulated(names, values, np.array(widenings, np.float64))


def fit_limits(evidence: Sequence[Evidence], false_alarms: float) -> Limits:
    """Return limits for a granted rate of false alarms, with room for what a sample leaves open.

    Merge height and residual get a third of the rate each, and lie where a further frame is
    expected beyond them that often, whatever tail may have made so few. The metrics share the
    rate: they are many, most of them quiet, and no limit on them is below `LEAST`.

    Parameters
    ----------
    evidence : sequence of n Evidence
        Of nominal frames of one image type, each held against enough references; n at least 20.
    false_alarms : float
        Rate per extension.
    """
    rate = false_alarms / _KINDS
    limits = Limits(
        fit_tail(_heights(evidence)).limit(rate),
        fit_tail(_residuals(evidence)).limit(rate),
        metric_limits(_z_scores(evidence), false_alarms),
    )
    return at_least(limits, LEAST)


def _fit(evidence: Sequence[Evidence], false_alarms: float) -> Limits:
    """Return limits with the rate shared out equally, as these frames have it, however quiet."""
    rate = false_alarms / _KINDS
    far = _reaches(_z_scores(evidence), rate, lambda sample, part: fit_tail(sample).limit(part))
    return Limits(
        max(fit_tail(_heights(evidence)).limit(rate), _TINY),
        max(fit_tail(_residuals(evidence)).limit(rate), _TINY),
        {name: _metric_limit(alarm) for name, alarm in far.items()},
    )


def _z_scores(evidence: Sequence[Evidence]) -> list[dict[str, float]]:
    return [{name: _narrowed(z, one) for name, z in one.z.items()} for one in evidence]


def _heights(evidence: Sequence[Evidence]) -> Doubles:
    return np.array(
        [_narrowed(one.merge_height, one) for one in evidence if one.merge_height is not None]
    )


def _residuals(evidence: Sequence[Evidence]) -> Doubles:
    return np.array([_narrowed(one.residual, one) for one in evidence if one.residual is not None])


_TINY = 1e-9  # a limit is above zero


def _narrowed(value: float, evidence: Evidence) -> float:
    """Return what a piece of evidence would be worth against an ample reference."""
    return value / widening(evidence.reference_size)


@dataclass(frozen=True)
class Least:
    """Below these no limit goes, however quiet a sample was: a telescope has surprises."""

    merge_height: float
    residual: float
    alarm_z: float


LEAST = Least(_LEAST_HEIGHT, _LEAST_RESIDUAL, _LEAST_ALARM_Z)


def least_of(present: Limits) -> Least:
    """Return what no limit goes below where a person has set lower ones: theirs."""
    alarms = [limit.alarm for limit in present.metrics.values()]
    return Least(
        min(LEAST.merge_height, present.merge_height),
        min(LEAST.residual, present.residual),
        min([LEAST.alarm_z, *alarms]),
    )


def at_least(limits: Limits, least: Least) -> Limits:
    """Return limits of which none is lower."""
    metrics = {
        name: _scaled(limit, max(1.0, least.alarm_z / limit.alarm))
        for name, limit in limits.metrics.items()
    }
    height = min(max(limits.merge_height, least.merge_height), _GREATEST_HEIGHT)
    return Limits(height, max(limits.residual, least.residual), metrics)


_GREATEST_HEIGHT = 2.0  # cosine distance of opposite directions


def _beyond_least(evidence: Evidence) -> Evidence:
    """Return the evidence that some limit may hold against a frame."""
    factor = widening(evidence.reference_size)
    height, residual = evidence.merge_height or 0, evidence.residual or 0
    return replace(
        evidence,
        merge_height=height if height > factor * LEAST.merge_height else None,
        residual=residual if residual > factor * LEAST.residual else None,
        z={name: z for name, z in evidence.z.items() if abs(z) > factor * LEAST.alarm_z},
    )


def continuing(nominal: Doubles, doubtful: Doubles) -> Booleans:
    """Say which of the flagged frames that nobody labelled go on where nominal ones leave off.

    The nominal frames known are those that the present limits let through: taken alone, they can
    only make limits narrower. Taken with all that was flagged, every undiscovered fault would make
    them wider. So the tail is followed outwards for as long as it has frames: up to where the
    sample is expected to have its last one, again and again.

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
        within = doubtful <= fit_tail(sample).limit(1 / len(sample))
        if (within <= accepted).all():
            return accepted
        accepted |= within


def held_out_factors(evidence: Sequence[Evidence], false_alarms: float) -> Doubles:
    """Return by how much limits that were fitted to the others must be scaled for each: (n,).

    Limits on twenty numbers, each fitted to the same hundred frames, sit closer to these than to
    the next hundred. A frame that had no part in them does not flatter them.
    """
    factors = np.empty(len(evidence))
    for part in range(_PARTS):
        others = [one for i, one in enumerate(evidence) if i % _PARTS != part]
        limits = _fit(others, false_alarms)
        own = evidence[part::_PARTS]
        factors[part::_PARTS] = [ratio(_beyond_least(one), limits) for one in own]
    return factors


@dataclass(frozen=True)
class Tuned:
    """New limits, and what is to be expected of them.

    Attributes
    ----------
    spread : Interval
        By what factor all of them might as well be scaled; 1 is as they are.
    false_alarms : Interval
        The share of nominal frames that they will flag.
    """

    limits: Limits
    spread: Interval
    false_alarms: Interval


def tune_to_nominal(evidence: Sequence[Evidence], false_alarms: float) -> Tuned:
    """Return limits for a granted rate of false alarms, from nominal frames alone.

    Each of the three kinds of evidence gets a third of the rate. Then all are scaled together
    until whole frames, each held against limits that it had no part in, are expected beyond them
    at the rate.

    Parameters
    ----------
    evidence : sequence of n Evidence
        Of nominal frames in order of time, n at least `NOMINAL_NEEDED`.
    false_alarms : float
        Rate per extension.
    """
    tail = fit_tail(held_out_factors(evidence, false_alarms))
    factor = max(tail.limit(false_alarms), _LEAST_FACTOR)
    limits = at_least(_fit(evidence, false_alarms).times(factor), LEAST)
    return Tuned(limits, _spread(tail, false_alarms, factor), tail.rates(factor))


def _spread(tail: Tail, false_alarms: float, factor: float) -> Interval:
    ends = tail.limits(false_alarms)
    return Interval(1.0, min(ends.low / factor, 1.0), max(ends.high / factor, 1.0))


class Inseparable(ValueError):  # noqa: N818 - says what it is
    """No limit that spares nominal frames finds what was asked for."""


def tune_to_labels(
    present: Limits,
    nominal: Doubles,
    bad: Doubles,
    *,
    false_alarms: float,
    recall: float | None = None,
) -> Tuned:
    """Scale limits together to the best F1, or to the widest that keep a recall.

    Where many do equally well, as where every bad frame is gross, those are taken that come nearest
    to the granted rate of false alarms.

    Parameters
    ----------
    nominal, bad : (n,), (b,) float arrays
        Ratios to the present limits; infinite for what is anomalous whatever they are.
    recall : float, optional
        The part of the bad frames to be found.

    Raises
    ------
    Inseparable
        If that would flag more than one in twenty nominal frames, or finds no bad one.
    """
    factor, tail = _cut(nominal, bad, false_alarms, recall), _finite_tail(nominal)
    limits = at_least(present.times(factor), least_of(present))
    return Tuned(limits, _spread(tail, false_alarms, factor), tail.rates(factor))


def tune_by_hand(present: Limits, nominal: Doubles, factor: float) -> Tuned:
    """Scale limits together by a factor that a person chose, down to where none goes below.

    Parameters
    ----------
    nominal : (n,) float array
        Ratios to the present limits; infinite for what is anomalous whatever they are.
    """
    limits = at_least(present.times(factor), least_of(present))
    return Tuned(limits, Interval(1.0, 1.0, 1.0), _finite_tail(nominal).rates(factor))


def _finite_tail(ratios: Doubles) -> Tail:
    return fit_tail(ratios[np.isfinite(ratios)])


def _cut(nominal: Doubles, bad: Doubles, false_alarms: float, recall: float | None) -> float:
    """Return the factor; see `tune_to_labels`."""
    tail = _finite_tail(nominal)
    lowest = tail.limit(MOST_FALSE_ALARMS)
    usual = max(tail.limit(false_alarms), lowest)
    spans = _spans(nominal, bad, lowest)
    if recall is not None:
        if spans[0].recall < recall:
            raise Inseparable(
                f"a recall of {recall:g} would flag more than {MOST_FALSE_ALARMS:.0%} of the "
                f"nominal frames; where that many are flagged, it is {spans[0].recall:.2f}"
            )
        widest = [span for span in spans if span.recall >= recall][-1]
        return min(widest.nearest(np.inf), max(usual, 1.0))
    best = max(span.f1 for span in spans)
    if best == 0:
        raise Inseparable("the frames labelled bad look no odder than nominal ones")
    cuts = np.array([span.nearest(usual) for span in spans if span.f1 == best])
    return float(cuts[np.abs(np.log(cuts / usual)).argmin()])


def precision_recall(nominal: Doubles, bad: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return the curve over all cuts, from the widest to the narrowest.

    Parameters
    ----------
    nominal, bad : (n,), (b,) float arrays
        Ratios to some limits, infinite for what is anomalous whatever they are; b at least 1.

    Returns
    -------
    cuts, precision, recall : (k,) float arrays
        Ratios beyond a cut are anomalous.
    """
    values = np.unique(np.concatenate([nominal, bad]))[::-1]
    cuts = np.append(values[np.isfinite(values)], 0.0)
    found, false = (
        len(some) - np.searchsorted(np.sort(some), cuts, side="right") for some in (bad, nominal)
    )
    precision = np.where(found + false, found / np.maximum(found + false, 1), 1.0)
    return cuts, precision, found / len(bad)


@dataclass(frozen=True)
class _Span:
    """The cuts between two neighbouring ratios: all of them flag the same frames."""

    low: float
    high: float
    recall: float
    f1: float

    def nearest(self, wanted: float) -> float:
        """Return the cut nearest to the wanted one that keeps off both ends."""
        margin = min(_MARGIN, (self.high / self.low) ** 0.5)
        return float(np.clip(wanted, self.low * margin, self.high / margin))


_MARGIN = 1.02


def _spans(nominal: Doubles, bad: Doubles, lowest: float) -> list[_Span]:
    """Return every different cut from the lowest on, in order."""
    values = np.unique(np.concatenate([nominal, bad]))
    inner = values[np.isfinite(values) & (values > lowest)]
    ends = [lowest, *inner, 10 * max(lowest, inner.max(initial=0))]
    return [_span(nominal, bad, low, high) for low, high in pairwise(ends)]


def _span(nominal: Doubles, bad: Doubles, low: float, high: float) -> _Span:
    found, false = int((bad > low).sum()), int((nominal > low).sum())
    return _Span(low, high, found / len(bad), 2 * found / (found + false + len(bad)))


def expected_of_labels(
    nominal: Doubles,
    bad: Doubles,
    *,
    false_alarms: float,
    recall: float | None = None,
) -> tuple[Interval, Interval]:
    """Return recall and precision of frames that had no part in choosing the limits.

    The choice is made again on samples drawn with replacement, and tried on the frames not drawn.
    Parameters are those of `tune_to_labels`.
    """
    random = np.random.default_rng(0)
    counts = np.zeros(4)  # bad found, bad, nominal flagged, nominal
    for _ in range(_RESAMPLES):
        some_nominal, other_nominal = _drawn(nominal, random)
        some_bad, other_bad = _drawn(bad, random)
        try:
            cut = _cut(some_nominal, some_bad, false_alarms, recall)
        except Inseparable:
            continue
        flagged = (other_bad > cut).sum(), (other_nominal > cut).sum()
        counts += flagged[0], len(other_bad), flagged[1], len(other_nominal)
    found = len(bad) * counts[0] / max(counts[1], 1)
    false = len(nominal) * counts[2] / max(counts[3], 1)
    return share(found, len(bad)), share(found, found + false)


_RESAMPLES = 100


def _drawn(sample: Doubles, random: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Return a sample of the sample, with replacement, and what was not drawn."""
    drawn = random.integers(len(sample), size=len(sample))
    left = np.ones(len(sample), bool)
    left[drawn] = False
    return sample[drawn], sample[left]


def share(part: float, whole: float) -> Interval:
    """Return a share with Jeffreys' interval; of nothing, it may be anything."""
    if whole == 0:
        return Interval(0.0, 0.0, 1.0)
    low, high = (beta.ppf(end, part + 0.5, whole - part + 0.5) for end in (0.025, 0.975))
    value = part / whole
    return Interval(value, min(float(low), value), max(float(high), value))


def metric_limits(
    z_scores: Sequence[Mapping[str, float]], false_alarms: float
) -> dict[str, MetricLimit]:
    """Return warn and alarm limits on |z| of every metric that most nominal frames have.

    The rate granted is shared out over the metrics, as any one of them can raise the alarm. So
    each is extrapolated to one frame in ten thousand.
    """
    return {name: _limit(far) for name, far in _reaches(z_scores, false_alarms).items()}


def _reaches(
    z_scores: Sequence[Mapping[str, float]],
    false_alarms: float,
    limit: Callable[[Doubles, float], float] = tail_quantile,
) -> dict[str, float]:
    """Return how far out a nominal frame may lie in each metric that most have."""
    names = sorted({name for each in z_scores for name in each})
    samples = {
        name: np.abs([each[name] for each in z_scores if name in each]).astype(np.float64)
        for name in names
    }
    known = {name: sample for name, sample in samples.items() if len(sample) > len(z_scores) / 2}
    return {
        name: _furthest_nominal(sample, false_alarms / len(known), limit)
        for name, sample in known.items()
    }


def _furthest_nominal(
    sample: Doubles, rate: float, limit: Callable[[Doubles, float], float]
) -> float:
    """Return how far out a nominal frame may lie.

    A count that is the same in most frames, of hot pixels close together say, has no tail to fit:
    what is fitted to its rare other values ends at a hundred sigma.
    """
    if np.median(sample) == 0:
        return _FURTHEST * float(sample.max())
    return limit(sample, rate)


def _limit(alarm: float) -> MetricLimit:
    alarm = round(max(alarm, _LEAST_ALARM_Z), 1)
    return MetricLimit(warn=round(_WARN_PART * alarm, 1), alarm=alarm)


def _metric_limit(alarm: float) -> MetricLimit:
    alarm = max(alarm, _LEAST_ALARM_Z / 2)  # one that never moved may be scaled, too
    return MetricLimit(warn=_WARN_PART * alarm, alarm=alarm)


def _scaled(limit: MetricLimit, factor: float) -> MetricLimit:
    return MetricLimit(warn=limit.warn * factor, alarm=limit.alarm * factor)
