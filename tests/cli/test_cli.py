import json
import shlex
from ctypes.util import find_library
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from sqlalchemy import event, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from qc.core.enums import LabelName
from qc.db.engine import connect
from qc.db.models import EncoderRow, SelfTestRow
from qc.io.instruments import read_instruments
from qc.settings import read_settings
from tests.support.buckets import BUCKET
from tests.support.databases import copied, run_sql, write_settings
from tests.support.remembered import Past, nominal_frames, remember
from tests.support.terminal import Run
from tests.support.tiny import (
    MERGE_HEIGHT,
    bias_jump,
    light_leak,
    open_tiny,
    process,
    spoil_labels,
    thresholds_text,
    write_frame,
    write_history,
)

UNTRAINED = "resnet50-untrained-physical-233c98921cb7"
SIMULATED = "resnet50-simulated-physical-0249b36d4242"


def install(project_folder, encoder: str = UNTRAINED) -> None:
    """Let the command open a project: every instrument, the network's own thresholds."""
    types = [
        name
        for one in read_instruments(project_folder / "instruments")
        for name in one.image_types()
    ]
    (project_folder / "thresholds.yaml").write_text(thresholds_text(types, encoder))
    weights = encoder.split("-")[1]
    write_settings(project_folder, f'instruments = "instruments"\nweights = "{weights}"\n')


@pytest.fixture
def installed(project_folder, monkeypatch):
    """A project as the command opens it: every instrument, the network's own thresholds."""
    install(project_folder)
    monkeypatch.setenv("QC_PROJECT", str(project_folder))
    return project_folder


@pytest.fixture
def judged(project_folder, inbox, installed):
    """The same with twenty certified frames and a leak, from the stand-in."""
    complete = (installed / "thresholds.yaml").read_text()
    (installed / "thresholds.yaml").write_text(thresholds_text(["TB0", "TF0"]))
    with open_tiny(project_folder) as project:
        process(project, *write_history(inbox), label=LabelName.GOOD)
        process(project, write_frame(inbox, night=2, change=light_leak))
    (installed / "thresholds.yaml").write_text(complete)
    return installed


def assert_a_mistake(run: Run, words: str) -> None:
    assert (run.code, run.out) == (2, "")
    *progress, mistake = run.err.splitlines()
    assert mistake.startswith("qc: ")
    assert words in mistake
    assert len(progress) <= 1  # "process (1)"


@pytest.mark.once
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


FIRST, LEAK = "TINY.2026-01-01T20:00:00", "TINY.2026-01-02T20:00:00"


@pytest.mark.usefixtures("judged")
def test_label_keeps_what_is_said_and_undoes_it(qc):
    run = qc("label", FIRST, f"{LEAK}[0]", "--as", "bad", "--kind", "light-leak", "--who", "kim")
    assert (run.code, run.err) == (0, "")
    first, second, count, again = run.out.splitlines()
    assert first.startswith(f"{FIRST}[0] TB0: bad, light_leak, says kim on ")
    assert "(before: good, says " in first
    assert second.endswith(" (before: no label)")
    assert count == "2 of 2 extensions have another label now"
    assert again == "To judge again what it bears on: qc process --again --since 2026-01-01"
    assert (
        "0 of 1 extension has another label now"
        in qc("label", LEAK, "--as", "bad", "--kind", "light_leak", "--who", "kim").out
    )
    undone = qc("label", LEAK, "--undo")
    assert (undone.code, f"{LEAK}[0] TB0: no label (before: bad" in undone.out) == (0, True)
    assert_a_mistake(qc("label", LEAK, "--undo"), f"nothing to undo: {LEAK}[0] has no label")


