"""What a reference's nominal variation cannot explain in a frame: maps, and a number.

The frames of one setup differ from one another in few ways: the lamp is brighter, the format has
drifted a tenth of a pixel, the bias level wanders. Those ways are the first principal components
of the reference. What is left of a frame after them is noise, or something new.

Shapes: m references; (h, w) blocks of pixels; three maps, of the blocks' means, standard
deviations and maxima, one after the other in a vector of p = 3 h w numbers. All ADU are above the
zero level.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

COMPONENTS = 12  # nominal ways to differ; more begin to explain faults away
_REFERENCES_PER_COMPONENT = 4
_FOLDS = 5
_WINSOR = 8.0  # sigma: a cosmic ray in a reference must not become a component
_MOST_STEPS = 12
_SETTLED = 0.5  # sigma of an amplitude: noise alone moves it by one
_LEAST_SCATTER = 0.7  # sigma of photon and read noise: below, luck
_FLAT_ERROR = 0.004  # of the light: how well a block repeats at best
_LEAST_STRUCTURE = 0.003  # of the light: how evenly a block is lit at best
_BRIGHT_PART = 0.3  # of the light that one block in twenty has: bright enough to measure a lamp by
_LEAST_LIGHT = 1e-3  # a frame without light is still compared, as if with a trace of it
_OUTLIER = 5.0  # sigma
_BOUND = 6.0  # sigma
_IGNORANCE = 20  # references: so few, and a pattern must stand out twice as far
_MAPS = ("level", "scatter", "peak")


@dataclass(frozen=True)
class Sensor:
    """What turns light into noise.

    Attributes
    ----------
    pixels : (h, w) float32 array
        Pixels in each block.
    exposed : (h, w) float32 array
        Share of them that light can reach: what a prescan shows does not grow with the lamp.
    gain_e_per_adu, read_noise_adu : float
    lit : bool
        Whether a lamp shines, so that frames differ in brightness.
    """

    pixels: Floats
    exposed: Floats
    gain_e_per_adu: float
    read_noise_adu: float
    lit: bool


@dataclass(frozen=True)
class Residual:
    """What is left of a frame.

    Attributes
    ----------
    maps : (3, h, w) float32 array
        Block means, standard deviations and maxima: the unexplained part, in standard deviations
        of the references' own.
    oddness : mapping of name to float
        How far each pattern stands out, in robust standard deviations of what held-out
        references show; e.g. ``level spot``, ``scatter column``.
    usual : float
        Median score of held-out references.
    """

    maps: Floats
    oddness: Mapping[str, float]
    usual: float

    @property
    def strongest(self) -> str:
        """Name the pattern that stands out most."""
        return max(self.oddness, key=lambda name: self.oddness[name])

    @property
    def place(self) -> tuple[int, int]:
        """Return the block, row and column, where the strongest pattern is strongest."""
        name, shape = self.strongest.split(maxsplit=1)
        one = self.maps[_MAPS.index(name)]
        view = _VIEWS[shape](one, _bounded(one))
        row, column = np.unravel_index(view.argmax(), view.shape)
        return int(row), int(column)

    @property
    def score(self) -> float:
        """Return how far the strongest pattern stands out."""
        return self.oddness[self.strongest]


@dataclass(frozen=True)
class Expectation:
    """What frames of one setup look like, and how they differ when nothing is wrong.

    Attributes
    ----------
    template : (h, w) float32 array
        Light of each block in a frame of unit brightness, ADU.
    dark : (h, w) float32 array
        What each block shows whatever the brightness, ADU.
    structure : (h, w) float32 array
        Scatter of the light within each block, as a part of it.
    middle : (p,) float32 array
        Median of the references' whitened vectors.
    components : (k, p) float32 array
        Orthonormal directions of nominal variation.
    scatter : (p,) float32 array
        What held-out references have left.
    pattern_middle, pattern_scatter : (patterns,) float64 arrays
        Median and robust scatter of each pattern's strength over held-out references; the
        scatter widened by what so few references leave unknown.
    usual : float
        Median score of held-out references.
    """

    sensor: Sensor
    template: Floats
    dark: Floats
    structure: Floats
    middle: Floats
    components: Floats
    scatter: Floats
    pattern_middle: Doubles
    pattern_scatter: Doubles
    usual: float

    def residual(self, statistics: Floats) -> Residual:
        """Return what the expectation cannot explain in (h, w, 3) block statistics."""
        whitened = _whiten(statistics, self._picture, self.structure, self.sensor) - self.middle
        left = _unexplained(whitened, self.components) / self.scatter
        maps = left.reshape(len(_MAPS), *self.template.shape)
        strengths = (_strengths(maps) - self.pattern_middle) / self.pattern_scatter
        oddness = MappingProxyType(dict(zip(PATTERNS, strengths, strict=True)))
        return Residual(maps, oddness, self.usual)

    @cached_property
    def _picture(self) -> "_DesignMatrix":
        return _DesignMatrix(self.template, self.dark)


def learn_expectation(references: Floats, sensor: Sensor) -> Expectation:
    """Learn what is nominal from references alone.

    Parameters
    ----------
    references : (m, h, w, 3) float array, m >= 2
        Block means, standard deviations and maxima, ADU above the zero level.

    Raises
    ------
    ValueError
        If there are fewer than two references.
    """
    if len(references) < 2:
        raise ValueError(f"need at least 2 references, got {len(references)}")
    picture = _picture(references[..., 0], sensor)
    structure = _structure(references, picture, sensor)
    whitened = np.empty((len(references), references[0].size), np.float32)  # (m, p)
    for own, each in zip(whitened, references, strict=True):
        own[...] = _whiten(each, picture, structure, sensor)
    del references  # each of these is a hundred megabytes: no longer than it is needed
    middle = _median(whitened)
    whitened -= middle
    varied = _varied(whitened)
    components = varied.components(np.ones(len(whitened), bool))
    held_out = _held_out(whitened, varied)  # (m, p)
    del whitened, varied
    scatter = np.maximum(_robust_scatter(held_out), _LEAST_SCATTER).astype(np.float32)
    shape = (len(_MAPS), *structure.shape)
    strengths = np.stack([_strengths((each / scatter).reshape(shape)) for each in held_out])
    pattern_middle = _median(strengths)
    pattern_scatter = np.maximum(_robust_scatter(strengths), _least_pattern_scatter(pattern_middle))
    pattern_scatter *= 1 + _IGNORANCE / len(held_out)
    return Expectation(
        sensor=sensor,
        template=picture.template,
        dark=picture.dark,
        structure=structure,
        middle=middle,
        components=components,
        scatter=scatter,
        pattern_middle=pattern_middle,
        pattern_scatter=pattern_scatter,
        usual=float(np.median(((strengths - pattern_middle) / pattern_scatter).max(axis=1))),
    )


def pixels_per_block(shape: tuple[int, int], grid: tuple[int, int]) -> Floats:
    """Return how many pixels of a (ny, nx) image each block of the (h, w) grid holds."""
    rows, columns = (np.diff(_edges(n, blocks)) for n, blocks in zip(shape, grid, strict=True))
    return np.outer(rows, columns).astype(np.float32)


def exposed_share(
    light: tuple[slice, slice], shape: tuple[int, int], grid: tuple[int, int]
) -> Floats:
    """Return the share of each block of the (h, w) grid within the part that light can reach."""
    rows, columns = (
        np.diff(np.clip(_edges(n, blocks), part.start, part.stop)) / np.diff(_edges(n, blocks))
        for part, n, blocks in zip(light, shape, grid, strict=True)
    )
    return np.outer(rows, columns).astype(np.float32)


def _edges(n: int, blocks: int) -> Doubles:
    return np.linspace(0, n, blocks + 1).round()


# --- noise ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _DesignMatrix:
    """What a frame is made of: light that scales with its brightness, and what does not."""

    template: Floats
    dark: Floats

    def brightness(self, mean: Floats) -> float:
        """Return the factor between a frame's light and the template, from its brighter blocks.

        Of an arc those are the few with a line: the rest is noise, whose ratio is anything.
        """
        if not self._bright.any():
            return _LEAST_LIGHT
        light = mean[self._bright] - self.dark[self._bright]
        return max(float(np.median(light / self.template[self._bright])), _LEAST_LIGHT)

    @cached_property
    def _bright(self) -> NDArray[np.bool_]:
        least = _BRIGHT_PART * float(np.quantile(self.template, 0.95))
        return np.asarray(self.template > max(least, 0))


def _picture(means: Floats, sensor: Sensor) -> _DesignMatrix:
    if not sensor.lit:
        level = _median(means).astype(np.float32)
        return _DesignMatrix(level, np.zeros_like(level))
    dark = _dark(means, sensor.exposed)
    means = np.where(sensor.exposed > 0, means - dark, 0)
    first = _median(means / means.mean(axis=(1, 2), keepdims=True))
    rough = _DesignMatrix(first, np.zeros_like(dark))
    brightness = np.array([rough.brightness(each) for each in means])
    template = _median(means / brightness[:, np.newaxis, np.newaxis])
    return _DesignMatrix(template.astype(np.float32), dark)


def _dark(means: Floats, exposed: Floats) -> Floats:
    """Return what blocks show that light cannot reach, and those that it reaches in part."""
    unexposed = exposed == 0
    if not unexposed.any():
        return np.zeros_like(exposed)
    level = _median(means[:, unexposed])
    dark: Floats = (1 - exposed) * np.float32(np.median(level))
    dark[unexposed] = level
    return dark


def _expected(mean: Floats, picture: _DesignMatrix, sensor: Sensor) -> tuple[Floats, Floats]:
    """Return the level expected in each block, ADU, and its variance by photons and read-out."""
    brightness = picture.brightness(mean) if sensor.lit else 1.0
    light: Floats = picture.template * np.float32(brightness)
    photons = np.maximum(light, 0) / np.float32(sensor.gain_e_per_adu)
    variance = np.asarray(photons + np.float32(sensor.read_noise_adu**2), np.float32)
    return light + picture.dark, variance


def _structure(references: Floats, picture: _DesignMatrix, sensor: Sensor) -> Floats:
    """Return how much of each block's scatter grows with the light: slit and order edges do."""
    parts = np.empty(references.shape[:-1], np.float32)
    for part, each in zip(parts, references, strict=True):
        light, variance = _expected(each[..., 0], picture, sensor)
        part[...] = (each[..., 1] ** 2 - variance) / np.maximum(light, 1) ** 2
    return np.asarray(np.sqrt(np.maximum(_median(parts), _LEAST_STRUCTURE**2)), np.float32)


