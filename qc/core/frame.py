"""Frame, extension, setup and detector."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Value = str | int | float | bool
Header = Mapping[str, Value]
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

    @property
    def words(self) -> str:
        """Write it for people, without image type and chip."""
        light = [f"{self.wavelength_nm:g} nm"] if self.wavelength_nm is not None else []
        light += [f"slit {self.slit_arcsec:g} arcsec"] if self.slit_arcsec is not None else []
        return ", ".join([self.binning, self.read_mode, *light, *filter(None, [self.optics])])


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
