from datetime import UTC, datetime, timedelta

import pytest

from qc import db
from qc.core.enums import LabelName
from qc.monitoring import health
from tests.support.databases import write_settings
from tests.support.tiny_spectrograph import (
    light_leak,
    open_tiny,
    process,
    write_frame,
    write_history,
)

NOW = datetime.now(UTC)


@pytest.fixture
def subscribed(project_folder):
    """A project with a subscription."""
    write_settings(project_folder, "[[subscription]]\nto = ['me@here.example']\n")
    with open_tiny(project_folder) as project:
        yield project


def read(project, now=NOW):
    with project.read_session() as session:
        return health.read_health(session, project.settings, now)


def test_health_of_a_new_project_has_no_issues(subscribed):
    assert read(subscribed).is_well


def test_health_with_an_alert_pending_over_an_hour_has_an_issue(subscribed, inbox):
    process(subscribed, *write_history(inbox), label=LabelName.GOOD)
    process(subscribed, write_frame(inbox, 2, change=light_leak))
    now = datetime.now(UTC)
    assert read(subscribed, now).is_well
    assert read(subscribed, now).pending_alerts == 1
    late = read(subscribed, now + timedelta(hours=2))
    assert late.issues == ("an alert has been pending for 2.0 h",)


def test_health_record_keeps_its_names(subscribed):
    with subscribed.write_session.begin() as session:
        db.operations.record_run(session, "scan", NOW, NOW, "3 files")
    record = health.health_record(read(subscribed))
    assert set(record) == {
        *("is_well", "at", "daemon", "is_running", "files", "lag_s"),
        *("mails_owed", "oldest_debt_s", "jobs", "troubles"),
    }
    [job] = record["jobs"]
    assert (job["name"], job["last_words"], job["is_well"]) == ("scan", "3 files", True)


def test_weekly_distances_of_nominal_frames_show_ageing(subscribed, inbox):
    process(subscribed, *write_history(inbox), label=LabelName.GOOD)
    process(subscribed, *(write_frame(inbox, night) for night in (2, 3, 9)))
    with subscribed.read_session() as session:
        first = datetime(2026, 1, 2, tzinfo=UTC).date()
        distances = db.statistics.weekly_distances(session, first)
    weeks = [(image_type, week) for image_type, week, _ in distances]
    assert weeks == [("TB0", "2026-W01"), ("TB0", "2026-W02")]
    assert all(0 < distance < 1 for *_, distance in distances)
