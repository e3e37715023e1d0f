"""Readout and injection: a raw image with its detector properties, before and after a fault.

Added light has its photon noise; dimmed light loses the corresponding part of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

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


def whole_image(image: Readout) -> detector.Region:
    """Return the box of the whole image."""
    ny, nx = image.pixels.shape
    return slice(0, ny), slice(0, nx)


def light_box(image: Readout, rows: slice, columns: slice) -> detector.Region:
    """Convert a box of the light-sensitive area to coordinates of the whole image.

    Parameters
    ----------
    image : Readout
    rows, columns : slice
        Clipped to the light-sensitive area.

    Returns
    -------
    Region
    """
    y, x = image.light[0].start or 0, image.light[1].start or 0
    ny, nx = image.lit_shape
    return (
        slice(y + max(rows.start, 0), y + min(rows.stop, ny)),
        slice(x + max(columns.start, 0), x + min(columns.stop, nx)),
    )


def dim(image: Readout, factor: Floats32 | np.float32, rng: np.random.Generator) -> detector.Pixels:
    """Multiply the light of an image; Poisson noise is kept.

    Above a factor of 1 the image is smoother than a real one: missing noise cannot be restored.

    Parameters
    ----------
    image : Readout
    factor : float32, or (ny, nx) float32 array of the light-sensitive area
    rng : Generator

    Returns
    -------
    (ny, nx) uint16 array
        ADU.
    """
    light = image.light_e()
    ron_e = np.float32(image.read_noise_adu * image.gain_e_per_adu)
    variance = factor * (1 - factor) * np.maximum(light, 0) + (1 - factor * factor) * ron_e**2
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    return image.with_light(light * factor + noise * np.sqrt(np.maximum(variance, 0)))


def add_light(image: Readout, extra_adu: Floats32, rng: np.random.Generator) -> detector.Pixels:
    """Add light or charge with its photon noise to an image.

    Parameters
    ----------
    image : Readout
    extra_adu : (ny, nx) float32 array of the light-sensitive area
        ADU; negative values count as 0.
    rng : Generator

    Returns
    -------
    (ny, nx) uint16 array
        ADU.
    """
    extra_e = np.maximum(extra_adu, 0) * np.float32(image.gain_e_per_adu)
    noise = rng.standard_normal(image.lit_shape, dtype=np.float32) * np.sqrt(extra_e)
    return image.with_light(image.light_e() + extra_e + noise)


def noise_rows(image: Readout, rows: int, rng: np.random.Generator) -> detector.Pixels:
    """Simulate rows of a bias.

    Parameters
    ----------
    image : Readout
    rows : int
        Number of rows.
    rng : Generator

    Returns
    -------
    (rows, nx) uint16 array
        ADU.
    """
    adu = rng.standard_normal((rows, image.pixels.shape[1]), dtype=np.float32)
    return detector.digitize(adu * np.float32(image.read_noise_adu) + np.float32(image.bias_adu))


def find_bright_place(image: Readout, rng: np.random.Generator) -> tuple[int, int]:
    """Find a bright place of the light-sensitive area, off its edges.

    Parameters
    ----------
    image : Readout
    rng : Generator

    Returns
    -------
    row, column : int
    """
    ny, nx = image.lit_shape
    candidates = [(int(ny * y), int(nx * x)) for y, x in rng.uniform(0.2, 0.8, (12, 2))]
    light = image.pixels[image.light]
    brightness = [light[y - 5 : y + 6, x - 5 : x + 6].mean() for y, x in candidates]
    return candidates[int(np.argmax(brightness))]


def random_field(shape: tuple[int, int], cells: int, rng: np.random.Generator) -> Floats32:
    """Draw a smooth random field.

    Parameters
    ----------
    shape : (int, int)
    cells : int
        Number of bumps along each side.
    rng : Generator

    Returns
    -------
    float32 array of this shape
        0 to 1.
    """
    coarse = rng.random((cells, cells)).astype(np.float32)
    ny, nx = shape
    field = zoom(coarse, (ny / cells, nx / cells), order=1, grid_mode=True, mode="nearest")
    low, high = field.min(), field.max()
    smooth: Floats32 = (field - low) / (high - low)
    return smooth


def limit_to_box(image: Readout, changed: detector.Pixels, box: detector.Region) -> detector.Pixels:
    """Restrict a change of an image to a box.

    Parameters
    ----------
    image : Readout
    changed : (ny, nx) uint16 array
        Image with the change.
    box : Region

    Returns
    -------
    (ny, nx) uint16 array
    """
    pixels = image.pixels.copy()
    pixels[box] = changed[box]
    return pixels
