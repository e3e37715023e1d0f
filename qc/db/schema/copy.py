"""Copy of a database to PostgreSQL: table by table, resumable, and verified."""

from collections import abc
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import zip_longest
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Column, ColumnElement, Connection, Engine, LargeBinary, Row, Select, Table

from qc.db.schema import types
from qc.db.schema.engine import connect, format_url, try_writer_lock
from qc.db.schema.migrate import upgrade_schema
from qc.db.schema.models import Base
from qc.db.schema.revision import check_schema
from qc.errors import ConfigurationError

ROWS_PER_TRANSACTION = 500  # lost when the process is killed
PICTURES_PER_TRANSACTION = 50  # some hundred kilobytes each

Progress = abc.Callable[[str, int, int], None]


@dataclass(frozen=True)
class TableCopy:
    """Result of one table's copy.

    Attributes
    ----------
    rows : int
        Rows of both databases, verified to be equal.
    copied : int
        Rows copied in this run.
    """

    table: str
    rows: int
    copied: int


def copy_database(
    source: str | sa.URL, target: str | sa.URL, progress: Progress = lambda *_: None
) -> tuple[TableCopy, ...]:
    """Copy every table into a PostgreSQL database that is empty or has a part of this copy.

    Rows are copied in the order of their keys, several hundred per transaction: after an
    interruption the target has a beginning of each table, and another run continues there. At the
    end each row is read from both databases and compared.

    Parameters
    ----------
    source, target : str or URL
        Addresses of the databases.
    progress : callable
        Receives a description, the number of finished rows and the number of all rows.

    Returns
    -------
    tuple of TableCopy

    Raises
    ------
    ConfigurationError
        If a database cannot be used or has another revision, another process writes to the
        target, or the databases differ at the end.
    """
    with _connected(source) as old, _connected(target) as new:
        if new.dialect.name != "postgresql":
            raise ConfigurationError(
                f"{format_url(new.url)}: expected a PostgreSQL database to copy into"
            )
        check_schema(old)
        if sa.inspect(new).get_table_names():
            check_schema(new)
        else:
            upgrade_schema(new)
        with try_writer_lock(new) as is_locked:
            if not is_locked:
                raise ConfigurationError(
                    f"{format_url(new.url)}: another process is writing to it; stop the daemon "
                    "and other copies first"
                )
            copies = tuple(_copy_tables(old, new, progress))
            set_sequences(new)
    return copies


