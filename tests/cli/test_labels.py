"""Commands of `qc labels` and `qc epochs`."""

import json
import shlex

import pytest

from tests.cli.conftest import assert_error

FIRST, LEAK = "TINY.2026-01-01T20:00:00", "TINY.2026-01-02T20:00:00"


@pytest.mark.usefixtures("judged")
def test_labels_add_and_undo_print_changes(qc):
    run = qc(
        "labels", "add", FIRST, f"{LEAK}[0]", "--as", "bad", "--kind", "light-leak", "--by", "kim"
    )
    assert (run.code, run.err) == (0, "")
    first, second, count, again = run.out.splitlines()
    assert first.startswith(f"{FIRST}[0] TB0: bad, light_leak, ")
    assert "(before: good, " in first
    assert second.endswith(" (before: no label)")
    assert count == "2 of 2 labels changed"
    assert again == "To judge affected frames again: qc archive reprocess --since 2026-01-01"
    assert (
        "0 of 1 label changed"
        in qc("labels", "add", LEAK, "--as", "bad", "--kind", "light_leak", "--by", "kim").out
    )
    undone = qc("labels", "undo", LEAK)
    assert (undone.code, f"{LEAK}[0] TB0: no label (before: bad" in undone.out) == (0, True)
    assert_error(qc("labels", "undo", LEAK), f"nothing to undo: {LEAK}[0] has no label")


@pytest.mark.usefixtures("judged")
def test_labels_add_by_filter_requires_confirmation(qc):
    run = qc("labels", "add", "--type", "TB0", "--as", "good")
    assert (run.code, run.out) == (2, "")
    assert run.err == "21 extensions\nqc: 21 extensions are more than 20: add --yes\n"
    result = qc("labels", "add", "--type", "TB0", "--as", "good", "--by", "kim", "--yes")
    assert (result.code, "21 of 21 labels changed" in result.out) == (0, True)
    run = qc("labels", "add", "--night", "2026-01-02", "--status", "anomalous", "--as", "good")
    assert (run.code, run.err) == (0, "1 extension\n")
    run = qc("labels", "undo", "--night", "2025-01-02")
    assert run.err == "0 extensions\nqc: no extension matches that type, night and status\n"


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--as", "good"], "name frames, or select by --type, --night and --status"),
        ([FIRST, "--type", "TB0", "--as", "good"], "name frames, or select by"),
        (["--type", "TB0", "--set", "--as", "good"], "--extension and --set require the names"),
        ([FIRST, "--as", "bad"], "bad needs a kind, of which 'other' is one"),
        ([FIRST, "--as", "bad", "--kind", "lamp_off"], "lamp_off cannot occur in a bias"),
        (["TINY.never", "--as", "good"], "TINY.never: no processed frame"),
        (["\udcff", "--as", "good"], "\\udcff: no processed frame"),
    ],
)
def test_labels_add_invalid_arguments_are_error(qc, arguments, message):
    assert_error(qc("labels", "add", *arguments), message)


@pytest.mark.usefixtures("judged")
def test_labels_add_valid_outlier_prints_epoch_command(qc):
    run = qc("labels", "add", LEAK, "--as", "valid-outlier", "--note", "a new lamp")
    command = "  qc epochs add TB0 --from 2026-01-02 --reason 'a new lamp'"
    assert run.out.splitlines()[-1] == command
    assert qc(*shlex.split(command)[1:]).code == 0


@pytest.mark.usefixtures("judged")
def test_labels_kinds_lists_faults_of_type(qc):
    every = qc("labels", "kinds").out
    assert "lamp_dying" in every
    assert "The thorium lines have faded" in every
    biases = qc("labels", "kinds", "--type", "ubb0").out
    assert "hot_column" in biases
    assert "lamp_dying" not in biases


@pytest.mark.usefixtures("judged")
def test_labels_import_reads_exported_file(qc, tmp_path):
    file = tmp_path / "labels.csv"
    assert qc("frames", "export", "labels", "--out", file).code == 0
    run = qc("labels", "import", file)
    assert (run.code, run.out) == (
        0,
        "20 lines: 0 labels added, 20 known already, 0 lines refused\n",
    )
    file.write_text(f"file,label,kind\n{LEAK}.fits,bad,light_leak\nnever.fits,good,\n")
    run = qc("labels", "import", file)
    assert (run.code, run.out.splitlines()) == (
        1,
        [
            "line 3: never.fits: no processed frame of that name",
            "2 lines: 1 label added, 0 known already, 1 line refused",
        ],
    )
    file.write_text("kind,file\n")
    assert_error(qc("labels", "import", file), "line 1: missing columns: label; expected file")


@pytest.mark.usefixtures("judged")
def test_epochs_add_list_undo(qc):
    assert qc("epochs", "list") == (0, "No epochs yet.\n", "")
    run = qc(
        "epochs", "add", "TB0", "--from", "2026-01-02", "--reason", "[bold]new lamp", "--by", "kim"
    )
    assert (run.code, run.err) == (0, "")
    assert run.out == (
        "Epoch No. 1, TB0 from 2026-01-02.\n"
        "Affected frames: 1. Earlier references no longer count.\n"
        "To judge them again: qc archive reprocess --since 2026-01-02\n"
    )
    assert "[bold]new lamp" in qc("epochs", "list").out
    [entry] = json.loads(qc("epochs", "list", "--json").out)
    assert (entry["scope"], entry["from"], entry["who"]) == ("TB0", "2026-01-02", "kim")
    assert qc("epochs", "undo", 1, "--reason", "a slip").out.startswith(
        "Epoch No. 1, TB0 from 2026"
    )
    assert json.loads(qc("epochs", "list", "--json").out)[0]["undone_why"] == "a slip"


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["TB1", "--from", "2026-01-02", "--reason", "x"],
            "'TB1' is no image type or instrument; did",
        ),
        (["TB0", "--from", "2026-01-02", "--reason", " "], "reason"),
        (["TB0", "--from", "2999-01-02", "--reason", "x"], "2999-01-02 is in the future"),
    ],
)
def test_epochs_add_invalid_arguments_are_error(qc, arguments, message):
    assert_error(qc("epochs", "add", *arguments), message)


@pytest.mark.usefixtures("remembering")
def test_labels_sample_labels_spot_check_good(qc):
    run = qc("labels", "sample", "--night", "2026-01-03", "--by", "kim")
    assert run.code == 0, run.err
    assert "TINY.22[0] TB0: good, " in run.out
    assert qc("labels", "sample", "--night", "2026-01-03").code == 2  # none is left


@pytest.mark.usefixtures("judged")
def test_epochs_undo_unknown_number_is_error(qc):
    assert_error(qc("epochs", "undo", 1, "--reason", "x"), "epoch No. 1")


@pytest.mark.usefixtures("judged")
def test_labels_import_missing_file_is_error(qc):
    assert_error(qc("labels", "import", "none.csv"), "No such file or directory: 'none.csv'")
