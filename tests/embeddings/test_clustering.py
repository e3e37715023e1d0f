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
    """Average linkage by its definition: join the two clusters of the least mean distance."""
    distances = cdist(embeddings.astype(float), embeddings.astype(float), "cosine")
    clusters = [frozenset([i]) for i in range(len(embeddings))]
    heights = [0.0] * len(embeddings)

    def apart(pair: tuple[frozenset[int], frozenset[int]]) -> float:
        return float(np.mean([distances[i, j] for i, j in product(*pair)]))

    while len(clusters) > 1:
        nearest = min(combinations(clusters, 2), key=apart)
        for [leaf] in (cluster for cluster in nearest if len(cluster) == 1):
            heights[leaf] = apart(nearest)
        clusters = [one for one in clusters if one not in nearest] + [frozenset().union(*nearest)]
    return heights


many = given(st.integers(2, 12), st.integers(0, 10_000))


@settings(max_examples=40, deadline=None)
@many
def test_joining_heights_are_those_of_average_linkage_by_its_definition(n, seed):
    embeddings = embeddings_of(n, seed=seed)
    found = joining_heights(average_linkage(embeddings))
    assert found == pytest.approx(naive_joining_heights(embeddings), abs=1e-9)


@settings(max_examples=30, deadline=None)
@many
def test_a_leaf_joins_at_the_height_it_would_have_as_the_new_frame_among_the_others(n, seed):
    embeddings = embeddings_of(n, seed=seed)
    heights = joining_heights(average_linkage(embeddings))
    left_out = [merge_height(np.delete(embeddings, i, axis=0), embeddings[i]) for i in range(n)]
    assert heights == pytest.approx(left_out, abs=1e-9)


@settings(max_examples=30, deadline=None)
@many
def test_the_order_of_references_and_the_length_of_vectors_do_not_matter(n, seed):
    random = np.random.default_rng(seed)
    reference, new = embeddings_of(n, seed=seed), embeddings_of(1, seed=seed + 1)[0]
    lengths = random.uniform(0.1, 10, (n, 1)).astype(np.float32)
    shuffled = (reference * lengths)[random.permutation(n)]
    assert merge_height(shuffled, new * 7) == pytest.approx(merge_height(reference, new), abs=1e-6)


def test_one_reference_is_joined_at_its_distance():
    assert merge_height(at_degrees(0), at_degrees(60)[0]) == pytest.approx(0.5)


def test_a_new_frame_joins_a_pair_at_the_mean_of_its_distances():
    reference, new = at_degrees(-10, 10), at_degrees(90)[0]
    assert merge_height(reference, new) == pytest.approx(1.0)  # 1 - cos of 80 and of 100 degrees


def test_a_twin_joins_at_zero_and_an_opposite_at_two():
    assert merge_height(at_degrees(0, 30), at_degrees(30)[0]) == pytest.approx(0, abs=1e-7)
    assert merge_height(at_degrees(0, 0), at_degrees(180)[0]) == pytest.approx(2)


def test_cosine_distances_resolve_a_millionth():
    angle = np.degrees(np.arccos(1 - 1e-6))
    [[distance]] = cosine_distances(at_degrees(0), at_degrees(angle))
    assert distance == pytest.approx(1e-6, rel=0.01)


def test_a_row_of_zeros_has_no_angle():
    with pytest.raises(ValueError, match="all zeros"):
        merge_height(np.zeros((3, 4), np.float32), np.ones(4, np.float32))


def test_one_embedding_makes_no_tree():
    with pytest.raises(ValueError, match="at least 2 embeddings to cluster, got 1"):
        average_linkage(embeddings_of(1))


def partition(labels: NDArray[np.int32]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in labels}


def test_a_cut_parts_what_joins_above_it():
    merges = average_linkage(at_degrees(0, 1, 40, 41, 42))
    together = {frozenset({0, 1}), frozenset({2, 3, 4})}
    assert partition(cut_tree(merges, 0.01)) == together
    assert partition(cut_tree(merges, 1e-9)) == {frozenset({i}) for i in range(5)}
    assert partition(cut_tree(merges, 2)) == {frozenset(range(5))}


@pytest.mark.parametrize("height", [0.05, 0.2, 0.5])
def test_a_cut_is_that_of_scikit_learn(height):
    embeddings = embeddings_of(30)
    other = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=height
    )
    expected = other.fit_predict(embeddings.astype(np.float64))
    assert partition(cut_tree(average_linkage(embeddings), height)) == partition(expected)
