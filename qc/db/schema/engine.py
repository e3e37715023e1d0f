"""Database engine, transactions and locks."""

import contextlib
import datetime as dt
import getpass
import os
import re
import sqlite3
from collections import abc
from importlib import import_module
from typing import Any

import sqlalchemy as sa
from sqlalchemy import URL, ColumnElement, Engine, event
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session

from qc._time import midnight
from qc.db.schema import models
from qc.errors import ConfigurationError

ROWS_PER_FETCH = 500  # bounds the memory of a query about ten years

_BUSY_MS = 60_000  # SQLite waits so long for another writer
_WRITER_LOCK, _DAEMON_LOCK = 0x7163, 0x7164  # PostgreSQL's advisory locks, per database

_OPTIONS: abc.Mapping[str, abc.Mapping[str, Any]] = {
    "postgresql": {"isolation_level": "REPEATABLE READ"}
}
# A writer that waited for another must see the rows that the other has written.
_WRITE_OPTIONS: abc.Mapping[str, abc.Mapping[str, Any]] = {
    "postgresql": {"isolation_level": "READ COMMITTED"}
}


def parse_url(text: str) -> URL:
    """Return a database's address.

    Raises
    ------
    ConfigurationError
        If it is no URL.
    """
    try:
        return sa.make_url(text)
    except ArgumentError:
        masked = re.sub(r"//.*@", "//***@", text)  # hides user and password
        raise ConfigurationError(
            "database address: expected a URL like postgresql+psycopg://user@host/name, "
            f"got {masked!r}"
        ) from None  # SQLAlchemy's message quotes the URL


def format_url(url: URL) -> str:
    """Return a database's address without its passwords."""
    secrets = [name for name in url.query if "pass" in name.casefold()]
    return url.difference_update_query(secrets).render_as_string(hide_password=True)


def connect(url: str | URL) -> Engine:
    """Return an engine for a database of SQLite or PostgreSQL.

    SQLite gets a write-ahead log, foreign keys and a time-out. On either database all reads of a
    transaction see one moment.

    Raises
    ------
    ConfigurationError
        If the address is invalid, or its driver is not installed.
    """
    address = parse_url(url) if isinstance(url, str) else url
    try:
        # pool_pre_ping notices a server that was restarted before a transaction is lost.
        # max_overflow: forty threads of the web server may each hold two connections.
        engine = sa.create_engine(
            address,
            pool_pre_ping=True,
            poolclass=sa.QueuePool,
            max_overflow=80,
            **_OPTIONS.get(address.get_backend_name(), {}),
        )
    except (ArgumentError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"database {format_url(address)!r}: {reason}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    elif engine.dialect.name == "postgresql":
        models.register_postgresql()
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "begin", _begin_postgresql)
    return engine


def for_writing(engine: Engine) -> Engine:
    """Return the engine with transactions that write, one after another."""
    write_options = _WRITE_OPTIONS.get(engine.url.get_backend_name(), {})
    return engine.execution_options(writes=True, **write_options)


def for_durable_writing(engine: Engine) -> Engine:
    """Return the engine with transactions that write and survive a power cut."""
    return for_writing(engine).execution_options(durable=True)


def for_inserting(engine: Engine) -> Engine:
    """Return the engine for inserting frames, concurrently where the database can.

    Such a transaction must rely on unique keys and locked rows alone.
    """
    return for_writing(engine).execution_options(inserts=True)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # _begin_sqlite begins the transactions
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    with contextlib.suppress(sqlite3.OperationalError):
        # Two processes that switch a new file at once do not wait; one switch is enough.
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Any) -> None:
    # decision 0004: a transaction that reads and later writes cannot wait for another writer.
    options = connection.get_execution_options()
    writes = options.get("writes", False)
    if writes:  # NORMAL does not wait for the disk: a power cut loses the last transactions
        level = "FULL" if options.get("durable", False) else "NORMAL"
        connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    # decision 0095: results are read to their end, so plans for their first tenth are slow.
    # Compiling takes longer than any of the queries. Sorting 60 MB on disk takes twice as long.
    with connection.cursor() as cursor:
        cursor.execute("SET cursor_tuple_fraction = 1")
        cursor.execute("SET jit = off")
        cursor.execute("SET work_mem = '64MB'")
    connection.commit()


