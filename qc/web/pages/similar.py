"""History: what a frame looks like in all that is stored; maps and trees of what is stored."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from qc import db
from qc._cache import LRUCache
from qc.errors import FrameError, InvalidInputError, QCError, UnknownFrameError
from qc.project import Project
from qc.search import projection
from qc.search import similar as history
from qc.search.projection import (
    Dendrogram,
    ProjectedExtension,
    Projection,
    ProjectionMethod,
    Selection,
)
from qc.search.similar import SimilarFrames
from qc.web.api import schemas
from qc.web.api.uploads import BoundedRoute, on_disk
from qc.web.auth import Anybody
from qc.web.drawings import PointGroup, scatter
from qc.web.pages.thresholds import known_type
from qc.web.query import QueryModel, Since, Until
from qc.web.rendering import Keeping, Reads, Renewed, render
from qc.web.urls import frame_address

router = APIRouter()
uploads = APIRouter(route_class=BoundedRoute)

_FIRST, _LAST = date(1990, 1, 1), date(2100, 1, 1)
_MOST_NAMES = 200
_OF_A_FORM = ("k", "type", "labelled", "since", "until")
_LABELS = {  # colour and marker
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

Name = Annotated[str, Field(max_length=300)]

_FILE = {  # the form is read by hand, as it is bounded
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "FITS."},
                        "k": {
                            "type": "integer",
                            "minimum": 1,
                            "maximum": 100,
                            "default": 12,
                            "description": "How many.",
                        },
                        "type": {
                            "type": "string",
                            "maxLength": 40,
                            "description": "Image type of those sought; else its own.",
                        },
                        "labelled": {
                            "type": "boolean",
                            "default": False,
                            "description": "Only those that people have labelled.",
                        },
                    },
                }
            }
        },
    }
}


class SimilarQuery(QueryModel):
    """Which frame, and among which its like is sought."""

    frame: Annotated[Name, Field(description="Archive name of a processed frame.")] = ""
    k: Annotated[int, Field(ge=1, le=100, description="How many.")] = 12
    type: Annotated[
        str, Field(max_length=40, description="Image type of those sought; else its own.")
    ] = ""
    labelled: Annotated[bool, Field(description="Only those that people have labelled.")] = False
    since: Since = None
    until: Until = None


class ProjectionQuery(QueryModel):
    """Which extensions are laid on a plane, how, and by what they are coloured."""

    type: Annotated[
        str, Field(max_length=40, description="Image type, or `any`; else all of them.")
    ] = ""
    colour: Annotated[
        Literal["year", "label", "type"], Field(description="Of the page's points.")
    ] = "label"
    way: Annotated[
        ProjectionMethod, Field(description="Principal axes, or t-SNE, which is slow.")
    ] = ProjectionMethod.PCA
    since: Since = None
    until: Until = None

    @property
    def query(self) -> str:
        """Write it as the end of an address."""
        given = self.model_dump(exclude_none=True, mode="json")
        return "&".join(f"{name}={value}" for name, value in given.items())


class DendrogramQuery(QueryModel):
    """Which extensions a tree is drawn of: named ones, or the newest of a type's nights."""

    type: Annotated[str, Field(max_length=40, description="Image type.")]
    frame: Annotated[
        list[Name],
        Field(
            default_factory=list,
            max_length=_MOST_NAMES,
            description="Archive names; else the newest of the type.",
        ),
    ]
    marked: Annotated[Name, Field(description="Archive name of the one marked.")] = ""
    since: Since = None
    until: Until = None


@router.get("/similar", include_in_schema=False)
def similar(
    request: Request,
    project: Renewed,
    session: Reads,
    question: Annotated[SimilarQuery, Query()],
    _who: Anybody,
) -> HTMLResponse:
    """Show the frames that look most like one, and the form for a file."""
    found = read_similar(project, session, question) if question.frame else None
    return _similar_page(request, project, session, question, found)


@router.get("/api/v1/similar", response_model=list[schemas.SimilarFramesModel])
def similar_json(
    project: Renewed, session: Reads, question: Annotated[SimilarQuery, Query()], _who: Anybody
) -> list[dict[str, Any]]:
    """Return the frames that look most like one."""
    if not question.frame:
        raise InvalidInputError("frame: expected the name of a processed frame, got none")
    return [asdict(one) for one in read_similar(project, session, question)]


