"""Average-linkage clustering on cosine distance, and the merge height of a new embedding.

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
    return np.clip(1 - unit_vectors(a) @ unit_vectors(b).T, 0, 2)


def unit_vectors(embeddings: Floats) -> Doubles:
    """Scale embeddings to length 1, in double precision: (n, d).

    Raises
    ------
    ValueError
        If a row is zero.
    """
    rows = embeddings.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError("an embedding is all zeros; its cosine distance is undefined")
    unit: Doubles = rows / norms
    return unit


def average_linkage(embeddings: Floats) -> Doubles:
    """Return the (n - 1, 4) average-linkage tree of (n, d) embeddings, n >= 2.

    Average, not Ward: Ward's update assumes Euclidean distances.

    Raises
    ------
    ValueError
        If there are fewer than two embeddings, or one of them is zero.
    """
    if len(embeddings) < 2:
        raise ValueError(f"need at least 2 embeddings to cluster, got {len(embeddings)}")
    distances = cosine_distances(embeddings, embeddings)
    np.fill_diagonal(distances, 0)
    return linkage(squareform(distances, checks=False), method="average")


def joining_heights(merges: Doubles) -> Doubles:
    """Return the cosine distance at which each leaf first joins another leaf: (n,).

    In a tree of references this is the leave-one-out merge height of each reference: the height
    that it would have as the new frame among the others.
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

    Returns
    -------
    float
        Cosine distance, 0 to 2.
    """
    return merge_heights(reference, new)[0]


def merge_heights(reference: Floats, new: Floats) -> tuple[float, float]:
    """Return the merge height of `new`, and the median of the references' in the same tree.

    Parameters
    ----------
    reference : (m, d) float array, m >= 1
    new : (d,) float array

    Returns
    -------
    height, usual_height : float
        Cosine distances, 0 to 2.
    """
    *reference_heights, height = joining_heights(average_linkage(np.vstack([reference, new])))
    return float(height), float(np.median(reference_heights))


def find_first_merge(merges: Doubles, leaf: int) -> tuple[float, NDArray[np.int64]]:
    """Return the height at which a leaf first joins others, and the leaves that it joins.

    Parameters
    ----------
    merges : (n - 1, 4) float array
        As `average_linkage` returns them.
    leaf : int
        Index of the leaf, 0 to n - 1.

    Returns
    -------
    height : float
        Cosine distance.
    members : (k,) int64 array
        Leaves of the other branch, in rising order.

    Raises
    ------
    ValueError
        If the tree has no such leaf.
    """
    n = len(merges) + 1
    members = {index: [index] for index in range(n)}
    for node, merge in enumerate(merges, n):
        a, b = merge[:2].astype(int).tolist()
        if leaf in {a, b}:
            branch = members[b if a == leaf else a]
            return float(merge[_HEIGHT]), np.array(sorted(branch), np.int64)
        members[node] = members.pop(a) + members.pop(b)
    raise ValueError(f"expected a leaf from 0 to {n - 1}, got {leaf}")


def cut_tree(merges: Doubles, height: float) -> NDArray[np.int32]:
    """Cut a tree at a cosine distance.

    Parameters
    ----------
    merges : (n - 1, 4) float array
        As `average_linkage` returns them.
    height : float
        Cosine distance; merges above it are undone.

    Returns
    -------
    (n,) int32 array
        Cluster of each leaf, numbered from 1.
    """
    return fcluster(merges, t=height, criterion="distance").astype(np.int32)
