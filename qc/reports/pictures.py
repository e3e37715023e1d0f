"""Pictures embedded in a page: block statistics, differences and residual maps."""

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embeddings.residual_maps import find_peak_region
from qc.db.schema import models
from qc.figures import images

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddedPicture:
    """Picture inside a page.

    Attributes
    ----------
    kind : str
        Content: ``mean``, ``nearest mean``, ``difference of mean``, ``tree`` ...
    address : str
        ``data:`` URL with the picture.
    low, high : str
        Values at the two ends of the scale, with unit; empty for a plot.
    """

    kind: str
    address: str
    low: str = ""
    high: str = ""

    @property
    def content(self) -> bytes:
        """Return the encoded picture."""
        return base64.b64decode(self.address.partition(",")[2])


def embed(
    kind: str, media_type: str, content: bytes, low: str = "", high: str = ""
) -> EmbeddedPicture:
    """Return an encoded picture as an embedded one.

    Parameters
    ----------
    kind : str
        Content of the picture.
    media_type : str
        ``image/png`` or ``image/svg+xml``.
    content : bytes
        Encoded picture.
    low, high : str
        Values at the two ends of the scale, with unit.

    Returns
    -------
    EmbeddedPicture
    """
    data = base64.b64encode(content).decode()
    return EmbeddedPicture(kind, f"data:{media_type};base64,{data}", low, high)


def embed_plot(kind: str, svg: str) -> EmbeddedPicture:
    """Return a plot as an embedded picture.

    Parameters
    ----------
    kind : str
        Content of the plot.
    svg : str
        SVG document. As an image, its element names cannot clash with those of other plots.

    Returns
    -------
    EmbeddedPicture
    """
    return embed(kind, "image/svg+xml", svg.encode())


def draw_intensity(
    kind: str, image: Floats, extension: models.ExtensionRow, limits: tuple[float, float]
) -> EmbeddedPicture:
    """Draw an image in grey.

    Parameters
    ----------
    kind : str
        Content of the picture.
    image : (h, w) float32 array
        Above zero, ADU.
    extension : ExtensionRow
        Stretch and shape.
    limits : tuple of (float, float)
        Black and white, ADU.

    Returns
    -------
    EmbeddedPicture
    """
    black, white = limits
    png = images.draw_thumbnail(
        image,
        zero_adu=0,
        scale_adu=extension.stretch_adu,
        aspect=aspect_of(extension),
        vmin=black,
        vmax=white,
    )
    return embed(kind, "image/png", png, f"{round(black)}", f"{round(white)} ADU")


def draw_difference(
    kind: str, difference: Floats, extension: models.ExtensionRow
) -> EmbeddedPicture:
    """Draw a difference from the references.

    Parameters
    ----------
    kind : str
        Content of the picture.
    difference : (h, w) float32 array
        Sigma.
    extension : ExtensionRow
        Shape.

    Returns
    -------
    EmbeddedPicture
    """
    limit = images.difference_limit(difference)
    png = images.draw_difference(difference, aspect=aspect_of(extension), limit_sigma=limit)
    return embed(kind, "image/png", png, f"-{limit:.0f}", f"+{limit:.0f} sigma")


def draw_residual_map(
    mean: Floats, residuals: Floats, extension: models.ExtensionRow
) -> EmbeddedPicture:
    """Draw an image with its residual map in colour, on a scale common to all frames.

    Parameters
    ----------
    mean : (h, w) float32 array
        Above zero, ADU.
    residuals : (h, w) float32 array
        In units of the largest residual of nominal frames.
    extension : ExtensionRow
        Stretch and shape.

    Returns
    -------
    EmbeddedPicture
    """
    png = images.draw_thumbnail(
        mean,
        zero_adu=0,
        scale_adu=extension.stretch_adu,
        aspect=aspect_of(extension),
        overlay=images.anomaly_overlay(residuals),
    )
    low, high = f"{images.HEAT_STARTS:g}", f"{images.HEAT_ENDS:g} times"
    return embed("where", "image/png", png, low, high)


def describe_location(residuals: Floats, extension: models.ExtensionRow) -> str:
    """Return the place and extent of the largest residual in words.

    Parameters
    ----------
    residuals : (h, w) float32 array
        In units of the largest residual of nominal frames.
    extension : ExtensionRow
        Size in pixels.

    Returns
    -------
    str
        Pixels as read, from 0.
    """
    place = find_peak_region(residuals)
    y, x = block_centre(place.brightest, extension, residuals.shape)
    if place.height <= 1:
        return (
            "Nowhere above the range of nominal frames. The largest residual is "
            f"{place.height:.2f} times that range, around x {x}, y {y}."
        )
    (bottom, left), (top, right) = (
        block_centre((place.rows[end], place.columns[end]), extension, residuals.shape)
        for end in (0, 1)
    )
    height = f"{place.height:.1f}" if place.height < 10 else f"{place.height:.0f}"
    share = f"{100 * place.share:.1f} %" if place.share < 0.1 else f"{100 * place.share:.0f} %"
    if place.share < 0.001:
        share = "less than 0.1 %"
    return (
        f"Strongest around x {x}, y {y}: {height} times the range of nominal frames. "
        f"That part extends from x {left} to {right} and from y {bottom} to {top}; "
        f"in all, {share} of the image is above the range of nominal frames."
    )


def block_centre(
    block: tuple[int, int], extension: models.ExtensionRow, grid: tuple[int, ...]
) -> tuple[int, int]:
    """Return row and column of the pixel at the centre of a block.

    Parameters
    ----------
    block : tuple of (int, int)
        Row and column of the block.
    extension : ExtensionRow
        Size in pixels.
    grid : tuple of int
        Number of blocks along y and x.

    Returns
    -------
    tuple of (int, int)
    """
    y, x = (
        round((index + 0.5) * pixels / blocks)
        for index, pixels, blocks in zip(block, (extension.ny, extension.nx), grid, strict=True)
    )
    return y, x


def aspect_of(extension: models.ExtensionRow) -> float:
    """Return height over width on the detector, for any binning."""
    bin_x, bin_y = map(int, extension.binning.split("x"))
    return (extension.ny * bin_y) / (extension.nx * bin_x)


def rebin(image: Floats) -> Floats:
    """Return the means of 2 x 2 blocks, without a last odd row or column."""
    h, w = (length // 2 * 2 for length in image.shape)
    means: Floats = image[:h, :w].reshape(h // 2, 2, w // 2, 2).mean(axis=(1, 3))
    return means
