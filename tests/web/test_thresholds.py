from datetime import UTC, date, datetime

import numpy as np
import pytest
from playwright.sync_api import expect

from qc import db
from qc.core.enums import LabelName
from qc.detection.thresholds import read_thresholds
from qc.tuning.proposals import TuningGoal, propose
from qc.web.plots import curve, distribution
from tests.support.browser import pages_of, window
from tests.support.remembered import Past, nominal_frames, remember
from tests.support.tiny import MERGE_HEIGHT, process, write_frame, write_history

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
GOOD, BAD, OUTLIER = LabelName.GOOD, LabelName.BAD, LabelName.VALID_OUTLIER


@pytest.fixture
def browser(project):
    """What asks for pages without a browser, on the first of June."""
    return pages_of(project, lambda: NOW)


@pytest.fixture
def past(project):
    """Sixty good frames well within the limits, and ten bad ones from half of them on."""
    good = [Past(height * MERGE_HEIGHT, label=GOOD) for height in np.linspace(0.1, 0.35, 60)]
    bad = [Past((0.55 + 0.1 * i) * MERGE_HEIGHT, label=BAD, kind="light_leak") for i in range(10)]
    return remember(project, *good, *bad)


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


def test_a_project_without_frames_says_so(browser):
    assert "Nothing has been processed yet" in browser.get("/thresholds").text


@pytest.mark.usefixtures("past")
def test_the_limits_in_force_are_listed_with_author_and_reason(browser):
    page = browser.get("/thresholds").text
    assert all(word in page for word in ("/thresholds/TB0", "0.001", "2000-01-01", "a test"))
    [one] = browser.get("/api/v1/thresholds").json()["types"]
    assert (one["image_type"], one["entry"]["merge_height"]) == ("TB0", MERGE_HEIGHT)


@pytest.mark.usefixtures("past")
def test_the_page_of_a_type_reads_nothing_of_its_past_until_it_is_asked(browser):
    page = browser.get("/thresholds/TB0").text
    assert 'data-src="/thresholds/TB0?factor=1"' in page
    assert "would be flagged" not in page


def test_a_type_that_is_none_is_not_found_and_says_what_there_is(browser):
    answer = browser.get("/api/v1/thresholds/XB7")
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("XB7: no such image type; there are ")


def test_half_the_limits_would_flag_the_bad_frames_between(browser, past):
    told = browser.get("/api/v1/thresholds/TB0/consequences?factor=0.5").json()
    assert {one["name"] for one in told["newly_flagged"]} == set(past[-10:-5])
    assert told["no_longer_flagged_count"] == 0
    assert told["expected"]["recall"]["value"] == 1
    page = browser.get("/thresholds/TB0?factor=0.5").text
    assert "5 past frames would be flagged, 0 no longer" in page
    assert 'href="/frames/TINY.60"' in page
    assert 'src="/thumbnails/TINY.60/0.png"' in page


@pytest.mark.usefixtures("past")
def test_a_factor_wider_than_all_frames_finds_none_of_the_bad_ones(browser):
    told = browser.get("/api/v1/thresholds/TB0/consequences?factor=5").json()
    assert (told["newly_flagged_count"], told["no_longer_flagged_count"]) == (0, 5)
    assert told["expected"]["recall"]["value"] == 0


@pytest.mark.usefixtures("past")
def test_a_granted_rate_gives_the_limits_that_the_command_line_gives(browser, project):
    told = browser.get("/api/v1/thresholds/TB0/consequences?false_alarms=0.01").json()
    goal = TuningGoal(date(2026, 6, 1), false_alarms=0.01)
    expected = propose(project, "TB0", goal, "", "kim")
    assert told["proposed"]["merge_height"] == expected.proposed.merge_height
    assert len(told["newly_flagged"]) == len(expected.newly_flagged)


@pytest.mark.usefixtures("past")
def test_a_label_given_meanwhile_counts_at_once(browser, project):
    address = "/api/v1/thresholds/TB0/consequences?factor=1"
    before = browser.get(address).json()["frames"]["bad"]
    remember(project, Past(0.9 * MERGE_HEIGHT, label=BAD, kind="light_leak"))
    assert browser.get(address).json()["frames"]["bad"] == before + 1


@pytest.mark.parametrize(
    "asked", ["factor=0", "factor=nan", "factor=wide", "recall=2", "factor=1&recall=0.9"]
)
@pytest.mark.usefixtures("past")
def test_a_wish_that_cannot_be_is_refused_in_a_sentence(browser, asked):
    answer = browser.get(f"/api/v1/thresholds/TB0/consequences?{asked}")
    assert answer.status_code == 422
    assert list(answer.json()) == ["error"]
    assert browser.get(f"/thresholds/TB0?{asked}").status_code == 422


