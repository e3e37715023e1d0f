"""Pictures for the report and the review pages: data in, picture out.

Images are PNG bytes, line drawings are SVG text ready to stand inside an HTML page. The same data
give the same bytes, so that a report can be compared with yesterday's. The colours are Okabe and
Ito's, which colour-blind readers can tell apart, and no meaning hangs on colour alone. Drawings
are 13 cm wide with 11-point text: still readable when a telephone shrinks them to its width.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.hierarchy import leaves_list

Floats = NDArray[np.float32] | NDArray[np.float64]

BLACK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
RED, BLUE = "#d55e00", "#0072b2"  # Okabe & Ito's vermilion and blue
HEAT = (213, 94, 0)  # RED as RGB
TEXT_PT = 11
GREYS = 48  # more cannot be told apart, and a noisy picture of more would not be small
BELOW, WITHIN, ABOVE = (0, 90, 158), (244, 243, 241), (200, 80, 0)  # blue, off-white, orange
STEPS = 10  # from the middle to either end of a difference: few, so that the picture is small
LEAST_REACH, MOST_REACH = 5.0, 20.0  # sigma: a faint fault is seen, a gross one saturates
HEAT_OPACITY = 0.8  # at full strength: what lies beneath must remain visible
HEAT_STARTS, HEAT_ENDS = 1.0, 10.0  # times what good frames show: clear up to, full from
HEAT_LEAST = 0.25  # of full strength: where a map begins must be seen
DOTS_AS_SVG = 300  # more dots than this are drawn as one embedded image
MOST_AGED = 1.2  # times the limit: a median above is beyond it, by how much is no matter
PROFILE_POINTS = 256  # about one per printed half millimetre
STATUSES = {  # marker, fill, edge, size in points: shape and fill say it again without colour
    "nominal": ("o", GREY, "none", 4),
    "undecided": ("o", "none", BLUE, 5),
    "anomalous": ("D", RED, BLACK, 6),
}


def limits(*images: Floats, least_span_adu: float = 10.0) -> tuple[float, float]:
    """Choose one black and one white for pictures that are to be compared.

    Parameters
    ----------
    images : (h, w) float arrays
        ADU; each may have its own shape.
    least_span_adu : float
        Keeps the noise of an empty frame from looking dramatic.

    Returns
    -------
    vmin, vmax : float
        ADU: the lowest of all 0.5 and the highest of all 99.5 percentiles.
    """
    ends = np.array([np.nanpercentile(image, [0.5, 99.5]) for image in images])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    short = max(least_span_adu - (high - low), 0) / 2
    return low - short, high + short


def thumbnail(
    statistic: Floats,
    *,
    zero_adu: float,
    scale_adu: float,
    aspect: float,
    vmin: float | None = None,
    vmax: float | None = None,
    overlay: Floats | None = None,
) -> bytes:
    """Draw one block statistic of an extension in grey, row 0 at the bottom.

    The stretch is ``asinh((value - zero_adu) / scale_adu)`` between fixed ends, so that equal
    greys mean equal counts in every picture drawn with the same ends.

    Parameters
    ----------
    statistic : (h, w) float array
        ADU.
    zero_adu, scale_adu : float
        Where the stretch is steepest, and up to where it is nearly linear.
    aspect : float
        Height over width of the detector's light-sensitive area.
    vmin, vmax : float, optional
        Black and white, ADU; those of `limits` where absent.
    overlay : (a, b) float array, optional
        A heat map over the whole picture, 0 (clear) to 1 (as strong as it gets). Its scale is the
        caller's: a map normalised to its own maximum would glow on good frames too.

    Returns
    -------
    bytes
        PNG with a palette, `w` pixels wide.
    """
    low, high = limits(statistic)
    low, high = low if vmin is None else vmin, high if vmax is None else vmax
    black, value, white = (
        np.arcsinh((level - zero_adu) / scale_adu) for level in (low, statistic, high)
    )
    shown = np.nan_to_num((value - black) / max(white - black, 1e-9)).clip(0, 1)
    grey = (np.rint(shown * (GREYS - 1)) * (255 / (GREYS - 1))).astype(np.uint8)[::-1]
    picture = _shaped(Image.fromarray(grey), aspect)
    if overlay is not None:
        picture = _with_heat(picture, overlay[::-1])
    return _png(picture)


def heat(times: Floats) -> Floats:
    """Turn a map of oddness into an overlay, by one logarithmic scale for every frame.

    Parameters
    ----------
    times : (h, w) float array
        As odd as good frames get is 1; up to there the overlay is clear.

    Returns
    -------
    (h, w) float array, 0 to 1
    """
    decades = np.log(np.maximum(times, HEAT_STARTS) / HEAT_STARTS) / np.log(HEAT_ENDS / HEAT_STARTS)
    strength = HEAT_LEAST + (1 - HEAT_LEAST) * decades.clip(0, 1)
    return np.where(times > HEAT_STARTS, strength, 0)


def reach(away: Floats) -> float:
    """Choose the ends of a difference map: what one block in 200 exceeds, within 5 to 20 sigma.

    Parameters
    ----------
    away : (h, w) float array
        Sigma.
    """
    furthest = float(np.nanpercentile(np.abs(away), 99.5))
    return float(np.ceil(np.clip(furthest, LEAST_REACH, MOST_REACH)))


def difference(away: Floats, *, aspect: float, reach_sigma: float) -> bytes:
    """Draw how far an extension is from its references, row 0 at the bottom.

    Off-white is as usual, blue below and orange above: neighbours in no kind of colour blindness.

    Parameters
    ----------
    away : (h, w) float array
        Sigma.
    aspect : float
        Height over width of the detector's light-sensitive area.
    reach_sigma : float
        Where the colours end, on either side.

    Returns
    -------
    bytes
        PNG with a palette, `w` pixels wide.
    """
    level = np.rint(np.nan_to_num(away / reach_sigma).clip(-1, 1) * STEPS) + STEPS
    picture = Image.fromarray(level.astype(np.uint8)[::-1], "P")
    picture.putpalette(_diverging())
    return _png(_shaped(picture, aspect))


def dendrogram(merges: Floats, *, threshold: float, marked: int) -> str:
    """Draw the tree of a reference and one new frame, with the height at which it is cut.

    Heights are drawn on a logarithmic scale: cosine distances of good frames differ by decades.

    Parameters
    ----------
    merges : (n - 1, 4) float array
        As `scipy.cluster.hierarchy.linkage` returns them.
    threshold : float
        Cosine distance above which a frame stands apart.
    marked : int
        Index of the new frame among the n leaves.

    Returns
    -------
    str
        SVG.
    """
    links, holds_marked = _links(merges, marked)  # (n - 1, 4, 2), (n - 1,)
    heights = merges[:, 2]
    lowest = min(heights[heights > 0].min(initial=threshold), threshold) / 3
    links[..., 1] = links[..., 1].clip(lowest)
    joins_at = float(heights[holds_marked].min())
    colour = RED if joins_at > threshold else BLUE
    figure, axes = _drawing()
    axes.add_collection(LineCollection(list(links[~holds_marked]), colors=GREY, linewidths=0.7))
    axes.add_collection(LineCollection(list(links[holds_marked]), colors=colour, linewidths=0.9))
    place = _leaf_places(merges)[marked]
    axes.plot([place, place], [lowest, joins_at], color=colour, linewidth=2.5)
    axes.set(xlim=(-1, len(merges) + 1), ylim=(lowest, max(heights.max(), threshold) * 3))
    axes.set(xticks=[], ylabel="cosine distance")
    _make_logarithmic(axes)
    _label_leaf(axes, f"this frame: {joins_at:.2g}", (place, max(heights.max(), lowest)), colour)
    axes.axhline(threshold, color=BLACK, linestyle="--", linewidth=1)
    _note(axes, f"threshold {threshold:.2g}", threshold, side=_free_side(place / len(merges)))
    return _svg(figure, f"Tree of {len(merges) + 1} frames; the new one joins at {joins_at:.2g}")


def trend(
    times: Sequence[datetime],
    values: Floats,
    statuses: Sequence[str],
    *,
    limit: float | None = None,
    title: str,
    unit: str,
    events: Sequence[tuple[datetime, str]] = (),
    marked: int | None = None,
) -> str:
    """Draw a metric or a score against time.

    Parameters
    ----------
    times : sequence of n datetimes
        UTC, in any order.
    values : (n,) float array
        In `unit`; drawn logarithmically where they are positive and span more than 1000.
    statuses : sequence of n str
        ``nominal``, ``anomalous`` or ``undecided``.
    limit : float, optional
        Drawn as a line.
    events : sequence of (when, label)
        Interventions, drawn as vertical lines.
    marked : int, optional
        Index of the value that the drawing is about.

    Returns
    -------
    str
        SVG; many dots are embedded in it as one image.
    """
    figure, axes = _drawing()
    when, found = np.array(times, "O"), np.array(statuses, "U")
    for status, (marker, fill, edge, size) in STATUSES.items():
        these = found == status
        if these.any():
            [dots] = axes.plot(when[these], values[these], marker, label=status, markersize=size)
            dots.set(markerfacecolor=fill, markeredgecolor=edge)
            dots.set_rasterized(bool(these.sum() > DOTS_AS_SVG))
    if values.min(initial=np.inf) > 0 and values.max() > 1000 * values.min():
        _make_logarithmic(axes)
    if limit is not None:
        axes.axhline(limit, color=BLACK, linestyle="--", linewidth=1)
        _note(axes, f"limit {limit:.4g}", limit, side="right")
    if marked is not None:
        [ring] = axes.plot(when[marked], values[marked], "o", label="this frame", markersize=13)
        ring.set(markerfacecolor="none", markeredgecolor=BLACK, clip_on=False)
    _draw_events(axes, events)
    _date_axis(axes)
    axes.set_ylabel(unit)
    axes.set_title(title, loc="left", fontsize=TEXT_PT, fontweight="bold", pad=8)
    _legend(figure, axes)
    return _svg(figure, f"{title} against time, {len(values)} values")


def recall_trend(times: Sequence[datetime], spread: Floats, *, limit: float | None = None) -> str:
    """Draw which part of the injected faults was found, night by night.

    Parameters
    ----------
    times : sequence of n datetimes
        UTC, oldest first.
    spread : (n, 3) float array
        Recall, low and high end of its interval.
    limit : float, optional
        Drawn as a line; what is below it stands out.

    Returns
    -------
    str
        SVG.
    """
    figure, axes = _drawing(2.4)
    value, low, high = spread.T
    when = np.array(times, "O")
    axes.vlines(when, low, high, color=PALE, linewidth=3)
    below = value < (-np.inf if limit is None else limit)
    axes.plot(when[~below], value[~below], "o", color=GREY, markersize=5, clip_on=False)
    axes.plot(when[below], value[below], "D", color=RED, markeredgecolor=BLACK, clip_on=False)
    if limit is not None:
        axes.axhline(limit, color=BLACK, linestyle="--", linewidth=1)
        _note(axes, f"limit {limit:g}", limit, side="left", below=True)
    axes.set(ylabel="faults found", ylim=(min(0.5, float(low.min())), 1.01))
    _date_axis(axes)
    return _svg(figure, f"Recall of the self-test on {len(value)} nights, last {value[-1]:.2f}")


def ageing(weeks: Sequence[date], ratios: Floats, *, title: str) -> str:
    """Draw how near to their limits good frames of a type come, week by week: one of many, small.

    Parameters
    ----------
    weeks : sequence of n dates
    ratios : (n, 2) float array
        Merge height and residual, 1 is the limit; what is not a number is left out, and what is
        above 1.2 is drawn there.

    Returns
    -------
    str
        SVG, half as wide as the others.
    """
    figure, axes = _drawing(height_in=1.75, width_in=2.6)
    axes.axhline(1, color=BLACK, linestyle="--", linewidth=1)
    when = np.array([datetime.combine(day, time(), UTC) for day in weeks], "O")
    for column, (marker, colour) in enumerate((("o", BLUE), ("D", RED))):
        known = np.isfinite(ratios[:, column])
        heights = np.minimum(ratios[known, column], MOST_AGED)
        axes.plot(when[known], heights, f"{marker}-", color=colour, markersize=3, linewidth=1)
    axes.set(ylim=(0, MOST_AGED + 0.05), yticks=(0, 0.5, 1))
    axes.set_xlim(when[0], when[-1] + timedelta(days=3))
    _date_axis(axes, ticks=(2, 4))
    axes.set_title(title, loc="left", fontsize=TEXT_PT, fontweight="bold", pad=4)
    return _svg(figure, f"{title}: medians of {len(weeks)} weeks, 1 is the limit")


def profile(
    reference_lo: Floats,
    reference_mid: Floats,
    reference_hi: Floats,
    new: Floats,
    *,
    along: str = "row",
    unit: str = "ADU",
) -> str:
    """Draw a row or column profile over the band of its references, and the difference below.

    Where thousands of points fall on hundreds, the band keeps its width and the new profile
    keeps its outliers.

    Parameters
    ----------
    reference_lo, reference_mid, reference_hi, new : (n,) float arrays
        In `unit`, e.g. percentiles 1, 50 and 99 of the references, and the new frame.
    along : str
        What is counted along the horizontal axis.

    Returns
    -------
    str
        SVG.
    """
    starts, low, middle, high, drawn = _thinned(reference_lo, reference_mid, reference_hi, new)
    outside = (drawn < low) | (drawn > high)
    figure, (upper, lower) = _two_panels()
    for axes, zero in ((upper, np.zeros_like(middle)), (lower, middle)):
        axes.fill_between(starts, low - zero, high - zero, color=PALE, label="references")
        axes.plot(starts, drawn - zero, color=BLUE, linewidth=1, label="this frame")
        where = starts[outside], (drawn - zero)[outside]
        axes.plot(*where, ".", color=RED, markersize=5, label="outside")
    upper.plot(starts, middle, color=GREY, linewidth=0.6)
    lower.axhline(0, color=GREY, linewidth=0.6)
    lower.set(xlabel=along, ylabel=f"difference\n[{unit}]")
    upper.set(ylabel=f"[{unit}]", xlim=(0, len(new)))
    _legend(figure, upper)
    share = np.mean((new < reference_lo) | (new > reference_hi))
    return _svg(figure, f"Profile along {along}: {share:.1%} outside the references")


def precision_recall(
    precision: Floats, recall: Floats, *, chosen: int, title: str, threshold: float
) -> str:
    """Draw precision against recall, with the threshold in use.

    Parameters
    ----------
    precision, recall : (k,) float arrays
        One point per threshold, along the curve.
    chosen : int
        Index of the point of the threshold in use.
    threshold : float
        Its value, for the label.

    Returns
    -------
    str
        SVG.
    """
    figure, axes = _drawing(height_in=3.8)
    _draw_curve(axes, precision, recall, chosen, f"threshold {threshold:.2g}\n")
    axes.set_title(title, loc="left", fontsize=TEXT_PT, fontweight="bold")
    at = recall[chosen], precision[chosen]
    return _svg(figure, f"{title}: precision {at[1]:.2f} at recall {at[0]:.2f}")


@dataclass(frozen=True)
class TuningPlotRow:
    """What there is to see of one image type's limits.

    Attributes
    ----------
    merge_heights, residuals : mapping of a group's name to (n,) float array
        Groups are those of `GROUPS`; any may be empty.
    present, proposed : (merge height, residual)
        Limits.
    curve : (precision, recall, chosen) or None
        As for `precision_recall`.
    """

    title: str
    merge_heights: Mapping[str, Floats]
    residuals: Mapping[str, Floats]
    present: tuple[float, float]
    proposed: tuple[float, float]
    curve: tuple[Floats, Floats, int] | None


def tuning(rows: Sequence[TuningPlotRow]) -> bytes:
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
        heights.set_title(row.title, loc="left", fontsize=TEXT_PT + 1, fontweight="bold")
        _draw_curve_or_none(curve, row.curve)
        for axes in (heights, residuals, curve):
            _tidy(axes)
    _legend(figure, grid[0, 0])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


GROUPS = {  # face, edge, hatch: told apart without colour
    "nominal": (PALE, GREY, ""),
    "bad": ("none", RED, "////"),
    "unlabelled": ("none", BLUE, "...."),
}


def _draw_groups(axes: Axes, groups: Mapping[str, Floats], present: float, proposed: float) -> None:
    """Draw how many there are of each value, on a logarithmic scale, and two limits."""
    every = np.concatenate([*groups.values(), [present, proposed]])
    lowest = every[every > 0].min()
    bins = np.geomspace(lowest / 1.5, every.max() * 1.5, 41)
    for name, (face, edge, hatch) in GROUPS.items():
        values = np.maximum(groups[name], lowest)
        look: dict[str, Any] = {"facecolor": face, "edgecolor": edge, "hatch": hatch}
        shown = f"{name}, flagged" if name == "unlabelled" else name
        axes.hist(values, bins.tolist(), histtype="stepfilled", label=shown, **look)
    axes.axvline(present, color=BLACK, linestyle="--", linewidth=1.2, label="present limit")
    axes.axvline(proposed, color=BLACK, linewidth=1.8, label="proposed limit")
    axes.set_xscale("log")
    narrow = bins[-1] < _FEW_DECADES * bins[0]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


_FEW_DECADES = 60


def _draw_curve_or_none(axes: Axes, curve: tuple[Floats, Floats, int] | None) -> None:
    if curve is not None:
        _draw_curve(axes, *curve)
        return
    axes.set_axis_off()
    text = "recall unknown:\nno frame is labelled bad"
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def _draw_curve(
    axes: Axes, precision: Floats, recall: Floats, chosen: int, heading: str = ""
) -> None:
    """Draw precision against recall over lines of equal F1, and mark one point."""
    for score in (0.6, 0.8, 0.9):
        _draw_equal_f1(axes, score)
    axes.plot(recall, precision, color=BLUE, linewidth=1.8, drawstyle="steps-post")
    at = float(recall[chosen]), float(precision[chosen])
    axes.plot(*at, "D", color=RED, markeredgecolor=BLACK, markersize=8, clip_on=False, zorder=5)
    text = f"{heading}precision {at[1]:.2f}\nrecall {at[0]:.2f}"
    axes.annotate(
        text, (0.04, 0.06), xycoords="axes fraction", color=BLACK, fontsize=TEXT_PT, bbox=_PAPER
    )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="recall", ylabel="precision")


def confusion(
    counts: NDArray[np.int_], rows: Sequence[str], columns: Sequence[str], *, title: str
) -> str:
    """Draw what is taken for what: how many in each cell, and as colour their share of the row.

    Parameters
    ----------
    counts : (r, c) int array
    rows, columns : sequences of r and c str
        What is true, and what was said.

    Returns
    -------
    str
        SVG, larger than other drawings where there are many classes.
    """
    width, height = (_CELL_IN * len(names) + _NAMES_IN for names in (columns, rows))
    figure = Figure(figsize=(max(width, 5.2), height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colours = LinearSegmentedColormap.from_list("shares", ["white", BLUE])
    axes.imshow(share, cmap=colours, vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        ink = "white" if share[row, column] > 0.5 else BLACK
        number = str(counts[row, column])
        axes.text(column, row, number, ha="center", va="center", fontsize=9, color=ink)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="said", ylabel="true")
    _tidy(axes)
    axes.tick_params(length=0)
    axes.set_title(title, loc="left", fontsize=TEXT_PT, fontweight="bold")
    right = float(np.trace(counts[:, : len(rows)])) / max(counts.sum(), 1)
    return _svg(figure, f"{title}: {right:.1%} on the diagonal")


_CELL_IN = 0.27
_NAMES_IN = 2.0  # the longest name of a class, along either side


def spans(names: Sequence[str], groups: Mapping[str, Floats], *, unit: str) -> str:
    """Draw values with their intervals, a line for each name.

    Parameters
    ----------
    groups : mapping of a label to (n, 3) float array
        Value, low and high; a value that is not a number is left out. At most two.

    Returns
    -------
    str
        SVG.
    """
    figure, axes = _drawing(height_in=0.3 * len(names) + 1.2)
    looks = (("o", BLUE, -0.16), ("D", RED, 0.16))
    for (label, spread), (marker, colour, shift) in zip(groups.items(), looks, strict=False):
        known = np.isfinite(spread[:, 0])
        at = np.arange(len(names))[known] + shift
        value, low, high = spread[known].T
        axes.hlines(at, low, high, color=colour, linewidth=1.2)
        axes.plot(value, at, marker, color=colour, markersize=5, label=label, clip_on=False)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, 1.02), xlabel=unit)
    axes.grid(axis="y", color=PALE, linewidth=0.5)
    _legend(figure, axes)
    return _svg(figure, f"{' and '.join(groups)} of {len(names)} classes")


def calibration(promised: Floats, true: Floats, counts: NDArray[np.int_], *, error: float) -> str:
    """Draw how often what was promised is true, and how often it was promised.

    Parameters
    ----------
    promised : (b,) float array
        Mean probability in each bin.
    true : (b, 3) float array
        How often it was true, low and high end of its interval.
    counts : (b,) int array
        Answers in each bin.
    error : float
        The expected calibration error.

    Returns
    -------
    str
        SVG.
    """
    figure, (upper, lower) = _two_panels()
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as promised")
    upper.vlines(promised, true[:, 1], true[:, 2], color=BLUE, linewidth=1.2)
    upper.plot(promised, true[:, 0], "o", color=BLUE, markersize=6, label="found", clip_on=False)
    upper.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="true rate")
    text = f"expected calibration\nerror {error:.4f}"
    upper.annotate(text, (0.03, 0.8), xycoords="axes fraction", fontsize=TEXT_PT, bbox=_PAPER)
    lower.bar(promised, counts, width=0.03, color=GREY)
    lower.set(xlabel="promised probability", ylabel="answers", ylim=(0.5, 3 * counts.max()))
    _make_logarithmic(lower)
    _legend(figure, upper)
    return _svg(figure, f"True against promised rate; expected calibration error {error:.4f}")


def learning_curve(labelled: NDArray[np.int_], spread: Floats, *, unit: str) -> str:
    """Draw how a figure grows with the number of labelled examples.

    Parameters
    ----------
    labelled : (s,) int array
    spread : (s, 3) float array
        Value, low and high.

    Returns
    -------
    str
        SVG.
    """
    figure, axes = _drawing()
    value, low, high = spread.T
    axes.fill_between(labelled, low, high, color=PALE)
    axes.plot(labelled, value, "o-", color=BLUE, markersize=6, clip_on=False)
    axes.set(xlabel="labelled examples", ylabel=unit, ylim=(0, 1.03))
    axes.set_xlim(0, max(labelled.max() * 1.03, 1))
    for at, height in zip(labelled, value, strict=True):
        above = height < 0.5
        axes.annotate(
            f"{height:.2f}",
            (at, height),
            xytext=(0, 7 if above else -7),
            textcoords="offset points",
            va="bottom" if above else "top",
            ha="right" if at else "left",
            fontsize=TEXT_PT - 1,
            bbox=_PAPER,
        )
    return _svg(figure, f"{unit} against labelled examples: {value[0]:.2f} to {value[-1]:.2f}")


_SVG_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "qc",
    "svg.fonttype": "none",  # text remains text: small, searchable, read aloud
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # equally wide, or narrower
}
_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}


def _with_heat(picture: Image.Image, heat: Floats) -> Image.Image:
    smooth = Image.fromarray(heat.astype(np.float32)).resize(
        picture.size, Image.Resampling.BILINEAR
    )
    opacity = HEAT_OPACITY * np.asarray(smooth).clip(0, 1)[..., np.newaxis]  # (h, w, 1)
    grey = np.asarray(picture, np.float32)[..., np.newaxis]
    mixed = (1 - opacity) * grey + opacity * np.array(HEAT, np.float32)  # (h, w, 3)
    return Image.fromarray(np.rint(mixed).astype(np.uint8)).quantize(GREYS)


def _shaped(picture: Image.Image, aspect: float) -> Image.Image:
    # Repeated rows are sharp, and cost nothing once compressed; interpolated ones do.
    height = round(picture.width * aspect)
    return picture.resize((picture.width, height), Image.Resampling.NEAREST)


def _diverging() -> bytes:
    """Return the palette of a difference, from below to above."""
    places = np.arange(-STEPS, STEPS + 1)
    channels = [
        np.interp(places, (-STEPS, 0, STEPS), ends)
        for ends in zip(BELOW, WITHIN, ABOVE, strict=True)
    ]
    return np.rint(np.column_stack(channels)).astype(np.uint8).tobytes()


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _drawing(height_in: float = 2.9, width_in: float = 5.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _tidy(axes)
    return figure, axes


def _make_logarithmic(axes: Axes) -> None:
    """Scale heights by decades, and label them 0.001 and not with a tiny raised -3."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _two_panels() -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=(5.2, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    _tidy(upper)
    _tidy(lower)
    figure.align_ylabels()
    return figure, (upper, lower)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TEXT_PT - 1, colors=BLACK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(fontsize=TEXT_PT, color=BLACK)


