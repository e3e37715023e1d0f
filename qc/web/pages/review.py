"""The review: one frame a second by keyboard, or many on a wall; without scripts as well."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from qc._cache import LRUCache
from qc._text import MANY
from qc.core.verdict import Status
from qc.db.findings import Finding, findings_with, image_types_seen
from qc.db.labels import labels_added_by
from qc.db.models import BEYOND_IDS
from qc.errors import InvalidInputError, UnknownFrameError
from qc.project import Project, image_types_of
from qc.reports.extension_figures import EmbeddedPicture, FigureRenderer
from qc.review import idempotency
from qc.review.idempotency import RequestResult
from qc.review.queue import (
    FaultKey,
    LabelFilter,
    QueueItem,
    QueueOrder,
    digest_of,
    keys_of,
    read_examples,
    read_look,
    read_looks,
)
from qc.web.auth import Anybody, Reviewer
from qc.web.pages.labels import next_of, promising
from qc.web.query import ReviewedFor, UnlabelledQuery
from qc.web.rendering import Keeping, ProjectDep, Reads, RowNumber, render

router = APIRouter(include_in_schema=False)

ON_A_WALL = 60
AHEAD = 30  # named to the browser, which fetches a few of them before they are asked for
_UNCHANGING = {"Cache-Control": "private, max-age=31536000, immutable"}
_NO_PICTURE = (  # a browser shows it for all that it comes with a 404
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 120"><rect width="120" height="120"'
    b' fill="#777"/><text x="60" y="64" text-anchor="middle" font-family="sans-serif"'
    b' font-size="11" fill="#fff">no picture</text></svg>'
)
_maps = Lock()  # what learns from references is made for one at a time, and takes all processors


@dataclass(frozen=True)
class QueueEntry:
    """One extension as the page shows it.

    Attributes
    ----------
    kinds : tuple of Key
        What may be wrong with it.
    request_key : str
        Names the answer that its form will give.
    back : str
        Where the form leads, once it is answered.
    """

    look: QueueItem
    kinds: tuple[FaultKey, ...]
    request_key: str
    back: str


@dataclass(frozen=True)
class FilterChoices:
    """What the form of the filters offers."""

    statuses: tuple[str, ...]
    kinds: tuple[str, ...]
    types: tuple[str, ...]
    orders: tuple[str, ...]
    labelled: tuple[str, ...]


@router.get("/review")
def review(
    request: Request,
    session: Reads,
    project: ProjectDep,
    kept: Keeping,
    asked: ReviewedFor,
    who: Anybody,
) -> HTMLResponse:
    """Show the next extension, or a wall of them."""
    just = labels_added_by(session, who.name, asked.just) if asked.just else None
    choices = _choices(project)
    common: dict[str, Any] = {"asked": asked, "choices": choices, "just": just, "many": MANY}
    if asked.view == "wall":
        return _wall(request, session, project, kept, asked, common)
    some = next_of(session, project, kept, asked, AHEAD)
    ids = some.ids
    if asked.at is not None:
        ids = (asked.at, *(one for one in ids if one != asked.at))
    shown = _shown(session, project, asked, ids[0]) if ids else None
    return render(request, "review.html.j2", shown=shown, ids=ids, after=some.after, **common)


def _wall(
    request: Request,
    session: Session,
    project: Project,
    kept: LRUCache,
    asked: UnlabelledQuery,
    common: dict[str, Any],
) -> HTMLResponse:
    some = next_of(session, project, kept, asked, ON_A_WALL)
    looks = read_looks(session, some.ids)
    kinds = {key.kind.name: key for look in looks for key in keys_of(project.instruments, look)}
    return render(
        request,
        "review_wall.html.j2",
        looks=looks,
        kinds=tuple(kinds.values()),
        after=some.after,
        request_key=secrets.token_hex(16),
        back=f"/review?{asked.address(just='', at='')}",
        **common,
    )


@router.get("/review/ahead")
def ahead(
    session: Reads, project: ProjectDep, kept: Keeping, asked: ReviewedFor, _who: Anybody
) -> dict[str, object]:
    """Name the extensions that come after those of a page."""
    some = next_of(session, project, kept, asked, AHEAD)
    return {"ids": some.ids, "after": some.after}


@router.get("/review/frames/{extension_id}")
def frame(
    request: Request,
    session: Reads,
    project: ProjectDep,
    asked: ReviewedFor,
    extension_id: RowNumber,
    _who: Anybody,
) -> HTMLResponse:
    """Show one extension as a part of the page."""
    shown = _shown(session, project, asked, extension_id)
    return render(request, "review_frame.html.j2", shown=shown, many=MANY)


def _shown(
    session: Session, project: Project, asked: UnlabelledQuery, extension_id: int
) -> QueueEntry:
    look = read_look(session, extension_id)
    leaves = asked.labelled is LabelFilter.NO  # once labelled, the next takes its place
    back = asked.address(at="", just="") if leaves else asked.address(at=extension_id, just="")
    kinds = keys_of(project.instruments, look)
    return QueueEntry(look, kinds, secrets.token_hex(16), f"/review?{back}")


@router.get("/review/keys")
def keys(request: Request, session: Reads, project: ProjectDep, _who: Anybody) -> HTMLResponse:
    """Show the keys, and an example of each kind of fault."""
    seen = {*image_types_seen(session)}
    known = [one for one in project.instruments if seen & {*one.image_types()}]
    examples = read_examples(session, known or project.instruments)
    return render(request, "review_keys.html.j2", examples=examples)


def _choices(project: Project) -> FilterChoices:
    kinds = [kind.name for one in project.instruments for kind in one.fault_kinds()]
    return FilterChoices(
        statuses=tuple(Status),
        kinds=tuple(dict.fromkeys(kinds)),
        types=tuple(image_types_of(project.instruments)),
        orders=tuple(QueueOrder),
        labelled=tuple(LabelFilter),
    )


# --- an answer from a form ------------------------------------------------------------------------


class LabelFormAnswer(BaseModel):
    """What a form says; `extension` is ``12:3``, where label number 3 of extension 12 was seen."""

    answer: Annotated[str, Field(max_length=100)]
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{8,64}$")]
    back: Annotated[str, Field(max_length=4000)] = "/review?"
    extension: Annotated[list[str], Field(max_length=idempotency.MOST)] = []
    note: Annotated[str, Field(max_length=1000)] = ""
    of: Annotated[str, Field(max_length=64)] = ""
    whole_set: bool = False
    sure: bool = False


@router.post("/review/answer")
def answer(
    request: Request, project: ProjectDep, said: Annotated[LabelFormAnswer, Form()], who: Reviewer
) -> Response:
    """Take the answer of somebody whose browser runs no scripts, and go on."""
    seen = _read_seen(said.extension)
    if not seen and not said.of:
        raise InvalidInputError("no frame is chosen")
    now = request.app.state.now()
    asked = idempotency.LabelRequest(who.name, said.key, now, list(seen), said.sure, seen)
    with promising(project).begin() as session:
        if said.answer == "undo":
            did = idempotency.undo_once(session, asked, said.of)
        else:
            label, _, kind = said.answer.partition(":")
            words = label, kind, said.note
            did = idempotency.answer_once(
                session, asked, project.instruments, words, whole_set=said.whole_set
            )
    return _go_on(request, did, said.back, said.key)


def _read_seen(words: list[str]) -> dict[int, int]:
    """Read ``12:3``: extension 12, whose label number 3 was seen; 0 where there was none."""
    try:
        pairs = [word.partition(":")[::2] for word in words]
        seen = {int(one): int(label or 0) for one, label in pairs}
    except ValueError:
        raise InvalidInputError(f"extension: expected a number, got '{words[0][:40]}'") from None
    if not all(0 < one < BEYOND_IDS for one in seen):
        raise UnknownFrameError(f"extension {min(seen)}: there is none of that number")
    return seen


def _go_on(request: Request, did: RequestResult, back: str, key: str) -> Response:
    """Lead to the next; or first say what others have said meanwhile."""
    inside = back if back.startswith("/review?") else "/review?"  # nowhere else, whatever is sent
    address = f"{inside}&just={key}".replace("?&", "?")
    if did.meanwhile:
        return render(request, "review_told.html.j2", did=did, address=address)
    return RedirectResponse(address, 303)


# --- pictures -------------------------------------------------------------------------------------


@router.get("/review/pictures/{extension_id}/{digest}/{what}.png")
def picture(
    request: Request,
    session: Reads,
    project: ProjectDep,
    extension_id: RowNumber,
    digest: str,
    what: str,
    _who: Anybody,
) -> Response:
    """Draw an extension: its mean, that of the nearest reference, or where they differ."""
    found = findings_with(session, [extension_id])
    if not found or what not in _DRAWN:
        raise UnknownFrameError(f"extension {extension_id}, {what}: there is no such picture")
    current = digest_of(found[0])

    def draw() -> bytes | None:
        gallery = FigureRenderer(session, project.thresholds, request.app.state.expectations)
        shown = _DRAWN[what](gallery, found[0])
        return shown.content if shown else None

    drawn = request.app.state.pictures.get((extension_id, what), current, draw)
    # An address of an older verdict shows the newest, and is not to be remembered as that.
    headers = _UNCHANGING if digest == current else {"Cache-Control": "no-store"}
    if drawn is None:
        return Response(_NO_PICTURE, 404, media_type="image/svg+xml")
    return Response(drawn, media_type="image/png", headers=headers)


def _own(gallery: FigureRenderer, finding: Finding) -> EmbeddedPicture | None:
    return next((one for one in gallery.pair(finding) if one.kind == "mean"), None)


def _nearest(gallery: FigureRenderer, finding: Finding) -> EmbeddedPicture | None:
    return next((one for one in gallery.pair(finding) if one.kind == "nearest mean"), None)


def _map(gallery: FigureRenderer, finding: Finding) -> EmbeddedPicture | None:
    with _maps:
        where = gallery.where(finding)
    return where.picture if where else None


_DRAWN: dict[str, Callable[[FigureRenderer, Finding], EmbeddedPicture | None]] = {
    "own": _own,
    "nearest": _nearest,
    "map": _map,
    "small": FigureRenderer.small,
}
