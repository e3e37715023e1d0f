"""The log of interventions: from an epoch's night on, references start anew.

Nothing in it is overwritten: a slip is undone by another row, and both stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy.orm import Session

from qc import db
from qc._text import chosen
from qc._time import utc_now
from qc.db.models import EpochRow
from qc.errors import InvalidInputError
from qc.io.instruments import Instrument
from qc.labels.store import LONGEST_NAME, LONGEST_NOTE, one_line


@dataclass(frozen=True)
class EpochEntry:
    """An epoch, and the row that undoes it, if one does."""

    epoch: EpochRow
    undone_by: EpochRow | None


@dataclass(frozen=True)
class EpochChange:
    """What an entry in the log, or the undoing of one, means.

    Attributes
    ----------
    number : int
        Of the epoch.
    last : date
        The last night whose references it decides: the next epoch of its scope begins after it.
    frames : int
        Of those nights, whose references are now fewer; or more, where an epoch is undone.
    """

    number: int
    scope: str
    since: date
    last: date
    frames: int


def read_log(session: Session) -> list[EpochEntry]:
    """Return every epoch in the order of its date, undone or not."""
    rows = db.epochs.epochs(session)
    undoing = {row.undoes_id: row for row in rows if row.undoes_id is not None}
    entered = [EpochEntry(row, undoing.get(row.id)) for row in rows if row.undoes_id is None]
    return sorted(entered, key=lambda entry: (entry.epoch.since, entry.epoch.id))


def enter(
    session: Session,
    scope: str,
    since: date,
    why: str,
    *,
    who: str,
    instruments: Sequence[Instrument],
) -> EpochChange:
    """Enter an intervention: from that night on, references of its scope start anew.

    Parameters
    ----------
    scope : str
        An image type, or the name of an instrument.

    Raises
    ------
    InvalidAnswer
        If there is no such scope, the night is still to come, or the epoch is there already.
    """
    name = chosen(scope, scopes(instruments), "image type or instrument")
    today = utc_now().date()
    if since > today:
        raise InvalidInputError(
            f"{since} is still to come (today is {today}): enter it when it is done"
        )
    for entry in read_log(session):
        if (entry.epoch.scope, entry.epoch.since) == (name, since) and not entry.undone_by:
            raise InvalidInputError(
                f"{name} has an epoch from {since} already: No. {entry.epoch.id}, "
                f"{entry.epoch.why}, says {entry.epoch.who}"
            )
    return _record(session, name, since, why, who)


def scopes(instruments: Sequence[Instrument]) -> list[str]:
    """List what an epoch may be of: the instruments, and their image types."""
    types = [name for one in instruments for name in one.image_types()]
    return [one.name for one in instruments] + types


def undo(session: Session, number: int, why: str, *, who: str) -> EpochChange:
    """Undo an epoch that was a slip, by a row of its own.

    Raises
    ------
    InvalidAnswer
        If there is no epoch of that number, or it is undone already.
    """
    entries = {entry.epoch.id: entry for entry in read_log(session)}
    if number not in entries:
        numbers = ", ".join(map(str, entries)) or "none"
        raise InvalidInputError(f"there is no epoch No. {number}; there are: {numbers}")
    epoch, undone_by = entries[number].epoch, entries[number].undone_by
    if undone_by:
        raise InvalidInputError(f"epoch No. {number} is undone already, by {undone_by.who}")
    return _record(session, epoch.scope, epoch.since, why, who, undoes=epoch)


def _record(
    session: Session,
    scope: str,
    since: date,
    why: str,
    who: str,
    undoes: EpochRow | None = None,
) -> EpochChange:
    row = EpochRow(
        scope=scope,
        since=since,
        why=one_line(why, "reason", LONGEST_NOTE, needed=True),
        who=one_line(who, "name of who says it", LONGEST_NAME, needed=True),
        at=utc_now(),
        undoes_id=undoes.id if undoes else None,
    )
    session.add(row)
    session.flush()
    last = _last_night(session, scope, since)
    least = 0 if undoes else 1  # only who had references can lose some
    frames = db.statistics.frames_judged(session, scope, since, last, least)
    return EpochChange(undoes.id if undoes else row.id, scope, since, last, frames)


def _last_night(session: Session, scope: str, since: date) -> date:
    later = [
        entry.epoch.since
        for entry in read_log(session)
        if entry.epoch.scope == scope and entry.epoch.since > since and not entry.undone_by
    ]
    return min(later) - timedelta(days=1) if later else date.max