def read_similar(project: Project, session: Session, question: SimilarQuery) -> list[SimilarFrames]:
    """Return what each extension of a stored frame looks like.

    Raises
    ------
    UnknownFrame
        If it was never processed: a path on the server is nothing to be asked for here.
    """
    frame = question.frame
    if not db.selection.frames_named(session, frame):
        raise UnknownFrameError(f"{frame}: no processed frame has this name")
    return history.similar(
        project,
        frame,
        question.k,
        image_type=question.type or None,
        labelled=question.labelled,
        first=question.since,
        last=question.until,
    )


@uploads.post("/similar", include_in_schema=False)
async def similar_to_file(request: Request, project: Renewed, _who: Anybody) -> HTMLResponse:
    """Show the frames that look most like a file, which is read and not kept."""
    found, question = await _read_upload(request, project)
    with project.reads() as session:
        return _similar_page(request, project, session, question, found)


@uploads.post(
    "/api/v1/similar", openapi_extra=_FILE, response_model=list[schemas.SimilarFramesModel]
)
async def similar_to_file_json(
    request: Request, project: Renewed, _who: Anybody
) -> list[dict[str, Any]]:
    """Return the frames that look most like a file in the field `file` of a form."""
    found, _ = await _read_upload(request, project)
    return [asdict(one) for one in found]


async def _read_upload(
    request: Request, project: Project
) -> tuple[list[SimilarFrames], SimilarQuery]:
    async with request.form(max_files=1, max_fields=10) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile) or not file.size:
            raise InvalidInputError("file: expected a FITS file, got none")
        asked = {name: form[name] for name in _OF_A_FORM if form.get(name)}
        try:
            question = SimilarQuery.model_validate(asked)
        except ValueError:
            raise InvalidInputError(
                "expected k from 1 to 100, the name of a type, and dates"
            ) from None
        async with on_disk(file) as path:
            return await run_in_threadpool(_look_at, project, str(path), question), question


def _look_at(project: Project, path: str, question: SimilarQuery) -> list[SimilarFrames]:
    try:
        return history.similar(
            project,
            path,
            question.k,
            image_type=question.type or None,
            labelled=question.labelled,
            first=question.since,
            last=question.until,
        )
    except FrameError as error:  # its words begin with a path that means nothing to the sender
        words = str(error).replace(path, "the file")
        raise HTTPException(422, words) from None


def _similar_page(
    request: Request,
    project: Project,
    session: Session,
    question: SimilarQuery,
    found: Sequence[SimilarFrames] | None,
) -> HTMLResponse:
    return render(
        request,
        "similar.html.j2",
        question=question,
        found=found,
        types=_types_seen(project, session),
        limit_mb=project.settings.web.upload_mb,
    )


def _types_seen(project: Project, session: Session) -> list[str]:
    return db.findings.types_among(session, sorted(project.thresholds.entries))


@router.get("/map", include_in_schema=False)
def on_map(
    request: Request,
    project: Renewed,
    session: Reads,
    asked: Annotated[ProjectionQuery, Query()],
    _who: Anybody,
) -> HTMLResponse:
    """Show where a map is drawn; it is fetched after the page."""
    types = _types_seen(project, session)
    if not asked.type and types:
        asked = asked.model_copy(update={"type": types[0]})
    if asked.type and asked.type != history.ANY:
        known_type(project, asked.type)
    return render(request, "map.html.j2", asked=asked, types=types, any_type=history.ANY)


@router.get("/map/plot.json", include_in_schema=False)
def map_plot(
    project: Renewed,
    session: Reads,
    kept: Keeping,
    asked: Annotated[ProjectionQuery, Query()],
    _who: Anybody,
) -> JSONResponse:
    """Return the map as BokehJS draws it."""
    found = read_map(project, session, kept, asked)
    return JSONResponse(_draw(found, asked))


@router.get("/api/v1/map", response_model=schemas.ProjectionModel)
def map_json(
    project: Renewed,
    session: Reads,
    kept: Keeping,
    asked: Annotated[ProjectionQuery, Query()],
    _who: Anybody,
) -> dict[str, Any]:
    """Return the places of a map."""
    return asdict(read_map(project, session, kept, asked))


