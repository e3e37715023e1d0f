from datetime import date
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qc.core.verdict import Evidence, Status
from qc.detection.decision import decide, widening
from qc.detection.thresholds import MetricLimit, Threshold
from qc.tuning.extreme_values import fit_tail, tail_quantile
from qc.tuning.fit import find_continuing, fit_limits, metric_limits, tune_to_nominal
from qc.tuning.label_fit import (
    InseparableError,
    expected_of_labels,
    precision_recall,
    share_interval,
    tune_to_labels,
)
from qc.tuning.limits import FLOORS, LimitSet, evidence_ratio, limits_of


def quantiles_of(distribution, n: int, false_alarms: float) -> float:
    """Return the median estimate of many samples, which removes the scatter of single ones."""
    samples = distribution.rvs(size=(41, n), random_state=np.random.default_rng(1))
    return float(np.median([tail_quantile(sample, false_alarms) for sample in samples]))


@pytest.mark.parametrize("distribution", [stats.expon(), stats.norm(loc=10)])
@pytest.mark.parametrize("false_alarms", [0.01, 0.001])
def test_tail_quantile_is_exceeded_at_the_granted_rate(distribution, false_alarms):
    quantile = quantiles_of(distribution, 1000, false_alarms)
    assert quantile == pytest.approx(distribution.isf(false_alarms), rel=0.07)


def test_tail_quantile_of_a_bounded_tail_lies_beyond_it():
    quantile = quantiles_of(stats.uniform(), 200, 0.001)
    assert 1.0 < quantile < 1.6


def test_tail_quantile_of_a_heavy_tail_is_capped():
    sample = np.concatenate([np.linspace(0, 1, 200), [1000.0]])
    assert tail_quantile(sample, 0.001) < 2000


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), st.floats(1e-5, 0.5), st.integers(0, 10_000))
def test_tail_quantile_grows_as_the_rate_shrinks(n, rate, seed):
    sample = np.random.default_rng(seed).exponential(size=n)
    limit = tail_quantile(sample, rate)
    assert np.isfinite(limit)
    assert limit > sample.min()
    assert tail_quantile(sample, rate / 2) >= limit


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 300), st.integers(0, 10_000))
def test_tail_quantile_at_the_usual_rate_flags_few_nominal_frames(n, seed):
    sample = np.random.default_rng(seed).exponential(size=n)
    assert np.mean(sample > tail_quantile(sample, 0.001)) <= 0.02


def test_tail_quantile_of_equal_scores_is_that_score():
    assert tail_quantile(np.full(50, 0.25), 0.001) == 0.25


@pytest.mark.parametrize("sample", [[], [1.0]])
def test_tail_quantile_of_fewer_than_two_scores_is_an_error(sample):
    with pytest.raises(
        ValueError, match=f"at least 2 nominal frames to set a limit, got {len(sample)}"
    ):
        tail_quantile(np.array(sample), 0.001)


@pytest.mark.parametrize("rate", [0.3, 0.05, 0.002])
def test_tail_of_a_large_sample_agrees_with_its_distribution(rate):
    sample = np.random.default_rng(1).exponential(size=20_000)
    tail = fit_tail(sample)
    assert tail.share < 0.05
    limits = tail.limit_interval(rate)
    assert limits.low < stats.expon.isf(rate) < limits.high
    assert limits.value == pytest.approx(stats.expon.isf(rate), rel=0.05)
    rates = tail.rate_interval(limits.value)
    assert rates.value == pytest.approx(rate, rel=0.01)
    assert rates.low < rate < rates.high


def normal_scores(*names: str, n: int = 500, scale: float = 3.0) -> list[dict[str, float]]:
    values = np.random.default_rng(3).normal(0, scale, (n, len(names)))
    return [dict(zip(names, row, strict=True)) for row in values.tolist()]


def test_metric_limits_share_the_granted_rate():
    scores = normal_scores("bias_level", "read_noise")
    alone = metric_limits([{"bias_level": row["bias_level"]} for row in scores], 0.005)
    shared = metric_limits(scores, 0.01)
    assert shared["bias_level"] == alone["bias_level"]


def test_metric_limits_grow_with_the_scatter():
    limits = metric_limits(normal_scores("bias_level", n=20_000), 0.001)
    assert limits["bias_level"].alarm == pytest.approx(3 * stats.norm.isf(0.0005), rel=0.15)
    assert limits["bias_level"].warn == pytest.approx(0.6 * limits["bias_level"].alarm, abs=0.06)


def test_metric_limit_of_a_quiet_metric_is_six_sigma():
    assert metric_limits(normal_scores("bias_level", scale=0.1), 0.001)["bias_level"].alarm == 6


def test_metric_limits_omit_rare_metrics():
    scores = normal_scores("bias_level", n=10) + [{"read_noise": 1.0}] * 4
    assert list(metric_limits(scores, 0.001)) == ["bias_level"]