@pytest.mark.usefixtures("judged")
def test_label_by_a_filter_asks_for_a_second_thought(qc):
    run = qc("label", "--type", "TB0", "--as", "good")
    assert (run.code, run.out) == (2, "")
    assert run.err == "21 extensions\nqc: 21 extensions are more than 20: say --yes as well\n"
    told = qc("label", "--type", "TB0", "--as", "good", "--who", "kim", "--yes")
    assert (told.code, "21 of 21 extensions have another label now" in told.out) == (0, True)
    run = qc("label", "--night", "2026-01-02", "--status", "anomalous", "--as", "good")
    assert (run.code, run.err) == (0, "1 extension\n")
    run = qc("label", "--night", "2025-01-02", "--undo")
    assert run.err == "0 extensions\nqc: there is none of that type, night and status\n"


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([FIRST], "say --as good, bad or valid-outlier; or --undo"),
        ([FIRST, "--as", "good", "--undo"], "say --as good, bad or valid-outlier; or --undo"),
        (["--as", "good"], "name frames; or choose by --type, --night and --status"),
        ([FIRST, "--type", "TB0", "--as", "good"], "name frames; or choose by"),
        (["--type", "TB0", "--set", "--as", "good"], "--extension and --set go with the names"),
        ([FIRST, "--as", "bad"], "bad needs a kind, of which 'other' is one"),
        ([FIRST, "--as", "bad", "--kind", "lamp_off"], "lamp_off cannot occur in a bias"),
        (["TINY.never", "--as", "good"], "TINY.never: no processed frame"),
        (["\udcff", "--as", "good"], "\\udcff: no processed frame"),
        (["--from", "none.csv"], "No such file or directory: 'none.csv'"),
    ],
)
def test_a_label_that_cannot_be_is_a_mistake(qc, arguments, words):
    assert_a_mistake(qc("label", *arguments), words)


@pytest.mark.usefixtures("judged")
def test_a_valid_outlier_is_told_with_the_epoch_that_it_calls_for(qc):
    run = qc("label", LEAK, "--as", "valid-outlier", "--note", "a new lamp")
    command = "  qc epoch TB0 --from 2026-01-02 --why 'a new lamp'"
    assert run.out.splitlines()[-1] == command
    assert qc(*shlex.split(command)[1:]).code == 0


@pytest.mark.usefixtures("judged")
def test_label_lists_the_kinds_of_fault(qc):
    every = qc("label", "--kinds").out
    assert "lamp_dying" in every
    assert "The thorium lines have faded" in every
    biases = qc("label", "--kinds", "--type", "ubb0").out
    assert "hot_column" in biases
    assert "lamp_dying" not in biases


@pytest.mark.usefixtures("judged")
def test_labels_go_out_and_come_in(qc, tmp_path):
    file = tmp_path / "labels.csv"
    assert qc("export", "labels", "--out", file).code == 0
    run = qc("label", "--from", file)
    assert (run.code, run.out) == (
        0,
        "20 lines: 0 labels added, 20 known already, 0 lines refused\n",
    )
    file.write_text(f"file,label,kind\n{LEAK}.fits,bad,light_leak\nnever.fits,good,\n")
    run = qc("label", "--from", file)
    assert (run.code, run.out.splitlines()) == (
        1,
        [
            "line 3: never.fits: no processed frame of that name",
            "2 lines: 1 label added, 0 known already, 1 line refused",
        ],
    )
    file.write_text("kind,file\n")
    assert_a_mistake(qc("label", "--from", file), "line 1: missing columns: label; expected file")


@pytest.mark.usefixtures("judged")
def test_epoch_enters_lists_and_undoes(qc):
    assert qc("epoch") == (0, "No epoch has been entered.\n", "")
    run = qc("epoch", "TB0", "--from", "2026-01-02", "--why", "[bold]new lamp", "--who", "kim")
    assert (run.code, run.err) == (0, "")
    assert run.out == (
        "Epoch No. 1, TB0 from 2026-01-02.\n"
        "Frames since then that it bears on: 1. References from before it count no longer.\n"
        "To judge them again: qc process --again --since 2026-01-02\n"
    )
    assert "[bold]new lamp" in qc("epoch", "--list").out
    [entry] = json.loads(qc("epoch", "--json").out)
    assert (entry["scope"], entry["from"], entry["who"]) == ("TB0", "2026-01-02", "kim")
    assert qc("epoch", "--undo", 1, "--why", "a slip").out.startswith("Epoch No. 1, TB0 from 2026")
    assert json.loads(qc("epoch", "--json").out)[0]["undone_why"] == "a slip"


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["TB1", "--from", "2026-01-02", "--why", "x"],
            "'TB1' is no image type or instrument; did",
        ),
        (["TB0", "--why", "x"], "an epoch needs --from DATE and --why TEXT"),
        (["TB0", "--from", "2026-01-02"], "the reason is empty"),
        (["TB0", "--from", "2999-01-02", "--why", "x"], "2999-01-02 is still to come"),
        (["--from", "2026-01-02"], "needs an image type or instrument before --from"),
        (["TB0", "--undo", "1"], "enter one epoch, or --undo one, or --list them all"),
        (["--undo", "1", "--why", "x"], "there is no epoch No. 1; there are: none"),
    ],
)
def test_an_epoch_that_cannot_be_is_a_mistake(qc, arguments, words):
    assert_a_mistake(qc("epoch", *arguments), words)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "arguments",
    [["--again", "x.fits"], ["--again", "--label", "good"], ["x.fits", "--since", "2026-01-01"]],
)
def test_process_takes_files_or_what_is_stored(qc, arguments):
    run = qc("process", *arguments)
    assert (run.code, run.out) == (2, "")


