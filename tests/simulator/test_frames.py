"""Simulated frames: shapes, noise, geometry, spectra, headers, calibration plan."""

import csv
import io
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import ncompress
import numpy as np
import pytest
from astropy.io import fits

from qc.simulator import (
    DEMO_PLAN,
    FULL_PLAN,
    CalibrationStream,
    InstrumentState,
    ObservingPlan,
    PlannedExposure,
    interventions,
    plan_night,
    render,
    simulate,
    state_at,
)
from qc.simulator.arc_lines import arc, line_list
from qc.simulator.detector import CHIPS, Pixels, bleed, light_region, light_shape
from qc.simulator.headers import primary_header
from qc.simulator.nights import expose as simulate_exposure
from qc.simulator.plan import HIGH_GAIN_FASTER
from qc.simulator.spectrograph import (
    SETTINGS,
    Optics,
    chips_of,
    flat,
    order_table,
    place_orders,
    standard_exposure_s,
)

NIGHT = date(2018, 4, 1)
UNBINNED: dict[str, Any] = {"binning": (1, 1), "read_mode": "225kHz low"}
NEW_INSTRUMENT = InstrumentState(
    temperature_c=14.0,
    pressure_hpa=743.0,
    shift_px=dict.fromkeys(CHIPS, (0.0, 0.0)),
    bias_offset_adu=dict.fromkeys(CHIPS, 0.0),
    lamp_output=dict.fromkeys(("FFL1", "FFL2", "FFL3", "FFL4", "D2", "ThAr"), 1.0),
)


def expose(
    image_class: str,
    arm: str,
    path: str,
    setting_nm: int | None = None,
    number: int = 1,
    **changes: Any,
) -> PlannedExposure:
    stream = CalibrationStream(image_class, arm, path, setting_nm, **changes)
    return list(plan_night(ObservingPlan((stream,), aborted=0.0), NIGHT, seed=1))[number - 1]


def images_of(exposure: PlannedExposure, seed: int = 0) -> dict[int, Pixels]:
    return render(exposure, NEW_INSTRUMENT, np.random.default_rng(seed))


def headers_of(exposure: PlannedExposure) -> fits.Header:
    return primary_header(exposure, NEW_INSTRUMENT)


@pytest.mark.parametrize(
    ("arm", "mode", "shape"),
    [
        ("blue", {}, (1500, 1074)),
        ("blue", UNBINNED, (3000, 2148)),
        ("red", {}, (2048, 1074)),
        ("red", UNBINNED, (4096, 2148)),
    ],
)
def test_raw_image_has_shape_of_manual(arm, mode, shape):
    images = images_of(expose("bias", arm, arm.upper(), **mode))
    assert {pixels.shape for pixels in images.values()} == {shape}
    assert {pixels.dtype for pixels in images.values()} == {np.dtype(np.uint16)}


def test_red_frame_has_redder_chip_in_first_extension():
    assert list(images_of(expose("bias", "blue", "BLUE"))) == [0]
    exposure = expose("bias", "red", "RED")
    content = simulate_exposure(exposure, seed=1).content
    with fits.open(io.BytesIO(content)) as hdus:
        assert hdus[0].data is None
        assert [hdu.header["ESO DET CHIP1 NAME"][:3] for hdu in hdus[1:]] == ["MIT", "EEV"]
        assert hdus[0].header["ESO DET WIN1 BINX"] == 2
        assert "ESO DET WIN1 BINX" not in hdus[1].header


def test_pixels_are_stored_as_unsigned_16_bits():
    exposure = expose("bias", "blue", "BLUE")
    frame = simulate_exposure(exposure, seed=1)
    images, content = frame.images, frame.content
    with fits.open(io.BytesIO(content), do_not_scale_image_data=True) as hdus:
        assert (hdus[0].header["BITPIX"], hdus[0].header["BZERO"]) == (16, 32768)
    with fits.open(io.BytesIO(content)) as hdus:
        np.testing.assert_array_equal(hdus[0].data, images[0])


def test_two_ports_split_blue_chip_in_halves():
    mode: dict[str, Any] = {"binning": (1, 1), "read_mode": "625kHz low"}
    exposure = expose("arc", "blue", "BLUE", 437, **mode)
    images = images_of(exposure)
    assert {hdu: pixels.shape for hdu, pixels in images.items()} == {
        1: (3000, 1124),
        2: (3000, 1124),
    }
    assert [exposure.image_type(hdu) for hdu in exposure.hdus] == ["UBW1", "UBW2"]


@pytest.mark.parametrize("mode", ["225kHz low", "50kHz high"])
@pytest.mark.parametrize("arm", ["blue", "red"])
def test_read_noise_in_overscan_matches_manual(arm, mode):
    exposure = expose("bias", arm, arm.upper(), read_mode=mode)
    for (hdu, pixels), chip in zip(images_of(exposure).items(), chips_of(arm), strict=True):
        expected_adu = CHIPS[chip].modes[mode].read_noise_adu
        assert pixels[:, -20:].std() == pytest.approx(expected_adu, rel=0.03), hdu


@pytest.mark.parametrize("chip", CHIPS)
def test_bias_level_is_100_to_250_adu(chip):
    assert all(100 <= mode.bias_adu <= 250 for mode in CHIPS[chip].modes.values())


@pytest.mark.parametrize("setting_nm", SETTINGS)
def test_flat_of_standard_exposure_peaks_at_30000_adu(setting_nm):
    setting = SETTINGS[setting_nm]
    optics = Optics(1.0, setting.slit_length_arcsec, setting.arm.upper())
    exposure_s = standard_exposure_s(setting_nm, setting.lamp) / HIGH_GAIN_FASTER
    peaks = []
    for chip in chips_of(setting.arm):
        electrons = flat(setting_nm, chip, (2, 2), setting.lamp, optics) * exposure_s
        gain = CHIPS[chip].modes["50kHz high"].gain_e_per_adu
        peaks.append(np.percentile(electrons, 99.9) / gain)
    assert 25_000 < max(peaks) < 40_000


def test_scans_have_no_light():
    pixels = images_of(expose("flat", "blue", "DICHR#1", 390))[0]
    rows, columns = light_region("BLUE", (2, 2))
    level = CHIPS["BLUE"].modes["50kHz high"].bias_adu
    assert np.median(pixels[rows, columns]) > level + 300
    assert np.median(pixels[:, : columns.start]) == pytest.approx(level, abs=3)
    assert np.median(pixels[:, columns.stop + 4 :]) == pytest.approx(level, abs=3)


