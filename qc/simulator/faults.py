"""Kinds of fault, their amounts, and the frames that can have them.

Kinds and amounts follow reports on UVES, its sister instruments and CCD spectrographs. ``faint``
is just visible to a careful eye; a strength that would be invisible is not offered.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from qc.simulator import pixel_faults
from qc.simulator.detector import Pixels, Region
from qc.simulator.plan import CLASSES, PlannedExposure

STRENGTHS = ("gross", "moderate", "faint")
_LESS = ("gross", "moderate")
_DARK = ("bias", "dark")
_FLATS = ("flat", "dflat", "orderdef")
_ARCS = ("arc", "fmtchk")
_LIT = (*_FLATS, *_ARCS)
_ALL_CHIPS = ("BLUE", "REDU", "REDL")


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes
    ----------
    description : str
        One sentence for people.
    classes : mapping of image class to strengths
        Where it can occur, and how strong it must be there to be seen.
    scope : str
        ``chip``: one chip has it; ``all``: the whole frame.
    amount : mapping of strength to float
        How much; its unit is `unit`.
    chips : tuple of str
        Chips that can have it.
    """

    kind: str
    description: str
    classes: Mapping[str, tuple[str, ...]]
    scope: str
    amount: Mapping[str, float]
    unit: str
    chips: tuple[str, ...] = _ALL_CHIPS


@dataclass(frozen=True)
class InjectedFault:
    """A fault that a frame has.

    Attributes
    ----------
    hdus : tuple of int
        Extensions that have it; the others are nominal.
    """

    kind: str
    strength: str
    hdus: tuple[int, ...]

    @property
    def amount(self) -> float:
        """Amount in the unit of the fault."""
        return FAULTS[self.kind].amount[self.strength]

    def hits(self, hdu: int) -> bool:
        """Return True if an extension has the fault."""
        return hdu in self.hdus


def _in(
    *classes: str, less: tuple[str, ...] = (), only_gross: tuple[str, ...] = ()
) -> Mapping[str, tuple[str, ...]]:
    """Return strengths by class: all three in `classes`, two in `less`, one in `only_gross`."""
    return (
        dict.fromkeys(classes, STRENGTHS)
        | dict.fromkeys(less, _LESS)
        | dict.fromkeys(only_gross, STRENGTHS[:1])
    )


def _amounts(gross: float, moderate: float = 0.0, faint: float = 0.0) -> Mapping[str, float]:
    return dict(zip(STRENGTHS, (gross, moderate, faint), strict=True))


_NOISES, _SHARE, _TIMES, _UNBINNED = "read noises", "share of the light", "times", "unbinned px"
_EVERY_GROSS = _in(only_gross=CLASSES)
_LEVEL = _in(*_DARK, *_ARCS, less=_FLATS)
_FAINT_LIGHT = _in(*_DARK, *_ARCS)
_RED = ("REDU", "REDL")

# Columns: kind, sentence, classes, scope, amounts, unit, chips.
# fmt: off
_FILE_FAULTS = (
    Fault("chip_missing", "One of the two red images is not in the file.",
          _EVERY_GROSS, "all", _amounts(1), "chips", _RED),
    Fault("chips_swapped", "The two red images are swapped.",
          _EVERY_GROSS, "all", _amounts(1), "chips", _RED),
    Fault("chip_duplicated", "Both red extensions hold the same chip's image.",
          _EVERY_GROSS, "chip", _amounts(1), "chips", _RED),
    Fault("keyword_missing", "A decisive header keyword is missing.",
          _in(*CLASSES), "all", _amounts(1, 1, 1), "keywords"),
    Fault("binning_misreported", "The header's binning is not that of the image.",
          _EVERY_GROSS, "all", _amounts(1), _TIMES),
    Fault("frame_repeated", "The image is that of the frame before.",
          _EVERY_GROSS, "all", _amounts(1), "frames"),
    Fault("truncated_readout", "The read-out stopped early; the last rows are zero.",
          _in(*CLASSES), "chip", _amounts(0.7, 0.3, 0.04), "share of the rows"),
)

_READOUT_FAULTS = (
    Fault("dead_output", "The converter receives no signal: every pixel has the same value.",
          _EVERY_GROSS, "chip", _amounts(1), "outputs"),
    Fault("wrong_gain", "The gain differs from that of the header.",
          _EVERY_GROSS, "all", _amounts(1), "modes"),
    Fault("bias_jump", "The level of the whole image is off.",
          _LEVEL, "chip", _amounts(15, 5, 1.5), _NOISES),
    Fault("bias_step", "The level changes in the middle of the read-out.",
          _LEVEL, "chip", _amounts(12, 4, 1.2), _NOISES),
    Fault("bias_ramp", "The level drifts during the read-out.",
          _LEVEL, "chip", _amounts(15, 5, 1.5), _NOISES),
    Fault("settling_level", "The level has not settled when the read-out begins.",
          _LEVEL, "chip", _amounts(40, 10, 3), _NOISES),
    Fault("lost_pixels", "The read-out lost or gained pixels; all later pixels are shifted.",
          _in(*_LIT), "chip", _amounts(20, 6, 2), "px"),
    Fault("pattern_noise", "An electrical pick-up draws stripes over the image.",
          _in(*_DARK, less=_ARCS), "chip", _amounts(4, 1.6, 0.8), "read noises, peak to peak"),
    Fault("read_noise_excess", "The read noise is too high.",
          _in(*_DARK, less=_ARCS), "chip", _amounts(4, 2, 1.35), _TIMES),
    Fault("stuck_bit", "One bit of the converter is stuck.",
          _in(*_DARK, *_ARCS, less=_FLATS), "chip", _amounts(9, 6, 3), "number of the bit"),
)

