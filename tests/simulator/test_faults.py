"""Injected faults: position, strength, and unchanged pixels elsewhere."""

from datetime import date
from functools import cache
from typing import Any

import numpy as np
import pytest

from qc.simulator import (
    FAULTS,
    INJECTABLE,
    STRENGTHS,
    CalibrationStream,
    Fault,
    InjectedFault,
    Injection,
    ObservingPlan,
    PlannedExposure,
    inject,
    make_case,
    plan_night,
    possible_faults,
    render,
    state_at,
)
from qc.simulator.detector import Pixels
from qc.simulator.faults import draw_case, spoil_header
from qc.simulator.headers import primary_header
from qc.simulator.plan import CLASSES

FILE_FAULTS = {"keyword_missing", "binning_misreported", "frame_repeated"}
# The change does not grow with the amount once the lines have moved; others have no amount.
NOT_ORDERED = {"format_shift", "setting_wrong", "keyword_missing"}
GENERIC: dict[str, Any] = {
    "light": (slice(0, 400), slice(16, 316)),
    "gain_e_per_adu": 1.1,
    "read_noise_adu": 4.0,
    "bias_adu": 200.0,
}
SETTINGS_NM: dict[str, tuple[int, int | None]] = {
    "flat": (390, 564),
    "dflat": (346, None),
    "arc": (437, 580),
}


def expose(image_class: str, arm: str = "blue", number: int = 2) -> PlannedExposure:
    setting_nm = SETTINGS_NM.get(image_class, (437, 580))[arm == "red"]
    if image_class in ("bias", "dark"):
        setting_nm = None
    stream = CalibrationStream(image_class, arm, arm.upper(), setting_nm, exposure_s=600.0)
    return list(plan_night(ObservingPlan((stream,), aborted=0.0), date(2018, 4, 1), seed=1))[
        number - 1
    ]


def images_of(exposure: PlannedExposure, case: InjectedFault | None = None) -> dict[int, Pixels]:
    state = state_at(exposure.start, seed=1)
    return render(exposure, state, np.random.default_rng(0), case)


@cache
def nominal_images(exposure: PlannedExposure) -> dict[int, Pixels]:
    return images_of(exposure)


def exposure_for(fault: Fault) -> PlannedExposure:
    """Return an exposure for which a fault is possible, blue if possible."""
    image_class = max(fault.classes, key=lambda name: len(fault.classes[name]))
    return expose(image_class, "blue" if "BLUE" in fault.chips else "red")


def generic_image(light_e: float = 0.0) -> Pixels:
    """Return an image of 400 by 332 pixels with stripes, similar to another spectrograph."""
    rng = np.random.default_rng(0)
    electrons = np.zeros((400, 332))
    stripes = 0.5 + 0.5 * np.sin(np.arange(300) / 6) if light_e else np.zeros(300)
    electrons[:, 16:316] = rng.poisson(light_e * stripes, (400, 300))
    return np.rint(200 + electrons / 1.1 + rng.normal(0, 4, (400, 332))).astype(np.uint16)


def inject_generic(
    kind: str, strength: str = "gross", light_e: float = 0.0, seed: int = 0
) -> tuple[Pixels, Injection]:
    pixels = generic_image(light_e=light_e)
    rng = np.random.default_rng(seed)
    return pixels, inject(pixels, kind=kind, strength=strength, rng=rng, **GENERIC)


def test_faults_cover_all_image_classes():
    assert len(FAULTS) >= 32
    assert len(INJECTABLE) >= 25
    for fault in FAULTS.values():
        assert fault.scope in {"chip", "all"}
        assert set(fault.classes) <= set(CLASSES)
        assert set(fault.amount) == set(STRENGTHS)
        assert fault.description.endswith(".")
    for image_class in CLASSES:
        assert len(possible_faults(expose(image_class, "red"))) >= 15


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind not in FILE_FAULTS])
def test_fault_changes_its_chips_only(kind):
    exposure = exposure_for(FAULTS[kind])
    nominal = nominal_images(exposure)
    case = make_case(exposure, kind, "gross", np.random.default_rng(0))
    faulty = images_of(exposure, case)
    for hdu, pixels in faulty.items():
        changed = pixels.shape != nominal[hdu].shape or (pixels != nominal[hdu]).any()
        assert changed == (case.hits(hdu) and kind != "chip_missing")
    assert len(faulty) == len(nominal) - (kind == "chip_missing")


