"""Residual of a frame after subtraction of the reference model: maps, and pattern strengths.

The frames of one setup vary in few ways: the lamp is brighter, the format drifts by a tenth of a
pixel, the bias level wanders. These variations are the first principal components of the
references. The residual of a frame after their subtraction is noise, or a fault.

Shapes: m references; (h, w) blocks of pixels; three maps (block means, standard deviations and
maxima) joined in a vector of p = 3 h w numbers. All ADU are above the zero level.
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

COMPONENTS = 12  # nominal variations; more begin to absorb faults
_REFERENCES_PER_COMPONENT = 4
_FOLDS = 5
_WINSOR = 8.0  # sigma: a cosmic ray in a reference must not become a component
_MOST_STEPS = 12
_SETTLED = 0.5  # sigma of an amplitude: noise alone moves it by one
_LEAST_SCATTER = 0.7  # sigma of photon and read noise: a lower value is chance
_FLAT_ERROR = 0.004  # of the light: best repeatability of a block
_LEAST_STRUCTURE = 0.003  # of the light: best uniformity within a block
_BRIGHT_PART = 0.3  # of the 95 % quantile of the light: blocks above it measure the lamp
_LEAST_LIGHT = 1e-3  # floor of the brightness: a frame without light is still compared
_OUTLIER = 5.0  # sigma
_BOUND = 6.0  # sigma
_IGNORANCE = 20  # with so few references the scatter of a pattern is doubled
_MAPS = ("level", "scatter", "peak")
_PLACES_AT_ONCE = 512  # sorted together


@dataclass(frozen=True)
class Sensor:
    """Noise properties of a detector, per block.

    Attributes
    ----------
    pixels : (h, w) float32 array
        Pixels in each block.
    exposed : (h, w) float32 array
        Share of the pixels that light reaches; 0 in a prescan.
    gain_e_per_adu, read_noise_adu : float
        Electrons per ADU, and ADU.
    lit : bool
        True for lamp frames, which differ in brightness.
    """

    pixels: Floats
    exposed: Floats
    gain_e_per_adu: float
    read_noise_adu: float
    lit: bool


@dataclass(frozen=True)
class Residual:
    """Deviation of a frame from the reference model.

    Attributes
    ----------
    maps : (3, h, w) float32 array
        Residuals of block means, standard deviations and maxima, in units of the references'
        scatter (sigma).
    pattern_scores : mapping of name to float
        Strength of each pattern, in robust standard deviations over held-out references; e.g.
        ``level spot``, ``scatter column``.
    usual_score : float
        Median score of held-out references.
    """

    maps: Floats
    pattern_scores: Mapping[str, float]
    usual_score: float

    @property
    def strongest(self) -> str:
        """Name of the pattern with the highest score."""
        return max(self.pattern_scores, key=lambda name: self.pattern_scores[name])

    @property
    def place(self) -> tuple[int, int]:
        """Row and column of the block at which the strongest pattern peaks."""
        name, shape = self.strongest.split(maxsplit=1)
        residual_map = self.maps[_MAPS.index(name)]
        view = _VIEWS[shape](residual_map, np.clip(residual_map, -_BOUND, _BOUND))
        row, column = np.unravel_index(view.argmax(), view.shape)
        return int(row), int(column)

    @property
    def score(self) -> float:
        """Score of the strongest pattern, in robust standard deviations."""
        return self.pattern_scores[self.strongest]


@dataclass(frozen=True)
class Expectation:
    """Reference model: the expected frame of one setup and its nominal variation.

    Attributes
    ----------
    template : (h, w) float32 array
        Light of each block in a frame of unit brightness, ADU.
    dark : (h, w) float32 array
        Level of each block that does not depend on the brightness, ADU.
    structure : (h, w) float32 array
        Scatter of the light within each block, as a fraction of the light.
    middle : (p,) float32 array
        Median of the references' whitened vectors.
    components : (k, p) float32 array
        Orthonormal directions of nominal variation.
    scatter : (p,) float32 array
        Robust scatter of the residuals of held-out references.
    pattern_middle, pattern_scatter : (patterns,) float64 arrays
        Median and robust scatter of each pattern's strength over held-out references; the
        scatter is widened for a small number of references.
    usual_score : float
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
    usual_score: float

    def residual(self, statistics: Floats) -> Residual:
        """Return the residual of (h, w, 3) block statistics, ADU above the zero level."""
        whitened = _whiten(statistics, self.light_model, self.structure, self.sensor) - self.middle
        remainder = _subtract_components(whitened, self.components) / self.scatter
        maps = remainder.reshape(len(_MAPS), *self.template.shape)
        scores = (pattern_strengths(maps) - self.pattern_middle) / self.pattern_scatter
        pattern_scores = MappingProxyType(dict(zip(PATTERNS, scores, strict=True)))
        return Residual(maps, pattern_scores, self.usual_score)

    @cached_property
    def light_model(self) -> "LightModel":
        """Template and dark level; the template's bright blocks are computed once."""
        return LightModel(self.template, self.dark)


