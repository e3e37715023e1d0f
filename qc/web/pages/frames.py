"""A frame: all that is known of it, its image from pixel to pixel, and what people say of it."""

from dataclasses import dataclass, replace
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from qc.core.enums import LabelName
from qc.db.selection import extensions_with
from qc.errors import FrameError, UnknownFrameError
from qc.io.fits import Card
from qc.labels import store
from qc.review.frame_detail import (
    ExtensionDetail,
    FrameDetail,
    finding_of,
    nearest_bad,
    read_frame_view,
    read_header,
)
from qc.review.pixels import find_source
from qc.review.pyramid import Stretch
from qc.web.auth import Reviewer
from qc.web.pages.images import AskedLook, Name, Number
from qc.web.pages.reports import report_file
from qc.web.rendering import ProjectDep, Reads, render

router = APIRouter()

UNDO = "undo"  # instead of a label


def frame_url(name: str, number: int | None = None, page: str = "") -> str:
    """Return the address of a frame's page."""
    path = f"/frames/{quote(name, safe='')}{page}"
    return path if number is None else f"{path}?extension={number}"


@router.get("/frames/{name}", include_in_schema=False)
def frame(
    request: Request,
    project: ProjectDep,
    session: Reads,
    name: Name,
    look: AskedLook,
    extension: Number = None,
    metric: Annotated[str, Query(max_length=100)] = "",
) -> HTMLResponse:
    """Show a frame."""
    view = read_frame_view(project, session, name)
    shown = view.extension(extension)
    usual = Stretch.ASINH if shown.promised_light > 0 else Stretch.LINEAR
    return render(
        request,
        "frame.html.j2",
        view=view,
        shown=shown,
        look=replace(look, stretch=look.stretch or usual),
        stretches=list(Stretch),
        labels=list(LabelName),
        drawn=_drawn(shown, metric),
        frame_url=frame_url,
        has_report=view.night and report_file(project.settings, view.night).is_file(),
    )


def _drawn(shown: ExtensionDetail, metric: str) -> list[str]:
    """Choose the detector number asked for; or the most telling, and the furthest beyond."""
    if any(one.name == metric for one in shown.measures):
        return [metric]
    far = [one.name for one in shown.measures if one.alarm and abs(one.z or 0) > one.alarm]
    return list(dict.fromkeys(filter(None, [shown.telling, *far[:1]])))


@router.get("/api/v1/frames/{name}", tags=["frames"])
def frame_record(project: ProjectDep, session: Reads, name: Name) -> FrameDetail:
    """Return all that is known of a frame, every extension."""
    return read_frame_view(project, session, name)


@router.get("/frames/{name}/nearest-bad", include_in_schema=False)
def to_nearest_bad(session: Reads, name: Name, extension: Number = None) -> RedirectResponse:
    """Go to the image of the type most like this one that people call bad."""
    found = nearest_bad(session, finding_of(session, name, extension))
    if found is None:
        raise UnknownFrameError(f"{name}: nobody has called an image of its type bad")
    return RedirectResponse(frame_url(found.link.name, found.link.number), 303)


# --- header ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeaderSearch:
    """The header cards of a frame's file in which some words stand.

    Attributes
    ----------
    trouble : str
        Why there are none; empty where the file could be read.
    """

    name: str
    wanted: str
    cards: tuple[Card, ...]
    trouble: str


Words = Annotated[str, Query(max_length=200, description="Words of a card; else all cards.")]


@router.get("/frames/{name}/header", include_in_schema=False)
def header(request: Request, session: Reads, name: Name, q: Words = "") -> HTMLResponse:
    """Show the header of a frame's file, or the cards in which some words stand."""
    return render(request, "header.html.j2", header=_header(session, name, q), frame_url=frame_url)


@router.get("/api/v1/frames/{name}/header", tags=["frames"])
def header_record(session: Reads, name: Name, q: Words = "") -> HeaderSearch:
    """Return the header cards of a frame's file in which some words stand."""
    return _header(session, name, q)


def _header(session: Reads, name: str, wanted: str) -> HeaderSearch:
    known = find_source(session, name).name
    try:
        return HeaderSearch(known, wanted, read_header(session, name, wanted), "")
    except FrameError as error:
        return HeaderSearch(known, wanted, (), str(error))


# --- what people say ------------------------------------------------------------------------------


@router.post("/frames/{name}/label", include_in_schema=False)
def label(
    request: Request,
    project: ProjectDep,
    who: Reviewer,
    name: Name,
    extension: Annotated[int, Form(ge=0, le=1000)],
    said: Annotated[str, Form(alias="label", max_length=100)],
    kind: Annotated[str, Form(max_length=200)] = "",
    note: Annotated[str, Form(max_length=4000)] = "",
) -> RedirectResponse:
    """Keep what a person says of one extension, or undo what was said last."""
    with project.writes.begin() as session:  # it is kept before the answer says so
        source = find_source(session, name, extension)
        found = extensions_with(session, [source.extension_id])
        if said == UNDO:
            store.undo(session, found, who.name, note)
        else:
            answer = store.read_answer(
                said,
                kind if said == LabelName.BAD else "",
                note,
                who=who.name,
                at=request.app.state.now(),
            )
            store.answer_for(session, found, answer, project.instruments)
    return RedirectResponse(f"{frame_url(source.name, source.number)}#labels", 303)
