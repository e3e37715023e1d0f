"""Threshold tuning: distributions of the evidence, and precision against recall."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from qc.figures import drawing

Floats = NDArray[np.float32] | NDArray[np.float64]

GROUPS = {  # face, edge, hatch: distinct without colour
    "nominal": (drawing.PALE, drawing.GREY, ""),
    "bad": ("none", drawing.RED, "////"),
    "unlabelled": ("none", drawing.BLUE, "...."),
}
_FEW_DECADES = 60  # ratio of the ends of an axis that has labels at 1, 2 and 5


@dataclass(frozen=True)
class TuningPlotRow:
    """Evidence and limits of one image type.

    Attributes
    ----------
    title : str
    merge_heights, residuals : mapping of a group's name to (n,) float array
        Groups are those of `GROUPS`; any may be empty.
    present, proposed : (merge height, residual)
        Limits.
    curve : (precision, recall, chosen) or None
        As for `draw_precision_recall`.
    """

    title: str
    merge_heights: Mapping[str, Floats]
    residuals: Mapping[str, Floats]
    present: tuple[float, float]
    proposed: tuple[float, float]
    curve: tuple[Floats, Floats, int] | None


def draw_tuning(rows: Sequence[TuningPlotRow]) -> bytes:
    """Draw a row for each image type: merge heights, residuals, precision against recall.

    Returns
    -------
    bytes
        PNG.
    """
    figure = Figure(figsize=(12, 3.4 * len(rows) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), 3, squeeze=False)
    for row, (heights, residuals, curve) in zip(rows, grid, strict=True):
        _draw_groups(heights, row.merge_heights, row.present[0], row.proposed[0])
        _draw_groups(residuals, row.residuals, row.present[1], row.proposed[1])
        heights.set(xlabel="merge height (cosine distance)", ylabel="extensions")
        residuals.set(xlabel="residual [sigma]")
        heights.set_title(row.title, loc="left", fontsize=drawing.TEXT_PT + 1, fontweight="bold")
        if row.curve is not None:
            _draw_curve(curve, *row.curve)
        else:
            curve.set_axis_off()
            text = "recall unknown:\nno frame is labelled bad"
            style = {"ha": "center", "va": "center", "color": drawing.GREY}
            curve.text(0.5, 0.5, text, style, transform=curve.transAxes)
        for axes in (heights, residuals, curve):
            drawing.style_axes(axes)
    drawing.add_legend(figure, grid[0, 0])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def draw_precision_recall(
    precision: Floats, recall: Floats, *, chosen: int, title: str, threshold: float
) -> str:
    """Draw precision against recall, with the threshold in use.

    Parameters
    ----------
    precision, recall : (k,) float arrays
        One point per threshold, along the curve.
    chosen : int
        Index of the point of the threshold in use.
    title : str
    threshold : float
        Threshold in use, for the label.

    Returns
    -------
    str
        SVG.
    """
    figure, axes = drawing.new_figure(height_in=3.8)
    _draw_curve(axes, precision, recall, chosen, f"threshold {threshold:.2g}\n")
    drawing.set_title(axes, title)
    return drawing.svg_text(
        figure, f"{title}: precision {precision[chosen]:.2f} at recall {recall[chosen]:.2f}"
    )


def _draw_groups(axes: Axes, groups: Mapping[str, Floats], present: float, proposed: float) -> None:
    """Draw a histogram of each group on a logarithmic scale, and two limits."""
    values = np.concatenate([*groups.values(), [present, proposed]])
    lowest = values[values > 0].min()
    bins = np.geomspace(lowest / 1.5, values.max() * 1.5, 41)
    for name, (face, edge, hatch) in GROUPS.items():
        style: dict[str, Any] = {"facecolor": face, "edgecolor": edge, "hatch": hatch}
        label = f"{name}, flagged" if name == "unlabelled" else name
        heights = np.maximum(groups[name], lowest)
        axes.hist(heights, bins.tolist(), histtype="stepfilled", label=label, **style)
    axes.axvline(present, color=drawing.BLACK, linestyle="--", linewidth=1.2, label="present limit")
    axes.axvline(proposed, color=drawing.BLACK, linewidth=1.8, label="proposed limit")
    axes.set_xscale("log")
    is_narrow = bins[-1] < _FEW_DECADES * bins[0]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_narrow else (1,)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_curve(
    axes: Axes, precision: Floats, recall: Floats, chosen: int, heading: str = ""
) -> None:
    """Draw precision against recall over lines of equal F1, and mark one point."""
    for score in (0.6, 0.8, 0.9):
        _draw_equal_f1(axes, score)
    axes.plot(recall, precision, color=drawing.BLUE, linewidth=1.8, drawstyle="steps-post")
    point = float(recall[chosen]), float(precision[chosen])
    [dot] = axes.plot(*point, "D", color=drawing.RED, markersize=8, clip_on=False, zorder=5)
    dot.set_markeredgecolor(drawing.BLACK)
    axes.annotate(
        f"{heading}precision {point[1]:.2f}\nrecall {point[0]:.2f}",
        (0.04, 0.06),
        xycoords="axes fraction",
        color=drawing.BLACK,
        fontsize=drawing.TEXT_PT,
        bbox=drawing.PAPER,
    )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="recall", ylabel="precision")


def _draw_equal_f1(axes: Axes, score: float) -> None:
    """Draw the line of a constant harmonic mean of both: ``p = F r / (2 r - F)``."""
    recall = np.linspace(score / (2 - score), 1, 50)
    axes.plot(recall, score * recall / (2 * recall - score), color=drawing.PALE, linewidth=1)
    axes.annotate(
        f"F1 {score}",
        (1, score / (2 - score)),
        xytext=(-2, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=drawing.TEXT_PT - 2,
        color=drawing.GREY,
        bbox=drawing.PAPER,
        zorder=1.5,
    )
