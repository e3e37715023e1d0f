"""Where a frame differs from its reference: a map on the frame's grid.

The residual says of each block how far its level, scatter and peak are from what nominal
variation explains. Noise and cosmic rays make single blocks odd in every good frame; a fault is
odd over a column, a row, a spot, a region. So each block is looked at through windows of many
shapes, and the window that stands out most from what good frames show through it counts.

Shapes: (3, h, w) residual maps; (h, w) explanations.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label, uniform_filter

Floats = NDArray[np.float32]

_BOUND = 10.0  # sigma: one cosmic ray must not fill a window
# Height and width of each window in blocks, and how much further than in the references it may
# stand out in a good frame of later weeks. Noise stays as it was; drift is coherent, so that the
# longer the window, the more it sees of it. From simulated nominal frames.
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
_GOOD = 0.98  # of the references; the others hold a cosmic ray in a thousand, or a fault unseen
_OWN_SHARE = 0.5  # of a window's strength that a block must have earned itself
_OWN_FULL = 6.0  # sigma: a block this odd has


@dataclass(frozen=True)
class PeakRegion:
    """The part of a map around its brightest block where the frame is odder than good ones.

    Attributes
    ----------
    brightest : (int, int)
        Row and column of the block.
    rows, columns : (int, int)
        First and last block of the part, both included.
    height : float
        The map at the brightest block.
    share : float
        Blocks of the whole map that are odder than good frames, 0 to 1.
    """

    brightest: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]
    height: float
    share: float


@dataclass(frozen=True)
class ResidualMapModel:
    """How odd the good frames of one setup look through each window.

    Attributes
    ----------
    limits : (windows,) float32 array
        Of the level's windows, then the scatter's, then the peak's.
    """

    limits: Floats

    def explain(self, maps: Floats) -> Floats:
        """Return where a frame differs: 1 is as odd as good frames get.

        Parameters
        ----------
        maps : (3, h, w) float32 array
            `Residual.maps`: sigma.

        Returns
        -------
        (h, w) float32 array, 0 or greater
        """
        strongest = np.zeros(maps.shape[1:], np.float32)
        for seen, limit in zip(_through_windows(maps), self.limits, strict=True):
            np.maximum(strongest, seen / limit, out=strongest)
        return strongest


def learn_explainer(nominal: Iterable[Floats]) -> ResidualMapModel:
    """Learn how odd good frames look, from the residual maps of references.

    Parameters
    ----------
    nominal : iterable of (3, h, w) float32 arrays
        At least one; twenty or more make it worth having.

    Raises
    ------
    ValueError
        If there are none.
    """
    greatest = [[float(seen.max()) for seen in _through_windows(maps)] for maps in nominal]
    if not greatest:
        raise ValueError("need the residual maps of at least one reference")
    margins = np.tile([margin for _, margin in _WINDOWS], 3)
    limits = np.quantile(greatest, _GOOD, axis=0) * margins
    # Maps that are all zero are no frame's; the floor keeps even their division finite.
    return ResidualMapModel(np.maximum(limits, 1.0).astype(np.float32))


def brightest_place(explanation: Floats) -> PeakRegion:
    """Describe where a map is brightest; around it, what is above 1 and hangs together."""
    peak = np.unravel_index(explanation.argmax(), explanation.shape)
    row, column = int(peak[0]), int(peak[1])
    height = float(explanation[row, column])
    odd = explanation > min(1.0, height / 2)
    parts, _ = label(odd, np.ones((3, 3)))
    rows, columns = np.nonzero(parts == parts[row, column])
    return PeakRegion(
        brightest=(row, column),
        rows=(int(rows.min()), int(rows.max())),
        columns=(int(columns.min()), int(columns.max())),
        height=height,
        share=float((explanation > 1).mean()),
    )


def _through_windows(maps: Floats) -> Iterator[Floats]:
    """Yield how odd each block is through each window: noise alone gives about 1."""
    for one in maps:
        bounded = np.clip(one, -_BOUND, _BOUND)
        for shape, _ in _WINDOWS:
            yield _through(bounded, shape)


def _through(bounded: Floats, shape: tuple[int, int]) -> Floats:
    """Average over windows, times the root of their blocks; beyond the edges there is nothing.

    So a window is strongest in the middle of what is odd. The window alone cannot tell which of
    its blocks are: one that is odd itself, to the same side, counts fully, its neighbour half.
    """
    mean = uniform_filter(bounded, shape, mode="constant")
    own = np.clip(bounded * np.sign(mean), 0, _OWN_FULL) / _OWN_FULL
    weight = (1 - _OWN_SHARE) + _OWN_SHARE * own
    seen: Floats = np.abs(mean) * np.float32(np.sqrt(shape[0] * shape[1])) * weight
    return seen
