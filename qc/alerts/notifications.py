"""What people are told and what they answer: notices, acknowledgements, silences."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session

from qc import db
from qc.alerts.content import plain
from qc.core.enums import NotificationKind, Topic
from qc.core.verdict import Status
from qc.db.models import (
    AcknowledgementRow,
    AlertRow,
    ExtensionRow,
    FrameRow,
    NotificationRow,
    SilenceRow,
    VerdictRow,
)
from qc.errors import InvalidInputError

LONGEST_NOTE = 2000


def waiting() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of alerts that people are to be told of and have not been."""
    return AlertRow.notice_id.is_(None), AlertRow.silence_id.is_(None), AlertRow.settled == ""


def open_notices(session: Session, since: datetime | None = None) -> list[NotificationRow]:
    """Return the notices that nobody has answered, oldest first.

    Who labels all the frames of a notice has answered it too.
    """
    query = select(NotificationRow).where(
        NotificationRow.topic != Topic.REPORT,
        NotificationRow.form != NotificationKind.ARCHIVE,
        ~exists().where(AcknowledgementRow.notice_id == NotificationRow.id),
        _unlabelled(),
    )
    if since is not None:
        query = query.where(NotificationRow.made_at >= since)
    return list(session.scalars(query.order_by(NotificationRow.id)))


def _unlabelled() -> ColumnElement[bool]:
    """Say whether an alert of the notice is of no verdict, or of an image without a label."""
    label = db.labels.newest_label()
    without = (
        select(AlertRow.id)
        .outerjoin(VerdictRow, VerdictRow.id == AlertRow.verdict_id)
        .outerjoin(ExtensionRow, ExtensionRow.id == VerdictRow.extension_id)
        .where(AlertRow.notice_id == NotificationRow.id, label.is_(None))
    )
    return without.exists()


def acknowledge(session: Session, notice_id: int, who: str, now: datetime, note: str = "") -> None:
    """Keep that a person has seen a notice; what was said of it before stays.

    Raises
    ------
    InvalidAnswer
        If there is no such notice.
    """
    _notice(session, notice_id)
    session.add(
        AcknowledgementRow(notice_id=notice_id, who=plain(who), at=now, note=note[:LONGEST_NOTE])
    )
    session.flush()


def _notice(session: Session, notice_id: int) -> NotificationRow:
    found = session.get(NotificationRow, notice_id)
    if found is None:
        raise InvalidInputError(f"there is no notice {notice_id}; 'qc alerts --all' lists them")
    return found


def silence(
    session: Session,
    notice_id: int,
    until: datetime | None,
    until_nominal: bool,
    who: str,
    now: datetime,
    note: str = "",
) -> SilenceRow:
    """Send no mail of alerts like a notice's: of its topic, instrument and image types.

    Raises
    ------
    InvalidAnswer
        If there is no such notice, or nothing says when the silence ends.
    """
    notice = _notice(session, notice_id)
    if until is None and not until_nominal:
        raise InvalidInputError("a silence needs an end: a time, or the next nominal frame")
    if until is not None and until <= now:
        raise InvalidInputError(f"a silence until {until:%Y-%m-%d %H:%M} UTC would be over already")
    types = sorted({one.image_type for one in notice.alerts if one.image_type})
    if until_nominal and not types:
        raise InvalidInputError(
            f"notice {notice_id} is of no image type: no frame can end its silence"
        )
    row = SilenceRow(
        notice_id=notice_id,
        topic=notice.topic,
        instrument=next((one.instrument for one in notice.alerts if one.instrument), None),
        image_types=types,
        who=plain(who),
        since=now,
        until=until,
        until_nominal=until_nominal,
        note=note[:LONGEST_NOTE],
    )
    session.add(row)
    session.flush()
    return row


def silences(session: Session, *, ended: bool = False) -> Sequence[SilenceRow]:
    """Return the silences that hold, or those too that have ended."""
    query = select(SilenceRow).order_by(SilenceRow.id)
    return session.scalars(query if ended else query.where(SilenceRow.ended_at.is_(None))).all()


def end_silences(session: Session, now: datetime) -> int:
    """End the silences whose time has come, or whose images are nominal again; return how many."""
    count = 0
    for row in silences(session):
        end = _end_of(session, row, now)
        if end is not None:
            row.ended_at, row.ended_why = end
            count += 1
    session.flush()
    return count


