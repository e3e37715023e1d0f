"""Values over time: metrics and scores, recall of the injection test, margins to the limits."""

import datetime as dt
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import date2num
from numpy.typing import NDArray

from qc.figures import drawing

Floats = NDArray[np.float32] | NDArray[np.float64]

DOTS_AS_SVG = 300  # more dots than this are drawn as one embedded image
LARGEST_RATIO = 1.2  # times the limit: larger medians are drawn here
STATUSES = {  # marker, fill, edge, size in points: shape and fill repeat the meaning of the colour
    "nominal": ("o", drawing.GREY, "none", 4),
    "undecided": ("o", "none", drawing.BLUE, 5),
    "anomalous": ("D", drawing.RED, drawing.BLACK, 6),
}


def draw_trend(
    times: Sequence[dt.datetime],
    values: Floats,
    statuses: Sequence[str],
    *,
    limit: float | None = None,
    title: str,
    unit: str,
    events: Sequence[tuple[dt.datetime, str]] = (),
    marked: int | None = None,
) -> str:
    """Draw a metric or a score over time.

    Parameters
    ----------
    times : sequence of n datetimes
        UTC, in any order.
    values : (n,) float array
        In `unit`; drawn logarithmically if they are positive and span more than 1000.
    statuses : sequence of n str
        ``nominal``, ``anomalous`` or ``undecided``.
    limit : float, optional
        Drawn as a line.
    title, unit : str
    events : sequence of (datetime, str)
        Interventions, drawn as vertical lines.
    marked : int, optional
        Index of the value that is marked as "this frame".

    Returns
    -------
    str
        SVG; many dots are embedded in it as one image.
    """
    figure, axes = drawing.new_figure()
    instants, names = np.array(times, "O"), np.array(statuses, "U")
    for status, (marker, fill, edge, size) in STATUSES.items():
        rows = names == status
        if rows.any():
            [dots] = axes.plot(instants[rows], values[rows], marker, label=status, markersize=size)
            dots.set(markerfacecolor=fill, markeredgecolor=edge)
            dots.set_rasterized(bool(rows.sum() > DOTS_AS_SVG))
    if values.min(initial=np.inf) > 0 and values.max() > 1000 * values.min():
        drawing.set_log_heights(axes)
    if limit is not None:
        drawing.add_limit(axes, limit, f"limit {limit:.4g}", side="right")
    if marked is not None:
        position = instants[marked], values[marked]
        [ring] = axes.plot(*position, "o", label="this frame", markersize=13)
        ring.set(markerfacecolor="none", markeredgecolor=drawing.BLACK, clip_on=False)
    _draw_events(axes, events)
    drawing.set_dates(axes)
    axes.set_ylabel(unit)
    drawing.set_title(axes, title, pad=8)
    drawing.add_legend(figure, axes)
    return drawing.svg_text(figure, f"{title} against time, {len(values)} values")


def draw_recall_trend(
    times: Sequence[dt.datetime], intervals: Floats, *, limit: float | None = None
) -> str:
    """Draw the recall of the injection test over the nights.

    Parameters
    ----------
    times : sequence of n datetimes
        UTC, oldest first.
    intervals : (n, 3) float array
        Recall, low and high end of its interval.
    limit : float, optional
        Drawn as a line; lower values are highlighted.

    Returns
    -------
    str
        SVG.
    """
    figure, axes = drawing.new_figure(2.4)
    value, low, high = intervals.T
    instants = np.array(times, "O")
    axes.vlines(instants, low, high, color=drawing.PALE, linewidth=3)
    below = value < (-np.inf if limit is None else limit)
    axes.plot(instants[~below], value[~below], "o", color=drawing.GREY, markersize=5, clip_on=False)
    [dots] = axes.plot(instants[below], value[below], "D", color=drawing.RED, clip_on=False)
    dots.set_markeredgecolor(drawing.BLACK)
    if limit is not None:
        drawing.add_limit(axes, limit, f"limit {limit:g}", side="left", below=True)
    axes.set(ylabel="faults found", ylim=(min(0.5, float(low.min())), 1.01))
    drawing.set_dates(axes)
    return drawing.svg_text(
        figure, f"Recall of the self-test on {len(value)} nights, last {value[-1]:.2f}"
    )


def draw_margins(weeks: Sequence[dt.date], ratios: Floats, *, title: str) -> str:
    """Draw the weekly evidence of good frames of one type, relative to the limits.

    Parameters
    ----------
    weeks : sequence of n dates
    ratios : (n, 2) float array
        Merge height and residual over their limits; NaN is left out, and values above 1.2 are
        drawn at 1.2.
    title : str

    Returns
    -------
    str
        SVG, half as wide as the others.
    """
    figure, axes = drawing.new_figure(height_in=1.75, width_in=2.6)
    axes.axhline(1, color=drawing.BLACK, linestyle="--", linewidth=1)
    instants = np.array([dt.datetime.combine(day, dt.time(), dt.UTC) for day in weeks], "O")
    for column, (marker, colour) in enumerate((("o", drawing.BLUE), ("D", drawing.RED))):
        finite = np.isfinite(ratios[:, column])
        heights = np.minimum(ratios[finite, column], LARGEST_RATIO)
        axes.plot(instants[finite], heights, f"{marker}-", color=colour, markersize=3, linewidth=1)
    axes.set(ylim=(0, LARGEST_RATIO + 0.05), yticks=(0, 0.5, 1))
    axes.set_xlim(instants[0], instants[-1] + dt.timedelta(days=3))
    drawing.set_dates(axes, ticks=(2, 4))
    drawing.set_title(axes, title, pad=4)
    return drawing.svg_text(figure, f"{title}: medians of {len(weeks)} weeks, 1 is the limit")


def _draw_events(axes: Axes, events: Sequence[tuple[dt.datetime, str]]) -> None:
    for instant, label in events:
        position = float(date2num(instant))  # type: ignore[no-untyped-call]
        axes.axvline(position, color=drawing.BLUE, linewidth=1, linestyle=":")
        axes.annotate(
            label,
            (position, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=drawing.TEXT_PT - 2,
            color=drawing.BLUE,
            bbox=drawing.PAPER,
        )