_DETECTOR_FAULTS = (
    Fault("hot_column", "A bright column has appeared.",
          _in(*_DARK, *_ARCS), "chip", _amounts(150, 25, 5), _NOISES),
    Fault("dead_column", "Two columns have lost their sensitivity.",
          _in("flat", "dflat"), "chip", _amounts(1.0, 0.6, 0.3), _SHARE),
    Fault("hot_pixels", "A cluster of hot pixels has appeared.",
          _in("bias", *_ARCS, less=("dark",)), "chip", _amounts(2000, 500, 150), _NOISES),
    Fault("light_leak", "Stray light falls on the chip.",
          _FAINT_LIGHT, "chip", _amounts(15, 5, 1.5), _NOISES),
    Fault("amplifier_glow", "A corner of the chip glows.",
          _FAINT_LIGHT, "chip", _amounts(100, 25, 6), _NOISES),
    Fault("glow_band", "A band of rows is raised.",
          _FAINT_LIGHT, "chip", _amounts(30, 8, 2), _NOISES),
    Fault("raised_dark", "The dark current is raised, as after a controller's restart.",
          _in("dark"), "chip", _amounts(8, 3, 1), _NOISES),
    Fault("cosmic_storm", "Far too many cosmic rays hit the chip.",
          _in("bias", *_ARCS, less=_FLATS), "all", _amounts(3000, 900, 300), "hits"),
    Fault("remnant", "Saturated lines of an earlier arc are still in the silicon.",
          _in(*_DARK), "chip", _amounts(30, 10, 4), _NOISES, ("REDU",)),
)

_PATH_FAULTS = (
    Fault("format_shift", "The spectrum lies elsewhere on the chip.",
          _in(*_LIT), "all", _amounts(60, 10, 3), _UNBINNED),
    Fault("defocus", "The image is out of focus.",
          _in(*_LIT), "all", _amounts(8, 4, 2), f"{_UNBINNED}, sigma"),
    Fault("slit_width_wrong", "The slit is wider than in the header.",
          _in(*_ARCS, less=("flat", "dflat")), "all", _amounts(10, 2.5, 1.6), _TIMES),
    Fault("slit_length_wrong", "The slit is shorter than in the header.",
          _in("flat", "dflat", "arc"), "all", _amounts(0.35, 0.6, 0.85), _TIMES),
    Fault("dust", "A grain of dust shadows the chip.",
          _in("flat", "dflat"), "chip", _amounts(0.7, 0.4, 0.2), _SHARE),
    Fault("frost", "The chip's window is contaminated.",
          _in("flat", "dflat"), "chip", _amounts(0.8, 0.4, 0.15), _SHARE),
    Fault("vignetting", "One side of the chip is vignetted.",
          _in("flat", "dflat", less=_ARCS), "chip", _amounts(0.9, 0.55, 0.25), _SHARE),
    Fault("reflection", "A ghost out of focus lies on the spectrum.",
          _in("flat", "dflat"), "chip", _amounts(0.5, 0.15, 0.05), "bright levels"),
    Fault("shutter_trail", "The shutter stayed open while the chip was read.",
          _in(*_FLATS, less=("arc",)), "all", _amounts(1.0, 0.25, 0.06), "read time / exposure"),
)

_LAMP_FAULTS = (
    Fault("lamp_off", "The lamp was off.",
          _in(only_gross=_LIT), "all", _amounts(0.0005), "times"),
    Fault("lamp_weak", "The lamp was much too weak.",
          _in(*_LIT), "all", _amounts(0.04, 0.2, 0.45), _TIMES),
    Fault("overexposed", "There is far too much light; pixels saturate and bleed.",
          _in("flat", "dflat", "arc"), "all", _amounts(40, 8, 3), _TIMES),
    Fault("lamp_wrong", "A lamp other than that of the header was on.",
          _in("flat", "dflat"), "all", _amounts(1.0, 0.6, 0.3), _SHARE),
    Fault("lamp_dying", "The thorium lines have faded against the argon lines.",
          _in(*_ARCS), "all", _amounts(0.05, 0.25, 0.5), "thorium's brightness"),
    Fault("arc_in_flat", "The arc lamp was on during a flat.",
          _in("flat", "dflat"), "all", _amounts(12, 3, 0.8), "standard arcs"),
    Fault("flat_in_arc", "The flat-field lamp was on during an arc.",
          _in(*_ARCS), "all", _amounts(0.3, 0.03, 0.003), "standard flats"),
)

