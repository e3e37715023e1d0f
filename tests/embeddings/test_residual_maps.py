from typing import Any

import numpy as np
import pytest

from benchmarks.explanation import changed_blocks
from embeddings.residual_maps import ResidualMapModel, find_peak_region, learn_map_model

GRID = (96, 96)


def noise(seed: int) -> np.ndarray:
    """Residual maps of a good frame: noise, and a few cosmic rays."""
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((3, *GRID)).astype(np.float32)
    hit = rng.integers(0, GRID[0], (5, 2))
    maps[:, hit[:, 0], hit[:, 1]] = 500
    return maps


@pytest.fixture(scope="module")
def explainer() -> ResidualMapModel:
    return learn_map_model(noise(seed) for seed in range(20))


FAULTS: dict[str, tuple[int, Any, float]] = {
    "a spot": (0, np.s_[40:43, 20:23], 12.0),
    "a dark spot": (0, np.s_[40:43, 20:23], -12.0),
    "a column": (1, np.s_[10:90, 33], 3.0),
    "a row": (2, np.s_[70, 5:95], 3.0),
    "a wide region": (0, np.s_[50:90, 50:90], 0.8),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_odd_shines_whatever_its_shape(explainer, fault):
    quantity, where, sigma = FAULTS[fault]
    maps = noise(100)
    maps[quantity][where] += sigma
    explanation = explainer.explain(maps)
    odd = np.zeros(GRID, np.bool_)
    odd[where] = True
    assert explanation.max() > 1
    assert odd[find_peak_region(explanation).brightest]


def test_good_frames_stay_dark_cosmic_rays_and_all(explainer):
    brightest = np.array([explainer.explain(noise(seed)).max() for seed in range(200, 220)])
    assert (brightest > 1).sum() <= 1  # two rays side by side, in a frame of twenty
    assert brightest.max() < 1.2


def test_a_fault_does_not_light_what_lies_far_from_it(explainer):
    maps = noise(101)
    maps[0, 40:43, 20:23] += 12
    far = explainer.explain(maps)
    far[20:64, :44] = 0
    assert far.max() < 1


def test_the_scale_is_that_of_good_frames_and_not_of_the_frame_itself(explainer):
    one, two = noise(102), noise(102)
    one[0, 40:49, 20:29] += 3
    two[0, 40:49, 20:29] += 6
    ratio = explainer.explain(two).max() / explainer.explain(one).max()
    assert ratio > 1.5


def test_a_setup_whose_good_frames_have_streaks_forgives_a_streak():
    def streaked(seed: int) -> np.ndarray:
        maps = noise(seed)
        maps[0, :, seed % GRID[1]] += 3
        return maps

    streak = noise(103)
    streak[0, :, 50] += 3
    used_to_it = learn_map_model(streaked(seed) for seed in range(20))
    never_seen = learn_map_model(noise(seed) for seed in range(20))
    assert used_to_it.explain(streak).max() < 1 < never_seen.explain(streak).max()


def test_a_place_is_what_hangs_together_around_the_brightest_block():
    explanation = np.full((10, 10), 0.5, np.float32)
    explanation[2:5, 3] = [2, 4, 2]
    explanation[8, 8] = 3  # another place
    place = find_peak_region(explanation)
    assert place.brightest == (3, 3)
    assert place.rows == (2, 4)
    assert place.columns == (3, 3)
    assert place.height == 4
    assert place.share == 0.04


def test_a_dark_map_has_a_place_too_but_no_share():
    explanation = np.zeros((10, 10), np.float32)
    explanation[6, 7] = 0.8
    place = find_peak_region(explanation)
    assert place.brightest == (6, 7)
    assert place.rows == (6, 6)
    assert place.share == 0


def test_nothing_can_be_learnt_from_no_frame():
    with pytest.raises(ValueError, match="at least one"):
        learn_map_model([])


def test_a_fault_that_changes_a_corner_has_a_place_and_one_that_changes_all_has_none():
    healthy = np.random.default_rng(1).normal(200, 4, (448, 448)).round()
    cornered, everywhere, faint = healthy.copy(), healthy + 3, healthy.copy()
    cornered[:4, :6] += 50  # 2 x 3 blocks of 2 x 2 pixels
    faint[0, 0] += 0.1
    changed = changed_blocks(cornered, healthy)
    assert changed is not None
    assert changed.sum() == 6
    assert changed[:2, :3].all()
    assert changed_blocks(everywhere, healthy) is None
    assert changed_blocks(faint, healthy) is None  # less than its noise
