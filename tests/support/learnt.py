"""All that a project has learnt of frames, by their names: equal for equal work in any order."""

from typing import Any

from sqlalchemy import select

from qc.db.models import (
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
from qc.project import Project

_NUMBERS_OF_ROWS = {"id", "frame_id", "extension_id", "encoder_id", "verdict_id", "nearest_id"}
_OCCASIONS = {"processed_at", "judged_at", "owed_at", "at", "failed_since", "retry_at", "tries"}


def learnt(project: Project) -> dict[str, list[str]]:
    """Return the rows of each table about frames, in words; not when and how often they came."""
    with project.reads() as session:
        names = {
            one.id: f"{one.frame.name}[{one.number}]"
            for one in session.scalars(select(ExtensionRow))
        }
        encoders = {one.id: one.fingerprint for one in session.scalars(select(EncoderRow))}
        verdicts = {one.id: one.extension_id for one in session.scalars(select(VerdictRow))}
        tables = (FrameRow, ExtensionRow, BlockStatisticsRow, EmbeddingRow, VerdictRow, LabelRow)
        told: dict[str, list[str]] = {}
        for table in (*tables, AlertRow):
            told[table.__tablename__] = sorted(
                " ".join(_words(row, names, encoders, verdicts))
                for row in session.scalars(select(table))
            )
    return told


def _words(
    row: Base, names: dict[int, str], encoders: dict[int, str], verdicts: dict[int, int]
) -> list[str]:
    told: list[str] = []
    for column in row.__table__.columns.keys():  # noqa: SIM118 - a collection of columns
        value: Any = getattr(row, column)
        if column in {"extension_id", "nearest_id"} and value is not None:
            told.append(f"{column}={names[value]}")
        elif column == "encoder_id":
            told.append(f"encoder={encoders[value]}")
        elif column == "verdict_id" and value is not None:
            told.append(f"of={names[verdicts[value]]}")
        elif isinstance(row, ExtensionRow) and column == "frame_id":
            told.append(f"frame={row.frame.name}")
        elif column not in _NUMBERS_OF_ROWS | _OCCASIONS:
            spelt = value.tobytes().hex() if hasattr(value, "tobytes") else repr(value)
            told.append(f"{column}={spelt}")
    return told
