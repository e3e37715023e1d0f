"""Commands of `qc classifier`."""

import json

import pytest
from sqlalchemy import update

from qc.db.schema.models import EncoderRow
from tests.cli.conftest import UNTRAINED, assert_error, install
from tests.support.databases import copied_project
from tests.support.tiny_spectrograph import open_tiny, spoil_labels, thresholds_text

SIMULATED = "resnet50-simulated-physical-0249b36d4242"


@pytest.fixture
def schooled(taught, tmp_path, monkeypatch):
    """A project with labels enough to train on, judged by a network without shipped examples."""
    with copied_project(taught, tmp_path / "schooled") as project_folder:
        with open_tiny(project_folder) as project, project.write_session.begin() as session:
            session.execute(update(EncoderRow).values(fingerprint=SIMULATED))
        install(project_folder, SIMULATED)
        monkeypatch.setenv("QC_PROJECT", str(project_folder))
        yield project_folder


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_train_accepts_better_and_refuses_worse_classifier(qc, schooled, tmp_path):
    page = tmp_path / "[red] classifier.html"
    run = qc("classifier", "train", "--report", page, "--by", "kim")
    assert run.code == 0
    assert "Trained on 82 labelled examples, none simulated." in run.out
    assert "Evaluated on 18 images: the newest fifth of the labels, 2026-01-27 to" in run.out
    assert "image type, share right" in run.out
    assert run.out.splitlines()[-1] == "Accepted: it acts from now on; none was in use."
    assert run.err.splitlines()[0] == "train (3)"
    assert run.err.splitlines()[-1] == f"Report: {page}"
    assert "Trained by kim" in " ".join(page.read_text().split())
    (schooled / "thresholds.yaml").write_text(thresholds_text(["TB0", "TF0"]))
    with open_tiny(schooled) as project:
        spoil_labels(project)
    install(schooled, SIMULATED)
    refused = qc("classifier", "train", "--json")
    result = json.loads(refused.out)
    assert (refused.code, result["accepted"]) == (1, False)
    assert result["new"]["macro_f1"]["value"] < result["old"]["macro_f1"]["value"]


@pytest.mark.usefixtures("judged")
def test_train_without_labelled_embeddings_is_error(qc):
    message = (
        f"none of the 20 labelled extensions was judged by the encoder in use, {UNTRAINED}; judge"
    )
    assert_error(qc("classifier", "train"), message)


@pytest.mark.usefixtures("judged")
def test_show_prints_source_and_encoder(qc):
    record = json.loads(qc("classifier", "show", "--json").out)
    assert (record["encoder"], record["source"]) == (UNTRAINED, "shipped")
    assert "source" in qc("classifier", "show").out
