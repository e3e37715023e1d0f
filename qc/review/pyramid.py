"""Images for zooming: each half as wide as the one before, made once and kept on disk.

A pyramid is kept under the digest of its pixels, so it can never be another image's, nor out of
date. Shown are tiles of 256 pixels; rows count from the bottom, as on the detector.

Shapes: ny, nx of the image; a level k has ceil(ny / 2**k) rows.
"""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qc.figures import plots

Pixels = NDArray[np.uint16] | NDArray[np.float32]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

TILE = 256  # pixels on a side
MOST_BYTES = 2 * 2**30  # sixty chips of 4096 x 2148
_ASINH, _LOG = 30.0, 1000.0  # how many times steeper at black than a straight line


class Reducer(StrEnum):
    """What stands for many pixels in a picture that is smaller than the image."""

    MEAN = "mean"
    PEAK = "peak"  # a hot pixel stays visible


class Stretch(StrEnum):
    """How ADU become greys between black and white."""

    LINEAR = "linear"
    ASINH = "asinh"
    LOG = "log"


@dataclass(frozen=True)
class IntensityScale:
    """Black, white, and what is between them.

    Attributes
    ----------
    low, high : float
        ADU; low is below high.
    """

    low: float
    high: float
    stretch: Stretch = Stretch.LINEAR

    def of(self, values: Floats | Pixels) -> Bytes:
        """Return values as greys, 0 to 255."""
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
    levels : mapping of Show to tuple of arrays
        Level 0, the same in both, is the image: (ny, nx) uint16 or float32, ADU.
    """

    levels: Mapping[Reducer, tuple[Pixels, ...]]

    @property
    def image(self) -> Pixels:
        """Return the image itself."""
        return self.levels[Reducer.MEAN][0]

    @property
    def depth(self) -> int:
        """Return how many levels there are; the last fits into a tile."""
        return len(self.levels[Reducer.MEAN])

    def tile(self, level: int, row: int, column: int, show: Reducer = Reducer.MEAN) -> Pixels:
        """Return one tile, smaller at the upper and right edges; empty where there is none."""
        if not 0 <= level < self.depth or min(row, column) < 0:
            return np.empty((0, 0), np.float32)
        rows, columns = (slice(n * TILE, (n + 1) * TILE) for n in (row, column))
        part: Pixels = self.levels[show][level][rows, columns]
        return part

    def at_most(self, longest: int, show: Reducer = Reducer.MEAN) -> Pixels:
        """Return the largest level of which no side is longer; the last, if all are."""
        levels = self.levels[show]
        return next((one for one in levels if max(one.shape) <= longest), levels[-1])


def build(pixels: Pixels) -> Pyramid:
    """Halve an image until it fits into a tile; a last odd row or column stands for two."""
    means, peaks = [pixels], [pixels]
    while max(means[-1].shape) > TILE:
        quarters = np.stack(_quarters(means[-1], np.dtype(np.float32)))
        means.append(quarters.mean(axis=0, dtype=np.float32))
        a, b, c, d = _quarters(peaks[-1], pixels.dtype)
        peaks.append(np.maximum(np.maximum(a, b), np.maximum(c, d)))
    return Pyramid({Reducer.MEAN: tuple(means), Reducer.PEAK: tuple(peaks)})


def _quarters(image: Pixels, dtype: np.dtype[Any]) -> list[Pixels]:
    """Return the four pixels of each group of 2 x 2, as four images."""
    ny, nx = image.shape
    even = np.pad(image, ((0, ny % 2), (0, nx % 2)), mode="edge") if ny % 2 or nx % 2 else image
    return [even[y::2, x::2].astype(dtype, copy=False) for y in (0, 1) for x in (0, 1)]


# --- kept on disk ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class PyramidCache:
    """Pyramids in a folder: the longest unused go when it grows too large.

    Whoever makes one writes it beside the others and renames it, so that nobody sees half of one;
    what is read stays readable when it is removed meanwhile.
    """

    folder: Path
    most_bytes: int = MOST_BYTES

    def find(self, digest: str) -> Pyramid | None:
        """Return the pyramid of an image, mapped into memory; None if it is not kept."""
        place = self._place(digest)
        try:
            depth = len(list(place.glob("mean-*.npy")))
            if not depth:
                return None
            means, peaks = (
                [np.load(place / f"{show}-{k}.npy", mmap_mode="r") for k in range(first, depth)]
                for show, first in ((Reducer.MEAN, 0), (Reducer.PEAK, 1))
            )
            os.utime(place)  # used just now
        except FileNotFoundError:  # another process has made room
            return None
        return Pyramid({Reducer.MEAN: tuple(means), Reducer.PEAK: (means[0], *peaks)})

    def keep(self, digest: str, pixels: Pixels) -> Pyramid:
        """Make an image's pyramid and keep it."""
        made = build(pixels)
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".", dir=self.folder))
        try:
            for show, first in ((Reducer.MEAN, 0), (Reducer.PEAK, 1)):
                for k, level in enumerate(made.levels[show][first:], first):
                    np.save(unfinished / f"{show}-{k}.npy", level)
            if not self._place(digest).exists():
                unfinished.rename(self._place(digest))
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        self._make_room(digest)
        return made

    def _place(self, digest: str) -> Path:
        if not (digest.isalnum() and digest.isascii()):
            raise ValueError(f"expected a digest, got {digest!r:.80}")
        return self.folder / digest

    def _make_room(self, kept: str) -> None:
        """Remove what was not used for longest; never what was made just now."""
        sizes = {place: _bytes_of(place) for place in self.folder.glob("[!.]*")}
        excess = sum(sizes.values()) - self.most_bytes
        for place in sorted(sizes, key=_used_at):
            if excess <= 0:
                return
            if place.name != kept:
                shutil.rmtree(place, ignore_errors=True)  # another process may be faster
                excess -= sizes[place]