@pytest.mark.once
def test_process_again_says_what_has_changed(qc, installed, inbox):
    write_frame(inbox, 1, 1, change=bias_jump)
    write_frame(inbox, 1, 2)
    assert qc("process", inbox).code == 1
    assert qc("process", "--again") == (
        0,
        "2 extensions judged again: 0 changed status\n",
        "judge again (2)\n",
    )
    file = installed / "instruments" / "tiny.yaml"
    file.write_text(file.read_text().replace("[80, 120]", "[80, 200]"))
    run = qc("process", "--again", "--until", "2026-01-02", "--thresholds", "newest")
    assert run.code == 0
    assert "ANOMALOUS │ UNDECIDED" in run.out
    assert run.out.splitlines()[-1] == "2 extensions judged again: 1 changed status"
    file.write_text(file.read_text().replace("[80, 200]", "[80, 120]"))
    run = qc("process", "--again", "--json")
    told = json.loads(run.out)
    assert (run.code, told["judged"], told["left_out"]) == (1, 2, 0)
    [flip] = told["changed"]
    assert (flip["before"], flip["status"]) == ("UNDECIDED", "ANOMALOUS")
    assert qc("process", "--again", "--since", "2026-01-02").out.startswith("0 extensions judged")


@pytest.fixture
def schooled(taught, tmp_path, monkeypatch):
    """A project with labels enough to train on, judged by a network without shipped examples."""
    with copied(taught, tmp_path / "schooled") as project_folder:
        with open_tiny(project_folder) as project, project.writes.begin() as session:
            session.execute(update(EncoderRow).values(fingerprint=SIMULATED))
        install(project_folder, SIMULATED)
        monkeypatch.setenv("QC_PROJECT", str(project_folder))
        yield project_folder


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_train_accepts_a_classifier_reports_it_and_refuses_a_worse_one(qc, schooled, tmp_path):
    page = tmp_path / "[red] classifier.html"
    run = qc("train", "--report", page, "--who", "kim")
    assert run.code == 0
    assert "Learnt from 82 labelled examples, none simulated." in run.out
    assert "Examined on 18 images: the newest fifth of the labels, 2026-01-27 to" in run.out
    assert "image type, share right" in run.out
    assert run.out.splitlines()[-1] == "Accepted: it acts from now on; none was in use."
    assert run.err.splitlines()[0] == "train (3)"
    assert run.err.splitlines()[-1] == f"Report: {page}"
    assert "Trained by kim" in page.read_text()
    (schooled / "thresholds.yaml").write_text(thresholds_text(["TB0", "TF0"]))
    with open_tiny(schooled) as project:
        spoil_labels(project)
    install(schooled, SIMULATED)
    refused = qc("train", "--json")
    told = json.loads(refused.out)
    assert (refused.code, told["accepted"]) == (1, False)
    assert told["new"]["macro_f1"]["value"] < told["old"]["macro_f1"]["value"]


@pytest.mark.usefixtures("judged")
def test_train_says_what_to_do_where_there_is_nothing_to_learn_from(qc):
    words = (
        f"none of the 20 labelled extensions was judged by the encoder in use, {UNTRAINED}; judge"
    )
    assert_a_mistake(qc("train"), words)