@pytest.mark.parametrize(("setting_nm", "chip"), [(390, "BLUE"), (580, "REDL"), (860, "REDU")])
def test_orders_match_table(setting_nm, chip):
    setting = SETTINGS[setting_nm]
    optics = Optics(1.0, 2.0, setting.arm.upper())
    scene = flat(setting_nm, chip, (1, 1), setting.lamp, optics)
    rows, columns = light_shape(chip, (1, 1))
    y_at_x50 = order_table(setting_nm, chip).trace.T @ [1, 0.5, 0.25]
    expected = y_at_x50 - 1 if chip == "BLUE" else columns - y_at_x50
    for column in expected[(expected > 30) & (expected < columns - 30)]:
        near = np.arange(round(column) - 15, round(column) + 16)
        light = scene[rows // 2, near] - scene[rows // 2, near].min()
        assert (near * light).sum() / light.sum() == pytest.approx(column, abs=1.0)


def test_wavelength_falls_along_rows_on_both_arms():
    for setting_nm, chip, redder_to_the_right in ((437, "BLUE", True), (580, "REDL", False)):
        optics = Optics(1.0, 10.0, "RED")
        orders = place_orders(setting_nm, chip, (2, 2), optics)
        assert (np.diff(orders.wavelength_nm, axis=1) < 0).all()
        by_column = np.argsort(orders.column[:, 0])
        steps = np.diff(orders.wavelength_nm[by_column, 0])
        assert (steps > 0).all() == redder_to_the_right


@pytest.mark.parametrize(("slit_arcsec", "fwhm_px"), [(0.4, 2.5), (1.0, 3.5)])
def test_arc_lines_have_width_of_real_arcs(slit_arcsec, fwhm_px):
    row, column, optics = brightest_isolated_line(slit_arcsec)
    near = slice(row - 12, row + 13)
    profile = arc(437, "BLUE", (1, 1), optics)[near, column]
    profile = profile - np.median(profile)
    fine = np.interp(np.linspace(0, 24, 2401), np.arange(25), profile)
    assert (fine > fine.max() / 2).sum() / 100 == pytest.approx(fwhm_px, abs=0.5)


def brightest_isolated_line(slit_arcsec: float) -> tuple[int, int, Optics]:
    optics = Optics(slit_arcsec, 10.0, "BLUE")
    lines, orders = line_list(), place_orders(437, "BLUE", (1, 1), optics)
    middle = len(orders.wavelength_nm) // 2
    nm = orders.wavelength_nm[middle]
    gap_nm = np.minimum(
        np.diff(lines.wavelength_nm, prepend=0), np.diff(lines.wavelength_nm, append=9999)
    )
    good = (gap_nm > 0.03) & (lines.wavelength_nm > nm[2000]) & (lines.wavelength_nm < nm[1000])
    brightest = np.flatnonzero(good)[np.argmax(lines.rate_e_s[good])]
    row = round(np.interp(-lines.wavelength_nm[brightest], -nm, np.arange(nm.size)))
    return row, round(orders.column[middle, row]), optics


def test_argon_saturates_beyond_700_nm_only():
    assert images_of(expose("arc", "red", "DICHR#2", 860))[1].max() == 65535
    pixels = images_of(expose("arc", "blue", "BLUE", 437))[0]
    assert (pixels == 65535).mean() < 1e-4


def test_wider_slit_brightens_flat_but_not_arc():
    narrow, wide = Optics(0.8, 10.0, "BLUE"), Optics(1.6, 10.0, "BLUE")
    flats = [flat(437, "BLUE", (2, 2), "FFL2", optics).max() for optics in (narrow, wide)]
    arcs = [arc(437, "BLUE", (1, 1), optics).max() for optics in (narrow, wide)]
    assert flats[1] / flats[0] == pytest.approx(2, rel=0.01)
    assert arcs[1] / arcs[0] < 1.3


def test_bleed_moves_excess_charge_along_column():
    charge = np.zeros((40, 3), np.float32)
    charge[20, 1] = 1050.0
    bled = bleed(charge.copy(), full_e=100.0)
    assert bled.sum() == 1050.0
    assert bled.max() == 100.0
    assert (bled[:, 1] > 0).sum() == 11  # 10.5 pixels' worth, half of the excess either way
    assert not bled[:, [0, 2]].any()


def test_hot_column_grows_with_exposure():
    column = (1748 - 1) // 2
    heights = []
    for image_class, exposure_s in (("bias", 0.0), ("dark", 3600.0)):
        pixels = images_of(expose(image_class, "red", "RED", exposure_s=exposure_s))[2]
        heights.append(np.median(pixels[:900, column]) - np.median(pixels[:900, column - 3]))
    assert heights[0] > 1
    assert heights[1] > 100 * heights[0]


def test_cosmic_rays_differ_between_exposures():
    dark = expose("dark", "blue", "BLUE", exposure_s=3600.0)
    hits_1, hits_2 = (images_of(dark, seed=seed)[0][:, 300:] > 400 for seed in (1, 2))
    assert 1000 < hits_1.sum() < 20_000
    assert (hits_1 & hits_2).sum() < 0.05 * hits_1.sum()


def test_bias_level_settles_and_drifts_by_less_than_one_adu():
    noon = datetime(2018, 4, 2, 12, tzinfo=UTC)
    week = [state_at(noon + timedelta(hours=6 * n), 1).bias_offset_adu["BLUE"] for n in range(28)]
    assert np.std(week) < 1
    early, late = (noon.replace(hour=9, minute=minute) for minute in (0, 59))
    settled = state_at(early, 1).bias_offset_adu["REDL"] - state_at(late, 1).bias_offset_adu["REDL"]
    assert 0.2 < settled < 1.2


def test_lamp_output_falls_until_replacement():
    days = [datetime(2018, 1, 1, 10, tzinfo=UTC) + timedelta(days=n) for n in range(0, 1500, 5)]
    output = np.array([state_at(day, 1).lamp_output["FFL2"] for day in days])
    steps = np.diff(output)
    assert (steps < 0).mean() > 0.95
    assert (steps > 0.05).sum() >= 2


def test_intervention_shifts_format_permanently():
    first, *_, last = interventions(2018, seed=1)
    assert len(interventions(2018, seed=1)) >= 3
    x_px = [
        state_at(first.when + timedelta(days=days), 1).shift_px["BLUE"][0] for days in (-1, 1, 2)
    ]
    assert abs(x_px[1] - x_px[2]) < 0.2
    assert abs(x_px[0] - x_px[1]) > 0.3
    assert last.when > first.when


def test_red_flats_have_object_on_first_frame_only():
    frames = [expose("flat", "red", "DICHR#1", 564, number=number) for number in (1, 2, 5)]
    assert [headers_of(frame)["OBJECT"] for frame in frames] == ["LAMP,FLAT", "", ""]
    assert headers_of(expose("flat", "blue", "DICHR#1", 390, number=2))["OBJECT"] == "LAMP,FLAT"


def test_header_has_classification_keywords():
    exposure = expose("flat", "blue", "DICHR#1", 390)
    header = headers_of(exposure)
    expected = {
        "INSTRUME": "UVES",
        "ESO DPR CATG": "CALIB",
        "ESO DPR TYPE": "LAMP,FLAT",
        "ESO DPR TECH": "ECHELLE",
        "ESO INS MODE": "DICHR#1",
        "ESO INS PATH": "BLUE",
        "ESO INS GRAT1 NAME": "CD#2",
        "ESO INS GRAT1 WLEN": 390.0,
        "ESO INS SLIT2 WID": 1.0,
        "ESO DET CHIPS": 1,
        "ESO DET OUT1 CONAD": 0.54,
        "ESO DET OUT1 GAIN": 1.85,  # its inverse: ESO's GAIN is ADU per electron
        "ESO TPL NEXP": 5,
        "ARCFILE": f"{exposure.archive_name}.fits",
    }
    assert {key: header[key] for key in expected} == expected
    assert header["ORIGFILE"] == "UVES_DIC1B_FLAT092_0001.fits"
    assert header["EXPTIME"] == pytest.approx(exposure.requested_s, abs=0.003)


def test_bias_header_has_no_light_path():
    header = headers_of(expose("bias", "red", "RED"))
    assert header["EXPTIME"] == 0
    assert not any(
        key.startswith(("ESO INS MODE", "ESO INS GRAT", "ESO INS SLIT")) for key in header
    )


def test_plan_night_sorts_exposures_of_next_morning():
    exposures = list(plan_night(FULL_PLAN, NIGHT, seed=1))
    starts = [exposure.start for exposure in exposures]
    assert starts == sorted(set(starts))
    assert {start.date() for start in starts} == {NIGHT + timedelta(days=1)}
    assert starts[0].hour >= 9
    assert starts[-1].hour < 22
    assert 50 < len(exposures) < 200


def test_exposure_of_flats_varies_between_template_sets():
    stream = CalibrationStream("flat", "blue", "DICHR#1", 390)
    nights = [NIGHT + timedelta(days=n) for n in range(60)]
    sets = [list(plan_night(ObservingPlan((stream,)), night, seed=1)) for night in nights]
    times = np.array([frames[0].requested_s for frames in sets])
    assert np.percentile(times, 90) > 2.5 * np.percentile(times, 10)
    assert {len(frames) for frames in sets} > {5}  # some sets are cut short
    assert all(np.ptp([frame.exposure_s for frame in frames]) < 0.005 for frames in sets)


def test_full_plan_has_all_image_types():
    nights = [NIGHT + timedelta(days=n) for n in range(31)]
    types = {
        exposure.image_type(hdu)
        for night in nights
        for exposure in plan_night(FULL_PLAN, night, seed=1)
        for hdu in exposure.hdus
    }
    common_types = "UBB0 URB1 URB2 UBW1 UBW2 UD1BF0 UD1BDF0 URW1 URW2 UD1RF1 UD1RF2"
    assert types >= {*common_types.split(), "UBW0", "UD2RF1", "UBO0", "URK1", "UBD0"}


@pytest.mark.slow
def test_simulate_is_reproducible_with_any_number_of_workers(tmp_path):
    plan = ObservingPlan(DEMO_PLAN.streams[:3], aborted=0.0)
    options: dict[str, Any] = {"nights": 1, "start": NIGHT, "faults": 0.3, "plan": plan}
    plain_paths = simulate(tmp_path / "plain", seed=7, workers=1, **options)
    packed_paths = simulate(tmp_path / "packed", seed=7, workers=2, compressed=True, **options)
    assert [path.name for path in packed_paths] == [f"{path.name}.Z" for path in plain_paths]
    for plain, packed in zip(plain_paths, packed_paths, strict=True):
        assert ncompress.decompress(packed.read_bytes()) == plain.read_bytes()
    other = simulate(tmp_path / "other", seed=8, workers=1, **options)
    assert other[0].read_bytes() != plain_paths[0].read_bytes()


def test_truth_file_has_row_per_extension(tmp_path):
    progress_calls = []
    plan = ObservingPlan(
        (replace(DEMO_PLAN.streams[0], set_size=3), DEMO_PLAN.streams[1]), aborted=0.0
    )
    paths = simulate(
        tmp_path,
        nights=2,
        start=NIGHT,
        faults=0.5,
        seed=3,
        plan=plan,
        workers=1,
        progress=lambda done, total: progress_calls.append((done, total)),
    )
    with (tmp_path / "truth.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "extension", "image_type", "fault", "strength"]
    expected = []
    for path in paths:
        with fits.open(path) as hdus:
            expected += [(path.name, str(n)) for n, hdu in enumerate(hdus) if hdu.data is not None]
    assert [(row["file"], row["extension"]) for row in rows] == expected
    assert {path.parent.name for path in paths} == {"2018-04-01", "2018-04-02"}
    assert progress_calls == [(n, 16) for n in range(1, 17)]
    assert 3 <= len({row["file"] for row in rows if row["fault"]}) <= 13
    assert all(bool(row["fault"]) == bool(row["strength"]) for row in rows)
