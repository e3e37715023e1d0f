import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from qc.service import maintenance
from qc.settings import Settings
from tests.support.tiny_spectrograph import process, write_frame
from tests.support.waiting import wait_for_end

NOW = datetime(2026, 1, 2, 3, tzinfo=UTC)


@pytest.mark.sqlite
def test_backup_is_consistent_during_writes(project, inbox):
    process(project, write_frame(inbox))
    ends = threading.Event()

    def write():
        with closing(sqlite3.connect(project.settings.project / "qc.db", timeout=60)) as connection:
            while not ends.is_set():
                connection.execute("UPDATE frame SET path = path || 'x', name = name || 'x'")
                connection.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        result = maintenance.back_up(project.settings, NOW)
    finally:
        ends.set()
        wait_for_end(writer)
    [copy] = (project.settings.project / "backups").iterdir()
    assert result.startswith(copy.name)
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        [(path, name)] = connection.execute("SELECT path, name FROM frame")
    assert path.count("x") - name.count("x") == str(inbox).count("x") + ".fits".count("x")


@pytest.mark.sqlite
def test_backup_copies_in_one_step(project, monkeypatch):
    steps = []

    class CountingConnection(sqlite3.Connection):
        def backup(self, target, **options):
            super().backup(target, progress=lambda *_: steps.append(1), **options)

    database = project.settings.project / "qc.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE filler (a)")
        connection.executemany("INSERT INTO filler VALUES (zeroblob(100000))", [()] * 300)
        connection.commit()
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=CountingConnection))
    maintenance.back_up(project.settings, NOW)
    assert steps == [1]


@pytest.mark.sqlite
def test_old_backups_are_removed(project):
    for day in range(9):
        maintenance.back_up(project.settings, NOW + timedelta(days=day))
    copies = sorted((project.settings.project / "backups").iterdir())
    assert [copy.name for copy in copies] == [
        f"qc-2026-01-{day:02d}T030000.db" for day in range(4, 11)
    ]


def test_server_database_is_not_copied(tmp_path):
    settings = Settings(project=tmp_path, database="postgresql+psycopg://qc@host/qc")
    assert maintenance.back_up(settings, NOW) == "the database server's own backups are relied upon"
    assert not (tmp_path / "backups").exists()
