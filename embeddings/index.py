"""Which of many embeddings are nearest to one: exactly, or by short codes that leave out most.

Shapes: n embeddings, d an embedding's length (2048 for ResNet-50), p the axes of a code.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import faiss
import numpy as np
from numpy.typing import NDArray

from embeddings.clustering import cosine_distances

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Block = tuple[Integers, Floats]

AXES = 127  # with what they leave out, 128 numbers: 256 bytes of a 4 KB embedding
_ROWS_AT_ONCE = 16_384


def nearest(query: Floats, blocks: Iterable[Block], k: int) -> tuple[Integers, Doubles]:
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


@dataclass(frozen=True)
class PrincipalAxes:
    """The directions in which embeddings differ most: what a code keeps of each.

    Attributes
    ----------
    mean : (d,) float32 array
        From which coordinates are counted.
    directions : (p, d) float32 array
        Orthonormal.
    """

    mean: Floats
    directions: Floats

    def encode(self, vectors: Floats) -> Floats:
        """Return codes: p coordinates of each vector's direction, and the length of the rest.

        Parameters
        ----------
        vectors : (n, d) float array

        Returns
        -------
        (n, p + 1) float32 array
        """
        away = _unit(vectors) - self.mean
        along = away @ self.directions.T
        rest = away - along @ self.directions  # by subtraction: squares would lose small ones
        return np.column_stack([along, np.linalg.norm(rest, axis=1)])


def learn_axes(groups: Sequence[Floats], p: int = AXES) -> PrincipalAxes:
    """Return the axes that tell embeddings apart from their neighbours.

    The principal axes of all, each group in units of the distance between neighbours in it: else
    a kind of image that varies little would have no share in them, and its members no order.

    Parameters
    ----------
    groups : sequence of (n, d) float arrays
        Some hundred embeddings of each kind of image; at least one in all.
    """
    units = [_unit(group) for group in groups]
    mean = np.concatenate(units).mean(axis=0)
    d = len(mean)
    scatter = np.zeros((d, d))
    for one in units:
        away = (one - mean) / _spacing(one)
        scatter += away.T @ away
    _, directions = np.linalg.eigh(scatter)
    return PrincipalAxes(mean, np.ascontiguousarray(directions[:, ::-1].T[: min(p, d)], np.float32))


def _spacing(unit: Floats) -> float:
    """Return how far apart neighbours typically are; 1 of a group that has none, or all equal."""
    if len(unit) < 2:
        return 1.0
    rows = unit.astype(np.float64)  # a cosine distance of 1e-6 is lost in single precision
    apart = 1 - rows @ rows.T
    np.fill_diagonal(apart, np.inf)
    spacing = float(np.sqrt(2 * max(np.median(apart.min(axis=1)), 0)))
    return spacing if spacing > _ROUNDING else 1.0


_ROUNDING = 1e-4  # what is nearer is equal but for its float16 digits


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError("an embedding is all zeros; it has no direction")
    unit: Floats = vectors / norms
    return unit


class Codes:
    """Codes of embeddings, in half precision, all of which a search looks at.

    Two estimates of a squared distance come from the same codes: as if what the axes leave out
    of two embeddings had nothing in common, which is right for frames as they should be; and as
    if it were all in common, which is a lower bound and finds what is alike in an uncommon way.
    """

    def __init__(
        self, index: faiss.IndexScalarQuantizer, content: NDArray[np.uint8] | None = None
    ) -> None:
        self._index = index
        self._content = content  # which must live as long as an index that reads it

    @classmethod
    def empty(cls, length: int) -> "Codes":
        """Return none, to which codes of this length can be added."""
        kind = faiss.ScalarQuantizer.QT_fp16
        return cls(faiss.IndexScalarQuantizer(length, kind, faiss.METRIC_L2))

    @classmethod
    def view(cls, content: NDArray[np.uint8]) -> "Codes":
        """Return what was written, read where it lies when it is needed.

        Raises
        ------
        ValueError
            If it is not what `write` writes.
        """
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(content), content.nbytes)
        try:
            index = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"expected codes, got {str(error).splitlines()[-1]}") from None
        return cls(index, content)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, codes: Floats) -> None:
        """Add (n, p + 1) codes behind the others."""
        self._index.add(np.ascontiguousarray(codes, np.float32))

    def copy(self) -> "Codes":
        """Return the same codes, to which others can be added."""
        found = self.empty(self._index.d)
        for start in range(0, len(self), _ROWS_AT_ONCE):
            found.add(self._index.reconstruct_n(start, min(_ROWS_AT_ONCE, len(self) - start)))
        return found

    def write(self, stream: BinaryIO) -> None:
        """Write them, to be viewed."""
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(stream.write))

    def candidates(self, code: Floats, n: int, allowed: NDArray[np.bool_] | None) -> Integers:
        """Return the rows that may be nearest to one: the n best by each of the two estimates.

        Parameters
        ----------
        code : (p + 1,) float array
        allowed : (len(self),) bool array, optional
            The rows that are wanted; else all.

        Returns
        -------
        (at most 2 n,) int array
            In rising order.
        """
        nothing_in_common = code.copy()
        nothing_in_common[-1] = 0  # then the distance grows by the square of the other's rest
        questions = np.stack([nothing_in_common, code])
        wanted = None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            wanted = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        _, rows = self._index.search(questions, min(n, len(self)), params=wanted)
        found: Integers = np.unique(rows)
        return found[found >= 0]  # -1 stands where fewer were allowed
