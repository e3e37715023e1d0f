"""Silences: suppress similar alerts until a time or the next nominal frame."""

import datetime as dt
from collections import abc

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import _text, core, errors
from qc.alerts import notifications
from qc.db.schema import models


def silence(
    session: Session,
    notification_id: int,
    until: dt.datetime | None,
    until_nominal: bool,
    author: str,
    now: dt.datetime,
    note: str = "",
) -> models.SilenceRow:
    """Silence alerts with the topic, instrument and image types of a notification.

    Parameters
    ----------
    session : Session
        Open session; the caller commits.
    notification_id : int
        Number of the notification.
    until : datetime or None
        End, aware.
    until_nominal : bool
        End with the next nominal frame of these image types.
    author : str
        Name of the person.
    now : datetime
        Time, UTC.
    note : str
        Reason.

    Returns
    -------
    SilenceRow

    Raises
    ------
    InvalidInputError
        If there is no such notification, or the silence has no end in the future.
    """
    notification = notifications.get_notification(session, notification_id)
    if until is None and not until_nominal:
        raise errors.InvalidInputError("a silence needs an end: a time, or the next nominal frame")
    if until is not None and until <= now:
        raise errors.InvalidInputError(
            f"a silence until {until:%Y-%m-%d %H:%M} UTC would be over already"
        )
    alerts = notification.alerts
    types = sorted({alert.image_type for alert in alerts if alert.image_type})
    if until_nominal and not types:
        raise errors.InvalidInputError(
            f"notification {notification_id} has no image type: no frame can end its silence; "
            "give a time"
        )
    row = models.SilenceRow(
        notification_id=notification_id,
        topic=notification.topic,
        instrument=next((alert.instrument for alert in alerts if alert.instrument), None),
        image_types=types,
        who=_text.plain_line(author),
        since=now,
        until=until,
        until_nominal=until_nominal,
        note=note[: notifications.LONGEST_NOTE],
    )
    session.add(row)
    session.flush()
    return row


def read_silences(session: Session, *, ended: bool = False) -> abc.Sequence[models.SilenceRow]:
    """Return the silences in force.

    Parameters
    ----------
    session : Session
        Open session.
    ended : bool
        Include ended silences.

    Returns
    -------
    sequence of SilenceRow
    """
    query = sa.select(models.SilenceRow).order_by(models.SilenceRow.id)
    if not ended:
        query = query.where(models.SilenceRow.ended_at.is_(None))
    return session.scalars(query).all()


def end_silences(session: Session, now: dt.datetime) -> int:
    """End the silences that have expired or whose image types are nominal again.

    Parameters
    ----------
    session : Session
        Open session; the caller commits.
    now : datetime
        Time, UTC.

    Returns
    -------
    int
        Number of ended silences.
    """
    count = 0
    for row in read_silences(session):
        recovery = find_nominal(session, row) if row.until_nominal else None
        if recovery and (row.until is None or recovery[0] <= row.until):
            row.ended_at, row.ended_why = recovery
        elif row.until is not None and row.until <= now:
            row.ended_at, row.ended_why = row.until, "expired"
        else:
            continue
        count += 1
    session.flush()
    return count


def find_nominal(session: Session, row: models.SilenceRow) -> tuple[dt.datetime, str] | None:
    """Return time and name of the first nominal frame after the silenced anomalies.

    Parameters
    ----------
    session : Session
        Open session.
    row : SilenceRow
        Silence of image types.

    Returns
    -------
    tuple of (datetime, str) or None
        Time of the verdict; None without such a frame.
    """
    frame, extension, verdict = models.FrameRow, models.ExtensionRow, models.VerdictRow
    last_anomaly = (
        sa.select(sa.func.max(frame.observed_at))
        .join(extension, extension.frame_id == frame.id)
        .join(verdict, verdict.extension_id == extension.id)
        .join(models.AlertRow, models.AlertRow.verdict_id == verdict.id)
        .where(models.AlertRow.notification_id == row.notification_id)
        .scalar_subquery()
    )
    query = (
        sa.select(verdict.judged_at, frame.name, extension.number)
        .join(extension, extension.id == verdict.extension_id)
        .join(frame, frame.id == extension.frame_id)
        .where(
            extension.image_type.in_(row.image_types),
            frame.instrument == row.instrument,
            frame.processed_at >= row.since,
            sa.or_(last_anomaly.is_(None), frame.observed_at > last_anomaly),
            verdict.status == core.Status.NOMINAL,
        )
        .order_by(verdict.id)
        .limit(1)
    )
    match = session.execute(query).one_or_none()
    return (match[0], f"{match[1]}[{match[2]}] is nominal") if match else None


def apply_silences(session: Session, now: dt.datetime) -> None:
    """Assign pending alerts to the silences that cover them.

    Parameters
    ----------
    session : Session
        Open session; the caller commits.
    now : datetime
        Time, UTC.
    """
    silences = [row for row in read_silences(session, ended=True) if row.since <= now]
    if not silences:
        return
    for alert in session.scalars(
        sa.select(models.AlertRow).where(*notifications.pending_conditions())
    ):
        row = next((row for row in silences if covers(row, alert)), None)
        if row is not None:
            alert.silence_id = row.id
    session.flush()


def covers(row: models.SilenceRow, alert: models.AlertRow) -> bool:
    """Return True if a silence suppresses an alert.

    Parameters
    ----------
    row : SilenceRow
        Silence.
    alert : AlertRow
        Alert.

    Returns
    -------
    bool
    """
    is_type = alert.image_type in row.image_types if row.image_types else alert.image_type is None
    is_topic = (row.topic, row.instrument) == (alert.topic, alert.instrument)
    return (
        is_topic and is_type and (row.ended_at is None or row.since <= alert.owed_at < row.ended_at)
    )
