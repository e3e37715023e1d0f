import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from embeddings.classifier import DenseClassifier
from embeddings.classifier_data import Examples, Features, NamedArrays
from qc.reports.training import (
    NO_FAULT,
    calibration_bins,
    confusion_of_kinds,
    confusion_of_types,
    learning_curve,
    write_training_page,
)
from qc.training.evaluate import Predictions, measure
from qc.training.train import EvaluationSplit, TrainingResult

# Keras of NumPy 1, when it saves weights
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HOSTILE = "<script>alert(1)</script>"
WHEN = datetime(2026, 3, 1, tzinfo=UTC)
TYPES, KINDS = ("bias", "flat"), ("dust", HOSTILE)


def make_examples(n: int, *, first_day: int = 0) -> Examples:
    """Images of two types; a third is good, a third has each fault, which moves a number by far."""
    rng = np.random.default_rng(first_day)
    step, fault = np.arange(n) % 2, np.arange(n) % 3
    embeddings = rng.normal(0, 0.1, (n, 4)) + np.eye(4)[step]
    moved = rng.normal(0, 1, (n, 2)) + 9 * np.eye(3)[fault][:, 1:]
    looks = NamedArrays(rng.normal(0, 1, (n, 1)), ("level",))
    features = Features(
        embeddings.astype(np.float32), "network-1", looks, NamedArrays(moved, ("dark", "light"))
    )
    kinds = tuple(frozenset(KINDS[i - 1 : i]) if i else frozenset[str]() for i in fault)
    days = first_day + np.arange(n) // 6
    return Examples(features, tuple(TYPES[i] for i in step), kinds, days, np.ones(n))


@pytest.fixture(scope="module")
def trained() -> TrainingResult:
    split = EvaluationSplit(
        make_examples(36, first_day=99), make_examples(120), 60, "the newest month", True, True
    )
    twin = DenseClassifier.fit(split.rest)
    return TrainingResult(
        classifier=twin,
        examples=split.rest + split.examples,
        simulated=60,
        split=split,
        evaluated=twin,
        new=measure(twin, split.examples),
        old=measure(twin, split.examples),
        accepted=True,
        reason="not worse",
    )


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory) -> str:
    steps: list[tuple[int, int]] = []
    written = write_training_page(
        tmp_path_factory.mktemp("page") / "new" / "classifier.html",
        trained,
        author=HOSTILE,
        encoder="network-1",
        generated_at=WHEN,
        progress=lambda *step: steps.append(step),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    return written.read_text()


@pytest.mark.slow
def test_page_is_self_contained(page):
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(address.startswith("data:") for address in addresses)
    assert len([address for address in addresses if address.startswith("data:image/svg")]) == 5
    assert "url(" not in page


def test_hostile_text_is_escaped(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 2


def test_page_has_examples_and_accuracy(page, trained):
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Accepted: it acts from now on; not worse." in text
    assert "Trained on 96 labelled examples and 60 simulated examples. Trained by" in text
    assert f"image type, share right {trained.new.type_accuracy.text}" in text
    assert "bias 16 10" in text
    assert "Simulated images are easier" not in text


def test_simulated_evaluation_is_marked(trained, tmp_path):
    split = replace(
        trained.split,
        is_real=False,
        description="simulated examples",
        rest=trained.split.rest[:0],
        simulated=0,
    )
    page = write_training_page(
        tmp_path / "x.html",
        replace(trained, split=split),
        author="kim",
        encoder="e",
        generated_at=WHEN,
    ).read_text()
    assert "Simulated images are easier than real ones" in page


def test_page_without_evaluation(trained, tmp_path):
    bare = replace(trained, split=None, evaluated=None, new=None, old=None)
    page = write_training_page(
        tmp_path / "x.html", bare, author="kim", encoder="e", generated_at=WHEN
    ).read_text()
    assert "the accuracy is unknown" in page
    assert "dust" in page
    assert "data:image/svg" not in page


def test_learning_curve_skips_small_parts(trained):
    split = replace(trained.split, rest=trained.split.rest[np.arange(12)], simulated=0)
    steps: list[tuple[int, int]] = []
    curve = learning_curve(split, trained.new.macro_f1, lambda *step: steps.append(step))
    assert curve == [(12, trained.new.macro_f1)]
    assert steps == [(1, 3), (2, 3), (3, 3)]


def predictions_of(
    probability: list[list[float]], truth: list[list[bool]], labelled: list[bool]
) -> Predictions:
    n = len(probability)
    return Predictions(
        types=("bias",) * n,
        predicted_types=("bias",) * (n - 1) + ("flat",),
        type_probability=np.ones(n),
        is_good=np.array(labelled),
        is_labelled=np.array(labelled),
        kinds=("dust", "glow"),
        probabilities=np.array(probability),
        truth=np.array(truth),
    )


def test_confusion_of_kinds_by_most_probable_kind():
    answers = predictions_of(
        [[0.9, 0.1], [0.2, 0.8], [0.3, 0.4], [0.1, 0.1], [0.9, 0.9]],
        [[True, False], [True, False], [False, True], [False, False], [True, True]],
        [True, True, True, True, False],
    )
    counts, rows, columns = confusion_of_kinds(answers)
    assert (rows, columns) == (["dust", "glow", NO_FAULT], ["dust", "glow", NO_FAULT])
    assert counts.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_confusion_of_types_with_predicted_only_type():
    counts, rows, columns = confusion_of_types(
        predictions_of([[0, 0]] * 3, [[False, False]] * 3, [True] * 3)
    )
    assert (counts.tolist(), rows, columns) == ([[2, 1]], ["bias"], ["bias", "flat"])


def test_calibration_bins_have_probability_and_true_rate():
    answers = predictions_of([[0.05, 0.95]] * 4, [[False, True]] * 3 + [[False, False]], [True] * 4)
    probability, true, counts = calibration_bins(answers)
    assert probability == pytest.approx([0.05, 0.95])
    assert true[:, 0] == pytest.approx([0, 0.75])
    assert (true[:, 1] <= true[:, 0]).all()
    assert (true[:, 2] >= true[:, 0]).all()
    assert counts.tolist() == [4, 4]