def _bytes_of(place: Path) -> int:
    return sum(file.stat().st_size for file in _files(place))


def _files(place: Path) -> Iterator[Path]:
    yield from (file for file in place.glob("*.npy") if file.exists())


def _used_at(place: Path) -> int:
    return place.stat().st_mtime_ns if place.exists() else 0


# --- drawn ----------------------------------------------------------------------------------------


def grey_png(values: Pixels, greys: IntensityScale) -> bytes:
    """Draw part of an image, row 0 at the bottom, as PNG."""
    return _png(Image.fromarray(np.ascontiguousarray(greys.of(values)[::-1])))


def signed_png(values: Floats, reach_adu: float) -> bytes:
    """Draw a difference, row 0 at the bottom: blue below nothing, orange above, as PNG."""
    part = np.nan_to_num(values / reach_adu).clip(-1, 1)
    index = np.asarray(np.rint((part + 1) * 127), np.uint8)  # 127: no difference
    picture = Image.fromarray(np.ascontiguousarray(index[::-1]), "P")
    picture.putpalette(_two_sided())
    return _png(picture)


def heat_png(times: Floats) -> bytes:
    """Draw how odd an image is as a veil to lie over it, clear where it is like good ones."""
    strength = plots.heat(times)[::-1]
    veil = np.empty((*strength.shape, 4), np.uint8)
    veil[..., :3] = plots.HEAT
    veil[..., 3] = np.rint(255 * plots.HEAT_OPACITY * strength)
    return _png(Image.fromarray(veil, "RGBA"))


def _two_sided() -> bytes:
    steps = np.linspace(-1, 1, 255)[:, np.newaxis]
    below, within, above = (np.array(one) for one in (plots.BELOW, plots.WITHIN, plots.ABOVE))
    colours = within + np.where(steps < 0, -steps * (below - within), steps * (above - within))
    return bytes(np.rint(colours).astype(np.uint8).tobytes())


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)  # it is sent once, and waited for
    return buffer.getvalue()
