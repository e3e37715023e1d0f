"""Light on the chips before detection: traces, blaze, lamps, lines.

Geometry comes from ``orders.csv``: for each setting, chip and order, position and
wavelength at five places along the order (UVES physical model, checked against published
line lists). Everything is computed in the raw file's orientation: rows run along the orders,
wavelength falling with the row; blue columns go to redder orders, red columns to bluer ones.
"""

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom
from scipy.special import ndtr

from qc.simulator import detector, lamps

Floats = NDArray[np.float64]

STANDARD_PEAK_ADU = 30_000.0  # UVES User Manual P110.1, table 4.2
_PLACES = np.linspace(0, 1, 5)  # along the dispersion axis, where orders.csv has its values


@dataclass(frozen=True)
class Setting:
    """A standard setting (UVES User Manual P110.1, tables 2.4 and 4.2).

    Attributes
    ----------
    slit_length_arcsec : float
        Of a flat or an arc; order definitions and format checks use a pinhole-like 0.5".
    flat_s, arc_s : float
        Exposure for a peak of 30 000 ADU, unbinned, low gain, 1" slit.
    """

    nm: int
    arm: str
    disperser: str
    order_filter: str
    slit_length_arcsec: float
    lamp: str
    flat_s: float
    arc_s: float


_CD1, _CD2, _CD3, _CD4 = "CD#1", "CD#2", "CD#3", "CD#4"

SETTINGS: Mapping[int, Setting] = {
    setting.nm: setting
    for setting in (
        Setting(346, "blue", _CD1, "HER_5", 10.0, "FFL1", 22.0, 22.0),
        Setting(390, "blue", _CD2, "HER_5", 8.0, "FFL2", 100.0, 38.0),
        Setting(437, "blue", _CD2, "HER_5", 10.0, "FFL2", 100.0, 38.0),
        Setting(520, "red", _CD3, "SHP700", 8.9, "FFL3", 9.0, 30.0),
        Setting(564, "red", _CD3, "SHP700", 11.0, "FFL3", 9.0, 30.0),
        Setting(580, "red", _CD3, "SHP700", 12.0, "FFL3", 9.0, 30.0),
        Setting(600, "red", _CD3, "SHP700", 12.0, "FFL3", 9.0, 30.0),
        Setting(760, "red", _CD4, "BK7_5", 8.0, "FFL4", 24.0, 6.0),
        Setting(860, "red", _CD4, "OG590", 12.0, "FFL4", 22.0, 6.0),
    )
}
DEUTERIUM_S = 145.0  # deuterium lamp at 346, same source


@dataclass(frozen=True)
class Optics:
    """How the light reaches the chip in one exposure.

    Attributes
    ----------
    shift_x_px, shift_y_px : float
        Of the whole format, unbinned raw pixels.
    blur_px : float
        Gaussian sigma of defocus, unbinned, beyond the spectrograph's own.
    path : str
        INS MODE: ``BLUE``, ``RED``, ``DICHR#1``, ``DICHR#2``.
    """

    slit_arcsec: float
    slit_length_arcsec: float
    path: str
    shift_x_px: float = 0.0
    shift_y_px: float = 0.0
    blur_px: float = 0.0


@dataclass(frozen=True)
class OrderTable:
    """All orders of one setting on one chip; n of them.

    Attributes
    ----------
    number : (n,) float array
    trace : (3, n) float array
        Polynomial in the place along the dispersion axis (0 to 1): cross-dispersion px, from 1,
        pipeline orientation.
    wavelength : (4, n) float array
        Polynomial likewise, nm.
    blaze_nm : (n,) float array
    arcsec_per_px : (n,) float array
        Across the order, unbinned.
    """

    number: Floats
    trace: Floats
    wavelength: Floats
    blaze_nm: Floats
    arcsec_per_px: Floats


@dataclass(frozen=True)
class Orders:
    """Where the n orders are on ny binned rows.

    Attributes
    ----------
    column : (n, ny) float array
        Centre, binned, in the light's part, from 0.
    wavelength_nm : (n, ny) float array
    blaze : (n, ny) float array
        Blaze function, 0 to 1.
    half_slit : (n,) float array
        Half the slit's length, binned columns.
    """

    column: Floats
    wavelength_nm: Floats
    blaze: Floats
    half_slit: Floats


