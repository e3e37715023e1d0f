"""Scaling of limits to labelled extensions: best F1, or a wanted recall."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from qc.tuning import extreme_values
from qc.tuning import limits as limit_sets
from qc.tuning.fit import TuningResult, relative_interval
from qc.tuning.limits import LimitSet

Doubles = NDArray[np.float64]

BAD_NEEDED = 5  # extensions; fewer give no precision-recall curve
MOST_FALSE_ALARMS = 0.05  # of the nominal frames; tighter limits lie within the noise
RESAMPLES = 100
_END_MARGIN = 1.02  # factor between a cut and the ends of its span


class InseparableError(ValueError):
    """No limit separates the bad frames from the nominal ones as requested."""


def tune_to_labels(
    present: LimitSet,
    nominal: Doubles,
    bad: Doubles,
    *,
    false_alarms: float,
    recall: float | None = None,
) -> TuningResult:
    """Scale limits together to the best F1, or to the widest ones with a given recall.

    If several factors do equally well, the one nearest to the granted rate of false alarms is
    taken.

    Parameters
    ----------
    present : LimitSet
        Limits to scale.
    nominal, bad : (n,), (b,) float arrays
        Ratios to the present limits; infinite for frames that any limits flag.
    false_alarms : float
        Granted rate per extension.
    recall : float, optional
        Wanted fraction of the bad frames.

    Returns
    -------
    TuningResult

    Raises
    ------
    InseparableError
        If more than one in twenty nominal frames would be flagged, or no bad frame is found.
    """
    factor = choose_factor(nominal, bad, false_alarms, recall)
    tail = fit_finite_tail(nominal)
    limits = limit_sets.raise_to_floors(present.scaled(factor), limit_sets.floors_for(present))
    spread = relative_interval(tail, false_alarms, factor)
    return TuningResult(limits, spread, tail.rate_interval(factor))


def tune_by_hand(present: LimitSet, nominal: Doubles, factor: float) -> TuningResult:
    """Scale limits together by a person's factor, down to the floors.

    Parameters
    ----------
    present : LimitSet
        Limits to scale.
    nominal : (n,) float array
        Ratios to the present limits; infinite for frames that any limits flag.
    factor : float

    Returns
    -------
    TuningResult
    """
    limits = limit_sets.raise_to_floors(present.scaled(factor), limit_sets.floors_for(present))
    false_alarms = fit_finite_tail(nominal).rate_interval(factor)
    return TuningResult(limits, extreme_values.Interval(1.0, 1.0, 1.0), false_alarms)


def fit_finite_tail(ratios: Doubles) -> extreme_values.TailFit:
    """Fit the tail of the finite ratios."""
    return extreme_values.fit_tail(ratios[np.isfinite(ratios)])


def choose_factor(
    nominal: Doubles, bad: Doubles, false_alarms: float, recall: float | None
) -> float:
    """Return the common factor on the limits; see `tune_to_labels`.

    Parameters
    ----------
    nominal, bad : (n,), (b,) float arrays
        Ratios to the present limits.
    false_alarms : float
        Granted rate per extension.
    recall : float or None
        Wanted fraction of the bad frames; None for the best F1.

    Returns
    -------
    float

    Raises
    ------
    InseparableError
        As `tune_to_labels`.
    """
    tail = fit_finite_tail(nominal)
    lowest = tail.limit(MOST_FALSE_ALARMS)
    spans = CutSpans.from_ratios(nominal, bad, lowest)
    if recall is not None:
        if spans.recall[0] < recall:
            raise InseparableError(
                f"a recall of {recall:g} would flag more than {MOST_FALSE_ALARMS:.0%} of the "
                f"nominal frames; where that many are flagged, it is {spans.recall[0]:.2f}"
            )
        widest = int(np.flatnonzero(spans.recall >= recall)[-1])
        cut = float(spans.nearest_cuts(np.inf)[widest])
        return cut if cut <= 1 else min(cut, max(tail.limit(false_alarms), lowest, 1.0))
    best = spans.f1.max()
    if best == 0:
        raise InseparableError("the frames labelled bad are not separated from nominal ones")
    target = max(tail.limit(false_alarms), lowest)
    cuts = spans.nearest_cuts(target)[spans.f1 == best]
    return float(cuts[np.abs(np.log(cuts / target)).argmin()])


def precision_recall(nominal: Doubles, bad: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return the precision-recall curve over all cuts, from the widest to the narrowest.

    Parameters
    ----------
    nominal, bad : (n,), (b,) float arrays
        Ratios to some limits, infinite for frames that any limits flag; b at least 1.

    Returns
    -------
    cuts, precision, recall : (k,) float arrays
        Ratios beyond a cut are anomalous.
    """
    values = np.unique(np.concatenate([nominal, bad]))[::-1]
    cuts = np.append(values[np.isfinite(values)], 0.0)
    hits, false = (
        len(ratios) - np.searchsorted(np.sort(ratios), cuts, side="right")
        for ratios in (bad, nominal)
    )
    precision = np.where(hits + false, hits / np.maximum(hits + false, 1), 1.0)
    return cuts, precision, hits / len(bad)


