"""Nothing that a file can hold may stop the night: a FrameError, or a frame."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qc.core.frame import Frame
from qc.errors import FrameError, UnreadableFrameError
from qc.io.frame_reader import read_frame
from tests.support.builders import (
    COMPRESS,
    Cards,
    cards,
    frame_bytes,
    pixels,
    short_uves,
    tile_compressed_bytes,
    write,
)

UVES = short_uves()
RED = (pixels(level=140), pixels(level=160))
BLUE_FILE = frame_bytes(cards(), pixels())
FILES = {
    "blue": BLUE_FILE,
    "red": frame_bytes(cards("red"), *RED),
    "tiles": tile_compressed_bytes(cards(), pixels()),
    **{suffix: compress(BLUE_FILE) for suffix, compress in COMPRESS.items() if suffix != ".fits"},
}
# One folder serves all examples of a test: each writes its file anew.
FUZZ = settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def read_or_refuse(folder: Path, content: bytes) -> Frame | FrameError:
    """Read a file of these bytes; whatever is not a FrameError fails the test by itself."""
    path = folder / "frame.fits"
    path.write_bytes(content)
    try:
        return read_frame(path, [UVES])
    except FrameError as error:
        refusal = error
    assert "\n" not in str(refusal)
    assert len(str(refusal)) < 2000
    return refusal


@pytest.mark.parametrize("name", FILES)
def test_file_cut_anywhere_is_refused(tmp_path, name):
    content = FILES[name]
    lengths = {0, 1, 2, 3, 9, 79, 80, 2879, 2880, 2881, len(content) // 2, len(content) - 1}
    for length in sorted(size for size in lengths if size < len(content)):
        assert isinstance(read_or_refuse(tmp_path, content[:length]), FrameError), length


@pytest.mark.parametrize("name", ["blue", "red"])
def test_file_cut_at_any_block_is_reported_as_unfinished(tmp_path, name):
    content = FILES[name]
    for length in range(2880, len(content), 2880):
        assert isinstance(read_or_refuse(tmp_path, content[:length]), FrameError), length


def test_message_contains_missing_bytes(tmp_path):
    refusal = read_or_refuse(tmp_path, BLUE_FILE[:-2880])
    assert isinstance(refusal, UnreadableFrameError)
    assert f"expected at least {len(BLUE_FILE)} bytes" in str(refusal)
    assert f"got a file of {len(BLUE_FILE) - 2880} bytes: still being written" in str(refusal)


@pytest.mark.parametrize("name", FILES)
@FUZZ
@given(data=st.data())
def test_flipped_bytes_are_read_or_refused(tmp_path, name, data):
    content = bytearray(FILES[name])
    places = st.one_of(st.integers(0, 6000), st.integers(0, len(content) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=8)):
        content[place % len(content)] ^= data.draw(st.integers(1, 255))
    read_or_refuse(tmp_path, bytes(content))


@pytest.mark.parametrize(
    "magic", [b"", b"SIMPLE  =", b"\x1f\x9d\x90", b"\x1f\x8b\x08\x00", b"BZh9"]
)
@FUZZ
@given(garbage=st.binary(max_size=6000))
def test_random_bytes_are_refused(tmp_path, magic, garbage):
    assert isinstance(read_or_refuse(tmp_path, magic + garbage), FrameError)


VALUES: Any = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=150),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)


@FUZZ
@given(changes=st.dictionaries(st.sampled_from(sorted(cards())), VALUES, max_size=6))
def test_any_keyword_value_is_read_or_refused(tmp_path, changes):
    read_or_refuse(tmp_path, frame_bytes({**cards(), **changes}, pixels()))


STRUCTURE = ["SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND", "BZERO", "BSCALE"]


@FUZZ
@given(
    keyword=st.sampled_from([*STRUCTURE, "PCOUNT", "GCOUNT", "ZIMAGE", "XTENSION"]),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
    | st.integers(-(10**19), 10**19).map(str)
    | st.sampled_from(["T", "F", "1.5", "1E400", "'IMAGE'", "-32", "8", "0", "1000"]),
)
def test_any_structural_keyword_is_read_or_refused(tmp_path, keyword, value):
    card = f"{keyword:8}= {value:>20}".ljust(80)[:80].encode()
    start = BLUE_FILE.find(f"{keyword:8}=".encode())
    if start < 0:
        content = BLUE_FILE[:240] + card + BLUE_FILE[240:]
        content = content[: BLUE_FILE.find(b"END" + b" " * 77) + 160] + content[-129600:]
    else:
        content = BLUE_FILE[:start] + card + BLUE_FILE[start + 80 :]
    read_or_refuse(tmp_path, content)


def test_random_groups_are_refused(tmp_path):
    place = BLUE_FILE.find(b"OBJECT")
    card = b"GCOUNT  =                    0".ljust(80)
    refusal = read_or_refuse(tmp_path, BLUE_FILE[:place] + card + BLUE_FILE[place + 80 :])
    assert "expected 128880 bytes of pixels in unit 0" in str(refusal)


@FUZZ
@given(card=st.binary(min_size=80, max_size=80))
def test_any_card_is_read_or_ignored(tmp_path, card):
    place = BLUE_FILE.find(b"OBJECT")
    read_or_refuse(tmp_path, BLUE_FILE[:place] + card + BLUE_FILE[place + 80 :])


@pytest.mark.parametrize(
    "card",
    [
        "HIERARCH",
        "HIERARCH ESO DPR TYPE",
        "HIERARCH ESO = = =",
        "HIERARCH ESO DPR TYPE = 'unclosed",
        "HIERARCH ESO DPR TYPE = 'LAMP,FLAT' / comment with ' in it",
        "HIERARCH  ESO  DPR  TYPE='LAMP,FLAT'",
        "CONTINUE  'of nothing'",
        "OBJECT  = 'a''b&'",
        "=       = 1",
        "\x00" * 80,
        "\xff" * 80,
    ],
)
def test_invalid_card_is_ignored(tmp_path, card):
    place = BLUE_FILE.find(b"OBJECT")
    odd = card.ljust(80).encode("latin-1")
    read_or_refuse(tmp_path, BLUE_FILE[:place] + odd + BLUE_FILE[place + 80 :])


def test_broken_decisive_card_counts_as_missing(tmp_path):
    refusal = read_or_refuse(tmp_path, BLUE_FILE.replace(b"'LAMP,FLAT'", b"'LAMP,FLAT ", 1))
    assert "missing or blank: DPR TYPE" in str(refusal)


def test_header_without_end_is_refused(tmp_path):
    refusal = read_or_refuse(tmp_path, b"SIMPLE  =" + b" " * 8_000_000)
    assert "expected the end of header 0" in str(refusal)


@pytest.mark.parametrize("trailing", [b"\0" * 2880, b" " * 100, b"garbage"])
def test_trailing_bytes_are_ignored(tmp_path, trailing):
    assert isinstance(read_or_refuse(tmp_path, BLUE_FILE + trailing), Frame)


def test_scaled_image_is_read(tmp_path):
    expected: Cards = {**cards(), "BSCALE": 0.5, "BZERO": 10.0}
    content = frame_bytes(cards(), pixels(dtype=np.int16))
    extra = b"".join(
        f"{key:8}= {expected[key]:>20}".ljust(80).encode() for key in ("BSCALE", "BZERO")
    )
    end = content.find(b"END" + b" " * 77)
    content = content[:end] + extra + content[end : end + 80] + content[end + 240 :]
    frame = read_or_refuse(tmp_path, content)
    assert isinstance(frame, Frame)
    assert frame.extensions[0].pixels.min() == 150 * 0.5 + 10


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(UnreadableFrameError, match="No such file"):
        read_frame(tmp_path / "absent.fits", [UVES])


def test_folder_is_refused(tmp_path):
    with pytest.raises(UnreadableFrameError, match="expected a file, got a directory"):
        read_frame(tmp_path, [UVES])


def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.fits")
    with pytest.raises(UnreadableFrameError, match="expected a file"):
        read_frame(tmp_path / "pipe.fits", [UVES])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_refused(tmp_path):
    path = write(tmp_path / "frame.fits", BLUE_FILE)
    path.chmod(0)
    with pytest.raises(UnreadableFrameError, match="Permission denied"):
        read_frame(path, [UVES])


def test_empty_file_is_refused(tmp_path):
    assert "the file is empty" in str(read_or_refuse(tmp_path, b""))


class GrowingPath(type(Path())):  # type: ignore[misc]
    """A file that is written to between being seen and being read."""

    def open(self, mode="r", *rest):
        with super().open("ab") as file:
            file.write(bytes(2880))
        return super().open(mode, *rest)


def test_growing_file_is_reported_as_unfinished(tmp_path):
    path = GrowingPath(write(tmp_path / "frame.fits", BLUE_FILE))
    with pytest.raises(UnreadableFrameError, match="changed meanwhile: still being written"):
        read_frame(path, [UVES])


def test_too_large_file_is_not_read(tmp_path):
    path = write(tmp_path / "frame.fits", BLUE_FILE)
    with pytest.raises(UnreadableFrameError, match="expected at most 1000 bytes"):
        read_frame(path, [UVES], max_bytes=1000)


def test_file_of_largest_size_is_read(tmp_path):
    path = write(tmp_path / "frame.fits.Z", BLUE_FILE)
    assert read_frame(path, [UVES], max_bytes=len(BLUE_FILE)).instrument == "UVES"
    with pytest.raises(UnreadableFrameError, match="uncompressed, got more"):
        read_frame(path, [UVES], max_bytes=len(BLUE_FILE) - 1)


@pytest.mark.parametrize("suffix", [".fits.Z", ".fits.gz", ".fits.bz2"])
def test_decompression_bomb_is_refused_early(tmp_path, suffix):
    mib = 2**20
    bomb = write(tmp_path / f"bomb{suffix}", bytes(128 * mib))
    assert bomb.stat().st_size < mib
    program = f"""
        from pathlib import Path
        from resource import RUSAGE_SELF, getrusage
        from qc.errors import UnreadableFrameError
        from qc.io import read_frame
        before_kib = getrusage(RUSAGE_SELF).ru_maxrss
        try:
            read_frame(Path({str(bomb)!r}), [], max_bytes={8 * mib})
        except UnreadableFrameError as error:
            print(error)
        print((getrusage(RUSAGE_SELF).ru_maxrss - before_kib) // 1024, "MiB")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refusal, grown = done.stdout.splitlines()
    assert f"expected at most {8 * mib} bytes uncompressed, got more" in refusal
    assert int(grown.split()[0]) < 64


def test_too_large_tiles_are_not_unpacked(tmp_path):
    content = tile_compressed_bytes(cards(), pixels())
    huge = content.replace(b"ZNAXIS1 =                 2148", b"ZNAXIS1 =            999999999", 1)
    assert huge != content
    assert isinstance(read_or_refuse(tmp_path, huge), FrameError)
