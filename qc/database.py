"""The questions asked of the tables, and what is put into them. The caller owns the transaction."""

import getpass
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    URL,
    ColumnElement,
    Engine,
    ScalarSelect,
    Select,
    Subquery,
    and_,
    case,
    column,
    create_engine,
    delete,
    event,
    func,
    make_url,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import (
    Bundle,
    InstrumentedAttribute,
    Session,
    aliased,
    contains_eager,
    defer,
)
from sqlalchemy.pool import QueuePool

from embeddings.encoder import Encoder
from embeddings.preprocess import appearance
from qc.errors import ConfigurationError, UnknownFrame
from qc.files import told_time
from qc.frames import Frame, Region, Setup
from qc.judge import REFERENCE_NEEDED, Evidence, Prediction, Status, Verdict, limits_for
from qc.tables import (
    AlertRow,
    Base,
    BlockStatisticsRow,
    ClassifierRow,
    DeliveryRow,
    EmbeddingRow,
    EncoderRow,
    EpochRow,
    ExtensionRow,
    FrameRow,
    FrameState,
    LabelName,
    LabelRow,
    RequestRow,
    SelfTestRow,
    Topic,
    VerdictRow,
    rounded_to_keep,
)
from qc.thresholds import Threshold
from qc.times import midnight, utc_now

_WHEN = (ExtensionRow.observed_at, FrameRow.name, ExtensionRow.id)
_CANDIDATES = 400  # looked at for the newest nominal ones, at a time
REFERENCE_NEWEST = 200  # a longer memory dilutes the present state; a shorter one has thin tails
SETTLED_NEWEST = 100  # for what is learnt of whole pictures: more cost time and gain nothing
_ROWS_AT_ONCE = 500  # bounds the memory of a question about ten years
_PICTURES_AT_ONCE = 20
_VECTORS_AT_ONCE = 2000  # 16 MB of ResNet-50 embeddings
_MOST_DOUBLINGS = 8  # a minute's becomes four hours
_BUSY_MS = 60_000  # how long SQLite waits for another writer before it gives up


@dataclass(frozen=True)
class Patience:
    """How long a file that failed is tried again: soon, then twice as late each time."""

    first: timedelta = timedelta(minutes=1)
    ends: timedelta = timedelta(hours=48)

    def next_try(self, failed_since: datetime, tries: int, now: datetime) -> datetime | None:
        """Return when to try again after so many tries; None if it has been long enough."""
        if now - failed_since >= self.ends:
            return None
        later = self.first * float(2 ** min(tries - 1, _MOST_DOUBLINGS))
        return min(now + later, max(failed_since + self.ends, now + self.first))


_TWO_DAYS = Patience()


@dataclass(frozen=True)
class File:
    """A file as the disk shows it, unread."""

    path: Path
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Measured:
    """What was measured of one extension, its pixels left behind.

    Attributes
    ----------
    light : Region
        The pixels that light can reach.
    statistics : (h, w, 3) float32 array
        Block mean, standard deviation and maximum, ADU.
    pixels_sha256 : str
        Hex digest of the pixels: equal digests, the same read-out.
    """

    number: int
    setup: Setup
    shape: tuple[int, int]
    light: Region
    frame_class: str
    zero_adu: float
    gain_e_per_adu: float
    read_noise_adu: float
    stretch_adu: float
    promised_light: float
    limits: Mapping[str, tuple[float, float]]
    statistics: NDArray[np.float32]
    metrics: Mapping[str, float]
    pixels_sha256: str

    @cached_property
    def appearance(self) -> dict[str, float]:
        """Return how it looks whatever its header says; see `embeddings.preprocess.appearance`."""
        return appearance(self.statistics, self.metrics.get("bias_level", self.zero_adu))


@dataclass(frozen=True)
class Reference:
    """The nominal extensions that a new one is held against, newest first.

    Attributes
    ----------
    extension_ids : tuple of m int
    nights : tuple of m date
    embeddings : (m, d) float32 array
    metrics : tuple of m mappings
    widened : str
        What was let vary to find enough, in words; empty for the exact setup.
    """

    extension_ids: tuple[int, ...]
    nights: tuple[date, ...]
    embeddings: NDArray[np.float32]
    metrics: tuple[Mapping[str, float], ...]
    widened: str

    def settled(self, night: date) -> tuple[int, ...]:
        """Return the newest 100 of the weeks before `night`'s, or of all where those are few.

        The same frames all week long: what is learnt from them need not be learnt every night,
        and does not depend on when it was.
        """
        week = night - timedelta(days=night.weekday())
        ids = zip(self.extension_ids, self.nights, strict=True)
        before = [one for one, taken in ids if taken < week]
        enough = len(before) >= REFERENCE_NEEDED
        return tuple(before if enough else self.extension_ids)[:SETTLED_NEWEST]


@dataclass(frozen=True)
class Judged:
    """One extension with all that was learnt from it, ready to be recorded."""

    measured: Measured
    embedding: NDArray[np.float32]
    evidence: Evidence
    verdict: Verdict
    threshold: Threshold
    nearest_id: int | None

    @property
    def highest_merge(self) -> float:
        """Return the merge height above which it stood apart: the threshold, or wider for few."""
        return limits_for(self.threshold, self.evidence.reference_size).merge_height


def read_url(text: str) -> URL:
    """Return a database's address.

    Raises
    ------
    ConfigurationError
        If it is no URL.
    """
    try:
        return make_url(text)
    except ArgumentError:
        shown = re.sub(r"//.*@", "//***@", text)  # whom it lets in is nobody's business
        raise ConfigurationError(
            "database address: expected a URL like postgresql+psycopg://user@host/name, "
            f"got {shown!r}"
        ) from None  # its words quote the URL


def connect(url: str | URL) -> Engine:
    """Return an engine; on SQLite with a write-ahead log, foreign keys, and time for others.

    On either database what is read in one transaction is of one moment.

    Raises
    ------
    ConfigurationError
        If the address makes no sense, or its driver is not installed.
    """
    address = read_url(url) if isinstance(url, str) else url
    try:
        # A server that was restarted meanwhile is noticed before a transaction is lost to it.
        # Nobody waits for a connection: forty threads answer pages, of which each may hold two
        # while it waits for what another reads. Those beyond five are closed after use.
        engine = create_engine(
            address,
            pool_pre_ping=True,
            poolclass=QueuePool,
            max_overflow=80,
            **_OPTIONS.get(_kind(address), {}),
        )
    except (ArgumentError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"database {shown_url(address)!r}: {reason}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    elif engine.dialect.name == "postgresql":
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "begin", _begin_postgresql)
    return engine


def shown_url(url: URL) -> str:
    """Return a database's address for people to see: its passwords are nobody's business."""
    secrets = [name for name in url.query if "pass" in name.casefold()]
    return url.difference_update_query(secrets).render_as_string(hide_password=True)


_OPTIONS: Mapping[str, Mapping[str, Any]] = {"postgresql": {"isolation_level": "REPEATABLE READ"}}
# Who waits for another must see what that one wrote.
_SEES_OTHERS: Mapping[str, Mapping[str, Any]] = {
    "postgresql": {"isolation_level": "READ COMMITTED"}
}


def _kind(url: URL) -> str:
    return url.get_backend_name()


def for_writing(engine: Engine) -> Engine:
    """Return the same engine, its transactions one after another, whoever begins them."""
    return engine.execution_options(writes=True, **_SEES_OTHERS.get(_kind(engine.url), {}))


def for_promising(engine: Engine) -> Engine:
    """Return the same engine for writing what somebody is told is kept: a power cut included."""
    return for_writing(engine).execution_options(promises=True)


def for_adding(engine: Engine) -> Engine:
    """Return the same engine for adding frames, beside others that do if the database can.

    What is written must be safe from them by its unique keys and locked rows alone.
    """
    return for_writing(engine).execution_options(adds=True)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _begin_sqlite says
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    with suppress(sqlite3.OperationalError):
        # Two that switch a new file at once do not wait for each other; either's switch is enough.
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Any) -> None:
    # A transaction that first reads and later writes cannot wait for another writer: SQLite
    # refuses it at once, whatever the time-out. One that takes the write lock first can.
    options = connection.get_execution_options()
    writes = options.get("writes", False)
    if writes:  # without waiting for the disk, a power cut loses the last transactions
        level = "FULL" if options.get("promises", False) else "NORMAL"
        connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


_WRITERS_LOCK, _DAEMONS_LOCK = 0x7163, 0x7164  # PostgreSQL's advisory locks are a database's own


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    # What we read a block at a time is read to its end: a plan for the first tenth of it takes
    # minutes for the rest. Compiling a question takes longer than answering any of ours. And what
    # a page sorts is 60 MB at most: on disk it takes twice as long.
    with connection.cursor() as cursor:
        cursor.execute("SET cursor_tuple_fraction = 1")
        cursor.execute("SET jit = off")
        cursor.execute("SET work_mem = '64MB'")
    connection.commit()


def _begin_postgresql(connection: Any) -> None:
    # What people say, and what they are told, was thought out for one writer at a time, as in
    # SQLite; frames come in hosts' full speed, and are kept apart by their keys.
    options = connection.get_execution_options()
    if options.get("writes", False) and not options.get("adds", False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS_LOCK})")


def writing_alone(engine: Engine) -> AbstractContextManager[bool]:
    """Keep those waiting who write what people say; give False if one is writing now."""
    return _alone(engine, _WRITERS_LOCK)


