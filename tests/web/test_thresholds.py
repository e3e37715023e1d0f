from datetime import UTC, date, datetime

import numpy as np
import pytest
from playwright.sync_api import expect

from qc import db
from qc.core.enums import LabelName
from qc.detection.thresholds import read_thresholds
from qc.tuning.choice import TuningGoal
from qc.tuning.proposals import propose
from qc.web.pages.charts import plot_histogram, plot_precision_recall
from tests.support.browser import pages_of, window
from tests.support.tiny_spectrograph import MERGE_HEIGHT, process, write_frame, write_history
from tests.support.verdict_rows import StoredExtension, add_extensions, nominal_frames

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
GOOD, BAD, OUTLIER = LabelName.GOOD, LabelName.BAD, LabelName.VALID_OUTLIER


@pytest.fixture
def browser(project):
    """Client of the application on the first of June, without a browser."""
    return pages_of(project, lambda: NOW)


@pytest.fixture
def past(project):
    """Sixty good frames well within the limits, and ten bad ones from half of them on."""
    good = [
        StoredExtension(height * MERGE_HEIGHT, label=GOOD) for height in np.linspace(0.1, 0.35, 60)
    ]
    bad = [
        StoredExtension((0.55 + 0.1 * i) * MERGE_HEIGHT, label=BAD, kind="light_leak")
        for i in range(10)
    ]
    return add_extensions(project, *good, *bad)


def digest_of(browser):
    return browser.get("/api/v1/thresholds/TB0").json()["digest"]


def save(browser, **changes):
    entry = {
        "factor": "0.5",
        "why": "a new lamp",
        "effective": "2026-06-02",
        "digest": changes.pop("digest", None) or digest_of(browser),
    }
    return browser.post("/thresholds/TB0", data=entry | changes, follow_redirects=False)


def test_thresholds_page_of_empty_project(browser):
    assert "No frame has been processed yet" in browser.get("/thresholds").text


@pytest.mark.usefixtures("past")
def test_thresholds_page_lists_author_and_reason(browser):
    page = browser.get("/thresholds").text
    assert all(text in page for text in ("/thresholds/TB0", "0.001", "2000-01-01", "a test"))
    [entry] = browser.get("/api/v1/thresholds").json()["types"]
    assert (entry["image_type"], entry["entry"]["merge_height"]) == ("TB0", MERGE_HEIGHT)


@pytest.mark.usefixtures("past")
def test_threshold_page_loads_past_on_request(browser):
    page = browser.get("/thresholds/TB0").text
    assert 'data-src="/thresholds/TB0?factor=1"' in page
    assert "newly flagged" not in page


def test_unknown_image_type_is_404(browser):
    answer = browser.get("/api/v1/thresholds/XB7")
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("XB7: no such image type; expected one of ")


def test_effects_of_half_the_thresholds(browser, past):
    document = browser.get("/api/v1/thresholds/TB0/consequences?factor=0.5").json()
    assert {item["name"] for item in document["newly_flagged"]} == set(past[-10:-5])
    assert document["no_longer_flagged_count"] == 0
    assert document["expected"]["recall"]["value"] == 1
    page = browser.get("/thresholds/TB0?factor=0.5").text
    assert "5 past frames newly flagged, 0 no longer flagged" in page
    assert 'href="/frames/TINY.60"' in page
    assert 'src="/thumbnails/TINY.60/0.png"' in page


@pytest.mark.usefixtures("past")
def test_effects_of_wide_thresholds(browser):
    document = browser.get("/api/v1/thresholds/TB0/consequences?factor=5").json()
    assert (document["newly_flagged_count"], document["no_longer_flagged_count"]) == (0, 5)
    assert document["expected"]["recall"]["value"] == 0


@pytest.mark.usefixtures("past")
def test_effects_of_false_alarm_rate(browser, project):
    document = browser.get("/api/v1/thresholds/TB0/consequences?false_alarms=0.01").json()
    goal = TuningGoal(date(2026, 6, 1), false_alarms=0.01)
    expected = propose(project, "TB0", goal, "", "kim")
    assert document["proposed"]["merge_height"] == expected.proposed.merge_height
    assert len(document["newly_flagged"]) == len(expected.newly_flagged)


@pytest.mark.usefixtures("past")
def test_effects_include_new_label(browser, project):
    address = "/api/v1/thresholds/TB0/consequences?factor=1"
    before = browser.get(address).json()["frames"]["bad"]
    add_extensions(project, StoredExtension(0.9 * MERGE_HEIGHT, label=BAD, kind="light_leak"))
    assert browser.get(address).json()["frames"]["bad"] == before + 1


