"""Projection and dendrogram pages."""

from collections.abc import Sequence
from typing import Any

import fastapi
from fastapi import responses

from qc import db
from qc.errors import QCError
from qc.search import projection
from qc.search.similar import ANY
from qc.web import auth, deps, plots
from qc.web.api import projections
from qc.web.rendering import render
from qc.web.urls import frame_address

router = fastapi.APIRouter(include_in_schema=False)

_LABEL_STYLES = {  # colour and marker
    "good": ("#2f8f5b", "circle"),
    "": ("#7f8a95", "circle"),
    "valid-outlier": ("#c98a1b", "triangle"),
    "bad": ("#d1443a", "diamond"),
}
_COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999933", "#882255",
    "#44aa99", "#dd7788",
)  # fmt: skip
_MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle")


@router.get("/projection")
@router.get("/map")
def projection_page(
    request: fastapi.Request,
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    query: projections.RequestedProjection,
    _user: auth.User,
) -> responses.HTMLResponse:
    """Show the frame of a projection; a script loads the plot.

    Parameters
    ----------
    request, project, session : dependencies
    query : ProjectionQuery
    """
    types = db.extensions.filter_image_types(session, sorted(project.thresholds.entries))
    if not query.type and types:
        query = query.model_copy(update={"type": types[0]})
    if query.type and query.type != ANY:
        deps.check_image_type(project, query.type)
    return render(request, "projection.html.j2", query=query, types=types, any_type=ANY)


@router.get("/projection/plot.json")
@router.get("/map/plot.json")
def projection_plot(
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    cache: deps.Cache,
    query: projections.RequestedProjection,
    _user: auth.User,
) -> responses.JSONResponse:
    """Return the plot of a projection for BokehJS.

    Parameters
    ----------
    project, session, cache : dependencies
    query : ProjectionQuery
    """
    result = projections.read_projection(project, session, cache, query)
    return responses.JSONResponse(plot_projection(result, query.colour))


def plot_projection(result: projection.Projection, colour_by: str) -> Any:
    """Return the plot of a projection as a document for BokehJS.

    Parameters
    ----------
    result : Projection
    colour_by : str
        ``year``, ``label`` or ``type``.
    """
    members: dict[str, list[projection.ProjectedExtension]] = {}
    for point in result.places:
        if colour_by == "year":
            group = str(point.night.year) if point.night else "undated"
        else:
            group = point.image_type if colour_by == "type" else point.label
        members.setdefault(group, []).append(point)
    groups = []
    for number, name in enumerate(sorted(members)):
        style = (
            _LABEL_STYLES[name]
            if colour_by == "label"
            else (
                _COLOURS[number % len(_COLOURS)],
                _MARKERS[number // len(_COLOURS) % len(_MARKERS)],
            )
        )
        groups.append(make_group(name or "not labelled", style, members[name]))
    x_label, y_label = (
        ("first principal component", "second")
        if result.way is projection.ProjectionMethod.PCA
        else ("t-SNE, without unit", "")
    )
    return plots.scatter(groups, x_label=x_label, y_label=y_label, is_time=False)


def make_group(
    name: str, style: tuple[str, str], points: Sequence[projection.ProjectedExtension]
) -> plots.PointGroup:
    """Return points as a group of the plot.

    Parameters
    ----------
    name : str
    style : tuple of str
        Colour and marker.
    points : sequence of ProjectedExtension
    """
    notes = [
        (
            point.image_type,
            point.night,
            point.status.lower(),
            point.label,
            point.kind.replace("_", " "),
        )
        for point in points
    ]
    return plots.PointGroup(
        name,
        *style,
        [point.x for point in points],
        [point.y for point in points],
        [point.name for point in points],
        [frame_address(point.name) for point in points],
        [" ".join(map(str, filter(None, note))) for note in notes],
    )


@router.get("/dendrogram")
def dendrogram_page(
    request: fastapi.Request,
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    cache: deps.Cache,
    query: projections.RequestedDendrogram,
    _user: auth.User,
) -> responses.HTMLResponse:
    """Show the dendrogram of named frames, or of the newest of a type.

    Parameters
    ----------
    request, project, session, cache : dependencies
    query : DendrogramQuery
    """
    dendrogram, refused = None, ""
    try:
        dendrogram = projections.read_dendrogram(project, session, cache, query)
    except QCError as error:
        refused = str(error)
    return render(
        request,
        "dendrogram.html.j2",
        query=query,
        dendrogram=dendrogram,
        refused=refused,
        types=db.extensions.filter_image_types(session, sorted(project.thresholds.entries)),
        most=projection.MOST_IN_TREE,
        status=422 if refused else 200,
    )
