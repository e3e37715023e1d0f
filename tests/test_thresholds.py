import textwrap
from datetime import date

import pytest

from qc.errors import ConfigurationError, IncompleteHeader
from qc.installation import shipped
from qc.instruments import read_instruments
from qc.thresholds import Thresholds, read_thresholds

TYPES = ["UBB0", "URB1"]
GOOD = """\
# the scientist's own words
UBB0:
  - from: 2010-01-01
    encoder: e1
    merge_height: 1.2e-4
    false_alarms: 0.001
    metrics: &bias
      bias_level: {warn: 4, alarm: 8}
    why: the first
    by: me
    residual: 10
  - from: 2020-01-01
    encoder: e1
    merge_height: 0.0002
    false_alarms: 0.001
    metrics: *bias
    why: a new chip
    by: me
    residual: 10
  - from: 2020-01-01
    encoder: e2
    merge_height: 0.3
    false_alarms: 0.001
    metrics: {}
    why: another network
    by: me
    residual: 10
URB1:
  - {from: 2010-01-01, encoder: e1, merge_height: 1, residual: 9, false_alarms: 0.1, metrics: {},
     why: x, by: me}
  - {from: 2010-01-01, encoder: e2, merge_height: 1, residual: 9, false_alarms: 0.1, metrics: {},
     why: x, by: me}
"""


def read(path, text, types=TYPES) -> Thresholds:
    file = path / "thresholds.yaml"
    file.write_text(text)
    return read_thresholds(file, types)


@pytest.mark.parametrize(
    ("night", "encoder", "height"),
    [
        (date(2010, 1, 1), "e1", 0.00012),
        (date(2019, 12, 31), "e1", 0.00012),
        (date(2020, 1, 1), "e1", 0.0002),
        (date(2099, 1, 1), "e1", 0.0002),
        (date(2020, 1, 1), "e2", 0.3),
    ],
)
def test_the_newest_entry_of_the_encoder_not_later_than_the_night_applies(
    tmp_path, night, encoder, height
):
    assert read(tmp_path, GOOD).threshold("UBB0", night, encoder).merge_height == height


def test_limits_that_are_shared_by_an_anchor_are_the_same(tmp_path):
    first, second, _ = read(tmp_path, GOOD).entries["UBB0"]
    assert first.metrics == second.metrics
    assert (first.metrics["bias_level"].warn, first.metrics["bias_level"].alarm) == (4, 8)


def test_a_key_may_name_several_image_types(tmp_path):
    text = GOOD.split("URB1:", maxsplit=1)[0].replace("UBB0:", "UBB0 URB1:")
    thresholds = read(tmp_path, text)
    assert thresholds.entries["UBB0"] == thresholds.entries["URB1"]


def test_the_digest_is_that_of_the_bytes(tmp_path):
    one, other = read(tmp_path, GOOD), read(tmp_path, GOOD + "# a word more\n")
    assert one.digest != other.digest
    assert len(one.digest) == 64


def test_a_frame_older_than_every_entry_is_at_fault_itself(tmp_path):
    with pytest.raises(IncompleteHeader, match="UBB0 of the night 2009-12-31: its thresholds beg"):
        read(tmp_path, GOOD).threshold("UBB0", date(2009, 12, 31), "e1")


def test_an_encoder_without_entries_is_told_for_all_types_at_once(tmp_path):
    with pytest.raises(ConfigurationError, match=r"UBB0 URB1: no entry for encoder e3 .* e1, e2"):
        read(tmp_path, GOOD).threshold("UBB0", date(2020, 1, 1), "e3")


