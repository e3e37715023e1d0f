"""FITS files in, frames out: the only module that knows a header keyword."""

import hashlib
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from qc.core.frame import Detector, Extension, Frame, Header, Region, Setup, Value
from qc.errors import (
    DeadDetectorError,
    FrameError,
    IncompleteHeaderError,
    ShapeMismatchError,
    UnknownImageTypeError,
    UnsupportedFrameError,
)
from qc.io.fits import Pixels, Unit, read_content, read_pixels, read_units
from qc.io.instruments import (
    Area,
    Arm,
    Calibration,
    ChipNumbers,
    ChipSection,
    Instrument,
    Layout,
    OpticalMode,
    keywords_of,
)

MAX_BYTES = 512 * 2**20  # a UVES red frame has 35 MB; what is larger is a mistake or an attack


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
    return parse_frame(read_content(path, max_bytes), path, instruments, max_bytes=max_bytes)


def parse_frame(
    content: bytes, path: Path, instruments: Sequence[Instrument], *, max_bytes: int = MAX_BYTES
) -> Frame:
    """Make a frame of the bytes of a FITS file.

    Raises
    ------
    FrameError
        One of its subclasses; the message does not name the file.
    """
    with warnings.catch_warnings():
        # What astropy would have us know of odd cards either does not matter or ends in a
        # FrameError of ours.
        warnings.simplefilter("ignore", AstropyUserWarning)
        units = tuple(read_units(content))
        images = tuple(unit for unit in units if unit.shape)
        header = _merge_headers(units, images)
        exposure = _read_exposure(header, _recognise(header, instruments))
        layout = _choose_layout(exposure, images)
        pixels = tuple(read_pixels(unit, content, max_bytes) for unit in images)
    extensions = tuple(_extension(one, pixels[one.image - 1], exposure) for one in layout.sections)
    return _build_frame(path, content, header, exposure, extensions)


def _merge_headers(units: Sequence[Unit], images: Sequence[Unit]) -> dict[str, Value]:
    """Put the primary header over the first image's: window and binning are in the primary only."""
    first = images[0].header if images else {}
    return {**first, **units[0].header, "IMAGES": len(images), "HDUS": len(units)}


def check_alive(pixels: Pixels, image: int, chip: str) -> None:
    """Refuse an image that no detector can have made.

    Raises
    ------
    DeadReadOut
        If its pixels are all equal, or not numbers.
    """
    lowest, highest = pixels.min(), pixels.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise DeadDetectorError(
            f"image {image} ({chip}): expected numbers, got pixels that are not"
        )
    if lowest == highest:
        raise DeadDetectorError(
            f"dead read-out: every pixel of image {image} ({chip}) is {lowest} ADU"
        )


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
        raise IncompleteHeaderError(f"missing or blank: {', '.join(keywords)}")
    known = ", ".join(instrument.name for instrument in instruments)
    raise UnsupportedFrameError(f"expected one of {known}, got {_quote(header, keywords)}")


def _judge_kind(header: Header, instrument: Instrument) -> Calibration:
    skip_keywords = keywords_of(skip.when for skip in instrument.skip)
    why = instrument.skip_reason(header)
    if why:
        raise UnsupportedFrameError(f"{why} ({_quote(header, skip_keywords)})")
    calibration = instrument.calibration(header)
    if calibration:
        return calibration
    keywords = keywords_of(
        [(instrument.calibrations_have,), *(one.when for one in instrument.calibrations)]
    )
    decisive = [key for key in keywords if instrument.always_decides(key)]
    _require(header, [(key,) for key in decisive])
    known = ", ".join(one.name for one in instrument.calibrations)
    raise UnknownImageTypeError(f"expected one of {known}, got {_quote(header, keywords)}")


def _quote(header: Header, keywords: Sequence[str]) -> str:
    """Spell keywords with their values, in one line of reasonable length."""
    told = (f"{key} = {header[key]!r:.60}" for key in keywords if key in header)
    return ", ".join(told) or f"none of {', '.join(keywords)}"


def _require(header: Header, groups: Sequence[Sequence[str]]) -> None:
    missing = [" or ".join(keys) for keys in groups if keys and _first(header, keys) is None]
    if missing:
        raise IncompleteHeaderError(f"missing or blank: {', '.join(missing)}")


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
        raise IncompleteHeaderError(
            f"{_quote(header, keywords)}: expected a number that makes sense"
        )
    return number


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
        raise IncompleteHeaderError(
            f"{_quote(header, keywords)}: expected a binning such as 1 and 2"
        )
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
        raise IncompleteHeaderError(f"{_quote(header, keywords)}: expected a date and time")
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
    mode: OpticalMode
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
        raise IncompleteHeaderError(
            f"expected a sign of {' or '.join(instrument.arms)}, got {_quote(header, keywords)}"
        )
    return arm_name


def _read_mode(header: Header, instrument: Instrument) -> str:
    read_mode = instrument.read_mode(header)
    if read_mode is None:
        keywords = keywords_of(mode.when for mode in instrument.read_modes)
        known = ", ".join(mode.name for mode in instrument.read_modes)
        raise IncompleteHeaderError(
            f"expected a read mode of {known}, got {_quote(header, keywords)}"
        )
    return read_mode


def _optics(header: Header, arm: Arm) -> str:
    told = (_first(header, keywords) for keywords in arm.optics)
    parts = (f"{one:.4g}" if isinstance(one, float) else str(one) for one in told if one)
    return " ".join(part for part in parts if part.upper() not in {"FREE", "OUT"})[:_LONGEST]


def _choose_layout(exposure: _Exposure, images: Sequence[Unit]) -> Layout:
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
    raise ShapeMismatchError(f"expected {options} ({setup}), got {_spell_shapes(got)}")


def _spell_shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    """Spell rows x columns: ``2 images of 4096x2148``."""
    each = [str(shape[0]) + "".join(f"x{n}" for n in shape[1:]) for shape in shapes[:5]]
    if len(shapes) > 1 and len(set(shapes)) == 1:
        return f"{len(shapes)} images of {each[0]}"
    return f"{len(shapes)} image{'s' * (len(shapes) != 1)}" + (
        f" of {', '.join(each)}" * bool(each)
    )


def _extension(section: ChipSection, image: Pixels, exposure: _Exposure) -> Extension:
    part = image[section.area.slices(_shape(image), exposure.binning)]
    pixels: Pixels = np.ascontiguousarray(part)  # type: ignore[assignment] # keeps the dtype
    check_alive(pixels, section.image, section.chip)
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


def _setup(section: ChipSection, exposure: _Exposure) -> Setup:
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
        raise IncompleteHeaderError(
            f"{chip}: expected a read mode of {known}, got {exposure.read_mode}"
        )
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
