import math

import pytest
from scipy.stats import hypergeom

from qc.summaries.night import missed_count_bound


@pytest.mark.parametrize(("population", "sampled"), [(10, 1), (30, 20), (60, 40), (250, 40)])
def test_bound_matches_hypergeometric_distribution(population, sampled):
    bound = missed_count_bound(population, sampled)
    assert hypergeom.pmf(0, population, bound, sampled) >= 0.05
    assert hypergeom.pmf(0, population, bound + 1, sampled) < 0.05


def test_bound_of_large_population_is_rule_of_three():
    assert missed_count_bound(4000, 60) / 4000 == pytest.approx(1 - 0.05 ** (1 / 60), rel=0.02)
    assert math.isclose(1 - 0.05 ** (1 / 60), 0.049, abs_tol=0.0005)


def test_bound_of_complete_sample_is_zero():
    assert missed_count_bound(7, 7) == 0
    assert missed_count_bound(0, 0) == 0
