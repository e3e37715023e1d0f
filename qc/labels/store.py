"""Labels of people: checked, stored and undone. No row is ever overwritten."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from unicodedata import category

from sqlalchemy.orm import Session

from qc import db
from qc._text import match_name, truncate
from qc._time import utc_now
from qc.core.enums import LabelName
from qc.db.extensions import ExtensionRef
from qc.db.labels import LabelAnswer
from qc.db.schema.models import LabelRow
from qc.errors import InvalidInputError
from qc.labels import taxonomy

if TYPE_CHECKING:
    from qc.io.instruments import Instrument

LONGEST_NOTE, LONGEST_NAME = 1000, 100  # characters


@dataclass(frozen=True)
class LabelChange:
    """Change of an extension's current label, in words.

    Attributes
    ----------
    extension : ExtensionRef
    before, after : str
        Current label before and after the change.
    is_new : bool
        False if the same label was current already.
    label_id : int or None
        Id of the added label; None if no label was added, or one was undone.
    """

    extension: ExtensionRef
    before: str
    after: str
    is_new: bool = True
    label_id: int | None = None


def parse_answer(
    label: str, kind: str = "", note: str = "", *, who: str, at: datetime | None = None
) -> LabelAnswer:
    """Return a person's answer, checked.

    Parameters
    ----------
    label : str
        Name of a label.
    kind : str
        Kind of fault of a bad extension.
    note : str
        Free text.
    who : str
        Author.
    at : datetime, optional
        Now, where absent.

    Returns
    -------
    LabelAnswer

    Raises
    ------
    InvalidInputError
        If the label does not exist, a bad one lacks a kind or another has one, or a text is too
        long.
    """
    name = LabelName(match_name(label, LabelName, "label"))
    if name is LabelName.BAD and not kind.strip():
        raise InvalidInputError(
            "bad needs a kind, of which 'other' is one; 'qc labels kinds' lists them"
        )
    if name is not LabelName.BAD and kind.strip():
        raise InvalidInputError(f"{name} has no kind of fault, got '{truncate(kind)}'")
    return LabelAnswer(
        label=name,
        who=clean_line(who, "author's name", LONGEST_NAME, needed=True),
        kind=kind.strip(),
        note=clean_line(note, "note", LONGEST_NOTE),
        at=at or utc_now(),
    )


def clean_line(text: str, title: str, longest: int, *, needed: bool = False) -> str:
    """Return a text in one line, in characters that a database can store.

    Parameters
    ----------
    text : str
    title : str
        Name of the text in error messages.
    longest : int
        Largest number of characters.
    needed : bool
        Refuse an empty text.

    Returns
    -------
    str

    Raises
    ------
    InvalidInputError
        If it is too long, has control characters, or is needed and empty.
    """
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    if len(line) > longest:
        raise InvalidInputError(
            f"the {title} has {len(line)} characters, at most {longest} are stored"
        )
    if any(category(letter) == "Cc" for letter in line):
        raise InvalidInputError(f"the {title} has control characters: '{truncate(line)}'")
    if needed and not line:
        raise InvalidInputError(f"the {title} is empty")
    return line


def add_labels(
    session: Session,
    extensions: Sequence[ExtensionRef],
    answer: LabelAnswer,
    instruments: "Sequence[Instrument]",
) -> list[LabelChange]:
    """Add a person's answer to all of some extensions, or to none.

    Where an equal label of the same person is current already, nothing is added.

    Parameters
    ----------
    session : Session
    extensions : sequence of ExtensionRef
    answer : LabelAnswer
    instruments : sequence of Instrument

    Returns
    -------
    list of LabelChange
        One for each extension.

    Raises
    ------
    InvalidInputError
        If the kind of fault does not fit one of the extensions.
    """
    answers = [taxonomy.match_kind(answer, extension, instruments) for extension in extensions]
    histories = db.labels.labels_of(session, [extension.id for extension in extensions])
    changes = []
    for extension, own_answer in zip(extensions, answers, strict=True):
        before = db.labels.current_label(histories.get(extension.id, ()))
        if before is not None and has_same_answer(before, own_answer):
            words = describe(before)
            changes.append(LabelChange(extension, words, words, is_new=False))
        else:
            after = db.labels.record_label(session, extension.id, own_answer)
            changes.append(
                LabelChange(extension, describe(before), describe(after), label_id=after.id)
            )
    return changes


def has_same_answer(row: LabelRow, answer: LabelAnswer) -> bool:
    """Return True if label, kind, author and note of a stored label equal an answer's.

    Parameters
    ----------
    row : LabelRow
    answer : LabelAnswer

    Returns
    -------
    bool
    """
    return (row.label, row.kind, row.who, row.note) == (
        answer.label,
        answer.kind,
        answer.who,
        answer.note,
    )


def undo(
    session: Session,
    extensions: Sequence[ExtensionRef],
    who: str,
    note: str = "",
    at: datetime | None = None,
) -> list[LabelChange]:
    """Undo the current label of each extension by a further row.

    Parameters
    ----------
    session : Session
    extensions : sequence of ExtensionRef
    who : str
        Author.
    note : str
    at : datetime, optional
        Now, where absent.

    Returns
    -------
    list of LabelChange
        One for each extension that had a label.

    Raises
    ------
    InvalidInputError
        If none of them has a label.
    """
    histories = db.labels.labels_of(session, [extension.id for extension in extensions])
    changes = []
    for extension in extensions:
        rows = histories.get(extension.id, [])
        if before := db.labels.current_label(rows):
            answer = parse_answer(before.label, before.kind, note, who=who, at=at)
            rows = [*rows, db.labels.record_label(session, extension.id, answer, undoes=before)]
            after = db.labels.current_label(rows)
            changes.append(LabelChange(extension, describe(before), describe(after)))
    if not changes:
        names = ", ".join(extension.name for extension in extensions[:3])
        names += " …" if len(extensions) > 3 else ""
        raise InvalidInputError(f"nothing to undo: {names or 'no extension'} has no label")
    return changes


def undo_labels(
    session: Session, label_ids: Sequence[int], who: str, at: datetime | None = None
) -> list[LabelChange]:
    """Undo certain labels, whether they are current or not; skip those undone already.

    Parameters
    ----------
    session : Session
    label_ids : sequence of int
    who : str
        Author.
    at : datetime, optional
        Now, where absent.

    Returns
    -------
    list of LabelChange
        One for each label that was undone.
    """
    rows = [row for label_id in label_ids if (row := session.get(LabelRow, label_id)) is not None]
    ids = list(dict.fromkeys(row.extension_id for row in rows))
    histories = db.labels.labels_of(session, ids)
    by_id = {extension.id: extension for extension in db.extensions.extensions_by_id(session, ids)}
    changes = []
    for row in rows:
        history = histories[row.extension_id]
        if row.undoes_id is None and row.id not in {other.undoes_id for other in history}:
            before = describe(db.labels.current_label(history))
            answer = parse_answer(row.label, row.kind, who=who, at=at)
            history.append(db.labels.record_label(session, row.extension_id, answer, undoes=row))
            after = describe(db.labels.current_label(history))
            changes.append(LabelChange(by_id[row.extension_id], before, after))
    return changes


def describe(row: LabelRow | None) -> str:
    """Return a label in words: name, kind, author, date and note."""
    if row is None:
        return "no label"
    kind = f", {row.kind}" if row.kind else ""
    note = f": {row.note}" if row.note else ""
    return f"{row.label}{kind}, by {row.who} on {row.at:%Y-%m-%d}{note}"


def history_lines(rows: Iterable[LabelRow]) -> list[str]:
    """Return all labels of an extension in words, oldest first, with the authors of undone ones."""
    rows = list(rows)
    undoing = {row.undoes_id: row for row in rows}
    lines = []
    for row in rows:
        if not row.undoes_id:
            undo_row = undoing.get(row.id)
            ending = f"; undone by {undo_row.who} on {undo_row.at:%Y-%m-%d}" if undo_row else ""
            lines.append(describe(row) + ending)
    return lines
