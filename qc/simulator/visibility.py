"""Visibility of a fault: signal-to-noise ratio of a matched filter."""

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

INVISIBLE = 5.0  # sigma; below, even a search with known shape and place finds nothing
_STEP_ADU = 1.5  # rounding: a difference of one step does not measure the size of a fault
_BLOCK = 16  # pixels; over so many the steps average out


def signal_to_noise(
    ill: NDArray[np.generic],
    well: NDArray[np.generic],
    *,
    gain_e_per_adu: float,
    read_noise_adu: float,
) -> float:
    """Return the signal-to-noise ratio of a matched filter for a fault known exactly.

    The root of the sum over pixels of (difference / noise)^2 (Turin 1960, IRE Trans. Inf. Theory
    6, 311), with the photon and read noise of the image without the fault. Where the difference
    is a step of the converter or none, it is first averaged over squares of 16 pixels, within
    which a fault so faint is taken for even. No real search does as well: it knows neither shape
    nor place.

    Parameters
    ----------
    ill, well : (ny, nx) arrays
        The exposure with and without its fault, with equal noise, ADU.
    gain_e_per_adu : float
    read_noise_adu : float

    Returns
    -------
    float
    """
    healthy = well.astype(np.float64)
    difference = ill.astype(np.float64) - healthy
    light = np.maximum(healthy - np.median(healthy[:, -_BLOCK:]), 0)
    variance = light / gain_e_per_adu + read_noise_adu**2
    clear = np.abs(difference) > _STEP_ADU
    strong = (difference[clear] ** 2 / variance[clear]).sum()
    faint, weight = _sums(np.where(clear, 0, difference / variance)), _sums(1 / variance)
    return float(np.sqrt(strong + (faint**2 / weight).sum()))


def _sums(values: Doubles) -> Doubles:
    """Sum over squares; a rest at the upper and right edge is left out."""
    ny, nx = (size // _BLOCK for size in values.shape)
    parts = values[: ny * _BLOCK, : nx * _BLOCK].reshape(ny, _BLOCK, nx, _BLOCK)
    return np.asarray(parts.sum(axis=(1, 3)))
