"""Pixels to what the network sees.

Shapes: a detector image is (ny, nx) in ADU; the network's grid is (h, w), 224 x 224 unless
said otherwise. Three block statistics stand where a photograph has its three colours.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Stretch = Callable[[Floats, float, float], Floats]

GRID = (224, 224)
_UNIT = (
    50.0  # input units per e-fold: puts noise to saturation into the +-150 that ResNet-50 expects
)
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

    The mean carries levels, the standard deviation noise and fine structure, the maximum the
    single hot pixel that an average over hundreds would hide.

    Parameters
    ----------
    pixels : (ny, nx) array
        ADU. Read once, a band of rows at a time, so that the band stays in the cache.
    grid : (int, int)
        Blocks along y and x; sizes of blocks differ by a pixel where the division has a rest.

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
    offset = np.float32(band[0, 0])  # squares of what is left keep their digits in float32
    excess = band.astype(np.float32) - offset
    mean = np.add.reduceat(excess.sum(axis=0), starts) / count
    square = np.add.reduceat(np.einsum("ij,ij->j", excess, excess), starts) / count
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    peak = np.maximum.reduceat(excess.max(axis=0), starts)
    return np.stack([mean + offset, spread, peak + offset], axis=-1).astype(np.float32)  # (w, 3)


def at_standard_light(statistics: Floats, zero_adu: float, light: float) -> Floats:
    """Scale a lamp's frame to the exposure that its setup calls standard.

    So that twice the exposure time, which the header explains, does not look like a fault, and
    half the light, which nothing explains, does.

    Parameters
    ----------
    statistics : (..., h, w, 3) float32 array
        Block mean, standard deviation and maximum, ADU.
    zero_adu : float
        The level without light.
    light : float
        What the header promises, 1 for the standard exposure; 0 (no lamp) leaves all as it is.
    """
    if not light:
        return statistics
    zero = np.array([zero_adu, 0, zero_adu], np.float32)
    return (statistics - zero) / np.float32(light) + zero


def appearance(statistics: Floats, zero_adu: float) -> dict[str, float]:
    """Return how an image looks whatever its header says: how its blocks' values are distributed.

    Neither the exposure that the header promises nor the stretch of the type that it names is in
    them, as both are in the network input.

    Parameters
    ----------
    statistics : (h, w, 3) float32 array
        Block mean, standard deviation and maximum, ADU.
    zero_adu : float
        The level without light.

    Returns
    -------
    mapping of name to float, ADU above the zero level
        Quantiles of the three maps; and how much neighbouring block means differ along y and x.
    """
    excess = statistics - np.array([zero_adu, 0, zero_adu], np.float32)
    shares = [percent / 100 for percent in _PERCENTS]
    some = excess[::2, ::2].reshape(-1, len(_MAPS))  # a quarter: as good, and as fast
    values = np.quantile(some, shares, axis=0).T
    along_y = np.abs(np.diff(excess[:, ::4, 0], axis=0)).mean()
    along_x = np.abs(np.diff(excess[::4, :, 0], axis=1)).mean()
    return dict(zip(APPEARANCE, map(float, (*np.ravel(values), along_y, along_x)), strict=True))


def physical(statistics: Floats, zero_adu: float, scale_adu: float) -> Floats:
    """Stretch by a fixed asinh: the same ADU give the same number in every frame.

    Linear within `scale_adu` of `zero_adu`, logarithmic beyond. Nothing is taken from the frame
    itself, so a level that moved is seen to have moved.

    Parameters
    ----------
    statistics : (..., h, w, 3) float32 array
        Block mean, standard deviation and maximum, ADU.
    zero_adu, scale_adu : float
        The detector's bias level, and where the stretch turns from linear to logarithmic.

    Returns
    -------
    (..., h, w, 3) float32 array, network input
    """
    excess = statistics - np.array([zero_adu, 0, zero_adu], np.float32)
    stretched: Floats = _UNIT * np.arcsinh(excess / np.float32(scale_adu))
    return stretched.astype(np.float32)


def minmax(statistics: Floats, zero_adu: float, scale_adu: float) -> Floats:
    """Stretch the block mean from the frame's own least to its greatest value, in 8 bits.

    What most image software does, and what the forerunner did; kept for comparison.
    """
    del zero_adu, scale_adu
    mean = statistics[..., 0]
    return _eight_bit(mean, *_extremes(mean))


def zscale(statistics: Floats, zero_adu: float, scale_adu: float) -> Floats:
    """Stretch the block mean by Tody's zscale of the frame itself, in 8 bits; for comparison."""
    del zero_adu, scale_adu
    mean = statistics[..., 0]
    return _eight_bit(mean, *_zscale_limits(mean))


def asinh(statistics: Floats, zero_adu: float, scale_adu: float) -> Floats:
    """Stretch the block mean by an asinh fitted to the frame's own level and scatter.

    Float32 throughout, but blind to the level: for comparison.
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


def _extremes(mean: Floats) -> tuple[Floats, Floats]:
    return mean.min(axis=(-2, -1), keepdims=True), mean.max(axis=(-2, -1), keepdims=True)


def _zscale_limits(mean: Floats) -> tuple[Floats, Floats]:
    """Return zscale's limits: the median -+ the slope of the sorted values over the contrast."""
    ranked = np.sort(mean.reshape(*mean.shape[:-2], -1), axis=-1)
    n = ranked.shape[-1]
    middle = ranked[..., n // 2]
    # The line through the quartiles stands for zscale's iterative fit: as robust, and closed.
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
