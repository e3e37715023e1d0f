"""Labels and verdicts for programs: what people say of frames, and what was judged."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session, sessionmaker

from qc._cache import LRUCache
from qc.core.enums import ExportFormat, ExportTable
from qc.db.engine import for_promising
from qc.db.findings import findings_with, newest_verdict
from qc.db.labels import without_label
from qc.db.models import BEYOND_IDS
from qc.exports import table_of, text_of
from qc.project import Project
from qc.review import idempotency
from qc.review.active_learning import most_informative
from qc.review.idempotency import CurrentLabel, RequestResult
from qc.review.queue import (
    LabelFilter,
    Page,
    QueueFilters,
    QueueItem,
    QueueOrder,
    parts_of_all,
    read_looks,
    read_some,
)
from qc.web.auth import Anybody, Reviewer
from qc.web.query import AskedFor, ReviewQuery
from qc.web.rendering import Keeping, ProjectDep, Reads

router = APIRouter(prefix="/api/v1", tags=["labels and verdicts"])

_KEY = r"^[A-Za-z0-9-]{8,64}$"
_Id = Annotated[int, Field(ge=1, lt=BEYOND_IDS)]
_LabelId = Annotated[int, Field(ge=0, lt=BEYOND_IDS)]
_IDS = "Numbers of extensions, as `/extensions` has them."
Ids = Annotated[list[_Id], Field(min_length=1, max_length=idempotency.MOST)]
Count = Annotated[int, Query(ge=1, le=500, description="How many at most.")]


class LabelForm(StrEnum):
    """How an answer is written."""

    JSON = "json"
    CSV = "csv"
    VOTABLE = "votable"


Written = Annotated[
    LabelForm,
    Query(alias="format", description="CSV and VOTable hold all rows, JSON a page of them."),
]

_MEDIA = {
    ExportFormat.CSV: "text/csv; charset=utf-8",
    ExportFormat.VOTABLE: "application/x-votable+xml",
}
_TABLES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {media: {"schema": {"type": "string"}} for media in _MEDIA.values()},
        "description": "As asked for.",
    }
}


class LabelSubmission(BaseModel):
    """What somebody says of some extensions."""

    extensions: Annotated[Ids, Field(description=_IDS)]
    label: Annotated[str, Field(max_length=60, description="`good`, `bad` or `valid-outlier`.")]
    kind: Annotated[str, Field(max_length=60, description="Of fault, if it is bad.")] = ""
    note: Annotated[str, Field(max_length=1000, description="One line.")] = ""
    key: Annotated[
        str, Field(pattern=_KEY, description="A name of your own: sent again, it does nothing.")
    ]
    whole_set: Annotated[
        bool, Field(description="The other exposures of their sets are meant too.")
    ] = False
    sure: Annotated[bool, Field(description="More than 20 at once are meant.")] = False
    seen: Annotated[
        dict[_Id, _LabelId], Field(description="The labels that you saw, by extension; 0 for none.")
    ] = Field(default_factory=dict, max_length=idempotency.MOST)


@dataclass(frozen=True)
class TablePage:
    """Some rows of a table, and where the next are found."""

    rows: list[dict[str, Any]]
    after: str


@dataclass(frozen=True)
class QueuePage:
    """Some extensions, and where the next are found."""

    extensions: tuple[QueueItem, ...]
    after: str


def promising(project: Project) -> sessionmaker[Session]:
    """Return sessions whose transactions outlast a power cut: what is answered is kept."""
    return sessionmaker(for_promising(project.engine))


@router.post("/labels")
def say(
    request: Request, project: ProjectDep, said: LabelSubmission, who: Reviewer
) -> RequestResult:
    """Say what some extensions are, once however often it is sent."""
    asked = idempotency.LabelRequest(
        who=who.name,
        key=said.key,
        at=request.app.state.now(),
        extension_ids=said.extensions,
        is_sure=said.sure,
        seen=said.seen,
    )
    words = said.label, said.kind, said.note
    # Committed before the answer leaves: what was answered with 200 is kept.
    with promising(project).begin() as session:
        return idempotency.answer_once(
            session, asked, project.instruments, words, whole_set=said.whole_set
        )


@router.delete("/labels")
def undo(
    request: Request,
    project: ProjectDep,
    who: Reviewer,
    *,
    extension: Annotated[
        list[_Id], Query(min_length=1, max_length=idempotency.MOST, description=_IDS)
    ],
    key: Annotated[
        str, Query(pattern=_KEY, description="A name of your own: sent again, it does nothing.")
    ],
    of: Annotated[str, Query(max_length=64, description="Key of what you said.")] = "",
    sure: Annotated[bool, Query(description="More than 20 at once are meant.")] = False,
) -> RequestResult:
    """Undo what you said under a key, or else the labels that count of some extensions."""
    asked = idempotency.LabelRequest(who.name, key, request.app.state.now(), extension, sure)
    with promising(project).begin() as session:
        return idempotency.undo_once(session, asked, of)


@router.get("/labels/of")
def labels_of(
    session: Reads,
    _who: Anybody,
    extension: Annotated[
        list[_Id], Query(min_length=1, max_length=idempotency.MOST, description=_IDS)
    ],
) -> tuple[CurrentLabel, ...]:
    """Return the label that counts of each of these extensions, in this order."""
    return idempotency.words_of(session, extension)


@router.get("/labels", responses=_TABLES, response_model=TablePage)
def labels(
    session: Reads,
    project: ProjectDep,
    kept: Keeping,
    asked: AskedFor,
    _who: Anybody,
    *,
    count: Count = 100,
    form: Written = LabelForm.JSON,
) -> Any:
    """Return the labels that count, with who gave them."""
    spoken = asked.model_copy(update={"labelled": LabelFilter.YES})
    return _table(session, project, kept, spoken, ExportTable.LABELS, form, count)


@router.get("/verdicts", responses=_TABLES, response_model=TablePage)
def verdicts(
    session: Reads,
    project: ProjectDep,
    kept: Keeping,
    asked: AskedFor,
    _who: Anybody,
    *,
    count: Count = 100,
    form: Written = LabelForm.JSON,
) -> Any:
    """Return the newest verdict on each extension."""
    return _table(session, project, kept, asked, ExportTable.VERDICTS, form, count)


@router.get("/extensions")
def extensions(
    session: Reads,
    project: ProjectDep,
    kept: Keeping,
    asked: AskedFor,
    _who: Anybody,
    *,
    count: Count = 100,
) -> QueuePage:
    """Return what the review shows of extensions, in the order in which it would."""
    some = next_of(session, project, kept, asked, count)
    return QueuePage(read_looks(session, some.ids), some.after)


def next_of(
    session: Session, project: Project, kept: LRUCache, asked: ReviewQuery, count: int
) -> Page:
    """Return the next extensions that an address asks for."""
    if asked.order is not QueueOrder.INFORMATIVE:
        return read_some(session, project.instruments, asked.filters, count, asked.after)
    ranked = _ranked(session, project, kept, asked.filters)
    start = ranked.index(int(asked.after)) + 1 if asked.after in map(str, ranked) else 0
    found = ranked[start : start + count]
    return Page(found, str(found[-1]) if start + count < len(ranked) else "")


def _ranked(
    session: Session, project: Project, kept: LRUCache, filters: QueueFilters
) -> tuple[int, ...]:
    """Return the most informative that nobody has labelled since they were ranked.

    Ranked anew where something was judged since, or the classifier is another; not after each
    label: what is learnt of one frame changes the worth of the others too little.
    """
    known = project.classifier
    stamp = newest_verdict(session), known.digest if known else ""
    ranked = kept.get(
        ("informative", filters), stamp, lambda: most_informative(session, project, filters)
    )
    left = without_label(session, ranked)
    if left or not ranked:
        return left
    return most_informative(session, project, filters)  # all of them were answered


def _table(
    session: Session,
    project: Project,
    kept: LRUCache,
    asked: ReviewQuery,
    what: ExportTable,
    form: LabelForm,
    count: int,
) -> TablePage | Response:
    """Return a page of a table as JSON, or all of it as a file."""
    if form is LabelForm.JSON:
        some = next_of(session, project, kept, asked, count)
        table = table_of(session, what, findings_with(session, some.ids))
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        return TablePage([{str(k): v for k, v in row.items()} for row in rows], some.after)
    file = ExportFormat(form)
    name = f"{what}.csv" if file is ExportFormat.CSV else f"{what}.xml"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    read_some(session, project.instruments, asked.filters, 1)  # a mistake is told at once
    lines = _lines(project, asked.filters, what, file)
    return StreamingResponse(lines, media_type=_MEDIA[file], headers=headers)


def _lines(
    project: Project, filters: QueueFilters, what: ExportTable, form: ExportFormat
) -> Iterator[bytes]:
    """Yield a table as text, a part at a time: ten years of verdicts are not held, nor awaited."""
    with project.reads() as session:  # the request's own may be gone by then
        parts = parts_of_all(session, project.instruments, filters)
        yield from text_of((table_of(session, what, some) for some in parts), form)