def learn_expectation(references: Floats, sensor: Sensor) -> Expectation:
    """Learn the reference model from the references of one setup.

    Parameters
    ----------
    references : (m, h, w, 3) float array, m >= 2
        Block means, standard deviations and maxima, ADU above the zero level.
    sensor : Sensor
        Noise properties of the detector.

    Returns
    -------
    Expectation

    Raises
    ------
    ValueError
        If there are fewer than two references.
    """
    if len(references) < 2:
        raise ValueError(f"need at least 2 references, got {len(references)}")
    light_model = _fit_light(references[..., 0], sensor)
    structure = _fit_structure(references, light_model, sensor)
    whitened = np.empty((len(references), references[0].size), np.float32)  # (m, p)
    for row, statistics in zip(whitened, references, strict=True):
        row[...] = _whiten(statistics, light_model, structure, sensor)
    del references  # frees a hundred megabytes
    middle = median_of_frames(whitened)
    whitened -= middle
    bounded = np.clip(whitened, -_WINSOR, _WINSOR)
    gram = GramMatrix(bounded, (bounded @ bounded.T).astype(np.float64))
    components = gram.components(np.ones(len(whitened), bool))
    held_out = _hold_out(whitened, gram)  # (m, p)
    del whitened, bounded, gram
    scatter = np.maximum(robust_scatter(held_out), _LEAST_SCATTER).astype(np.float32)
    shape = (len(_MAPS), *structure.shape)
    strengths = np.stack([pattern_strengths((row / scatter).reshape(shape)) for row in held_out])
    pattern_middle = median_of_frames(strengths)
    # Few references agree by chance: the floor depends on the pattern and its strength.
    floor = np.array([_STRENGTH_FLOORS.get(name, 0.3) for _ in _MAPS for name in _VIEWS])
    floor = np.asarray(np.maximum(floor, 0.03 * np.abs(pattern_middle)))
    pattern_scatter = np.maximum(robust_scatter(strengths), floor)
    pattern_scatter *= 1 + _IGNORANCE / len(held_out)
    scores = (strengths - pattern_middle) / pattern_scatter
    return Expectation(
        sensor=sensor,
        template=light_model.template,
        dark=light_model.dark,
        structure=structure,
        middle=middle,
        components=components,
        scatter=scatter,
        pattern_middle=pattern_middle,
        pattern_scatter=pattern_scatter,
        usual_score=float(np.median(scores.max(axis=1))),
    )


def pixels_per_block(shape: tuple[int, int], grid: tuple[int, int]) -> Floats:
    """Count the pixels of each block.

    Parameters
    ----------
    shape : (int, int)
        ny and nx of the image.
    grid : (int, int)
        h and w of the grid of blocks.

    Returns
    -------
    (h, w) float32 array, pixels
    """
    rows, columns = (np.diff(_edges(n, blocks)) for n, blocks in zip(shape, grid, strict=True))
    return np.outer(rows, columns).astype(np.float32)


