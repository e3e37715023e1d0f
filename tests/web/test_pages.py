"""All pages: accessibility, narrow windows, dark mode, keyboard and print."""

import io
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from unicodedata import normalize

import pytest
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from playwright.sync_api import expect
from pypdf import PdfReader

from qc.alerts.silences import silence
from qc.core.enums import LabelName, Topic
from qc.db.findings import findings_named
from qc.db.labels import LabelAnswer, record_label
from qc.db.operations import add_alert
from qc.db.schema.models import AlertRow, EpochRow, NotificationRow
from qc.settings import WebSettings
from qc.web.app import create_app
from tests.support.alert_rows import broken_file
from tests.support.browser import WIDE, hindrances, routes_of, serving, window
from tests.support.databases import copied_project
from tests.support.tiny_spectrograph import (
    MERGE_HEIGHT,
    StandIn,
    light_leak,
    open_tiny,
    process,
    write_frame,
    write_history,
)
from tests.support.verdict_rows import StoredExtension, add_extensions, nominal_frames

NOW = datetime(2026, 1, 8, 8, tzinfo=UTC)
LEAK, GOOD, OTHER = (f"TINY.2026-01-02T20:0{minute}:00" for minute in range(3))
SECOND_ENTRY = (
    f"{{from: 2026-01-02, encoder: {StandIn.fingerprint}, merge_height: {MERGE_HEIGHT / 2}, "
    "residual: 500, false_alarms: 0.001, metrics: {bias_level: {warn: 5, alarm: 10}}, "
    "why: a new lamp, by: kim}"
)


@dataclass(frozen=True)
class Place:
    """A page of a project in which much has happened.

    Attributes
    ----------
    there : str
        Selector of an element that appears when the page is complete.
    """

    address: str
    there: str = "h1"


_VIEWER = ".viewer[data-ready=yes]"
_PLOT = "#plot[data-drawn=yes]"
PAGES = {
    "dashboard": Place("/"),
    "an older night": Place("/?night=2026-01-01"),
    "frame": Place(f"/frames/{LEAK}", _VIEWER),
    "frame with residual map": Place(f"/frames/{LEAK}?where=1&x=120&y=200", _VIEWER),
    "why flagged": Place(f"/frames/{LEAK}/explanation", "#cost table, #cost .trouble"),
    "why not flagged": Place(f"/frames/{GOOD}/explanation", "#cost table, #cost .trouble"),
    "cost": Place(f"/frames/{GOOD}/explanation/cost"),
    "header": Place(f"/frames/{LEAK}/header?q=bin", "table"),
    "review": Place("/review?labelled=any", "body[data-ready]"),
    "review, no match": Place("/review?from=2030-01-01"),
    "grid": Place("/review?view=grid&labelled=any", "body[data-ready]"),
    "keys": Place("/review/keys"),
    "thresholds": Place("/thresholds"),
    "threshold": Place("/thresholds/TF0?factor=0.5", ".figures"),
    "comparison": Place("/thresholds/TB0/compare?one=1&other=2", ".differs"),
    "trends": Place("/trends"),
    "trend": Place("/trends/TB0?metric=bias_level", _PLOT),
    "table of a trend": Place("/trends/TB0/table?metric=bias_level", "table"),
    "search": Place("/similar"),
    "similar": Place(f"/similar?frame={LEAK}", ".thumbnails"),
    "projection": Place("/projection?type=TB0", _PLOT),
    "dendrogram": Place("/dendrogram?type=TB0", "svg"),
    "dendrogram of too few": Place("/dendrogram?type=TB0&since=2030-01-01", ".trouble"),
    "the API": Place("/api/docs"),
    "login": Place("/login"),
    "404": Place("/nothing"),
    "422": Place("/review?least=much"),
}
PARTS = {"/review/frames/{extension_id}"}  # taken over by another page
KEYS = """() => {
    const seen = [], all = [];
    const isThere = (one) => one.checkVisibility({ visibilityProperty: true }) && !one.disabled;
    const wanted = "a[href], button, input:not([type=hidden]), select, textarea, summary, "
        + "[tabindex='0']";
    for (const one of document.querySelectorAll(wanted)) {
        if (!isThere(one)) continue;
        const isOther = one.type === "radio" && document.querySelector(
            `input[type=radio][name="${one.name}"]:checked`) !== one
            && document.querySelector(`input[type=radio][name="${one.name}"]`) !== one;
        if (!isOther) all.push(one);
    }
    window.toReach = all;
    return all.length;
}"""
FOCUSED = """() => {
    const one = document.activeElement;
    if (!one || one === document.body) return null;
    const how = getComputedStyle(one), box = one.getBoundingClientRect();
    const isSeen = box.bottom > 0 && box.top < innerHeight && box.right > 0
        && box.left < innerWidth;
    return { number: window.toReach.indexOf(one), html: one.outerHTML.slice(0, 200),
        isMarked: how.outlineStyle !== "none" && parseFloat(how.outlineWidth) >= 2, isSeen };
}"""