def _begin_postgresql(connection: Any) -> None:
    # decision 0086: labels and alerts have one writer at a time; frames are inserted concurrently.
    options = connection.get_execution_options()
    if options.get("writes", False) and not options.get("inserts", False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")


def try_writer_lock(engine: Engine) -> contextlib.AbstractContextManager[bool]:
    """Hold the lock of writers; the context is False if another transaction holds it."""
    return _advisory_lock(engine, _WRITER_LOCK)


def try_daemon_lock(engine: Engine) -> contextlib.AbstractContextManager[bool]:
    """Hold the daemon's lock of a database; the context is False if a daemon on any host does."""
    return _advisory_lock(engine, _DAEMON_LOCK)


@contextlib.contextmanager
def _advisory_lock(engine: Engine, lock: int) -> abc.Iterator[bool]:
    """Hold an advisory lock of PostgreSQL for as long as the connection lives.

    SQLite needs none: its file belongs to one host, and has one writer at a time.
    """
    if engine.dialect.name != "postgresql":
        yield True
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        is_locked = bool(connection.scalar(sa.select(sa.func.pg_try_advisory_lock(lock))))
        try:
            yield is_locked
        finally:
            with contextlib.suppress(DBAPIError):  # a server that has stopped has released the lock
                if is_locked:
                    connection.execute(sa.select(sa.func.pg_advisory_unlock(lock)))


def insert_new(session: Session, table: type[models.Base], **values: Any) -> int | None:
    """Insert a row unless another row has its unique key.

    A concurrent transaction that inserts the same key is waited for.

    Parameters
    ----------
    session : Session
    table : type
        Class of the row.
    **values
        Values of its columns.

    Returns
    -------
    int or None
        Id of the new row; None if there is a row with the key.
    """
    dialect = session.get_bind().dialect.name
    insert: Any = import_module(f"sqlalchemy.dialects.{dialect}").insert
    statement = insert(table).values(**values).on_conflict_do_nothing()
    row_id: int | None = session.scalar(statement.returning(sa.column("id")))
    return row_id


def chunks(ids: abc.Sequence[int]) -> abc.Iterator[abc.Sequence[int]]:
    """Yield a list in parts that are short enough for one query."""
    for start in range(0, len(ids), ROWS_PER_FETCH):
        yield ids[start : start + ROWS_PER_FETCH]


def night_conditions(first: dt.date, last: dt.date = dt.date.max) -> list[ColumnElement[bool]]:
    """Return conditions that limit frames and extensions to a range of nights.

    Parameters
    ----------
    first, last : date
        First and last night, both included.

    Returns
    -------
    list of ColumnElement
    """
    conditions = [models.FrameRow.night >= first] if first > dt.date.min else []
    conditions += [models.FrameRow.night <= last] if last < dt.date.max else []
    return conditions + time_conditions(first, last)


def time_conditions(first: dt.date, last: dt.date = dt.date.max) -> list[ColumnElement[bool]]:
    """Return conditions that limit extensions to the days of a range of nights, along an index.

    The limits are loose: a night covers two days, and begins at an hour of each instrument.

    Parameters
    ----------
    first, last : date
        First and last night, both included.

    Returns
    -------
    list of ColumnElement
    """
    observed_at = models.ExtensionRow.observed_at
    conditions = [observed_at >= midnight(first)] if first > dt.date.min else []
    if last < dt.date.max - dt.timedelta(days=2):
        conditions.append(observed_at < midnight(last + dt.timedelta(days=2)))
    return conditions


def user_name() -> str:
    """Return the name of the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return str(os.getuid())
