"""Faults of the read-out electronics: levels, lost pixels, noise, converter bits."""

import numpy as np

from qc.simulator import detector
from qc.simulator.pixel_faults.injection import Injection, Readout, noise_rows, whole_image


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
    return Injection(np.full_like(image.pixels, value), whole_image(image))


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
    return Injection(image.plus(np.full((1, 1), shift_adu, np.float32)), whole_image(image))


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
    return Injection(image.plus(ramp), whole_image(image))


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
    filler = noise_rows(image, 1, rng)[0, :lost]
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
    return Injection(image.plus(wave), whole_image(image))


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
    return Injection(image.plus(noise), whole_image(image))


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
    return Injection(pixels, whole_image(image))