def _end_of(session: Session, row: SilenceRow, now: datetime) -> tuple[datetime, str] | None:
    well = _well_again(session, row) if row.until_nominal else None
    if well and (row.until is None or well[0] <= row.until):
        return well
    return (row.until, "its time was over") if row.until is not None and row.until <= now else None


def _well_again(session: Session, row: SilenceRow) -> tuple[datetime, str] | None:
    """Return when a later frame of the silenced image types was first judged nominal, and which."""
    last_bad = (
        select(func.max(FrameRow.observed_at))
        .join(ExtensionRow, ExtensionRow.frame_id == FrameRow.id)
        .join(VerdictRow, VerdictRow.extension_id == ExtensionRow.id)
        .join(AlertRow, AlertRow.verdict_id == VerdictRow.id)
        .where(AlertRow.notice_id == row.notice_id)
        .scalar_subquery()
    )
    query = (
        select(VerdictRow.judged_at, FrameRow.name, ExtensionRow.number)
        .join(ExtensionRow, ExtensionRow.id == VerdictRow.extension_id)
        .join(FrameRow, FrameRow.id == ExtensionRow.frame_id)
        .where(
            ExtensionRow.image_type.in_(row.image_types),
            FrameRow.instrument == row.instrument,
            FrameRow.processed_at >= row.since,
            or_(last_bad.is_(None), FrameRow.observed_at > last_bad),
            VerdictRow.status == Status.NOMINAL,
        )
        .order_by(VerdictRow.id)
        .limit(1)
    )
    found = session.execute(query).one_or_none()
    return (found[0], f"{found[1]}[{found[2]}] is nominal") if found else None


def hush(session: Session, now: datetime) -> None:
    """Let silences take the alerts that they cover."""
    known = [row for row in silences(session, ended=True) if row.since <= now]
    if not known:
        return
    for alert in session.scalars(select(AlertRow).where(*waiting())):
        covering = (row for row in known if _covers(row, alert))
        row = next(covering, None)
        if row is not None:
            alert.silence_id = row.id
    session.flush()


def _covers(row: SilenceRow, alert: AlertRow) -> bool:
    alike = alert.image_type in row.image_types if row.image_types else alert.image_type is None
    same = (row.topic, row.instrument) == (alert.topic, alert.instrument)
    return same and alike and (row.ended_at is None or row.since <= alert.owed_at < row.ended_at)


# --- for the command line -------------------------------------------------------------------------


def alerts_record(session: Session, *, every: bool = False) -> dict[str, Any]:
    """Return the notices, the silences and what waits, for people and programs.

    Parameters
    ----------
    every : bool
        The answered ones too, and silences that have ended.
    """
    unanswered = open_notices(session)
    notices: Sequence[NotificationRow] = unanswered
    if every:
        notices = session.scalars(select(NotificationRow).order_by(NotificationRow.id)).all()
    is_open = {one.id for one in unanswered}
    owed = session.scalar(select(func.count()).select_from(AlertRow).where(*waiting()))
    return {
        "open": len(is_open),
        "waiting": owed or 0,
        "notices": [_notice_record(one, one.id in is_open) for one in notices],
        "silences": [_silence_record(one) for one in silences(session, ended=every)],
    }


def _notice_record(notice: NotificationRow, is_open: bool) -> dict[str, Any]:
    return {
        "number": notice.id,
        "topic": notice.topic,
        "form": notice.form,
        "night": notice.night,
        "made_at": notice.made_at,
        "subject": notice.subject,
        "alerts": len(notice.alerts),
        "open": is_open,
        "deliveries": [
            {
                "channel": one.channel,
                "address": one.address,
                "sent_at": one.sent_at,
                "due_at": one.due_at,
                "gave_up_at": one.gave_up_at,
                "tries": one.tries,
                "trouble": one.trouble,
            }
            for one in notice.deliveries
        ],
        "acknowledged": [
            {"who": one.who, "at": one.at, "note": one.note} for one in notice.acknowledgements
        ],
    }


def _silence_record(row: SilenceRow) -> dict[str, Any]:
    return {"number": row.id, **{name: getattr(row, name) for name in _OF_A_SILENCE}}


_OF_A_SILENCE = (
    "notice_id",
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