def test_fault_of_one_chip_keeps_other_chip():
    exposure = expose("bias", "red")
    faulty, nominal = (
        images_of(exposure, InjectedFault("bias_ramp", "gross", (2,))),
        nominal_images(exposure),
    )
    np.testing.assert_array_equal(faulty[1], nominal[1])
    assert (faulty[2] != nominal[2]).mean() > 0.9


ORDERED = [
    kind
    for kind, fault in FAULTS.items()
    if STRENGTHS in fault.classes.values() and kind not in NOT_ORDERED
]


@pytest.mark.parametrize("kind", [kind for kind in ORDERED if kind in INJECTABLE])
def test_change_grows_with_strength_of_pixel_fault(kind):
    light_e = 0.0 if "bias" in FAULTS[kind].classes else 2000.0
    change = []
    for strength in STRENGTHS:
        pixels, injection = inject_generic(kind, strength, light_e)
        change.append(np.abs(injection.pixels.astype(np.int64) - pixels).sum())
    assert change[0] > change[1] > change[2] > 0


@pytest.mark.parametrize("kind", [kind for kind in ORDERED if kind not in INJECTABLE])
def test_change_grows_with_strength_of_light_path_fault(kind):
    exposure = exposure_for(FAULTS[kind])
    case = make_case(exposure, kind, "gross", np.random.default_rng(0))
    hdu = case.hdus[0]
    nominal = nominal_images(exposure)[hdu].astype(np.int64)
    change = [
        np.abs(images_of(exposure, InjectedFault(kind, strength, case.hdus))[hdu] - nominal).sum()
        for strength in STRENGTHS
    ]
    assert change[0] > change[1] > change[2] > 0


@pytest.mark.parametrize("kind", INJECTABLE)
@pytest.mark.parametrize("light_e", [0.0, 20_000.0])
def test_inject_works_on_images_of_other_instruments(kind, light_e):
    pixels, injection = inject_generic(kind, light_e=light_e)
    np.testing.assert_array_equal(pixels, generic_image(light_e=light_e))  # the input is unchanged
    assert injection.pixels.dtype == np.uint16
    assert injection.pixels.shape == pixels.shape
    assert injection.pixels[injection.box].size > 0


@pytest.mark.parametrize(
    "kind",
    ["hot_column", "dead_column", "hot_pixels", "dust", "truncated_readout", "bias_step"],
)
@pytest.mark.parametrize("seed", range(3))
def test_local_fault_changes_its_box_only(kind, seed):
    pixels, injection = inject_generic(kind, light_e=20_000.0, seed=seed)
    changed = injection.pixels != pixels
    assert changed[injection.box].mean() > 0.1
    changed[injection.box] = False
    assert not changed.any()


@pytest.mark.parametrize("kind", ["amplifier_glow", "glow_band", "reflection", "vignetting"])
def test_box_contains_centre_of_diffuse_fault(kind):
    pixels, injection = inject_generic(kind, light_e=20_000.0)
    change = np.abs(injection.pixels.astype(float) - pixels)
    light = change[GENERIC["light"]].mean()
    assert change[injection.box].mean() > 1.5 * light


def test_inject_rejects_unknown_kind_and_unavailable_strength():
    with pytest.raises(ValueError, match="cannot be injected"):
        inject_generic("lamp_dying")
    with pytest.raises(ValueError, match="not offered"):
        inject_generic("dead_output", strength="faint")


def test_weak_lamp_has_photon_noise_of_reduced_light():
    rng = np.random.default_rng(0)
    electrons = rng.poisson(20_000, (400, 332)) + rng.normal(0, 4.4, (400, 332))
    pixels = np.rint(200 + electrons / 1.1).astype(np.uint16)
    weak = inject(pixels, kind="lamp_weak", strength="moderate", rng=rng, **GENERIC).pixels
    light_e = (weak[GENERIC["light"]] - 200.0) * 1.1
    assert light_e.mean() == pytest.approx(4000, rel=0.01)
    assert light_e.var() == pytest.approx(4000 + 4.4**2, rel=0.03)


def test_read_noise_excess_matches_amount():
    pixels, injection = inject_generic("read_noise_excess", strength="moderate")
    assert injection.pixels.std() / pixels.std() == pytest.approx(2, rel=0.02)


def test_overscan_shows_bias_jump_but_no_light_leak():
    level = generic_image()[:, -12:].mean()
    assert abs(inject_generic("bias_jump")[1].pixels[:, -12:].mean() - level) > 30
    assert inject_generic("light_leak")[1].pixels[:, -12:].mean() == level


