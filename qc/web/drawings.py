"""Plots that answer to mouse and keys, as documents that BokehJS draws; and where BokehJS is.

They are drawn dark on white, as paper wants them; on a dark screen the sheet `past.css` turns them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bokeh.core.types import ID
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, HoverTool, OpenURL, TapTool
from bokeh.models.annotations import Label, Span
from bokeh.models.labeling import NoOverlap
from bokeh.plotting import figure

TARGET = ID("plot")  # the element that is drawn into

CHOSEN = "chosen"  # the ring around the point that keys have led to

_INK, _PAPER, _LINE = "#1b2128", "#ffffff", "#d5dae0"  # as in pages.css
_EVENT = {"intervention": "#00558c", "threshold": "#8a5a00"}
_TOOLS = "pan,wheel_zoom,box_zoom,reset,save"


def bokeh_folder() -> Path:
    """Return the folder of the scripts that came with the bokeh package."""
    found = find_spec("bokeh")
    assert found is not None  # a dependency
    assert found.origin is not None
    return Path(found.origin).parent / "server" / "static" / "js"


@dataclass(frozen=True)
class PointGroup:
    """A group of points of one look.

    Attributes
    ----------
    x, y : sequences of n
    names, addresses, told : sequences of n str
        What each is, where its page is, and what else there is to say of it.
    """

    name: str
    colour: str
    marker: str
    x: Sequence[Any]
    y: Sequence[float]
    names: Sequence[str]
    addresses: Sequence[str]
    told: Sequence[str]


@dataclass(frozen=True)
class VerticalMark:
    """A vertical line with words."""

    at: datetime
    kind: str
    words: str


def scatter(
    groups: Sequence[PointGroup],
    *,
    across: str,
    up: str,
    is_time: bool,
    marks: Sequence[VerticalMark] = (),
    limit: tuple[Sequence[datetime], Sequence[float]] | None = None,
) -> Mapping[str, Any]:
    """Return points over time, or on a plane, that lead to their pages.

    A click does, and so do the keys of `plot.js`, which go from point to point and ring them.
    """
    drawn = figure(
        x_axis_type="datetime" if is_time else "linear",
        height=420,
        sizing_mode="stretch_width",
        tools=_TOOLS,
        active_drag="pan",
        x_axis_label=across,
        y_axis_label=up,
    )
    dots: list[Any] = []
    for group in groups:
        source = ColumnDataSource(
            {
                "x": list(group.x),
                "y": list(group.y),
                "name": list(group.names),
                "address": list(group.addresses),
                "told": list(group.told),
            }
        )
        one = drawn.scatter(
            "x",
            "y",
            source=source,
            size=6 if group.marker == "circle" else 9,
            marker=group.marker,
            color=group.colour,
            alpha=0.75,
            legend_label=group.name,
            name=group.name,
        )
        dots.append(one)
    if limit and limit[0]:
        drawn.line(list(limit[0]), list(limit[1]), color=_EVENT["threshold"], line_dash="dashed")
    for number, mark in enumerate(marks):
        _draw_mark(drawn, mark, number)
    _draw_ring(drawn)
    drawn.add_tools(
        HoverTool(tooltips=[("frame", "@name"), ("", "@told")], renderers=dots),
        TapTool(callback=OpenURL(url="@address", same_tab=True), renderers=dots),
    )
    _dress(drawn)
    document: Mapping[str, Any] = json_item(drawn, TARGET)
    return document


def _draw_ring(drawn: Any) -> None:
    drawn.scatter(
        "x",
        "y",
        source=ColumnDataSource({"x": [], "y": []}),
        size=18,
        fill_alpha=0,
        line_color=_INK,
        line_width=3,
        name=CHOSEN,
    )


def _draw_mark(drawn: Any, mark: VerticalMark, number: int) -> None:
    colour = _EVENT[mark.kind]
    place = mark.at.timestamp() * 1000
    drawn.add_layout(
        Span(location=place, dimension="height", line_color=colour, line_dash="dotted")
    )
    drawn.add_layout(
        Label(
            x=place,
            y=4 + 15 * (number % 4),  # neighbours do not cover each other
            y_units="screen",
            x_offset=3,
            text=mark.words[:40],
            text_color=colour,
            text_font_size="11px",
            background_fill_color=_PAPER,
            background_fill_alpha=0.8,
        )
    )


def _dress(drawn: Any) -> None:
    drawn.toolbar.logo = None
    drawn.background_fill_color = drawn.border_fill_color = _PAPER
    drawn.outline_line_color = _LINE
    drawn.grid.grid_line_color = _LINE
    for axis in drawn.axis:
        axis.major_label_policy = NoOverlap()
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = _LINE
        axis.major_label_text_color = axis.axis_label_text_color = _INK
    if drawn.legend:
        drawn.add_layout(drawn.legend[0], "above")  # within it would hide points
        drawn.legend.orientation = "horizontal"
        drawn.legend.click_policy = "hide"
        drawn.legend.background_fill_color, drawn.legend.label_text_color = _PAPER, _INK
        drawn.legend.border_line_color = _LINE
        drawn.legend.label_text_font_size = "11px"
