"""Selection of tests by database: tests with a database run on both."""

from types import SimpleNamespace
from typing import Any

import pytest

from qc.db.schema.engine import connect
from tests.support.databases import MAIN, is_on_right_database, is_selected, record_connections


def item(*fixtures: str, marker: str = "") -> Any:
    """Return a stand-in for a collected test."""
    return SimpleNamespace(
        fixturenames=fixtures,
        get_closest_marker=lambda name: name if name == marker else None,
    )


def test_is_selected_by_fixture():
    project_folder, nothing = item("project_folder", "empty_project"), item("tmp_path")
    databases = ("sqlite", "postgresql")
    assert [is_selected(project_folder, name) for name in databases] == [True, True]
    assert [is_selected(nothing, name) for name in databases] == [True, False]


@pytest.mark.parametrize(
    ("collected", "database"),
    [
        (item("empty_project", marker="sqlite"), "sqlite"),
        (item("empty_project", marker="postgresql"), "postgresql"),
        (item("blank"), "postgresql://db/qc"),
    ],
)
def test_is_selected_by_marker(collected, database):
    databases = {"sqlite", "postgresql", "postgresql://db/qc"}
    selected = {name for name in databases if is_selected(collected, name)}
    assert selected == ({"sqlite"} if database == "sqlite" else databases - {"sqlite"})


@pytest.mark.sqlite
def test_is_on_right_database_own_connection_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(MAIN, raising=False)
    with record_connections() as opened:
        engine = connect(f"sqlite:///{tmp_path / 'x.db'}")
        engine.connect().close()
        engine.dispose()
    assert opened == {"sqlite"}
    assert not is_on_right_database(item("tmp_path"), opened)
    assert is_on_right_database(item("tmp_path"), set())
    assert is_on_right_database(item("tmp_path", marker="sqlite"), opened)
    assert is_on_right_database(item("unmade"), opened)


def test_is_on_right_database_sqlite_on_server_is_refused(monkeypatch):
    monkeypatch.setenv(MAIN, "postgresql://db/qc")
    assert not is_on_right_database(item("empty_project"), {"postgresql", "sqlite"})
    assert is_on_right_database(item("empty_project"), {"postgresql"})
    assert is_on_right_database(
        item("blank"), {"postgresql", "sqlite"}
    )  # one is copied to the other
