"""Bring a database to the schema of this version, and tell when it is not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from qc._files import shipped
from qc.db.engine import shown_url
from qc.db.models import VECTOR_INDEX, Base
from qc.errors import ConfigurationError


def upgrade_schema(engine: Engine) -> None:
    """Run the migrations that the database lacks; a new one gets them all.

    Raises
    ------
    ConfigurationError
        If the database cannot be opened or written to, or is of a newer version.
    """
    config = _config()
    config.attributes["engine"] = engine
    with _one_line(engine):
        command.upgrade(config, "head")


def check_schema(engine: Engine) -> None:
    """Make sure that the database is there and at this version's schema.

    Raises
    ------
    ConfigurationError
        If it cannot be reached, is empty, or is at another revision.
    """
    expected = ScriptDirectory.from_config(_config()).get_current_head()
    with _one_line(engine), engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found != expected:
        raise ConfigurationError(
            f"{_location(engine)}: schema {found or 'empty'}, expected {expected}; "
            "run 'qc db upgrade'"
        )


def check_integrity(engine: Engine) -> None:
    """Make sure that the schema is this version's and that SQLite finds its file sound.

    Raises
    ------
    ConfigurationError
        If it is not; the message says what was found.
    """
    check_schema(engine)
    with _one_line(engine):
        differences = schema_differences(engine)
        damages = _damages(engine) if engine.dialect.name == "sqlite" else []
    if differences:
        raise ConfigurationError(f"{_location(engine)}: differs from this version: {differences}")
    if damages:
        first = " ".join(damages[0].split())
        raise ConfigurationError(f"{_location(engine)}: damaged: {first}; restore a copy")


def _damages(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    return [] if found == ["ok"] else [str(each) for each in found]


@contextmanager
def _one_line(engine: Engine) -> Iterator[None]:
    """Turn what a database may say into one line of ours."""
    try:
        yield
    except (SQLAlchemyError, CommandError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ConfigurationError(f"{_location(engine)}: cannot be used: {reason}") from error


def schema_differences(engine: Engine) -> list[Any]:
    """Return what Alembic finds different between the database and the declared tables."""
    options = {"include_name": is_declared}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, Base.metadata))


def is_declared(name: str | None, kind: str, _parents: Any) -> bool:
    """Say whether a thing in the database is there for a declaration's sake."""
    return kind != "index" or not str(name).startswith(VECTOR_INDEX)


def _config() -> Config:
    config = Config()
    folder = str(shipped("migrations")).replace("%", "%%")  # ConfigParser would expand it
    config.set_main_option("script_location", folder)
    return config


def _location(engine: Engine) -> str:
    return shown_url(engine.url)
