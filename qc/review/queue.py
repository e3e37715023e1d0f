"""Review queue: pages of extensions in a stored order (decision 0074)."""

import datetime as dt
from collections import abc
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from qc import db, errors, io
from qc.review import queue_filters

FEW = 20_000  # rows that are sorted within the time of a page; more are read in a stored order

_FIRST_CHUNK, _LARGEST_CHUNK = 1000, 8000  # rows of a stored order per query
_MAX_SCANNED = 30_000  # rows read with too few matches before sorting
_LOADED = 500  # extensions in memory
_LOADED_IDS = 20_000


@dataclass(frozen=True)
class Page:
    """Extensions in the requested order.

    Attributes
    ----------
    ids : tuple of int
        Extensions.
    after : str
        Cursor of the next page; empty at the end.
    """

    ids: tuple[int, ...]
    after: str


@dataclass(frozen=True)
class SortKey:
    """A stored order, largest value first.

    Attributes
    ----------
    value : column
        Value to sort by.
    tie : column
        Id that orders equal values.
    parse : callable
        Converts the text of a cursor to a value.
    """

    value: orm.InstrumentedAttribute[Any]
    tie: orm.InstrumentedAttribute[int]
    parse: abc.Callable[[str], Any]


@dataclass(frozen=True)
class Cursor:
    """Position in an order: the last row of the previous page."""

    value: Any
    tie: int


