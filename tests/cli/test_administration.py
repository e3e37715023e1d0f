"""Projects, databases, errors, help and version of the command line."""

from importlib.metadata import version

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.cli.conftest import assert_error
from tests.support.databases import run_sql, write_settings


def test_db_upgrade_creates_project_that_passes_check(qc, unmade):
    folder = unmade.with_name("[bold]new")
    run = qc("db", "upgrade", "--project", folder)
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith(f"{folder}: ")
    assert qc("db", "check", "--project", folder).code == 0


def test_missing_project_is_error(qc, tmp_path):
    message = "no such project folder; make one with 'qc init --project"
    for command in (
        ["status"],
        ["frames", "export", "verdicts"],
        ["db", "check"],
        ["frames", "process", tmp_path],
    ):
        assert_error(qc(*command, "--project", tmp_path / "[none]"), message)


@pytest.mark.sqlite
def test_missing_database_is_error(qc, installed):
    (installed / "qc.db").unlink()
    assert_error(qc("status"), "schema empty, expected 00")


@pytest.mark.sqlite
def test_damaged_database_is_error(qc, installed):
    for file in installed.glob("qc.db*"):
        file.unlink()
    (installed / "qc.db").write_bytes(b"not a database" * 999)
    for command in (["status"], ["db", "check"], ["db", "upgrade"]):
        assert_error(qc(*command), "file is not a database")


def test_invalid_thresholds_are_error(qc, installed):
    (installed / "thresholds.yaml").write_text("UBB0: [{from: 2026-02-30}]\n")
    assert_error(
        qc("thresholds", "show"), "thresholds.yaml:1: UBB0: 0: from: Input should be a valid date"
    )


def test_invalid_setting_is_error(qc, installed):
    write_settings(installed, 'stretch = "log"\n')
    assert_error(qc("status"), "stretch: Value error, there are physical")


def test_missing_table_is_error(qc, judged):
    run_sql(judged, "DROP TABLE alert")
    done = qc("status")
    assert_error(done, "the database: ")
    assert "alert" in done.err


@pytest.mark.usefixtures("judged")
def test_bug_prints_traceback_with_exit_code_2(qc):
    def stumble(*_arguments):
        raise ZeroDivisionError("a bug")

    event.listen(Engine, "before_cursor_execute", stumble)
    try:
        run = qc("status")
    finally:
        event.remove(Engine, "before_cursor_execute", stumble)
    assert run.code == 2
    assert run.err.startswith("Traceback")
    assert run.err.endswith("ZeroDivisionError: a bug\n")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["process"], ["export", "dreams"], ["status", "--nonsense"]]
)
def test_wrong_usage_has_exit_code_2(qc, arguments):
    assert qc(*arguments).code == 2


def test_help_lists_groups(qc):
    run = qc("--help")
    assert run.code == 0
    groups = [
        "demo",
        "init",
        "status",
        "frames",
        "labels",
        "epochs",
        "thresholds",
        "classifier",
        "report",
        "alerts",
        "archive",
        "service",
        "web",
        "users",
        "db",
        "instruments",
        "simulate",
    ]
    assert [name for name in groups if f"│ {name} " not in run.out] == []
    hidden = "process show label epoch tune similar export backfill run self-test serve ack user"
    assert [name for name in hidden.split() if f"│ {name} " in run.out] == []


def test_version_option_prints_version(qc):
    assert qc("--version") == (0, f"qc {version('calibration-qc')}\n", "")
