"""Figure of one verdict: image, residual map, nearest reference and metrics."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qc.figures import drawing

Floats = NDArray[np.float32] | NDArray[np.float64]

METRICS_DRAWN = 8  # with the largest deviations
SIGMA_END = 10.0  # of the colour scale of the residual map
Z_END = 15.0  # larger z-scores are drawn here


def verdict_figure(
    image: Floats,
    *,
    title: str,
    residual_map: Floats | None = None,
    nearest: Floats | None = None,
    z: Mapping[str, float] | None = None,
    warn_sigma: float = 5.0,
) -> Figure:
    """Draw the evidence of one extension in four panels.

    Parameters
    ----------
    image : (h, w) float array
        Block means of the extension, ADU.
    title : str
        First line of the figure, e.g. the text of the verdict.
    residual_map : (h, w) float array, optional
        Image minus reference model in units of its scatter, sigma; None with too few references.
    nearest : (h, w) float array, optional
        Block means of the nearest reference, ADU.
    z : mapping of str to float, optional
        Robust z-scores of the metrics, sigma.
    warn_sigma : float
        Position of the warning lines in the panel of the metrics, sigma.

    Returns
    -------
    matplotlib.figure.Figure
        Without a canvas of pyplot: notebooks show it, ``savefig`` writes it.
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    figure.suptitle(title, fontsize=10, wrap=True)
    axes = figure.subplots(1, 4)
    pictures = [image] if nearest is None else [image, nearest]
    low = min(float(np.nanpercentile(picture, 0.5)) for picture in pictures)
    high = max(float(np.nanpercentile(picture, 99.5)) for picture in pictures)
    _draw_image(figure, axes[0], image, "image, block means (ADU)", (low, high), "gray")
    limits = (-SIGMA_END, SIGMA_END)
    _draw_image(figure, axes[1], residual_map, "residual map (sigma)", limits, "PuOr_r")
    _draw_image(figure, axes[2], nearest, "nearest reference (ADU)", (low, high), "gray")
    _draw_z_scores(axes[3], z or {}, warn_sigma)
    return figure


def _draw_image(
    figure: Figure,
    axes: Axes,
    image: Floats | None,
    title: str,
    limits: tuple[float, float],
    colours: str,
) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    if image is None:
        axes.text(0.5, 0.5, "too few references", ha="center", transform=axes.transAxes)
        return
    picture = axes.imshow(
        image, origin="lower", aspect="auto", cmap=colours, vmin=limits[0], vmax=limits[1]
    )
    figure.colorbar(picture, ax=axes, fraction=0.05)


def _draw_z_scores(axes: Axes, z: Mapping[str, float], warn_sigma: float) -> None:
    """Draw the largest z-scores as bars; beyond `Z_END` they end there."""
    axes.set_title("metrics, robust z-score (sigma)", fontsize=9)
    names = sorted(z, key=lambda name: abs(z[name]), reverse=True)[:METRICS_DRAWN][::-1]
    if not names:
        axes.text(0.5, 0.5, "too few references", ha="center", transform=axes.transAxes)
        return
    values = np.clip([z[name] for name in names], -Z_END, Z_END)
    colours = [drawing.RED if abs(value) > warn_sigma else drawing.GREY for value in values]
    axes.barh([name.replace("_", " ") for name in names], values, color=colours)
    axes.set_xlim(-Z_END, Z_END)
    for limit in (-warn_sigma, warn_sigma):
        axes.axvline(limit, color=drawing.BLACK, linewidth=0.8, linestyle="--")
    axes.tick_params(labelsize=8)
