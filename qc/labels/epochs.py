"""Epochs: from the night of an intervention on, references start anew.

No row is overwritten: a wrong entry is undone by a further row, and both stay.
"""

import datetime as dt
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from qc import db
from qc._text import match_name
from qc._time import utc_now
from qc.db.extensions import ExtensionRef
from qc.db.schema.models import EpochRow
from qc.errors import InvalidInputError
from qc.labels import store

if TYPE_CHECKING:
    from qc.io.instruments import Instrument


@dataclass(frozen=True)
class EpochEntry:
    """Epoch, and the row that undoes it, if any."""

    epoch: EpochRow
    undone_by: EpochRow | None


@dataclass(frozen=True)
class EpochChange:
    """Effect of adding or undoing an epoch.

    Attributes
    ----------
    number : int
        Id of the epoch.
    last : date
        Last affected night: the next epoch of the scope begins after it.
    frames : int
        Judged frames of those nights; they have fewer references now, or more after an undo.
    """

    number: int
    scope: str
    since: dt.date
    last: dt.date
    frames: int


def read_log(session: Session) -> list[EpochEntry]:
    """Return every epoch in the order of its date, undone or not."""
    rows = db.labels.epochs(session)
    undoing = {row.undoes_id: row for row in rows if row.undoes_id is not None}
    entries = [EpochEntry(row, undoing.get(row.id)) for row in rows if row.undoes_id is None]
    return sorted(entries, key=lambda entry: (entry.epoch.since, entry.epoch.id))


def add(
    session: Session,
    scope: str,
    since: dt.date,
    why: str,
    *,
    who: str,
    instruments: "Sequence[Instrument]",
) -> EpochChange:
    """Add an epoch: from its night on, references of its scope start anew.

    Parameters
    ----------
    session : Session
    scope : str
        An image type, or the name of an instrument.
    since : date
        First night.
    why : str
        Reason.
    who : str
        Author.
    instruments : sequence of Instrument

    Returns
    -------
    EpochChange

    Raises
    ------
    InvalidInputError
        If the scope does not exist, the night is in the future, or the epoch exists already.
    """
    name = match_name(scope, scopes(instruments), "image type or instrument")
    today = utc_now().date()
    if since > today:
        raise InvalidInputError(
            f"{since} is in the future (today is {today}): add the epoch after the intervention"
        )
    for entry in read_log(session):
        if (entry.epoch.scope, entry.epoch.since) == (name, since) and not entry.undone_by:
            raise InvalidInputError(
                f"{name} has an epoch from {since} already: No. {entry.epoch.id}, "
                f"{entry.epoch.why}, by {entry.epoch.who}"
            )
    return _record(session, name, since, why, who)


def scopes(instruments: "Sequence[Instrument]") -> list[str]:
    """Return the possible scopes of an epoch: instruments and their image types."""
    types = [name for instrument in instruments for name in instrument.image_types()]
    return [instrument.name for instrument in instruments] + types


def undo(session: Session, number: int, why: str, *, who: str) -> EpochChange:
    """Undo a wrong epoch by a further row.

    Parameters
    ----------
    session : Session
    number : int
        Id of the epoch.
    why : str
        Reason.
    who : str
        Author.

    Returns
    -------
    EpochChange

    Raises
    ------
    InvalidInputError
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
    since: dt.date,
    why: str,
    who: str,
    undoes: EpochRow | None = None,
) -> EpochChange:
    row = EpochRow(
        scope=scope,
        since=since,
        why=store.clean_line(why, "reason", store.LONGEST_NOTE, needed=True),
        who=store.clean_line(who, "author's name", store.LONGEST_NAME, needed=True),
        at=utc_now(),
        undoes_id=undoes.id if undoes else None,
    )
    session.add(row)
    session.flush()
    later = [
        entry.epoch.since
        for entry in read_log(session)
        if entry.epoch.scope == scope and entry.epoch.since > since and not entry.undone_by
    ]
    last = min(later) - dt.timedelta(days=1) if later else dt.date.max
    least_references = 0 if undoes else 1  # a new epoch affects frames with references only
    frames = db.statistics.count_judged_frames(session, scope, since, last, least_references)
    return EpochChange(undoes.id if undoes else row.id, scope, since, last, frames)


def suggest_commands(extensions: Iterable[ExtensionRef], note: str) -> list[str]:
    """Return the commands that begin an epoch at some extensions, one for each image type.

    Parameters
    ----------
    extensions : iterable of ExtensionRef
    note : str
        Reason.

    Returns
    -------
    list of str
    """
    since: dict[str, dt.date] = {}
    for extension in extensions:
        earliest = since.get(extension.image_type, dt.date.max)
        since[extension.image_type] = min(extension.night, earliest)
    reason = shlex.quote(note or "what has changed")
    return [
        f"qc epochs add {name} --from {night} --reason {reason}" for name, night in since.items()
    ]
