"""Faults: each is where it should be, as strong as it says, and nowhere else."""

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
# Once lines have left their places, going further changes nothing; the others have no amount.
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
def healthy_of(exposure: PlannedExposure) -> dict[int, Pixels]:
    return images_of(exposure)


def place_for(fault: Fault) -> PlannedExposure:
    """Return an exposure that can have a fault, blue and of the first class where possible."""
    image_class = max(fault.classes, key=lambda name: len(fault.classes[name]))
    return expose(image_class, "blue" if "BLUE" in fault.chips else "red")


def generic_image(light_e: float = 0.0) -> Pixels:
    """Return an image of 400 by 332 pixels with stripes, as some other spectrograph's."""
    rng = np.random.default_rng(0)
    electrons = np.zeros((400, 332))
    stripes = 0.5 + 0.5 * np.sin(np.arange(300) / 6) if light_e else np.zeros(300)
    electrons[:, 16:316] = rng.poisson(light_e * stripes, (400, 300))
    return np.rint(200 + electrons / 1.1 + rng.normal(0, 4, (400, 332))).astype(np.uint16)


def injected(
    kind: str, strength: str = "gross", light_e: float = 0.0, seed: int = 0
) -> tuple[Pixels, Injection]:
    pixels = generic_image(light_e=light_e)
    rng = np.random.default_rng(seed)
    return pixels, inject(pixels, kind=kind, strength=strength, rng=rng, **GENERIC)


def test_every_part_of_the_chain_can_fail():
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
def test_a_fault_changes_its_chips_and_leaves_the_others(kind):
    exposure = place_for(FAULTS[kind])
    healthy = healthy_of(exposure)
    case = make_case(exposure, kind, "gross", np.random.default_rng(0))
    ill = images_of(exposure, case)
    for hdu, pixels in ill.items():
        changed = pixels.shape != healthy[hdu].shape or (pixels != healthy[hdu]).any()
        assert changed == (case.hits(hdu) and kind != "chip_missing")
    assert len(ill) == len(healthy) - (kind == "chip_missing")


def test_a_fault_of_one_chip_leaves_the_other_as_it_was():
    exposure = expose("bias", "red")
    ill, healthy = (
        images_of(exposure, InjectedFault("bias_ramp", "gross", (2,))),
        healthy_of(exposure),
    )
    np.testing.assert_array_equal(ill[1], healthy[1])
    assert (ill[2] != healthy[2]).mean() > 0.9


ORDERED = [
    kind
    for kind, fault in FAULTS.items()
    if STRENGTHS in fault.classes.values() and kind not in NOT_ORDERED
]


@pytest.mark.parametrize("kind", [kind for kind in ORDERED if kind in INJECTABLE])
def test_gross_changes_more_than_moderate_and_moderate_more_than_faint(kind):
    light_e = 0.0 if "bias" in FAULTS[kind].classes else 2000.0
    change = []
    for strength in STRENGTHS:
        pixels, injection = injected(kind, strength, light_e)
        change.append(np.abs(injection.pixels.astype(np.int64) - pixels).sum())
    assert change[0] > change[1] > change[2] > 0


@pytest.mark.parametrize("kind", [kind for kind in ORDERED if kind not in INJECTABLE])
def test_the_same_holds_for_faults_of_the_light_path(kind):
    exposure = place_for(FAULTS[kind])
    case = make_case(exposure, kind, "gross", np.random.default_rng(0))
    hdu = case.hdus[0]
    healthy = healthy_of(exposure)[hdu].astype(np.int64)
    change = [
        np.abs(images_of(exposure, InjectedFault(kind, strength, case.hdus))[hdu] - healthy).sum()
        for strength in STRENGTHS
    ]
    assert change[0] > change[1] > change[2] > 0


@pytest.mark.parametrize("kind", INJECTABLE)
@pytest.mark.parametrize("light_e", [0.0, 20_000.0])
def test_any_instruments_image_can_be_spoilt_and_stays_an_image(kind, light_e):
    pixels, injection = injected(kind, light_e=light_e)
    np.testing.assert_array_equal(pixels, generic_image(light_e=light_e))  # the input is kept
    assert injection.pixels.dtype == np.uint16
    assert injection.pixels.shape == pixels.shape
    assert injection.pixels[injection.box].size > 0


