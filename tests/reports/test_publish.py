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
from qc.core.file import FileInfo
from qc.core.verdict import Status
from qc.db.labels import LabelAnswer
from qc.db.schema.models import VerdictRow
from qc.errors import ConfigurationError
from qc.reports.index import NightOutcome, read_index, write_index
from qc.reports.pdf import write_pdf
from qc.reports.publish import newest_week, publish_night, publish_span
from qc.summaries.night_range import month_of, week_to
from qc.summaries.standing import ExtensionStanding
from tests.reports.pages import Page
from tests.support.verdict_rows import A_NIGHT, StoredExtension, add_extensions

NIGHT = date(2026, 1, 1)
needs_pango = pytest.mark.skipif(
    find_library("pango-1.0") is None, reason="PDFs are drawn with pango, which is not here"
)
NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


def flagged(**changes) -> StoredExtension:
    return StoredExtension(status=Status.ANOMALOUS, score=3.0, **changes)


def index_of(project):
    with project.read_session() as session:
        folder = project.settings.reports_folder
        return read_index(session, folder, project.instruments, NOW)


def nights(project) -> dict[str, NightOutcome]:
    entries = (entry for month in index_of(project).months for entry in month.nights)
    return {entry.title: entry.outcome for entry in entries if entry.outcome}


def page_of(project) -> Page:
    return Page(write_index(project, NOW).read_text(encoding="utf-8"))


# --- the index ------------------------------------------------------------------------------------


@needs_pango
def test_index_lists_files_of_written_reports(project):
    add_extensions(project, *[StoredExtension() for _ in range(A_NIGHT)])
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


def test_index_is_sorted_newest_first(project):
    folder = project.settings.reports_folder
    folder.mkdir()
    for name in ("2025-12-31", "2026-01-02", "2026-01-01", "month-2025-12", "week-2026-01-02"):
        (folder / f"{name}.html").touch()
    january, december = index_of(project).months
    assert (january.name, december.name) == ("January 2026", "December 2025")
    assert [entry.title for entry in january.nights] == ["2026-01-02", "2026-01-01"]
    assert [entry.title for entry in january.weeks] == ["week to 2026-01-02"]
    assert [entry.title for entry in december.whole] == ["December 2025"]


def test_index_ignores_other_files(project):
    folder = project.settings.reports_folder
    folder.mkdir()
    strangers = ["notes.html", "2026-02-31.html", "week-2026-01.html", "2026-01.html", "x.pdf"]
    strangers += ["month-2026-13.html", "<script>.html", "2026-01-01.html.bak", "2026-01-01.pdf"]
    for name in strangers:
        (folder / name).write_text("kept")
    page = page_of(project)
    assert page.all("a", "href") == []
    assert "No report has been written yet" in page.text
    assert {path.name for path in folder.iterdir()} == {*strangers, "index.html"}
    assert all((folder / name).read_text() == "kept" for name in strangers)


def test_index_night_has_counts_and_worst_standing(project):
    add_extensions(
        project, StoredExtension(), flagged(), flagged(), StoredExtension(status=Status.UNDECIDED)
    )
    publish_night(project, NIGHT, NOW)
    page = page_of(project)
    assert "2026-01-01 ◆ anomalous 4 frames: 2 anomalous, 1 undecided, 1 nominal" in page.text
    assert "state anomalous" in page.all("span", "class")


def test_index_follows_later_labels(project):
    add_extensions(project, flagged(), StoredExtension())
    publish_night(project, NIGHT, NOW)
    with project.write_session.begin() as session:
        db.labels.record_label(session, 1, LabelAnswer(LabelName.GOOD, "kim"))
    [outcome] = nights(project).values()
    assert outcome.worst is ExtensionStanding.NOMINAL
    with project.write_session.begin() as session:
        db.labels.record_label(session, 2, LabelAnswer(LabelName.BAD, "kim", "light_leak"))
    [outcome] = nights(project).values()
    assert outcome.counts == {ExtensionStanding.ANOMALOUS: 1, ExtensionStanding.NOMINAL: 1}


def test_index_counts_equal_report_counts(project):
    add_extensions(
        project,
        StoredExtension(),
        flagged(),
        StoredExtension(status=Status.UNDECIDED),
        flagged(),
        StoredExtension(),
    )
    with project.write_session.begin() as session:
        session.get_one(VerdictRow, 1).reasons = ["bias level beyond its first limit"]
        db.labels.record_label(session, 4, LabelAnswer(LabelName.VALID_OUTLIER, "kim"))
    publish_night(project, NIGHT, NOW)
    [outcome] = nights(project).values()
    report = Page((project.settings.reports_folder / "2026-01-01.html").read_text("utf-8"))
    for standing in ("anomalous", "undecided", "with a warning", "nominal"):
        match = re.search(rf"(\d+) {standing}", report.text)
        assert match
        name = standing.removeprefix("with a ")
        assert outcome.counts[ExtensionStanding(name)] == int(match[1])


