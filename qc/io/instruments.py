"""Instrument files in, instruments out: what a header means, without knowing what a header is.

An instrument is a YAML file, never code. It says which keyword tells what, how header values
name the kind of calibration, what each chip is like, and what the calibration plan expects.
``instruments/uves.yaml`` explains every key in its comments.

A header is here a mapping from keyword to value, made by `qc.frames`: ``HIERARCH ESO`` is left
out of the keywords, blank values are left out altogether, and two entries are added that no file
has: ``IMAGES``, how many images it holds, and ``HDUS``, how many units.
"""

import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import field
from datetime import UTC, date, datetime, time, timedelta
from fnmatch import fnmatchcase
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from qc.core.frame import Header, Value
from qc.errors import ConfigurationError

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


def _listed(value: Any) -> Any:
    """Let a list of one be written without its brackets."""
    return value if isinstance(value, list | tuple) else [value]


def _comparable(value: Value | None) -> Value | None:
    """Refuse a comparison with something that is no number."""
    if isinstance(value, str) and value[:2] in _COMPARISONS:
        float(value[2:])
    return value


def _zone(name: str) -> str:
    """Refuse a time zone that does not exist."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError):
        raise ValueError(f"no time zone {name!r}") from None
    return name


_COMPARISONS = {"<=": operator.le, ">=": operator.ge}


Positive = Annotated[float, Field(gt=0)]


Hour = Annotated[float, Field(ge=0, lt=24)]


Share = Annotated[float, Field(gt=0, lt=1)]


Expected = Annotated[Value | None, AfterValidator(_comparable)]


Condition = dict[str, Annotated[tuple[Expected, ...], BeforeValidator(_listed)]]


"""Keyword -> what its value may be; all must hold.

