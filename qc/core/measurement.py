"""Measurement of an extension: block statistics and metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embeddings.preprocess import appearance
from qc.core.frame import Region, Setup

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Measurement:
    """Measured values of one extension, without its pixels.

    Attributes
    ----------
    number : int
        HDU number in the file.
    shape : (int, int)
        Rows and columns of the image.
    light : Region
        Light-sensitive region of the image.
    frame_class : str
        ``bias``, ``dark``, ``flat`` or ``arc``.
    zero_adu : float
        Nominal bias level, ADU.
    gain_e_per_adu, read_noise_adu, stretch_adu, promised_light : float
        As in `Extension` and `DetectorProperties`.
    limits : mapping of str to (float, float)
        Absolute limits by metric.
    statistics : (h, w, 3) float32 array
        Mean, standard deviation and maximum of each block, ADU.
    metrics : mapping of str to float
        Values by metric, in the units of `qc.detection.METRICS`.
    pixels_sha256 : str
        Hex digest of the pixels.
    """

    number: int
    setup: Setup
    shape: tuple[int, int]
    light: Region
    frame_class: str
    zero_adu: float
    gain_e_per_adu: float
    read_noise_adu: float
    stretch_adu: float
    promised_light: float
    limits: Mapping[str, tuple[float, float]]
    statistics: Floats
    metrics: Mapping[str, float]
    pixels_sha256: str

    @cached_property
    def appearance(self) -> dict[str, float]:
        """Return header-independent numbers; see `embeddings.preprocess.appearance`."""
        return appearance(self.statistics, self.metrics.get("bias_level", self.zero_adu))

    @property
    def above_bias(self) -> Floats:
        """Return the block statistics above the measured bias level, (h, w, 3), ADU."""
        return above_bias(self.statistics, self.zero_adu, self.metrics)

    def as_stored(self) -> "Measurement":
        """Return the measurement with block statistics in stored precision."""
        zero = level_offsets(self.zero_adu)
        rounded = to_float16(self.statistics - zero).astype(np.float32)
        return replace(self, statistics=rounded + zero)


def above_bias(statistics: Floats, zero_adu: float, metrics: Mapping[str, float]) -> Floats:
    """Subtract the bias level from block statistics.

    Parameters
    ----------
    statistics : (h, w, 3) float32 array
        Block mean, standard deviation and maximum, ADU.
    zero_adu : float
        Nominal bias level, ADU; used without an overscan.
    metrics : mapping of str to float
        Metrics of the extension; ``bias_level`` is the measured level.

    Returns
    -------
    (h, w, 3) float32 array
    """
    return statistics - level_offsets(metrics.get("bias_level", zero_adu))


def level_offsets(level_adu: float) -> Floats:
    """Return the contribution of a level to mean, standard deviation and maximum, (3,), ADU."""
    return np.array([level_adu, 0, level_adu], np.float32)


def to_float16(above_zero_adu: Floats) -> NDArray[np.float16]:
    """Return block statistics in stored precision: float16, limited to its range."""
    largest = np.finfo(np.float16).max
    return above_zero_adu.clip(-largest, largest).astype("<f2")
