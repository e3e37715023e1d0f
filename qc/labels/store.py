"""What people say of frames: checked, kept, undone. Nothing that was said is overwritten."""

import csv
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from unicodedata import category

from sqlalchemy.orm import Session

from qc import db
from qc._text import chosen, shortened
from qc._time import utc_now
from qc.core.enums import LabelName
from qc.core.verdict import Status
from qc.db.labels import LabelAnswer
from qc.db.models import LabelRow
from qc.db.selection import ExtensionRef
from qc.errors import InvalidInputError, UnknownFrameError
from qc.io.instruments import FaultKind, Instrument
from qc.labels import spot_check

LONGEST_NOTE, LONGEST_NAME = 1000, 100  # characters
LONGEST_LINE = 8000  # bytes
MOST_LINES = 100_000
LARGEST_FILE = 32 * 2**20  # bytes
_ENDING_IN_NUMBER = re.compile(r"(?P<name>.+)\[(?P<number>\d{1,4})\]")
_CALLED_BAD = re.compile(r"_b(?=(\.fits(\.\w+)?)?$)")


@dataclass(frozen=True)
class LabelChange:
    """What an answer did to an extension: which label counted before, and which does, in words.

    Attributes
    ----------
    label_id : int or None
        Of the label that the answer added; None where it said nothing new, or undid one.
    """

    one: ExtensionRef
    before: str
    after: str
    is_new: bool = True
    label_id: int | None = None


# --- which extensions -----------------------------------------------------------------------------


def choose_named(
    session: Session, names: Iterable[str], number: int | None = None, *, whole_set: bool = False
) -> tuple[ExtensionRef, ...]:
    """Return extensions by the names of their frames, all of a frame or one of it.

    Parameters
    ----------
    names : iterable of str
        Archive names, file names or paths; ``NAME[1]``, as this program prints it, is one
        extension.
    number : int, optional
        The extension wanted of each frame.
    whole_set : bool
        Whether the same extension of all frames of the template set is meant.

    Raises
    ------
    UnknownFrame
        If no processed frame has one of the names.
    InvalidAnswer
        If a frame has no extension of that number.
    """
    found = [one for name in names for one in _named(session, name, number)]
    if whole_set:
        found = [each for one in found for each in db.selection.extensions_beside(session, one)]
    return tuple(dict.fromkeys(found))


def _named(session: Session, name: str, number: int | None) -> list[ExtensionRef]:
    name = name.encode("utf-8", "backslashreplace").decode()  # a database holds no other
    try:
        found = db.selection.extensions_named(session, name)
    except UnknownFrameError:
        ending = _ENDING_IN_NUMBER.fullmatch(name)
        if ending is None:
            raise
        name, number = ending["name"], int(ending["number"])
        found = db.selection.extensions_named(session, name)
    return _numbered(found, number)


def _numbered(found: Sequence[ExtensionRef], number: int | None) -> list[ExtensionRef]:
    own = [one for one in found if number in {None, one.number}]
    if not own:
        has = " and ".join(str(one.number) for one in found)
        raise InvalidInputError(f"{found[0].frame}: has extension {has}, not {number}")
    return own


def choose_where(
    session: Session,
    instruments: Sequence[Instrument],
    image_type: str | None,
    night: date | None,
    status: str | None,
) -> tuple[ExtensionRef, ...]:
    """Return the extensions of an image type, of a night, of a newest verdict; None is any.

    Raises
    ------
    InvalidAnswer
        If there is no such image type or status.
    """
    types = [name for one in instruments for name in one.image_types()]
    wanted_type = chosen(image_type, types, "image type") if image_type else None
    wanted = Status(chosen(status, Status, "status")) if status else None
    return tuple(db.selection.extensions_where(session, wanted_type, night, wanted))


def choose_sample(session: Session, night: date | None) -> tuple[ExtensionRef, ...]:
    """Return what was drawn for the spot check of a night and has no label yet.

    Parameters
    ----------
    night : date, optional
        The newest that has frames, where absent.

    Raises
    ------
    InvalidAnswer
        If nothing was drawn, or all of it has a label.
    """
    night = night or db.statistics.newest_night(session)
    draws = spot_check.read_draws(session, night, night) if night else []
    drawn = list(spot_check.answers_of(draws))
    said = db.labels.labels_of(session, drawn)
    found = [one for one in drawn if db.labels.standing(said.get(one, ())) is None]
    if not found:
        why = f"all {len(drawn)} drawn have a label" if drawn else "nothing was drawn"
        raise InvalidInputError(f"spot check of the night {night or '(none yet)'}: {why}")
    return tuple(db.selection.extensions_with(session, found))


