from datetime import date
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qc.core.verdict import Evidence, Status
from qc.detection.decision import judge, widening
from qc.detection.thresholds import MetricLimit, Threshold
from qc.tuning.extreme_values import fit_tail, tail_quantile
from qc.tuning.fit import (
    LEAST,
    InseparableError,
    LimitSet,
    continuing,
    expected_of_labels,
    fit_limits,
    limits_of,
    metric_limits,
    precision_recall,
    ratio,
    share,
    tune_to_labels,
    tune_to_nominal,
)


def quantiles_of(distribution, n: int, false_alarms: float) -> float:
    """The median of the estimates from many samples: one sample's own luck is not the method's."""
    samples = distribution.rvs(size=(41, n), random_state=np.random.default_rng(1))
    return float(np.median([tail_quantile(sample, false_alarms) for sample in samples]))


@pytest.mark.parametrize("distribution", [stats.expon(), stats.norm(loc=10)])
@pytest.mark.parametrize("false_alarms", [0.01, 0.001])
def test_the_limit_lies_where_the_rate_granted_is_exceeded(distribution, false_alarms):
    found = quantiles_of(distribution, 1000, false_alarms)
    assert found == pytest.approx(distribution.isf(false_alarms), rel=0.07)


def test_a_bounded_tail_is_not_believed():
    found = quantiles_of(stats.uniform(), 200, 0.001)
    assert 1.0 < found < 1.6


def test_a_heavy_tail_is_capped():
    sample = np.concatenate([np.linspace(0, 1, 200), [1000.0]])
    assert tail_quantile(sample, 0.001) < 2000


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), st.floats(1e-5, 0.5), st.integers(0, 10_000))
def test_the_limit_is_never_the_smallest_score_and_grows_as_the_rate_shrinks(n, rate, seed):
    sample = np.random.default_rng(seed).exponential(size=n)
    limit = tail_quantile(sample, rate)
    assert np.isfinite(limit)
    assert limit > sample.min()
    assert tail_quantile(sample, rate / 2) >= limit


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 300), st.integers(0, 10_000))
def test_at_the_usual_rate_hardly_a_nominal_frame_is_flagged(n, seed):
    sample = np.random.default_rng(seed).exponential(size=n)
    assert np.mean(sample > tail_quantile(sample, 0.001)) <= 0.02


def test_equal_scores_give_that_score():
    assert tail_quantile(np.full(50, 0.25), 0.001) == 0.25


@pytest.mark.parametrize("sample", [[], [1.0]])
def test_a_sample_without_a_tail_is_refused(sample):
    with pytest.raises(
        ValueError, match=f"at least 2 nominal frames to set a limit, got {len(sample)}"
    ):
        tail_quantile(np.array(sample), 0.001)


@pytest.mark.parametrize("rate", [0.3, 0.05, 0.002])
def test_a_large_sample_speaks_for_itself_up_to_its_tail(rate):
    sample = np.random.default_rng(1).exponential(size=20_000)
    tail = fit_tail(sample)
    assert tail.share < 0.05
    limits = tail.limits(rate)
    assert limits.low < stats.expon.isf(rate) < limits.high
    assert limits.value == pytest.approx(stats.expon.isf(rate), rel=0.05)
    rates = tail.rates(limits.value)
    assert rates.value == pytest.approx(rate, rel=0.01)
    assert rates.low < rate < rates.high


def normal_scores(*names: str, n: int = 500, scale: float = 3.0) -> list[dict[str, float]]:
    values = np.random.default_rng(3).normal(0, scale, (n, len(names)))
    return [dict(zip(names, row, strict=True)) for row in values.tolist()]


def test_the_rate_granted_is_shared_by_the_metrics():
    scores = normal_scores("bias_level", "read_noise")
    alone = metric_limits([{"bias_level": one["bias_level"]} for one in scores], 0.005)
    shared = metric_limits(scores, 0.01)
    assert shared["bias_level"] == alone["bias_level"]


