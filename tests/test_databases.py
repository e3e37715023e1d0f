"""The tests' own rule: what asks a database runs on both."""

from types import SimpleNamespace
from typing import Any

import pytest

from qc.db.engine import connect
from tests.support.databases import MAIN, is_at_home, is_wanted, watched


def item(*fixtures: str, marker: str = "") -> Any:
    """Return a test as pytest has collected it."""
    return SimpleNamespace(
        fixturenames=fixtures,
        get_closest_marker=lambda name: name if name == marker else None,
    )


def test_what_takes_a_project_runs_on_both_and_what_opens_nothing_on_one():
    project_folder, nothing = item("project_folder", "empty_project"), item("tmp_path")
    assert [is_wanted(project_folder, asked) for asked in ("sqlite", "postgresql")] == [True, True]
    assert [is_wanted(nothing, asked) for asked in ("sqlite", "postgresql")] == [True, False]


@pytest.mark.parametrize(
    ("one", "asked"),
    [
        (item("empty_project", marker="sqlite"), "sqlite"),
        (item("empty_project", marker="postgresql"), "postgresql"),
        (item("blank"), "postgresql://db/qc"),
    ],
)
def test_what_is_about_one_database_runs_there_alone(one, asked):
    every = {"sqlite", "postgresql", "postgresql://db/qc"}
    wanted = {each for each in every if is_wanted(one, each)}
    assert wanted == ({"sqlite"} if asked == "sqlite" else every - {"sqlite"})


@pytest.mark.sqlite
def test_a_test_that_opens_a_database_of_its_own_is_noticed(tmp_path, monkeypatch):
    monkeypatch.delenv(MAIN, raising=False)
    with watched() as opened:
        engine = connect(f"sqlite:///{tmp_path / 'x.db'}")
        engine.connect().close()
        engine.dispose()
    assert opened == {"sqlite"}
    assert not is_at_home(item("tmp_path"), opened)
    assert is_at_home(item("tmp_path"), set())
    assert is_at_home(item("tmp_path", marker="sqlite"), opened)
    assert is_at_home(item("unmade"), opened)


def test_a_test_that_goes_back_to_sqlite_on_postgresql_is_noticed(monkeypatch):
    monkeypatch.setenv(MAIN, "postgresql://db/qc")
    assert not is_at_home(item("empty_project"), {"postgresql", "sqlite"})
    assert is_at_home(item("empty_project"), {"postgresql"})
    assert is_at_home(item("blank"), {"postgresql", "sqlite"})  # one is copied to the other
