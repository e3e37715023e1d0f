"""Image pyramids for zooming (decision 0071): each level half as wide, cached on disk.

The cache key is the digest of the pixels, so that an entry is never stale. Tiles have 256 pixels;
rows count from the bottom, as on the detector.

Shapes: (ny, nx) of the image; level k has ceil(ny / 2**k) rows.
"""

import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from qc.figures import images

Pixels = NDArray[np.uint16] | NDArray[np.float32]
Floats = NDArray[np.float32]

TILE = 256  # pixels on a side
MAX_BYTES = 2 * 2**30  # sixty detectors of 4096 x 2148
_ASINH, _LOG = 30.0, 1000.0  # slope at black, relative to a linear stretch


class Reducer(StrEnum):
    """Reduction of the pixels that one pixel of a smaller level covers."""

    MEAN = "mean"
    PEAK = "peak"  # a hot pixel stays visible


class Stretch(StrEnum):
    """Conversion of ADU to grey between black and white."""

    LINEAR = "linear"
    ASINH = "asinh"
    LOG = "log"


@dataclass(frozen=True)
class IntensityScale:
    """Levels of black and white, and the stretch between them.

    Attributes
    ----------
    low, high : float
        Black and white, ADU; low is below high.
    stretch : Stretch
        Conversion in between.
    """

    low: float
    high: float
    stretch: Stretch = Stretch.LINEAR

    def to_grey(self, values: Floats | Pixels) -> NDArray[np.uint8]:
        """Return values in ADU as grey levels, 0 to 255."""
        part = ((values.astype(np.float32) - self.low) / (self.high - self.low)).clip(0, 1)
        part = np.nan_to_num(part)
        if self.stretch is Stretch.ASINH:
            part = np.arcsinh(_ASINH * part) / np.arcsinh(_ASINH)
        elif self.stretch is Stretch.LOG:
            part = np.log1p(_LOG * part) / np.log1p(_LOG)
        return np.asarray(np.rint(255 * part), np.uint8)


@dataclass(frozen=True)
class Pyramid:
    """An image and its smaller versions.

    Attributes
    ----------
    levels : mapping of Reducer to tuple of arrays
        Level 0, equal for both reductions, is the image: (ny, nx) uint16 or float32, ADU.
    """

    levels: Mapping[Reducer, tuple[Pixels, ...]]

    @property
    def image(self) -> Pixels:
        """Return the image in full resolution."""
        return self.levels[Reducer.MEAN][0]

    @property
    def depth(self) -> int:
        """Return the number of levels; the last one fits into a tile."""
        return len(self.levels[Reducer.MEAN])

    def tile(self, level: int, row: int, column: int, show: Reducer = Reducer.MEAN) -> Pixels:
        """Return a tile, smaller at the upper and right edges, empty outside the image.

        Parameters
        ----------
        level : int
            Level; 0 is the image.
        row, column : int
            Position of the tile.
        show : Reducer
            Reduction of pixels.

        Returns
        -------
        (ny, nx) array
            Pixels, ADU.
        """
        if not 0 <= level < self.depth or min(row, column) < 0:
            return np.empty((0, 0), np.float32)
        rows, columns = (slice(n * TILE, (n + 1) * TILE) for n in (row, column))
        part: Pixels = self.levels[show][level][rows, columns]
        return part

    def at_most(self, longest: int, show: Reducer = Reducer.MEAN) -> Pixels:
        """Return the largest level that fits; the smallest level if none does.

        Parameters
        ----------
        longest : int
            Largest length of a side, pixels.
        show : Reducer
            Reduction of pixels.

        Returns
        -------
        (ny, nx) array
            Pixels, ADU.
        """
        levels = self.levels[show]
        return next((level for level in levels if max(level.shape) <= longest), levels[-1])


def build(pixels: Pixels) -> Pyramid:
    """Halve an image until it fits into a tile; an odd last row or column is repeated."""
    means, peaks = [pixels], [pixels]
    while max(means[-1].shape) > TILE:
        quarters = np.stack(split_quarters(means[-1], np.float32))
        means.append(quarters.mean(axis=0, dtype=np.float32))
        a, b, c, d = split_quarters(peaks[-1], pixels.dtype)
        peaks.append(np.maximum(np.maximum(a, b), np.maximum(c, d)))
    return Pyramid({Reducer.MEAN: tuple(means), Reducer.PEAK: tuple(peaks)})


def split_quarters(image: Pixels, dtype: DTypeLike) -> list[Pixels]:
    """Return the four pixels of each group of 2 x 2 as four images.

    Parameters
    ----------
    image : (ny, nx) array
        Image.
    dtype : dtype
        Type of the result.

    Returns
    -------
    list of four (ceil(ny / 2), ceil(nx / 2)) arrays
    """
    ny, nx = image.shape
    even = np.pad(image, ((0, ny % 2), (0, nx % 2)), mode="edge") if ny % 2 or nx % 2 else image
    return [even[y::2, x::2].astype(dtype, copy=False) for y in (0, 1) for x in (0, 1)]