def exposed_share(
    light: tuple[slice, slice], shape: tuple[int, int], grid: tuple[int, int]
) -> Floats:
    """Return the share of each block that lies within the light-sensitive area.

    Parameters
    ----------
    light : (slice, slice)
        Rows and columns of the light-sensitive area, pixels.
    shape : (int, int)
        ny and nx of the image.
    grid : (int, int)
        h and w of the grid of blocks.

    Returns
    -------
    (h, w) float32 array, 0 to 1
    """
    rows, columns = (
        np.diff(np.clip(_edges(n, blocks), part.start, part.stop)) / np.diff(_edges(n, blocks))
        for part, n, blocks in zip(light, shape, grid, strict=True)
    )
    return np.outer(rows, columns).astype(np.float32)


def _edges(n: int, blocks: int) -> Doubles:
    return np.linspace(0, n, blocks + 1).round()


# --- noise ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LightModel:
    """Expected level of a frame: a template that scales with the brightness, and a dark level.

    Attributes
    ----------
    template : (h, w) float32 array
        Light of each block in a frame of unit brightness, ADU.
    dark : (h, w) float32 array
        Level without light, ADU.
    """

    template: Floats
    dark: Floats

    def brightness(self, mean: Floats) -> float:
        """Return the brightness of (h, w) block means relative to the template.

        Only bright blocks count. In an arc these are the few blocks with a line; the ratio of
        the others is dominated by noise.
        """
        if not self.bright.any():
            return _LEAST_LIGHT
        light = mean[self.bright] - self.dark[self.bright]
        return max(float(np.median(light / self.template[self.bright])), _LEAST_LIGHT)

    @cached_property
    def bright(self) -> NDArray[np.bool_]:
        """True for the blocks that measure the brightness: (h, w)."""
        least = _BRIGHT_PART * float(np.quantile(self.template, 0.95))
        return np.asarray(self.template > max(least, 0))


def _fit_light(means: Floats, sensor: Sensor) -> LightModel:
    """Fit the light model to the (m, h, w) block means of the references."""
    if not sensor.lit:
        level = median_of_frames(means).astype(np.float32)
        return LightModel(level, np.zeros_like(level))
    dark = np.zeros_like(sensor.exposed)
    unexposed = sensor.exposed == 0
    if unexposed.any():
        level = median_of_frames(means[:, unexposed])
        dark = (1 - sensor.exposed) * np.float32(np.median(level))
        dark[unexposed] = level
    means = np.where(sensor.exposed > 0, means - dark, 0)
    first = median_of_frames(means / means.mean(axis=(1, 2), keepdims=True))
    rough = LightModel(first, np.zeros_like(dark))
    brightness = np.array([rough.brightness(mean) for mean in means])
    template = median_of_frames(means / brightness[:, np.newaxis, np.newaxis])
    return LightModel(template.astype(np.float32), dark)


def _expect_light(mean: Floats, model: LightModel, sensor: Sensor) -> tuple[Floats, Floats]:
    """Return the expected level of each block, ADU, and its photon and read-out variance."""
    brightness = model.brightness(mean) if sensor.lit else 1.0
    light: Floats = model.template * np.float32(brightness)
    photons = np.maximum(light, 0) / np.float32(sensor.gain_e_per_adu)
    variance = np.asarray(photons + np.float32(sensor.read_noise_adu**2), np.float32)
    return light + model.dark, variance


def _fit_structure(references: Floats, model: LightModel, sensor: Sensor) -> Floats:
    """Return the scatter within each block that scales with the light, e.g. at order edges."""
    ratios = np.empty(references.shape[:-1], np.float32)
    for ratio, statistics in zip(ratios, references, strict=True):
        light, variance = _expect_light(statistics[..., 0], model, sensor)
        ratio[...] = (statistics[..., 1] ** 2 - variance) / np.maximum(light, 1) ** 2
    return np.asarray(
        np.sqrt(np.maximum(median_of_frames(ratios), _LEAST_STRUCTURE**2)), np.float32
    )


