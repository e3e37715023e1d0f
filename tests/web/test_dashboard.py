from datetime import UTC, datetime, timedelta

import pytest

from qc import db
from qc.alerts.silences import silence
from qc.core.enums import FrameState, LabelName, Role, Topic
from qc.core.verdict import Status
from qc.db.operations import add_alert
from qc.db.schema.models import AlertRow, FrameRow, NotificationRow
from tests.support.alert_rows import broken_file
from tests.support.browser import pages_of, violations
from tests.support.verdict_rows import StoredExtension, add_extensions

NOW = datetime(2026, 1, 2, 6, tzinfo=UTC)
JUDGED = (
    StoredExtension(score=0.2),
    StoredExtension(score=0.95),
    StoredExtension(score=1.3, status=Status.ANOMALOUS),
    StoredExtension(score=40.0, status=Status.ANOMALOUS),
    StoredExtension(score=0.0, status=Status.UNDECIDED, references=2),
    StoredExtension(score=3.0, status=Status.ANOMALOUS, label=LabelName.GOOD),
)


def add_notification(project, at: datetime = NOW) -> int:
    """Add an open notification, and return its number."""
    with project.write_session.begin() as session:
        row = NotificationRow(topic=Topic.DAEMON, made_at=at, subject="[QC] the <disk> is full")
        session.add(row)
        session.flush()
        session.add(AlertRow(topic=Topic.DAEMON, owed_at=at, notification_id=row.id, key="disk"))
        return row.id


@pytest.fixture
def night(project):
    """A night with all parts of a dashboard; number of the open notification."""
    add_extensions(project, *JUDGED)
    number = add_notification(project)
    with project.write_session.begin() as session:
        add_alert(session, Topic.FILE, "b.fits", "b.fits cannot be read")
        until = NOW + timedelta(days=1)
        silence(session, number, until, False, "ann", NOW, "known")
        session.add(broken_file(NOW))
    return number


@pytest.fixture
def notification(project):
    """An open notification of today."""
    return add_notification(project, datetime.now(UTC))


def document(project, address: str = "/api/v1/dashboard", now: datetime = NOW):
    answer = pages_of(project, lambda: now).get(address)
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.usefixtures("night")
def test_queue_order_by_doubt(project):
    queue = document(project)["queue"]
    assert [item["score"] for item in queue] == [0.0, 0.95, 1.3, 40.0]
    assert [item["standing"] for item in queue] == [
        "undecided",
        "nominal",
        "anomalous",
        "anomalous",
    ]


@pytest.mark.usefixtures("night")
def test_matrix_cell_shows_worst_status_and_age(project):
    (matrix,) = document(project)["matrices"]
    (row,) = matrix["rows"]
    (cell,) = row["cells"]
    assert (matrix["chips"], row["name"], cell["image_types"]) == (["CCD"], "bias", ["TB0"])
    assert (cell["standing"], cell["score"], cell["frames"]) == ("anomalous", 40.0, 6)
    assert cell["age"] == "PT9H55M"


@pytest.mark.usefixtures("night")
def test_dashboard_lists_pending_silenced_and_failed(project):
    dashboard = document(project)
    assert [item["what"] for item in dashboard["owed"]] == ["b.fits cannot be read"]
    assert [(item["who"], item["alerts"]) for item in dashboard["silenced"]] == [("ann", 0)]
    assert [(item["name"], item["reason"]) for item in dashboard["failed"]] == [
        ("b.fits", "it ends too early")
    ]


def test_dashboard_reports_nights_without_frames(project):
    add_extensions(project, StoredExtension())
    page = pages_of(project, lambda: NOW + timedelta(days=3)).get("/").text
    assert "No frames for 2 nights since" in page
    assert "newest: 3 days ago" in page


def test_dashboard_lists_idle_detector(project):
    with project.write_session.begin() as session:
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


def test_dashboard_of_older_night(project):
    add_extensions(project, *[StoredExtension()] * 11)
    assert "Not the newest night" in pages_of(project).get("/?night=2026-01-01").text
    assert "Not the newest night" not in pages_of(project).get("/?night=2026-01-02").text


def test_dashboard_escapes_markup(project, night):
    page = pages_of(project, lambda: NOW).get("/").text
    assert night
    assert "the &lt;disk&gt; is full" in page


# --- in a browser ---------------------------------------------------------------------------------


def test_notification_acknowledged_by_keyboard(page, notification):
    page.goto("/")
    note = page.get_by_label("Note")
    while not note.evaluate("one => one === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.type("a bigger disk is ordered")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Acknowledge"
    page.keyboard.press("Enter")
    page.get_by_text("None of the last 30 days.").wait_for()
    assert notification


def test_acknowledgement_stores_author_and_time(project, night):
    with project.write_session.begin() as session:
        db.accounts.add_account(session, "kim", Role.REVIEW, "echelle-390", NOW)
        token = db.accounts.make_token(session, "kim", NOW)
    client = pages_of(project, lambda: NOW)
    bearer = {"Authorization": f"Bearer {token}"}
    address = f"/api/v1/notifications/{night}/acknowledge"
    assert client.post(address, json={"note": "seen"}, headers=bearer).status_code == 204
    with project.read_session() as session:
        (acknowledgement,) = session.get_one(NotificationRow, night).acknowledgements
        assert (acknowledgement.who, acknowledgement.at, acknowledgement.note) == (
            "kim",
            NOW,
            "seen",
        )


def test_acknowledgement_requires_review_role(project, night):
    with project.write_session.begin() as session:
        db.accounts.add_account(session, "eve", Role.LOOK, "echelle-390", NOW)
        token = db.accounts.make_token(session, "eve", NOW)

    client = pages_of(project, lambda: NOW)
    client.cookies["qc_session"] = db.accounts.log_in(
        project.write_session, "eve", "echelle-390", "127.0.0.1", NOW, timedelta(hours=1)
    )
    assert "Acknowledge" not in client.get("/").text
    client.cookies.clear()
    refusal = client.post(
        f"/api/v1/notifications/{night}/acknowledge",
        json={},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert (refusal.status_code, "REVIEW" in refusal.json()["error"]) == (403, True)


def test_dashboard_becomes_stale_offline(page):
    page.clock.install()
    page.goto("/")
    age = page.locator("nav .age")
    assert "stale" not in (age.get_attribute("class") or "")
    page.context.set_offline(True)
    page.clock.run_for(11 * 60 * 1000)
    page.locator("nav .age.stale").wait_for()
    assert "11 min old" in age.inner_text()
    assert page.get_by_role("status").inner_text() == "This page is old. Reload it."
    assert violations(page) == []


def test_dashboard_reloads_itself(page, project):
    page.clock.install()
    page.goto("/")
    add_extensions(project, StoredExtension(status=Status.ANOMALOUS, score=4.0))
    page.clock.run_for(61 * 1000)
    page.get_by_text("TINY.0[0]").wait_for()
    assert page.locator("nav .age.stale").count() == 0


def test_dashboard_does_not_reload_while_editing(page, project, notification):
    page.clock.install()
    page.goto("/")
    page.get_by_label("Note").fill("half a sen")
    add_extensions(project, StoredExtension(status=Status.ANOMALOUS, score=4.0))
    page.clock.run_for(61 * 1000)
    assert page.get_by_label("Note").input_value() == "half a sen"
    assert notification
