"""Extreme-value statistics: fit and extrapolation of the upper tail of a sample."""

from dataclasses import dataclass
from functools import cached_property
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Doubles = NDArray[np.float64]

TAIL_FRACTION = 0.1  # of the sample
SMALLEST_TAIL = 10  # excesses; the shape of a smaller tail cannot be determined
LARGEST_TAIL = 250  # excesses; the Pareto form holds better for the outermost values
HEAVIEST_SHAPE = 0.5  # with a heavier tail a single outlier of a small sample sets the limit
TYPICAL_SHAPE = 0.15  # of noise-dominated evidence; a lognormal with sigma 0.7 has 0.2
NEARLY_EXPONENTIAL = 1e-6  # smallest shape in a formula that divides by it
NEGLIGIBLE_WEIGHT = 1e-15
DRAWS = 2000
NEXT_FRAMES = 1000  # a false-alarm interval holds for this many further frames
INTERVAL_ENDS = (0.025, 0.975)
_SHAPES = np.linspace(0, HEAVIEST_SHAPE, 11)
_SCALES = np.exp(np.linspace(-2, 2, 81))  # in units of the mean excess
_FACTORS = 50  # per product: each factor is below 1000, so the product stays finite


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def tail_quantile(sample: Doubles, false_alarms: float) -> float:
    """Return the value that a further nominal frame exceeds at the given rate.

    Peaks over threshold: a generalised Pareto distribution is fitted to the excesses over the
    sample's 90th percentile and extrapolated (Pickands 1975, Ann. Statist. 3, 119).

    Parameters
    ----------
    sample : (n,) float array
        Scores of nominal frames.
    false_alarms : float
        Rate per frame, 0 to 1.

    Returns
    -------
    float
        In the unit of the sample.

    Raises
    ------
    ValueError
        If the sample has fewer than 2 values.
    """
    if len(sample) < 2:
        raise ValueError(f"need at least 2 nominal frames to set a limit, got {len(sample)}")
    start = float(np.quantile(sample, 1 - TAIL_FRACTION))
    excess = sample[sample > start] - start
    exceeding = len(excess) / len(sample)
    if false_alarms >= exceeding:
        return float(np.quantile(sample, 1 - false_alarms))
    shape, scale = fit_pareto(excess)
    return start + float(stats.genpareto.isf(false_alarms / exceeding, shape, scale=scale))


def fit_pareto(excess: Doubles) -> tuple[float, float]:
    """Return shape and scale of a generalised Pareto distribution; exponential for few excesses."""
    if len(excess) < SMALLEST_TAIL:
        return 0.0, float(excess.mean())
    shape, _, scale = stats.genpareto.fit(excess, floc=0)
    if shape > HEAVIEST_SHAPE:
        return HEAVIEST_SHAPE, float(excess.mean()) * (1 - HEAVIEST_SHAPE)
    return max(float(shape), 0.0), float(scale)  # a bounded tail is an artefact of small samples