@functools.cache
def order_table(setting_nm: int, chip: str) -> OrderTable:
    """Read the orders of a setting on one chip from ``orders.csv``.

    Parameters
    ----------
    setting_nm : int
        Key of `SETTINGS`.
    chip : str
        Name of the chip.

    Returns
    -------
    OrderTable
    """
    text = (resources.files("qc.simulator") / "orders.csv").read_text(encoding="ascii")
    rows = [
        row
        for row in csv.DictReader(text.splitlines())
        if row["setting_nm"] == str(setting_nm) and row["chip"] == chip
    ]
    across = np.array([[float(row[f"y_at_x{p}"]) for row in rows] for p in (0, 25, 50, 75, 100)])
    nm = np.array([[float(row[f"nm_at_x{p}"]) for row in rows] for p in (0, 25, 50, 75, 100)])
    return OrderTable(
        number=np.array([float(row["order"]) for row in rows]),
        trace=np.atleast_2d(polynomial.polyfit(_PLACES, across, 2)),
        wavelength=np.atleast_2d(polynomial.polyfit(_PLACES, nm, 3)),
        blaze_nm=np.array([float(row["blaze_nm"]) for row in rows]),
        arcsec_per_px=np.array([float(row["slitscale_arcsec_per_px"]) for row in rows]),
    )


