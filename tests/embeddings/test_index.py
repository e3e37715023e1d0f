import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from embeddings.index import nearest


def blocks_of(vectors, size: int):
    ids = np.arange(len(vectors)) * 10
    for start in range(0, len(vectors), size):
        yield ids[start : start + size], vectors[start : start + size]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 120), st.integers(1, 40), st.integers(1, 130), st.integers(0, 10_000))
def test_nearest_matches_brute_force(n, size, k, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 8)).astype(np.float32)
    query = rng.normal(size=8).astype(np.float32)
    ids, distances = nearest(query, blocks_of(vectors, size), k)
    all_distances = cdist(query[np.newaxis], vectors.astype(np.float64), "cosine")[0]
    best = np.argsort(all_distances, kind="stable")[:k]
    assert ids.tolist() == (best * 10).tolist()
    np.testing.assert_allclose(distances, all_distances[best], atol=1e-12)


def test_nearest_keeps_order_of_equal_distances():
    vectors = np.ones((9, 4), np.float32)
    ids, distances = nearest(vectors[0], blocks_of(vectors, 2), 5)
    assert ids.tolist() == [0, 10, 20, 30, 40]
    assert np.allclose(distances, 0)


def test_nearest_without_blocks_is_empty():
    ids, distances = nearest(np.ones(4, np.float32), [], 3)
    assert (len(ids), len(distances)) == (0, 0)


def test_nearest_rejects_zero_neighbours():
    with pytest.raises(ValueError, match="at least 1 neighbour to look for, got 0"):
        nearest(np.ones(4, np.float32), [], 0)


def test_nearest_holds_one_block_in_memory():
    """A hundred blocks of 2 MB, generated on demand."""

    def history():
        for number in range(100):
            vectors = np.random.default_rng(number).normal(size=(256, 2048)).astype(np.float32)
            yield np.arange(256) + 256 * number, vectors

    tracemalloc.start()
    try:
        ids, _ = nearest(np.ones(2048, np.float32), history(), 10)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ids) == 10
    assert peak_bytes < 30e6