def test_where_too_little_is_known_the_page_says_how_much_is_needed(browser, project):
    remember(project, *nominal_frames(5))
    assert "30 needed" in browser.get("/thresholds/TB0?factor=1").text
    answer = browser.get("/api/v1/thresholds/TB0/consequences?factor=1")
    assert (answer.status_code, "30 needed" in answer.json()["error"]) == (422, True)


@pytest.mark.usefixtures("past")
def test_what_is_saved_is_an_entry_of_the_file_with_reason_and_author(browser, project):
    answer = save(browser)
    assert (answer.status_code, answer.headers["location"]) == (303, "/thresholds/TB0#entries")
    path = project.settings.project / "thresholds.yaml"
    [instrument] = project.instruments
    entries = read_thresholds(path, instrument.image_types()).entries["TB0"]
    assert entries[0].merge_height == MERGE_HEIGHT
    assert (entries[1].merge_height, entries[1].since) == (0.5 * MERGE_HEIGHT, date(2026, 6, 2))
    assert entries[1].why == "a new lamp; the limits from 2000-01-01 on, times 0.5"
    assert entries[1].by == db.engine.user()
    assert "a new lamp" in browser.get("/thresholds/TB0").text


@pytest.mark.usefixtures("past", "project")
def test_without_a_reason_nothing_is_saved(browser):
    before = digest_of(browser)
    assert save(browser, why="  ").status_code == 422
    assert digest_of(browser) == before


@pytest.mark.usefixtures("past")
def test_a_file_changed_since_the_page_was_made_is_left_as_it_is(browser, project):
    seen = digest_of(browser)
    path = project.settings.project / "thresholds.yaml"
    path.write_text("# somebody was here\n" + path.read_text())
    changed = path.read_bytes()
    answer = save(browser, digest=seen)
    assert (answer.status_code, "was changed after" in answer.text) == (409, True)
    assert path.read_bytes() == changed


@pytest.mark.usefixtures("past", "project")
def test_two_entries_from_one_night_cannot_be(browser):
    save(browser)
    answer = save(browser, factor="0.7")
    assert (answer.status_code, "would not be the newest" in answer.text) == (409, True)


@pytest.mark.usefixtures("project")
def test_two_entries_are_compared_by_limits_and_by_the_frames_that_only_one_flags(browser, past):
    save(browser)
    page = browser.get("/thresholds/TB0/compare?one=1&other=2").text
    assert "Flagged only by the entry from 2000-01-01: 0" in page
    assert "Flagged only by the entry from 2026-06-02: 5" in page
    told = browser.get("/api/v1/thresholds/TB0/compare?one=1&other=2").json()
    assert {one["name"] for one in told["only_other_flags"]} == set(past[-10:-5])
    assert browser.get("/thresholds/TB0/compare?one=1&other=9").status_code == 422


@pytest.mark.usefixtures("past")
def test_an_intervention_is_entered_as_on_the_command_line(browser, project):
    entered = {"scope": "TB0", "since": "2026-01-05", "why": "a new <lamp>"}
    answer = browser.post("/thresholds/TB0/epochs", data=entered, follow_redirects=False)
    assert answer.status_code == 303
    with project.reads() as session:
        [row] = db.epochs.epochs(session)
    assert (row.scope, row.since, row.who) == ("TB0", date(2026, 1, 5), db.engine.user())
    assert "a new &lt;lamp&gt;" in browser.get("/thresholds/TB0").text
    again = browser.post("/thresholds/TB0/epochs", data=entered, follow_redirects=False)
    assert (again.status_code, "has an epoch from 2026-01-05 already" in again.text) == (422, True)


@pytest.mark.usefixtures("past")
def test_valid_outliers_since_the_last_epoch_suggest_another(browser, project):
    assert "start an epoch here?" not in browser.get("/thresholds/TB0").text
    remember(project, *[Past(3 * MERGE_HEIGHT, label=OUTLIER)] * 3)
    page = browser.get("/thresholds/TB0").text
    assert "3 valid outliers since 2026-01-08: start an epoch here?" in page
    entered = {"scope": "TINY", "since": "2026-01-08", "why": "a new lamp"}
    browser.post("/thresholds/TB0/epochs", data=entered)
    assert "start an epoch here?" not in browser.get("/thresholds/TB0").text


