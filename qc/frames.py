"""FITS files in, frames out: the only module that knows a header keyword."""

import bz2
import gzip
import hashlib
import io
import math
import os
import re
import stat
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import ncompress
import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from qc.errors import (
    DeadReadOut,
    FrameError,
    IncompleteHeader,
    NotForUs,
    UnknownImageType,
    UnreadableFrame,
    WrongShape,
)
from qc.instruments import (
    Area,
    Arm,
    Calibration,
    ChipNumbers,
    Header,
    Instrument,
    Layout,
    Mode,
    Section,
    Value,
    keywords_of,
)

MAX_BYTES = 512 * 2**20  # a UVES red frame has 35 MB; what is larger is a mistake or an attack

Region = tuple[slice, slice]  # rows, columns: pixels[region] is the part that is meant


@dataclass(frozen=True)
class Setup:
    """What must be equal for two extensions to be comparable.

    Attributes
    ----------
    image_type : str
        The key of everything, e.g. ``UD1BF0``.
    chip : str
        ``BLUE``, ``REDU``, ``REDL``; the instrument file names them.
    binning : str
        ``BINX x BINY``: ``1x1``, ``2x2``.
    read_mode : str
        Speed and gain, e.g. ``225kHz low``.
    wavelength_nm : float or None
        Central wavelength; None where no light passes the grating (bias, dark).
    slit_arcsec : float or None
        Slit width, to 0.01; None where no light passes the slit.
    optics : str
        Whatever else is in the light path: image slicer, grism, filter. Empty for a bias.
    """

    image_type: str
    chip: str
    binning: str
    read_mode: str
    wavelength_nm: float | None = None
    slit_arcsec: float | None = None
    optics: str = ""


@dataclass(frozen=True)
class Detector:
    """What the instrument file promises of one chip in one read mode.

    Attributes
    ----------
    gain_e_per_adu : float
        Electrons per ADU (ESO's CONAD, the inverse of its GAIN).
    read_noise_adu : float
        Standard deviation of one pixel of a bias.
    bias_adu : float
        Level of a bias.
    saturation_adu : float
        Where the chip or its converter ends.
    """

    gain_e_per_adu: float
    read_noise_adu: float
    bias_adu: float
    saturation_adu: float


@dataclass(frozen=True)
class Extension:
    """One detector's image in a frame.

    Attributes
    ----------
    number : int
        HDU number in the file: 0 for a blue frame, 1 and 2 for a red one.
    pixels : (ny, nx) array, uint16 or float32
        ADU as read, prescan and overscan included.
    light : Region
        The part of `pixels` that light can reach.
    prescan, overscan : Region or None
        The parts that it cannot, a guard band left out.
    promised_light : float
        How much light the header promises, in units of the setup's standard exposure
        (1 = the exposure of the instrument's manual); 0 for a bias or a dark.
    stretch_adu : float
        Scale of the fixed asinh stretch for this class of frame.
    frame_class : str
        Family of the image type: ``bias``, ``dark``, ``flat`` or ``arc``.
    limits : mapping of str to (float, float)
        Detector metric -> lowest and highest value that passes without any reference.
    """

    number: int
    setup: Setup
    pixels: NDArray[np.uint16] | NDArray[np.float32]
    light: Region
    prescan: Region | None
    overscan: Region | None
    detector: Detector
    promised_light: float
    stretch_adu: float
    frame_class: str = ""
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """One FITS file as read.

    Attributes
    ----------
    name : str
        Identity in the archive: ARCFILE without its suffix, or else the file's name.
    sha256 : str
        Hex digest of the uncompressed FITS bytes, so that ``a.fits`` and ``a.fits.Z`` are one.
    observed_at : datetime
        Start of the exposure, UTC.
    night : date
        The calibration night that it belongs to: frames of 09 to 22 UT follow the night that
        ended that morning, so the night's date is that of the evening before.
    exposure_s : float
        Shutter-open time; 0 for a bias.
    template : str
        Identity of the template set, e.g. its start time; frames of one set share it.
    template_number, template_size : int
        This frame's number in its set, from 1, and how many the set was to have.
    calibration : str
        The kind of calibration as the instrument file names it, e.g. ``dflat``.
    object : str
        OBJECT as written; often blank.
    header : mapping of str to value
        The few keywords that the instrument file keeps, to be searched later.
    """

    path: Path
    name: str
    sha256: str
    instrument: str
    observed_at: datetime
    night: date
    exposure_s: float
    template: str
    template_number: int
    template_size: int
    extensions: tuple[Extension, ...]
    calibration: str = ""
    object: str = ""
    header: Mapping[str, Value] = field(default_factory=dict)


