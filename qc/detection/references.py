"""Reference sets and residual models from measurements."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from embeddings import residual
from qc import core

Floats = NDArray[np.float32]


def make_reference(
    measurements: Sequence[core.Measurement],
    embeddings: Floats,
    *,
    night: date | None = None,
    nights: Sequence[date] | None = None,
    duplicate_of: str = "",
) -> core.Reference:
    """Return the reference set of nominal extensions of one setup.

    Parameters
    ----------
    measurements : sequence of m Measurement
        Nominal extensions, newest first.
    embeddings : (m, d) float32 array
        Their embeddings.
    night : date, optional
        Night of the extension to be judged. With `nights`, the residual model is fitted to the
        references of earlier weeks, as for stored references; else to the newest 100.
    nights : sequence of m date, optional
        Night of each reference.
    duplicate_of : str
        Name of an earlier frame with the pixels of the extension to be judged.

    Returns
    -------
    Reference
        Its `extension_ids` are the indices of the measurements. Its residual model is None with
        fewer than 20 references.
    """
    reference = core.Reference(
        extension_ids=tuple(range(len(measurements))),
        nights=tuple(nights or [date.min] * len(measurements)),
        embeddings=embeddings if len(measurements) else np.empty((0, 0), np.float32),
        metrics=tuple(measurement.metrics for measurement in measurements),
        widened="",
        duplicate_of=duplicate_of,
    )
    if len(measurements) < core.REFERENCE_NEEDED:
        return reference
    indices = reference.select_for_model(night or date.max)
    oldest_first = [measurements[index] for index in reversed(indices)]
    return replace(reference, residual_model=fit_residual_model(oldest_first))


def fit_residual_model(measurements: Sequence[core.Measurement]) -> residual.Expectation:
    """Fit the residual model of a setup.

    The block statistics are taken in stored precision: decision 0091.

    Parameters
    ----------
    measurements : sequence of m Measurement, m >= 2
        Nominal extensions, oldest first; the result depends slightly on their order.

    Returns
    -------
    Expectation
    """
    light = np.stack([measurement.as_stored().above_bias for measurement in measurements])
    return residual.learn_expectation(light, sensor_of(measurements[0]))


def sensor_of(measurement: core.Measurement) -> residual.Sensor:
    """Return the detector properties that turn light into noise."""
    grid = measurement.statistics.shape[0], measurement.statistics.shape[1]
    return residual.Sensor(
        pixels=residual.pixels_per_block(measurement.shape, grid),
        exposed=residual.exposed_share(measurement.light, measurement.shape, grid),
        gain_e_per_adu=measurement.gain_e_per_adu,
        read_noise_adu=measurement.read_noise_adu,
        lit=measurement.promised_light > 0,
    )