def test_a_thumbnail_is_a_picture_and_so_is_its_absence(browser, project, inbox):
    process(project, *write_history(inbox, frames=2))
    path = write_frame(inbox, 1, 5)
    process(project, path)
    found = browser.get(f"/thumbnails/{path.stem}/0.png")
    assert (found.status_code, found.content[1:4]) == (200, b"PNG")
    missing = browser.get("/thumbnails/NOBODY.1/0.png")
    assert (missing.status_code, b"no picture kept" in missing.content) == (404, True)


@pytest.mark.usefixtures("past")
def test_the_slider_shows_what_would_flip_while_it_moves_and_the_address_follows(page):
    page.goto("/thresholds/TB0")
    expect(page.get_by_text("0 past frames would be flagged, 0 no longer")).to_be_visible()
    slider = page.get_by_role("slider")
    slider.focus()
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("5 past frames would be flagged, 0 no longer")).to_be_visible()
    expect(page.get_by_label("times the present limits")).to_have_value("0.501")
    assert page.url.endswith("?factor=0.501")
    page.reload()
    expect(page.get_by_text("5 past frames would be flagged, 0 no longer")).to_be_visible()


@pytest.mark.usefixtures("past")
def test_without_a_script_the_same_is_a_form(chromium, served):
    with window(chromium, served, java_script_enabled=False) as page:
        page.goto("/thresholds/TB0")
        expect(page.get_by_role("slider")).to_be_hidden()
        page.get_by_label("times the present limits").fill("0.5")
        page.get_by_role("button", name="Show").first.click()
        expect(page.get_by_text("5 past frames would be flagged, 0 no longer")).to_be_visible()


@pytest.mark.usefixtures("past")
def test_what_the_slider_chose_is_saved_with_a_reason(page, served):
    page.goto("/thresholds/TB0?factor=2")
    page.get_by_label("times the present limits").fill("0.5")
    page.get_by_label("times the present limits").press("Tab")
    expect(page.get_by_text("5 past frames would be flagged, 0 no longer")).to_be_visible()
    page.get_by_label("Why").fill("a new lamp")
    page.get_by_role("button", name="Write to thresholds.yaml").click()
    words = "a new lamp; the limits from 2000-01-01 on, times 0.5"
    expect(page.get_by_role("cell", name=words)).to_be_visible()
    text = (served.project.settings.project / "thresholds.yaml").read_text()
    assert "merge_height: 0.0005" in text


@pytest.mark.usefixtures("past")
def test_a_page_that_somebody_else_overtook_says_so_and_writes_nothing(page, served):
    page.goto("/thresholds/TB0?factor=0.5")
    path = served.project.settings.project / "thresholds.yaml"
    path.write_text("# somebody was here\n" + path.read_text())
    changed = path.read_bytes()
    page.get_by_label("Why").fill("a new lamp")
    page.get_by_role("button", name="Write to thresholds.yaml").click()
    expect(page.get_by_text("was changed after this page had been made")).to_be_visible()
    assert path.read_bytes() == changed


def test_a_histogram_and_a_curve_are_told_in_numbers_too(browser, past):
    page = browser.get("/thresholds/TB0?factor=0.5").text
    assert page.count("<summary>The same in numbers</summary>") == 2
    drawn = distribution({"nominal": np.array([0.2] * 60), "bad": np.array([0.01, 2, np.inf])})
    assert [one.frames for one in drawn.spans] == [(0, 1), (60, 0), (0, 1), (0, 1)]
    assert [one.low <= 2 <= one.high for one in drawn.spans] == [False, False, True, False]
    told = curve(np.array([0.4, 1.2]), np.array([0.8, 1.6, 1.6, 1.6])).rows
    assert told == ((1.2, 1.0, 0.75), (0.8, 0.75, 0.75), (0.4, 0.8, 1.0))
    assert len(past) == 70


def test_the_drawings_are_of_the_limits_tried_though_one_of_them_is_at_its_floor(browser, project):
    path = project.settings.project / "thresholds.yaml"
    text = path.read_text()
    assert "residual: 1000" in text
    path.write_text(text.replace("residual: 1000", "residual: 8"))
    good = [Past(height * MERGE_HEIGHT, 1.0, label=GOOD) for height in np.linspace(0.1, 0.35, 60)]
    remember(project, *good, *[Past(0.7 * MERGE_HEIGHT, 1.0, label=BAD)] * 10)
    page = browser.get("/thresholds/TB0?factor=0.5").text
    assert "here precision 1.00 at recall 1.00" in page
    assert "here precision 1.00 at recall 0.00" in browser.get("/thresholds/TB0?factor=1").text