@pytest.mark.parametrize(
    "kind",
    ["hot_column", "dead_column", "hot_pixels", "dust", "truncated_readout", "bias_step"],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_fault_with_a_place_changes_nothing_outside_its_box(kind, seed):
    pixels, injection = injected(kind, light_e=20_000.0, seed=seed)
    changed = injection.pixels != pixels
    assert changed[injection.box].mean() > 0.1
    changed[injection.box] = False
    assert not changed.any()


@pytest.mark.parametrize("kind", ["amplifier_glow", "glow_band", "reflection", "vignetting"])
def test_the_box_holds_the_middle_of_a_soft_fault(kind):
    pixels, injection = injected(kind, light_e=20_000.0)
    change = np.abs(injection.pixels.astype(float) - pixels)
    light = change[GENERIC["light"]].mean()
    assert change[injection.box].mean() > 1.5 * light


def test_an_unknown_kind_or_an_invisible_strength_is_refused():
    with pytest.raises(ValueError, match="cannot be injected"):
        injected("lamp_dying")
    with pytest.raises(ValueError, match="not offered"):
        injected("dead_output", strength="faint")


def test_a_weak_lamp_has_the_photon_noise_of_little_light():
    rng = np.random.default_rng(0)
    electrons = rng.poisson(20_000, (400, 332)) + rng.normal(0, 4.4, (400, 332))
    pixels = np.rint(200 + electrons / 1.1).astype(np.uint16)
    weak = inject(pixels, kind="lamp_weak", strength="moderate", rng=rng, **GENERIC).pixels
    light_e = (weak[GENERIC["light"]] - 200.0) * 1.1
    assert light_e.mean() == pytest.approx(4000, rel=0.01)
    assert light_e.var() == pytest.approx(4000 + 4.4**2, rel=0.03)


def test_more_read_noise_is_as_much_more_as_it_says():
    pixels, injection = injected("read_noise_excess", strength="moderate")
    assert injection.pixels.std() / pixels.std() == pytest.approx(2, rel=0.02)


def test_a_bias_jump_is_seen_in_the_overscan_and_a_light_leak_is_not():
    level = generic_image()[:, -12:].mean()
    assert abs(injected("bias_jump")[1].pixels[:, -12:].mean() - level) > 30
    assert injected("light_leak")[1].pixels[:, -12:].mean() == level


def test_lost_pixels_move_the_rest_of_the_stream_sideways():
    pixels, injection = injected("lost_pixels", light_e=20_000.0)
    row = injection.box[0].start + 5
    shifts = [
        (pixels[row, 40:290] == np.roll(injection.pixels[row], shift)[40:290]).all()
        for shift in (-20, 20)
    ]
    assert shifts.count(True) == 1
    np.testing.assert_array_equal(injection.pixels[: row - 5], pixels[: row - 5])


def test_a_stuck_bit_is_the_same_in_every_pixel():
    for strength, bit in (("gross", 9), ("moderate", 6), ("faint", 3)):
        pixels, injection = injected("stuck_bit", strength)
        assert np.ptp(injection.pixels & (1 << bit)) == 0
        assert (injection.pixels != pixels).mean() > 0.3


def test_a_shifted_format_is_the_same_light_elsewhere():
    pixels, injection = injected("format_shift", strength="moderate", light_e=20_000.0)
    before, after = pixels[GENERIC["light"]], injection.pixels[GENERIC["light"]]
    moves = [(dy, dx) for dy in range(-10, 11) for dx in range(-10, 11)]
    found = [
        move
        for move in moves
        if (np.roll(before, move, (0, 1))[20:-20, 20:-20] == after[20:-20, 20:-20]).all()
    ]
    assert len(found) == 1
    assert np.hypot(*found[0]) == pytest.approx(10, abs=1)


def test_red_images_can_be_missing_swapped_or_doubled():
    exposure = expose("bias", "red")
    healthy = healthy_of(exposure)
    assert list(images_of(exposure, InjectedFault("chip_missing", "gross", (1, 2)))) == [1]
    swapped = images_of(exposure, InjectedFault("chips_swapped", "gross", (1, 2)))
    np.testing.assert_array_equal(swapped[1], healthy[2])
    np.testing.assert_array_equal(swapped[2], healthy[1])
    doubled = images_of(exposure, InjectedFault("chip_duplicated", "gross", (2,)))
    np.testing.assert_array_equal(doubled[2], healthy[1])


def test_a_mislabelled_bias_shows_orders():
    pixels = images_of(expose("bias"), InjectedFault("mislabelled", "gross", (0,)))[0]
    assert np.percentile(pixels, 99) > 10_000


def test_a_dying_lamp_loses_thorium_and_keeps_argon():
    exposure = expose("arc")
    healthy, dying = (
        images_of(exposure, case)[0].astype(float)
        for case in (None, InjectedFault("lamp_dying", "gross", (0,)))
    )
    bright = healthy > 500
    ratio = (dying[bright] - 178) / (healthy[bright] - 178)
    assert (ratio < 0.5).mean() > 0.3
    assert (ratio > 1.5).mean() > 0.05


def test_an_arc_leaves_its_ghost_on_the_thick_chip_alone():
    exposure = expose("bias", "red")
    rng = np.random.default_rng(0)
    assert all(make_case(exposure, "remnant", "gross", rng).hdus == (1,) for _ in range(5))
    assert "remnant" not in {fault.kind for fault in possible_faults(expose("bias", "blue"))}


def test_the_first_frame_of_a_set_repeats_none():
    kinds = [{fault.kind for fault in possible_faults(expose("bias", number=n))} for n in (1, 2)]
    assert "frame_repeated" not in kinds[0]
    assert "frame_repeated" in kinds[1]


@pytest.mark.parametrize(
    ("strength", "key"),
    [("gross", "ESO DPR TYPE"), ("moderate", "ESO DET WIN1 BINX"), ("faint", "EXPTIME")],
)
def test_a_missing_keyword_is_missing(strength, key):
    exposure = expose("flat")
    header = primary_header(exposure, state_at(exposure.start, seed=1))
    assert key in header
    spoil_header(header, InjectedFault("keyword_missing", strength, (0,)))
    assert key not in header


def test_a_misreported_binning_is_the_other_one():
    exposure = expose("flat")
    header = primary_header(exposure, state_at(exposure.start, seed=1))
    spoil_header(header, InjectedFault("binning_misreported", "gross", (0,)))
    assert (header["ESO DET WIN1 BINX"], header["ESO DET WIN1 BINY"]) == (1, 1)


def test_faults_are_drawn_as_often_as_asked_and_only_where_they_can_be_seen():
    exposure = expose("flat", "red")
    rng = np.random.default_rng(0)
    cases = [draw_case(exposure, 0.25, rng) for _ in range(2000)]
    drawn = [case for case in cases if case is not None]
    assert len(drawn) / len(cases) == pytest.approx(0.25, abs=0.03)
    assert {case.kind for case in drawn} == {fault.kind for fault in possible_faults(exposure)}
    assert all(case.strength in FAULTS[case.kind].classes["flat"] for case in drawn)
