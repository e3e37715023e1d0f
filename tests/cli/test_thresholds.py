"""Commands of `qc thresholds`."""

import json

import pytest

from tests.cli.conftest import UNTRAINED, assert_error
from tests.support.tiny_spectrograph import open_tiny, thresholds_text
from tests.support.verdict_rows import StoredExtension, add_extensions


@pytest.mark.usefixtures("remembered")
def test_tune_prints_first_changed_verdicts(qc):
    run = qc("thresholds", "tune", "TB0", "--false-alarms", "0.01")
    assert run.code == 0
    assert (
        "TB0: tuned from 100 nominal frames to 0.01 false alarms, 1 frame labelled bad" in run.out
    )
    assert "No longer flagged: 30 past frames" in run.out
    named, more, _ = run.out.split("No longer flagged")[1].partition("  and 10 more\n")
    assert named.count("times the new limit, labelled good") == 20
    assert more
    assert "merge height" in run.out
    whole = json.loads(qc("thresholds", "tune", "TB?", "--false-alarms", "0.01", "--json").out)
    [proposal] = whole["proposals"]
    assert len(proposal["no_longer_flagged"]) == 30
    assert whole["refused"] == []


def test_tune_write_adds_entry_with_reason(qc, remembered):
    file = remembered / "thresholds.yaml"
    before = file.read_text() + "# a comment of the user\n"
    file.write_text(before)
    assert qc("thresholds", "tune", "TB0").code == 0
    assert file.read_text() == before
    assert_error(qc("thresholds", "tune", "TB0", "--write"), "--write requires --reason")
    options = [
        "--write",
        "--reason",
        "a new lamp",
        "--by",
        "A. Störer",
        "--effective",
        "2026-08-01",
    ]
    run = qc("thresholds", "tune", "TB0", *options)
    assert run.code == 0
    assert run.err.endswith(f"1 entry from 2026-08-01 on in {file}\n")
    added = set(file.read_text().splitlines()) - set(before.splitlines())
    [line] = [line for line in added if "a new lamp" in line]
    assert "from: 2026-08-01" in line
    assert "A. Störer" in line
    assert "# a comment of the user" in file.read_text()
    assert_error(
        qc("thresholds", "tune", "TB0", *options), "TB0: has an entry from 2026-08-01 for encoder"
    )


@pytest.mark.usefixtures("remembered")
def test_tune_plot_writes_png(qc, tmp_path):
    run = qc("thresholds", "tune", "--plot", tmp_path / "[red]t.png")
    assert (run.code, run.err.splitlines()[-1]) == (0, f"Figure: {tmp_path / '[red]t.png'}")
    assert (tmp_path / "[red]t.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["TB1"], "'TB1' is no image type; did you mean TB0?"),
        (["TF0"], "TF0: no frame has been judged against 20 references"),
        (
            ["--recall", "0.9"],
            "TB0: 1 frame labelled bad, 5 needed to measure the recall of a limit",
        ),
        (["--recall", "0.9", "--false-alarms", "0.1"], "give --false-alarms or --recall, not both"),
        (["--plot", "/none/t.png"], "No such file or directory"),
        (["--plot", "t.jpg"], "t.jpg: expected a name that ends in .png"),
    ],
)
def test_tune_invalid_request_is_error(qc, arguments, message):
    run = qc("thresholds", "tune", *arguments)
    assert (run.code, run.out) == (2, "")
    assert message in run.err.splitlines()[-1]


def test_tune_error_names_three_types(qc, project_folder, installed):
    complete = (installed / "thresholds.yaml").read_text()
    (installed / "thresholds.yaml").write_text(thresholds_text(["TB0", "TF0"]))
    with open_tiny(project_folder) as project:
        types = ("UBB0", "UBW0", "URB1", "URB2", "URW1")
        add_extensions(
            project, *(StoredExtension(image_type=name, encoder=UNTRAINED) for name in types)
        )
    (installed / "thresholds.yaml").write_text(complete)
    assert_error(qc("thresholds", "tune"), "the limits stay; and 2 more like these")
