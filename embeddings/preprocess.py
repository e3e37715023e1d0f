"""Pre-processing: pixels to network inputs.

Shapes: a detector image is (ny, nx) in ADU; the network's grid is (h, w), 224 x 224 by default.
Three block statistics take the place of the three colours of a photograph.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Stretch = Callable[[Floats, float, float], Floats]

GRID = (224, 224)
# Network input units per e-fold: noise to saturation fills the +-150 that ResNet-50 expects.
_UNIT = 50.0
_MAPS = ("level", "scatter", "peak")
_PERCENTS = (1, 5, 25, 50, 75, 95, 99)
APPEARANCE = (
    *(f"{name} {percent} %" for name in _MAPS for percent in _PERCENTS),
    "change along y",
    "change along x",
)
_DISPLAY_WIDTH = 255.0
_ZSCALE_CONTRAST = 0.25  # Tody's zscale as in IRAF and ds9


def block_statistics(pixels: NDArray[np.generic], grid: tuple[int, int] = GRID) -> Floats:
    """Reduce an image to the mean, standard deviation and maximum of each block.

    The mean carries levels, the standard deviation carries noise and fine structure. The maximum
    carries single hot pixels, which an average over hundreds of pixels would hide.

    Parameters
    ----------
    pixels : (ny, nx) array
        ADU. It is read once, by bands of rows that fit into the processor's cache.
    grid : (int, int)
        Blocks along y and x; block sizes differ by a pixel where the division has a remainder.

    Returns
    -------
    (h, w, 3) float32 array, ADU

    Raises
    ------
    ValueError
        If the image is not 2-D, or smaller than the grid.
    """
    h, w = grid
    if pixels.ndim != 2 or pixels.shape[0] < h or pixels.shape[1] < w:
        raise ValueError(f"need a 2-D image of at least {h} x {w} pixels, got {pixels.shape}")
    rows = np.linspace(0, pixels.shape[0], h + 1).round().astype(int)
    columns = np.linspace(0, pixels.shape[1], w + 1).round().astype(int)
    statistics = np.empty((h, w, 3), np.float32)
    for i in range(h):
        statistics[i] = _band_statistics(pixels[rows[i] : rows[i + 1]], columns)
    return statistics


def _band_statistics(band: NDArray[np.generic], columns: NDArray[np.int_]) -> Floats:
    starts = columns[:-1]
    count = len(band) * np.diff(columns)
    offset = np.float32(band[0, 0])  # squares of the excess keep their digits in float32
    excess = band.astype(np.float32) - offset
    mean = np.add.reduceat(excess.sum(axis=0), starts) / count
    square = np.add.reduceat(np.einsum("ij,ij->j", excess, excess), starts) / count
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    peak = np.maximum.reduceat(excess.max(axis=0), starts)
    return np.stack([mean + offset, spread, peak + offset], axis=-1).astype(np.float32)  # (w, 3)


def scale_to_standard_light(statistics: Floats, zero_adu: float, light: float) -> Floats:
    """Scale a lamp frame to the standard exposure of its setup.

    A longer exposure time, which the header explains, then does not resemble a fault. A lack of
    light, which the header does not explain, remains visible.

    Parameters
    ----------
    statistics : (..., h, w, 3) float32 array
        Block mean, standard deviation and maximum, ADU.
    zero_adu : float
        Level without light, ADU.
    light : float
        Light expected from the header, 1 for the standard exposure; 0 (no lamp) changes nothing.

    Returns
    -------
    (..., h, w, 3) float32 array, ADU
    """
    if not light:
        return statistics
    zero = np.array([zero_adu, 0, zero_adu], np.float32)
    return (statistics - zero) / np.float32(light) + zero


def appearance(statistics: Floats, zero_adu: float) -> dict[str, float]:
    """Describe an image independently of its header: quantiles of its block statistics.

    Unlike the network input, these numbers depend neither on the exposure nor on the image type
    of the header.

    Parameters
    ----------
    statistics : (h, w, 3) float32 array
        Block mean, standard deviation and maximum, ADU.
    zero_adu : float
        Level without light, ADU.

    Returns
    -------
    mapping of name to float, ADU above the zero level
        Quantiles of the three maps, and the mean difference of neighbouring block means along y
        and x; the names are `APPEARANCE`.
    """
    excess = statistics - np.array([zero_adu, 0, zero_adu], np.float32)
    shares = [percent / 100 for percent in _PERCENTS]
    sample = excess[::2, ::2].reshape(-1, len(_MAPS))  # a quarter of the blocks suffices
    values = np.quantile(sample, shares, axis=0).T
    along_y = np.abs(np.diff(excess[:, ::4, 0], axis=0)).mean()
    along_x = np.abs(np.diff(excess[::4, :, 0], axis=1)).mean()
    return dict(zip(APPEARANCE, map(float, (*np.ravel(values), along_y, along_x)), strict=True))


def physical(statistics: Floats, zero_adu: float, scale_adu: float) -> Floats:
    """Stretch by a fixed asinh: equal ADU give equal numbers in every frame.

    The stretch is linear within `scale_adu` of `zero_adu` and logarithmic beyond. It does not
    depend on the frame itself, so a shift of the level remains visible.

    Parameters
    ----------
    statistics : (..., h, w, 3) float32 array
        Block mean, standard deviation and maximum, ADU.
    zero_adu, scale_adu : float
        The detector's bias level, and the scale at which the stretch becomes logarithmic, ADU.

    Returns
    -------
    (..., h, w, 3) float32 array, network input
    """
    excess = statistics - np.array([zero_adu, 0, zero_adu], np.float32)
    stretched: Floats = _UNIT * np.arcsinh(excess / np.float32(scale_adu))
    return stretched.astype(np.float32)


def minmax(statistics: Floats, zero_adu: float, scale_adu: float) -> Floats:
    """Stretch the block mean from its minimum to its maximum, in 8 bits.

    The stretch of most image software, for comparison.

    Parameters
    ----------
    statistics : (..., h, w, 3) float32 array
        Block mean, standard deviation and maximum, ADU; only the mean is used.
    zero_adu, scale_adu : float
        Not used; part of the common signature.

    Returns
    -------
    (..., h, w, 3) float32 array, network input
    """
    del zero_adu, scale_adu
    mean = statistics[..., 0]
    low, high = mean.min(axis=(-2, -1), keepdims=True), mean.max(axis=(-2, -1), keepdims=True)
    return _eight_bit(mean, low, high)


def zscale(statistics: Floats, zero_adu: float, scale_adu: float) -> Floats:
    """Stretch the block mean by Tody's zscale, in 8 bits; for comparison.

    Parameters
    ----------
    statistics : (..., h, w, 3) float32 array
        Block mean, standard deviation and maximum, ADU; only the mean is used.
    zero_adu, scale_adu : float
        Not used; part of the common signature.

    Returns
    -------
    (..., h, w, 3) float32 array, network input
    """
    del zero_adu, scale_adu
    mean = statistics[..., 0]
    return _eight_bit(mean, *zscale_limits(mean))


def asinh(statistics: Floats, zero_adu: float, scale_adu: float) -> Floats:
    """Stretch the block mean by an asinh fitted to the frame's level and scatter.

    The stretch removes a shift of the level; for comparison.

    Parameters
    ----------
    statistics : (..., h, w, 3) float32 array
        Block mean, standard deviation and maximum, ADU; only the mean is used.
    zero_adu, scale_adu : float
        Not used; part of the common signature.

    Returns
    -------
    (..., h, w, 3) float32 array, network input
    """
    del zero_adu, scale_adu
    mean = statistics[..., 0]
    middle = np.median(mean, axis=(-2, -1), keepdims=True)
    scatter = np.median(np.abs(mean - middle), axis=(-2, -1), keepdims=True) * 1.4826
    stretched = _UNIT * np.arcsinh((mean - middle) / np.maximum(scatter, 1e-3))
    return _grey(stretched)


STRETCHES: Mapping[str, Stretch] = MappingProxyType(
    {"physical": physical, "minmax": minmax, "zscale": zscale, "asinh": asinh}
)


def zscale_limits(mean: Floats) -> tuple[Floats, Floats]:
    """Return zscale's limits: the median -+ the slope of the sorted values over the contrast."""
    ranked = np.sort(mean.reshape(*mean.shape[:-2], -1), axis=-1)
    n = ranked.shape[-1]
    middle = ranked[..., n // 2]
    # The line through the quartiles replaces zscale's iterative fit; it is as robust.
    slope = (ranked[..., 3 * n // 4] - ranked[..., n // 4]) / (n / 2)
    reach = slope * (n / 2) / _ZSCALE_CONTRAST
    low = np.maximum(middle - reach, ranked[..., 0])
    high = np.minimum(middle + reach, ranked[..., -1])
    return low[..., np.newaxis, np.newaxis], high[..., np.newaxis, np.newaxis]


def _eight_bit(mean: Floats, low: Floats, high: Floats) -> Floats:
    span = np.maximum(high - low, 1e-6)
    levels = np.clip((mean - low) / span * _DISPLAY_WIDTH, 0, _DISPLAY_WIDTH).round()
    return _grey(levels - _DISPLAY_WIDTH / 2)


def _grey(image: Floats) -> Floats:
    return np.repeat(image[..., np.newaxis], 3, axis=-1).astype(np.float32)