@pytest.mark.parametrize(
    "query", ["factor=0", "factor=nan", "factor=wide", "recall=2", "factor=1&recall=0.9"]
)
@pytest.mark.usefixtures("past")
def test_effects_reject_invalid_query(browser, query):
    answer = browser.get(f"/api/v1/thresholds/TB0/consequences?{query}")
    assert answer.status_code == 422
    assert list(answer.json()) == ["error"]
    assert browser.get(f"/thresholds/TB0?{query}").status_code == 422


def test_effects_require_enough_frames(browser, project):
    add_extensions(project, *nominal_frames(5))
    assert "30 needed" in browser.get("/thresholds/TB0?factor=1").text
    answer = browser.get("/api/v1/thresholds/TB0/consequences?factor=1")
    assert (answer.status_code, "30 needed" in answer.json()["error"]) == (422, True)


@pytest.mark.usefixtures("past")
def test_save_writes_entry_with_reason_and_author(browser, project):
    answer = save(browser)
    assert (answer.status_code, answer.headers["location"]) == (303, "/thresholds/TB0#entries")
    path = project.settings.project / "thresholds.yaml"
    [instrument] = project.instruments
    entries = read_thresholds(path, instrument.image_types()).entries["TB0"]
    assert entries[0].merge_height == MERGE_HEIGHT
    assert (entries[1].merge_height, entries[1].since) == (0.5 * MERGE_HEIGHT, date(2026, 6, 2))
    assert entries[1].why == "a new lamp; the limits from 2000-01-01 on, times 0.5"
    assert entries[1].by == db.schema.engine.user_name()
    assert "a new lamp" in browser.get("/thresholds/TB0").text


@pytest.mark.usefixtures("past", "project")
def test_save_requires_reason(browser):
    before = digest_of(browser)
    assert save(browser, why="  ").status_code == 422
    assert digest_of(browser) == before


@pytest.mark.usefixtures("past")
def test_save_refuses_changed_file(browser, project):
    digest = digest_of(browser)
    path = project.settings.project / "thresholds.yaml"
    path.write_text("# somebody was here\n" + path.read_text())
    changed = path.read_bytes()
    answer = save(browser, digest=digest)
    assert (answer.status_code, "has changed since" in answer.text) == (409, True)
    assert path.read_bytes() == changed


@pytest.mark.usefixtures("past", "project")
def test_save_refuses_second_entry_of_night(browser):
    save(browser)
    answer = save(browser, factor="0.7")
    assert (answer.status_code, "would not be the newest" in answer.text) == (409, True)


@pytest.mark.usefixtures("project")
def test_comparison_of_two_entries(browser, past):
    save(browser)
    page = browser.get("/thresholds/TB0/compare?one=1&other=2").text
    assert "Flagged only by the entry from 2000-01-01: 0" in page
    assert "Flagged only by the entry from 2026-06-02: 5" in page
    document = browser.get("/api/v1/thresholds/TB0/compare?one=1&other=2").json()
    assert {item["name"] for item in document["only_other_flags"]} == set(past[-10:-5])
    assert browser.get("/thresholds/TB0/compare?one=1&other=9").status_code == 422


@pytest.mark.usefixtures("past")
def test_add_intervention(browser, project):
    entered = {"scope": "TB0", "since": "2026-01-05", "why": "a new <lamp>"}
    answer = browser.post("/thresholds/TB0/epochs", data=entered, follow_redirects=False)
    assert answer.status_code == 303
    with project.read_session() as session:
        [row] = db.labels.epochs(session)
    assert (row.scope, row.since, row.who) == (
        "TB0",
        date(2026, 1, 5),
        db.schema.engine.user_name(),
    )
    assert "a new &lt;lamp&gt;" in browser.get("/thresholds/TB0").text
    again = browser.post("/thresholds/TB0/epochs", data=entered, follow_redirects=False)
    assert (again.status_code, "has an epoch from 2026-01-05 already" in again.text) == (422, True)


@pytest.mark.usefixtures("past")
def test_valid_outliers_suggest_intervention(browser, project):
    assert "add an intervention?" not in browser.get("/thresholds/TB0").text
    add_extensions(project, *[StoredExtension(3 * MERGE_HEIGHT, label=OUTLIER)] * 3)
    page = browser.get("/thresholds/TB0").text
    assert "3 valid outliers since 2026-01-08: add an intervention?" in page
    entered = {"scope": "TINY", "since": "2026-01-08", "why": "a new lamp"}
    browser.post("/thresholds/TB0/epochs", data=entered)
    assert "add an intervention?" not in browser.get("/thresholds/TB0").text


