import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qc.tails import tail_quantile
from qc.tuning import metric_limits


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
