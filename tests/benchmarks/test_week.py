import time
from datetime import UTC, datetime

import numpy as np

from benchmarks.week.checking import percentile, take_account
from benchmarks.week.living import Week
from benchmarks.week.post import Letter
from qc.alerts.gather import gather_alerts
from qc.core.enums import LabelName
from qc.db.schema.models import DeliveryRow, NotificationRow
from tests.support.tiny_spectrograph import light_leak, process, write_frame, write_history

NOW = datetime.now(UTC)


def told(project):
    """Send the pending notifications; return their mail."""
    settings = project.settings.model_copy(
        update={
            "alerts": project.settings.alerts.model_copy(
                update={"gather_s": 0, "oldest_days": 10**5}
            )
        }
    )
    with project.write_session.begin() as session:
        gather_alerts(
            session, settings, datetime.now(UTC), project.instruments, lambda after: after
        )
        for notice in session.query(NotificationRow):
            session.add(
                DeliveryRow(
                    notification=notice, channel="mail", address="a", owed_at=NOW, sent_at=NOW
                )
            )


def account(project, arrived, letters=()):
    with project.read_session() as session:
        return take_account(session, dict.fromkeys(arrived, time.time()), letters)


def test_a_frame_that_was_delivered_and_is_not_on_record_is_lost(project, inbox):
    [outcome] = process(project, write_frame(inbox))
    lost = write_frame(inbox, number=1)
    result = account(project, [outcome.path, lost])
    assert (result.files, result.processed, result.lost, result.twice) == (2, 1, 1, 0)
    assert result.verdicts == {1: 1}


def test_an_alert_that_has_not_left_is_untold_and_a_mail_that_came_twice_repeated(project, inbox):
    process(project, *write_history(inbox), label=LabelName.GOOD)
    [outcome] = process(project, write_frame(inbox, 2, change=light_leak))
    assert account(project, [outcome.path]).untold == 1
    told(project)
    letter = Letter("<1>", "s", (), NOW.timestamp(), 100)
    result = account(project, [outcome.path], [letter, letter])
    assert (result.alerts, result.untold, result.letters, result.repeated) == (1, 0, 2, 1)


def test_a_week_has_its_twenty_kills_in_five_days_and_three_trials(tmp_path):
    week = Week(tmp_path, tmp_path / "project", [[]] * 7, NOW.date(), speed=100)
    names = [trial.what for trial in week.trials]
    assert (names.count("kill -9"), len(names)) == (20, 23)
    assert max(trial.at_s for trial in week.trials if trial.what == "kill -9") < 5 * week.day_s
    assert not week.is_calm(week.began + week.trials[0].at_s + 1)
    quiet = Week(tmp_path, tmp_path / "project", [[]], NOW.date(), speed=100, pace_s=12)
    assert quiet.trials == []


def test_percentiles_of_nothing_are_not_numbers():
    assert np.isnan(percentile([], 95))
    assert percentile([1, 2, 3], 50) == 2
