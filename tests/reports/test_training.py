import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from embeddings.classifier import DenseClassifier, Examples, Features, NamedArrays
from qc.reports.training import (
    NOTHING,
    calibration_bins,
    confusion_of_kinds,
    confusion_of_types,
    learning_curve,
    write_lessons,
)
from qc.training.train import EvaluationSplit, Predictions, TrainingResult, measure

# Keras of NumPy 1, when it saves weights
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HOSTILE = "<script>alert(1)</script>"
WHEN = datetime(2026, 3, 1, tzinfo=UTC)
TYPES, KINDS = ("bias", "flat"), ("dust", HOSTILE)


def some(n: int, *, first_day: int = 0) -> Examples:
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
    exam = EvaluationSplit(some(36, first_day=99), some(120), 60, "the newest month", True, True)
    twin = DenseClassifier.fit(exam.rest)
    return TrainingResult(
        classifier=twin,
        examples=exam.rest + exam.examples,
        simulated=60,
        exam=exam,
        twin=twin,
        new=measure(twin, exam.examples),
        old=measure(twin, exam.examples),
        accepted=True,
        why="not worse",
    )


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory) -> str:
    steps: list[tuple[int, int]] = []
    written = write_lessons(
        tmp_path_factory.mktemp("page") / "new" / "classifier.html",
        trained,
        who=HOSTILE,
        encoder="network-1",
        generated_at=WHEN,
        progress=lambda *step: steps.append(step),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    return written.read_text()


def test_the_page_needs_nothing_but_itself(page):
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(one.startswith("data:") for one in addresses)
    assert len([one for one in addresses if one.startswith("data:image/svg")]) == 5
    assert "url(" not in page


def test_hostile_names_stay_text(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 2


def test_the_page_tells_what_was_learnt_and_how_well(page, trained):
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Accepted: it acts from now on; not worse." in text
    assert "Learnt from 96 examples that people labelled and 60 simulated ones." in text
    assert f"image type, share right {trained.new.type_accuracy.words}" in text
    assert "bias 16 10" in text
    assert "Simulated images are easier" not in text


def test_an_exam_of_simulated_images_is_called_one(trained, tmp_path):
    exam = replace(
        trained.exam,
        is_real=False,
        words="simulated examples",
        rest=trained.exam.rest[:0],
        simulated=0,
    )
    page = write_lessons(
        tmp_path / "x.html", replace(trained, exam=exam), who="kim", encoder="e", generated_at=WHEN
    ).read_text()
    assert "Simulated images are easier than real ones" in page


def test_without_an_exam_the_page_says_so_and_what_was_learnt(trained, tmp_path):
    bare = replace(trained, exam=None, twin=None, new=None, old=None)
    page = write_lessons(
        tmp_path / "x.html", bare, who="kim", encoder="e", generated_at=WHEN
    ).read_text()
    assert "nothing can be said of how well it answers" in page
    assert "dust" in page
    assert "data:image/svg" not in page


def test_parts_that_are_too_small_to_learn_from_are_left_out_of_the_curve(trained):
    exam = replace(trained.exam, rest=trained.exam.rest[np.arange(12)], simulated=0)
    steps: list[tuple[int, int]] = []
    curve = learning_curve(exam, trained.new.macro_f1, lambda *step: steps.append(step))
    assert curve == [(12, trained.new.macro_f1)]
    assert steps == [(1, 3), (2, 3), (3, 3)]


def said(promised: list[list[float]], truth: list[list[bool]], told: list[bool]) -> Predictions:
    n = len(promised)
    return Predictions(
        types=("bias",) * n,
        seen=("bias",) * (n - 1) + ("flat",),
        own=np.ones(n),
        good=np.array(told),
        told=np.array(told),
        kinds=("dust", "glow"),
        promised=np.array(promised),
        truth=np.array(truth),
    )


def test_kinds_are_confused_where_the_most_probable_is_another():
    answers = said(
        [[0.9, 0.1], [0.2, 0.8], [0.3, 0.4], [0.1, 0.1], [0.9, 0.9]],
        [[True, False], [True, False], [False, True], [False, False], [True, True]],
        [True, True, True, True, False],
    )
    counts, rows, columns = confusion_of_kinds(answers)
    assert (rows, columns) == (["dust", "glow", NOTHING], ["dust", "glow", NOTHING])
    assert counts.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_a_type_that_is_only_said_has_a_column_and_no_row():
    counts, rows, columns = confusion_of_types(said([[0, 0]] * 3, [[False, False]] * 3, [True] * 3))
    assert (counts.tolist(), rows, columns) == ([[2, 1]], ["bias"], ["bias", "flat"])


def test_a_bin_holds_what_was_promised_and_how_often_it_was_true():
    answers = said([[0.05, 0.95]] * 4, [[False, True]] * 3 + [[False, False]], [True] * 4)
    promised, true, counts = calibration_bins(answers)
    assert promised == pytest.approx([0.05, 0.95])
    assert true[:, 0] == pytest.approx([0, 0.75])
    assert (true[:, 1] <= true[:, 0]).all()
    assert (true[:, 2] >= true[:, 0]).all()
    assert counts.tolist() == [4, 4]
