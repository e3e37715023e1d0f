"""Frames to limits: how odd a good frame may look, and how odd the bad ones do. Pure numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from qc.core.verdict import Evidence
from qc.detection.decision import widening
from qc.detection.thresholds import MetricLimit, Threshold
from qc.tuning.extreme_values import Interval, TailFit, fit_tail, tail_quantile

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
class LimitSet:
    """How far each kind of evidence may go, without the date and the reason of a threshold.

    They hold against an ample reference; the judge widens them for a smaller one.
    """

    merge_height: float
    residual: float
    metrics: Mapping[str, MetricLimit]

    def times(self, factor: float) -> "LimitSet":
        """Return all of them scaled together."""
        metrics = {name: _scaled(limit, factor) for name, limit in self.metrics.items()}
        return LimitSet(self.merge_height * factor, self.residual * factor, metrics)


def limits_of(threshold: Threshold) -> LimitSet:
    """Return a threshold's limits."""
    return LimitSet(threshold.merge_height, threshold.residual, threshold.metrics)


def ratio(evidence: Evidence, limits: LimitSet) -> float:
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
class EvidenceTable:
    """The evidence of n extensions in columns, so that many limits can be tried on all of them.

    Attributes
    ----------
    names : tuple of k str
        Of the metrics.
    values : (n, 2 + k) float array
        Merge height, residual and each |z|; 0 where there is none.
    known : (n, 2 + k) bool array
        Where there is one.
    widenings : (n,) float array
    """

    names: tuple[str, ...]
    values: Doubles
    known: Booleans
    widenings: Doubles

    def __len__(self) -> int:
        """Return of how many extensions."""
        return len(self.values)

    @cached_property
    def narrowed(self) -> Doubles:
        """Return what each value would be worth against an ample reference: (n, 2 + k)."""
        return np.asarray(self.values / self.widenings[:, np.newaxis], np.float64)

    def at(self, places: NDArray[np.intp] | Booleans) -> "EvidenceTable":
        """Return those at some places, or those that a mask marks."""
        values, known = self.values[places], self.known[places]
        return EvidenceTable(self.names, values, known, self.widenings[places])

    def beyond_least(self) -> "EvidenceTable":
        """Return the evidence that some limit may hold against a frame, and nothing else."""
        ends = [LEAST.merge_height, LEAST.residual, *(LEAST.alarm_z for _ in self.names)]
        is_beyond = self.values > self.widenings[:, np.newaxis] * np.array(ends)
        return EvidenceTable(
            self.names, np.where(is_beyond, self.values, 0.0), self.known, self.widenings
        )

    def ratios(self, limits: LimitSet) -> Doubles:
        """Return what `ratio` does of each: (n,)."""
        known = limits.metrics
        alarms = [known[name].alarm if name in known else np.inf for name in self.names]
        each = self.values / np.array([limits.merge_height, limits.residual, *alarms])
        return np.asarray(each.max(axis=1, initial=0.0) / self.widenings, np.float64)


def tabulate(evidence: Sequence[Evidence]) -> EvidenceTable:
    """Put evidence into columns."""
    names = tuple(sorted({name for one in evidence for name in one.z}))
    rows = [[one.merge_height, one.residual, *map(one.z.get, names)] for one in evidence]
    found = np.array(rows, np.float64).reshape(len(rows), 2 + len(names))  # NaN for None
    factors = {n: widening(n) for n in {one.reference_size for one in evidence}}
    return EvidenceTable(
        names,
        np.abs(np.nan_to_num(found)),
        ~np.isnan(found),
        np.array([factors[one.reference_size] for one in evidence], np.float64),
    )


def fit_limits(evidence: Sequence[Evidence], false_alarms: float) -> LimitSet:
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
    table, rate = tabulate(evidence), false_alarms / _KINDS
    tails = _TailFits.of(table)
    columns = _metric_columns(table)
    limits = LimitSet(
        tails.merge_height.limit(rate),
        tails.residual.limit(rate),
        {name: _limit(far) for name, far in _reaches(columns, false_alarms).items()},
    )
    return at_least(limits, LEAST)