def watching_alone(engine: Engine) -> AbstractContextManager[bool]:
    """Be the only daemon of a database, whatever the host; give False if there is one."""
    return _alone(engine, _DAEMONS_LOCK)


@contextmanager
def _alone(engine: Engine, lock: int) -> Iterator[bool]:
    """Hold a lock of PostgreSQL's for as long as the connection lives; SQLite needs none.

    Its file is one host's: a lock beside it tells who watches, and one writer keeps out all others.
    """
    if engine.dialect.name != "postgresql":
        yield True
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        taken = bool(connection.scalar(select(func.pg_try_advisory_lock(lock))))
        try:
            yield taken
        finally:
            with suppress(DBAPIError):  # a server that has gone has let go
                if taken:
                    connection.execute(select(func.pg_advisory_unlock(lock)))


def add_new(session: Session, table: type[Base], **values: Any) -> int | None:
    """Add a row and return its id; None if another has its unique key, be it only just now.

    Who has it may still be writing: it is waited for.
    """
    insert = _INSERTS[session.get_bind().dialect.name]
    adding = insert(table).values(**values).on_conflict_do_nothing().returning(column("id"))
    added: int | None = session.scalar(adding)
    return added


_INSERTS: Mapping[str, Any] = {"sqlite": sqlite_insert, "postgresql": postgresql_insert}


def is_known(session: Session, file: File) -> bool:
    """Say whether this very file was processed or skipped before, without reading it.

    One that could not be read since then is to be read again.
    """
    rows = session.scalars(select(FrameRow).where(FrameRow.path == str(file.path))).all()
    return all(row.state != FrameState.FAILED for row in rows) and any(
        (row.file_bytes, row.modified_ns) == (file.size_bytes, file.modified_ns) for row in rows
    )


def is_recorded(session: Session, file: File) -> bool:
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


def recognise(session: Session, file: File, sha256: str, label: LabelName | None = None) -> bool:
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


def certify(session: Session, file: File, label: LabelName) -> None:
    """Label the extensions of a processed file, save those that a person has spoken about."""
    for row in session.scalars(select(FrameRow).where(FrameRow.path == str(file.path))):
        _label_unlabelled(session, row, label)


def _label_unlabelled(session: Session, row: FrameRow, label: LabelName) -> None:
    session.refresh(row, with_for_update=True)  # whoever else certifies it waits, then sees ours
    for extension in row.extensions:
        if not _is_answered(session, extension.id):
            record_label(session, extension.id, Answer(label, user()))


def frame_with_digest(session: Session, sha256: str) -> FrameRow | None:
    """Return the processed frame with these FITS bytes, wherever it lay."""
    return session.scalar(select(FrameRow).where(FrameRow.sha256 == sha256))


def epoch_start(session: Session, image_type: str, instrument: str, night: date) -> date:
    """Return the night from which frames of `night` may have references."""
    since = session.scalar(
        select(func.max(EpochRow.since)).where(
            EpochRow.scope.in_((image_type, instrument)),
            EpochRow.since <= night,
            *_epoch_stands(),
        )
    )
    return since or date.min


def _epoch_stands() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Leave out the rows that undo another, and those undone."""
    undoing = aliased(EpochRow)
    undone = select(undoing.id).where(undoing.undoes_id == EpochRow.id).exists()
    return EpochRow.undoes_id.is_(None), ~undone


def duplicate_of(session: Session, measured: Measured, frame: Frame) -> str:
    """Return the name of an earlier frame with the very same pixels, or an empty string.

    A frame whose header the archive has edited since is no other frame.
    """
    name = session.scalar(
        select(FrameRow.name)
        .join(FrameRow.extensions)
        .where(
            ExtensionRow.pixels_sha256 == measured.pixels_sha256,
            FrameRow.sha256 != frame.sha256,
            FrameRow.name != frame.name,
            FrameRow.observed_at <= frame.observed_at,
            _is_judged(),
        )
        .order_by(FrameRow.observed_at, FrameRow.name)
        .limit(1)
    )
    return name or ""


def _is_judged() -> ColumnElement[bool]:
    """Leave out what a backfill has measured and not judged yet."""
    return select(VerdictRow.id).where(VerdictRow.extension_id == ExtensionRow.id).exists()


def reference_for(session: Session, frame: Frame, setup: Setup, fingerprint: str) -> Reference:
    """Return the newest nominal extensions of the setup and epoch, of nights before the frame's.

    Frames of the same night never vouch for each other: five biases with one fault would.

    Where the exact setup has fewer than 20, the slit width may vary (what it does to the light
    is allowed for by the light that the header promises).
    """
    widened, rows = "", _nominal(session, frame, setup, fingerprint)
    if len(rows) < REFERENCE_NEEDED and setup.slit_arcsec is not None:
        free = frozenset({"slit_arcsec"})
        widened, rows = "any slit width", _nominal(session, frame, setup, fingerprint, free)
    return Reference(
        extension_ids=tuple(row.id for row in rows),
        nights=tuple(row.night for row in rows),
        embeddings=np.stack([row.vector for row in rows]) if rows else np.empty((0, 0), np.float32),
        metrics=tuple(row.metrics for row in rows),
        widened=widened,
    )


def _nominal(
    session: Session,
    frame: Frame,
    setup: Setup,
    fingerprint: str,
    free: frozenset[str] = frozenset(),
) -> Sequence[Any]:
    """Return id, night, metrics and embedding of the newest nominal extensions of a setup."""
    since = epoch_start(session, setup.image_type, frame.instrument, frame.night)
    encoder = select(EncoderRow.id).where(EncoderRow.fingerprint == fingerprint)
    conditions = [
        EmbeddingRow.encoder_id == session.scalar(encoder),
        *_same_setup(setup, free),
        FrameRow.instrument == frame.instrument,
        FrameRow.night < frame.night,
        FrameRow.night >= since,
        # The nights say as much; by these, an index is entered where they begin, and left.
        ExtensionRow.observed_at < frame.observed_at,
        ExtensionRow.observed_at >= midnight(since),
    ]
    found: list[Any] = []
    for ids in _newest_embeddings(session, conditions):
        query = (
            select(ExtensionRow.id, FrameRow.night, ExtensionRow.metrics, EmbeddingRow.vector)
            .join(ExtensionRow.frame)
            .join(EmbeddingRow, EmbeddingRow.extension_id == ExtensionRow.id)
            .where(EmbeddingRow.id.in_(ids), _is_nominal())
            .order_by(*(one.desc() for one in _WHEN))
            .limit(REFERENCE_NEWEST - len(found))
        )
        found += session.execute(query)
        if len(found) == REFERENCE_NEWEST:
            break
    return found


def _newest_embeddings(
    session: Session, conditions: Sequence[ColumnElement[bool]]
) -> Iterator[Sequence[int]]:
    """Yield the ids of embeddings whose extensions and frames fit, newest first, some at a time.

    For whoever wants a few of them that are nominal. What is nominal takes a look at labels and
    verdicts, and in one question with the rest PostgreSQL takes that look at all there ever were.
    """
    query = (
        select(*_WHEN, EmbeddingRow.id.label("embedding_id"))
        .join(ExtensionRow.frame)
        .join(EmbeddingRow, EmbeddingRow.extension_id == ExtensionRow.id)
        .where(*conditions)
        .order_by(*(one.desc() for one in _WHEN))
        .limit(_CANDIDATES)
    )
    rows = session.execute(query).all()
    while rows:
        yield [row.embedding_id for row in rows]
        observed_at, *others = rows[-1][: len(_WHEN)]
        beyond = query.where(
            ExtensionRow.observed_at <= observed_at,  # lets an index be entered there
            tuple_(*_WHEN) < (observed_at, *others),
        )
        rows = session.execute(beyond).all() if len(rows) == _CANDIDATES else []


def _same_setup(setup: Setup, free: frozenset[str]) -> list[ColumnElement[bool]]:
    names = [name for name in Setup.__dataclass_fields__ if name not in free]
    wanted = ((getattr(ExtensionRow, name), getattr(setup, name)) for name in names)
    # "IS NOT DISTINCT FROM" says both in one, and PostgreSQL uses no index for it.
    return [one.is_(None) if value is None else one == value for one, value in wanted]


def _is_nominal() -> ColumnElement[bool]:
    """Let a person's newest word count, and without one the encoder's newest verdict."""
    label = newest_label()
    status = (
        select(VerdictRow.status)
        .where(
            VerdictRow.extension_id == ExtensionRow.id,
            VerdictRow.encoder_id == EmbeddingRow.encoder_id,
        )
        .order_by(VerdictRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    accepted = label.in_((LabelName.GOOD, LabelName.VALID_OUTLIER))
    return or_(accepted, and_(label.is_(None), status == Status.NOMINAL))


def newest_label(what: InstrumentedAttribute[Any] = LabelRow.label) -> ScalarSelect[Any]:
    """Return the label that counts of the extension in the enclosing query, as a subquery.

    Parameters
    ----------
    what : column of LabelRow
        What is wanted of it.
    """
    return (
        select(what)
        .where(LabelRow.extension_id == ExtensionRow.id, *_label_stands())
        .order_by(LabelRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )


def standing_labels() -> Subquery:
    """Return the labels that count, as a table of `extension_id` and `label_id` to be joined.

    Found once for all extensions: where many are grouped, `newest_label` would be asked anew for
    each, and more than once.
    """
    return (
        select(LabelRow.extension_id, func.max(LabelRow.id).label("label_id"))
        .where(*_label_stands())
        .group_by(LabelRow.extension_id)
        .subquery()
    )


@dataclass(frozen=True)
class Answer:
    """What a person says of an extension.

    Attributes
    ----------
    kind : str
        Of the fault of a bad one; else empty.
    at : datetime
        Aware.
    """

    label: LabelName
    who: str
    kind: str = ""
    note: str = ""
    at: datetime = field(default_factory=utc_now)


def labels_of(session: Session, extension_ids: Sequence[int]) -> dict[int, list[LabelRow]]:
    """Return all that was ever said of some extensions, by their ids, oldest first.

    What was undone is there, and so are the rows that undo.
    """
    said = defaultdict[int, list[LabelRow]](list)
    for some in _parts(extension_ids):
        query = select(LabelRow).where(LabelRow.extension_id.in_(some)).order_by(LabelRow.id)
        for row in session.scalars(query):
            said[row.extension_id].append(row)
    return said


def standing(said: Iterable[LabelRow]) -> LabelRow | None:
    """Return the label that counts of all that was said of an extension, oldest first."""
    rows = list(said)
    undone = {row.undoes_id for row in rows}
    stands = [row for row in rows if row.undoes_id is None and row.id not in undone]
    return stands[-1] if stands else None


def record_label(
    session: Session, extension_id: int, answer: Answer, undoes: LabelRow | None = None
) -> LabelRow:
    """Add what a person says of an extension, or that a label is undone; nothing is replaced."""
    row = LabelRow(
        extension_id=extension_id,
        label=answer.label,
        kind=answer.kind,
        who=answer.who,
        at=answer.at,
        note=answer.note,
        undoes_id=undoes.id if undoes else None,
    )
    session.add(row)
    session.flush()  # the newest id counts
    return row


def labels_added_by(session: Session, who: str, key: str) -> list[int] | None:
    """Return the labels that a person's request added; None if it has not come before."""
    return session.scalar(
        select(RequestRow.label_ids).where(RequestRow.who == who, RequestRow.key == key)
    )


