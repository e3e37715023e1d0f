"""Training data of the encoder, and equivalence of the narrow network and ResNet-50."""

from dataclasses import replace
from datetime import date

import keras
import numpy as np
import pytest

from benchmarks.encoder.anomalies import Scene, spoil
from benchmarks.encoder.comparison import figures, merge_heights, stronger
from benchmarks.encoder.data import (
    VALIDATION_STREAMS,
    Images,
    Shot,
    join,
    load,
    observe,
    simulate,
    training_shots,
    validation_shots,
)
from benchmarks.encoder.network import calibrate, narrow_network, ranking_loss, write_resnet50
from benchmarks.encoder.training import GOOD, Deck, Recipe, train
from embeddings.encoder import ResNet50Encoder
from qc.simulator import ObservingPlan, make_case, plan_night

# Keras' TensorFlow backend copies variables the old way.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def _good(n: int, side: int = 64) -> Images:
    """Return good dark images of one setup: a level of 0 and a noise of 2 ADU."""
    rng = np.random.default_rng(5)
    level = rng.normal(0, 0.3, (n, side, side))
    light = np.stack([level, np.full_like(level, 2.0), level + 6], axis=-1).astype(np.float16)
    ones = np.ones(n, np.float32)
    names = np.full(n, "UBB0")
    return Images(
        light=light,
        zero_adu=0 * ones,
        promised_light=0 * ones,
        stretch_adu=10 * ones,
        gain_e_per_adu=ones,
        read_noise_adu=2 * ones,
        shape=np.full((n, 2), 640),
        exposed=np.tile([0, 640, 0, 640], (n, 1)),
        image_type=names,
        setup=names,
        part=np.full(n, "reference"),
        fault=np.full(n, ""),
        strength=np.full(n, ""),
    )


def test_write_resnet50_is_equivalent_to_narrow_network(tmp_path):
    rng = np.random.default_rng(1)
    network = narrow_network(seed=1)
    calibrate(network, rng.normal(0, 20, (2, 64, 64, 3)).astype(np.float32))
    path = tmp_path / "narrow.weights.h5"
    write_resnet50(network, path)
    inputs = rng.normal(0, 20, (1, 224, 224, 3)).astype(np.float32)
    pooled = network.predict_on_batch(inputs)
    expected = pooled / np.linalg.norm(pooled)
    # float16 weights: three digits, of numbers around 0.02
    np.testing.assert_allclose(ResNet50Encoder(str(path)).embed(inputs), expected, atol=5e-4)
    assert path.stat().st_size < 10e6


