"""Import of labels from a CSV file or from a list of corrupted files."""

import csv
import datetime as dt
import re
from collections import abc, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from qc import db
from qc._text import truncate
from qc._time import utc_now
from qc.core.enums import LabelName
from qc.db.extensions import ExtensionRef
from qc.db.labels import LabelAnswer
from qc.db.schema.models import LabelRow
from qc.errors import InvalidInputError
from qc.labels import selection, store, taxonomy

if TYPE_CHECKING:
    from qc.io.instruments import Instrument

COLUMNS = ("file", "extension", "image_type", "observed_at", "label", "kind", "who", "at", "note")
LONGEST_LINE = 8000  # bytes
LONGEST_FILE_NAME = 255  # characters
MOST_LINES = 100_000
LARGEST_FILE = 32 * 2**20  # bytes
_REQUIRED_COLUMNS = ("file", "label")
_BAD_SUFFIX = re.compile(r"_b(?=(\.fits(\.\w+)?)?$)")


@dataclass(frozen=True)
class RefusedLine:
    """Line that was not imported, and the reason."""

    line: int
    why: str


@dataclass(frozen=True)
class ImportResult:
    """Counts of an import.

    Attributes
    ----------
    lines : int
        Lines with content.
    added : int
        New labels.
    known : int
        Labels that were stored before, word for word.
    refused : tuple of RefusedLine
    """

    lines: int
    added: int
    known: int
    refused: tuple[RefusedLine, ...]


@dataclass(frozen=True)
class ImportLine:
    """Content of one line.

    Attributes
    ----------
    names : tuple of str
        Possible names of its file; the first known name counts.
    number, image_type, observed_at
        Of the extension; None, empty or None where absent.
    is_dated : bool
        Whether the line has the time of the label.
    """

    line: int
    names: tuple[str, ...]
    answer: LabelAnswer
    number: int | None = None
    image_type: str = ""
    observed_at: dt.datetime | None = None
    is_dated: bool = False


@dataclass(frozen=True)
class ImportedLabel:
    """Label of one extension, with the line that it comes from."""

    line: ImportLine
    extension: ExtensionRef
    answer: LabelAnswer

    @property
    def key(self) -> tuple[int, dt.datetime | None]:
        """Return extension and time; two labels with one key must not differ."""
        return self.extension.id, self.answer.at if self.line.is_dated else None

    def equals(self, row: LabelRow) -> bool:
        """Return True if a stored label is the same."""
        is_same_time = row.at == self.answer.at or not self.line.is_dated
        return is_same_time and row.undoes_id is None and store.has_same_answer(row, self.answer)


def import_labels(
    session: Session, path: Path, instruments: "abc.Sequence[Instrument]", who: str
) -> ImportResult:
    """Import the valid lines of a file; importing it again adds nothing.

    A CSV file has at least the columns ``file`` and ``label``, as ``qc frames export labels``
    writes it. A list of corrupted files has one name per line, which may end in ``_b``.

    Parameters
    ----------
    session : Session
    path : Path
        The file.
    instruments : sequence of Instrument
    who : str
        Author of lines without one.

    Returns
    -------
    ImportResult

    Raises
    ------
    InvalidInputError
        If the file as a whole is invalid.
    """
    refused: list[RefusedLine] = []
    lines = list(_read_lines(path, who, refused))
    names = {name for line in lines for name in line.names}
    by_name = db.extensions.extensions_by_name(session, names)
    labels: list[ImportedLabel] = []
    for line in lines:
        try:
            labels += _resolve(line, by_name, instruments)
        except InvalidInputError as error:
            refused.append(RefusedLine(line.line, str(error)))
    labels = _drop_contradictions(labels, refused)
    histories = db.labels.labels_of(session, sorted({label.extension.id for label in labels}))
    added = known = 0
    for label in sorted(labels, key=lambda label: label.answer.at):
        rows = histories.setdefault(label.extension.id, [])
        current = db.labels.current_label(rows)
        if any(label.equals(row) for row in rows):
            known += 1
        elif current is not None and label.line.is_dated and current.at > label.answer.at:
            reason = f"{label.extension.name}: a later label counts: {store.describe(current)}"
            refused.append(
                RefusedLine(label.line.line, f"{reason}; a line without 'at' is dated now")
            )
        else:
            rows.append(db.labels.record_label(session, label.extension.id, label.answer))
            added += 1
    numbers = {line.line for line in lines} | {line.line for line in refused}
    ordered = tuple(sorted(refused, key=lambda line: line.line))
    return ImportResult(len(numbers), added, known, ordered)


def _resolve(
    line: ImportLine,
    by_name: abc.Mapping[str, abc.Sequence[ExtensionRef]],
    instruments: "abc.Sequence[Instrument]",
) -> list[ImportedLabel]:
    """Return the label of each extension that a line names.

    Raises
    ------
    InvalidInputError
        If the line names no stored extension, or its facts or kind do not fit.
    """
    extensions = next((list(by_name[name]) for name in line.names if name in by_name), [])
    if not extensions:
        raise InvalidInputError(f"{truncate(line.names[0])}: no processed frame of that name")
    if line.observed_at is not None:
        frame, observed_at = extensions[0].frame, extensions[0].observed_at
        extensions = [item for item in extensions if item.observed_at == line.observed_at]
        if not extensions:
            raise InvalidInputError(
                f"{frame}: was observed at {observed_at.isoformat()}, "
                f"the line has {line.observed_at.isoformat()}"
            )
    newest = extensions[-1].frame_id
    extensions = [extension for extension in extensions if extension.frame_id == newest]
    extensions = selection.select_number(extensions, line.number)
    fitting = [item for item in extensions if line.image_type in {"", item.image_type}]
    if not fitting:
        types = " and ".join(extension.image_type for extension in extensions)
        raise InvalidInputError(
            f"{extensions[0].name}: is {types}, the line has '{truncate(line.image_type)}'"
        )
    return [
        ImportedLabel(line, extension, taxonomy.match_kind(line.answer, extension, instruments))
        for extension in fitting
    ]