# One change to the good file each; the line that the message must name; its key and its words.
MISTAKES = {
    "an unknown key": ("    why: the first", "    wy: the first", 9, "UBB0: 0: wy: Extra"),
    "a missing key": ("    by: me\n", "", 3, "UBB0: 0: by: Field req"),
    "a date that is none": ("from: 2010-01-01", "from: 2010-13-01", 3, "UBB0: 0: from: Input"),
    "a height of zero": ("1.2e-4", "0", 5, "UBB0: 0: merge_height: Input should be greater"),
    "a residual of zero": ("residual: 10", "residual: 0", 11, "UBB0: 0: residual: Input should"),
    "a height above two": ("1.2e-4", "2.1", 5, "UBB0: 0: merge_height: Input should be less"),
    "a height that is no number": ("1.2e-4", "low", 5, "UBB0: 0: merge_height: Input should be"),
    "a height of nan": ("1.2e-4", ".nan", 5, "UBB0: 0: merge_height: Input should be"),
    "a rate of one": ("false_alarms: 0.001", "false_alarms: 1", 6, "UBB0: 0: false_alarms: Inp"),
    "a warning above the alarm": ("warn: 4", "warn: 9", 8, "UBB0: 0: metrics: bias_level: Value"),
    "a limit without an alarm": (", alarm: 8", "", 8, "bias_level: alarm: Field required"),
    "an unknown metric": ("bias_level:", "bias_levl:", 8, "metrics: bias_levl: Value error, no su"),
    "an empty reason": ("why: the first", "why: ''", 9, "UBB0: 0: why: String should have at"),
    "dates out of order": ("from: 2010", "from: 2021", 12, "UBB0: from: 2020-01-01 comes after"),
    "no entries": (GOOD, "UBB0: []\nURB1: []\n", 1, "UBB0: Tuple should have at least 1 item"),
    "a type that is none": ("URB1:", "URB1 URB7:", 28, "URB7: no instrument has this image type"),
    "a type twice": ("URB1:", "URB1 UBB0:", 28, "UBB0: is in an earlier key too"),
    "a list": (GOOD, "- a\n- b\n", 1, "the file: Input should be a valid dictionary"),
    "an empty file": (GOOD, "", 1, "the file: Input should be a valid dictionary"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_file_line_and_key(tmp_path, mistake):
    old, new, line, words = MISTAKES[mistake]
    with pytest.raises(ConfigurationError) as told:
        read(tmp_path, GOOD.replace(old, new, 1))
    message = str(told.value)
    assert message.startswith(f"{tmp_path / 'thresholds.yaml'}:{line}: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"UBB0: [", "line 1"),
        (b"UBB0:\n\t- from: 1", "line 2"),
        (b"UBB0: []\nUBB0: []\n", "duplicate key"),
        (b"\xff\xfe\x00broken", "cannot be read as YAML"),
        (b"UBB0: \xe9", "cannot be read as YAML"),
    ],
)
def test_what_is_no_yaml_is_told_in_one_line(tmp_path, content, words):
    file = tmp_path / "thresholds.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words) as told:
        read_thresholds(file, TYPES)
    assert "\n" not in str(told.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        read_thresholds(tmp_path / "none.yaml", TYPES)


def test_types_without_thresholds_are_named_together(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no thresholds for UBW0, URW1; add an entry"):
        read(tmp_path, GOOD, [*TYPES, "URW1", "UBW0"])


def test_nothing_in_the_file_is_executed(tmp_path):
    text = textwrap.dedent(f"""\
        UBB0: !!python/object/apply:os.system ["touch {tmp_path}/owned"]
        """)
    with pytest.raises(ConfigurationError):
        read(tmp_path, text)
    assert not (tmp_path / "owned").exists()


def test_the_thresholds_that_come_with_the_program_cover_every_instrument():
    path = shipped("thresholds.yaml")
    types = [name for one in read_instruments() for name in one.image_types()]
    thresholds = read_thresholds(path, types)
    encoders = {entry.encoder for entries in thresholds.entries.values() for entry in entries}
    for encoder in encoders:
        assert thresholds.threshold("UBB0", date(2026, 1, 1), encoder).merge_height > 0
