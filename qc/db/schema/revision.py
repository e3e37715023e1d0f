"""Revision of a database, compared with this version's without Alembic, for a fast start."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from qc._files import packaged_path
from qc.db.schema.engine import format_url
from qc.errors import ConfigurationError


def migrations_folder() -> Path:
    """Return the folder of the migrations."""
    return packaged_path("migrations")


def newest_revision() -> str:
    """Return the newest revision: the number that begins the last migration's file name."""
    files = migrations_folder().glob("versions/[0-9]*_*.py")
    return max(file.name.partition("_")[0] for file in files)


def current_revision(engine: sa.Engine) -> str | None:
    """Return the revision of a database; None for one without tables of ours."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.scalar(
            sa.select(sa.column("version_num")).select_from(sa.table("alembic_version"))
        )
        return revision


def check_schema(engine: sa.Engine) -> None:
    """Check that the database exists and has this version's schema.

    Raises
    ------
    ConfigurationError
        If it cannot be reached, is empty, or has another revision.
    """
    expected = newest_revision()
    with database_errors(engine):
        revision = current_revision(engine)
    if revision != expected:
        raise ConfigurationError(
            f"{format_url(engine.url)}: schema {revision or 'empty'}, expected {expected}; "
            "run 'qc db upgrade'"
        )


@contextmanager
def database_errors(engine: sa.Engine, *further: type[Exception]) -> Iterator[None]:
    """Turn errors of the database into a ConfigurationError of one line.

    Parameters
    ----------
    engine : Engine
        Its address is named in the message.
    *further : type
        Further classes of exceptions to be turned.

    Raises
    ------
    ConfigurationError
        For each error of SQLAlchemy or of `further` within the block.
    """
    expected: tuple[type[Exception], ...] = (SQLAlchemyError, *further)
    try:
        yield
    except expected as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ConfigurationError(f"{format_url(engine.url)}: cannot be used: {reason}") from error