@dataclass(frozen=True)
class _TailFits:
    """What nominal frames say of each kind of evidence, whatever rate is granted.

    Attributes
    ----------
    metrics : mapping of name to Tail or float
        A metric that is the same in most frames has no tail, but how far out it may lie.
    """

    merge_height: TailFit
    residual: TailFit
    metrics: Mapping[str, TailFit | float]

    @classmethod
    def of(cls, table: EvidenceTable) -> "_TailFits":
        height, residual = (
            fit_tail(table.narrowed[table.known[:, place], place]) for place in (0, 1)
        )
        columns = _metric_columns(table).items()
        metrics = {
            name: _FURTHEST * float(column.max()) if np.median(column) == 0 else fit_tail(column)
            for name, column in columns
        }
        return cls(height, residual, metrics)

    def limits(self, false_alarms: float) -> LimitSet:
        """Return limits with the rate shared out equally, as these frames have it."""
        rate = false_alarms / _KINDS
        share_of_each = rate / max(len(self.metrics), 1)
        return LimitSet(
            max(self.merge_height.limit(rate), _TINY),
            max(self.residual.limit(rate), _TINY),
            {
                name: _metric_limit(tail if isinstance(tail, float) else tail.limit(share_of_each))
                for name, tail in self.metrics.items()
            },
        )


def _metric_columns(table: EvidenceTable) -> dict[str, Doubles]:
    """Return the |z|, as if against an ample reference, of each metric that most frames have."""
    columns = {
        name: table.narrowed[table.known[:, place], place]
        for place, name in enumerate(table.names, start=2)
    }
    return {name: column for name, column in columns.items() if len(column) > len(table) / 2}


_TINY = 1e-9  # a limit is above zero


@dataclass(frozen=True)
class LimitFloors:
    """Below these no limit goes, however quiet a sample was: a telescope has surprises."""

    merge_height: float
    residual: float
    alarm_z: float


LEAST = LimitFloors(_LEAST_HEIGHT, _LEAST_RESIDUAL, _LEAST_ALARM_Z)


def least_of(present: LimitSet) -> LimitFloors:
    """Return what no limit goes below where a person has set lower ones: theirs."""
    alarms = [limit.alarm for limit in present.metrics.values()]
    return LimitFloors(
        min(LEAST.merge_height, present.merge_height),
        min(LEAST.residual, present.residual),
        min([LEAST.alarm_z, *alarms]),
    )


def at_least(limits: LimitSet, least: LimitFloors) -> LimitSet:
    """Return limits of which none is lower."""
    metrics = {
        name: _scaled(limit, max(1.0, least.alarm_z / limit.alarm))
        for name, limit in limits.metrics.items()
    }
    height = min(max(limits.merge_height, least.merge_height), _GREATEST_HEIGHT)
    return LimitSet(height, max(limits.residual, least.residual), metrics)


_GREATEST_HEIGHT = 2.0  # cosine distance of opposite directions


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


@dataclass(frozen=True)
class TuningResult:
    """New limits, and what is to be expected of them.

    Attributes
    ----------
    spread : Interval
        By what factor all of them might as well be scaled; 1 is as they are.
    false_alarms : Interval
        The share of nominal frames that they will flag.
    """

    limits: LimitSet
    spread: Interval
    false_alarms: Interval


def tune_to_nominal(evidence: Sequence[Evidence], false_alarms: float) -> TuningResult:
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
    return NominalSample(tabulate(evidence)).tuned_to(false_alarms)


