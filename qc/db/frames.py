"""Files and frames: processed, failed and skipped ones, retries."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import core
from qc._time import utc_now
from qc.db import labels, operations
from qc.db.schema import engine
from qc.db.schema.models import FrameRow

FRAME_FIELDS = (
    "sha256",
    "name",
    "instrument",
    "observed_at",
    "night",
    "exposure_s",
    "template",
    "template_number",
    "template_size",
)
_DEFAULT_RETRY = core.RetryPolicy()


def is_known(session: Session, file: core.FileInfo) -> bool:
    """Return True if a file was processed or skipped before and is unchanged since.

    False if it failed since, so that it is read again.

    Parameters
    ----------
    session : Session
    file : FileInfo

    Returns
    -------
    bool
    """
    rows = session.scalars(sa.select(FrameRow).where(FrameRow.path == str(file.path))).all()
    return all(row.state != core.FrameState.FAILED for row in rows) and any(
        (row.file_bytes, row.modified_ns) == (file.size_bytes, file.modified_ns) for row in rows
    )


def is_recorded(session: Session, file: core.FileInfo) -> bool:
    """Return True if an unchanged file has a row, whatever its state.

    Parameters
    ----------
    session : Session
    file : FileInfo

    Returns
    -------
    bool
    """
    query = sa.select(FrameRow.id).where(
        FrameRow.path == str(file.path),
        FrameRow.file_bytes == file.size_bytes,
        FrameRow.modified_ns == file.modified_ns,
    )
    return session.scalars(query).first() is not None


def files_to_retry(session: Session, now: datetime) -> Sequence[FrameRow]:
    """Return the failed files that are due for a retry, longest due first.

    Parameters
    ----------
    session : Session
    now : datetime

    Returns
    -------
    sequence of FrameRow
    """
    query = sa.select(FrameRow).where(
        FrameRow.state == core.FrameState.FAILED,
        FrameRow.retry_at.is_not(None),
        FrameRow.retry_at <= now,
    )
    return session.scalars(query.order_by(FrameRow.retry_at)).all()


def match_processed_file(
    session: Session, file: core.FileInfo, sha256: str, label: core.LabelName | None = None
) -> bool:
    """Return True if a file's bytes were processed before, at any path.

    The failed or skipped row of the file is then deleted. Size and date of a processed file that
    was touched are updated, so that it is not read again.

    Parameters
    ----------
    session : Session
    file : FileInfo
    sha256 : str
        Hex digest of the FITS bytes.
    label : LabelName, optional
        Label for extensions without one.

    Returns
    -------
    bool
    """
    row = find_by_digest(session, sha256)
    if row is None:
        return False
    session.execute(sa.delete(FrameRow).where(is_unprocessed(file)))
    if row.path == str(file.path):
        row.file_bytes, row.modified_ns = file.size_bytes, file.modified_ns
    if label is not None:
        _label_unlabelled(session, row, label)
    return True


def label_file(session: Session, file: core.FileInfo, label: core.LabelName) -> None:
    """Label the extensions of a processed file that have no label.

    Parameters
    ----------
    session : Session
    file : FileInfo
    label : LabelName
    """
    for row in session.scalars(sa.select(FrameRow).where(FrameRow.path == str(file.path))):
        _label_unlabelled(session, row, label)


def _label_unlabelled(session: Session, row: FrameRow, label: core.LabelName) -> None:
    session.refresh(row, with_for_update=True)  # a concurrent transaction waits, then sees this one
    for extension in row.extensions:
        if not is_answered(session, extension.id):
            answer = labels.LabelAnswer(label, engine.user_name())
            labels.record_label(session, extension.id, answer)


def is_answered(session: Session, extension_id: int) -> bool:
    """Return True if an extension has a current label.

    Parameters
    ----------
    session : Session
    extension_id : int

    Returns
    -------
    bool
    """
    return not labels.unlabelled(session, [extension_id])


def find_by_digest(session: Session, sha256: str) -> FrameRow | None:
    """Return the processed frame with these FITS bytes, at any path.

    Parameters
    ----------
    session : Session
    sha256 : str
        Hex digest of the bytes.

    Returns
    -------
    FrameRow or None
    """
    return session.scalar(sa.select(FrameRow).where(FrameRow.sha256 == sha256))


def postpone_retry(session: Session, path: Path, policy: core.RetryPolicy, now: datetime) -> None:
    """Postpone the retry of a failed file that does not exist now.

    Parameters
    ----------
    session : Session
    path : Path
    policy : RetryPolicy
    now : datetime
    """
    is_failed = FrameRow.state == core.FrameState.FAILED
    row = session.scalars(sa.select(FrameRow).where(FrameRow.path == str(path), is_failed)).one()
    row.tries += 1
    row.retry_at = policy.next_try(row.failed_since or now, row.tries, now)


def to_frame(row: FrameRow) -> core.Frame:
    """Return a stored frame without extensions."""
    values = {name: getattr(row, name) for name in FRAME_FIELDS}
    return core.Frame(path=Path(row.path), extensions=(), **values)


def file_columns(file: core.FileInfo) -> dict[str, Any]:
    """Return the columns of a frame's row that describe its file, processed now."""
    return {
        "path": str(file.path),
        "file_bytes": file.size_bytes,
        "modified_ns": file.modified_ns,
        "processed_at": utc_now(),
    }


def record_unprocessed(
    session: Session,
    file: core.FileInfo,
    state: core.FrameState,
    reason: str,
    policy: core.RetryPolicy = _DEFAULT_RETRY,
) -> None:
    """Store that a file failed or was skipped; it is read again if it changes.

    A failed file is due for a retry until the policy ends; then an alert is added.

    Parameters
    ----------
    session : Session
    file : FileInfo
    state : FrameState
        FAILED or SKIPPED.
    reason : str
    policy : RetryPolicy
    """
    row = _unprocessed_row(session, file)
    row.state, row.reason = state, reason
    if state is not core.FrameState.FAILED:
        row.failed_since = row.retry_at = None
        return
    row.failed_since = row.failed_since or row.processed_at
    row.tries += 1
    row.retry_at = policy.next_try(row.failed_since, row.tries, row.processed_at)
    if row.retry_at is None:
        key = f"file {file.path} {file.size_bytes} {file.modified_ns}"
        operations.add_alert(session, core.Topic.FILE, key, reason)


def _unprocessed_row(session: Session, file: core.FileInfo) -> FrameRow:
    """Return the locked row of an unprocessed file, inserted if there is none."""
    query = sa.select(FrameRow).where(is_unprocessed(file)).with_for_update()
    while (row := session.scalar(query)) is None:
        values = {"name": file.path.name, "state": core.FrameState.FAILED, **file_columns(file)}
        engine.insert_new(session, FrameRow, **values)
    if (row.file_bytes, row.modified_ns) != (file.size_bytes, file.modified_ns):
        row.failed_since, row.tries = None, 0  # the file has changed since the failure
    for name, value in file_columns(file).items():
        setattr(row, name, value)
    return row


def is_unprocessed(file: core.FileInfo) -> sa.ColumnElement[bool]:
    """Return the condition for the row of a failed or skipped file."""
    return sa.and_(FrameRow.path == str(file.path), FrameRow.state != core.FrameState.PROCESSED)
