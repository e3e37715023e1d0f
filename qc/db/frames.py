"""The questions asked of the tables, and what is put into them. The caller owns the transaction."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    delete,
    select,
)
from sqlalchemy.orm import (
    Session,
)

from qc._time import utc_now
from qc.core.enums import FrameState, LabelName, Topic
from qc.core.frame import Frame
from qc.core.measurement import FileInfo, RetryPolicy
from qc.db.alerts import owe_alert
from qc.db.engine import add_new, user
from qc.db.labels import LabelAnswer, labels_of, record_label, standing
from qc.db.models import FrameRow

_TWO_DAYS = RetryPolicy()


def is_known(session: Session, file: FileInfo) -> bool:
    """Say whether this very file was processed or skipped before, without reading it.

    One that could not be read since then is to be read again.
    """
    rows = session.scalars(select(FrameRow).where(FrameRow.path == str(file.path))).all()
    return all(row.state != FrameState.FAILED for row in rows) and any(
        (row.file_bytes, row.modified_ns) == (file.size_bytes, file.modified_ns) for row in rows
    )


def is_recorded(session: Session, file: FileInfo) -> bool:
    """Say whether it is on record what became of this very file, be it that it failed."""
    query = select(FrameRow.id).where(
        FrameRow.path == str(file.path),
        FrameRow.file_bytes == file.size_bytes,
        FrameRow.modified_ns == file.modified_ns,
    )
    return session.scalars(query).first() is not None


def files_to_try_again(session: Session, now: datetime) -> Sequence[FrameRow]:
    """Return the failed files that are due for another try, the longest due first."""
    query = select(FrameRow).where(
        FrameRow.state == FrameState.FAILED,
        FrameRow.retry_at.is_not(None),
        FrameRow.retry_at <= now,
    )
    return session.scalars(query.order_by(FrameRow.retry_at)).all()


def recognise(
    session: Session, file: FileInfo, sha256: str, label: LabelName | None = None
) -> bool:
    """Say whether these FITS bytes were processed before, wherever they lay.

    If so, what was wrong with this file is mended; and if it is the one that was processed then,
    it need not be read a third time for having been touched.
    """
    row = frame_with_digest(session, sha256)
    if row is None:
        return False
    session.execute(delete(FrameRow).where(_unprocessed(file)))
    if row.path == str(file.path):
        row.file_bytes, row.modified_ns = file.size_bytes, file.modified_ns
    if label is not None:
        _label_unlabelled(session, row, label)
    return True


def certify(session: Session, file: FileInfo, label: LabelName) -> None:
    """Label the extensions of a processed file, save those that a person has spoken about."""
    for row in session.scalars(select(FrameRow).where(FrameRow.path == str(file.path))):
        _label_unlabelled(session, row, label)


def _label_unlabelled(session: Session, row: FrameRow, label: LabelName) -> None:
    session.refresh(row, with_for_update=True)  # whoever else certifies it waits, then sees ours
    for extension in row.extensions:
        if not _is_answered(session, extension.id):
            record_label(session, extension.id, LabelAnswer(label, user()))


def frame_with_digest(session: Session, sha256: str) -> FrameRow | None:
    """Return the processed frame with these FITS bytes, wherever it lay."""
    return session.scalar(select(FrameRow).where(FrameRow.sha256 == sha256))


def postpone(session: Session, path: Path, patience: RetryPolicy, now: datetime) -> None:
    """Look later for a failed file that is not there now, for as long as patience lasts."""
    row = session.scalars(
        select(FrameRow).where(FrameRow.path == str(path), FrameRow.state == FrameState.FAILED)
    ).one()
    row.tries += 1
    row.retry_at = patience.next_try(row.failed_since or now, row.tries, now)


def frame_of(row: FrameRow) -> Frame:
    """Return a stored frame, its pixels left behind."""
    facts = {name: getattr(row, name) for name in _FRAME_FIELDS}
    return Frame(path=Path(row.path), extensions=(), **facts)


def _file_facts(file: FileInfo) -> dict[str, Any]:
    return {
        "path": str(file.path),
        "file_bytes": file.size_bytes,
        "modified_ns": file.modified_ns,
        "processed_at": utc_now(),
    }


_FRAME_FIELDS = (
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


def _is_answered(session: Session, extension_id: int) -> bool:
    return standing(labels_of(session, [extension_id]).get(extension_id, ())) is not None


def record_unprocessed(
    session: Session,
    file: FileInfo,
    state: FrameState,
    reason: str,
    patience: RetryPolicy = _TWO_DAYS,
) -> None:
    """Keep that a file failed or was skipped, and why; it is read again if it changes.

    One that failed is due for another try, until patience ends: then people are told.
    """
    row = _unprocessed_row(session, file)
    row.state, row.reason = state, reason
    if state is not FrameState.FAILED:
        row.failed_since = row.retry_at = None
        return
    row.failed_since = row.failed_since or row.processed_at
    row.tries += 1
    row.retry_at = patience.next_try(row.failed_since, row.tries, row.processed_at)
    if row.retry_at is None:
        key = f"file {file.path} {file.size_bytes} {file.modified_ns}"
        owe_alert(session, Topic.FILE, key, reason)


def _unprocessed_row(session: Session, file: FileInfo) -> FrameRow:
    """Return the row of a file that was tried before and not processed, or a new one.

    Nobody else changes it before the transaction ends.
    """
    query = select(FrameRow).where(_unprocessed(file)).with_for_update()
    while (row := session.scalar(query)) is None:
        add_new(
            session, FrameRow, name=file.path.name, state=FrameState.FAILED, **_file_facts(file)
        )
    if (row.file_bytes, row.modified_ns) != (file.size_bytes, file.modified_ns):
        row.failed_since, row.tries = None, 0  # another file than the one that failed
    for name, value in _file_facts(file).items():
        setattr(row, name, value)
    return row


def _unprocessed(file: FileInfo) -> ColumnElement[bool]:
    return and_(FrameRow.path == str(file.path), FrameRow.state != FrameState.PROCESSED)
