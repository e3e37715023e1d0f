"""Three chips: dark current, cosmic rays, blemishes and read-out.

Pixels are in the orientation of the raw file: rows are read one after the other, each from its
prescan to its overscan; a spectrum runs along the rows' number, so charge moves along it too.
Numbers are from the UVES User Manual P110.1 unless a comment gives another source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Electrons = NDArray[np.float32]
Pixels = NDArray[np.uint16]
Binning = tuple[int, int]  # BINX (across the orders), BINY (along them)
Region = tuple[slice, slice]  # rows, columns

PRESCAN_PX = 50
OVERSCAN_PX = 50
CONVERTER_LIMIT_ADU = 65535
FULL_WELL_E = 130_000.0  # no source: such that charge bleeds where the converter ends at low gain


@dataclass(frozen=True)
class SimulatedReadMode:
    """One speed and gain of one chip."""

    gain_e_per_adu: float
    read_noise_e: float
    bias_adu: float  # no source gives it; sister cameras with the same controller have 187 to 220

    @property
    def read_noise_adu(self) -> float:
        """Standard deviation of a bias pixel, ADU."""
        return self.read_noise_e / self.gain_e_per_adu


@dataclass(frozen=True)
class Blemish:
    """A partial column that is always there, in unbinned raw pixels counted from 1.

    Attributes
    ----------
    column : int
        FITS X, prescan included.
    first_row, last_row : int
        FITS Y.
    offset_adu : float
        Offset in every frame, a bias included.
    rate_e_s : float
        Grows with the exposure time.
    sensitivity : float
        Response to light; 1 is normal.
    """

    column: int
    first_row: int
    last_row: int
    offset_adu: float = 0.0
    rate_e_s: float = 0.0
    sensitivity: float = 1.0


@dataclass(frozen=True)
class SimulatedChip:
    """One CCD.

    Attributes
    ----------
    rows, columns : int
        Unbinned, columns without prescan and overscan.
    cosmics_per_s : float
        Hits on the whole chip.
    """

    name: str
    rows: int
    columns: int
    modes: Mapping[str, SimulatedReadMode]
    dark_e_s: float
    cosmics_per_s: float
    blemishes: tuple[Blemish, ...]


# Columns of the bad-pixel masks that PyReduce ships for UVES; REDL's also in the manual.
_REDL_COLUMNS = {1748: 2450, 1815: 2200, 1904: 1900, 1924: 1800, 1992: 2300, 2037: 2100, 2096: 2400}

CHIPS: Mapping[str, SimulatedChip] = {
    "BLUE": SimulatedChip(
        name="BLUE",
        rows=3000,
        columns=2048,
        modes={
            "225kHz low": SimulatedReadMode(1.84, 4.1, 152.0),
            "50kHz high": SimulatedReadMode(0.54, 2.1, 178.0),
            "625kHz low": SimulatedReadMode(1.84, 4.5, 206.0),  # by analogy with the red chips
        },
        dark_e_s=0.4 / 3600,
        # FORS's 2.4 hits per minute and cm2, on 14 and 19 cm2; the MIT chip is thicker.
        cosmics_per_s=0.55,
        blemishes=(Blemish(568, 1, 1750, offset_adu=2.0, rate_e_s=0.2, sensitivity=0.9),),
    ),
    "REDL": SimulatedChip(
        name="REDL",
        rows=4096,
        columns=2048,
        modes={
            "225kHz low": SimulatedReadMode(1.5, 4.2, 163.0),
            "50kHz high": SimulatedReadMode(0.52, 2.8, 196.0),
            "625kHz low": SimulatedReadMode(1.5, 4.3, 221.0),
        },
        dark_e_s=0.5 / 3600,
        cosmics_per_s=0.75,
        blemishes=tuple(
            Blemish(x, 1, last, offset_adu=3.0 + x % 4, rate_e_s=0.6, sensitivity=0.95)
            for x, last in _REDL_COLUMNS.items()
        ),
    ),
    "REDU": SimulatedChip(
        name="REDU",
        rows=4096,
        columns=2048,
        modes={
            "225kHz low": SimulatedReadMode(1.4, 3.7, 141.0),
            "50kHz high": SimulatedReadMode(0.46, 2.1, 167.0),
            "625kHz low": SimulatedReadMode(1.4, 4.7, 230.0),
        },
        dark_e_s=1.5 / 3600,
        cosmics_per_s=1.1,
        blemishes=(
            Blemish(845, 1, 1268, offset_adu=6.0, rate_e_s=0.8, sensitivity=0.85),
            Blemish(1254, 1, 4096, offset_adu=3.0, rate_e_s=0.1),
            *(Blemish(x, 1, 4096, rate_e_s=0.02, sensitivity=0.97) for x in range(56, 67)),
            *(Blemish(x, 1, 4096, rate_e_s=0.02, sensitivity=0.96) for x in range(82, 93)),
            *(Blemish(x, 1, 4096, rate_e_s=0.05, sensitivity=0.9) for x in range(938, 941)),
        ),
    ),
}


def light_shape(chip: str, binning: Binning) -> tuple[int, int]:
    """Return rows and columns of the light-sensitive area, binned.

    Parameters
    ----------
    chip : str
        Key of `CHIPS`.
    binning : (int, int)
        BINX, BINY.

    Returns
    -------
    (int, int)
    """
    bin_x, bin_y = binning
    return CHIPS[chip].rows // bin_y, CHIPS[chip].columns // bin_x


def raw_shape(chip: str, binning: Binning) -> tuple[int, int]:
    """Return rows and columns as written: 50 + 2048 + 50 unbinned columns.

    Parameters
    ----------
    chip : str
        Key of `CHIPS`.
    binning : (int, int)
        BINX, BINY.

    Returns
    -------
    (int, int)
    """
    rows, columns = light_shape(chip, binning)
    return rows, columns + (PRESCAN_PX + OVERSCAN_PX) // binning[0]


def light_region(chip: str, binning: Binning) -> Region:
    """Return the light-sensitive area of the raw image.

    Parameters
    ----------
    chip : str
        Key of `CHIPS`.
    binning : (int, int)
        BINX, BINY.

    Returns
    -------
    Region
    """
    rows, columns = light_shape(chip, binning)
    first = PRESCAN_PX // binning[0]
    return slice(0, rows), slice(first, first + columns)


@lru_cache(maxsize=8)
def sensitivity(chip: str, binning: Binning) -> Electrons:
    """Return the pixel response: 1 % noise per unbinned pixel, fixed dust, weak columns.

    Parameters
    ----------
    chip : str
        Key of `CHIPS`.
    binning : (int, int)
        BINX, BINY.

    Returns
    -------
    (ny, nx) float32 array
        Mean 1, light-sensitive area only.
    """
    rng = np.random.default_rng(np.random.SeedSequence([20041014, *chip.encode()]))
    shape = light_shape(chip, binning)
    grain_sigma = np.float32(0.01 / np.sqrt(binning[0] * binning[1]))
    response = 1 + grain_sigma * rng.standard_normal(shape, dtype=np.float32)
    for _ in range(12):
        _add_speck(response, rng, binning)
    for blemish in CHIPS[chip].blemishes:
        # One of the binned columns is weak.
        weak = (binning[0] - 1 + blemish.sensitivity) / binning[0]
        response[_place(blemish, chip, binning)] *= weak
    return response


def _add_speck(response: Electrons, rng: np.random.Generator, binning: Binning) -> None:
    """Multiply a grain of dust of 2 to 8 px and a few per cent into the response."""
    ny, nx = response.shape
    y, x = int(rng.integers(0, ny)), int(rng.integers(0, nx))
    radius_px, depth = rng.uniform(2, 8), rng.uniform(0.01, 0.05)
    reach = int(4 * radius_px)
    rows = np.arange(max(0, y - reach), min(ny, y + reach))[:, None]
    columns = np.arange(max(0, x - reach), min(nx, x + reach))[None, :]
    distance = np.hypot((rows - y) * binning[1], (columns - x) * binning[0]) / radius_px
    response[rows, columns] *= 1 - depth * np.exp(-(distance**2)).astype(np.float32)


def _place(blemish: Blemish, chip: str, binning: Binning) -> Region:
    """Return a blemish's pixels within the light-sensitive area, binned."""
    bin_x, bin_y = binning
    rows, columns = light_shape(chip, binning)
    column = min((blemish.column - 1 - PRESCAN_PX) // bin_x, columns - 1)
    first, last = (blemish.first_row - 1) // bin_y, blemish.last_row // bin_y
    return slice(first, min(last, rows)), slice(column, column + 1)


def expose(
    light_e: Electrons, chip: str, binning: Binning, exposure_s: float, rng: np.random.Generator
) -> Electrons:
    """Add dark current, hot columns and cosmic rays; full pixels bleed.

    Parameters
    ----------
    light_e : (ny, nx) float32 array
        Expected electrons of light, light-sensitive area only. Not changed.

    Returns
    -------
    (ny, nx) float32 array
        Expected electrons, cosmic rays included, without noise.
    """
    about = CHIPS[chip]
    area = binning[0] * binning[1]
    charge = light_e + np.float32(about.dark_e_s * exposure_s * area)
    for blemish in about.blemishes:
        charge[_place(blemish, chip, binning)] += blemish.rate_e_s * exposure_s * binning[1]
    # Hits go on while the chip waits and is read: about 20 s on average.
    hits = int(rng.poisson(about.cosmics_per_s * (exposure_s + 20)))
    add_cosmics(charge, hits, binning, rng)
    return bleed(charge, FULL_WELL_E * area)


def add_cosmics(
    charge: Electrons, hits: int, binning: Binning, rng: np.random.Generator, steps: int = 24
) -> None:
    """Add tracks of about 80 e per micrometre, in place.

    Most hits are steep and mark a pixel or two; a few are grazing and draw a line.

    Parameters
    ----------
    charge : (ny, nx) float32 array
        Electrons; changed in place.
    hits : int
        Number of tracks.
    binning : (int, int)
        BINX, BINY.
    rng : Generator
    steps : int
        Points per track.
    """
    ny, nx = charge.shape
    length_px = np.minimum(1.5 / rng.uniform(0.03, 1, hits), 60)  # 15 um px in 20 um of silicon
    angle = rng.uniform(0, 2 * np.pi, hits)
    along = np.linspace(0, 1, steps)[:, None] * length_px
    y = rng.uniform(0, ny, hits) + along * np.sin(angle) / binning[1]
    x = rng.uniform(0, nx, hits) + along * np.cos(angle) / binning[0]
    deposit = 900 * rng.gamma(2.0, 0.6, hits) * length_px / steps + np.zeros((steps, 1))
    inside = (y < ny) & (x < nx) & (y >= 0) & (x >= 0)
    where = y[inside].astype(np.intp), x[inside].astype(np.intp)
    np.add.at(charge, where, deposit[inside].astype(np.float32))


def bleed(charge: Electrons, full_e: float) -> Electrons:
    """Spread excess charge up and down the column, in place.

    Parameters
    ----------
    charge : (ny, nx) float32 array
        Electrons.
    full_e : float
        Full well of a (binned) pixel.
    """
    flooded = np.flatnonzero((charge > full_e).any(axis=0))
    if flooded.size:
        columns = charge[:, flooded]
        excess = np.maximum(columns - full_e, 0)
        columns -= excess
        _pour(columns, excess / 2, full_e)
        _pour(columns[::-1], excess[::-1] / 2, full_e)
        charge[:, flooded] = columns
    return charge


def _pour(columns: Electrons, excess: Electrons, full_e: float) -> None:
    """Carry excess charge towards higher rows until there is room for it."""
    carried = np.zeros(columns.shape[1], np.float32)
    for row in range(len(columns)):
        carried += excess[row]
        absorbed = np.minimum(carried, full_e - columns[row])
        columns[row] += absorbed
        carried -= absorbed


@lru_cache(maxsize=12)
def bias_shape(chip: str, mode: str, binning: Binning) -> Electrons:
    """Return the fixed structure of each frame: start of a row, slow slope, columns.

    A few tenths of an ADU, as in other cameras with the same controller.

    Parameters
    ----------
    chip : str
        Key of `CHIPS`.
    mode : str
        Key of the chip's modes.
    binning : (int, int)
        BINX, BINY.

    Returns
    -------
    (rows, columns) float32 array
        ADU.
    """
    rng = np.random.default_rng(np.random.SeedSequence([7, *chip.encode(), *mode.encode()]))
    rows, columns = raw_shape(chip, binning)
    x = np.arange(columns)[None, :] * binning[0]
    y = np.linspace(0, 1, rows)[:, None]
    slow = gaussian_filter(rng.standard_normal(columns), 60 / binning[0])
    start = rng.uniform(0.8, 2.0) * np.exp(-x / rng.uniform(8, 20))
    shape = start + rng.uniform(-0.5, 0.5) * (y - 0.5) + 0.1 * slow[None, :] / slow.std()
    light = light_region(chip, binning)
    for blemish in CHIPS[chip].blemishes:
        shape[light][_place(blemish, chip, binning)] += blemish.offset_adu
    rounded: Electrons = shape.astype(np.float32)
    return rounded


def read_out(
    charge: Electrons,
    chip: str,
    mode: str,
    binning: Binning,
    bias_offset_adu: float,
    rng: np.random.Generator,
) -> Pixels:
    """Read a chip: photon and read noise, bias, prescan and overscan, 16 bits.

    Photon noise is Gaussian: with 2 e and more of read noise in every pixel, the skewness of a
    Poisson variable is lost even where there is hardly any light.

    Parameters
    ----------
    charge : (ny, nx) float32 array
        Expected electrons, light-sensitive area only.

    Returns
    -------
    (ny, nx + prescan + overscan) uint16 array
        ADU.
    """
    read = CHIPS[chip].modes[mode]
    light = light_region(chip, binning)
    adu = rng.standard_normal(raw_shape(chip, binning), dtype=np.float32)
    noise_e = np.sqrt(np.maximum(charge, 0) + np.float32(read.read_noise_e**2))
    adu[:, : light[1].start] *= read.read_noise_e
    adu[:, light[1].stop :] *= read.read_noise_e
    adu[light] *= noise_e
    adu[light] += charge
    adu[:, light[1].stop] += 2e-4 * charge[:, -1]  # deferred charge: transfer is not perfect
    adu *= np.float32(1 / read.gain_e_per_adu)
    adu += bias_shape(chip, mode, binning)
    adu += np.float32(read.bias_adu + bias_offset_adu)
    return digitize(adu)


def digitize(adu: NDArray[np.float32]) -> Pixels:
    """Round to the 16-bit range of the converter; `adu` is overwritten."""
    np.rint(adu, out=adu)
    np.clip(adu, 0, CONVERTER_LIMIT_ADU, out=adu)
    return adu.astype(np.uint16)
