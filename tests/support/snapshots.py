"""Snapshots of a database, independent of ids and times: equal for equal work in any order."""

from typing import Any

from sqlalchemy import select

from qc.db.schema.models import (
    AlertRow,
    Base,
    BlockStatisticsRow,
    EmbeddingRow,
    EncoderRow,
    ExtensionRow,
    FrameRow,
    LabelRow,
    VerdictRow,
)
from qc.project import ProjectContext

_ID_COLUMNS = {"id", "frame_id", "extension_id", "encoder_id", "verdict_id", "nearest_id"}
_TIME_COLUMNS = {"processed_at", "judged_at", "owed_at", "at", "failed_since", "retry_at", "tries"}


def snapshot_rows(project: ProjectContext) -> dict[str, list[str]]:
    """Return the rows of each table about frames as texts, without ids, times and counts."""
    with project.read_session() as session:
        names = {
            row.id: f"{row.frame.name}[{row.number}]"
            for row in session.scalars(select(ExtensionRow))
        }
        encoders = {row.id: row.fingerprint for row in session.scalars(select(EncoderRow))}
        verdicts = {row.id: row.extension_id for row in session.scalars(select(VerdictRow))}
        tables = (FrameRow, ExtensionRow, BlockStatisticsRow, EmbeddingRow, VerdictRow, LabelRow)
        snapshot: dict[str, list[str]] = {}
        for table in (*tables, AlertRow):
            snapshot[table.__tablename__] = sorted(
                " ".join(_column_texts(row, names, encoders, verdicts))
                for row in session.scalars(select(table))
            )
    return snapshot


def _column_texts(
    row: Base, names: dict[int, str], encoders: dict[int, str], verdicts: dict[int, int]
) -> list[str]:
    texts: list[str] = []
    for column in row.__table__.columns.keys():  # noqa: SIM118 - a collection of columns
        value: Any = getattr(row, column)
        if column in {"extension_id", "nearest_id"} and value is not None:
            texts.append(f"{column}={names[value]}")
        elif column == "encoder_id":
            texts.append(f"encoder={encoders[value]}")
        elif column == "verdict_id" and value is not None:
            texts.append(f"of={names[verdicts[value]]}")
        elif isinstance(row, ExtensionRow) and column == "frame_id":
            texts.append(f"frame={row.frame.name}")
        elif column not in _ID_COLUMNS | _TIME_COLUMNS:
            text = value.tobytes().hex() if hasattr(value, "tobytes") else repr(value)
            texts.append(f"{column}={text}")
    return texts
