"""Real raw frames of seven instruments: each is read, or refused in one clear line.

They are not part of the repository; without them these tests are skipped.
"""

import csv
from pathlib import Path

import numpy as np
import pytest

from qc.core.frame import Frame
from qc.errors import (
    FrameError,
    IncompleteHeaderError,
    ShapeMismatchError,
    UnsupportedFrameError,
)
from qc.io.frame_reader import read_frame
from qc.io.instrument_files import read_instruments

FOLDER = Path(__file__).parents[3] / "shared" / "real"
MANIFEST = FOLDER / "MANIFEST.tsv"
INSTRUMENTS = read_instruments()
KINDS = {"bias": "bias", "flat-lamp": "flat", "flat-sky": "sky flat", "arc": "arc"}
WITHOUT_FILE = ("isis", "osiris", "sbig")

pytestmark = pytest.mark.skipif(not MANIFEST.exists(), reason=f"no real frames in {FOLDER}")


def listed(*folders: str) -> list[dict[str, str]]:
    if not MANIFEST.exists():
        return []
    with MANIFEST.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [row for row in rows if row["file"].split("/")[0] in folders]


def read_or_refuse(row: dict[str, str]) -> Frame | FrameError:
    try:
        return read_frame(FOLDER / row["file"], INSTRUMENTS)
    except FrameError as error:
        return error


def file_name(row: dict[str, str]) -> str:
    return row["file"]


@pytest.mark.parametrize("row", listed("alfosc_fasu", "deveny", "efosc2", "sprat"), ids=file_name)
def test_frame_matches_the_manifest(row):
    result = read_or_refuse(row)
    if row["file"] == "alfosc_fasu/full_window_flat.fits.gz":
        assert isinstance(result, ShapeMismatchError)  # its instrument file lacks that window
        return
    if row["type"] == "science":
        assert isinstance(result, UnsupportedFrameError)
        assert "science" in str(result)
    else:
        assert isinstance(result, Frame), str(result)
        assert result.calibration == KINDS[row["type"]]


@pytest.mark.parametrize("row", listed("alfosc_fasu", "deveny", "efosc2", "sprat"), ids=file_name)
def test_pixel_shape_matches_the_manifest(row):
    result = read_or_refuse(row)
    if isinstance(result, Frame):
        [extension] = result.extensions
        assert "x".join(map(str, extension.pixels.shape)) == row["shape"]


@pytest.mark.parametrize("row", listed(*WITHOUT_FILE), ids=file_name)
def test_frame_of_unknown_instrument_is_refused(row):
    result = read_or_refuse(row)
    assert isinstance(result, UnsupportedFrameError | IncompleteHeaderError)
    assert "INSTRUME" in str(result)
    assert "\n" not in str(result)


def test_bias_with_dark_header_is_recognised():
    [first, *_] = listed("efosc2")
    frame = read_or_refuse(first)
    assert isinstance(frame, Frame)
    assert (frame.header["DPR TYPE"], frame.exposure_s) == ("DARK", 0)
    assert frame.extensions[0].setup.image_type == "EB0"
    assert frame.extensions[0].promised_light == 0


def test_overscan_level_matches_the_instrument_file():
    for row in listed("efosc2", "deveny"):
        frame = read_or_refuse(row)
        if isinstance(frame, Frame):
            [extension] = frame.extensions
            assert extension.overscan is not None
            level_adu = np.median(extension.pixels[extension.overscan])
            low, high = extension.limits["bias_level"]
            assert low < level_adu < high, row["file"]


def test_afternoon_frames_belong_to_the_following_night():
    nights = {
        frame.night.isoformat()
        for frame in map(read_or_refuse, listed("efosc2")[:5])
        if isinstance(frame, Frame)
    }
    assert nights == {"2022-01-26"}