A string may have wildcards (``*,SLIC#*``) and is compared without case; ``">=3"`` and ``"<=0.001"``
compare numbers; null means that the keyword is absent or blank.
"""


When = Annotated[tuple[Condition, ...], BeforeValidator(_listed)]


"""Conditions of which one must hold."""


Keywords = Annotated[tuple[str, ...], BeforeValidator(_listed)]


"""Keywords of which the first that is present counts."""


Span = tuple[int, int]


"""First and one-past-last pixel, unbinned, counted from 0."""


Limits = dict[str, tuple[float, float]]


"""Name of a detector metric -> lowest and highest value that passes without any reference."""


def matches(when: tuple[Condition, ...], header: Header) -> bool:
    """Say whether one of the conditions holds; none at all holds always."""
    return not when or any(
        all(_is_one_of(header.get(keyword), allowed) for keyword, allowed in condition.items())
        for condition in when
    )


def keywords_of(whens: Iterable[tuple[Condition, ...]]) -> tuple[str, ...]:
    """Name the keywords that conditions look at, each once."""
    return tuple(
        dict.fromkeys(keyword for when in whens for condition in when for keyword in condition)
    )


def _is_one_of(value: Value | None, allowed: tuple[Value | None, ...]) -> bool:
    return any(_is(value, one) for one in allowed)


def _is(value: Value | None, expected: Value | None) -> bool:
    if value is None or expected is None:
        return value is expected
    if isinstance(expected, str):
        compare = _COMPARISONS.get(expected[:2])
        if compare:
            return not isinstance(value, str) and compare(value, float(expected[2:]))
        return fnmatchcase(str(value).strip().casefold(), expected.casefold())
    return not isinstance(value, str) and value == expected


@dataclass(frozen=True, config=_STRICT)
class Area:
    """A part of an image in unbinned pixels; what is not given is the whole length."""

    columns: Span | None = None
    rows: Span | None = None

    def slices(self, shape: tuple[int, int], binning: tuple[int, int]) -> tuple[slice, slice]:
        """Give the rows and columns of the whole pixels inside, for an image (ny, nx) as read."""
        ny, nx = shape
        bin_x, bin_y = binning
        return _binned(self.rows, ny, bin_y), _binned(self.columns, nx, bin_x)


def _binned(span: Span | None, length: int, binning: int) -> slice:
    if span is None:
        return slice(0, length)
    start, stop = span
    return slice(-(-start // binning), min(stop // binning, length))


@dataclass(frozen=True, config=_STRICT)
class KeywordNames:
    """Where each fact stands in the header."""

    observed_at: Keywords
    exposure_s: Keywords
    binning: tuple[str, ...]
    time_of_day: Keywords = ()
    archive_name: Keywords = ()
    template: Keywords = ()
    template_number: Keywords = ()
    template_size: Keywords = ()
    object: Keywords = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, config=_STRICT)
class Skip:
    """A kind of frame that is healthy but not ours to judge."""

    when: When
    why: str


@dataclass(frozen=True, config=_STRICT)
class Arm:
    """One camera: how to tell it, and which keywords describe its light path.

    Attributes
    ----------
    letter : str
        The arm's part of an image type.
    optics : tuple of tuple of str
        Keywords whose values, joined, make ``Setup.optics``; ``FREE`` is left out.
    """

    letter: str = ""
    when: When = ()
    wavelength_nm: Keywords = ()
    slit_arcsec: Keywords = ()
    optics: tuple[Keywords, ...] = ()


@dataclass(frozen=True, config=_STRICT)
class OpticalMode:
    """An optical mode, such as a dichroic: its part of an image type and the light it costs."""

    code: str
    when: When
    exposure_factor: Positive = 1.0


@dataclass(frozen=True, config=_STRICT)
class ReadMode:
    """A named way of reading the chips out."""

    name: str
    when: When


@dataclass(frozen=True, config=_STRICT)
class ChipNumbers:
    """What one chip does in one read mode; the units are in the names."""

    gain_e_per_adu: Positive
    read_noise_adu: Positive
    bias_adu: float
    saturation_adu: Positive
    limits: Limits = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class Quirk:
    """A blemish that is always there: unbinned pixels of the chip's image as read."""

    why: str
    columns: Span | None = None
    rows: Span | None = None


@dataclass(frozen=True, config=_STRICT)
class Chip:
    """One detector."""

    read_modes: dict[str, ChipNumbers]
    quirks: tuple[Quirk, ...] = ()


@dataclass(frozen=True, config=_STRICT)
class ChipSection:
    """Where one chip's image is in a file.

    Attributes
    ----------
    image : int
        Which of the file's images, from 1; those without pixels do not count.
    number : int
        The number that ends the image type and names the extension.
    area : Area
        The chip's part of that image.
    light, prescan, overscan : Area or None
        Parts of the chip's own image.
    """

    chip: str
    image: int
    number: int
    light: Area
    prescan: Area | None = None
    overscan: Area | None = None
    area: Area = field(default_factory=Area)


@dataclass(frozen=True, config=_STRICT)
class Layout:
    """How an arm's file is laid out.

    Attributes
    ----------
    shape : (rows, columns)
        Of each image, unbinned.
    """

    name: str
    arm: str
    images: int
    shape: tuple[int, int]
    sections: tuple[ChipSection, ...]


@dataclass(frozen=True, config=_STRICT)
class Calibration:
    """A kind of calibration frame.

    Attributes
    ----------
    name : str
        Its own name, e.g. ``dflat``.
    frame_class : str
        The family whose looks and faults it shares: ``bias``, ``dark``, ``flat`` or ``arc``.
    letter : str
        Its part of an image type.
    light : bool
        Whether light passes the grating and the slit, so that the setup depends on them.
    lamp : str or None
        Key of `Instrument.standard_exposures`.
    slit_scales : bool
        Whether a wider slit gives a brighter image (a continuum does, an arc line does not).
    stretch_adu : float
        Scale of the fixed asinh stretch.
    expected_every_days, set_size : float, int
        The calibration plan, for each setup in use; None where none is planned.
    due_utc_hour : float or None
        When it is late, if at another hour than all else.
    """

    name: str
    frame_class: str
    letter: str
    when: When
    light: bool
    stretch_adu: Positive
    lamp: str | None = None
    slit_scales: bool = False
    expected_every_days: Positive | None = None
    set_size: Annotated[int, Field(ge=1)] = 1
    due_utc_hour: Hour | None = None
    limits: Limits = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class Speed:
    """How many times sooner a read mode and binning reach the same level in ADU."""

    read_mode: str
    binning: str
    times: Positive


@dataclass(frozen=True, config=_STRICT)
class FaultKind:
    """A name that people may give to what is wrong with a frame.

    Attributes
    ----------
    classes : tuple of str
        The frame classes in which it can occur.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
    sentence: Annotated[str, Field(min_length=1, max_length=200)]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, config=_STRICT)
class InjectionTestLimits:
    """When known faults are found too seldom.

    Attributes
    ----------
    least_recall, least_recall_of_kind : float
        Part of the injected faults that must be found: of all, and of each kind.
    nights : int
        So many last nights are judged together at most; of one kind, twice as many.
    """

    least_recall: Share = 0.9
    least_recall_of_kind: Share = 0.5
    nights: Annotated[int, Field(ge=1, le=30)] = 7


_IMPOSSIBLE = 1e-6


_FITS_EVERYTHING = {
    "other": "Something else; the note says what.",
    "needs_discussion": "Not clear; somebody else should look.",
}


@dataclass(frozen=True, config=_STRICT)
class Instrument:
    """One instrument file, as read; see ``instruments/uves.yaml`` for what each key means."""

    name: str
    prefix: str
    match: When
    time_zone: Annotated[str, AfterValidator(_zone)]
    night_starts_utc_hour: Hour
    keywords: KeywordNames
    arms: dict[str, Arm]
    layouts: tuple[Layout, ...]
    chips: dict[str, Chip]
    read_modes: tuple[ReadMode, ...]
    calibrations: tuple[Calibration, ...]
    calibrations_have: Condition = field(default_factory=dict)
    skip: tuple[Skip, ...] = ()
    modes: tuple[OpticalMode, ...] = ()
    standard_exposures: dict[str, dict[float, Positive]] = field(default_factory=dict)
    speeds: tuple[Speed, ...] = ()
    faults: tuple[FaultKind, ...] = ()
    fault_rate: Share = 0.02  # part of the images expected to be bad
    calibrations_due_utc_hour: Hour | None = None  # None: at the end of the night
    set_stopped_after_min: Positive = 60
    self_test: InjectionTestLimits = field(default_factory=InjectionTestLimits)

    def recognises(self, header: Header) -> bool:
        """Say whether a header is of this instrument."""
        return matches(self.match, header)

    def skip_reason(self, header: Header) -> str | None:
        """Say why a frame is not ours to judge; None if it may be."""
        return next((skip.why for skip in self.skip if matches(skip.when, header)), None)

    def calibration(self, header: Header) -> Calibration | None:
        """Name the kind of calibration; None if the file describes no such kind."""
        if not matches((self.calibrations_have,), header):
            return None
        return next((one for one in self.calibrations if matches(one.when, header)), None)

    def always_decides(self, keyword: str) -> bool:
        """Say whether no calibration can be told without a keyword."""
        return keyword in self.calibrations_have or all(
            keyword in condition for one in self.calibrations for condition in one.when
        )

    def arm_name(self, header: Header) -> str | None:
        """Name the arm; None if nothing tells.

        The arms' first conditions are tried before any second one, and so on: what tells the
        arm best comes first in the file.
        """
        ranked = sorted(
            (rank, name)
            for name, arm in self.arms.items()
            for rank, condition in enumerate(arm.when or ({},))
            if matches((condition,), header)
        )
        return ranked[0][1] if ranked else None

    def mode(self, header: Header) -> OpticalMode:
        """Give the optical mode; the plain one if no other is told."""
        plain = OpticalMode("", ())
        return next((mode for mode in self.modes if matches(mode.when, header)), plain)

    def read_mode(self, header: Header) -> str | None:
        """Name the read mode; None if the file describes no such mode."""
        return next((mode.name for mode in self.read_modes if matches(mode.when, header)), None)

    def layouts_of(self, arm_name: str) -> tuple[Layout, ...]:
        """List the layouts that an arm's files may have."""
        return tuple(layout for layout in self.layouts if layout.arm == arm_name)

    def image_type(self, calibration: Calibration, mode: OpticalMode, arm: Arm, number: int) -> str:
        """Spell an image type, e.g. ``UD1BF0``; without light the optical mode does not count."""
        code = mode.code if calibration.light else ""
        return f"{self.prefix}{code}{arm.letter}{calibration.letter}{number}"

    def calibration_of(self, image_type: str) -> Calibration | None:
        """Give the kind of calibration that an image type stands for."""
        return self._calibrations_by_image_type.get(image_type)

    def limits_of(self, image_type: str, chip: str, read_mode: str) -> Limits:
        """Give the absolute limits on detector numbers; those of the calibration over the chip's.

        Empty for what the instrument file no longer knows.
        """
        calibration = self.calibration_of(image_type)
        numbers = self.chips[chip].read_modes.get(read_mode) if chip in self.chips else None
        return {
            **(numbers.limits if numbers else {}),
            **(calibration.limits if calibration else {}),
        }

    def image_types(self) -> tuple[str, ...]:
        """List every image type that a frame of this instrument may have."""
        return tuple(self._calibrations_by_image_type)

    def fault_kinds(self, frame_class: str | None = None) -> tuple[FaultKind, ...]:
        """List what people may call a fault, of one frame class or of all.

        The file's own names, and two that fit everything whether or not the file has them.
        """
        every = tuple(dict.fromkeys(one.frame_class for one in self.calibrations))
        own = [one for one in self.faults if one.name not in _FITS_EVERYTHING]
        always = [FaultKind(name, said, every) for name, said in _FITS_EVERYTHING.items()]
        return tuple(one for one in own + always if frame_class in {None, *one.classes})

    def expected_faults(self, frame_class: str, rate: float | None = None) -> dict[str, float]:
        """Give the part of a class's images that is expected to have each kind of fault.

        As much of each that can occur; hardly any of those that cannot.

        Parameters
        ----------
        rate : float, optional
            Part that is bad; the instrument's own if left out.
        """
        possible = {one.name for one in self.faults if frame_class in one.classes}
        each = (rate or self.fault_rate) / max(len(possible), 1)
        return {
            one.name: each if one.name in possible else _IMPOSSIBLE * each for one in self.faults
        }

    @cached_property
    def _calibrations_by_image_type(self) -> dict[str, Calibration]:
        return {
            self.image_type(calibration, mode, self.arms[layout.arm], section.number): calibration
            for calibration in self.calibrations
            for mode in (OpticalMode("", ()), *self.modes)
            for layout in self.layouts
            for section in layout.sections
        }

    def standard_exposure_s(
        self,
        calibration: Calibration,
        *,
        wavelength_nm: float | None,
        slit_arcsec: float | None,
        mode: OpticalMode,
        read_mode: str,
        binning: str,
    ) -> float:
        """Give the exposure that the manual advises for a setup, in seconds.

        A wavelength between the table's takes the nearest one's: its lamp and filter are used.
        Where the table is silent the standard is one second.
        """
        table = self.standard_exposures.get(calibration.lamp or "", {})
        if not table or wavelength_nm is None:
            return 1.0
        nearest = min(table, key=lambda nm: abs(nm - wavelength_nm))
        slit = slit_arcsec if calibration.slit_scales and slit_arcsec else 1.0
        return table[nearest] * mode.exposure_factor / slit / self._speed(read_mode, binning)

    def _speed(self, read_mode: str, binning: str) -> float:
        return next(
            (s.times for s in self.speeds if (s.read_mode, s.binning) == (read_mode, binning)), 1.0
        )

    def night_of(self, observed_at: datetime) -> date:
        """Give the calibration night of a UTC time: the date of the evening it began."""
        return (observed_at - timedelta(hours=self.night_starts_utc_hour)).date()

    def night_ends(self, night: date) -> datetime:
        """Give the UTC time at which a night's calibrations are over: the next one's begin."""
        return datetime.combine(night, time(), UTC) + timedelta(
            days=1, hours=self.night_starts_utc_hour
        )

    def due_at(self, night: date, calibration: Calibration | None = None) -> datetime:
        """Give the UTC time from which a night's calibrations, or those of one kind, are late."""
        ends = self.night_ends(night)
        own = calibration.due_utc_hour if calibration else None
        hour = self.calibrations_due_utc_hour if own is None else own
        early_h = 0.0 if hour is None else (self.night_starts_utc_hour - hour) % 24
        return ends - timedelta(hours=early_h)


def read_instruments(folder: Path | None = None) -> tuple[Instrument, ...]:
    """Read every instrument file: those of a folder first, then those that come with qc.

    A file of the folder replaces the packaged one of the same name.
    """
    packaged = {file.name: file for file in _yaml_files(resources.files("qc.io") / "instruments")}
    own = {file.name: file for file in _yaml_files(folder)} if folder else {}
    files = own | {name: file for name, file in packaged.items() if name not in own}
    return tuple(read_instrument(file) for file in files.values())


def _yaml_files(folder: Traversable) -> Sequence[Traversable]:
    try:
        found = [file for file in folder.iterdir() if file.name.endswith(".yaml")]
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot list instrument files: {error}") from None
    return sorted(found, key=lambda file: file.name)


def read_instrument(path: Traversable) -> Instrument:
    """Read one instrument file.

    Raises
    ------
    ConfigurationError
        If it cannot be read, or a key is missing, unknown or makes no sense; the message names
        file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{path}, line {line}: {error.problem}") from None
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from None
    try:
        instrument = TypeAdapter(Instrument).validate_python(raw)
    except ValidationError as error:
        raise ConfigurationError(_all_mistakes(path, text, error)) from None
    _check_names(path, instrument)
    return instrument


def _all_mistakes(path: Traversable, text: str, error: ValidationError) -> str:
    where = YAML(typ="rt").load(text)
    return "; ".join(
        f"{path}, line {_line(where, mistake['loc'])}: "
        f"{'.'.join(str(part) for part in mistake['loc']) or 'the file'}: {mistake['msg']}"
        for mistake in error.errors()
    )


def _line(node: Any, location: tuple[int | str, ...]) -> int:
    """Find the line of the deepest part of a location that the file has."""
    line = 1
    for part in location:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0] + 1
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0] + 1
        else:
            break
        node = node[part]
    return line


def _check_names(path: Traversable, instrument: Instrument) -> None:
    """Refuse a name that is used but not described."""
    read_modes = {mode.name for mode in instrument.read_modes}
    _check("layouts", (layout.arm for layout in instrument.layouts), instrument.arms, path)
    chips = (section.chip for layout in instrument.layouts for section in layout.sections)
    _check("layouts", chips, instrument.chips, path)
    for name, chip in instrument.chips.items():
        _check(f"chips.{name}.read_modes", chip.read_modes, read_modes, path)
    _check("speeds", (speed.read_mode for speed in instrument.speeds), read_modes, path)
    lamps = (one.lamp for one in instrument.calibrations if one.lamp)
    _check("calibrations", lamps, instrument.standard_exposures, path)
    classes = {one.frame_class for one in instrument.calibrations}
    faulty = (name for fault in instrument.faults for name in fault.classes)
    _check("faults", faulty, classes, path)
    names = Counter(fault.name for fault in instrument.faults)
    for name in [name for name, count in names.items() if count > 1]:
        raise ConfigurationError(f"{path}: faults: {name!r} is described more than once")


def _check(key: str, used: Iterable[str], described: Iterable[str], path: Traversable) -> None:
    known = tuple(described)
    for name in used:
        if name not in known:
            expected = ", ".join(sorted(known)) or "none is described"
            raise ConfigurationError(f"{path}: {key}: unknown name {name!r}; expected: {expected}")
