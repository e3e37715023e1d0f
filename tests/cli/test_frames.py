"""Commands of `qc frames`."""

import json

import pytest

from tests.cli.conftest import assert_error
from tests.support.databases import run_sql, write_settings
from tests.support.tiny_spectrograph import write_frame

FIRST, LEAK = "TINY.2026-01-01T20:00:00", "TINY.2026-01-02T20:00:00"


@pytest.mark.once
def test_process_prints_states_and_verdicts(qc, installed, inbox):
    paths = [write_frame(inbox, 1, 1), inbox / "[red]x.fits"]
    write_frame(inbox, 1, 2).rename(paths[1])
    run = qc("frames", "process", inbox)
    assert (run.code, run.err) == (0, "process (2)\n")
    assert run.out == "2 files: 2 processed, 2 UNDECIDED\n"
    again = qc("frames", "process", inbox, "--json")
    assert [record["state"] for record in json.loads(again.out)] == ["known", "known"]
    (inbox / "[blue]:smile:.fits").write_bytes(b"?")
    broken = qc("frames", "process", inbox)
    assert broken.code == 1
    assert "[blue]:smile:.fits" in broken.out
    as_json = json.loads(qc("frames", "process", inbox, "--json").out)
    assert {record["state"] for record in as_json} == {"failed", "known"}
    assert installed.is_dir()


@pytest.mark.usefixtures("installed")
def test_process_missing_path_is_error(qc, inbox):
    assert_error(qc("frames", "process", inbox / "[red]none.fits"), "[red]none.fits: no such file")


@pytest.mark.usefixtures("installed")
def test_process_empty_folder_prints_no_files(qc, inbox):
    assert qc("frames", "process", inbox) == (0, "0 files: none\n", "")


@pytest.mark.usefixtures("judged")
def test_export_writes_stdout_or_file(qc, tmp_path):
    run = qc("frames", "export", "verdicts", "--since", "2026-01-02")
    assert run.code == 0
    assert run.out.splitlines()[0].startswith("file,extension,image_type,observed_at,status,")
    assert len(run.out.splitlines()) == 2
    file = tmp_path / "[red]v.csv"
    result = qc("frames", "export", "verdicts", "--out", file)
    assert (result.code, result.out, result.err) == (0, "", f"21 rows in {file}\n")
    assert len(file.read_text().splitlines()) == 22


@pytest.mark.usefixtures("judged")
def test_export_missing_folder_is_error(qc, tmp_path):
    assert_error(
        qc("frames", "export", "labels", "--out", tmp_path / "no" / "x.csv"), "No such file"
    )


def test_show_prints_prediction_with_probability(qc, judged):
    run_sql(
        judged,
        "UPDATE verdict SET predicted_type='TB0', type_probability=0.97, "
        "predicted_kind='light_leak', kind_probability=0.8",
    )
    shown = " ".join(qc("frames", "show", LEAK).out.split())
    assert "predicted type │ TB0 (97%)" in shown
    assert "predicted kind │ light_leak (80%)" in shown
    assert "kind probability" not in shown
    assert json.loads(qc("frames", "show", LEAK, "--json").out)[0]["kind_probability"] == 0.8


@pytest.mark.usefixtures("judged")
def test_show_prints_reference_size_and_effect(qc):
    assert "n = 20: limits 1.20 times as wide" in qc("frames", "show", LEAK).out
    assert "n = 0: provisional, 20 needed" in qc("frames", "show", FIRST).out


@pytest.mark.parametrize("command", [["frames", "process"], ["archive", "backfill"]])
def test_process_missing_weights_is_error(qc, installed, inbox, command):
    write_settings(installed, 'instruments = "instruments"\nweights = "w.weights.h5"\n')
    write_frame(inbox)
    assert_error(qc(*command, inbox), f"{installed}/w.weights.h5: no such weights file")


@pytest.mark.usefixtures("remembered")
def test_similar_prints_neighbours_with_labels(qc):
    run = qc("frames", "similar", "TINY.0", "-k", "100", "--labelled")
    assert run.code == 0
    assert run.out.startswith("TINY.0[0] (TB0) is most like TINY.1[0] of the night 2026-01-01")
    assert "ANOMALOUS" not in run.out
    assert "bad, lamp_dead, at last" in run.out
    [result] = json.loads(
        qc("frames", "similar", "TINY.0", "-k", "3", "--type", "any", "--json").out
    )
    assert [row["name"] for row in result["neighbours"]] == [f"TINY.{n}[0]" for n in (1, 2, 3)]


@pytest.mark.usefixtures("remembered")
def test_similar_unknown_frame_is_error(qc):
    assert_error(
        qc("frames", "similar", "[red]x"), "[red]x: neither the archive name, file name or path"
    )
