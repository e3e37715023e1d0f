"""Spectra of the calibration lamps, and the transmission of dichroics and air."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float64]

LAMPS = ("FFL1", "FFL2", "FFL3", "FFL4", "D2", "ThAr")
_DICHROIC_EDGE_NM = {"DICHR#1": 452.0, "DICHR#2": 545.0}  # manual: under-exposed near the edge
SHORTEST_NM, LONGEST_NM = 295.0, 1070.0


def lamp_spectrum(lamp: str, wavelength_nm: Floats) -> Floats:
    """Return photons per pixel of a continuum lamp in arbitrary units.

    Parameters
    ----------
    lamp : str
        One of `LAMPS`.
    wavelength_nm : float array
        Any shape.

    Returns
    -------
    float array
        Same shape.
    """
    if lamp == "D2":  # rises to the ultraviolet, with molecular lines beyond 350 nm
        grid, lines = _deuterium_lines()
        return np.exp(-(wavelength_nm - 300) / 45) + np.interp(wavelength_nm, grid, lines)
    kelvin = {"FFL1": 3200, "FFL2": 3100, "FFL3": 2900, "FFL4": 2700}[lamp]
    planck = wavelength_nm**-4 / np.expm1(1.4388e7 / (kelvin * wavelength_nm))
    # Colour filters before the blue lamps flatten the rise to the red; not documented in detail.
    centre, width = {"FFL1": (330, 45), "FFL2": (395, 60), "FFL3": (560, 170), "FFL4": (800, 300)}[
        lamp
    ]
    return planck * np.exp(-0.5 * ((wavelength_nm - centre) / width) ** 2)


@cache
def _deuterium_lines() -> tuple[Floats, Floats]:
    """Return a wavelength grid and the lines' brightness on it, both (n,)."""
    rng = np.random.default_rng(1932)
    grid = np.arange(SHORTEST_NM, 660, 0.001)
    brightness = np.zeros_like(grid)
    where = np.searchsorted(grid, rng.uniform(352, 655, 900))
    np.add.at(brightness, where, 10 ** rng.normal(-0.6, 0.45, where.size))
    return grid, gaussian_filter(brightness, 3.0) * 3.4  # as wide as a 1" slit


def transmission(path: str, arm: str, wavelength_nm: Floats) -> Floats:
    """Return the transmission of dichroic and air, 0 to 1.

    Parameters
    ----------
    path : str
        INS MODE.
    arm : str
        ``blue`` or ``red``.
    wavelength_nm : float array
        Any shape.

    Returns
    -------
    float array
        Same shape.
    """
    through = 1 - np.interp(wavelength_nm, *_air())
    if path in _DICHROIC_EDGE_NM:
        steps = (wavelength_nm - _DICHROIC_EDGE_NM[path]) / (-5.0 if arm == "blue" else 5.0)
        edge = 1 / (1 + np.exp(-np.clip(steps, -50, 50)))
        through *= edge * (0.97 + 0.03 * np.sin(wavelength_nm / 4.0)) / 1.1
    return through


@cache
def _air() -> tuple[Floats, Floats]:
    """Return wavelengths and depths of the oxygen and water lines in a few metres of air."""
    rng = np.random.default_rng(760)
    grid = np.arange(680, LONGEST_NM, 0.002)
    depth = np.zeros_like(grid)
    for first, last, lines, deepest in (
        (686.7, 692.0, 40, 0.05),  # O2 B
        (716.0, 732.0, 120, 0.04),  # H2O
        (759.4, 770.0, 60, 0.16),  # O2 A
        (813.0, 835.0, 120, 0.05),  # H2O
        (928.0, 978.0, 260, 0.12),  # H2O
    ):
        where = np.searchsorted(grid, rng.uniform(first, last, lines))
        np.maximum.at(depth, where, deepest * rng.uniform(0.1, 1, lines))
    return grid, gaussian_filter(depth, 3.0) * 7.5