def record_request(
    session: Session, who: str, key: str, at: datetime, label_ids: Sequence[int]
) -> None:
    """Keep that a request has done what it asked for."""
    session.add(RequestRow(who=who, key=key, at=at, label_ids=list(label_ids)))
    session.flush()


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut a list so that each part may stand in one question."""
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        yield ids[start : start + _ROWS_AT_ONCE]


def _label_stands() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Leave out the rows that undo another, and those undone."""
    undoing = aliased(LabelRow)
    undone = select(undoing.id).where(undoing.undoes_id == LabelRow.id).exists()
    # SQLite takes "IS NULL" of a unique column for rare, and would read all labels for each image.
    return func.coalesce(LabelRow.undoes_id, 0) == 0, ~undone


def of_nights(first: date, last: date = date.max) -> list[ColumnElement[bool]]:
    """Limit frames and their extensions to the nights from one to another, both included."""
    found = [FrameRow.night >= first] if first > date.min else []
    found += [FrameRow.night <= last] if last < date.max else []
    return found + taken_in(first, last)


def taken_in(first: date, last: date = date.max) -> list[ColumnElement[bool]]:
    """Limit extensions to the days that these nights can have: loosely, and along an index.

    A night is of two days, and begins at another hour for each instrument.
    """
    taken = ExtensionRow.observed_at
    found = [taken >= midnight(first)] if first > date.min else []
    if last < date.max - timedelta(days=2):
        found.append(taken < midnight(last + timedelta(days=2)))
    return found


@dataclass(frozen=True)
class Finding:
    """An extension with its frame, the newest verdict on it and the newest label, if any."""

    frame: FrameRow
    extension: ExtensionRow
    verdict: VerdictRow
    fingerprint: str
    label: LabelRow | None


def findings(session: Session, first: date, last: date = date.max) -> Iterator[Finding]:
    """Yield every judged extension of these nights, oldest first, with its newest verdict."""
    query = _findings_query().where(*of_nights(first, last))
    for row in session.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)):
        yield Finding(*row)


def findings_without_numbers(session: Session, night: date) -> list[Finding]:
    """Return a night's judged extensions, oldest first, without what was measured of them.

    Asking for a number afterwards is an error: hundreds of questions would be asked of the
    database, one by one.
    """
    numbers = (
        defer(ExtensionRow.metrics, raiseload=True),
        defer(ExtensionRow.appearance, raiseload=True),
        defer(VerdictRow.z, raiseload=True),
        defer(VerdictRow.patterns, raiseload=True),
    )
    query = _findings_query().where(FrameRow.night == night).options(*numbers)
    return [Finding(*row) for row in session.execute(query)]


def findings_named(session: Session, name: str) -> list[Finding]:
    """Return the extensions of the newest frame of an archive name, a file name or a path.

    Raises
    ------
    UnknownFrame
        If no processed frame has that name.
    """
    query = _findings_query().where(FrameRow.id == _frame_named(session, name).id)
    return [Finding(*row) for row in session.execute(query)]


def _frame_named(session: Session, name: str) -> FrameRow:
    frames = frames_named(session, name)
    if not frames:
        raise UnknownFrame(
            f"{name}: no processed frame of that archive name, file name or path; "
            "'qc status' lists the files that could not be read"
        )
    return frames[0]


@dataclass(frozen=True)
class Alike:
    """A detector number of one of the extensions of a setup.

    Attributes
    ----------
    status : str
        Of the newest verdict.
    label : LabelName or None
        What a person says of it.
    """

    extension_id: int
    at: datetime
    value: float
    status: Status
    label: LabelName | None


def number_alike(
    session: Session, finding: Finding, name: str, first: date, last: date
) -> list[Alike]:
    """Return a detector number of every judged extension of one's setup of these nights, by age."""
    value = ExtensionRow.metrics[name].as_float()
    taken = ExtensionRow.observed_at
    query = (
        select(ExtensionRow.id, taken, value, _newest_status(), newest_label())
        .join(ExtensionRow.frame)
        .where(
            *_same_setup(finding.extension.setup, free=frozenset()),
            *of_nights(first, last),
            FrameRow.instrument == finding.frame.instrument,
            value.is_not(None),
        )
        .order_by(taken, ExtensionRow.id)
    )
    return [Alike(*row) for row in session.execute(query) if row[3] is not None]


def next_alike(session: Session, finding: Finding, *, later: bool) -> int | None:
    """Return the extension of the same setup that was taken just before, or just after."""
    taken, number, extension = ExtensionRow.observed_at, ExtensionRow.id, finding.extension
    when = finding.frame.observed_at
    if later:
        beyond = (taken >= when, or_(taken > when, number > extension.id))
        order = (taken.asc(), number.asc())
    else:
        beyond = (taken <= when, or_(taken < when, number < extension.id))
        order = (taken.desc(), number.desc())
    same = _same_setup(extension.setup, free=frozenset())
    query = select(number).join(ExtensionRow.frame).where(*same, *beyond)
    same_instrument = query.where(FrameRow.instrument == finding.frame.instrument)
    return session.scalar(same_instrument.order_by(*order).limit(1))


def findings_of_type(
    session: Session, image_type: str, first: date = date.min
) -> Iterator[Finding]:
    """Yield every judged extension of an image type from a night on, oldest first.

    With what says which it is and what was weighed of it, and nothing else: they are many.
    """
    query = (
        _findings_query()
        .with_only_columns(*(Bundle(name, *columns) for name, columns in _WEIGHED.items()))
        .add_columns(EncoderRow.fingerprint)
        .where(ExtensionRow.image_type == image_type, *of_nights(first))
    )
    for row in session.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)):
        label = row.label if row.label.id else None
        yield Finding(row.frame, row.extension, row.verdict, row.fingerprint, label)


_WEIGHED: Mapping[str, Sequence[Any]] = {
    "frame": (FrameRow.id, FrameRow.name, FrameRow.instrument, FrameRow.night),
    "extension": (
        ExtensionRow.id,
        ExtensionRow.number,
        ExtensionRow.image_type,
        ExtensionRow.chip,
        ExtensionRow.read_mode,
        ExtensionRow.metrics,
    ),
    "verdict": (
        VerdictRow.status,
        VerdictRow.merge_height,
        VerdictRow.residual,
        VerdictRow.patterns,
        VerdictRow.reference_size,
        VerdictRow.widened,
        VerdictRow.z,
        VerdictRow.predicted_type,
        VerdictRow.type_probability,
    ),
    "label": (LabelRow.id, LabelRow.label, LabelRow.kind),
}


def findings_with(session: Session, extension_ids: Sequence[int]) -> list[Finding]:
    """Return these extensions, in this order."""
    query = _findings_query().where(ExtensionRow.id.in_(extension_ids))
    found = {row.ExtensionRow.id: Finding(*row) for row in session.execute(query)}
    return [found[one] for one in extension_ids if one in found]


def image_types_seen(session: Session) -> list[str]:
    """Return the image types of which an extension was processed, by name.

    Each is looked up after the one before: there are few, and of each there are many.
    """
    found: list[str] = []
    least = select(func.min(ExtensionRow.image_type))
    name = session.scalar(least)
    while name is not None:
        found.append(name)
        name = session.scalar(least.where(ExtensionRow.image_type > name))
    return found


def types_among(session: Session, names: Iterable[str]) -> list[str]:
    """Return those of some image types of which an extension was processed, in their order."""
    seen = set(image_types_seen(session))
    return [name for name in names if name in seen]


