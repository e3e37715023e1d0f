"""Frame, extension, setup and detector."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Value = str | int | float | bool
Header = Mapping[str, Value]
Region = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class Setup:
    """Properties that comparable extensions share.

    Attributes
    ----------
    image_type : str
        Instrument arm, calibration and detector, e.g. ``UD1BF0``.
    chip : str
        Name of the detector in the instrument file: ``BLUE``, ``REDU``, ``REDL``.
    binning : str
        ``BINX x BINY``: ``1x1``, ``2x2``.
    read_mode : str
        Speed and gain, e.g. ``225kHz low``.
    wavelength_nm : float or None
        Central wavelength; None without light (bias, dark).
    slit_arcsec : float or None
        Slit width, rounded to 0.01; None without light.
    optics : str
        Other elements in the light path: image slicer, grism, filter; empty without light.
    """

    image_type: str
    chip: str
    binning: str
    read_mode: str
    wavelength_nm: float | None = None
    slit_arcsec: float | None = None
    optics: str = ""

    @property
    def description(self) -> str:
        """Return the setup as text, without image type and chip."""
        light = [f"{self.wavelength_nm:g} nm"] if self.wavelength_nm is not None else []
        light += [f"slit {self.slit_arcsec:g} arcsec"] if self.slit_arcsec is not None else []
        return ", ".join([self.binning, self.read_mode, *light, *filter(None, [self.optics])])


@dataclass(frozen=True)
class DetectorProperties:
    """Properties of one chip in one read mode, from the instrument file.

    Attributes
    ----------
    gain_e_per_adu : float
        Electrons per ADU (ESO's CONAD, the inverse of its GAIN).
    read_noise_adu : float
        Standard deviation of one pixel of a bias.
    bias_adu : float
        Mean level of a bias frame.
    saturation_adu : float
        Highest value of the chip or its converter.
    """

    gain_e_per_adu: float
    read_noise_adu: float
    bias_adu: float
    saturation_adu: float


@dataclass(frozen=True, repr=False)
class Extension:
    """One detector's image in a frame.

    Attributes
    ----------
    number : int
        HDU number in the file: 0 for a blue frame, 1 and 2 for a red one.
    pixels : (ny, nx) array, uint16 or float32
        ADU as read, prescan and overscan included.
    light : Region
        Light-sensitive region of `pixels`.
    prescan, overscan : Region or None
        Regions without light, less a guard band.
    promised_light : float
        Expected light according to the header, in units of the setup's standard exposure
        (1 is the exposure of the instrument's manual); 0 for a bias or a dark.
    stretch_adu : float
        Scale of the asinh stretch for this class of frame, ADU.
    frame_class : str
        Family of the image type: ``bias``, ``dark``, ``flat`` or ``arc``.
    limits : mapping of str to (float, float)
        Absolute limits by metric: lowest and highest value, independent of references.
    """

    number: int
    setup: Setup
    pixels: "NDArray[np.uint16] | NDArray[np.float32]"
    light: Region
    prescan: Region | None
    overscan: Region | None
    detector: DetectorProperties
    promised_light: float
    stretch_adu: float
    frame_class: str = ""
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __repr__(self) -> str:
        rows, columns = self.pixels.shape
        setup = f"{self.setup.image_type} {self.setup.chip}, {self.setup.description}"
        return f"<Extension {self.number}: {setup}, {rows} x {columns} pixels>"

    def html_row(self) -> str:
        """Return the extension as a row of an HTML table."""
        rows, columns = self.pixels.shape
        cells = (
            *(self.number, self.setup.image_type, self.setup.chip, self.setup.description),
            f"{rows} x {columns}",
        )
        return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


@dataclass(frozen=True, repr=False)
class Frame:
    """Exposure as read from one FITS file.

    Attributes
    ----------
    name : str
        Archive name: ARCFILE without its suffix, or else the file name.
    sha256 : str
        Hex digest of the uncompressed FITS bytes; equal for ``a.fits`` and ``a.fits.Z``.
    observed_at : datetime
        Start of the exposure, UTC.
    night : date
        Date of the evening on which the calibration night began. Frames of 09 to 22 UT belong
        to the night that ended that morning.
    exposure_s : float
        Exposure time, s; 0 for a bias.
    template : str
        Identifier of the template set, e.g. its start time.
    template_number, template_size : int
        Number of the frame in its template set, from 1, and planned size of the set.
    calibration : str
        Kind of calibration in the instrument file, e.g. ``dflat``.
    object : str
        Value of OBJECT; often blank.
    header : mapping of str to value
        Keywords that the instrument file selects for storage.
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

    def __repr__(self) -> str:
        setup = self.extensions[0].setup.description if self.extensions else ""
        count = f"{len(self.extensions)} extension{'s' * (len(self.extensions) != 1)}"
        kind = self.calibration or "frame"
        return f"<Frame {self.name}: {self.instrument} {kind}, {count}, {self.night}, {setup}>"

    def _repr_html_(self) -> str:
        rows = "".join(extension.html_row() for extension in self.extensions)
        title = f"{self.name}: {self.instrument} {self.calibration}, night {self.night}"
        heads = "".join(f"<th>{name}</th>" for name in ("HDU", "type", "chip", "setup", "pixels"))
        return f"<p>{escape(title)}</p><table><tr>{heads}</tr>{rows}</table>"