def read_frame(
    path: Path, instruments: Sequence[Instrument], *, max_bytes: int = MAX_BYTES
) -> Frame:
    """Read one calibration frame, compressed or not.

    The compression is told by the content: none, ``.Z``, ``.gz``, ``.bz2``, or FITS tiles
    (``.fz``). A tile-compressed file is FITS itself, so its sha256 is its own, not that of the
    file that was packed.

    Parameters
    ----------
    instruments : sequence of Instrument
        The first that recognises the header reads it.
    max_bytes : int
        What would grow larger than this when uncompressed is refused.

    Raises
    ------
    FrameError
        One of its subclasses, in one line that names the file; nothing else.
    """
    try:
        return _read_frame(path, instruments, max_bytes)
    except FrameError as error:
        raise type(error)(f"{path}: {error}") from None


def _read_frame(path: Path, instruments: Sequence[Instrument], max_bytes: int) -> Frame:
    content = _decompress(_read_bytes(path, max_bytes), max_bytes)
    with warnings.catch_warnings():
        # What astropy would have us know of odd cards either does not matter or ends in a
        # FrameError of ours.
        warnings.simplefilter("ignore", AstropyUserWarning)
        units = tuple(_units(content))
        images = tuple(unit for unit in units if unit.shape)
        header = _merge_headers(units, images)
        exposure = _read_exposure(header, _recognise(header, instruments))
        layout = _choose_layout(exposure, images)
        pixels = tuple(_read_pixels(unit, content, max_bytes) for unit in images)
    extensions = tuple(_extension(one, pixels[one.image - 1], exposure) for one in layout.sections)
    return _build_frame(path, content, header, exposure, extensions)


# --- bytes ---------------------------------------------------------------------------------------


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    try:
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):
            raise UnreadableFrame("expected a file, got a directory or a device")
        if before.st_size > max_bytes:
            raise UnreadableFrame(f"expected at most {max_bytes} bytes, got {before.st_size}")
        with path.open("rb") as file:
            content = file.read(before.st_size + 1)  # one more: it may be growing
            after = os.fstat(file.fileno())
    except (OSError, ValueError) as error:
        raise UnreadableFrame(f"cannot be read: {_reason(error)}") from None
    if not content:
        raise UnreadableFrame("the file is empty: still being written, or lost")
    if (len(content), after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise UnreadableFrame(
            f"expected {before.st_size} bytes, got {len(content)} that changed meanwhile: "
            "still being written"
        )
    return content


def _reason(error: Exception) -> str:
    told = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(told).split())


def _decompress(content: bytes, max_bytes: int) -> bytes:
    unpack = next((f for magic, f in _UNPACKERS.items() if content.startswith(magic)), None)
    if unpack is None:
        return content
    unpacked = io.BytesIO()
    try:
        unpack(content, unpacked, max_bytes)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UnreadableFrame(
            f"expected to uncompress to the end, got after {unpacked.tell()} bytes: "
            f"{_reason(error)}; still being written, or damaged"
        ) from None
    if unpacked.tell() > max_bytes:
        raise UnreadableFrame(f"expected at most {max_bytes} bytes uncompressed, got more")
    return unpacked.getvalue()


class _Packed(io.BytesIO):
    """Packed bytes that seem to end once too much has come out of them.

    A decompression bomb must be stopped from this end: ncompress flushes its output in a C++
    destructor, where an exception of the writer would abort the whole process. It asks for 1 KiB
    at a time, from which LZW can make 32 MiB at most.
    """

    def __init__(self, content: bytes, unpacked: io.BytesIO, max_bytes: int) -> None:
        super().__init__(content)
        self.unpacked, self.max_bytes = unpacked, max_bytes

    def read(self, size: int | None = -1) -> bytes:
        return b"" if self.unpacked.tell() > self.max_bytes else super().read(size)


