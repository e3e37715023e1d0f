import json
import logging
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc.core.enums import LogStyle
from qc.service.logging import EventFormatter


def line(style, message="frame judged", **facts):
    record = logging.LogRecord("qc.x", logging.INFO, "x.py", 1, message, None, None)
    vars(record).update(facts)
    return EventFormatter(style).format(record)


def test_logfmt_writes_keys_and_values():
    written = line(LogStyle.LOGFMT, frame="UVES.2026-01-01", extension=2, words='level "high"')
    _, *facts = shlex.split(written)
    assert facts == [
        "level=info",
        "event=frame judged",
        "frame=UVES.2026-01-01",
        "extension=2",
        'words=level "high"',
    ]


def test_json_keeps_numbers():
    record = json.loads(line(LogStyle.JSON, score=1.5, frame=None))
    assert (record["event"], record["score"], record["frame"]) == ("frame judged", 1.5, None)


@given(st.text())
@pytest.mark.parametrize("style", LogStyle)
def test_any_text_stays_in_one_line(style, text):
    assert len(line(style, frame=text).splitlines()) == 1


def test_long_value_is_cut():
    assert len(line(LogStyle.LOGFMT, words="x" * 10**6)) < 3000
