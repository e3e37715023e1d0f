import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from qc import db
from qc.core.enums import FrameState, LabelName
from qc.core.file import FileInfo
from qc.db.schema.models import EpochRow, SelfTestRow
from qc.errors import ConfigurationError
from qc.reports.night import write_report
from tests.reports.pages import (
    ARC,
    BIAS,
    DARK,
    ENDED,
    HOSTILE,
    MORNING,
    NIGHT,
    RED_BIAS,
    RESIDUAL_MAP,
    THRESHOLDS,
    Average,
    Page,
    counted,
    drawings,
    frame_page,
    history,
    label,
    project_of,
    record,
    report,
    statistics,
)


def test_title_has_frame_and_anomaly_counts(session, uves):
    history(session, BIAS)
    record(session, BIAS)
    record(session, BIAS, score=3)
    page = Page(report(session, uves))
    assert "UVES, night of 2024-03-16: 2 frames, 2 extensions" in page.text
    assert counted(page, "anomalous") == 1
    assert counted(page, "failed") == 0


def test_anomaly_has_nearest_reference_reasons_metrics_and_tree(session, uves):
    nearest = history(session, BIAS)[-1]
    why = ("bias_level 182 ADU, +80.0 sigma from its references",)
    record(session, score=8, reasons=why, blocks=statistics(4), nearest_id=nearest)
    html = report(session, uves)
    page = Page(html)
    assert why[0] in page.text
    assert "Level of the overscan" in page.text
    assert re.search(r"bias level 18[12]\.", page.text)
    assert {"This frame, mean", "Nearest nominal", "Difference"} <= set(page.all("img", "alt"))
    assert any("26 frames" in svg for svg in drawings(html))


def test_small_reference_set_is_explained(session, uves):
    record(session, score=8, blocks=statistics(4))  # judged as if there were thirty references
    html = report(session, uves)
    page = Page(html)
    assert "n = 30, newest" in page.text  # in the matrix
    assert "n = 30: limits 1.14 times as wide" in page.text
    assert "below 20 a verdict is provisional" in page.text


def test_residual_map_of_anomaly_names_place(session, uves):
    history(session, BIAS)
    blocks = statistics()
    blocks[2:14, 5, 0] += 2  # ten times the noise, in the sixth of 16 columns of blocks
    record(session, score=8, blocks=blocks)
    page = Page(report(session, uves))
    assert RESIDUAL_MAP in page.all("img", "alt")
    assert "Strongest around x 369, y" in page.text  # 5.5 of 16 times 1074 pixels
    assert "times the range of nominal frames. That part extends from x" in page.text


def test_residual_map_of_nominal_frame_is_grey(session, uves):
    history(session, BIAS)
    blocks = statistics()
    blocks[...] = 178  # no noise at all: nothing can stand out
    record(session, blocks=blocks, name="UVES.mine")
    page = Page(frame_page(session, uves, "UVES.mine"))
    assert RESIDUAL_MAP in page.all("img", "alt")
    assert "Nowhere above the range of nominal frames" in page.text


def test_residual_map_missing_with_few_references(session, uves):
    history(session, BIAS, nights=19)
    record(session, score=8, blocks=statistics(4))
    assert RESIDUAL_MAP not in Page(report(session, uves)).all("img", "alt")


def test_hostile_text_is_escaped(session, uves):
    history(session, BIAS)
    hostile = replace(BIAS, optics=HOSTILE)
    [number] = record(
        session, hostile, score=9, reasons=(HOSTILE,), path=Path(f"/{HOSTILE}"), name=HOSTILE,
        template=HOSTILE, template_size=3,
    )  # fmt: skip
    label(session, number, LabelName.BAD, HOSTILE)
    file = FileInfo(Path(f"/in/UVES.2024-03-17T10:00:00{HOSTILE}"), 1, 1)
    db.frames.record_unprocessed(session, file, FrameState.FAILED, f"OBJECT is {HOSTILE}")
    html = report(session, uves)
    assert html.count("<script>") == 1  # the page's own
    assert html.count("&lt;script&gt;") >= 5


