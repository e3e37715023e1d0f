"""Where the tests' projects keep what they know: SQLite, or PostgreSQL with ``--database``.

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

MAIN = "QC_TEST_SERVER"  # passed on to the processes that share the tests
_GIVE_ONE = {"empty_project", "unmade", "blank"}  # the fixtures that all others take theirs from
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
    if asked == "sqlite":
        is_about_the_other = item.get_closest_marker("postgresql") is not None
        return not is_about_the_other and "blank" not in _fixtures(item)
    return _takes_one(item) and item.get_closest_marker("sqlite") is None


def _fixtures(item: pytest.Item) -> Collection[str]:
    return getattr(item, "fixturenames", ())


def _takes_one(item: pytest.Item) -> bool:
    return not _GIVE_ONE.isdisjoint(_fixtures(item))


@contextmanager
def watched() -> Iterator[set[str]]:
    """Give the kinds of databases that this process connects to meanwhile."""
    seen: set[str] = set()

    def note(dialect: Dialect, *_: object) -> None:
        seen.add(dialect.name)

    event.listen(Engine, "do_connect", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "do_connect", note)


def is_at_home(item: pytest.Item, opened: Collection[str]) -> bool:
    """Say whether a test opened no other databases than it is known to be about.

    Parameters
    ----------
    opened : collection of str
        Kinds of databases, as `watched` gives them.
    """
    if item.get_closest_marker("sqlite") is not None:
        return True
    if server() is None:
        return _takes_one(item) or not opened
    return "blank" in _fixtures(item) or "sqlite" not in opened


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
    if template:  # nobody may look at what is copied; whoever does will connect anew
        _order(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{template}'"
        )
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
    with _administrator().connect() as connection:
        connection.exec_driver_sql(statement)


@cache
def _administrator() -> Engine:
    """Return what makes and removes databases; its connection is kept, as each test needs it."""
    main = server()
    assert main is not None
    engine = create_engine(main, isolation_level="AUTOCOMMIT")
    _OPEN.callback(engine.dispose)
    return engine


def write_settings(project_folder: Path, toml: str) -> None:
    """Write the settings of a project, but not where its database is: that stays."""
    file = project_folder / "qc.toml"
    kept = file.read_text().splitlines(keepends=True) if file.exists() else []
    file.write_text("".join(one for one in kept if one.startswith(_SETTING)) + toml)


def settle(project_folder: Path, url: URL | None) -> None:
    """Let a project keep what it knows in that database."""
    if url is not None:
        told = f'{_SETTING}"{url.render_as_string(hide_password=False)}"\n'
        file = project_folder / "qc.toml"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        file.write_text(told + "".join(one for one in lines if not one.startswith(_SETTING)))


def run_sql(project_folder: Path, statement: str) -> None:
    """Do to a project's database what the program would not."""
    engine = create_engine(read_settings(project_folder).database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


@contextmanager
def copied(source: Path, target: Path) -> Iterator[Path]:
    """Copy a project with its database, for as long as the copy is used."""
    project_folder = Path(shutil.copytree(source, target, dirs_exist_ok=True))
    url = None
    if server() is not None:
        url = new_database(str(read_settings(source).database_url.database))
        settle(project_folder, url)
    try:
        yield project_folder
    finally:
        drop_database(url)
