import hashlib
import pickle
from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest

from qc.core.frame import Frame
from qc.errors import (
    DeadDetectorError,
    IncompleteHeaderError,
    ShapeMismatchError,
    UnknownImageTypeError,
    UnsupportedFrameError,
)
from qc.io.frame_reader import read_frame
from tests.support.builders import (
    COMPRESS,
    ROWS,
    cards,
    frame_bytes,
    pixels,
    short_uves,
    tile_compressed_bytes,
    write,
)

UVES = short_uves()
RED = (pixels(level=140), pixels(level=160))


@pytest.fixture
def read(tmp_path):
    """Write a frame of these images and cards, and read it."""

    def write_and_read(spec, *images):
        path = write(tmp_path / "frame.fits", frame_bytes(spec, *(images or (pixels(),))))
        return read_frame(path, [UVES])

    return write_and_read


def image_types(frame: Frame) -> list[str]:
    return [extension.setup.image_type for extension in frame.extensions]


def test_blue_frame_has_extension_zero(read):
    frame = read(cards())
    [extension] = frame.extensions
    assert (extension.number, extension.setup.chip) == (0, "BLUE")
    assert extension.setup.image_type == "UBF0"


def test_red_frame_has_redu_then_redl(read):
    upper, lower = read(cards("red"), *RED).extensions
    assert (upper.number, upper.setup.chip, upper.pixels.min()) == (1, "REDU", 140)
    assert (lower.number, lower.setup.chip, lower.pixels.min()) == (2, "REDL", 160)


def test_setup_matches_the_header(read):
    [extension] = read(cards()).extensions
    setup = extension.setup
    assert (setup.binning, setup.read_mode) == ("1x1", "225kHz low")
    assert (setup.wavelength_nm, setup.slit_arcsec) == (437.0, 1.0)
    assert setup.optics == "CD#2 HER_5 10"


def test_encoder_jitter_keeps_the_setup(read):
    first = read(cards(INS_SLIT2_WID=1.0, INS_GRAT1_WLEN=437.0))
    second = read(cards(INS_SLIT2_WID=1.0004, INS_GRAT1_WLEN=437.01))
    assert first.extensions[0].setup == second.extensions[0].setup


def test_bias_setup_has_no_optics(read):
    [extension] = read(cards(dpr_type="BIAS", INS_MODE="DICHR#1", EXPTIME=0.0)).extensions
    setup = extension.setup
    assert setup.image_type == "UBB0"
    assert (setup.wavelength_nm, setup.slit_arcsec, setup.optics) == (None, None, "")
    assert extension.promised_light == 0


@pytest.mark.parametrize("spelling", ["DICHR#1", "DICHR#1 ", "DIC1"])
def test_dichroic_spellings_are_equal(read, spelling):
    assert image_types(read(cards("red", INS_MODE=spelling), *RED)) == ["UD1RF1", "UD1RF2"]


def test_pixels_stay_uint16_and_native(read):
    image = pixels()
    image[3, 4] = 65535
    [extension] = read(cards(), image).extensions
    assert extension.pixels.dtype == np.uint16
    assert extension.pixels.dtype.isnative
    assert np.array_equal(extension.pixels, image)


def test_wide_integers_become_float32(read):
    image = pixels(level=100_000, dtype=np.uint32)
    [extension] = read(cards(), image).extensions
    assert extension.pixels.dtype == np.float32
    assert extension.pixels.min() == 100_000


def test_signed_integers_keep_their_sign(read):
    [extension] = read(cards(), pixels(level=-5, dtype=np.int16)).extensions
    assert extension.pixels.min() == -5


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compression_keeps_pixels_and_digest(tmp_path, suffix):
    content = frame_bytes(cards("red"), *RED)
    frame = read_frame(write(tmp_path / f"a{suffix}", content), [UVES])
    assert frame.sha256 == hashlib.sha256(content).hexdigest()
    assert [np.array_equal(e.pixels, r) for e, r in zip(frame.extensions, RED, strict=True)]


def test_content_decides_the_compression(tmp_path):
    path = tmp_path / "a.fits"
    path.write_bytes(COMPRESS[".fits.Z"](frame_bytes(cards(), pixels())))
    assert image_types(read_frame(path, [UVES])) == ["UBF0"]


def test_tile_compressed_blue_frame_has_extension_zero(tmp_path):
    path = tmp_path / "a.fits.fz"
    path.write_bytes(tile_compressed_bytes(cards(), pixels()))
    [extension] = read_frame(path, [UVES]).extensions
    assert (extension.number, extension.setup.image_type) == (0, "UBF0")
    assert np.array_equal(extension.pixels, pixels())


def test_tile_compressed_red_frame_has_both_chips(tmp_path):
    path = tmp_path / "a.fits.fz"
    path.write_bytes(tile_compressed_bytes(cards("red"), *RED))
    frame = read_frame(path, [UVES])
    assert image_types(frame) == ["URF1", "URF2"]
    assert np.array_equal(frame.extensions[1].pixels, RED[1])
    assert frame.extensions[1].pixels.dtype == np.uint16


