from datetime import timedelta

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from benchmarks.detection.evidence import Material
from benchmarks.detection.figures import (
    auroc,
    average_precision,
    best_f1,
    best_threshold,
    bootstrap,
    f1_of,
    false_alarms_of,
    precision_of,
    recall_at,
    recall_of,
    wilson,
)
from benchmarks.detection.history import ARMS, TEST, VALIDATION, History, plan_shots
from benchmarks.detection.methods import naive_pca, nearest
from benchmarks.detection.report import BEGIN, END, update_markdown
from qc.simulator import interventions
from qc.thresholds import Threshold

SCORES = np.array([1.0, 2.0, 3.0, 4.0])
BAD = np.array([False, True, False, True])
LIMITS = Threshold.model_validate(
    {
        "from": "2000-01-01",
        "encoder": "any",
        "merge_height": 1,
        "residual": 1,
        "false_alarms": 0.001,
        "metrics": {},
        "why": "a test",
        "by": "a test",
    }
)


def test_auroc_counts_the_pairs_in_the_right_order():
    assert auroc(SCORES, BAD) == 3 / 4  # of 2 x 2 pairs, only the 2 stands below the 3


def test_average_precision_is_the_mean_over_the_bad_ones():
    assert average_precision(SCORES, BAD) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_the_best_threshold_lies_between_two_scores():
    assert best_threshold(SCORES, BAD) == 1.5
    assert best_f1(SCORES, BAD) == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))


def test_ties_count_as_scikit_learn_counts_them():
    rng = np.random.default_rng(5)
    scores, bad = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.4
    assert auroc(scores, bad) == pytest.approx(roc_auc_score(bad, scores))
    assert average_precision(scores, bad) == pytest.approx(average_precision_score(bad, scores))
    at_best = scores > best_threshold(scores, bad)
    assert best_f1(scores, bad) == pytest.approx(f1_score(bad, at_best))


def test_flags_are_held_against_the_truth():
    flagged = np.array([True, False, False, True])
    assert precision_of(flagged, BAD) == recall_of(flagged, BAD) == f1_of(flagged, BAD) == 0.5
    assert false_alarms_of(flagged, BAD) == 0.5


def test_flagging_nothing_is_precise_and_useless():
    nothing = np.zeros(4, bool)
    assert precision_of(nothing, BAD) == 1
    assert f1_of(nothing, BAD) == 0


def test_recall_at_a_rate_lets_no_more_good_ones_through():
    good = np.arange(100.0)
    bad = np.array([98.5, 97.5])
    scores, truth = np.append(good, bad), np.append(np.zeros(100, bool), [True, True])
    assert recall_at(0.01, scores, truth) == 0.5  # above 98 stands one good one of a hundred
    assert recall_at(0.001, scores, truth) == 0.0  # none may


def test_wilsons_interval_knows_that_none_of_ten_is_not_never():
    none = wilson(0, 10)
    assert none.value == none.low == 0
    assert none.high == pytest.approx(0.278, abs=0.001)


def test_the_bootstrap_draws_whole_frames():
    scores = np.array([0.0, 0.0, 1.0, 1.0])
    bad = np.array([False, False, True, True])
    found = bootstrap(lambda scores, _: float(scores.sum()), scores, bad, np.array([0, 0, 1, 1]))
    assert found.value == found.low == found.high == 2  # one frame each, or the draw is void


@pytest.mark.parametrize("history", [VALIDATION, TEST])
def test_tests_come_after_references_on_both_sides_of_one_intervention(history: History):
    parts = [night.part for night in sorted(history.nights, key=lambda night: night.date)]
    assert parts == [*["reference"] * 10, *["test"] * 9, *["rebuild"] * 4, *["test"] * 5]
    rebuilt = min(night.date for night in history.nights if night.part == "rebuild")
    assert rebuilt - history.opened == timedelta(days=1)
    first, last = history.nights[0].date, history.nights[-1].date
    days = [
        each.when.date()
        for year in range(first.year, last.year + 1)
        for each in interventions(year, history.seed)
    ]
    assert [day for day in days if first <= day <= last] == [history.opened]


@pytest.mark.parametrize("arm", ARMS)
def test_only_test_nights_have_faults_and_every_strength_comes(arm):
    shots = plan_shots(arm, TEST)
    faulty = {night.part for night in TEST.nights for shot in shots[night.date] if shot.case}
    assert faulty == {"test"}
    cases = [shot.case for some in shots.values() for shot in some if shot.case]
    assert {case.strength for case in cases} == {"gross", "moderate", "faint"}


def test_a_repeated_frame_shows_the_one_before_which_is_good():
    shots = [shot for some in plan_shots("red", TEST).values() for shot in some]
    names = {shot.name: shot for shot in shots}
    repeated = [shot for shot in shots if shot.case and shot.case.kind == "frame_repeated"]
    assert repeated
    for shot in repeated:
        assert shot.shown != shot.exposure
        assert names[f"{shot.shown.archive_name}.fits"].case is None


def material_of(n: int, *, seed: int, odd: int | None = None) -> Material:
    """Images that vary in brightness alone, save the odd one, which has a bright corner."""
    rng = np.random.default_rng(seed)
    light = rng.uniform(0.5, 1.5, (n, 1, 1, 1)) * np.ones((4, 4, 3)) + rng.normal(
        0, 0.01, (n, 4, 4, 3)
    )
    if odd is not None:
        light[odd, 0, 0] += 5
    vectors = light[..., 0].reshape(n, -1).astype(np.float32)
    return Material(light.astype(np.float32), vectors, vectors, (), LIMITS)


@pytest.mark.parametrize("method", [nearest, naive_pca])
def test_a_method_scores_the_odd_one_highest(method):
    references, tests = material_of(24, seed=1), material_of(3, seed=2, odd=1)
    assert method(references, tests).argmax() == 1


def test_rerunning_replaces_the_figures_and_leaves_the_prose(tmp_path):
    page = tmp_path / "detection.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    update_markdown(page, ["new"])
    update_markdown(page, ["newer"])
    assert page.read_text() == f"before\n{BEGIN}\n\nnewer\n\n{END}\nafter\n"