def test_limits_grow_with_the_scatter_of_nominal_frames():
    limits = metric_limits(normal_scores("bias_level", n=20_000), 0.001)
    assert limits["bias_level"].alarm == pytest.approx(3 * stats.norm.isf(0.0005), rel=0.15)
    assert limits["bias_level"].warn == pytest.approx(0.6 * limits["bias_level"].alarm, abs=0.06)


def test_a_metric_that_hardly_moved_still_alarms_at_six_sigma_only():
    assert metric_limits(normal_scores("bias_level", scale=0.1), 0.001)["bias_level"].alarm == 6


def test_a_metric_that_few_frames_have_gets_no_limit():
    scores = normal_scores("bias_level", n=10) + [{"read_noise": 1.0}] * 4
    assert list(metric_limits(scores, 0.001)) == ["bias_level"]


def test_no_frames_give_no_limits():
    assert metric_limits([], 0.001) == {}


def test_a_count_that_is_mostly_the_same_keeps_a_limit_near_what_was_seen():
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
def test_from_a_hundred_frames_the_rate_on_two_thousand_new_ones_is_within_what_is_stated(
    distribution, granted
):
    """Twenty histories; decision 0036 has the figures of more."""
    random = np.random.default_rng(7)
    kept, rates = 0, []
    for _ in range(20):
        tuned = tune_to_nominal(nominal_evidence(distribution, 100, random), granted)
        new = nominal_evidence(distribution, 2000, random)
        rates.append(float(np.mean([ratio(one, tuned.limits) > 1 for one in new])))
        kept += tuned.false_alarms.low <= rates[-1] <= tuned.false_alarms.high
        assert tuned.false_alarms.high < 10 * granted
    assert kept >= 18
    assert np.mean(rates) < 2.5 * granted


def test_the_interval_narrows_as_frames_are_added():
    random = np.random.default_rng(1)
    few, many = (
        tune_to_nominal(nominal_evidence(stats.expon(), n, random), 0.01) for n in (60, 2000)
    )
    assert many.spread.high / many.spread.low < 0.6 * few.spread.high / few.spread.low
    assert many.false_alarms.high < few.false_alarms.high


def test_limits_from_small_references_are_those_of_ample_ones():
    """The judge widens them again."""
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
    assert ratio(few[7], limits) == pytest.approx(ratio(ample[7], expected))


def test_however_quiet_the_frames_no_limit_falls_below_the_least():
    tuned = tune_to_nominal([evidence(1e-9, 0.01, bias_level=0.01)] * 50, 0.001)
    assert tuned.limits.merge_height == LEAST.merge_height
    assert tuned.limits.residual == LEAST.residual
    assert tuned.limits.metrics["bias_level"].alarm == 6


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0, 2),
    st.floats(0, 2000),
    st.dictionaries(st.sampled_from(NAMES), st.floats(-50, 50)),
    st.integers(20, 300),
)
def test_a_ratio_beyond_one_is_what_the_judge_calls_an_anomaly(height, residual, z, references):
    one = evidence(height, residual, references, **z)
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
    verdict = judge(one, threshold, {})
    assert (ratio(one, limits_of(threshold)) > 1) == (verdict.status is Status.ANOMALOUS)


def test_a_tail_cut_off_by_a_limit_is_followed_and_faults_beyond_it_are_not():
    """One nominal frame in ten lies beyond the present limit, and twelve faults far beyond that."""
    random = np.random.default_rng(2)
    frames = random.exponential(1 / np.log(10), 400)
    faults = random.uniform(6, 40, 12)
    doubtful = np.concatenate([frames[frames > 1], faults])
    accepted = continuing(frames[frames <= 1], doubtful)
    assert accepted[:-12].mean() > 0.9
    assert not accepted[-12:].any()


def test_nothing_doubtful_is_nothing_accepted():
    assert continuing(np.linspace(0, 1, 50), np.empty(0)).tolist() == []


