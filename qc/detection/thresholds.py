"""Thresholds file: immutable limits by image type and date.

The QC scientist edits the file by hand. Each image type has entries with their first night; the
newest entry not later than the frame's night is valid. A key may name several image types,
separated by spaces, which share its entries: decision 0008.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import pydantic
from ruamel.yaml import YAML
from ruamel.yaml.constructor import RoundTripConstructor
from ruamel.yaml.error import YAMLError

from qc import core, errors
from qc.detection.metrics import METRICS


class MetricLimit(pydantic.BaseModel):
    """Limits of a metric's absolute z-score.

    Attributes
    ----------
    warn : float
        Above it the verdict lists a warning.
    alarm : float
        Above it the extension is anomalous.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    warn: Annotated[float, pydantic.Field(gt=0)]
    alarm: Annotated[float, pydantic.Field(gt=0)]

    @pydantic.model_validator(mode="after")
    def check_order(self) -> "MetricLimit":
        """Check that `warn` is not above `alarm`."""
        if self.warn > self.alarm:
            raise ValueError(f"warn {self.warn} is above alarm {self.alarm}")
        return self


def check_metric(name: str) -> str:
    """Return the name of a metric; raise ValueError for an unknown name."""
    if name not in METRICS:
        raise ValueError("no such metric; a limit on it would never bite")
    return name


class Threshold(pydantic.BaseModel):
    """Limits of one image type from one date on.

    Attributes
    ----------
    since : date
        First night; the key in the file is ``from``.
    encoder : str
        Fingerprint of the encoder: decision 0009.
    merge_height : float
        Largest nominal cosine distance, 0 to 2.
    residual : float
        Largest nominal strength of a residual pattern, in robust standard deviations of held-out
        references.
    false_alarms : float
        Rate of false alarms per extension.
    metrics : mapping of metric name to MetricLimit
    why, by : str
        Reason and author.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    since: Annotated[date, pydantic.Field(alias="from")]
    encoder: Annotated[str, pydantic.Field(min_length=1)]
    merge_height: Annotated[float, pydantic.Field(gt=0, le=2)]
    residual: Annotated[float, pydantic.Field(gt=0)]
    false_alarms: Annotated[float, pydantic.Field(gt=0, lt=1)]
    metrics: dict[Annotated[str, pydantic.AfterValidator(check_metric)], MetricLimit]
    why: Annotated[str, pydantic.Field(min_length=1)]
    by: Annotated[str, pydantic.Field(min_length=1)]


EntryList = Annotated[tuple[Threshold, ...], pydantic.Field(min_length=1)]
_FILE = pydantic.TypeAdapter(dict[str, EntryList])


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of all image types.

    Attributes
    ----------
    path : Path
        Thresholds file.
    digest : str
        SHA-256 of the file.
    entries : mapping of str to tuple of Threshold
        Entries of each image type in order of date.
    """

    path: Path
    digest: str
    entries: Mapping[str, tuple[Threshold, ...]]

    def threshold(self, image_type: str, night: date, encoder: str) -> Threshold:
        """Return the newest entry of an image type that is valid on a night.

        Parameters
        ----------
        image_type : str
        night : date
        encoder : str
            Fingerprint of the encoder.

        Returns
        -------
        Threshold

        Raises
        ------
        ConfigurationError
            If any image type has no entry for the encoder, so that the error shows at the first
            frame.
        IncompleteHeaderError
            If all entries are newer than the night, possibly because of a wrong clock.
        """
        by_type = {
            name: [entry for entry in entries if entry.encoder == encoder]
            for name, entries in self.entries.items()
        }
        missing = [name for name, entries in by_type.items() if not entries]
        if missing:
            encoders = ", ".join(sorted({entry.encoder for entry in self.entries[missing[0]]}))
            raise errors.ConfigurationError(
                f"{self.path}: {' '.join(missing)}: no entry for encoder {encoder} "
                f"(entries are for: {encoders}). Thresholds belong to one encoder; "
                "tune them for it."
            )
        valid = [entry for entry in by_type[image_type] if entry.since <= night]
        if not valid:
            raise errors.IncompleteHeaderError(
                f"{image_type} of the night {night}: its thresholds begin on "
                f"{by_type[image_type][0].since}; if the header's date is right, add an older entry"
            )
        return valid[-1]

    def select(
        self, measurements: Iterable[core.Measurement], night: date, encoder: str
    ) -> tuple[Threshold, ...]:
        """Return the limits of each extension of a frame.

        Parameters
        ----------
        measurements : iterable of n Measurement
        night : date
            Night of the frame.
        encoder : str
            Fingerprint of the encoder.

        Returns
        -------
        tuple of n Threshold

        Raises
        ------
        ConfigurationError, IncompleteHeaderError
            See `threshold`.
        """
        return tuple(
            self.threshold(measurement.setup.image_type, night, encoder)
            for measurement in measurements
        )


