import re
import subprocess
import sys
from ctypes.util import find_library
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pypdf import PdfReader

from qc import db
from qc.core.enums import FrameState, LabelName, Topic
from qc.core.measurement import FileInfo
from qc.core.verdict import Status
from qc.db.labels import LabelAnswer
from qc.db.models import VerdictRow
from qc.errors import ConfigurationError
from qc.reports.pdf import write_pdf
from qc.reports.publish import (
    NightOutcome,
    newest_week,
    publish_night,
    publish_span,
    read_index,
    write_index,
)
from qc.summaries.night import ExtensionStanding
from qc.summaries.period import month_of, week_to
from tests.reports.test_night import Page
from tests.support.remembered import A_NIGHT, Past, remember

NIGHT = date(2026, 1, 1)
needs_pango = pytest.mark.skipif(
    find_library("pango-1.0") is None, reason="PDFs are drawn with pango, which is not here"
)
NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


def flagged(**changes) -> Past:
    return Past(status=Status.ANOMALOUS, score=3.0, **changes)


def index_of(project):
    with project.reads() as session:
        folder = project.settings.reports_folder
        return read_index(session, folder, project.instruments, NOW)


def nights(project) -> dict[str, NightOutcome]:
    every = (one for shelf in index_of(project).shelves for one in shelf.nights)
    return {one.title: one.outcome for one in every if one.outcome}


def page_of(project) -> Page:
    return Page(write_index(project, NOW).read_text(encoding="utf-8"))


# --- the index ------------------------------------------------------------------------------------


@needs_pango
def test_each_report_is_listed_with_its_files_as_soon_as_it_is_written(project):
    remember(project, *[Past() for _ in range(A_NIGHT)])
    publish_night(project, None, NOW, pdf=True)
    publish_span(project, newest_week(project, None), NOW)
    publish_span(project, month_of(NIGHT), NOW)
    folder = project.settings.reports_folder
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    assert page.all("a", "href") == [
        "month-2026-01.html",
        "week-2026-01-01.html",
        "2026-01-01.html",
        "2026-01-01.pdf",
    ]
    assert all((folder / name).is_file() for name in page.all("a", "href"))


def test_the_newest_month_and_the_newest_night_come_first(project):
    folder = project.settings.reports_folder
    folder.mkdir()
    for name in ("2025-12-31", "2026-01-02", "2026-01-01", "month-2025-12", "week-2026-01-02"):
        (folder / f"{name}.html").touch()
    january, december = index_of(project).shelves
    assert (january.name, december.name) == ("January 2026", "December 2025")
    assert [one.title for one in january.nights] == ["2026-01-02", "2026-01-01"]
    assert [one.title for one in january.weeks] == ["week to 2026-01-02"]
    assert [one.title for one in december.whole] == ["December 2025"]


def test_files_that_it_does_not_know_are_neither_listed_nor_touched(project):
    folder = project.settings.reports_folder
    folder.mkdir()
    strangers = ["notes.html", "2026-02-31.html", "week-2026-01.html", "2026-01.html", "x.pdf"]
    strangers += ["month-2026-13.html", "<script>.html", "2026-01-01.html.bak", "2026-01-01.pdf"]
    for name in strangers:
        (folder / name).write_text("kept")
    page = page_of(project)
    assert page.all("a", "href") == []
    assert "No report has been written yet" in page.text
    assert {one.name for one in folder.iterdir()} == {*strangers, "index.html"}
    assert all((folder / name).read_text() == "kept" for name in strangers)


def test_a_night_is_told_by_its_counts_and_its_worst_standing_in_words(project):
    remember(project, Past(), flagged(), flagged(), Past(status=Status.UNDECIDED))
    publish_night(project, NIGHT, NOW)
    page = page_of(project)
    assert "2026-01-01 ◆ anomalous 4 frames: 2 anomalous, 1 undecided, 1 nominal" in page.text
    assert "state anomalous" in page.all("span", "class")


def test_a_later_word_changes_the_line(project):
    remember(project, flagged(), Past())
    publish_night(project, NIGHT, NOW)
    with project.writes.begin() as session:
        db.labels.record_label(session, 1, LabelAnswer(LabelName.GOOD, "kim"))
    [one] = nights(project).values()
    assert one.worst is ExtensionStanding.NOMINAL
    with project.writes.begin() as session:
        db.labels.record_label(session, 2, LabelAnswer(LabelName.BAD, "kim", "light_leak"))
    [one] = nights(project).values()
    assert one.counts == {ExtensionStanding.ANOMALOUS: 1, ExtensionStanding.NOMINAL: 1}


def test_the_line_counts_as_the_report_of_the_night_does(project):
    remember(project, Past(), flagged(), Past(status=Status.UNDECIDED), flagged(), Past())
    with project.writes.begin() as session:
        session.get_one(VerdictRow, 1).reasons = ["bias level beyond its first limit"]
        db.labels.record_label(session, 4, LabelAnswer(LabelName.VALID_OUTLIER, "kim"))
    publish_night(project, NIGHT, NOW)
    [one] = nights(project).values()
    report = Page((project.settings.reports_folder / "2026-01-01.html").read_text("utf-8"))
    for standing in ("anomalous", "undecided", "with a warning", "nominal"):
        told = re.search(rf"(\d+) {standing}", report.text)
        assert told
        name = standing.removeprefix("with a ")
        assert one.counts[ExtensionStanding(name)] == int(told[1])


