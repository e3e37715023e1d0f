"""Insertion of entries into the thresholds file; comments and layout stay: decision 0033."""

import hashlib
import json
import os
import stat
from collections import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from qc._files import atomic_writer
from qc.detection.thresholds import Threshold, Thresholds, parse_thresholds
from qc.errors import ConfigurationError


def write_entries(thresholds: Thresholds, entries: abc.Mapping[str, Threshold]) -> None:
    """Insert an entry for each image type into the thresholds file.

    Existing bytes stay, with comments and anchors. A key with several image types is split, so
    that only the given image type receives the entry.

    Parameters
    ----------
    thresholds : Thresholds
        Content of the file.
    entries : mapping of str to Threshold
        New entry by image type.

    Raises
    ------
    ConfigurationError
        If the file has changed, an entry would not be the newest of its encoder, or two image
        types share a list by an anchor. Nothing is written.
    """
    path = thresholds.path.resolve()  # a link stays a link
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != thresholds.digest:
        raise ConfigurationError(
            f"{path}: was changed after it had been read; nothing is written, tune once more"
        )
    text = content.decode()
    for name, entry in entries.items():
        check_newest(thresholds, name, entry)
        text = insert_entry(path, text, name, entry, thresholds.entries[name])
    parsed = parse_thresholds(thresholds.path, text.encode(), set(thresholds.entries))
    for name, dated in thresholds.entries.items():
        if parsed[name] != (*dated, *([entries[name]] if name in entries else [])):
            raise _anchor_error(thresholds.path, name)
    with atomic_writer(path) as stream:
        os.fchmod(stream.fileno(), stat.S_IMODE(path.stat().st_mode))
        stream.write(text.encode())


def check_newest(thresholds: Thresholds, name: str, entry: Threshold) -> None:
    """Check that a new entry would be the newest of its image type and encoder.

    Parameters
    ----------
    thresholds : Thresholds
    name : str
        Image type.
    entry : Threshold

    Raises
    ------
    ConfigurationError
        If an entry with the same or a later date exists.
    """
    last = thresholds.entries[name][-1]
    dates = [item.since for item in thresholds.entries[name] if item.encoder == entry.encoder]
    if entry.since < last.since or entry.since in dates[-1:]:
        raise ConfigurationError(
            f"{thresholds.path}: {name}: has an entry from {last.since} for encoder "
            f"{last.encoder}, so that one from {entry.since} would not be the newest; nothing is "
            "written: give a later date with --from, or take that entry out of the file"
        )


@dataclass(frozen=True)
class YamlSection:
    """Key of the file with its entries, as YAML nodes with positions.

    Attributes
    ----------
    key, entries : ruamel.yaml.Node
    end : int
        End of the text, before the blank lines and comments of the next key.
    """

    key: Any
    entries: Any
    end: int

    @property
    def names(self) -> list[str]:
        """Return the image types of the key."""
        return str(self.key.value).split()


def find_section(path: Path, text: str, name: str) -> YamlSection:
    """Find the section of an image type.

    Parameters
    ----------
    path : Path
        File, for messages.
    text : str
        Content of the file.
    name : str
        Image type.

    Returns
    -------
    YamlSection
    """
    pairs = YAML(typ="rt").compose(text).value
    [place] = [i for i, (key, _) in enumerate(pairs) if name in key.value.split()]
    key, entries = pairs[place]
    if entries.start_mark.index < key.start_mark.index:
        raise _anchor_error(path, name)
    behind = pairs[place + 1][0].start_mark.index if place + 1 < len(pairs) else len(text)
    lines = text[key.end_mark.index : behind].splitlines(keepends=True)
    while not lines[-1].strip() or lines[-1].startswith(("#", "...")):
        lines.pop()
    return YamlSection(key, entries, key.end_mark.index + len("".join(lines).rstrip()))


def insert_entry(
    path: Path, text: str, name: str, entry: Threshold, dated: abc.Sequence[Threshold]
) -> str:
    """Insert an entry into the text of the file.

    Parameters
    ----------
    path : Path
        File, for messages.
    text : str
        Content of the file.
    name : str
        Image type.
    entry : Threshold
    dated : sequence of Threshold
        Present entries of the image type.

    Returns
    -------
    str
        New content.
    """
    section = find_section(path, text, name)
    newline = "\r\n" if "\r\n" in text else "\n"
    remaining = [other_name for other_name in section.names if other_name != name]
    if remaining:
        lines = [f"{name}:", *copy_entries(section, dated), *format_entry(entry, "  ")]
        start, stop = section.key.start_mark.index, section.key.end_mark.index
        tail = text[stop : section.end] + newline.join(["", "", *lines]) + text[section.end :]
        return text[:start] + " ".join(remaining) + tail
    if section.entries.flow_style:
        end = section.entries.end_mark.index - 1
        comma = "" if text[:end].rstrip().endswith(",") else ", "
        return text[:end] + comma + "{" + ", ".join(format_pairs(entry)) + "}" + text[end:]
    first_line = text.splitlines()[section.entries.value[0].start_mark.line]
    indent = first_line.partition("-")[0]
    lines = list(format_entry(entry, indent))
    return text[: section.end] + newline.join(["", *lines]) + text[section.end :]


def copy_entries(section: YamlSection, dated: abc.Sequence[Threshold]) -> abc.Iterator[str]:
    """Write the entries of a section again; shared anchors stay shared.

    Parameters
    ----------
    section : YamlSection
    dated : sequence of Threshold
        Entries of the section.

    Yields
    ------
    str
        Line.
    """
    for entry, node in zip(dated, section.entries.value, strict=True):
        anchors = {key.value: value.anchor for key, value in node.value if value.anchor}
        yield from format_entry(entry, "  ", anchors.get("metrics"))


def format_entry(entry: Threshold, indent: str, anchor: str | None = None) -> abc.Iterator[str]:
    """Format an entry as lines, one for each metric.

    Parameters
    ----------
    entry : Threshold
    indent : str
        Text before the dash.
    anchor : str, optional
        Anchor of the metrics.

    Yields
    ------
    str
        Line.
    """
    *first, metrics, why, by = format_pairs(entry)
    yield f"{indent}- {first[0]}"
    yield from (f"{indent}  {pair}" for pair in first[1:])
    if anchor or not entry.metrics:
        yield f"{indent}  metrics: *{anchor}" if anchor else f"{indent}  {metrics}"
    else:
        yield f"{indent}  metrics:"
        yield from (f"{indent}    {pair}" for pair in format_metrics(entry))
    yield from (f"{indent}  {pair}" for pair in (why, by))


def format_pairs(entry: Threshold) -> list[str]:
    """Format each key of an entry with its value."""
    return [
        f"from: {entry.since}",
        f"encoder: {entry.encoder}",
        f"merge_height: {entry.merge_height!r}",
        f"residual: {entry.residual!r}",
        f"false_alarms: {entry.false_alarms!r}",
        "metrics: {" + ", ".join(format_metrics(entry)) + "}",
        f"why: {json.dumps(entry.why, ensure_ascii=False)}",
        f"by: {json.dumps(entry.by, ensure_ascii=False)}",
    ]


def format_metrics(entry: Threshold) -> list[str]:
    """Format the limits of each metric."""
    return [
        f"{name}: {{warn: {limit.warn!r}, alarm: {limit.alarm!r}}}"
        for name, limit in entry.metrics.items()
    ]


def _anchor_error(path: Path, name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: {name}: its list of entries is an anchor's, and another type's too; nothing is "
        "written: write the entries out under each key, and tune once more"
    )
