"""Row or column profile of an extension over the range of its references."""

import numpy as np
from numpy.typing import NDArray

from qc.figures import drawing

Floats = NDArray[np.float32] | NDArray[np.float64]

PROFILE_POINTS = 256  # about one per half millimetre in print


def draw_profile(
    reference_lo: Floats,
    reference_mid: Floats,
    reference_hi: Floats,
    new: Floats,
    *,
    along: str = "row",
    unit: str = "ADU",
) -> str:
    """Draw a profile over the band of its references, and the difference below.

    Thousands of points are reduced to hundreds: the band keeps its width and the new profile its
    outliers.

    Parameters
    ----------
    reference_lo, reference_mid, reference_hi, new : (n,) float arrays
        In `unit`, e.g. percentiles 1, 50 and 99 of the references, and the new frame.
    along : str
        Label of the horizontal axis.
    unit : str

    Returns
    -------
    str
        SVG.
    """
    starts, low, middle, high, values = thin_profile(reference_lo, reference_mid, reference_hi, new)
    outside = (values < low) | (values > high)
    figure, (upper, lower) = drawing.new_two_panel_figure()
    for axes, zero in ((upper, np.zeros_like(middle)), (lower, middle)):
        axes.fill_between(starts, low - zero, high - zero, color=drawing.PALE, label="references")
        axes.plot(starts, values - zero, color=drawing.BLUE, linewidth=1, label="this frame")
        points = starts[outside], (values - zero)[outside]
        axes.plot(*points, ".", color=drawing.RED, markersize=5, label="outside")
    upper.plot(starts, middle, color=drawing.GREY, linewidth=0.6)
    lower.axhline(0, color=drawing.GREY, linewidth=0.6)
    lower.set(xlabel=along, ylabel=f"difference\n[{unit}]")
    upper.set(ylabel=f"[{unit}]", xlim=(0, len(new)))
    drawing.add_legend(figure, upper)
    share = np.mean((new < reference_lo) | (new > reference_hi))
    return drawing.svg_text(figure, f"Profile along {along}: {share:.1%} outside the references")


def thin_profile(
    low: Floats, middle: Floats, high: Floats, new: Floats
) -> tuple[NDArray[np.int64], Floats, Floats, Floats, Floats]:
    """Reduce profiles to a few hundred points.

    Parameters
    ----------
    low, middle, high, new : (n,) float arrays
        The band of the references, and the new profile.

    Returns
    -------
    starts : (k,) int array
        First index of each point's interval.
    low, middle, high, new : (k,) float arrays
        The new profile is represented by its value furthest from the middle of the band.
    """
    starts = np.unique(np.linspace(0, len(new), PROFILE_POINTS, endpoint=False).astype(int))
    lengths = np.diff(starts, append=len(new))
    deviation = new - middle
    peaks, dips = np.maximum.reduceat(deviation, starts), np.minimum.reduceat(deviation, starts)
    furthest = np.where(peaks > -dips, peaks, dips)
    mean = np.add.reduceat(middle, starts) / lengths
    below = np.minimum.reduceat(low - middle, starts)
    above = np.maximum.reduceat(high - middle, starts)
    return starts, mean + below, mean, mean + above, mean + furthest
