"""Bring a database to the schema of this version, and tell when it is not."""

from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from qc.database import Base
from qc.errors import ConfigurationError
from qc.installation import shipped


def upgrade_schema(engine: Engine) -> None:
    """Run the migrations that the database lacks; a new one gets them all."""
    config = _config()
    config.attributes["engine"] = engine
    command.upgrade(config, "head")


def check_schema(engine: Engine) -> None:
    """Make sure that the database is there and at this version's schema.

    Raises
    ------
    ConfigurationError
        If it cannot be reached, is empty, or is at another revision.
    """
    expected = ScriptDirectory.from_config(_config()).get_current_head()
    try:
        with engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ConfigurationError(f"{_location(engine)}: cannot be opened: {reason}") from error
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
    differences = schema_differences(engine)
    if differences:
        raise ConfigurationError(f"{_location(engine)}: differs from this version: {differences}")
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            found = connection.exec_driver_sql("PRAGMA integrity_check").scalar_one()
        if found != "ok":
            raise ConfigurationError(f"{_location(engine)}: damaged: {found}; restore a copy")


def schema_differences(engine: Engine) -> list[Any]:
    """Return what Alembic finds different between the database and the declared tables."""
    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(shipped("migrations")))
    return config


def _location(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)
