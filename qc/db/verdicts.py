"""Queries for verdicts."""

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    func,
    select,
)
from sqlalchemy.orm import (
    Session,
    aliased,
)

from qc.core.verdict import Status
from qc.db.models import ExtensionRow, VerdictRow


def _is_judged() -> ColumnElement[bool]:
    """Leave out what a backfill has measured and not judged yet."""
    return select(VerdictRow.id).where(VerdictRow.extension_id == ExtensionRow.id).exists()


def newest_verdict_id() -> ScalarSelect[int]:
    """Return the newest verdict on the extension in the enclosing query, as a subquery."""
    other = aliased(VerdictRow)
    return (
        select(func.max(other.id))
        .where(other.extension_id == ExtensionRow.id)
        .correlate(ExtensionRow)
        .scalar_subquery()
    )


def first_verdict_id() -> ScalarSelect[int]:
    """Return the first verdict on the extension in the enclosing query, as a subquery."""
    other = aliased(VerdictRow)
    return (
        select(func.min(other.id))
        .where(other.extension_id == ExtensionRow.id)
        .correlate(ExtensionRow)
        .scalar_subquery()
    )


def newest_status(session: Session, extension_id: int) -> Status | None:
    """Return how an extension was judged last; None if it awaits its first verdict."""
    query = select(_newest_status()).where(ExtensionRow.id == extension_id)
    status = session.scalars(query).one()
    return None if status is None else Status(status)


def _newest_status() -> ScalarSelect[Status]:
    return (
        select(VerdictRow.status)
        .where(VerdictRow.extension_id == ExtensionRow.id)
        .order_by(VerdictRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )
