import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from qc.core.frame import DetectorProperties, Extension, Setup
from qc.detection.light_area import Pixels
from qc.detection.measurement import measure_metrics
from qc.detection.metrics import METRICS, robust_z, z_scores

NY, NX, MARGIN = 256, 200, 20  # rows, columns, columns of prescan and of overscan
LIGHT = slice(MARGIN, NX - MARGIN)
BIAS_ADU, NOISE_ADU, GAIN = 200, 2.6, 1.5
PARTS = ("sine", "cosine")
DETECTOR = DetectorProperties(
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


def test_levels_of_constant_frame_are_exact():
    values = measure_metrics(extension(constant(203)))
    assert values["bias_level"] == 203
    for name in ("read_noise", "overscan_ramp", "prescan_minus_overscan", "light_level"):
        assert values[name] == pytest.approx(0, abs=1e-9)
    assert values["distinct_values"] == 1


def test_level_and_noise_are_accurate():
    values = measure_metrics(extension(noisy(signal=0.3)))
    assert values["bias_level"] == pytest.approx(200.3, abs=0.1)
    assert values["read_noise"] == pytest.approx(np.hypot(2.6, 12**-0.5), rel=0.03)
    assert values["light_noise"] == pytest.approx(values["read_noise"], rel=0.03)


def test_level_with_cosmic_ray_in_overscan_is_unchanged():
    clean, struck = noisy(), noisy()
    struck[100:103, -5] = 40000
    before, after = measure_metrics(extension(clean)), measure_metrics(extension(struck))
    assert after["bias_level"] == pytest.approx(before["bias_level"], abs=0.01)
    assert after["read_noise"] == pytest.approx(before["read_noise"], abs=0.01)


def test_ramp_does_not_change_noise():
    ramp = np.linspace(0, 16, NY)[:, np.newaxis]
    values = measure_metrics(extension(noisy(signal=ramp)))
    assert values["overscan_ramp"] == pytest.approx(16, abs=0.5)
    assert values["gradient_y"] == pytest.approx(16, abs=0.5)
    assert values["gradient_x"] == pytest.approx(0, abs=0.5)
    assert values["read_noise"] == pytest.approx(2.6, abs=0.1)


def test_gradient_x_of_light_leak_is_its_rise():
    values = measure_metrics(extension(lit(np.linspace(0, 32, NX - 2 * MARGIN))))
    assert values["gradient_x"] == pytest.approx(32, abs=1.5)
    assert values["light_level"] == pytest.approx(16, abs=0.5)


def test_level_of_huge_float_overscan_is_exact():
    pixels = noisy().astype(np.float32)
    pixels[:, NX - MARGIN :] = 1e11
    assert measure_metrics(extension(pixels))["bias_level"] == np.float32(1e11)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the mean of nothing
def test_overscan_of_one_column_has_no_noise():
    narrow = replace(extension(noisy()), prescan=None, overscan=(slice(None), slice(NX - 1, NX)))
    values = measure_metrics(narrow)
    assert values["bias_level"] == pytest.approx(BIAS_ADU, abs=1)
    assert "read_noise" not in values


def test_prescan_level_is_relative_to_overscan():
    pixels = constant()
    pixels[:, :MARGIN] += 3
    assert measure_metrics(extension(pixels))["prescan_minus_overscan"] == 3


def test_overscan_metrics_without_overscan_are_absent():
    values = measure_metrics(extension(constant(210), overscan=False))
    names = {"bias_level", "read_noise", "overscan_ramp", "prescan_minus_overscan"}
    assert not names & values.keys()
    assert values["light_level"] == 10  # above the level in the instrument file


@pytest.mark.parametrize(("level", "dex"), [(1000, 0), (100, -1), (10000, 1)])
def test_light_ratio_is_relative_to_expected_light(level, dex):
    expected = measure_metrics(extension(lit(1000), promised_light=1.0))["light_ratio"]
    ratio = measure_metrics(extension(lit(level), promised_light=1.0))["light_ratio"]
    assert ratio - expected == pytest.approx(dex, abs=1e-4)
    twice = measure_metrics(extension(lit(2 * level), promised_light=2.0))["light_ratio"]
    assert twice == pytest.approx(ratio, abs=1e-4)


def test_failed_lamp_has_light_metrics():
    values = measure_metrics(extension(constant(), promised_light=1.0))
    assert values["light_ratio"] == pytest.approx(-1)  # the faintest measurable light
    assert values["line_count"] == 0
    assert "gradient_y" not in values


def test_defective_pixels_are_counted():
    pixels = noisy()
    pixels[10:20, 50] = 65535  # ten in a column: saturated, and two ends that are not alone
    pixels[30, 60:65] = 0
    pixels[200, 100] = 900
    values = measure_metrics(extension(pixels))
    light_pixels = NY * (NX - 2 * MARGIN)
    assert values["saturated_fraction"] == 10 / light_pixels
    assert values["dead_fraction"] == 5 / (NY * NX)
    assert values["hot_fraction"] == 1 / light_pixels


def test_hot_cluster_counts_neighbouring_hot_pixels():
    pixels = noisy()
    for y, x in ((100, 60), (107, 66), (106, 60), (104, 70), (200, 100)):
        pixels[y, x] = 900
    for step in range(12):
        pixels[220 + step, 90 + step] = 900  # a trail: only its ends might be alone
    assert measure_metrics(extension(pixels))["hot_cluster"] == 4


def test_hot_cluster_of_cosmic_trail_is_two():
    pixels = noisy()
    for step in range(7):
        pixels[100 + 2 * step, 60 + step] = 900  # each alone: none touches the next
    assert measure_metrics(extension(pixels))["hot_cluster"] == 2


def test_hot_cluster_without_hot_pixel_is_zero():
    assert measure_metrics(extension(noisy()))["hot_cluster"] == 0


def test_dead_fraction_of_zero_frame_is_one():
    assert measure_metrics(extension(constant(0)))["dead_fraction"] == 1


def test_column_defect_is_height_of_hot_column():
    pixels = constant()
    pixels[:, 77] += 50
    values = measure_metrics(extension(pixels))
    assert values["column_defect"] == 50
    assert values["defective_columns"] == 1


def test_column_defect_of_partial_hot_column_is_measured():
    pixels = noisy()
    pixels[: NY // 4, 77] += 50
    values = measure_metrics(extension(pixels))
    assert values["column_defect"] == pytest.approx(50, abs=4)
    assert values["defective_columns"] == 1


def test_defective_columns_with_one_cosmic_ray_is_zero():
    pixels = noisy()
    pixels[99, 77] = 60000
    assert measure_metrics(extension(pixels))["defective_columns"] == 0


def test_column_defect_with_two_cosmic_rays_is_small():
    once = measure_metrics(extension(noisy()))["column_defect"]
    pixels = noisy()
    for chunk_edge in (NY // 64 * 18, NY // 64 * 50):  # each in two of a band's four chunks
        pixels[chunk_edge - 2 : chunk_edge + 2, 90] += 5000
    assert measure_metrics(extension(pixels))["column_defect"] < once + 5


def test_column_contrast_detects_hot_column_between_tilted_orders():
    y, x = np.mgrid[:NY, : NX - 2 * MARGIN]
    pixels = lit(500 * (1 + np.sin(2 * np.pi * (x - 60 * y / NY) / 40)))
    before = measure_metrics(extension(pixels, promised_light=1.0))["column_contrast"]
    pixels[:, 77] += 300
    after = measure_metrics(extension(pixels, promised_light=1.0))["column_contrast"]
    assert after - before == pytest.approx(300 / 500, rel=0.1)  # 500 ADU is the mean light


def test_structure_of_stripes_belongs_to_one_axis():
    pixels = constant()
    pixels[::2] += 2  # a standard deviation of 1
    values = measure_metrics(extension(pixels))
    assert values["row_structure"] == pytest.approx(1)
    assert values["column_structure"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("period_px", [2.1 * NX, 1.7 * NX, 37.3])
@pytest.mark.parametrize("promised_light", [0.0, 1.0])
def test_pattern_noise_is_injected_amplitude(period_px, promised_light):
    readout = np.arange(NY * NX).reshape(NY, NX)  # rows are clocked out one after another
    pick_up = 5 * np.sin(2 * np.pi * readout / period_px + 1)
    values = measure_metrics(extension(noisy(signal=pick_up), promised_light=promised_light))
    assert values["pattern_noise"] == pytest.approx(5, rel=0.1)


def test_pattern_noise_of_fixed_columns_is_small():
    pixels = noisy()
    pixels[:, 50:60] += 8
    assert measure_metrics(extension(pixels))["pattern_noise"] < 0.3


def test_order_contrast_compares_orders_and_gaps():
    profile = np.where(np.arange(NX - 2 * MARGIN) // 10 % 2, 300, 100)
    values = measure_metrics(extension(lit(profile), promised_light=1.0))
    assert values["order_contrast"] == pytest.approx(0.5)  # (300 - 100) / (300 + 100)


def test_order_spacing_is_period():
    values = measure_metrics(extension(lit(stripes(period_px=16)), promised_light=1.0))
    assert values["order_spacing"] == pytest.approx(16, abs=0.3)


@pytest.mark.parametrize("shift_px", [0.5, 2.0])
def test_order_phase_moves_with_orders(shift_px):
    still = measure_metrics(extension(lit(stripes()), promised_light=1.0))
    moved = measure_metrics(extension(lit(stripes(shift_px=shift_px)), promised_light=1.0))
    assert moved_by(still, moved, "order_phase") == pytest.approx(shift_px, rel=0.1)


def test_order_phase_is_independent_of_exposure():
    short = measure_metrics(extension(lit(stripes()), promised_light=1.0))
    long = measure_metrics(extension(lit(10 * stripes()), promised_light=10.0))
    for part in ("order_phase_sine", "order_phase_cosine"):
        assert long[part] == pytest.approx(short[part], abs=0.05)


@pytest.mark.parametrize("fwhm_px", [2.5, 3.5])
def test_lines_are_counted_with_their_width(fwhm_px):
    values = measure_metrics(extension(lit(emission(fwhm_px=fwhm_px)), promised_light=1.0))
    lines, columns = 10, 53  # every third of 160 columns; the first and last foot must fit
    assert values["line_count"] == lines * columns
    assert values["line_width"] == pytest.approx(fwhm_px, abs=0.1)
    assert values["line_brightness"] == pytest.approx(3, abs=0.03)  # 1000 ADU


def test_line_count_of_flat_is_zero():
    values = measure_metrics(extension(noisy(signal=lit(stripes())), promised_light=1.0))
    assert values["line_count"] == 0
    assert "line_width" not in values


def test_line_phase_moves_with_lines():
    still = measure_metrics(extension(lit(emission()), promised_light=1.0))
    moved = measure_metrics(extension(lit(emission(shift_px=0.5)), promised_light=1.0))
    assert moved_by(still, moved, "line_phase") == pytest.approx(0.5, rel=0.2)


def test_sharpness_of_blurred_frame_is_lower():
    sharp = measure_metrics(extension(lit(emission(fwhm_px=2.5)), promised_light=1.0))
    blurred = measure_metrics(extension(lit(emission(fwhm_px=5)), promised_light=1.0))
    assert sharp["sharpness_y"] > 1.5 * blurred["sharpness_y"]
    narrow = measure_metrics(extension(lit(stripes(period_px=10)), promised_light=1.0))
    wide = measure_metrics(extension(lit(stripes(period_px=20)), promised_light=1.0))
    assert narrow["sharpness_x"] > 1.5 * wide["sharpness_x"]


def test_ratios_compare_halves():
    adu = np.full((NY, NX - 2 * MARGIN), 100.0)
    adu[: NY // 2] = 1000
    values = measure_metrics(extension(lit(adu), promised_light=1.0))
    assert values["bottom_top_ratio"] == pytest.approx(1, abs=1e-3)
    assert values["left_right_ratio"] == pytest.approx(0, abs=1e-3)


def test_unlit_rows_of_torn_exposure_are_counted():
    adu = np.full((NY, NX - 2 * MARGIN), 1000.0)
    adu[192:] = 0
    assert measure_metrics(extension(lit(adu), promised_light=1.0))["unlit_rows"] == 0.25


def test_repeated_rows_are_counted():
    pixels = noisy()
    assert measure_metrics(extension(pixels))["repeated_rows"] == 0
    pixels[128:160] = pixels[:32]
    assert measure_metrics(extension(pixels))["repeated_rows"] == 32 / NY


def test_bit_balance_of_stuck_bit_is_half():
    assert measure_metrics(extension(noisy()))["bit_balance"] < 0.02
    assert measure_metrics(extension(noisy() & np.uint16(0xFFFE)))["bit_balance"] == 0.5


def test_metrics_of_float_pixels_equal_integer_pixels():
    integers = measure_metrics(extension(noisy()))
    floats = measure_metrics(extension(noisy().astype(np.float32)))
    assert integers.keys() - floats.keys() == {"distinct_values", "bit_balance"}
    assert floats == {name: integers[name] for name in floats}


@pytest.mark.parametrize("promised_light", [0.0, 1.0])
@pytest.mark.parametrize("level", [0, 200, 65535])
def test_metrics_are_finite_and_defined(level, promised_light):
    values = measure_metrics(extension(constant(level), promised_light=promised_light))
    assert values.keys() <= METRICS.keys()
    assert np.isfinite(list(values.values())).all()


def test_defined_metrics_are_all_measured():
    bias = measure_metrics(extension(noisy()))
    arc = measure_metrics(extension(lit(emission()), promised_light=1.0))
    flat = measure_metrics(extension(lit(stripes()), promised_light=1.0))
    assert (bias | arc | flat).keys() == METRICS.keys()


def test_show_appends_unit():
    assert METRICS["bias_level"].show(203.4149) == "203.41 ADU"
    assert METRICS["order_contrast"].show(0.98765) == "0.988"


def test_measuring_full_chip_is_fast():
    rng = np.random.default_rng(3)
    pixels = rng.integers(193, 208, (4096, 2148), np.uint16)
    started = time.process_time()
    measure_metrics(extension(pixels))
    assert time.process_time() - started < 0.5  # 0.06 s when nothing else runs


def test_robust_z_counts_standard_deviations():
    reference = np.random.default_rng(1).normal(100, 2, 2000)
    assert robust_z(110, reference, floor=0.01) == pytest.approx(5, rel=0.1)
    reference[:200] = 1e6
    assert robust_z(110, reference, floor=0.01) == pytest.approx(5, rel=0.2)


def test_robust_z_with_equal_references_uses_floor():
    reference = np.full(99, 200.0)
    assert robust_z(200.5, reference, floor=0.05) == pytest.approx(10, rel=0.01)


def test_robust_z_with_few_references_is_smaller():
    rng = np.random.default_rng(2)
    trials = rng.normal(size=(4000, 6))
    z = [robust_z(trial[0], trial[1:], floor=1e-9) for trial in trials]
    assert np.median(np.abs(z)) == pytest.approx(0.67, abs=0.2)  # as for a Gaussian


def test_z_score_with_too_few_references_is_absent():
    references = [{"bias_level": 200.0, "line_width": 3.0}] * 2 + [{"bias_level": 200.0}]
    scores = z_scores({"bias_level": 201.0, "line_width": 9.0}, references)
    assert list(scores) == ["bias_level"]
    assert scores["bias_level"] == pytest.approx(4 / np.sqrt(4 / 3))


def test_z_scores_are_independent_of_exposure_time():
    short = measure_metrics(extension(lit(stripes()), promised_light=0.5))
    long = measure_metrics(extension(lit(10 * stripes()), promised_light=5.0))
    for name in ("light_ratio", "peak_ratio", "column_contrast", "order_contrast"):
        assert long[name] == pytest.approx(short[name], abs=METRICS[name].floor)