def _drop_contradictions(
    labels: abc.Sequence[ImportedLabel], refused: list[RefusedLine]
) -> list[ImportedLabel]:
    """Return the labels of lines that no other line contradicts; refuse the other lines."""
    by_key = defaultdict(list)
    for label in labels:
        by_key[label.key].append(label)
    reasons: dict[int, str] = {}
    for group in by_key.values():
        if len({(label.answer.label, label.answer.kind) for label in group}) > 1:
            lines = ", ".join(str(label.line.line) for label in group[:5])
            reason = f"{group[0].extension.name}: lines {lines} contradict each other"
            reasons |= {label.line.line: reason for label in group}
    refused += [RefusedLine(line, reason) for line, reason in reasons.items()]
    return [label for label in labels if label.line.line not in reasons]


def _read_lines(path: Path, who: str, refused: list[RefusedLine]) -> abc.Iterator[ImportLine]:
    """Yield the content of each valid line; refuse the others."""
    numbered = read_numbered_lines(path)
    columns = read_columns(path, numbered[0][1])
    for line, content in numbered[1:] if columns else numbered:
        try:
            text = decode_line(content)
            if columns:
                yield parse_csv_line(line, text, columns, who)
            elif not text.startswith("#"):
                note = f"listed in {store.clean_line(path.name, 'file name', LONGEST_FILE_NAME)}"
                answer = store.parse_answer(LabelName.BAD, "other", note, who=who)
                # NAME_b.fits is also the list's name of the frame NAME.
                yield ImportLine(line, (text, _BAD_SUFFIX.sub("", text)), answer)
        except InvalidInputError as error:
            refused.append(RefusedLine(line, str(error)))


def read_numbered_lines(path: Path) -> list[tuple[int, bytes]]:
    """Return the lines of a file that are not blank, with their numbers from 1.

    Raises
    ------
    InvalidInputError
        If the file is empty, too large, or has too many lines.
    """
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


def read_columns(path: Path, first_line: bytes) -> list[str]:
    """Return the column names of a CSV file; none for a list of names, without commas.

    Parameters
    ----------
    path : Path
        Named in error messages.
    first_line : bytes

    Returns
    -------
    list of str

    Raises
    ------
    InvalidInputError
        If a required column is missing, or a column is named twice.
    """
    try:
        text = decode_line(first_line)
        names = [name.strip().casefold() for name in split_cells(text)] if "," in text else []
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}, line 1: {error}") from None
    missing = [name for name in _REQUIRED_COLUMNS if name not in names]
    if names and (missing or len(set(names)) < len(names)):
        reason = f"missing columns: {', '.join(missing)}" if missing else "a column stands twice"
        raise InvalidInputError(f"{path}, line 1: {reason}; expected {','.join(COLUMNS)}")
    return names


def decode_line(content: bytes) -> str:
    """Return a line as text.

    Raises
    ------
    InvalidInputError
        If it is too long or not UTF-8.
    """
    if len(content) > LONGEST_LINE:
        raise InvalidInputError(f"{len(content)} bytes, expected at most {LONGEST_LINE}")
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise InvalidInputError(f"is not UTF-8: byte {byte:#04x} at {error.start}") from None


def split_cells(text: str) -> list[str]:
    """Return the cells of a CSV line.

    Raises
    ------
    InvalidInputError
        If it is not CSV.
    """
    try:
        [cells] = csv.reader([text], strict=True)
    except csv.Error as error:
        raise InvalidInputError(f"is not CSV: {error}") from None
    return cells


def parse_csv_line(line: int, text: str, columns: abc.Sequence[str], who: str) -> ImportLine:
    """Return the content of a CSV line.

    Parameters
    ----------
    line : int
        Its number in the file.
    text : str
    columns : sequence of str
        Names of the columns.
    who : str
        Author of a line without one.

    Returns
    -------
    ImportLine

    Raises
    ------
    InvalidInputError
        If a cell is invalid.
    """
    cells = split_cells(text)
    if len(cells) != len(columns):
        raise InvalidInputError(f"expected {len(columns)} cells, got {len(cells)}")
    values = defaultdict(str, zip(columns, (cell.strip() for cell in cells), strict=True))
    at = parse_time("at", values["at"])
    if at is not None and at > utc_now():
        raise InvalidInputError(f"at: {values['at']} is in the future")
    if not values["file"]:
        raise InvalidInputError("names no file")
    author = values["who"] or who
    number = values["extension"]
    if number and not re.fullmatch(r"\d{1,4}", number, re.ASCII):
        raise InvalidInputError(f"extension: expected a number, got '{truncate(number)}'")
    return ImportLine(
        line=line,
        names=(values["file"],),
        answer=store.parse_answer(
            values["label"], values["kind"], values["note"], who=author, at=at
        ),
        number=int(number) if number else None,
        image_type=values["image_type"],
        observed_at=parse_time("observed_at", values["observed_at"]),
        is_dated=at is not None,
    )


def parse_time(column: str, text: str) -> dt.datetime | None:
    """Return the time in a cell; one without a zone is UTC.

    Parameters
    ----------
    column : str
        Named in error messages.
    text : str

    Returns
    -------
    datetime or None
        None for an empty cell.

    Raises
    ------
    InvalidInputError
        If it is not an ISO 8601 time.
    """
    if not text:
        return None
    try:
        time = dt.datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise InvalidInputError(
            f"{column}: expected a time like 2026-01-31T12:00:00Z, got '{truncate(text)}'"
        ) from None