@dataclass(frozen=True)
class CutSpans:
    """Intervals between neighbouring ratios; all cuts within a span flag the same frames.

    Attributes
    ----------
    low, high, recall, f1 : (k,) float arrays
        Ends and performance, the narrowest cut first.
    """

    low: Doubles
    high: Doubles
    recall: Doubles
    f1: Doubles

    @classmethod
    def from_ratios(cls, nominal: Doubles, bad: Doubles, lowest: float) -> "CutSpans":
        """Return every distinct span from the lowest cut on.

        Parameters
        ----------
        nominal, bad : (n,), (b,) float arrays
            Ratios to the present limits.
        lowest : float
            Smallest cut to consider.

        Returns
        -------
        CutSpans
        """
        beyond = [np.sort(ratios[ratios > lowest]) for ratios in (bad, nominal)]
        values = np.unique(np.concatenate(beyond))
        inner = values[np.isfinite(values)]
        ends = np.concatenate([[lowest], inner, [10 * max(lowest, inner.max(initial=0))]])
        low, high = ends[:-1], ends[1:]
        hits, false = (
            len(ratios) - np.searchsorted(ratios, low, side="right") for ratios in beyond
        )
        return cls(low, high, hits / len(bad), 2 * hits / (hits + false + len(bad)))

    def nearest_cuts(self, target: float) -> Doubles:
        """Return the cut of each span nearest to a target, with a margin to both ends."""
        margin = np.minimum(_END_MARGIN, (self.high / self.low) ** 0.5)
        return np.asarray(np.clip(target, self.low * margin, self.high / margin), np.float64)


def expected_of_labels(
    nominal: Doubles,
    bad: Doubles,
    *,
    false_alarms: float,
    recall: float | None = None,
) -> tuple[extreme_values.Interval, extreme_values.Interval]:
    """Estimate recall and precision on frames that were not used to choose the limits.

    The choice is repeated on bootstrap samples and evaluated on the frames not drawn (out-of-bag
    estimate). The ratios are sorted once; repeating them by their count keeps each sample sorted.
    The result does not depend on the order of the frames.

    Parameters
    ----------
    nominal, bad : (n,), (b,) float arrays
        Ratios to the present limits.
    false_alarms : float
        Granted rate per extension.
    recall : float, optional
        Wanted fraction of the bad frames; the best F1 where absent.

    Returns
    -------
    recall, precision : Interval
    """
    random = np.random.default_rng(0)
    nominal, bad = np.sort(nominal), np.sort(bad)
    counts = np.zeros(4)  # bad found, bad, nominal flagged, nominal
    for _ in range(RESAMPLES):
        nominal_sample, nominal_rest = draw_bootstrap(nominal, random)
        bad_sample, bad_rest = draw_bootstrap(bad, random)
        try:
            cut = choose_factor(nominal_sample, bad_sample, false_alarms, recall)
        except InseparableError:
            continue
        hits, false = (bad_rest > cut).sum(), (nominal_rest > cut).sum()
        counts += hits, len(bad_rest), false, len(nominal_rest)
    hits = len(bad) * counts[0] / max(counts[1], 1)
    false = len(nominal) * counts[2] / max(counts[3], 1)
    return share_interval(hits, len(bad)), share_interval(hits, hits + false)


def draw_bootstrap(values: Doubles, random: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Draw a sample with replacement.

    Parameters
    ----------
    values : (n,) float array
        Sorted.
    random : Generator

    Returns
    -------
    sample : (n,) float array
        Sorted.
    rest : float array
        Values not drawn, sorted.
    """
    indices = random.integers(len(values), size=len(values))
    times = np.bincount(indices, minlength=len(values))
    return np.repeat(values, times), values[times == 0]


def share_interval(part: float, whole: float) -> extreme_values.Interval:
    """Return a share with Jeffreys' interval.

    Parameters
    ----------
    part, whole : float
        Counts.

    Returns
    -------
    Interval
        From 0 to 1 if the whole is 0.
    """
    if whole == 0:
        return extreme_values.Interval(0.0, 0.0, 1.0)
    low, high = (beta.ppf(end, part + 0.5, whole - part + 0.5) for end in (0.025, 0.975))
    value = part / whole
    return extreme_values.Interval(value, min(float(low), value), max(float(high), value))
