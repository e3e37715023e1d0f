"""Things that are wrong in a way no simulated fault is: drawn at random on block statistics.

The look of anomalies is unknown; so shape, place, quantity and strength are drawn apart from
one another, from just visible to gross. In the manner of Zavrtanik et al. 2021 (DRAEM).
Shapes: light is (h, w, 3), block means, standard deviations and maxima in ADU above zero; a mask
is (h, w), 0 to 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

Floats = NDArray[np.float32]
Random = np.random.Generator

_LEAST, _MOST = 0.3, 60.0  # standard deviations of a pixel, spread over many blocks
_GROSS = 3000.0  # in a few blocks


@dataclass(frozen=True)
class Scene:
    """A good image that something is done to.

    Attributes
    ----------
    light : (h, w, 3) float32 array
    other : (h, w, 3) float32 array
        Another image, of another setup perhaps.
    sigma : (h, w) float32 array
        Photon and read noise of one pixel, ADU.
    pixels : float
        Pixels in a block.
    lit : bool
        Whether a lamp shines.
    """

    light: Floats
    other: Floats
    sigma: Floats
    pixels: float
    lit: bool


def spoil(scene: Scene, rng: Random) -> Floats:
    """Return the image with one random anomaly, sometimes two: (h, w, 3) float32."""
    light = _once(scene, rng)
    if rng.random() < 0.2:
        light = _once(Scene(light, scene.other, scene.sigma, scene.pixels, scene.lit), rng)
    return light


def _once(scene: Scene, rng: Random) -> Floats:
    changes = _CHANGES if scene.lit else _CHANGES_IN_THE_DARK
    return changes[int(rng.integers(len(changes)))](scene, rng).astype(np.float32)


# --- masks ---------------------------------------------------------------------------------------


def _mask(shape: tuple[int, int], rng: Random) -> Floats:
    return _MASKS[int(rng.integers(len(_MASKS)))](shape, rng)


def _everywhere(shape: tuple[int, int], rng: Random) -> Floats:
    del rng
    return np.ones(shape, np.float32)


def _cloud(shape: tuple[int, int], rng: Random) -> Floats:
    """Return a smooth random field, sometimes with sharp edges."""
    knots = rng.normal(size=(int(rng.integers(2, 12)), int(rng.integers(2, 12))))
    field = _stretched(knots, shape)
    if rng.random() < 0.5:
        return (field > np.quantile(field, rng.uniform(0.5, 0.95))).astype(np.float32)
    return np.asarray((field - field.min()) / np.ptp(field), np.float32)


def _stretched(knots: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Interpolate between knots."""
    rows, columns = (_weights(n, k) for n, k in zip(shape, knots.shape, strict=True))
    return rows @ knots @ columns.T


def _weights(n: int, knots: int) -> NDArray[np.float64]:
    """Return the weight of each knot at each of n places: (n, knots)."""
    at = np.linspace(0, knots - 1, n)[:, np.newaxis]
    return np.asarray(np.maximum(1 - np.abs(at - np.arange(knots)), 0), np.float64)


def _spot(shape: tuple[int, int], rng: Random) -> Floats:
    y, x = _from_a_point(shape, rng)
    width_y, width_x = np.exp(rng.uniform(np.log(0.6), np.log(shape[0] / 3), 2))
    return np.asarray(np.exp(-((y / width_y) ** 2 + (x / width_x) ** 2) / 2), np.float32)


def _ring(shape: tuple[int, int], rng: Random) -> Floats:
    y, x = _from_a_point(shape, rng)
    radius, width = rng.uniform(3, shape[0] / 3), rng.uniform(1, 6)
    return np.asarray(np.exp(-(((np.hypot(y, x) - radius) / width) ** 2)), np.float32)


def _from_a_point(shape: tuple[int, int], rng: Random) -> list[NDArray[np.float64]]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return [y - rng.uniform(0, shape[0]), x - rng.uniform(0, shape[1])]


