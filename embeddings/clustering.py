"""Does an embedding belong with its kind? Average linkage on cosine distance.

Shapes: n embeddings of which m are references; d is the embedding's length (2048 for ResNet-50).
A linkage matrix is SciPy's: (n - 1, 4) float64, a merge a row, its height in column 2.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_HEIGHT = 2  # column of a linkage matrix


def cosine_distances(a: Floats, b: Floats) -> Doubles:
    """Return 1 - cos of the angle between each row of `a` and each of `b`.

    Parameters
    ----------
    a : (n, d) float array
    b : (m, d) float array

    Returns
    -------
    (n, m) float64 array, 0 (same direction) to 2 (opposite)

    Raises
    ------
    ValueError
        If a row is zero: its angle is undefined.
    """
    # In double precision: thresholds of nominal frames are as small as 1e-5, and 1 - cos of
    # float32 products is noise below 1e-7.
    return np.clip(1 - _unit(a) @ _unit(b).T, 0, 2)


def _unit(embeddings: Floats) -> Doubles:
    rows = embeddings.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError("an embedding is all zeros; its cosine distance is undefined")
    unit: Doubles = rows / norms
    return unit


def average_linkage(embeddings: Floats) -> Doubles:
    """Return the (n - 1, 4) average-linkage tree of (n, d) embeddings, n >= 2.

    Average, not Ward: Ward's update assumes Euclidean distances.
    """
    if len(embeddings) < 2:
        raise ValueError(f"need at least 2 embeddings to cluster, got {len(embeddings)}")
    distances = cosine_distances(embeddings, embeddings)
    np.fill_diagonal(distances, 0)
    return linkage(squareform(distances, checks=False), method="average")


def joining_heights(merges: Doubles) -> Doubles:
    """Return, for each leaf, the cosine distance at which it first joins any other: (n,).

    For a tree of references this is at once each one's leave-one-out merge height: the height it
    would have had as the new frame among the others.
    """
    n = len(merges) + 1
    heights = np.empty(n)
    for merge in merges:
        for child in merge[:2].astype(int):
            if child < n:
                heights[child] = merge[_HEIGHT]
    return heights


def merge_height(reference: Floats, new: Floats) -> float:
    """Return the cosine distance at which `new` first joins a cluster of references.

    Parameters
    ----------
    reference : (m, d) float array, m >= 1
    new : (d,) float array
    """
    return merge_heights(reference, new)[0]


def merge_heights(reference: Floats, new: Floats) -> tuple[float, float]:
    """Return the merge height of `new`, and the median of the references' own in the same tree.

    Parameters
    ----------
    reference : (m, d) float array, m >= 1
    new : (d,) float array
    """
    *references, own = joining_heights(average_linkage(np.vstack([reference, new])))
    return float(own), float(np.median(references))


def joined(merges: Doubles, leaf: int) -> tuple[float, NDArray[np.int64]]:
    """Return at which height a leaf first joins any other, and the leaves that it joins there.

    Parameters
    ----------
    merges : (n - 1, 4) float array
        As `average_linkage` returns them.
    leaf : int
        One of the n.
    """
    n = len(merges) + 1
    members = {one: [one] for one in range(n)}
    for node, merge in enumerate(merges, n):
        a, b = merge[:2].astype(int).tolist()
        if leaf in {a, b}:
            other = members[b if a == leaf else a]
            return float(merge[_HEIGHT]), np.array(sorted(other), np.int64)
        members[node] = members.pop(a) + members.pop(b)
    raise ValueError(f"expected a leaf from 0 to {n - 1}, got {leaf}")


def cut(merges: Doubles, height: float) -> NDArray[np.int32]:
    """Cut the tree at a cosine distance; return each leaf's cluster, numbered from 1: (n,)."""
    return fcluster(merges, t=height, criterion="distance").astype(np.int32)