class TextDateConstructor(RoundTripConstructor):
    """YAML constructor that leaves dates as text.

    YAML's own error for an invalid date names neither line nor key.
    """


TextDateConstructor.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: str(node.value))


def read_thresholds(path: Path, image_types: Iterable[str]) -> Thresholds:
    """Read the thresholds of all image types.

    Parameters
    ----------
    path : Path
        Thresholds file.
    image_types : iterable of str
        All image types of the instruments.

    Returns
    -------
    Thresholds

    Raises
    ------
    ConfigurationError
        If the file cannot be read, an image type is missing, a key is unknown, a value is out of
        range, or dates are out of order. The message names line and key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.ConfigurationError(f"{path}: cannot be read: {error}") from error
    expected = set(image_types)
    by_type = parse_thresholds(path, content, expected)
    missing = sorted(expected - by_type.keys())
    if missing:
        raise errors.ConfigurationError(
            f"{path}: no thresholds for {', '.join(missing)}; add an entry"
        )
    return Thresholds(path, hashlib.sha256(content).hexdigest(), by_type)


def parse_thresholds(
    path: Path, content: bytes, image_types: set[str]
) -> dict[str, tuple[Threshold, ...]]:
    """Parse the content of a thresholds file.

    Parameters
    ----------
    path : Path
        File, for messages.
    content : bytes
    image_types : set of str
        Allowed image types.

    Returns
    -------
    dict of str to tuple of Threshold
        Entries of each image type.
    """
    yaml = YAML(typ="rt")
    yaml.Constructor = TextDateConstructor
    try:
        document = yaml.load(content)
    except (UnicodeDecodeError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise errors.ConfigurationError(f"{path}: cannot be read as YAML: {reason}") from error
    try:
        entries = _FILE.validate_python(document)
    except pydantic.ValidationError as error:
        # A misspelt key is both unknown and missing; the message names the unknown key.
        first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        keys = ": ".join(str(key) for key in first["loc"] if key != "[key]") or "the file"
        got = "" if first["type"] == "missing" else f", got {first['input']!r}"
        line = find_line(document, first["loc"])
        raise errors.ConfigurationError(f"{path}:{line}: {keys}: {first['msg']}{got}") from error
    check_dates(path, document, entries)
    by_type: dict[str, tuple[Threshold, ...]] = {}
    for key, dated in entries.items():
        place = f"{path}:{find_line(document, (key,))}"
        for name in key.split():
            if name not in image_types:
                raise errors.ConfigurationError(
                    f"{place}: {name}: no instrument has this image type"
                )
            if name in by_type:
                raise errors.ConfigurationError(f"{place}: {name}: is in an earlier key too")
            by_type[name] = dated
    return by_type


def find_line(document: Any, keys: Iterable[str | int]) -> int:
    """Return the line of the innermost key that a document contains.

    Parameters
    ----------
    document : Any
        YAML document with positions.
    keys : iterable of str or int
        Path of keys.

    Returns
    -------
    int
        Line, from 1.
    """
    line = 0
    for key in keys:
        try:
            position = document.lc.data[key]
            document = document[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
        line = position[0]
    return line + 1


def check_dates(path: Path, document: Any, entries: Mapping[str, tuple[Threshold, ...]]) -> None:
    """Check that the entries of each key are in order of date.

    Parameters
    ----------
    path : Path
    document : Any
        YAML document with positions.
    entries : mapping of str to tuple of Threshold
        Entries by key.

    Raises
    ------
    ConfigurationError
        If an entry is older than the entry before.
    """
    for name, dated in entries.items():
        for i, (before, after) in enumerate(pairwise(dated), start=1):
            if after.since < before.since:
                raise errors.ConfigurationError(
                    f"{path}:{find_line(document, (name, i, 'from'))}: {name}: from: {after.since} "
                    f"comes after {before.since}; put the entries in order of date"
                )