def test_show_says_what_a_classifier_says_with_its_probability(qc, judged):
    run_sql(
        judged,
        "UPDATE verdict SET predicted_type='TB0', type_probability=0.97, "
        "predicted_kind='light_leak', kind_probability=0.8",
    )
    shown = " ".join(qc("show", LEAK).out.split())
    assert "predicted type │ TB0 (97%)" in shown
    assert "predicted kind │ light_leak (80%)" in shown
    assert "kind probability" not in shown
    assert json.loads(qc("show", LEAK, "--json").out)[0]["kind_probability"] == 0.8


@pytest.mark.usefixtures("judged")
def test_show_says_how_many_references_there_are_and_what_that_means(qc):
    assert "n = 20: limits 1.20 times as wide" in qc("show", LEAK).out
    assert "n = 0: provisional, 20 needed" in qc("show", FIRST).out


@pytest.mark.usefixtures("judged")
def test_status_is_one_json_document_if_asked(qc):
    run = qc("status", "--json")
    status = json.loads(run.out)
    assert (run.code, status["alerts_owed"], status["newest_night"]) == (0, 1, "2026-01-02")
    table = qc("status")
    assert table.code == 0
    assert "alerts owed" in table.out


def test_db_upgrade_makes_a_project_and_check_finds_it_sound(qc, unmade):
    folder = unmade.with_name("[bold]new")
    run = qc("db", "upgrade", "--project", folder)
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith(f"{folder}: ")
    assert qc("db", "check", "--project", folder).code == 0


def test_an_unknown_project_is_a_mistake(qc, tmp_path):
    words = "no such project folder; make one with 'qc db upgrade --project"
    for command in (["status"], ["export", "verdicts"], ["db", "check"], ["process", tmp_path]):
        assert_a_mistake(qc(*command, "--project", tmp_path / "[none]"), words)


@pytest.mark.sqlite
def test_a_folder_without_a_database_is_a_mistake(qc, installed):
    (installed / "qc.db").unlink()
    assert_a_mistake(qc("status"), "schema empty, expected 00")


@pytest.mark.sqlite
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
    write_settings(installed, 'stretch = "log"\n')
    assert_a_mistake(qc("status"), "stretch: Value error, there are physical")


@pytest.mark.parametrize("command", ["process", "backfill"])
def test_missing_weights_are_a_mistake_told_at_the_first_frame(qc, installed, inbox, command):
    write_settings(installed, 'instruments = "instruments"\nweights = "w.weights.h5"\n')
    write_frame(inbox)
    assert_a_mistake(qc(command, inbox), f"{installed}/w.weights.h5: no such weights file")


