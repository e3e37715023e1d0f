"""What people say over a line that may break: each request does what it asks for once.

A request carries a name that its asker made. One whose answer was lost is sent again under that
name, and is told what the first did.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from qc import db
from qc._text import MANY
from qc.db.models import LabelRow
from qc.db.selection import ExtensionRef
from qc.errors import InvalidInputError, UnknownFrameError
from qc.io.instruments import Instrument
from qc.labels import store
from qc.labels.store import LabelChange

MOST = 2000  # extensions of one request: the write lock is held for half a second


@dataclass(frozen=True)
class LabelRequest:
    """What is asked for, by whom, and what the asker had seen.

    Attributes
    ----------
    who, key : str
        Together they name the request.
    extension_ids : sequence of int
    is_sure : bool
        Whether more than 20 at once are meant.
    seen : mapping of int to int
        Of extensions, the label that counted when the asker looked; 0 for none. Those that are
        not in it are taken as they are.
    """

    who: str
    key: str
    at: datetime
    extension_ids: Sequence[int]
    is_sure: bool = False
    seen: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CurrentLabel:
    """The label that counts of an extension.

    Attributes
    ----------
    id : int
        Of the label; 0 where none counts.
    words : str
    """

    extension: int
    id: int
    label: str
    kind: str
    who: str
    at: datetime | None
    words: str


@dataclass(frozen=True)
class RequestResult:
    """What a request did.

    Attributes
    ----------
    is_repeated : bool
        Whether it had come before; then nothing was done this time.
    changed : int
        Extensions of which another label counts than before.
    meanwhile : tuple of str
        What others had said before it, and the asker had not seen.
    now : tuple of Word
        What counts of each extension that it named.
    """

    is_repeated: bool
    changed: int
    meanwhile: tuple[str, ...]
    now: tuple[CurrentLabel, ...]


def answer_once(
    session: Session,
    request: LabelRequest,
    instruments: Sequence[Instrument],
    said: tuple[str, str, str],
    *,
    whole_set: bool = False,
) -> RequestResult:
    """Keep what a person says of some extensions.

    Parameters
    ----------
    said : tuple of str
        Label, kind and note.
    whole_set : bool
        Whether the same extensions of the template sets are meant as well.

    Raises
    ------
    InvalidAnswer
        If it cannot be said of one of them, or they are many and the asker is not sure.
    UnknownFrame
        If there is no such extension.
    """
    found = meant(session, request.extension_ids, whole_set=whole_set)
    if db.labels.labels_added_by(session, request.who, request.key) is not None:
        return _known(session, found)
    _check_sure(len(found), is_sure=request.is_sure)
    label, kind, note = said
    answer = store.read_answer(label, kind, note, who=request.who, at=request.at)
    meanwhile = _meanwhile(session, found, request)
    changes = store.answer_for(session, found, answer, instruments)
    return _done(session, request, found, changes, meanwhile)


def undo_once(session: Session, request: LabelRequest, of: str = "") -> RequestResult:
    """Undo what an earlier request of the same person said; or the labels that count.

    Parameters
    ----------
    of : str
        Key of that request. What others have said since stays. Where it is empty, the label that
        counts of each extension is undone, whoever said it.

    Raises
    ------
    InvalidAnswer
        If nothing has a label, or they are many and the asker is not sure.
    UnknownFrame
        If there is no such extension.
    """
    found = meant(session, request.extension_ids)
    if db.labels.labels_added_by(session, request.who, request.key) is not None:
        return _known(session, found)
    meanwhile = _meanwhile(session, found, request)
    if of:
        added = db.labels.labels_added_by(session, request.who, of) or []
        changes = store.take_back(session, added, request.who, request.at)
    else:
        _check_sure(len(found), is_sure=request.is_sure)
        changes = store.undo(session, found, request.who, at=request.at)
    every = {one.id: one for one in (*found, *(change.one for change in changes))}
    return _done(session, request, list(every.values()), changes, meanwhile)


def meant(
    session: Session, extension_ids: Sequence[int], *, whole_set: bool = False
) -> list[ExtensionRef]:
    """Return extensions by their ids, in order of time; with those of their template sets if asked.

    Raises
    ------
    InvalidAnswer
        If there are more than 2000.
    UnknownFrame
        If there is no such extension.
    """
    wanted = set(extension_ids)
    if len(wanted) > MOST:
        raise InvalidInputError(f"{len(wanted)} extensions at once, expected at most {MOST}")
    found = db.selection.extensions_with(session, sorted(wanted))
    if missing := wanted - {one.id for one in found}:
        raise UnknownFrameError(f"extension {min(missing)}: there is none of that number")
    if whole_set:
        found = [each for one in found for each in db.selection.extensions_beside(session, one)]
    return list(dict.fromkeys(found))


def words_of(session: Session, extension_ids: Sequence[int]) -> tuple[CurrentLabel, ...]:
    """Return the label that counts of each extension, in this order."""
    said = db.labels.labels_of(session, extension_ids)
    return tuple(word(one, db.labels.standing(said.get(one, ()))) for one in extension_ids)


def word(extension_id: int, row: LabelRow | None) -> CurrentLabel:
    """Return what counts of an extension."""
    if row is None:
        return CurrentLabel(extension_id, 0, "", "", "", None, store.in_words(None))
    words = store.in_words(row)
    return CurrentLabel(extension_id, row.id, str(row.label), row.kind, row.who, row.at, words)


def _check_sure(count: int, *, is_sure: bool) -> None:
    if count > MANY and not is_sure:
        raise InvalidInputError(f"{count} extensions are more than {MANY}: say that you are sure")


def _known(session: Session, found: Iterable[ExtensionRef]) -> RequestResult:
    return RequestResult(
        is_repeated=True,
        changed=0,
        meanwhile=(),
        now=words_of(session, [one.id for one in found]),
    )


def _done(
    session: Session,
    request: LabelRequest,
    found: Sequence[ExtensionRef],
    changes: Sequence[LabelChange],
    meanwhile: tuple[str, ...],
) -> RequestResult:
    added = [change.label_id for change in changes if change.label_id is not None]
    db.labels.record_request(session, request.who, request.key, request.at, added)
    return RequestResult(
        is_repeated=False,
        changed=sum(change.is_new for change in changes),
        meanwhile=meanwhile,
        now=words_of(session, [one.id for one in found]),
    )


def _meanwhile(
    session: Session, found: Sequence[ExtensionRef], request: LabelRequest
) -> tuple[str, ...]:
    """Say what the asker cannot know: labels of others that came after the last look."""
    seen = [one for one in found if one.id in request.seen]
    said = db.labels.labels_of(session, [one.id for one in seen])
    told = []
    for one in seen:
        row = db.labels.standing(said.get(one.id, ()))
        if row and row.id != request.seen[one.id] and row.who != request.who:
            kind = f", {row.kind}" if row.kind else ""
            ago = spelt(request.at - row.at)
            told.append(f"{one.name}: {row.who} called it {row.label}{kind} {ago} before")
    return tuple(told)


def spelt(span: timedelta) -> str:
    """Write how long ago something was: ``4 s``, ``3 min``, ``5 h``, ``2 days``."""
    seconds = max(0, round(span.total_seconds()))
    for length, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