def _unpack_lzw(content: bytes, unpacked: io.BytesIO, max_bytes: int) -> None:
    ncompress.decompress(_Packed(content, unpacked, max_bytes), unpacked)


def _unpack_gzip(content: bytes, unpacked: io.BytesIO, max_bytes: int) -> None:
    with gzip.open(io.BytesIO(content)) as file:
        _copy(file, unpacked, max_bytes)


def _unpack_bzip2(content: bytes, unpacked: io.BytesIO, max_bytes: int) -> None:
    with bz2.open(io.BytesIO(content)) as file:
        _copy(file, unpacked, max_bytes)


def _copy(file: io.BufferedIOBase, unpacked: io.BytesIO, max_bytes: int) -> None:
    """Copy up to the first piece beyond the limit."""
    while unpacked.tell() <= max_bytes and (piece := file.read(_PIECE_BYTES)):
        unpacked.write(piece)


_PIECE_BYTES = 2**20
_UNPACKERS: Mapping[bytes, Callable[[bytes, io.BytesIO, int], None]] = {
    b"\x1f\x9d": _unpack_lzw,
    b"\x1f\x8b": _unpack_gzip,
    b"BZh": _unpack_bzip2,
}


# --- FITS units ----------------------------------------------------------------------------------

_BLOCK = 2880
_MAX_HEADER_BYTES = 2**20  # 13 000 cards; UVES has 500
_MAX_AXES = 999
_END = re.compile(rb"(?:.{80})*?END {77}", re.DOTALL)
_DTYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True)
class _Unit:
    """One header and data unit.

    Attributes
    ----------
    shape : tuple of int
        Of its image, slowest axis first; empty where it has none.
    data : memoryview
        Its data as stored, without the padding.
    """

    index: int
    header: Header
    shape: tuple[int, ...]
    bits: int
    tiled: bool
    data: memoryview


def _units(content: bytes) -> Iterator[_Unit]:
    """Walk over the units; astropy reads the cards, but not how much of a file is missing."""
    if not content.startswith(b"SIMPLE  ="):
        raise UnreadableFrame(f"expected a FITS file, got one that begins with {content[:8]!r}")
    start, index = 0, 0
    while index == 0 or content.startswith(b"XTENSION", start):
        found = _END.match(content, start, start + _MAX_HEADER_BYTES)
        if found is None:
            raise _truncated(f"the end of header {index}", len(content))
        data_start = start + _padded(found.end() - start)
        header = _header_values(content[start : found.end()])
        size = _data_bytes(header)
        if data_start + _padded(size) > len(content):
            raise _truncated(f"at least {data_start + _padded(size)} bytes", len(content))
        yield _unit(index, header, memoryview(content)[data_start : data_start + size])
        start, index = data_start + _padded(size), index + 1


def _truncated(expected: str, size: int) -> UnreadableFrame:
    return UnreadableFrame(
        f"expected {expected}, got a file of {size} bytes: still being written, or truncated"
    )


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _header_values(cards: bytes) -> dict[str, Value]:
    """Read the cards that can be read; a broken card is an absent one, a repeated one counts once.

    An absent card that matters is missed later, by name.
    """
    values: dict[str, Value] = {}
    for card in fits.Header.fromstring(cards.decode("ascii", "replace")).cards:
        try:
            keyword, value = card.keyword, card.value
        except (fits.VerifyError, ValueError, ArithmeticError):
            continue
        value = value.strip() if isinstance(value, str) else value
        if _is_told(value):
            values.setdefault(keyword.removeprefix("ESO "), value)
    return values


def _is_told(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int) and value != ""


def _data_bytes(header: Header) -> int:
    axes = _axes(header, "NAXIS")
    groups = _whole(header, "GCOUNT", 1) * (_whole(header, "PCOUNT", 0) + math.prod(axes))
    return abs(_bits(header, "BITPIX")) // 8 * groups if axes else 0


