"""Interactive plots as documents for BokehJS.

The plots are dark on white, as for print; the style sheet inverts them on a dark screen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bokeh import models, plotting
from bokeh.core.types import ID
from bokeh.embed import json_item
from bokeh.models.annotations import Label, Span
from bokeh.models.labeling import NoOverlap

TARGET = ID("plot")  # id of the element that holds the plot
SELECTED = "selected"  # name of the ring around the point selected by keyboard

_INK, _PAPER, _LINE = "#1b2128", "#ffffff", "#d5dae0"  # as in pages.css
_EVENT = {"intervention": "#00558c", "threshold": "#8a5a00"}
_TOOLS = "pan,wheel_zoom,box_zoom,reset,save"


def bokeh_folder() -> Path:
    """Return the folder of the scripts in the bokeh package."""
    package = find_spec("bokeh")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "server" / "static" / "js"


@dataclass(frozen=True)
class PointGroup:
    """Points with a common colour and marker.

    Attributes
    ----------
    x, y : sequences of n
    names, addresses, notes : sequences of n str
        Name, address of the page and description of each point.
    """

    name: str
    colour: str
    marker: str
    x: Sequence[Any]
    y: Sequence[float]
    names: Sequence[str]
    addresses: Sequence[str]
    notes: Sequence[str]


@dataclass(frozen=True)
class VerticalMark:
    """A vertical line with a label."""

    at: datetime
    kind: str
    label: str


def scatter(
    groups: Sequence[PointGroup],
    *,
    x_label: str,
    y_label: str,
    is_time: bool,
    marks: Sequence[VerticalMark] = (),
    limit: tuple[Sequence[datetime], Sequence[float]] | None = None,
) -> Mapping[str, Any]:
    """Return a scatter plot whose points link to pages, by click or by the keys of `plot.js`.

    Parameters
    ----------
    groups : sequence of PointGroup
    x_label, y_label : str
    is_time : bool
        True if x is a naive datetime in UTC.
    marks : sequence of VerticalMark
    limit : tuple of sequences, optional
        Times and values of a dashed line.

    Returns
    -------
    mapping
        JSON item of BokehJS.
    """
    figure = plotting.figure(
        x_axis_type="datetime" if is_time else "linear",
        height=420,
        sizing_mode="stretch_width",
        tools=_TOOLS,
        active_drag="pan",
        x_axis_label=x_label,
        y_axis_label=y_label,
    )
    renderers: list[Any] = []
    for group in groups:
        columns: dict[str, Any] = {
            "x": list(group.x),
            "y": list(group.y),
            "name": list(group.names),
            "address": list(group.addresses),
            "note": list(group.notes),
        }
        renderer = figure.scatter(
            "x",
            "y",
            source=models.ColumnDataSource(columns),
            size=6 if group.marker == "circle" else 9,
            marker=group.marker,
            color=group.colour,
            alpha=0.75,
            legend_label=group.name,
            name=group.name,
        )
        renderers.append(renderer)
    if limit and limit[0]:
        figure.line(list(limit[0]), list(limit[1]), color=_EVENT["threshold"], line_dash="dashed")
    for number, mark in enumerate(marks):
        add_mark(figure, mark, number)
    figure.scatter(
        "x",
        "y",
        source=models.ColumnDataSource({"x": [], "y": []}),
        size=18,
        fill_alpha=0,
        line_color=_INK,
        line_width=3,
        name=SELECTED,
    )
    figure.add_tools(
        models.HoverTool(tooltips=[("frame", "@name"), ("", "@note")], renderers=renderers),
        models.TapTool(callback=models.OpenURL(url="@address", same_tab=True), renderers=renderers),
    )
    apply_style(figure)
    document: Mapping[str, Any] = json_item(figure, TARGET)
    return document


def add_mark(figure: Any, mark: VerticalMark, number: int) -> None:
    """Add a vertical line with its label.

    Parameters
    ----------
    figure : bokeh figure
    mark : VerticalMark
    number : int
        Position in the sequence; labels of neighbours are staggered.
    """
    colour = _EVENT[mark.kind]
    x_ms = mark.at.timestamp() * 1000
    figure.add_layout(
        Span(location=x_ms, dimension="height", line_color=colour, line_dash="dotted")
    )
    figure.add_layout(
        Label(
            x=x_ms,
            y=4 + 15 * (number % 4),
            y_units="screen",
            x_offset=3,
            text=mark.label[:40],
            text_color=colour,
            text_font_size="11px",
            background_fill_color=_PAPER,
            background_fill_alpha=0.8,
        )
    )


def apply_style(figure: Any) -> None:
    """Set the colours of axes, grid and legend."""
    figure.toolbar.logo = None
    figure.background_fill_color = figure.border_fill_color = _PAPER
    figure.outline_line_color = _LINE
    figure.grid.grid_line_color = _LINE
    for axis in figure.axis:
        axis.major_label_policy = NoOverlap()
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = _LINE
        axis.major_label_text_color = axis.axis_label_text_color = _INK
    if figure.legend:
        figure.add_layout(figure.legend[0], "above")  # inside the plot it would hide points
        figure.legend.orientation = "horizontal"
        figure.legend.click_policy = "hide"
        figure.legend.background_fill_color, figure.legend.label_text_color = _PAPER, _INK
        figure.legend.border_line_color = _LINE
        figure.legend.label_text_font_size = "11px"
