"""Frame to measurements: block statistics and metrics of each extension."""

import hashlib

import numpy as np

from embeddings.preprocess import GRID, block_statistics
from qc import core, errors
from qc.detection import detector_metrics, spectral_metrics
from qc.detection.light_area import LightArea

MAX_ADU = 1e12  # the square of larger values overflows float32


def measure(frame: core.Frame) -> tuple[core.Measurement, ...]:
    """Measure each extension of a frame.

    Parameters
    ----------
    frame : Frame
        Frame with its pixels.

    Returns
    -------
    tuple of Measurement
        One for each extension.

    Raises
    ------
    FrameError
        If an extension cannot be measured.
    """
    try:
        for extension in frame.extensions:
            check_measurable(extension)
    except errors.FrameError as error:
        raise type(error)(f"{frame.path}: {error}") from None
    return tuple(measure_extension(extension) for extension in frame.extensions)


def check_measurable(extension: core.Extension) -> None:
    """Check that an image has enough pixels and no overflowing values.

    Raises
    ------
    ShapeMismatchError
        If the image has fewer pixels than blocks.
    DeadDetectorError
        If values overflow.
    """
    ny, nx = extension.pixels.shape
    if ny < GRID[0] or nx < GRID[1]:
        raise errors.ShapeMismatchError(
            f"expected at least {GRID[0]}x{GRID[1]} pixels, got {ny}x{nx}"
        )
    highest = max(abs(float(extension.pixels.min())), abs(float(extension.pixels.max())))
    if highest / (extension.promised_light or 1) > MAX_ADU:
        raise errors.DeadDetectorError(
            f"expected pixels of a detector, got up to {highest:.3g} ADU at "
            f"{extension.promised_light:.3g} of the standard exposure"
        )


def measure_extension(extension: core.Extension) -> core.Measurement:
    """Return block statistics and metrics of one extension."""
    return core.Measurement(
        number=extension.number,
        setup=extension.setup,
        shape=extension.pixels.shape,
        light=extension.light,
        frame_class=extension.frame_class,
        zero_adu=extension.detector.bias_adu,
        gain_e_per_adu=extension.detector.gain_e_per_adu,
        read_noise_adu=extension.detector.read_noise_adu,
        stretch_adu=extension.stretch_adu,
        promised_light=extension.promised_light,
        limits=extension.limits,
        statistics=block_statistics(extension.pixels),
        metrics=measure_metrics(extension),
        pixels_sha256=hashlib.sha256(np.ascontiguousarray(extension.pixels).data).hexdigest(),
    )


def measure_metrics(extension: core.Extension) -> dict[str, float]:
    """Measure the metrics of one extension.

    Returns
    -------
    dict of str to float
        Finite values by the names of `METRICS`; metrics without meaning for the frame are absent.
    """
    view = LightArea(extension)
    measures = [
        detector_metrics.measure_levels,
        detector_metrics.count_defects,
        detector_metrics.measure_columns,
        detector_metrics.measure_structure,
        detector_metrics.measure_converter,
        detector_metrics.measure_pattern,
    ]
    if view.lit:
        measures += [
            spectral_metrics.measure_balance,
            spectral_metrics.measure_orders,
            spectral_metrics.measure_lines,
        ]
    else:
        measures.append(detector_metrics.measure_leaks)
    values: dict[str, float] = {}
    for measure_group in measures:
        values |= measure_group(view)
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}