@dataclass(frozen=True)
class NominalSample:
    """The evidence of nominal frames in order of time; their tails are fitted once for all rates.

    See `tune_to_nominal`.
    """

    table: EvidenceTable

    def tuned_to(self, false_alarms: float) -> TuningResult:
        """Return limits for a granted rate of false alarms."""
        tail = fit_tail(self._held_out_factors(false_alarms))
        factor = max(tail.limit(false_alarms), _LEAST_FACTOR)
        limits = at_least(self._tails.limits(false_alarms).times(factor), LEAST)
        return TuningResult(limits, _spread(tail, false_alarms, factor), tail.rates(factor))

    def _held_out_factors(self, false_alarms: float) -> Doubles:
        """Return by how much limits that were fitted to the others must be scaled for each: (n,).

        Limits on twenty numbers, each fitted to the same hundred frames, sit closer to these than
        to the next hundred. A frame that had no part in them does not flatter them.
        """
        factors = np.empty(len(self.table))
        for part, (own, tails_of_others) in enumerate(self._parts):
            factors[part::_PARTS] = own.ratios(tails_of_others.limits(false_alarms))
        return factors

    @cached_property
    def _tails(self) -> _TailFits:
        return _TailFits.of(self.table)

    @cached_property
    def _parts(self) -> tuple[tuple[EvidenceTable, _TailFits], ...]:
        """Return the frames of each part, and the tails of the others."""
        place = np.arange(len(self.table)) % _PARTS
        telling = self.table.beyond_least()
        return tuple(
            (telling.at(place == part), _TailFits.of(self.table.at(place != part)))
            for part in range(_PARTS)
        )


def _spread(tail: TailFit, false_alarms: float, factor: float) -> Interval:
    ends = tail.limits(false_alarms)
    return Interval(1.0, min(ends.low / factor, 1.0), max(ends.high / factor, 1.0))


class InseparableError(ValueError):
    """No limit that spares nominal frames finds what was asked for."""


def tune_to_labels(
    present: LimitSet,
    nominal: Doubles,
    bad: Doubles,
    *,
    false_alarms: float,
    recall: float | None = None,
) -> TuningResult:
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
    return TuningResult(limits, _spread(tail, false_alarms, factor), tail.rates(factor))


def tune_by_hand(present: LimitSet, nominal: Doubles, factor: float) -> TuningResult:
    """Scale limits together by a factor that a person chose, down to where none goes below.

    Parameters
    ----------
    nominal : (n,) float array
        Ratios to the present limits; infinite for what is anomalous whatever they are.
    """
    limits = at_least(present.times(factor), least_of(present))
    return TuningResult(limits, Interval(1.0, 1.0, 1.0), _finite_tail(nominal).rates(factor))


def _finite_tail(ratios: Doubles) -> TailFit:
    return fit_tail(ratios[np.isfinite(ratios)])


def _cut(nominal: Doubles, bad: Doubles, false_alarms: float, recall: float | None) -> float:
    """Return the factor; see `tune_to_labels`."""
    tail = _finite_tail(nominal)
    lowest = tail.limit(MOST_FALSE_ALARMS)
    spans = _CutIntervals.of(nominal, bad, lowest)
    if recall is not None:
        if spans.recall[0] < recall:
            raise InseparableError(
                f"a recall of {recall:g} would flag more than {MOST_FALSE_ALARMS:.0%} of the "
                f"nominal frames; where that many are flagged, it is {spans.recall[0]:.2f}"
            )
        widest = int(np.flatnonzero(spans.recall >= recall)[-1])
        cut = float(spans.nearest(np.inf)[widest])
        return cut if cut <= 1 else min(cut, max(tail.limit(false_alarms), lowest, 1.0))
    best = spans.f1.max()
    if best == 0:
        raise InseparableError("the frames labelled bad look no odder than nominal ones")
    usual = max(tail.limit(false_alarms), lowest)
    cuts = spans.nearest(usual)[spans.f1 == best]
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
class _CutIntervals:
    """The cuts between neighbouring ratios: all of one span flag the same frames.

    Attributes
    ----------
    low, high, recall, f1 : (k,) float arrays
        In order, the narrowest cut first.
    """

    low: Doubles
    high: Doubles
    recall: Doubles
    f1: Doubles

    @classmethod
    def of(cls, nominal: Doubles, bad: Doubles, lowest: float) -> "_CutIntervals":
        """Return every different cut from the lowest on; what lies below is never looked at."""
        beyond = [np.sort(some[some > lowest]) for some in (bad, nominal)]
        values = np.unique(np.concatenate(beyond))
        inner = values[np.isfinite(values)]
        ends = np.concatenate([[lowest], inner, [10 * max(lowest, inner.max(initial=0))]])
        low, high = ends[:-1], ends[1:]
        found, false = (len(some) - np.searchsorted(some, low, side="right") for some in beyond)
        return cls(low, high, found / len(bad), 2 * found / (found + false + len(bad)))

    def nearest(self, wanted: float) -> Doubles:
        """Return the cut of each that is nearest to the wanted one and keeps off both ends."""
        margin = np.minimum(_MARGIN, (self.high / self.low) ** 0.5)
        return np.asarray(np.clip(wanted, self.low * margin, self.high / margin), np.float64)


