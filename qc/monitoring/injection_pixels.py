"""Pixels of an image with an injected fault."""

import numpy as np
from numpy.typing import NDArray

from qc import core, simulator
from qc.monitoring import injection_plan
from qc.monitoring.injection_plan import InjectionTask, NominalImage

Pixels = NDArray[np.uint16]

_SATURATION_ADU = 65535


def inject_fault(
    task: InjectionTask,
    extension: core.Extension,
    donor: core.Extension | None,
    rng: np.random.Generator,
) -> Pixels:
    """Return the pixels of an image with a fault.

    Parameters
    ----------
    task : InjectionTask
    extension : Extension
        Image without the fault.
    donor : Extension or None
        Donor image, if the fault needs one.
    rng : Generator

    Returns
    -------
    (ny, nx) uint16 array
        In ADU.
    """
    pixels = to_counts(extension.pixels)
    if donor is not None and task.kind in injection_plan.OTHER_LIGHT:
        donor_bias_adu = bias_level(task.donor or task.image, donor)
        exposure = np.float32(donor.promised_light or 1)
        light = (donor.pixels.astype(np.float32) - donor_bias_adu) / exposure
        amount = np.float32(simulator.FAULTS[task.kind].amount[task.strength])
        return to_counts(pixels + amount * light)
    if donor is not None:
        return to_counts(donor.pixels)
    if task.kind == injection_plan.WRONG_GAIN:
        return apply_other_gain(task.image, extension, rng)
    return simulator.inject(
        pixels,
        light=extension.light,
        gain_e_per_adu=extension.detector.gain_e_per_adu,
        read_noise_adu=extension.detector.read_noise_adu,
        bias_adu=bias_level(task.image, extension),
        kind=task.kind,
        strength=task.strength,
        rng=rng,
    ).pixels


def bias_level(image: NominalImage, extension: core.Extension) -> float:
    """Return the measured bias level of an image; a nominal one would leave a seam.

    Parameters
    ----------
    image : NominalImage
    extension : Extension

    Returns
    -------
    float
        In ADU.
    """
    return float(image.finding.extension.metrics.get("bias_level", extension.detector.bias_adu))


def apply_other_gain(
    image: NominalImage, extension: core.Extension, rng: np.random.Generator
) -> Pixels:
    """Return the same charge with the gain and bias level of another read mode.

    Parameters
    ----------
    image : NominalImage
    extension : Extension
    rng : Generator

    Returns
    -------
    (ny, nx) uint16 array
        In ADU.
    """
    modes = image.instrument.chips[extension.setup.chip].read_modes
    other_mode = modes[str(rng.choice(image.other_modes))]
    factor = np.float32(extension.detector.gain_e_per_adu / other_mode.gain_e_per_adu)
    above_bias = extension.pixels.astype(np.float32) - np.float32(bias_level(image, extension))
    return to_counts(above_bias * factor + np.float32(other_mode.bias_adu))


def to_counts(adu: NDArray[np.generic]) -> Pixels:
    """Return pixels as 16-bit counts, rounded and clipped."""
    if adu.dtype == np.uint16:
        return np.asarray(adu, np.uint16)
    rounded = np.rint(np.asarray(adu, np.float32))
    return np.clip(rounded, 0, _SATURATION_ADU).astype(np.uint16)