# --- cache on disk --------------------------------------------------------------------------------


@dataclass(frozen=True)
class PyramidCache:
    """LRU cache of pyramids in a folder.

    An entry is written under a temporary name and renamed, so that no reader finds half of it. A
    mapped file stays readable after its removal.
    """

    folder: Path
    most_bytes: int = MAX_BYTES

    def find(self, digest: str) -> Pyramid | None:
        """Return the pyramid of an image, mapped into memory; None if it is not cached."""
        folder = self._entry(digest)
        try:
            depth = len(list(folder.glob("mean-*.npy")))
            if not depth:
                return None
            means, peaks = (
                [np.load(folder / f"{show}-{k}.npy", mmap_mode="r") for k in range(first, depth)]
                for show, first in ((Reducer.MEAN, 0), (Reducer.PEAK, 1))
            )
            os.utime(folder)  # time of last use
        except FileNotFoundError:  # removed by another process
            return None
        return Pyramid({Reducer.MEAN: tuple(means), Reducer.PEAK: (means[0], *peaks)})

    def store(self, digest: str, pixels: Pixels) -> Pyramid:
        """Build and cache the pyramid of an image.

        Parameters
        ----------
        digest : str
            Digest of the pixels.
        pixels : (ny, nx) array
            Image, ADU.

        Returns
        -------
        Pyramid
        """
        pyramid = build(pixels)
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".", dir=self.folder))
        try:
            for show, first in ((Reducer.MEAN, 0), (Reducer.PEAK, 1)):
                for k, level in enumerate(pyramid.levels[show][first:], first):
                    np.save(unfinished / f"{show}-{k}.npy", level)
            if not self._entry(digest).exists():
                unfinished.rename(self._entry(digest))
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.evict(digest)
        return pyramid

    def _entry(self, digest: str) -> Path:
        if not (digest.isalnum() and digest.isascii()):
            raise ValueError(f"expected a digest, got {digest!r:.80}")
        return self.folder / digest

    def evict(self, newest: str) -> None:
        """Remove the least recently used entries above the size limit, except the newest."""
        sizes = {
            entry: sum(file.stat().st_size for file in entry.glob("*.npy") if file.exists())
            for entry in self.folder.glob("[!.]*")
        }
        excess = sum(sizes.values()) - self.most_bytes
        for entry in sorted(sizes, key=_used_at):
            if excess <= 0:
                return
            if entry.name != newest:
                shutil.rmtree(entry, ignore_errors=True)  # another process may remove it too
                excess -= sizes[entry]


def _used_at(entry: Path) -> int:
    return entry.stat().st_mtime_ns if entry.exists() else 0


# --- PNG ------------------------------------------------------------------------------------------


def grey_png(values: Pixels, scale: IntensityScale) -> bytes:
    """Return part of an image as a PNG in grey, row 0 at the bottom.

    Parameters
    ----------
    values : (ny, nx) array
        Pixels, ADU.
    scale : IntensityScale
        Black, white and stretch.

    Returns
    -------
    bytes
    """
    return encode_png(Image.fromarray(np.ascontiguousarray(scale.to_grey(values)[::-1])))


def signed_png(values: Floats, range_adu: float) -> bytes:
    """Return a difference as a PNG, row 0 at the bottom: blue below zero, orange above.

    Parameters
    ----------
    values : (ny, nx) float array
        Difference, ADU.
    range_adu : float
        Value of the strongest colour, ADU.

    Returns
    -------
    bytes
    """
    part = np.nan_to_num(values / range_adu).clip(-1, 1)
    index = np.asarray(np.rint((part + 1) * 127), np.uint8)  # 127: no difference
    picture = Image.fromarray(np.ascontiguousarray(index[::-1]), "P")
    picture.putpalette(diverging_palette())
    return encode_png(picture)


def heat_png(residuals: Floats) -> bytes:
    """Return a residual map as a transparent PNG overlay, clear for nominal pixels."""
    strength = images.anomaly_overlay(residuals)[::-1]
    overlay = np.empty((*strength.shape, 4), np.uint8)
    overlay[..., :3] = images.HEAT
    overlay[..., 3] = np.rint(255 * images.HEAT_OPACITY * strength)
    return encode_png(Image.fromarray(overlay, "RGBA"))


def diverging_palette() -> bytes:
    """Return 255 colours from below over zero to above, as RGB bytes."""
    steps = np.linspace(-1, 1, 255)[:, np.newaxis]
    below, within, above = (np.array(c) for c in (images.BELOW, images.WITHIN, images.ABOVE))
    colours = within + np.where(steps < 0, -steps * (below - within), steps * (above - within))
    return bytes(np.rint(colours).astype(np.uint8).tobytes())


def encode_png(picture: Image.Image) -> bytes:
    """Return a picture as PNG with fast compression: it is sent once."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
