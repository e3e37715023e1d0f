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
def model() -> ResidualMapModel:
    return learn_map_model(noise(seed) for seed in range(20))


FAULTS: dict[str, tuple[int, Any, float]] = {
    "a spot": (0, np.s_[40:43, 20:23], 12.0),
    "a dark spot": (0, np.s_[40:43, 20:23], -12.0),
    "a column": (1, np.s_[10:90, 33], 3.0),
    "a row": (2, np.s_[70, 5:95], 3.0),
    "a wide region": (0, np.s_[50:90, 50:90], 0.8),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_explain_marks_faults_of_all_shapes(model, fault):
    quantity, where, sigma = FAULTS[fault]
    maps = noise(100)
    maps[quantity][where] += sigma
    explanation = model.explain(maps)
    is_faulty = np.zeros(GRID, np.bool_)
    is_faulty[where] = True
    assert explanation.max() > 1
    assert is_faulty[find_peak_region(explanation).brightest]


def test_explain_of_good_frames_stays_below_limit(model):
    brightest = np.array([model.explain(noise(seed)).max() for seed in range(200, 220)])
    assert (brightest > 1).sum() <= 1  # two adjacent cosmic rays in one of twenty frames
    assert brightest.max() < 1.2


def test_explain_stays_below_limit_far_from_fault(model):
    maps = noise(101)
    maps[0, 40:43, 20:23] += 12
    far = model.explain(maps)
    far[20:64, :44] = 0
    assert far.max() < 1


def test_explain_scale_does_not_depend_on_frame(model):
    weak, strong = noise(102), noise(102)
    weak[0, 40:49, 20:29] += 3
    strong[0, 40:49, 20:29] += 6
    ratio = model.explain(strong).max() / model.explain(weak).max()
    assert ratio > 1.5


def test_explain_accepts_streaks_of_references():
    def streaked(seed: int) -> np.ndarray:
        maps = noise(seed)
        maps[0, :, seed % GRID[1]] += 3
        return maps

    streak = noise(103)
    streak[0, :, 50] += 3
    streaked_model = learn_map_model(streaked(seed) for seed in range(20))
    plain_model = learn_map_model(noise(seed) for seed in range(20))
    assert streaked_model.explain(streak).max() < 1 < plain_model.explain(streak).max()


def test_find_peak_region_returns_connected_blocks():
    explanation = np.full((10, 10), 0.5, np.float32)
    explanation[2:5, 3] = [2, 4, 2]
    explanation[8, 8] = 3  # another region
    region = find_peak_region(explanation)
    assert region.brightest == (3, 3)
    assert region.rows == (2, 4)
    assert region.columns == (3, 3)
    assert region.height == 4
    assert region.share == 0.04


def test_find_peak_region_of_dark_map_has_no_share():
    explanation = np.zeros((10, 10), np.float32)
    explanation[6, 7] = 0.8
    region = find_peak_region(explanation)
    assert region.brightest == (6, 7)
    assert region.rows == (6, 6)
    assert region.share == 0


def test_learn_map_model_rejects_missing_references():
    with pytest.raises(ValueError, match="at least one"):
        learn_map_model([])


def test_changed_blocks_marks_local_changes_only():
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
