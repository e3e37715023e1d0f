"""Frame page: image viewer, evidence, metrics, header and labels."""

from dataclasses import replace
from typing import Annotated

import fastapi
from fastapi import responses

from qc import core, db
from qc.errors import UnknownFrameError
from qc.labels import store
from qc.review import extension_links, frame_detail
from qc.review.pixels import find_source
from qc.review.pyramid import Stretch
from qc.web import auth, deps
from qc.web.api import frames
from qc.web.pages.images import RequestedDisplay
from qc.web.pages.reports import has_report
from qc.web.rendering import render
from qc.web.urls import frame_url

router = fastapi.APIRouter(prefix="/frames/{name}", include_in_schema=False)

UNDO = "undo"  # value of the button that withdraws a label


@router.get("")
def frame(
    request: fastapi.Request,
    project: deps.CurrentProject,
    session: deps.ReadSession,
    name: deps.FrameName,
    display: RequestedDisplay,
    extension: deps.ExtensionNumber = None,
    metric: Annotated[str, fastapi.Query(max_length=100)] = "",
) -> responses.HTMLResponse:
    """Show a frame.

    Parameters
    ----------
    request, project, session, display : dependencies
    name : str
    extension : int, optional
    metric : str
        Metric to plot; default: the most deviating.
    """
    detail = frame_detail.read_frame_detail(project, session, name)
    extension_detail = detail.extension(extension)
    stretch = Stretch.ASINH if extension_detail.promised_light > 0 else Stretch.LINEAR
    return render(
        request,
        "frame.html.j2",
        view=detail,
        shown=extension_detail,
        display=replace(display, stretch=display.stretch or stretch),
        stretches=list(Stretch),
        labels=list(core.LabelName),
        plotted=metrics_to_plot(extension_detail, metric),
        has_report=detail.night and has_report(project.settings, detail.night),
    )


def metrics_to_plot(extension_detail: frame_detail.ExtensionDetail, metric: str) -> list[str]:
    """Return the requested metric, or the most telling and the first beyond its alarm.

    Parameters
    ----------
    extension_detail : ExtensionDetail
    metric : str
        Empty for the default.
    """
    if any(measure.name == metric for measure in extension_detail.measures):
        return [metric]
    beyond = [
        measure.name
        for measure in extension_detail.measures
        if measure.alarm and abs(measure.z or 0) > measure.alarm
    ]
    return list(dict.fromkeys(filter(None, [extension_detail.telling, *beyond[:1]])))


@router.get("/nearest-bad")
def show_nearest_bad(
    session: deps.ReadSession, name: deps.FrameName, extension: deps.ExtensionNumber = None
) -> responses.RedirectResponse:
    """Redirect to the nearest image of the same type with the label bad.

    Parameters
    ----------
    session : Session
    name : str
    extension : int, optional
    """
    finding = frame_detail.find_finding(session, name, extension)
    nearest = extension_links.find_nearest_bad(session, finding)
    if nearest is None:
        raise UnknownFrameError(f"{name}: no image of its type has the label bad")
    return responses.RedirectResponse(frame_url(nearest.link.name, nearest.link.number), 303)


@router.get("/header")
def header(
    request: fastapi.Request,
    session: deps.ReadSession,
    name: deps.FrameName,
    q: frames.SearchText = "",
) -> responses.HTMLResponse:
    """Show the header cards of a frame's file that contain a text.

    Parameters
    ----------
    request, session : dependencies
    name, q : str
    """
    return render(request, "header.html.j2", header=frames.search_header(session, name, q))


@router.post("/label")
def label(
    request: fastapi.Request,
    project: deps.CurrentProject,
    user: auth.Reviewer,
    name: deps.FrameName,
    extension: Annotated[int, fastapi.Form(ge=0, le=1000)],
    label_name: Annotated[str, fastapi.Form(alias="label", max_length=100)],
    kind: Annotated[str, fastapi.Form(max_length=200)] = "",
    note: Annotated[str, fastapi.Form(max_length=4000)] = "",
) -> responses.RedirectResponse:
    """Add a label to an extension, or undo the newest.

    Parameters
    ----------
    request, project, user : dependencies
    name : str
    extension : int
    label_name, kind, note : str
    """
    with project.write_session.begin() as session:  # committed before the response is sent
        source = find_source(session, name, extension)
        extensions = db.extensions.extensions_by_id(session, [source.extension_id])
        if label_name == UNDO:
            store.undo(session, extensions, user.name, note)
        else:
            answer = store.parse_answer(
                label_name,
                kind if label_name == core.LabelName.BAD else "",
                note,
                who=user.name,
                at=request.app.state.now(),
            )
            store.add_labels(session, extensions, answer, project.instruments)
    return responses.RedirectResponse(f"{frame_url(source.name, source.number)}#labels", 303)
