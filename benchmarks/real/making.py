"""More frames than were taken, of real pixels.

Two ways. A frame without light is its slow drift and fixed pattern, which stay where they are,
and its noise, with the cosmic rays, which is moved to another place. A frame with light is divided
into many short exposures whose noise is independent: the counts of each pixel are distributed
over them. The shape of the spectrum, the flat field, the lines, the trails of bright columns stay
as they are. Pixels are in ADU, shapes (ny, nx).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, gaussian_filter1d, label, shift, spline_filter

from benchmarks.real.archive import RealFrame

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Image = NDArray[np.uint16]

_SMOOTH_PX = 64.0  # longer than any pattern that is fixed, shorter than the drift of the level
_BANDS = 16
_SIGNIFICANT = 5.0  # sigma; a larger excess in the median of several frames is fixed
_HIT_SIGMA = 8.0
_MEDIAN_NOISE = 1.25  # of a median, in units of that of a mean


@dataclass(frozen=True)
class MadeImage:
    """An image, and where it is from.

    Attributes
    ----------
    source : str
        The real frame.
    part : int
        Which of the images made of it; 0 is the frame itself where `is_real`.
    """

    source: RealFrame
    part: int
    pixels: Image
    exposure_s: float
    is_real: bool = False


# --- without light -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Anatomy:
    """A frame without light, taken apart.

    Attributes
    ----------
    drift : (ny, nx) float32 array
        The level and how it drifts, smooth.
    columns : (1, nx) float32 array
        Mean of each column above the drift.
    noise : (ny, nx) float32 array
        The rest, cosmic rays included; of fixed defects only noise.
    defects : (ny, nx) float32 array
        Excess of fixed defects above the drift; 0 elsewhere.
    """

    frame: RealFrame
    drift: Floats
    columns: Floats
    noise: Floats
    defects: Floats


def find_fixed(frames: Sequence[RealFrame]) -> Flags:
    """Return which pixels and columns stand out in the median of several frames: (ny, nx)."""
    middle = np.median([frame.pixels for frame in frames], axis=0)
    noise_adu = frames[0].noise_adu * _MEDIAN_NOISE / np.sqrt(len(frames))
    apart = middle - _drift(middle, noise_adu)
    limit = _SIGNIFICANT * noise_adu
    fixed: Flags = np.abs(apart) > limit
    bands = np.array_split(np.clip(apart, -limit, limit), _BANDS)
    for band, rows in zip(bands, np.array_split(np.arange(len(fixed)), _BANDS), strict=True):
        fixed[rows] |= np.abs(band.mean(axis=0)) > limit / np.sqrt(len(band))
    return fixed


def _drift(pixels: Floats, noise_adu: float) -> Floats:
    """Return the level as it drifts along rows and columns: (ny, nx)."""
    middle, reach = np.median(pixels), 4 * noise_adu + 10
    bounded = np.clip(pixels - middle, -reach, reach)
    down, across = (
        gaussian_filter1d(bounded.mean(axis=axis), _SMOOTH_PX, mode="nearest") for axis in (1, 0)
    )
    level = middle - bounded.mean()
    return np.asarray(level + down[:, np.newaxis] + across, np.float32)


def dissect(frame: RealFrame, fixed: Flags, rng: np.random.Generator) -> Anatomy:
    """Take a frame without light apart."""
    drift = _drift(frame.pixels, frame.noise_adu)
    apart = frame.pixels - drift
    free = ~fixed & (np.abs(apart) < _HIT_SIGMA * frame.noise_adu)
    sums = np.where(free, apart, 0).sum(axis=0, keepdims=True)
    columns = (sums / np.maximum(free.sum(axis=0, keepdims=True), 1)).astype(np.float32)
    noise = apart - columns
    noise[fixed] = rng.choice(noise[~fixed], np.count_nonzero(fixed))
    return Anatomy(frame, drift, columns, noise, np.where(fixed, apart - columns, 0))


def rearrange(
    anatomy: Anatomy, drift: Floats, columns: Floats, part: int, rng: np.random.Generator
) -> MadeImage:
    """Make a frame whose noise lies elsewhere than in the real one, and nothing else does."""
    ny, nx = anatomy.noise.shape
    shift = int(rng.integers(1, ny)), int(rng.integers(1, nx))
    moved = np.where(anatomy.defects, 0, np.roll(anatomy.noise, shift, (0, 1)))
    pixels = drift + columns + moved + anatomy.defects
    return MadeImage(anatomy.frame, part, _digitized(pixels), anatomy.frame.exposure_s)


def drift_between(
    drifts: Sequence[Floats], first: Floats | None, number: int, rng: np.random.Generator
) -> Floats:
    """Draw a drift that the series might have shown.

    On the line through those of two frames, as far beyond them as makes its variance that of the
    series (7/6 of it).

    Parameters
    ----------
    first : array or None
        Drift of the first of a set, which every fifth frame is.
    """
    item, second = (drifts[i] for i in rng.permutation(len(drifts))[:2])
    reach = rng.uniform(-0.5, 1.5)
    if first is not None and number % _SET == 0:
        second, reach = first, rng.uniform(0.7, 1.3)
    between: Floats = item + np.float32(reach) * (second - item)
    return between


_SET = 5


# --- with light ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hits:
    """Cosmic rays cut out of real frames.

    Attributes
    ----------
    stamps : sequence of (h, w) float32 arrays
        Electrons.
    per_pixel : float
        How many a frame has.
    """

    stamps: Sequence[Floats]
    per_pixel: float


def find_hits(anatomies: Sequence[Anatomy]) -> Hits:
    """Remove excesses above the noise that are not fixed."""
    stamps = []
    for anatomy in anatomies:
        limit = _HIT_SIGMA * anatomy.frame.noise_adu
        regions, _ = label(anatomy.noise > limit / 2, np.ones((3, 3)))
        boxes = find_objects(regions)
        cut = [np.where(regions[box] == i, anatomy.noise[box], 0) for i, box in enumerate(boxes, 1)]
        stamps += [item * gain_of(anatomy.frame) for item in cut if item.max() > limit]
    return Hits(stamps, len(stamps) / sum(anatomy.noise.size for anatomy in anatomies))


@dataclass(frozen=True)
class Wander:
    """How exposures of a series differ though nothing is wrong, standard deviations.

    Attributes
    ----------
    level_adu : float
        Of the bias level.
    shift_px : (float, float)
        Of the image's place, in rows and columns: the spectrograph bends.
    """

    level_adu: float = 0.0
    shift_px: tuple[float, float] = (0.0, 0.0)


def wander_of(levels_adu: Sequence[float], frames: Sequence[RealFrame]) -> Wander:
    """Measure it: of two numbers, the standard deviation is their distance by the root of two."""
    level_adu = float(np.std(levels_adu, ddof=1)) if len(levels_adu) > 1 else 0.0
    if len(frames) != 2:
        return Wander(level_adu)
    y, x = np.abs(displacement(*(frame.pixels for frame in frames))) / np.sqrt(2)
    return Wander(level_adu, (float(y), float(x)))


def displacement(item: Floats, second: Floats) -> tuple[float, float]:
    """Return the shift of the second image in rows and columns, by least squares.

    For shifts within the width of a line; brightness and background may differ.
    """
    down, across = np.gradient(item)
    terms = np.stack([item, -down, -across, np.ones_like(item)], axis=-1).reshape(-1, 4)
    factor, y, x, _ = np.linalg.lstsq(terms.astype(np.float64), second.ravel())[0]
    return float(y / factor), float(x / factor)


def gain_of(frame: RealFrame) -> np.float32:
    """Return electrons per ADU."""
    return np.float32(frame.extension.detector.gain_e_per_adu)


def split(
    frame: RealFrame, parts: int, wander: Wander, hits: Hits, rng: np.random.Generator
) -> list[MadeImage]:
    """Divide an exposure into shorter ones of unequal length whose noise is independent.

    A pixel of ``x`` electrons and variance ``v`` (photons and read-out) gives to each part its
    share ``p x`` and Gaussian noise of covariance ``v (p_j [j = k] - p_j p_k)``, which makes the
    parts' own covariance zero and their variance ``p v``: data fission (Leiner et al. 2023, JASA
    120, 135). The read noise that a share then lacks is drawn, and each part gets cosmic rays.
    Each is displaced as the spectrograph bends: only its share, so that no noise is smoothed that
    is not a few per cent of its own.
    """
    gain, noise_e = gain_of(frame), np.float32(frame.noise_adu * gain_of(frame))
    light = (frame.pixels - np.float32(frame.zero_adu)) * gain
    spread = np.sqrt(np.maximum(light, 0) + noise_e**2)
    shares = rng.uniform(0.7, 1.3, parts).astype(np.float32)
    shares /= shares.sum()
    noises = rng.standard_normal((parts, *light.shape), np.float32)
    noises *= np.sqrt(shares)[:, np.newaxis, np.newaxis]
    rest = light - spread * noises.sum(axis=0)
    spline = spline_filter(rest, output=np.float32) if any(wander.shift_px) else rest
    created = []
    for part, (share, noise) in enumerate(zip(shares, noises, strict=True)):
        lacking = rng.standard_normal(light.shape, np.float32) * noise_e * np.sqrt(1 - share)
        electrons = share * _displaced(spline, wander.shift_px, rng) + spread * noise + lacking
        _strike(electrons, hits, rng)
        zero_adu = np.float32(rng.normal(frame.zero_adu, wander.level_adu))
        pixels = _digitized(electrons / gain + zero_adu)
        created.append(MadeImage(frame, part, pixels, frame.exposure_s * float(share)))
    return created


def _displaced(spline: Floats, shift_px: tuple[float, float], rng: np.random.Generator) -> Floats:
    """Draw where the image lies; `spline` holds its coefficients, or itself if it cannot move."""
    if not any(shift_px):
        return spline
    move = rng.normal(0, shift_px)
    moved: Floats = shift(spline, move, mode="nearest", prefilter=False)
    return moved


def _strike(electrons: Floats, hits: Hits, rng: np.random.Generator) -> None:
    """Add real cosmic rays, in place."""
    for _ in range(rng.poisson(hits.per_pixel * electrons.size)):
        stamp = hits.stamps[int(rng.integers(len(hits.stamps)))]
        y, x = (int(rng.integers(n - m)) for n, m in zip(electrons.shape, stamp.shape, strict=True))
        electrons[y : y + stamp.shape[0], x : x + stamp.shape[1]] += stamp


def as_taken(frame: RealFrame) -> MadeImage:
    """Return the real frame itself."""
    return MadeImage(frame, 0, _digitized(frame.pixels), frame.exposure_s, is_real=True)


def _digitized(adu: Floats) -> Image:
    return np.clip(np.rint(adu), 0, np.iinfo(np.uint16).max).astype(np.uint16)
