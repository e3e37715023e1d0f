"""Could anyone have seen a fault at all? The signal-to-noise ratio of the best possible search."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.evidence import Record, Sample
from benchmarks.detection.history import Shot, images_of
from qc.instruments import ChipNumbers

Doubles = NDArray[np.float64]

INVISIBLE = 5.0  # sigma, below which even who knows the fault's exact shape and place finds nothing
IN_THE_HEADER = {"keyword_missing", "binning_misreported"}  # their pictures are good ones
_STEP_ADU = 1.5  # the converter rounds: a difference of one step says little of a fault's size
_BLOCK = 16  # pixels; over so many the steps average out


def signal_to_noise(
    ill: NDArray[np.generic], well: NDArray[np.generic], chip: ChipNumbers
) -> float:
    """Return the signal-to-noise ratio of a matched filter for a fault known exactly.

    The root of the sum over pixels of (difference / noise)^2 (Turin 1960, IRE Trans. Inf. Theory
    6, 311), with the photon and read noise of the image without the fault. Where the difference
    is a step of the converter or none, it is first averaged over squares of 16 pixels, within
    which a fault so faint is taken for even. No real search does as well: it knows neither shape
    nor place.

    Parameters
    ----------
    ill, well : (ny, nx) arrays
        ADU: one exposure with its fault and without, of the same noise.
    """
    healthy = well.astype(np.float64)
    difference = ill.astype(np.float64) - healthy
    light = np.maximum(healthy - np.median(healthy[:, -_BLOCK:]), 0)
    variance = light / chip.gain_e_per_adu + chip.read_noise_adu**2
    clear = np.abs(difference) > _STEP_ADU
    strong = (difference[clear] ** 2 / variance[clear]).sum()
    faint, weight = _sums(np.where(clear, 0, difference / variance)), _sums(1 / variance)
    return float(np.sqrt(strong + (faint**2 / weight).sum()))


def _sums(values: Doubles) -> Doubles:
    """Sum over squares; a rest at the upper and right edge is left out."""
    ny, nx = (size // _BLOCK for size in values.shape)
    parts = values[: ny * _BLOCK, : nx * _BLOCK].reshape(ny, _BLOCK, nx, _BLOCK)
    return np.asarray(parts.sum(axis=(1, 3)))


def of_sample(sample: Sample, shot: Shot, record: Record) -> float:
    """Return the signal-to-noise ratio of an image's fault, rendered again with and without it."""
    assert sample.finding is not None
    number = sample.truth.extension
    ill, well = (images_of(shot, healthy=healthy)[number] for healthy in (False, True))
    return signal_to_noise(ill, well, record.chip_numbers(sample.finding.extension))
