import numpy as np
import pytest

from embeddings.residual import (
    PATTERNS,
    Sensor,
    exposed_share,
    learn_expectation,
    pixels_per_block,
)

GRID = (64, 64)
PIXELS = np.full(GRID, 36, np.float32)  # a block is 6 x 6
EXPOSED = np.ones(GRID, np.float32)
LAMP = Sensor(PIXELS, EXPOSED, gain_e_per_adu=0.5, read_noise_adu=4.0, lit=True)
DARK = Sensor(PIXELS, EXPOSED, gain_e_per_adu=0.5, read_noise_adu=4.0, lit=False)
LIGHT = 2000 * (1.2 + np.sin(np.arange(64) / 3))[np.newaxis, :] * np.ones((64, 1))


def frames(rng, n, light=LIGHT, brightness=(1.0,)):
    """Block statistics of `n` frames with photon and read noise."""
    expected = light * np.resize(brightness, n)[:, np.newaxis, np.newaxis]
    noise = np.sqrt(expected / 0.5 + 4.0**2)
    mean = expected + rng.standard_normal(expected.shape) * noise / 6
    deviation = noise * (1 + rng.standard_normal(expected.shape) / np.sqrt(72))
    peak = expected + noise * (2.1 + 0.4 * rng.standard_normal(expected.shape))
    return np.stack([mean, deviation, peak], axis=-1).astype(np.float32)


@pytest.fixture(scope="module")
def lamp():
    rng = np.random.default_rng(1)
    return learn_expectation(frames(rng, 60, brightness=rng.uniform(0.2, 2.0, 60)), LAMP)


@pytest.mark.parametrize("brightness", [0.3, 1.0, 1.8])
def test_residual_score_of_good_frame_is_low_at_any_brightness(lamp, brightness):
    good = frames(np.random.default_rng(2), 20, brightness=(brightness,))
    assert np.median([lamp.residual(frame).score for frame in good]) < 8


def test_residual_locates_dark_spot_of_three_percent(lamp):
    frame = frames(np.random.default_rng(3), 1)[0]
    frame[40:44, 20:24, 0] *= 0.97
    residual = lamp.residual(frame)
    row, column = residual.place
    assert residual.score > 10
    assert residual.strongest.startswith("level")
    assert 38 <= row <= 45
    assert 18 <= column <= 25


def test_residual_finds_noisy_column_in_scatter(lamp):
    frame = frames(np.random.default_rng(4), 1)[0]
    frame[:, 10, 1] *= 1.3
    residual = lamp.residual(frame)
    assert residual.strongest.startswith("scatter")
    assert residual.place[1] == 10


def test_residual_of_unexposed_columns_ignores_brightness():
    rng = np.random.default_rng(9)
    light = LIGHT.copy()
    light[:, :2] = 0
    exposed = EXPOSED.copy()
    exposed[:, :2] = 0
    sensor = Sensor(PIXELS, exposed, gain_e_per_adu=0.5, read_noise_adu=4.0, lit=True)
    offset = np.array([3, 0, 3], np.float32) * (exposed == 0)[..., np.newaxis]
    short = learn_expectation(frames(rng, 60, light) + offset, sensor)
    long = frames(rng, 1, light, brightness=(2.0,))[0]
    assert short.residual(long + offset).score < 8
    assert short.residual(long + 2 * offset).score > 30


def test_brightness_of_arc_is_measured_on_lines():
    rng = np.random.default_rng(10)
    lines = np.where(np.arange(64) % 10 == 0, LIGHT, 0)
    lamp = learn_expectation(frames(rng, 60, lines, brightness=rng.uniform(0.5, 2, 60)), LAMP)
    for brightness in (0.6, 1.8):
        assert lamp.residual(frames(rng, 1, lines, brightness=(brightness,))[0]).score < 8


def test_residual_without_light_is_finite():
    rng = np.random.default_rng(11)
    dark = learn_expectation(frames(rng, 30, 0 * LIGHT), LAMP)
    assert np.isfinite(dark.residual(frames(rng, 1, 0 * LIGHT)[0]).score)


def test_residual_excludes_variation_of_references():
    """A tilt of half of the references is nominal; without it the tilt is a fault."""
    rng = np.random.default_rng(5)
    tilt = 1 + 0.05 * np.linspace(-1, 1, 64)[:, np.newaxis]
    steady = frames(rng, 60)
    tilting = np.concatenate([frames(rng, 30), frames(rng, 30, light=LIGHT * tilt)])
    tilted = frames(rng, 1, light=LIGHT * tilt)[0]
    assert learn_expectation(tilting, LAMP).residual(tilted).score < 8
    assert learn_expectation(steady, LAMP).residual(tilted).score > 30


def test_residual_excludes_large_drift_of_references():
    rng = np.random.default_rng(17)
    edges = np.zeros((64, 64), np.float32)
    edges[:, ::8] = 0.2 * LIGHT[:, ::8]  # 50 sigma of a block at an amplitude of 1

    def drifted(amplitudes):
        drifts = frames(rng, len(amplitudes))
        drifts[..., 0] += edges * np.array(amplitudes)[:, np.newaxis, np.newaxis]
        return drifts

    drifting = learn_expectation(drifted(rng.uniform(-0.3, 0.3, 40)), LAMP)
    new = drifted([0.5])[0]
    assert drifting.residual(new).score < 15
    new[40:44, 20:24, 0] *= 0.97
    assert 39 <= drifting.residual(new).place[0] <= 44


def test_residual_score_with_one_cosmic_ray_is_low():
    rng = np.random.default_rng(6)
    biases = frames(rng, 60, light=0 * LIGHT)
    biases[::2, 5, 5] += 300  # a cosmic ray in every second reference
    hit = frames(rng, 1, light=0 * LIGHT)[0]
    hit[30, 30] += 300
    assert learn_expectation(biases, DARK).residual(hit).score < 8


def test_pattern_scores_cover_all_patterns(lamp):
    residual = lamp.residual(frames(np.random.default_rng(7), 1)[0])
    assert tuple(residual.pattern_scores) == PATTERNS
    assert np.isfinite(list(residual.pattern_scores.values())).all()
    assert residual.maps.shape == (3, 64, 64)


def test_learn_expectation_rejects_single_reference():
    with pytest.raises(ValueError, match="at least 2 references, got 1"):
        learn_expectation(frames(np.random.default_rng(8), 1), LAMP)


def test_exposed_share_of_block_half_in_prescan_is_half():
    share = exposed_share((slice(0, 64), slice(9, 64)), (64, 64), (32, 32))
    assert share[0, :6].tolist() == [0, 0, 0, 0, 0.5, 1]


def test_pixels_per_block_sum_to_all_pixels():
    pixels = pixels_per_block((1500, 1074), (224, 224))
    assert pixels.sum() == 1500 * 1074
    assert pixels.max() <= 7 * 5