@dataclass(frozen=True)
class TailFit:
    """Weighted generalised Pareto tails that agree with a nominal sample.

    The excesses over `start` leave shape and scale uncertain. Each pair of them has a weight: its
    likelihood times a prior, which falls from the exponential to the heaviest accepted shape.

    Attributes
    ----------
    sample : (n,) float array
        Sorted. Up to `start` the empirical distribution is used.
    beyond : int
        Number of values beyond the start.
    """

    sample: Doubles
    beyond: int

    @property
    def start(self) -> float:
        """Lower end of the tail."""
        return float(self.sample[-self.beyond - 1])

    @property
    def share(self) -> float:
        """Fraction of the sample beyond the start."""
        return self.beyond / len(self.sample)

    @property
    def shapes(self) -> Doubles:
        """Shape of each tail: (g,)."""
        return self._parameters[0]

    @property
    def scales(self) -> Doubles:
        """Scale of each tail: (g,)."""
        return self._parameters[1]

    @property
    def weights(self) -> Doubles:
        """Weight of each tail: (g,), sum 1."""
        return self._parameters[2]

    @cached_property
    def _parameters(self) -> tuple[Doubles, Doubles, Doubles]:
        """Shapes, scales and weights, fitted at the first use because the fit is slow."""
        excess = self.sample[-self.beyond :] - self.start
        smallest_mean = 1e-9 * max(abs(self.start), 1e-9)  # for a tail of equal values
        mean = max(float(excess.mean()), smallest_mean)
        shapes, scales = (grid.ravel() for grid in np.meshgrid(_SHAPES, mean * _SCALES))
        likelihood = pareto_log_likelihood(excess, shapes, scales)
        weights = np.exp(likelihood - likelihood.max() - shapes / TYPICAL_SHAPE)
        weights /= weights.sum()
        relevant = weights > NEGLIGIBLE_WEIGHT
        return shapes[relevant], scales[relevant], weights[relevant]

    def rate(self, value: float) -> float:
        """Return the expected rate of nominal frames beyond a value."""
        if value < self.start:
            return self.empirical_rate(value)
        return self.tail_rate(max(value - self.start, 0.0))

    def empirical_rate(self, value: float) -> float:
        """Return the fraction of the sample beyond a value."""
        return float((self.sample > value).mean())

    def tail_rate(self, excess: float) -> float:
        """Return the expected rate of nominal frames beyond the start plus an excess."""
        return self.share * float(self.weights @ pareto_survival(excess, self.shapes, self.scales))

    def limit(self, rate: float) -> float:
        """Return the value that nominal frames are expected to exceed at a rate.

        The uncertainty of a small sample widens the limit: a tail heavier than the likeliest adds
        more alarms than a lighter one removes.
        """
        if rate >= self.share:
            return float(np.quantile(self.sample, 1 - rate))
        high = float(self.scales.max())
        while self.tail_rate(high) > rate:
            high *= 2
        # The logarithm of the rate is nearly linear: ten steps instead of sixty bisections.
        low = high / 2 if high > self.scales.max() else 0.0
        excess = optimize.brentq(
            lambda value: log(self.tail_rate(value) / rate), low, high, xtol=1e-12 * high
        )
        return self.start + float(excess)

    def limit_interval(self, rate: float) -> Interval:
        """Return `limit` with the interval of the value that is truly exceeded at the rate."""
        if rate >= self.share:
            limits = np.quantile(self.sample, 1 - self.draw_shares(rate))
        else:
            remaining = np.minimum(rate / self.draw_shares(self.share), 1.0)
            limits = self.start + pareto_quantile(remaining, *self.draw_tails())
        value = self.limit(rate)
        low, high = np.quantile(limits, INTERVAL_ENDS)
        return Interval(value, min(float(low), value), max(float(high), value))

    def rate_interval(self, value: float) -> Interval:
        """Return `rate` with the interval of the share of the next thousand frames beyond."""
        share = self.share if value >= self.start else self.empirical_rate(value)
        excess = max(value - self.start, 0.0)
        true_rates = self.draw_shares(share) * pareto_survival(excess, *self.draw_tails())
        counts = np.random.default_rng(2).poisson(NEXT_FRAMES * true_rates)
        low, high = np.quantile(counts / NEXT_FRAMES, INTERVAL_ENDS)
        return Interval(self.rate(value), float(low), float(high))

    def draw_tails(self) -> tuple[Doubles, Doubles]:
        """Return shapes and scales drawn by weight: (DRAWS,) each."""
        random = np.random.default_rng(0)  # fixed seed: equal frames give equal intervals
        indices = random.choice(len(self.weights), DRAWS, p=self.weights)
        return self.shapes[indices], self.scales[indices]

    def draw_shares(self, share: float) -> Doubles:
        """Return population shares drawn given the sample's share: (DRAWS,)."""
        k, n = share * len(self.sample), len(self.sample)
        return np.random.default_rng(1).beta(k, n - k + 1, DRAWS)


def fit_tail(sample: Doubles) -> TailFit:
    """Fit the upper tail of a sample of nominal frames.

    Parameters
    ----------
    sample : (n,) float array
        Finite; n at least twice `SMALLEST_TAIL`.
    """
    beyond = int(np.clip(round(TAIL_FRACTION * len(sample)), SMALLEST_TAIL, LARGEST_TAIL))
    is_sorted = (sample[1:] >= sample[:-1]).all()  # this check takes a tenth of a sort's time
    return TailFit(sample if is_sorted else np.sort(sample), beyond)


def pareto_log_likelihood(excess: Doubles, shapes: Doubles, scales: Doubles) -> Doubles:
    """Return the log likelihood of each generalised Pareto distribution.

    Factors are multiplied in groups before the logarithm is taken, because logarithms are slow.

    Parameters
    ----------
    excess : (k,) float array
        Excesses over the start of the tail.
    shapes, scales : (g,) float arrays
        Parameters of the distributions.

    Returns
    -------
    (g,) float array
    """
    shapes = np.maximum(shapes, NEARLY_EXPONENTIAL)
    factors = 1 + excess[:, np.newaxis] * (shapes / scales)  # (k, g)
    products = np.multiply.reduceat(factors, np.arange(0, len(excess), _FACTORS), axis=0)
    densities = -(1 / shapes + 1) * np.log(products).sum(axis=0) - len(excess) * np.log(scales)
    return np.asarray(densities, np.float64)


def pareto_survival(excess: float, shapes: Doubles, scales: Doubles) -> Doubles:
    """Return the fraction of each generalised Pareto distribution beyond an excess.

    Parameters
    ----------
    excess : float
        Excess over the start of the tail.
    shapes, scales : (g,) float arrays
        Parameters of the distributions.

    Returns
    -------
    (g,) float array
    """
    shapes = np.maximum(shapes, NEARLY_EXPONENTIAL)
    return np.asarray((1 + shapes * excess / scales) ** (-1 / shapes), np.float64)


def pareto_quantile(fraction: Doubles, shapes: Doubles, scales: Doubles) -> Doubles:
    """Return the excess that a fraction of each generalised Pareto distribution exceeds.

    Parameters
    ----------
    fraction, shapes, scales : (g,) float arrays
        Fraction beyond the excess, and parameters of the distributions.

    Returns
    -------
    (g,) float array
    """
    shapes = np.maximum(shapes, NEARLY_EXPONENTIAL)
    return np.asarray(scales / shapes * (fraction**-shapes - 1), np.float64)