def test_page_is_self_contained(session, uves):
    history(session, BIAS)
    record(session, score=3)
    page = Page(report(session, uves))
    addresses = [*page.all("*", "src"), *page.all("*", "href")]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)


def test_links_have_targets_and_ids_are_unique(session, uves):
    history(session, BIAS)
    history(session, *RED_BIAS, nights=3)
    history(session, ARC, nights=10)
    for _ in range(30):  # more events than have pictures
        record(session, replace(BIAS, binning="1x1"), score=3)
    page = Page(report(session, uves))
    names = page.all("*", "id")
    assert len(names) == len(set(names))
    assert {link.removeprefix("#") for link in page.all("a", "href")} <= set(names)


def test_event_of_template_set(session, uves):
    history(session, BIAS)
    for number in range(1, 6):
        record(
            session,
            score=3 + number,
            template="2024-03-17T09:14:28",
            template_number=number,
            template_size=5,
        )
    page = Page(report(session, uves))
    assert page.all("article", "id") == ["event-1"]
    assert "8.00 · bias on BLUE UBB0 · 5 of 5 frames of the set" in page.text
    assert counted(page, "anomalous") == 5


def test_events_by_chip(session, uves):
    record(session, *RED_BIAS, score=3)
    page = Page(report(session, uves))
    assert len(page.all("article", "id")) == 2


def test_events_are_sorted_by_score(session, uves):
    for score in (2, 7, 4):
        record(session, score=score)
    scores = re.findall(r"([\d.]+) · bias on BLUE", Page(report(session, uves)).text)
    assert scores == ["7.00", "4.00", "2.00"]


def test_label_good_closes_event(session, uves):
    [number] = record(session, score=3)
    label(session, number, LabelName.GOOD, "the lamp was new")
    page = Page(report(session, uves))
    assert counted(page, "anomalous") == 0
    assert "closed by label" in page.text
    assert "the lamp was new" in page.text


def test_reference_count_changed_since_verdict(session, uves):
    ids = history(session, BIAS, nights=30)
    record(session, score=8)  # held against 30
    assert "its 30 references" in (page := Page(report(session, uves))).text
    assert "the verdict had" not in page.text
    label(session, ids[0], LabelName.BAD)
    page = Page(report(session, uves))
    assert "its 29 references; the verdict had 30" in page.text


def test_label_bad_is_anomalous(session, uves):
    [number] = record(session)
    label(session, number, LabelName.BAD)
    page = Page(report(session, uves))
    assert counted(page, "anomalous") == 1
    assert page.all("article", "id") == ["event-1"]


def test_missing_arm_is_one_absence(session, uves):
    history(session, ARC, nights=15)  # one each day is planned
    for days in (1, 8, 15):  # one in seven days is planned
        record(session, BIAS, at=MORNING - timedelta(days=days))
    record(session, *RED_BIAS)
    page = Page(report(session, uves))
    assert counted(page, "absent") == 1
    assert "Nothing came from the blue arm of UVES" in page.text


def test_missing_kind_is_absent_when_due(session, uves):
    history(session, ARC, nights=15)
    history(session, DARK, nights=15)
    record(session, DARK)
    for days in (1, 8, 15):
        record(session, BIAS, at=MORNING - timedelta(days=days))
    page = Page(report(session, uves))
    assert counted(page, "absent") == 1
    assert "UBW0 ▢ absent newest 36 h old" in page.text
    assert "UBB0 ● not due newest 36 h old" in page.text
    assert "never came UBW0 0 of 1 2024-03-16 No blue arc came" in page.text


def test_missing_calibration_is_not_absent_before_due(session, uves):
    history(session, ARC, nights=15)
    history(session, DARK, nights=15)
    record(session, DARK)
    noon = datetime(2024, 3, 17, 12, tzinfo=UTC)
    page = Page(report(session, uves, generated_at=noon))
    assert counted(page, "absent") == 0


def test_missing_calibration_unused_for_a_month(session, uves):
    record(session, ARC, at=MORNING - timedelta(days=31))
    record(session, BIAS)
    page = Page(report(session, uves))
    assert counted(page, "absent") == 0


