"""Faults of the light path and the lamp: shift, blur, dust, shading, ghosts, brightness."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from qc.simulator import detector
from qc.simulator.pixel_faults import injection


def format_shift(
    image: injection.Readout, amount: float, rng: np.random.Generator
) -> injection.Injection:
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
    return injection.Injection(pixels, image.light)


def _mirrored(index: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    index = np.abs(index)
    return np.where(index >= length, 2 * length - 2 - index, index)


def defocus(
    image: injection.Readout, amount: float, rng: np.random.Generator
) -> injection.Injection:
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
    return injection.Injection(image.with_light(noisy), image.light)


def dust(image: injection.Readout, amount: float, rng: np.random.Generator) -> injection.Injection:
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
    y, x = injection.find_bright_place(image, rng)
    radius = float(rng.uniform(10, 30))
    rows, columns = np.arange(ny)[:, None], np.arange(nx)[None, :]
    distance = np.hypot(rows - y, columns - x) / radius
    factor = (1 - amount * np.exp(-(distance**4))).astype(np.float32)
    reach = int(1.2 * radius)
    box = injection.light_box(image, slice(y - reach, y + reach), slice(x - reach, x + reach))
    return injection.Injection(
        injection.limit_to_box(image, injection.dim(image, factor, rng), box), box
    )


def frost(image: injection.Readout, amount: float, rng: np.random.Generator) -> injection.Injection:
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
    speckles = 0.6 * injection.random_field(
        image.lit_shape, 12, rng
    ) + 0.4 * injection.random_field(image.lit_shape, 90, rng)
    factor = (1 - amount * speckles).astype(np.float32)
    return injection.Injection(injection.dim(image, factor, rng), image.light)


def vignetting(
    image: injection.Readout, amount: float, rng: np.random.Generator
) -> injection.Injection:
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
    pixels = injection.dim(image, factor.astype(np.float32), rng)
    return injection.Injection(pixels, injection.light_box(image, rows, columns))


def reflection(
    image: injection.Readout, amount: float, rng: np.random.Generator
) -> injection.Injection:
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
    y, x = injection.find_bright_place(image, rng)
    radius = nx * rng.uniform(0.06, 0.14)
    distance = np.hypot(np.arange(ny)[:, None] - y, np.arange(nx)[None, :] - x) / radius
    ring = np.exp(-(distance**6)) * (0.4 + 0.6 * distance**2)
    bright_adu = max(float(np.percentile(image.pixels[image.light], 98)) - image.bias_adu, 0.0)
    extra = (amount * bright_adu * ring).astype(np.float32)
    rows = slice(int(y - radius), int(y + radius))
    columns = slice(int(x - radius), int(x + radius))
    return injection.Injection(
        injection.add_light(image, extra, rng), injection.light_box(image, rows, columns)
    )


def shutter_trail(
    image: injection.Readout, amount: float, rng: np.random.Generator
) -> injection.Injection:
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
    return injection.Injection(injection.add_light(image, extra, rng), image.light)


def lamp_off(
    image: injection.Readout, amount: float, rng: np.random.Generator
) -> injection.Injection:
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
    return injection.Injection(injection.dim(image, np.float32(amount), rng), image.light)


def lamp_weak(
    image: injection.Readout, amount: float, rng: np.random.Generator
) -> injection.Injection:
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
    return injection.Injection(injection.dim(image, np.float32(amount), rng), image.light)


def overexposed(
    image: injection.Readout, amount: float, _rng: np.random.Generator
) -> injection.Injection:
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
    return injection.Injection(image.with_light(light), image.light)
