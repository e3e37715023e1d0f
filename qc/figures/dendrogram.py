"""Dendrogram of a reference set and one new frame."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list

from qc.figures import drawing

Floats = NDArray[np.float32] | NDArray[np.float64]


def draw_dendrogram(merges: Floats, *, threshold: float, marked: int) -> str:
    """Draw the dendrogram of the references and one new frame, with the threshold.

    Heights are drawn on a logarithmic scale: cosine distances of good frames differ by decades.

    Parameters
    ----------
    merges : (n - 1, 4) float array
        As `scipy.cluster.hierarchy.linkage` returns them.
    threshold : float
        Cosine distance above which a frame is an outlier.
    marked : int
        Index of the new frame among the n leaves.

    Returns
    -------
    str
        SVG.
    """
    links, holds_marked = dendrogram_links(merges, marked)  # (n - 1, 4, 2), (n - 1,)
    heights = merges[:, 2]
    lowest = min(heights[heights > 0].min(initial=threshold), threshold) / 3
    links[..., 1] = links[..., 1].clip(lowest)
    joins_at = float(heights[holds_marked].min())
    colour = drawing.RED if joins_at > threshold else drawing.BLUE
    figure, axes = drawing.new_figure()
    axes.add_collection(
        LineCollection(list(links[~holds_marked]), colors=drawing.GREY, linewidths=0.7)
    )
    axes.add_collection(LineCollection(list(links[holds_marked]), colors=colour, linewidths=0.9))
    place = leaf_positions(merges)[marked]
    axes.plot([place, place], [lowest, joins_at], color=colour, linewidth=2.5)
    axes.set(xlim=(-1, len(merges) + 1), ylim=(lowest, max(heights.max(), threshold) * 3))
    axes.set(xticks=[], ylabel="cosine distance")
    drawing.set_log_heights(axes)
    _label_leaf(axes, f"this frame: {joins_at:.2g}", (place, max(heights.max(), lowest)), colour)
    # The label of the leaf extends towards the middle; the threshold's text is on the other side.
    fraction = place / len(merges)
    side = "left" if 0.3 < fraction <= 0.5 or fraction > 0.7 else "right"
    drawing.add_limit(axes, threshold, f"threshold {threshold:.2g}", side=side)
    return drawing.svg_text(
        figure, f"Tree of {len(merges) + 1} frames; the new one joins at {joins_at:.2g}"
    )


def leaf_positions(merges: Floats) -> NDArray[np.int64]:
    """Return the horizontal position of each leaf, (n,), such that no branches cross."""
    order = leaves_list(np.asarray(merges, np.float64))
    return np.argsort(order)


def dendrogram_links(merges: Floats, marked: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Compute the brackets of a dendrogram.

    Parameters
    ----------
    merges : (n - 1, 4) float array
        As `scipy.cluster.hierarchy.linkage` returns them.
    marked : int
        Index of one leaf.

    Returns
    -------
    links : (n - 1, 4, 2) float64 array
        Four corners (position, height) of each merge.
    holds_marked : (n - 1,) bool array
        True for the merges that contain the marked leaf.
    """
    leaves = len(merges) + 1
    nodes = np.zeros((2 * leaves - 1, 2))  # position and height of each leaf, then of each merge
    nodes[:leaves, 0] = leaf_positions(merges)
    holds = np.zeros(2 * leaves - 1, bool)
    holds[marked] = True
    links = np.empty((leaves - 1, 4, 2))
    for number, (first, second) in enumerate(merges[:, :2].astype(int)):
        ends, height = nodes[[first, second]], merges[number, 2]
        links[number, [0, 3]] = ends
        links[number, [1, 2]] = np.column_stack([ends[:, 0], [height, height]])
        nodes[leaves + number] = ends[:, 0].mean(), height
        holds[leaves + number] = holds[first] or holds[second]
    return links, holds[leaves:]


def _label_leaf(axes: Axes, text: str, position: tuple[float, float], colour: str) -> None:
    """Write above the dendrogram, towards the middle."""
    is_right = position[0] > np.mean(axes.get_xlim())
    axes.annotate(
        text,
        position,
        xytext=(0, 4),
        textcoords="offset points",
        ha="right" if is_right else "left",
        color=colour,
        fontsize=drawing.TEXT_PT,
        fontweight="bold",
        bbox=drawing.PAPER,
    )
