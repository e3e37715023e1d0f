"""Frame reader: FITS file to Frame, by the instrument files."""

import hashlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from qc import core, errors
from qc.io import compression, fits, header_values
from qc.io import instrument_parts as parts
from qc.io.exposure import ExposureInfo, read_exposure, recognise_instrument
from qc.io.instruments import Instrument

MAX_BYTES = 512 * 2**20  # a UVES red frame has 35 MB; a larger file is a mistake or an attack

_ARCHIVE_NAME = re.compile(r"[\w.:+-]{1,100}")
_SUFFIX = re.compile(r"\.(fits?|fts)(\.(Z|gz|fz|bz2))?$", re.IGNORECASE)


def read_frame(
    path: Path, instruments: Sequence[Instrument], *, max_bytes: int = MAX_BYTES
) -> core.Frame:
    """Read one calibration frame, compressed or not.

    The first bytes of the content name the compression: none, ``.Z``, ``.gz``, ``.bz2``, or FITS
    tiles (``.fz``). A tile-compressed file is itself FITS: its sha256 is that of the compressed
    file.

    Parameters
    ----------
    path : Path
        FITS file.
    instruments : sequence of Instrument
        The first instrument that recognises the header reads the frame.
    max_bytes : int
        Largest accepted size, compressed and uncompressed.

    Returns
    -------
    Frame

    Raises
    ------
    FrameError
        One of its subclasses and no other error; the message is one line and names the file.
    """
    try:
        content = compression.read_content(path, max_bytes)
        return parse_frame(content, path, instruments, max_bytes=max_bytes)
    except errors.FrameError as error:
        raise type(error)(f"{path}: {error}") from None


def parse_frame(
    content: bytes, path: Path, instruments: Sequence[Instrument], *, max_bytes: int = MAX_BYTES
) -> core.Frame:
    """Make a frame from the bytes of a FITS file.

    Parameters
    ----------
    content : bytes
        Uncompressed FITS file.
    path : Path
        Path of the file, stored in the frame.
    instruments : sequence of Instrument
        The first instrument that recognises the header reads the frame.
    max_bytes : int
        Largest accepted size of a tile-compressed image, uncompressed.

    Returns
    -------
    Frame

    Raises
    ------
    FrameError
        One of its subclasses; the message does not name the file.
    """
    with warnings.catch_warnings():
        # A card that astropy warns of is either harmless or leads to a FrameError.
        warnings.simplefilter("ignore", AstropyUserWarning)
        units = tuple(fits.read_units(content))
        images = tuple(unit for unit in units if unit.shape)
        header = merge_headers(units, images)
        exposure = read_exposure(header, recognise_instrument(header, instruments))
        layout = choose_layout(exposure, images)
        pixels = tuple(fits.read_pixels(unit, content, max_bytes) for unit in images)
    extensions = tuple(
        make_extension(section, pixels[section.image - 1], exposure) for section in layout.sections
    )
    instrument, names = exposure.instrument, exposure.instrument.keywords
    observed_at = header_values.read_time(header, names.observed_at, names.time_of_day)
    archive_name = header_values.read_text(header, names.archive_name)
    return core.Frame(
        path=path,
        name=_SUFFIX.sub("", archive_name if _ARCHIVE_NAME.fullmatch(archive_name) else path.name),
        sha256=hashlib.sha256(content).hexdigest(),
        instrument=instrument.name,
        observed_at=observed_at,
        night=instrument.night_of(observed_at),
        exposure_s=exposure.exposure_s,
        template=header_values.read_text(header, names.template),
        template_number=header_values.read_count(header, names.template_number),
        template_size=header_values.read_count(header, names.template_size),
        extensions=extensions,
        calibration=exposure.calibration.name,
        object=header_values.read_text(header, names.object),
        header={key: header[key] for key in names.kept if key in header},
    )


def merge_headers(units: Sequence[fits.Unit], images: Sequence[fits.Unit]) -> dict[str, core.Value]:
    """Combine the primary header with the first image's header.

    Parameters
    ----------
    units : sequence of Unit
        All units; the primary header takes precedence, as window and binning are in it only.
    images : sequence of Unit
        Units with an image.

    Returns
    -------
    dict of str to value
        With ``IMAGES`` and ``HDUS``, the numbers of images and units.
    """
    first = images[0].header if images else {}
    return {**first, **units[0].header, "IMAGES": len(images), "HDUS": len(units)}


def check_alive(pixels: fits.Pixels, image: int, chip: str) -> None:
    """Check that an image contains a detector's signal.

    Parameters
    ----------
    pixels : (ny, nx) array
        Image, ADU.
    image : int
        Number of the image in the file, for the message.
    chip : str
        Name of the detector, for the message.

    Raises
    ------
    DeadDetectorError
        If all pixels are equal, or one is not finite.
    """
    lowest, highest = pixels.min(), pixels.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise errors.DeadDetectorError(
            f"image {image} ({chip}): expected numbers, got pixels that are not"
        )
    if lowest == highest:
        raise errors.DeadDetectorError(
            f"dead read-out: every pixel of image {image} ({chip}) is {lowest} ADU"
        )


