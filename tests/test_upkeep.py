import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from qc import upkeep
from qc.settings import Settings
from tests.tiny import process, write_frame

NOW = datetime(2026, 1, 2, 3, tzinfo=UTC)


@pytest.mark.sqlite
def test_a_copy_is_of_one_moment_though_others_write(runtime, inbox):
    process(runtime, write_frame(inbox))
    ends = threading.Event()

    def write():
        with closing(sqlite3.connect(runtime.settings.project / "qc.db", timeout=60)) as connection:
            while not ends.is_set():
                connection.execute("UPDATE frame SET path = path || 'x', name = name || 'x'")
                connection.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        words = upkeep.back_up(runtime.settings, NOW)
    finally:
        ends.set()
        writer.join()
    [copy] = (runtime.settings.project / "backups").iterdir()
    assert words.startswith(copy.name)
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        [(path, name)] = connection.execute("SELECT path, name FROM frame")
    assert path.count("x") - name.count("x") == str(inbox).count("x") + ".fits".count("x")


@pytest.mark.sqlite
def test_only_the_newest_copies_stay(runtime):
    for day in range(9):
        upkeep.back_up(runtime.settings, NOW + timedelta(days=day))
    copies = sorted((runtime.settings.project / "backups").iterdir())
    assert [copy.name for copy in copies] == [
        f"qc-2026-01-{day:02d}T030000.db" for day in range(4, 11)
    ]


def test_a_server_is_left_to_its_own_tools(tmp_path):
    settings = Settings(project=tmp_path, database="postgresql+psycopg://qc@host/qc")
    assert upkeep.back_up(settings, NOW) == "the database server's own backups are relied upon"
    assert not (tmp_path / "backups").exists()
