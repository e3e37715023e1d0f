"""Notifications: pending alerts, open notifications, acknowledgements."""

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import _text, core, db, errors
from qc.db.schema import models

LONGEST_NOTE = 2000  # characters


def pending_conditions() -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions of pending alerts: not in a notification, silenced or settled."""
    row = models.AlertRow
    return row.notification_id.is_(None), row.silence_id.is_(None), row.settled == ""


def open_notifications(
    session: Session, since: dt.datetime | None = None
) -> list[models.NotificationRow]:
    """Return the notifications without an acknowledgement, oldest first.

    Labels on all images of a notification count as an acknowledgement. Reports and archives need
    none.

    Parameters
    ----------
    session : Session
        Open session.
    since : datetime, optional
        Leave out older notifications.

    Returns
    -------
    list of NotificationRow
    """
    row = models.NotificationRow
    label = db.labels.newest_label()
    unlabelled = (  # also true for an alert without a verdict
        sa.select(models.AlertRow.id)
        .outerjoin(models.VerdictRow, models.VerdictRow.id == models.AlertRow.verdict_id)
        .outerjoin(models.ExtensionRow, models.ExtensionRow.id == models.VerdictRow.extension_id)
        .where(models.AlertRow.notification_id == row.id, label.is_(None))
    )
    query = sa.select(row).where(
        row.topic != core.Topic.REPORT,
        row.form != core.NotificationKind.ARCHIVE,
        ~sa.exists().where(models.AcknowledgementRow.notification_id == row.id),
        unlabelled.exists(),
    )
    if since is not None:
        query = query.where(row.made_at >= since)
    return list(session.scalars(query.order_by(row.id)))


def get_notification(session: Session, notification_id: int) -> models.NotificationRow:
    """Return a notification by its number.

    Parameters
    ----------
    session : Session
        Open session.
    notification_id : int
        Number.

    Returns
    -------
    NotificationRow

    Raises
    ------
    InvalidInputError
        If there is none.
    """
    row = session.get(models.NotificationRow, notification_id)
    if row is None:
        raise errors.InvalidInputError(
            f"there is no notification {notification_id}; 'qc alerts list --all' lists them"
        )
    return row


def acknowledge(
    session: Session, notification_id: int, author: str, now: dt.datetime, note: str = ""
) -> None:
    """Acknowledge a notification; earlier acknowledgements stay.

    Parameters
    ----------
    session : Session
        Open session; the caller commits.
    notification_id : int
        Number.
    author : str
        Name of the person.
    now : datetime
        Time, UTC.
    note : str
        Cause or action taken.

    Raises
    ------
    InvalidInputError
        If there is no such notification.
    """
    get_notification(session, notification_id)
    session.add(
        models.AcknowledgementRow(
            notification_id=notification_id,
            who=_text.plain_line(author),
            at=now,
            note=note[:LONGEST_NOTE],
        )
    )
    session.flush()


# --- for the command line and the REST API --------------------------------------------------------


def alerts_record(session: Session, *, every: bool = False) -> dict[str, Any]:
    """Return notifications, silences and the number of pending alerts for an export.

    Parameters
    ----------
    session : Session
        Open session.
    every : bool
        Include acknowledged notifications and ended silences.

    Returns
    -------
    dict
        ``open``, ``waiting``, ``notices`` and ``silences``.
    """
    unanswered = open_notifications(session)
    rows = unanswered
    if every:
        query = sa.select(models.NotificationRow).order_by(models.NotificationRow.id)
        rows = list(session.scalars(query))
    open_ids = {row.id for row in unanswered}
    pending = sa.select(sa.func.count()).select_from(models.AlertRow).where(*pending_conditions())
    silences = sa.select(models.SilenceRow).order_by(models.SilenceRow.id)
    if not every:
        silences = silences.where(models.SilenceRow.ended_at.is_(None))
    return {
        "open": len(open_ids),
        "waiting": session.scalar(pending) or 0,
        "notices": [notification_record(row, is_open=row.id in open_ids) for row in rows],
        "silences": [
            {
                "number": row.id,
                "notice_id": row.notification_id,
                **{name: getattr(row, name) for name in _SILENCE_FIELDS},
            }
            for row in session.scalars(silences)
        ],
    }


_SILENCE_FIELDS = (
    "topic",
    "instrument",
    "image_types",
    "who",
    "since",
    "until",
    "until_nominal",
    "note",
    "ended_at",
    "ended_why",
)


def notification_record(row: models.NotificationRow, *, is_open: bool) -> dict[str, Any]:
    """Return a notification with deliveries and acknowledgements for an export.

    Parameters
    ----------
    row : NotificationRow
        Notification.
    is_open : bool
        True without an acknowledgement.

    Returns
    -------
    dict
    """
    return {
        "number": row.id,
        "topic": row.topic,
        "form": row.form,
        "night": row.night,
        "made_at": row.made_at,
        "subject": row.subject,
        "alerts": len(row.alerts),
        "open": is_open,
        "deliveries": [
            {
                "channel": delivery.channel,
                "address": delivery.address,
                "sent_at": delivery.sent_at,
                "due_at": delivery.due_at,
                "gave_up_at": delivery.gave_up_at,
                "tries": delivery.tries,
                "trouble": delivery.trouble,
            }
            for delivery in row.deliveries
        ],
        "acknowledged": [
            {"who": answer.who, "at": answer.at, "note": answer.note}
            for answer in row.acknowledgements
        ],
    }
