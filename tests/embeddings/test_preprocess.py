import numpy as np
import pytest
from astropy.visualization import ZScaleInterval
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embeddings.preprocess import (
    GRID,
    STRETCHES,
    appearance,
    asinh,
    block_statistics,
    minmax,
    physical,
    scale_to_standard_light,
    zscale,
)

PER_FRAME = [minmax, zscale, asinh]


def naive_statistics(image: NDArray[np.generic], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Block by block, in double precision."""
    edges = [
        np.rint(np.arange(n + 1) * (size / n)).astype(int)
        for n, size in zip(grid, image.shape, strict=True)
    ]
    out = np.empty((*grid, 3))
    for i in range(grid[0]):
        for j in range(grid[1]):
            rows, columns = (slice(*edge[k : k + 2]) for edge, k in zip(edges, (i, j), strict=True))
            block = image[rows, columns].astype(np.float64)
            out[i, j] = block.mean(), block.std(), block.max()
    return out


def statistics_of(mean: float, std: float = 3.0, peak: float = 10.0) -> NDArray[np.float32]:
    """A small map of blocks around a level, one of them brighter."""
    blocks = np.random.default_rng(1).normal(mean, std, (8, 9))
    blocks[2, 3] += 50
    return np.stack([blocks, np.full((8, 9), std), blocks + peak], axis=-1).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 7)),
    st.tuples(st.integers(0, 20), st.integers(0, 20)),
    st.sampled_from([np.uint16, np.float32]),
    st.integers(0, 2**32 - 1),
)
def test_block_statistics_match_naive_computation(grid, extra, dtype, seed):
    shape = (grid[0] + extra[0], grid[1] + extra[1])
    image = np.random.default_rng(seed).uniform(1000, 1300, shape).astype(dtype)
    expected = naive_statistics(image, grid)
    assert block_statistics(image, grid) == pytest.approx(expected, rel=1e-4, abs=0.1)


def test_block_statistics_match_manual_values():
    image = np.array([[1, 3, 10, 10], [1, 3, 10, 14]], np.uint16)
    assert block_statistics(image, (1, 2)).tolist() == [
        [[2, 1, 3], [11, pytest.approx(3**0.5), 14]]
    ]


def test_block_statistics_keep_digits_of_noise_at_high_level():
    image = np.random.default_rng(2).normal(60_000, 2, (448, 448)).astype(np.float32)
    expected = naive_statistics(image, (2, 2))
    assert block_statistics(image, (2, 2))[..., 1] == pytest.approx(expected[..., 1], rel=1e-3)


def test_block_statistics_contain_single_hot_pixel():
    image = np.zeros((500, 301), np.uint16)
    image[499, 300] = 40_000
    statistics = block_statistics(image)
    assert statistics.shape == (*GRID, 3)
    assert statistics.dtype == np.float32
    assert np.argwhere(statistics[..., 2]).tolist() == [[223, 223]]
    assert statistics[223, 223, 2] == 40_000


@pytest.mark.parametrize("shape", [(223, 224), (224, 223), (224,), (224, 224, 1), (0, 0)])
def test_block_statistics_reject_small_or_non_2d_arrays(shape):
    with pytest.raises(ValueError, match="need a 2-D image of at least 224 x 224 pixels, got"):
        block_statistics(np.zeros(shape))


def test_physical_keeps_shift_of_level():
    low, high = (physical(statistics_of(level), 100, 10) for level in (100, 120))
    assert np.all(high[..., 0] - low[..., 0] > 10)
    assert np.array_equal(low[..., 1], high[..., 1])  # the noise is the same


def test_physical_is_linear_below_scale_and_logarithmic_beyond():
    levels = np.array([0, 0.1, 1000, 1000 * np.e])
    statistics = np.repeat(levels.astype(np.float32)[:, np.newaxis, np.newaxis], 3, axis=-1)
    mean = physical(statistics, 0, 1)[:, 0, 0]
    assert mean[:2] == pytest.approx([0, 5], abs=0.01)  # 50 units for each scale
    assert mean[3] - mean[2] == pytest.approx(50, rel=1e-4)  # 50 units for each factor of e


@pytest.mark.parametrize("stretch", PER_FRAME)
def test_stretch_by_frame_hides_shift_of_level(stretch):
    low, high = (stretch(statistics_of(level), 100, 10) for level in (128, 256))
    assert low == pytest.approx(high, abs=1)


@pytest.mark.parametrize("name", STRETCHES)
def test_stretch_accepts_single_map_and_stack(name):
    maps = [statistics_of(100), statistics_of(200)]
    together = STRETCHES[name](np.stack(maps), 100, 10)
    separate = [STRETCHES[name](single, 100, 10) for single in maps]
    assert together.dtype == np.float32
    assert np.array_equal(together, np.stack(separate))


@pytest.mark.parametrize("name", STRETCHES)
def test_stretch_of_constant_image_is_finite(name):
    assert np.isfinite(STRETCHES[name](np.full((8, 9, 3), 100, np.float32), 100, 10)).all()


def test_minmax_has_256_levels():
    stretched = minmax(statistics_of(100), 0, 1)
    assert (stretched.min(), stretched.max()) == (-127.5, 127.5)
    assert np.array_equal(stretched + 127.5, np.round(stretched + 127.5))


def test_zscale_matches_astropy_on_smooth_ramp():
    mean = np.linspace(0, 1000, 60 * 50, dtype=np.float32).reshape(60, 50)
    mean[0, 0] = 50_000  # an outlier that zscale ignores
    low, high = ZScaleInterval(n_samples=3000).get_limits(mean)
    expected = np.clip((mean - low) / (high - low), 0, 1) * 255 - 127.5
    stretched = zscale(np.repeat(mean[..., np.newaxis], 3, axis=-1), 0, 1)[..., 0]
    assert stretched == pytest.approx(expected, abs=5)  # of 255: the fits differ a little


def test_scale_to_standard_light_removes_exposure_time():
    zero, lamp = 100, np.random.default_rng(3).uniform(0, 5000, (448, 448))
    once, twice = (block_statistics(zero + times * lamp) for times in (1, 2))
    standard = scale_to_standard_light(twice, zero, 2.0)
    assert np.allclose(standard, scale_to_standard_light(once, zero, 1.0), rtol=1e-4)
    assert np.allclose(standard, once, rtol=1e-4)


def test_scale_to_standard_light_keeps_lack_of_light():
    statistics = np.full((2, 2, 3), 600, np.float32)
    assert scale_to_standard_light(statistics, 100, 2.0)[0, 0].tolist() == [350, 300, 350]


def test_scale_to_standard_light_without_lamp_changes_nothing():
    statistics = statistics_of(100)
    assert scale_to_standard_light(statistics, 100, 0) is statistics


def test_appearance_matches_manual_values():
    statistics = np.zeros((50, 40, 3), np.float32)
    statistics[..., 0] = 210 + np.arange(50)[:, np.newaxis]  # a ramp of 1 ADU from row to row
    statistics[..., 1] = 4
    statistics[..., 2] = 300
    numbers = appearance(statistics, 210)
    assert numbers["level 50 %"] == pytest.approx(24)  # of every second row
    assert numbers["scatter 99 %"] == 4
    assert numbers["peak 1 %"] == 90
    assert numbers["change along y"] == pytest.approx(1)
    assert numbers["change along x"] == 0