def place_orders(setting_nm: int, chip: str, binning: detector.Binning, optics: Optics) -> Orders:
    """Return the positions of the orders of a setting in an exposure.

    Parameters
    ----------
    setting_nm : int
        Key of `SETTINGS`.
    chip : str
        Name of the chip.
    binning : (int, int)
        BINX, BINY.
    optics : Optics

    Returns
    -------
    Orders
    """
    table = order_table(setting_nm, chip)
    bin_x, bin_y = binning
    rows, columns = detector.CHIPS[chip].rows, detector.CHIPS[chip].columns
    row = (np.arange(rows // bin_y) + 0.5) * bin_y - 0.5 - optics.shift_y_px  # unbinned, from 0
    place = (rows - 1 - row) / (rows - 1)  # both arms: wavelength falls with the row
    across = polynomial.polyval(place, table.trace)  # (n, ny)
    column = (across - 1 if chip == "BLUE" else columns - across) + optics.shift_x_px
    wavelength = np.asarray(polynomial.polyval(place, table.wavelength), np.float64)
    # The sinc of the blaze has its first zero one free spectral range from the centre.
    phase = table.number[:, None] * (1 - table.blaze_nm[:, None] / wavelength)
    return Orders(
        column=(column + 0.5) / bin_x - 0.5,
        wavelength_nm=wavelength,
        blaze=np.sinc(phase) ** 2,
        half_slit=optics.slit_length_arcsec / table.arcsec_per_px / 2 / bin_x,
    )


@functools.cache
def _brightest(setting_nm: int, lamp: str) -> float:
    """Return the highest value of lamp times blaze on all chips of a setting."""
    arm = SETTINGS[setting_nm].arm
    optics = Optics(1.0, 10.0, arm.upper())
    peaks = []
    for chip in chips_of(arm):
        orders = place_orders(setting_nm, chip, (2, 2), optics)
        light = lamps.lamp_spectrum(lamp, orders.wavelength_nm) * orders.blaze
        peaks.append(np.percentile(light, 99.8))  # a deuterium line may stand out of it
    return float(max(peaks))


def chips_of(arm: str) -> tuple[str, ...]:
    """Return the chips of an arm in the order of a raw file's extensions."""
    return ("BLUE",) if arm == "blue" else ("REDU", "REDL")


def standard_exposure_s(setting_nm: int, lamp: str) -> float:
    """Return the exposure for a peak of 30 000 ADU: unbinned, low gain, 1" slit.

    Parameters
    ----------
    setting_nm : int
        Key of `SETTINGS`.
    lamp : str
        One of `lamps.LAMPS`.

    Returns
    -------
    float
        Seconds.
    """
    if lamp == "ThAr":
        return SETTINGS[setting_nm].arc_s
    return DEUTERIUM_S if lamp == "D2" else SETTINGS[setting_nm].flat_s


def flat(
    setting_nm: int, chip: str, binning: detector.Binning, lamp: str, optics: Optics
) -> detector.Electrons:
    """Return a continuum lamp through the slit.

    Parameters
    ----------
    setting_nm : int
        Key of `SETTINGS`.
    chip : str
        Name of the chip.
    binning : (int, int)
        BINX, BINY.
    lamp : str
        One of `lamps.LAMPS`.
    optics : Optics

    Returns
    -------
    (ny, nx) float32 array
        Expected electrons per second, light-sensitive area only.
    """
    setting = SETTINGS[setting_nm]
    orders = place_orders(setting_nm, chip, binning, optics)
    spectrum = lamps.lamp_spectrum(lamp, orders.wavelength_nm) * orders.blaze
    spectrum *= lamps.transmission(optics.path, setting.arm, orders.wavelength_nm)
    low_gain = detector.CHIPS[chips_of(setting.arm)[-1]].modes["225kHz low"].gain_e_per_adu
    standard_lamp = "D2" if lamp == "D2" else setting.lamp
    peak_e_s = STANDARD_PEAK_ADU * low_gain / standard_exposure_s(setting_nm, standard_lamp)
    peak_e_s *= optics.slit_arcsec * binning[0] * binning[1]
    spectrum *= peak_e_s / _brightest(setting_nm, lamp)
    scene = draw_orders(orders, spectrum, chip, binning, optics.blur_px)
    scene *= _fringes(setting_nm, chip, binning)
    scene += np.float32(peak_e_s) * _diffuse(
        setting_nm, chip, binning, lamp, optics.path, optics.slit_length_arcsec
    )
    return scene


def draw_orders(
    orders: Orders, spectrum: Floats, chip: str, binning: detector.Binning, blur_px: float
) -> detector.Electrons:
    """Paint each order's spectrum along its trace with the slit's profile.

    Parameters
    ----------
    spectrum : (n, ny) float array
        Brightness of a fully lit binned pixel.
    """
    ny, nx = detector.light_shape(chip, binning)
    # One more column on either side takes the light beyond the edge.
    scene = np.zeros((ny, nx + 2), np.float32)
    sigma = edge_sigma(binning[0], blur_px)
    row = np.arange(ny)[:, None]
    for centre, brightness, half in zip(orders.column, spectrum, orders.half_slit, strict=True):
        reach = int(half + 4 * sigma + 1)
        first = np.floor(centre).astype(np.intp) - reach
        column = first[:, None] + np.arange(2 * reach + 2)  # (ny, w)
        distance = (column - centre[:, None]).astype(np.float32)
        value = slit_profile(distance, np.float32(half), sigma) * brightness[:, None].astype(
            np.float32
        )
        scene[row, np.clip(column + 1, 0, nx + 1)] += value
    return scene[:, 1:-1].copy()


def edge_sigma(bin_x: int, blur_px: float) -> float:
    """Compute the width of the slit's blurred ends: image quality, defocus and pixel.

    Parameters
    ----------
    bin_x : int
    blur_px : float
        Gaussian sigma of defocus, unbinned.

    Returns
    -------
    float
        Gaussian sigma, binned columns.
    """
    return float(np.sqrt(1.0 + blur_px**2 + bin_x**2 / 12) / bin_x)


def slit_profile(
    distance: detector.Electrons, half: detector.Electrons | np.float32, sigma: float
) -> detector.Electrons:
    """Return the slit's image across an order: soft ends, 3 % uneven.

    Parameters
    ----------
    distance : float32 array, any shape
        Binned columns from the order's centre.
    half : float32 or float32 array that broadcasts
        Half the slit's length in binned columns.
    """
    lit: detector.Electrons = ndtr((half - np.abs(distance)) / np.float32(sigma))
    along = distance / half
    lit *= 1 + np.float32(0.012) * along - np.float32(0.02) * (along * along - 0.3)
    return lit


@functools.lru_cache(maxsize=6)
def _fringes(
    setting_nm: int, chip: str, binning: detector.Binning
) -> detector.Electrons | np.float32:
    """Return interference in the silicon: none below 650 nm, 40 % (EEV), 10 % (MIT) at 850 nm."""
    optics = Optics(1.0, 10.0, "RED")
    orders = place_orders(setting_nm, chip, binning, optics)
    reddest = orders.wavelength_nm.max()
    if chip == "BLUE" or reddest < 650:
        return np.float32(1)
    thickness_um, contrast = (15.0, 0.2) if chip == "REDL" else (20.0, 0.05)
    nm = _wavelength_map(orders, detector.light_shape(chip, binning))
    rng = np.random.default_rng(np.random.SeedSequence([850, *chip.encode()]))
    bumps = _smooth_field(rng, detector.light_shape(chip, binning), 24)
    depth = contrast * np.clip((nm - 650) / 200, 0, 1.2) ** 1.5
    # Silicon: n = 3.6; the bumps bend the fringes into the usual wood grain.
    phase = 4 * np.pi * 3.6e3 * (thickness_um + 0.35 * bumps) / nm
    pattern: detector.Electrons = (1 + depth * np.cos(phase)).astype(np.float32)
    return pattern


def _wavelength_map(orders: Orders, shape: tuple[int, int]) -> detector.Electrons:
    """Return the wavelength that falls on each pixel, from the nearest order: (ny, nx) nm."""
    nm = np.empty(shape, np.float32)
    column = np.arange(shape[1])
    by_column = np.argsort(orders.column[:, 0])  # orders never cross
    centres, wavelengths = orders.column[by_column], orders.wavelength_nm[by_column]
    for row in range(shape[0]):
        between = (centres[1:, row] + centres[:-1, row]) / 2
        nm[row] = wavelengths[np.searchsorted(between, column), row]
    return nm


def _smooth_field(
    rng: np.random.Generator, shape: tuple[int, int], cells: int
) -> detector.Electrons:
    """Return a random field of unit scatter with `cells` bumps along each side."""
    coarse = gaussian_filter(rng.standard_normal((cells, cells)), 0.7)
    smooth = zoom((coarse / coarse.std()).astype(np.float32), 8, order=3)
    return _stretched(smooth, shape)


def _stretched(coarse: detector.Electrons, shape: tuple[int, int]) -> detector.Electrons:
    """Interpolate a smooth field linearly onto a larger grid."""
    factor = shape[0] / coarse.shape[0], shape[1] / coarse.shape[1]
    field: detector.Electrons = zoom(coarse, factor, order=1, grid_mode=True, mode="nearest")
    return field


@functools.lru_cache(maxsize=6)
def _diffuse(
    setting_nm: int,
    chip: str,
    binning: detector.Binning,
    lamp: str,
    path: str,
    slit_length_arcsec: float,
) -> detector.Electrons:
    """Return scattered light between the orders and faint ghost orders, peak of the orders = 1.

    Ghosts are steeper and about twice as far apart: below 1 % on EEV chips, more on MIT's at 860.
    """
    setting = SETTINGS[setting_nm]
    optics = Optics(1.0, slit_length_arcsec, path)
    coarse: detector.Binning = (16, 16)
    orders = place_orders(setting_nm, chip, coarse, optics)
    spectrum = lamps.lamp_spectrum(lamp, orders.wavelength_nm) * orders.blaze
    spectrum *= lamps.transmission(path, setting.arm, orders.wavelength_nm) / _brightest(
        setting_nm, lamp
    )
    blocks = draw_orders(orders, spectrum, chip, coarse, 0.0)
    glow = gaussian_filter(blocks, 9, mode="nearest") * 0.025 + 0.0015 * blocks.mean()
    shape = detector.light_shape(chip, binning)
    return _stretched(glow, shape) + _ghosts(
        setting_nm, chip, binning, slit_length_arcsec, spectrum.max(axis=1)
    )


def _ghosts(
    setting_nm: int,
    chip: str,
    binning: detector.Binning,
    slit_length_arcsec: float,
    brightness: Floats,
) -> detector.Electrons:
    """Return every second order again, steeper, in focus, at a fraction of a per cent."""
    strength = 0.015 if (setting_nm, chip) == (860, "REDU") else 0.004
    optics = Optics(1.0, slit_length_arcsec, "RED", shift_x_px=37.0)
    orders = place_orders(setting_nm, chip, binning, optics)
    half_chip = detector.light_shape(chip, binning)[0] / 2
    lean = 1 + 0.6 * (np.arange(orders.column.shape[1]) - half_chip) / half_chip
    middle = orders.column.mean(axis=1, keepdims=True)
    steeper = Orders(
        column=(middle + (orders.column - middle) * 2.2 + 20 * (lean - 1))[::2],
        wavelength_nm=orders.wavelength_nm[::2],
        blaze=orders.blaze[::2],
        half_slit=orders.half_slit[::2],
    )
    spectrum = strength * brightness[::2, None] * steeper.blaze
    return draw_orders(steeper, spectrum, chip, binning, 0.5)