@pytest.fixture(scope="module")
def shared_project(empty_project, tmp_path_factory):
    """A project with all parts that the pages show.

    Twenty good biases; a night later one with a leak, one without, and a labelled leak. Sixty
    good flats and ten bad ones, without files. Two entries of limits, an intervention, a file
    that failed; alerts pending, sent and silenced.
    """
    folder = tmp_path_factory.mktemp("everything")
    (inbox := folder / "inbox").mkdir()
    with copied_project(empty_project, folder / "project") as project_folder:
        fill_project(project_folder, inbox)
        yield project_folder


def fill_project(project_folder, inbox):
    """Fill the project of `shared_project`."""
    path = project_folder / "thresholds.yaml"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([f"{first.removesuffix(']')}, {SECOND_ENTRY}]", *rest, ""]))
    with open_tiny(project_folder) as project:
        process(project, *write_history(inbox), label=LabelName.GOOD)
        fresh = [light_leak, None, light_leak]
        process(
            project, *(write_frame(inbox, 2, n, change=change) for n, change in enumerate(fresh))
        )
        good = [replace(frame, image_type="TF0") for frame in nominal_frames(60)]
        bad = [
            StoredExtension(0.001 * n, label=LabelName.BAD, image_type="TF0") for n in range(1, 11)
        ]
        add_extensions(project, *good, *bad)
        with project.write_session.begin() as session:
            add_records(session)


def add_records(session):
    """Add labels, alerts, a silence and an intervention."""
    [labelled] = findings_named(session, OTHER)
    record_label(
        session, labelled.extension.id, LabelAnswer(LabelName.BAD, "kim", "light_leak", "a door")
    )
    session.add(EpochRow(scope="TINY", since=date(2026, 1, 2), why="a lamp", who="kim", at=NOW))
    for subject in ("[QC] the disk is full", "[QC] light on a bias"):
        notice = NotificationRow(topic=Topic.DAEMON, made_at=NOW, subject=subject)
        session.add(notice)
        session.flush()
        alert = AlertRow(topic=Topic.DAEMON, owed_at=NOW, notification_id=notice.id, key=subject)
        session.add(alert)
        session.flush()
    silence(session, notice.id, NOW + timedelta(days=1), False, "ann", NOW, "known")
    add_alert(session, Topic.FILE, "b.fits", "b.fits cannot be read")
    session.add(broken_file(NOW))


@pytest.fixture(scope="module")
def shared_server(shared_project):
    """Server of the project, for tests that do not write."""
    with open_tiny(shared_project) as project, serving(project, lambda: NOW) as server:
        yield server


def open_page(page, place):
    page.goto(place.address)
    page.locator(place.there).first.wait_for()
    for item in page.locator("details").all()[:9]:
        item.evaluate("one => { one.open = true; }")


def test_pages_list_is_complete(project):
    pages = [
        item
        for item in routes_of(create_app(project))
        if isinstance(item, APIRoute)
        and item.methods == {"GET"}
        and item.endpoint.__annotations__["return"] is HTMLResponse
    ]
    paths = [place.address.partition("?")[0] for place in PAGES.values()]
    listed = {route.endpoint for route in pages if any(map(route.path_regex.match, paths))}
    missing = {route.path for route in pages if route.endpoint not in listed}
    assert len(pages) > 15
    assert missing == PARTS


