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
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

D = 24
TYPES = ("arc", "bias", "flat")
KINDS = ("dust", "glow")


def some_examples(n: int, *, seed: int = 1, spread: float = 1.0, bad: float = 0.5) -> Examples:
    """Images as an untrained network sees them: all but parallel, a step apart by type.

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
    kinds = [frozenset(name for name, it in zip(KINDS, row, strict=True) if it) for row in has]
    features = Features(
        embeddings.astype(np.float32),
        "network-1",
        NamedArrays(rng.normal(100, 1, (n, 2)), ("level", "noise")),
        NamedArrays(differences, ("darkness", "light", "nothing")),
    )
    days = np.arange(n) // len(TYPES) % 10
    return Examples(features, tuple(TYPES[each] for each in truth), tuple(kinds), days, np.ones(n))


def looking(examples: Examples, *columns: list[float]) -> Examples:
    values = np.array(columns, np.float64).T
    looks = NamedArrays(values, tuple(f"number {i}" for i in range(len(columns))))
    return replace(examples, features=replace(examples.features, looks=looks))


def types_seen(classifier: DenseClassifier, features: Features) -> list[str]:
    chosen = classifier.type_probabilities(features).argmax(axis=1)
    return [classifier.type_head.classes[i] for i in chosen]


@pytest.fixture(scope="module")
def classifier() -> DenseClassifier:
    return DenseClassifier.fit(some_examples(480))


def test_types_a_ten_thousandth_apart_are_told_apart(classifier):
    new = some_examples(300, seed=2, bad=0)
    assert classifier.type_head.classes == TYPES
    assert types_seen(classifier, new.features) == list(new.types)


def test_a_frame_can_have_two_faults(classifier):
    new = some_examples(600, seed=3)
    found = classifier.kind_probabilities(new.features, {}) > 0.5
    said = [frozenset(np.array(classifier.kind_head.classes)[row]) for row in found]
    assert np.mean([a == b for a, b in zip(said, new.kinds, strict=True)]) > 0.97
    assert frozenset(KINDS) in said


def test_probabilities_of_the_types_sum_to_one(classifier):
    probabilities = classifier.type_probabilities(some_examples(30, seed=3).features)
    assert probabilities.sum(axis=1) == pytest.approx(1)


def test_an_answer_does_not_depend_on_its_company(classifier):
    features = some_examples(30, seed=3).features
    one = classifier.type_probabilities(features[np.array([7])])
    assert one[0] == pytest.approx(classifier.type_probabilities(features)[7], abs=1e-6)


def test_what_a_type_is_does_not_depend_on_its_references(classifier):
    """They were chosen by what the header claims."""
    features = some_examples(30, seed=3).features
    strange = replace(
        features, differences=NamedArrays(np.full((30, 3), 99.0), features.differences.names)
    )
    seen = classifier.type_probabilities(strange)
    assert np.array_equal(seen, classifier.type_probabilities(features))


def test_the_same_examples_and_seed_give_the_same_classifier(classifier):
    assert DenseClassifier.fit(some_examples(480)).digest == classifier.digest


def test_training_leaves_everybodys_random_numbers_alone():
    np.random.seed(5)  # noqa: NPY002 - whose state is looked at
    DenseClassifier.fit(some_examples(90))
    after = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert after == np.random.random()  # noqa: NPY002


def test_a_fault_that_is_rare_is_still_found():
    many = some_examples(900, bad=0.12)
    rare = DenseClassifier.fit(many)
    new = some_examples(600, seed=4)
    found = rare.kind_probabilities(new.features, dict.fromkeys(KINDS, 0.25)) > 0.5
    said = [frozenset(np.array(rare.kind_head.classes)[row]) for row in found]
    assert np.mean([a == b for a, b in zip(said, new.kinds, strict=True)]) > 0.9


def test_probabilities_are_as_high_as_the_share_that_is_right():
    """With overlapping types: of a thousand new images, as many are right as was promised."""
    trained = DenseClassifier.fit(some_examples(900, spread=8, bad=0.1))
    new = some_examples(3000, seed=8, spread=8)
    promised = trained.type_probabilities(new.features).max(axis=1).mean()
    answers = types_seen(trained, new.features)
    right = np.mean([a == b for a, b in zip(answers, new.types, strict=True)])
    assert 0.5 < right < 0.95
    assert promised == pytest.approx(right, abs=0.06)


def test_examples_without_an_error_do_not_make_it_certain(classifier):
    assert classifier.type_probabilities(some_examples(30, seed=3).features).max() < 1 - 1e-4


def test_a_number_tells_apart_what_the_embedding_cannot():
    many = some_examples(360, bad=0.2)
    names = ["bright" if i // 2 % 2 else "dark" for i in range(360)]
    level = [1000.0 + 500 * (name == "bright") + i % 7 for i, name in enumerate(names)]
    noise = np.random.default_rng(5).normal(0.2, 1e-4, (360, D)).astype(np.float32)
    alike = replace(many, types=tuple(names), features=replace(many.features, embeddings=noise))
    trained = DenseClassifier.fit(looking(alike, level, [np.nan] * 360))
    two = looking(alike[np.arange(2)], [1002, 1503], [np.nan, 7.0])
    assert types_seen(trained, two.features) == ["dark", "bright"]


def test_a_prior_moves_a_probability_as_bayes_would():
    """Enumerated: of 10 000 images with the answer, so many have the fault."""
    for trained, expected in ((0.5, 0.01), (0.2, 0.02), (0.1, 0.3)):
        hits, alarms = 0.9, 0.05  # chance of the answer with and without the fault
        as_trained = trained * hits / (trained * hits + (1 - trained) * alarms)
        bad, good = 10_000 * expected * hits, 10_000 * (1 - expected) * alarms
        moved = with_prior(np.array([as_trained]), trained, expected)
        assert moved[0] == pytest.approx(bad / (bad + good))


@given(p=st.floats(1e-6, 1 - 1e-6), trained=st.floats(1e-4, 0.999), expected=st.floats(1e-4, 0.999))
def test_the_prior_formula_is_the_published_one(p, trained, expected):
    odds = (trained / (1 - trained)) * ((1 - expected) / expected)
    published = p / (p + odds * (1 - p))
    assert with_prior(np.array(p), trained, expected) == pytest.approx(published, rel=1e-6)


def test_a_fault_expected_in_one_image_of_a_hundred_is_less_probable(classifier):
    features = some_examples(100, seed=5).features
    often = classifier.kind_probabilities(features, dict.fromkeys(KINDS, 0.5))
    seldom = classifier.kind_probabilities(features, dict.fromkeys(KINDS, 0.01))
    assert (seldom < often).all()


def test_the_numbers_that_spoke_for_a_kind_are_named_most_first(classifier):
    examples = some_examples(60, seed=3)
    dusty = next(i for i, kinds in enumerate(examples.kinds) if kinds == frozenset({"dust"}))
    spoken = classifier.contributions(examples.features[np.array([dusty])], "dust")
    assert next(iter(spoken)) == "darkness"
    assert set(spoken) == {"darkness", "light", "nothing"}
    assert spoken["darkness"] > 5 * abs(spoken["nothing"])


def test_a_number_that_is_missing_does_not_speak(classifier):
    features = some_examples(3).features
    differences = np.array([[np.nan, 0.0, 1.0]])
    one = replace(
        features[np.array([0])], differences=NamedArrays(differences, features.differences.names)
    )
    spoken = classifier.contributions(one, "dust")
    assert "darkness" not in spoken
    assert spoken["light"] == 0


def test_a_classifier_that_was_saved_answers_the_same(classifier):
    copy = DenseClassifier.load(classifier.save())
    features = some_examples(30, seed=3).features
    types = [each.type_probabilities(features) for each in (copy, classifier)]
    kinds = [each.kind_probabilities(features, {}) for each in (copy, classifier)]
    assert np.array_equal(types[0], types[1])
    assert np.array_equal(kinds[0], kinds[1])
    assert copy.digest == classifier.digest
    assert copy.save() == classifier.save()


def test_the_examples_are_on_record(classifier):
    assert sum(classifier.examples[name] for name in TYPES) < 480  # the good ones
    assert set(classifier.examples) == {*TYPES, *KINDS}


def test_examples_that_were_saved_teach_the_same():
    examples = some_examples(240)
    copy = Examples.load(examples.save())
    assert copy.types == examples.types
    assert copy.kinds == examples.kinds
    assert copy.features.differences.names == examples.features.differences.names
    new = some_examples(60, seed=6, bad=0).features
    assert types_seen(DenseClassifier.fit(copy), new) == types_seen(
        DenseClassifier.fit(examples), new
    )


def test_examples_of_two_encoders_do_not_mix():
    one = some_examples(30)
    other = replace(one, features=replace(one.features, fingerprint="network-2"))
    with pytest.raises(ClassifierError, match="network-2"):
        one + other


@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_a_damaged_file_is_refused(classifier, place):
    content = bytearray(classifier.save())
    content[int(place * len(content))] ^= 1
    with pytest.raises(ClassifierError, match="damaged"):
        DenseClassifier.load(bytes(content))


@pytest.mark.parametrize("length", [0, 10, 100, 5000])
def test_half_a_file_is_refused(classifier, length):
    with pytest.raises(ClassifierError):
        DenseClassifier.load(classifier.save()[:length])


@pytest.mark.parametrize("content", [b"", b"\n\n", b"not a classifier\n{}\n", bytes(300)])
def test_what_is_no_classifier_is_refused(content):
    with pytest.raises(ClassifierError):
        DenseClassifier.load(content)


def test_a_file_of_another_version_is_refused(classifier):
    old = classifier.save().replace(b"dense classifier 2", b"dense classifier 1", 1)
    with pytest.raises(ClassifierError, match="version 2, got 1"):
        DenseClassifier.load(old)


def test_a_file_that_is_too_large_is_not_looked_into():
    with pytest.raises(ClassifierError, match="at most"):
        DenseClassifier.load(bytes(MAX_BYTES + 1))


def test_embeddings_of_another_encoder_are_refused(classifier):
    features = replace(some_examples(3).features, fingerprint="network-2")
    with pytest.raises(ClassifierError, match=r"network-1.*network-2"):
        classifier.type_probabilities(features)


def test_other_numbers_are_refused(classifier):
    with pytest.raises(ClassifierError, match="other numbers"):
        classifier.type_probabilities(looking(some_examples(3), [1.0] * 3).features)


def test_an_embedding_that_is_not_of_numbers_is_refused(classifier):
    features = some_examples(3).features
    features.embeddings[1, 2] = np.nan
    with pytest.raises(ClassifierError, match="1 of 3 embeddings"):
        classifier.type_probabilities(features)


def test_too_few_examples_are_named():
    with pytest.raises(TooFewExamplesError, match="at least two image types"):
        DenseClassifier.fit(some_examples(12))
    with pytest.raises(TooFewExamplesError, match="at least one kind"):
        DenseClassifier.fit(some_examples(90, bad=0))


def test_what_nobody_knows_teaches_nothing():
    """An image called bad for a reason yet to be found is no example of a good one."""
    examples = some_examples(480)
    strange = tuple(None if i % 7 == 0 else kinds for i, kinds in enumerate(examples.kinds))
    trained = DenseClassifier.fit(replace(examples, kinds=strange))
    assert sum(trained.examples[name] for name in KINDS) == sum(len(k or ()) for k in strange)


def test_every_image_needs_a_type_and_a_day():
    with pytest.raises(ValueError, match="for every image"):
        replace(some_examples(9), types=("arc",))


def test_numbers_need_names():
    with pytest.raises(ValueError, match="numbers"):
        NamedArrays(np.zeros((3, 2)), ("one",))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_gives_the_same_answers(classifier, backend, tmp_path):
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