def test_metric_limits_without_frames_are_empty():
    assert metric_limits([], 0.001) == {}


def test_metric_limit_of_a_mostly_constant_count_is_near_its_maximum():
    sample = [*[0.0] * 280, *[8.0] * 20]  # a heavy tail to any fit
    limits = metric_limits([{"hot_cluster": value} for value in sample], 0.001)
    assert limits["hot_cluster"].alarm == pytest.approx(1.2 * 8)


def evidence(height: float, residual: float = 1.0, references: int = 100, **z: float) -> Evidence:
    return Evidence(height, references, "", dict.fromkeys(z, 1.0), z, residual=residual)


def nominal_evidence(distribution, n: int, random: np.random.Generator) -> list[Evidence]:
    """Merge height and residual of one shape of tail, and four normal metrics"""
    draw = partial(distribution.rvs, size=n, random_state=random)
    z = random.normal(size=(n, 4))
    return [
        evidence(height / 100, 10 * residual, **dict(zip(NAMES, row, strict=True)))
        for height, residual, row in zip(draw().tolist(), draw().tolist(), z.tolist(), strict=True)
    ]


NAMES = ("bias_level", "read_noise", "row_structure", "column_structure")


@pytest.mark.parametrize(
    "distribution", [stats.expon(), stats.gamma(3), stats.lognorm(0.7)], ids=["exp", "gamma", "log"]
)
@pytest.mark.parametrize("granted", [0.01, 0.001])
def test_rate_on_new_frames_is_within_the_interval(distribution, granted):
    """Twenty histories; decision 0036 has the figures of more."""
    random = np.random.default_rng(7)
    covered, rates = 0, []
    for _ in range(20):
        tuned = tune_to_nominal(nominal_evidence(distribution, 100, random), granted)
        new = nominal_evidence(distribution, 2000, random)
        rates.append(float(np.mean([evidence_ratio(item, tuned.limits) > 1 for item in new])))
        covered += tuned.false_alarms.low <= rates[-1] <= tuned.false_alarms.high
        assert tuned.false_alarms.high < 10 * granted
    assert covered >= 18
    assert np.mean(rates) < 2.5 * granted


def test_interval_narrows_with_more_frames():
    random = np.random.default_rng(1)
    few, many = (
        tune_to_nominal(nominal_evidence(stats.expon(), n, random), 0.01) for n in (60, 2000)
    )
    assert many.spread.high / many.spread.low < 0.6 * few.spread.high / few.spread.low
    assert many.false_alarms.high < few.false_alarms.high


def test_limits_from_small_references_equal_those_of_ample_ones():
    """The decision widens the limits for small references."""
    wider = widening(20)
    measured = [(0.1 + i / 1000, 20.0 + i, i / 50) for i in range(40)]
    ample = [evidence(height, residual, bias_level=z) for height, residual, z in measured]
    few = [
        evidence(wider * height, wider * residual, references=20, bias_level=wider * z)
        for height, residual, z in measured
    ]
    limits, expected = fit_limits(few, 0.01), fit_limits(ample, 0.01)
    assert limits.merge_height == pytest.approx(expected.merge_height)
    assert limits.residual == pytest.approx(expected.residual)
    assert evidence_ratio(few[7], limits) == pytest.approx(evidence_ratio(ample[7], expected))


def test_limits_of_quiet_frames_are_the_floors():
    tuned = tune_to_nominal([evidence(1e-9, 0.01, bias_level=0.01)] * 50, 0.001)
    assert tuned.limits.merge_height == FLOORS.merge_height
    assert tuned.limits.residual == FLOORS.residual
    assert tuned.limits.metrics["bias_level"].alarm == 6


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0, 2),
    st.floats(0, 2000),
    st.dictionaries(st.sampled_from(NAMES), st.floats(-50, 50)),
    st.integers(20, 300),
)
def test_evidence_ratio_above_one_is_an_anomaly(height, residual, z, references):
    sample = evidence(height, residual, references, **z)
    threshold = Threshold.model_validate(
        {
            "from": date(2026, 1, 1),
            "encoder": "e",
            "merge_height": 0.5,
            "residual": 400,
            "false_alarms": 0.001,
            "metrics": {name: {"warn": 5, "alarm": 20} for name in NAMES[:3]},
            "why": "a test",
            "by": "me",
        }
    )
    verdict = decide(sample, threshold, {})
    assert (evidence_ratio(sample, limits_of(threshold)) > 1) == (
        verdict.status is Status.ANOMALOUS
    )


def test_find_continuing_accepts_the_tail_but_no_faults():
    """One nominal frame in ten lies beyond the present limit, and twelve faults far beyond that."""
    random = np.random.default_rng(2)
    frames = random.exponential(1 / np.log(10), 400)
    faults = random.uniform(6, 40, 12)
    doubtful = np.concatenate([frames[frames > 1], faults])
    accepted = find_continuing(frames[frames <= 1], doubtful)
    assert accepted[:-12].mean() > 0.9
    assert not accepted[-12:].any()


