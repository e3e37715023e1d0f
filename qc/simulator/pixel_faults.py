"""Faults of a raw image, of any instrument.

One function for each: image and amount in, image and box out. Added light carries its photon
noise; dimmed light loses the corresponding part of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from qc.simulator import detector

Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class Readout:
    """Raw image with the detector properties that a realistic change requires.

    Attributes
    ----------
    pixels : (ny, nx) uint16 array
        ADU.
    light : Region
        Rows and columns that light can reach.
    """

    pixels: detector.Pixels
    light: detector.Region
    gain_e_per_adu: float
    read_noise_adu: float
    bias_adu: float

    @property
    def lit_shape(self) -> tuple[int, int]:
        """Rows and columns of the light-sensitive area."""
        ny, nx = self.pixels[self.light].shape
        return ny, nx

    def light_e(self) -> Floats32:
        """Return the electrons above bias in the light-sensitive area, noise included."""
        above = self.pixels[self.light].astype(np.float32) - np.float32(self.bias_adu)
        return above * np.float32(self.gain_e_per_adu)

    def with_light(self, electrons: Floats32) -> detector.Pixels:
        """Return the image with other electrons in the light-sensitive area."""
        adu = electrons / np.float32(self.gain_e_per_adu) + np.float32(self.bias_adu)
        changed = self.pixels.copy()
        changed[self.light] = detector.digitize(adu)
        return changed

    def plus(self, adu: Floats32) -> detector.Pixels:
        """Return the image plus `adu`, which broadcasts to (ny, nx)."""
        return detector.digitize(self.pixels.astype(np.float32) + adu)


@dataclass(frozen=True)
class Injection:
    """Image with a fault.

    Attributes
    ----------
    pixels : (ny, nx) uint16 array
        ADU.
    box : Region
        Rows and columns that hold the fault; the light-sensitive area for a global fault.
    """

    pixels: detector.Pixels
    box: detector.Region


PixelFault = Callable[[Readout, float, np.random.Generator], Injection]


def _everywhere(image: Readout) -> detector.Region:
    ny, nx = image.pixels.shape
    return slice(0, ny), slice(0, nx)


def _within_light(image: Readout, rows: slice, columns: slice) -> detector.Region:
    """Return a box of the light-sensitive area in coordinates of the whole image."""
    y, x = image.light[0].start or 0, image.light[1].start or 0
    ny, nx = image.lit_shape
    return (
        slice(y + max(rows.start, 0), y + min(rows.stop, ny)),
        slice(x + max(columns.start, 0), x + min(columns.stop, nx)),
    )


def _dimmed(
    image: Readout, factor: Floats32 | np.float32, rng: np.random.Generator
) -> detector.Pixels:
    """Return the image with its light multiplied by a factor; Poisson noise is kept.

    Above a factor of 1 the image is smoother than a real one: missing noise cannot be restored.
    """
    light = image.light_e()
    ron_e = np.float32(image.read_noise_adu * image.gain_e_per_adu)
    variance = factor * (1 - factor) * np.maximum(light, 0) + (1 - factor * factor) * ron_e**2
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    return image.with_light(light * factor + noise * np.sqrt(np.maximum(variance, 0)))


def _brightened(image: Readout, extra_adu: Floats32, rng: np.random.Generator) -> detector.Pixels:
    """Return the image with added light or charge and its photon noise."""
    extra_e = np.maximum(extra_adu, 0) * np.float32(image.gain_e_per_adu)
    noise = rng.standard_normal(image.lit_shape, dtype=np.float32) * np.sqrt(extra_e)
    return image.with_light(image.light_e() + extra_e + noise)


def _noise(image: Readout, rows: int, rng: np.random.Generator) -> detector.Pixels:
    """Return rows of a bias."""
    adu = rng.standard_normal((rows, image.pixels.shape[1]), dtype=np.float32)
    return detector.digitize(adu * np.float32(image.read_noise_adu) + np.float32(image.bias_adu))


def _bright_place(image: Readout, rng: np.random.Generator) -> tuple[int, int]:
    """Return row and column of a bright place of the light-sensitive area, off its edges."""
    ny, nx = image.lit_shape
    tried = [(int(ny * y), int(nx * x)) for y, x in rng.uniform(0.2, 0.8, (12, 2))]
    light = image.pixels[image.light]
    brightness = [light[y - 5 : y + 6, x - 5 : x + 6].mean() for y, x in tried]
    return tried[int(np.argmax(brightness))]


def _bumps(shape: tuple[int, int], cells: int, rng: np.random.Generator) -> Floats32:
    """Return a smooth random field, 0 to 1, with `cells` bumps along each side."""
    coarse = rng.random((cells, cells)).astype(np.float32)
    ny, nx = shape
    field = zoom(coarse, (ny / cells, nx / cells), order=1, grid_mode=True, mode="nearest")
    low, high = field.min(), field.max()
    smooth: Floats32 = (field - low) / (high - low)
    return smooth


# --- read-out ------------------------------------------------------------------------------------


def truncated_readout(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Set the last rows to zero.

    Parameters
    ----------
    image : Readout
    amount : float
        Fraction of the rows.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.pixels.shape
    first = int(ny * (1 - amount * rng.uniform(0.9, 1.0)))
    pixels = image.pixels.copy()
    pixels[first:] = 0
    return Injection(pixels, (slice(first, ny), slice(0, nx)))


def dead_output(image: Readout, _amount: float, rng: np.random.Generator) -> Injection:
    """Simulate a converter without signal: every pixel has the same value.

    Parameters
    ----------
    image : Readout
    _amount : float
        Ignored.
    rng : Generator

    Returns
    -------
    Injection
    """
    value = rng.choice([0, int(image.bias_adu), detector.CONVERTER_LIMIT_ADU])
    return Injection(np.full_like(image.pixels, value), _everywhere(image))


def bias_jump(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Shift the level of the whole image.

    Parameters
    ----------
    image : Readout
    amount : float
        Shift in read noises.
    rng : Generator

    Returns
    -------
    Injection
    """
    shift_adu = amount * image.read_noise_adu * rng.choice([-1, 1])
    return Injection(image.plus(np.full((1, 1), shift_adu, np.float32)), _everywhere(image))