# --- what is said ---------------------------------------------------------------------------------


def read_answer(
    label: str, kind: str = "", note: str = "", *, who: str, at: datetime | None = None
) -> LabelAnswer:
    """Return what a person says, whatever it is said of.

    Raises
    ------
    InvalidAnswer
        If there is no such label, a bad one lacks a kind or another has one, or a text is too
        long.
    """
    name = LabelName(chosen(label, LabelName, "label"))
    if name is LabelName.BAD and not kind.strip():
        raise InvalidInputError(
            "bad needs a kind, of which 'other' is one; 'qc label --kinds' lists them"
        )
    if name is not LabelName.BAD and kind.strip():
        raise InvalidInputError(f"{name} has no kind of fault, got '{shortened(kind)}'")
    return LabelAnswer(
        label=name,
        who=one_line(who, "name of who says it", LONGEST_NAME, needed=True),
        kind=kind.strip(),
        note=one_line(note, "note", LONGEST_NOTE),
        at=at or utc_now(),
    )


def one_line(text: str, what: str, longest: int, *, needed: bool = False) -> str:
    """Return a text in one line, in characters that a database can hold.

    Raises
    ------
    InvalidAnswer
        If it is too long, has characters that nobody can see, or is needed and empty.
    """
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    if len(line) > longest:
        raise InvalidInputError(
            f"the {what} has {len(line)} characters, at most {longest} are kept"
        )
    if any(category(letter) == "Cc" for letter in line):
        raise InvalidInputError(f"the {what} has control characters: '{shortened(line)}'")
    if needed and not line:
        raise InvalidInputError(f"the {what} is empty")
    return line


def fitting(
    answer: LabelAnswer, one: ExtensionRef, instruments: Sequence[Instrument]
) -> LabelAnswer:
    """Return an answer with its kind as the instrument's file spells it.

    Raises
    ------
    InvalidAnswer
        If there is no such kind, or it cannot occur in such an image.
    """
    if answer.label is not LabelName.BAD:
        return answer
    instrument = _instrument_of(one, instruments)
    every = [kind.name for kind in instrument.fault_kinds()]
    name = chosen(answer.kind, every, f"kind of fault of {instrument.name}")
    possible = [kind.name for kind in instrument.fault_kinds(one.frame_class)]
    if name not in possible:
        raise InvalidInputError(
            f"{name} cannot occur in a {one.frame_class} such as {one.name}, {one.image_type}; "
            f"what can: {', '.join(possible)}"
        )
    return replace(answer, kind=name)


def _instrument_of(one: ExtensionRef, instruments: Sequence[Instrument]) -> Instrument:
    found = next((each for each in instruments if each.name == one.instrument), None)
    if found is None:
        raise InvalidInputError(
            f"{one.name}: no instrument file describes {one.instrument} any more"
        )
    return found


def taxonomy(
    instruments: Sequence[Instrument], image_type: str | None = None
) -> list[tuple[Instrument, FaultKind]]:
    """List the kinds of fault that people may name, of one image type or of all.

    Raises
    ------
    InvalidAnswer
        If there is no such image type.
    """
    if image_type is None:
        return [(one, kind) for one in instruments for kind in one.fault_kinds()]
    types = [name for one in instruments for name in one.image_types()]
    name = chosen(image_type, types, "image type")
    return [
        (one, kind)
        for one in instruments
        if (calibration := one.calibration_of(name))
        for kind in one.fault_kinds(calibration.frame_class)
    ]


# --- what becomes of it ---------------------------------------------------------------------------


def answer_for(
    session: Session,
    found: Sequence[ExtensionRef],
    answer: LabelAnswer,
    instruments: Sequence[Instrument],
) -> list[LabelChange]:
    """Keep what a person says of some extensions: of all of them, or of none.

    Where the same person's same words count already, nothing is added.

    Raises
    ------
    InvalidAnswer
        If it cannot be said of one of them.
    """
    fits = [fitting(answer, one, instruments) for one in found]
    said = db.labels.labels_of(session, [one.id for one in found])
    changes = []
    for one, own in zip(found, fits, strict=True):
        before = db.labels.standing(said.get(one.id, ()))
        is_known = before is not None and _same_words(before, own)
        after = before if is_known else db.labels.record_label(session, one.id, own)
        added = None if is_known or after is None else after.id
        changes.append(LabelChange(one, in_words(before), in_words(after), not is_known, added))
    return changes


