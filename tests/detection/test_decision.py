from dataclasses import replace

import pytest

from qc.core.verdict import Evidence, Prediction, Status
from qc.detection.decision import decide, describe_sample, rarity, widen_limits, widening
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
    return decide(evidence(**changes), THRESHOLD, limits)


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
def test_score_is_highest_of_all_evidence(changes, status, score):
    verdict = judged(**changes)
    assert (verdict.status, verdict.score) == (status, pytest.approx(score, abs=1e-3))


@pytest.mark.parametrize("score", [1.0, 2.0, 0.1])
def test_rarity_is_power_of_false_alarm_rate(score):
    assert rarity(score, 0.001) == pytest.approx(0.001**score)


def test_rarity_of_usual_evidence_is_half():
    verdict = judged(merge_height=0.0003, usual_merge_height=0.0003, residual=None)
    assert rarity(verdict.score, THRESHOLD.false_alarms) == pytest.approx(0.5)


def test_score_with_high_usual_value_keeps_limit():
    assert judged(merge_height=0.0011, usual_merge_height=0.005, residual=None).score > 1
    assert judged(merge_height=0.0010, usual_merge_height=0.005, residual=None).score == 1


@pytest.mark.parametrize(
    ("size", "few"),
    [(0, "0 reference frames"), (1, "1 reference frame"), (19, "19 reference frames")],
)
def test_verdict_below_twenty_references_is_undecided(size, few):
    verdict = judged(reference_size=size, merge_height=1.5, z={"bias_level": 99.0})
    assert verdict.status is Status.UNDECIDED
    assert verdict.score == 0
    [reason] = verdict.reasons
    assert reason.startswith(f"provisional: only {few}, 20 needed: judged by")


@pytest.mark.parametrize(
    ("n", "times"), [(0, 1.2045), (20, 1.2045), (50, 1.0685), (100, 1.0), (200, 1.0)]
)
def test_limits_widen_for_few_references(n, times):
    assert widening(n) == pytest.approx(times, abs=1e-4)
    limits = widen_limits(THRESHOLD, n)
    assert limits.merge_height == pytest.approx(0.001 * times, rel=1e-4)
    assert limits.residual == pytest.approx(10 * times, rel=1e-4)
    assert limits.metrics["bias_level"].alarm == pytest.approx(8 * times, rel=1e-4)
    assert (limits.since, limits.false_alarms) == (THRESHOLD.since, THRESHOLD.false_alarms)


@pytest.mark.parametrize(
    "odd", [{"merge_height": 0.0012}, {"residual": 12.0}, {"z": {"bias_level": 9.6}}]
)
def test_verdict_with_few_references_uses_widened_limits(odd):
    assert judged(**odd, reference_size=100).status is Status.ANOMALOUS
    assert judged(**odd, reference_size=20).status is Status.NOMINAL


def test_reasons_name_widened_limit_and_sample_size():
    odd = {"merge_height": 0.0024, "residual": 24.0, "z": {"bias_level": 19.2}}
    number, pattern, distance = judged(**odd, reference_size=25).reasons
    assert number.endswith("sigma from its references (9.3 allowed, widened for n = 25)")
    assert pattern.endswith("sigma beyond its references (11.7 allowed, widened for n = 25)")
    assert distance.endswith("2.1 times the threshold 0.0012, widened for n = 25")


def test_describe_sample_names_size_and_effect():
    assert describe_sample(5) == "n = 5: provisional, 20 needed"
    assert describe_sample(23) == "n = 23: limits 1.18 times as wide"
    assert describe_sample(100) == "n = 100"


def test_absolute_limits_apply_without_references():
    verdict = judged(merge_height=None, reference_size=0, metrics={"bias_level": 140.0}, z={})
    assert (verdict.status, verdict.score) == (Status.ANOMALOUS, 2.0)
    assert verdict.reasons[0] == "bias level 140.00 ADU, outside the instrument's 80 to 120"
    assert "only 0 reference frames" in verdict.reasons[1]


def test_duplicate_is_anomalous_without_references():
    verdict = judged(merge_height=None, reference_size=0, duplicate_of="UVES.2024")
    assert verdict.status is Status.ANOMALOUS
    assert verdict.reasons[0] == "has the very same pixels as UVES.2024"


