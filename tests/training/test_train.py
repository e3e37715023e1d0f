import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import select

from embeddings.classifier_data import Examples, Features, NamedArrays
from qc import db
from qc.core.enums import LabelName
from qc.db.findings import Finding
from qc.db.schema.models import ClassifierRow
from qc.detection.classifier_features import predict
from qc.errors import ConfigurationError, InsufficientLabelsError
from qc.project import ProjectContext
from qc.training.evaluate import calibration_error, measure
from qc.training.examples import LabelledExamples, features_of_finding, labelled_examples
from qc.training.train import TrainingResult, evaluation_splits, train
from tests.support.databases import copied_project
from tests.support.tiny_spectrograph import (
    StandIn,
    label_biases,
    light_leak,
    open_tiny,
    process,
    spoil_labels,
    write_frame,
)

# Keras of NumPy 1, when it saves weights
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

LATER = 60


@pytest.fixture(scope="module")
def training(taught, tmp_path_factory) -> Iterator[tuple[TrainingResult, ProjectContext]]:
    """A labelled project with a trained classifier, and its result."""
    with copied_project(taught, tmp_path_factory.mktemp("trained") / "project") as project_folder:
        steps: list[tuple[int, int]] = []
        with open_tiny(project_folder) as project:
            trained = train(project, author="kim", progress=lambda *step: steps.append(step))
        assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
        with open_tiny(project_folder) as project:
            yield trained, project


@pytest.fixture
def untrained(taught, tmp_path):
    """A copy without a classifier."""
    with copied_project(taught, tmp_path / "copy") as copy, open_tiny(copy) as project:
        yield project


def judged(project: ProjectContext, folder, **options) -> Finding:
    """Judge a frame of a later night."""
    path = write_frame(folder, LATER, **options)
    process(project, path)
    with project.read_session() as session:
        [finding] = db.findings.findings_named(session, path.name)
        return finding


def test_trained_classifier_names_a_light_leak(training, untrained, inbox):
    _, project = training
    before = judged(untrained, inbox, change=light_leak)
    after = judged(project, inbox, change=light_leak)
    assert (before.verdict.predicted_type, before.verdict.predicted_kind) == (None, None)
    assert (after.verdict.predicted_type, after.verdict.predicted_kind) == ("TB0", "light_leak")
    assert not any("looks like" in reason for reason in before.verdict.reasons)
    assert after.verdict.reasons[1].startswith("looks like light leak (")
    assert " sigma" in after.verdict.reasons[1].partition("), by its ")[2]


def test_verdict_and_database_refer_to_the_classifier(training, inbox):
    trained, project = training
    verdict = judged(project, inbox, number=7).verdict
    with project.read_session() as session:
        [row] = session.scalars(select(ClassifierRow))
    assert verdict.classifier_digest == row.digest == trained.classifier.digest
    assert (row.who, row.accepted, row.why) == ("kim", True, "none was in use")
    assert row.figures["examples"] == {"TB0": 34, "TF0": 34, "light_leak": 14}
    assert row.figures["labelled"] == trained.labelled == 82


def test_evaluation_uses_images_newer_than_the_training(training):
    trained, _ = training
    exam = trained.split
    assert exam is not None
    assert exam.rest.days.max() < exam.examples.days.min()
    assert trained.new is not None
    assert trained.new.type_accuracy.value == 1
    assert trained.new.type_accuracy.low == pytest.approx(0.025 ** (1 / 12))  # 12 good images
    precision, recall = trained.new.kinds["light_leak"]
    assert (precision.value, recall.value, recall.count) == (1, 1, 6)


def test_unlearnt_kind_is_missed(training):
    trained, _ = training
    assert trained.split is not None
    assert trained.evaluated is not None
    unknown = frozenset({"lamp_off"})
    kinds = tuple(kinds and unknown for kinds in trained.split.examples.kinds)
    figures = measure(trained.evaluated, replace(trained.split.examples, kinds=kinds))
    assert figures.macro_f1.value == 0
    assert figures.kinds["lamp_off"][0].text == "none"


def test_figures_record_is_json(training):
    trained, project = training
    with project.read_session() as session:
        [row] = session.scalars(select(ClassifierRow))
    assert json.loads(json.dumps(row.figures, allow_nan=False))["digest"] == row.digest
    assert trained.outcome == "Accepted: it acts from now on; none was in use."


@pytest.mark.parametrize(("rate", "named"), [(0.5, True), (1e-9, False)])
def test_prior_decides_whether_a_kind_is_named(training, inbox, rate, named):
    trained, project = training
    finding = judged(project, inbox, number=11 if named else 12, change=light_leak)
    with project.read_session() as session:
        features = features_of_finding(session, finding)
    prediction = predict(trained.classifier, features, "TB0", {"light_leak": rate})
    assert (prediction.kind_probability > 0.5) == named
    assert finding.verdict.predicted_kind == "light_leak"  # flagged: something is wrong