def test_old_red_image_is_split(read):
    frame = read(cards("red", DET_CHIP1_NAME=None), np.hstack(RED))
    assert image_types(frame) == ["URF1", "URF2"]
    assert [e.pixels.shape for e in frame.extensions] == [(ROWS, 2148)] * 2
    assert [e.pixels.min() for e in frame.extensions] == [140, 160]


def test_two_port_blue_frame_has_two_extensions(read):
    halves = pixels(nx=1124), pixels(nx=1124)
    spec = cards(DET_READ_CLOCK="625kHz/2port/low_gain", DET_READ_SPEED="2pt/625kHz/lg")
    assert image_types(read(spec, *halves)) == ["UBF1", "UBF2"]


@pytest.mark.parametrize(
    ("binning", "shape", "light", "prescan", "overscan"),
    [
        ((1, 1), (30, 2148), (50, 2098), (0, 42), (2106, 2148)),
        ((2, 2), (15, 1074), (25, 1049), (0, 21), (1053, 1074)),
        ((2, 3), (10, 1074), (25, 1049), (0, 21), (1053, 1074)),
        ((1, 2), (15, 2148), (50, 2098), (0, 42), (2106, 2148)),
    ],
)
def test_regions_scale_with_binning(read, binning, shape, light, prescan, overscan):
    spec = cards(DET_WIN1_BINX=binning[0], DET_WIN1_BINY=binning[1])
    [extension] = read(spec, pixels(*shape)).extensions
    whole = slice(0, shape[0])
    assert extension.light == (whole, slice(*light))
    assert extension.prescan == (whole, slice(*prescan))
    assert extension.overscan == (whole, slice(*overscan))


def test_binning_of_primary_header_counts(read):
    spec = cards("red", DET_WIN1_BINX=2, DET_WIN1_BINY=2)
    frame = read(spec, pixels(15, 1074), pixels(15, 1074))
    assert [e.setup.binning for e in frame.extensions] == ["2x2", "2x2"]


def test_expected_light_is_exposure_over_standard(read):
    # Manual: 9 s for a halogen flat at 580 nm, 1 arcsec, 1x1, low gain.
    assert read(cards("red", EXPTIME=9.0), *RED).extensions[0].promised_light == 1.0
    assert read(cards("red", EXPTIME=4.5), *RED).extensions[0].promised_light == 0.5


def test_slit_width_scales_expected_light_of_flats_only(read):
    flat = read(cards("red", INS_SLIT3_WID=2.0), *RED)
    arc = read(cards("red", "LAMP,WAVE", INS_SLIT3_WID=2.0, EXPTIME=30.0), *RED)
    assert flat.extensions[0].promised_light == 2.0
    assert arc.extensions[0].promised_light == 1.0


def test_dichroic_lengthens_the_standard_exposure(read):
    frame = read(cards("red", INS_MODE="DICHR#2", EXPTIME=9.9), *RED)
    assert frame.extensions[0].promised_light == pytest.approx(1)


def test_free_wavelength_uses_nearest_setting(read):
    frame = read(cards("red", INS_GRAT2_WLEN=855.0, EXPTIME=22.0), *RED)
    assert frame.extensions[0].promised_light == 1.0


def test_morning_frame_belongs_to_the_previous_night(read):
    frame = read(cards())
    assert frame.observed_at == datetime(2024, 3, 17, 11, 25, 15, 64000, tzinfo=UTC)
    assert frame.night == date(2024, 3, 16)


def test_frame_name_is_the_archive_name(read):
    assert read(cards()).name == "UVES.2024-03-17T11:25:15.063"


@pytest.mark.parametrize("arcfile", [None, "../../etc/passwd", "x" * 70, "a b"])
def test_invalid_archive_name_falls_back_to_file_name(read, arcfile):
    expected = "x" * 70 if arcfile == "x" * 70 else "frame"
    assert read(cards(ARCFILE=arcfile)).name == expected


def test_template_start_is_read(read):
    frame = read(cards())
    assert frame.template == "2024-03-17T11:24:31"
    assert (frame.template_number, frame.template_size) == (2, 5)


def test_frame_without_template_has_size_one(read):
    frame = read(cards(TPL_START=None, TPL_NEXP=None, TPL_EXPNO=None))
    assert (frame.template, frame.template_number, frame.template_size) == ("", 1, 1)


def test_blank_object_is_accepted(read):
    assert read(cards(OBJECT="")).object == ""
    assert read(cards(OBJECT="LAMP,FLAT")).object == "LAMP,FLAT"


def test_listed_keywords_are_stored(read):
    assert read(cards()).header["INS MODE"] == "BLUE"


@pytest.mark.parametrize(
    "sign",
    [
        {"INS_PATH": "RED"},
        {"ORIGFILE": "UVES_RED_BIAS077_0001.fits"},
        {"DET_CHIP1_NAME": "MIT-LL CCID-20"},
        {},
    ],
)
def test_any_condition_identifies_the_red_arm(read, sign):
    bare = {"DET_CHIPS": None, "INS_PATH": None, "INS_MODE": None}
    assert image_types(read(cards("red", "BIAS", **bare | sign), *RED)) == ["URB1", "URB2"]


