import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from embeddings.classifier import (
    MAX_BYTES,
    ClassifierError,
    DenseClassifier,
    Features,
    TooFewExamplesError,
)

# Keras of NumPy 1, when it saves weights
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

D = 24
KINDS = ("arc", "bias", "flat")


def some_images(
    n: int, *, seed: int = 1, kinds: tuple[str, ...] = KINDS, spread: float = 1.0
) -> tuple[Features, list[str], list[str]]:
    """Embeddings as an untrained network makes them: all but parallel, a step apart by kind.

    Ten nights, every kind on each.
    """
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % len(kinds)
    steps = np.eye(D)[: len(kinds)]
    embeddings = 0.2 + 1e-4 * (10 * steps[truth] + spread * rng.normal(0, 1, (n, D)))
    labels = [kinds[each] for each in truth]
    nights = [f"night {i // len(kinds) % 10}" for i in range(n)]
    return Features(embeddings.astype(np.float32), "network-1"), labels, nights


def with_numbers(features: Features, *columns: list[float]) -> Features:
    numbers = np.array(columns, np.float64).T
    names = tuple(f"number {i}" for i in range(len(columns)))
    return replace(features, numbers=numbers, names=names)


def answers(classifier: DenseClassifier, features: Features) -> list[str]:
    return [classifier.classes[i] for i in classifier.predict_proba(features).argmax(axis=1)]


@pytest.fixture(scope="module")
def classifier():
    return DenseClassifier.fit(*some_images(240))


def test_kinds_a_ten_thousandth_apart_are_told_apart(classifier):
    features, labels, _ = some_images(300, seed=2)
    assert classifier.classes == KINDS
    assert answers(classifier, features) == labels


def test_probabilities_sum_to_one(classifier):
    probabilities = classifier.predict_proba(some_images(30, seed=3)[0])
    assert (probabilities.shape, probabilities.dtype) == ((30, 3), np.float64)
    assert probabilities.sum(axis=1) == pytest.approx(1)


def test_an_answer_does_not_depend_on_its_company(classifier):
    features, _, _ = some_images(9, seed=4)
    alone = [classifier.predict_proba(features[np.array([i])])[0] for i in range(9)]
    assert np.array(alone) == pytest.approx(classifier.predict_proba(features), abs=1e-6)


def test_the_same_examples_and_seed_give_the_same_classifier(classifier):
    again = DenseClassifier.fit(*some_images(240))
    assert again.digest == classifier.digest
    assert DenseClassifier.fit(*some_images(240), seed=1).digest != classifier.digest


def test_training_leaves_everybodys_random_numbers_alone():
    np.random.seed(3)  # noqa: NPY002 - the global state is what is tested
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    DenseClassifier.fit(*some_images(60))
    assert np.random.random() == expected  # noqa: NPY002


def test_images_of_one_night_never_lie_on_both_sides():
    """What the nights share says everything, and new nights nothing: validation must see that."""
    features, labels, nights = some_images(240, spread=0)
    rng = np.random.default_rng(6)
    own = {night: rng.permutation(KINDS) for night in set(nights)}
    mixed = [str(own[night][KINDS.index(kind)]) for night, kind in zip(nights, labels, strict=True)]
    marks = 1e-2 * rng.normal(0, 1, (10, D))
    marked = features.embeddings + marks[[int(night.split()[1]) for night in nights]]
    marked_features = Features(marked.astype(np.float32), "network-1")
    by_night = DenseClassifier.fit(marked_features, mixed, nights)
    assert by_night.training.accuracy < 0.7
    assert set(by_night.training.validation_groups) < set(nights)
    by_image = DenseClassifier.fit(marked_features, mixed, [str(i) for i in range(240)])
    assert by_image.training.accuracy > 0.9


def test_a_rare_class_weighs_as_much_as_a_frequent_one():
    """Where two kinds look alike, the answer is fifty-fifty, however often each was seen."""
    features, _, _ = some_images(400, kinds=("same",))
    labels = ["often" if i % 10 else "rare" for i in range(400)]
    nights = [f"night {i // 40}" for i in range(400)]
    classifier = DenseClassifier.fit(features, labels, nights)
    new = classifier.predict_proba(some_images(400, seed=9, kinds=("same",))[0])
    assert new.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.1)