def _lines(shape: tuple[int, int], rng: Random) -> Floats:
    """Return a few columns or rows, whole or in part."""
    mask = np.zeros(shape, np.float32)
    across = mask.T if rng.random() < 0.5 else mask
    for _ in range(int(rng.integers(1, 4))):
        column, width = int(rng.integers(across.shape[1])), int(rng.integers(1, 4))
        ends = np.sort(rng.integers(0, len(across) + 1, 2)) if rng.random() < 0.5 else (0, None)
        across[slice(*ends), column : column + width] = 1
    return mask


def _slope(shape: tuple[int, int], rng: Random) -> Floats:
    """Return a ramp, a step or an exponential from one side, at any angle."""
    along = _along(shape, rng)
    kind = rng.integers(3)
    if kind == 0:
        return along.astype(np.float32)
    if kind == 1:
        return (along > rng.uniform(0.1, 0.9)).astype(np.float32)
    reach = np.exp(rng.uniform(np.log(0.02), np.log(0.5)))
    return np.asarray(np.exp(-along / reach), np.float32)


def _along(shape: tuple[int, int], rng: Random) -> NDArray[np.float64]:
    """Return the distance along a random direction, 0 to 1; half of them along a side."""
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.integers(4) * np.pi / 2
    y, x = np.ogrid[: shape[0], : shape[1]]
    along = y * np.sin(angle) + x * np.cos(angle)
    scaled: NDArray[np.float64] = (along - along.min()) / np.ptp(along)
    return scaled


def _waves(shape: tuple[int, int], rng: Random) -> Floats:
    cycles = np.exp(rng.uniform(np.log(2), np.log(shape[0] / 2.5)))
    phase = 2 * np.pi * (cycles * _along(shape, rng) + rng.random())
    return np.asarray(0.5 + 0.5 * np.sin(phase), np.float32)


def _sprinkle(shape: tuple[int, int], rng: Random) -> Floats:
    """Return single blocks, all over or close together."""
    mask = np.zeros(shape, np.float32)
    n = int(np.exp(rng.uniform(0, np.log(200))))
    spread = np.exp(rng.uniform(np.log(1.5), np.log(shape[0])))
    places = rng.uniform(0, shape, 2) + rng.normal(0, spread, (n, 2))
    y, x = np.clip(places.astype(int), 0, np.array(shape) - 1).T
    mask[y, x] = rng.uniform(0.3, 1, n)
    return mask


_Mask = Callable[[tuple[int, int], Random], Floats]
_MASKS: Sequence[_Mask] = (
    _everywhere, _cloud, _cloud, _spot, _spot, _ring, _lines, _slope, _waves, _sprinkle,
)  # fmt: skip


# --- changes -------------------------------------------------------------------------------------


def _strength(mask: Floats, rng: Random) -> float:
    """Draw a strength; a small fault must be stronger to be visible."""
    few = float(np.clip(1 / np.sqrt(mask.sum() + 1), 0, 1))
    least, most = _LEAST * (1 + 10 * few), _MOST * (_GROSS / _MOST) ** few
    return float(np.exp(rng.uniform(np.log(least), np.log(most))))


def _raised(scene: Scene, rng: Random) -> Floats:
    """Add to the level."""
    mask = _mask(scene.light.shape[:2], rng)
    sign = 1 if rng.random() < 0.75 else -1
    return _added(scene.light, sign * _strength(mask, rng) * np.median(scene.sigma) * mask)


def _added(light: Floats, more: Floats) -> Floats:
    changed = light.copy()
    changed[..., 0] += more
    changed[..., 2] += more
    return changed


def _scaled(scene: Scene, rng: Random) -> Floats:
    """Make the light stronger or weaker."""
    mask = _mask(scene.light.shape[:2], rng)
    factor = np.exp(_signed(rng, 0.05, 3) * mask)
    return np.asarray(scene.light * factor[..., np.newaxis], np.float32)


def _signed(rng: Random, least: float, most: float) -> float:
    return float(rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(least), np.log(most))))


