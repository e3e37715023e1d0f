"""Metrics of frames with light: balance, orders, spectral lines, sharpness."""

import numpy as np
from numpy.typing import NDArray

from qc.detection.detector_metrics import FAINTEST_LIGHT_ADU
from qc.detection.light_area import SAMPLE_LINES, Floats, LightArea, peak_level

LEAST_CONTINUITY = 0.9  # correlation of neighbouring profiles of orders that a lamp fills
LINE_SIGMA = 10.0  # least height of a spectral line above its feet
LINE_REACH_PX = 5  # distance of the feet from the peak
LINE_RANK = 32  # rank of the line whose height measures the lamp
LINE_PHASE_PERIOD_PX = 32.0  # well above any nominal drift, so that the phase does not wrap


def measure_balance(view: LightArea) -> dict[str, float]:
    """Measure the amount and the distribution of light."""
    rows, columns = view.scan.rows, view.scan.chunks.mean(axis=0)
    expected = np.log10(view.extension.promised_light)
    return {
        "light_ratio": to_dex(rows.mean(dtype=np.float64)) - expected,
        "peak_ratio": to_dex(peak_level(view)) - expected,
        "bottom_top_ratio": ratio_of_halves(rows),
        "left_right_ratio": ratio_of_halves(columns),
        "unlit_rows": unlit_rows(rows),
    }


def to_dex(light_adu: float) -> float:
    """Return the decimal logarithm of a light level, ADU."""
    return float(np.log10(max(light_adu, FAINTEST_LIGHT_ADU)))


def ratio_of_halves(profile: Floats) -> float:
    """Return the ratio of the means of both halves of a profile, dex."""
    first, second = np.array_split(profile, 2)
    return to_dex(first.mean()) - to_dex(second.mean())


