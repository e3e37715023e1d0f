"""thresholds.yaml, read once into values that cannot change.

The file is the QC scientist's: hand-edited, reviewed, in git. Each image type has entries with
the date from which they hold; the newest entry not later than the frame applies.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from qc.errors import ConfigurationError


@dataclass(frozen=True)
class MetricLimit:
    """Limits on a metric's |z| against its reference: `warn` is reported, `alarm` is anomalous."""

    warn: float
    alarm: float


@dataclass(frozen=True)
class Threshold:
    """The limits of one image type from one date on.

    Attributes
    ----------
    since : date
        First night on which it holds.
    encoder : str
        Fingerprint of the encoder it was tuned for: another encoder has other distances.
    merge_height : float
        Cosine distance above which a frame stands apart, 0 to 2.
    false_alarms : float
        The rate per extension that it was tuned for.
    metrics : mapping of metric name to MetricLimit
    why, by : str
        The reason and its author.
    """

    since: date
    encoder: str
    merge_height: float
    false_alarms: float
    metrics: Mapping[str, MetricLimit]
    why: str
    by: str


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
            If there is none.
        """
        entries = self.entries.get(image_type, ())
        valid = [e for e in entries if e.since <= night and e.encoder == encoder]
        if not valid:
            known = ", ".join(sorted({e.encoder for e in entries})) or "none"
            raise ConfigurationError(
                f"{self.path}: {image_type}: no entry valid on {night} for encoder {encoder} "
                f"(entries are for: {known}). Thresholds belong to one encoder; tune them for it."
            )
        return valid[-1]


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
        document = YAML(typ="rt").load(content)
    except (OSError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{path}: cannot be read as YAML: {reason}") from error
    types = _mapping(path, document, "the file")
    missing = sorted(set(image_types) - set(types))
    if missing:
        raise ConfigurationError(f"{path}: no thresholds for {', '.join(missing)}; add an entry")
    entries = {name: _entries(path, types, name) for name in types}
    digest = hashlib.sha256(content).hexdigest()
    return Thresholds(path, digest, MappingProxyType(entries))


def _entries(path: Path, types: CommentedMap, name: str) -> tuple[Threshold, ...]:
    items = types[name]
    where = f"{path}:{types.lc.key(name)[0] + 1}: {name}"
    if not isinstance(items, CommentedSeq) or not items:
        raise ConfigurationError(f"{where}: expected a list of dated entries, got {items!r}")
    entries = tuple(_entry(path, name, item) for item in items)
    dates = [entry.since for entry in entries]
    if dates != sorted(dates):
        listed = ", ".join(map(str, dates))
        raise ConfigurationError(f"{where}: entries out of order of date: {listed}")
    return entries


_READERS = {
    "from": lambda value: _date(value),
    "encoder": lambda value: _text(value),
    "merge_height": lambda value: _number(value, 0, 2),
    "false_alarms": lambda value: _number(value, 0, 1),
    "metrics": lambda value: _limits(value),
    "why": lambda value: _text(value),
    "by": lambda value: _text(value),
}


def _entry(path: Path, name: str, item: Any) -> Threshold:
    raw = _mapping(path, item, name)
    wrong = raw.keys() ^ _READERS.keys()
    if wrong:
        unknown, absent = sorted(raw.keys() - _READERS.keys()), sorted(_READERS.keys() - raw.keys())
        where = raw.lc.key(unknown[0])[0] if unknown else raw.lc.line
        raise ConfigurationError(
            f"{path}:{where + 1}: {name}: unknown keys {unknown}, missing keys {absent}"
        )
    values = {}
    for key, reader in _READERS.items():
        try:
            values[key] = reader(raw[key])
        except (ValueError, TypeError) as error:
            line = raw.lc.key(key)[0] + 1
            raise ConfigurationError(f"{path}:{line}: {name}: {key}: {error}") from error
    return Threshold(since=values.pop("from"), **values)


def _mapping(path: Path, value: Any, name: str) -> CommentedMap:
    if not isinstance(value, CommentedMap):
        raise ConfigurationError(f"{path}: {name}: expected keys and values, got {value!r}")
    return value


def _date(value: Any) -> date:
    if isinstance(value, datetime) or not isinstance(value, date):
        raise ValueError(f"expected a date like 2010-01-01, got {value!r}")  # noqa: TRY004
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected some words, got {value!r}")
    return str(value)


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
        raise ValueError(f"expected a number above {low} and up to {high}, got {value!r}")
    return float(value)


def _limits(value: Any) -> Mapping[str, MetricLimit]:
    if not isinstance(value, CommentedMap):
        raise ValueError(f"expected metric names with warn and alarm, got {value!r}")  # noqa: TRY004
    return MappingProxyType({name: _limit(name, limit) for name, limit in value.items()})


def _limit(name: str, value: Any) -> MetricLimit:
    if not isinstance(value, CommentedMap) or value.keys() != {"warn", "alarm"}:
        raise ValueError(f"{name}: expected warn and alarm, got {value!r}")
    limit = MetricLimit(*(_number(value[key], 0, float("inf")) for key in ("warn", "alarm")))
    if limit.warn > limit.alarm:
        raise ValueError(f"{name}: warn {limit.warn} is above alarm {limit.alarm}")
    return limit