SPREAD = np.linspace(0.01, 0.99, 99)  # nominal ratios
PRESENT = LimitSet(0.001, 10, {"bias_level": MetricLimit(warn=6, alarm=12)})


def test_labels_scale_all_limits_to_the_best_f1():
    """Nine bad at 0.6 to 0.9 among the nominal would cost more than they bring; ten lie beyond."""
    bad = np.array([*np.linspace(1.5, 3, 10)])
    tuned = tune_to_labels(PRESENT, SPREAD * 1.4, bad, false_alarms=0.001)
    factor = tuned.limits.merge_height / 0.001
    assert 1.386 < factor < 1.5
    assert tuned.limits.residual == pytest.approx(10 * factor)
    assert tuned.limits.metrics["bias_level"].alarm == pytest.approx(12 * factor)
    assert tuned.limits.metrics["bias_level"].warn == pytest.approx(6 * factor)


def test_where_every_bad_frame_is_gross_the_rate_granted_decides():
    nominal = np.random.default_rng(1).exponential(0.1, 500)
    for bad in (np.full(6, 50.0), np.full(6, np.inf)):
        tuned = tune_to_labels(PRESENT, nominal, bad, false_alarms=0.001)
        assert 0.5 < tuned.limits.merge_height / 0.001 < 1.2


def test_the_widest_limits_that_keep_a_recall_lie_below_the_last_frame_needed():
    bad = np.array([0.7, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9])
    nominal = SPREAD / 2
    tuned = tune_to_labels(PRESENT, nominal, bad, false_alarms=1e-6, recall=0.9)
    assert 0.7 < tuned.limits.merge_height / 0.001 < 1.1
    all_found = tune_to_labels(PRESENT, nominal, bad, false_alarms=1e-6, recall=1)
    assert 0.5 < all_found.limits.merge_height / 0.001 < 0.7


def test_a_recall_within_the_noise_is_refused():
    bad = np.array([0.1, 0.2, 0.3, 5, 6])
    words = (
        r"a recall of 0.9 would flag more than 5% of the nominal .* many are flagged, it is 0.40"
    )
    with pytest.raises(InseparableError, match=words):
        tune_to_labels(PRESENT, SPREAD, bad, false_alarms=0.001, recall=0.9)


def test_bad_frames_that_look_like_good_ones_move_nothing():
    with pytest.raises(InseparableError, match="look no odder than nominal ones"):
        tune_to_labels(PRESENT, SPREAD, np.full(50, 0.1), false_alarms=0.001)


@settings(max_examples=60, deadline=None)
@given(st.integers(30, 200), st.integers(5, 60), st.integers(0, 10_000))
def test_whatever_the_labels_limits_flag_neither_everything_nor_nothing(n, b, seed):
    random = np.random.default_rng(seed)
    nominal, bad = random.exponential(size=n), random.exponential(random.uniform(0.2, 9), size=b)
    try:
        tuned = tune_to_labels(PRESENT, nominal, bad, false_alarms=0.001)
    except InseparableError:
        return
    cut = tuned.limits.merge_height / PRESENT.merge_height
    assert (nominal > cut).mean() < 0.2
    assert (bad > cut).any()


def test_recall_is_expected_of_frames_that_had_no_part_in_the_choice():
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
def test_a_share_of_few_may_be_nearly_anything(part, whole, low, high):
    found = share(part, whole)
    assert found.low == pytest.approx(low, abs=0.1)
    assert found.high == pytest.approx(high, abs=0.1)
    assert found.low <= found.value <= found.high


def test_the_curve_of_precision_and_recall_goes_from_the_widest_cut_to_the_narrowest():
    cuts, precision, recall = precision_recall(np.array([1.0, 3.0]), np.array([2.0, 4.0]))
    assert cuts.tolist() == [4, 3, 2, 1, 0]
    assert recall.tolist() == [0, 0.5, 0.5, 1, 1]
    assert precision.tolist() == [1, 1, 0.5, pytest.approx(2 / 3), 0.5]
