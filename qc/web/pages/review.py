"""Review page: label extensions one by one, or many in a grid; works without scripts."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Any

import fastapi
from fastapi import responses
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from qc import core, db, errors
from qc._text import MANY
from qc.db.schema.models import BEYOND_IDS
from qc.project import ProjectContext, image_types_of
from qc.reports.extension_figures import FigureRenderer
from qc.reports.pictures import EmbeddedPicture
from qc.review import examples, idempotency, queue, queue_filters, queue_items
from qc.web import auth, deps
from qc.web.api import labels
from qc.web.query import ReviewPageFilters, ReviewPageQuery
from qc.web.rendering import render

router = fastapi.APIRouter(prefix="/review", include_in_schema=False)

GRID_SIZE = 60
AHEAD = 30  # extensions named to the browser, which prefetches some of them
UNDO = "undo"
_IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}
_NO_PICTURE = (  # a browser shows it although the status is 404
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 120"><rect width="120" height="120"'
    b' fill="#777"/><text x="60" y="64" text-anchor="middle" font-family="sans-serif"'
    b' font-size="11" fill="#fff">no picture</text></svg>'
)
_residual_map_lock = Lock()  # a reference model uses all processors: one at a time


@dataclass(frozen=True)
class QueueEntry:
    """One extension with its label form.

    Attributes
    ----------
    kinds : tuple of FaultKey
        Kinds of fault to choose from.
    request_key : str
        Idempotency key of the form.
    back : str
        Address after the form is sent.
    """

    look: queue_items.QueueItem
    kinds: tuple[examples.FaultKey, ...]
    request_key: str
    back: str


@dataclass(frozen=True)
class FilterChoices:
    """Choices of the filter form."""

    statuses: tuple[str, ...]
    kinds: tuple[str, ...]
    types: tuple[str, ...]
    orders: tuple[str, ...]
    labelled: tuple[str, ...]


# --- pages ----------------------------------------------------------------------------------------


@router.get("")
def review(
    request: fastapi.Request,
    session: deps.ReadSession,
    project: deps.CurrentProject,
    cache: deps.Cache,
    query: ReviewPageFilters,
    user: auth.User,
) -> responses.HTMLResponse:
    """Show the next extension, or a grid of extensions.

    Parameters
    ----------
    request, session, project, cache, user : dependencies
    query : ReviewPageQuery
    """
    just = db.labels.find_request_labels(session, user.name, query.just) if query.just else None
    kinds = [kind.name for instrument in project.instruments for kind in instrument.fault_kinds()]
    choices = FilterChoices(
        statuses=tuple(core.Status),
        kinds=tuple(dict.fromkeys(kinds)),
        types=tuple(image_types_of(project.instruments)),
        orders=tuple(queue_filters.QueueOrder),
        labelled=tuple(queue_filters.LabelFilter),
    )
    common: dict[str, Any] = {"query": query, "choices": choices, "just": just, "many": MANY}
    if query.view == "grid":
        page = labels.read_page(session, project, cache, query, GRID_SIZE)
        return render(
            request,
            "review_grid.html.j2",
            after=page.after,
            **read_grid(session, project, query, page),
            **common,
        )
    page = labels.read_page(session, project, cache, query, AHEAD)
    ids = page.ids
    if query.at is not None:
        ids = (query.at, *(number for number in ids if number != query.at))
    entry = read_entry(session, project, query, ids[0]) if ids else None
    return render(request, "review.html.j2", shown=entry, ids=ids, after=page.after, **common)


def read_grid(
    session: Session, project: ProjectContext, query: ReviewPageQuery, page: queue.Page
) -> dict[str, Any]:
    """Return the template variables of a grid of extensions.

    Parameters
    ----------
    session : Session
        For reading.
    project : ProjectContext
    query : ReviewPageQuery
    page : Page
    """
    looks = queue_items.read_items(session, page.ids)
    kinds = {
        key.kind.name: key
        for look in looks
        for key in examples.list_fault_keys(project.instruments, look)
    }
    return {
        "looks": looks,
        "kinds": tuple(kinds.values()),
        "request_key": secrets.token_hex(16),
        "back": f"/review?{query.address(just='', at='')}",
    }


def read_entry(
    session: Session, project: ProjectContext, query: ReviewPageQuery, extension_id: int
) -> QueueEntry:
    """Return an extension with its label form.

    Parameters
    ----------
    session : Session
        For reading.
    project : ProjectContext
    query : ReviewPageQuery
    extension_id : int
    """
    look = queue_items.read_item(session, extension_id)
    leaves_queue = (
        query.labelled is queue_filters.LabelFilter.NO
    )  # a labelled extension is filtered out
    at = "" if leaves_queue else extension_id
    kinds = examples.list_fault_keys(project.instruments, look)
    back = f"/review?{query.address(at=at, just='')}"
    return QueueEntry(look, kinds, secrets.token_hex(16), back)


@router.get("/ahead")
def ahead(
    session: deps.ReadSession,
    project: deps.CurrentProject,
    cache: deps.Cache,
    query: ReviewPageFilters,
    _user: auth.User,
) -> dict[str, object]:
    """Return the numbers of the next extensions, for the script of the page.

    Parameters
    ----------
    session, project, cache : dependencies
    query : ReviewPageQuery
    """
    page = labels.read_page(session, project, cache, query, AHEAD)
    return {"ids": page.ids, "after": page.after}


@router.get("/frames/{extension_id}")
def frame(
    request: fastapi.Request,
    session: deps.ReadSession,
    project: deps.CurrentProject,
    query: ReviewPageFilters,
    extension_id: deps.RowNumber,
    _user: auth.User,
) -> responses.HTMLResponse:
    """Return one extension as a fragment of the page.

    Parameters
    ----------
    request, session, project : dependencies
    query : ReviewPageQuery
    extension_id : int
    """
    entry = read_entry(session, project, query, extension_id)
    return render(request, "review_frame.html.j2", shown=entry, many=MANY)


@router.get("/keys")
def keys(
    request: fastapi.Request,
    session: deps.ReadSession,
    project: deps.CurrentProject,
    _user: auth.User,
) -> responses.HTMLResponse:
    """Show the keyboard shortcuts, and an example of each kind of fault.

    Parameters
    ----------
    request, session, project : dependencies
    """
    processed = {*db.extensions.list_image_types(session)}
    used = [
        instrument for instrument in project.instruments if processed & {*instrument.image_types()}
    ]
    fault_examples = examples.read_fault_examples(session, used or project.instruments)
    return render(request, "review_keys.html.j2", examples=fault_examples)


# --- label form -----------------------------------------------------------------------------------


class LabelFormAnswer(BaseModel):
    """Content of the label form.

    Attributes
    ----------
    extension : list of str
        ``12:3`` stands for extension 12, displayed with label number 3; 0 for no label.
    """

    answer: Annotated[str, Field(max_length=100)]
    key: Annotated[str, Field(pattern=labels.REQUEST_KEY)]
    back: Annotated[str, Field(max_length=4000)] = "/review?"
    extension: Annotated[list[str], Field(max_length=idempotency.MAX_EXTENSIONS)] = []
    note: Annotated[str, Field(max_length=1000)] = ""
    of: Annotated[str, Field(max_length=64)] = ""
    whole_set: bool = False
    sure: bool = False


@router.post("/answer")
def answer(
    request: fastapi.Request,
    project: deps.CurrentProject,
    form: Annotated[LabelFormAnswer, fastapi.Form()],
    user: auth.Reviewer,
) -> responses.Response:
    """Add or undo labels from a form, and show the next extension.

    Parameters
    ----------
    request, project, user : dependencies
    form : LabelFormAnswer
    """
    displayed = parse_displayed(form.extension)
    if not displayed and not form.of:
        raise errors.InvalidInputError("no frame is selected")
    now = request.app.state.now()
    label_request = idempotency.LabelRequest(
        user.name, form.key, now, list(displayed), form.sure, displayed
    )
    with labels.durable_session(project).begin() as session:
        if form.answer == UNDO:
            result = idempotency.undo_once(session, label_request, form.of)
        else:
            label, _, kind = form.answer.partition(":")
            result = idempotency.add_labels_once(
                session,
                label_request,
                project.instruments,
                (label, kind, form.note),
                whole_set=form.whole_set,
            )
    back = form.back if form.back.startswith("/review?") else "/review?"  # no other address
    address = f"{back}&just={form.key}".replace("?&", "?")
    if result.meanwhile:
        return render(request, "review_conflict.html.j2", result=result, address=address)
    return responses.RedirectResponse(address, 303)


def parse_displayed(values: list[str]) -> dict[int, int]:
    """Return the label number displayed with each extension.

    Raises
    ------
    InvalidInputError
        If a value has not the form ``12:3``.
    UnknownFrameError
        If the number of an extension is out of range.
    """
    try:
        pairs = [value.partition(":")[::2] for value in values]
        displayed = {int(extension): int(label or 0) for extension, label in pairs}
    except ValueError:
        raise errors.InvalidInputError(
            f"extension: expected a number, got '{values[0][:40]}'"
        ) from None
    if not all(0 < number < BEYOND_IDS for number in displayed):
        raise errors.UnknownFrameError(f"extension {min(displayed)}: no such number")
    return displayed


# --- pictures -------------------------------------------------------------------------------------


def draw_pair(kind: str) -> Callable[[FigureRenderer, db.findings.Finding], EmbeddedPicture | None]:
    """Return a function that draws an extension or its nearest reference."""

    def draw(renderer: FigureRenderer, finding: db.findings.Finding) -> EmbeddedPicture | None:
        return next((plot for plot in renderer.draw_pair(finding) if plot.kind == kind), None)

    return draw


def draw_residual_map(
    renderer: FigureRenderer, finding: db.findings.Finding
) -> EmbeddedPicture | None:
    """Return the residual map of an extension; None without references.

    Parameters
    ----------
    renderer : FigureRenderer
    finding : Finding
    """
    with _residual_map_lock:
        location = renderer.locate_residual(finding)
    return location.picture if location else None


_PICTURES: dict[str, Callable[[FigureRenderer, db.findings.Finding], EmbeddedPicture | None]] = {
    "own": draw_pair("mean"),
    "nearest": draw_pair("nearest mean"),
    "map": draw_residual_map,
    "small": FigureRenderer.draw_thumbnail,
}


@router.get("/pictures/{extension_id}/{digest}/{kind}.png")
def picture(
    request: fastapi.Request,
    session: deps.ReadSession,
    project: deps.CurrentProject,
    extension_id: deps.RowNumber,
    digest: str,
    kind: str,
    _user: auth.User,
) -> responses.Response:
    """Return a picture of an extension, its nearest reference or its residual map.

    Parameters
    ----------
    request, session, project : dependencies
    extension_id : int
    digest : str
        Of the verdict; a picture with the digest of the newest verdict is cached.
    kind : str
    """
    findings = db.findings.findings_by_id(session, [extension_id])
    if not findings or kind not in _PICTURES:
        raise errors.UnknownFrameError(f"extension {extension_id}: no picture '{kind[:40]}'")
    current = queue_items.picture_digest(findings[0])

    def draw() -> bytes | None:
        renderer = FigureRenderer(session, project.thresholds, request.app.state.reference_models)
        plot = _PICTURES[kind](renderer, findings[0])
        return plot.content if plot else None

    content = request.app.state.pictures.get((extension_id, kind), current, draw)
    # An address with the digest of an older verdict shows the newest picture: do not cache it.
    headers = _IMMUTABLE if digest == current else {"Cache-Control": "no-store"}
    if content is None:
        return responses.Response(_NO_PICTURE, 404, media_type="image/svg+xml")
    return responses.Response(content, media_type="image/png", headers=headers)
