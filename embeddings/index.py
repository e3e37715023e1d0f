"""Which of many embeddings are nearest to one: exact, a block at a time.

Shapes: n embeddings in a block, d the embedding's length (2048 for ResNet-50).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from embeddings.clustering import cosine_distances

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Block = tuple[Integers, NDArray[np.float32]]


def nearest(
    query: NDArray[np.float32], blocks: Iterable[Block], k: int
) -> tuple[Integers, Doubles]:
    """Return the k embeddings at the smallest cosine distance, nearest first.

    No index is kept, so none can be out of date: every vector is looked at, and no more than a
    block is in memory.

    Parameters
    ----------
    query : (d,) float array
    blocks : iterable of (ids, vectors)
        (n,) ints and (n, d) float arrays.
    k : int
        How many are wanted; fewer are returned if there are fewer.

    Returns
    -------
    ids : (k,) int array
    distances : (k,) float64 array
        Cosine distances, 0 to 2. Of equal ones the first to come is first.
    """
    if k < 1:
        raise ValueError(f"expected at least 1 neighbour to look for, got {k}")
    ids, distances = np.empty(0, np.int64), np.empty(0)
    for more, vectors in blocks:
        further = cosine_distances(vectors, query[np.newaxis])[:, 0]  # (n,)
        ids, distances = np.append(ids, more), np.append(distances, further)
        kept = _smallest(distances, k)
        ids, distances = ids[kept], distances[kept]
    return ids, distances


def _smallest(values: Doubles, k: int) -> Integers:
    """Return where the k smallest values are, in order; of equal ones the first."""
    if len(values) > k:
        greatest = np.partition(values, k - 1)[k - 1]
        candidates = np.flatnonzero(values <= greatest)
    else:
        candidates = np.arange(len(values))
    return candidates[np.argsort(values[candidates], kind="stable")[:k]]