def bias_step(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Shift the level from a random row on.

    Parameters
    ----------
    image : Readout
    amount : float
        Shift in read noises.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.pixels.shape
    first = int(ny * rng.uniform(0.2, 0.8))
    step = np.zeros((ny, 1), np.float32)
    step[first:] = amount * image.read_noise_adu * rng.choice([-1, 1])
    return Injection(image.plus(step), (slice(first, ny), slice(0, nx)))


def bias_ramp(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Add a linear drift of the level from the first row to the last.

    Parameters
    ----------
    image : Readout
    amount : float
        Drift in read noises.
    rng : Generator

    Returns
    -------
    Injection
    """
    height_adu = amount * image.read_noise_adu * rng.choice([-1, 1])
    ramp = np.linspace(0, height_adu, len(image.pixels), dtype=np.float32)[:, None]
    return Injection(image.plus(ramp), _everywhere(image))


def settling_level(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Add a level that decays within the first rows.

    Parameters
    ----------
    image : Readout
    amount : float
        Level of the first row in read noises.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.pixels.shape
    scale = ny * rng.uniform(0.04, 0.12)
    tail = np.exp(-np.arange(ny, dtype=np.float32) / np.float32(scale))[:, None]
    pixels = image.plus(np.float32(amount * image.read_noise_adu) * tail)
    return Injection(pixels, (slice(0, int(3 * scale)), slice(0, nx)))


def lost_pixels(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Lose pixels of the stream, or read them twice; all later pixels are shifted.

    The stream runs through prescan and overscan, row after row.

    Parameters
    ----------
    image : Readout
    amount : float
        Number of pixels.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.pixels.shape
    lost, first = int(amount), int(ny * rng.uniform(0.1, 0.7))
    stream = image.pixels[first:].ravel()
    filler = _noise(image, 1, rng)[0, :lost]
    if rng.random() < 0.5:
        stream = np.concatenate([stream[lost:], filler])
    else:
        stream = np.concatenate([filler, stream[:-lost]])
    pixels = np.concatenate([image.pixels[:first], stream.reshape(-1, nx)])
    return Injection(pixels, (slice(first, ny), slice(0, nx)))


def pattern_noise(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Add electrical pick-up: a sine wave in read-out time with a random phase.

    50 Hz repeats every 2.1 unbinned rows at 225 kHz; power supplies are faster.

    Parameters
    ----------
    image : Readout
    amount : float
        Peak-to-peak amplitude in read noises.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.pixels.shape
    period_px = nx * 10 ** rng.uniform(-1.8, 0.4)
    time = np.arange(ny)[:, None] * nx + np.arange(nx)[None, :]
    wave = np.sin(2 * np.pi * (time / period_px + rng.random())).astype(np.float32)
    wave *= np.float32(amount * image.read_noise_adu / 2)
    return Injection(image.plus(wave), _everywhere(image))


def read_noise_excess(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Add read noise.

    Parameters
    ----------
    image : Readout
    amount : float
        Total noise in units of the read noise of the chip.
    rng : Generator

    Returns
    -------
    Injection
    """
    noise = rng.standard_normal(image.pixels.shape, dtype=np.float32)
    noise *= np.float32(image.read_noise_adu * np.sqrt(amount**2 - 1))
    return Injection(image.plus(noise), _everywhere(image))


def stuck_bit(image: Readout, amount: float, _rng: np.random.Generator) -> Injection:
    """Fix one bit of the converter at the opposite of its value in a bias.

    Parameters
    ----------
    image : Readout
    amount : float
        Number of the bit.
    _rng : Generator

    Returns
    -------
    Injection
    """
    bit = 1 << int(amount)
    hangs_low = int(image.bias_adu) & bit
    pixels = image.pixels & np.uint16(0xFFFF ^ bit) if hangs_low else image.pixels | np.uint16(bit)
    return Injection(pixels, _everywhere(image))


# --- detector ------------------------------------------------------------------------------------


def hot_column(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Add a bright column over part of the rows.

    Parameters
    ----------
    image : Readout
    amount : float
        Brightness in read noises.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.lit_shape
    column, first = int(rng.integers(nx // 20, nx - nx // 20)), int(ny * rng.uniform(0, 0.5))
    extra = np.zeros((ny, nx), np.float32)
    extra[first:, column] = amount * image.read_noise_adu
    box = _within_light(image, slice(first, ny), slice(column, column + 1))
    return Injection(_only(image, _brightened(image, extra, rng), box), box)


def dead_column(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Reduce the sensitivity of two columns over part of the rows.

    Parameters
    ----------
    image : Readout
    amount : float
        Fraction of the light that is lost.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.lit_shape
    (row, column), reach = _bright_place(image, rng), ny * rng.uniform(0.1, 0.4)
    first = max(int(row - reach), 0)
    factor = np.ones((ny, nx), np.float32)
    factor[first:, column : column + 2] = 1 - amount
    box = _within_light(image, slice(first, ny), slice(column, column + 2))
    return Injection(_only(image, _dimmed(image, factor, rng), box), box)


def hot_pixels(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Add a cluster of 40 hot pixels within 14 by 14 pixels.

    Parameters
    ----------
    image : Readout
    amount : float
        Mean brightness in read noises.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.lit_shape
    y, x = int(rng.integers(8, ny - 22)), int(rng.integers(8, nx - 22))
    extra = np.zeros((ny, nx), np.float32)
    brightness = amount * image.read_noise_adu * rng.gamma(2, 0.5, 40)
    extra[y + rng.integers(0, 14, 40), x + rng.integers(0, 14, 40)] = brightness
    box = _within_light(image, slice(y, y + 14), slice(x, x + 14))
    return Injection(_only(image, _brightened(image, extra, rng), box), box)


def _only(image: Readout, changed: detector.Pixels, box: detector.Region) -> detector.Pixels:
    """Return the image with the change inside the box only."""
    pixels = image.pixels.copy()
    pixels[box] = changed[box]
    return pixels


def light_leak(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Add stray light with a gradient across the chip.

    Parameters
    ----------
    image : Readout
    amount : float
        Brightest level in read noises.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.lit_shape
    y, x = np.linspace(-1, 1, ny)[:, None], np.linspace(-1, 1, nx)[None, :]
    angle = rng.uniform(0, 2 * np.pi)
    slope = (1 + (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)) / 2
    extra = (amount * image.read_noise_adu * slope**1.5).astype(np.float32)
    return Injection(_brightened(image, extra, rng), image.light)


def amplifier_glow(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Add a glow in a corner of the chip.

    Parameters
    ----------
    image : Readout
    amount : float
        Level of the corner in read noises.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.lit_shape
    reach_y, reach_x = ny * rng.uniform(0.05, 0.12), nx * rng.uniform(0.08, 0.16)
    y, x = np.arange(ny)[:, None], np.arange(nx)[None, :]
    at_right = bool(rng.random() < 0.5)
    glow = np.exp(-np.hypot(y / reach_y, (nx - 1 - x if at_right else x) / reach_x))
    extra = (amount * image.read_noise_adu * glow).astype(np.float32)
    width = int(2 * reach_x)
    columns = slice(nx - width, nx) if at_right else slice(0, width)
    box = _within_light(image, slice(0, int(2 * reach_y)), columns)
    return Injection(_brightened(image, extra, rng), box)


def glow_band(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Raise a band of 1.5 % of the rows, as on a former chip of UVES.

    Parameters
    ----------
    image : Readout
    amount : float
        Level in read noises.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.lit_shape
    height = max(ny * 0.015, 4)
    row = ny * rng.uniform(0.1, 0.9)
    profile = np.exp(-(((np.arange(ny) - row) / (height / 2)) ** 4))[:, None]
    extra = np.broadcast_to(amount * image.read_noise_adu * profile, (ny, nx)).astype(np.float32)
    rows = slice(int(row - 0.6 * height), int(row + 0.6 * height) + 1)
    return Injection(_brightened(image, extra, rng), _within_light(image, rows, slice(0, nx)))


def raised_dark(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Add dark current, tenfold in warm pixels.

    Parameters
    ----------
    image : Readout
    amount : float
        Level in read noises.
    rng : Generator

    Returns
    -------
    Injection
    """
    extra = np.full(image.lit_shape, amount * image.read_noise_adu, np.float32)
    warm = rng.random(image.lit_shape, dtype=np.float32) < 0.001
    extra[warm] *= 10
    return Injection(_brightened(image, extra, rng), image.light)


def cosmic_storm(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Add cosmic rays.

    Parameters
    ----------
    image : Readout
    amount : float
        Number of hits.
    rng : Generator

    Returns
    -------
    Injection
    """
    charge = image.light_e()
    detector.add_cosmics(charge, int(amount), (1, 1), rng)
    return Injection(image.with_light(charge), image.light)


# --- light path ----------------------------------------------------------------------------------


def format_shift(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Shift the light by whole pixels in a random direction.

    The border is filled with the mirror image of the edge.

    Parameters
    ----------
    image : Readout
    amount : float
        Shift in pixels.
    rng : Generator

    Returns
    -------
    Injection
    """
    angle = rng.uniform(0, 2 * np.pi)
    move = [round(amount * np.sin(angle)), round(amount * np.cos(angle))]
    if not any(move):
        move[1] = 1
    light = image.pixels[image.light]
    ny, nx = light.shape
    rows = _mirrored(np.arange(ny) - move[0], ny)
    columns = _mirrored(np.arange(nx) - move[1], nx)
    pixels = image.pixels.copy()
    pixels[image.light] = light[np.ix_(rows, columns)]
    return Injection(pixels, image.light)


def _mirrored(index: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    index = np.abs(index)
    return np.where(index >= length, 2 * length - 2 - index, index)


def defocus(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Blur the light and restore its noise.

    Parameters
    ----------
    image : Readout
    amount : float
        Sigma of the Gaussian kernel in pixels.
    rng : Generator

    Returns
    -------
    Injection
    """
    light = gaussian_filter(image.light_e(), amount)
    ron_e = np.float32(image.read_noise_adu * image.gain_e_per_adu)
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    noisy = light + noise * np.sqrt(np.maximum(light, 0) + ron_e**2)
    return Injection(image.with_light(noisy), image.light)


def dust(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Add the shadow of a grain near the focus.

    Parameters
    ----------
    image : Readout
    amount : float
        Fraction of the light that is lost.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.lit_shape
    y, x = _bright_place(image, rng)
    radius = float(rng.uniform(10, 30))
    rows, columns = np.arange(ny)[:, None], np.arange(nx)[None, :]
    distance = np.hypot(rows - y, columns - x) / radius
    factor = (1 - amount * np.exp(-(distance**4))).astype(np.float32)
    reach = int(1.2 * radius)
    box = _within_light(image, slice(y - reach, y + reach), slice(x - reach, x + reach))
    return Injection(_only(image, _dimmed(image, factor, rng), box), box)


def frost(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Dim the light in speckles, as ice on the window does.

    Parameters
    ----------
    image : Readout
    amount : float
        Largest fraction of the light that is lost.
    rng : Generator

    Returns
    -------
    Injection
    """
    speckles = 0.6 * _bumps(image.lit_shape, 12, rng) + 0.4 * _bumps(image.lit_shape, 90, rng)
    factor = (1 - amount * speckles).astype(np.float32)
    return Injection(_dimmed(image, factor, rng), image.light)


def vignetting(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Shade one side of the chip.

    Parameters
    ----------
    image : Readout
    amount : float
        Fraction of the light that is lost at the edge.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.lit_shape
    side = int(rng.integers(0, 4))
    place = np.linspace(0, 1, (ny, ny, nx, nx)[side], dtype=np.float32)[:: (1, -1)[side % 2]]
    shade = amount * np.clip((place - 0.55) / 0.45, 0, 1) ** 1.5
    factor = np.broadcast_to(1 - (shade[:, None] if side < 2 else shade), (ny, nx))
    rows = (slice(int(0.6 * ny), ny), slice(0, int(0.4 * ny)), slice(0, ny), slice(0, ny))[side]
    columns = (slice(0, nx), slice(0, nx), slice(int(0.6 * nx), nx), slice(0, int(0.4 * nx)))[side]
    pixels = _dimmed(image, factor.astype(np.float32), rng)
    return Injection(pixels, _within_light(image, rows, columns))


def reflection(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Add an out-of-focus ghost: a soft ring.

    Parameters
    ----------
    image : Readout
    amount : float
        Level in units of the bright level of the image.
    rng : Generator

    Returns
    -------
    Injection
    """
    ny, nx = image.lit_shape
    y, x = _bright_place(image, rng)
    radius = nx * rng.uniform(0.06, 0.14)
    distance = np.hypot(np.arange(ny)[:, None] - y, np.arange(nx)[None, :] - x) / radius
    ring = np.exp(-(distance**6)) * (0.4 + 0.6 * distance**2)
    bright_adu = max(float(np.percentile(image.pixels[image.light], 98)) - image.bias_adu, 0.0)
    extra = (amount * bright_adu * ring).astype(np.float32)
    rows = slice(int(y - radius), int(y + radius))
    columns = slice(int(x - radius), int(x + radius))
    return Injection(_brightened(image, extra, rng), _within_light(image, rows, columns))


def shutter_trail(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Smear the light along columns, as if the shutter were open during read-out.

    Parameters
    ----------
    image : Readout
    amount : float
        Read-out time over exposure time.
    rng : Generator

    Returns
    -------
    Injection
    """
    light = image.light_e()
    smear = np.maximum(light.mean(axis=0, keepdims=True), 0) / np.float32(image.gain_e_per_adu)
    extra = np.broadcast_to(np.float32(amount) * smear, light.shape)
    return Injection(_brightened(image, extra, rng), image.light)


# --- lamp ----------------------------------------------------------------------------------------


def lamp_off(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Reduce the light to scattered light.

    Parameters
    ----------
    image : Readout
    amount : float
        Fraction of the light that remains.
    rng : Generator

    Returns
    -------
    Injection
    """
    return Injection(_dimmed(image, np.float32(amount), rng), image.light)


def lamp_weak(image: Readout, amount: float, rng: np.random.Generator) -> Injection:
    """Dim the lamp.

    Parameters
    ----------
    image : Readout
    amount : float
        Fraction of the light that remains.
    rng : Generator

    Returns
    -------
    Injection
    """
    return Injection(_dimmed(image, np.float32(amount), rng), image.light)


def overexposed(image: Readout, amount: float, _rng: np.random.Generator) -> Injection:
    """Multiply the light; full pixels bleed.

    Parameters
    ----------
    image : Readout
    amount : float
        Factor.
    _rng : Generator

    Returns
    -------
    Injection
    """
    full_e = detector.CONVERTER_LIMIT_ADU * image.gain_e_per_adu
    light = detector.bleed(image.light_e() * np.float32(amount), full_e)
    return Injection(image.with_light(light), image.light)


PIXEL_FAULTS: Mapping[str, PixelFault] = {
    function.__name__: function
    for function in (
        truncated_readout,
        dead_output,
        bias_jump,
        bias_step,
        bias_ramp,
        settling_level,
        lost_pixels,
        pattern_noise,
        read_noise_excess,
        stuck_bit,
        hot_column,
        dead_column,
        hot_pixels,
        light_leak,
        amplifier_glow,
        glow_band,
        raised_dark,
        cosmic_storm,
        format_shift,
        defocus,
        dust,
        frost,
        vignetting,
        reflection,
        shutter_trail,
        lamp_off,
        lamp_weak,
        overexposed,
    )
}
