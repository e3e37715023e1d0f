"""Extensions: search by name or filter, image types, subqueries of verdicts."""

import datetime as dt
from collections import abc, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from qc.core.enums import FrameState
from qc.core.verdict import Status
from qc.db.schema import engine, models
from qc.errors import UnknownFrameError


@dataclass(frozen=True)
class ExtensionRef:
    """Identity of a stored extension."""

    id: int
    frame_id: int
    frame: str
    number: int
    image_type: str
    frame_class: str
    instrument: str
    template: str | None
    observed_at: dt.datetime
    night: dt.date

    @property
    def name(self) -> str:
        """Return the frame's name and the HDU number: ``NAME[1]``."""
        return f"{self.frame}[{self.number}]"


def get_frame(session: orm.Session, name: str) -> models.FrameRow:
    """Return the newest processed frame of a name.

    Parameters
    ----------
    session : Session
    name : str
        Archive name, file name or path.

    Returns
    -------
    FrameRow

    Raises
    ------
    UnknownFrameError
        If no processed frame has the name.
    """
    frames = frames_named(session, name)
    if not frames:
        raise UnknownFrameError(
            f"{name}: no processed frame of that archive name, file name or path; "
            "'qc status' lists the files that could not be read"
        )
    return frames[0]


def frames_named(session: orm.Session, name: str) -> abc.Sequence[models.FrameRow]:
    """Return the processed frames of a name, newest first.

    Parameters
    ----------
    session : Session
    name : str
        Archive name or path; or file name, which reads the whole table.

    Returns
    -------
    sequence of FrameRow
    """
    is_name = sa.or_(models.FrameRow.name == _archive_name(name), models.FrameRow.path == name)
    is_file_name = models.FrameRow.path.endswith(f"/{name}", autoescape=True)
    return _processed_frames(session, is_name) or _processed_frames(session, is_file_name)


def _processed_frames(
    session: orm.Session, condition: sa.ColumnElement[bool]
) -> abc.Sequence[models.FrameRow]:
    rows = session.scalars(
        sa.select(models.FrameRow).where(condition).order_by(models.FrameRow.id.desc())
    )
    # As a condition of the query, the database would use the index of the state: nearly all rows.
    return [row for row in rows if row.state == FrameState.PROCESSED]


def _archive_name(name: str) -> str:
    return Path(name).name.split(".fits")[0]


def extension_ids_of(session: orm.Session, frame_id: int) -> abc.Sequence[int]:
    """Return the ids of a frame's extensions.

    Parameters
    ----------
    session : Session
    frame_id : int

    Returns
    -------
    sequence of int
    """
    return session.scalars(
        sa.select(models.ExtensionRow.id).where(models.ExtensionRow.frame_id == frame_id)
    ).all()


def extensions_named(session: orm.Session, name: str) -> list[ExtensionRef]:
    """Return the extensions of the newest frame of a name.

    Parameters
    ----------
    session : Session
    name : str
        Archive name, file name or path.

    Returns
    -------
    list of ExtensionRef

    Raises
    ------
    UnknownFrameError
        If no processed frame has the name.
    """
    return _select_refs(session, models.FrameRow.id == get_frame(session, name).id)


def template_set_of(session: orm.Session, extension: ExtensionRef) -> list[ExtensionRef]:
    """Return the extensions of the same image type in the template set of an extension.

    Parameters
    ----------
    session : Session
    extension : ExtensionRef

    Returns
    -------
    list of ExtensionRef
        With the extension itself.
    """
    if not extension.template:
        return [extension]
    return _select_refs(
        session,
        models.FrameRow.instrument == extension.instrument,
        models.FrameRow.template == extension.template,
        models.ExtensionRow.image_type == extension.image_type,
    )


def extensions_where(
    session: orm.Session,
    image_type: str | None = None,
    night: dt.date | None = None,
    status: Status | None = None,
) -> list[ExtensionRef]:
    """Return the extensions of an image type, night and newest verdict.

    Parameters
    ----------
    session : Session
    image_type, night, status : optional
        None is any.

    Returns
    -------
    list of ExtensionRef
    """
    conditions: list[sa.ColumnElement[bool]] = []
    if image_type:
        conditions.append(models.ExtensionRow.image_type == image_type)
    if night:
        conditions.append(models.FrameRow.night == night)
    if status:
        conditions.append(newest_status_column() == status)
    return _select_refs(session, *conditions)