def test_calibrate_gives_zero_mean_and_unit_scatter():
    network = narrow_network(seed=1)
    inputs = np.random.default_rng(2).normal(3, 20, (2, 64, 64, 3)).astype(np.float32)
    calibrate(network, inputs)
    last = network.get_layer("conv5_block1_3_conv").output
    activations = keras.Model(network.input, last).predict_on_batch(inputs)
    np.testing.assert_allclose(activations.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(activations.std(axis=(0, 1, 2)), 1, atol=1e-2)


@pytest.mark.parametrize(("away", "least", "most"), [(0.0, 1.2, 1.5), (30.0, 0.0, 0.05)])
def test_ranking_loss_falls_with_distance_of_anomalies(away, least, most):
    rng = np.random.default_rng(3)
    embeddings = 10 + rng.normal(size=(2 * GOOD, 64)).astype(np.float32)
    embeddings[GOOD:] += away * np.sign(rng.normal(size=64)).astype(np.float32)
    loss = float(ranking_loss(margin=1.0, good=GOOD)(None, keras.ops.array(embeddings)))
    assert least < loss < most  # softplus(1) = 1.31 without any difference, up to noise


def test_spoil_changes_image_to_finite_values():
    light = _good(2).light.astype(np.float32) + 100
    sigma = np.full(light.shape[1:3], 10.0, np.float32)
    for lit in (False, True):
        scene = Scene(light[0], light[1], sigma, pixels=50, lit=lit)
        for seed in range(100):
            changed = spoil(scene, np.random.default_rng(seed))
            assert changed.dtype == np.float32
            assert np.isfinite(changed).all()
            assert not np.array_equal(changed, light[0])


def test_group_has_four_good_images_and_their_anomalies():
    images = _good(8)
    group = Deck(images).groups(1, 64, np.random.default_rng(0))
    everything = [images.network_input(index) for index in range(8)]
    is_good = [any(np.array_equal(image, good) for good in everything) for image in group]
    assert is_good == [True] * GOOD + [False] * GOOD


def test_group_skips_setup_with_few_images():
    few = replace(_good(3), setup=np.full(3, "other"), light=_good(3).light + np.float16(500))
    group = Deck(join([_good(6), few])).groups(4, 64, np.random.default_rng(0))
    assert group.reshape(4, 2, GOOD, -1)[:, 0].max() < 100  # 500 ADU would be 230


def test_resumed_training_equals_uninterrupted_training(tmp_path):
    images, recipe = _good(6, side=32), Recipe(steps=2, groups=1, crop=32)
    uninterrupted = train(images, recipe, tmp_path / "uninterrupted")
    train(images, recipe, tmp_path / "resumed", stop_after=1)
    resumed = train(images, recipe, tmp_path / "resumed")
    for first, second in zip(uninterrupted.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def test_faults_are_in_validation_only():
    assert all(shot.case is None for shots in training_shots(1) for shot in shots)
    stream, *_ = (shots for shots in validation_shots(2, 1))
    good = [shot.part for shot in stream if shot.case is None]
    assert good == ["reference"] * 4 + ["test"] * 2
    kinds = {shot.case.kind for shot in stream if shot.case is not None}
    assert {"bias_jump", "hot_pixels", "pattern_noise"} <= kinds
    assert "dead_output" not in kinds  # the reader refuses it


def test_simulated_images_equal_observed_images(tmp_path):
    (bias, *_) = plan_night(ObservingPlan(VALIDATION_STREAMS[:1]), date(2025, 3, 1), 33)
    rng = np.random.default_rng(0)
    shots = [[Shot(bias, 33), Shot(bias, 33, make_case(bias, "bias_jump", "gross", rng))]]
    simulate(shots, tmp_path, 0)
    good, bad = (load(tmp_path).only(np.array([index])) for index in (0, 1))
    assert list(good.image_type) == ["UBB0"]
    assert good.light.shape == (1, 224, 224, 3)
    assert abs(good.zero_adu[0]) < 5
    assert list(bad.fault) == ["bias_jump"]
    moved = bad.light[..., 0].mean() - good.light[..., 0].mean()
    assert abs(moved) == pytest.approx(15 * good.read_noise_adu[0], rel=0.1)  # up or down
    [again] = observe(shots[0][0])
    np.testing.assert_array_equal(again.light, good.light)


def test_figures_of_perfect_and_of_constant_score():
    tests = replace(_good(4), part=np.full(4, "test"), fault=np.array(["", "", "dust", "frost"]))
    perfect, blind = np.array([1.0, 2, 9, 9]), np.full(4, 3.0)
    assert figures(tests, perfect).by_type == {"UBB0": 1.0}
    assert figures(tests, perfect).by_limit["1 x"] == 1.0
    assert figures(tests, perfect).by_limit["3 x"] == 1.0  # 9 is 4.5 times the limit
    assert figures(tests, blind).by_kind == {"dust": 0.5, "frost": 0.5}
    np.testing.assert_allclose(stronger(tests, [perfect, blind])[2:], 9 / 1.99)


def test_merge_heights_separate_distant_embedding():
    images = replace(_good(5), part=np.array(["reference"] * 3 + ["test"] * 2))
    embeddings = np.eye(4, dtype=np.float32)[[0, 0, 0, 0, 1]]
    assert merge_heights(images, embeddings) == pytest.approx([0, 0, 0, 0, 1], abs=1e-9)
