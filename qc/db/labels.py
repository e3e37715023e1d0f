"""Queries and records of labels."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    Subquery,
    func,
    select,
)
from sqlalchemy.orm import (
    InstrumentedAttribute,
    Session,
    aliased,
)

from qc._time import utc_now
from qc.core.enums import LabelName
from qc.db.engine import _parts
from qc.db.models import ExtensionRow, IdempotentRequestRow, LabelRow


def newest_label(what: InstrumentedAttribute[Any] = LabelRow.label) -> ScalarSelect[Any]:
    """Return the label that counts of the extension in the enclosing query, as a subquery.

    Parameters
    ----------
    what : column of LabelRow
        What is wanted of it.
    """
    return (
        select(what)
        .where(LabelRow.extension_id == ExtensionRow.id, *_label_stands())
        .order_by(LabelRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )


def standing_labels() -> Subquery:
    """Return the labels that count, as a table of `extension_id` and `label_id` to be joined.

    Found once for all extensions: where many are grouped, `newest_label` would be asked anew for
    each, and more than once.
    """
    return (
        select(LabelRow.extension_id, func.max(LabelRow.id).label("label_id"))
        .where(*_label_stands())
        .group_by(LabelRow.extension_id)
        .subquery()
    )


@dataclass(frozen=True)
class LabelAnswer:
    """What a person says of an extension.

    Attributes
    ----------
    kind : str
        Of the fault of a bad one; else empty.
    at : datetime
        Aware.
    """

    label: LabelName
    who: str
    kind: str = ""
    note: str = ""
    at: datetime = field(default_factory=utc_now)


def labels_of(session: Session, extension_ids: Sequence[int]) -> dict[int, list[LabelRow]]:
    """Return all that was ever said of some extensions, by their ids, oldest first.

    What was undone is there, and so are the rows that undo.
    """
    said = defaultdict[int, list[LabelRow]](list)
    for some in _parts(extension_ids):
        query = select(LabelRow).where(LabelRow.extension_id.in_(some)).order_by(LabelRow.id)
        for row in session.scalars(query):
            said[row.extension_id].append(row)
    return said


def standing(said: Iterable[LabelRow]) -> LabelRow | None:
    """Return the label that counts of all that was said of an extension, oldest first."""
    rows = list(said)
    undone = {row.undoes_id for row in rows}
    stands = [row for row in rows if row.undoes_id is None and row.id not in undone]
    return stands[-1] if stands else None


def record_label(
    session: Session, extension_id: int, answer: LabelAnswer, undoes: LabelRow | None = None
) -> LabelRow:
    """Add what a person says of an extension, or that a label is undone; nothing is replaced."""
    row = LabelRow(
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


def labels_added_by(session: Session, who: str, key: str) -> list[int] | None:
    """Return the labels that a person's request added; None if it has not come before."""
    return session.scalar(
        select(IdempotentRequestRow.label_ids).where(
            IdempotentRequestRow.who == who, IdempotentRequestRow.key == key
        )
    )


def record_request(
    session: Session, who: str, key: str, at: datetime, label_ids: Sequence[int]
) -> None:
    """Keep that a request has done what it asked for."""
    session.add(IdempotentRequestRow(who=who, key=key, at=at, label_ids=list(label_ids)))
    session.flush()


def _label_stands() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Leave out the rows that undo another, and those undone."""
    undoing = aliased(LabelRow)
    undone = select(undoing.id).where(undoing.undoes_id == LabelRow.id).exists()
    # SQLite takes "IS NULL" of a unique column for rare, and would read all labels for each image.
    return func.coalesce(LabelRow.undoes_id, 0) == 0, ~undone


def without_label(session: Session, extension_ids: Sequence[int]) -> tuple[int, ...]:
    """Return those of some extensions of which no label counts, in their order."""
    said = labels_of(session, extension_ids)
    return tuple(one for one in extension_ids if standing(said.get(one, ())) is None)


def newest_label_id(session: Session) -> int:
    """Return the id of what was said last, taken back or not; 0 if nothing was ever said."""
    return session.scalar(select(func.max(LabelRow.id))) or 0


def extensions_spoken_of(session: Session) -> Sequence[int]:
    """Return the ids of the extensions of which a label counts."""
    query = select(LabelRow.extension_id).where(*_label_stands()).distinct()
    return session.scalars(query).all()