def choose_layout(exposure: ExposureInfo, images: Sequence[fits.Unit]) -> parts.Layout:
    """Return the layout that matches number and shapes of the images.

    Parameters
    ----------
    exposure : ExposureInfo
        Arm and binning.
    images : sequence of Unit
        Units with an image.

    Returns
    -------
    Layout

    Raises
    ------
    ShapeMismatchError
        If no layout of the arm matches.
    """
    bin_x, bin_y = exposure.binning
    shapes = [unit.shape for unit in images]
    expected = [
        (layout, [(layout.shape[0] // bin_y, layout.shape[1] // bin_x)] * layout.images)
        for layout in exposure.instrument.list_layouts(exposure.arm_name)
    ]
    for layout, layout_shapes in expected:
        if layout_shapes == shapes:
            return layout
    options = " or ".join(describe_shapes(layout_shapes) for _, layout_shapes in expected)
    setup = f"{exposure.arm_name}, binning {bin_x}x{bin_y}"
    raise errors.ShapeMismatchError(f"expected {options} ({setup}), got {describe_shapes(shapes)}")


def describe_shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    """Return shapes as rows x columns, e.g. ``2 images of 4096x2148``; at most five shapes."""
    texts = ["x".join(map(str, shape)) for shape in shapes[:5]]
    if len(shapes) > 1 and len(set(shapes)) == 1:
        return f"{len(shapes)} images of {texts[0]}"
    return f"{len(shapes)} image{'s' * (len(shapes) != 1)}" + (
        f" of {', '.join(texts)}" * bool(texts)
    )


def make_extension(
    section: parts.ChipSection, image: fits.Pixels, exposure: ExposureInfo
) -> core.Extension:
    """Cut a detector's image out of an image of the file.

    Parameters
    ----------
    section : ChipSection
        Position of the detector's image.
    image : (ny, nx) array
        Image of the file, ADU.
    exposure : ExposureInfo
        Properties of the exposure.

    Returns
    -------
    Extension

    Raises
    ------
    DeadDetectorError
        If the image contains no signal.
    IncompleteHeaderError
        If the detector has no such read mode.
    """
    part = image[section.area.slices(_shape_2d(image), exposure.binning)]
    pixels: fits.Pixels = np.ascontiguousarray(part)  # type: ignore[assignment] # keeps the dtype
    check_alive(pixels, section.image, section.chip)
    setup, chip = make_setup(section, exposure), find_chip_numbers(section.chip, exposure)
    calibration, shape = exposure.calibration, _shape_2d(pixels)
    overscan, prescan = (
        None if area is None else area.slices(shape, exposure.binning)
        for area in (section.overscan, section.prescan)
    )
    return core.Extension(
        number=section.number,
        setup=setup,
        pixels=pixels,
        light=section.light.slices(shape, exposure.binning),
        prescan=prescan,
        overscan=overscan,
        detector=core.DetectorProperties(
            gain_e_per_adu=chip.gain_e_per_adu,
            read_noise_adu=chip.read_noise_adu,
            bias_adu=chip.bias_adu,
            saturation_adu=chip.saturation_adu,
        ),
        promised_light=compute_expected_light(setup, exposure),
        stretch_adu=calibration.stretch_adu,
        frame_class=calibration.frame_class,
        limits={**chip.limits, **calibration.limits},
    )


def _shape_2d(image: fits.Pixels) -> tuple[int, int]:
    ny, nx = image.shape
    return ny, nx


def make_setup(section: parts.ChipSection, exposure: ExposureInfo) -> core.Setup:
    """Return the setup of an extension.

    Parameters
    ----------
    section : ChipSection
        Position of the detector's image.
    exposure : ExposureInfo
        Properties of the exposure.

    Returns
    -------
    Setup
    """
    instrument = exposure.instrument
    bin_x, bin_y = exposure.binning
    return core.Setup(
        image_type=instrument.compose_image_type(
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


def find_chip_numbers(chip: str, exposure: ExposureInfo) -> parts.ChipNumbers:
    """Return the properties of a detector in the exposure's read mode.

    Parameters
    ----------
    chip : str
        Name of the detector.
    exposure : ExposureInfo
        Properties of the exposure.

    Returns
    -------
    ChipNumbers

    Raises
    ------
    IncompleteHeaderError
        If the detector has no such read mode.
    """
    read_modes = exposure.instrument.chips[chip].read_modes
    if exposure.read_mode not in read_modes:
        raise errors.IncompleteHeaderError(
            f"{chip}: expected a read mode of {', '.join(read_modes)}, got {exposure.read_mode}"
        )
    return read_modes[exposure.read_mode]


def compute_expected_light(setup: core.Setup, exposure: ExposureInfo) -> float:
    """Return the exposure time in units of the setup's standard exposure.

    Parameters
    ----------
    setup : Setup
        Setup of the extension.
    exposure : ExposureInfo
        Properties of the exposure.

    Returns
    -------
    float
        0 for a calibration without light.
    """
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