def _same_words(row: LabelRow, answer: LabelAnswer) -> bool:
    words = (answer.label, answer.kind, answer.who, answer.note)
    return (row.label, row.kind, row.who, row.note) == words


def undo(
    session: Session,
    found: Sequence[ExtensionRef],
    who: str,
    note: str = "",
    at: datetime | None = None,
) -> list[LabelChange]:
    """Undo the label that counts of each extension, by a row; the one before it counts again.

    Raises
    ------
    InvalidAnswer
        If none of them has a label.
    """
    said = db.labels.labels_of(session, [one.id for one in found])
    changes = []
    for one in found:
        rows = said.get(one.id, [])
        if before := db.labels.standing(rows):
            answer = read_answer(before.label, before.kind, note, who=who, at=at)
            rows = [*rows, db.labels.record_label(session, one.id, answer, undoes=before)]
            after = db.labels.standing(rows)
            changes.append(LabelChange(one, in_words(before), in_words(after)))
    if not changes:
        names = ", ".join(one.name for one in found[:3]) + (" …" if len(found) > 3 else "")
        raise InvalidInputError(f"nothing to undo: {names or 'no extension'} has no label")
    return changes


def take_back(
    session: Session, label_ids: Sequence[int], who: str, at: datetime | None = None
) -> list[LabelChange]:
    """Undo these very labels, whatever was said since; those undone already stay as they are."""
    rows = [row for one in label_ids if (row := session.get(LabelRow, one)) is not None]
    ids = list(dict.fromkeys(row.extension_id for row in rows))
    said = db.labels.labels_of(session, ids)
    chosen_ones = {one.id: one for one in db.selection.extensions_with(session, ids)}
    changes = []
    for row in rows:
        every = said[row.extension_id]
        if row.undoes_id is None and row.id not in {one.undoes_id for one in every}:
            before = in_words(db.labels.standing(every))
            answer = read_answer(row.label, row.kind, who=who, at=at)
            every.append(db.labels.record_label(session, row.extension_id, answer, undoes=row))
            after = in_words(db.labels.standing(every))
            changes.append(LabelChange(chosen_ones[row.extension_id], before, after))
    return changes


def in_words(row: LabelRow | None) -> str:
    """Say what a label says, who said it, and when."""
    if row is None:
        return "no label"
    kind = f", {row.kind}" if row.kind else ""
    note = f": {row.note}" if row.note else ""
    return f"{row.label}{kind}, says {row.who} on {row.at:%Y-%m-%d}{note}"


def log_in_words(said: Iterable[LabelRow]) -> list[str]:
    """Say all that was ever said of an extension, oldest first, and what of it was undone."""
    rows = list(said)
    undoing = {row.undoes_id: row for row in rows}
    return [
        in_words(row) + _undone_in_words(undoing.get(row.id)) for row in rows if not row.undoes_id
    ]


def _undone_in_words(row: LabelRow | None) -> str:
    return f"; undone by {row.who} on {row.at:%Y-%m-%d}" if row else ""


def epoch_commands(found: Iterable[ExtensionRef], note: str) -> list[str]:
    """Return the commands that would let references start anew with some extensions."""
    since: dict[str, date] = {}
    for one in found:
        since[one.image_type] = min(one.night, since.get(one.image_type, date.max))
    why = shlex.quote(note or "what has changed")
    return [f"qc epoch {name} --from {night} --why {why}" for name, night in since.items()]


# --- labels from a file ---------------------------------------------------------------------------

COLUMNS = ("file", "extension", "image_type", "observed_at", "label", "kind", "who", "at", "note")
_NEEDED = ("file", "label")


@dataclass(frozen=True)
class RefusedLine:
    """A line that was not taken, and why."""

    line: int
    why: str


@dataclass(frozen=True)
class ImportResult:
    """What became of a file of labels.

    Attributes
    ----------
    lines : int
        That said something.
    added : int
        Labels that are new.
    known : int
        Labels that had been said before, word for word.
    refused : tuple of Refused
    """

    lines: int
    added: int
    known: int
    refused: tuple[RefusedLine, ...]


@dataclass(frozen=True)
class _ImportLine:
    """What one line says.

    Attributes
    ----------
    names : tuple of str
        Of its file; the first that is known counts.
    number, image_type, observed_at
        Of the extension; None, empty or None where the line is silent.
    is_dated : bool
        Whether it says when this was said.
    """

    line: int
    names: tuple[str, ...]
    answer: LabelAnswer
    number: int | None = None
    image_type: str = ""
    observed_at: datetime | None = None
    is_dated: bool = False


