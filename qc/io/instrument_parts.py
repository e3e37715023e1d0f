"""Parts of an instrument definition: keywords, arms, detectors, layouts, calibrations, faults."""

from dataclasses import field
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from qc.io import conditions

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


Positive = Annotated[float, Field(gt=0)]


Hour = Annotated[float, Field(ge=0, lt=24)]


Share = Annotated[float, Field(gt=0, lt=1)]


Span = tuple[int, int]


"""First and one-past-last pixel, unbinned, counted from 0."""


Limits = dict[str, tuple[float, float]]


"""Metric name -> lowest and highest value that passes without references."""


@dataclass(frozen=True, config=STRICT)
class Area:
    """Part of an image in unbinned pixels; an omitted axis is used in full."""

    columns: Span | None = None
    rows: Span | None = None

    def slices(self, shape: tuple[int, int], binning: tuple[int, int]) -> tuple[slice, slice]:
        """Return the rows and columns of the binned pixels that lie wholly inside.

        Parameters
        ----------
        shape : (ny, nx)
            Shape of the image as read, binned pixels.
        binning : (int, int)
            Binning in x and y.

        Returns
        -------
        (slice, slice)
            Rows and columns.
        """
        ny, nx = shape
        bin_x, bin_y = binning
        return _bin_span(self.rows, ny, bin_y), _bin_span(self.columns, nx, bin_x)


def _bin_span(span: Span | None, length: int, binning: int) -> slice:
    if span is None:
        return slice(0, length)
    start, stop = span
    return slice(-(-start // binning), min(stop // binning, length))


@dataclass(frozen=True, config=STRICT)
class KeywordNames:
    """Header keywords of each property."""

    observed_at: conditions.Keywords
    exposure_s: conditions.Keywords
    binning: tuple[str, ...]
    time_of_day: conditions.Keywords = ()
    archive_name: conditions.Keywords = ()
    template: conditions.Keywords = ()
    template_number: conditions.Keywords = ()
    template_size: conditions.Keywords = ()
    object: conditions.Keywords = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Skip:
    """Kind of frame that is not judged, e.g. science."""

    when: conditions.When
    why: str


@dataclass(frozen=True, config=STRICT)
class Arm:
    """One camera: conditions that identify it and keywords of its light path.

    Attributes
    ----------
    letter : str
        Part of the image type.
    optics : tuple of tuple of str
        Keywords whose values, joined, make ``Setup.optics``; ``FREE`` is left out.
    """

    letter: str = ""
    when: conditions.When = ()
    wavelength_nm: conditions.Keywords = ()
    slit_arcsec: conditions.Keywords = ()
    optics: tuple[conditions.Keywords, ...] = ()


@dataclass(frozen=True, config=STRICT)
class OpticalMode:
    """Optical mode, e.g. a dichroic: part of the image type and factor on exposure times."""

    code: str
    when: conditions.When
    exposure_factor: Positive = 1.0


@dataclass(frozen=True, config=STRICT)
class ReadMode:
    """Read-out mode of the detectors."""

    name: str
    when: conditions.When


@dataclass(frozen=True, config=STRICT)
class ChipNumbers:
    """Properties of a detector in one read mode; the names contain the units."""

    gain_e_per_adu: Positive
    read_noise_adu: Positive
    bias_adu: float
    saturation_adu: Positive
    limits: Limits = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Quirk:
    """Permanent defect, in unbinned pixels of the detector's image as read."""

    why: str
    columns: Span | None = None
    rows: Span | None = None


@dataclass(frozen=True, config=STRICT)
class Chip:
    """One detector."""

    read_modes: dict[str, ChipNumbers]
    quirks: tuple[Quirk, ...] = ()


@dataclass(frozen=True, config=STRICT)
class ChipSection:
    """Position of a detector's image in a file.

    Attributes
    ----------
    image : int
        Number of the image in the file, from 1; units without pixels do not count.
    number : int
        Last part of the image type; number of the extension.
    area : Area
        Part of that image which belongs to the detector.
    light, prescan, overscan : Area or None
        Parts of the detector's image.
    """

    chip: str
    image: int
    number: int
    light: Area
    prescan: Area | None = None
    overscan: Area | None = None
    area: Area = field(default_factory=Area)


@dataclass(frozen=True, config=STRICT)
class Layout:
    """Images and detectors in a file of an arm.

    Attributes
    ----------
    shape : (rows, columns)
        Shape of each image, unbinned pixels.
    """

    name: str
    arm: str
    images: int
    shape: tuple[int, int]
    sections: tuple[ChipSection, ...]


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """Kind of calibration frame.

    Attributes
    ----------
    name : str
        Name, e.g. ``dflat``.
    frame_class : str
        Family with the same appearance and faults: ``bias``, ``dark``, ``flat`` or ``arc``.
    letter : str
        Part of the image type.
    light : bool
        True if light passes the grating and the slit: they are part of the setup.
    lamp : str or None
        Key of `Instrument.standard_exposures`.
    slit_scales : bool
        True if a wider slit gives a brighter image: for a continuum, not for arc lines.
    stretch_adu : float
        Scale of the fixed asinh stretch, ADU.
    expected_every_days, set_size : float, int
        Calibration plan for each setup in use; None without a plan.
    due_utc_hour : float or None
        Hour from which it is late, if it differs from the instrument's hour.
    """

    name: str
    frame_class: str
    letter: str
    when: conditions.When
    light: bool
    stretch_adu: Positive
    lamp: str | None = None
    slit_scales: bool = False
    expected_every_days: Positive | None = None
    set_size: Annotated[int, Field(ge=1)] = 1
    due_utc_hour: Hour | None = None
    limits: Limits = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Speed:
    """Factor by which a read mode and binning shorten the exposure for the same level, ADU."""

    read_mode: str
    binning: str
    times: Positive


@dataclass(frozen=True, config=STRICT)
class FaultKind:
    """Fault that a label can name.

    Attributes
    ----------
    classes : tuple of str
        The frame classes in which it can occur.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
    sentence: Annotated[str, Field(min_length=1, max_length=200)]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class InjectionTestLimits:
    """Limits of the fault-injection test.

    Attributes
    ----------
    least_recall, least_recall_of_kind : float
        Lowest accepted recall, 0 to 1: of all injected faults, and of each kind.
    nights : int
        Largest number of nights that are evaluated together; twice as many for one kind.
    """

    least_recall: Share = 0.9
    least_recall_of_kind: Share = 0.5
    nights: Annotated[int, Field(ge=1, le=30)] = 7