def _parse_time(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


_ORDERS = {
    queue_filters.QueueOrder.DOUBT: SortKey(
        db.schema.models.VerdictRow.doubt, db.schema.models.VerdictRow.id, float
    ),
    queue_filters.QueueOrder.SCORE: SortKey(
        db.schema.models.VerdictRow.score, db.schema.models.VerdictRow.id, float
    ),
    queue_filters.QueueOrder.TIME: SortKey(
        db.schema.models.ExtensionRow.observed_at, db.schema.models.ExtensionRow.id, _parse_time
    ),
    queue_filters.QueueOrder.INFORMATIVE: SortKey(
        db.schema.models.ExtensionRow.observed_at, db.schema.models.ExtensionRow.id, _parse_time
    ),
}


def read_page(
    session: orm.Session,
    instruments: abc.Sequence[io.Instrument],
    filters: queue_filters.QueueFilters,
    count: int,
    after: str = "",
) -> Page:
    """Return the next extensions of the queue.

    Parameters
    ----------
    session : Session
        For reading.
    instruments : sequence of Instrument
        Instruments of the project.
    filters : QueueFilters
        Selection and order.
    count : int
        Largest number of extensions.
    after : str
        Cursor of the previous page; empty for the first page.

    Returns
    -------
    Page

    Raises
    ------
    InvalidInputError
        If an image type, a status or a kind does not exist, or the cursor is invalid.
    """
    order = _ORDERS[filters.order]
    newer = orm.aliased(db.schema.models.VerdictRow)
    is_newest = ~sa.exists().where(
        newer.extension_id == db.schema.models.VerdictRow.extension_id,
        newer.id > db.schema.models.VerdictRow.id,
    )
    query = (
        sa.select(
            db.schema.models.ExtensionRow.id, order.value.label("value"), order.tie.label("tie")
        )
        .join(db.schema.models.ExtensionRow.frame)
        .join(
            db.schema.models.VerdictRow,
            db.schema.models.VerdictRow.extension_id == db.schema.models.ExtensionRow.id,
        )
        .where(is_newest, *queue_filters.build_conditions(session, instruments, filters))
    )
    cursor = parse_cursor(order, after) if after else None
    if filters.order is not queue_filters.QueueOrder.TIME and is_small(
        session, instruments, filters
    ):
        rows = read_sorted(session, order, query, cursor, count + 1)
    else:
        narrow: list[sa.ColumnElement[bool]] = []
        if order.value is db.schema.models.ExtensionRow.observed_at:
            narrow = db.schema.engine.time_conditions(*filters.nights)
            narrow += queue_filters.type_conditions(instruments, filters)
        rows = read_in_order(session, order, query, narrow, cursor, count + 1)
    has_more = len(rows) > count
    rows = rows[:count]
    return Page(tuple(row.id for row in rows), format_cursor(rows[-1]) if has_more else "")


def read_sorted(
    session: orm.Session, order: SortKey, query: sa.Select[Any], cursor: Cursor | None, count: int
) -> list[Any]:
    """Find and sort all matching rows; return the first ones after the cursor.

    Parameters
    ----------
    session : Session
        For reading.
    order : SortKey
        Order.
    query : Select
        Query with all conditions.
    cursor : Cursor or None
        Last row of the previous page.
    count : int
        Largest number of rows.

    Returns
    -------
    list of Row
    """
    if cursor:
        query = query.where(_is_after(order, cursor))
    # The function call keeps the database from reading along the index of the order.
    value = sa.func.coalesce(order.value, order.value)
    return list(session.execute(query.order_by(value.desc(), order.tie.desc()).limit(count)))


def read_in_order(
    session: orm.Session,
    order: SortKey,
    query: sa.Select[Any],
    narrow: abc.Sequence[sa.ColumnElement[bool]],
    cursor: Cursor | None,
    count: int,
) -> list[Any]:
    """Read a stored order in chunks; return the first matching rows after the cursor.

    With order and conditions in one query PostgreSQL may find all matches first, so each query
    covers one chunk of the order. If a long range has too few matches, all are found and sorted.

    Parameters
    ----------
    session : Session
        For reading.
    order : SortKey
        Order.
    query : Select
        Query with all conditions.
    narrow : sequence of ColumnElement
        Conditions on the chunks that an index supports.
    cursor : Cursor or None
        Last row of the previous page.
    count : int
        Largest number of rows.

    Returns
    -------
    list of Row
    """
    rows: list[Any] = []
    size, scanned = _FIRST_CHUNK, 0
    descending = (order.value.desc(), order.tie.desc())
    while len(rows) < count:
        ahead = sa.select(order.value.label("value"), order.tie.label("tie")).where(*narrow)
        ahead = ahead.order_by(*descending)
        if cursor:
            ahead = ahead.where(_is_after(order, cursor))
        chunk = ahead.limit(size).subquery()
        matches = query.join(chunk, chunk.c.tie == order.tie).order_by(*descending)
        rows += session.execute(matches.limit(count - len(rows)))
        last = session.execute(ahead.offset(size - 1).limit(1)).first()
        if last is None:
            break
        scanned += size
        cursor, size = Cursor(*last), min(2 * size, _LARGEST_CHUNK)
        if scanned > _MAX_SCANNED and len(rows) < count:
            return rows + read_sorted(session, order, query, cursor, count - len(rows))
    return rows


def format_cursor(row: Any) -> str:
    """Return the cursor of a row as text."""
    value = row.value
    is_time = isinstance(value, dt.datetime)
    text = value.strftime("%Y-%m-%dT%H:%M:%S.%f") if is_time else repr(value)
    return f"{text}_{row.tie}"


def parse_cursor(order: SortKey, after: str) -> Cursor:
    """Return the cursor of a text.

    Parameters
    ----------
    order : SortKey
        Order of the page.
    after : str
        Text of the cursor.

    Returns
    -------
    Cursor

    Raises
    ------
    InvalidInputError
        If the text is not a cursor of this order.
    """
    text, _, tie = after.partition("_")
    try:
        cursor = Cursor(order.parse(text), int(tie))
    except ValueError:
        cursor = None
    if cursor is None or not 0 <= cursor.tie < db.schema.models.BEYOND_IDS:
        raise errors.InvalidInputError(f"after: '{after[:60]}' is no place in this order")
    return cursor


def _is_after(order: SortKey, cursor: Cursor) -> sa.ColumnElement[bool]:
    return sa.tuple_(order.value, order.tie) < (cursor.value, cursor.tie)


def is_small(
    session: orm.Session,
    instruments: abc.Sequence[io.Instrument],
    filters: queue_filters.QueueFilters,
) -> bool:
    """Return True if sorting all matches is faster than reading a stored order.

    Parameters
    ----------
    session : Session
        For reading.
    instruments : sequence of Instrument
        Instruments of the project.
    filters : QueueFilters
        Selection.

    Returns
    -------
    bool
    """
    if filters.is_sample:
        return True
    queries: list[sa.Select[Any]] = []
    if filters.labelled is queue_filters.LabelFilter.YES or filters.by:
        labels = sa.select(db.schema.models.LabelRow.id)
        queries.append(
            labels.where(db.schema.models.LabelRow.who == filters.by) if filters.by else labels
        )
    if filters.first or filters.last or filters.types:
        conditions = db.schema.engine.night_conditions(*filters.nights)
        conditions += queue_filters.type_conditions(instruments, filters)
        queries.append(
            sa.select(db.schema.models.ExtensionRow.id)
            .join(db.schema.models.ExtensionRow.frame)
            .where(*conditions)
        )
    for query in queries:
        rows = query.limit(FEW + 1).subquery()
        if (session.scalar(sa.select(sa.func.count()).select_from(rows)) or 0) <= FEW:
            return True
    return False


def iterate_findings(
    session: orm.Session,
    instruments: abc.Sequence[io.Instrument],
    filters: queue_filters.QueueFilters,
) -> abc.Iterator[list[db.findings.Finding]]:
    """Yield all matching extensions in chunks of some hundred; at least one chunk.

    The first chunk is read at once. The following pages grow, as the database may read the whole
    order for each of them.

    Parameters
    ----------
    session : Session
        For reading.
    instruments : sequence of Instrument
        Instruments of the project.
    filters : QueueFilters
        Selection and order.

    Yields
    ------
    list of Finding
    """
    count, after, is_last = _LOADED, "", False
    while not is_last:
        page = read_page(session, instruments, filters, count, after)
        for start in range(0, max(len(page.ids), 1), _LOADED):
            yield db.findings.findings_by_id(session, page.ids[start : start + _LOADED])
            session.expunge_all()  # there may be a million of them
        count = min(4 * count, _LOADED_IDS)
        after, is_last = page.after, not page.after
