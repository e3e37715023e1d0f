import re
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete

from qc.core.enums import LabelName
from qc.core.verdict import Status
from qc.db.schema.models import BlockStatisticsRow
from qc.errors import UnknownFrameError
from qc.reports.frame import write_frame_page
from tests.reports.pages import (
    BIAS,
    HOSTILE,
    MORNING,
    RED_BIAS,
    Page,
    drawings,
    frame_page,
    history,
    label,
    project_of,
    record,
    report,
    statistics,
)


def test_frame_page_has_card_for_each_extension(session, uves):
    history(session, *RED_BIAS)
    record(session, *RED_BIAS, name="UVES.mine")
    page = Page(frame_page(session, uves, "UVES.mine"))
    assert page.all("article", "id") == ["hdu-0", "hdu-1"]
    assert "0.30 · bias on REDU URB1 · nominal" in page.text
    assert "no evidence beyond its limit" in page.text


def test_frame_page_card_equals_report_card(session, uves):
    nearest = history(session, BIAS)[-1]
    why = ("bias level 182 ADU, +80.0 sigma from its references",)
    blocks = statistics(4)
    record(session, score=8, reasons=why, blocks=blocks, nearest_id=nearest, name="UVES.mine")
    card = Page(frame_page(session, uves, "UVES.mine"))
    in_report = Page(report(session, uves))
    assert why[0] in card.text
    captions = {"This frame, mean", "Nearest nominal", "Difference"}
    for page in (card, in_report):
        assert captions <= set(page.all("img", "alt"))
        assert re.search(r"bias level 18[12]\.", page.text)
        assert "All 2 metrics" in page.text
    pictures = [set(page.all("img", "src")) for page in (card, in_report)]
    assert len(pictures[0] & pictures[1]) == 5  # the map, the three pictures and the tree


def test_frame_page_marks_frame_in_history(session, uves):
    history(session, BIAS, nights=25)
    record(session, name="UVES.mine")
    record(session, at=MORNING + timedelta(days=2))
    record(session, RED_BIAS[0])
    page = frame_page(session, uves, "UVES.mine")
    [drawn] = [svg for svg in drawings(page) if "bias" in svg]
    assert "bias level against time, 27 values" in drawn
    assert "this frame" in drawn


def test_frame_page_without_references_or_pictures(session, uves):
    [number] = record(session, name="UVES.first", status=Status.UNDECIDED)
    session.execute(delete(BlockStatisticsRow).where(BlockStatisticsRow.extension_id == number))
    page = Page(frame_page(session, uves, "UVES.first"))
    assert "no picture stored" in page.text
    assert "bias on BLUE UBB0 · undecided" in page.text


@pytest.mark.parametrize(
    "name", [HOSTILE, "../../escaped", "..", "/etc/passwd", ".hidden", "ö" * 300]
)
def test_frame_page_with_hostile_name(tmp_path, session, uves, name):
    project_folder = tmp_path / "pages"
    project_folder.mkdir()
    history(session, BIAS, nights=3)
    [number] = record(
        session, score=9, name=name, reasons=(HOSTILE,), path=Path(f"/in/{HOSTILE}/a.fits")
    )
    label(session, number, LabelName.BAD, HOSTILE)
    session.commit()
    before = set(tmp_path.rglob("*"))
    written = write_frame_page(project_of(project_folder, session, uves), f"/in/{HOSTILE}/a.fits")
    html = written.read_text(encoding="utf-8")
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 3
    assert set(tmp_path.rglob("*")) - before == {project_folder / "frames", written}
    assert written.parent == project_folder / "frames"
    assert not written.name.startswith(".")


def test_frame_page_file_name_and_self_contained(tmp_path, session, uves):
    record(session, name="UVES.2024-03-17T09:30:00.123")
    session.commit()
    project = project_of(tmp_path, session, uves)
    written = write_frame_page(project, "UVES.2024-03-17T09:30:00.123.fits")
    assert written == tmp_path / "frames" / "UVES.2024-03-17T09:30:00.123.html"
    page = Page(written.read_text(encoding="utf-8"))
    assert all(
        address.startswith(("data:", "#"))
        for address in [*page.all("*", "src"), *page.all("*", "href")]
    )


def test_frame_page_of_unknown_frame(tmp_path, session, uves):
    with pytest.raises(UnknownFrameError, match="no processed frame"):
        write_frame_page(project_of(tmp_path, session, uves), "UVES.nobody")
    assert not (tmp_path / "frames").exists()
