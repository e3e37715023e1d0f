"""Coordinates of the SVG charts on the threshold page; the template draws them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qc.tuning.label_fit import precision_recall

Doubles = NDArray[np.float64]

WIDTH, HEIGHT = 400, 220  # of the view box; text of size 12 is legible at 390 pixels
LEFT, RIGHT, TOP, BOTTOM = 42, 20, 14, 34  # margins
LEAST, MOST = 0.05, 20.0  # range of ratios to a threshold
_BINS = 48
_RECALLS = np.arange(1, 11) / 10  # recalls in the table of a curve


@dataclass(frozen=True)
class HistogramBar:
    """The frames of a group in one bin."""

    x: float
    y: float
    width: float
    height: float
    frames: int


@dataclass(frozen=True)
class AxisTick:
    """A labelled position on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class HistogramBin:
    """Number of frames of each group between two ratios."""

    low: float
    high: float
    frames: tuple[int, ...]


@dataclass(frozen=True)
class RatioHistogram:
    """Histogram of past frames by ratio to the threshold, on logarithmic axes.

    Attributes
    ----------
    groups : dict of name to tuple of HistogramBar
    bins : tuple of HistogramBin
        The same in numbers, without empty bins.
    threshold_x : float
        Horizontal position of ratio 1.
    x_ticks, y_ticks : tuple of AxisTick
    """

    groups: dict[str, tuple[HistogramBar, ...]]
    bins: tuple[HistogramBin, ...]
    threshold_x: float
    x_ticks: tuple[AxisTick, ...]
    y_ticks: tuple[AxisTick, ...]


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Precision against recall for all scalings of the thresholds.

    Attributes
    ----------
    points : str
        In the format of an SVG polyline.
    rows : tuple of (ratio, precision, recall)
        Selected points in numbers, the widest thresholds first.
    x, y : float
        Position of the thresholds tried.
    precision, recall : float
        At the thresholds tried.
    x_ticks, y_ticks : tuple of AxisTick
    """

    points: str
    rows: tuple[tuple[float, float, float], ...]
    x: float
    y: float
    precision: float
    recall: float
    x_ticks: tuple[AxisTick, ...]
    y_ticks: tuple[AxisTick, ...]


def plot_histogram(groups: dict[str, Doubles]) -> RatioHistogram:
    """Return the histogram of past frames by ratio to the threshold.

    The first group fills its bins; the others stand side by side in front of it.

    Parameters
    ----------
    groups : dict of name to (n,) float array
        Ratios to the threshold, beyond 1 flagged. Empty groups are x_left out.
    """
    edges = np.geomspace(LEAST, MOST, _BINS + 1)
    counts = {
        name: np.histogram(ratios.clip(LEAST, MOST), edges)[0]
        for name, ratios in groups.items()
        if len(ratios)
    }
    most = max([1, *(int(frames.max(initial=0)) for frames in counts.values())])
    n_parts = max(len(counts) - 1, 2)
    parts = [(0.0, 1.0), *((part / n_parts, 1 / n_parts) for part in range(len(counts) - 1))]
    return RatioHistogram(
        {
            name: tuple(plot_bars(edges, frames, most, part))
            for (name, frames), part in zip(counts.items(), parts[: len(counts)], strict=True)
        },
        tuple(
            HistogramBin(float(low), float(high), tuple(map(int, frames)))
            for low, high, *frames in zip(edges[:-1], edges[1:], *counts.values(), strict=True)
            if any(frames)
        ),
        ratio_x(1.0),
        tuple(AxisTick(ratio_x(ratio), f"{ratio:g}") for ratio in (0.1, 0.3, 1, 3, 10)),
        tuple(
            AxisTick(count_y(frames, most), f"{frames}")
            for frames in (1, 10, 100, 1000, 10000)
            if frames <= most
        ),
    )


def plot_bars(
    edges: Doubles, counts: NDArray[np.int_], most: int, part: tuple[float, float]
) -> list[HistogramBar]:
    """Return a bar for each bin that is not empty.

    Parameters
    ----------
    edges : (n + 1,) float array
    counts : (n,) int array
    most : int
        Highest count of all groups.
    part : tuple of float
        Start and width of the bars as fractions of a bin.
    """
    bars = []
    for low, high, frames in zip(edges[:-1], edges[1:], counts, strict=True):
        if frames:
            top = count_y(int(frames), most)
            x_left = ratio_x(float(low))
            bin_width = ratio_x(float(high)) - x_left - 0.5
            x, width = round(x_left + part[0] * bin_width, 1), round(part[1] * bin_width, 1)
            bars.append(HistogramBar(x, top, width, HEIGHT - BOTTOM - top, int(frames)))
    return bars


def ratio_x(ratio: float) -> float:
    """Return the horizontal position of a ratio."""
    share = np.log(np.clip(ratio, LEAST, MOST) / LEAST) / np.log(MOST / LEAST)
    return round(LEFT + float(share) * (WIDTH - LEFT - RIGHT), 1)


def count_y(frames: int, most: int) -> float:
    """Return the vertical position of a count; a single frame stays visible.

    Parameters
    ----------
    frames : int
    most : int
        Highest count of all groups.
    """
    share = np.log1p(frames) / np.log1p(most)
    return round(HEIGHT - BOTTOM - float(share) * (HEIGHT - TOP - BOTTOM), 1)


def plot_precision_recall(nominal: Doubles, bad: Doubles) -> PrecisionRecallCurve:
    """Return precision against recall with the position of the thresholds tried.

    Parameters
    ----------
    nominal, bad : (n,), (b,) float arrays
        Ratios to the threshold, beyond 1 flagged, infinite for frames flagged by other evidence;
        b at least 1.
    """
    ratios, precision, recall = precision_recall(nominal, bad)
    current = int(np.flatnonzero(ratios <= 1)[0])
    steps = np.flatnonzero(np.diff(recall))  # between them the curve is vertical
    ends = np.unique(np.concatenate([[0], steps, steps + 1, [len(ratios) - 1]]))
    plotted = ends[np.unique(np.linspace(0, len(ends) - 1, min(len(ends), 400)).astype(int))]
    listed = np.union1d(np.searchsorted(recall, _RECALLS), [current])
    return PrecisionRecallCurve(
        " ".join(f"{share_x(recall[i])},{share_y(precision[i])}" for i in plotted),
        tuple((float(ratios[i]), float(precision[i]), float(recall[i])) for i in listed),
        share_x(recall[current]),
        share_y(precision[current]),
        float(precision[current]),
        float(recall[current]),
        tuple(AxisTick(share_x(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)),
        tuple(AxisTick(share_y(share), f"{share:.0%}") for share in (0, 0.5, 1)),
    )


def share_x(share: float) -> float:
    """Return the horizontal position of a share from 0 to 1."""
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def share_y(share: float) -> float:
    """Return the vertical position of a share from 0 to 1."""
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)
