"""Idempotent label requests: a request that is sent again has no second effect (decision 0075).

The client gives each request a key. A repeated request receives the state after the first one.
"""

import dataclasses
import datetime as dt
from collections import abc

from sqlalchemy.orm import Session

from qc import db, errors, io
from qc._text import MANY
from qc.db.schema import models
from qc.labels import store

MAX_EXTENSIONS = 2000  # per request: the write lock is held for half a second


@dataclasses.dataclass(frozen=True)
class LabelRequest:
    """A request to add or undo labels.

    Attributes
    ----------
    who, key : str
        Author and key; together they identify the request.
    at : datetime
        Time, UTC.
    extension_ids : sequence of int
        Extensions to label.
    is_sure : bool
        True if more than 20 extensions at once are intended.
    displayed : mapping of int to int
        Number of the label displayed to the author by extension; 0 for no label. Extensions
        without an entry are not checked for conflicts.
    """

    who: str
    key: str
    at: dt.datetime
    extension_ids: abc.Sequence[int]
    is_sure: bool = False
    displayed: abc.Mapping[int, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class CurrentLabel:
    """The valid label of an extension.

    Attributes
    ----------
    extension : int
        Number of the extension.
    id : int
        Number of the label; 0 without a valid label.
    words : str
        Label in words.
    """

    extension: int
    id: int
    label: str
    kind: str
    who: str
    at: dt.datetime | None
    words: str


@dataclasses.dataclass(frozen=True)
class RequestResult:
    """Effect of a label request.

    Attributes
    ----------
    is_repeated : bool
        True if the request was processed before; it has no second effect.
    changed : int
        Number of extensions whose valid label changed.
    meanwhile : tuple of str
        Labels of other authors that were added before the request and not displayed.
    now : tuple of CurrentLabel
        Valid label of each extension of the request.
    """

    is_repeated: bool
    changed: int
    meanwhile: tuple[str, ...]
    now: tuple[CurrentLabel, ...]


def add_labels_once(
    session: Session,
    request: LabelRequest,
    instruments: abc.Sequence[io.Instrument],
    answer: tuple[str, str, str],
    *,
    whole_set: bool = False,
) -> RequestResult:
    """Label extensions, unless the request was processed before.

    Parameters
    ----------
    session : Session
        For writing.
    request : LabelRequest
        Author, key and extensions.
    instruments : sequence of Instrument
        Instruments of the project.
    answer : (str, str, str)
        Label, fault kind and note.
    whole_set : bool
        Label the same extension of all frames of the template sets.

    Returns
    -------
    RequestResult

    Raises
    ------
    InvalidInputError
        If the label is invalid for an extension, or many extensions are not confirmed.
    UnknownFrameError
        If an extension does not exist.
    """
    extensions = find_extensions(session, request.extension_ids, whole_set=whole_set)
    if db.labels.find_request_labels(session, request.who, request.key) is not None:
        return repeat_result(session, extensions)
    _check_confirmed(len(extensions), is_sure=request.is_sure)
    label, kind, note = answer
    parsed = store.parse_answer(label, kind, note, who=request.who, at=request.at)
    conflicts = find_conflicts(session, extensions, request)
    changes = store.add_labels(session, extensions, parsed, instruments)
    return record_result(session, request, extensions, changes, conflicts)


def undo_once(session: Session, request: LabelRequest, of: str = "") -> RequestResult:
    """Undo labels, unless the request was processed before.

    Parameters
    ----------
    session : Session
        For writing.
    request : LabelRequest
        Author, key and extensions.
    of : str
        Key of an earlier request of the same author, whose labels are undone; later labels stay.
        If it is empty, the valid label of each extension is undone.

    Returns
    -------
    RequestResult

    Raises
    ------
    InvalidInputError
        If no extension has a label, or many extensions are not confirmed.
    UnknownFrameError
        If an extension does not exist.
    """
    extensions = find_extensions(session, request.extension_ids)
    if db.labels.find_request_labels(session, request.who, request.key) is not None:
        return repeat_result(session, extensions)
    conflicts = find_conflicts(session, extensions, request)
    if of:
        label_ids = db.labels.find_request_labels(session, request.who, of) or []
        changes = store.undo_labels(session, label_ids, request.who, request.at)
    else:
        _check_confirmed(len(extensions), is_sure=request.is_sure)
        changes = store.undo(session, extensions, request.who, at=request.at)
    changed = [change.extension for change in changes]
    affected = {extension.id: extension for extension in (*extensions, *changed)}
    return record_result(session, request, list(affected.values()), changes, conflicts)


def find_extensions(
    session: Session, extension_ids: abc.Sequence[int], *, whole_set: bool = False
) -> list[db.extensions.ExtensionRef]:
    """Return extensions in order of time.

    Parameters
    ----------
    session : Session
        For reading.
    extension_ids : sequence of int
        Extensions.
    whole_set : bool
        Include the same extension of all frames of the template sets.

    Returns
    -------
    list of ExtensionRef

    Raises
    ------
    InvalidInputError
        If there are more than 2000.
    UnknownFrameError
        If an extension does not exist.
    """
    ids = set(extension_ids)
    if len(ids) > MAX_EXTENSIONS:
        raise errors.InvalidInputError(
            f"{len(ids)} extensions at once, expected at most {MAX_EXTENSIONS}"
        )
    extensions = db.extensions.extensions_by_id(session, sorted(ids))
    if missing := ids - {extension.id for extension in extensions}:
        raise errors.UnknownFrameError(f"extension {min(missing)}: there is none of that number")
    if whole_set:
        extensions = [
            member
            for extension in extensions
            for member in db.extensions.template_set_of(session, extension)
        ]
    return list(dict.fromkeys(extensions))


def read_current_labels(
    session: Session, extension_ids: abc.Sequence[int]
) -> tuple[CurrentLabel, ...]:
    """Return the valid label of each extension, in the given order.

    Parameters
    ----------
    session : Session
        For reading.
    extension_ids : sequence of int
        Extensions.

    Returns
    -------
    tuple of CurrentLabel
    """
    labels = db.labels.labels_of(session, extension_ids)
    return tuple(
        make_current_label(number, db.labels.current_label(labels.get(number, ())))
        for number in extension_ids
    )


def make_current_label(extension_id: int, row: models.LabelRow | None) -> CurrentLabel:
    """Return the valid label of an extension.

    Parameters
    ----------
    extension_id : int
        Extension.
    row : LabelRow or None
        Valid label; None for no label.

    Returns
    -------
    CurrentLabel
    """
    description = store.describe(row)
    if row is None:
        return CurrentLabel(extension_id, 0, "", "", "", None, description)
    return CurrentLabel(
        extension_id, row.id, str(row.label), row.kind, row.who, row.at, description
    )


def _check_confirmed(count: int, *, is_sure: bool) -> None:
    if count > MANY and not is_sure:
        raise errors.InvalidInputError(
            f"{count} extensions are more than {MANY}: confirm that you are sure"
        )


def repeat_result(
    session: Session, extensions: abc.Iterable[db.extensions.ExtensionRef]
) -> RequestResult:
    """Return the result of a request that was processed before.

    Parameters
    ----------
    session : Session
        For reading.
    extensions : iterable of ExtensionRef
        Extensions of the request.

    Returns
    -------
    RequestResult
    """
    labels = read_current_labels(session, [extension.id for extension in extensions])
    return RequestResult(is_repeated=True, changed=0, meanwhile=(), now=labels)


def record_result(
    session: Session,
    request: LabelRequest,
    extensions: abc.Sequence[db.extensions.ExtensionRef],
    changes: abc.Sequence[store.LabelChange],
    conflicts: tuple[str, ...],
) -> RequestResult:
    """Record a request and return its result.

    Parameters
    ----------
    session : Session
        For writing.
    request : LabelRequest
        Author and key.
    extensions : sequence of ExtensionRef
        Extensions of the result.
    changes : sequence of LabelChange
        Changes of labels.
    conflicts : tuple of str
        Labels that were not displayed to the author.

    Returns
    -------
    RequestResult
    """
    label_ids = [change.label_id for change in changes if change.label_id is not None]
    db.labels.record_request(session, request.who, request.key, request.at, label_ids)
    return RequestResult(
        is_repeated=False,
        changed=sum(change.is_new for change in changes),
        meanwhile=conflicts,
        now=read_current_labels(session, [extension.id for extension in extensions]),
    )


def find_conflicts(
    session: Session, extensions: abc.Sequence[db.extensions.ExtensionRef], request: LabelRequest
) -> tuple[str, ...]:
    """Return labels of other authors that were added after the display.

    Parameters
    ----------
    session : Session
        For reading.
    extensions : sequence of ExtensionRef
        Extensions of the request.
    request : LabelRequest
        Author and displayed labels.

    Returns
    -------
    tuple of str
        A sentence for each label.
    """
    displayed = [extension for extension in extensions if extension.id in request.displayed]
    labels = db.labels.labels_of(session, [extension.id for extension in displayed])
    conflicts = []
    for extension in displayed:
        row = db.labels.current_label(labels.get(extension.id, ()))
        if row and row.id != request.displayed[extension.id] and row.who != request.who:
            kind = f", {row.kind}" if row.kind else ""
            age = format_age(request.at - row.at)
            conflicts.append(
                f"{extension.name}: {row.who} called it {row.label}{kind} {age} before"
            )
    return tuple(conflicts)


def format_age(span: dt.timedelta) -> str:
    """Return a time span in words: ``4 s``, ``3 min``, ``5 h``, ``2 days``."""
    seconds = max(0, round(span.total_seconds()))
    for length, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
