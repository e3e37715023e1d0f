import textwrap
from datetime import date

import pytest

from qc._files import packaged_path
from qc.detection.thresholds import Threshold, Thresholds, read_thresholds
from qc.detection.thresholds_file import write_entries
from qc.errors import ConfigurationError, IncompleteHeaderError
from qc.io.instrument_files import read_instruments

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
def test_threshold_is_newest_entry_of_encoder_and_night(tmp_path, night, encoder, height):
    assert read(tmp_path, GOOD).threshold("UBB0", night, encoder).merge_height == height


def test_entries_with_anchor_share_limits(tmp_path):
    first, second, _ = read(tmp_path, GOOD).entries["UBB0"]
    assert first.metrics == second.metrics
    assert (first.metrics["bias_level"].warn, first.metrics["bias_level"].alarm) == (4, 8)


def test_key_with_several_image_types_applies_to_all(tmp_path):
    text = GOOD.split("URB1:", maxsplit=1)[0].replace("UBB0:", "UBB0 URB1:")
    thresholds = read(tmp_path, text)
    assert thresholds.entries["UBB0"] == thresholds.entries["URB1"]


def test_digest_depends_on_bytes(tmp_path):
    first, second = read(tmp_path, GOOD), read(tmp_path, GOOD + "# a word more\n")
    assert first.digest != second.digest
    assert len(first.digest) == 64


def test_threshold_for_older_night_raises_frame_error(tmp_path):
    with pytest.raises(
        IncompleteHeaderError, match="UBB0 of the night 2009-12-31: its thresholds beg"
    ):
        read(tmp_path, GOOD).threshold("UBB0", date(2009, 12, 31), "e1")


def test_threshold_for_unknown_encoder_names_all_types(tmp_path):
    with pytest.raises(ConfigurationError, match=r"UBB0 URB1: no entry for encoder e3 .* e1, e2"):
        read(tmp_path, GOOD).threshold("UBB0", date(2020, 1, 1), "e3")


# One change to the good file each; the line that the message must name; its key and its text.
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
def test_invalid_file_error_names_file_line_and_key(tmp_path, mistake):
    old, new, line, expected = MISTAKES[mistake]
    with pytest.raises(ConfigurationError) as raised:
        read(tmp_path, GOOD.replace(old, new, 1))
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'thresholds.yaml'}:{line}: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"UBB0: [", "line 1"),
        (b"UBB0:\n\t- from: 1", "line 2"),
        (b"UBB0: []\nUBB0: []\n", "duplicate key"),
        (b"\xff\xfe\x00broken", "cannot be read as YAML"),
        (b"UBB0: \xe9", "cannot be read as YAML"),
    ],
)
def test_invalid_yaml_error_is_one_line(tmp_path, content, message):
    file = tmp_path / "thresholds.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as raised:
        read_thresholds(file, TYPES)
    assert "\n" not in str(raised.value)