def newest_word(session: Session, image_type: str) -> tuple[int, int]:
    """Return the ids of the newest verdict and the newest label of an image type; 0 for none.

    As long as they are the same, so is all that can be read of the type.
    """
    verdict, label = (
        session.scalar(  # not its max: PostgreSQL would look at all of the type
            select(table.id)
            .join(ExtensionRow, ExtensionRow.id == table.extension_id)
            .where(ExtensionRow.image_type == image_type)
            .order_by(table.id.desc())
            .limit(1)
        )
        for table in (VerdictRow, LabelRow)
    )
    return verdict or 0, label or 0


def newest_verdict(session: Session) -> int:
    """Return the id of the newest verdict of all; 0 for none."""
    return session.scalar(select(func.max(VerdictRow.id))) or 0


def without_label(session: Session, extension_ids: Sequence[int]) -> tuple[int, ...]:
    """Return those of some extensions of which no label counts, in their order."""
    said = labels_of(session, extension_ids)
    return tuple(one for one in extension_ids if standing(said.get(one, ())) is None)


def night_of_newest(session: Session, image_type: str, n: int) -> date:
    """Return the first night of the newest n extensions of a type; of all where there are fewer."""
    nth = (
        select(ExtensionRow.frame_id)
        .where(ExtensionRow.image_type == image_type)
        .order_by(ExtensionRow.observed_at.desc())  # along an index
        .offset(n - 1)
        .limit(1)
    )
    is_all = session.scalar(nth.offset(n)) is None
    night = select(FrameRow.night).where(FrameRow.id == nth.scalar_subquery())
    return date.min if is_all else session.scalar(night) or date.min


def outlier_nights(session: Session, image_type: str, first: date) -> Sequence[date]:
    """Return the nights from one on whose frames of a type people accept as really different."""
    ever = select(LabelRow.extension_id).where(LabelRow.label == LabelName.VALID_OUTLIER)
    query = (
        select(FrameRow.night)
        .join(FrameRow.extensions)
        .where(
            ExtensionRow.id.in_(ever),
            ExtensionRow.image_type == image_type,
            FrameRow.night >= first,
            newest_label() == LabelName.VALID_OUTLIER,
        )
        .order_by(FrameRow.night)
    )
    return [night for night in session.scalars(query) if night is not None]


@dataclass(frozen=True)
class Seen:
    """One number of one extension.

    Attributes
    ----------
    at : datetime
        When it was taken.
    status : str
        Of its newest verdict.
    limit : float or None
        What its merge height was held against.
    """

    at: datetime
    frame: str
    number: int
    night: date
    value: float
    status: str
    encoder: str
    limit: float | None


def metric_seen(
    session: Session, image_type: str, name: str, first: date, last: date
) -> Iterator[Seen]:
    """Yield one metric of every judged extension of a type that has it, oldest first."""
    yield from _seen(session, ExtensionRow.metrics[name].as_float(), image_type, first, last)


def verdict_seen(
    session: Session, image_type: str, name: str, first: date, last: date
) -> Iterator[Seen]:
    """Yield the score, merge height or residual of a type's newest verdicts, oldest first."""
    yield from _seen(session, getattr(VerdictRow, name), image_type, first, last)


def _seen(session: Session, value: Any, image_type: str, first: date, last: date) -> Iterator[Seen]:
    query = (
        select(
            FrameRow.observed_at,
            FrameRow.name,
            ExtensionRow.number,
            FrameRow.night,
            value,
            VerdictRow.status,
            EncoderRow.fingerprint,
            VerdictRow.threshold,
        )
        .join(ExtensionRow, ExtensionRow.frame_id == FrameRow.id)
        .join(VerdictRow, VerdictRow.id == newest_verdict_id())
        .join(EncoderRow, EncoderRow.id == VerdictRow.encoder_id)
        .where(
            ExtensionRow.image_type == image_type,
            *of_nights(first, last),
            value.is_not(None),
        )
        .order_by(ExtensionRow.observed_at, ExtensionRow.id)  # along an index
    )
    for row in session.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)):
        yield Seen(*row)


def embedded(
    session: Session, fingerprint: str, image_types: Sequence[str] | None, first: date, last: date
) -> Sequence[int]:
    """Return the ids of the extensions of some types and nights that have an embedding, by age."""
    query = (
        select(ExtensionRow.id)
        .join(ExtensionRow.frame)
        .join(EmbeddingRow, EmbeddingRow.extension_id == ExtensionRow.id)
        .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
        .where(EncoderRow.fingerprint == fingerprint, *of_nights(first, last))
        .order_by(ExtensionRow.observed_at, ExtensionRow.id)
    )
    if image_types is not None:
        query = query.where(ExtensionRow.image_type.in_(image_types))
    return session.scalars(query).all()


