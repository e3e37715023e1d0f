"""Queries for epochs."""

from collections.abc import Sequence
from datetime import date

from sqlalchemy import (
    select,
)
from sqlalchemy.orm import (
    Session,
)

from qc.db.models import EpochRow
from qc.db.references import _epoch_stands


def epochs_between(session: Session, first: date, last: date) -> Sequence[EpochRow]:
    """Return the interventions of these nights, oldest first."""
    query = select(EpochRow).where(
        EpochRow.since >= first, EpochRow.since <= last, *_epoch_stands()
    )
    return session.scalars(query.order_by(EpochRow.since, EpochRow.id)).all()


def epochs(session: Session) -> Sequence[EpochRow]:
    """Return all that was ever said of interventions, in the order of saying."""
    return session.scalars(select(EpochRow).order_by(EpochRow.id)).all()
