"""Records of injection tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import (
    case,
    delete,
    func,
    select,
)
from sqlalchemy.orm import (
    Session,
)

from qc.db.models import SelfTestRow


@dataclass(frozen=True)
class InjectionResult:
    """Trials of a self-test that differ in nothing but the frame, counted."""

    night: date
    instrument: str
    image_type: str
    kind: str
    strength: str
    tried: int
    found: int


def faults_tried(session: Session, first: date, last: date) -> Sequence[InjectionResult]:
    """Return what the self-tests of these nights tried, and how many of it were found."""
    what = (
        SelfTestRow.night,
        SelfTestRow.instrument,
        SelfTestRow.image_type,
        SelfTestRow.kind,
        SelfTestRow.strength,
    )
    found = func.sum(case((SelfTestRow.is_found, 1), else_=0))
    query = (
        select(*what, func.count(), found)
        .where(SelfTestRow.night >= first, SelfTestRow.night <= last)
        .group_by(*what)
        .order_by(*what)
    )
    return [InjectionResult(*row) for row in session.execute(query)]


def record_self_test(session: Session, night: date, rows: Sequence[SelfTestRow]) -> None:
    """Keep a night's trials instead of those that were kept of it before."""
    session.execute(delete(SelfTestRow).where(SelfTestRow.night == night))
    session.add_all(rows)
