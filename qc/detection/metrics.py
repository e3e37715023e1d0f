"""Detector numbers of one extension: what a QC scientist would measure, in ADU of the raw frame.

A number is left out where it has no meaning: no overscan, no overscan ramp; no lamp, no spectral
lines. What counts as light is decided by what the header promises, not by what is seen, so that a
lamp that failed is measured as a lamp.

Speed is part of the contract (a full chip of 4096 x 2148 pixels within 120 ms on one core), so the
full frame is read once, in bands that stay in the processor's cache; counts of single pixels are
exact, while medians, percentiles and spectra come from evenly spaced rows or columns. That is
harmless: a mean over 10^5 pixels of a bias with 2.6 ADU of noise is known to 0.01 ADU, and under
light the sample is the same for every frame of a setup, so that frames remain comparable.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from qc.core.frame import Extension, Region

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint16] | NDArray[np.float32]

CHUNKS = 64  # groups of rows whose mean profile is kept
BANDS = 16  # groups of rows in which a bad column must show up
SAMPLE_PIXELS = 2**17  # enough for any median or percentile, see above
SAMPLE_LINES = 64  # rows or columns looked at for edges and spectral lines
FAINTEST_LIGHT_ADU = 0.1  # a mean below this is no light: keeps logarithms finite
LEAST_CONTINUITY = 0.9  # of neighbouring profiles of orders that a lamp fills
LINE_SIGMA = 10.0  # a spectral line stands this far above its feet
LINE_REACH_PX = 5  # and its feet are this far from its peak
LINE_RANK = 32  # the line whose height stands for the lamp's brightness
FFT_PIXELS = 2**16  # about 30 rows: resolves mains pick-up, which repeats every 2 rows
FFT_SEGMENTS = 8
LINE_PHASE_PERIOD_PX = 32.0  # well above any nominal drift, so that the phase does not wrap
CLUSTER_PX = 16  # side of the square in which hot pixels are counted
TRAIL_PX = 1.0  # from a straight line: hot pixels that one cosmic ray left
FEWEST_REFERENCES = 3  # scatter of fewer is not known


@dataclass(frozen=True)
class Metric:
    """How a number is to be read.

    Attributes
    ----------
    unit : str
        Empty for a pure number.
    meaning : str
        One plain sentence for the report.
    floor : float
        The smallest change that matters physically, in `unit`: the least scatter ever assumed.
    digits : int
        Decimals worth printing.
    """

    unit: str
    meaning: str
    floor: float
    digits: int

    def show(self, value: float) -> str:
        """Write a value with its unit, e.g. ``203.41 ADU``."""
        return f"{value:.{self.digits}f} {self.unit}".rstrip()


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        # It wanders: steps below 1 ADU are normal, those above 5 are faults; 6 sigma are 1.5 ADU.
        "bias_level": Metric("ADU", "Level of the overscan: the zero of the frame.", 0.25, 2),
        "read_noise": Metric(
            "ADU", "Scatter of one overscan pixel, from differences of neighbours.", 0.02, 3
        ),
        "overscan_ramp": Metric(
            "ADU", "Change of the overscan level from the first row to the last.", 0.1, 2
        ),
        "prescan_minus_overscan": Metric(
            "ADU", "Level of the prescan above that of the overscan.", 0.05, 2
        ),
        "light_level": Metric(
            "ADU", "Level of the light-sensitive area of a frame without light, above bias.", 0.1, 2
        ),
        "light_noise": Metric(
            "ADU", "Scatter of one light-sensitive pixel of a frame without light.", 0.02, 3
        ),
        "light_ratio": Metric(
            "dex", "Mean light per promised exposure: did the lamp give what was promised?", 0.01, 3
        ),
        "peak_level": Metric(
            "ADU", "Level above bias that one pixel in 200 exceeds without light.", 0.5, 1
        ),
        "peak_ratio": Metric(
            "dex", "Level that one pixel in 200 exceeds, per promised exposure.", 0.02, 3
        ),
        "saturated_fraction": Metric("", "Share of light-sensitive pixels at the end.", 1e-5, 6),
        "dead_fraction": Metric("", "Share of pixels below half the bias level.", 1e-6, 7),
        "hot_fraction": Metric(
            "", "Share of single pixels far brighter than all their neighbours.", 2e-6, 7
        ),
        "hot_cluster": Metric(
            "pixels", "Most hot pixels close together, in 16 by 16, no trail of one ray.", 0.7, 0
        ),
        "row_structure": Metric(
            "ADU", "Scatter of the row means: horizontal stripes and drifts.", 0.01, 3
        ),
        "column_structure": Metric(
            "ADU", "Scatter of the column means: vertical stripes and glows.", 0.01, 3
        ),
        "column_defect": Metric(
            "ADU", "How far the worst column stands off its neighbours without light.", 0.3, 2
        ),
        "column_contrast": Metric(
            "", "How far the worst column stands off its neighbours, per mean light.", 0.002, 4
        ),
        "defective_columns": Metric(
            "columns", "Number of columns that stand off their neighbours.", 1.0, 0
        ),
        "gradient_x": Metric("ADU", "Rise from the left edge to the right edge.", 0.1, 2),
        "gradient_y": Metric("ADU", "Rise from the bottom edge to the top edge.", 0.1, 2),
        "pattern_noise": Metric(
            "ADU", "Amplitude of the strongest periodic signal in read-out order.", 0.03, 3
        ),
        "bottom_top_ratio": Metric("dex", "Light of the bottom half over the top half.", 0.01, 3),
        "left_right_ratio": Metric("dex", "Light of the left half over the right half.", 0.01, 3),
        "unlit_rows": Metric("", "Share of rows that got no light though others did.", 0.005, 3),
        "order_contrast": Metric(
            "", "Contrast between the spectral orders and the gaps between them.", 0.005, 3
        ),
        "order_spacing": Metric("px", "Dominant distance of one order to the next.", 0.1, 2),
        "order_phase_sine": Metric(
            "px", "Place of the order pattern across the dispersion, sine part.", 0.1, 2
        ),
        "order_phase_cosine": Metric(
            "px", "Place of the order pattern across the dispersion, cosine part.", 0.1, 2
        ),
        "line_count": Metric("lines", "Spectral lines met along 64 columns.", 10.0, 0),
        "line_width": Metric("px", "Median full width of lines at half their height.", 0.02, 2),
        "line_brightness": Metric(
            "dex", "Height of the 32nd brightest line per promised exposure.", 0.02, 3
        ),
        "line_phase_sine": Metric(
            "px", "Place of the line pattern along the dispersion, sine part.", 0.05, 2
        ),
        "line_phase_cosine": Metric(
            "px", "Place of the line pattern along the dispersion, cosine part.", 0.05, 2
        ),
        "sharpness_x": Metric("", "Sharpness of order edges: 1 as sharp as can be.", 0.02, 3),
        "sharpness_y": Metric("", "Sharpness of spectral lines: 1 as sharp as can be.", 0.02, 3),
        "repeated_rows": Metric("", "Share of rows that copy another row.", 1e-4, 5),
        "bit_balance": Metric(
            "",
            "How far the lowest bits of the converter are from being set half the time.",
            0.002,
            4,
        ),
        "distinct_values": Metric(
            "values", "Number of different pixel values seen without light.", 2.0, 0
        ),
    }
)


def measure(extension: Extension) -> dict[str, float]:
    """Measure one extension.

    Returns
    -------
    dict of str to float
        Finite values under names of `METRICS`; what has no meaning for the frame is absent.
    """
    view = _LightArea(extension)
    values = {**_levels(view), **_counts(view), **_columns(view), **_structure(view)}
    values |= {**_converter(view), **_pattern(view)}
    values |= {**_balance(view), **_orders(view), **_lines(view)} if view.lit else _leaks(view)
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def robust_z(value: float, reference: NDArray[np.float64], *, floor: float) -> float:
    """Distance of a value from the median of its reference, in robust standard deviations.

    The scatter is 1.4826 MAD, corrected for small samples (Croux & Rousseeuw 1992), but never
    below `floor`; it is widened by ``sqrt(1 + 1/m)`` because the median itself is uncertain.

    Parameters
    ----------
    reference : (m,) float64 array
    floor : float
        Least scatter assumed, in the unit of `value`; above 0. Without it, a reference of equal
        values would make any change infinite.
    """
    count = len(reference)
    median = np.median(reference)
    mad = np.median(np.abs(reference - median)) * _small_sample_factor(count)
    return float((value - median) / (max(1.4826 * mad, floor) * np.sqrt(1 + 1 / count)))


def z_scores(
    values: Mapping[str, float], references: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Robust z-score of every metric that at least three references have too.

    Parameters
    ----------
    values : mapping of str to float
        As `measure` returns them.
    references : sequence of mappings
        The same of the nominal extensions of the same setup and epoch.
    """
    scores = {}
    for name in values.keys() & METRICS.keys():
        reference = np.array([one[name] for one in references if name in one])
        if len(reference) >= FEWEST_REFERENCES:
            scores[name] = robust_z(values[name], reference, floor=METRICS[name].floor)
    return dict(sorted(scores.items()))


