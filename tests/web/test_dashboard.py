from datetime import UTC, datetime, timedelta

import pytest

from qc import db
from qc.alerts.notifications import silence
from qc.core.enums import FrameState, LabelName, Role, Topic
from qc.core.verdict import Status
from qc.db.alerts import owe_alert
from qc.db.models import AlertRow, FrameRow, NotificationRow
from tests.support.browser import pages_of, violations
from tests.support.owed import broken_file
from tests.support.remembered import Past, remember

NOW = datetime(2026, 1, 2, 6, tzinfo=UTC)
JUDGED = (
    Past(score=0.2),
    Past(score=0.95),
    Past(score=1.3, status=Status.ANOMALOUS),
    Past(score=40.0, status=Status.ANOMALOUS),
    Past(score=0.0, status=Status.UNDECIDED, references=2),
    Past(score=3.0, status=Status.ANOMALOUS, label=LabelName.GOOD),
)


def tell(project, at: datetime = NOW) -> int:
    """Make a notice that nobody has answered, and return its number."""
    with project.writes.begin() as session:
        row = NotificationRow(topic=Topic.DAEMON, made_at=at, subject="[QC] the <disk> is full")
        session.add(row)
        session.flush()
        session.add(AlertRow(topic=Topic.DAEMON, owed_at=at, notice_id=row.id, key="disk"))
        return row.id


@pytest.fixture
def night(project):
    """A night with a bit of everything; the number of its open notice."""
    remember(project, *JUDGED)
    number = tell(project)
    with project.writes.begin() as session:
        owe_alert(session, Topic.FILE, "b.fits", "b.fits cannot be read")
        until = NOW + timedelta(days=1)
        silence(session, number, until, False, "ann", NOW, "known")
        session.add(broken_file(NOW))
    return number


@pytest.fixture
def told(project):
    """A notice of today."""
    return tell(project, datetime.now(UTC))


def document(project, address: str = "/api/v1/tonight", now: datetime = NOW):
    answer = pages_of(project, lambda: now).get(address)
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.usefixtures("night")
def test_the_queue_begins_with_what_nobody_can_know(project):
    queue = document(project)["queue"]
    assert [one["score"] for one in queue] == [0.0, 0.95, 1.3, 40.0]
    assert [one["standing"] for one in queue] == ["undecided", "nominal", "anomalous", "anomalous"]


@pytest.mark.usefixtures("night")
def test_a_cell_tells_the_worst_of_its_chip_and_how_long_ago_it_was(project):
    (matrix,) = document(project)["matrices"]
    (row,) = matrix["rows"]
    (cell,) = row["cells"]
    assert (matrix["chips"], row["name"], cell["image_types"]) == (["CCD"], "bias", ["TB0"])
    assert (cell["standing"], cell["score"], cell["frames"]) == ("anomalous", 40.0, 6)
    assert cell["age"] == "PT9H55M"


@pytest.mark.usefixtures("night")
def test_what_is_owed_silenced_and_failed_is_there(project):
    found = document(project)
    assert [one["what"] for one in found["owed"]] == ["b.fits cannot be read"]
    assert [(one["who"], one["alerts"]) for one in found["silenced"]] == [("ann", 0)]
    assert [(one["name"], one["reason"]) for one in found["failed"]] == [
        ("b.fits", "it ends too early")
    ]


def test_a_night_on_which_nothing_came_is_told_in_words(project):
    remember(project, Past())
    page = pages_of(project, lambda: NOW + timedelta(days=3)).get("/").text
    assert "Nothing has come for 2 nights since" in page
    assert "newest 3 days old" in page


def test_a_chip_without_a_frame_for_a_month_is_named_all_the_same(project):
    with project.writes.begin() as session:
        session.add(
            FrameRow(
                state=FrameState.PROCESSED,
                path="/in/other.fits",
                name="other",
                file_bytes=1,
                modified_ns=1,
                processed_at=NOW,
                sha256="0",
                instrument="OTHER",
                observed_at=NOW,
                night=NOW.date(),
            )
        )
    assert "TINY (CCD): no frame for 30 days" in pages_of(project, lambda: NOW).get("/").text


def test_an_older_night_says_that_it_is_not_the_newest(project):
    remember(project, *[Past()] * 11)
    assert "Not the newest night" in pages_of(project).get("/?night=2026-01-01").text
    assert "Not the newest night" not in pages_of(project).get("/?night=2026-01-02").text


def test_words_from_outside_are_words_and_no_markup(project, night):
    page = pages_of(project, lambda: NOW).get("/").text
    assert night
    assert "the &lt;disk&gt; is full" in page


# --- in a browser ---------------------------------------------------------------------------------


def test_a_notice_is_acknowledged_with_the_keyboard_alone(page, told):
    page.goto("/")
    note = page.get_by_label("What it is")
    while not note.evaluate("one => one === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.type("a bigger disk is ordered")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Acknowledge"
    page.keyboard.press("Enter")
    page.get_by_text("Everything of the last 30 days has been answered").wait_for()
    assert told


def test_what_was_acknowledged_is_kept_with_who_and_when(project, night):
    with project.writes.begin() as session:
        db.accounts.add_account(session, "kim", Role.REVIEW, "echelle-390", NOW)
        token = db.accounts.make_token(session, "kim", NOW)
    client = pages_of(project, lambda: NOW)
    bearer = {"Authorization": f"Bearer {token}"}
    address = f"/api/v1/notices/{night}/acknowledge"
    assert client.post(address, json={"note": "seen"}, headers=bearer).status_code == 204
    with project.reads() as session:
        (said,) = session.get_one(NotificationRow, night).acknowledgements
        assert (said.who, said.at, said.note) == ("kim", NOW, "seen")


def test_who_may_only_look_is_given_no_button_and_refused(project, night):
    with project.writes.begin() as session:
        db.accounts.add_account(session, "eve", Role.LOOK, "echelle-390", NOW)
        token = db.accounts.make_token(session, "eve", NOW)

    client = pages_of(project, lambda: NOW)
    client.cookies["qc_session"] = db.accounts.log_in(
        project.writes, "eve", "echelle-390", "127.0.0.1", NOW, timedelta(hours=1)
    )
    assert "Acknowledge" not in client.get("/").text
    client.cookies.clear()
    refusal = client.post(
        f"/api/v1/notices/{night}/acknowledge",
        json={},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert (refusal.status_code, "REVIEW" in refusal.json()["error"]) == (403, True)


def test_a_page_that_cannot_be_read_again_turns_red(page):
    page.clock.install()
    page.goto("/")
    age = page.locator("nav .age")
    assert "stale" not in (age.get_attribute("class") or "")
    page.context.set_offline(True)
    page.clock.run_for(11 * 60 * 1000)
    page.locator("nav .age.stale").wait_for()
    assert "11 min old" in age.inner_text()
    assert page.get_by_role("status").inner_text() == "This page is old: load it again."
    assert violations(page) == []


def test_a_page_that_is_left_open_shows_what_comes(page, project):
    page.clock.install()
    page.goto("/")
    remember(project, Past(status=Status.ANOMALOUS, score=4.0))
    page.clock.run_for(61 * 1000)
    page.get_by_text("TINY.0[0]").wait_for()
    assert page.locator("nav .age.stale").count() == 0


def test_a_note_being_written_is_not_taken_away_by_what_comes(page, project, told):
    page.clock.install()
    page.goto("/")
    page.get_by_label("What it is").fill("half a sen")
    remember(project, Past(status=Status.ANOMALOUS, score=4.0))
    page.clock.run_for(61 * 1000)
    assert page.get_by_label("What it is").input_value() == "half a sen"
    assert told