def test_thumbnail_of_stored_and_missing_image(browser, project, inbox):
    process(project, *write_history(inbox, frames=2))
    path = write_frame(inbox, 1, 5)
    process(project, path)
    picture = browser.get(f"/thumbnails/{path.stem}/0.png")
    assert (picture.status_code, picture.content[1:4]) == (200, b"PNG")
    missing = browser.get("/thumbnails/NOBODY.1/0.png")
    assert (missing.status_code, b"no picture kept" in missing.content) == (404, True)


@pytest.mark.usefixtures("past")
def test_slider_updates_effects_and_address(page):
    page.goto("/thresholds/TB0")
    expect(page.get_by_text("0 past frames newly flagged, 0 no longer flagged")).to_be_visible()
    slider = page.get_by_role("slider")
    slider.focus()
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("5 past frames newly flagged, 0 no longer flagged")).to_be_visible()
    expect(page.get_by_label("factor on the present thresholds")).to_have_value("0.501")
    assert page.url.endswith("?factor=0.501")
    page.reload()
    expect(page.get_by_text("5 past frames newly flagged, 0 no longer flagged")).to_be_visible()


@pytest.mark.usefixtures("past")
def test_threshold_page_without_scripts(chromium, served):
    with window(chromium, served, java_script_enabled=False) as page:
        page.goto("/thresholds/TB0")
        expect(page.get_by_role("slider")).to_be_hidden()
        page.get_by_label("factor on the present thresholds").fill("0.5")
        page.get_by_role("button", name="Show").first.click()
        expect(page.get_by_text("5 past frames newly flagged, 0 no longer flagged")).to_be_visible()


@pytest.mark.usefixtures("past")
def test_save_from_slider(page, served):
    page.goto("/thresholds/TB0?factor=2")
    page.get_by_label("factor on the present thresholds").fill("0.5")
    page.get_by_label("factor on the present thresholds").press("Tab")
    expect(page.get_by_text("5 past frames newly flagged, 0 no longer flagged")).to_be_visible()
    page.get_by_label("Reason").fill("a new lamp")
    page.get_by_role("button", name="Write to thresholds.yaml").click()
    reason = "a new lamp; the limits from 2000-01-01 on, times 0.5"
    expect(page.get_by_role("cell", name=reason)).to_be_visible()
    text = (served.project.settings.project / "thresholds.yaml").read_text()
    assert "merge_height: 0.0005" in text


@pytest.mark.usefixtures("past")
def test_save_conflict_in_browser(page, served):
    page.goto("/thresholds/TB0?factor=0.5")
    path = served.project.settings.project / "thresholds.yaml"
    path.write_text("# somebody was here\n" + path.read_text())
    changed = path.read_bytes()
    page.get_by_label("Reason").fill("a new lamp")
    page.get_by_role("button", name="Write to thresholds.yaml").click()
    expect(page.get_by_text("has changed since the page was loaded")).to_be_visible()
    assert path.read_bytes() == changed


def test_charts_have_tables(browser, past):
    page = browser.get("/thresholds/TB0?factor=0.5").text
    assert page.count("<summary>Table</summary>") == 2
    histogram = plot_histogram(
        {"nominal": np.array([0.2] * 60), "bad": np.array([0.01, 2, np.inf])}
    )
    assert [part.frames for part in histogram.bins] == [(0, 1), (60, 0), (0, 1), (0, 1)]
    assert [part.low <= 2 <= part.high for part in histogram.bins] == [False, False, True, False]
    rows = plot_precision_recall(np.array([0.4, 1.2]), np.array([0.8, 1.6, 1.6, 1.6])).rows
    assert rows == ((1.2, 1.0, 0.75), (0.8, 0.75, 0.75), (0.4, 0.8, 1.0))
    assert len(past) == 70


def test_charts_use_thresholds_tried(browser, project):
    path = project.settings.project / "thresholds.yaml"
    text = path.read_text()
    assert "residual: 1000" in text
    path.write_text(text.replace("residual: 1000", "residual: 8"))
    good = [
        StoredExtension(height * MERGE_HEIGHT, 1.0, label=GOOD)
        for height in np.linspace(0.1, 0.35, 60)
    ]
    add_extensions(project, *good, *[StoredExtension(0.7 * MERGE_HEIGHT, 1.0, label=BAD)] * 10)
    page = browser.get("/thresholds/TB0?factor=0.5").text
    assert "thresholds tried: precision 1.00 at recall 1.00" in page
    assert (
        "thresholds tried: precision 1.00 at recall 0.00"
        in browser.get("/thresholds/TB0?factor=1").text
    )