def _note(axes: Axes, text: str, height: float, *, side: str, below: bool = False) -> None:
    """Write just above or below a horizontal line, at one end of it."""
    axes.annotate(
        text,
        (0.01 if side == "left" else 0.99, height),
        xycoords=("axes fraction", "data"),
        xytext=(0, -3 if below else 3),
        textcoords="offset points",
        ha=side,
        va="top" if below else "baseline",
        fontsize=TEXT_PT - 1,
        color=BLACK,
        bbox=_PAPER,
        zorder=1.5,  # data are drawn over it
    )


def _svg(figure: Figure, description: str) -> str:
    """Write without date, version or random identifiers, and with two decimals of a point."""
    buffer = io.StringIO()
    nameless = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(_SVG_SETTINGS):
        figure.savefig(buffer, format="svg", metadata=nameless, dpi=200)
    text = buffer.getvalue()
    drawing = re.sub(r' (?:d|x|y)="[^"]+"', _shortened, text[text.index("<svg") :])
    return drawing.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def _shortened(coordinates: re.Match[str]) -> str:
    return re.sub(r"(\d\.\d\d)\d+", r"\1", coordinates[0])


def _leaf_places(merges: Floats) -> NDArray[np.int64]:
    """Horizontal place of each leaf, such that no branches cross; (n,)."""
    order = leaves_list(np.asarray(merges, np.float64))
    return np.argsort(order)


