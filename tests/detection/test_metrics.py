import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from qc.core.frame import Detector, Extension, Setup
from qc.detection.metrics import METRICS, Pixels, measure, robust_z, z_scores

NY, NX, MARGIN = 256, 200, 20  # rows, columns, columns of prescan and of overscan
LIGHT = slice(MARGIN, NX - MARGIN)
BIAS_ADU, NOISE_ADU, GAIN = 200, 2.6, 1.5
PARTS = ("sine", "cosine")
DETECTOR = Detector(
    gain_e_per_adu=GAIN, read_noise_adu=NOISE_ADU, bias_adu=BIAS_ADU, saturation_adu=65000
)


def extension(pixels: Pixels, *, promised_light: float = 0.0, overscan: bool = True) -> Extension:
    everywhere, right = slice(None), slice(NX - MARGIN, NX)
    return Extension(
        number=0,
        setup=Setup("UBB0", "BLUE", "1x1", "225kHz low"),
        pixels=pixels,
        light=(everywhere, LIGHT),
        prescan=(everywhere, slice(0, MARGIN)) if overscan else None,
        overscan=(everywhere, right) if overscan else None,
        detector=DETECTOR,
        promised_light=promised_light,
        stretch_adu=10.0,
    )


def constant(level: int = BIAS_ADU) -> NDArray[np.uint16]:
    return np.full((NY, NX), level, np.uint16)


def noisy(signal: ArrayLike = 0.0) -> NDArray[np.uint16]:
    """A bias of the promised level and noise; `signal` is added before the converter rounds."""
    rng = np.random.default_rng(0)
    adu = BIAS_ADU + np.asarray(signal) + rng.normal(0, NOISE_ADU, (NY, NX))
    return np.clip(np.rint(adu), 0, 65535).astype(np.uint16)


def lit(adu: ArrayLike) -> NDArray[np.uint16]:
    """A noiseless frame with `adu`, (NY, light columns) or a scalar, above the bias level."""
    pixels = constant()
    pixels[:, LIGHT] += np.broadcast_to(np.rint(adu), pixels[:, LIGHT].shape).astype(np.uint16)
    return pixels


def stripes(*, period_px: float = 20.0, shift_px: float = 0.0) -> NDArray[np.float64]:
    """Orders along the columns: a sine across them, 0 to 1000 ADU."""
    x = np.arange(NX - 2 * MARGIN) - shift_px
    adu: NDArray[np.float64] = 500 * (1 + np.sin(2 * np.pi * x / period_px))
    return adu


def emission(*, fwhm_px: float = 3.0, shift_px: float = 0.0) -> NDArray[np.float64]:
    """Spectral lines of 1000 ADU across all columns, 25 px apart."""
    away = (np.arange(NY) - shift_px + 0.3) % 25 - 12.5
    profile: NDArray[np.float64] = 1000 * np.exp(-4 * np.log(2) * (away / fwhm_px) ** 2)
    return profile[:, np.newaxis]


def moved_by(still: dict[str, float], moved: dict[str, float], phase: str) -> float:
    sine, cosine = (moved[f"{phase}_{part}"] - still[f"{phase}_{part}"] for part in PARTS)
    return float(np.hypot(sine, cosine))


def test_a_constant_frame_has_its_level_and_no_noise():
    values = measure(extension(constant(203)))
    assert values["bias_level"] == 203
    for name in ("read_noise", "overscan_ramp", "prescan_minus_overscan", "light_level"):
        assert values[name] == pytest.approx(0, abs=1e-9)
    assert values["distinct_values"] == 1


def test_level_and_noise_are_known_to_a_fraction_of_an_adu():
    values = measure(extension(noisy(signal=0.3)))
    assert values["bias_level"] == pytest.approx(200.3, abs=0.1)
    assert values["read_noise"] == pytest.approx(np.hypot(2.6, 12**-0.5), rel=0.03)
    assert values["light_noise"] == pytest.approx(values["read_noise"], rel=0.03)


def test_the_level_is_not_moved_by_a_cosmic_ray_in_the_overscan():
    clean, struck = noisy(), noisy()
    struck[100:103, -5] = 40000
    before, after = measure(extension(clean)), measure(extension(struck))
    assert after["bias_level"] == pytest.approx(before["bias_level"], abs=0.01)
    assert after["read_noise"] == pytest.approx(before["read_noise"], abs=0.01)


def test_a_ramp_is_a_ramp_and_not_noise():
    ramp = np.linspace(0, 16, NY)[:, np.newaxis]
    values = measure(extension(noisy(signal=ramp)))
    assert values["overscan_ramp"] == pytest.approx(16, abs=0.5)
    assert values["gradient_y"] == pytest.approx(16, abs=0.5)
    assert values["gradient_x"] == pytest.approx(0, abs=0.5)
    assert values["read_noise"] == pytest.approx(2.6, abs=0.1)


