"""Copy of a project's database from SQLite to PostgreSQL."""

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.orm import Session

from qc.core.enums import LabelName
from qc.db.schema import copy as module
from qc.db.schema.copy import copy_database
from qc.db.schema.engine import connect, for_writing
from qc.db.schema.migrate import check_integrity
from qc.db.schema.models import Base, EmbeddingRow
from qc.errors import ConfigurationError
from qc.project import create_project
from qc.settings import read_settings
from tests.support.databases import write_database_setting
from tests.support.tiny_spectrograph import (
    light_leak,
    open_tiny,
    process,
    thresholds_text,
    write_frame,
    write_history,
    write_instrument,
)
from tests.support.verdict_rows import add_extensions, nominal_frames

PATIENCE_S = 60


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """Project in SQLite with frames, labels, an alert and 200 inserted frames."""
    folder = tmp_path_factory.mktemp("lived")
    instrument = write_instrument(folder / "instruments")
    (folder / "thresholds.yaml").write_text(thresholds_text(instrument.image_types()))
    create_project(folder)
    with open_tiny(folder) as project:
        process(project, *write_history(folder), label=LabelName.GOOD)
        process(project, write_frame(folder, 2, change=light_leak))
        add_extensions(project, *nominal_frames(200))
    return folder


def source_of(project_folder: Path) -> str:
    return f"sqlite:///{project_folder / 'qc.db'}"


@contextmanager
def opened(url):
    engine = connect(url)
    try:
        with Session(engine) as session:
            yield session
    finally:
        engine.dispose()


def counts(session: Session) -> dict[str, int]:
    tables = Base.metadata.sorted_tables
    return {
        item.name: session.scalar(select(func.count()).select_from(item)) or 0 for item in tables
    }


def test_copy_database_copies_every_row(lived, blank, tmp_path):
    with opened(source_of(lived)) as session:
        before = counts(session)
        vector = session.scalars(select(EmbeddingRow.vector).order_by(EmbeddingRow.id)).first()
    done = copy_database(source_of(lived), blank)
    assert {item.table: item.rows for item in done} == before
    assert {item.table: item.copied for item in done} == before
    with opened(blank) as session:
        moved = session.scalars(select(EmbeddingRow.vector).order_by(EmbeddingRow.id)).first()
        assert vector is not None
        assert moved is not None
        assert moved.tolist() == vector.tolist()
    project_folder = tmp_path / "moved"
    project_folder.mkdir()
    (project_folder / "thresholds.yaml").write_bytes((lived / "thresholds.yaml").read_bytes())
    write_database_setting(project_folder, blank)
    with open_tiny(project_folder) as project:
        [outcome] = process(project, write_frame(tmp_path, 3))  # the next row gets the next number
        assert outcome.judgements[0].evidence.reference_size == 20
    engine = connect(blank)
    check_integrity(engine)
    engine.dispose()


def test_copy_database_second_run_only_compares(lived, blank):
    first = copy_database(source_of(lived), blank)
    again = copy_database(source_of(lived), blank)
    assert [item.rows for item in again] == [item.rows for item in first]
    assert {item.copied for item in again} == {0}


