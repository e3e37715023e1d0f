"""Trend pages: a quantity of an image type over the years, with interventions."""

from typing import Annotated, Any

import fastapi
from fastapi import responses

from qc import _time, core, db
from qc.summaries import trends
from qc.web import auth, deps, plots
from qc.web.api.trends import RequestedTrend, TrendQuery
from qc.web.query import FIRST_NIGHT
from qc.web.rendering import render
from qc.web.urls import frame_address

router = fastapi.APIRouter(prefix="/trends", include_in_schema=False)

_STYLES = {  # name, colour and marker: the marker repeats the status for the colour-blind
    core.Status.NOMINAL: ("nominal", "#7f8a95", "circle"),
    core.Status.UNDECIDED: ("undecided", "#4a90c2", "inverted_triangle"),
    core.Status.ANOMALOUS: ("anomalous", "#d1443a", "diamond"),
}


class TrendForm(TrendQuery):
    """Content of the form on the page."""

    type: str


@router.get("")
def overview(
    request: fastapi.Request,
    session: deps.ReadSession,
    project: deps.ReloadedProject,
    _user: auth.User,
) -> responses.HTMLResponse:
    """List the image types that have a trend.

    Parameters
    ----------
    request, session, project : dependencies
    """
    types = db.extensions.filter_image_types(session, sorted(project.thresholds.entries))
    return render(request, "trends.html.j2", types=types)


@router.get("/choose")
def choose(
    project: deps.ReloadedProject, form: Annotated[TrendForm, fastapi.Query()], _user: auth.User
) -> responses.RedirectResponse:
    """Redirect from the form to the address of the trend.

    Parameters
    ----------
    project : ProjectContext
    form : TrendForm
    """
    image_type = deps.check_image_type(project, form.type)
    return responses.RedirectResponse(f"/trends/{image_type}?{form.address}", 303)


@router.get("/{image_type}")
def trend_page(
    request: fastapi.Request,
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    image_type: deps.ImageType,
    trend_query: Annotated[TrendQuery, fastapi.Query()],
    _user: auth.User,
) -> responses.HTMLResponse:
    """Show the frame of a trend; a script loads plot and table.

    Parameters
    ----------
    request, project, session : dependencies
    image_type : str
    trend_query : TrendQuery
    """
    types = db.extensions.filter_image_types(session, sorted(project.thresholds.entries))
    return render(
        request,
        "trend.html.j2",
        image_type=image_type,
        types=types if image_type in types else [*types, image_type],
        query=trend_query,
        quantity=trends.QUANTITIES[trend_query.metric],
        quantities=trends.QUANTITIES,
    )


@router.get("/{image_type}/plot.json")
def trend_plot(result: RequestedTrend) -> responses.JSONResponse:
    """Return the plot of a trend for BokehJS."""
    return responses.JSONResponse(plot_trend(result.trend))


@router.get("/{image_type}/table")
def trend_table(request: fastapi.Request, result: RequestedTrend) -> responses.HTMLResponse:
    """Show a trend as a table of months, with its events.

    Parameters
    ----------
    request : Request
    result : TrendResult
    """
    return render(request, "trend_table.html.j2", trend=result.trend, query=result.query)


def plot_trend(trend: trends.MetricTrend) -> Any:
    """Return the plot of a trend as a document for BokehJS."""
    plotted = trend.plotted
    groups = []
    for status, (name, colour, marker) in _STYLES.items():
        points = [point for point in plotted if point.status == status]
        names = [f"{point.frame}[{point.number}]" for point in points]
        group = plots.PointGroup(
            name,
            colour,
            marker,
            [point.at.replace(tzinfo=None) for point in points],
            [point.value for point in points],
            names,
            [frame_address(name) for name in names],
            [f"{point.at:%Y-%m-%d %H:%M}: {point.value:.5g}" for point in points],
        )
        if points:
            groups.append(group)
    first, last = (plotted[0].night, plotted[-1].night) if plotted else (FIRST_NIGHT, FIRST_NIGHT)
    times, values = trends.limit_steps(trend.limit, first, last)
    marks = [
        plots.VerticalMark(_time.noon(event.night), event.kind, event.words)
        for event in trend.events
        if first <= event.night <= last
    ]
    unit = f" ({trend.quantity.unit})" if trend.quantity.unit else ""
    return plots.scatter(
        groups,
        x_label="",
        y_label=f"{trend.quantity.name}{unit}",
        is_time=True,
        marks=marks,
        limit=([time.replace(tzinfo=None) for time in times], values),
    )
