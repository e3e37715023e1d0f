"""What nominal frames say of how odd a further one may look: the tail of a sample, extrapolated."""

from dataclasses import dataclass
from functools import cached_property
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import genpareto

Doubles = NDArray[np.float64]

_TAIL = 0.1  # the part of the sample that a tail is fitted to
_SMALLEST_TAIL = 10  # excesses; fewer cannot tell an exponential from anything else
_LARGEST_TAIL = 250  # the further out, the better the Pareto form holds
_HEAVIEST_SHAPE = 0.5  # a small sample's fit may find worse; then one outlier would set the limit


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


@dataclass(frozen=True)
class Interval:
    """A number, and what it lies between with a probability of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TailFit:
    """What a nominal sample says of its own tail: every tail that may have made it.

    Excesses over `start` follow a generalised Pareto distribution, of a shape and scale that the
    few of them leave open. So each pair has a weight: its likelihood, times how likely the shape
    was beforehand, which falls from an exponential to the heaviest that is believed.

    Attributes
    ----------
    sample : (n,) float array
        In order; up to `start` it speaks for itself.
    beyond : int
        How many of them lie beyond the start.
    """

    sample: Doubles
    beyond: int

    @property
    def start(self) -> float:
        """Return where the tail begins."""
        return float(self.sample[-self.beyond - 1])

    @property
    def share(self) -> float:
        """Return the part of the sample beyond the start."""
        return self.beyond / len(self.sample)

    @property
    def shapes(self) -> Doubles:
        """Return those of the tails: (g,)."""
        return self._fitted[0]

    @property
    def scales(self) -> Doubles:
        """Return those of the tails: (g,)."""
        return self._fitted[1]

    @property
    def weights(self) -> Doubles:
        """Return those of the tails, of sum 1: (g,)."""
        return self._fitted[2]

    @cached_property
    def _fitted(self) -> tuple[Doubles, Doubles, Doubles]:
        """Return shapes, scales and weights: fitted when they are asked for, as it takes long."""
        excess = self.sample[-self.beyond :] - self.start
        all_alike = 1e-9 * max(abs(self.start), 1e-9)  # hardly a tail
        mean = max(float(excess.mean()), all_alike)
        shapes, scales = (each.ravel() for each in np.meshgrid(_SHAPES, mean * _SCALES))
        likelihood = _log_likelihood(excess, shapes, scales)
        weights = np.exp(likelihood - likelihood.max() - shapes / _USUAL_SHAPE)
        weights /= weights.sum()
        told = weights > _NEGLIGIBLE
        return shapes[told], scales[told], weights[told]

    def rate(self, value: float) -> float:
        """Return how often a further nominal frame is expected beyond a value."""
        if value < self.start:
            return self._seen_beyond(value)
        return self._beyond(max(value - self.start, 0.0))

    def _beyond(self, excess: float) -> float:
        """Return how often a further nominal frame is expected beyond the start by so much."""
        return self.share * float(self.weights @ _survival(excess, self.shapes, self.scales))

    def limit(self, rate: float) -> float:
        """Return the value that a further nominal frame is expected beyond at the given rate.

        What a small sample leaves open makes it wider: a heavier tail than the likeliest costs
        more alarms than a lighter one saves.
        """
        if rate >= self.share:
            return float(np.quantile(self.sample, 1 - rate))
        high = float(self.scales.max())
        while self._beyond(high) > rate:
            high *= 2
        # Of the logarithms, which fall nearly in a straight line: ten steps, not sixty halvings.
        low = high / 2 if high > self.scales.max() else 0.0
        excess = brentq(lambda one: log(self._beyond(one) / rate), low, high, xtol=1e-12 * high)
        return self.start + float(excess)

    def limits(self, rate: float) -> Interval:
        """Return `limit`, and between what the value lies that is truly exceeded at the rate."""
        if rate >= self.share:
            beyond = np.quantile(self.sample, 1 - self._shares(rate))
        else:
            left = np.minimum(rate / self._shares(self.share), 1.0)
            beyond = self.start + _quantile(left, *self._pairs())
        value = self.limit(rate)
        low, high = np.quantile(beyond, _ENDS)
        return Interval(value, min(float(low), value), max(float(high), value))

    def rates(self, value: float) -> Interval:
        """Return `rate`, and between what the share of the next thousand frames beyond will lie."""
        counted = self.share if value >= self.start else self._seen_beyond(value)
        excess = max(value - self.start, 0.0)
        true = self._shares(counted) * _survival(excess, *self._pairs())
        seen = np.random.default_rng(2).poisson(_NEXT * true) / _NEXT
        low, high = np.quantile(seen, _ENDS)
        return Interval(self.rate(value), float(low), float(high))

    def _seen_beyond(self, value: float) -> float:
        return float((self.sample > value).mean())

    def _pairs(self) -> tuple[Doubles, Doubles]:
        """Return shape and scale of tails drawn by weight: (_DRAWS,) each."""
        random = np.random.default_rng(0)  # the same frames, the same interval
        drawn = random.choice(len(self.weights), _DRAWS, p=self.weights)
        return self.shapes[drawn], self.scales[drawn]

    def _shares(self, seen: float) -> Doubles:
        """Return shares of all frames that may have given the one seen: (_DRAWS,)."""
        k, n = seen * len(self.sample), len(self.sample)
        return np.random.default_rng(1).beta(k, n - k + 1, _DRAWS)


_DRAWS = 2000
_NEXT = 1000
_ENDS = (0.025, 0.975)
_USUAL_SHAPE = 0.15  # of what is noise for the most part; a lognormal's of sigma 0.7 is 0.2
_SHAPES = np.linspace(0, _HEAVIEST_SHAPE, 11)
_SCALES = np.exp(np.linspace(-2, 2, 81))  # times the mean excess


def fit_tail(sample: Doubles) -> TailFit:
    """Return what a sample of nominal frames says of its tail.

    Parameters
    ----------
    sample : (n,) float array
        Finite; n at least twice `_SMALLEST_TAIL`.
    """
    k = int(np.clip(round(_TAIL * len(sample)), _SMALLEST_TAIL, _LARGEST_TAIL))
    return TailFit(_in_order(sample), k)


def _in_order(sample: Doubles) -> Doubles:
    """Sort, but for what is in order already: to see that takes a tenth of the time."""
    return sample if (sample[1:] >= sample[:-1]).all() else np.sort(sample)


def _log_likelihood(excess: Doubles, shapes: Doubles, scales: Doubles) -> Doubles:
    """Return that of each of g Pareto tails: (g,).

    Logarithms are taken of products of factors, which are far fewer: none is above a thousand.
    """
    bent = np.maximum(shapes, _NEARLY_EXPONENTIAL)
    factors = 1 + excess[:, np.newaxis] * (bent / scales)  # (k, g)
    products = np.multiply.reduceat(factors, np.arange(0, len(excess), _FACTORS), axis=0)
    densities = -(1 / bent + 1) * np.log(products).sum(axis=0) - len(excess) * np.log(scales)
    return np.asarray(densities, np.float64)


_FACTORS = 50  # of a product: a thousand to that power is still a number
_NEGLIGIBLE = 1e-15  # weight of a tail


def _survival(excess: float, shapes: Doubles, scales: Doubles) -> Doubles:
    """Return the part of each Pareto tail beyond an excess."""
    bent = np.maximum(shapes, _NEARLY_EXPONENTIAL)
    return np.asarray((1 + bent * excess / scales) ** (-1 / bent), np.float64)


def _quantile(part: Doubles, shapes: Doubles, scales: Doubles) -> Doubles:
    """Return the excess that the given part of each Pareto tail lies beyond."""
    bent = np.maximum(shapes, _NEARLY_EXPONENTIAL)
    return np.asarray(scales / bent * (part**-bent - 1), np.float64)


_NEARLY_EXPONENTIAL = 1e-6
