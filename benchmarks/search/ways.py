"""Ways to search embeddings: each is built from the same vectors and asked one at a time.

All but the first are given the vectors less their mean: the little in which frames differ would
be lost in their common digits. Distances are then Euclidean, and order
neighbours as cosine distances do.
"""

from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray
from usearch.index import Index as USearchIndex

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

LINKS, BUILD_EF, ASK_EF = 32, 128, 128  # of the graphs (HNSW)
LISTS, PROBED = 1024, 32  # of the inverted files


@dataclass(frozen=True)
class Way:
    """A way that is ready to be asked.

    Attributes
    ----------
    ask : callable
        Returns the numbers of the n vectors that it takes for the nearest to one.
    size_bytes : int
        Of the index, without the vectors themselves.
    """

    ask: Callable[[Floats, int], Integers]
    size_bytes: int


def numpy_flat(vectors: Floats) -> Way:
    """Compute every product by NumPy."""
    squares = np.einsum("ij,ij->i", vectors, vectors)

    def ask(query: Floats, n: int) -> Integers:
        far = squares - 2 * (vectors @ query)
        best = np.argpartition(far, n)[:n]
        return best[np.argsort(far[best])]

    return Way(ask, vectors.nbytes)


def _of_faiss(index: faiss.Index, vectors: Floats) -> Way:
    index.train(vectors)
    index.add(vectors)
    size = faiss.serialize_index(index).nbytes
    return Way(lambda query, n: index.search(query[np.newaxis], n)[1][0], size)


def faiss_flat(vectors: Floats) -> Way:
    """Compute every distance by faiss."""
    return _of_faiss(faiss.IndexFlatL2(vectors.shape[1]), vectors)


def faiss_graph(vectors: Floats) -> Way:
    """Link neighbours in a graph, over numbers of 8 bits."""
    kind = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexHNSWSQ(vectors.shape[1], kind, LINKS)
    index.hnsw.efConstruction, index.hnsw.efSearch = BUILD_EF, ASK_EF
    return _of_faiss(index, vectors)


def faiss_lists(vectors: Floats) -> Way:
    """Inverted lists with 8-bit differences from each list's centre."""
    d, lists = vectors.shape[1], min(LISTS, len(vectors) // 39)
    kind = faiss.ScalarQuantizer.QT_8bit
    centres = faiss.IndexFlatL2(d)
    index = faiss.IndexIVFScalarQuantizer(centres, d, lists, kind, faiss.METRIC_L2, True)
    index.nprobe = PROBED
    way = _of_faiss(index, vectors)
    return Way(lambda query, n: _there(way.ask(query, n)), way.size_bytes)


def faiss_products(vectors: Floats) -> Way:
    """Keep the same differences as 128 codes of 8 bits (product quantisation)."""
    d, lists = vectors.shape[1], min(LISTS, len(vectors) // 39)
    centres = faiss.IndexFlatL2(d)
    index = faiss.IndexIVFPQ(centres, d, lists, 128, 8)
    index.nprobe = PROBED
    way = _of_faiss(index, vectors)
    return Way(lambda query, n: _there(way.ask(query, n)), way.size_bytes)


def _there(rows: Integers) -> Integers:
    return rows[rows >= 0]  # -1 where the lists held fewer


def usearch_halves(vectors: Floats) -> Way:
    """Link neighbours in a graph, over half-precision numbers."""
    return _of_usearch(vectors, "f16")


def usearch_bytes(vectors: Floats) -> Way:
    """Link neighbours in a graph, over bytes with the range of all but a thousandth of them."""
    return _of_usearch(vectors / np.quantile(np.abs(vectors[::50]), 0.999), "i8")


def _of_usearch(vectors: Floats, kind: str) -> Way:
    index = USearchIndex(
        ndim=vectors.shape[1],
        metric="l2sq",
        dtype=kind,
        connectivity=LINKS,
        expansion_add=BUILD_EF,
        expansion_search=ASK_EF,
    )
    clipped = vectors.clip(-1, 1) if kind == "i8" else vectors
    index.add(np.arange(len(vectors)), clipped, threads=0)
    return Way(
        lambda query, n: index.search(query, n).keys.astype(np.int64), index.serialized_length
    )


OTHERS: dict[str, tuple[str, Callable[[Floats], Way]]] = {
    "numpy": ("NumPy, brute force, float32 in memory", numpy_flat),
    "faiss-flat": ("faiss flat, float32 in memory", faiss_flat),
    "faiss-hnsw-sq8": ("faiss HNSW, 8 bit", faiss_graph),
    "faiss-ivf-sq8": ("faiss IVF, 8 bit of the residual", faiss_lists),
    "faiss-ivf-pq": ("faiss IVF, product quantisation", faiss_products),
    "usearch-f16": ("usearch HNSW, float16", usearch_halves),
    "usearch-i8": ("usearch HNSW, int8", usearch_bytes),
}
