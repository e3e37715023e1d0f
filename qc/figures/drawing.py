"""Common parts of the figures: colours, empty figures, axes, and SVG and PNG output.

Line drawings are SVG text for an HTML page. The same data give the same bytes, so that reports
can be compared. The colours are those of Okabe and Ito, which are distinct in every form of colour
blindness; a second sign always repeats the colour's meaning. Drawings are 13 cm wide with 11-point
text, which remains legible at the width of a telephone.
"""

import io
import re
from datetime import UTC
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

Floats = NDArray[np.float32] | NDArray[np.float64]

BLACK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
RED, BLUE = "#d55e00", "#0072b2"  # Okabe & Ito's vermilion and blue
TEXT_PT = 11
WIDTH_IN = 5.2
PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}  # behind texts
_SVG_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "qc",
    "svg.fonttype": "none",  # text remains text: small, searchable, accessible
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # of equal width, or narrower
}


def new_figure(height_in: float = 2.9, width_in: float = WIDTH_IN) -> tuple[Figure, Axes]:
    """Create a figure with one panel.

    Parameters
    ----------
    height_in, width_in : float
        Inches.

    Returns
    -------
    figure : matplotlib.figure.Figure
    axes : matplotlib.axes.Axes
    """
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    style_axes(axes)
    return figure, axes


def new_two_panel_figure() -> tuple[Figure, tuple[Axes, Axes]]:
    """Create a figure with two panels, one above the other, with a common horizontal axis."""
    figure = Figure(figsize=(WIDTH_IN, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    style_axes(upper)
    style_axes(lower)
    figure.align_ylabels()
    return figure, (upper, lower)


def style_axes(axes: Axes) -> None:
    """Set text sizes and colours, and remove the upper and right frame lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TEXT_PT - 1, colors=BLACK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(fontsize=TEXT_PT, color=BLACK)


def set_title(axes: Axes, title: str, *, pad: float | None = None) -> None:
    """Write a bold title at the left.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    title : str
    pad : float, optional
        Distance from the axes, points.
    """
    axes.set_title(title, loc="left", fontsize=TEXT_PT, fontweight="bold", pad=pad)


def set_log_heights(axes: Axes) -> None:
    """Scale heights logarithmically, with labels as 0.001 instead of small exponents."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def set_dates(axes: Axes, ticks: tuple[int, int] = (3, 6)) -> None:
    """Label the horizontal axis with dates, UTC.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    ticks : (int, int)
        Smallest and largest number of labels.
    """
    least, most = ticks
    locator = AutoDateLocator(tz=UTC, minticks=least, maxticks=most)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)
    axes.xaxis.get_offset_text().set_fontsize(TEXT_PT - 1)


def add_legend(figure: Figure, axes: Axes) -> None:
    """Write the labels of an axes' artists below the figure.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    axes : matplotlib.axes.Axes
    """
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


def add_limit(axes: Axes, limit: float, text: str, *, side: str, below: bool = False) -> None:
    """Draw a dashed horizontal line with a text at one end.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    limit : float
        Height of the line.
    text : str
    side : str
        ``left`` or ``right``.
    below : bool
        True if the text is below the line.
    """
    axes.axhline(limit, color=BLACK, linestyle="--", linewidth=1)
    axes.annotate(
        text,
        (0.01 if side == "left" else 0.99, limit),
        xycoords=("axes fraction", "data"),
        xytext=(0, -3 if below else 3),
        textcoords="offset points",
        ha=side,
        va="top" if below else "baseline",
        fontsize=TEXT_PT - 1,
        color=BLACK,
        bbox=PAPER,
        zorder=1.5,  # below the data
    )


def svg_text(figure: Figure, description: str) -> str:
    """Write a figure as SVG, without date, version or random identifiers.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    description : str
        Text for screen readers.

    Returns
    -------
    str
        An SVG element; coordinates have two decimals of a point.
    """
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(_SVG_SETTINGS):
        figure.savefig(buffer, format="svg", metadata=metadata, dpi=200)
    text = buffer.getvalue()
    element = re.sub(
        r' (?:d|x|y)="[^"]+"',
        lambda coordinates: re.sub(r"(\d\.\d\d)\d+", r"\1", coordinates[0]),
        text[text.index("<svg") :],
    )
    return element.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
