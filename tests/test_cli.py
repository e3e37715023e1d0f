import json
import sqlite3
import sys
from typing import NamedTuple

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from qc.cli import main
from qc.database import LabelName
from qc.instruments import read_instruments
from tests.tiny import light_leak, open_tiny, process, thresholds_text, write_frame, write_history

UNTRAINED = "resnet50-untrained-physical-233c98921cb7"


class Run(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def qc(monkeypatch, capfd):
    """Run the command with arguments, as a shell would."""

    def run(*arguments) -> Run:
        monkeypatch.setattr(sys, "argv", ["qc", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return Run(int(left.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def installed(project, monkeypatch):
    """A project as the command opens it: every instrument, the network's own thresholds."""
    types = [
        name for one in read_instruments(project / "instruments") for name in one.image_types()
    ]
    (project / "thresholds.yaml").write_text(thresholds_text(types, UNTRAINED))
    (project / "qc.toml").write_text('instruments = "instruments"\n')
    monkeypatch.setenv("QC_PROJECT", str(project))
    return project


@pytest.fixture
def judged(project, inbox, installed):
    """The same with twenty certified frames and a leak, from the stand-in."""
    complete = (installed / "thresholds.yaml").read_text()
    (installed / "thresholds.yaml").write_text(thresholds_text(["TB0", "TF0"]))
    with open_tiny(project) as runtime:
        process(runtime, *write_history(inbox), label=LabelName.GOOD)
        process(runtime, write_frame(inbox, night=2, change=light_leak))
    (installed / "thresholds.yaml").write_text(complete)
    return installed


def assert_a_mistake(run: Run, words: str) -> None:
    assert (run.code, run.out) == (2, "")
    *progress, mistake = run.err.splitlines()
    assert mistake.startswith("qc: ")
    assert words in mistake
    assert len(progress) <= 1  # "process (1)"


def test_process_reads_judges_and_says_how_it_went(qc, installed, inbox):
    paths = [write_frame(inbox, 1, 1), inbox / "[red]x.fits"]
    write_frame(inbox, 1, 2).rename(paths[1])
    run = qc("process", inbox)
    assert (run.code, run.err) == (0, "process (2)\n")
    assert run.out == "2 files: 2 processed, 2 UNDECIDED\n"
    again = qc("process", inbox, "--json")
    assert [one["state"] for one in json.loads(again.out)] == ["known", "known"]
    (inbox / "[blue]:smile:.fits").write_bytes(b"?")
    broken = qc("process", inbox)
    assert broken.code == 1
    assert "[blue]:smile:.fits" in broken.out
    as_json = json.loads(qc("process", inbox, "--json").out)
    assert {one["state"] for one in as_json} == {"failed", "known"}
    assert installed.is_dir()


@pytest.mark.usefixtures("installed")
def test_process_takes_a_path_that_does_not_exist_as_a_mistake(qc, inbox):
    assert_a_mistake(qc("process", inbox / "[red]none.fits"), "[red]none.fits: no such file")


@pytest.mark.usefixtures("installed")
def test_process_of_nothing_is_nothing(qc, inbox):
    assert qc("process", inbox) == (0, "0 files: none\n", "")


@pytest.mark.usefixtures("judged")
def test_export_writes_to_the_screen_or_to_a_file(qc, tmp_path):
    run = qc("export", "verdicts", "--since", "2026-01-02")
    assert run.code == 0
    assert run.out.splitlines()[0].startswith("file,extension,image_type,observed_at,status,")
    assert len(run.out.splitlines()) == 2
    file = tmp_path / "[red]v.csv"
    told = qc("export", "verdicts", "--out", file)
    assert (told.code, told.out, told.err) == (0, "", f"21 rows in {file}\n")
    assert len(file.read_text().splitlines()) == 22


@pytest.mark.usefixtures("judged")
def test_export_into_a_folder_that_does_not_exist_is_a_mistake(qc, tmp_path):
    assert_a_mistake(qc("export", "labels", "--out", tmp_path / "no" / "x.csv"), "No such file")


@pytest.mark.usefixtures("judged")
def test_status_is_one_json_document_if_asked(qc):
    run = qc("status", "--json")
    status = json.loads(run.out)
    assert (run.code, status["alerts_owed"], status["newest_night"]) == (0, 1, "2026-01-02")
    table = qc("status")
    assert table.code == 0
    assert "alerts owed" in table.out


def test_db_upgrade_makes_a_project_and_check_finds_it_sound(qc, tmp_path):
    folder = tmp_path / "[bold]new"
    run = qc("db", "upgrade", "--project", folder)
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith(f"{folder}: ")
    assert qc("db", "check", "--project", folder).code == 0


def test_an_unknown_project_is_a_mistake(qc, tmp_path):
    words = "no such project folder; make one with 'qc db upgrade --project"
    for command in (["status"], ["export", "verdicts"], ["db", "check"], ["process", tmp_path]):
        assert_a_mistake(qc(*command, "--project", tmp_path / "[none]"), words)


def test_a_folder_without_a_database_is_a_mistake(qc, installed):
    (installed / "qc.db").unlink()
    assert_a_mistake(qc("status"), "schema empty, expected 0002; run 'qc db upgrade'")


def test_a_damaged_database_is_a_mistake(qc, installed):
    for file in installed.glob("qc.db*"):
        file.unlink()
    (installed / "qc.db").write_bytes(b"not a database" * 999)
    for command in (["status"], ["db", "check"], ["db", "upgrade"]):
        assert_a_mistake(qc(*command), "file is not a database")


def test_bad_thresholds_are_a_mistake(qc, installed):
    (installed / "thresholds.yaml").write_text("UBB0: [{from: 2026-02-30}]\n")
    assert_a_mistake(qc("status"), "thresholds.yaml:1: UBB0: 0: from: Input should be a valid date")


def test_a_bad_option_in_the_settings_is_a_mistake(qc, installed):
    (installed / "qc.toml").write_text('stretch = "log"\n')
    assert_a_mistake(qc("status"), "stretch: Value error, there are physical")


def test_missing_weights_are_a_mistake_told_at_the_first_frame(qc, installed, inbox):
    (installed / "qc.toml").write_text('instruments = "instruments"\nweights = "w.weights.h5"\n')
    write_frame(inbox)
    assert_a_mistake(qc("process", inbox), f"{installed}/w.weights.h5: no such weights file")


def test_a_database_that_fails_is_a_mistake(qc, judged):
    with sqlite3.connect(judged / "qc.db") as connection:
        connection.execute("DROP TABLE alert")
    connection.close()
    assert_a_mistake(qc("status"), "the database: no such table: alert")


@pytest.mark.usefixtures("judged")
def test_a_bug_is_told_in_full_and_is_not_the_code_of_an_anomaly(qc):
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
def test_wrong_usage_is_code_two(qc, arguments):
    assert qc(*arguments).code == 2


def test_help_is_short_and_names_the_commands(qc):
    run = qc("--help")
    assert run.code == 0
    for name in ("demo", "process", "show", "report", "export", "status", "db"):
        assert f" {name} " in run.out
