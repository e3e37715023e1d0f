"""A database copied into PostgreSQL: table by table, again from where it stopped, and verified."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import zip_longest
from typing import Any

import numpy as np
from sqlalchemy import (
    JSON,
    URL,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Engine,
    LargeBinary,
    Row,
    Select,
    Table,
    Text,
    cast,
    func,
    inspect,
    select,
    tuple_,
    type_coerce,
)

from qc.db.engine import connect, shown_url, writing_alone
from qc.db.migrate import check_schema, upgrade_schema
from qc.db.models import Base
from qc.db.types import BlockArray, UTCDateTime, spelt
from qc.errors import ConfigurationError

ROWS_AT_ONCE = 500  # of a transaction: what a kill can lose
PICTURES_AT_ONCE = 50  # some hundred kilobytes each

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TableCopy:
    """One table.

    Attributes
    ----------
    rows : int
        That it has now, on both sides, equal to the last digit.
    copied : int
        Those of this run.
    """

    table: str
    rows: int
    copied: int


def transfer(
    source: str | URL, target: str | URL, progress: Progress = lambda *_: None
) -> tuple[TableCopy, ...]:
    """Copy every table into a PostgreSQL database that is empty, or has part of this very copy.

    Rows go in the order of their keys, some thousand in a transaction: what is there after a kill
    is a beginning of each table, and another run goes on behind it. At the end each row is read
    from both sides and compared.

    Raises
    ------
    ConfigurationError
        If a database cannot be used or is of another version, or somebody else writes to the
        target; if the two are not the same in the end.
    """
    with _opened(source) as old, _opened(target) as new:
        if new.dialect.name != "postgresql":
            raise ConfigurationError(
                f"{shown_url(new.url)}: expected a PostgreSQL database to copy into"
            )
        check_schema(old)
        upgrade_schema(new) if not inspect(new).get_table_names() else check_schema(new)
        with writing_alone(new) as alone:
            if not alone:
                raise ConfigurationError(
                    f"{shown_url(new.url)}: somebody else is writing to it; stop the daemon and "
                    "other copies first"
                )
            done = tuple(_transfer(old, new, progress))
            set_sequences(new)
    return done


@contextmanager
def _opened(url: str | URL) -> Iterator[Engine]:
    engine = connect(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _transfer(old: Engine, new: Engine, progress: Progress) -> Iterator[TableCopy]:
    tables = Base.metadata.sorted_tables
    with old.connect() as source:
        total = {table: _count(source, table) for table in tables}
        for table in tables:
            _check_beginning(source, new, table)
        copied = {table: _copy(source, new, table, total[table], progress) for table in tables}
        for table in tables:
            _verify(source, new, table, total[table], progress)
            yield TableCopy(table.name, total[table], copied[table])


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


def _check_beginning(source: Connection, new: Engine, table: Table) -> None:
    """Tell at once that what the target has is of another database, not only in the end."""
    with new.connect() as target:
        last = target.execute(_rows(table, descending=True).limit(1)).first()
    if last is None:
        return
    key = _key_of(table, last)
    same = source.execute(_rows(table).where(_key(table) == tuple_(*key))).first()
    if same is None or _digest(same) != _digest(last):
        raise _differs(new, table, key)


def _copy(source: Connection, new: Engine, table: Table, total: int, progress: Progress) -> int:
    """Add the rows behind the last that is there; return how many."""
    with new.connect() as target:
        last = target.execute(_rows(table, descending=True).limit(1)).first()
        there = _count(target, table)
    copied = 0
    while rows := source.execute(_behind(table, last)).all():
        _add(new, table, rows)
        copied, last = copied + len(rows), rows[-1]
        progress(f"copy {table.name}", there + copied, total)
    return copied


def _behind(table: Table, last: Row[Any] | None) -> Select[Any]:
    has_pictures = any(isinstance(column.type, LargeBinary | BlockArray) for column in table.c)
    query = _rows(table).limit(PICTURES_AT_ONCE if has_pictures else ROWS_AT_ONCE)
    return query if last is None else query.where(_key(table) > tuple_(*_key_of(table, last)))


def _add(new: Engine, table: Table, rows: Sequence[Row[Any]]) -> None:
    """Add rows in one transaction.

    Raises
    ------
    ConfigurationError
        If PostgreSQL cannot keep what SQLite could: the character NUL in a text.
    """
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    dbapi: Any = new.dialect.dbapi
    with new.begin() as target:
        driver: Any = target.connection.driver_connection
        try:
            with (
                driver.cursor() as cursor,
                cursor.copy(f'COPY "{table.name}" ({names}) FROM STDIN') as copy,
            ):
                for row in rows:
                    copy.write_row([_written(value) for value in row])
        except dbapi.DataError as error:
            first, last = _key_of(table, rows[0]), _key_of(table, rows[-1])
            reason = str(error).splitlines()[0]
            raise ConfigurationError(f"{table.name} {first} to {last}: {reason}") from error


def _written(value: Any) -> Any:
    return spelt(value.astype("<f2")) if isinstance(value, np.ndarray) else value


def _rows(table: Table, *, descending: bool = False) -> Select[Any]:
    """Ask for the rows in the order of their keys, as both databases give them alike."""
    order = [column.desc() if descending else column for column in table.primary_key]
    return select(*(_carried(column) for column in table.columns)).order_by(*order)


def _carried(column: Column[Any]) -> ColumnElement[Any]:
    """Take what is stored, undeciphered where it can be: a picture's bytes, a document's text."""
    if isinstance(column.type, BlockArray):
        return type_coerce(column, LargeBinary).label(column.name)
    if isinstance(column.type, UTCDateTime):
        return type_coerce(column, DateTime).label(column.name)
    if isinstance(column.type, JSON):
        return cast(column, Text).label(column.name)
    return column


def _key(table: Table) -> ColumnElement[Any]:
    return tuple_(*table.primary_key)


def _key_of(table: Table, row: Row[Any]) -> tuple[Any, ...]:
    return tuple(getattr(row, column.name) for column in table.primary_key)


def _verify(source: Connection, new: Engine, table: Table, total: int, progress: Progress) -> None:
    """Compare every row of both sides.

    Raises
    ------
    ConfigurationError
        If one differs, or is on one side alone.
    """
    with new.connect() as target:
        pairs = zip_longest(_streamed(source, table), _streamed(target, table))
        for done, (ours, theirs) in enumerate(pairs, start=1):
            if ours is None or theirs is None or _digest(ours) != _digest(theirs):
                raise _differs(new, table, _key_of(table, ours or theirs))
            if done % ROWS_AT_ONCE == 0 or done == total:
                progress(f"verify {table.name}", done, total)


def _streamed(connection: Connection, table: Table) -> Iterator[Row[Any]]:
    has_pictures = any(isinstance(column.type, LargeBinary | BlockArray) for column in table.c)
    options = {"yield_per": PICTURES_AT_ONCE if has_pictures else ROWS_AT_ONCE}
    yield from connection.execute(_rows(table), execution_options=options)


def _digest(row: Row[Any]) -> bytes:
    """Return what is the same for two rows only if each value is, to the last bit."""
    digest = blake2b(digest_size=16)
    for value in row:
        is_vector = isinstance(value, np.ndarray)
        told = value.astype("<f2").tobytes() if is_vector else _told(value)
        digest.update(len(told).to_bytes(8, "little") + told)
    return digest.digest()


def _told(value: Any) -> bytes:
    return value if isinstance(value, bytes) else repr(value).encode()


def _differs(new: Engine, table: Table, key: tuple[Any, ...]) -> ConfigurationError:
    named = ", ".join(
        f"{column.name} {value}" for column, value in zip(table.primary_key, key, strict=True)
    )
    return ConfigurationError(
        f"{shown_url(new.url)}: {table.name} with {named} is not what the source has; either has "
        "been written to, or this is another's copy: stop the daemon, and begin with an empty "
        "database"
    )


def set_sequences(engine: Engine) -> None:
    """Let the next row of each PostgreSQL table get the number behind the last."""
    with engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            column = table.autoincrement_column
            if column is not None and not column.foreign_keys:
                sequence = func.pg_get_serial_sequence(f'"{table.name}"', column.name)
                next_one = select(func.coalesce(func.max(column), 0) + 1).scalar_subquery()
                connection.execute(select(func.setval(sequence, next_one, False)))
