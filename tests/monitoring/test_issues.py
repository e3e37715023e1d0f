import logging
from datetime import UTC, datetime, timedelta

from qc.monitoring.issues import ActiveIssues

NOW = datetime(2026, 1, 2, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_issue_is_logged_once_at_its_begin_and_end(caplog):
    issues = ActiveIssues()
    is_new = [issues.begin("database", "locked", NOW + n * MINUTE) for n in range(10)]
    assert is_new == [True] + 9 * [False]
    issues.end("database", NOW + 10 * MINUTE)
    issues.end("database", NOW + 11 * MINUTE)
    logged = [(record.message, record.issue) for record in caplog.records]
    assert logged == [("issue begins", "database"), ("issue ends", "database")]
    assert caplog.records[-1].lasted_s == 600
    assert not list(issues)


def test_replace_ends_missing_issues_with_the_prefix(caplog):
    caplog.set_level(logging.WARNING)
    issues = ActiveIssues()
    issues.begin("schedule", "away", NOW)
    issues.replace("inbox ", {"a": "gone", "b": "gone"}, NOW)
    issues.replace("inbox ", {"b": "gone"}, NOW + MINUTE)
    assert [issue.key for issue in issues] == ["schedule", "inbox b"]


def test_has_lasted_counts_from_the_first_message():
    issues = ActiveIssues()
    issues.begin("database", "locked", NOW)
    issues.begin("database", "locked still", NOW + 9 * MINUTE)
    [issue] = issues
    assert issue.message == "locked"
    assert issue.has_lasted(10 * MINUTE, NOW + 10 * MINUTE)
    assert not issue.has_lasted(10 * MINUTE, NOW + 9 * MINUTE)
