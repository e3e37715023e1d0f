import logging
from datetime import UTC, datetime, timedelta

from qc.monitoring.issues import ActiveIssues

NOW = datetime(2026, 1, 2, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def said(caplog):
    return [(record.message, record.trouble) for record in caplog.records]


def test_a_trouble_is_said_when_it_begins_and_when_it_is_over(caplog):
    troubles = ActiveIssues()
    news = [troubles.begin("database", "locked", NOW + n * MINUTE) for n in range(10)]
    assert news == [True] + 9 * [False]
    troubles.end("database", NOW + 10 * MINUTE)
    troubles.end("database", NOW + 11 * MINUTE)
    assert said(caplog) == [("trouble begins", "database"), ("trouble is over", "database")]
    assert caplog.records[-1].lasted_s == 600
    assert not list(troubles)


def test_troubles_of_a_kind_that_are_no_longer_there_are_over(caplog):
    caplog.set_level(logging.WARNING)
    troubles = ActiveIssues()
    troubles.begin("schedule", "away", NOW)
    troubles.stand("inbox ", {"a": "gone", "b": "gone"}, NOW)
    troubles.stand("inbox ", {"b": "gone"}, NOW + MINUTE)
    assert [trouble.key for trouble in troubles] == ["schedule", "inbox b"]


def test_how_long_it_has_lasted_counts_from_its_beginning():
    troubles = ActiveIssues()
    troubles.begin("database", "locked", NOW)
    troubles.begin("database", "locked still", NOW + 9 * MINUTE)
    [trouble] = troubles
    assert trouble.words == "locked"
    assert trouble.has_lasted(10 * MINUTE, NOW + 10 * MINUTE)
    assert not trouble.has_lasted(10 * MINUTE, NOW + 9 * MINUTE)
