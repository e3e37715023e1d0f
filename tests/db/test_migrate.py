import ast
import multiprocessing
import pickle
from importlib import import_module
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from apscheduler.triggers.cron import CronTrigger
from sqlalchemy import insert, inspect, select, text

from qc._files import packaged_path
from qc.db.schema.engine import connect
from qc.db.schema.migrate import check_integrity, schema_differences, upgrade_schema
from qc.db.schema.models import Base, ScheduledJobRow
from qc.db.schema.revision import check_schema, newest_revision
from qc.errors import ConfigurationError
from qc.project import create_project
from qc.settings import read_settings
from tests.support.tiny_spectrograph import process, write_history
from tests.support.waiting import wait_for_end


@pytest.fixture
def engine(unmade):
    """An empty database."""
    unmade.mkdir()
    new_engine = connect(read_settings(unmade).database_url)
    yield new_engine
    new_engine.dispose()


def downgrade(engine, revision):
    config = Config()
    config.set_main_option("script_location", str(packaged_path("migrations")))
    config.attributes["engine"] = engine
    command.downgrade(config, revision)


def test_migrations_create_declared_tables_in_both_directions(engine):
    for _ in range(2):
        upgrade_schema(engine)
        assert schema_differences(engine) == []
        assert set(inspect(engine).get_table_names()) == {
            *Base.metadata.tables,
            "alembic_version",
        }
        downgrade(engine, "base")
        assert inspect(engine).get_table_names() == ["alembic_version"]


def test_upgrade_schema_twice_changes_nothing(engine):
    upgrade_schema(engine)
    upgrade_schema(engine)
    check_integrity(engine)


def test_check_schema_empty_database_names_the_remedy(engine):
    with pytest.raises(ConfigurationError, match=r"schema empty, expected 0.*run 'qc db upgrade'"):
        check_schema(engine)


def test_check_schema_newer_revision_is_refused(engine):
    upgrade_schema(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    with pytest.raises(ConfigurationError, match="schema ffff, expected 0"):
        check_schema(engine)
    with pytest.raises(ConfigurationError, match="ffff"):
        upgrade_schema(engine)


def test_check_integrity_missing_table_is_named(engine):
    upgrade_schema(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE epoch"))
    with pytest.raises(ConfigurationError, match=r"differs from this version: .*epoch"):
        check_integrity(engine)


@pytest.mark.sqlite
@pytest.mark.parametrize("use", [check_schema, check_integrity, upgrade_schema])
def test_schema_checks_other_file_gives_one_line(engine, unmade, use):
    (unmade / "qc.db").write_bytes(b"this is not SQLite" * 1000)
    with pytest.raises(
        ConfigurationError, match=r"qc\.db: cannot be used: file is not"
    ) as error_info:
        use(engine)
    assert "\n" not in str(error_info.value)


@pytest.mark.sqlite
def test_check_integrity_damaged_file_gives_one_line(project, inbox, project_folder):
    process(project, *write_history(inbox, frames=3))
    engine = connect(project.settings.database_url)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    project.read_session().get_bind().dispose()
    engine.dispose()
    file = project_folder / "qc.db"
    content = bytearray(file.read_bytes())
    content[40960:-4096] = b"\x07" * (len(content) - 40960 - 4096)
    file.write_bytes(content)
    engine = connect(project.settings.database_url)
    with pytest.raises(ConfigurationError, match=r"damaged|malformed") as error_info:
        check_integrity(engine)
    engine.dispose()
    assert "\n" not in str(error_info.value)


@pytest.mark.sqlite
def test_check_schema_missing_folder_is_named(tmp_path):
    engine = connect(f"sqlite:///{tmp_path / 'none' / 'qc.db'}")
    with pytest.raises(ConfigurationError, match="unable to open database file"):
        check_schema(engine)


def create_at_once(folder, barrier):
    barrier.wait(60)
    create_project(folder)


@pytest.mark.slow
def test_create_project_two_processes_make_one_complete_project(empty_project, unmade):
    folder = unmade
    folder.mkdir()
    (folder / "thresholds.yaml").write_bytes((empty_project / "thresholds.yaml").read_bytes())
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=create_at_once, args=(folder, barrier)) for _ in range(2)]
    for item in both:
        item.start()
    wait_for_end(*both)
    assert [item.exitcode for item in both] == [0, 0]
    engine = connect(read_settings(folder).database_url)
    check_integrity(engine)
    engine.dispose()