def test_index_counts_absences_and_failed_files(project):
    add_extensions(project, StoredExtension())
    publish_night(project, NIGHT, NOW)
    with project.write_session.begin() as session:
        db.operations.add_alert(session, Topic.ABSENCE, "a", "no flat", night=NIGHT)
        file = FileInfo(Path("/in/T.2026-01-02T09:00:00.fits"), 1, 1)  # before noon
        db.frames.record_unprocessed(session, file, FrameState.FAILED, "cut short")
    assert "✕ failed ▢ absent 1 frame: 1 failed, 1 absent, 1 nominal" in page_of(project).text


def test_index_lists_nights_without_report(project):
    add_extensions(project, *[StoredExtension() for _ in range(3 * A_NIGHT)])
    publish_night(project, NIGHT + timedelta(days=1), NOW)
    page = page_of(project)
    assert list(nights(project)) == ["2026-01-03", "2026-01-02"]
    assert "2026-01-03 no report" in page.text


def test_index_night_without_frames(project):
    publish_night(project, NIGHT, NOW)
    assert "2026-01-01 no frames" in page_of(project).text


def test_index_has_age(project):
    html = write_index(project, NOW).read_text(encoding="utf-8")
    page = Page(html)
    assert "Written 2026-02-01 12:00:00 UTC" in page.text
    assert page.all("span", "data-generated") == ["2026-02-01T12:00:00+00:00"]
    assert "hours > 2)" in html


def test_index_is_self_contained(project):
    add_extensions(project, flagged())
    publish_night(project, NIGHT, NOW)
    page = page_of(project)
    addresses = [*page.all("*", "src"), *page.all("*", "href")]
    assert [address for address in addresses if not address.startswith("data:")] == [
        "2026-01-01.html"
    ]


def test_publish_to_other_file_leaves_folder_unchanged(project, tmp_path):
    add_extensions(project, StoredExtension())
    published = publish_night(project, None, NOW, file=tmp_path / "a.html")
    assert published.html.is_file()
    assert not project.settings.reports_folder.exists()


def test_newest_week_without_frames(project):
    with pytest.raises(ConfigurationError, match="no week to report"):
        newest_week(project, None)
    assert newest_week(project, NIGHT) == week_to(NIGHT)


# --- PDF ------------------------------------------------------------------------------------------


@needs_pango
def test_pdf_of_night_has_title_and_page_numbers(project):
    add_extensions(project, *[flagged() for _ in range(5)])
    published = publish_night(project, NIGHT, NOW, pdf=True)
    assert published.pdf == published.html.with_suffix(".pdf")
    pages = [page.extract_text() for page in PdfReader(published.pdf).pages]
    assert len(pages) > 1
    assert f"page 2 of {len(pages)}" in pages[1]
    assert "TINY, night of 2026-01-01" in pages[1]  # in the margin
    assert "5 anomalous" in " ".join(pages[0].split())


@needs_pango
def test_pdf_of_month(project):
    add_extensions(project, *[flagged(label=LabelName.GOOD) for _ in range(A_NIGHT)])
    published = publish_span(project, month_of(NIGHT), NOW, pdf=True)
    assert published.pdf
    text = " ".join(page.extract_text() for page in PdfReader(published.pdf).pages)
    assert "TINY, January 2026" in text
    assert "10 flagged: 10 false alarms" in " ".join(text.split())


@needs_pango
def test_pdf_loads_no_file_or_url(tmp_path, caplog):
    secret = tmp_path / "secret.svg"
    secret.write_text('<svg xmlns="http://www.w3.org/2000/svg"><text y="20">SECRET</text></svg>')
    images = "".join(
        f'<img src="{url}" alt="">' for url in (secret.as_uri(), "http://127.0.0.1:9/a.png")
    )
    file = write_pdf(f"<p>before{images}after", tmp_path / "a.pdf")
    text = PdfReader(file).pages[0].extract_text()
    assert "SECRET" not in text
    assert "after" in text
    assert "disallowed protocol" in caplog.text


def test_pdf_without_weasyprint_names_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "weasyprint", None)  # as if it were not installed
    with pytest.raises(ConfigurationError, match=r"pip install 'calibration-qc\[pdf\]'.*pango"):
        write_pdf("<p>", tmp_path / "a.pdf")
    assert list(tmp_path.iterdir()) == []


def test_pdf_without_pango_names_remedy(tmp_path):
    message = "cannot load library 'libpango-1.0-0'"
    (tmp_path / "weasyprint.py").write_text(f'raise OSError("{message}")\n')
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
    assert message in done.stdout
    assert len(done.stdout.splitlines()) == 1
