"""Detection of coherent structure in residual maps: windows of many shapes.

The residual gives the deviation of each block's level, scatter and peak from the reference model.
Noise and cosmic rays make single blocks deviate in every good frame. A fault deviates over a
column, a row, a spot or a region. Each block is therefore averaged over windows of many shapes;
the window that exceeds its limit in good frames most decides.

Shapes: (3, h, w) residual maps; (h, w) explanations.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label, uniform_filter

Floats = NDArray[np.float32]

_BOUND = 10.0  # sigma: one cosmic ray must not fill a window
# Height and width of each window in blocks, and the margin over the references for good frames
# of later weeks. Noise stays constant; drift is coherent and grows with the length of the window.
# The margins come from simulated nominal frames.
_WINDOWS = (
    ((3, 3), 1.2),
    ((9, 9), 1.4),
    ((27, 27), 2.0),
    ((9, 1), 1.35),
    ((27, 1), 1.5),
    ((81, 1), 2.4),
    ((1, 9), 1.35),
    ((1, 27), 1.5),
    ((1, 81), 2.4),
)
_GOOD = 0.98  # share of the references; the rest may hold a rare cosmic ray or a missed fault
_BLOCK_SHARE = 0.5  # of a window's strength that depends on the block itself
_BLOCK_FULL = 6.0  # sigma: deviation of a block that receives this share in full


@dataclass(frozen=True)
class PeakRegion:
    """Connected region above the limit of good frames around a map's brightest block.

    Attributes
    ----------
    brightest : (int, int)
        Row and column of the block.
    rows, columns : (int, int)
        First and last block of the region, both included.
    height : float
        Value of the map at the brightest block.
    share : float
        Share of all blocks of the map above 1, 0 to 1.
    """

    brightest: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]
    height: float
    share: float


@dataclass(frozen=True)
class ResidualMapModel:
    """Limit of each window in good frames of one setup.

    Attributes
    ----------
    limits : (windows,) float32 array
        Windows of the level, then of the scatter, then of the peak; sigma.
    """

    limits: Floats

    def explain(self, maps: Floats) -> Floats:
        """Return the deviation of each block, in units of the limit of good frames.

        Parameters
        ----------
        maps : (3, h, w) float32 array
            `Residual.maps`, sigma.

        Returns
        -------
        (h, w) float32 array, 0 or greater
        """
        strongest = np.zeros(maps.shape[1:], np.float32)
        for deviation, limit in zip(window_deviations(maps), self.limits, strict=True):
            np.maximum(strongest, deviation / limit, out=strongest)
        return strongest


def learn_map_model(nominal: Iterable[Floats]) -> ResidualMapModel:
    """Learn the limit of each window from the residual maps of references.

    Parameters
    ----------
    nominal : iterable of (3, h, w) float32 arrays
        At least one; twenty or more give useful limits.

    Raises
    ------
    ValueError
        If there are no maps.
    """
    greatest = [[float(values.max()) for values in window_deviations(maps)] for maps in nominal]
    if not greatest:
        raise ValueError("need the residual maps of at least one reference")
    margins = np.tile([margin for _, margin in _WINDOWS], 3)
    limits = np.quantile(greatest, _GOOD, axis=0) * margins
    # The floor keeps the division finite for maps of zeros, which no real frame has.
    return ResidualMapModel(np.maximum(limits, 1.0).astype(np.float32))


def find_peak_region(explanation: Floats) -> PeakRegion:
    """Return the brightest block of a (h, w) map and the connected region above 1 around it."""
    peak = np.unravel_index(explanation.argmax(), explanation.shape)
    row, column = int(peak[0]), int(peak[1])
    height = float(explanation[row, column])
    is_above = explanation > min(1.0, height / 2)
    regions, _ = label(is_above, np.ones((3, 3)))
    rows, columns = np.nonzero(regions == regions[row, column])
    return PeakRegion(
        brightest=(row, column),
        rows=(int(rows.min()), int(rows.max())),
        columns=(int(columns.min()), int(columns.max())),
        height=height,
        share=float((explanation > 1).mean()),
    )


def window_deviations(maps: Floats) -> Iterator[Floats]:
    """Yield the (h, w) deviation of each block through each window: noise gives about 1.

    A window's value is the mean of its blocks times the root of their number. Blocks outside the
    map count as zero. A window is strongest at the middle of a fault, also for blocks that do
    not deviate themselves. Therefore a block that deviates to the same side counts fully, other
    blocks count half.
    """
    for residual_map in maps:
        bounded = np.clip(residual_map, -_BOUND, _BOUND)
        for shape, _ in _WINDOWS:
            mean = uniform_filter(bounded, shape, mode="constant")
            block = np.clip(bounded * np.sign(mean), 0, _BLOCK_FULL) / _BLOCK_FULL
            weight = (1 - _BLOCK_SHARE) + _BLOCK_SHARE * block
            yield np.abs(mean) * np.float32(np.sqrt(shape[0] * shape[1])) * weight
