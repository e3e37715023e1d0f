from dataclasses import replace

import pytest

from qc.core.verdict import Evidence, Prediction, Status
from qc.detection.decision import judge, limits_for, rarity, sample_words, widening
from qc.detection.thresholds import Threshold

THRESHOLD = Threshold.model_validate(
    {
        "from": "2020-01-01",
        "encoder": "e",
        "merge_height": 0.001,
        "residual": 10.0,
        "false_alarms": 0.001,
        "metrics": {
            "bias_level": {"warn": 4, "alarm": 8},
            "read_noise": {"warn": 6, "alarm": 10},
        },
        "why": "a test",
        "by": "me",
    }
)
LIMITS = {"bias_level": (80.0, 120.0), "saturated_fraction": (0.0, 0.01)}
METRICS = {"bias_level": 100.0, "read_noise": 3.0, "saturated_fraction": 0.0}


def evidence(**changes) -> Evidence:
    plain = {
        "merge_height": 0.0005,
        "residual": 5.0,
        "pattern": "a level spot around x 3, y 4",
        "reference_size": 100,
        "widened": "",
        "metrics": METRICS,
        "z": {},
    }
    return Evidence(**{**plain, **changes})


def judged(limits=LIMITS, **changes):
    return judge(evidence(**changes), THRESHOLD, limits)


@pytest.mark.parametrize(
    ("changes", "status", "score"),
    [
        ({}, "NOMINAL", 0.55),  # half way to its limit, from 0.1
        ({"merge_height": 0.001}, "NOMINAL", 1.0),
        ({"merge_height": 0.002}, "ANOMALOUS", 1.9),
        ({"z": {"bias_level": 8.0}}, "NOMINAL", 1.0),
        ({"z": {"bias_level": -8.1}}, "ANOMALOUS", 1.012),
        ({"z": {"read_noise": 10.0}}, "NOMINAL", 1.0),
        ({"z": {"line_width": 99.0}}, "NOMINAL", 0.55),  # no limit is set on it
        ({"metrics": {"bias_level": 80.0}}, "NOMINAL", 0.55),
        ({"metrics": {"bias_level": 120.0}}, "NOMINAL", 0.55),
        ({"metrics": {"bias_level": 130.0}}, "ANOMALOUS", 1.5),
        ({"metrics": {"saturated_fraction": 0.0}}, "NOMINAL", 0.55),
        ({"metrics": {"saturated_fraction": 0.01}}, "NOMINAL", 0.55),
        ({"metrics": {"saturated_fraction": 0.02}}, "ANOMALOUS", 2.0),
        ({"duplicate_of": "another"}, "ANOMALOUS", 100.0),
    ],
)
def test_the_score_is_that_of_the_strongest_evidence(changes, status, score):
    verdict = judged(**changes)
    assert (verdict.status, verdict.score) == (status, pytest.approx(score, abs=1e-3))


@pytest.mark.parametrize("score", [1.0, 2.0, 0.1])
def test_the_score_counts_how_often_a_good_frame_looks_as_odd(score):
    assert rarity(score, 0.001) == pytest.approx(0.001**score)


def test_half_of_the_good_frames_are_as_odd_as_what_is_usual():
    verdict = judged(merge_height=0.0003, usual_merge_height=0.0003, residual=None)
    assert rarity(verdict.score, THRESHOLD.false_alarms) == pytest.approx(0.5)


def test_no_reference_moves_the_limit():
    assert judged(merge_height=0.0011, usual_merge_height=0.005, residual=None).score > 1
    assert judged(merge_height=0.0010, usual_merge_height=0.005, residual=None).score == 1


@pytest.mark.parametrize(
    ("size", "few"),
    [(0, "0 reference frames"), (1, "1 reference frame"), (19, "19 reference frames")],
)
def test_below_twenty_references_a_frame_is_undecided(size, few):
    verdict = judged(reference_size=size, merge_height=1.5, z={"bias_level": 99.0})
    assert verdict.status is Status.UNDECIDED
    assert verdict.score == 0
    [reason] = verdict.reasons
    assert reason.startswith(f"provisional: only {few}, 20 needed: judged by")


@pytest.mark.parametrize(
    ("n", "times"), [(0, 1.2045), (20, 1.2045), (50, 1.0685), (100, 1.0), (200, 1.0)]
)
def test_limits_are_wider_for_a_small_reference(n, times):
    assert widening(n) == pytest.approx(times, abs=1e-4)
    limits = limits_for(THRESHOLD, n)
    assert limits.merge_height == pytest.approx(0.001 * times, rel=1e-4)
    assert limits.residual == pytest.approx(10 * times, rel=1e-4)
    assert limits.metrics["bias_level"].alarm == pytest.approx(8 * times, rel=1e-4)
    assert (limits.since, limits.false_alarms) == (THRESHOLD.since, THRESHOLD.false_alarms)


@pytest.mark.parametrize(
    "odd", [{"merge_height": 0.0012}, {"residual": 12.0}, {"z": {"bias_level": 9.6}}]
)
def test_what_is_odd_beside_a_hundred_may_not_be_beside_twenty(odd):
    assert judged(**odd, reference_size=100).status is Status.ANOMALOUS
    assert judged(**odd, reference_size=20).status is Status.NOMINAL


def test_reasons_name_the_widened_limit_and_how_few_there_are():
    odd = {"merge_height": 0.0024, "residual": 24.0, "z": {"bias_level": 19.2}}
    number, pattern, distance = judged(**odd, reference_size=25).reasons
    assert number.endswith("sigma from its references (9.3 allowed, widened for n = 25)")
    assert pattern.endswith("sigma beyond its references (11.7 allowed, widened for n = 25)")
    assert distance.endswith("2.1 times the threshold 0.0012, widened for n = 25")


