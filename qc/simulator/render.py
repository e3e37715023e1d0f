"""One exposure from the lamp to the 16-bit image, with or without a fault."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from qc.simulator import arc_lines, detector, faults, plan, spectrograph
from qc.simulator.instrument_state import InstrumentState
from qc.simulator.pixel_faults import PIXEL_FAULTS

_GRATING_REPEAT_PX = 0.03  # a setting returns to within 1/20 px (UVES User Manual P110.1)
_LAMP_REPEAT = 0.008
_BIAS_REPEAT_ADU = 0.08
_OTHER_GAIN = {
    "225kHz low": "50kHz high",
    "50kHz high": "225kHz low",
    "625kHz low": "50kHz high",
}
_OTHER_LAMP = {"FFL1": "FFL4", "FFL2": "FFL4", "FFL3": "FFL1", "FFL4": "FFL2", "D2": "FFL2"}
_NEAR_SETTING = {
    346: 390, 390: 437, 437: 390, 520: 564, 564: 580, 580: 564, 600: 580, 760: 860, 860: 760,
}  # fmt: skip
_FAR_SETTING = {
    346: 437, 390: 346, 437: 346, 520: 860, 564: 860, 580: 860, 600: 760, 760: 564, 860: 580,
}  # fmt: skip
_MISLABELLED_AS = {"flat": "arc", "dflat": "arc", "orderdef": "arc"}  # for all others a flat


@dataclasses.dataclass(frozen=True)
class _ChipExposure:
    """Exposure, state and optics of one chip."""

    exposure: plan.PlannedExposure
    state: InstrumentState
    chip: str
    optics: spectrograph.Optics
    setting_nm: int

    @property
    def lamp(self) -> str:
        """Lamp of the exposure."""
        lamp = self.exposure.lamp
        assert lamp is not None
        return lamp

    def standard_s(self, lamp: str) -> float:
        """Return the exposure time of a lamp for a peak of 30 000 ADU in this read-out mode."""
        seconds = spectrograph.standard_exposure_s(self.setting_nm, lamp)
        fast = self.exposure.stream.read_mode == "50kHz high"
        return seconds / plan.HIGH_GAIN_FASTER if fast else seconds

    def illuminate(self, lamp: str, exposure_s: float, thorium: float = 1.0) -> detector.Electrons:
        """Return the expected electrons of a lamp in the light-sensitive area.

        Parameters
        ----------
        lamp : str
            Key of `LAMPS`.
        exposure_s : float
        thorium : float
            Brightness of the thorium lines, 1 for a new lamp.

        Returns
        -------
        (ny, nx) float32 array
        """
        binning = self.exposure.stream.binning
        if lamp == "ThAr":
            rate = arc_lines.arc(self.setting_nm, self.chip, binning, self.optics, thorium)
        else:
            rate = spectrograph.flat(self.setting_nm, self.chip, binning, lamp, self.optics)
        rate *= np.float32(exposure_s * self.state.lamp_output[lamp])
        rate *= detector.sensitivity(self.chip, binning)
        return rate


def render(
    exposure: plan.PlannedExposure,
    state: InstrumentState,
    rng: np.random.Generator,
    fault: faults.InjectedFault | None = None,
) -> dict[int, detector.Pixels]:
    """Return the raw images of one exposure by HDU number.

    Parameters
    ----------
    exposure : PlannedExposure
    state : InstrumentState
    rng : Generator
    fault : InjectedFault or None
        With the same generator, the frame differs from the nominal one by the fault only.

    Returns
    -------
    dict of int to (ny, nx) uint16 array
        ADU; 0 for a blue frame, 1 (REDU) and 2 (REDL) for a red one, 1 and 2 for the halves of a
        blue frame that is read through two ports.
    """
    fault_rng = rng.spawn(1)[0]
    repeat_px = rng.normal(0, _GRATING_REPEAT_PX, 2)
    angle = fault_rng.uniform(0, 2 * np.pi)  # common to all chips
    lamp_factor = np.float32(rng.normal(1, _LAMP_REPEAT))
    images = {}
    for hdu, chip in zip(exposure.hdus, exposure.chips, strict=False):
        case = fault if fault is not None and fault.hits(hdu) else None
        optics = _align(exposure.optics, state, chip, repeat_px)
        if case is not None and case.kind in _OPTICS_FAULTS:
            optics = _OPTICS_FAULTS[case.kind](optics, case.amount, angle)
        light = lamp_factor * _light(exposure, state, chip, optics, case)
        images[hdu] = _detect(exposure, state, chip, light, rng, case)
        if case is not None and case.kind in _READ_OUT_FAULTS:
            images[hdu] = _inject(images[hdu], exposure, state, chip, case, fault_rng)
    if exposure.stream.two_ports:
        return _split_ports(images[1])
    return _apply_file_fault(images, fault) if fault is not None else images


def _align(
    optics: spectrograph.Optics, state: InstrumentState, chip: str, repeat_px: NDArray[np.float64]
) -> spectrograph.Optics:
    """Apply the state of the instrument and the repeatability of the grating to the optics."""
    x, y = state.shift_px[chip]
    return dataclasses.replace(
        optics,
        shift_x_px=x + repeat_px[0],
        shift_y_px=y + repeat_px[1],
        blur_px=state.blur_px,
    )


_OPTICS_FAULTS: Mapping[str, Callable[[spectrograph.Optics, float, float], spectrograph.Optics]] = {
    "format_shift": lambda optics, amount, angle: dataclasses.replace(
        optics,
        shift_x_px=optics.shift_x_px + amount * np.cos(angle),
        shift_y_px=optics.shift_y_px + amount * np.sin(angle),
    ),
    "defocus": lambda optics, amount, _: dataclasses.replace(optics, blur_px=amount),
    "slit_width_wrong": lambda optics, amount, _: dataclasses.replace(
        optics, slit_arcsec=optics.slit_arcsec * amount
    ),
    "slit_length_wrong": lambda optics, amount, _: dataclasses.replace(
        optics, slit_length_arcsec=optics.slit_length_arcsec * amount
    ),
}


def _light(
    exposure: plan.PlannedExposure,
    state: InstrumentState,
    chip: str,
    optics: spectrograph.Optics,
    case: faults.InjectedFault | None,
) -> detector.Electrons:
    """Compute the expected electrons of light on a chip; zeros for a good bias or dark."""
    setting_nm = exposure.stream.setting_nm
    is_dark = setting_nm is None
    if setting_nm is None:
        setting_nm = 390 if chip == "BLUE" else 760
        optics = dataclasses.replace(
            optics, slit_length_arcsec=spectrograph.SETTINGS[setting_nm].slit_length_arcsec
        )
    chip_exposure = _ChipExposure(exposure, state, chip, optics, setting_nm)
    if case is not None and case.kind in _LIGHT_FAULTS:
        return _LIGHT_FAULTS[case.kind](chip_exposure, case)
    if is_dark:
        return np.zeros(detector.light_shape(chip, exposure.stream.binning), np.float32)
    return chip_exposure.illuminate(chip_exposure.lamp, exposure.exposure_s)


def _persistence(chip_exposure: _ChipExposure, case: faults.InjectedFault) -> detector.Electrons:
    """Return the persistence of a former arc: bright lines leave a faint image."""
    read = detector.CHIPS[chip_exposure.chip].modes[chip_exposure.exposure.stream.read_mode]
    arc = chip_exposure.illuminate("ThAr", chip_exposure.standard_s("ThAr"))
    # The traps of a pixel are full from a fiftieth of saturation on.
    filled = np.minimum(arc / (0.02 * read.gain_e_per_adu * detector.CONVERTER_LIMIT_ADU), 1)
    filled[filled < 0.3] = 0
    ghost: detector.Electrons = filled * np.float32(case.amount * read.read_noise_e)
    return ghost


def _scaled_lamp(chip_exposure: _ChipExposure, case: faults.InjectedFault) -> detector.Electrons:
    """Scale the lamp before detection, which keeps columns, cosmic rays and noise realistic."""
    return chip_exposure.illuminate(
        chip_exposure.lamp, chip_exposure.exposure.exposure_s * case.amount
    )


def _wrong_lamp(chip_exposure: _ChipExposure, case: faults.InjectedFault) -> detector.Electrons:
    lamp, seconds = chip_exposure.lamp, chip_exposure.exposure.exposure_s
    share = np.float32(case.amount)
    nominal_s, wrong_s = chip_exposure.standard_s(lamp), chip_exposure.standard_s(_OTHER_LAMP[lamp])
    wrong = chip_exposure.illuminate(_OTHER_LAMP[lamp], seconds * wrong_s / nominal_s)
    return (1 - share) * chip_exposure.illuminate(lamp, seconds) + share * wrong


def _second_lamp(chip_exposure: _ChipExposure, case: faults.InjectedFault) -> detector.Electrons:
    nominal = chip_exposure.illuminate(chip_exposure.lamp, chip_exposure.exposure.exposure_s)
    second = (
        "ThAr"
        if case.kind == "arc_in_flat"
        else spectrograph.SETTINGS[chip_exposure.setting_nm].lamp
    )
    return nominal + chip_exposure.illuminate(
        second, case.amount * chip_exposure.standard_s(second)
    )


def _wrong_setting(chip_exposure: _ChipExposure, case: faults.InjectedFault) -> detector.Electrons:
    settings = _FAR_SETTING if case.strength == "gross" else _NEAR_SETTING
    wrong = dataclasses.replace(chip_exposure, setting_nm=settings[chip_exposure.setting_nm])
    lamp = chip_exposure.lamp
    return wrong.illuminate(lamp, chip_exposure.exposure.exposure_s)


def _second_order(chip_exposure: _ChipExposure, case: faults.InjectedFault) -> detector.Electrons:
    """Add the second order of the cross-disperser: its echelle orders cross the nominal ones."""
    nominal = chip_exposure.illuminate(chip_exposure.lamp, chip_exposure.exposure.exposure_s)
    second = dataclasses.replace(chip_exposure, setting_nm=_FAR_SETTING[chip_exposure.setting_nm])
    lamp = spectrograph.SETTINGS[second.setting_nm].lamp
    return nominal + second.illuminate(lamp, case.amount * second.standard_s(lamp))


def _other_class(chip_exposure: _ChipExposure, _case: faults.InjectedFault) -> detector.Electrons:
    """Return the light of another image class: an arc for a flat, a flat for all others."""
    image_class = _MISLABELLED_AS.get(chip_exposure.exposure.stream.image_class, "flat")
    lamp = "ThAr" if image_class == "arc" else spectrograph.SETTINGS[chip_exposure.setting_nm].lamp
    return chip_exposure.illuminate(lamp, chip_exposure.standard_s(lamp))


_LIGHT_FAULTS: Mapping[str, Callable[[_ChipExposure, faults.InjectedFault], detector.Electrons]] = {
    "remnant": _persistence,
    "lamp_off": _scaled_lamp,
    "lamp_weak": _scaled_lamp,
    "overexposed": _scaled_lamp,
    "lamp_wrong": _wrong_lamp,
    "lamp_dying": lambda chip_exposure, case: chip_exposure.illuminate(
        "ThAr", chip_exposure.exposure.exposure_s, thorium=case.amount
    ),
    "arc_in_flat": _second_lamp,
    "flat_in_arc": _second_lamp,
    "setting_wrong": _wrong_setting,
    "order_filter_missing": _second_order,
    "mislabelled": _other_class,
}


# All faults but those of the optics and the lamp change the raw image.
_READ_OUT_FAULTS = PIXEL_FAULTS.keys() - _OPTICS_FAULTS.keys() - _LIGHT_FAULTS.keys()


def _detect(
    exposure: plan.PlannedExposure,
    state: InstrumentState,
    chip: str,
    light: detector.Electrons,
    rng: np.random.Generator,
    case: faults.InjectedFault | None,
) -> detector.Pixels:
    """Expose a chip to its light and read it."""
    stream = exposure.stream
    mode = stream.read_mode
    if case is not None and case.kind == "wrong_gain":
        mode = _OTHER_GAIN[mode]
    charge = detector.expose(light, chip, stream.binning, exposure.exposure_s, rng)
    offset = state.bias_offset_adu[chip] + rng.normal(0, _BIAS_REPEAT_ADU)
    return detector.read_out(charge, chip, mode, stream.binning, offset, rng)


def _inject(
    pixels: detector.Pixels,
    exposure: plan.PlannedExposure,
    state: InstrumentState,
    chip: str,
    case: faults.InjectedFault,
    rng: np.random.Generator,
) -> detector.Pixels:
    """Inject a fault of the read-out or the detector into the image of a chip."""
    read = detector.CHIPS[chip].modes[exposure.stream.read_mode]
    return faults.inject(
        pixels,
        light=detector.light_region(chip, exposure.stream.binning),
        gain_e_per_adu=read.gain_e_per_adu,
        read_noise_adu=read.read_noise_adu,
        bias_adu=read.bias_adu + state.bias_offset_adu[chip],
        kind=case.kind,
        strength=case.strength,
        rng=rng,
    ).pixels


def _apply_file_fault(
    images: dict[int, detector.Pixels], case: faults.InjectedFault
) -> dict[int, detector.Pixels]:
    """Apply a fault of the file to the images of a red frame."""
    if case.kind == "chip_missing":
        return {1: images[1]}
    if case.kind == "chips_swapped":
        return {1: images[2], 2: images[1]}
    if case.kind == "chip_duplicated":
        (copy,) = case.hdus
        return images | {copy: images[3 - copy]}
    return images


def _split_ports(pixels: detector.Pixels) -> dict[int, detector.Pixels]:
    """Split a blue image at its middle into two ports, with a prescan and an overscan each."""
    middle = (
        detector.PRESCAN_PX + (pixels.shape[1] - detector.PRESCAN_PX - detector.OVERSCAN_PX) // 2
    )
    # The scans come from rows half a chip apart, so that the noise of both ports is independent.
    rolled = np.roll(pixels, len(pixels) // 2, axis=0)
    first = np.hstack([pixels[:, :middle], rolled[:, -detector.OVERSCAN_PX :]])
    second = np.hstack([rolled[:, : detector.PRESCAN_PX], pixels[:, middle:]])
    return {1: first, 2: second}
