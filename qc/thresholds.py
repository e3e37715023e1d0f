"""thresholds.yaml, read once into values that cannot change.

The file is the QC scientist's: hand-edited, reviewed, in git. Each image type has entries with
the date from which they hold; the newest entry not later than the frame applies. A key may name
several image types, with spaces between, that share their entries.
"""

import hashlib
from collections.abc import Iterable, Mapping
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

from qc.errors import ConfigurationError, IncompleteHeader
from qc.metrics import METRICS


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
            raise IncompleteHeader(
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
    yaml = YAML(typ="rt")
    yaml.Constructor = _Constructor
    try:
        content = path.read_bytes()
        document = yaml.load(content)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{path}: cannot be read as YAML: {reason}") from error
    try:
        entries = _FILE.validate_python(document)
    except ValidationError as error:
        raise ConfigurationError(_first_error(path, document, error)) from error
    _check_order(path, document, entries)
    known = set(image_types)
    by_type = _by_image_type(path, document, entries, known)
    missing = sorted(known - by_type.keys())
    if missing:
        raise ConfigurationError(f"{path}: no thresholds for {', '.join(missing)}; add an entry")
    return Thresholds(path, hashlib.sha256(content).hexdigest(), by_type)


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