def _axes(header: Header, keyword: str) -> tuple[int, ...]:
    """Give the lengths of the axes as FITS orders them, fastest first."""
    count = _whole(header, keyword, None)
    if count > _MAX_AXES:
        raise UnreadableFrame(f"expected {keyword} up to {_MAX_AXES}, got {count}")
    return tuple(_whole(header, f"{keyword}{n}", None) for n in range(1, count + 1))


def _bits(header: Header, keyword: str) -> int:
    bits = header.get(keyword)
    if bits not in _DTYPES:
        raise UnreadableFrame(f"expected {keyword} of {', '.join(map(str, _DTYPES))}, got {bits!r}")
    return int(bits)


def _whole(header: Header, keyword: str, default: int | None) -> int:
    value = header.get(keyword, default)
    if type(value) is not int or value < 0:
        raise UnreadableFrame(f"expected {keyword} to be a whole number, got {value!r}")
    return value


def _unit(index: int, header: Header, data: memoryview) -> _Unit:
    tiled = header.get("ZIMAGE") is True
    if not tiled and header.get("XTENSION", "IMAGE") != "IMAGE":
        return _Unit(index, header, (), 8, tiled=False, data=data)
    prefix = "Z" if tiled else ""
    axes = _axes(header, f"{prefix}NAXIS")
    shape = axes[::-1] if math.prod(axes) else ()
    bits = _bits(header, f"{prefix}BITPIX")
    promised = math.prod(shape) * abs(bits) // 8 if shape else 0
    if not tiled and promised != len(data):
        raise UnreadableFrame(
            f"expected {promised} bytes of pixels in unit {index}, got PCOUNT and GCOUNT that make "
            f"it {len(data)}"
        )
    return _Unit(index, header, shape, bits, tiled=tiled, data=data)


def _merge_headers(units: Sequence[_Unit], images: Sequence[_Unit]) -> dict[str, Value]:
    """Put the primary header over the first image's: window and binning are in the primary only."""
    first = images[0].header if images else {}
    return {**first, **units[0].header, "IMAGES": len(images), "HDUS": len(units)}


# --- pixels --------------------------------------------------------------------------------------

Pixels = NDArray[np.uint16] | NDArray[np.float32]


def _read_pixels(unit: _Unit, content: bytes, max_bytes: int) -> Pixels:
    """Read one image: (ny, nx), uint16 where the file has no more, or else float32, in ADU."""
    if unit.tiled:
        return _read_tiles(unit, content, max_bytes)
    raw = np.frombuffer(unit.data, _DTYPES[unit.bits]).reshape(unit.shape)
    scale = _real_or(1.0, unit.header, "BSCALE")
    zero = _real_or(0.0, unit.header, "BZERO")
    if unit.bits in {16, 32} and (scale, zero) == (1.0, 2.0 ** (unit.bits - 1)):
        return _unsigned(raw)
    with np.errstate(all="ignore"):
        return (raw.astype(np.float64) * scale + zero).astype(np.float32)


def _unsigned(raw: NDArray[Any]) -> Pixels:
    """Undo FITS's way to store unsigned numbers: flip the top bit; no copy to float in between."""
    native = raw.byteswap().view(f"u{raw.itemsize}")
    native ^= native.dtype.type(1 << (8 * raw.itemsize - 1))
    return native if native.dtype == np.uint16 else native.astype(np.float32)


def _read_tiles(unit: _Unit, content: bytes, max_bytes: int) -> Pixels:
    promised = math.prod(unit.shape) * abs(unit.bits) // 8
    if promised > max_bytes:
        raise UnreadableFrame(f"expected at most {max_bytes} bytes uncompressed, got {promised}")
    try:
        with fits.open(io.BytesIO(content)) as units:
            pixels = np.asarray(units[unit.index].data)
    except Exception as error:  # noqa: BLE001 - on damaged tiles the decoder raises anything
        raise UnreadableFrame(f"image {unit.index} cannot be unpacked: {_reason(error)}") from None
    if pixels.shape != unit.shape:
        raise UnreadableFrame(f"expected tiles of {unit.shape} pixels, got {pixels.shape}")
    return pixels if pixels.dtype == np.uint16 else pixels.astype(np.float32)


