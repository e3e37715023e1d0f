"""Migrations with Alembic: upgrade a database, and compare it with the declared tables."""

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Engine

from qc.db.schema import models, revision
from qc.db.schema.engine import format_url
from qc.errors import ConfigurationError


def upgrade_schema(engine: Engine) -> None:
    """Run the migrations that the database lacks; a new database gets all.

    Raises
    ------
    ConfigurationError
        If the database cannot be opened or written to, or is of a newer version.
    """
    config = Config()
    folder = str(revision.migrations_folder()).replace("%", "%%")  # ConfigParser expands a single %
    config.set_main_option("script_location", folder)
    config.attributes["engine"] = engine
    with revision.database_errors(engine, CommandError):
        command.upgrade(config, "head")


def check_integrity(engine: Engine) -> None:
    """Check that the schema is this version's, and that a file of SQLite is undamaged.

    Raises
    ------
    ConfigurationError
        If the schema differs or the file is damaged; the message has the details.
    """
    revision.check_schema(engine)
    damages: list[str] = []
    with revision.database_errors(engine, CommandError):
        differences = schema_differences(engine)
        if engine.dialect.name == "sqlite":
            with engine.connect() as connection:
                damages = [*connection.exec_driver_sql("PRAGMA integrity_check").scalars()]
    if differences:
        raise ConfigurationError(
            f"{format_url(engine.url)}: differs from this version: {differences}"
        )
    if damages not in ([], ["ok"]):
        first = " ".join(str(damages[0]).split())
        raise ConfigurationError(f"{format_url(engine.url)}: damaged: {first}; restore a copy")


def schema_differences(engine: Engine) -> list[object]:
    """Return Alembic's differences between the database and the declared tables."""
    options = {"include_name": is_declared}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, models.Base.metadata))


def is_declared(name: str | None, kind: str, _parents: object) -> bool:
    """Return True if an object of the database belongs to a declared table.

    Parameters
    ----------
    name : str or None
        Name of the object.
    kind : str
        Its kind as Alembic names it: "table", "index", ...

    Returns
    -------
    bool
        False for the indexes of vectors, which are made per encoder.
    """
    return kind != "index" or not str(name).startswith(models.VECTOR_INDEX)