def test_the_size_of_a_reference_is_said_with_what_it_means():
    assert sample_words(5) == "n = 5: provisional, 20 needed"
    assert sample_words(23) == "n = 23: limits 1.18 times as wide"
    assert sample_words(100) == "n = 100"


def test_absolute_limits_bite_without_any_reference():
    verdict = judged(merge_height=None, reference_size=0, metrics={"bias_level": 140.0}, z={})
    assert (verdict.status, verdict.score) == (Status.ANOMALOUS, 2.0)
    assert verdict.reasons[0] == "bias level 140.00 ADU, outside the instrument's 80 to 120"
    assert "only 0 reference frames" in verdict.reasons[1]


def test_a_duplicate_needs_no_reference_either():
    verdict = judged(merge_height=None, reference_size=0, duplicate_of="UVES.2024")
    assert verdict.status is Status.ANOMALOUS
    assert verdict.reasons[0] == "has the very same pixels as UVES.2024"


def test_the_strongest_reason_comes_first():
    verdict = judged(merge_height=0.003, z={"bias_level": 40.0, "read_noise": 7.0}, metrics=METRICS)
    assert verdict.reasons == (
        "bias level 100.00 ADU, +40.0 sigma from its references",
        "joins its 100 references at cosine distance 0.003, 3.0 times the threshold 0.001",
        "read noise 3.000 ADU, +7.0 sigma from its references",
    )


def test_what_is_gross_is_said_without_digits():
    verdict = judged(z={"bias_level": -1000.4, "read_noise": 54142.6})
    assert verdict.reasons == (
        "read noise 3.000 ADU, more than 1000 sigma above its references",
        "bias level 100.00 ADU, more than 1000 sigma below its references",
    )
    assert "stands out, more than 1000 sigma beyond" in judged(residual=1001.0).reasons[0]


def test_a_nominal_frame_may_carry_a_warning():
    verdict = judged(z={"bias_level": -5.0})
    assert verdict.status is Status.NOMINAL
    assert verdict.reasons == ("bias level 100.00 ADU, -5.0 sigma from its references",)


def test_a_nominal_frame_without_a_warning_has_no_reasons():
    assert judged().reasons == ()


def test_widened_references_are_named_with_the_distance():
    verdict = judged(merge_height=0.002, widened="any slit width")
    assert verdict.reasons[0].endswith("the threshold 0.001 (references: any slit width)")


@pytest.mark.parametrize(("value", "status"), [(0.0, "NOMINAL"), (1e-6, "ANOMALOUS")])
def test_limits_may_be_one_value(value, status):
    verdict = judged(limits={"dead_fraction": (0.0, 0.0)}, metrics={"dead_fraction": value})
    assert verdict.status == status


@pytest.mark.parametrize("limit", [(0.1, 0.3), (176.0, 216.1), (-1.7, 0.3), (1e-9, 1e-7)])
def test_a_value_at_a_limit_passes_whatever_the_rounding(limit):
    for value in limit:
        verdict = judged(limits={"read_noise": limit}, metrics={"read_noise": value})
        assert verdict.status is Status.NOMINAL


def test_a_metric_that_was_not_measured_is_no_evidence():
    assert judged(metrics={}, z={}).score == pytest.approx(0.55, abs=1e-3)


def test_a_pattern_beyond_its_limit_is_anomalous_and_its_place_is_told():
    verdict = judged(residual=20.0)
    assert (verdict.status, verdict.score) == ("ANOMALOUS", pytest.approx(1.9, abs=1e-3))
    assert verdict.reasons[0].startswith("a level spot around x 3, y 4 stands out, 20.0 sigma")


LEAK = Prediction(
    "TB0", 0.9, 0.9, "light_leak", 0.8, ("level spot +38.0 sigma", "peak row +9.1 sigma")
)
LEAK_WORDS = "looks like light leak (80%), by its level spot +38.0 sigma and peak row +9.1 sigma"


def test_a_fault_is_named_behind_the_strongest_evidence():
    verdict = judged(merge_height=0.003, z={"bias_level": 9.0}, prediction=LEAK)
    assert verdict.status is Status.ANOMALOUS
    assert verdict.reasons[1] == LEAK_WORDS
    assert len(verdict.reasons) == 3


def test_a_classifier_flags_no_fault_alone_but_raises_a_doubt():
    verdict = judged(prediction=LEAK)
    assert (verdict.status, verdict.score) == (Status.NOMINAL, judged().score)
    assert verdict.reasons == (f"a doubt: {LEAK_WORDS}, though all is within its limits",)


def test_a_fault_that_is_less_probable_than_not_is_not_named():
    assert judged(prediction=replace(LEAK, kind_probability=0.49)) == judged()


def test_a_classifier_clears_nothing():
    sure = Prediction("TB0", 1.0, 1.0, "light_leak", 0.0)
    assert judged(merge_height=0.003, prediction=sure) == judged(merge_height=0.003)


@pytest.mark.parametrize(
    ("own", "status"), [(0.0011, "NOMINAL"), (0.0009, "ANOMALOUS"), (0.0, "ANOMALOUS")]
)
def test_a_header_is_contradicted_as_rarely_as_false_alarms_are_granted(own, status):
    verdict = judged(prediction=Prediction("TF0", 0.99, own))
    assert verdict.status == status
    words = "looks like TF0 (99%), not like what its header says"
    assert (words in verdict.reasons) == (status == "ANOMALOUS")


def test_a_type_that_the_classifier_never_saw_is_not_contradicted():
    assert judged(prediction=Prediction("TF0", 0.99, None)) == judged()