def read_map(
    project: Project, session: Session, kept: LRUCache, asked: ProjectionQuery
) -> Projection:
    """Return a map, made again only when something of its type has changed."""
    selection = _selection(project, asked.type, asked.since, asked.until)
    stamp = project.encoder.fingerprint, _newest(project, session, asked.type)
    name = ("map", selection, asked.way)
    found: Projection = kept.get(
        name, stamp, lambda: projection.draw_map(project, session, selection, asked.way)
    )
    return found


def _newest(project: Project, session: Session, image_type: str) -> tuple[tuple[int, int], ...]:
    is_any = image_type in {"", history.ANY}
    types = _types_seen(project, session) if is_any else [image_type]
    return tuple(db.findings.newest_word(session, one) for one in types)


def _selection(
    project: Project, image_type: str, since: date | None, until: date | None
) -> Selection:
    is_any = image_type in {"", history.ANY}
    types = None if is_any else (known_type(project, image_type),)
    return Selection(types, since or _FIRST, until or _LAST)


def _draw(found: Projection, asked: ProjectionQuery) -> Any:
    groups: dict[str, list[ProjectedExtension]] = {}
    for one in found.places:
        groups.setdefault(_group(one, asked.colour), []).append(one)
    names = sorted(groups)
    dots = [_dots(name, number, groups[name], asked) for number, name in enumerate(names)]
    across, up = (
        ("first principal axis", "second")
        if found.way is ProjectionMethod.PCA
        else ("t-SNE, without unit", "")
    )
    return scatter(dots, across=across, up=up, is_time=False)


def _group(one: ProjectedExtension, colour: str) -> str:
    if colour == "year":
        return str(one.night.year) if one.night else "undated"
    return one.image_type if colour == "type" else one.label


def _dots(
    name: str, number: int, some: Sequence[ProjectedExtension], asked: ProjectionQuery
) -> PointGroup:
    colour, marker = (
        _LABELS[name]
        if asked.colour == "label"
        else (_COLOURS[number % len(_COLOURS)], _MARKERS[number // len(_COLOURS) % len(_MARKERS)])
    )
    return PointGroup(
        name or "not labelled",
        colour,
        marker,
        [one.x for one in some],
        [one.y for one in some],
        [one.name for one in some],
        [frame_address(one.name) for one in some],
        [" ".join(map(str, filter(None, _words(one)))) for one in some],
    )


def _words(one: ProjectedExtension) -> tuple[object, ...]:
    return one.image_type, one.night, one.status.lower(), one.label, one.kind.replace("_", " ")


@router.get("/dendrogram", include_in_schema=False)
def dendrogram(
    request: Request,
    project: Renewed,
    session: Reads,
    kept: Keeping,
    asked: Annotated[DendrogramQuery, Query()],
    _who: Anybody,
) -> HTMLResponse:
    """Show the tree of named frames, or of the newest of a type."""
    found, refused = None, ""
    try:
        found = read_tree(project, session, kept, asked)
    except QCError as error:
        refused = str(error)
    types = _types_seen(project, session)
    return render(
        request,
        "dendrogram.html.j2",
        asked=asked,
        tree=found,
        refused=refused,
        types=types,
        most=projection.MOST_IN_TREE,
        status=422 if refused else 200,
    )


@router.get("/api/v1/dendrogram", response_model=schemas.DendrogramModel)
def dendrogram_json(
    project: Renewed,
    session: Reads,
    kept: Keeping,
    asked: Annotated[DendrogramQuery, Query()],
    _who: Anybody,
) -> dict[str, Any]:
    """Return a tree: its leaves and merges."""
    found = asdict(read_tree(project, session, kept, asked))
    del found["svg"]
    return found


def read_tree(
    project: Project, session: Session, kept: LRUCache, asked: DendrogramQuery
) -> Dendrogram:
    """Return a tree, drawn again only when something of its type has changed."""
    selection = _selection(project, known_type(project, asked.type), asked.since, asked.until)
    frames = tuple(dict.fromkeys(asked.frame))
    stamp = project.thresholds.digest, db.findings.newest_word(session, asked.type)
    name = ("tree", selection, frames, asked.marked)
    found: Dendrogram = kept.get(
        name,
        stamp,
        lambda: projection.draw_tree(project, session, selection, frames, asked.marked),
    )
    return found