@dataclass(frozen=True)
class _ImportedLabel:
    """What one line says of one extension."""

    line: _ImportLine
    one: ExtensionRef
    answer: LabelAnswer

    @property
    def occasion(self) -> tuple[int, datetime | None]:
        """Return of what and when: two such words that differ contradict each other."""
        return self.one.id, self.answer.at if self.line.is_dated else None


def import_labels(
    session: Session, path: Path, instruments: Sequence[Instrument], who: str
) -> ImportResult:
    """Keep what a file says of frames: its good lines, each once however often it is imported.

    A CSV file with at least the columns ``file`` and ``label``, as ``qc export labels`` writes
    it; or a list of the names of corrupted files, one a line, which may end in ``_b``.

    Parameters
    ----------
    who : str
        Who says it, where the file is silent.

    Raises
    ------
    InvalidAnswer
        If the file as a whole makes no sense.
    """
    refused: list[RefusedLine] = []
    lines = list(_read_lines(path, who, refused))
    called = db.selection.extensions_called(session, {name for one in lines for name in one.names})
    words = [word for line in lines for word in _words(line, called, instruments, refused)]
    words = _without_contradictions(words, refused)
    said = db.labels.labels_of(session, sorted({word.one.id for word in words}))
    added = known = 0
    for word in sorted(words, key=lambda word: word.answer.at):
        rows = said.setdefault(word.one.id, [])
        if any(_is_said(word, row) for row in rows):
            known += 1
        elif later := _later(word, rows):
            why = f"{word.one.name}: a later label counts: {in_words(later)}"
            refused.append(RefusedLine(word.line.line, f"{why}; a line without 'at' is said now"))
        else:
            rows.append(db.labels.record_label(session, word.one.id, word.answer))
            added += 1
    spoken = {line.line for line in lines} | {one.line for one in refused}
    return ImportResult(len(spoken), added, known, tuple(sorted(refused, key=lambda one: one.line)))


def _is_said(word: _ImportedLabel, row: LabelRow) -> bool:
    same_time = row.at == word.answer.at or not word.line.is_dated
    return same_time and row.undoes_id is None and _same_words(row, word.answer)


def _later(word: _ImportedLabel, rows: Sequence[LabelRow]) -> LabelRow | None:
    """Return the label that counts, if it was said after the line's."""
    row = db.labels.standing(rows)
    return row if row is not None and word.line.is_dated and row.at > word.answer.at else None


def _words(
    line: _ImportLine,
    called: Mapping[str, Sequence[ExtensionRef]],
    instruments: Sequence[Instrument],
    refused: list[RefusedLine],
) -> list[_ImportedLabel]:
    """Return what a line says of each extension that it names; nothing if it makes no sense."""
    try:
        meant = _meant(line, called)
        return [_ImportedLabel(line, one, fitting(line.answer, one, instruments)) for one in meant]
    except InvalidInputError as error:
        refused.append(RefusedLine(line.line, str(error)))
        return []


def _meant(line: _ImportLine, called: Mapping[str, Sequence[ExtensionRef]]) -> list[ExtensionRef]:
    found = next((list(called[name]) for name in line.names if name in called), [])
    if not found:
        raise InvalidInputError(f"{shortened(line.names[0])}: no processed frame of that name")
    if line.observed_at is not None:
        then = [one for one in found if one.observed_at == line.observed_at]
        if not then:
            raise InvalidInputError(
                f"{found[0].frame}: was observed at {found[0].observed_at.isoformat()}, "
                f"the line says {line.observed_at.isoformat()}"
            )
        found = then
    found = _numbered([one for one in found if one.frame_id == found[-1].frame_id], line.number)
    own = [one for one in found if line.image_type in {"", one.image_type}]
    if not own:
        types = " and ".join(one.image_type for one in found)
        said = shortened(line.image_type)
        raise InvalidInputError(f"{found[0].name}: is {types}, the line says '{said}'")
    return own


def _without_contradictions(
    words: Sequence[_ImportedLabel], refused: list[RefusedLine]
) -> list[_ImportedLabel]:
    """Return the words of lines that no other contradicts; refuse the other lines."""
    of_occasion = defaultdict(list)
    for word in words:
        of_occasion[word.occasion].append(word)
    why: dict[int, str] = {}
    for alike in of_occasion.values():
        if len({(word.answer.label, word.answer.kind) for word in alike}) > 1:
            lines = ", ".join(str(word.line.line) for word in alike[:5])
            told = f"{alike[0].one.name}: lines {lines} contradict each other"
            why |= {word.line.line: told for word in alike}
    refused += [RefusedLine(line, told) for line, told in why.items()]
    return [word for word in words if word.line.line not in why]