def test_migrations_import_no_module_of_the_project():
    files = sorted(Path(packaged_path("migrations")).glob("versions/*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not [item for item in names if item.split(".")[0] in {"qc", "embeddings"}]


def test_migration_of_stored_jobs_renames_their_function(engine):
    """Upgrade a job that an earlier version stored, and downgrade it again."""
    upgrade_schema(engine)
    downgrade(engine, "0015")
    trigger = CronTrigger.from_crontab("0 8 * * *", "UTC")
    state = {"version": 1, "id": "report", "func": "qc.watch:run_job", "trigger": trigger}
    second = {"version": 1, "id": "other", "func": "another.module:function"}
    with engine.begin() as connection:
        for job in (state, second):
            connection.execute(
                insert(ScheduledJobRow).values(id=job["id"], job_state=pickle.dumps(job))
            )
    for change, name in (
        (upgrade_schema, "qc.service.scheduler:run_job"),
        (lambda database: downgrade(database, "0015"), "qc.watch:run_job"),
    ):
        change(engine)
        with engine.connect() as connection:
            rows = connection.execute(select(ScheduledJobRow.id, ScheduledJobRow.job_state)).all()
        stored = {row.id: pickle.loads(row.job_state) for row in rows}
        assert stored["report"]["func"] == name
        assert str(stored["report"]["trigger"]) == str(trigger)
        assert stored["other"] == second
    module, _, function = "qc.service.scheduler:run_job".partition(":")
    assert callable(getattr(import_module(module), function))


def test_migration_of_notices_keeps_referring_rows(engine):
    """Upgrade rows of revision 0014, and downgrade them again."""
    upgrade_schema(engine)
    downgrade(engine, "0014")
    rows = {
        "notice": "1, 'verdict', 'event', '2026-01-02', '2026-01-02 00:00:00', 'subject', NULL",
        "silence": (
            "7, 1, 'verdict', NULL, '[]', 'kim', '2026-01-02 00:00:00', NULL, TRUE, '', NULL, ''"
        ),
        "delivery": (
            "3, 1, 'mail', 'a@b.c', '2026-01-02 00:00:00', NULL, 0, '', '2026-01-02 00:00:00', NULL"
        ),
        "acknowledgement": "4, 1, 'kim', '2026-01-02 00:00:00', 'seen'",
    }
    with engine.begin() as connection:
        for table, values in rows.items():
            connection.execute(text(f"INSERT INTO {table} VALUES ({values})"))
        connection.execute(
            text(
                "INSERT INTO alert (id, topic, owed_at, notice_id, silence_id, words, settled)"
                " VALUES (5, 'verdict', '2026-01-02 00:00:00', 1, 7, '', '')"
            )
        )
    for change, name in (
        (upgrade_schema, "notification"),
        (lambda database: downgrade(database, "0014"), "notice"),
    ):
        change(engine)
        with engine.connect() as connection:
            for table in ("silence", "delivery", "acknowledgement", "alert"):
                query = f"SELECT {name}_id FROM {table} JOIN {name} ON {name}.id = {name}_id"
                assert connection.scalars(text(query)).all() == [1], table
            assert connection.scalar(text("SELECT silence_id FROM alert")) == 7


def test_newest_revision_is_the_head_of_the_migrations():
    """The number in the file names replaces Alembic's search for the head."""
    config = Config()
    config.set_main_option("script_location", str(packaged_path("migrations")))
    assert newest_revision() == ScriptDirectory.from_config(config).get_current_head()