def _check_alive(pixels: Pixels, image: int, chip: str) -> None:
    lowest, highest = pixels.min(), pixels.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise DeadReadOut(f"image {image} ({chip}): expected numbers, got pixels that are not")
    if lowest == highest:
        raise DeadReadOut(f"dead read-out: every pixel of image {image} ({chip}) is {lowest} ADU")


# --- header --------------------------------------------------------------------------------------

_EARLIEST, _LATEST = 1970, 2100  # years
_MAX_BINNING = 16
_HUGE = 1e12  # beyond any wavelength, width, exposure or pixel
_LONGEST = 200  # characters kept of a description
_NAME = re.compile(r"[\w.:+-]{1,100}")
_SUFFIX = re.compile(r"\.(fits?|fts)(\.(Z|gz|fz|bz2))?$", re.IGNORECASE)


def _recognise(header: Header, instruments: Sequence[Instrument]) -> Instrument:
    for instrument in instruments:
        if instrument.recognises(header):
            return instrument
    keywords = keywords_of(instrument.match for instrument in instruments)
    if not any(keyword in header for keyword in keywords):
        raise IncompleteHeader(f"missing or blank: {', '.join(keywords)}")
    known = ", ".join(instrument.name for instrument in instruments)
    raise NotForUs(f"expected one of {known}, got {_quote(header, keywords)}")


def _judge_kind(header: Header, instrument: Instrument) -> Calibration:
    skip_keywords = keywords_of(skip.when for skip in instrument.skip)
    why = instrument.skip_reason(header)
    if why:
        raise NotForUs(f"{why} ({_quote(header, skip_keywords)})")
    calibration = instrument.calibration(header)
    if calibration:
        return calibration
    keywords = keywords_of(
        [(instrument.calibrations_have,), *(one.when for one in instrument.calibrations)]
    )
    decisive = [key for key in keywords if instrument.always_decides(key)]
    _require(header, [(key,) for key in decisive])
    known = ", ".join(one.name for one in instrument.calibrations)
    raise UnknownImageType(f"expected one of {known}, got {_quote(header, keywords)}")


def _quote(header: Header, keywords: Sequence[str]) -> str:
    """Spell keywords with their values, in one line of reasonable length."""
    told = (f"{key} = {header[key]!r:.60}" for key in keywords if key in header)
    return ", ".join(told) or f"none of {', '.join(keywords)}"


def _require(header: Header, groups: Sequence[Sequence[str]]) -> None:
    missing = [" or ".join(keys) for keys in groups if keys and _first(header, keys) is None]
    if missing:
        raise IncompleteHeader(f"missing or blank: {', '.join(missing)}")


def _first(header: Header, keywords: Sequence[str]) -> Value | None:
    return next((header[key] for key in keywords if key in header), None)


def _text(header: Header, keywords: Sequence[str]) -> str:
    value = _first(header, keywords)
    return "" if value is None else str(value)


def _real(header: Header, *keywords: str, lowest: float = -_HUGE) -> float | None:
    """Read a number; None where no keyword has one, an error where it makes no sense."""
    value = _first(header, keywords)
    if value is None:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not lowest <= number <= _HUGE:
        raise IncompleteHeader(f"{_quote(header, keywords)}: expected a number that makes sense")
    return number


def _real_or(default: float, header: Header, keyword: str) -> float:
    number = _real(header, keyword)
    return default if number is None else number


def _count(header: Header, keywords: Sequence[str]) -> int:
    """Read a count that decides nothing: 1 where it is absent or odd."""
    value = _first(header, keywords)
    return value if type(value) is int and value > 0 else 1


def _binning(header: Header, keywords: Sequence[str]) -> tuple[int, int]:
    """Read x and y binning, from two keywords or from one such as ``'1 2'``."""
    parts = " ".join(str(header[key]) for key in keywords).split()
    try:
        bin_x, bin_y = (int(part) for part in parts)
    except ValueError:
        bin_x = bin_y = 0
    if not (0 < bin_x <= _MAX_BINNING and 0 < bin_y <= _MAX_BINNING):
        raise IncompleteHeader(f"{_quote(header, keywords)}: expected a binning such as 1 and 2")
    return bin_x, bin_y