def extensions_by_id(session: orm.Session, extension_ids: abc.Sequence[int]) -> list[ExtensionRef]:
    """Return extensions by their ids, in order of time.

    Parameters
    ----------
    session : Session
    extension_ids : sequence of int

    Returns
    -------
    list of ExtensionRef
    """
    refs: list[ExtensionRef] = []
    for chunk in engine.chunks(extension_ids):
        refs += _select_refs(session, models.ExtensionRow.id.in_(chunk))
    return sorted(refs, key=lambda ref: (ref.observed_at, ref.frame_id, ref.number))


def extensions_by_name(
    session: orm.Session, names: abc.Collection[str]
) -> abc.Mapping[str, list[ExtensionRef]]:
    """Return the extensions of many archive names, file names or paths.

    The table is read once, however many names there are.

    Parameters
    ----------
    session : Session
    names : collection of str

    Returns
    -------
    mapping of str to list of ExtensionRef
        Extensions of all frames of each known name, newest frame last.
    """
    unique_names = set(names)
    names_by_archive_name = defaultdict(set)
    for name in unique_names:
        names_by_archive_name[_archive_name(name)].add(name)
    names_by_frame: dict[int, set[str]] = {}
    query = sa.select(models.FrameRow.id, models.FrameRow.name, models.FrameRow.path)
    processed = query.where(models.FrameRow.state == FrameState.PROCESSED)
    for row in session.execute(processed.execution_options(yield_per=engine.ROWS_PER_FETCH)):
        own_names = names_by_archive_name.get(row.name, set())
        own_names = own_names | ({row.path, Path(row.path).name} & unique_names)
        if own_names:
            names_by_frame[row.id] = own_names
    by_name = defaultdict(list)
    for chunk in engine.chunks(list(names_by_frame)):
        for ref in _select_refs(session, models.FrameRow.id.in_(chunk)):
            for name in names_by_frame[ref.frame_id]:
                by_name[name].append(ref)
    for refs in by_name.values():
        refs.sort(key=lambda ref: (ref.frame_id, ref.number))
    return by_name


def _select_refs(session: orm.Session, *conditions: sa.ColumnElement[bool]) -> list[ExtensionRef]:
    query: Any = (  # nullable columns have values in the rows of processed frames
        sa.select(
            models.ExtensionRow.id,
            models.FrameRow.id,
            models.FrameRow.name,
            models.ExtensionRow.number,
            models.ExtensionRow.image_type,
            models.ExtensionRow.frame_class,
            models.FrameRow.instrument,
            models.FrameRow.template,
            models.FrameRow.observed_at,
            models.FrameRow.night,
        )
        .join(models.ExtensionRow.frame)
        .where(*conditions)
        .order_by(models.FrameRow.observed_at, models.FrameRow.id, models.ExtensionRow.number)
    )
    return [ExtensionRef(*row) for row in session.execute(query)]


def extension_name(session: orm.Session, extension_id: int) -> str:
    """Return the name of an extension: ``NAME[1]``.

    Parameters
    ----------
    session : Session
    extension_id : int

    Returns
    -------
    str
    """
    row = session.execute(
        sa.select(models.FrameRow.name, models.ExtensionRow.number)
        .join(models.ExtensionRow.frame)
        .where(models.ExtensionRow.id == extension_id)
    ).one()
    return f"{row.name}[{row.number}]"


def find_extension(session: orm.Session, frame: str, number: int) -> models.ExtensionRow | None:
    """Return an extension of the newest frame of an archive name.

    Parameters
    ----------
    session : Session
    frame : str
        Complete archive name.
    number : int
        HDU number.

    Returns
    -------
    ExtensionRow or None
    """
    query = (
        sa.select(models.ExtensionRow)
        .join(models.ExtensionRow.frame)
        .where(models.FrameRow.name == frame, models.ExtensionRow.number == number)
        .order_by(models.ExtensionRow.id.desc())
        .limit(1)
    )
    return session.scalar(query)