def test_absences_and_failed_files_of_a_night_are_told(project):
    remember(project, Past())
    publish_night(project, NIGHT, NOW)
    with project.writes.begin() as session:
        db.alerts.owe_alert(session, Topic.ABSENCE, "a", "no flat", night=NIGHT)
        file = FileInfo(Path("/in/T.2026-01-02T09:00:00.fits"), 1, 1)  # before noon
        db.frames.record_unprocessed(session, file, FrameState.FAILED, "cut short")
    assert "✕ failed ▢ absent 1 frame: 1 failed, 1 absent, 1 nominal" in page_of(project).text


def test_a_night_that_has_frames_and_no_report_is_told_from_the_first_report_on(project):
    remember(project, *[Past() for _ in range(3 * A_NIGHT)])
    publish_night(project, NIGHT + timedelta(days=1), NOW)
    page = page_of(project)
    assert list(nights(project)) == ["2026-01-03", "2026-01-02"]
    assert "2026-01-03 no report" in page.text


def test_a_night_without_frames_that_has_a_report_says_so(project):
    publish_night(project, NIGHT, NOW)
    assert "2026-01-01 no frames" in page_of(project).text


def test_the_index_says_when_it_was_written_and_turns_red_after_two_hours(project):
    html = write_index(project, NOW).read_text(encoding="utf-8")
    page = Page(html)
    assert "Written 2026-02-01 12:00:00 UTC" in page.text
    assert page.all("span", "data-generated") == ["2026-02-01T12:00:00+00:00"]
    assert "hours > 2)" in html


def test_the_index_needs_nothing_but_the_reports_beside_it(project):
    remember(project, flagged())
    publish_night(project, NIGHT, NOW)
    page = page_of(project)
    addresses = [*page.all("*", "src"), *page.all("*", "href")]
    assert [one for one in addresses if not one.startswith("data:")] == ["2026-01-01.html"]


def test_a_report_that_goes_elsewhere_leaves_the_folder_alone(project, tmp_path):
    remember(project, Past())
    published = publish_night(project, None, NOW, file=tmp_path / "a.html")
    assert published.html.is_file()
    assert not project.settings.reports_folder.exists()


def test_without_a_frame_there_is_no_newest_week(project):
    with pytest.raises(ConfigurationError, match="no week to report"):
        newest_week(project, None)
    assert newest_week(project, NIGHT) == week_to(NIGHT)


# --- PDF ------------------------------------------------------------------------------------------


@needs_pango
def test_a_night_is_written_as_pdf_beside_its_page_with_title_and_page_numbers(project):
    remember(project, *[flagged() for _ in range(5)])
    published = publish_night(project, NIGHT, NOW, pdf=True)
    assert published.pdf == published.html.with_suffix(".pdf")
    pages = [page.extract_text() for page in PdfReader(published.pdf).pages]
    assert len(pages) > 1
    assert f"page 2 of {len(pages)}" in pages[1]
    assert "TINY, night of 2026-01-01" in pages[1]  # in the margin
    assert "5 anomalous" in " ".join(pages[0].split())


@needs_pango
def test_a_month_is_written_as_pdf_too(project):
    remember(project, *[flagged(label=LabelName.GOOD) for _ in range(A_NIGHT)])
    published = publish_span(project, month_of(NIGHT), NOW, pdf=True)
    assert published.pdf
    text = " ".join(page.extract_text() for page in PdfReader(published.pdf).pages)
    assert "TINY, January 2026" in text
    assert "10 flagged: 10 false alarms" in " ".join(text.split())


@needs_pango
def test_a_pdf_takes_nothing_from_the_disk_or_the_network(tmp_path, caplog):
    secret = tmp_path / "secret.svg"
    secret.write_text('<svg xmlns="http://www.w3.org/2000/svg"><text y="20">SECRET</text></svg>')
    images = "".join(
        f'<img src="{one}" alt="">' for one in (secret.as_uri(), "http://127.0.0.1:9/a.png")
    )
    file = write_pdf(f"<p>before{images}after", tmp_path / "a.pdf")
    text = PdfReader(file).pages[0].extract_text()
    assert "SECRET" not in text
    assert "after" in text
    assert "disallowed protocol" in caplog.text


def test_without_weasyprint_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "weasyprint", None)  # as if it were not installed
    with pytest.raises(ConfigurationError, match=r"pip install 'calibration-qc\[pdf\]'.*pango"):
        write_pdf("<p>", tmp_path / "a.pdf")
    assert list(tmp_path.iterdir()) == []


def test_without_pango_one_line_says_what_to_install(tmp_path):
    words = "cannot load library 'libpango-1.0-0'"
    (tmp_path / "weasyprint.py").write_text(f'raise OSError("{words}")\n')
    code = (
        "from pathlib import Path; from qc.reports.pdf import write_pdf\n"
        "from qc.errors import ConfigurationError\n"
        "try: write_pdf('<p>', Path('a.pdf'))\n"
        "except ConfigurationError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(tmp_path)!r}]\n{code}"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert words in done.stdout
    assert len(done.stdout.splitlines()) == 1