def _links(merges: Floats, marked: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Compute the brackets of the tree, and which of them hold the marked leaf.

    Returns
    -------
    links : (n - 1, 4, 2) float64 array
        Four corners (place, height) of each merge.
    holds_marked : (n - 1,) bool array
    """
    leaves = len(merges) + 1
    nodes = np.zeros((2 * leaves - 1, 2))  # place and height of each leaf, then of each merge
    nodes[:leaves, 0] = _leaf_places(merges)
    holds = np.zeros(2 * leaves - 1, bool)
    holds[marked] = True
    links = np.empty((leaves - 1, 4, 2))
    for number, (left, right) in enumerate(merges[:, :2].astype(int)):
        ends, height = nodes[[left, right]], merges[number, 2]
        links[number, [0, 3]] = ends
        links[number, [1, 2]] = np.column_stack([ends[:, 0], [height, height]])
        nodes[leaves + number] = ends[:, 0].mean(), height
        holds[leaves + number] = holds[left] or holds[right]
    return links, holds[leaves:]


def _free_side(place: float) -> str:
    """Return where the label of a leaf at 0 (left) to 1 is not: it runs towards the middle."""
    return "left" if 0.3 < place <= 0.5 or place > 0.7 else "right"


def _label_leaf(axes: Axes, text: str, above: tuple[float, float], colour: str) -> None:
    """Write above the tree, away from the nearer edge."""
    on_the_right = above[0] > np.mean(axes.get_xlim())
    axes.annotate(
        text,
        above,
        xytext=(0, 4),
        textcoords="offset points",
        ha="right" if on_the_right else "left",
        color=colour,
        fontsize=TEXT_PT,
        fontweight="bold",
        bbox=_PAPER,
    )


def _draw_events(axes: Axes, events: Sequence[tuple[datetime, str]]) -> None:
    for when, label in events:
        place = float(date2num(when))  # type: ignore[no-untyped-call]
        axes.axvline(place, color=BLUE, linewidth=1, linestyle=":")
        axes.annotate(
            label,
            (place, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=TEXT_PT - 2,
            color=BLUE,
            bbox=_PAPER,
        )


def _date_axis(axes: Axes, ticks: tuple[int, int] = (3, 6)) -> None:
    least, most = ticks
    locator = AutoDateLocator(tz=UTC, minticks=least, maxticks=most)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)
    axes.xaxis.get_offset_text().set_fontsize(TEXT_PT - 1)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            frameon=False,
            fontsize=TEXT_PT,
            ncols=4,
            columnspacing=1,
        )


def _thinned(
    low: Floats, middle: Floats, high: Floats, new: Floats
) -> tuple[NDArray[np.int64], Floats, Floats, Floats, Floats]:
    """Reduce profiles to a few hundred points: where they start, (k,), and their values, (k,).

    The new profile is represented by the value furthest from the middle of the band.
    """
    starts = np.unique(np.linspace(0, len(new), PROFILE_POINTS, endpoint=False).astype(int))
    lengths = np.diff(starts, append=len(new))
    away = new - middle
    peaks, dips = np.maximum.reduceat(away, starts), np.minimum.reduceat(away, starts)
    furthest = np.where(peaks > -dips, peaks, dips)
    mean = np.add.reduceat(middle, starts) / lengths
    below = np.minimum.reduceat(low - middle, starts)
    above = np.maximum.reduceat(high - middle, starts)
    return starts, mean + below, mean, mean + above, mean + furthest


def _draw_equal_f1(axes: Axes, score: float) -> None:
    """Draw where precision and recall have one harmonic mean: ``p = F r / (2 r - F)``."""
    recall = np.linspace(score / (2 - score), 1, 50)
    axes.plot(recall, score * recall / (2 * recall - score), color=PALE, linewidth=1)
    axes.annotate(
        f"F1 {score}",
        (1, score / (2 - score)),
        xytext=(-2, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=TEXT_PT - 2,
        color=GREY,
        bbox=_PAPER,
        zorder=1.5,
    )
