from datetime import UTC, date, datetime
from importlib import resources

import pytest

from qc.detection.metrics import METRICS
from qc.errors import ConfigurationError
from qc.io.instruments import Area, matches, read_instrument, read_instruments
from qc.simulator.detector import CHIPS
from qc.simulator.faults import FAULTS

PACKAGED = resources.files("qc.io") / "instruments"
UVES = read_instrument(PACKAGED / "uves.yaml")
BIASES = ["UBB0", "URB1", "URB2"]
ARCS = ["UBW0", "UBW1", "UBW2", "URW1", "URW2"]
FLATS = ["UD1BF0", "UD1BDF0", "UD1RF1", "UD1RF2", "UBF0", "URF1", "URF2"]


@pytest.fixture
def edited(tmp_path):
    """Read UVES's file after a change to its text."""

    def edit(old, new):
        text = (PACKAGED / "uves.yaml").read_text(encoding="utf-8")
        assert old in text
        path = tmp_path / "edited.yaml"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return read_instrument(path)

    return edit


@pytest.mark.parametrize(
    ("dpr_type", "dpr_tech", "letter"),
    [
        ("BIAS", "IMAGE", "B"),
        ("DARK", "IMAGE", "D"),
        ("PARASITIC", "IMAGE", "P"),
        ("LAMP,FLAT", "ECHELLE", "F"),
        ("LAMP,DFLAT", "ECHELLE", "DF"),
        ("LAMP,IFLAT", "ECHELLE,ABSORPTION-CELL", "I"),
        ("LAMP,TFLAT", "ECHELLE", "TF"),
        ("LAMP,TFLAT", "ECHELLE,SLIC#1", "TF"),
        ("LAMP,SFLAT", "ECHELLE", "SF"),
        ("LAMP,FLAT", "ECHELLE,SLIC#2", "LF"),
        ("LAMP,DFLAT", "ECHELLE,SLIC#3", "LDF"),
        ("LAMP,WAVE", "ECHELLE", "W"),
        ("LAMP,ORDERDEF", "ECHELLE", "O"),
        ("LAMP,FMTCHK", "ECHELLE", "K"),
        ("LAMP,CDALIGN", "SPECTRUM", "A"),
    ],
)
def test_every_class_of_the_pipelines_rules_has_a_letter(dpr_type, dpr_tech, letter):
    header = {"DPR CATG": "CALIB", "DPR TYPE": dpr_type, "DPR TECH": dpr_tech}
    calibration = UVES.calibration(header)
    assert calibration is not None
    assert calibration.letter == letter


@pytest.mark.parametrize("image_type", [*BIASES, *ARCS, *FLATS])
def test_every_image_type_of_the_forerunner_can_occur(image_type):
    assert image_type in UVES.image_types()


def test_an_image_type_leads_back_to_its_calibration():
    calibration = UVES.calibration_of("UD1BDF0")
    assert calibration is not None
    assert (calibration.name, calibration.frame_class) == ("dflat", "flat")
    assert UVES.calibration_of("XYZ") is None


def test_image_types_of_different_calibrations_never_collide():
    spelt = [
        (UVES.image_type(one, mode, UVES.arms[layout.arm], section.number), one.name)
        for one in UVES.calibrations
        for mode in UVES.modes
        for layout in UVES.layouts
        for section in layout.sections
    ]
    assert len(set(spelt)) == len({image_type for image_type, _ in spelt})


@pytest.mark.parametrize(
    ("condition", "header", "holds"),
    [
        ({"A": ("x",)}, {"A": "X"}, True),
        ({"A": ("x",)}, {"A": "xy"}, False),
        ({"A": ("*,SLIC#*",)}, {"A": "ECHELLE,SLIC#1"}, True),
        ({"A": ("x", "y")}, {"A": "y"}, True),
        ({"A": ("x",), "B": (1,)}, {"A": "x", "B": 1}, True),
        ({"A": ("x",), "B": (1,)}, {"A": "x"}, False),
        ({"A": (None,)}, {}, True),
        ({"A": (None,)}, {"A": 0}, False),
        ({"A": (1,)}, {"A": "1"}, False),
        ({"A": (">=3",)}, {"A": 3}, True),
        ({"A": (">=3",)}, {"A": 2}, False),
        ({"A": ("<=0.001",)}, {"A": "none"}, False),
    ],
)
def test_a_condition_holds_when_every_keyword_has_one_of_its_values(condition, header, holds):
    assert matches((condition,), header) is holds


def test_without_conditions_everything_matches():
    assert matches((), {})


def test_the_surest_sign_of_the_arm_counts():
    assert UVES.arm_name({"DET CHIPS": 1, "INS PATH": "RED", "IMAGES": 2}) == "blue"
    assert UVES.arm_name({"INS PATH": "RED", "DET NAME": "ccdUvB - uvesb"}) == "red"
    assert UVES.arm_name({}) is None