def _read_lines(path: Path, who: str, refused: list[RefusedLine]) -> Iterator[_ImportLine]:
    """Yield what each line says; refuse those that make no sense."""
    numbered = _numbered_lines(path)
    columns = _columns(path, numbered[0][1])
    for line, content in numbered[1:] if columns else numbered:
        try:
            text = _text(content)
            if columns:
                yield _read_csv_line(line, text, columns, who)
            elif not text.startswith("#"):
                yield _read_name(line, text, path, who)
        except InvalidInputError as error:
            refused.append(RefusedLine(line, str(error)))


def _numbered_lines(path: Path) -> list[tuple[int, bytes]]:
    """Return the lines that are not blank, with their numbers from 1."""
    with path.open("rb") as stream:
        content = stream.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise InvalidInputError(f"{path}: expected at most {LARGEST_FILE // 2**20} MB; split it")
    content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = content.split(b"\n")
    numbered = [(line, text) for line, text in enumerate(lines, start=1) if text.strip()]
    if not numbered:
        raise InvalidInputError(
            f"{path}: is empty; expected a line with the columns {','.join(COLUMNS)}"
        )
    if len(numbered) > MOST_LINES:
        raise InvalidInputError(f"{path}: expected at most {MOST_LINES} lines, got {len(numbered)}")
    return numbered


def _columns(path: Path, first: bytes) -> list[str]:
    """Return the names of a CSV file's columns; none of a list of names, which has no commas."""
    try:
        text = _text(first)
        names = [name.strip().casefold() for name in _cells(text)] if "," in text else []
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}, line 1: {error}") from None
    missing = [name for name in _NEEDED if name not in names]
    if names and (missing or len(set(names)) < len(names)):
        wrong = f"missing columns: {', '.join(missing)}" if missing else "a column stands twice"
        raise InvalidInputError(f"{path}, line 1: {wrong}; expected {','.join(COLUMNS)}")
    return names


def _text(content: bytes) -> str:
    if len(content) > LONGEST_LINE:
        raise InvalidInputError(f"{len(content)} bytes, expected at most {LONGEST_LINE}")
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise InvalidInputError(f"is not UTF-8: byte {byte:#04x} at {error.start}") from None


def _cells(text: str) -> list[str]:
    try:
        [cells] = csv.reader([text], strict=True)
    except csv.Error as error:
        raise InvalidInputError(f"is not CSV: {error}") from None
    return cells


def _read_csv_line(line: int, text: str, columns: Sequence[str], who: str) -> _ImportLine:
    cells = _cells(text)
    if len(cells) != len(columns):
        raise InvalidInputError(f"expected {len(columns)} cells, got {len(cells)}")
    said = defaultdict(str, zip(columns, (cell.strip() for cell in cells), strict=True))
    at = _time("at", said["at"])
    if at is not None and at > utc_now():
        raise InvalidInputError(f"at: {said['at']} is still to come")
    if not said["file"]:
        raise InvalidInputError("names no file")
    return _ImportLine(
        line=line,
        names=(said["file"],),
        answer=read_answer(
            said["label"], said["kind"], said["note"], who=said["who"] or who, at=at
        ),
        number=_number(said["extension"]),
        image_type=said["image_type"],
        observed_at=_time("observed_at", said["observed_at"]),
        is_dated=at is not None,
    )


def _number(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII):
        raise InvalidInputError(f"extension: expected a number, got '{shortened(text)}'")
    return int(text)


def _time(column: str, text: str) -> datetime | None:
    """Read a time; one without a zone is UTC."""
    if not text:
        return None
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInputError(
            f"{column}: expected a time like 2026-01-31T12:00:00Z, got '{shortened(text)}'"
        ) from None


def _read_name(line: int, text: str, path: Path, who: str) -> _ImportLine:
    """Read a line of a list of corrupted files; ``NAME_b.fits`` is also what NAME was called."""
    note = f"listed in {one_line(path.name, 'name of the file', 255)}"
    answer = read_answer(LabelName.BAD, "other", note, who=who)
    return _ImportLine(line, (text, _CALLED_BAD.sub("", text)), answer)
