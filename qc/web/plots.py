"""Where the marks of a small drawing go, in the units of its box; the template draws them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qc.tuning.fit import precision_recall

Doubles = NDArray[np.float64]

WIDTH, HEIGHT = 400, 220  # of the box; text of 12 is read at 390 pixels too
LEFT, RIGHT, TOP, BOTTOM = 42, 20, 14, 34  # margins
LEAST, MOST = 0.05, 20.0  # ratios to a limit that are told apart
_BINS = 48
_TOLD = np.arange(1, 11) / 10  # the recalls of a curve that are told in numbers


@dataclass(frozen=True)
class HistogramBar:
    """A group's frames within a span of ratios."""

    x: float
    y: float
    width: float
    height: float
    frames: int


@dataclass(frozen=True)
class AxisTick:
    """A number beside an axis."""

    at: float
    words: str


@dataclass(frozen=True)
class HistogramBin:
    """How many frames of each group lie between two ratios to a limit."""

    low: float
    high: float
    frames: tuple[int, ...]


@dataclass(frozen=True)
class RatioHistogram:
    """How far past frames lie from their limits, on logarithmic scales.

    Attributes
    ----------
    groups : dict of name to tuple of Bar
    spans : tuple of Span
        The same in numbers; those without a frame are left out.
    cut : float
        Where the limits are, across.
    """

    groups: dict[str, tuple[HistogramBar, ...]]
    spans: tuple[HistogramBin, ...]
    cut: float
    across: tuple[AxisTick, ...]
    up: tuple[AxisTick, ...]


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Precision over recall of all cuts.

    Attributes
    ----------
    points : str
        As SVG has them.
    rows : tuple of (cut, precision, recall)
        Some of them in numbers, the widest limits first.
    """

    points: str
    rows: tuple[tuple[float, float, float], ...]
    x: float
    y: float
    precision: float
    recall: float
    across: tuple[AxisTick, ...]
    up: tuple[AxisTick, ...]


def distribution(groups: dict[str, Doubles]) -> RatioHistogram:
    """Draw how many frames lie where; within a bin the later groups stand side by side.

    Parameters
    ----------
    groups : dict of name to (n,) float array
        Ratios to a limit, beyond 1 flagged; those without a frame are left out.
    """
    edges = np.geomspace(LEAST, MOST, _BINS + 1)
    counts = {
        name: np.histogram(ratios.clip(LEAST, MOST), edges)[0]
        for name, ratios in groups.items()
        if len(ratios)
    }
    most = max([1, *(int(one.max(initial=0)) for one in counts.values())])
    return RatioHistogram(
        {
            name: tuple(_bars(edges, one, most, part))
            for (name, one), part in zip(counts.items(), _parts(len(counts)), strict=True)
        },
        tuple(_spans(edges, list(counts.values()))),
        _across(1.0),
        tuple(AxisTick(_across(one), f"{one:g}") for one in (0.1, 0.3, 1, 3, 10)),
        tuple(
            AxisTick(_up(one, most), f"{one}") for one in (1, 10, 100, 1000, 10000) if one <= most
        ),
    )


def _parts(groups: int) -> list[tuple[float, float]]:
    """Return where in a bin each group stands: the first fills it, none of the others is hidden."""
    parts = max(groups - 1, 2)
    return [(0.0, 1.0), *((one / parts, 1 / parts) for one in range(groups - 1))]


def _bars(
    edges: Doubles, counts: NDArray[np.int_], most: int, part: tuple[float, float]
) -> list[HistogramBar]:
    """Return a bar for each bin that is not empty, on a part of it: from where, and how wide."""
    bars = []
    for low, high, frames in zip(edges[:-1], edges[1:], counts, strict=True):
        if frames:
            top = _up(int(frames), most)
            left = _across(float(low))
            bin_width = _across(float(high)) - left - 0.5
            x, width = round(left + part[0] * bin_width, 1), round(part[1] * bin_width, 1)
            bars.append(HistogramBar(x, top, width, HEIGHT - BOTTOM - top, int(frames)))
    return bars


def _spans(edges: Doubles, counts: Sequence[NDArray[np.int_]]) -> Iterator[HistogramBin]:
    for low, high, *frames in zip(edges[:-1], edges[1:], *counts, strict=True):
        if any(frames):
            yield HistogramBin(float(low), float(high), tuple(map(int, frames)))


def _across(ratio: float) -> float:
    share = np.log(np.clip(ratio, LEAST, MOST) / LEAST) / np.log(MOST / LEAST)
    return round(LEFT + float(share) * (WIDTH - LEFT - RIGHT), 1)


def _up(frames: int, most: int) -> float:
    """Return the height of a count; a single frame must be seen."""
    share = np.log1p(frames) / np.log1p(most)
    return round(HEIGHT - BOTTOM - float(share) * (HEIGHT - TOP - BOTTOM), 1)


def curve(nominal: Doubles, bad: Doubles) -> PrecisionRecallCurve:
    """Draw precision over recall, and where on it the limits are.

    Parameters
    ----------
    nominal, bad : (n,), (b,) float arrays
        Ratios to a limit, beyond 1 flagged, infinite for what is flagged anyway; b at least 1.
    """
    cuts, precision, recall = precision_recall(nominal, bad)
    chosen = int(np.flatnonzero(cuts <= 1)[0])
    steps = np.flatnonzero(np.diff(recall))  # between them the curve falls straight down
    ends = np.unique(np.concatenate([[0], steps, steps + 1, [len(cuts) - 1]]))
    places = ends[np.unique(np.linspace(0, len(ends) - 1, min(len(ends), 400)).astype(int))]
    told = np.union1d(np.searchsorted(recall, _TOLD), [chosen])
    return PrecisionRecallCurve(
        " ".join(f"{_share_x(recall[i])},{_share_y(precision[i])}" for i in places),
        tuple((float(cuts[i]), float(precision[i]), float(recall[i])) for i in told),
        _share_x(recall[chosen]),
        _share_y(precision[chosen]),
        float(precision[chosen]),
        float(recall[chosen]),
        tuple(AxisTick(_share_x(one), f"{one:.0%}") for one in (0, 0.25, 0.5, 0.75, 1)),
        tuple(AxisTick(_share_y(one), f"{one:.0%}") for one in (0, 0.5, 1)),
    )


def _share_x(share: float) -> float:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _share_y(share: float) -> float:
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)