@pytest.mark.once
@pytest.mark.usefixtures("installed")
def test_an_archive_in_a_bucket_is_taken_in_by_one_command(qc, inbox, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
    for path in write_history(inbox, frames=3):
        bucket.put(f"raw/2026/{path.name}", path.read_bytes())
    bucket.put("raw/2026/broken.fits", b"no FITS at all")
    told = []
    for _ in range(2):
        done = qc("backfill", f"s3://{BUCKET}/raw", "--json")
        assert done.code == 1  # a file is broken
        told.append(json.loads(done.out))
    assert [one["files"] for one in told] == [
        {"processed": 3, "failed": 1},
        {"known": 3, "failed": 1},
    ]
    assert [one["verdicts"] for one in told] == [{"UNDECIDED": 3}, {}]
    assert told[1]["failures"][0]["file"].endswith("/2026/broken.fits")


def test_a_database_that_fails_is_a_mistake(qc, judged):
    run_sql(judged, "DROP TABLE alert")
    done = qc("status")
    assert_a_mistake(done, "the database: ")
    assert "alert" in done.err


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


@pytest.fixture
def remembered(project_folder, installed):
    """A hundred and one frames judged long ago with the network; two lie beyond the limit."""
    odd = [Past(1.5 * MERGE_HEIGHT, label=LabelName.GOOD)] * 30
    bad = Past(9 * MERGE_HEIGHT, label=LabelName.BAD, kind="lamp_dead", note="at last")
    complete = (installed / "thresholds.yaml").read_text()
    (installed / "thresholds.yaml").write_text(thresholds_text(["TB0", "TF0"]))
    with open_tiny(project_folder) as project:
        past = [*nominal_frames(70), *odd, bad]
        remember(project, *(replace(one, encoder=UNTRAINED) for one in past))
    (installed / "thresholds.yaml").write_text(complete)
    return installed


@pytest.mark.usefixtures("remembered")
def test_tune_proposes_and_names_the_first_of_what_would_flip(qc):
    run = qc("tune", "TB0", "--false-alarms", "0.01")
    assert run.code == 0
    assert (
        "TB0: tuned from 100 nominal frames to 0.01 false alarms, 1 frame labelled bad" in run.out
    )
    assert "No longer flagged: 30 of the past" in run.out
    named, more, _ = run.out.split("No longer flagged")[1].partition("  and 10 more\n")
    assert named.count("times the new limit, labelled good") == 20
    assert more
    assert "merge height" in run.out
    whole = json.loads(qc("tune", "TB?", "--false-alarms", "0.01", "--json").out)
    [proposal] = whole["proposals"]
    assert len(proposal["no_longer_flagged"]) == 30
    assert whole["refused"] == []


def test_tune_writes_an_entry_with_its_reason_only_if_asked(qc, remembered):
    file = remembered / "thresholds.yaml"
    before = file.read_text() + "# my own words\n"
    file.write_text(before)
    assert qc("tune", "TB0").code == 0
    assert file.read_text() == before
    assert_a_mistake(qc("tune", "TB0", "--write"), "--write needs a reason for the file: --why")
    options = ["--write", "--why", "a new lamp", "--by", "A. Störer", "--from", "2026-08-01"]
    run = qc("tune", "TB0", *options)
    assert run.code == 0
    assert run.err.endswith(f"1 entry from 2026-08-01 on in {file}\n")
    added = set(file.read_text().splitlines()) - set(before.splitlines())
    [line] = [line for line in added if "a new lamp" in line]
    assert "from: 2026-08-01" in line
    assert "A. Störer" in line
    assert "# my own words" in file.read_text()
    assert_a_mistake(qc("tune", "TB0", *options), "TB0: has an entry from 2026-08-01 for encoder")


@pytest.mark.usefixtures("remembered")
def test_tune_draws_a_picture(qc, tmp_path):
    run = qc("tune", "--plot", tmp_path / "[red]t.png")
    assert (run.code, run.err.splitlines()[-1]) == (0, f"Picture: {tmp_path / '[red]t.png'}")
    assert (tmp_path / "[red]t.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["TB1"], "'TB1' is no image type; did you mean TB0?"),
        (["TF0"], "TF0: no frame has been judged against 20 references"),
        (["--recall", "0.9"], "TB0: 1 frame labelled bad, 5 needed to know the recall of a limit"),
        (["--recall", "0.9", "--false-alarms", "0.1"], "give --false-alarms or --recall: one lim"),
        (["--plot", "/none/t.png"], "No such file or directory"),
        (["--plot", "t.jpg"], "t.jpg: the picture is a PNG; give a name that ends in .png"),
    ],
)
def test_what_cannot_be_tuned_is_a_mistake(qc, arguments, words):
    run = qc("tune", *arguments)
    assert (run.code, run.out) == (2, "")
    assert words in run.err.splitlines()[-1]


def test_of_many_types_that_cannot_be_tuned_three_are_told(qc, project_folder, installed):
    complete = (installed / "thresholds.yaml").read_text()
    (installed / "thresholds.yaml").write_text(thresholds_text(["TB0", "TF0"]))
    with open_tiny(project_folder) as project:
        types = ("UBB0", "UBW0", "URB1", "URB2", "URW1")
        remember(project, *(Past(image_type=name, encoder=UNTRAINED) for name in types))
    (installed / "thresholds.yaml").write_text(complete)
    assert_a_mistake(qc("tune"), "the limits stay; and 2 more like these")


