"""Arcs of the thorium-argon lamp: line list, slit images of the lines, scattered light."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from qc.simulator import detector, lamps, spectrograph

Floats = NDArray[np.float64]

PSF_SIGMA_PX = 0.95  # with the slit's width below, lines of 2.5 px at 0.4" and 3.5 px at 1.0"
SLIT_PX_PER_ARCSEC = 3.4  # along the dispersion; measured on arcs of 2012 and 2024
SLIT_TILT = 0.035  # rows per column


@dataclass(frozen=True)
class LineList:
    """Lines of the thorium-argon lamp, by wavelength.

    Attributes
    ----------
    wavelength_nm : (n,) float array
    rate_e_s : (n,) float array
        Peak of an unbinned pixel at full blaze, where the standard arc takes 30 s.
    argon : (n,) bool array
        The others are thorium's.
    """

    wavelength_nm: Floats
    rate_e_s: Floats
    argon: NDArray[np.bool_]


@cache
def line_list() -> LineList:
    """Return a lamp with the statistics of real arcs, always the same one.

    50 to 100 lines to an order; brightness log-normal over two decades with a brighter tail; from
    690 nm on, argon lines that saturate (UVES User Manual P110.1; arcs of 2012 and 2024).
    """
    rng = np.random.default_rng(1889)
    lines = []
    edges = np.arange(lamps.SHORTEST_NM, lamps.LONGEST_NM, 5.0)
    for first in edges:
        density_per_nm = 26 * (350 / first) ** 0.9
        lines.append(rng.uniform(first, first + 5, rng.poisson(5 * density_per_nm)))
    wavelength = np.sort(np.concatenate(lines))
    argon = rng.random(wavelength.size) < 0.25
    decades = rng.normal(0.2, 0.65, wavelength.size)
    decades += (rng.random(wavelength.size) < 0.025) * rng.uniform(0.5, 2.2, wavelength.size)
    red_argon = argon & (wavelength > 690) & (rng.random(wavelength.size) < 0.04)
    decades[red_argon] = rng.uniform(1.6, 4.4, red_argon.sum())
    return LineList(wavelength, 10**decades, argon)


@dataclass(frozen=True)
class LineImages:
    """Where n images of lines fall on the binned chip, and how bright they are."""

    row: Floats
    column: Floats
    peak_e_s: Floats
    half_slit: Floats


def arc(
    setting_nm: int,
    chip: str,
    binning: detector.Binning,
    optics: spectrograph.Optics,
    thorium: float = 1.0,
) -> detector.Electrons:
    """Return the thorium-argon lamp seen through the slit.

    Parameters
    ----------
    thorium : float
        Brightness of thorium's lines; a dying lamp loses them and brightens in argon.

    Returns
    -------
    (ny, nx) float32 array
        Electrons per second and binned pixel, the light's part only.
    """
    orders = spectrograph.place_orders(setting_nm, chip, binning, optics)
    images = _line_images(setting_nm, orders, optics, thorium)
    shape = detector.light_shape(chip, binning)
    area = binning[0] * binning[1]
    scene = np.full(shape, images.peak_e_s.sum() / (shape[0] * shape[1]) * 0.2 * area, np.float32)
    inside = (images.column > -images.half_slit) & (images.column < shape[1] + images.half_slit)
    _draw_lines(scene, images, inside & (images.peak_e_s > 0.01), binning, optics)
    return scene


def _line_images(
    setting_nm: int, orders: spectrograph.Orders, optics: spectrograph.Optics, thorium: float
) -> LineImages:
    """Find each line in every order that shows it."""
    lines = line_list()
    element = np.where(lines.argon, 1 / np.sqrt(thorium), thorium)
    rate = lines.rate_e_s * element * 30.0 / spectrograph.standard_exposure_s(setting_nm, "ThAr")
    ny = orders.column.shape[1]
    images = []
    for number, nm in enumerate(orders.wavelength_nm):
        visible = slice(*np.searchsorted(lines.wavelength_nm, (nm[-1], nm[0])))
        row = np.interp(lines.wavelength_nm[visible], nm[::-1], np.arange(ny)[::-1])
        through = np.interp(row, np.arange(ny), orders.blaze[number])
        column = np.interp(row, np.arange(ny), orders.column[number])
        half = np.full(row.size, orders.half_slit[number])
        arm = spectrograph.SETTINGS[setting_nm].arm
        through = through * lamps.transmission(optics.path, arm, lines.wavelength_nm[visible])
        images.append(np.stack([row, column, rate[visible] * through, half]))
    return LineImages(*np.concatenate(images, axis=1))


def _draw_lines(
    scene: detector.Electrons,
    images: LineImages,
    selected: NDArray[np.bool_],
    binning: detector.Binning,
    optics: spectrograph.Optics,
) -> None:
    """Add slightly tilted slit images to a scene, in place; charge is kept when binning."""
    bin_x, bin_y = binning
    ny, nx = scene.shape
    sigma = np.sqrt(PSF_SIGMA_PX**2 + optics.blur_px**2 + bin_y**2 / 12) / bin_y
    half_width = SLIT_PX_PER_ARCSEC * optics.slit_arcsec / 2 / bin_y
    edge = spectrograph.edge_sigma(bin_x, optics.blur_px)
    tilt = SLIT_TILT * bin_x / bin_y
    half = images.half_slit[selected, None, None]
    reach_x = int(half.max(initial=1) + 3 * edge + 1)
    reach_y = int(half_width + 4 * sigma + tilt * reach_x + 1)
    centre_y, centre_x = images.row[selected, None, None], images.column[selected, None, None]
    row = np.floor(centre_y).astype(np.intp) + np.arange(-reach_y, reach_y + 2)[:, None]
    column = np.floor(centre_x).astype(np.intp) + np.arange(-reach_x, reach_x + 2)
    away_x = (column - centre_x).astype(np.float32)  # (n, 1, w)
    away_y = (row - centre_y).astype(np.float32) - np.float32(tilt) * away_x  # (n, h, w)
    profile: detector.Electrons = ndtr((away_y + np.float32(half_width)) / np.float32(sigma))
    profile -= ndtr((away_y - np.float32(half_width)) / np.float32(sigma))
    # A narrow slit spreads over its neighbours; a wide one keeps the peak.
    profile *= spectrograph.slit_profile(away_x, half.astype(np.float32), edge)
    profile *= (images.peak_e_s[selected, None, None] * bin_x * bin_y).astype(np.float32)
    inside = (row >= 0) & (row < ny) & (column >= 0) & (column < nx)
    place = (row * nx + column)[inside]
    scene += np.bincount(place, profile[inside], ny * nx).reshape(ny, nx).astype(np.float32)
