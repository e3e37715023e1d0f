"""Could anyone have seen a fault at all? Asked of rendered frames, with the fault and without."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.evidence import Record, Sample
from benchmarks.detection.history import Shot, images_of
from qc.io.instrument_parts import ChipNumbers
from qc.simulator import visibility

INVISIBLE = visibility.INVISIBLE
IN_THE_HEADER = {"keyword_missing", "binning_misreported"}  # their pictures are good ones


def signal_to_noise(
    ill: NDArray[np.generic], well: NDArray[np.generic], chip: ChipNumbers
) -> float:
    """Return the signal-to-noise ratio of a matched filter for a fault known exactly.

    Parameters
    ----------
    ill, well : (ny, nx) arrays
        ADU: one exposure with its fault and without, of the same noise.
    """
    return visibility.signal_to_noise(
        ill, well, gain_e_per_adu=chip.gain_e_per_adu, read_noise_adu=chip.read_noise_adu
    )


def of_sample(sample: Sample, shot: Shot, record: Record) -> float:
    """Return the signal-to-noise ratio of an image's fault, rendered again with and without it."""
    assert sample.finding is not None
    number = sample.truth.extension
    ill, well = (images_of(shot, healthy=healthy)[number] for healthy in (False, True))
    return signal_to_noise(ill, well, record.chip_numbers(sample.finding.extension))
