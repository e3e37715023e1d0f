"""thresholds.yaml, read once into values that cannot change.

The file is the QC scientist's: hand-edited, reviewed, in git. Each image type has entries with
the date from which they hold; the newest entry not later than the frame applies. A key may name
several image types, with spaces between, that share their entries.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.constructor import RoundTripConstructor
from ruamel.yaml.error import YAMLError

from qc._files import written_whole
from qc.detection.metrics import METRICS
from qc.errors import ConfigurationError, IncompleteHeaderError


class MetricLimit(BaseModel):
    """Limits on a metric's |z| against its reference: `warn` is reported, `alarm` is anomalous."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warn: Annotated[float, Field(gt=0)]
    alarm: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _warn_before_alarm(self) -> "MetricLimit":
        if self.warn > self.alarm:
            raise ValueError(f"warn {self.warn} is above alarm {self.alarm}")
        return self


def _known_metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError("no such metric; a limit on it would never bite")
    return name


class Threshold(BaseModel):
    """The limits of one image type from one date on.

    Attributes
    ----------
    since : date
        First night on which it holds; the file calls it ``from``.
    encoder : str
        Fingerprint of the encoder it was tuned for: another encoder has other distances.
    merge_height : float
        Cosine distance above which a frame stands apart, 0 to 2.
    residual : float
        How far a pattern may stand out that nominal variation cannot explain, in robust standard
        deviations of what held-out references show.
    false_alarms : float
        The rate per extension that it was tuned for.
    metrics : mapping of metric name to MetricLimit
    why, by : str
        The reason and its author.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: Annotated[date, Field(alias="from")]
    encoder: Annotated[str, Field(min_length=1)]
    merge_height: Annotated[float, Field(gt=0, le=2)]
    residual: Annotated[float, Field(gt=0)]
    false_alarms: Annotated[float, Field(gt=0, lt=1)]
    metrics: dict[Annotated[str, AfterValidator(_known_metric)], MetricLimit]
    why: Annotated[str, Field(min_length=1)]
    by: Annotated[str, Field(min_length=1)]


Entries = Annotated[tuple[Threshold, ...], Field(min_length=1)]
_FILE = TypeAdapter(dict[str, Entries])


@dataclass(frozen=True)
class Thresholds:
    """Every image type's thresholds, in order of date, and the digest of the file they are from."""

    path: Path
    digest: str
    entries: Mapping[str, tuple[Threshold, ...]]

    def threshold(self, image_type: str, night: date, encoder: str) -> Threshold:
        """Return the newest entry for the type and encoder that is not later than the night.

        Raises
        ------
        ConfigurationError
            If this or any other type has none for the encoder: better at the first frame than at
            midnight.
        IncompleteHeader
            If there is one, but the frame is older. A clock that went wrong must not stop the
            night.
        """
        own = {
            name: [entry for entry in entries if entry.encoder == encoder]
            for name, entries in self.entries.items()
        }
        missing = [name for name, entries in own.items() if not entries]
        if missing:
            known = ", ".join(sorted({each.encoder for each in self.entries[missing[0]]}))
            raise ConfigurationError(
                f"{self.path}: {' '.join(missing)}: no entry for encoder {encoder} "
                f"(entries are for: {known}). Thresholds belong to one encoder; tune them for it."
            )
        valid = [entry for entry in own[image_type] if entry.since <= night]
        if not valid:
            raise IncompleteHeaderError(
                f"{image_type} of the night {night}: its thresholds begin on "
                f"{own[image_type][0].since}; if the header's date is right, add an older entry"
            )
        return valid[-1]


class _Constructor(RoundTripConstructor):
    """Leaves dates as they are written: of 2026-02-30, YAML would say neither line nor key."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: str(node.value))


def read_thresholds(path: Path, image_types: Iterable[str]) -> Thresholds:
    """Read the thresholds of every image type.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, lacks a type, or holds an unknown key, a value out of range
        or dates out of order; the message names line and key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    known = set(image_types)
    by_type = _entries(path, content, known)
    missing = sorted(known - by_type.keys())
    if missing:
        raise ConfigurationError(f"{path}: no thresholds for {', '.join(missing)}; add an entry")
    return Thresholds(path, hashlib.sha256(content).hexdigest(), by_type)


