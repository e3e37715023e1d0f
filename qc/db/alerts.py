"""Records of pending alerts."""

from collections.abc import Collection
from datetime import date

from sqlalchemy import (
    select,
)
from sqlalchemy.orm import (
    Session,
)

from qc._time import utc_now
from qc.core.enums import Topic
from qc.db.engine import add_new
from qc.db.models import AlertRow


def owe_alert(
    session: Session,
    topic: Topic,
    key: str,
    words: str,
    *,
    instrument: str | None = None,
    image_type: str | None = None,
    night: date | None = None,
) -> bool:
    """Owe people word of what is no verdict; return False if this event was owed before.

    Parameters
    ----------
    key : str
        What makes it one event, whenever it is noticed again: ``absence UVES UBB0 2026-11-19``.
    words : str
        A sentence for the mail and the report.
    """
    added = add_new(
        session,
        AlertRow,
        topic=topic,
        key=key,
        words=words,
        instrument=instrument,
        image_type=image_type,
        night=night,
        owed_at=utc_now(),
    )
    return added is not None


def alerts_called(session: Session, keys: Collection[str]) -> Collection[str]:
    """Return those of these keys that an alert has, told or not."""
    rows = session.scalars(select(AlertRow.key).where(AlertRow.key.in_(keys)))
    return {key for key in rows if key is not None}
