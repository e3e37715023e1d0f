"""A report that is written, and owed to who asked for reports."""

from datetime import date, datetime

from qc.alerts.dispatch import owe_report
from qc.project import Project
from qc.reports.publish import PublishedReport, read_outcome
from qc.summaries.period import NightRange


def mail_night(runtime: Project, night: date, written: PublishedReport, now: datetime) -> int:
    """Owe a night's report, its outcome in the subject; return to how many."""
    words = read_outcome(runtime, night).words
    return _owe(runtime, written, f"[QC] night {night}: {words}", night, now)


def mail_span(runtime: Project, span: NightRange, written: PublishedReport, now: datetime) -> int:
    """Owe the report of a week or a month; return to how many."""
    return _owe(runtime, written, f"[QC] {span.name}", span.last, now)


def _owe(
    runtime: Project, written: PublishedReport, subject: str, night: date, now: datetime
) -> int:
    with runtime.writes.begin() as session:
        return owe_report(session, runtime.settings, written.html, subject, night, now)
