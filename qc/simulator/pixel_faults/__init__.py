"""Faults of a raw image, of any instrument: image and amount in, image and box out."""

from collections.abc import Mapping

from qc.simulator.pixel_faults import chip, electronics, light
from qc.simulator.pixel_faults.injection import Injection, PixelFault, Readout

__all__ = ["PIXEL_FAULTS", "Injection", "PixelFault", "Readout"]

PIXEL_FAULTS: Mapping[str, PixelFault] = {
    function.__name__: function
    for function in (
        electronics.truncated_readout,
        electronics.dead_output,
        electronics.bias_jump,
        electronics.bias_step,
        electronics.bias_ramp,
        electronics.settling_level,
        electronics.lost_pixels,
        electronics.pattern_noise,
        electronics.read_noise_excess,
        electronics.stuck_bit,
        chip.hot_column,
        chip.dead_column,
        chip.hot_pixels,
        chip.light_leak,
        chip.amplifier_glow,
        chip.glow_band,
        chip.raised_dark,
        chip.cosmic_storm,
        light.format_shift,
        light.defocus,
        light.dust,
        light.frost,
        light.vignetting,
        light.reflection,
        light.shutter_trail,
        light.lamp_off,
        light.lamp_weak,
        light.overexposed,
    )
}