def test_copy_database_interrupted_run_continues(lived, blank, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_TRANSACTION", 50)

    def stop(description: str, done: int, _total: int) -> None:
        if description == "copy frame" and done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_database(source_of(lived), blank, stop)
    with opened(blank) as session:
        assert counts(session)["frame"] == 100
    done = {item.table: item for item in copy_database(source_of(lived), blank)}
    assert done["frame"].rows == 221
    assert done["frame"].copied == 121


def test_copy_database_killed_run_continues(lived, blank, qc):
    """It is killed while it waits for a locked table; the frames are copied by then."""
    assert qc("db", "copy", source_of(lived), text_of(blank)).code == 0
    engine = create_engine(blank)
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE verdict, frame CASCADE"))
    with engine.connect() as holder, holder.begin():
        holder.execute(text("LOCK TABLE extension IN SHARE MODE"))
        copy = subprocess.Popen(
            [sys.executable, "-m", "qc", "db", "copy", source_of(lived), text_of(blank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with opened(blank) as session:
            ends = time.monotonic() + PATIENCE_S
            while counts(session)["frame"] < 221 and time.monotonic() < ends:
                session.rollback()
        copy.kill()
        copy.communicate()
    engine.dispose()
    done = qc("db", "copy", source_of(lived), text_of(blank))
    assert done.code == 0
    assert "are equal in both databases" in done.out
    with opened(blank) as session, opened(source_of(lived)) as source:
        assert counts(session) == counts(source)


def text_of(url) -> str:
    return str(url.render_as_string(hide_password=False))


@pytest.mark.parametrize(
    "change", ["UPDATE frame SET reason = 'x' WHERE id = 7", "DELETE FROM label"]
)
def test_copy_database_changed_target_is_refused(lived, blank, change):
    copy_database(source_of(lived), blank)
    engine = create_engine(blank)
    with engine.begin() as connection:
        connection.execute(text(change))
        connection.execute(text("UPDATE label SET note = 'y'"))
    engine.dispose()
    if change.startswith("DELETE"):  # of a table's end, another run brings what is missing
        assert sum(item.copied for item in copy_database(source_of(lived), blank)) == 220
    else:
        with pytest.raises(
            ConfigurationError, match=r"(frame with id 7|label with id 220) differs from"
        ):
            copy_database(source_of(lived), blank)


def test_copy_database_foreign_target_is_refused_at_once(lived, blank, tmp_path):
    copy_database(source_of(lived), blank)
    second = tmp_path / "other"
    second.mkdir()
    instrument = write_instrument(second / "instruments")
    (second / "thresholds.yaml").write_text(thresholds_text(instrument.image_types()))
    create_project(second)
    with open_tiny(second) as project:
        process(project, *write_history(second, 3))
    with pytest.raises(ConfigurationError, match=r"differs from the source.*begin with"):
        copy_database(source_of(second), blank)


def test_copy_database_locked_target_is_refused(lived, blank):
    copy_database(source_of(lived), blank)
    engine = connect(blank)
    with for_writing(engine).begin(), pytest.raises(ConfigurationError, match="another process is"):
        copy_database(source_of(lived), blank)
    engine.dispose()


def test_copy_database_nul_character_error_names_the_table(lived, blank, tmp_path):
    copy = tmp_path / "qc.db"
    copy.write_bytes((lived / "qc.db").read_bytes())
    engine = create_engine(f"sqlite:///{copy}")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE label SET note = 'a' || char(0) || 'b' WHERE id = 1")
    engine.dispose()
    with pytest.raises(ConfigurationError, match=r"label \(1,\) to .*NUL"):
        copy_database(f"sqlite:///{copy}", blank)


def test_copy_database_into_sqlite_is_refused(lived, tmp_path):
    with pytest.raises(ConfigurationError, match="expected a PostgreSQL database to copy into"):
        copy_database(source_of(lived), f"sqlite:///{tmp_path / 'new.db'}")


@pytest.mark.postgresql  # an address of one, though nobody answers there
def test_copy_database_messages_hide_the_password(qc, lived):
    url = "postgresql+psycopg://qc:s3cret@127.0.0.1:1/qc?sslpassword=t0ken"
    done = qc("db", "copy", source_of(lived), url)
    assert done.code == 2
    assert "127.0.0.1" in done.err
    assert "s3cret" not in done.err + done.out
    assert "t0ken" not in done.err + done.out


def test_copy_command_lists_each_table(qc, lived, blank):
    done = qc("db", "copy", source_of(lived), text_of(blank))
    assert done.code == 0
    assert "verdict" in done.out
    assert read_settings(lived).database == ""  # that the project moves is its owner's to say