def test_reasons_are_sorted_by_score():
    verdict = judged(merge_height=0.003, z={"bias_level": 40.0, "read_noise": 7.0}, metrics=METRICS)
    assert verdict.reasons == (
        "bias level 100.00 ADU, +40.0 sigma from its references",
        "joins its 100 references at cosine distance 0.003, 3.0 times the threshold 0.001",
        "read noise 3.000 ADU, +7.0 sigma from its references",
    )


def test_reason_of_gross_deviation_has_no_digits():
    verdict = judged(z={"bias_level": -1000.4, "read_noise": 54142.6})
    assert verdict.reasons == (
        "read noise 3.000 ADU, more than 1000 sigma above its references",
        "bias level 100.00 ADU, more than 1000 sigma below its references",
    )
    assert "stands out, more than 1000 sigma beyond" in judged(residual=1001.0).reasons[0]


def test_nominal_verdict_lists_warning():
    verdict = judged(z={"bias_level": -5.0})
    assert verdict.status is Status.NOMINAL
    assert verdict.reasons == ("bias level 100.00 ADU, -5.0 sigma from its references",)


def test_nominal_verdict_without_warning_has_no_reasons():
    assert judged().reasons == ()


def test_reason_of_distance_names_widened_references():
    verdict = judged(merge_height=0.002, widened="any slit width")
    assert verdict.reasons[0].endswith("the threshold 0.001 (references: any slit width)")


@pytest.mark.parametrize(("value", "status"), [(0.0, "NOMINAL"), (1e-6, "ANOMALOUS")])
def test_absolute_limit_of_one_value_accepts_only_it(value, status):
    verdict = judged(limits={"dead_fraction": (0.0, 0.0)}, metrics={"dead_fraction": value})
    assert verdict.status == status


@pytest.mark.parametrize("limit", [(0.1, 0.3), (176.0, 216.1), (-1.7, 0.3), (1e-9, 1e-7)])
def test_value_at_limit_is_nominal(limit):
    for value in limit:
        verdict = judged(limits={"read_noise": limit}, metrics={"read_noise": value})
        assert verdict.status is Status.NOMINAL


def test_metric_without_value_is_ignored():
    assert judged(metrics={}, z={}).score == pytest.approx(0.55, abs=1e-3)


def test_residual_beyond_limit_names_pattern_and_place():
    verdict = judged(residual=20.0)
    assert (verdict.status, verdict.score) == ("ANOMALOUS", pytest.approx(1.9, abs=1e-3))
    assert verdict.reasons[0].startswith("a level spot around x 3, y 4 stands out, 20.0 sigma")


LEAK = Prediction(
    "TB0", 0.9, 0.9, "light_leak", 0.8, ("level spot +38.0 sigma", "peak row +9.1 sigma")
)
LEAK_WORDS = "looks like light leak (80%), by its level spot +38.0 sigma and peak row +9.1 sigma"


def test_predicted_fault_follows_strongest_reason():
    verdict = judged(merge_height=0.003, z={"bias_level": 9.0}, prediction=LEAK)
    assert verdict.status is Status.ANOMALOUS
    assert verdict.reasons[1] == LEAK_WORDS
    assert len(verdict.reasons) == 3


def test_predicted_fault_of_nominal_frame_is_warning():
    verdict = judged(prediction=LEAK)
    assert (verdict.status, verdict.score) == (Status.NOMINAL, judged().score)
    assert verdict.reasons == (f"a doubt: {LEAK_WORDS}, though all is within its limits",)


def test_improbable_fault_is_not_named():
    assert judged(prediction=replace(LEAK, kind_probability=0.49)) == judged()


def test_prediction_without_fault_keeps_anomaly():
    sure = Prediction("TB0", 1.0, 1.0, "light_leak", 0.0)
    assert judged(merge_height=0.003, prediction=sure) == judged(merge_height=0.003)


@pytest.mark.parametrize(
    ("probability", "status"), [(0.0011, "NOMINAL"), (0.0009, "ANOMALOUS"), (0.0, "ANOMALOUS")]
)
def test_improbable_image_type_is_anomalous_at_false_alarm_rate(probability, status):
    verdict = judged(prediction=Prediction("TF0", 0.99, probability))
    assert verdict.status == status
    reason = "looks like TF0 (99%), not like what its header says"
    assert (reason in verdict.reasons) == (status == "ANOMALOUS")


def test_untrained_image_type_is_not_anomalous():
    assert judged(prediction=Prediction("TF0", 0.99, None)) == judged()
