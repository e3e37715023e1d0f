"""Figures of merit of scores: separation of bad and good images. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

CONFIDENCE = 0.95
RESAMPLINGS = 200


@dataclass(frozen=True)
class Interval:
    """A value and the range that contains it with 95 % confidence."""

    value: float
    low: float
    high: float


def auroc(scores: Doubles, bad: Flags) -> float:
    """Return the chance that a bad image has a higher score than a good one."""
    n_bad, n_good = bad.sum(), (~bad).sum()
    above = rankdata(scores)[bad].sum() - n_bad * (n_bad + 1) / 2
    return float(above / (n_bad * n_good))


def average_precision(scores: Doubles, bad: Flags) -> float:
    """Return the mean precision over the bad images in order of score."""
    _, result, flagged = _cuts(scores, bad)
    gained = np.diff(result, prepend=0)
    return float((gained * result / flagged).sum() / result[-1])


def best_threshold(scores: Doubles, bad: Flags) -> float:
    """Return the threshold of the greatest F1; higher scores are flagged.

    It takes labels of the very images it is applied to, so no product can have it.
    """
    cuts, result, flagged = _cuts(scores, bad)
    best = int((result / (flagged + bad.sum())).argmax())
    return float(cuts[best : best + 2].mean()) if best + 1 < len(cuts) else -np.inf


def best_f1(scores: Doubles, bad: Flags) -> float:
    """Return the greatest F1 of any threshold."""
    _, result, flagged = _cuts(scores, bad)
    return float((2 * result / (flagged + bad.sum())).max())


def _cuts(scores: Doubles, bad: Flags) -> tuple[Doubles, Doubles, Doubles]:
    """Return each distinct score, highest first, with the bad and all images at or above it."""
    order = np.argsort(-scores)
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # of equal scores
    return ordered[last], np.cumsum(bad[order])[last].astype(np.float64), last + 1.0


def precision_of(flagged: Flags, bad: Flags) -> float:
    """Return the share of flagged images that are bad; 1 if none is flagged."""
    return float(bad[flagged].mean()) if flagged.any() else 1.0


def recall_of(flagged: Flags, bad: Flags) -> float:
    """Return the share of bad images that are flagged."""
    return float(flagged[bad].mean())


def f1_of(flagged: Flags, bad: Flags) -> float:
    """Return the harmonic mean of precision and recall."""
    precision, recall = precision_of(flagged, bad), recall_of(flagged, bad)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def false_alarms_of(flagged: Flags, bad: Flags) -> float:
    """Return the share of good images that are flagged."""
    return float(flagged[~bad].mean())


def recall_at(rate: float, scores: Doubles, bad: Flags) -> float:
    """Return the recall at a threshold that flags at most this share of the good images."""
    good = np.sort(scores[~bad])[::-1]
    limit = good[int(rate * len(good))]  # so many good ones lie above it
    return recall_of(scores > limit, bad)


def wilson(count: int, of: int) -> Interval:
    """Return a proportion with Wilson's interval (1927, JASA 22, 209)."""
    if not of:
        return Interval(float("nan"), 0.0, 1.0)
    z = float(norm.isf((1 - CONFIDENCE) / 2))
    share = count / of
    middle = (share + z**2 / (2 * of)) / (1 + z**2 / of)
    reach = z * np.sqrt(share * (1 - share) / of + (z / (2 * of)) ** 2) / (1 + z**2 / of)
    # Rounding must not put the end of the interval on the wrong side of the proportion.
    return Interval(
        share, min(max(middle - reach, 0.0), share), max(min(middle + reach, 1.0), share)
    )


def recall_at_budget(
    scores: Doubles, bad: Flags, *, budget: int, night: int, share: float, seed: int = 0
) -> float:
    """Return the recall if the highest scores of each night are inspected.

    Nights are drawn from the images given: each has `night` of them, of which as many are bad as
    chance has it.

    Parameters
    ----------
    budget, night : int
        Images looked at, and images taken, a night.
    share : float
        Chance of an image to be bad.
    """
    rng = np.random.default_rng(seed)
    good_ones, bad_ones = np.flatnonzero(~bad), np.flatnonzero(bad)
    result = chosen = 0
    for number in rng.binomial(night, share, _NIGHTS):
        some_bad = rng.choice(bad_ones, number)
        drawn = np.concatenate([rng.choice(good_ones, night - number), some_bad])
        looked_at = drawn[np.argsort(-scores[drawn], kind="stable")[:budget]]
        result += int(bad[looked_at].sum())
        chosen += int(number)
    return result / chosen


_NIGHTS = 1000


def calibrated(scores: Doubles, nominal: Doubles) -> Doubles:
    """Return scores on the scale of earlier nominal ones: 0 at their median, 1 at their 90th %.

    So that the scores of different image types can be ranked together.
    """
    middle, high = np.quantile(nominal, [0.5, 0.9])
    return np.asarray((scores - middle) / max(high - middle, _LEAST_SPREAD))


_LEAST_SPREAD = 1e-12

Figure = Callable[[Doubles, Flags], float]


def bootstrap(
    figures: Mapping[str, Figure],
    scores: Doubles,
    bad: Flags,
    frames: NDArray[np.int_],
    seed: int = 0,
) -> dict[str, Interval]:
    """Return figures with their percentile intervals over resampled frames.

    Whole frames are drawn, with all their images: two chips of one exposure share its fault.

    Parameters
    ----------
    frames : (n,) int array
        The frame that each image belongs to.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(frames == item) for item in np.unique(frames)]
    values = []
    for _ in range(RESAMPLINGS):
        drawn = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        if bad[drawn].any() and not bad[drawn].all():
            values.append([figure(scores[drawn], bad[drawn]) for figure in figures.values()])
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail], axis=0)
    return {
        name: Interval(figure(scores, bad), float(low[i]), float(high[i]))
        for i, (name, figure) in enumerate(figures.items())
    }


def figures_at(threshold: float) -> Mapping[str, Figure]:
    """Return every figure by name; those of a verdict at a threshold on the score."""
    return {
        "auroc": auroc,
        "average_precision": average_precision,
        "best_f1": best_f1,
        "f1": lambda scores, bad: f1_of(scores > threshold, bad),
        "recall": lambda scores, bad: recall_of(scores > threshold, bad),
        "precision": lambda scores, bad: precision_of(scores > threshold, bad),
        "recall_at_1_percent": lambda scores, bad: recall_at(0.01, scores, bad),
        "recall_at_0.1_percent": lambda scores, bad: recall_at(0.001, scores, bad),
    }
