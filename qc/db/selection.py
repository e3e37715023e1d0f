"""Selection of frames and extensions by name or filter."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    or_,
    select,
)
from sqlalchemy.orm import (
    Session,
)

from qc.core.enums import FrameState
from qc.core.verdict import Status
from qc.db.engine import _ROWS_AT_ONCE, _parts
from qc.db.models import ExtensionRow, FrameRow
from qc.db.verdicts import _newest_status
from qc.errors import UnknownFrameError


def _frame_named(session: Session, name: str) -> FrameRow:
    frames = frames_named(session, name)
    if not frames:
        raise UnknownFrameError(
            f"{name}: no processed frame of that archive name, file name or path; "
            "'qc status' lists the files that could not be read"
        )
    return frames[0]


def extension_ids_of(session: Session, frame_id: int) -> Sequence[int]:
    """Return the ids of a frame's extensions."""
    return session.scalars(select(ExtensionRow.id).where(ExtensionRow.frame_id == frame_id)).all()


@dataclass(frozen=True)
class ExtensionRef:
    """An extension that a person speaks of."""

    id: int
    frame_id: int
    frame: str
    number: int
    image_type: str
    frame_class: str
    instrument: str
    template: str | None
    observed_at: datetime
    night: date

    @property
    def name(self) -> str:
        """Write it as people do: the frame's name and the HDU number."""
        return f"{self.frame}[{self.number}]"


def extensions_named(session: Session, name: str) -> list[ExtensionRef]:
    """Return the extensions of the newest frame of an archive name, a file name or a path.

    Raises
    ------
    UnknownFrame
        If no processed frame has that name.
    """
    return _chosen(session, FrameRow.id == _frame_named(session, name).id)


def extensions_beside(session: Session, one: ExtensionRef) -> list[ExtensionRef]:
    """Return the extensions of one's image type in its template set, itself among them."""
    if not one.template:
        return [one]
    return _chosen(
        session,
        FrameRow.instrument == one.instrument,
        FrameRow.template == one.template,
        ExtensionRow.image_type == one.image_type,
    )


def extensions_where(
    session: Session,
    image_type: str | None = None,
    night: date | None = None,
    status: Status | None = None,
) -> list[ExtensionRef]:
    """Return the extensions of a type, of a night, of a newest verdict; None is any."""
    return _chosen(
        session,
        *([ExtensionRow.image_type == image_type] if image_type else []),
        *([FrameRow.night == night] if night else []),
        *([_newest_status() == status] if status else []),
    )


def extensions_with(session: Session, extension_ids: Sequence[int]) -> list[ExtensionRef]:
    """Return the extensions of these ids, in order of time."""
    parts = _parts(extension_ids)
    found = [one for some in parts for one in _chosen(session, ExtensionRow.id.in_(some))]
    return sorted(found, key=lambda one: (one.observed_at, one.frame_id, one.number))


def extensions_called(session: Session, names: Collection[str]) -> Mapping[str, list[ExtensionRef]]:
    """Return the extensions of many archive names, file names or paths, by those names.

    All frames of a name, the newest last. The table is read once, however many the names.
    """
    wanted = set(names)
    stems = defaultdict(set)
    for name in wanted:
        stems[_stem(name)].add(name)
    of_frame: dict[int, set[str]] = {}
    query = select(FrameRow.id, FrameRow.name, FrameRow.path)
    processed = query.where(FrameRow.state == FrameState.PROCESSED)
    for row in session.execute(processed.execution_options(yield_per=_ROWS_AT_ONCE)):
        found = stems.get(row.name, set()) | ({row.path, Path(row.path).name} & wanted)
        if found:
            of_frame[row.id] = found
    called = defaultdict(list)
    for some in _parts(list(of_frame)):
        for one in _chosen(session, FrameRow.id.in_(some)):
            for name in of_frame[one.frame_id]:
                called[name].append(one)
    for each in called.values():
        each.sort(key=lambda one: (one.frame_id, one.number))
    return called


def _chosen(session: Session, *conditions: ColumnElement[bool]) -> list[ExtensionRef]:
    query: Any = (  # what a column may lack, a processed frame's row has
        select(
            ExtensionRow.id,
            FrameRow.id,
            FrameRow.name,
            ExtensionRow.number,
            ExtensionRow.image_type,
            ExtensionRow.frame_class,
            FrameRow.instrument,
            FrameRow.template,
            FrameRow.observed_at,
            FrameRow.night,
        )
        .join(ExtensionRow.frame)
        .where(*conditions)
        .order_by(FrameRow.observed_at, FrameRow.id, ExtensionRow.number)
    )
    return [ExtensionRef(*row) for row in session.execute(query)]


def name_of(session: Session, extension_id: int) -> str:
    """Return an extension as people write it: the frame's name and the HDU number."""
    row = session.execute(
        select(FrameRow.name, ExtensionRow.number)
        .join(ExtensionRow.frame)
        .where(ExtensionRow.id == extension_id)
    ).one()
    return f"{row.name}[{row.number}]"


def extension_called(session: Session, frame: str, number: int) -> ExtensionRow | None:
    """Return an extension of the newest frame of an archive name, written in full."""
    query = (
        select(ExtensionRow)
        .join(ExtensionRow.frame)
        .where(FrameRow.name == frame, ExtensionRow.number == number)
        .order_by(ExtensionRow.id.desc())
        .limit(1)
    )
    return session.scalar(query)


def frames_named(session: Session, name: str) -> Sequence[FrameRow]:
    """Return the processed frames of an archive name, a file name or a path; newest first.

    A file name that is no archive's is looked for only where nothing has the name itself: that
    reads the whole table.
    """
    by_name = or_(FrameRow.name == _stem(name), FrameRow.path == name)
    in_path = FrameRow.path.endswith(f"/{name}", autoescape=True)
    return _processed(session, by_name) or _processed(session, in_path)


def _processed(session: Session, condition: ColumnElement[bool]) -> Sequence[FrameRow]:
    found = session.scalars(select(FrameRow).where(condition).order_by(FrameRow.id.desc()))
    # Not asked of the database: it would go through all that were processed, which is nearly all.
    return [row for row in found if row.state == FrameState.PROCESSED]


def _stem(name: str) -> str:
    """Return the archive name in a file name or path."""
    return Path(name).name.split(".fits")[0]