def vectors_with(
    session: Session, fingerprint: str, extension_ids: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """Return an encoder's embeddings of some extensions, (d,) each, by their ids."""
    found: dict[int, NDArray[np.float32]] = {}
    for some in _parts(extension_ids):
        query = (
            select(EmbeddingRow.extension_id, EmbeddingRow.vector)
            .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
            .where(EncoderRow.fingerprint == fingerprint, EmbeddingRow.extension_id.in_(some))
        )
        found |= {row.extension_id: row.vector for row in session.execute(query)}
    return found


def copies(session: Session, image_type: str, first: date) -> Mapping[int, str]:
    """Return the extensions of a type, from a night on, with the very pixels of an earlier frame.

    By their ids, the name of that frame.

    As `duplicate_of` finds them when they come.
    """
    earlier_extension, earlier = aliased(ExtensionRow), aliased(FrameRow)
    query = (
        select(ExtensionRow.id, earlier.name)
        .join(ExtensionRow.frame)
        .join(earlier_extension, earlier_extension.pixels_sha256 == ExtensionRow.pixels_sha256)
        .join(earlier, earlier.id == earlier_extension.frame_id)
        .where(
            ExtensionRow.image_type == image_type,
            *of_nights(first),
            earlier.name != FrameRow.name,
            earlier.observed_at <= FrameRow.observed_at,
        )
    )
    return {row.id: row.name for row in session.execute(query)}


def copy_of(session: Session, finding: Finding) -> str:
    """Return the name of an earlier frame with the very pixels of a stored extension, or ""."""
    name = session.scalar(
        select(FrameRow.name)
        .join(FrameRow.extensions)
        .where(
            ExtensionRow.pixels_sha256 == finding.extension.pixels_sha256,
            FrameRow.name != finding.frame.name,
            FrameRow.observed_at <= finding.frame.observed_at,
        )
        .limit(1)
    )
    return name or ""


def evidence_of(finding: Finding, duplicate_of: str = "") -> Evidence:
    """Return the evidence that a stored verdict weighed.

    What is usual among its references is not kept: without it the judge comes to the same status,
    and to another score. Nor is how probable its own type was where it looked like another: at
    most what that one left.
    """
    return Evidence(
        merge_height=finding.verdict.merge_height,
        residual=finding.verdict.residual,
        patterns=finding.verdict.patterns or {},
        reference_size=finding.verdict.reference_size,
        widened=finding.verdict.widened,
        metrics=finding.extension.metrics,
        z=finding.verdict.z,
        duplicate_of=duplicate_of,
        prediction=_prediction_of(finding),
    )


def _prediction_of(finding: Finding) -> Prediction | None:
    verdict = finding.verdict
    if verdict.predicted_type is None or verdict.type_probability is None:
        return None
    is_own = verdict.predicted_type == finding.extension.image_type
    if not is_own and verdict.status == Status.NOMINAL:
        return None  # its own type may be one that the classifier never saw
    own = verdict.type_probability if is_own else 1 - verdict.type_probability
    return Prediction(verdict.predicted_type, verdict.type_probability, own)


@dataclass(frozen=True)
class Among:
    """Which stored extensions are meant.

    Attributes
    ----------
    image_types : tuple of str or None
        Only these; None: all.
    first, last : date or None
        Only nights from the one to the other.
    labelled : bool
        Only what a person has spoken about.
    left_out : int or None
        A frame whose extensions are not meant.
    """

    image_types: tuple[str, ...] | None = None
    first: date | None = None
    last: date | None = None
    labelled: bool = False
    left_out: int | None = None

    def conditions(self, *, of_few: bool = False) -> list[ColumnElement[bool]]:
        """Say it of the extension, and its frame, of a query.

        Parameters
        ----------
        of_few : bool
            Whether the query asks it of a few that it knows already: then no index is offered
            for the type, along which SQLite would look for them among all of it.
        """
        said: list[ColumnElement[bool]] = []
        if self.image_types is not None:
            image_type = ExtensionRow.image_type.concat("") if of_few else ExtensionRow.image_type
            said.append(image_type.in_(self.image_types))
        if self.first is not None:
            said.append(FrameRow.night >= self.first)
        if self.last is not None:
            said.append(FrameRow.night <= self.last)
        if self.labelled:
            said.append(newest_label().is_not(None))
        if self.left_out is not None:
            said.append(ExtensionRow.frame_id != self.left_out)
        return said


EVERYTHING = Among()


def vectors(
    session: Session,
    fingerprint: str,
    among: Among = EVERYTHING,
    *,
    called: LabelName | None = None,
    after: int = 0,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the embeddings of one encoder a block at a time, oldest first.

    Parameters
    ----------
    called : LabelName, optional
        Only those of which this label counts.
    after : int
        Only the embeddings kept later than the one with this id.

    Yields
    ------
    ids : (n,) int array
        Of extensions.
    vectors : (n, d) float32 array
    """
    query = (
        select(EmbeddingRow.extension_id, EmbeddingRow.vector)
        .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
        .join(ExtensionRow, ExtensionRow.id == EmbeddingRow.extension_id)
        .where(EncoderRow.fingerprint == fingerprint, *among.conditions(of_few=after > 0))
        .order_by(EmbeddingRow.id)
    )
    if among.first is not None or among.last is not None:
        query = query.join(FrameRow, FrameRow.id == ExtensionRow.frame_id)
    if called is not None:  # the few of which it was ever said, before what counts is asked of each
        ever = select(LabelRow.extension_id).where(LabelRow.label == called)
        query = query.where(ExtensionRow.id.in_(ever), newest_label() == called)
    if after:
        query = query.where(EmbeddingRow.id > after)
    rows = session.execute(query.execution_options(yield_per=_VECTORS_AT_ONCE))
    for block in rows.partitions():
        ids, found = zip(*block, strict=True)
        yield np.array(ids, np.int64), np.stack(found)


@dataclass(frozen=True)
class Embedded:
    """Embeddings as they are kept: n of them, and what they are of.

    Attributes
    ----------
    ids, extension_ids : (n,) int array
        Of the embeddings, in rising order; of the extensions.
    image_types : tuple of n str
    nights : (n,) int array
        As `date.toordinal`; 0: not known.
    vectors : (n, d) float32 array
    """

    ids: NDArray[np.int64]
    extension_ids: NDArray[np.int64]
    image_types: tuple[str, ...]
    nights: NDArray[np.int32]
    vectors: NDArray[np.float32]


def embeddings_after(session: Session, fingerprint: str, after: int = 0) -> Iterator[Embedded]:
    """Yield what one encoder made after the embedding with this id, a block at a time."""
    query = (
        select(
            EmbeddingRow.id,
            EmbeddingRow.extension_id,
            ExtensionRow.image_type,
            FrameRow.night,
            EmbeddingRow.vector,
        )
        .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
        .join(ExtensionRow, ExtensionRow.id == EmbeddingRow.extension_id)
        .join(FrameRow, FrameRow.id == ExtensionRow.frame_id)
        .where(EncoderRow.fingerprint == fingerprint, EmbeddingRow.id > after)
        .order_by(EmbeddingRow.id)
        .execution_options(yield_per=_VECTORS_AT_ONCE)
    )
    for block in session.execute(query).partitions():
        ids, extension_ids, types, nights, found = zip(*block, strict=True)
        yield Embedded(
            np.array(ids, np.int64),
            np.array(extension_ids, np.int64),
            types,
            np.array([night.toordinal() if night else 0 for night in nights], np.int32),
            np.stack(found),
        )


def newest_embedding_id(session: Session) -> int:
    """Return the id of the embedding that was kept last, of whatever encoder; 0 without any."""
    return session.scalar(select(func.max(EmbeddingRow.id))) or 0


def embeddings_counted(session: Session, fingerprint: str, until: int | None = None) -> int:
    """Return how many embeddings of an encoder there are, up to the one with an id."""
    encoder_id = session.scalar(select(EncoderRow.id).where(EncoderRow.fingerprint == fingerprint))
    query = select(func.count()).where(EmbeddingRow.encoder_id == encoder_id)
    if until is not None:
        query = query.where(EmbeddingRow.id <= until)
    return session.scalar(query.select_from(EmbeddingRow)) or 0


def embeddings_evenly(
    session: Session, fingerprint: str, image_type: str, most: int
) -> NDArray[np.float32]:
    """Return at most so many embeddings of an image type, (n, d), evenly from all there are."""
    ids = (
        select(EmbeddingRow.id)
        .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
        .join(ExtensionRow, ExtensionRow.id == EmbeddingRow.extension_id)
        .where(EncoderRow.fingerprint == fingerprint, ExtensionRow.image_type == image_type)
        .order_by(EmbeddingRow.id)
    )
    every = session.scalars(ids).all()
    chosen = [every[i] for i in np.linspace(0, len(every) - 1, min(most, len(every))).astype(int)]
    found = [
        vector
        for some in _parts(chosen)
        for vector in session.scalars(
            select(EmbeddingRow.vector).where(EmbeddingRow.id.in_(some)).order_by(EmbeddingRow.id)
        )
    ]
    return np.stack(found) if found else np.empty((0, 0), np.float32)


def embeddings_by_id(session: Session, ids: Sequence[int]) -> Mapping[int, NDArray[np.float32]]:
    """Return some embeddings, (d,) each, by their ids; those that are not there are left out."""
    query = select(EmbeddingRow.id, EmbeddingRow.vector).where(EmbeddingRow.id.in_(ids))
    return {row.id: row.vector for row in session.execute(query)}


def embeddings_of(
    session: Session, fingerprint: str, extension_ids: Sequence[int]
) -> Mapping[int, NDArray[np.float32]]:
    """Return an encoder's embeddings of some extensions, (d,) each, by the embeddings' ids."""
    query = (
        select(EmbeddingRow.id, EmbeddingRow.vector)
        .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
        .where(EncoderRow.fingerprint == fingerprint, EmbeddingRow.extension_id.in_(extension_ids))
    )
    return {row.id: row.vector for row in session.execute(query)}


def newest_label_id(session: Session) -> int:
    """Return the id of what was said last, taken back or not; 0 if nothing was ever said."""
    return session.scalar(select(func.max(LabelRow.id))) or 0


def extensions_spoken_of(session: Session) -> Sequence[int]:
    """Return the ids of the extensions of which a label counts."""
    query = select(LabelRow.extension_id).where(*_label_stands()).distinct()
    return session.scalars(query).all()


def extension_ids_of(session: Session, frame_id: int) -> Sequence[int]:
    """Return the ids of a frame's extensions."""
    return session.scalars(select(ExtensionRow.id).where(ExtensionRow.frame_id == frame_id)).all()


def newest_verdict_id() -> ScalarSelect[int]:
    """Return the newest verdict on the extension in the enclosing query, as a subquery."""
    other = aliased(VerdictRow)
    return (
        select(func.max(other.id))
        .where(other.extension_id == ExtensionRow.id)
        .correlate(ExtensionRow)
        .scalar_subquery()
    )


def first_verdict_id() -> ScalarSelect[int]:
    """Return the first verdict on the extension in the enclosing query, as a subquery."""
    other = aliased(VerdictRow)
    return (
        select(func.min(other.id))
        .where(other.extension_id == ExtensionRow.id)
        .correlate(ExtensionRow)
        .scalar_subquery()
    )


def _findings_query() -> Select[FrameRow, ExtensionRow, VerdictRow, str, LabelRow]:
    newest_label_id = (
        select(func.max(LabelRow.id))
        .where(LabelRow.extension_id == ExtensionRow.id, *_label_stands())
        .correlate(ExtensionRow)
        .scalar_subquery()
    )
    return (
        select(FrameRow, ExtensionRow, VerdictRow, EncoderRow.fingerprint, LabelRow)
        .join(ExtensionRow, ExtensionRow.frame_id == FrameRow.id)
        .join(VerdictRow, VerdictRow.id == newest_verdict_id())
        .join(EncoderRow, EncoderRow.id == VerdictRow.encoder_id)
        .outerjoin(LabelRow, LabelRow.id == newest_label_id)
        .order_by(FrameRow.observed_at, FrameRow.id, ExtensionRow.number)
    )


@dataclass(frozen=True)
class Chosen:
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


def extensions_named(session: Session, name: str) -> list[Chosen]:
    """Return the extensions of the newest frame of an archive name, a file name or a path.

    Raises
    ------
    UnknownFrame
        If no processed frame has that name.
    """
    return _chosen(session, FrameRow.id == _frame_named(session, name).id)


def extensions_beside(session: Session, one: Chosen) -> list[Chosen]:
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
) -> list[Chosen]:
    """Return the extensions of a type, of a night, of a newest verdict; None is any."""
    return _chosen(
        session,
        *([ExtensionRow.image_type == image_type] if image_type else []),
        *([FrameRow.night == night] if night else []),
        *([_newest_status() == status] if status else []),
    )


def extensions_with(session: Session, extension_ids: Sequence[int]) -> list[Chosen]:
    """Return the extensions of these ids, in order of time."""
    parts = _parts(extension_ids)
    found = [one for some in parts for one in _chosen(session, ExtensionRow.id.in_(some))]
    return sorted(found, key=lambda one: (one.observed_at, one.frame_id, one.number))


def extensions_called(session: Session, names: Collection[str]) -> Mapping[str, list[Chosen]]:
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


def _chosen(session: Session, *conditions: ColumnElement[bool]) -> list[Chosen]:
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
    return [Chosen(*row) for row in session.execute(query)]


def newest_status(session: Session, extension_id: int) -> Status | None:
    """Return how an extension was judged last; None if it awaits its first verdict."""
    query = select(_newest_status()).where(ExtensionRow.id == extension_id)
    status = session.scalars(query).one()
    return None if status is None else Status(status)


def _newest_status() -> ScalarSelect[Status]:
    return (
        select(VerdictRow.status)
        .where(VerdictRow.extension_id == ExtensionRow.id)
        .order_by(VerdictRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )


def name_of(session: Session, extension_id: int) -> str:
    """Return an extension as people write it: the frame's name and the HDU number."""
    row = session.execute(
        select(FrameRow.name, ExtensionRow.number)
        .join(ExtensionRow.frame)
        .where(ExtensionRow.id == extension_id)
    ).one()
    return f"{row.name}[{row.number}]"


def unprocessed(session: Session) -> Sequence[FrameRow]:
    """Return the files that failed or were skipped, newest first."""
    return session.scalars(
        select(FrameRow)
        .where(FrameRow.state != FrameState.PROCESSED)
        .order_by(FrameRow.processed_at.desc())
    ).all()


def failed(session: Session) -> Sequence[FrameRow]:
    """Return the files that failed, by name."""
    query = select(FrameRow).where(FrameRow.state == FrameState.FAILED).order_by(FrameRow.name)
    return session.scalars(query).all()


def instruments_seen(session: Session) -> Sequence[str]:
    """Return the instruments of which a frame was processed, by name."""
    query = select(FrameRow.instrument).where(FrameRow.state == FrameState.PROCESSED).distinct()
    return sorted(name for name in session.scalars(query) if name)


def frames_by_night(session: Session, first: date) -> Mapping[date, int]:
    """Return how many frames were processed of each night that had any, from one on."""
    query = (
        select(FrameRow.night, func.count()).where(FrameRow.night >= first).group_by(FrameRow.night)
    )
    return {night: n for night, n in session.execute(query) if night}


def newest_night(session: Session) -> date | None:
    """Return the newest night of which a frame was processed."""
    return session.scalar(select(func.max(FrameRow.night)))


def newest_of_types(
    session: Session, first: date, last: date
) -> Mapping[tuple[str, str], datetime]:
    """Return when each image type of each instrument was had last in these nights."""
    query = (
        select(FrameRow.instrument, ExtensionRow.image_type, func.max(FrameRow.observed_at))
        .join(ExtensionRow.frame)
        .where(FrameRow.night >= first, FrameRow.night <= last)
        .group_by(FrameRow.instrument, ExtensionRow.image_type)
    )
    return {
        (instrument, image_type): at
        for instrument, image_type, at in session.execute(query)
        if instrument and at
    }


def frames_between(session: Session, first: date, last: date) -> tuple[int, int]:
    """Return how many frames these nights brought, and the number of the one that came last."""
    query = select(func.count(), func.max(FrameRow.id)).where(
        FrameRow.night >= first, FrameRow.night <= last
    )
    count, newest = session.execute(query).one()
    return count, newest or 0


def frame_states(session: Session) -> Mapping[str, int]:
    """Return how many files are in each state."""
    query = select(FrameRow.state, func.count()).group_by(FrameRow.state)
    return {name: count for name, count in session.execute(query)}  # noqa: C416 - a Result has keys


def verdict_counts(session: Session) -> Mapping[str, int]:
    """Return how many extensions have which newest verdict."""
    newest = select(func.max(VerdictRow.id)).group_by(VerdictRow.extension_id)
    query = (
        select(VerdictRow.status, func.count())
        .where(VerdictRow.id.in_(newest))
        .group_by(VerdictRow.status)
    )
    return {name: count for name, count in session.execute(query)}  # noqa: C416 - a Result has keys


def encoder_counts(session: Session) -> Mapping[str, int]:
    """Return how many embeddings each encoder made, by its fingerprint."""
    query = (
        select(EncoderRow.fingerprint, func.count())
        .join(EmbeddingRow, EmbeddingRow.encoder_id == EncoderRow.id)
        .group_by(EncoderRow.fingerprint)
    )
    return {name: count for name, count in session.execute(query)}  # noqa: C416 - a Result has keys


def alerts_owed(session: Session) -> int:
    """Return how many things people have not been told of yet, that are not silenced."""
    count = select(func.count()).select_from(AlertRow)
    waiting = count.where(
        AlertRow.notice_id.is_(None), AlertRow.silence_id.is_(None), AlertRow.settled == ""
    )
    owed = select(DeliveryRow.notice_id).where(DeliveryRow.due_at.is_not(None))
    unsent = count.where(AlertRow.notice_id.in_(owed))
    return (session.scalar(waiting) or 0) + (session.scalar(unsent) or 0)


def oldest_debt(session: Session) -> datetime | None:
    """Return since when people should have been told of something, the oldest such."""
    waiting = select(func.min(AlertRow.owed_at)).where(
        AlertRow.notice_id.is_(None), AlertRow.silence_id.is_(None)
    )
    unsent = select(func.min(DeliveryRow.owed_at)).where(DeliveryRow.due_at.is_not(None))
    found = [session.scalar(query) for query in (waiting, unsent)]
    return min((each for each in found if each is not None), default=None)


def newest_lag_s(session: Session) -> float | None:
    """Return the seconds from exposure to verdict of the frame that was judged last."""
    query = (
        select(FrameRow.processed_at, FrameRow.observed_at)
        .where(FrameRow.state == FrameState.PROCESSED)
        .order_by(FrameRow.id.desc())
        .limit(1)
    )
    row = session.execute(query).first()
    return (row[0] - row[1]).total_seconds() if row and row[1] else None


def weekly_distances(session: Session, first: date) -> list[tuple[str, str, float]]:
    """Return image type, ISO week and the median merge height of its nominal frames.

    In units of the threshold that each was held against; of nights from `first` on.
    """
    query = (
        select(
            ExtensionRow.image_type, FrameRow.night, VerdictRow.merge_height / VerdictRow.threshold
        )
        .join(ExtensionRow.frame)
        .join(VerdictRow, VerdictRow.extension_id == ExtensionRow.id)
        .where(
            FrameRow.night >= first,
            VerdictRow.status == Status.NOMINAL,
            VerdictRow.merge_height.is_not(None),
        )
    )
    ratios = defaultdict[tuple[str, str], list[float]](list)
    for image_type, night, ratio in session.execute(query):
        if night is not None and ratio is not None:
            year, week, _ = night.isocalendar()
            ratios[image_type, f"{year}-W{week:02d}"].append(ratio)
    return [(*key, float(np.median(found))) for key, found in sorted(ratios.items())]


def postpone(session: Session, path: Path, patience: Patience, now: datetime) -> None:
    """Look later for a failed file that is not there now, for as long as patience lasts."""
    row = session.scalars(
        select(FrameRow).where(FrameRow.path == str(path), FrameRow.state == FrameState.FAILED)
    ).one()
    row.tries += 1
    row.retry_at = patience.next_try(row.failed_since or now, row.tries, now)


def owe_alert(
    session: Session,
    topic: Topic,
    key: str,
    words: str,
    *,
    instrument: str | None = None,
    image_type: str | None = None,
    night: date | None = None,
) -> bool:
    """Owe people word of what is no verdict; return False if this event was owed before.

    Parameters
    ----------
    key : str
        What makes it one event, whenever it is noticed again: ``absence UVES UBB0 2026-11-19``.
    words : str
        A sentence for the mail and the report.
    """
    added = add_new(
        session,
        AlertRow,
        topic=topic,
        key=key,
        words=words,
        instrument=instrument,
        image_type=image_type,
        night=night,
        owed_at=utc_now(),
    )
    return added is not None


def alerts_called(session: Session, keys: Collection[str]) -> Collection[str]:
    """Return those of these keys that an alert has, told or not."""
    rows = session.scalars(select(AlertRow.key).where(AlertRow.key.in_(keys)))
    return {key for key in rows if key is not None}


def last_processed_at(session: Session) -> datetime | None:
    """Return when a file was last taken in."""
    return session.scalar(select(func.max(FrameRow.processed_at)))


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


def embedding_of(session: Session, extension_id: int, encoder_id: int) -> NDArray[np.float32]:
    """Return one encoder's embedding of an extension: (d,)."""
    query = select(EmbeddingRow.vector).where(
        EmbeddingRow.extension_id == extension_id, EmbeddingRow.encoder_id == encoder_id
    )
    return session.scalars(query).one()


def light_of(session: Session, extension_ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the block statistics of some extensions above their own bias level: (m, h, w, 3).

    Those whose statistics are no longer kept are left out.
    """
    query = (
        select(BlockStatisticsRow.above_zero_adu, ExtensionRow.zero_adu, ExtensionRow.metrics)
        .join(ExtensionRow, ExtensionRow.id == BlockStatisticsRow.extension_id)
        .join(ExtensionRow.frame)
        .where(ExtensionRow.id.in_(extension_ids))
        # Of time, not of arrival: what is learnt from them depends on their order a little.
        .order_by(FrameRow.observed_at, FrameRow.name, ExtensionRow.number)
    )
    found = session.execute(query.execution_options(yield_per=_PICTURES_AT_ONCE))
    light, kept = np.empty((0, 0, 0, 3), np.float32), 0
    for each, zero, metrics in found:
        if not kept:  # filled as they are read: two hundred are 120 MB, and in a list as much again
            light = np.empty((len(extension_ids), *each.shape), np.float32)
        light[kept] = above_bias(each + _zero(zero), zero, metrics)
        kept += 1
    return light[:kept]


def pictures_kept(session: Session, extension_ids: Sequence[int]) -> int:
    """Return of how many of some extensions the block statistics are still kept."""
    query = (
        select(func.count())
        .select_from(BlockStatisticsRow)
        .where(BlockStatisticsRow.extension_id.in_(extension_ids))
    )
    return session.scalar(query) or 0


def above_bias(
    statistics: NDArray[np.float32], zero_adu: float, metrics: Mapping[str, float]
) -> NDArray[np.float32]:
    """Return (h, w, 3) block statistics above the frame's own bias level, if it has an overscan."""
    return statistics - _zero(metrics.get("bias_level", zero_adu))


def _zero(level_adu: float) -> NDArray[np.float32]:
    """Return what is to be taken off a mean, a standard deviation and a maximum."""
    return np.array([level_adu, 0, level_adu], np.float32)


def block_statistics_of(session: Session, extension_id: int) -> NDArray[np.float32] | None:
    """Return an extension's (h, w, 3) block statistics in ADU above zero, if still kept."""
    query = select(BlockStatisticsRow.above_zero_adu).where(
        BlockStatisticsRow.extension_id == extension_id
    )
    return session.scalar(query)


def appearance_of(session: Session, row: ExtensionRow) -> Mapping[str, float]:
    """Return how an extension looks; empty where it was measured before this was kept."""
    if row.appearance is not None:
        return row.appearance
    above_zero = block_statistics_of(session, row.id)
    if above_zero is None:
        return {}
    return appearance(above_zero, row.metrics.get("bias_level", row.zero_adu) - row.zero_adu)


def reference_of(session: Session, finding: Finding) -> Reference:
    """Return what a judged extension would be held against if it were judged today."""
    frame, setup = frame_of(finding.frame), finding.extension.setup
    return reference_for(session, frame, setup, finding.fingerprint)


def frame_of(row: FrameRow) -> Frame:
    """Return a stored frame, its pixels left behind."""
    facts = {name: getattr(row, name) for name in _FRAME_FIELDS}
    return Frame(path=Path(row.path), extensions=(), **facts)


def nights_between(session: Session, first: date, last: date) -> Sequence[date]:
    """Return the nights of which a frame was processed, oldest first."""
    query = select(FrameRow.night).where(
        FrameRow.state == FrameState.PROCESSED, FrameRow.night >= first, FrameRow.night <= last
    )
    nights = session.scalars(query.distinct().order_by(FrameRow.night))
    return [night for night in nights if night is not None]  # a processed frame has one


def extensions_between(session: Session, first: date, last: date) -> int:
    """Return how many extensions there are of these nights."""
    query = (
        select(func.count())
        .select_from(ExtensionRow)
        .join(ExtensionRow.frame)
        .where(FrameRow.night >= first, FrameRow.night <= last)
    )
    return session.scalar(query) or 0


def extensions_of(session: Session, night: date) -> Sequence[ExtensionRow]:
    """Return a night's extensions in order of time, with their frames."""
    return session.scalars(_extensions_of(night)).all()


def _extensions_of(night: date) -> Select[ExtensionRow]:
    return (
        select(ExtensionRow)
        .join(ExtensionRow.frame)
        .options(contains_eager(ExtensionRow.frame))
        .where(FrameRow.night == night)
        .order_by(FrameRow.observed_at, FrameRow.name, ExtensionRow.number)
    )


def nights_unjudged(session: Session) -> Sequence[date]:
    """Return the nights of which an image awaits its first verdict, oldest first."""
    query = select(FrameRow.night).join(FrameRow.extensions).where(~_is_judged())
    nights = session.scalars(query.distinct().order_by(FrameRow.night))
    return [night for night in nights if night is not None]


def count_unjudged(session: Session) -> int:
    """Return how many images await their first verdict."""
    query = select(func.count()).select_from(ExtensionRow).where(~_is_judged())
    return session.scalar(query) or 0


def unjudged_of(session: Session, night: date) -> Sequence[ExtensionRow]:
    """Return a night's extensions that await their first verdict, as `extensions_of` does."""
    return session.scalars(_extensions_of(night).where(~_is_judged())).all()


def measured_of(
    session: Session, row: ExtensionRow, limits: Mapping[str, tuple[float, float]]
) -> Measured | None:
    """Return what was measured of a stored extension; None where too little of it was kept."""
    above_zero = block_statistics_of(session, row.id)
    light = row.light
    if above_zero is None or light is None:
        return None
    assert row.gain_e_per_adu is not None  # kept together with the light-sensitive part
    assert row.read_noise_adu is not None
    return Measured(
        number=row.number,
        setup=row.setup,
        shape=(row.ny, row.nx),
        light=light,
        frame_class=row.frame_class,
        zero_adu=row.zero_adu,
        gain_e_per_adu=row.gain_e_per_adu,
        read_noise_adu=row.read_noise_adu,
        stretch_adu=row.stretch_adu,
        promised_light=row.promised_light,
        limits=limits,
        statistics=above_zero + _zero(row.zero_adu),
        metrics=row.metrics,
        pixels_sha256=row.pixels_sha256,
    )


def unprocessed_between(session: Session, start: datetime, end: datetime) -> Sequence[FrameRow]:
    """Return the files that failed or were skipped and may have been taken in a span of a day.

    Nobody knows when a file was taken that could not be read: those that have one of the span's
    dates in their names, or changed on disk within it.
    """
    first_ns, last_ns = (int(when.timestamp()) * 10**9 for when in (start, end))
    query = (
        select(FrameRow)
        .where(
            FrameRow.state.in_((FrameState.FAILED, FrameState.SKIPPED)),
            or_(
                FrameRow.name.contains(start.date().isoformat()),
                FrameRow.name.contains(end.date().isoformat()),
                and_(FrameRow.modified_ns >= first_ns, FrameRow.modified_ns < last_ns),
            ),
        )
        .order_by(FrameRow.name)
    )
    return session.scalars(query).all()


def taken_at(row: FrameRow) -> datetime:
    """Guess when a file that could not be read was taken: its name tells, or else the disk."""
    return told_time(row.name) or datetime.fromtimestamp(row.modified_ns / 1e9, UTC)


@dataclass(frozen=True)
class Had:
    """What one night brought of one setup on one chip.

    Attributes
    ----------
    last : datetime
        When the last of them was taken.
    """

    instrument: str
    night: date
    setup: Setup
    frames: int
    last: datetime


def had_between(session: Session, first: date, last: date) -> Iterator[Had]:
    """Yield which setups these nights brought, and how many frames of each."""
    setup = [getattr(ExtensionRow, name) for name in Setup.__dataclass_fields__]
    query = (
        select(
            FrameRow.instrument,
            FrameRow.night,
            func.count(func.distinct(FrameRow.id)),
            func.max(FrameRow.observed_at),
            *setup,
        )
        .join(ExtensionRow.frame)
        .where(*of_nights(first, last))
        .group_by(FrameRow.instrument, FrameRow.night, *setup)
    )
    for instrument, night, frames, at, *values in session.execute(query):
        yield Had(instrument, night, Setup(*values), frames, at)


def is_catching_up(session: Session, now: datetime, since: datetime, late_s: float) -> bool:
    """Say whether since some time frames were taken in that long before had been taken.

    Frames of more than a week ago do not count: an archive's say nothing of tonight's.
    """
    query = select(FrameRow.processed_at, FrameRow.observed_at).where(
        FrameRow.processed_at >= since,
        FrameRow.processed_at <= now,
        FrameRow.observed_at >= now - timedelta(days=7),
    )
    late = timedelta(seconds=late_s)
    return any(taken and done - taken > late for done, taken in session.execute(query))


@dataclass(frozen=True)
class Tried:
    """Trials of a self-test that differ in nothing but the frame, counted."""

    night: date
    instrument: str
    image_type: str
    kind: str
    strength: str
    tried: int
    found: int


def faults_tried(session: Session, first: date, last: date) -> Sequence[Tried]:
    """Return what the self-tests of these nights tried, and how many of it were found."""
    what = (
        SelfTestRow.night,
        SelfTestRow.instrument,
        SelfTestRow.image_type,
        SelfTestRow.kind,
        SelfTestRow.strength,
    )
    found = func.sum(case((SelfTestRow.is_found, 1), else_=0))
    query = (
        select(*what, func.count(), found)
        .where(SelfTestRow.night >= first, SelfTestRow.night <= last)
        .group_by(*what)
        .order_by(*what)
    )
    return [Tried(*row) for row in session.execute(query)]


def record_self_test(session: Session, night: date, rows: Sequence[SelfTestRow]) -> None:
    """Keep a night's trials instead of those that were kept of it before."""
    session.execute(delete(SelfTestRow).where(SelfTestRow.night == night))
    session.add_all(rows)


def epochs_between(session: Session, first: date, last: date) -> Sequence[EpochRow]:
    """Return the interventions of these nights, oldest first."""
    query = select(EpochRow).where(
        EpochRow.since >= first, EpochRow.since <= last, *_epoch_stands()
    )
    return session.scalars(query.order_by(EpochRow.since, EpochRow.id)).all()


def epochs(session: Session) -> Sequence[EpochRow]:
    """Return all that was ever said of interventions, in the order of saying."""
    return session.scalars(select(EpochRow).order_by(EpochRow.id)).all()


def frames_judged(
    session: Session, scope: str, first: date, last: date, least_references: int = 0
) -> int:
    """Return how many frames of an image type or instrument were judged by so many references."""
    newest = select(func.max(VerdictRow.id)).group_by(VerdictRow.extension_id)
    query = (
        select(func.count(func.distinct(ExtensionRow.frame_id)))
        .join(ExtensionRow.frame)
        .join(VerdictRow, VerdictRow.extension_id == ExtensionRow.id)
        .where(
            or_(ExtensionRow.image_type == scope, FrameRow.instrument == scope),
            FrameRow.night >= first,
            FrameRow.night <= last,
            VerdictRow.id.in_(newest),
            VerdictRow.reference_size >= least_references,
        )
    )
    return session.scalar(query) or 0


def record_frame(
    session: Session,
    file: File,
    frame: Frame,
    judged: Sequence[Judged],
    *,
    encoder: Encoder,
    thresholds_digest: str,
    label: LabelName | None = None,
) -> bool:
    """Keep a frame and everything learnt from it; return False if another was first.

    An anomalous verdict owes an alert in the same transaction, unless a person has already
    answered for the frame.
    """
    row = _new_frame_row(session, file, frame, label)
    if row is None:
        return False
    encoder_id = _encoder_id(session, encoder)
    for each in judged:
        extension = _record_extension(session, row, each.measured, each.embedding, encoder_id)
        if label is not None:
            record_label(session, extension.id, Answer(label, user()))
        _record_first_verdict(session, extension, each, encoder_id, thresholds_digest)
    return True


def record_measured(
    session: Session,
    file: File,
    frame: Frame,
    measured: Sequence[tuple[Measured, NDArray[np.float32]]],
    *,
    encoder: Encoder,
    label: LabelName | None = None,
) -> bool:
    """Keep a frame that awaits its verdicts, each image with its embedding; False if known."""
    row = _new_frame_row(session, file, frame, label)
    if row is None:
        return False
    encoder_id = _encoder_id(session, encoder)
    for each, embedding in measured:
        extension = _record_extension(session, row, as_kept(each), embedding, encoder_id)
        if label is not None:
            record_label(session, extension.id, Answer(label, user()))
    return True


def record_first_verdict(
    session: Session,
    extension_id: int,
    judged: Judged,
    *,
    encoder: Encoder,
    thresholds_digest: str,
) -> None:
    """Keep the verdict that an extension has been waiting for, unless another was first."""
    extension = session.get_one(ExtensionRow, extension_id)
    if newest_status(session, extension_id) is None:
        encoder_id = _encoder_id(session, encoder)
        _record_first_verdict(session, extension, judged, encoder_id, thresholds_digest)


def _new_frame_row(
    session: Session, file: File, frame: Frame, label: LabelName | None
) -> FrameRow | None:
    """Return the row of a frame that is new, in place of what was kept of a failed try, if any.

    None if it is known, be it that another has recorded it since it was looked for.
    """
    if recognise(session, file, frame.sha256, label):
        return None
    session.execute(delete(FrameRow).where(_unprocessed(file)))
    facts = {name: getattr(frame, name) for name in _FRAME_FIELDS}
    added = add_new(session, FrameRow, state=FrameState.PROCESSED, **_file_facts(file), **facts)
    if added is None:
        recognise(session, file, frame.sha256, label)
        return None
    return session.get_one(FrameRow, added)


def _file_facts(file: File) -> dict[str, Any]:
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


def _record_extension(
    session: Session,
    row: FrameRow,
    measured: Measured,
    embedding: NDArray[np.float32],
    encoder_id: int,
) -> ExtensionRow:
    extension = _extension_row(row, measured)
    session.add(extension)
    session.flush()
    session.add_all(
        [
            _block_statistics_row(extension.id, measured),
            EmbeddingRow(extension_id=extension.id, encoder_id=encoder_id, vector=embedding),
        ]
    )
    session.flush()
    return extension


def _record_first_verdict(
    session: Session,
    extension: ExtensionRow,
    judged: Judged,
    encoder_id: int,
    thresholds_digest: str,
) -> None:
    """Keep a verdict; an anomalous one owes an alert, unless a person has answered already."""
    verdict = _verdict_row(extension.id, encoder_id, judged, thresholds_digest)
    session.add(verdict)
    session.flush()
    if judged.verdict.status is Status.ANOMALOUS and not _is_answered(session, extension.id):
        session.add(
            AlertRow(
                topic=Topic.VERDICT,
                verdict_id=verdict.id,
                instrument=extension.frame.instrument,
                image_type=extension.image_type,
                night=extension.frame.night,
                owed_at=verdict.judged_at,
            )
        )


def _is_answered(session: Session, extension_id: int) -> bool:
    return standing(labels_of(session, [extension_id]).get(extension_id, ())) is not None


def record_verdict(
    session: Session,
    extension_id: int,
    judged: Judged,
    *,
    encoder: Encoder,
    thresholds_digest: str,
) -> None:
    """Keep another verdict on a stored extension, and its embedding if the encoder is new to it.

    The newest counts; none is replaced. No alert: the frame is not news.
    """
    encoder_id = _encoder_id(session, encoder)
    if find_embedding(session, extension_id, encoder.fingerprint) is None:
        facts = {"extension_id": extension_id, "encoder_id": encoder_id}
        add_new(session, EmbeddingRow, vector=judged.embedding, **facts)
    session.add(_verdict_row(extension_id, encoder_id, judged, thresholds_digest))


def newest_classifier(session: Session, fingerprint: str) -> ClassifierRow | None:
    """Return the newest accepted classifier of an encoder's embeddings, if any was trained."""
    query = (
        select(ClassifierRow)
        .join(EncoderRow, EncoderRow.id == ClassifierRow.encoder_id)
        .where(EncoderRow.fingerprint == fingerprint, ClassifierRow.accepted)
        .order_by(ClassifierRow.id.desc())
        .limit(1)
    )
    return session.scalar(query)


def record_classifier(session: Session, row: ClassifierRow, encoder: Encoder) -> None:
    """Keep a classifier, accepted or not."""
    row.encoder_id = _encoder_id(session, encoder)
    session.add(row)


def find_embedding(
    session: Session, extension_id: int, fingerprint: str
) -> NDArray[np.float32] | None:
    """Return an extension's embedding by this encoder, (d,), if it has one."""
    query = (
        select(EmbeddingRow.vector)
        .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
        .where(EmbeddingRow.extension_id == extension_id, EncoderRow.fingerprint == fingerprint)
    )
    return session.scalar(query)


def _extension_row(row: FrameRow, measured: Measured) -> ExtensionRow:
    setup = {name: getattr(measured.setup, name) for name in Setup.__dataclass_fields__}
    return ExtensionRow(
        frame=row,
        number=measured.number,
        frame_class=measured.frame_class,
        ny=measured.shape[0],
        nx=measured.shape[1],
        gain_e_per_adu=measured.gain_e_per_adu,
        read_noise_adu=measured.read_noise_adu,
        light_bottom=measured.light[0].start,
        light_top=measured.light[0].stop,
        light_left=measured.light[1].start,
        light_right=measured.light[1].stop,
        pixels_sha256=measured.pixels_sha256,
        promised_light=measured.promised_light,
        zero_adu=measured.zero_adu,
        stretch_adu=measured.stretch_adu,
        metrics=dict(measured.metrics),
        appearance=measured.appearance,
        **setup,
    )


def _verdict_row(
    extension_id: int, encoder_id: int, judged: Judged, thresholds_digest: str
) -> VerdictRow:
    return VerdictRow(
        extension_id=extension_id,
        encoder_id=encoder_id,
        judged_at=utc_now(),
        status=judged.verdict.status,
        score=judged.verdict.score,
        reasons=list(judged.verdict.reasons),
        merge_height=judged.evidence.merge_height,
        residual=judged.evidence.residual,
        threshold=judged.highest_merge,
        thresholds_digest=thresholds_digest,
        reference_size=judged.evidence.reference_size,
        widened=judged.evidence.widened,
        z=dict(judged.evidence.z),
        **_prediction_columns(judged.evidence.prediction),
        patterns={name: round(far, 2) for name, far in judged.evidence.patterns.items()},
        nearest_id=judged.nearest_id,
    )


def _prediction_columns(said: Prediction | None) -> dict[str, Any]:
    if said is None:
        return {}
    return {
        "classifier_digest": said.classifier_digest,
        "predicted_type": said.image_type,
        "type_probability": said.type_probability,
        "predicted_kind": said.kind,
        "kind_probability": said.kind_probability,
    }


def as_kept(measured: Measured) -> Measured:
    """Return what was measured of an extension as it will be read back: rounded to be kept."""
    zero = _zero(measured.zero_adu)
    return replace(measured, statistics=rounded_to_keep(measured.statistics - zero) + zero)


def _block_statistics_row(extension_id: int, measured: Measured) -> BlockStatisticsRow:
    above_zero_adu = measured.statistics - _zero(measured.zero_adu)
    return BlockStatisticsRow(extension_id=extension_id, above_zero_adu=above_zero_adu)


def user() -> str:
    """Return who is at the keyboard."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return str(os.getuid())


def record_unprocessed(
    session: Session,
    file: File,
    state: FrameState,
    reason: str,
    patience: Patience = _TWO_DAYS,
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


def _unprocessed_row(session: Session, file: File) -> FrameRow:
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


def _unprocessed(file: File) -> ColumnElement[bool]:
    return and_(FrameRow.path == str(file.path), FrameRow.state != FrameState.PROCESSED)


def _encoder_id(session: Session, encoder: Encoder) -> int:
    query = select(EncoderRow.id).where(EncoderRow.fingerprint == encoder.fingerprint)
    facts = {"fingerprint": encoder.fingerprint, "name": encoder.name, "stretch": encoder.stretch}
    known = session.scalar(query)
    if known is None:
        add_new(session, EncoderRow, **facts)
        known = session.scalars(query).one()
    return known