def test_find_continuing_without_doubtful_frames_is_empty():
    assert find_continuing(np.linspace(0, 1, 50), np.empty(0)).tolist() == []


SPREAD = np.linspace(0.01, 0.99, 99)  # nominal ratios
PRESENT = LimitSet(0.001, 10, {"bias_level": MetricLimit(warn=6, alarm=12)})


def test_tune_to_labels_scales_all_limits_to_the_best_f1():
    """Nine bad at 0.6 to 0.9 among the nominal would cost more than they bring; ten lie beyond."""
    bad = np.array([*np.linspace(1.5, 3, 10)])
    tuned = tune_to_labels(PRESENT, SPREAD * 1.4, bad, false_alarms=0.001)
    factor = tuned.limits.merge_height / 0.001
    assert 1.386 < factor < 1.5
    assert tuned.limits.residual == pytest.approx(10 * factor)
    assert tuned.limits.metrics["bias_level"].alarm == pytest.approx(12 * factor)
    assert tuned.limits.metrics["bias_level"].warn == pytest.approx(6 * factor)


def test_tune_to_labels_with_gross_faults_follows_the_granted_rate():
    nominal = np.random.default_rng(1).exponential(0.1, 500)
    for bad in (np.full(6, 50.0), np.full(6, np.inf)):
        tuned = tune_to_labels(PRESENT, nominal, bad, false_alarms=0.001)
        assert 0.5 < tuned.limits.merge_height / 0.001 < 1.2


def test_tune_to_labels_with_a_recall_gives_the_widest_limits():
    bad = np.array([0.7, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9])
    nominal = SPREAD / 2
    tuned = tune_to_labels(PRESENT, nominal, bad, false_alarms=1e-6, recall=0.9)
    assert 0.7 < tuned.limits.merge_height / 0.001 < 1.1
    all_found = tune_to_labels(PRESENT, nominal, bad, false_alarms=1e-6, recall=1)
    assert 0.5 < all_found.limits.merge_height / 0.001 < 0.7


def test_tune_to_labels_with_a_recall_within_the_noise_is_an_error():
    bad = np.array([0.1, 0.2, 0.3, 5, 6])
    message = (
        r"a recall of 0.9 would flag more than 5% of the nominal .* many are flagged, it is 0.40"
    )
    with pytest.raises(InseparableError, match=message):
        tune_to_labels(PRESENT, SPREAD, bad, false_alarms=0.001, recall=0.9)


def test_tune_to_labels_with_inseparable_frames_is_an_error():
    with pytest.raises(InseparableError, match="are not separated from nominal ones"):
        tune_to_labels(PRESENT, SPREAD, np.full(50, 0.1), false_alarms=0.001)


@settings(max_examples=60, deadline=None)
@given(st.integers(30, 200), st.integers(5, 60), st.integers(0, 10_000))
def test_tune_to_labels_flags_neither_all_nor_no_frames(n, b, seed):
    random = np.random.default_rng(seed)
    nominal, bad = random.exponential(size=n), random.exponential(random.uniform(0.2, 9), size=b)
    try:
        tuned = tune_to_labels(PRESENT, nominal, bad, false_alarms=0.001)
    except InseparableError:
        return
    cut = tuned.limits.merge_height / PRESENT.merge_height
    assert (nominal > cut).mean() < 0.2
    assert (bad > cut).any()


def test_expected_recall_is_out_of_bag():
    random = np.random.default_rng(3)
    nominal, bad = random.normal(1, 0.3, 200).clip(0.1), random.normal(2.5, 0.6, 30).clip(0.1)
    recall, precision = expected_of_labels(nominal, bad, false_alarms=0.001)
    for interval in (recall, precision):
        assert interval.low < interval.value < interval.high <= 1
    assert 0.7 < recall.value < 1
    assert recall.high - recall.low > 0.05


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"), [(0, 0, 0, 1), (5, 5, 0.62, 1), (0, 5, 0, 0.38), (1, 2, 0, 1)]
)
def test_share_interval_of_few_is_wide(part, whole, low, high):
    interval = share_interval(part, whole)
    assert interval.low == pytest.approx(low, abs=0.1)
    assert interval.high == pytest.approx(high, abs=0.1)
    assert interval.low <= interval.value <= interval.high


def test_precision_recall_goes_from_the_widest_cut_to_the_narrowest():
    cuts, precision, recall = precision_recall(np.array([1.0, 3.0]), np.array([2.0, 4.0]))
    assert cuts.tolist() == [4, 3, 2, 1, 0]
    assert recall.tolist() == [0, 0.5, 0.5, 1, 1]
    assert precision.tolist() == [1, 1, 0.5, pytest.approx(2 / 3), 0.5]
