import json

import numpy as np
import pytest

from benchmarks.search.asking import QUESTIONS, recall
from benchmarks.search.making import (
    FIRST,
    LAST,
    SPACINGS,
    D,
    draw,
    image_types,
    make_block,
    make_setups,
)
from benchmarks.search.report import DOCUMENT, FIGURES, render
from embeddings.clustering import cosine_distances


@pytest.fixture(scope="module")
def setups():
    """One like each that was measured."""
    return make_setups(copies=1)


def test_what_is_made_up_is_spaced_like_what_was_measured(setups):
    random = np.random.default_rng(0)
    for setup in setups[::3]:
        n, nearest, tenth = SPACINGS[setup.image_type.split(".")[0]]
        vectors = draw(setup, n, random).astype(np.float32)
        apart = cosine_distances(vectors, vectors)
        np.fill_diagonal(apart, np.inf)
        created = np.median(np.sort(apart, axis=1), axis=0)
        assert 0.5 < created[0] / nearest < 1.5
        assert 0.5 < created[9] / tenth < 1.5


def test_a_block_is_the_same_whenever_it_is_made(setups):
    blocks = [make_block(setups, 10_300, 10_000) for _ in range(2)]
    assert blocks[0].vectors.shape == (300, D)
    assert np.array_equal(blocks[0].vectors, blocks[1].vectors)
    assert blocks[0].nights.max() <= LAST.toordinal()
    assert blocks[0].nights.min() > FIRST.toordinal()


def test_image_types_are_named_in_the_order_of_the_setups(setups):
    assert [setup.image_type for setup in setups] == image_types()[::4]


def test_recall_counts_one_as_near_as_the_last():
    truth = np.array([1.0, 2.0, 2.0])
    assert recall(np.array([1.0, 2.0, 2.0]), truth) == 1
    assert recall(np.array([1.0, 2.0, 3.0]), truth) == pytest.approx(2 / 3)
    assert recall(np.array([1.0]), np.array([1.0, np.inf, np.inf])) == 1  # there is no more
    assert recall(np.empty(0), np.full(3, np.inf)) == 1


def test_a_question_means_what_it_says(setups):
    some = make_block(setups, 1000, 0)
    shares = {item.words: item.meant(some).mean() for item in QUESTIONS}
    assert shares["any type"] == 1
    assert shares["any type, one year"] == pytest.approx(0.1, abs=0.01)
    assert shares["any type, labelled"] == pytest.approx(0.05, abs=0.03)


def test_the_document_shows_the_figures_that_are_kept():
    figures = json.loads(FIGURES.read_text())
    assert render(figures, DOCUMENT.read_text()) == DOCUMENT.read_text()
