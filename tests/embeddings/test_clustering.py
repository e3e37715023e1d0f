from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import AgglomerativeClustering

from embeddings.clustering import (
    average_linkage,
    cosine_distances,
    cut_tree,
    joining_heights,
    merge_height,
)

Floats = NDArray[np.float32]


def embeddings_of(n: int, d: int = 6, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(1, 1, (n, d)).astype(np.float32)


def at_degrees(*degrees: float) -> Floats:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def naive_joining_heights(embeddings: Floats) -> list[float]:
    """Join the two clusters of the least mean distance, the definition of average linkage."""
    distances = cdist(embeddings.astype(float), embeddings.astype(float), "cosine")
    clusters = [frozenset([i]) for i in range(len(embeddings))]
    heights = [0.0] * len(embeddings)

    def mean_distance(pair: tuple[frozenset[int], frozenset[int]]) -> float:
        return float(np.mean([distances[i, j] for i, j in product(*pair)]))

    while len(clusters) > 1:
        nearest = min(combinations(clusters, 2), key=mean_distance)
        for [leaf] in (cluster for cluster in nearest if len(cluster) == 1):
            heights[leaf] = mean_distance(nearest)
        clusters = [item for item in clusters if item not in nearest] + [
            frozenset().union(*nearest)
        ]
    return heights


any_embeddings = given(st.integers(2, 12), st.integers(0, 10_000))


@settings(max_examples=40, deadline=None)
@any_embeddings
def test_joining_heights_match_naive_average_linkage(n, seed):
    embeddings = embeddings_of(n, seed=seed)
    heights = joining_heights(average_linkage(embeddings))
    assert heights == pytest.approx(naive_joining_heights(embeddings), abs=1e-9)


@settings(max_examples=30, deadline=None)
@any_embeddings
def test_joining_heights_equal_leave_one_out_merge_heights(n, seed):
    embeddings = embeddings_of(n, seed=seed)
    heights = joining_heights(average_linkage(embeddings))
    left_out = [merge_height(np.delete(embeddings, i, axis=0), embeddings[i]) for i in range(n)]
    assert heights == pytest.approx(left_out, abs=1e-9)


@settings(max_examples=30, deadline=None)
@any_embeddings
def test_merge_height_ignores_order_and_length_of_vectors(n, seed):
    random = np.random.default_rng(seed)
    reference, new = embeddings_of(n, seed=seed), embeddings_of(1, seed=seed + 1)[0]
    lengths = random.uniform(0.1, 10, (n, 1)).astype(np.float32)
    shuffled = (reference * lengths)[random.permutation(n)]
    assert merge_height(shuffled, new * 7) == pytest.approx(merge_height(reference, new), abs=1e-6)


def test_merge_height_with_one_reference_is_its_distance():
    assert merge_height(at_degrees(0), at_degrees(60)[0]) == pytest.approx(0.5)


def test_merge_height_with_pair_is_mean_distance():
    reference, new = at_degrees(-10, 10), at_degrees(90)[0]
    assert merge_height(reference, new) == pytest.approx(1.0)  # 1 - cos of 80 and of 100 degrees


def test_merge_height_is_zero_for_twin_and_two_for_opposite():
    assert merge_height(at_degrees(0, 30), at_degrees(30)[0]) == pytest.approx(0, abs=1e-7)
    assert merge_height(at_degrees(0, 0), at_degrees(180)[0]) == pytest.approx(2)


def test_cosine_distances_resolve_one_millionth():
    angle = np.degrees(np.arccos(1 - 1e-6))
    [[distance]] = cosine_distances(at_degrees(0), at_degrees(angle))
    assert distance == pytest.approx(1e-6, rel=0.01)


def test_merge_height_rejects_zero_vector():
    with pytest.raises(ValueError, match="all zeros"):
        merge_height(np.zeros((3, 4), np.float32), np.ones(4, np.float32))


def test_average_linkage_rejects_single_embedding():
    with pytest.raises(ValueError, match="at least 2 embeddings to cluster, got 1"):
        average_linkage(embeddings_of(1))


def partition(labels: NDArray[np.int32]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in labels}


def test_cut_tree_separates_clusters_above_height():
    merges = average_linkage(at_degrees(0, 1, 40, 41, 42))
    together = {frozenset({0, 1}), frozenset({2, 3, 4})}
    assert partition(cut_tree(merges, 0.01)) == together
    assert partition(cut_tree(merges, 1e-9)) == {frozenset({i}) for i in range(5)}
    assert partition(cut_tree(merges, 2)) == {frozenset(range(5))}


@pytest.mark.parametrize("height", [0.05, 0.2, 0.5])
def test_cut_tree_matches_scikit_learn(height):
    embeddings = embeddings_of(30)
    reference = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=height
    )
    expected = reference.fit_predict(embeddings.astype(np.float64))
    assert partition(cut_tree(average_linkage(embeddings), height)) == partition(expected)