def _noisy(scene: Scene, rng: Random) -> Floats:
    """Add noise to every pixel, or take some away."""
    mask = _mask(scene.light.shape[:2], rng)
    more = np.exp(rng.uniform(np.log(0.4), np.log(8))) if rng.random() < 0.8 else -0.5
    changed = scene.light.copy()
    grown = scene.sigma * np.float32(more) * mask
    changed[..., 1] *= 1 + np.float32(more) * mask
    changed[..., 0] += np.abs(grown) * rng.normal(0, 1, mask.shape) / np.sqrt(scene.pixels)
    changed[..., 2] += 2.5 * grown
    return changed


def _spiked(scene: Scene, rng: Random) -> Floats:
    """Raise some pixels of a block far above the others."""
    mask = _mask(scene.light.shape[:2], rng)
    height = mask * np.float32(np.median(scene.sigma) * np.exp(rng.uniform(np.log(8), np.log(5e3))))
    share = np.float32(np.exp(rng.uniform(np.log(1 / scene.pixels), np.log(0.3))))
    level, scatter, peak = np.moveaxis(scene.light, -1, 0)
    spread = np.sqrt(scatter**2 + share * (1 - share) * height**2)
    top = np.maximum(peak, level + height)
    return np.stack([level + share * height, spread, np.where(mask > 0, top, peak)], axis=-1)


def _moved(scene: Scene, rng: Random) -> Floats:
    """Shift the image by a tenth of a block to ten blocks, all of it or a part."""
    angle, far = rng.uniform(0, 2 * np.pi), _signed(rng, 0.1, 10)
    step = (far * np.sin(angle), far * np.cos(angle), 0)
    return _blended(scene, shift(scene.light, step, order=1, mode="nearest"), rng)


def _blurred(scene: Scene, rng: Random) -> Floats:
    """Smear the image along one axis or both."""
    width_y, width_x = np.exp(rng.uniform(np.log(0.3), np.log(4), 2)) * (rng.random(2) < 0.7)
    smeared = gaussian_filter(scene.light, (width_y + 0.2, width_x + 0.2, 0))
    return _blended(scene, smeared, rng)


def _blended(scene: Scene, foreign: Floats, rng: Random) -> Floats:
    if rng.random() < 0.5:
        return foreign
    mask = _mask(scene.light.shape[:2], rng)[..., np.newaxis]
    return (1 - mask) * scene.light + mask * foreign


def _mixed(scene: Scene, rng: Random) -> Floats:
    """Add another image's light, or show it in a part."""
    share = np.exp(rng.uniform(np.log(0.005), 0))
    foreign = np.roll(scene.other, rng.integers(0, 30, 2), axis=(0, 1))
    if rng.random() < 0.5:
        return scene.light + np.float32(share) * foreign
    return _blended(scene, (1 - share) * scene.light + share * foreign, rng)


def _transplanted(scene: Scene, rng: Random) -> Floats:
    """Show one place of the image at another."""
    mask = _mask(scene.light.shape[:2], rng)[..., np.newaxis]
    far = rng.integers(3, scene.light.shape[0] // 2, 2)
    return (1 - mask) * scene.light + mask * np.roll(scene.light, far, axis=(0, 1))


def _flattened(scene: Scene, rng: Random) -> Floats:
    """Change the contrast of bright and dim."""
    middle = max(float(np.median(scene.light[..., 0])), 1.0)
    power = 1 + _signed(rng, 0.03, 0.6)
    ratio = np.maximum(scene.light, 0.1) / middle
    return _blended(scene, np.asarray(middle * ratio**power, np.float32), rng)


def _clipped(scene: Scene, rng: Random) -> Floats:
    """Clip the brightest values."""
    ceiling = np.quantile(scene.light[..., 2], rng.uniform(0.3, 0.98))
    return np.minimum(scene.light, np.float32(ceiling))


_Change = Callable[[Scene, Random], Floats]
_CHANGES_IN_THE_DARK: Sequence[_Change] = (
    _raised, _raised, _raised, _noisy, _noisy, _spiked, _spiked, _mixed, _transplanted,
)  # fmt: skip
_CHANGES: Sequence[_Change] = (
    _raised, _raised, _scaled, _scaled, _scaled, _noisy, _spiked, _spiked, _moved, _moved,
    _blurred, _mixed, _mixed, _transplanted, _flattened, _clipped,
)  # fmt: skip
