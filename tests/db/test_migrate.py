import ast
import multiprocessing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text

from qc._files import shipped
from qc.db.engine import connect
from qc.db.migrate import check_integrity, check_schema, schema_differences, upgrade_schema
from qc.db.models import Base
from qc.errors import ConfigurationError
from qc.project import create_project
from qc.settings import read_settings
from tests.support.tiny import process, write_history
from tests.support.waiting import wait_for_end


@pytest.fixture
def engine(unmade):
    """An empty database."""
    unmade.mkdir()
    made = connect(read_settings(unmade).database_url)
    yield made
    made.dispose()


def downgrade(engine, revision):
    config = Config()
    config.set_main_option("script_location", str(shipped("migrations")))
    config.attributes["engine"] = engine
    command.downgrade(config, revision)


def test_the_migrations_make_the_declared_tables_go_back_and_make_them_again(engine):
    for _ in range(2):
        upgrade_schema(engine)
        assert schema_differences(engine) == []
        assert set(inspect(engine).get_table_names()) == {
            *Base.metadata.tables,
            "alembic_version",
        }
        downgrade(engine, "base")
        assert inspect(engine).get_table_names() == ["alembic_version"]


def test_upgrading_what_is_up_to_date_changes_nothing(engine):
    upgrade_schema(engine)
    upgrade_schema(engine)
    check_integrity(engine)


def test_an_empty_database_is_told_with_what_to_do(engine):
    with pytest.raises(ConfigurationError, match=r"schema empty, expected 0.*run 'qc db upgrade'"):
        check_schema(engine)


def test_a_database_of_a_newer_version_is_told(engine):
    upgrade_schema(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    with pytest.raises(ConfigurationError, match="schema ffff, expected 0"):
        check_schema(engine)
    with pytest.raises(ConfigurationError, match="ffff"):
        upgrade_schema(engine)


def test_tables_that_differ_are_told(engine):
    upgrade_schema(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE epoch"))
    with pytest.raises(ConfigurationError, match=r"differs from this version: .*epoch"):
        check_integrity(engine)


@pytest.mark.sqlite
@pytest.mark.parametrize("use", [check_schema, check_integrity, upgrade_schema])
def test_a_file_that_is_no_database_is_told_in_one_line(engine, unmade, use):
    (unmade / "qc.db").write_bytes(b"this is not SQLite" * 1000)
    with pytest.raises(ConfigurationError, match=r"qc\.db: cannot be used: file is not") as told:
        use(engine)
    assert "\n" not in str(told.value)


@pytest.mark.sqlite
def test_a_damaged_database_is_told_in_one_line(project, inbox, project_folder):
    process(project, *write_history(inbox, frames=3))
    engine = connect(project.settings.database_url)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    project.reads().get_bind().dispose()
    engine.dispose()
    file = project_folder / "qc.db"
    content = bytearray(file.read_bytes())
    content[40960:-4096] = b"\x07" * (len(content) - 40960 - 4096)
    file.write_bytes(content)
    engine = connect(project.settings.database_url)
    with pytest.raises(ConfigurationError, match=r"damaged|malformed") as told:
        check_integrity(engine)
    engine.dispose()
    assert "\n" not in str(told.value)


@pytest.mark.sqlite
def test_a_folder_that_does_not_exist_is_told(tmp_path):
    engine = connect(f"sqlite:///{tmp_path / 'none' / 'qc.db'}")
    with pytest.raises(ConfigurationError, match="unable to open database file"):
        check_schema(engine)


def create_at_once(folder, barrier):
    barrier.wait(60)
    create_project(folder)


def test_a_project_made_by_two_processes_at_once_is_whole(empty_project, unmade):
    folder = unmade
    folder.mkdir()
    (folder / "thresholds.yaml").write_bytes((empty_project / "thresholds.yaml").read_bytes())
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=create_at_once, args=(folder, barrier)) for _ in range(2)]
    for one in both:
        one.start()
    wait_for_end(*both)
    assert [one.exitcode for one in both] == [0, 0]
    engine = connect(read_settings(folder).database_url)
    check_integrity(engine)
    engine.dispose()


def test_a_migration_imports_nothing_of_ours():
    files = sorted(Path(shipped("migrations")).glob("versions/*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not [one for one in names if one.split(".")[0] in {"qc", "embeddings"}]