def test_probabilities_are_as_high_as_the_share_that_is_right():
    """With overlapping kinds: of a thousand new images, as many are right as was promised."""
    trained = DenseClassifier.fit(*some_images(600, spread=8))
    features, labels, _ = some_images(3000, seed=8, spread=8)
    promised = trained.predict_proba(features).max(axis=1).mean()
    right = np.mean([a == b for a, b in zip(answers(trained, features), labels, strict=True)])
    assert 0.5 < right < 0.95
    assert promised == pytest.approx(right, abs=0.05)


def test_images_without_an_error_do_not_make_it_certain(classifier):
    assert classifier.training.accuracy == 1
    assert classifier.predict_proba(some_images(30, seed=3)[0]).max() < 1 - 1e-4


def test_a_number_tells_apart_what_the_embedding_cannot():
    features, _, nights = some_images(120, kinds=("same",))
    labels = ["bright" if i // 2 % 2 else "dark" for i in range(120)]
    level = [1000.0 + 500 * (label == "bright") + i % 7 for i, label in enumerate(labels)]
    nothing = [np.nan] * 120
    classifier = DenseClassifier.fit(with_numbers(features, level, nothing), labels, nights)
    assert classifier.names == ("number 0", "number 1")
    few = features[np.arange(2)]
    assert answers(classifier, with_numbers(few, [1002, 1503], [np.nan, 7.0])) == ["dark", "bright"]


def test_that_a_number_is_missing_says_something_too():
    features, _, nights = some_images(400, kinds=("same",))
    labels = ["lit" if i // 2 % 2 else "dark" for i in range(400)]
    width = [3.0 if label == "lit" else np.nan for label in labels]
    classifier = DenseClassifier.fit(with_numbers(features, width), labels, nights)
    assert answers(classifier, with_numbers(features[np.arange(2)], [np.nan, 3.0])) == [
        "dark",
        "lit",
    ]


def test_a_classifier_that_was_saved_answers_the_same(classifier):
    copy = DenseClassifier.load(classifier.save())
    features, _, _ = some_images(30, seed=3)
    assert np.array_equal(copy.predict_proba(features), classifier.predict_proba(features))
    assert copy.digest == classifier.digest
    assert copy.training == classifier.training
    assert copy.save() == classifier.save()


def test_the_first_lines_of_the_file_can_be_read_by_people(classifier):
    first, second, _ = classifier.save().split(b"\n", 2)
    assert first.decode() == f"dense classifier 1 {classifier.digest}"
    assert json.loads(second)["classes"] == ["arc", "bias", "flat"]


def test_the_examples_are_on_record(classifier):
    assert classifier.training.examples == {"arc": 80, "bias": 80, "flat": 80}
    assert classifier.training.validation_examples == 48
    assert len(classifier.training.validation_groups) == 2


@pytest.mark.parametrize("place", [200, 1000, -1])
def test_a_damaged_file_is_refused(classifier, place):
    content = bytearray(classifier.save())
    content[place] ^= 1
    with pytest.raises(ClassifierError, match="damaged"):
        DenseClassifier.load(bytes(content))


@pytest.mark.parametrize("length", [-1, -4096, 500, 120])
def test_half_a_file_is_refused(classifier, length):
    with pytest.raises(ClassifierError, match="damaged"):
        DenseClassifier.load(classifier.save()[:length])


@pytest.mark.parametrize("content", [b"", b"\n", b"\x80\x04.", b"PK\x03\x04"])
def test_what_is_no_classifier_is_refused(content):
    with pytest.raises(ClassifierError, match="not a classifier"):
        DenseClassifier.load(content)


def test_a_file_of_another_version_is_refused(classifier):
    content = classifier.save().replace(b"classifier 1 ", b"classifier 2 ", 1)
    with pytest.raises(ClassifierError, match=r"version 1, got 2.*train it anew"):
        DenseClassifier.load(content)


def test_a_file_that_is_too_large_is_not_looked_into():
    with pytest.raises(ClassifierError, match="at most"):
        DenseClassifier.load(bytes(MAX_BYTES + 1))


def forged(classifier: DenseClassifier, **changes: object) -> bytes:
    """A file with another header, whose digest is right."""
    other = DenseClassifier.load(classifier.save())
    head, _, body = other._payload.partition(b"\n")  # noqa: SLF001 - what a forger would do
    other.__dict__["_payload"] = json.dumps(json.loads(head) | changes).encode() + b"\n" + body
    return other.save()


@pytest.mark.parametrize(
    "changes",
    [
        {"shapes": {"axes": [2**40, 2**40]}},
        {"shapes": {"axes": [-1, -1]}},
        {"shapes": 3},
        {"classes": ["arc", "bias"]},
        {"classes": None},
        {"names": ["level"]},
        {"training": {}},
        {"temperature": "hot"},
        {"temperature": 0},
    ],
)
def test_a_header_that_does_not_fit_is_refused(classifier, changes):
    with pytest.raises(ClassifierError, match="not as this program writes it"):
        DenseClassifier.load(forged(classifier, **changes))


def test_embeddings_of_another_encoder_are_refused(classifier):
    features = replace(some_images(3)[0], fingerprint="network-2")
    with pytest.raises(ClassifierError, match=r"network-1.*network-2.*train it anew"):
        classifier.predict_proba(features)


def test_embeddings_of_another_length_are_refused(classifier):
    features = Features(np.ones((1, 7), np.float32), "network-1")
    with pytest.raises(ClassifierError, match=r"with 24 numbers, these are .* with 7"):
        classifier.predict_proba(features)


def test_other_numbers_are_refused(classifier):
    with pytest.raises(ClassifierError, match=r"numbers none, got number 0"):
        classifier.predict_proba(with_numbers(some_images(1)[0], [3.0]))


def test_an_embedding_that_is_not_of_numbers_is_refused(classifier):
    features, _, _ = some_images(3)
    features.embeddings[1, 5] = np.nan
    with pytest.raises(ClassifierError, match=r"1 of 3 embeddings are not of numbers, .* at 1"):
        classifier.predict_proba(features)


def test_a_class_with_too_few_examples_is_named():
    features, labels, nights = some_images(60)
    labels[0] = "dust"
    with pytest.raises(TooFewExamplesError, match=r"got dust \(1 in 1\); label more"):
        DenseClassifier.fit(features, labels, nights)


def test_a_class_of_one_night_is_too_few():
    features, labels, nights = some_images(120)
    labels = ["dust" if night == "night 3" else label for label, night in zip(labels, nights)]  # noqa: B905
    with pytest.raises(TooFewExamplesError, match=r"dust \(12 in 1\)"):
        DenseClassifier.fit(features, labels, nights)


def test_one_class_is_no_choice():
    features, labels, nights = some_images(60, kinds=("bias",))
    with pytest.raises(TooFewExamplesError, match="at least two classes, got bias"):
        DenseClassifier.fit(features, labels, nights)


def test_every_image_needs_a_label():
    features, labels, nights = some_images(60)
    with pytest.raises(ValueError, match="a label and a group for each of 60 images, got 59"):
        DenseClassifier.fit(features, labels[1:], nights)


def test_numbers_need_names():
    with pytest.raises(ValueError, match=r"expected numbers of \(0,\), got \(1, 2\)"):
        Features(np.ones((1, 4), np.float32), "network-1", np.ones((1, 2)))


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_another_backend_gives_the_same_answers(classifier, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    code = (
        "import sys; from embeddings.classifier import DenseClassifier\n"
        "from tests.test_classifier import some_images, answers\n"
        "trained = DenseClassifier.fit(*some_images(240))\n"
        "features, labels, _ = some_images(300, seed=2)\n"
        "assert answers(trained, features) == labels\n"
        "sys.stdout.buffer.write(trained.save())"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=200
    )
    other = DenseClassifier.load(done.stdout)
    features, _, _ = some_images(30, seed=3)
    expected = classifier.predict_proba(features)
    assert other.predict_proba(features) == pytest.approx(expected, abs=0.02)
