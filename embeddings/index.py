"""Nearest neighbours of an embedding: exact search, and candidates by short codes.

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

AXES = 127  # and the length of the remainder: 128 numbers, 256 bytes instead of 4 KB
_ROWS_AT_ONCE = 16_384


def nearest(query: Floats, blocks: Iterable[Block], k: int) -> tuple[Integers, Doubles]:
    """Return the k embeddings at the smallest cosine distance, nearest first.

    The search is exhaustive and needs no index. Memory holds one block at a time.

    Parameters
    ----------
    query : (d,) float array
    blocks : iterable of (ids, vectors)
        (n,) ints and (n, d) float arrays.
    k : int
        Number of neighbours; fewer are returned if there are fewer embeddings.

    Returns
    -------
    ids : (k,) int array
    distances : (k,) float64 array
        Cosine distances, 0 to 2. Equal distances keep the order of the blocks.

    Raises
    ------
    ValueError
        If `k` is less than 1.
    """
    if k < 1:
        raise ValueError(f"expected at least 1 neighbour to look for, got {k}")
    ids, distances = np.empty(0, np.int64), np.empty(0)
    for block_ids, vectors in blocks:
        block_distances = cosine_distances(vectors, query[np.newaxis])[:, 0]  # (n,)
        ids, distances = np.append(ids, block_ids), np.append(distances, block_distances)
        smallest = _argsmallest(distances, k)
        ids, distances = ids[smallest], distances[smallest]
    return ids, distances


def _argsmallest(values: Doubles, k: int) -> Integers:
    """Return the indices of the k smallest values, in rising order; stable for equal values."""
    if len(values) > k:
        greatest = np.partition(values, k - 1)[k - 1]
        candidates = np.flatnonzero(values <= greatest)
    else:
        candidates = np.arange(len(values))
    return candidates[np.argsort(values[candidates], kind="stable")[:k]]


@dataclass(frozen=True)
class PrincipalAxes:
    """Principal axes of embeddings, with respect to which codes are computed.

    Attributes
    ----------
    mean : (d,) float32 array
        Origin of the coordinates.
    directions : (p, d) float32 array
        Orthonormal.
    """

    mean: Floats
    directions: Floats

    def encode(self, vectors: Floats) -> Floats:
        """Encode vectors as p coordinates of their direction and the length of the remainder.

        Parameters
        ----------
        vectors : (n, d) float array

        Returns
        -------
        (n, p + 1) float32 array
        """
        offset = _unit(vectors) - self.mean
        coordinates = offset @ self.directions.T
        # By subtraction: a difference of squares would lose the digits of a small remainder.
        remainder = offset - coordinates @ self.directions
        return np.column_stack([coordinates, np.linalg.norm(remainder, axis=1)])


def learn_axes(groups: Sequence[Floats], p: int = AXES) -> PrincipalAxes:
    """Return the axes along which embeddings differ most from their neighbours.

    These are the principal axes of all groups, after each group is divided by the typical
    distance between its neighbours. Without that scaling, image types that vary little would
    not contribute to the axes.

    Parameters
    ----------
    groups : sequence of (n, d) float arrays
        Some hundred embeddings of each image type; at least one in all.
    p : int
        Number of axes, at most d.

    Returns
    -------
    PrincipalAxes

    Raises
    ------
    ValueError
        If an embedding is zero.
    """
    units = [_unit(group) for group in groups]
    mean = np.concatenate(units).mean(axis=0)
    d = len(mean)
    scatter = np.zeros((d, d))
    for unit in units:
        scaled = (unit - mean) / neighbour_spacing(unit)
        scatter += scaled.T @ scaled
    _, directions = np.linalg.eigh(scatter)
    return PrincipalAxes(mean, np.ascontiguousarray(directions[:, ::-1].T[: min(p, d)], np.float32))


def neighbour_spacing(unit: Floats) -> float:
    """Return the typical distance between nearest neighbours of (n, d) unit vectors.

    It is 1 for a single vector and for a group of equal vectors.
    """
    if len(unit) < 2:
        return 1.0
    rows = unit.astype(np.float64)  # a cosine distance of 1e-6 is lost in single precision
    distances = 1 - rows @ rows.T
    np.fill_diagonal(distances, np.inf)
    spacing = float(np.sqrt(2 * max(np.median(distances.min(axis=1)), 0)))
    return spacing if spacing > _ROUNDING else 1.0


_ROUNDING = 1e-4  # smaller distances come from the rounding to float16


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError("an embedding is all zeros; it has no direction")
    unit: Floats = vectors / norms
    return unit


class Codes:
    """Codes of embeddings in half precision, searched exhaustively.

    The codes give two estimates of a squared distance. The first assumes that the remainders of
    two embeddings are orthogonal, which holds for nominal frames. The second assumes that they
    are parallel; it is a lower bound and finds frames that share a rare feature.
    """

    def __init__(
        self, index: faiss.IndexScalarQuantizer, content: NDArray[np.uint8] | None = None
    ) -> None:
        self._index = index
        self._content = content  # the index reads this buffer: it must live as long

    @classmethod
    def empty(cls, length: int) -> "Codes":
        """Return an empty collection of codes of the given length."""
        kind = faiss.ScalarQuantizer.QT_fp16
        return cls(faiss.IndexScalarQuantizer(length, kind, faiss.METRIC_L2))

    @classmethod
    def view(cls, content: NDArray[np.uint8]) -> "Codes":
        """Open written codes in place, without a copy.

        Raises
        ------
        ValueError
            If the content was not written by `write`.
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
        """Append (n, p + 1) codes."""
        self._index.add(np.ascontiguousarray(codes, np.float32))

    def copy(self) -> "Codes":
        """Return a copy that can be extended."""
        copied = self.empty(self._index.d)
        for start in range(0, len(self), _ROWS_AT_ONCE):
            copied.add(self._index.reconstruct_n(start, min(_ROWS_AT_ONCE, len(self) - start)))
        return copied

    def write(self, stream: BinaryIO) -> None:
        """Write the codes to a stream; `view` opens them."""
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(stream.write))

    def candidates(self, code: Floats, n: int, allowed: NDArray[np.bool_] | None) -> Integers:
        """Return the rows that may be nearest to a code: the n best by each estimate.

        Parameters
        ----------
        code : (p + 1,) float array
        n : int
            Candidates per estimate.
        allowed : (len(self),) bool array, optional
            Rows to search; all by default.

        Returns
        -------
        (at most 2 n,) int array
            In rising order.
        """
        orthogonal = code.copy()
        orthogonal[-1] = 0  # the distance then grows by the square of the row's remainder
        queries = np.stack([orthogonal, code])
        parameters = None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        _, rows = self._index.search(queries, min(n, len(self)), params=parameters)
        candidates: Integers = np.unique(rows)
        return candidates[candidates >= 0]  # -1 fills the result where fewer rows are allowed
