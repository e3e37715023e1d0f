"""Faults of the detector chip: columns, pixels, glow, dark current, cosmic rays."""

import numpy as np

from qc.simulator import detector
from qc.simulator.pixel_faults.injection import (
    Injection,
    Readout,
    add_light,
    dim,
    find_bright_place,
    light_box,
    limit_to_box,
)


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
    box = light_box(image, slice(first, ny), slice(column, column + 1))
    return Injection(limit_to_box(image, add_light(image, extra, rng), box), box)


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
    (row, column), reach = find_bright_place(image, rng), ny * rng.uniform(0.1, 0.4)
    first = max(int(row - reach), 0)
    factor = np.ones((ny, nx), np.float32)
    factor[first:, column : column + 2] = 1 - amount
    box = light_box(image, slice(first, ny), slice(column, column + 2))
    return Injection(limit_to_box(image, dim(image, factor, rng), box), box)


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
    box = light_box(image, slice(y, y + 14), slice(x, x + 14))
    return Injection(limit_to_box(image, add_light(image, extra, rng), box), box)


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
    return Injection(add_light(image, extra, rng), image.light)


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
    box = light_box(image, slice(0, int(2 * reach_y)), columns)
    return Injection(add_light(image, extra, rng), box)


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
    return Injection(add_light(image, extra, rng), light_box(image, rows, slice(0, nx)))


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
    return Injection(add_light(image, extra, rng), image.light)


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