_SETTING_FAULTS = (
    Fault("setting_wrong", "The wavelength of the grating differs from that of the header.",
          _in(less=_LIT), "all", _amounts(2, 1), "gratings or wavelengths"),
    Fault("order_filter_missing", "Light of another spectral order lies over the spectrum.",
          _in("flat", "dflat"), "all", _amounts(0.3, 0.08, 0.02), "standard peaks"),
    Fault("mislabelled", "The header describes another kind of frame than the image shows.",
          _EVERY_GROSS, "all", _amounts(1), "frames"),
)
# fmt: on

FAULTS: Mapping[str, Fault] = {
    fault.kind: fault
    for fault in (
        *_FILE_FAULTS,
        *_READOUT_FAULTS,
        *_DETECTOR_FAULTS,
        *_PATH_FAULTS,
        *_LAMP_FAULTS,
        *_SETTING_FAULTS,
    )
}
INJECTABLE = tuple(pixel_faults.PIXEL_FAULTS)
_MISSING_KEYWORDS = {"gross": "DPR TYPE", "moderate": "DET WIN1 BINX", "faint": "EXPTIME"}


def inject(
    pixels: Pixels,
    *,
    light: Region,
    gain_e_per_adu: float,
    read_noise_adu: float,
    bias_adu: float,
    kind: str,
    strength: str,
    rng: np.random.Generator,
) -> pixel_faults.Injection:
    """Inject a fault into a raw image of any instrument.

    Parameters
    ----------
    pixels : (ny, nx) uint16 array
        ADU. Not changed.
    light : Region
        Rows and columns that light can reach.
    kind : str
        One of `INJECTABLE`.
    strength : str
        One of `STRENGTHS`; the kind must be offered at it.

    Returns
    -------
    Injection
        The image, and the box that holds the fault.

    Raises
    ------
    ValueError
        If the kind cannot be injected, or not at this strength.
    """
    if kind not in pixel_faults.PIXEL_FAULTS:
        raise ValueError(f"{kind!r} cannot be injected into an image; known: {INJECTABLE}")
    if not any(strength in offered for offered in FAULTS[kind].classes.values()):
        raise ValueError(f"{kind!r} is not offered at strength {strength!r}")
    image = pixel_faults.Readout(pixels, light, gain_e_per_adu, read_noise_adu, bias_adu)
    return pixel_faults.PIXEL_FAULTS[kind](image, FAULTS[kind].amount[strength], rng)


def possible_faults(exposure: PlannedExposure) -> tuple[Fault, ...]:
    """Return the faults that an exposure can have, in the order of `FAULTS`."""
    image_class = exposure.stream.image_class
    return tuple(
        fault
        for fault in FAULTS.values()
        if image_class in fault.classes
        and set(fault.chips) & set(exposure.chips)
        and (fault.kind != "frame_repeated" or exposure.number > 1)
    )


def draw_case(
    exposure: PlannedExposure, rate: float, rng: np.random.Generator
) -> InjectedFault | None:
    """Draw the fault of an exposure, if any; every kind is equally likely.

    Parameters
    ----------
    exposure : PlannedExposure
    rate : float
        Fraction of exposures with a fault, 0 to 1.
    rng : Generator

    Returns
    -------
    InjectedFault or None
    """
    if rng.random() >= rate:
        return None
    faults = possible_faults(exposure)
    fault = faults[rng.integers(len(faults))]
    strength = str(rng.choice(fault.classes[exposure.stream.image_class]))
    return make_case(exposure, fault.kind, strength, rng)


def make_case(
    exposure: PlannedExposure, kind: str, strength: str, rng: np.random.Generator
) -> InjectedFault:
    """Return a fault for an exposure; for a fault of one chip, draw the chip.

    Parameters
    ----------
    exposure : PlannedExposure
    kind : str
        Key of `FAULTS`.
    strength : str
        One of `STRENGTHS`.
    rng : Generator

    Returns
    -------
    InjectedFault
    """
    fault = FAULTS[kind]
    if fault.scope == "all" or len(exposure.chips) != len(exposure.hdus):
        return InjectedFault(kind, strength, exposure.hdus)
    chips = zip(exposure.hdus, exposure.chips, strict=True)
    able = [hdu for hdu, chip in chips if chip in fault.chips]
    return InjectedFault(kind, strength, (int(rng.choice(able)),))


def spoil_header(header: fits.Header, case: InjectedFault) -> None:
    """Apply a fault of the header to a primary header, in place.

    Parameters
    ----------
    header : fits.Header
    case : InjectedFault
    """
    if case.kind == "keyword_missing":
        name = _MISSING_KEYWORDS[case.strength]
        del header[name if name == "EXPTIME" else f"HIERARCH ESO {name}"]
    if case.kind == "binning_misreported":
        for axis in ("BINX", "BINY"):
            key = f"HIERARCH ESO DET WIN1 {axis}"
            header[key] = 3 - header[key]