def is_judged() -> sa.ColumnElement[bool]:
    """Return the condition that the enclosing query's extension has a verdict."""
    return (
        sa.select(models.VerdictRow.id)
        .where(models.VerdictRow.extension_id == models.ExtensionRow.id)
        .exists()
    )


def newest_verdict_id() -> sa.ScalarSelect[int]:
    """Return the newest verdict's id of the enclosing query's extension, as a subquery."""
    verdict = orm.aliased(models.VerdictRow)
    return (
        sa.select(sa.func.max(verdict.id))
        .where(verdict.extension_id == models.ExtensionRow.id)
        .correlate(models.ExtensionRow)
        .scalar_subquery()
    )


def first_verdict_id() -> sa.ScalarSelect[int]:
    """Return the first verdict's id of the enclosing query's extension, as a subquery."""
    verdict = orm.aliased(models.VerdictRow)
    return (
        sa.select(sa.func.min(verdict.id))
        .where(verdict.extension_id == models.ExtensionRow.id)
        .correlate(models.ExtensionRow)
        .scalar_subquery()
    )


def newest_status_column() -> sa.ScalarSelect[Status]:
    """Return the newest status of the enclosing query's extension, as a subquery."""
    return (
        sa.select(models.VerdictRow.status)
        .where(models.VerdictRow.extension_id == models.ExtensionRow.id)
        .order_by(models.VerdictRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )


def newest_status(session: orm.Session, extension_id: int) -> Status | None:
    """Return the newest status of an extension.

    Parameters
    ----------
    session : Session
    extension_id : int

    Returns
    -------
    Status or None
        None before the first verdict.
    """
    query = sa.select(newest_status_column()).where(models.ExtensionRow.id == extension_id)
    status = session.scalars(query).one()
    return None if status is None else Status(status)


def latest_verdict_id(session: orm.Session) -> int:
    """Return the id of the newest verdict; 0 without any."""
    return session.scalar(sa.select(sa.func.max(models.VerdictRow.id))) or 0


def list_image_types(session: orm.Session) -> list[str]:
    """Return the image types with a processed extension, by name.

    Each name is looked up after the previous one: there are few names and many rows.
    """
    names: list[str] = []
    first = sa.select(sa.func.min(models.ExtensionRow.image_type))
    name = session.scalar(first)
    while name is not None:
        names.append(name)
        name = session.scalar(first.where(models.ExtensionRow.image_type > name))
    return names


def filter_image_types(session: orm.Session, names: abc.Iterable[str]) -> list[str]:
    """Return those of some image types that have a processed extension, in their order.

    Parameters
    ----------
    session : Session
    names : iterable of str

    Returns
    -------
    list of str
    """
    stored = set(list_image_types(session))
    return [name for name in names if name in stored]


def newest_ids_of_type(session: orm.Session, image_type: str) -> tuple[int, int]:
    """Return the ids of the newest verdict and label of an image type, a version for caches.

    Parameters
    ----------
    session : Session
    image_type : str

    Returns
    -------
    verdict, label : int
        0 without any.
    """
    verdict, label = (
        session.scalar(  # for max(id), PostgreSQL would read all rows of the type
            sa.select(table.id)
            .join(models.ExtensionRow, models.ExtensionRow.id == table.extension_id)
            .where(models.ExtensionRow.image_type == image_type)
            .order_by(table.id.desc())
            .limit(1)
        )
        for table in (models.VerdictRow, models.LabelRow)
    )
    return verdict or 0, label or 0


def first_night_of_newest(session: orm.Session, image_type: str, n: int) -> dt.date:
    """Return the first night of the newest n extensions of an image type.

    Parameters
    ----------
    session : Session
    image_type : str
    n : int

    Returns
    -------
    date
        ``date.min`` if there are too few extensions for a limit.
    """
    nth = (
        sa.select(models.ExtensionRow.frame_id)
        .where(models.ExtensionRow.image_type == image_type)
        .order_by(models.ExtensionRow.observed_at.desc())  # along an index
        .offset(n - 1)
        .limit(1)
    )
    is_all = session.scalar(nth.offset(n)) is None
    night = sa.select(models.FrameRow.night).where(models.FrameRow.id == nth.scalar_subquery())
    return dt.date.min if is_all else session.scalar(night) or dt.date.min
