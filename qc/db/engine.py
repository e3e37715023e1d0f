"""Database engine, transactions and locks."""

import getpass
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import date, timedelta
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Engine,
    column,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import (
    Session,
)
from sqlalchemy.pool import QueuePool

from qc._time import midnight
from qc.db.models import (
    Base,
    ExtensionRow,
    FrameRow,
)
from qc.errors import ConfigurationError

_ROWS_AT_ONCE = 500  # bounds the memory of a question about ten years


_BUSY_MS = 60_000  # how long SQLite waits for another writer before it gives up


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


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut a list so that each part may stand in one question."""
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        yield ids[start : start + _ROWS_AT_ONCE]


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


def user() -> str:
    """Return who is at the keyboard."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return str(os.getuid())