def test_lost_pixels_shift_later_pixels():
    pixels, injection = inject_generic("lost_pixels", light_e=20_000.0)
    row = injection.box[0].start + 5
    shifts = [
        (pixels[row, 40:290] == np.roll(injection.pixels[row], shift)[40:290]).all()
        for shift in (-20, 20)
    ]
    assert shifts.count(True) == 1
    np.testing.assert_array_equal(injection.pixels[: row - 5], pixels[: row - 5])


def test_stuck_bit_is_equal_in_all_pixels():
    for strength, bit in (("gross", 9), ("moderate", 6), ("faint", 3)):
        pixels, injection = inject_generic("stuck_bit", strength)
        assert np.ptp(injection.pixels & (1 << bit)) == 0
        assert (injection.pixels != pixels).mean() > 0.3


def test_format_shift_moves_light_by_amount():
    pixels, injection = inject_generic("format_shift", strength="moderate", light_e=20_000.0)
    before, after = pixels[GENERIC["light"]], injection.pixels[GENERIC["light"]]
    moves = [(dy, dx) for dy in range(-10, 11) for dx in range(-10, 11)]
    matches = [
        move
        for move in moves
        if (np.roll(before, move, (0, 1))[20:-20, 20:-20] == after[20:-20, 20:-20]).all()
    ]
    assert len(matches) == 1
    assert np.hypot(*matches[0]) == pytest.approx(10, abs=1)


def test_file_faults_remove_swap_or_duplicate_red_chips():
    exposure = expose("bias", "red")
    nominal = nominal_images(exposure)
    assert list(images_of(exposure, InjectedFault("chip_missing", "gross", (1, 2)))) == [1]
    swapped = images_of(exposure, InjectedFault("chips_swapped", "gross", (1, 2)))
    np.testing.assert_array_equal(swapped[1], nominal[2])
    np.testing.assert_array_equal(swapped[2], nominal[1])
    doubled = images_of(exposure, InjectedFault("chip_duplicated", "gross", (2,)))
    np.testing.assert_array_equal(doubled[2], nominal[1])


def test_mislabelled_bias_shows_orders():
    pixels = images_of(expose("bias"), InjectedFault("mislabelled", "gross", (0,)))[0]
    assert np.percentile(pixels, 99) > 10_000


def test_dying_lamp_loses_thorium_and_keeps_argon():
    exposure = expose("arc")
    nominal, dying = (
        images_of(exposure, case)[0].astype(float)
        for case in (None, InjectedFault("lamp_dying", "gross", (0,)))
    )
    bright = nominal > 500
    ratio = (dying[bright] - 178) / (nominal[bright] - 178)
    assert (ratio < 0.5).mean() > 0.3
    assert (ratio > 1.5).mean() > 0.05


def test_remnant_occurs_on_thick_chip_only():
    exposure = expose("bias", "red")
    rng = np.random.default_rng(0)
    assert all(make_case(exposure, "remnant", "gross", rng).hdus == (1,) for _ in range(5))
    assert "remnant" not in {fault.kind for fault in possible_faults(expose("bias", "blue"))}


def test_first_frame_of_template_set_is_never_repeated():
    kinds = [{fault.kind for fault in possible_faults(expose("bias", number=n))} for n in (1, 2)]
    assert "frame_repeated" not in kinds[0]
    assert "frame_repeated" in kinds[1]


@pytest.mark.parametrize(
    ("strength", "key"),
    [("gross", "ESO DPR TYPE"), ("moderate", "ESO DET WIN1 BINX"), ("faint", "EXPTIME")],
)
def test_missing_keyword_is_absent_from_header(strength, key):
    exposure = expose("flat")
    header = primary_header(exposure, state_at(exposure.start, seed=1))
    assert key in header
    spoil_header(header, InjectedFault("keyword_missing", strength, (0,)))
    assert key not in header


def test_misreported_binning_is_other_binning():
    exposure = expose("flat")
    header = primary_header(exposure, state_at(exposure.start, seed=1))
    spoil_header(header, InjectedFault("binning_misreported", "gross", (0,)))
    assert (header["ESO DET WIN1 BINX"], header["ESO DET WIN1 BINY"]) == (1, 1)


def test_draw_case_matches_requested_rate_and_visible_faults():
    exposure = expose("flat", "red")
    rng = np.random.default_rng(0)
    cases = [draw_case(exposure, 0.25, rng) for _ in range(2000)]
    drawn = [case for case in cases if case is not None]
    assert len(drawn) / len(cases) == pytest.approx(0.25, abs=0.03)
    assert {case.kind for case in drawn} == {fault.kind for fault in possible_faults(exposure)}
    assert all(case.strength in FAULTS[case.kind].classes["flat"] for case in drawn)
