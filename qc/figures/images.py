"""Images of extensions as PNG: block statistics in grey, anomaly overlays, difference maps.

Row 0 is at the bottom. The same data give the same bytes.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32] | NDArray[np.float64]

HEAT = (213, 94, 0)  # Okabe & Ito's vermilion as RGB
GREY_LEVELS = 48  # more are not distinguishable, and enlarge a noisy picture
BELOW, WITHIN, ABOVE = (0, 90, 158), (244, 243, 241), (200, 80, 0)  # blue, off-white, orange
COLOUR_STEPS = 10  # from the middle to either end of a difference map: few, for a small file
SMALLEST_LIMIT, LARGEST_LIMIT = 5.0, 20.0  # sigma: shows faint faults, saturates gross ones
HEAT_OPACITY = 0.8  # at full strength: the image below must remain visible
HEAT_STARTS, HEAT_ENDS = 1.0, 10.0  # times the level of good frames: clear, and full strength
HEAT_LEAST = 0.25  # of full strength: the edge of the overlay must be visible


def display_limits(*images: Floats, least_span_adu: float = 10.0) -> tuple[float, float]:
    """Choose common levels of black and white for pictures that are compared.

    Parameters
    ----------
    images : (h, w) float arrays
        ADU; the shapes may differ.
    least_span_adu : float
        Smallest range, which limits the contrast of the noise of an empty frame.

    Returns
    -------
    vmin, vmax : float
        ADU: the lowest of all 0.5 and the highest of all 99.5 percentiles.
    """
    ends = np.array([np.nanpercentile(image, [0.5, 99.5]) for image in images])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    missing = max(least_span_adu - (high - low), 0) / 2
    return low - missing, high + missing


def draw_thumbnail(
    statistic: Floats,
    *,
    zero_adu: float,
    scale_adu: float,
    aspect: float,
    vmin: float | None = None,
    vmax: float | None = None,
    overlay: Floats | None = None,
) -> bytes:
    """Draw one block statistic of an extension in grey.

    The stretch is ``asinh((value - zero_adu) / scale_adu)`` between fixed ends, so that equal
    greys mean equal counts in every picture with the same ends.

    Parameters
    ----------
    statistic : (h, w) float array
        ADU.
    zero_adu, scale_adu : float
        Level at which the stretch is steepest, and the width of its linear part.
    aspect : float
        Height over width of the detector's light-sensitive area.
    vmin, vmax : float, optional
        Black and white, ADU; by default those of `display_limits`.
    overlay : (a, b) float array, optional
        An anomaly map over the whole picture, 0 (clear) to 1 (full strength), on a scale common to
        all frames: a map normalised to its own maximum would be coloured on good frames too.

    Returns
    -------
    bytes
        PNG with a palette, `w` pixels wide.
    """
    low, high = display_limits(statistic)
    low, high = low if vmin is None else vmin, high if vmax is None else vmax
    black, value, white = (
        np.arcsinh((level - zero_adu) / scale_adu) for level in (low, statistic, high)
    )
    brightness = np.nan_to_num((value - black) / max(white - black, 1e-9)).clip(0, 1)
    levels = np.rint(brightness * (GREY_LEVELS - 1))
    grey = (levels * (255 / (GREY_LEVELS - 1))).astype(np.uint8)[::-1]
    picture = _with_aspect(Image.fromarray(grey), aspect)
    if overlay is not None:
        picture = _with_overlay(picture, overlay[::-1])
    return _png(picture)


def anomaly_overlay(ratios: Floats) -> Floats:
    """Convert an anomaly map to the strength of an overlay, on one logarithmic scale.

    Parameters
    ----------
    ratios : (h, w) float array
        Anomaly in units of the largest anomaly of good frames; up to 1 the overlay is clear.

    Returns
    -------
    (h, w) float array, 0 to 1
    """
    decades = np.log(np.maximum(ratios, HEAT_STARTS) / HEAT_STARTS) / np.log(
        HEAT_ENDS / HEAT_STARTS
    )
    strength = HEAT_LEAST + (1 - HEAT_LEAST) * decades.clip(0, 1)
    return np.where(ratios > HEAT_STARTS, strength, 0)


def difference_limit(deviations: Floats) -> float:
    """Choose the colour limit of a difference map: the 99.5 % quantile, within 5 to 20 sigma.

    Parameters
    ----------
    deviations : (h, w) float array
        Sigma.

    Returns
    -------
    float
        Sigma.
    """
    quantile = float(np.nanpercentile(np.abs(deviations), 99.5))
    return float(np.ceil(np.clip(quantile, SMALLEST_LIMIT, LARGEST_LIMIT)))


def draw_difference(deviations: Floats, *, aspect: float, limit_sigma: float) -> bytes:
    """Draw the deviation of an extension from its references.

    Off-white is nominal, blue below and orange above: distinct in every form of colour blindness.

    Parameters
    ----------
    deviations : (h, w) float array
        Sigma.
    aspect : float
        Height over width of the detector's light-sensitive area.
    limit_sigma : float
        Limit of the colours, on either side.

    Returns
    -------
    bytes
        PNG with a palette, `w` pixels wide.
    """
    scaled = np.nan_to_num(deviations / limit_sigma).clip(-1, 1)
    level = np.rint(scaled * COLOUR_STEPS) + COLOUR_STEPS
    picture = Image.fromarray(level.astype(np.uint8)[::-1], "P")
    positions = np.arange(-COLOUR_STEPS, COLOUR_STEPS + 1)
    channels = [
        np.interp(positions, (-COLOUR_STEPS, 0, COLOUR_STEPS), ends)
        for ends in zip(BELOW, WITHIN, ABOVE, strict=True)
    ]
    picture.putpalette(np.rint(np.column_stack(channels)).astype(np.uint8).tobytes())
    return _png(_with_aspect(picture, aspect))


def _with_overlay(picture: Image.Image, overlay: Floats) -> Image.Image:
    smooth = Image.fromarray(overlay.astype(np.float32)).resize(
        picture.size, Image.Resampling.BILINEAR
    )
    opacity = HEAT_OPACITY * np.asarray(smooth).clip(0, 1)[..., np.newaxis]  # (h, w, 1)
    grey = np.asarray(picture, np.float32)[..., np.newaxis]
    mixed = (1 - opacity) * grey + opacity * np.array(HEAT, np.float32)  # (h, w, 3)
    return Image.fromarray(np.rint(mixed).astype(np.uint8)).quantize(GREY_LEVELS)


def _with_aspect(picture: Image.Image, aspect: float) -> Image.Image:
    # Repeated rows are sharp and compress well; interpolated rows do not.
    height = round(picture.width * aspect)
    return picture.resize((picture.width, height), Image.Resampling.NEAREST)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
