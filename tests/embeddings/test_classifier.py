import importlib.util
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.classifier import MAX_BYTES, DenseClassifier, with_prior
from embeddings.classifier_data import (
    ClassifierError,
    Examples,
    Features,
    NamedArrays,
    TooFewExamplesError,
)

# Keras of NumPy 1, when it saves weights
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

D = 24
TYPES = ("arc", "bias", "flat")
KINDS = ("dust", "glow")


def some_examples(n: int, *, seed: int = 1, spread: float = 1.0, bad: float = 0.5) -> Examples:
    """Nearly parallel embeddings, as of an untrained network, with a small step between types.

    Dust lowers a number, a glow raises another. Ten days, every type on each.
    """
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % len(TYPES)
    steps = np.eye(D)[: len(TYPES)]
    embeddings = 0.2 + 1e-4 * (10 * steps[truth] + spread * rng.normal(0, 1, (n, D)))
    has = (rng.random((n, 2)) < 0.5) & (rng.random((n, 1)) < bad)
    differences = rng.normal(0, 1, (n, 3)) + 8 * np.column_stack(
        [-1 * has[:, :1], has[:, 1:], 0 * truth]
    )
    kinds = [
        frozenset(name for name, is_present in zip(KINDS, row, strict=True) if is_present)
        for row in has
    ]
    features = Features(
        embeddings.astype(np.float32),
        "network-1",
        NamedArrays(rng.normal(100, 1, (n, 2)), ("level", "noise")),
        NamedArrays(differences, ("darkness", "light", "nothing")),
    )
    days = np.arange(n) // len(TYPES) % 10
    return Examples(
        features, tuple(TYPES[index] for index in truth), tuple(kinds), days, np.ones(n)
    )


def with_appearance(examples: Examples, *columns: list[float]) -> Examples:
    values = np.array(columns, np.float64).T
    looks = NamedArrays(values, tuple(f"number {i}" for i in range(len(columns))))
    return replace(examples, features=replace(examples.features, looks=looks))


def predicted_types(classifier: DenseClassifier, features: Features) -> list[str]:
    chosen = classifier.type_probabilities(features).argmax(axis=1)
    return [classifier.type_head.classes[i] for i in chosen]


@pytest.fixture(scope="module")
def classifier() -> DenseClassifier:
    return DenseClassifier.fit(some_examples(480))


def test_types_with_small_differences_are_separated(classifier):
    new = some_examples(300, seed=2, bad=0)
    assert classifier.type_head.classes == TYPES
    assert predicted_types(classifier, new.features) == list(new.types)


def test_kind_probabilities_allow_two_faults(classifier):
    new = some_examples(600, seed=3)
    is_predicted = classifier.kind_probabilities(new.features, {}) > 0.5
    predicted = [frozenset(np.array(classifier.kind_head.classes)[row]) for row in is_predicted]
    assert np.mean([a == b for a, b in zip(predicted, new.kinds, strict=True)]) > 0.97
    assert frozenset(KINDS) in predicted


def test_type_probabilities_sum_to_one(classifier):
    probabilities = classifier.type_probabilities(some_examples(30, seed=3).features)
    assert probabilities.sum(axis=1) == pytest.approx(1)


def test_type_probabilities_do_not_depend_on_batch(classifier):
    features = some_examples(30, seed=3).features
    single = classifier.type_probabilities(features[np.array([7])])
    assert single[0] == pytest.approx(classifier.type_probabilities(features)[7], abs=1e-6)


def test_type_probabilities_do_not_depend_on_references(classifier):
    """The header selects the references."""
    features = some_examples(30, seed=3).features
    strange = replace(
        features, differences=NamedArrays(np.full((30, 3), 99.0), features.differences.names)
    )
    probabilities = classifier.type_probabilities(strange)
    assert np.array_equal(probabilities, classifier.type_probabilities(features))


def test_fit_is_reproducible(classifier):
    assert DenseClassifier.fit(some_examples(480)).digest == classifier.digest


def test_fit_keeps_global_random_state():
    np.random.seed(5)  # noqa: NPY002 - the global state is under test
    DenseClassifier.fit(some_examples(90))
    after = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert after == np.random.random()  # noqa: NPY002


