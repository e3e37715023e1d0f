"""A project's database copied from SQLite to PostgreSQL."""

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.orm import Session

from qc.core.enums import LabelName
from qc.db import copy as module
from qc.db.copy import transfer
from qc.db.engine import connect, for_writing
from qc.db.migrate import check_integrity
from qc.db.models import Base, EmbeddingRow
from qc.errors import ConfigurationError
from qc.project import create_project
from qc.settings import read_settings
from tests.support.databases import settle
from tests.support.remembered import nominal_frames, remember
from tests.support.tiny import (
    light_leak,
    open_tiny,
    process,
    thresholds_text,
    write_frame,
    write_history,
    write_instrument,
)

PATIENCE_S = 60


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A project in SQLite with frames, labels, an alert and two hundred remembered frames."""
    folder = tmp_path_factory.mktemp("lived")
    instrument = write_instrument(folder / "instruments")
    (folder / "thresholds.yaml").write_text(thresholds_text(instrument.image_types()))
    create_project(folder)
    with open_tiny(folder) as project:
        process(project, *write_history(folder), label=LabelName.GOOD)
        process(project, write_frame(folder, 2, change=light_leak))
        remember(project, *nominal_frames(200))
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
    return {one.name: session.scalar(select(func.count()).select_from(one)) or 0 for one in tables}


def test_every_row_of_every_table_comes_over_and_the_project_goes_on_there(lived, blank, tmp_path):
    with opened(source_of(lived)) as session:
        before = counts(session)
        vector = session.scalars(select(EmbeddingRow.vector).order_by(EmbeddingRow.id)).first()
    done = transfer(source_of(lived), blank)
    assert {one.table: one.rows for one in done} == before
    assert {one.table: one.copied for one in done} == before
    with opened(blank) as session:
        moved = session.scalars(select(EmbeddingRow.vector).order_by(EmbeddingRow.id)).first()
        assert vector is not None
        assert moved is not None
        assert moved.tolist() == vector.tolist()
    project_folder = tmp_path / "moved"
    project_folder.mkdir()
    (project_folder / "thresholds.yaml").write_bytes((lived / "thresholds.yaml").read_bytes())
    settle(project_folder, blank)
    with open_tiny(project_folder) as project:
        [outcome] = process(project, write_frame(tmp_path, 3))  # the next row gets the next number
        assert outcome.judged[0].evidence.reference_size == 20
    engine = connect(blank)
    check_integrity(engine)
    engine.dispose()


def test_a_second_run_copies_nothing_and_compares_all(lived, blank):
    first = transfer(source_of(lived), blank)
    again = transfer(source_of(lived), blank)
    assert [one.rows for one in again] == [one.rows for one in first]
    assert {one.copied for one in again} == {0}


def test_a_run_that_stops_in_the_middle_of_a_table_is_gone_on_with(lived, blank, monkeypatch):
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 50)

    def stop(what: str, done: int, _total: int) -> None:
        if what == "copy frame" and done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer(source_of(lived), blank, stop)
    with opened(blank) as session:
        assert counts(session)["frame"] == 100
    done = {one.table: one for one in transfer(source_of(lived), blank)}
    assert done["frame"].rows == 221
    assert done["frame"].copied == 121


def test_a_copy_that_is_killed_is_gone_on_with(lived, blank, qc):
    """It is killed while it waits for a table that somebody holds: the frames are over by then."""
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
    assert "are the same on both sides" in done.out
    with opened(blank) as session, opened(source_of(lived)) as source:
        assert counts(session) == counts(source)


def text_of(url) -> str:
    return str(url.render_as_string(hide_password=False))


@pytest.mark.parametrize(
    "change", ["UPDATE frame SET reason = 'x' WHERE id = 7", "DELETE FROM label"]
)
def test_a_copy_that_was_written_to_is_not_taken_for_the_same(lived, blank, change):
    transfer(source_of(lived), blank)
    engine = create_engine(blank)
    with engine.begin() as connection:
        connection.execute(text(change))
        connection.execute(text("UPDATE label SET note = 'y'"))
    engine.dispose()
    if change.startswith("DELETE"):  # of a table's end, another run brings what is missing
        assert sum(one.copied for one in transfer(source_of(lived), blank)) == 220
    else:
        with pytest.raises(
            ConfigurationError, match=r"(frame with id 7|label with id 220) is not what"
        ):
            transfer(source_of(lived), blank)


def test_another_projects_copy_is_told_at_once(lived, blank, tmp_path):
    transfer(source_of(lived), blank)
    other = tmp_path / "other"
    other.mkdir()
    instrument = write_instrument(other / "instruments")
    (other / "thresholds.yaml").write_text(thresholds_text(instrument.image_types()))
    create_project(other)
    with open_tiny(other) as project:
        process(project, *write_history(other, 3))
    with pytest.raises(ConfigurationError, match=r"is not what the source has.*begin with"):
        transfer(source_of(other), blank)


def test_while_somebody_writes_to_the_target_nothing_is_copied(lived, blank):
    transfer(source_of(lived), blank)
    engine = connect(blank)
    with for_writing(engine).begin(), pytest.raises(ConfigurationError, match="somebody else is"):
        transfer(source_of(lived), blank)
    engine.dispose()


def test_a_text_that_postgresql_cannot_keep_is_told_with_its_table(lived, blank, tmp_path):
    copy = tmp_path / "qc.db"
    copy.write_bytes((lived / "qc.db").read_bytes())
    engine = create_engine(f"sqlite:///{copy}")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE label SET note = 'a' || char(0) || 'b' WHERE id = 1")
    engine.dispose()
    with pytest.raises(ConfigurationError, match=r"label \(1,\) to .*NUL"):
        transfer(f"sqlite:///{copy}", blank)


def test_into_sqlite_nothing_is_copied(lived, tmp_path):
    with pytest.raises(ConfigurationError, match="expected a PostgreSQL database to copy into"):
        transfer(source_of(lived), f"sqlite:///{tmp_path / 'new.db'}")


@pytest.mark.postgresql  # an address of one, though nobody answers there
def test_a_password_is_never_shown(qc, lived):
    url = "postgresql+psycopg://qc:s3cret@127.0.0.1:1/qc?sslpassword=t0ken"
    done = qc("db", "copy", source_of(lived), url)
    assert done.code == 2
    assert "127.0.0.1" in done.err
    assert "s3cret" not in done.err + done.out
    assert "t0ken" not in done.err + done.out


def test_the_summary_names_each_table(qc, lived, blank):
    done = qc("db", "copy", source_of(lived), text_of(blank))
    assert done.code == 0
    assert "verdict" in done.out
    assert read_settings(lived).database == ""  # that the project moves is its owner's to say