@pytest.mark.parametrize(
    "sign", [{"ORIGFILE": "UVES_BLUE_BIAS077_0001.fits"}, {"DET_CHIP1_NAME": "EEV CCD-44"}]
)
def test_any_condition_identifies_the_blue_arm(read, sign):
    bare = {"DET_CHIPS": None, "INS_PATH": None, "INS_MODE": None}
    assert image_types(read(cards("blue", "BIAS", **bare | sign))) == ["UBB0"]


def test_frame_without_arm_is_refused(read):
    bare = {"DET_CHIPS": None, "INS_PATH": None, "INS_MODE": None}
    with pytest.raises(IncompleteHeaderError, match="expected a sign of blue or red"):
        read(cards("blue", "BIAS", **bare))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"DPR_CATG": "SCIENCE"}, "science"),
        ({"DPR_CATG": "test"}, "a test"),
        ({"DPR_TECH": "ECHELLE,MOS"}, "fibre mode"),
        ({"DPR_TYPE": "LAMP,FLAT,DETCHAR"}, "linearity"),
        ({"TPL_ID": "UVES_red_tec_ccdflat"}, "linearity"),
        ({"INSTRUME": "FORS2"}, "got INSTRUME = 'FORS2'"),
    ],
)
def test_skipped_frame_is_refused_with_reason(read, changes, why):
    with pytest.raises(UnsupportedFrameError, match=why):
        read(cards(**changes))


def test_unknown_calibration_is_refused(read):
    with pytest.raises(UnknownImageTypeError, match=r"expected one of bias, .* 'LAMP,LASER'"):
        read(cards(dpr_type="LAMP,LASER"))


def test_missing_keywords_are_listed(read):
    with pytest.raises(IncompleteHeaderError, match="missing or blank: EXPTIME, INS SLIT2 WID"):
        read(cards(EXPTIME=None, INS_SLIT2_WID=None))


def test_missing_type_keyword_is_named(read):
    with pytest.raises(IncompleteHeaderError, match="missing or blank: DPR TYPE"):
        read(cards(dpr_type=None))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"EXPTIME": "soon"}, "EXPTIME = 'soon': expected a number"),
        ({"EXPTIME": -1.0}, "EXPTIME = -1.0: expected a number"),
        ({"DATE-OBS": "yesterday"}, "DATE-OBS = 'yesterday': expected a date"),
        ({"DATE-OBS": "0001-01-01T00:00:00"}, "expected a date"),
        ({"DET_WIN1_BINX": 0}, "DET WIN1 BINX = 0"),
        ({"DET_READ_CLOCK": "1MHz", "DET_READ_SPEED": "1MHz"}, "expected a read mode of 225kHz"),
    ],
)
def test_implausible_value_is_quoted(read, changes, complaint):
    with pytest.raises(IncompleteHeaderError, match=complaint):
        read(cards(**changes))


def test_wrong_shape_is_reported_with_expected_shape(read):
    with pytest.raises(
        ShapeMismatchError, match=r"expected .* of 30x2148 .*, got 1 image of 30x1074"
    ):
        read(cards(), pixels(nx=1074))


def test_missing_chip_is_a_shape_mismatch(read):
    with pytest.raises(
        ShapeMismatchError, match=r"expected 2 images of 30x2148 .* got 1 image of 30x2148"
    ):
        read(cards("red"), RED[0])


def test_dead_chip_is_named(read):
    with pytest.raises(DeadDetectorError, match=r"every pixel of image 2 \(REDL\) is 0 ADU"):
        read(cards("red"), RED[0], np.zeros((ROWS, 2148), np.uint16))


def test_non_finite_pixels_are_refused(read):
    image = pixels(dtype=np.float32)
    image[1, 2] = np.nan
    with pytest.raises(DeadDetectorError, match=r"image 1 \(BLUE\): expected numbers"):
        read(cards(), image)


def test_error_is_one_line_with_the_file(read, tmp_path):
    with pytest.raises(UnsupportedFrameError) as caught:
        read(cards(DPR_CATG="SCIENCE"))
    assert str(caught.value).startswith(f"{tmp_path / 'frame.fits'}: ")
    assert "\n" not in str(caught.value)


def test_detector_depends_on_read_mode(read):
    upper, lower = read(cards("red"), *RED).extensions
    assert (upper.detector.gain_e_per_adu, lower.detector.gain_e_per_adu) == (1.4, 1.5)
    low, high = upper.limits["bias_level"]
    assert low < upper.detector.bias_adu < high


def test_frame_can_be_pickled(read):
    frame = read(cards())
    copy = pickle.loads(pickle.dumps(frame))
    assert replace(copy, extensions=()) == replace(frame, extensions=())
    assert np.array_equal(copy.extensions[0].pixels, frame.extensions[0].pixels)
