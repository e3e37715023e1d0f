"""REST: labels, verdicts and the review queue."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import fastapi
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy import orm

from qc import core, db, exports
from qc._cache import LRUCache
from qc.db.schema.engine import for_durable_writing
from qc.db.schema.models import BEYOND_IDS
from qc.project import ProjectContext
from qc.review import active_learning, idempotency, queue, queue_filters, queue_items
from qc.web import auth, deps
from qc.web.query import ReviewFilters, ReviewQuery

router = fastapi.APIRouter(
    prefix="/api/v1", tags=["labels and verdicts"], route_class=deps.ApiRoute
)

REQUEST_KEY = r"^[A-Za-z0-9-]{8,64}$"
_KEY_WORDS = "Idempotency key: a request with a known key has no effect."
_SURE_WORDS = "Confirms a request for more than 20 extensions."
_IDS_WORDS = "Numbers of extensions, as in `/extensions`."
_Id = Annotated[int, Field(ge=1, lt=BEYOND_IDS)]
_LabelId = Annotated[int, Field(ge=0, lt=BEYOND_IDS)]
Ids = Annotated[list[_Id], Field(min_length=1, max_length=idempotency.MAX_EXTENSIONS)]
Count = Annotated[int, fastapi.Query(ge=1, le=500, description="Largest number of rows.")]
RequestedIds = Annotated[
    list[_Id],
    fastapi.Query(min_length=1, max_length=idempotency.MAX_EXTENSIONS, description=_IDS_WORDS),
]


class ResponseFormat(StrEnum):
    """Format of a table."""

    JSON = "json"
    CSV = "csv"
    VOTABLE = "votable"


Format = Annotated[
    ResponseFormat,
    fastapi.Query(alias="format", description="CSV and VOTable contain all rows, JSON one page."),
]

_MEDIA = {
    core.ExportFormat.CSV: "text/csv; charset=utf-8",
    core.ExportFormat.VOTABLE: "application/x-votable+xml",
}
_TABLES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {media: {"schema": {"type": "string"}} for media in _MEDIA.values()},
        "description": "The table in the requested format.",
    }
}


class LabelSubmission(BaseModel):
    """A label for some extensions."""

    extensions: Annotated[Ids, Field(description=_IDS_WORDS)]
    label: Annotated[str, Field(max_length=60, description="`good`, `bad` or `valid-outlier`.")]
    kind: Annotated[str, Field(max_length=60, description="Kind of fault of a bad frame.")] = ""
    note: Annotated[str, Field(max_length=1000, description="One line.")] = ""
    key: Annotated[str, Field(pattern=REQUEST_KEY, description=_KEY_WORDS)]
    whole_set: Annotated[
        bool, Field(description="Also label the other exposures of the template set.")
    ] = False
    sure: Annotated[bool, Field(description=_SURE_WORDS)] = False
    seen: Annotated[
        dict[_Id, _LabelId],
        Field(description="Number of the label displayed to the user, by extension; 0 for none."),
    ] = Field(default_factory=dict, max_length=idempotency.MAX_EXTENSIONS)


@dataclass(frozen=True)
class TablePage:
    """Rows of a table, and the cursor of the next page."""

    rows: list[dict[str, Any]]
    after: str


@dataclass(frozen=True)
class QueuePage:
    """Extensions of the review queue, and the cursor of the next page."""

    extensions: tuple[queue_items.QueueItem, ...]
    after: str


def durable_session(project: ProjectContext) -> orm.sessionmaker[orm.Session]:
    """Return a session factory whose transactions survive a power failure."""
    return orm.sessionmaker(for_durable_writing(project.engine))


@router.post("/labels")
def add_label(
    request: fastapi.Request,
    project: deps.CurrentProject,
    submission: LabelSubmission,
    user: auth.Reviewer,
) -> idempotency.RequestResult:
    """Add a label to extensions; repeated requests with the same key have no effect.

    Parameters
    ----------
    request, project, user : dependencies
    submission : LabelSubmission
    """
    label_request = idempotency.LabelRequest(
        who=user.name,
        key=submission.key,
        at=request.app.state.now(),
        extension_ids=submission.extensions,
        is_sure=submission.sure,
        displayed=submission.seen,
    )
    answer = submission.label, submission.kind, submission.note
    with durable_session(project).begin() as session:  # committed before the response is sent
        return idempotency.add_labels_once(
            session, label_request, project.instruments, answer, whole_set=submission.whole_set
        )


@router.delete("/labels")
def undo_label(
    request: fastapi.Request,
    project: deps.CurrentProject,
    user: auth.Reviewer,
    *,
    extension: RequestedIds,
    key: Annotated[str, fastapi.Query(pattern=REQUEST_KEY, description=_KEY_WORDS)],
    of: Annotated[
        str, fastapi.Query(max_length=64, description="Key of the request to undo.")
    ] = "",
    sure: Annotated[bool, fastapi.Query(description=_SURE_WORDS)] = False,
) -> idempotency.RequestResult:
    """Undo the labels of an earlier request, or else the current labels of extensions.

    Parameters
    ----------
    request, project, user : dependencies
    extension : list of int
    key, of : str
    sure : bool
    """
    label_request = idempotency.LabelRequest(
        user.name, key, request.app.state.now(), extension, sure
    )
    with durable_session(project).begin() as session:
        return idempotency.undo_once(session, label_request, of)


@router.get("/labels/of")
def current_labels(
    session: deps.ReadSession, _user: auth.User, extension: RequestedIds
) -> tuple[idempotency.CurrentLabel, ...]:
    """Return the current label of each extension, in the given order.

    Parameters
    ----------
    session : Session
    extension : list of int
    """
    return idempotency.read_current_labels(session, extension)


@router.get("/labels", responses=_TABLES, response_model=TablePage)
def labels(
    session: deps.ReadSession,
    project: deps.CurrentProject,
    cache: deps.Cache,
    query: ReviewFilters,
    _user: auth.User,
    *,
    count: Count = 100,
    form: Format = ResponseFormat.JSON,
) -> Any:
    """Return the current labels with their authors.

    Parameters
    ----------
    session, project, cache : dependencies
    query : ReviewQuery
    count : int
    form : ResponseFormat
    """
    query = query.model_copy(update={"labelled": queue_filters.LabelFilter.YES})
    return read_table(session, project, cache, query, core.ExportTable.LABELS, form, count)


@router.get("/verdicts", responses=_TABLES, response_model=TablePage)
def verdicts(
    session: deps.ReadSession,
    project: deps.CurrentProject,
    cache: deps.Cache,
    query: ReviewFilters,
    _user: auth.User,
    *,
    count: Count = 100,
    form: Format = ResponseFormat.JSON,
) -> Any:
    """Return the newest verdict of each extension.

    Parameters
    ----------
    session, project, cache : dependencies
    query : ReviewQuery
    count : int
    form : ResponseFormat
    """
    return read_table(session, project, cache, query, core.ExportTable.VERDICTS, form, count)


@router.get("/extensions")
def extensions(
    session: deps.ReadSession,
    project: deps.CurrentProject,
    cache: deps.Cache,
    query: ReviewFilters,
    _user: auth.User,
    *,
    count: Count = 100,
) -> QueuePage:
    """Return extensions in the order of the review queue.

    Parameters
    ----------
    session, project, cache : dependencies
    query : ReviewQuery
    count : int
    """
    page = read_page(session, project, cache, query, count)
    return QueuePage(queue_items.read_items(session, page.ids), page.after)


# --- reading --------------------------------------------------------------------------------------


def read_page(
    session: orm.Session, project: ProjectContext, cache: LRUCache, query: ReviewQuery, count: int
) -> queue.Page:
    """Return the next extensions of the review queue.

    Parameters
    ----------
    session : Session
        For reading.
    project : ProjectContext
    cache : LRUCache
    query : ReviewQuery
    count : int
        Largest number of extensions.
    """
    if query.order is not queue_filters.QueueOrder.INFORMATIVE:
        return queue.read_page(session, project.instruments, query.filters, count, query.after)
    ranked = rank_informative(session, project, cache, query.filters)
    start = ranked.index(int(query.after)) + 1 if query.after in map(str, ranked) else 0
    ids = ranked[start : start + count]
    return queue.Page(ids, str(ids[-1]) if start + count < len(ranked) else "")


def rank_informative(
    session: orm.Session,
    project: ProjectContext,
    cache: LRUCache,
    filters: queue_filters.QueueFilters,
) -> tuple[int, ...]:
    """Return the unlabelled extensions that are most informative for the classifier.

    The ranking is repeated after a new verdict or classifier, not after each label: one label
    changes the ranking too little.

    Parameters
    ----------
    session : Session
        For reading.
    project : ProjectContext
    cache : LRUCache
    filters : QueueFilters
    """
    classifier = project.classifier
    stamp = db.extensions.latest_verdict_id(session), classifier.digest if classifier else ""
    ranked = cache.get(
        ("informative", filters),
        stamp,
        lambda: active_learning.most_informative(session, project, filters),
    )
    unlabelled = db.labels.unlabelled(session, ranked)
    if unlabelled or not ranked:
        return unlabelled
    return active_learning.most_informative(session, project, filters)


def read_table(
    session: orm.Session,
    project: ProjectContext,
    cache: LRUCache,
    query: ReviewQuery,
    table_name: core.ExportTable,
    form: ResponseFormat,
    count: int,
) -> TablePage | fastapi.Response:
    """Return a page of a table as JSON, or the whole table as a file.

    Parameters
    ----------
    session : Session
        For reading.
    project : ProjectContext
    cache : LRUCache
    query : ReviewQuery
    table_name : ExportTable
    form : ResponseFormat
    count : int
        Rows of a JSON page.
    """
    if form is ResponseFormat.JSON:
        page = read_page(session, project, cache, query, count)
        table = exports.table_of(session, table_name, db.findings.findings_by_id(session, page.ids))
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        return TablePage([{str(k): v for k, v in row.items()} for row in rows], page.after)
    export_format = core.ExportFormat(form)
    suffix = "csv" if export_format is core.ExportFormat.CSV else "xml"
    headers = {"Content-Disposition": f'attachment; filename="{table_name}.{suffix}"'}
    queue.read_page(session, project.instruments, query.filters, 1)  # invalid filters fail here
    chunks = stream_table(project, query.filters, table_name, export_format)
    return StreamingResponse(chunks, media_type=_MEDIA[export_format], headers=headers)


def stream_table(
    project: ProjectContext,
    filters: queue_filters.QueueFilters,
    table_name: core.ExportTable,
    export_format: core.ExportFormat,
) -> Iterator[bytes]:
    """Yield a table as text in chunks, as ten years of verdicts do not fit into memory.

    Parameters
    ----------
    project : ProjectContext
    filters : QueueFilters
    table_name : ExportTable
    export_format : ExportFormat
    """
    with project.read_session() as session:  # the session of the request is closed by then
        parts = queue.iterate_findings(session, project.instruments, filters)
        tables = (exports.table_of(session, table_name, findings) for findings in parts)
        yield from exports.encode_tables(tables, export_format)