def test_an_area_keeps_whole_binned_pixels_only():
    assert Area(columns=(51, 2098)).slices((10, 1074), (2, 1)) == (slice(0, 10), slice(26, 1049))
    assert Area().slices((10, 20), (2, 2)) == (slice(0, 10), slice(0, 20))


@pytest.mark.parametrize(
    ("utc", "night"),
    [
        (datetime(2024, 3, 17, 21, 59, tzinfo=UTC), date(2024, 3, 16)),
        (datetime(2024, 3, 17, 22, 0, tzinfo=UTC), date(2024, 3, 17)),
        (datetime(2024, 3, 18, 3, 0, tzinfo=UTC), date(2024, 3, 17)),
        (datetime(2024, 1, 1, 9, 0, tzinfo=UTC), date(2023, 12, 31)),
    ],
)
def test_a_night_lasts_from_22_to_22_hours(utc, night):
    assert UVES.night_of(utc) == night


def test_what_a_night_brings_is_due_at_20_hours_and_a_dark_at_its_end():
    night, dark = date(2024, 3, 16), UVES.calibration_of("UBD0")
    assert UVES.night_ends(night) == datetime(2024, 3, 17, 22, tzinfo=UTC)
    assert UVES.due_at(night, UVES.calibration_of("UBB0")) == datetime(2024, 3, 17, 20, tzinfo=UTC)
    assert UVES.due_at(night, dark) == datetime(2024, 3, 17, 22, tzinfo=UTC)


def test_without_an_hour_everything_is_due_at_the_end_of_the_night(edited):
    edited_uves = edited("calibrations_due_utc_hour: 20\n", "")
    assert edited_uves.due_at(date(2024, 3, 16)) == edited_uves.night_ends(date(2024, 3, 16))


def test_an_hour_before_midnight_utc_is_of_the_evening(edited):
    edited_uves = edited("calibrations_due_utc_hour: 20", "calibrations_due_utc_hour: 23.5")
    assert edited_uves.due_at(date(2024, 3, 16)) == datetime(2024, 3, 16, 23, 30, tzinfo=UTC)


def standard_s(
    name: str,
    wavelength_nm: float,
    *,
    slit_arcsec: float = 1.0,
    read_mode: str = "225kHz low",
    binning: str = "1x1",
) -> float:
    [calibration] = [one for one in UVES.calibrations if one.name == name]
    return UVES.standard_exposure_s(
        calibration,
        wavelength_nm=wavelength_nm,
        slit_arcsec=slit_arcsec,
        mode=UVES.mode({}),
        read_mode=read_mode,
        binning=binning,
    )


def test_standard_exposures_are_the_manuals():
    assert standard_s("flat", 346) == 22
    assert standard_s("flat", 437) == 100
    assert standard_s("flat", 860) == 22
    assert standard_s("dflat", 346) == 145
    assert standard_s("arc", 580) == 30


def test_binning_at_high_gain_needs_a_twelfth():
    assert standard_s("flat", 760, read_mode="50kHz high", binning="2x2") == 2


def test_half_the_slit_needs_twice_the_exposure_of_a_flat_but_not_of_an_arc():
    assert standard_s("flat", 346, slit_arcsec=0.5) == 44
    assert standard_s("arc", 346, slit_arcsec=0.5) == 22


def test_the_plan_says_how_often_and_how_many():
    plan = {one.name: (one.expected_every_days, one.set_size) for one in UVES.calibrations}
    assert plan["bias"] == (7, 5)
    assert plan["flat"] == (3, 5)
    assert plan["arc"] == (1, 1)
    assert plan["dark"] == (30, 3)
    assert plan["tflat"] == (None, 1)


def test_every_chip_passes_its_own_limits():
    for chip in UVES.chips.values():
        for numbers in chip.read_modes.values():
            for promised, name in (
                (numbers.bias_adu, "bias_level"),
                (numbers.read_noise_adu, "read_noise"),
            ):
                low, high = numbers.limits[name]
                assert low < promised < high


def test_limits_are_set_on_numbers_that_are_measured():
    for instrument in read_instruments():
        chips = instrument.chips.values()
        limits = [numbers.limits for chip in chips for numbers in chip.read_modes.values()]
        limits += [calibration.limits for calibration in instrument.calibrations]
        assert all(one.keys() <= METRICS.keys() for one in limits)


def test_the_simulated_chips_are_the_ones_that_the_file_describes():
    for name, simulated in CHIPS.items():
        described = UVES.chips[name].read_modes
        assert described.keys() == simulated.modes.keys()
        for mode, promised in described.items():
            read = simulated.modes[mode]
            assert promised.gain_e_per_adu == read.gain_e_per_adu
            assert promised.bias_adu == read.bias_adu
            assert promised.read_noise_adu == pytest.approx(read.read_noise_adu, abs=0.1)


