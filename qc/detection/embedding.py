"""Measurements to embeddings."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embeddings.encoder import Encoder
from embeddings.preprocess import STRETCHES, scale_to_standard_light
from qc import core
from qc.errors import ConfigurationError

Floats = NDArray[np.float32]


def embed(measurements: Sequence[core.Measurement], encoder: Encoder) -> Floats:
    """Embed n extensions.

    Parameters
    ----------
    measurements : sequence of n Measurement
    encoder : Encoder

    Returns
    -------
    (n, d) float32 array

    Raises
    ------
    ConfigurationError
        If the encoder returns values that are not finite.
    """
    if not measurements:
        return np.empty((0, 0), np.float32)
    inputs = [network_input(measurement, encoder.stretch) for measurement in measurements]
    embeddings = encoder.embed(np.stack(inputs))
    if not np.isfinite(embeddings).all():
        raise ConfigurationError(
            f"encoder {encoder.fingerprint}: returned an embedding that is not finite; "
            "its weights are damaged, or not for this network"
        )
    return embeddings


def split_by_frame(
    embeddings: Floats, measurements: Sequence[Sequence[core.Measurement]]
) -> list[Floats]:
    """Split the embeddings of a batch into those of each frame.

    Parameters
    ----------
    embeddings : (n, d) float32 array
        Embeddings of all extensions, frame after frame.
    measurements : sequence of sequences of Measurement
        Measurements of each frame.

    Returns
    -------
    list of (k, d) float32 arrays
        One for each frame with k extensions.
    """
    return np.split(embeddings, np.cumsum([len(frame) for frame in measurements])[:-1])


def network_input(measurement: core.Measurement, stretch: str) -> Floats:
    """Return the input of the encoder for one extension.

    Parameters
    ----------
    measurement : Measurement
    stretch : str
        Key of `embeddings.preprocess.STRETCHES`.

    Returns
    -------
    (h, w, 3) float32 array
    """
    statistics = scale_to_standard_light(
        measurement.statistics,
        measurement.metrics.get("bias_level", measurement.zero_adu),
        measurement.promised_light,
    )
    return STRETCHES[stretch](statistics, measurement.zero_adu, measurement.stretch_adu)
