"""Report mail: queue written reports for the subscribers of reports."""

import datetime as dt
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import _text, core
from qc.alerts import recipients
from qc.db.schema import models
from qc.project import ProjectContext
from qc.reports.index import read_outcome
from qc.reports.publish import PublishedReport
from qc.settings import Settings
from qc.summaries import night_range


def mail_night(
    project: ProjectContext, night: dt.date, report: PublishedReport, now: dt.datetime
) -> int:
    """Queue a night report, with the outcome of the night in the subject.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    night : date
        Night.
    report : PublishedReport
        Its files.
    now : datetime
        Time, UTC.

    Returns
    -------
    int
        Number of recipients.
    """
    outcome = read_outcome(project, night)
    subject = f"[QC] night {night}: {outcome.description}"
    with project.write_session.begin() as session:
        return queue_report(session, project.settings, report.html, subject, night, now)


def mail_span(
    project: ProjectContext, span: night_range.NightRange, report: PublishedReport, now: dt.datetime
) -> int:
    """Queue the report of a week or a month.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    span : NightRange
        Week or month.
    report : PublishedReport
        Its files.
    now : datetime
        Time, UTC.

    Returns
    -------
    int
        Number of recipients.
    """
    subject = f"[QC] {span.name}"
    with project.write_session.begin() as session:
        return queue_report(session, project.settings, report.html, subject, span.last, now)


def queue_report(
    session: Session,
    settings: Settings,
    file: Path,
    subject: str,
    night: dt.date | None,
    now: dt.datetime,
) -> int:
    """Queue a report page for the subscribers of reports.

    A page that is queued already is not queued twice: the mail contains the file at the time of
    sending.

    Parameters
    ----------
    session : Session
        Open session; the caller commits.
    settings : Settings
        Subscriptions.
    file : Path
        HTML page; a PDF file of the same name is attached too.
    subject : str
        Subject line.
    night : date or None
        Night of the report.
    now : datetime
        Time, UTC.

    Returns
    -------
    int
        Number of recipients.
    """
    row = models.NotificationRow
    unsent = (
        sa.select(row)
        .join(row.deliveries)
        .where(
            row.topic == core.Topic.REPORT,
            row.file == str(file),
            models.DeliveryRow.due_at.is_not(None),
            models.DeliveryRow.sent_at.is_(None),
        )
    )
    notification = session.scalar(unsent.limit(1)) or models.NotificationRow(
        topic=core.Topic.REPORT,
        form=core.NotificationKind.EVENT,
        night=night,
        made_at=now,
        file=str(file),
        subject="",
    )
    notification.subject = _text.plain_line(subject)
    subscriptions = settings.subscription
    if not any(recipients.selects(entry, core.Topic.REPORT, ()) for entry in subscriptions):
        return 0
    session.add(notification)
    session.flush()
    recipients.queue_deliveries(session, settings, notification, (), now)
    return len(notification.deliveries)
