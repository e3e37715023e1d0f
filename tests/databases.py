"""Where the tests' projects keep what they know: SQLite, or PostgreSQL with ``--database``.

``--database postgresql`` starts a server from the wheel; ``--database URL`` uses one that is
there, whose user may create databases. Only the tests that open a project are run then, and those
that take `blank`, as they are about PostgreSQL; not those marked `sqlite`, about SQLite's file.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, make_url

from benchmarks.postgresql import running
from qc.settings import read_settings

MAIN = "QC_TEST_SERVER"  # passed on to the processes that share the tests
_NUMBERS = count(1)
_SETTING = "database = "
_OPEN = ExitStack()


def start(asked: str) -> None:
    """Start the server once, in the process that the others are started by."""
    if asked != "sqlite" and MAIN not in os.environ:
        url = _OPEN.enter_context(running()) if asked == "postgresql" else make_url(asked)
        os.environ[MAIN] = url.render_as_string(hide_password=False)


def stop() -> None:
    """Stop it, if it was started here."""
    _OPEN.close()


def is_wanted(item: pytest.Item, asked: str) -> bool:
    """Say whether a test is one of those for the database asked for."""
    fixtures = getattr(item, "fixturenames", ())
    if asked == "sqlite":
        return "blank" not in fixtures and item.get_closest_marker("postgresql") is None
    opens = "empty_project" in fixtures or "blank" in fixtures
    return opens and item.get_closest_marker("sqlite") is None


def server() -> URL | None:
    """Return the server's address; None where the tests use SQLite."""
    told = os.environ.get(MAIN)
    return make_url(told) if told else None


def new_database(template: str = "") -> URL | None:
    """Make a database, a copy of another or an empty one; None where the tests use SQLite."""
    main = server()
    if main is None:
        return None
    name = f"qc_test_{os.getpid()}_{next(_NUMBERS)}"
    _order(
        f'CREATE DATABASE "{name}"'
        + (f' TEMPLATE "{template}"' if template else "")
        + " STRATEGY FILE_COPY"
    )
    return main.set(database=name)


def drop_database(url: URL | None) -> None:
    """Remove a database, whoever is still looking at it."""
    if url is not None:
        _order(f'DROP DATABASE "{url.database}" WITH (FORCE)')


def _order(statement: str) -> None:
    """Say what no transaction may hold."""
    main = server()
    assert main is not None
    engine = create_engine(main, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def write_settings(project: Path, toml: str) -> None:
    """Write the settings of a project, but not where its database is: that stays."""
    file = project / "qc.toml"
    kept = file.read_text().splitlines(keepends=True) if file.exists() else []
    file.write_text("".join(one for one in kept if one.startswith(_SETTING)) + toml)


def settle(project: Path, url: URL | None) -> None:
    """Let a project keep what it knows in that database."""
    if url is not None:
        told = f'{_SETTING}"{url.render_as_string(hide_password=False)}"\n'
        file = project / "qc.toml"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        file.write_text(told + "".join(one for one in lines if not one.startswith(_SETTING)))


def run_sql(project: Path, statement: str) -> None:
    """Do to a project's database what the program would not."""
    engine = create_engine(read_settings(project).database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


@contextmanager
def copied(source: Path, target: Path) -> Iterator[Path]:
    """Copy a project with its database, for as long as the copy is used."""
    project = Path(shutil.copytree(source, target, dirs_exist_ok=True))
    url = None
    if server() is not None:
        url = new_database(str(read_settings(source).database_url.database))
        settle(project, url)
    try:
        yield project
    finally:
        drop_database(url)
