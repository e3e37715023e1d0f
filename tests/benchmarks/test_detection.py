from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from benchmarks.detection.analysis import Column, Scored, Scores, by_strength, calibration, together
from benchmarks.detection.evidence import Material, Sample, Sampled, Truth
from benchmarks.detection.figures import (
    auroc,
    average_precision,
    best_f1,
    best_threshold,
    bootstrap,
    calibrated,
    f1_of,
    false_alarms_of,
    precision_of,
    recall_at,
    recall_at_budget,
    recall_of,
    wilson,
)
from benchmarks.detection.history import ARMS, TEST, VALIDATION, History, plan_shots
from benchmarks.detection.methods import (
    gaussian_in_place,
    k_means,
    naive_pca,
    nearest,
    nearest_in_place,
    of_features,
    spectral,
)
from benchmarks.detection.report import BEGIN, END, update_markdown
from benchmarks.detection.robustness import CONDITIONS, teachers
from benchmarks.detection.supervised import ROWS, Examples, Taught
from benchmarks.detection.unseen import ROTATIONS, kinds_left_out
from benchmarks.detection.unseen import measure as measure_unseen
from benchmarks.detection.visibility import signal_to_noise
from qc.detection.metrics import METRICS
from qc.detection.thresholds import Threshold
from qc.io.instrument_parts import ChipNumbers
from qc.simulator import interventions

pytestmark = pytest.mark.slow

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
    figures = {"sum": lambda scores, _: float(scores.sum())}
    result = bootstrap(figures, scores, bad, np.array([0, 0, 1, 1]))["sum"]
    assert result.value == result.low == result.high == 2  # one frame each, or the draw is void