@pytest.mark.parametrize("name", PAGES)
def test_page_accessibility(chromium, shared_server, name):
    with window(chromium, shared_server) as page:
        open_page(page, PAGES[name])
        assert hindrances(page) == []


@pytest.mark.parametrize("name", PAGES)
def test_page_keyboard_navigation(chromium, shared_server, name):
    with window(chromium, shared_server) as page:
        open_page(page, PAGES[name])
        page.evaluate("document.body.tabIndex = -1; document.body.focus()")  # from the top
        many = page.evaluate(KEYS)
        reached: list[int] = []
        for _ in range(4 * many + 10):  # a date has three parts and a button
            page.keyboard.press("Tab")
            here = page.evaluate(FOCUSED)
            if here is None or here["number"] in reached[:-1]:
                break
            assert here["isMarked"], here["html"]
            assert here["isSeen"], here["html"]
            reached = list(dict.fromkeys([*reached, here["number"]]))
        missed = page.evaluate(
            "reached => toReach.filter((one, n) => !reached.includes(n)).map(o => o.outerHTML)",
            reached,
        )
        assert missed == []


@pytest.mark.parametrize("name", PAGES)
def test_page_print(chromium, shared_server, name):
    with window(chromium, shared_server, color_scheme="dark") as page:
        open_page(page, PAGES[name])
        heading = page.locator("h1").first.inner_text()
        paper = PdfReader(io.BytesIO(page.pdf(format="A4")))
        printed = " ".join(page.extract_text() for page in paper.pages)
        text = " ".join(normalize("NFKC", printed).split())  # Chromium prints ligatures
        assert "".join(heading.split()) in "".join(text.split())
        assert "as of 2026-01-08" in text
        assert "Thresholds Trends Similar" not in text
        assert len(paper.pages) < 12


# --- mistakes -------------------------------------------------------------------------------------


def check_error_page(page, heading):
    """Wait for an error page, and check its accessibility."""
    expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
    assert hindrances(page) == []
    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})


def test_error_page_of_invalid_csrf_token(page):
    page.goto("/login")
    page.locator("main input[name=csrf]").evaluate("one => { one.value = 'x'; }")
    page.get_by_label("User name").fill("kim")
    page.get_by_label("Password").fill("whatever")
    page.get_by_role("button", name="Log in").click()
    check_error_page(page, "403")


def test_accessibility_of_upload_results(page, project, inbox):
    process(project, *write_history(inbox, frames=4))
    page.goto("/similar")
    page.get_by_label("or a FITS file").set_input_files(write_frame(inbox, 3))
    page.get_by_role("button", name="Search with file").click()
    expect(page.get_by_text("is most like").first).to_be_visible()
    check_error_page(page, "Similar frames")
    broken = inbox / "broken.fits"
    broken.write_bytes(b"SIMPLE  = nothing of the kind")
    page.get_by_label("or a FITS file").set_input_files(broken)
    page.get_by_role("button", name="Search with file").click()
    check_error_page(page, "422")


def test_error_page_of_large_upload(chromium, project, inbox):
    settings = project.settings.model_copy(update={"web": WebSettings(upload_mb=1)})
    object.__setattr__(project, "settings", settings)
    large = inbox / "large.fits"
    large.write_bytes(bytes(8 * 2**20))
    with serving(project) as served, window(chromium, served) as page:
        page.goto("/similar")
        page.get_by_label("or a FITS file").set_input_files(large)
        page.get_by_role("button", name="Search with file").click()
        check_error_page(page, "413")


def test_error_page_of_invalid_thresholds_file(page, project):
    (project.settings.project / "thresholds.yaml").write_text("TB0: [nonsense]\n")
    page.goto("/thresholds")
    check_error_page(page, "500")
    expect(page.get_by_text("thresholds.yaml")).to_be_visible()