def unlit_rows(rows: Floats) -> float:
    """Return the share of rows, in groups of about eight, below 2 % of the median light."""
    groups = np.array_split(rows, max(1, len(rows) // 8))
    levels = np.array([group.mean() for group in groups])
    return float(np.mean(levels < 0.02 * max(np.median(levels), FAINTEST_LIGHT_ADU)))


def measure_orders(view: LightArea) -> dict[str, float]:
    """Describe the pattern of orders across the dispersion, at mid-chip."""
    middle = len(view.scan.chunks) // 2
    profiles = view.scan.chunks[max(middle - 1, 0) : middle + 1]  # (2, nx)
    profile = profiles.mean(axis=0)
    low, high = np.maximum(np.percentile(profile, [5, 95]), FAINTEST_LIGHT_ADU)
    step = len(view.light) // SAMPLE_LINES | 1
    rows = view.light[::step].astype(np.float32) - np.float32(view.zero_adu)
    values = {
        "order_contrast": float((high - low) / (high + low)),
        "sharpness_x": measure_sharpness(view, rows),
    }
    # Neighbouring profiles of an arc differ: its few lines at mid-chip do not trace the orders.
    continuous = correlate(profiles[0], profiles[-1]) > LEAST_CONTINUITY
    return values | (order_phase(profile) if continuous else {})


def correlate(first: Floats, second: Floats) -> float:
    """Return the correlation coefficient of two profiles.

    Parameters
    ----------
    first, second : (n,) float32 array

    Returns
    -------
    float
        0 for a constant profile.
    """
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt(np.dot(first, first) * np.dot(second, second)))
    return float(np.dot(first, second)) / norm if norm > 0 else 0.0


def order_phase(profile: Floats) -> dict[str, float]:
    """Measure spacing and phase of the orders, independent of the lamp's colour.

    Sine and cosine of the phase have no jump at the end of the period. A shift by ``d`` pixels
    changes both together by ``d``.
    """
    flat = remove_envelope(profile) * np.hanning(len(profile))
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


def remove_envelope(profile: Floats) -> NDArray[np.float64]:
    """Scale bright and faint orders to about +1 and gaps to about -1, (n,)."""
    width = max(3, len(profile) // 16)  # some two orders
    kernel = np.ones(width) / width
    padded = np.pad(profile.astype(np.float64), (width // 2, width - 1 - width // 2), mode="edge")
    apart = profile - np.convolve(padded, kernel, mode="valid")
    padded = np.pad(np.abs(apart), (width // 2, width - 1 - width // 2), mode="edge")
    return apart / (np.convolve(padded, kernel, mode="valid") + 1)  # 1 ADU limits noise


def measure_lines(view: LightArea) -> dict[str, float]:
    """Measure spectral lines along the dispersion: peaks along columns."""
    windows = line_windows(view)
    values = {
        "sharpness_y": measure_sharpness(view, view.columns),
        "line_count": float(len(windows)),
    }
    if len(windows) < LINE_RANK:
        return values
    height = float(np.partition(windows[:, LINE_REACH_PX], -LINE_RANK)[-LINE_RANK])
    return {
        **values,
        "line_brightness": float(np.log10(height / view.extension.promised_light)),
        "line_width": float(np.median(line_widths(windows))),
        **line_phase(view),
    }


def line_windows(view: LightArea) -> Floats:
    """Return 11 pixels around each unsaturated line above its higher foot, (lines, 11), ADU."""
    reach, columns = LINE_REACH_PX, view.columns
    inner = columns[:, reach:-reach]
    foot = np.maximum(columns[:, : -2 * reach], columns[:, 2 * reach :])
    detector = view.extension.detector
    photon_noise = np.maximum(inner, 0) / detector.gain_e_per_adu
    least = LINE_SIGMA * np.sqrt(view.noise_adu**2 + photon_noise)
    line = find_peaks(columns)[:, reach:-reach] & (inner - foot > least)
    line &= inner < detector.saturation_adu - view.zero_adu
    column, row = np.nonzero(line)
    around = row[:, np.newaxis] + np.arange(2 * reach + 1)
    windows: Floats = columns[column[:, np.newaxis], around] - foot[column, row][:, np.newaxis]
    return windows


def find_peaks(lines: Floats) -> NDArray[np.bool_]:
    """Return the mask of local maxima along rows, (n, ny)."""
    rises = np.diff(lines, axis=1) > 0
    peak = np.zeros(lines.shape, bool)
    peak[:, 1:-1] = rises[:, :-1] & ~rises[:, 1:]
    return peak


def line_widths(windows: Floats) -> Floats:
    """Return the full width at half maximum by linear interpolation, (lines,), px."""
    half: Floats = windows[:, LINE_REACH_PX] / np.float32(2)
    right = _half_width(windows[:, LINE_REACH_PX:], half)
    left = _half_width(windows[:, LINE_REACH_PX::-1], half)
    widths: Floats = left + right
    return widths


def _half_width(flank: Floats, half: Floats) -> Floats:
    """Return the distance from the peak at which a flank, (lines, 6), first falls to half."""
    below = (flank <= half[:, np.newaxis]).argmax(axis=1)  # the foot always is below
    lines = np.arange(len(flank))
    outer, inner = flank[lines, below], flank[lines, below - 1]
    width: Floats = below.astype(np.float32) - (half - outer) / (inner - outer)
    return width


def line_phase(view: LightArea) -> dict[str, float]:
    """Measure the phase of one Fourier component of the line pattern.

    The pattern has no period, but is the same in every arc of a setup. The scale is logarithmic,
    so that saturated lines do not dominate.
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


def measure_sharpness(view: LightArea, lines: Floats) -> float:
    """Return the variance between pixels 1 apart over that between pixels 4 apart.

    Photon and read noise are subtracted, so that the ratio is independent of the exposure.

    Parameters
    ----------
    view : LightArea
    lines : (n, k) float32 array
        Rows or columns above the bias level, ADU.

    Returns
    -------
    float
        About 0 for smooth images, about 1 for edges of one pixel; nan without contrast.
    """
    gain = view.extension.detector.gain_e_per_adu
    noise = 2 * (view.noise_adu**2 + max(float(lines.mean()), 0) / gain)
    near = float(np.square(lines[:, 1:] - lines[:, :-1]).mean(dtype=np.float64)) - noise
    far = float(np.square(lines[:, 4:] - lines[:, :-4]).mean(dtype=np.float64)) - noise
    return near / far if far > 3 * noise else np.nan