def _observed_at(header: Header, instrument: Instrument) -> datetime:
    names = instrument.keywords
    told = _text(header, names.observed_at)
    if names.time_of_day and "T" not in told:
        told = f"{told}T{_text(header, names.time_of_day)}"
    try:
        observed_at = datetime.fromisoformat(told)
    except ValueError:
        observed_at = None
    if observed_at is None or not _EARLIEST <= observed_at.year <= _LATEST:
        keywords = (*names.observed_at, *names.time_of_day)
        raise IncompleteHeader(f"{_quote(header, keywords)}: expected a date and time")
    return (observed_at if observed_at.tzinfo else observed_at.replace(tzinfo=UTC)).astimezone(UTC)


def _archive_name(header: Header, instrument: Instrument, path: Path) -> str:
    told = _text(header, instrument.keywords.archive_name)
    return _SUFFIX.sub("", told if _NAME.fullmatch(told) else path.name)


# --- the frame -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Exposure:
    """What the extensions of one frame have in common."""

    instrument: Instrument
    calibration: Calibration
    arm_name: str
    mode: Mode
    binning: tuple[int, int]
    read_mode: str
    wavelength_nm: float | None
    slit_arcsec: float | None
    optics: str
    exposure_s: float


def _read_exposure(header: Header, instrument: Instrument) -> _Exposure:
    calibration = _judge_kind(header, instrument)
    arm_name = _arm_name(header, instrument)
    names, arm, lit = instrument.keywords, instrument.arms[arm_name], calibration.light
    in_path = [arm.wavelength_nm, arm.slit_arcsec] if lit else []
    binning = [(key,) for key in names.binning]
    _require(header, [names.observed_at, names.exposure_s, *binning, *in_path])
    return _Exposure(
        instrument=instrument,
        calibration=calibration,
        arm_name=arm_name,
        mode=instrument.mode(header),
        binning=_binning(header, names.binning),
        read_mode=_read_mode(header, instrument),
        wavelength_nm=_rounded(_real(header, *arm.wavelength_nm, lowest=1), 1) if lit else None,
        slit_arcsec=_rounded(_real(header, *arm.slit_arcsec, lowest=0), 2) if lit else None,
        optics=_optics(header, arm) if lit else "",
        exposure_s=_real(header, *names.exposure_s, lowest=0) or 0.0,
    )


def _rounded(value: float | None, digits: int) -> float | None:
    """Round away what encoders make of one and the same setting."""
    return None if value is None else round(value, digits)


def _arm_name(header: Header, instrument: Instrument) -> str:
    arm_name = instrument.arm_name(header)
    if arm_name is None:
        keywords = keywords_of(arm.when for arm in instrument.arms.values())
        raise IncompleteHeader(
            f"expected a sign of {' or '.join(instrument.arms)}, got {_quote(header, keywords)}"
        )
    return arm_name


def _read_mode(header: Header, instrument: Instrument) -> str:
    read_mode = instrument.read_mode(header)
    if read_mode is None:
        keywords = keywords_of(mode.when for mode in instrument.read_modes)
        known = ", ".join(mode.name for mode in instrument.read_modes)
        raise IncompleteHeader(f"expected a read mode of {known}, got {_quote(header, keywords)}")
    return read_mode


def _optics(header: Header, arm: Arm) -> str:
    told = (_first(header, keywords) for keywords in arm.optics)
    parts = (f"{one:.4g}" if isinstance(one, float) else str(one) for one in told if one)
    return " ".join(part for part in parts if part.upper() not in {"FREE", "OUT"})[:_LONGEST]