def test_missing_chip_is_absent(session, uves):
    record(session, *RED_BIAS, at=MORNING - timedelta(days=1))
    record(session, RED_BIAS[0])
    page = Page(report(session, uves))
    assert counted(page, "absent") == 1
    assert "URB2 ▢ absent" in page.text


def test_matrix_has_all_chips(session, uves):
    record(session, BIAS)
    page = Page(report(session, uves))
    assert "UVES BLUE REDU REDL bias" in page.text


def test_empty_night_lists_absences(session, uves):
    history(session, ARC, nights=3)
    page = Page(report(session, uves))
    assert "night of 2024-03-16: no frames" in page.text
    assert counted(page, "absent") == 1
    assert "no extension was judged" in page.text


def test_empty_project_has_page(session, uves):
    page = Page(report(session, uves))
    assert "No instrument has a frame in the last 30 days." in page.text


def test_failed_and_skipped_files_have_reasons(session, uves):
    for name, state in [
        ("UVES.2024-03-17T10:00:00.000.fits", FrameState.FAILED),
        ("UVES.2024-03-17T03:00:00.000.fits", FrameState.SKIPPED),
        ("UVES.2024-03-17T23:00:00.000.fits", FrameState.FAILED),  # of the next night
        ("UVES.2024-03-10T10:00:00.000.fits", FrameState.FAILED),
    ]:
        file = FileInfo(Path("/in") / name, 1, 1)
        db.frames.record_unprocessed(session, file, state, f"{file.path}: because of {name}")
    page = Page(report(session, uves))
    assert counted(page, "failed") == 1
    assert "because of UVES.2024-03-17T10:00:00.000.fits" in page.text
    assert "because of UVES.2024-03-17T03:00:00.000.fits" in page.text
    assert "T23:00:00" not in page.text
    assert "2024-03-10" not in page.text
    assert "/in/UVES.2024-03-17T10:00:00.000.fits" in page.all("td", "title")


def test_failed_file_night_from_modification_time(session, uves):
    changed_ns = int(MORNING.timestamp()) * 10**9
    file = FileInfo(Path("/in/bias.fits"), 1, changed_ns)
    db.frames.record_unprocessed(session, file, FrameState.FAILED, "cut short")
    assert counted(Page(report(session, uves)), "failed") == 1
    assert counted(Page(report(session, uves, NIGHT - timedelta(days=1))), "failed") == 0


def test_failed_files_table_is_bounded(session, uves):
    for number in range(1000):
        file = FileInfo(Path(f"/in/UVES.2024-03-17T10:00:00.{number}.fits"), 1, 1)
        db.frames.record_unprocessed(session, file, FrameState.FAILED, "cut short")
    page = Page(report(session, uves))
    assert counted(page, "failed") == 1000
    assert page.text.count("cut short") == 200
    assert "and 800 more files" in page.text


def test_incomplete_set_names_missing_frames(session, uves):
    for number in (1, 3, 4):
        record(session, template="2024-03-17T09:14:28", template_number=number, template_size=5)
    page = Page(report(session, uves))
    assert "UBB0 3 of 5 2024-03-16 Set of blue bias of 2x2" in page.text
    assert "3 of 5 came, No. 2, 5 missing" in page.text


def test_untrained_network_is_marked(session, uves):
    trained = Average()
    trained.name = "resnet50-uves-physical"
    mark = "untrained network: fixed random weights"
    assert mark in report(session, uves)
    assert mark not in report(session, uves, encoder=trained)


def test_unfinished_night_is_marked(session, uves):
    record(session)
    assert "The night ends at 2024-03-17 22:00:00" in report(session, uves, generated_at=MORNING)
    assert "The night ends at" not in report(session, uves, generated_at=ENDED)


def test_page_has_generation_time(session, uves):
    page = Page(report(session, uves))
    assert page.all("span", "data-generated") == ["2024-03-17T22:00:00+00:00"]


