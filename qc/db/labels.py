"""Labels, label requests and epochs: queries and inserts."""

import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from qc._time import utc_now
from qc.core.enums import LabelName
from qc.db.schema import models
from qc.db.schema.engine import chunks


@dataclasses.dataclass(frozen=True)
class LabelAnswer:
    """A person's answer: the content of a label.

    Attributes
    ----------
    kind : str
        Kind of fault of a bad extension; else empty.
    at : datetime
        Aware.
    """

    label: LabelName
    who: str
    kind: str = ""
    note: str = ""
    at: dt.datetime = dataclasses.field(default_factory=utc_now)


def newest_label(
    column: orm.InstrumentedAttribute[Any] = models.LabelRow.label,
) -> sa.ScalarSelect[Any]:
    """Return a column of the current label of the enclosing query's extension, as a subquery."""
    return (
        sa.select(column)
        .where(models.LabelRow.extension_id == models.ExtensionRow.id, *is_label_valid())
        .order_by(models.LabelRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )


def current_labels() -> sa.Subquery:
    """Return a table of `extension_id` and `label_id` of all current labels, for joins.

    It is evaluated once; in a query with GROUP BY, `newest_label` is evaluated for each row.
    """
    return (
        sa.select(models.LabelRow.extension_id, sa.func.max(models.LabelRow.id).label("label_id"))
        .where(*is_label_valid())
        .group_by(models.LabelRow.extension_id)
        .subquery()
    )


def is_label_valid() -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    """Return conditions for labels that neither undo another nor are undone."""
    undoing = orm.aliased(models.LabelRow)
    is_undone = sa.select(undoing.id).where(undoing.undoes_id == models.LabelRow.id).exists()
    # SQLite expects "IS NULL" of a unique column to be rare, and would read all labels per row.
    return sa.func.coalesce(models.LabelRow.undoes_id, 0) == 0, ~is_undone


def labels_of(
    session: orm.Session, extension_ids: Sequence[int]
) -> dict[int, list[models.LabelRow]]:
    """Return all labels of some extensions, with undone and undoing rows.

    Parameters
    ----------
    session : Session
    extension_ids : sequence of int

    Returns
    -------
    dict of int to list of LabelRow
        By extension, oldest first; extensions without labels are absent.
    """
    histories = defaultdict[int, list[models.LabelRow]](list)
    for chunk in chunks(extension_ids):
        query = (
            sa.select(models.LabelRow)
            .where(models.LabelRow.extension_id.in_(chunk))
            .order_by(models.LabelRow.id)
        )
        for row in session.scalars(query):
            histories[row.extension_id].append(row)
    return histories


def current_label(history: Iterable[models.LabelRow]) -> models.LabelRow | None:
    """Return the current label among all labels of an extension, oldest first."""
    rows = list(history)
    undone_ids = {row.undoes_id for row in rows}
    valid = [row for row in rows if row.undoes_id is None and row.id not in undone_ids]
    return valid[-1] if valid else None


def unlabelled(session: orm.Session, extension_ids: Sequence[int]) -> tuple[int, ...]:
    """Return those of some extensions without a current label, in their order.

    Parameters
    ----------
    session : Session
    extension_ids : sequence of int

    Returns
    -------
    tuple of int
    """
    histories = labels_of(session, extension_ids)
    return tuple(
        extension_id
        for extension_id in extension_ids
        if current_label(histories.get(extension_id, ())) is None
    )


def record_label(
    session: orm.Session,
    extension_id: int,
    answer: LabelAnswer,
    undoes: models.LabelRow | None = None,
) -> models.LabelRow:
    """Insert a label, or a row that undoes one; nothing is replaced.

    Parameters
    ----------
    session : Session
    extension_id : int
    answer : LabelAnswer
    undoes : LabelRow, optional
        Undone label.

    Returns
    -------
    LabelRow
    """
    row = models.LabelRow(
        extension_id=extension_id,
        label=answer.label,
        kind=answer.kind,
        who=answer.who,
        at=answer.at,
        note=answer.note,
        undoes_id=undoes.id if undoes else None,
    )
    session.add(row)
    session.flush()  # the newest id counts
    return row


def find_request_labels(session: orm.Session, who: str, key: str) -> list[int] | None:
    """Return the ids of the labels that a request added.

    Parameters
    ----------
    session : Session
    who : str
        User of the request.
    key : str
        Idempotency key of the request.

    Returns
    -------
    list of int or None
        None for a new request.
    """
    return session.scalar(
        sa.select(models.IdempotentRequestRow.label_ids).where(
            models.IdempotentRequestRow.who == who, models.IdempotentRequestRow.key == key
        )
    )


def record_request(
    session: orm.Session, who: str, key: str, at: dt.datetime, label_ids: Sequence[int]
) -> None:
    """Insert a completed request.

    Parameters
    ----------
    session : Session
    who : str
        User of the request.
    key : str
        Idempotency key of the request.
    at : datetime
    label_ids : sequence of int
        Labels that it added.
    """
    session.add(models.IdempotentRequestRow(who=who, key=key, at=at, label_ids=list(label_ids)))
    session.flush()


def newest_label_id(session: orm.Session) -> int:
    """Return the id of the newest label row, undone or not; 0 without any."""
    return session.scalar(sa.select(sa.func.max(models.LabelRow.id))) or 0


def labelled_extension_ids(session: orm.Session) -> Sequence[int]:
    """Return the ids of all extensions with a current label."""
    query = sa.select(models.LabelRow.extension_id).where(*is_label_valid()).distinct()
    return session.scalars(query).all()


def is_epoch_valid() -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    """Return conditions for epochs that neither undo another nor are undone."""
    undoing = orm.aliased(models.EpochRow)
    is_undone = sa.select(undoing.id).where(undoing.undoes_id == models.EpochRow.id).exists()
    return models.EpochRow.undoes_id.is_(None), ~is_undone


def epochs_between(
    session: orm.Session, first: dt.date, last: dt.date
) -> Sequence[models.EpochRow]:
    """Return the valid epochs of a range of nights, oldest first.

    Parameters
    ----------
    session : Session
    first, last : date
        First and last night.

    Returns
    -------
    sequence of EpochRow
    """
    query = sa.select(models.EpochRow).where(
        models.EpochRow.since >= first, models.EpochRow.since <= last, *is_epoch_valid()
    )
    return session.scalars(query.order_by(models.EpochRow.since, models.EpochRow.id)).all()


def epochs(session: orm.Session) -> Sequence[models.EpochRow]:
    """Return all epoch rows, undone and undoing ones too, in the order of insertion."""
    return session.scalars(sa.select(models.EpochRow).order_by(models.EpochRow.id)).all()
