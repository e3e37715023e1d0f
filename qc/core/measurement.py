"""Measurements of an extension and the file that holds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embeddings.preprocess import appearance
from qc.core.frame import Region, Setup

_MOST_DOUBLINGS = 8  # a minute's becomes four hours


@dataclass(frozen=True)
class RetryPolicy:
    """How long a file that failed is tried again: soon, then twice as late each time."""

    first: timedelta = timedelta(minutes=1)
    ends: timedelta = timedelta(hours=48)

    def next_try(self, failed_since: datetime, tries: int, now: datetime) -> datetime | None:
        """Return when to try again after so many tries; None if it has been long enough."""
        if now - failed_since >= self.ends:
            return None
        later = self.first * float(2 ** min(tries - 1, _MOST_DOUBLINGS))
        return min(now + later, max(failed_since + self.ends, now + self.first))


@dataclass(frozen=True)
class FileInfo:
    """A file as the disk shows it, unread."""

    path: Path
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Measurement:
    """What was measured of one extension, its pixels left behind.

    Attributes
    ----------
    light : Region
        The pixels that light can reach.
    statistics : (h, w, 3) float32 array
        Block mean, standard deviation and maximum, ADU.
    pixels_sha256 : str
        Hex digest of the pixels: equal digests, the same read-out.
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
    statistics: NDArray[np.float32]
    metrics: Mapping[str, float]
    pixels_sha256: str

    @cached_property
    def appearance(self) -> dict[str, float]:
        """Return how it looks whatever its header says; see `embeddings.preprocess.appearance`."""
        return appearance(self.statistics, self.metrics.get("bias_level", self.zero_adu))