def test_missing_file_raises_configuration_error(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        read_thresholds(tmp_path / "none.yaml", TYPES)


def test_missing_types_are_named_together(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no thresholds for UBW0, URW1; add an entry"):
        read(tmp_path, GOOD, [*TYPES, "URW1", "UBW0"])


def test_python_tag_in_file_is_not_executed(tmp_path):
    text = textwrap.dedent(f"""\
        UBB0: !!python/object/apply:os.system ["touch {tmp_path}/owned"]
        """)
    with pytest.raises(ConfigurationError):
        read(tmp_path, text)
    assert not (tmp_path / "owned").exists()


def test_packaged_thresholds_cover_every_instrument():
    path = packaged_path("thresholds.yaml")
    types = [name for instrument in read_instruments() for name in instrument.image_types()]
    thresholds = read_thresholds(path, types)
    encoders = {entry.encoder for entries in thresholds.entries.values() for entry in entries}
    for encoder in encoders:
        assert thresholds.threshold("UBB0", date(2026, 1, 1), encoder).merge_height > 0


SHARED = """\
# Read me first.

TB0 TF0:   # two types
  # about the first entry
  - from: 2010-01-01
    encoder: e1
    merge_height: 1.20e-4   # a scientist's number
    residual: 10
    false_alarms: 0.001
    metrics: &shared
      bias_level: {warn: 4, alarm: 8}   # ADU
    why: the first
    by: me
  # indented, behind the entry

# about the next
TW0:
- {from: 2010-01-01, encoder: e1, merge_height: 1, residual: 9, false_alarms: 0.1,
   metrics: *shared, why: 'it''s', by: me}   # a remark

TX0: [{from: 2010-01-01, encoder: e1, merge_height: 1, residual: 9, false_alarms: 0.1,
       metrics: {}, why: x, by: me}]
# the end
"""
SHARED_TYPES = ["TB0", "TF0", "TW0", "TX0"]


def entry(since=date(2020, 2, 29), encoder="e1", **changes) -> Threshold:
    limits = {
        "merge_height": 0.00025,
        "residual": 12.0,
        "false_alarms": 0.001,
        "metrics": {"bias_level": {"warn": 3.0, "alarm": 6.0}},
        "why": "tuned: no #comment, 'quotes' and \"more\"",
        "by": "A. Störer",
    }
    return Threshold.model_validate({"from": since, "encoder": encoder, **limits, **changes})


def assert_only_added(before: str, after: str) -> None:
    """Check that all lines of the old text occur in order, except for a split key."""
    lines = iter(after.splitlines())
    for line in before.splitlines():
        expected = line.replace("TB0 TF0:", "TB0:").removesuffix("}]")
        assert any(expected in candidate for candidate in lines), line


@pytest.mark.parametrize("name", SHARED_TYPES)
def test_new_entry_leaves_other_text_unchanged(tmp_path, name):
    text = SHARED if name != "TB0" else SHARED.replace("TB0 TF0:", "TF0 TB0:")
    before = read(tmp_path, text, SHARED_TYPES)
    write_entries(before, {name: entry()})
    after = read_thresholds(before.path, SHARED_TYPES)
    assert after.entries == {**before.entries, name: (*before.entries[name], entry())}
    assert_only_added(
        text.replace("TF0 TB0:", "TB0 TF0:"), before.path.read_text().replace("TF0:", "TB0:", 1)
    )


def test_split_key_keeps_anchor(tmp_path):
    before = read(tmp_path, SHARED, SHARED_TYPES)
    write_entries(before, {"TF0": entry()})
    text = before.path.read_text()
    assert "\nTB0:   # two types\n" in text
    section = text[text.index("\nTF0:\n") : text.index("# about the next")]
    assert section.count("metrics: *shared") == 1
    before.path.write_text(text.replace("alarm: 8}", "alarm: 9}"))
    after = read_thresholds(before.path, SHARED_TYPES)
    alarms = [after.entries[name][0].metrics["bias_level"].alarm for name in ("TB0", "TF0", "TW0")]
    assert alarms == [9, 9, 9]
    assert after.entries["TF0"][1].metrics["bias_level"].alarm == 6


def test_entries_are_written_repeatedly(tmp_path):
    thresholds = read(tmp_path, SHARED, SHARED_TYPES)
    for year in (2020, 2021):
        new = entry(date(year, 1, 1))
        write_entries(thresholds, dict.fromkeys(SHARED_TYPES, new))
        thresholds = read_thresholds(thresholds.path, SHARED_TYPES)
        assert all(entries[-1] == new for entries in thresholds.entries.values())
    assert {len(entries) for entries in thresholds.entries.values()} == {3}


def test_packaged_file_accepts_entry_for_every_type(tmp_path):
    types = [name for instrument in read_instruments() for name in instrument.image_types()]
    text = packaged_path("thresholds.yaml").read_text()
    before = read(tmp_path, text, types)
    some = ["UBB0", "URB2", "UBB2", "AB1", "UD2RW2", types[-1]]
    encoder = before.entries["UBB0"][0].encoder
    new = {name: entry(encoder=encoder) for name in some}
    write_entries(before, new)
    after = read_thresholds(before.path, types)
    assert {name: entries[1:] for name, entries in after.entries.items() if entries[1:]} == {
        name: (item,) for name, item in new.items()
    }
    added = set(before.path.read_text().splitlines()) - set(text.splitlines())
    assert not [line for line in added if line.startswith("#")]


def test_written_file_keeps_line_ends_permissions_and_link(tmp_path):
    real = tmp_path / "real.yaml"
    real.write_bytes(SHARED.replace("\n", "\r\n").encode())
    real.chmod(0o664)
    link = tmp_path / "thresholds.yaml"
    link.symlink_to(real)
    write_entries(read_thresholds(link, SHARED_TYPES), {"TB0": entry(), "TX0": entry()})
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o664
    content = real.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n")
    assert {path.name for path in tmp_path.iterdir()} == {"real.yaml", "thresholds.yaml"}


def test_changed_file_is_not_overwritten(tmp_path):
    thresholds = read(tmp_path, SHARED, SHARED_TYPES)
    edited = SHARED + "# a word more\n"
    thresholds.path.write_text(edited)
    with pytest.raises(ConfigurationError, match="was changed after it had been read; nothing is"):
        write_entries(thresholds, {"TB0": entry()})
    assert thresholds.path.read_text() == edited


@pytest.mark.parametrize("since", [date(2010, 1, 1), date(2009, 12, 31)])
def test_older_entry_is_refused(tmp_path, since):
    thresholds = read(tmp_path, SHARED, SHARED_TYPES)
    message = (
        f"TB0: has an entry from 2010-01-01 for encoder e1, so that one from {since} would not"
    )
    with pytest.raises(ConfigurationError, match=message):
        write_entries(thresholds, {"TB0": entry(since)})
    assert thresholds.path.read_text() == SHARED


def test_entry_of_same_day_for_another_encoder_is_added(tmp_path):
    thresholds = read(tmp_path, SHARED, SHARED_TYPES)
    write_entries(thresholds, {"TX0": entry(date(2010, 1, 1), "e2")})
    after = read_thresholds(thresholds.path, SHARED_TYPES)
    assert [item.encoder for item in after.entries["TX0"]] == ["e1", "e2"]


@pytest.mark.parametrize("name", ["UBB0", "URB1"])
@pytest.mark.parametrize("style", ["block", "flow"])
def test_entry_list_shared_by_anchor_is_refused(tmp_path, name, style):
    fields = [
        "from: 2010-01-01", "encoder: e1", "merge_height: 1", "residual: 9", "false_alarms: 0.1",
        "metrics: {}", "why: x", "by: me",
    ]  # fmt: skip
    entries = (
        "\n  - " + "\n    ".join(fields) if style == "block" else " [{" + ", ".join(fields) + "}]"
    )
    text = f"UBB0: &all{entries}\nURB1: *all\n"
    thresholds = read(tmp_path, text)
    with pytest.raises(ConfigurationError, match="its list of entries is an anchor's, and another"):
        write_entries(thresholds, {name: entry()})
    assert thresholds.path.read_text() == text
