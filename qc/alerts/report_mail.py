"""A report that is written, and owed to who asked for reports."""

from datetime import date, datetime

from qc.alerts.dispatch import owe_report
from qc.project import Runtime
from qc.reports.publish import Published, read_outcome
from qc.summaries.period import Span


def mail_night(runtime: Runtime, night: date, written: Published, now: datetime) -> int:
    """Owe a night's report, its outcome in the subject; return to how many."""
    words = read_outcome(runtime, night).words
    return _owe(runtime, written, f"[QC] night {night}: {words}", night, now)


def mail_span(runtime: Runtime, span: Span, written: Published, now: datetime) -> int:
    """Owe the report of a week or a month; return to how many."""
    return _owe(runtime, written, f"[QC] {span.name}", span.last, now)


def _owe(runtime: Runtime, written: Published, subject: str, night: date, now: datetime) -> int:
    with runtime.writes.begin() as session:
        return owe_report(session, runtime.settings, written.html, subject, night, now)