def _whiten(
    statistics: Floats, picture: _DesignMatrix, structure: Floats, sensor: Sensor
) -> Floats:
    """Return how a frame's blocks differ from what light and noise make of the template: (p,).

    In standard deviations of photon and read noise, so that a short exposure and a long one can
    be compared, though the one is noisier.
    """
    mean, deviation, peak = np.moveaxis(statistics, -1, 0)
    light, variance = _expected(mean, picture, sensor)
    level = (mean - light) / np.sqrt(variance / sensor.pixels + (_FLAT_ERROR * light) ** 2)
    spread = variance + (structure * light) ** 2
    ratio = np.log(np.maximum(deviation, 1e-2) ** 2 / spread)
    scatter = np.clip(ratio * np.sqrt(sensor.pixels / 2), -60, 60)
    height = np.clip((peak - light) / np.sqrt(spread), -60, 60)
    return np.concatenate([level.ravel(), scatter.ravel(), height.ravel()]).astype(np.float32)


# --- nominal variation ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _GramMatrix:
    """Vectors bounded, (m, p), and their products with each other, (m, m).

    The products of any of them about their own mean follow from these: so they are multiplied
    once, and not again for each part that is held out. m is a hundred, p a hundred thousand.
    """

    bounded: Floats
    products: Doubles

    def components(self, chosen: NDArray[np.bool_]) -> Floats:
        """Return the leading principal components of those chosen: (k, p), k <= m / 4."""
        m = int(chosen.sum())
        k = min(COMPONENTS, m // _REFERENCES_PER_COMPONENT)
        products = self.products[np.ix_(chosen, chosen)]
        aside = products.mean(axis=0)
        about_mean = products - aside - aside[:, np.newaxis] + aside.mean()
        values, vectors = np.linalg.eigh(about_mean)
        # Those with a value are orthogonal to (1, 1, ...): of the mean nothing is left in them.
        weights = np.zeros((len(chosen), k))
        weights[chosen] = vectors[:, ::-1][:, :k] / np.sqrt(np.maximum(values[::-1][:k], 1e-9))
        return weights.T.astype(np.float32) @ self.bounded


def _varied(whitened: Floats) -> _GramMatrix:
    bounded = np.clip(whitened, -_WINSOR, _WINSOR)
    return _GramMatrix(bounded, (bounded @ bounded.T).astype(np.float64))


def _unexplained(whitened: Floats, components: Floats) -> Floats:
    """Take the components out of vectors of (..., p), so that outliers do not decide how much.

    Huber's M-estimate of the amplitudes (1964, Ann. Math. Statist. 35, 73): what is left is
    bounded, not what was there. At the edges of bright orders a shift of a twentieth of a pixel is
    dozens of sigma, and nominal.
    """
    left = whitened.astype(np.float32)
    for _ in range(_MOST_STEPS):
        step = np.clip(left, -_WINSOR, _WINSOR) @ components.T
        left -= step @ components
        if np.abs(step).max(initial=0) < _SETTLED:
            break
    return left


def _held_out(whitened: Floats, varied: _GramMatrix) -> Floats:
    """Return what is left of each reference when the others alone have made the components."""
    left = np.empty_like(whitened)
    fold = np.arange(len(whitened)) % _FOLDS
    for number in range(min(_FOLDS, len(whitened))):
        components = varied.components(fold != number)
        left[number::_FOLDS] = _unexplained(whitened[number::_FOLDS], components)
    return left


def _median(values: Any) -> Any:
    """Return the median over the first axis.

    By a full sort of rows in memory order, which NumPy has vectorised: five times faster than
    its selection of the middle for a hundred float32 values in each place. A few thousand places
    at once, which stay in the cache while they are turned and sorted.
    """
    m, places = len(values), values.reshape(len(values), -1)
    median = np.empty(places.shape[1], values.dtype)
    for start in range(0, len(median), _PLACES_AT_ONCE):
        ordered = places[:, start : start + _PLACES_AT_ONCE].T.copy()
        ordered.sort(axis=-1)
        middle = (ordered[:, (m - 1) // 2] + ordered[:, m // 2]) / 2
        median[start : start + _PLACES_AT_ONCE] = middle
    return median.reshape(values.shape[1:])


_PLACES_AT_ONCE = 512


def _robust_scatter(values: Any) -> Doubles:
    apart = values - _median(values)
    return np.asarray(1.4826 * _median(np.abs(apart, out=apart)), np.float64)


# --- patterns ------------------------------------------------------------------------------------

# A map as it is, and bounded, to one that is greatest where the pattern is strongest.
View = Callable[[Floats, Floats], Floats]

_COLUMN_PARTS = 8
_NEIGHBOURHOOD = 9  # blocks; where many outliers are close together


def _bounded(one: Floats) -> Floats:
    """Bound a map, so that a lone cosmic ray is not a patch."""
    return np.clip(one, -_BOUND, _BOUND)


def _around(width: int) -> View:
    """Average over squares, times the root of their blocks: noise gives about 1 in each place."""
    return lambda _, bounded: np.abs(uniform_filter(bounded, width)) * width


def _column(bounded: Floats) -> Floats:
    mean = np.abs(bounded.mean(axis=0, keepdims=True)) * np.sqrt(len(bounded))
    return np.broadcast_to(mean, bounded.shape)


def _part_of_column(bounded: Floats) -> Floats:
    return np.concatenate([_column(part) for part in np.array_split(bounded, _COLUMN_PARTS)])


def _density(marked: NDArray[np.bool_] | Floats) -> Floats:
    return uniform_filter(marked.astype(np.float32), _NEIGHBOURHOOD)


_VIEWS: Mapping[str, View] = MappingProxyType(
    {
        "dark block": lambda one, _: -one,  # no cosmic ray makes a block darker
        "spot": _around(3),
        "cluster": _around(5),
        "patch": _around(9),
        "region": _around(27),
        "column": lambda _, bounded: _column(bounded),
        "row": lambda _, bounded: _column(bounded.T).T,
        "part of a column": lambda _, bounded: _part_of_column(bounded),
        "power": lambda _, bounded: _density(bounded**2),
        "outliers": lambda one, _: _density(np.abs(one) > _OUTLIER),
        "dark outliers": lambda one, _: _density(one < -_OUTLIER),
    }
)
_TOTALS: Mapping[str, Callable[[Floats, Floats], float]] = MappingProxyType(
    {
        "power": lambda _, bounded: float((bounded**2).mean()),
        "outliers": lambda one, _: _root_of_count(np.abs(one) > _OUTLIER),
        "dark outliers": lambda one, _: _root_of_count(one < -_OUTLIER),
    }
)
PATTERNS = tuple(f"{name} {shape}" for name in _MAPS for shape in _VIEWS)


def _strengths(maps: Floats) -> Doubles:
    """Return the strength of each pattern in (3, h, w) maps: (patterns,).

    Of most the greatest value anywhere; of those spread over the frame the total.
    """
    both = [(one, _bounded(one)) for one in maps]
    return np.array([_strength(*one, shape) for one in both for shape in _VIEWS])


def _strength(one: Floats, bounded: Floats, shape: str) -> float:
    if shape in _TOTALS:
        return _TOTALS[shape](one, bounded)
    return float(_VIEWS[shape](one, bounded).max())


def _root_of_count(outliers: NDArray[np.bool_]) -> float:
    """Return Anscombe's root (1948, Biometrika 35, 246): a count's scatter becomes 1."""
    return 2 * float(np.sqrt(outliers.sum() + 0.375))


def _least_pattern_scatter(middle: Doubles) -> Doubles:
    """Bound the scatter from below, where few references happen to agree."""
    floors = {"outliers": 1.0, "dark outliers": 1.0, "power": 1e-3}
    floor = np.array([floors.get(shape, 0.3) for _ in _MAPS for shape in _VIEWS])
    return np.asarray(np.maximum(floor, 0.03 * np.abs(middle)))