def test_other_thresholds_are_marked(session, uves):
    record(session)
    newer = replace(THRESHOLDS, digest="e" * 64)
    assert "with another thresholds file: dddddddddddd" in report(session, uves, thresholds=newer)
    assert "another thresholds file" not in report(session, uves)


def test_metrics_without_limit_are_listed_beyond_five_sigma(session, uves):
    history(session, BIAS)
    record(session, score=8, blocks=statistics(4))
    for thresholds in (None, replace(THRESHOLDS, entries={})):
        assert "Level of the overscan" in report(session, uves, thresholds=thresholds)


def test_trends_have_interventions(session, uves):
    history(session, BIAS)
    epoch = EpochRow(
        scope="UBB0", since=date(2024, 3, 5), why="new <controller>", who="kim", at=ENDED
    )
    session.add(epoch)
    assert any("new &lt;controller&gt;" in svg for svg in drawings(report(session, uves)))


def test_write_report_of_newest_night(tmp_path, session, uves):
    record(session)
    session.commit()
    project = project_of(tmp_path, session, uves)
    written = write_report(project, None, ENDED)
    assert written == tmp_path / "reports" / "2024-03-16.html"
    assert written.read_text(encoding="utf-8") == report(session, uves)
    assert [file.name for file in written.parent.iterdir()] == ["2024-03-16.html"]


def test_write_report_without_frames(tmp_path, session, uves):
    with pytest.raises(ConfigurationError, match="no frame has been processed yet"):
        write_report(project_of(tmp_path, session, uves), None, ENDED)


def test_gross_scores_and_sigmas_are_capped(session, uves):
    history(session, BIAS)
    record(session, score=8081, blocks=statistics(100))  # 2000 sigma up
    record(session, score=1000, blocks=statistics(-100))
    page = Page(report(session, uves))
    assert page.text.count(">1000 ") >= 2  # in the matrix and on the card
    assert "8081" not in page.text
    assert ">+1000 " in page.text
    assert "<-1000 " in page.text


def test_write_report_failure_leaves_no_file(tmp_path, session, uves):
    record(session)
    session.commit()
    target = tmp_path / "reports" / "2024-03-16.html"
    target.mkdir(parents=True)  # a folder in its place
    with pytest.raises(OSError, match="directory"):
        write_report(project_of(tmp_path, session, uves), None, ENDED)
    assert list(target.parent.iterdir()) == [target]


def test_progress_reaches_total(session, uves):
    history(session, BIAS)
    record(session, score=3)
    steps: list[tuple[int, int]] = []
    report(session, uves, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]


@pytest.mark.slow
@pytest.mark.once
def test_page_of_150_anomalies_is_below_8_megabytes(session, uves):
    full = 224
    nearest = history(session, BIAS, grid=full)[-1]
    for number in range(150):
        blocks = statistics(grid=full if number >= 120 else 16)  # the worst have pictures
        blocks[40:60, 50:90] += 20  # a fault that leaves the noise to be compressed
        record(
            session,
            score=1 + number,
            at=MORNING + timedelta(seconds=number),
            blocks=blocks,
            nearest_id=nearest,
        )
    html = report(session, uves)
    assert len(html.encode()) < 8e6
    assert Page(html).text.count("further events, without pictures") == 1


def test_injection_test_by_kind_with_drops(session, uves):
    record(session)
    for number in range(20):
        row = SelfTestRow(
            night=NIGHT, at=ENDED, instrument="UVES", image_type="UBB0", kind="light_leak",
            strength="gross", is_found=number < 4, score=1, frame="a", reason="",
        )  # fmt: skip
        session.add(row)
    session.flush()
    page = Page(report(session, uves))
    assert "This night 4 of 20 ; in 30 nights 4 of 20 (20 %, 6 % to 44 %)." in page.text
    assert "light_leak 4 of 20 \u2013 20 % 6 % to 44 % UBB0 2024-03-16" in page.text
    assert "Recall below its limit since 2024-03-16." in page.text


def test_injection_test_missing_has_no_section(session, uves):
    record(session)
    assert "Injection test" not in Page(report(session, uves)).text