def test_kind_probabilities_find_rare_faults():
    many = some_examples(900, bad=0.12)
    rare = DenseClassifier.fit(many)
    new = some_examples(600, seed=4)
    is_predicted = rare.kind_probabilities(new.features, dict.fromkeys(KINDS, 0.25)) > 0.5
    predicted = [frozenset(np.array(rare.kind_head.classes)[row]) for row in is_predicted]
    assert np.mean([a == b for a, b in zip(predicted, new.kinds, strict=True)]) > 0.9


def test_type_probabilities_are_calibrated():
    """With overlapping types, the mean probability equals the share of correct predictions."""
    trained = DenseClassifier.fit(some_examples(900, spread=8, bad=0.1))
    new = some_examples(3000, seed=8, spread=8)
    probability = trained.type_probabilities(new.features).max(axis=1).mean()
    answers = predicted_types(trained, new.features)
    right = np.mean([a == b for a, b in zip(answers, new.types, strict=True)])
    assert 0.5 < right < 0.95
    assert probability == pytest.approx(right, abs=0.06)


def test_type_probabilities_stay_below_one_without_errors(classifier):
    assert classifier.type_probabilities(some_examples(30, seed=3).features).max() < 1 - 1e-4


def test_types_with_equal_embeddings_are_separated_by_number():
    many = some_examples(360, bad=0.2)
    names = ["bright" if i // 2 % 2 else "dark" for i in range(360)]
    level = [1000.0 + 500 * (name == "bright") + i % 7 for i, name in enumerate(names)]
    noise = np.random.default_rng(5).normal(0.2, 1e-4, (360, D)).astype(np.float32)
    ambiguous = replace(many, types=tuple(names), features=replace(many.features, embeddings=noise))
    trained = DenseClassifier.fit(with_appearance(ambiguous, level, [np.nan] * 360))
    two = with_appearance(ambiguous[np.arange(2)], [1002, 1503], [np.nan, 7.0])
    assert predicted_types(trained, two.features) == ["dark", "bright"]


def test_with_prior_matches_enumeration():
    """Enumerate 10 000 images with the prediction, with and without the fault."""
    for trained, expected in ((0.5, 0.01), (0.2, 0.02), (0.1, 0.3)):
        hits, alarms = 0.9, 0.05  # chance of the prediction with and without the fault
        as_trained = trained * hits / (trained * hits + (1 - trained) * alarms)
        bad, good = 10_000 * expected * hits, 10_000 * (1 - expected) * alarms
        moved = with_prior(np.array([as_trained]), trained, expected)
        assert moved[0] == pytest.approx(bad / (bad + good))


@given(p=st.floats(1e-6, 1 - 1e-6), trained=st.floats(1e-4, 0.999), expected=st.floats(1e-4, 0.999))
def test_with_prior_matches_published_formula(p, trained, expected):
    odds = (trained / (1 - trained)) * ((1 - expected) / expected)
    published = p / (p + odds * (1 - p))
    assert with_prior(np.array(p), trained, expected) == pytest.approx(published, rel=1e-6)


def test_kind_probabilities_fall_with_expected_share(classifier):
    features = some_examples(100, seed=5).features
    often = classifier.kind_probabilities(features, dict.fromkeys(KINDS, 0.5))
    seldom = classifier.kind_probabilities(features, dict.fromkeys(KINDS, 0.01))
    assert (seldom < often).all()


def test_contributions_are_sorted(classifier):
    examples = some_examples(60, seed=3)
    dusty = next(i for i, kinds in enumerate(examples.kinds) if kinds == frozenset({"dust"}))
    contributions = classifier.contributions(examples.features[np.array([dusty])], "dust")
    assert next(iter(contributions)) == "darkness"
    assert set(contributions) == {"darkness", "light", "nothing"}
    assert contributions["darkness"] > 5 * abs(contributions["nothing"])


def test_contributions_skip_missing_numbers(classifier):
    features = some_examples(3).features
    differences = np.array([[np.nan, 0.0, 1.0]])
    single = replace(
        features[np.array([0])], differences=NamedArrays(differences, features.differences.names)
    )
    contributions = classifier.contributions(single, "dust")
    assert "darkness" not in contributions
    assert contributions["light"] == 0


def test_loaded_classifier_gives_equal_probabilities(classifier):
    copy = DenseClassifier.load(classifier.save())
    features = some_examples(30, seed=3).features
    types = [model.type_probabilities(features) for model in (copy, classifier)]
    kinds = [model.kind_probabilities(features, {}) for model in (copy, classifier)]
    assert np.array_equal(types[0], types[1])
    assert np.array_equal(kinds[0], kinds[1])
    assert copy.digest == classifier.digest
    assert copy.save() == classifier.save()


def test_classifier_counts_examples_per_class(classifier):
    assert sum(classifier.examples[name] for name in TYPES) < 480  # the good ones
    assert set(classifier.examples) == {*TYPES, *KINDS}


def test_loaded_examples_give_equal_classifier():
    examples = some_examples(240)
    copy = Examples.load(examples.save())
    assert copy.types == examples.types
    assert copy.kinds == examples.kinds
    assert copy.features.differences.names == examples.features.differences.names
    new = some_examples(60, seed=6, bad=0).features
    assert predicted_types(DenseClassifier.fit(copy), new) == predicted_types(
        DenseClassifier.fit(examples), new
    )


def test_add_rejects_examples_of_two_encoders():
    first = some_examples(30)
    second = replace(first, features=replace(first.features, fingerprint="network-2"))
    with pytest.raises(ClassifierError, match="network-2"):
        first + second


@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_load_rejects_damaged_file(classifier, place):
    content = bytearray(classifier.save())
    content[int(place * len(content))] ^= 1
    with pytest.raises(ClassifierError, match="damaged"):
        DenseClassifier.load(bytes(content))


@pytest.mark.parametrize("length", [0, 10, 100, 5000])
def test_load_rejects_truncated_file(classifier, length):
    with pytest.raises(ClassifierError):
        DenseClassifier.load(classifier.save()[:length])


@pytest.mark.parametrize("content", [b"", b"\n\n", b"not a classifier\n{}\n", bytes(300)])
def test_load_rejects_other_content(content):
    with pytest.raises(ClassifierError):
        DenseClassifier.load(content)


def test_load_rejects_other_version(classifier):
    old = classifier.save().replace(b"dense classifier 2", b"dense classifier 1", 1)
    with pytest.raises(ClassifierError, match="version 2, got 1"):
        DenseClassifier.load(old)


def test_load_rejects_large_file():
    with pytest.raises(ClassifierError, match="at most"):
        DenseClassifier.load(bytes(MAX_BYTES + 1))


def test_classifier_rejects_embeddings_of_other_encoder(classifier):
    features = replace(some_examples(3).features, fingerprint="network-2")
    with pytest.raises(ClassifierError, match=r"network-1.*network-2"):
        classifier.type_probabilities(features)


def test_classifier_rejects_other_numbers(classifier):
    with pytest.raises(ClassifierError, match="other numbers"):
        classifier.type_probabilities(with_appearance(some_examples(3), [1.0] * 3).features)


def test_classifier_rejects_nan_embedding(classifier):
    features = some_examples(3).features
    features.embeddings[1, 2] = np.nan
    with pytest.raises(ClassifierError, match="1 of 3 embeddings"):
        classifier.type_probabilities(features)


def test_fit_with_few_examples_names_shortage():
    with pytest.raises(TooFewExamplesError, match="at least two image types"):
        DenseClassifier.fit(some_examples(12))
    with pytest.raises(TooFewExamplesError, match="at least one kind"):
        DenseClassifier.fit(some_examples(90, bad=0))


def test_fit_skips_images_with_unknown_kinds():
    """An image with an unknown fault is no example of a good image."""
    examples = some_examples(480)
    strange = tuple(None if i % 7 == 0 else kinds for i, kinds in enumerate(examples.kinds))
    trained = DenseClassifier.fit(replace(examples, kinds=strange))
    assert sum(trained.examples[name] for name in KINDS) == sum(len(k or ()) for k in strange)


def test_examples_reject_missing_type():
    with pytest.raises(ValueError, match="for every image"):
        replace(some_examples(9), types=("arc",))


def test_named_arrays_reject_missing_names():
    with pytest.raises(ValueError, match="numbers"):
        NamedArrays(np.zeros((3, 2)), ("one",))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_file_is_equal_with_other_backend(classifier, backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    path = tmp_path / "classifier"
    path.write_bytes(classifier.save())
    script = (
        "import sys; from pathlib import Path; from embeddings.classifier import DenseClassifier\n"
        "print(DenseClassifier.load(Path(sys.argv[1]).read_bytes()).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == classifier.digest