def test_a_leak_from_one_side_is_a_gradient_along_x():
    values = measure(extension(lit(np.linspace(0, 32, NX - 2 * MARGIN))))
    assert values["gradient_x"] == pytest.approx(32, abs=1.5)
    assert values["light_level"] == pytest.approx(16, abs=0.5)


def test_an_overscan_beyond_any_whole_number_has_a_level():
    pixels = noisy().astype(np.float32)
    pixels[:, NX - MARGIN :] = 1e11
    assert measure(extension(pixels))["bias_level"] == np.float32(1e11)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the mean of nothing
def test_an_overscan_of_one_column_has_no_neighbours_to_tell_the_noise_by():
    one = replace(extension(noisy()), prescan=None, overscan=(slice(None), slice(NX - 1, NX)))
    values = measure(one)
    assert values["bias_level"] == pytest.approx(BIAS_ADU, abs=1)
    assert "read_noise" not in values


def test_the_prescan_is_held_against_the_overscan():
    pixels = constant()
    pixels[:, :MARGIN] += 3
    assert measure(extension(pixels))["prescan_minus_overscan"] == 3


def test_without_overscan_nothing_is_said_of_it():
    values = measure(extension(constant(210), overscan=False))
    told = {"bias_level", "read_noise", "overscan_ramp", "prescan_minus_overscan"}
    assert not told & values.keys()
    assert values["light_level"] == 10  # above what the instrument file promises


@pytest.mark.parametrize(("given", "dex"), [(1000, 0), (100, -1), (10000, 1)])
def test_the_lamp_is_held_against_what_the_header_promises(given, dex):
    promised = measure(extension(lit(1000), promised_light=1.0))["light_ratio"]
    found = measure(extension(lit(given), promised_light=1.0))["light_ratio"]
    assert found - promised == pytest.approx(dex, abs=1e-4)
    twice = measure(extension(lit(2 * given), promised_light=2.0))["light_ratio"]
    assert twice == pytest.approx(found, abs=1e-4)


def test_a_lamp_that_failed_is_measured_as_a_lamp():
    values = measure(extension(constant(), promised_light=1.0))
    assert values["light_ratio"] == pytest.approx(-1)  # the faintest light that is told apart
    assert values["line_count"] == 0
    assert "gradient_y" not in values


def test_saturated_dead_and_hot_pixels_are_counted():
    pixels = noisy()
    pixels[10:20, 50] = 65535  # ten in a column: saturated, and two ends that are not alone
    pixels[30, 60:65] = 0
    pixels[200, 100] = 900
    values = measure(extension(pixels))
    light_pixels = NY * (NX - 2 * MARGIN)
    assert values["saturated_fraction"] == 10 / light_pixels
    assert values["dead_fraction"] == 5 / (NY * NX)
    assert values["hot_fraction"] == 1 / light_pixels


def test_hot_pixels_close_together_are_a_cluster_and_a_trail_is_one():
    pixels = noisy()
    for y, x in ((100, 60), (107, 66), (106, 60), (104, 70), (200, 100)):
        pixels[y, x] = 900
    for step in range(12):
        pixels[220 + step, 90 + step] = 900  # a trail: only its ends might be alone
    assert measure(extension(pixels))["hot_cluster"] == 4


def test_what_a_grazing_ray_leaves_along_a_line_is_no_cluster():
    pixels = noisy()
    for step in range(7):
        pixels[100 + 2 * step, 60 + step] = 900  # each alone: none touches the next
    assert measure(extension(pixels))["hot_cluster"] == 2


def test_no_hot_pixel_is_no_cluster():
    assert measure(extension(noisy()))["hot_cluster"] == 0


def test_a_frame_of_zeros_is_dead():
    assert measure(extension(constant(0)))["dead_fraction"] == 1


def test_one_hot_column_stands_off_by_its_height():
    pixels = constant()
    pixels[:, 77] += 50
    values = measure(extension(pixels))
    assert values["column_defect"] == 50
    assert values["defective_columns"] == 1