@contextmanager
def _connected(url: str | sa.URL) -> abc.Iterator[Engine]:
    engine = connect(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _copy_tables(old: Engine, new: Engine, progress: Progress) -> abc.Iterator[TableCopy]:
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
    return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def _check_beginning(source: Connection, new: Engine, table: Table) -> None:
    """Raise ConfigurationError if the target's last row is from another database."""
    with new.connect() as target:
        last = target.execute(_rows(table, descending=True).limit(1)).first()
    if last is None:
        return
    key = _key_of(table, last)
    same = source.execute(_rows(table).where(_key(table) == sa.tuple_(*key))).first()
    if same is None or _digest(same) != _digest(last):
        raise _differs(new, table, key)


def _copy(source: Connection, new: Engine, table: Table, total: int, progress: Progress) -> int:
    """Copy the rows after the target's last one; return their number."""
    with new.connect() as target:
        last = target.execute(_rows(table, descending=True).limit(1)).first()
        present = _count(target, table)
    copied = 0
    while rows := source.execute(_rows_after(table, last)).all():
        _insert_rows(new, table, rows)
        copied, last = copied + len(rows), rows[-1]
        progress(f"copy {table.name}", present + copied, total)
    return copied


def _rows_after(table: Table, last: Row[Any] | None) -> Select[Any]:
    has_pictures = any(
        isinstance(column.type, LargeBinary | types.BlockArray) for column in table.c
    )
    query = _rows(table).limit(PICTURES_PER_TRANSACTION if has_pictures else ROWS_PER_TRANSACTION)
    return query if last is None else query.where(_key(table) > sa.tuple_(*_key_of(table, last)))


def _insert_rows(new: Engine, table: Table, rows: abc.Sequence[Row[Any]]) -> None:
    """Insert rows in one transaction.

    Raises
    ------
    ConfigurationError
        If PostgreSQL refuses a value that SQLite stores: the character NUL in a text.
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
                    copy.write_row([_copy_value(value) for value in row])
        except dbapi.DataError as error:
            first, last = _key_of(table, rows[0]), _key_of(table, rows[-1])
            reason = str(error).splitlines()[0]
            raise ConfigurationError(f"{table.name} {first} to {last}: {reason}") from error


def _copy_value(value: Any) -> Any:
    return types.halfvec_text(value.astype("<f2")) if isinstance(value, np.ndarray) else value


def _rows(table: Table, *, descending: bool = False) -> Select[Any]:
    """Return a query for all rows in the order of their keys, equal for both databases."""
    order = [column.desc() if descending else column for column in table.primary_key]
    return sa.select(*(_stored_column(column) for column in table.columns)).order_by(*order)


def _stored_column(column: Column[Any]) -> ColumnElement[Any]:
    """Return a column as stored: the bytes of a picture, the text of a JSON document."""
    if isinstance(column.type, types.BlockArray):
        return sa.type_coerce(column, LargeBinary).label(column.name)
    if isinstance(column.type, types.UTCDateTime):
        return sa.type_coerce(column, sa.DateTime).label(column.name)
    if isinstance(column.type, sa.JSON):
        return sa.cast(column, sa.Text).label(column.name)
    return column


def _key(table: Table) -> ColumnElement[Any]:
    return sa.tuple_(*table.primary_key)


def _key_of(table: Table, row: Row[Any]) -> tuple[Any, ...]:
    return tuple(getattr(row, column.name) for column in table.primary_key)


def _verify(source: Connection, new: Engine, table: Table, total: int, progress: Progress) -> None:
    """Compare every row of both sides.

    Raises
    ------
    ConfigurationError
        If a row differs or is missing.
    """
    with new.connect() as target:
        pairs = zip_longest(_streamed(source, table), _streamed(target, table))
        for done, (old_row, new_row) in enumerate(pairs, start=1):
            if old_row is None or new_row is None or _digest(old_row) != _digest(new_row):
                raise _differs(new, table, _key_of(table, old_row or new_row))
            if done % ROWS_PER_TRANSACTION == 0 or done == total:
                progress(f"verify {table.name}", done, total)


def _streamed(connection: Connection, table: Table) -> abc.Iterator[Row[Any]]:
    has_pictures = any(
        isinstance(column.type, LargeBinary | types.BlockArray) for column in table.c
    )
    options = {"yield_per": PICTURES_PER_TRANSACTION if has_pictures else ROWS_PER_TRANSACTION}
    yield from connection.execute(_rows(table), execution_options=options)


def _digest(row: Row[Any]) -> bytes:
    """Return a digest that is equal for rows with equal bits."""
    digest = blake2b(digest_size=16)
    for value in row:
        if isinstance(value, np.ndarray):
            content = value.astype("<f2").tobytes()
        else:
            content = value if isinstance(value, bytes) else repr(value).encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.digest()


def _differs(new: Engine, table: Table, key: tuple[Any, ...]) -> ConfigurationError:
    key_text = ", ".join(
        f"{column.name} {value}" for column, value in zip(table.primary_key, key, strict=True)
    )
    return ConfigurationError(
        f"{format_url(new.url)}: {table.name} with {key_text} differs from the source; one of "
        "them was written to, or this is the copy of another database: stop the daemon, and begin "
        "with an empty database"
    )


def set_sequences(engine: Engine) -> None:
    """Set each PostgreSQL sequence to the number after the last row's."""
    with engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            column = table.autoincrement_column
            if column is not None and not column.foreign_keys:
                sequence = sa.func.pg_get_serial_sequence(f'"{table.name}"', column.name)
                next_id = sa.select(sa.func.coalesce(sa.func.max(column), 0) + 1).scalar_subquery()
                connection.execute(sa.select(sa.func.setval(sequence, next_id, False)))
