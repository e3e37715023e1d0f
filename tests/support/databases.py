"""Databases of the tests' projects: SQLite, or PostgreSQL with ``--database``.

``--database postgresql`` starts a server from the wheel; ``--database URL`` uses one that is
there, whose user may create databases. All tests are run then that take a database from a fixture,
but those marked `sqlite`. Whoever opens one without such a fixture or marker fails (`is_at_home`):
so no test of the database can be forgotten.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import URL, Dialect, Engine, create_engine, event, make_url

from benchmarks.postgresql import running
from qc.settings import read_settings

MAIN = "QC_TEST_SERVER"  # environment of the worker processes
_DATABASE_FIXTURES = {
    "empty_project",
    "unmade",
    "blank",
}  # the fixtures that all others take theirs from
_NUMBERS = count(1)
_SETTING = "database = "
_OPEN = ExitStack()


def start(database: str) -> None:
    """Start the server once, in the main process."""
    if database != "sqlite" and MAIN not in os.environ:
        url = _OPEN.enter_context(running()) if database == "postgresql" else make_url(database)
        os.environ[MAIN] = url.render_as_string(hide_password=False)


def stop() -> None:
    """Stop the server if this process started it."""
    _OPEN.close()


def is_selected(item: pytest.Item, database: str) -> bool:
    """Return True if a test runs on a database."""
    if database == "sqlite":
        is_for_server = item.get_closest_marker("postgresql") is not None
        return not is_for_server and "blank" not in _fixtures(item)
    return _uses_database(item) and item.get_closest_marker("sqlite") is None


def _fixtures(item: pytest.Item) -> Collection[str]:
    return getattr(item, "fixturenames", ())


def _uses_database(item: pytest.Item) -> bool:
    return not _DATABASE_FIXTURES.isdisjoint(_fixtures(item))


@contextmanager
def record_connections() -> Iterator[set[str]]:
    """Collect the dialects of the databases that this process connects to."""
    dialects: set[str] = set()

    def note(dialect: Dialect, *_: object) -> None:
        dialects.add(dialect.name)

    event.listen(Engine, "do_connect", note)
    try:
        yield dialects
    finally:
        event.remove(Engine, "do_connect", note)


def is_on_right_database(item: pytest.Item, opened: Collection[str]) -> bool:
    """Return True if a test opened only databases of its fixtures and markers.

    Parameters
    ----------
    opened : collection of str
        Dialects, as `record_connections` collects them.
    """
    if item.get_closest_marker("sqlite") is not None:
        return True
    if server() is None:
        return _uses_database(item) or not opened
    return "blank" in _fixtures(item) or "sqlite" not in opened


def server() -> URL | None:
    """Return the server's address; None where the tests use SQLite."""
    address = os.environ.get(MAIN)
    return make_url(address) if address else None


def new_database(template: str = "") -> URL | None:
    """Create a database, empty or a copy of another; None where the tests use SQLite."""
    main = server()
    if main is None:
        return None
    name = f"qc_test_{os.getpid()}_{next(_NUMBERS)}"
    if template:  # a template must have no connections
        _execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{template}'"
        )
    _execute(
        f'CREATE DATABASE "{name}"'
        + (f' TEMPLATE "{template}"' if template else "")
        + " STRATEGY FILE_COPY"
    )
    return main.set(database=name)


def drop_database(url: URL | None) -> None:
    """Drop a database and its connections."""
    if url is not None:
        _execute(f'DROP DATABASE "{url.database}" WITH (FORCE)')


def _execute(statement: str) -> None:
    """Execute a statement outside of a transaction."""
    with _administrator().connect() as connection:
        connection.exec_driver_sql(statement)


@cache
def _administrator() -> Engine:
    """Return the engine that creates and drops databases."""
    main = server()
    assert main is not None
    engine = create_engine(main, isolation_level="AUTOCOMMIT")
    _OPEN.callback(engine.dispose)
    return engine


def write_settings(project_folder: Path, toml: str) -> None:
    """Write the settings of a project, except for the address of its database."""
    file = project_folder / "qc.toml"
    old_lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    file.write_text("".join(line for line in old_lines if line.startswith(_SETTING)) + toml)


def write_database_setting(project_folder: Path, url: URL | None) -> None:
    """Write the address of a project's database into its settings."""
    if url is not None:
        setting = f'{_SETTING}"{url.render_as_string(hide_password=False)}"\n'
        file = project_folder / "qc.toml"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        file.write_text(setting + "".join(line for line in lines if not line.startswith(_SETTING)))


def run_sql(project_folder: Path, statement: str) -> None:
    """Execute a statement in a project's database."""
    engine = create_engine(read_settings(project_folder).database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


@contextmanager
def copied_project(source: Path, target: Path) -> Iterator[Path]:
    """Copy a project with its database; drop the database at the end."""
    project_folder = Path(shutil.copytree(source, target, dirs_exist_ok=True))
    url = None
    if server() is not None:
        url = new_database(str(read_settings(source).database_url.database))
        write_database_setting(project_folder, url)
    try:
        yield project_folder
    finally:
        drop_database(url)
