from datetime import UTC, date, datetime
from importlib import resources

import pytest

from qc.detection.metrics import METRICS
from qc.errors import ConfigurationError
from qc.io.conditions import matches
from qc.io.instrument_files import read_instrument, read_instruments
from qc.io.instrument_parts import Area
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
def test_every_pipeline_class_has_a_letter(dpr_type, dpr_tech, letter):
    header = {"DPR CATG": "CALIB", "DPR TYPE": dpr_type, "DPR TECH": dpr_tech}
    calibration = UVES.recognise_calibration(header)
    assert calibration is not None
    assert calibration.letter == letter


@pytest.mark.parametrize("image_type", [*BIASES, *ARCS, *FLATS])
def test_every_image_type_of_the_old_system_exists(image_type):
    assert image_type in UVES.image_types()


def test_image_type_has_its_calibration():
    calibration = UVES.calibration_of("UD1BDF0")
    assert calibration is not None
    assert (calibration.name, calibration.frame_class) == ("dflat", "flat")
    assert UVES.calibration_of("XYZ") is None


def test_image_types_are_unique():
    spelt = [
        (UVES.compose_image_type(kind, mode, UVES.arms[layout.arm], section.number), kind.name)
        for kind in UVES.calibrations
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
def test_condition_matches_all_keywords(condition, header, holds):
    assert matches((condition,), header) is holds


def test_empty_conditions_match():
    assert matches((), {})


def test_first_condition_decides_the_arm():
    assert UVES.recognise_arm({"DET CHIPS": 1, "INS PATH": "RED", "IMAGES": 2}) == "blue"
    assert UVES.recognise_arm({"INS PATH": "RED", "DET NAME": "ccdUvB - uvesb"}) == "red"
    assert UVES.recognise_arm({}) is None


def test_area_contains_whole_binned_pixels():
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
def test_night_lasts_from_22_to_22_ut(utc, night):
    assert UVES.night_of(utc) == night


def test_calibrations_are_due_at_20_ut_and_darks_at_22():
    night, dark = date(2024, 3, 16), UVES.calibration_of("UBD0")
    assert UVES.night_ends(night) == datetime(2024, 3, 17, 22, tzinfo=UTC)
    assert UVES.due_at(night, UVES.calibration_of("UBB0")) == datetime(2024, 3, 17, 20, tzinfo=UTC)
    assert UVES.due_at(night, dark) == datetime(2024, 3, 17, 22, tzinfo=UTC)


def test_due_time_defaults_to_the_end_of_the_night(edited):
    edited_uves = edited("calibrations_due_utc_hour: 20\n", "")
    assert edited_uves.due_at(date(2024, 3, 16)) == edited_uves.night_ends(date(2024, 3, 16))


def test_due_hour_before_midnight_is_in_the_evening(edited):
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
    [calibration] = [kind for kind in UVES.calibrations if kind.name == name]
    return UVES.standard_exposure_s(
        calibration,
        wavelength_nm=wavelength_nm,
        slit_arcsec=slit_arcsec,
        mode=UVES.recognise_mode({}),
        read_mode=read_mode,
        binning=binning,
    )


def test_standard_exposures_match_the_manual():
    assert standard_s("flat", 346) == 22
    assert standard_s("flat", 437) == 100
    assert standard_s("flat", 860) == 22
    assert standard_s("dflat", 346) == 145
    assert standard_s("arc", 580) == 30


def test_binned_high_gain_exposure_is_a_twelfth():
    assert standard_s("flat", 760, read_mode="50kHz high", binning="2x2") == 2


def test_slit_width_scales_flats_only():
    assert standard_s("flat", 346, slit_arcsec=0.5) == 44
    assert standard_s("arc", 346, slit_arcsec=0.5) == 22


def test_calibration_plan_values():
    plan = {kind.name: (kind.expected_every_days, kind.set_size) for kind in UVES.calibrations}
    assert plan["bias"] == (7, 5)
    assert plan["flat"] == (3, 5)
    assert plan["arc"] == (1, 1)
    assert plan["dark"] == (30, 3)
    assert plan["tflat"] == (None, 1)


def test_chip_numbers_are_within_limits():
    for chip in UVES.chips.values():
        for numbers in chip.read_modes.values():
            for promised, name in (
                (numbers.bias_adu, "bias_level"),
                (numbers.read_noise_adu, "read_noise"),
            ):
                low, high = numbers.limits[name]
                assert low < promised < high


def test_limits_name_existing_metrics():
    for instrument in read_instruments():
        chips = instrument.chips.values()
        limits = [numbers.limits for chip in chips for numbers in chip.read_modes.values()]
        limits += [calibration.limits for calibration in instrument.calibrations]
        assert all(entry.keys() <= METRICS.keys() for entry in limits)


def test_simulated_chips_match_the_file():
    for name, simulated in CHIPS.items():
        described = UVES.chips[name].read_modes
        assert described.keys() == simulated.modes.keys()
        for mode, promised in described.items():
            read = simulated.modes[mode]
            assert promised.gain_e_per_adu == read.gain_e_per_adu
            assert promised.bias_adu == read.bias_adu
            assert promised.read_noise_adu == pytest.approx(read.read_noise_adu, abs=0.1)


def test_simulated_faults_have_kinds():
    families = {"dflat": "flat", "orderdef": "flat", "fmtchk": "arc"}
    offered = {kind.name: kind for kind in UVES.fault_kinds()}
    for fault in FAULTS.values():
        kind = offered[fault.kind]
        assert kind.sentence == fault.description
        assert {families.get(name, name) for name in fault.classes} <= set(kind.classes)


def test_universal_fault_kinds_exist():
    for instrument in read_instruments():
        for frame_class in (None, "bias", "flat", "arc"):
            names = [kind.name for kind in instrument.fault_kinds(frame_class)]
            assert names[-2:] == ["other", "needs_discussion"]
            assert len(names) == len(set(names))


def test_fault_kinds_depend_on_frame_class():
    biases = {kind.name for kind in UVES.fault_kinds("bias")}
    flats = {kind.name for kind in UVES.fault_kinds("flat")}
    assert "hot_column" in biases - flats
    assert "lamp_off" in flats - biases


def test_packaged_files_are_valid():
    assert [instrument.name for instrument in read_instruments()] == [
        "ALFOSC",
        "DeVeny",
        "EFOSC2",
        "SPRAT",
        "UVES",
    ]


def test_custom_file_replaces_packaged_file(tmp_path):
    text = (PACKAGED / "uves.yaml").read_text(encoding="utf-8")
    (tmp_path / "uves.yaml").write_text(text.replace("name: UVES", "name: My UVES", 1))
    names = [instrument.name for instrument in read_instruments(tmp_path)]
    assert names == ["My UVES", "ALFOSC", "DeVeny", "EFOSC2", "SPRAT"]


def test_missing_folder_is_reported(tmp_path):
    with pytest.raises(ConfigurationError, match="absent: cannot list instrument files"):
        read_instruments(tmp_path / "absent")


def test_unknown_key_is_reported_with_line(edited):
    with pytest.raises(ConfigurationError, match=r"line \d+: prefx: Unexpected keyword"):
        edited("prefix: U", "prefx: U")


def test_missing_key_is_reported_with_path(edited):
    with pytest.raises(ConfigurationError, match=r"edited.yaml, line 1: prefix: .*required"):
        edited("prefix: U\n", "")


def test_missing_nested_key_is_reported_with_line(edited):
    complaint = r"line (\d+): chips.BLUE.read_modes.225kHz low.gain_e_per_adu: .*required"
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        edited("        gain_e_per_adu: 1.84\n", "")
    line = int(str(caught.value).split("line ")[1].split(":")[0])
    text = (PACKAGED / "uves.yaml").read_text(encoding="utf-8").splitlines()
    assert text[line - 1].strip() == "225kHz low:"


def test_value_of_wrong_type_is_reported(edited):
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
def test_invalid_value_is_reported(edited, old, new, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        edited(old, new)


def test_undescribed_name_is_reported(edited):
    with pytest.raises(ConfigurationError, match="layouts: unknown name 'GREEN'"):
        edited("chip: REDL", "chip: GREEN")


def test_duplicate_key_is_reported(edited):
    with pytest.raises(ConfigurationError, match=r"line \d+: found duplicate key"):
        edited("prefix: U\n", "prefix: U\nprefix: V\n")


def test_broken_yaml_is_reported_with_line(edited):
    with pytest.raises(ConfigurationError, match=r"edited.yaml, line \d+: "):
        edited("match: {INSTRUME: UVES}", "match: {INSTRUME: [UVES}")


@pytest.mark.parametrize("text", ["", "- a list", "just text", "\x00"])
def test_other_content_is_reported(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"odd\.yaml"):
        read_instrument(path)


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent\.yaml: cannot be read"):
        read_instrument(tmp_path / "absent.yaml")