def test_worse_classifier_is_stored_and_refused_unless_forced(training, tmp_path):
    _, project = training
    project_folder = project.settings.project
    with copied_project(project_folder, tmp_path / "copy") as copy, open_tiny(copy) as spoilt:
        spoil_labels(spoilt)
        refused = train(spoilt, author="lee")
        forced = train(spoilt, author="lee", force=True)
        assert (refused.accepted, forced.accepted) == (False, True)
        assert refused.reason == "worse than the one in use on the newest fifth of the labels"
        assert refused.outcome.startswith("Refused: the old one stays; worse than")
        assert forced.reason == f"{refused.reason}, accepted by force"
        assert refused.old is not None
        assert refused.new is not None
        assert refused.old.macro_f1.value > refused.new.macro_f1.value
        with spoilt.read_session() as session:
            rows = session.scalars(select(ClassifierRow)).all()
            acting = db.embeddings.newest_classifier(session, StandIn.fingerprint)
    assert [row.accepted for row in rows] == [True, False, True]
    assert acting is not None
    assert acting.id == rows[-1].id


def test_label_without_a_kind_is_no_example(untrained):
    label_biases(untrained, LabelName.BAD, "other", leaking=True)
    with untrained.read_session() as session:
        kinds = labelled_examples(session, StandIn.fingerprint).examples.kinds
    assert (kinds.count(None), kinds.count(frozenset())) == (14, 68)
    with pytest.raises(InsufficientLabelsError, match=r"do not suffice.*expected 8 bad examples"):
        train(untrained, author="kim")


def test_valid_outlier_is_no_example_of_a_fault(untrained):
    label_biases(untrained, LabelName.VALID_OUTLIER, leaking=True)
    with untrained.read_session() as session:
        assert labelled_examples(session, StandIn.fingerprint).examples.kinds.count(None) == 14


def test_train_without_labels_is_an_error(project):
    with pytest.raises(
        InsufficientLabelsError, match=r"no extension is labelled yet.*'qc labels add'"
    ):
        train(project, author="kim")


def test_train_with_another_encoder_is_an_error(untrained):
    encoder = StandIn()
    encoder.fingerprint = "stand-in-2"
    with pytest.raises(
        InsufficientLabelsError, match=r"none of the 82 .* stand-in-2.*'qc archive reprocess'"
    ):
        train(replace(untrained, encoder=encoder), author="kim")


def test_classifier_with_other_features_is_refused(training, tmp_path):
    trained, project = training
    project_folder = project.settings.project
    head = trained.classifier.type_head
    older = replace(trained.classifier, type_head=replace(head, names=("x", *head.names[1:])))
    with copied_project(project_folder, tmp_path / "copy") as copy, open_tiny(copy) as opened:
        with opened.write_session.begin() as session:
            session.scalars(select(ClassifierRow)).one().content = older.save()
        with pytest.raises(ConfigurationError, match=r"other metrics.*'qc classifier train'"):
            _ = opened.classifier


def make_examples(kinds: str, days: list[int]) -> Examples:
    """Examples that are good (g), have dust (d), or are unknown (?)."""
    kinds_of = {"g": frozenset[str](), "d": frozenset({"dust"}), "?": None}
    n = len(kinds)
    nothing = NamedArrays(np.zeros((n, 0)), ())
    features = Features(np.zeros((n, 3), np.float32), "network-1", nothing, nothing)
    faults = tuple(kinds_of[letter] for letter in kinds)
    return Examples(features, ("TB0",) * n, faults, np.array(days), np.ones(n))


OLD, TRAINED, NEW = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3))


def test_fair_split_has_no_labels_of_the_classifier_in_use():
    labelled = LabelledExamples(
        make_examples("gdgdgd", [0, 1, 70, 71, 80, 81]), (*[OLD] * 4, NEW, NEW), 0
    )
    fair, month, fifth = evaluation_splits(labelled, None, TRAINED)
    assert (list(fair.examples.days), list(fair.rest.days)) == ([80, 81], [0, 1, 70, 71])
    assert (list(month.examples.days), list(month.rest.days)) == ([70, 71, 80, 81], [0, 1])
    assert list(fifth.examples.days) == [80, 81]
    assert (fair.is_fair, month.is_fair, fifth.is_fair) == (True, False, True)
    assert "without those the one in use has learnt from" in fair.description


def test_first_split_without_a_classifier_in_use_is_fair():
    labelled = LabelledExamples(make_examples("gd", [0, 81]), (OLD, OLD), 0)
    first, *_ = evaluation_splits(labelled, None, None)
    assert (first.description, first.is_fair) == ("the newest month of labels", True)


def test_split_of_simulated_examples_comes_last():
    simulated = make_examples("gdgdgdgdgd", list(range(10)))
    labelled = LabelledExamples(make_examples("gd", [0, 81]), (OLD, OLD), 0)
    first, *_, last = evaluation_splits(labelled, simulated, None)
    assert (len(first.rest), first.simulated, first.is_real) == (11, 10, True)
    assert (list(last.examples.days), last.is_real, last.is_fair) == ([8, 9], False, False)
    assert (len(last.rest), last.simulated) == (10, 8)
    assert "simulated examples, as too few images are labelled" in last.description


def test_calibration_error_of_a_calibrated_classifier_is_zero():
    promised = np.array([0.25] * 8 + [0.75] * 8)
    truth = np.array([True] * 2 + [False] * 6 + [True] * 6 + [False] * 2)
    assert calibration_error(promised, truth) == 0
    assert calibration_error(promised, ~truth) == 0.5