def test_every_simulated_fault_has_a_name_that_people_can_give():
    families = {"dflat": "flat", "orderdef": "flat", "fmtchk": "arc"}
    offered = {kind.name: kind for kind in UVES.fault_kinds()}
    for fault in FAULTS.values():
        kind = offered[fault.kind]
        assert kind.sentence == fault.description
        assert {families.get(name, name) for name in fault.classes} <= set(kind.classes)


def test_people_can_always_call_a_fault_other_or_ask_for_discussion():
    for instrument in read_instruments():
        for frame_class in (None, "bias", "flat", "arc"):
            names = [kind.name for kind in instrument.fault_kinds(frame_class)]
            assert names[-2:] == ["other", "needs_discussion"]
            assert len(names) == len(set(names))


def test_only_the_kinds_of_its_class_are_offered_for_a_frame():
    biases = {kind.name for kind in UVES.fault_kinds("bias")}
    flats = {kind.name for kind in UVES.fault_kinds("flat")}
    assert "hot_column" in biases - flats
    assert "lamp_off" in flats - biases


def test_every_packaged_file_is_read():
    assert [one.name for one in read_instruments()] == [
        "ALFOSC",
        "DeVeny",
        "EFOSC2",
        "SPRAT",
        "UVES",
    ]


def test_a_file_of_ones_own_replaces_the_packaged_one_of_its_name(tmp_path):
    text = (PACKAGED / "uves.yaml").read_text(encoding="utf-8")
    (tmp_path / "uves.yaml").write_text(text.replace("name: UVES", "name: My UVES", 1))
    names = [one.name for one in read_instruments(tmp_path)]
    assert names == ["My UVES", "ALFOSC", "DeVeny", "EFOSC2", "SPRAT"]


def test_an_absent_folder_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match="absent: cannot list instrument files"):
        read_instruments(tmp_path / "absent")


def test_an_unknown_key_is_told_with_its_line(edited):
    with pytest.raises(ConfigurationError, match=r"line \d+: prefx: Unexpected keyword"):
        edited("prefix: U", "prefx: U")


def test_a_missing_key_is_told_with_its_place(edited):
    with pytest.raises(ConfigurationError, match=r"edited.yaml, line 1: prefix: .*required"):
        edited("prefix: U\n", "")


def test_a_missing_key_deep_inside_is_told_with_the_line_of_what_lacks_it(edited):
    complaint = r"line (\d+): chips.BLUE.read_modes.225kHz low.gain_e_per_adu: .*required"
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        edited("        gain_e_per_adu: 1.84\n", "")
    line = int(str(caught.value).split("line ")[1].split(":")[0])
    text = (PACKAGED / "uves.yaml").read_text(encoding="utf-8").splitlines()
    assert text[line - 1].strip() == "225kHz low:"


def test_a_value_of_the_wrong_kind_is_told(edited):
    with pytest.raises(ConfigurationError, match=r"night_starts_utc_hour: .*number"):
        edited("night_starts_utc_hour: 22", "night_starts_utc_hour: late")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("America/Santiago", "America/Nowhere", "time_zone: .*no time zone"),
        ("night_starts_utc_hour: 22", "night_starts_utc_hour: 24", "less than 24"),
        ("calibrations_due_utc_hour: 20", "calibrations_due_utc_hour: -1", "greater than or equal"),
        ("set_stopped_after_min: 60", "set_stopped_after_min: 0", "greater than 0"),
        ("    due_utc_hour: 22 ", "    due_utc_hour: 25 ", "less than 24"),
        ("least_recall: 0.9", "least_recall: 1", r"least_recall: .*less than 1"),
        ("nights: 7}", "nights: 0}", r"self_test.nights: .*greater than or equal to 1"),
        ("nights: 7}", "days: 7}", r"self_test.days: "),
        ("deuterium: {346: 145}", "deuterium: {346: 0}", "deuterium.* greater than 0"),
        ('HDUS: ">=4"', 'HDUS: ">=many"', "HDUS.*could not convert"),
    ],
)
def test_a_value_that_cannot_be_is_told(edited, old, new, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        edited(old, new)


def test_a_name_that_nothing_describes_is_told(edited):
    with pytest.raises(ConfigurationError, match="layouts: unknown name 'GREEN'"):
        edited("chip: REDL", "chip: GREEN")


def test_a_key_given_twice_is_told(edited):
    with pytest.raises(ConfigurationError, match=r"line \d+: found duplicate key"):
        edited("prefix: U\n", "prefix: U\nprefix: V\n")


def test_broken_yaml_is_told_with_its_line(edited):
    with pytest.raises(ConfigurationError, match=r"edited.yaml, line \d+: "):
        edited("match: {INSTRUME: UVES}", "match: {INSTRUME: [UVES}")


@pytest.mark.parametrize("text", ["", "- a list", "just text", "\x00"])
def test_a_file_of_something_else_is_told(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"odd\.yaml"):
        read_instrument(path)


def test_an_absent_file_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent\.yaml: cannot be read"):
        read_instrument(tmp_path / "absent.yaml")