@pytest.mark.usefixtures("remembered")
def test_similar_says_what_a_frame_looks_like(qc):
    run = qc("similar", "TINY.0", "-k", "100", "--labelled")
    assert run.code == 0
    assert run.out.startswith("TINY.0[0] (TB0) is most like TINY.1[0] of the night 2026-01-01")
    assert "ANOMALOUS" not in run.out
    assert "bad, lamp_dead, at last" in run.out
    [found] = json.loads(qc("similar", "TINY.0", "-k", "3", "--type", "any", "--json").out)
    assert [one["name"] for one in found["neighbours"]] == [f"TINY.{n}[0]" for n in (1, 2, 3)]


@pytest.mark.usefixtures("remembered")
def test_similar_of_nothing_known_is_a_mistake(qc):
    assert_a_mistake(qc("similar", "[red]x"), "[red]x: neither the archive name, file name or path")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["process"], ["export", "dreams"], ["status", "--nonsense"]]
)
def test_wrong_usage_is_code_two(qc, arguments):
    assert qc(*arguments).code == 2


def test_help_is_short_and_names_the_commands(qc):
    run = qc("--help")
    assert run.code == 0
    shown = "demo process show label epoch report tune similar export status db"
    for name in shown.split():
        assert f" {name} " in run.out


@pytest.fixture
def remembering(project_folder, monkeypatch):
    """A project that remembers forty ordinary frames of four nights, ready for the command."""
    with open_tiny(project_folder) as project:
        remember(project, *[Past() for _ in range(40)])
    install(project_folder)
    monkeypatch.setenv("QC_PROJECT", str(project_folder))
    return project_folder


@pytest.mark.usefixtures("remembering")
def test_label_answers_for_a_whole_spot_check_at_once(qc):
    run = qc("label", "--sample", "--night", "2026-01-03", "--as", "good", "--who", "kim")
    assert run.code == 0, run.err
    assert "TINY.22[0] TB0: good, says kim" in run.out
    assert (
        qc("label", "--sample", "--night", "2026-01-03", "--as", "good").code == 2
    )  # none is left


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("words", ["--as bad --kind other", "--undo", "TINY.1 --as good"])
def test_label_takes_a_spot_check_as_good_and_no_otherwise(qc, words):
    run = qc("label", "--sample", *words.split())
    assert run.code == 2
    assert "--sample" in run.err


@pytest.mark.skipif(find_library("pango-1.0") is None, reason="PDFs need pango, not here")
def test_report_writes_a_week_and_a_month_with_pdf_and_an_index(qc, remembering):
    week = qc("report", "--week", "--night", "2026-01-04")
    month = qc("report", "--month", "2026-01", "--pdf")
    assert (week.code, month.code) == (0, 0), week.err + month.err
    written = {one.name for one in (remembering / "reports").iterdir()}
    assert written == {
        "week-2026-01-04.html",
        "month-2026-01.html",
        "month-2026-01.pdf",
        "index.html",
    }
    assert "month-2026-01.pdf" in month.out


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "words", ["--month 2026-13", "--month last --week", "--month last --night 2026-01-01", "--week"]
)
def test_report_refuses_what_is_no_night_week_or_month(qc, words):
    run = qc("report", *words.split())
    assert run.code == 2
    assert "qc:" in run.err


def test_a_self_test_without_frames_to_try_says_why(qc, judged):
    for path in judged.parent.joinpath("inbox").glob("*.fits"):
        path.unlink()
    done = qc("self-test", "--json")
    assert done.code == 0
    assert json.loads(done.out)["trials"] == []
    assert "nothing could be tried" in qc("self-test").out


def test_a_self_test_below_the_limit_is_an_anomaly(qc, judged):
    engine = connect(read_settings(judged).database_url)
    with Session(engine) as session, session.begin():
        for number in range(20):
            row = SelfTestRow(
                night=date(2026, 1, 1), at=datetime.now(UTC), instrument="TINY", image_type="TB0",
                kind="light_leak", strength="gross", is_found=number < 5, score=1, frame="a",
                reason="",
            )  # fmt: skip
            session.add(row)
    engine.dispose()
    done = qc("self-test", "--night", "2026-01-02")
    assert done.code == 1
    assert "TINY: 5 of 20 injected faults were found in the last night (25 %)" in done.out