@pytest.mark.parametrize("history", [VALIDATION, TEST])
def test_tests_come_after_references_on_both_sides_of_one_intervention(history: History):
    parts = [night.part for night in sorted(history.nights, key=lambda night: night.date)]
    assert parts == [*["reference"] * 10, *["test"] * 9, *["rebuild"] * 4, *["test"] * 5]
    rebuilt = min(night.date for night in history.nights if night.part == "rebuild")
    assert rebuilt - history.opened == timedelta(days=1)
    first, last = history.nights[0].date, history.nights[-1].date
    days = [
        intervention.when.date()
        for year in range(first.year, last.year + 1)
        for intervention in interventions(year, history.seed)
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
    return Material(light.astype(np.float32), np.ones(n), vectors, vectors, [{}] * n, (), LIMITS)


@pytest.mark.parametrize("method", [nearest, naive_pca, k_means, spectral])
def test_a_method_scores_the_odd_one_highest(method):
    references, tests = material_of(24, seed=1), material_of(3, seed=2, odd=1)
    assert method(references, tests).argmax() == 1


def test_rerunning_replaces_the_figures_and_leaves_the_prose(tmp_path):
    page = tmp_path / "detection.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    update_markdown(page, ["new"])
    update_markdown(page, ["newer"])
    assert page.read_text() == f"before\n{BEGIN}\n\nnewer\n\n{END}\nafter\n"


def test_who_looks_at_five_a_night_finds_what_is_odd_enough():
    scores, bad = np.arange(200.0), np.zeros(200, bool)
    bad[199] = True
    look = partial(recall_at_budget, budget=5, night=100, share=0.01)
    assert look(scores, bad) > 0.99  # few nights have six of them
    assert look(-scores, bad) == 0
    assert recall_at_budget(scores, bad, budget=1, night=100, share=0.02) == pytest.approx(
        (1 - 0.98**100) / 2, abs=0.02
    )  # one a night of the nights that have any, of two a night


def test_calibrated_scores_are_in_units_of_nominal_ones():
    nominal = np.linspace(10, 20, 101)  # its median 15, its 90th percentile 19
    assert calibrated(np.array([15.0, 19.0, 23.0]), nominal).tolist() == [0, 1, 2]


# --- places --------------------------------------------------------------------------------------


def places(n: int, seed: int) -> np.ndarray:
    """Two by two places of three channels."""
    return np.random.default_rng(seed).normal(0, 1, (n, 2, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("score", [nearest_in_place, gaussian_in_place])
def test_one_odd_place_makes_an_image_odd(score):
    new = places(3, seed=1)
    new[1, 0, 1] += 20
    assert score(places(30, seed=2), new).argmax() == 1


def test_what_is_elsewhere_in_the_references_is_odd_here():
    ndarray = places(30, seed=2)
    ndarray[:, 0, 0] += 20
    new = places(2, seed=3)
    new[0, 0, 0] += 20  # where it belongs
    new[1, 1, 1] += 20
    assert nearest_in_place(ndarray, new).argmax() == 1


def test_a_method_of_features_looks_at_the_sample_alone():
    rows = np.arange(10)
    references, tests = material_of(24, seed=1), material_of(3, seed=2)
    existing = replace(references, features={"any": Sampled(rows, places(10, seed=1))})
    new = replace(tests, features={"any": Sampled(np.array([2]), places(1, seed=2))})
    scores = of_features("any", nearest_in_place)(existing, new)
    assert np.isnan(scores).tolist() == [True, True, False]


# --- whole tables --------------------------------------------------------------------------------


def image(score: float, *, fault: str = "", strength: str = "", part: str = "test") -> Scored:
    """An image that every method scores alike."""
    truth = Truth(date(2025, 7, 1), part, f"{part}{fault}{score}", 0, "UBB0", fault, strength)
    return Scored(Sample("blue", truth, None, ""), {"ours": score, "another": score})


SPRING = [image(score, part="reference") for score in np.linspace(0, 1, 11)]
GOOD = [image(score) for score in np.linspace(0, 0.9, 10)]


def examples(n: int, faults: Sequence[str] = ()) -> Examples:
    """Images of noise; one with a fault has a bright stripe and some large numbers."""
    rng = np.random.default_rng(n)
    names = np.array([*faults, *[""] * (n - len(faults))])
    bad = names != ""
    pixels = rng.normal(0, 0.1, (n, 16, 16))
    pixels[bad, 4:8] += 3
    vectors = rng.normal(0, 0.1, (n, 8)) + 2 * bad[:, np.newaxis]
    z = rng.normal(0, 1, (n, len(METRICS)))
    z[bad, :8] += 8
    return Examples(
        types=np.array(["UBB0"] * n),
        faults=names,
        pixels=pixels.astype(np.float16),
        change=pixels.astype(np.float16),
        z=z.astype(np.float32),
        embeddings=vectors.astype(np.float16),
        partners=rng.normal(0, 0.1, (n, 3, 8)).astype(np.float16),
        bad=bad,
    )


def table_of(images: Sequence[Scored], matching: Examples | None = None) -> Scores:
    columns = [Column("another", "spring", 0.0), Column("ours", "shipped", 0.0)]
    return Scores(list(images), columns, matching or examples(len(images)))


def test_a_score_is_ranked_by_its_own_types_spring_and_ours_as_it_is():
    table = table_of([*SPRING, *GOOD, image(1.3, fault="hot_pixels", strength="gross")])
    another, selected = (together(table.scored, column)[1] for column in table.columns)
    assert another[-1] == pytest.approx(2)  # spring's median is 0.5, its 90th percentile 0.9
    assert selected[-1] == 1.3


def test_recall_by_strength_counts_each_strength_with_all_good_images():
    faults = [
        image(2.0, fault="hot_pixels", strength="gross"),
        image(0.5, fault="hot_pixels", strength="faint"),
        image(1.5, fault="light_leak", strength="faint"),
    ]
    result = by_strength(table_of([*SPRING, *GOOD, *faults]))["ours"]
    assert result["pooled"] == result["mean"] == {"gross": 1.0, "faint": 0.5}


def test_a_calibrated_score_of_one_comes_as_often_as_the_limit_was_set_for():
    good = [image(0.2)] * 9 + [image(0.4)]  # at 0.001: one in 4, and one in 16 good images
    shares = calibration(table_of([*good, image(2.0, fault="light_leak", strength="gross")]))
    assert {name: share.value for name, share in shares.items()} == {
        "0.1": 0.1,
        "0.01": 0.0,
        "0.001": 0.0,
    }


@pytest.mark.parametrize("taught", ROWS, ids=lambda taught: taught.name)
def test_who_has_seen_a_fault_knows_it_again(taught: Taught):
    predict = taught.learn(examples(40, ["stripe"] * 20))
    scores = predict(examples(20, ["stripe"] * 5))
    assert scores[:5].min() > scores[5:].max()


def test_every_kind_is_left_out_once():
    kinds = ["d", "c", "b", "a", "b", "frame_repeated"]
    assert [kinds_left_out(kinds, i) for i in range(ROTATIONS)] == [{"a", "d"}, {"b"}, {"c"}]


def test_an_unseen_kind_is_scored_by_who_has_not_seen_it():
    faults = ["a", "b", "c"]
    learnt_from = []

    def learn(existing: Examples) -> Callable[[Examples], np.ndarray]:
        learnt_from.append(set(existing.faults))
        return lambda new: new.bad.astype(float)

    images = [image(2.0, fault=kind, strength="gross") for kind in faults]
    table = table_of([*images, *GOOD], examples(13, faults))
    table.teach(Taught("learner", learn), examples(12, faults))
    result = measure_unseen(table, [Taught("learner", learn)], examples(12, faults))
    assert result["learner"]["auroc"] == result["ours"]["auroc"] == 1
    assert learnt_from == [{"", *faults}, {"", "b", "c"}, {"", "a", "c"}, {"", "a", "b"}]


def test_wrong_labels_are_bad_images_among_the_references():
    good, spoilt = ([image(i).sample for i in range(start, start + 100)] for start in (0, 500))
    by_name = {item.name: teachers(good, spoilt, item) for item in CONDITIONS}
    assert by_name["all labels right"] == good
    assert len(set(by_name["20 % wrong"]) & set(spoilt)) == 20
    assert len(by_name["20 % wrong"]) == 100
    assert len(by_name["50 images"]) == 50
    assert set(by_name["50 images"]) <= set(good)


def test_labels_are_turned_round_and_images_kept_of_each_type():
    existing = examples(2000, ["stripe"] * 1000)
    assert (existing.mislabelled(0.05).bad != existing.bad).mean() == pytest.approx(0.05, abs=0.015)
    assert len(existing.few(50)) == 50


# --- visibility of faults -----------------------------------------------------------------------

CHIP = ChipNumbers(gain_e_per_adu=2, read_noise_adu=4, bias_adu=100, saturation_adu=65535)


def test_signal_to_noise_adds_over_pixels_in_squares():
    well = np.full((64, 64), 100)
    ill = well.copy()
    ill[0, :9] += 8  # nine pixels of two sigma each
    assert signal_to_noise(ill, well, CHIP) == pytest.approx(6)


def test_light_has_noise_of_its_own():
    well = np.full((64, 64), 100)
    well[:, :32] += 18  # 36 electrons: 9 ADU^2 more, a sigma of five
    ill = well.copy()
    ill[0, 0] += 10
    assert signal_to_noise(ill, well, CHIP) == pytest.approx(2)


def test_a_step_of_the_converter_here_and_there_is_no_signal_of_that_size():
    well = np.full((64, 64), 100)
    ill = well.copy()
    ill[::16, ::16] += 1  # a 256th ADU on average: 4 x 4 squares of a 64th sigma each
    assert signal_to_noise(ill, well, CHIP) == pytest.approx(1 / 16)
