"""Hidden command names of version 0.1: the same results as the new names."""

import json

import pytest

from tests.cli.conftest import assert_error
from tests.support.tiny_spectrograph import write_frame

LEAK = "TINY.2026-01-02T20:00:00"


@pytest.mark.slow
@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["show", LEAK, "--json"], ["frames", "show", LEAK, "--json"]),
        (["export", "verdicts"], ["frames", "export", "verdicts"]),
        (["label", "--kinds"], ["labels", "kinds"]),
        (["epoch", "--list", "--json"], ["epochs", "list", "--json"]),
        (["process", "--again", "--json"], ["archive", "reprocess", "--json"]),
        (["alerts", "--json"], ["alerts", "list", "--json"]),
        (["user", "list", "--json"], ["users", "list", "--json"]),
    ],
)
def test_old_command_prints_the_same_as_new(qc, old, new):
    assert qc(*old)[:2] == qc(*new)[:2]


@pytest.mark.usefixtures("judged")
def test_old_label_command_adds_undoes_and_imports(qc, tmp_path):
    run = qc("label", LEAK, "--as", "bad", "--kind", "light-leak", "--who", "kim")
    assert (run.code, "1 of 1 label changed" in run.out) == (0, True)
    assert qc("label", LEAK, "--undo").code == 0
    file = tmp_path / "labels.csv"
    file.write_text(f"file,label,kind\n{LEAK}.fits,bad,light_leak\n")
    assert qc("label", "--from", file).code == 0


@pytest.mark.usefixtures("judged")
def test_old_epoch_command_adds_and_undoes(qc):
    options = ["--from", "2026-01-02", "--why", "new lamp", "--who", "kim"]
    assert qc("epoch", "TB0", *options).code == 0
    [entry] = json.loads(qc("epoch", "--json").out)
    assert (entry["scope"], entry["who"]) == ("TB0", "kim")
    assert qc("epoch", "--undo", 1, "--why", "a slip").code == 0


@pytest.mark.usefixtures("installed")
def test_old_process_command_reads_files(qc, inbox):
    write_frame(inbox, 1, 1)
    assert qc("process", inbox).out == "1 file: 1 processed, 1 UNDECIDED\n"


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", LEAK], "give --as good, bad or valid-outlier, or --undo"),
        (["label", "--sample", "--as", "bad", "--kind", "other"], "--sample requires --as good"),
        (["label", "--sample", "TINY.1", "--as", "good"], "--sample requires --as good"),
        (["epoch", "TB0", "--why", "x"], "an epoch requires --from DATE and --why TEXT"),
        (["epoch", "--from", "2026-01-02"], "expected an image type or instrument before --from"),
        (["epoch", "TB0", "--undo", "1"], "enter one epoch, or --undo one, or --list all"),
        (["report", "--month", "last", "--week"], "give --month alone"),
    ],
)
def test_old_command_invalid_arguments_are_error(qc, arguments, message):
    assert_error(qc(*arguments), message)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "arguments",
    [["--again", "x.fits"], ["--again", "--label", "good"], ["x.fits", "--since", "2026-01-01"]],
)
def test_old_process_command_rejects_mixed_options(qc, arguments):
    run = qc("process", *arguments)
    assert (run.code, run.out) == (2, "")