def test_a_column_hot_over_a_quarter_of_its_length_is_found():
    pixels = noisy()
    pixels[: NY // 4, 77] += 50
    values = measure(extension(pixels))
    assert values["column_defect"] == pytest.approx(50, abs=4)
    assert values["defective_columns"] == 1


def test_one_cosmic_ray_is_no_column():
    pixels = noisy()
    pixels[99, 77] = 60000
    assert measure(extension(pixels))["defective_columns"] == 0


def test_two_cosmic_rays_along_one_column_are_no_column():
    once = measure(extension(noisy()))["column_defect"]
    pixels = noisy()
    for chunk_edge in (NY // 64 * 18, NY // 64 * 50):  # each in two of a band's four chunks
        pixels[chunk_edge - 2 : chunk_edge + 2, 90] += 5000
    assert measure(extension(pixels))["column_defect"] < once + 5


def test_a_hot_column_is_found_between_tilted_orders():
    y, x = np.mgrid[:NY, : NX - 2 * MARGIN]
    pixels = lit(500 * (1 + np.sin(2 * np.pi * (x - 60 * y / NY) / 40)))
    before = measure(extension(pixels, promised_light=1.0))["column_contrast"]
    pixels[:, 77] += 300
    after = measure(extension(pixels, promised_light=1.0))["column_contrast"]
    assert after - before == pytest.approx(300 / 500, rel=0.1)  # 500 ADU is the mean light


def test_stripes_are_structure_of_their_own_axis():
    pixels = constant()
    pixels[::2] += 2  # a standard deviation of 1
    values = measure(extension(pixels))
    assert values["row_structure"] == pytest.approx(1)
    assert values["column_structure"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("period_px", [2.1 * NX, 1.7 * NX, 37.3])
@pytest.mark.parametrize("promised_light", [0.0, 1.0])
def test_pick_up_has_the_amplitude_that_was_put_in(period_px, promised_light):
    readout = np.arange(NY * NX).reshape(NY, NX)  # rows are clocked out one after another
    pick_up = 5 * np.sin(2 * np.pi * readout / period_px + 1)
    values = measure(extension(noisy(signal=pick_up), promised_light=promised_light))
    assert values["pattern_noise"] == pytest.approx(5, rel=0.1)


def test_noise_and_fixed_columns_are_no_pick_up():
    pixels = noisy()
    pixels[:, 50:60] += 8
    assert measure(extension(pixels))["pattern_noise"] < 0.3


def test_order_contrast_is_that_of_light_and_gap():
    profile = np.where(np.arange(NX - 2 * MARGIN) // 10 % 2, 300, 100)
    values = measure(extension(lit(profile), promised_light=1.0))
    assert values["order_contrast"] == pytest.approx(0.5)  # (300 - 100) / (300 + 100)


def test_the_spacing_of_the_orders_is_found():
    values = measure(extension(lit(stripes(period_px=16)), promised_light=1.0))
    assert values["order_spacing"] == pytest.approx(16, abs=0.3)


@pytest.mark.parametrize("shift_px", [0.5, 2.0])
def test_the_phase_moves_as_far_as_the_orders(shift_px):
    still = measure(extension(lit(stripes()), promised_light=1.0))
    moved = measure(extension(lit(stripes(shift_px=shift_px)), promised_light=1.0))
    assert moved_by(still, moved, "order_phase") == pytest.approx(shift_px, rel=0.1)


def test_the_phase_does_not_depend_on_the_exposure():
    short = measure(extension(lit(stripes()), promised_light=1.0))
    long = measure(extension(lit(10 * stripes()), promised_light=10.0))
    for part in ("order_phase_sine", "order_phase_cosine"):
        assert long[part] == pytest.approx(short[part], abs=0.05)


@pytest.mark.parametrize("fwhm_px", [2.5, 3.5])
def test_lines_are_counted_and_their_width_measured(fwhm_px):
    values = measure(extension(lit(emission(fwhm_px=fwhm_px)), promised_light=1.0))
    lines, columns = 10, 53  # every third of 160 columns; the first and last foot must fit
    assert values["line_count"] == lines * columns
    assert values["line_width"] == pytest.approx(fwhm_px, abs=0.1)
    assert values["line_brightness"] == pytest.approx(3, abs=0.03)  # 1000 ADU


def test_a_flat_has_no_lines():
    values = measure(extension(noisy(signal=lit(stripes())), promised_light=1.0))
    assert values["line_count"] == 0
    assert "line_width" not in values


def test_the_phase_moves_as_far_as_the_lines():
    still = measure(extension(lit(emission()), promised_light=1.0))
    moved = measure(extension(lit(emission(shift_px=0.5)), promised_light=1.0))
    assert moved_by(still, moved, "line_phase") == pytest.approx(0.5, rel=0.2)


def test_a_blurred_frame_is_less_sharp():
    sharp = measure(extension(lit(emission(fwhm_px=2.5)), promised_light=1.0))
    blurred = measure(extension(lit(emission(fwhm_px=5)), promised_light=1.0))
    assert sharp["sharpness_y"] > 1.5 * blurred["sharpness_y"]
    narrow = measure(extension(lit(stripes(period_px=10)), promised_light=1.0))
    wide = measure(extension(lit(stripes(period_px=20)), promised_light=1.0))
    assert narrow["sharpness_x"] > 1.5 * wide["sharpness_x"]


def test_the_halves_are_compared():
    adu = np.full((NY, NX - 2 * MARGIN), 100.0)
    adu[: NY // 2] = 1000
    values = measure(extension(lit(adu), promised_light=1.0))
    assert values["bottom_top_ratio"] == pytest.approx(1, abs=1e-3)
    assert values["left_right_ratio"] == pytest.approx(0, abs=1e-3)


def test_rows_after_a_torn_exposure_are_unlit():
    adu = np.full((NY, NX - 2 * MARGIN), 1000.0)
    adu[192:] = 0
    assert measure(extension(lit(adu), promised_light=1.0))["unlit_rows"] == 0.25


def test_rows_that_copy_others_are_found():
    pixels = noisy()
    assert measure(extension(pixels))["repeated_rows"] == 0
    pixels[128:160] = pixels[:32]
    assert measure(extension(pixels))["repeated_rows"] == 32 / NY


def test_a_stuck_lowest_bit_is_never_set_by_chance():
    assert measure(extension(noisy()))["bit_balance"] < 0.02
    assert measure(extension(noisy() & np.uint16(0xFFFE)))["bit_balance"] == 0.5


def test_floats_are_measured_like_integers():
    integers = measure(extension(noisy()))
    floats = measure(extension(noisy().astype(np.float32)))
    assert integers.keys() - floats.keys() == {"distinct_values", "bit_balance"}
    assert floats == {name: integers[name] for name in floats}


@pytest.mark.parametrize("promised_light", [0.0, 1.0])
@pytest.mark.parametrize("level", [0, 200, 65535])
def test_every_value_is_finite_and_described(level, promised_light):
    values = measure(extension(constant(level), promised_light=promised_light))
    assert values.keys() <= METRICS.keys()
    assert np.isfinite(list(values.values())).all()


def test_every_metric_is_measured_on_some_frame():
    bias = measure(extension(noisy()))
    arc = measure(extension(lit(emission()), promised_light=1.0))
    flat = measure(extension(lit(stripes()), promised_light=1.0))
    assert (bias | arc | flat).keys() == METRICS.keys()


def test_a_value_is_shown_with_its_unit():
    assert METRICS["bias_level"].show(203.4149) == "203.41 ADU"
    assert METRICS["order_contrast"].show(0.98765) == "0.988"


def test_a_full_chip_is_measured_in_a_fraction_of_a_second():
    rng = np.random.default_rng(3)
    pixels = rng.integers(193, 208, (4096, 2148), np.uint16)
    started = time.process_time()
    measure(extension(pixels))
    assert time.process_time() - started < 0.5  # 0.06 s when nothing else runs


def test_z_counts_robust_standard_deviations():
    reference = np.random.default_rng(1).normal(100, 2, 2000)
    assert robust_z(110, reference, floor=0.01) == pytest.approx(5, rel=0.1)
    reference[:200] = 1e6
    assert robust_z(110, reference, floor=0.01) == pytest.approx(5, rel=0.2)


def test_equal_references_do_not_make_z_explode():
    reference = np.full(99, 200.0)
    assert robust_z(200.5, reference, floor=0.05) == pytest.approx(10, rel=0.01)


def test_few_references_make_z_cautious():
    rng = np.random.default_rng(2)
    trials = rng.normal(size=(4000, 6))
    z = [robust_z(trial[0], trial[1:], floor=1e-9) for trial in trials]
    assert np.median(np.abs(z)) == pytest.approx(0.67, abs=0.2)  # as for a Gaussian


def test_metrics_that_too_few_references_have_get_no_score():
    references = [{"bias_level": 200.0, "line_width": 3.0}] * 2 + [{"bias_level": 200.0}]
    scores = z_scores({"bias_level": 201.0, "line_width": 9.0}, references)
    assert list(scores) == ["bias_level"]
    assert scores["bias_level"] == pytest.approx(4 / np.sqrt(4 / 3))


def test_the_exposure_time_is_not_mistaken_for_a_fault():
    short = measure(extension(lit(stripes()), promised_light=0.5))
    long = measure(extension(lit(10 * stripes()), promised_light=5.0))
    for name in ("light_ratio", "peak_ratio", "column_contrast", "order_contrast"):
        assert long[name] == pytest.approx(short[name], abs=METRICS[name].floor)
