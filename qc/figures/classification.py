"""Quality of a classifier: confusion matrix, intervals, calibration, learning curve."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qc.figures import drawing

Floats = NDArray[np.float32] | NDArray[np.float64]

_CELL_IN = 0.27
_NAMES_IN = 2.0  # the longest name of a class, along either side


def draw_confusion_matrix(
    counts: NDArray[np.int_], rows: Sequence[str], columns: Sequence[str], *, title: str
) -> str:
    """Draw a confusion matrix: counts as text, and their share of the row as colour.

    Parameters
    ----------
    counts : (r, c) int array
    rows, columns : sequences of r and c str
        True classes, and predicted classes.
    title : str

    Returns
    -------
    str
        SVG, larger than other drawings if there are many classes.
    """
    width, height = (_CELL_IN * len(names) + _NAMES_IN for names in (columns, rows))
    figure = Figure(figsize=(max(width, drawing.WIDTH_IN), height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colours = LinearSegmentedColormap.from_list("shares", ["white", drawing.BLUE])
    axes.imshow(share, cmap=colours, vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        ink = "white" if share[row, column] > 0.5 else drawing.BLACK
        number = str(counts[row, column])
        axes.text(column, row, number, ha="center", va="center", fontsize=9, color=ink)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="predicted", ylabel="true")
    drawing.style_axes(axes)
    axes.tick_params(length=0)
    drawing.set_title(axes, title)
    accuracy = float(np.trace(counts[:, : len(rows)])) / max(counts.sum(), 1)
    return drawing.svg_text(figure, f"{title}: {accuracy:.1%} on the diagonal")


def draw_intervals(names: Sequence[str], groups: Mapping[str, Floats], *, unit: str) -> str:
    """Draw values with their intervals, one line per name.

    Parameters
    ----------
    names : sequence of n str
    groups : mapping of a label to (n, 3) float array
        Value, low and high; NaN values are left out. At most two groups.
    unit : str

    Returns
    -------
    str
        SVG.
    """
    figure, axes = drawing.new_figure(height_in=0.3 * len(names) + 1.2)
    styles = (("o", drawing.BLUE, -0.16), ("D", drawing.RED, 0.16))
    for (label, intervals), (marker, colour, shift) in zip(groups.items(), styles, strict=False):
        finite = np.isfinite(intervals[:, 0])
        heights = np.arange(len(names))[finite] + shift
        value, low, high = intervals[finite].T
        axes.hlines(heights, low, high, color=colour, linewidth=1.2)
        axes.plot(value, heights, marker, color=colour, markersize=5, label=label, clip_on=False)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, 1.02), xlabel=unit)
    axes.grid(axis="y", color=drawing.PALE, linewidth=0.5)
    drawing.add_legend(figure, axes)
    return drawing.svg_text(figure, f"{' and '.join(groups)} of {len(names)} classes")


def draw_calibration(
    predicted: Floats, true: Floats, counts: NDArray[np.int_], *, error: float
) -> str:
    """Draw a reliability diagram: true against predicted rate, and the number of predictions.

    Parameters
    ----------
    predicted : (b,) float array
        Mean probability in each bin.
    true : (b, 3) float array
        True rate, low and high end of its interval.
    counts : (b,) int array
        Predictions in each bin.
    error : float
        The expected calibration error.

    Returns
    -------
    str
        SVG.
    """
    figure, (upper, lower) = drawing.new_two_panel_figure()
    upper.plot([0, 1], [0, 1], color=drawing.GREY, linestyle="--", linewidth=1, label="calibrated")
    upper.vlines(predicted, true[:, 1], true[:, 2], color=drawing.BLUE, linewidth=1.2)
    upper.plot(
        predicted,
        true[:, 0],
        "o",
        color=drawing.BLUE,
        markersize=6,
        label="measured",
        clip_on=False,
    )
    upper.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="true rate")
    text = f"expected calibration\nerror {error:.4f}"
    upper.annotate(
        text, (0.03, 0.8), xycoords="axes fraction", fontsize=drawing.TEXT_PT, bbox=drawing.PAPER
    )
    lower.bar(predicted, counts, width=0.03, color=drawing.GREY)
    lower.set(xlabel="predicted probability", ylabel="predictions", ylim=(0.5, 3 * counts.max()))
    drawing.set_log_heights(lower)
    drawing.add_legend(figure, upper)
    return drawing.svg_text(
        figure, f"True against predicted rate; expected calibration error {error:.4f}"
    )


def draw_learning_curve(labelled: NDArray[np.int_], intervals: Floats, *, unit: str) -> str:
    """Draw a quality measure against the number of labelled examples.

    Parameters
    ----------
    labelled : (s,) int array
    intervals : (s, 3) float array
        Value, low and high.
    unit : str

    Returns
    -------
    str
        SVG.
    """
    figure, axes = drawing.new_figure()
    value, low, high = intervals.T
    axes.fill_between(labelled, low, high, color=drawing.PALE)
    axes.plot(labelled, value, "o-", color=drawing.BLUE, markersize=6, clip_on=False)
    axes.set(xlabel="labelled examples", ylabel=unit, ylim=(0, 1.03))
    axes.set_xlim(0, max(labelled.max() * 1.03, 1))
    for number, height in zip(labelled, value, strict=True):
        is_above = height < 0.5
        axes.annotate(
            f"{height:.2f}",
            (number, height),
            xytext=(0, 7 if is_above else -7),
            textcoords="offset points",
            va="bottom" if is_above else "top",
            ha="right" if number else "left",
            fontsize=drawing.TEXT_PT - 1,
            bbox=drawing.PAPER,
        )
    return drawing.svg_text(
        figure, f"{unit} against labelled examples: {value[0]:.2f} to {value[-1]:.2f}"
    )