def _small_sample_factor(count: int) -> float:
    """Make the MAD of a few Gaussian values unbiased: Croux & Rousseeuw 1992, COMPSTAT 1, 411."""
    table = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}
    return table.get(count, count / (count - 0.8))


class _LightArea:
    """What several metrics need of an extension, each computed once.

    Attributes
    ----------
    light : (ny, nx) array
        The light-sensitive pixels, ADU as read.
    dark : (ny, k) float32 array or None
        The overscan, or the prescan of a chip without overscan.
    zero_adu, noise_adu : float
        Measured where there is an overscan, else what the instrument file promises.
    lit : bool
        The header promises light.
    """

    def __init__(self, extension: Extension) -> None:
        self.extension = extension
        self.light: Pixels = extension.pixels[extension.light]
        self.dark = self._region(extension.overscan or extension.prescan)
        self.lit = extension.promised_light > 0
        detector = extension.detector
        self.zero_adu = detector.bias_adu if self.dark is None else _clipped_mean(self.dark)
        self.noise_adu = detector.read_noise_adu if self.dark is None else _noise(self.dark)

    def _region(self, region: Region | None) -> Floats | None:
        if region is None:
            return None
        return self.extension.pixels[region].astype(np.float32)

    @cached_property
    def prescan(self) -> Floats | None:
        """The prescan, (ny, k), where the overscan is there to be compared with it."""
        return self._region(self.extension.prescan) if self.extension.overscan else None

    @cached_property
    def sample(self) -> Pixels:
        """Whole rows of the light area, evenly spaced; its statistics are the frame's."""
        return self.light[:: self.light.size // SAMPLE_PIXELS | 1]  # odd: sees odd and even rows

    @cached_property
    def columns(self) -> Floats:
        """Evenly spaced columns of the light area above zero, each one contiguous: (~64, ny)."""
        step = self.light.shape[1] // SAMPLE_LINES | 1
        every = self.light[:, step // 2 :: step].T.astype(np.float32, order="C")
        return every - np.float32(self.zero_adu)

    @cached_property
    def scan(self) -> "_PixelScan":
        """Profiles of the light area at full resolution."""
        return _scan(self.light, self.zero_adu, self.noise_adu)


@dataclass(frozen=True)
class _PixelScan:
    """What one pass over the light area gives.

    Attributes
    ----------
    rows : (ny,) float32 array
        Mean of each row, ADU above zero.
    chunks : (c, nx) float32 array
        Column profile of each of up to 64 groups of rows, ADU above zero.
    hot : (n, 2) int array
        Row and column of each isolated bright pixel.
    """

    rows: Floats
    chunks: Floats
    hot: NDArray[np.int_]


def _scan(light: Pixels, zero_adu: float, noise_adu: float) -> _PixelScan:
    """Read the light area once, in groups of rows that fit in the cache."""
    ny, nx = light.shape
    edges = np.linspace(0, ny, max(1, min(CHUNKS, ny // 4)) + 1).astype(int)
    rows = np.empty(ny, np.float32)
    chunks = np.empty((len(edges) - 1, nx), np.float32)
    hot = []
    for index, (first, last) in enumerate(pairwise(edges)):
        start, stop = max(first - 1, 0), min(last + 1, ny)  # a neighbour on each side
        group = light[start:stop]
        above = group.astype(np.float32)
        above -= np.float32(zero_adu)
        hot.append(np.add(_isolated(group, above, zero_adu, 8 * noise_adu), (start, 0)))
        own = above[first - start : last - start]
        rows[first:last] = own.mean(axis=1)
        chunks[index] = own.mean(axis=0)
    return _PixelScan(rows, chunks, np.concatenate(hot))


def _isolated(group: Pixels, above: Floats, zero_adu: float, excess_adu: float) -> NDArray[np.int_]:
    """Find pixels more than twice as bright as the brightest of their eight neighbours: (n, 2).

    Slit images and order edges are at least as bright on one side, and so are bad columns; most
    of a cosmic ray's trail has a neighbour on the trail.

    Parameters
    ----------
    group : (rows, nx) array
        As read: neighbours are compared in two bytes a pixel, not four.
    above : (rows, nx) float32 array
        The same above zero.
    """
    beside = np.maximum(group[:, :-2], group[:, 2:])
    three = np.maximum(beside, group[:, 1:-1])
    brightest = np.maximum(three[:-2], three[2:])
    np.maximum(brightest, beside[1:-1], out=brightest)
    around = brightest.astype(np.float32)
    around -= np.float32(zero_adu)
    np.maximum(around, np.float32(0), out=around)
    around *= 2
    around += np.float32(excess_adu)
    # Of a flat mask the few that are true are found ten times as fast as of one with rows.
    y, x = np.divmod(np.flatnonzero(above[1:-1, 1:-1] > around), around.shape[1])
    return np.stack([y, x], axis=1) + 1


def _most_crowded(places: NDArray[np.int_], shape: tuple[int, ...]) -> int:
    """Return the greatest number of places, (n, 2), within a square of CLUSTER_PX of the shape.

    Squares overlap by half, so that no cluster is cut by all of them. Of places along one line
    (what is left of a grazing cosmic ray's trail) two count.
    """
    half = CLUSTER_PX // 2
    width = shape[1] // CLUSTER_PX + 2
    most = 0
    for shift in ((0, 0), (0, half), (half, 0), (half, half)):
        y, x = ((places + shift) // CLUSTER_PX).T
        square = y * width + x
        squares, counts = np.unique(square, return_counts=True)  # few of them hold any
        for fullest in np.argsort(counts)[::-1]:
            if counts[fullest] <= most:
                break
            most = max(most, _off_a_line(places[square == squares[fullest]]))
    return most


def _off_a_line(places: NDArray[np.int_]) -> int:
    """Return how many of (n, 2) places there are, two for all that lie along the fullest line."""
    n = len(places)
    if n <= 2 or n > CLUSTER_PX:  # a trail leaves no more isolated pixels than that
        return n
    apart = places - places[:, np.newaxis]  # (n, n, 2)
    length = np.hypot(*np.moveaxis(apart, -1, 0)) + np.eye(n)
    y, x = np.moveaxis(apart / length[..., np.newaxis], -1, 0)
    # From place i, through place j: how far is place k from that line?
    distance = np.abs(
        y[:, :, np.newaxis] * apart[:, np.newaxis, :, 1]
        - x[:, :, np.newaxis] * apart[:, np.newaxis, :, 0]
    )
    on_line = (distance <= TRAIL_PX).sum(axis=2)  # a pair i, i counts every place: not a line
    np.fill_diagonal(on_line, 2)
    return n - int(on_line.max()) + 2


def _levels(view: _LightArea) -> dict[str, float]:
    values = {}
    if view.dark is not None:
        values["bias_level"] = view.zero_adu
        values["read_noise"] = view.noise_adu
        values["overscan_ramp"] = _rise(_group_levels(view.dark))
    if view.prescan is not None:
        values["prescan_minus_overscan"] = _clipped_mean(view.prescan) - view.zero_adu
    return values


def _counts(view: _LightArea) -> dict[str, float]:
    pixels, detector = view.extension.pixels, view.extension.detector
    # The smaller of measured and promised: a frame of zeros must not set its own standard.
    dead_adu = min(view.zero_adu, detector.bias_adu) / 2
    full_adu = detector.saturation_adu
    if np.issubdtype(pixels.dtype, np.integer):  # with a float each pixel would be made one
        dead_adu, full_adu = math.floor(dead_adu), math.ceil(full_adu)
    return {
        "saturated_fraction": np.count_nonzero(view.light >= full_adu) / view.light.size,
        "dead_fraction": np.count_nonzero(pixels <= dead_adu) / pixels.size,
        "hot_fraction": len(view.scan.hot) / view.light.size,
        "hot_cluster": _most_crowded(view.scan.hot, view.light.shape),
        "repeated_rows": _repeated_rows(pixels),
    }


def _repeated_rows(pixels: Pixels) -> float:
    """Share of rows that agree with another in 32 pixels: with read noise, chance never does."""
    step = max(1, pixels.shape[1] // 32)
    few = np.ascontiguousarray(pixels[:, ::step])
    keys = few.view(np.dtype((np.void, few.shape[1] * few.itemsize)))
    return 1 - len(np.unique(keys)) / len(few)


def _columns(view: _LightArea) -> dict[str, float]:
    """Columns that stand off their neighbours over part of their length or all of it.

    Cosmic rays do not count: the median over the chunks of a band leaves few, and without light
    a column must stand off in two bands of sixteen. Under light the edges of orders stand off
    too, but they wander along the chip and a bad column does not: the median over the bands
    tells them apart, and misses columns that are bad in less than half.
    """
    groups = np.array_split(view.scan.chunks, min(BANDS, len(view.scan.chunks)))
    bands = np.stack([_lower_median(group) for group in groups])  # (16, nx)
    apart = _apart_from_neighbours(bands)
    if view.lit:
        stands_off = np.abs(np.median(apart, axis=0))
    else:
        stands_off = np.sort(np.abs(apart), axis=0)[-min(2, len(bands))]
    typical = np.median(stands_off)
    scatter = 1.4826 * np.median(np.abs(stands_off - typical))
    limit = typical + max(8 * scatter, METRICS["column_defect"].floor)
    worst, number = float(stands_off.max()), float(np.count_nonzero(stands_off > limit))
    if not view.lit:
        return {"column_defect": worst, "defective_columns": number}
    light_adu = max(float(bands.mean()), FAINTEST_LIGHT_ADU)  # order edges grow with it
    return {"column_contrast": worst / light_adu, "defective_columns": number}


def _lower_median(group: Floats) -> Floats:
    """Return the median of (c, nx) over c, of an even number the lower of the two in the middle.

    A cosmic ray along a column that ends in the next chunk brightens two of four.
    """
    lower: Floats = np.sort(group, axis=0)[(len(group) - 1) // 2]
    return lower


def _apart_from_neighbours(profiles: Floats) -> Floats:
    """Difference of each column to the median of those 2 and 3 columns away; (b, nx) both."""
    padded = np.pad(profiles, ((0, 0), (3, 3)), mode="reflect")
    nx = profiles.shape[1]
    around = np.stack([padded[:, shift : shift + nx] for shift in (0, 1, 5, 6)])
    around.sort(axis=0)
    apart: Floats = profiles - (around[1] + around[2]) / 2
    return apart


def _structure(view: _LightArea) -> dict[str, float]:
    """Scatter of collapsed profiles; under light only the overscan can show the electronics."""
    if not view.lit:
        rows, columns = view.scan.rows, view.scan.chunks.mean(axis=0)
    elif view.dark is not None:
        rows, columns = view.dark.mean(axis=1), view.dark.mean(axis=0)
    else:
        return {}
    return {"row_structure": _scatter(rows), "column_structure": _scatter(columns)}


def _scatter(profile: Floats) -> float:
    """Take the standard deviation within 2 ADU of the median: ESO's QC1 "structure".

    A profile with nothing there, in two halves of different level say, is taken whole.
    """
    near = profile[np.abs(profile - np.median(profile)) <= 2]
    return float((near if near.size else profile).std(dtype=np.float64))


def _leaks(view: _LightArea) -> dict[str, float]:
    """Of frames without light: what leaked in."""
    pieces = np.array_split(np.median(view.scan.chunks, axis=0), BANDS)
    return {
        "light_level": _clipped_mean(view.sample) - view.zero_adu,
        "peak_level": _peak(view),
        "light_noise": _noise(view.sample.astype(np.float32)),
        "gradient_x": _rise(np.array([np.median(piece) for piece in pieces])),
        "gradient_y": _rise(np.median(view.scan.chunks, axis=1)),
    }


def _peak(view: _LightArea) -> float:
    return float(np.percentile(view.sample, 99.5)) - view.zero_adu


def _converter(view: _LightArea) -> dict[str, float]:
    """Numbers of the analogue-to-digital converter; floats have been through other hands."""
    if not np.issubdtype(view.light.dtype, np.integer):
        return {}
    counts = np.bincount(view.sample.ravel(), minlength=2**16)
    values = {} if view.lit else {"distinct_values": float(np.count_nonzero(counts))}
    # Noise fills a bit evenly only if the bit's period, 2^(bit + 1), is within two sigma.
    bits = int(np.log2(max(2 * view.extension.detector.read_noise_adu, 1)))
    if bits > 0:
        values["bit_balance"] = max(abs(_share_set(counts, bit) - 0.5) for bit in range(bits))
    return values


def _share_set(counts: NDArray[np.int64], bit: int) -> float:
    """Share of pixels whose value has the bit set, from the histogram of values (65536,)."""
    is_set = (np.arange(len(counts)) >> bit) & 1 == 1
    return float(counts[is_set].sum() / counts.sum())


def _pattern(view: _LightArea) -> dict[str, float]:
    """Measure pick-up: under light it can be seen in the prescan and overscan only."""
    segments, seen = _readout_segments(view)
    duty = seen.mean()
    if duty == 0:
        return {}
    window = np.hanning(segments.shape[1]).astype(np.float32)
    power = (np.abs(fft.rfft(segments * window, axis=1)) ** 2).mean(axis=0)
    # Slower than ten rows is drift, which ramps and row structure measure.
    slowest = segments.shape[1] // (10 * view.extension.pixels.shape[1]) + 3
    lobe = np.convolve(power - np.median(power), np.ones(5), mode="same")[slowest:]
    # The main lobe of a Hann window spans five bins; by Parseval, its power is that of the sine.
    energy = max(float(lobe.max()), 0.0) / (len(window) * float(window @ window))
    return {"pattern_noise": 2 * np.sqrt(energy) / float(duty)}


def _readout_segments(view: _LightArea) -> tuple[Floats, NDArray[np.bool_]]:
    """Stretches of pixels in the order in which they were read: rows one after another.

    Returns
    -------
    segments : (s, n) float32 array
        ADU, less the mean of each column (fixed structure is no pick-up); 0 where not `seen`.
    seen : (n,) bool array
        True where the pixels show no light.
    """
    pixels = view.extension.pixels
    ny, nx = pixels.shape
    height = min(ny, -(-FFT_PIXELS // nx))
    number = max(1, min(FFT_SEGMENTS, ny // height))
    starts = np.linspace(0, ny - height, number).astype(int)
    blocks = np.stack([pixels[start : start + height] for start in starts]).astype(np.float32)
    limit = 10 * max(view.noise_adu, 1.0)  # a cosmic ray is no pick-up either
    blocks = np.clip(blocks - np.float32(view.zero_adu), -limit, limit)  # (s, height, nx)
    blocks -= blocks.mean(axis=(0, 1))
    dark = _dark_columns(view.extension) if view.lit else np.ones(nx, bool)
    blocks[:, :, ~dark] = 0
    length = min(FFT_PIXELS, height * nx)
    return blocks.reshape(number, -1)[:, :length], np.tile(dark, height)[:length]


def _dark_columns(extension: Extension) -> NDArray[np.bool_]:
    """Which columns light cannot reach, (nx,)."""
    dark = np.zeros(extension.pixels.shape[1], bool)
    for region in (extension.prescan, extension.overscan):
        if region is not None:
            dark[region[1]] = True
    return dark


def _balance(view: _LightArea) -> dict[str, float]:
    """How much light there is, and where."""
    rows, columns = view.scan.rows, view.scan.chunks.mean(axis=0)
    promised = np.log10(view.extension.promised_light)
    return {
        "light_ratio": _dex(rows.mean(dtype=np.float64)) - promised,
        "peak_ratio": _dex(_peak(view)) - promised,
        "bottom_top_ratio": _ratio_of_halves(rows),
        "left_right_ratio": _ratio_of_halves(columns),
        "unlit_rows": _unlit_rows(rows),
    }


def _dex(light_adu: float) -> float:
    return float(np.log10(max(light_adu, FAINTEST_LIGHT_ADU)))


def _ratio_of_halves(profile: Floats) -> float:
    first, second = np.array_split(profile, 2)
    return _dex(first.mean()) - _dex(second.mean())


def _unlit_rows(rows: Floats) -> float:
    """Share of rows, in groups of about eight, with less than 2 % of the median light."""
    groups = np.array_split(rows, max(1, len(rows) // 8))
    levels = np.array([group.mean() for group in groups])
    return float(np.mean(levels < 0.02 * max(np.median(levels), FAINTEST_LIGHT_ADU)))


def _orders(view: _LightArea) -> dict[str, float]:
    """Describe the pattern of orders across the dispersion, at mid-chip."""
    middle = len(view.scan.chunks) // 2
    profiles = view.scan.chunks[max(middle - 1, 0) : middle + 1]  # (2, nx)
    profile = profiles.mean(axis=0)
    low, high = np.maximum(np.percentile(profile, [5, 95]), FAINTEST_LIGHT_ADU)
    step = len(view.light) // SAMPLE_LINES | 1
    rows = view.light[::step].astype(np.float32) - np.float32(view.zero_adu)
    values = {
        "order_contrast": float((high - low) / (high + low)),
        "sharpness_x": _sharpness(view, rows),
    }
    # The few lines of an arc at mid-chip do not trace its orders: its neighbours differ.
    continuous = _correlation(profiles[0], profiles[-1]) > LEAST_CONTINUITY
    return values | (_order_phase(profile) if continuous else {})


def _correlation(one: Floats, other: Floats) -> float:
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.sqrt(np.dot(one, one) * np.dot(other, other)))
    return float(np.dot(one, other)) / norm if norm > 0 else 0.0


def _order_phase(profile: Floats) -> dict[str, float]:
    """Phase of the dominant period of the orders: moves with them, whatever the lamp's colour.

    A phase in two parts has no jump at the end of the period. A shift by ``d`` pixels changes the
    two parts together by ``d``.
    """
    flat = _without_envelope(profile) * np.hanning(len(profile))
    spectrum = np.fft.rfft(flat)
    power = np.abs(spectrum) ** 2
    power[:4] = 0  # wider than a quarter of the chip is the lamp's envelope
    peak = int(power.argmax())
    around = slice(max(peak - 2, 0), peak + 3)
    if power[around].sum() == 0:
        return {}
    frequency = np.average(np.arange(len(power))[around], weights=power[around])
    scale_px = len(profile) / peak / (2 * np.pi)
    phase = np.angle(spectrum[peak])
    return {
        "order_spacing": len(profile) / float(frequency),
        "order_phase_sine": scale_px * float(np.sin(phase)),
        "order_phase_cosine": scale_px * float(np.cos(phase)),
    }


def _without_envelope(profile: Floats) -> NDArray[np.float64]:
    """Orders to about +1 and gaps to about -1, bright and faint orders alike."""
    width = max(3, len(profile) // 16)  # some two orders
    kernel = np.ones(width) / width
    padded = np.pad(profile.astype(np.float64), (width // 2, width - 1 - width // 2), mode="edge")
    apart = profile - np.convolve(padded, kernel, mode="valid")
    padded = np.pad(np.abs(apart), (width // 2, width - 1 - width // 2), mode="edge")
    return apart / (np.convolve(padded, kernel, mode="valid") + 1)  # 1 ADU: noise stays small


def _lines(view: _LightArea) -> dict[str, float]:
    """Spectral lines along the dispersion: peaks along columns."""
    windows = _line_windows(view)
    values = {"sharpness_y": _sharpness(view, view.columns), "line_count": float(len(windows))}
    if len(windows) < LINE_RANK:
        return values
    height = float(np.partition(windows[:, LINE_REACH_PX], -LINE_RANK)[-LINE_RANK])
    return {
        **values,
        "line_brightness": float(np.log10(height / view.extension.promised_light)),
        "line_width": float(np.median(_widths(windows))),
        **_line_phase(view),
    }


def _line_windows(view: _LightArea) -> Floats:
    """Eleven pixels around each unsaturated line, above its higher foot; (lines, 11), ADU."""
    reach, columns = LINE_REACH_PX, view.columns
    inner = columns[:, reach:-reach]
    foot = np.maximum(columns[:, : -2 * reach], columns[:, 2 * reach :])
    detector = view.extension.detector
    photon_noise = np.maximum(inner, 0) / detector.gain_e_per_adu
    least = LINE_SIGMA * np.sqrt(view.noise_adu**2 + photon_noise)
    line = _is_peak(columns)[:, reach:-reach] & (inner - foot > least)
    line &= inner < detector.saturation_adu - view.zero_adu
    which, where = np.nonzero(line)
    around = where[:, np.newaxis] + np.arange(2 * reach + 1)
    windows: Floats = columns[which[:, np.newaxis], around] - foot[which, where][:, np.newaxis]
    return windows


def _is_peak(lines: Floats) -> NDArray[np.bool_]:
    """Where a pixel is above the one before and not below the one after; (n, ny) both."""
    rises = np.diff(lines, axis=1) > 0
    peak = np.zeros(lines.shape, bool)
    peak[:, 1:-1] = rises[:, :-1] & ~rises[:, 1:]
    return peak


def _widths(windows: Floats) -> Floats:
    """Full width at half maximum, by linear interpolation; (lines,), px."""
    half: Floats = windows[:, LINE_REACH_PX] / np.float32(2)
    right = _half_width(windows[:, LINE_REACH_PX:], half)
    left = _half_width(windows[:, LINE_REACH_PX::-1], half)
    widths: Floats = left + right
    return widths


def _half_width(flank: Floats, half: Floats) -> Floats:
    """Distance from the peak to where the flank (lines, 6) first falls to half."""
    below = (flank <= half[:, np.newaxis]).argmax(axis=1)  # the foot always is
    lines = np.arange(len(flank))
    outer, inner = flank[lines, below], flank[lines, below - 1]
    width: Floats = below.astype(np.float32) - (half - outer) / (inner - outer)
    return width


def _line_phase(view: _LightArea) -> dict[str, float]:
    """Phase of one Fourier component of the line pattern: moves with the lines.

    The pattern has no period of its own, but it is the same in every arc of a setup. Logarithmic,
    so that a few saturated lines do not outweigh all others.
    """
    middle = len(view.columns) // 2
    profile = view.columns[max(middle - 2, 0) : middle + 2].mean(axis=0)
    signal = np.arcsinh(profile / (5 * max(view.noise_adu, 0.1)))
    angle = 2 * np.pi * np.arange(len(signal)) / LINE_PHASE_PERIOD_PX
    phase = np.angle(
        np.sum((signal - signal.mean()) * np.hanning(len(signal)) * np.exp(1j * angle))
    )
    scale_px = LINE_PHASE_PERIOD_PX / (2 * np.pi)
    return {
        "line_phase_sine": scale_px * float(np.sin(phase)),
        "line_phase_cosine": scale_px * float(np.cos(phase)),
    }


def _sharpness(view: _LightArea, lines: Floats) -> float:
    """Variance between pixels 1 apart over that between pixels 4 apart, noise taken off both.

    Near 0 where all is smooth, near 1 where edges are one pixel wide. nan (left out) where there
    is no contrast beyond noise. Independent of the exposure.
    """
    gain = view.extension.detector.gain_e_per_adu
    noise = 2 * (view.noise_adu**2 + max(float(lines.mean()), 0) / gain)
    one = float(np.square(lines[:, 1:] - lines[:, :-1]).mean(dtype=np.float64)) - noise
    four = float(np.square(lines[:, 4:] - lines[:, :-4]).mean(dtype=np.float64)) - noise
    return one / four if four > 3 * noise else np.nan


def _clipped_mean(values: Pixels) -> float:
    """Mean within 5 robust standard deviations of the median."""
    return float(_clipped(values).mean(dtype=np.float64))


def _noise(region: Floats) -> float:
    """Scatter of one pixel from differences along rows: ramps and steps do not count."""
    differences = _clipped(region[:, 1:] - region[:, :-1])
    return float(differences.std(dtype=np.float64) / np.sqrt(2))


def _clipped(values: Pixels) -> Floats:
    """Keep the values within 5 robust standard deviations of the median, 1-D.

    Half an ADU is added to the scatter: the MAD of integers is an integer, and may be 0.
    """
    flat = values.astype(np.float32).ravel()
    median, mad = _median_and_mad(flat)
    kept: Floats = flat[np.abs(flat - median) <= 5 * (1.4826 * mad + 0.5)]
    return kept


def _median_and_mad(flat: Floats) -> tuple[np.float32, np.float32]:
    """Return the median, and the median distance from it; found by counting in steps of one ADU.

    Not so where other values than whole steps occur, or none.
    """
    if flat.size and flat.max() - flat.min() < 2**16:
        lowest = flat.min()
        steps = (flat - lowest).astype(np.int32)
        if (lowest + steps == flat).all():
            counts = np.bincount(steps)
            levels = lowest + np.arange(len(counts), dtype=np.float32)
            median = _median_of_counted(levels, counts)
            apart = np.abs(levels - median)
            order = np.argsort(apart)
            return median, _median_of_counted(apart[order], counts[order])
    median = np.median(flat)
    return median, np.median(np.abs(flat - median))


def _median_of_counted(levels: Floats, counts: NDArray[np.int_]) -> np.float32:
    """Return the median of levels in rising order, each there so many times."""
    until = np.cumsum(counts)
    lower, upper = np.searchsorted(until, [(until[-1] - 1) // 2, until[-1] // 2], side="right")
    return np.float32((levels[lower] + levels[upper]) / 2)


def _group_levels(region: Floats) -> NDArray[np.float64]:
    """Level of each of sixteen groups of rows."""
    groups = np.array_split(region, min(BANDS, len(region)))
    return np.array([_clipped_mean(group) for group in groups])


def _rise(levels: NDArray[np.float64] | Floats) -> float:
    """Rise of the best straight line from the first edge to the last."""
    if len(levels) == 1:
        return 0.0
    slope = np.polyfit(np.arange(len(levels)), levels, 1)[0]
    return float(slope) * len(levels)
