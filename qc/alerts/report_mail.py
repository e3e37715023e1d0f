"""A report that is written, and owed to who asked for reports."""

from datetime import date, datetime

from qc.alerts.dispatch import owe_report
from qc.project import Project
from qc.reports.publish import PublishedReport, read_outcome
from qc.summaries.period import NightRange


def mail_night(project: Project, night: date, written: PublishedReport, now: datetime) -> int:
    """Owe a night's report, its outcome in the subject; return to how many."""
    words = read_outcome(project, night).words
    return _owe(project, written, f"[QC] night {night}: {words}", night, now)


def mail_span(project: Project, span: NightRange, written: PublishedReport, now: datetime) -> int:
    """Owe the report of a week or a month; return to how many."""
    return _owe(project, written, f"[QC] {span.name}", span.last, now)


def _owe(
    project: Project, written: PublishedReport, subject: str, night: date, now: datetime
) -> int:
    with project.writes.begin() as session:
        return owe_report(session, project.settings, written.html, subject, night, now)