def _choose_layout(exposure: _Exposure, images: Sequence[_Unit]) -> Layout:
    bin_x, bin_y = exposure.binning
    got = [unit.shape for unit in images]
    expected = [
        (layout, [(layout.shape[0] // bin_y, layout.shape[1] // bin_x)] * layout.images)
        for layout in exposure.instrument.layouts_of(exposure.arm_name)
    ]
    for layout, shapes in expected:
        if shapes == got:
            return layout
    options = " or ".join(_spell_shapes(shapes) for _, shapes in expected)
    setup = f"{exposure.arm_name}, binning {bin_x}x{bin_y}"
    raise WrongShape(f"expected {options} ({setup}), got {_spell_shapes(got)}")


def _spell_shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    """Spell rows x columns: ``2 images of 4096x2148``."""
    each = [str(shape[0]) + "".join(f"x{n}" for n in shape[1:]) for shape in shapes[:5]]
    if len(shapes) > 1 and len(set(shapes)) == 1:
        return f"{len(shapes)} images of {each[0]}"
    return f"{len(shapes)} image{'s' * (len(shapes) != 1)}" + (
        f" of {', '.join(each)}" * bool(each)
    )


def _extension(section: Section, image: Pixels, exposure: _Exposure) -> Extension:
    part = image[section.area.slices(_shape(image), exposure.binning)]
    pixels: Pixels = np.ascontiguousarray(part)  # type: ignore[assignment] # keeps the dtype
    _check_alive(pixels, section.image, section.chip)
    setup, chip = _setup(section, exposure), _chip_numbers(section.chip, exposure)
    calibration, shape = exposure.calibration, _shape(pixels)
    return Extension(
        number=section.number,
        setup=setup,
        pixels=pixels,
        light=section.light.slices(shape, exposure.binning),
        prescan=_slices(section.prescan, shape, exposure.binning),
        overscan=_slices(section.overscan, shape, exposure.binning),
        detector=Detector(
            gain_e_per_adu=chip.gain_e_per_adu,
            read_noise_adu=chip.read_noise_adu,
            bias_adu=chip.bias_adu,
            saturation_adu=chip.saturation_adu,
        ),
        promised_light=_promised_light(setup, exposure),
        stretch_adu=calibration.stretch_adu,
        frame_class=calibration.frame_class,
        limits={**chip.limits, **calibration.limits},
    )


def _shape(image: Pixels) -> tuple[int, int]:
    ny, nx = image.shape
    return ny, nx


def _slices(area: Area | None, shape: tuple[int, int], binning: tuple[int, int]) -> Region | None:
    return None if area is None else area.slices(shape, binning)


def _setup(section: Section, exposure: _Exposure) -> Setup:
    instrument = exposure.instrument
    bin_x, bin_y = exposure.binning
    return Setup(
        image_type=instrument.image_type(
            exposure.calibration,
            exposure.mode,
            instrument.arms[exposure.arm_name],
            section.number,
        ),
        chip=section.chip,
        binning=f"{bin_x}x{bin_y}",
        read_mode=exposure.read_mode,
        wavelength_nm=exposure.wavelength_nm,
        slit_arcsec=exposure.slit_arcsec,
        optics=exposure.optics,
    )


def _chip_numbers(chip: str, exposure: _Exposure) -> ChipNumbers:
    read_modes = exposure.instrument.chips[chip].read_modes
    if exposure.read_mode not in read_modes:
        known = ", ".join(read_modes)
        raise IncompleteHeader(f"{chip}: expected a read mode of {known}, got {exposure.read_mode}")
    return read_modes[exposure.read_mode]


def _promised_light(setup: Setup, exposure: _Exposure) -> float:
    if not exposure.calibration.light:
        return 0.0
    return exposure.exposure_s / exposure.instrument.standard_exposure_s(
        exposure.calibration,
        wavelength_nm=setup.wavelength_nm,
        slit_arcsec=setup.slit_arcsec,
        mode=exposure.mode,
        read_mode=setup.read_mode,
        binning=setup.binning,
    )


def _build_frame(
    path: Path,
    content: bytes,
    header: Header,
    exposure: _Exposure,
    extensions: tuple[Extension, ...],
) -> Frame:
    instrument, names = exposure.instrument, exposure.instrument.keywords
    observed_at = _observed_at(header, instrument)
    return Frame(
        path=path,
        name=_archive_name(header, instrument, path),
        sha256=hashlib.sha256(content).hexdigest(),
        instrument=instrument.name,
        observed_at=observed_at,
        night=instrument.night_of(observed_at),
        exposure_s=exposure.exposure_s,
        template=_text(header, names.template),
        template_number=_count(header, names.template_number),
        template_size=_count(header, names.template_size),
        extensions=extensions,
        calibration=exposure.calibration.name,
        object=_text(header, names.object),
        header={key: header[key] for key in names.kept if key in header},
    )