_MARGIN = 1.02


def expected_of_labels(
    nominal: Doubles,
    bad: Doubles,
    *,
    false_alarms: float,
    recall: float | None = None,
) -> tuple[Interval, Interval]:
    """Return recall and precision of frames that had no part in choosing the limits.

    The choice is made again on samples drawn with replacement, and tried on the frames not drawn
    (the bootstrap's out-of-bag estimate). The same frames give the same answer, whatever their
    order: they are sorted once, and how often each is drawn then gives a sample that is in order
    itself. To sort each of a hundred samples would be most of the time. Parameters are those of
    `tune_to_labels`.
    """
    random = np.random.default_rng(0)
    nominal, bad = np.sort(nominal), np.sort(bad)
    counts = np.zeros(4)  # bad found, bad, nominal flagged, nominal
    for _ in range(_RESAMPLES):
        some_nominal, other_nominal = _drawn(nominal, random)
        some_bad, other_bad = _drawn(bad, random)
        try:
            cut = _cut(some_nominal, some_bad, false_alarms, recall)
        except InseparableError:
            continue
        flagged = (other_bad > cut).sum(), (other_nominal > cut).sum()
        counts += flagged[0], len(other_bad), flagged[1], len(other_nominal)
    found = len(bad) * counts[0] / max(counts[1], 1)
    false = len(nominal) * counts[2] / max(counts[3], 1)
    return share(found, len(bad)), share(found, found + false)


_RESAMPLES = 100


def _drawn(ordered: Doubles, random: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Return a sample of a sample, with replacement, and what was not drawn; all in order."""
    drawn = random.integers(len(ordered), size=len(ordered))
    times = np.bincount(drawn, minlength=len(ordered))
    return np.repeat(ordered, times), ordered[times == 0]


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
    names = sorted({name for each in z_scores for name in each})
    samples = {
        name: np.abs([each[name] for each in z_scores if name in each]).astype(np.float64)
        for name in names
    }
    known = {name: sample for name, sample in samples.items() if len(sample) > len(z_scores) / 2}
    return {name: _limit(far) for name, far in _reaches(known, false_alarms).items()}


def _reaches(samples: Mapping[str, Doubles], false_alarms: float) -> dict[str, float]:
    """Return how far out a nominal frame may lie in each metric.

    A count that is the same in most frames, of hot pixels close together say, has no tail to fit:
    what is fitted to its rare other values ends at a hundred sigma.
    """
    return {
        name: _FURTHEST * float(sample.max())
        if np.median(sample) == 0
        else tail_quantile(sample, false_alarms / len(samples))
        for name, sample in samples.items()
    }


def _limit(alarm: float) -> MetricLimit:
    alarm = round(max(alarm, _LEAST_ALARM_Z), 1)
    return MetricLimit(warn=round(_WARN_PART * alarm, 1), alarm=alarm)


def _metric_limit(alarm: float) -> MetricLimit:
    alarm = max(alarm, _LEAST_ALARM_Z / 2)  # one that never moved may be scaled, too
    return MetricLimit(warn=_WARN_PART * alarm, alarm=alarm)


def _scaled(limit: MetricLimit, factor: float) -> MetricLimit:
    return MetricLimit(warn=limit.warn * factor, alarm=limit.alarm * factor)