def _whiten(statistics: Floats, model: LightModel, structure: Floats, sensor: Sensor) -> Floats:
    """Return the deviation of (h, w, 3) block statistics from the expected light: (p,).

    The unit is the standard deviation of photon and read noise, so that short and long exposures
    are comparable.
    """
    mean, deviation, peak = np.moveaxis(statistics, -1, 0)
    light, variance = _expect_light(mean, model, sensor)
    level = (mean - light) / np.sqrt(variance / sensor.pixels + (_FLAT_ERROR * light) ** 2)
    spread = variance + (structure * light) ** 2
    ratio = np.log(np.maximum(deviation, 1e-2) ** 2 / spread)
    scatter = np.clip(ratio * np.sqrt(sensor.pixels / 2), -60, 60)
    height = np.clip((peak - light) / np.sqrt(spread), -60, 60)
    return np.concatenate([level.ravel(), scatter.ravel(), height.ravel()]).astype(np.float32)


# --- nominal variation ---------------------------------------------------------------------------


@dataclass(frozen=True)
class GramMatrix:
    """Bounded vectors, (m, p), and their scalar products, (m, m).

    The centred products of any subset follow from these, so each cross-validation fold avoids
    the multiplication of m = 100 vectors of p = 100,000 numbers.
    """

    bounded: Floats
    products: Doubles

    def components(self, chosen: NDArray[np.bool_]) -> Floats:
        """Return the leading principal components of the chosen vectors: (k, p), k <= m / 4."""
        m = int(chosen.sum())
        k = min(COMPONENTS, m // _REFERENCES_PER_COMPONENT)
        products = self.products[np.ix_(chosen, chosen)]
        mean = products.mean(axis=0)
        centred = products - mean - mean[:, np.newaxis] + mean.mean()
        values, vectors = np.linalg.eigh(centred)
        # Eigenvectors of positive eigenvalues are orthogonal to (1, 1, ...): they hold no mean.
        weights = np.zeros((len(chosen), k))
        weights[chosen] = vectors[:, ::-1][:, :k] / np.sqrt(np.maximum(values[::-1][:k], 1e-9))
        return weights.T.astype(np.float32) @ self.bounded


def _subtract_components(whitened: Floats, components: Floats) -> Floats:
    """Subtract the components from (..., p) vectors, robustly against outliers.

    The amplitudes are Huber's M-estimate (1964, Ann. Math. Statist. 35, 73). The bound applies
    to the remainder and not to the vector: at the edges of bright orders a nominal shift of a
    twentieth of a pixel exceeds dozens of sigma.
    """
    remainder = whitened.astype(np.float32)
    for _ in range(_MOST_STEPS):
        step = np.clip(remainder, -_WINSOR, _WINSOR) @ components.T
        remainder -= step @ components
        if np.abs(step).max(initial=0) < _SETTLED:
            break
    return remainder


def _hold_out(whitened: Floats, gram: GramMatrix) -> Floats:
    """Return the residual of each reference with respect to components of the other folds."""
    remainders = np.empty_like(whitened)
    fold = np.arange(len(whitened)) % _FOLDS
    for number in range(min(_FOLDS, len(whitened))):
        components = gram.components(fold != number)
        remainders[number::_FOLDS] = _subtract_components(whitened[number::_FOLDS], components)
    return remainders


def median_of_frames(values: Any) -> Any:
    """Return the median over the first axis.

    Full sorts of rows in memory order are vectorised in NumPy, and five times faster than its
    selection for a hundred float32 values. A few hundred places at a time stay in the cache.
    """
    m, places = len(values), values.reshape(len(values), -1)
    median = np.empty(places.shape[1], values.dtype)
    for start in range(0, len(median), _PLACES_AT_ONCE):
        ordered = places[:, start : start + _PLACES_AT_ONCE].T.copy()
        ordered.sort(axis=-1)
        middle = (ordered[:, (m - 1) // 2] + ordered[:, m // 2]) / 2
        median[start : start + _PLACES_AT_ONCE] = middle
    return median.reshape(values.shape[1:])


def robust_scatter(values: Any) -> Doubles:
    """Return 1.4826 times the median absolute deviation over the first axis."""
    deviations = values - median_of_frames(values)
    return np.asarray(1.4826 * median_of_frames(np.abs(deviations, out=deviations)), np.float64)


# --- patterns ------------------------------------------------------------------------------------

# From a residual map and its bounded copy, in which a lone cosmic ray is no patch, to a map that
# peaks where the pattern is strongest.
View = Callable[[Floats, Floats], Floats]

_COLUMN_PARTS = 8
_NEIGHBOURHOOD = 9  # blocks: width of the window in which outliers are counted
_STRENGTH_FLOORS = {"outliers": 1.0, "dark outliers": 1.0, "power": 1e-3}  # of the scatter


def square_window(width: int) -> View:
    """Return a view that averages over squares, scaled so that noise gives about 1."""
    return lambda _, bounded: np.abs(uniform_filter(bounded, width)) * width


def column_means(bounded: Floats) -> Floats:
    """Replace each (h, w) block by the mean of its column, scaled so that noise gives about 1."""
    mean = np.abs(bounded.mean(axis=0, keepdims=True)) * np.sqrt(len(bounded))
    return np.broadcast_to(mean, bounded.shape)


def local_density(values: NDArray[np.bool_] | Floats) -> Floats:
    """Average (h, w) values over the neighbourhood of each block."""
    return uniform_filter(values.astype(np.float32), _NEIGHBOURHOOD)


def root_of_count(outliers: NDArray[np.bool_]) -> float:
    """Return Anscombe's root of a count, of unit scatter (1948, Biometrika 35, 246)."""
    return 2 * float(np.sqrt(outliers.sum() + 0.375))


_VIEWS: Mapping[str, View] = MappingProxyType(
    {
        "dark block": lambda values, _: -values,  # no cosmic ray makes a block darker
        "spot": square_window(3),
        "cluster": square_window(5),
        "patch": square_window(9),
        "region": square_window(27),
        "column": lambda _, bounded: column_means(bounded),
        "row": lambda _, bounded: column_means(bounded.T).T,
        "part of a column": lambda _, bounded: np.concatenate(
            [column_means(part) for part in np.array_split(bounded, _COLUMN_PARTS)]
        ),
        "power": lambda _, bounded: local_density(bounded**2),
        "outliers": lambda values, _: local_density(np.abs(values) > _OUTLIER),
        "dark outliers": lambda values, _: local_density(values < -_OUTLIER),
    }
)
_TOTALS: Mapping[str, Callable[[Floats, Floats], float]] = MappingProxyType(
    {
        "power": lambda _, bounded: float((bounded**2).mean()),
        "outliers": lambda values, _: root_of_count(np.abs(values) > _OUTLIER),
        "dark outliers": lambda values, _: root_of_count(values < -_OUTLIER),
    }
)
PATTERNS = tuple(f"{name} {shape}" for name in _MAPS for shape in _VIEWS)


def pattern_strengths(maps: Floats) -> Doubles:
    """Return the strength of each pattern in (3, h, w) maps: (patterns,).

    It is the total for patterns that spread over the frame, and the peak for all others.
    """
    strengths = []
    for residual_map in maps:
        bounded = np.clip(residual_map, -_BOUND, _BOUND)
        for shape, view in _VIEWS.items():
            if shape in _TOTALS:
                strengths.append(_TOTALS[shape](residual_map, bounded))
            else:
                strengths.append(float(view(residual_map, bounded).max()))
    return np.array(strengths)
