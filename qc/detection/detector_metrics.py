"""Metrics of detector and electronics: levels, defects, structure, converter, pick-up."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from qc import core
from qc.detection import light_area
from qc.detection.metrics import METRICS

BANDS = 16  # groups of rows in which a bad column must appear
FAINTEST_LIGHT_ADU = 0.1  # keeps ratios finite
FFT_PIXELS = 2**16  # about 30 rows: resolves mains pick-up, which repeats every 2 rows
FFT_SEGMENTS = 8
CLUSTER_PX = 16  # side of the square in which hot pixels are counted
TRAIL_PX = 1.0  # distance from a line of hot pixels that one cosmic ray left


def measure_levels(view: light_area.LightArea) -> dict[str, float]:
    """Measure level, noise and ramp of overscan and prescan."""
    values = {}
    if view.dark is not None:
        values["bias_level"] = view.zero_adu
        values["read_noise"] = view.noise_adu
        values["overscan_ramp"] = rise(group_levels(view.dark))
    if view.prescan is not None:
        values["prescan_minus_overscan"] = light_area.clipped_mean(view.prescan) - view.zero_adu
    return values


def count_defects(view: light_area.LightArea) -> dict[str, float]:
    """Count saturated, dead, hot and repeated pixels."""
    pixels, detector = view.extension.pixels, view.extension.detector
    # The smaller of measured and nominal level: a frame of zeros must not set its own limit.
    dead_adu = min(view.zero_adu, detector.bias_adu) / 2
    full_adu = detector.saturation_adu
    if np.issubdtype(pixels.dtype, np.integer):  # a float would convert each pixel
        dead_adu, full_adu = math.floor(dead_adu), math.ceil(full_adu)
    return {
        "saturated_fraction": np.count_nonzero(view.light >= full_adu) / view.light.size,
        "dead_fraction": np.count_nonzero(pixels <= dead_adu) / pixels.size,
        "hot_fraction": len(view.scan.hot) / view.light.size,
        "hot_cluster": largest_cluster(view.scan.hot, view.light.shape),
        "repeated_rows": repeated_rows(pixels),
    }


def largest_cluster(places: NDArray[np.int_], shape: tuple[int, ...]) -> int:
    """Return the largest number of hot pixels in a square of `CLUSTER_PX`: decision 0017.

    Squares overlap by half, so that no cluster is cut by all of them. Pixels along one line, as
    in the trail of a cosmic ray, count as two: decision 0025.

    Parameters
    ----------
    places : (n, 2) int array
        Row and column of each hot pixel.
    shape : tuple of int
        Shape of the light area.

    Returns
    -------
    int
    """
    half = CLUSTER_PX // 2
    width = shape[1] // CLUSTER_PX + 2
    most = 0
    for shift in ((0, 0), (0, half), (half, 0), (half, half)):
        y, x = ((places + shift) // CLUSTER_PX).T
        square = y * width + x
        squares, counts = np.unique(square, return_counts=True)
        for fullest in np.argsort(counts)[::-1]:
            if counts[fullest] <= most:
                break
            most = max(most, count_off_line(places[square == squares[fullest]]))
    return most


def count_off_line(places: NDArray[np.int_]) -> int:
    """Return the number of places, (n, 2); those along the fullest line count as two."""
    n = len(places)
    if n <= 2 or n > CLUSTER_PX:  # a trail leaves no more isolated pixels than that
        return n
    apart = places - places[:, np.newaxis]  # (n, n, 2)
    length = np.hypot(*np.moveaxis(apart, -1, 0)) + np.eye(n)
    y, x = np.moveaxis(apart / length[..., np.newaxis], -1, 0)
    # Distance of place k from the line through places i and j.
    distance = np.abs(
        y[:, :, np.newaxis] * apart[:, np.newaxis, :, 1]
        - x[:, :, np.newaxis] * apart[:, np.newaxis, :, 0]
    )
    on_line = (distance <= TRAIL_PX).sum(axis=2)  # the pair i, i is not a line
    np.fill_diagonal(on_line, 2)
    return n - int(on_line.max()) + 2


def repeated_rows(pixels: light_area.Pixels) -> float:
    """Return the share of rows that equal another row in 32 pixels; noise never does."""
    step = max(1, pixels.shape[1] // 32)
    sample = np.ascontiguousarray(pixels[:, ::step])
    keys = sample.view(np.dtype((np.void, sample.shape[1] * sample.itemsize)))
    return 1 - len(np.unique(keys)) / len(sample)


def measure_columns(view: light_area.LightArea) -> dict[str, float]:
    """Measure columns that differ from their neighbours over part or all of their length.

    The median over the chunks of a band removes cosmic rays. Without light a column must differ
    in two bands of sixteen. Under light the edges of orders differ too, but at different columns
    along the chip: the median over the bands removes them, and columns that are bad in less than
    half of their length.
    """
    groups = np.array_split(view.scan.chunks, min(BANDS, len(view.scan.chunks)))
    bands = np.stack([lower_median(group) for group in groups])  # (16, nx)
    apart = subtract_neighbours(bands)
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


def lower_median(group: light_area.Floats) -> light_area.Floats:
    """Return the median of (c, nx) over c; for even c the lower of the middle values.

    A cosmic ray along a column can brighten two chunks of four.
    """
    lower: light_area.Floats = np.sort(group, axis=0)[(len(group) - 1) // 2]
    return lower


def subtract_neighbours(profiles: light_area.Floats) -> light_area.Floats:
    """Subtract from each column the median of those 2 and 3 columns away, (b, nx)."""
    padded = np.pad(profiles, ((0, 0), (3, 3)), mode="reflect")
    nx = profiles.shape[1]
    around = np.stack([padded[:, shift : shift + nx] for shift in (0, 1, 5, 6)])
    around.sort(axis=0)
    apart: light_area.Floats = profiles - (around[1] + around[2]) / 2
    return apart


def measure_structure(view: light_area.LightArea) -> dict[str, float]:
    """Measure the scatter of row and column means; under light, of the overscan only."""
    if not view.lit:
        rows, columns = view.scan.rows, view.scan.chunks.mean(axis=0)
    elif view.dark is not None:
        rows, columns = view.dark.mean(axis=1), view.dark.mean(axis=0)
    else:
        return {}
    return {"row_structure": _scatter(rows), "column_structure": _scatter(columns)}


def _scatter(profile: light_area.Floats) -> float:
    """Return the standard deviation within 2 ADU of the median: ESO's QC1 "structure".

    Without values there, as for two halves of different level, of the whole profile.
    """
    near = profile[np.abs(profile - np.median(profile)) <= 2]
    return float((near if near.size else profile).std(dtype=np.float64))


def measure_leaks(view: light_area.LightArea) -> dict[str, float]:
    """Measure level, noise and gradients of a frame without light."""
    pieces = np.array_split(np.median(view.scan.chunks, axis=0), BANDS)
    return {
        "light_level": light_area.clipped_mean(view.sample) - view.zero_adu,
        "peak_level": light_area.peak_level(view),
        "light_noise": light_area.pixel_noise(view.sample.astype(np.float32)),
        "gradient_x": rise(np.array([np.median(piece) for piece in pieces])),
        "gradient_y": rise(np.median(view.scan.chunks, axis=1)),
    }


def measure_converter(view: light_area.LightArea) -> dict[str, float]:
    """Measure the analogue-to-digital converter; empty for pixels that are not integers."""
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
    """Return the share of pixels with a bit set, from the histogram of values, (65536,)."""
    is_set = (np.arange(len(counts)) >> bit) & 1 == 1
    return float(counts[is_set].sum() / counts.sum())


def measure_pattern(view: light_area.LightArea) -> dict[str, float]:
    """Measure periodic pick-up noise; under light, in prescan and overscan only."""
    segments, is_dark = readout_segments(view)
    duty = is_dark.mean()
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


def readout_segments(view: light_area.LightArea) -> tuple[light_area.Floats, NDArray[np.bool_]]:
    """Return stretches of pixels in read-out order, rows one after another.

    Returns
    -------
    segments : (s, n) float32 array
        ADU, less the mean of each column; 0 where not `is_dark`.
    is_dark : (n,) bool array
        True for pixels without light.
    """
    pixels = view.extension.pixels
    ny, nx = pixels.shape
    height = min(ny, -(-FFT_PIXELS // nx))
    number = max(1, min(FFT_SEGMENTS, ny // height))
    starts = np.linspace(0, ny - height, number).astype(int)
    blocks = np.stack([pixels[start : start + height] for start in starts]).astype(np.float32)
    limit = 10 * max(view.noise_adu, 1.0)  # limits cosmic rays
    blocks = np.clip(blocks - np.float32(view.zero_adu), -limit, limit)  # (s, height, nx)
    blocks -= blocks.mean(axis=(0, 1))
    dark = dark_columns(view.extension) if view.lit else np.ones(nx, bool)
    blocks[:, :, ~dark] = 0
    length = min(FFT_PIXELS, height * nx)
    return blocks.reshape(number, -1)[:, :length], np.tile(dark, height)[:length]


def dark_columns(extension: core.Extension) -> NDArray[np.bool_]:
    """Return the mask of columns without light, (nx,)."""
    dark = np.zeros(extension.pixels.shape[1], bool)
    for region in (extension.prescan, extension.overscan):
        if region is not None:
            dark[region[1]] = True
    return dark


def group_levels(region: light_area.Floats) -> NDArray[np.float64]:
    """Return the level of each of sixteen groups of rows, ADU."""
    groups = np.array_split(region, min(BANDS, len(region)))
    return np.array([light_area.clipped_mean(group) for group in groups])


def rise(levels: NDArray[np.float64] | light_area.Floats) -> float:
    """Return the rise of the best straight line from the first edge to the last."""
    if len(levels) == 1:
        return 0.0
    slope = np.polyfit(np.arange(len(levels)), levels, 1)[0]
    return float(slope) * len(levels)
