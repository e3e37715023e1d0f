"""Commands of `qc report`."""

import json
from ctypes.util import find_library

import pytest


@pytest.mark.slow
@pytest.mark.skipif(find_library("pango-1.0") is None, reason="PDFs need pango, not here")
def test_report_week_and_month_write_pdf_and_index(qc, remembering):
    week = qc("report", "week", "--night", "2026-01-04")
    month = qc("report", "month", "2026-01", "--pdf")
    assert (week.code, month.code) == (0, 0), week.err + month.err
    written = {path.name for path in (remembering / "reports").iterdir()}
    assert written == {
        "week-2026-01-04.html",
        "month-2026-01.html",
        "month-2026-01.pdf",
        "index.html",
    }
    assert "month-2026-01.pdf" in month.out


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("arguments", [["month", "2026-13"], ["week"], ["night"]])
def test_report_invalid_period_is_error(qc, arguments):
    """Month 13 does not exist; an empty project has no newest night."""
    run = qc("report", *arguments)
    assert run.code == 2
    assert "qc:" in run.err


def test_report_night_json_names_the_file(qc, remembering):
    record = json.loads(qc("report", "night", "--json").out)
    assert record["pdf"] is None
    assert record["html"].endswith(".html")
    assert record["html"].startswith(str(remembering))