def _entries(path: Path, content: bytes, known: set[str]) -> dict[str, tuple[Threshold, ...]]:
    """Return every image type's entries as a file's content has them."""
    yaml = YAML(typ="rt")
    yaml.Constructor = _Constructor
    try:
        document = yaml.load(content)
    except (UnicodeDecodeError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{path}: cannot be read as YAML: {reason}") from error
    try:
        entries = _FILE.validate_python(document)
    except ValidationError as error:
        raise ConfigurationError(_first_error(path, document, error)) from error
    _check_order(path, document, entries)
    return _by_image_type(path, document, entries, known)


def _first_error(path: Path, document: Any, error: ValidationError) -> str:
    # A misspelt key is at once unknown and missing: the unknown one is what the author sees.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    keys = ": ".join(str(key) for key in first["loc"] if key != "[key]") or "the file"
    got = "" if first["type"] == "missing" else f", got {first['input']!r}"
    return f"{path}:{_line(document, first['loc'])}: {keys}: {first['msg']}{got}"


def _line(document: Any, keys: Iterable[str | int]) -> int:
    """Return the line, from 1, of the innermost of `keys` that the document holds."""
    line = 0
    for key in keys:
        try:
            position = document.lc.data[key]
            document = document[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
        line = position[0]
    return line + 1


def _by_image_type(
    path: Path, document: Any, entries: Mapping[str, tuple[Threshold, ...]], known: set[str]
) -> dict[str, tuple[Threshold, ...]]:
    by_type: dict[str, tuple[Threshold, ...]] = {}
    for key, dated in entries.items():
        where = f"{path}:{_line(document, (key,))}"
        for name in key.split():
            if name not in known:
                raise ConfigurationError(f"{where}: {name}: no instrument has this image type")
            if name in by_type:
                raise ConfigurationError(f"{where}: {name}: is in an earlier key too")
            by_type[name] = dated
    return by_type


def _check_order(path: Path, document: Any, entries: Mapping[str, tuple[Threshold, ...]]) -> None:
    for name, dated in entries.items():
        for i, (before, after) in enumerate(pairwise(dated), start=1):
            if after.since < before.since:
                raise ConfigurationError(
                    f"{path}:{_line(document, (name, i, 'from'))}: {name}: from: {after.since} "
                    f"comes after {before.since}; put the entries in order of date"
                )


def write_entries(thresholds: Thresholds, entries: Mapping[str, Threshold]) -> None:
    """Add an entry for each image type to the file that the thresholds were read from.

    What is there stays to the byte, comments, anchors and all; the new is put between. A key that
    names several image types is split, so that only the one meant gets the entry.

    Raises
    ------
    ConfigurationError
        If the file is no longer the one that was read, if an entry would not be the newest for its
        encoder, or if a type's entries cannot be told apart from another's. Nothing is written.
    """
    path = thresholds.path.resolve()  # where it is a link, it stays one
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != thresholds.digest:
        raise ConfigurationError(
            f"{path}: was changed after it had been read; nothing is written, tune once more"
        )
    text = content.decode()
    for name, entry in entries.items():
        _check_newest(thresholds, name, entry)
        text = _with_entry(path, text, name, entry, thresholds.entries[name])
    _check_rest(thresholds, entries, text)
    with written_whole(path) as stream:
        os.fchmod(stream.fileno(), stat.S_IMODE(path.stat().st_mode))
        stream.write(text.encode())


def _check_newest(thresholds: Thresholds, name: str, entry: Threshold) -> None:
    last = thresholds.entries[name][-1]
    own = [one.since for one in thresholds.entries[name] if one.encoder == entry.encoder]
    if entry.since < last.since or entry.since in own[-1:]:
        raise ConfigurationError(
            f"{thresholds.path}: {name}: has an entry from {last.since} for encoder "
            f"{last.encoder}, so that one from {entry.since} would not be the newest; nothing is "
            "written: give a later date with --from, or take that entry out of the file"
        )


def _check_rest(thresholds: Thresholds, entries: Mapping[str, Threshold], text: str) -> None:
    """Make sure that the new text says what the old one said, and the new entries."""
    found = _entries(thresholds.path, text.encode(), set(thresholds.entries))
    for name, dated in thresholds.entries.items():
        if found[name] != (*dated, *(entries[one] for one in entries if one == name)):
            raise _shared(thresholds.path, name)


def _shared(path: Path, name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: {name}: its list of entries is an anchor's, and another type's too; nothing is "
        "written: write the entries out under each key, and tune once more"
    )


@dataclass(frozen=True)
class _YamlSection:
    """A key of the file with its entries, as nodes that know where their text is.

    Attributes
    ----------
    end : int
        Where its text ends, without the blank lines and comments that lead to the next.
    """

    key: Any
    entries: Any
    end: int


def _section(path: Path, text: str, name: str) -> _YamlSection:
    """Find the key that names an image type."""
    pairs = YAML(typ="rt").compose(text).value
    [place] = [i for i, (key, _) in enumerate(pairs) if name in key.value.split()]
    key, entries = pairs[place]
    if entries.start_mark.index < key.start_mark.index:
        raise _shared(path, name)
    behind = pairs[place + 1][0].start_mark.index if place + 1 < len(pairs) else len(text)
    lines = text[key.end_mark.index : behind].splitlines(keepends=True)
    while not lines[-1].strip() or lines[-1].startswith(("#", "...")):
        lines.pop()
    return _YamlSection(key, entries, key.end_mark.index + len("".join(lines).rstrip()))


def _with_entry(
    path: Path, text: str, name: str, entry: Threshold, dated: Sequence[Threshold]
) -> str:
    """Return the file's text with one entry more for an image type that has some."""
    section = _section(path, text, name)
    newline = "\r\n" if "\r\n" in text else "\n"
    others = [one for one in section.key.value.split() if one != name]
    if others:
        own = newline.join(["", "", f"{name}:", *_copied(section, dated), *_lines(entry, "  ")])
        start, stop = section.key.start_mark.index, section.key.end_mark.index
        tail = text[stop : section.end] + own + text[section.end :]
        return text[:start] + " ".join(others) + tail
    if section.entries.flow_style:
        end = section.entries.end_mark.index - 1
        comma = "" if text[:end].rstrip().endswith(",") else ", "
        return text[:end] + comma + "{" + ", ".join(_pairs(entry)) + "}" + text[end:]
    lines = _lines(entry, _indent(text, section))
    return text[: section.end] + newline.join(["", *lines]) + text[section.end :]


def _copied(section: _YamlSection, dated: Sequence[Threshold]) -> Iterator[str]:
    """Write entries again for a type of their own; what they share by an anchor stays shared."""
    for entry, node in zip(dated, section.entries.value, strict=True):
        anchors = {key.value: value.anchor for key, value in node.value if value.anchor}
        yield from _lines(entry, "  ", anchors.get("metrics"))


def _indent(text: str, section: _YamlSection) -> str:
    """Return what stands before the dash of an entry."""
    line: str = text.splitlines()[section.entries.value[0].start_mark.line]
    return line.partition("-")[0]


def _lines(entry: Threshold, indent: str, anchor: str | None = None) -> Iterator[str]:
    """Write an entry over several lines, each metric on its own."""
    *first, metrics, why, by = _pairs(entry)
    yield f"{indent}- {first[0]}"
    yield from (f"{indent}  {pair}" for pair in first[1:])
    if anchor or not entry.metrics:
        yield f"{indent}  metrics: *{anchor}" if anchor else f"{indent}  {metrics}"
    else:
        yield f"{indent}  metrics:"
        yield from (f"{indent}    {pair}" for pair in _metric_pairs(entry))
    yield from (f"{indent}  {pair}" for pair in (why, by))


def _pairs(entry: Threshold) -> list[str]:
    """Write each key of an entry with its value."""
    return [
        f"from: {entry.since}",
        f"encoder: {entry.encoder}",
        f"merge_height: {entry.merge_height!r}",
        f"residual: {entry.residual!r}",
        f"false_alarms: {entry.false_alarms!r}",
        "metrics: {" + ", ".join(_metric_pairs(entry)) + "}",
        f"why: {json.dumps(entry.why, ensure_ascii=False)}",
        f"by: {json.dumps(entry.by, ensure_ascii=False)}",
    ]


def _metric_pairs(entry: Threshold) -> list[str]:
    return [
        f"{name}: {{warn: {limit.warn!r}, alarm: {limit.alarm!r}}}"
        for name, limit in entry.metrics.items()
    ]
