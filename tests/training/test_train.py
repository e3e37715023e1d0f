import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import select

from embeddings.classifier import Examples, Features, NamedArrays
from qc import db
from qc.core.enums import LabelName
from qc.db.findings import Finding
from qc.db.models import ClassifierRow
from qc.detection.classifier_features import predict
from qc.errors import ConfigurationError, InsufficientLabelsError
from qc.project import Project
from qc.training.train import (
    LabelledExamples,
    TrainingResult,
    calibration_error,
    description_of,
    exams,
    labelled_examples,
    measure,
    train,
)
from tests.support.databases import copied
from tests.support.tiny import (
    StandIn,
    light_leak,
    open_tiny,
    process,
    say_of_biases,
    spoil_labels,
    write_frame,
)

# Keras of NumPy 1, when it saves weights
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LATER = 60


@pytest.fixture(scope="module")
def lesson(taught, tmp_path_factory) -> Iterator[tuple[TrainingResult, Project]]:
    """The same, trained."""
    with copied(taught, tmp_path_factory.mktemp("trained") / "project") as project_folder:
        steps: list[tuple[int, int]] = []
        with open_tiny(project_folder) as project:
            trained = train(project, who="kim", progress=lambda *step: steps.append(step))
        assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
        with open_tiny(project_folder) as project:
            yield trained, project


@pytest.fixture
def unlearnt(taught, tmp_path):
    """A copy without a classifier."""
    with copied(taught, tmp_path / "copy") as copy, open_tiny(copy) as project:
        yield project


def judged(project: Project, folder, **options) -> Finding:
    """A frame of a later night, judged."""
    path = write_frame(folder, LATER, **options)
    process(project, path)
    with project.reads() as session:
        [finding] = db.findings.findings_named(session, path.name)
        return finding


def test_a_leak_is_called_one_after_people_have_said_what_it_is(lesson, unlearnt, inbox):
    _, project = lesson
    before = judged(unlearnt, inbox, change=light_leak)
    after = judged(project, inbox, change=light_leak)
    assert (before.verdict.predicted_type, before.verdict.predicted_kind) == (None, None)
    assert (after.verdict.predicted_type, after.verdict.predicted_kind) == ("TB0", "light_leak")
    assert not any("looks like" in reason for reason in before.verdict.reasons)
    assert after.verdict.reasons[1].startswith("looks like light leak (")
    assert " sigma" in after.verdict.reasons[1].partition("), by its ")[2]


def test_the_verdict_and_the_database_name_the_classifier(lesson, inbox):
    trained, project = lesson
    verdict = judged(project, inbox, number=7).verdict
    with project.reads() as session:
        [row] = session.scalars(select(ClassifierRow))
    assert verdict.classifier_digest == row.digest == trained.classifier.digest
    assert (row.who, row.accepted, row.why) == ("kim", True, "none was in use")
    assert row.figures["examples"] == {"TB0": 34, "TF0": 34, "light_leak": 14}
    assert row.figures["labelled"] == trained.labelled == 82


def test_figures_are_of_images_newer_than_all_that_was_learnt(lesson):
    trained, _ = lesson
    exam = trained.exam
    assert exam is not None
    assert exam.rest.days.max() < exam.examples.days.min()
    assert trained.new is not None
    assert trained.new.type_accuracy.value == 1
    assert trained.new.type_accuracy.low == pytest.approx(0.025 ** (1 / 12))  # 12 good images
    precision, recall = trained.new.kinds["light_leak"]
    assert (precision.value, recall.value, recall.count) == (1, 1, 6)


def test_a_fault_that_nobody_has_taught_is_missed(lesson):
    trained, _ = lesson
    assert trained.exam is not None
    assert trained.twin is not None
    unknown = frozenset({"lamp_off"})
    kinds = tuple(one and unknown for one in trained.exam.examples.kinds)
    figures = measure(trained.twin, replace(trained.exam.examples, kinds=kinds))
    assert figures.macro_f1.value == 0
    assert figures.kinds["lamp_off"][0].words == "none"


def test_a_record_is_json_for_every_database(lesson):
    trained, project = lesson
    with project.reads() as session:
        [row] = session.scalars(select(ClassifierRow))
    assert json.loads(json.dumps(row.figures, allow_nan=False))["digest"] == row.digest
    assert trained.outcome == "Accepted: it acts from now on; none was in use."


@pytest.mark.parametrize(("rate", "named"), [(0.5, True), (1e-9, False)])
def test_how_often_faults_are_expected_decides_whether_one_is_named(lesson, inbox, rate, named):
    trained, project = lesson
    finding = judged(project, inbox, number=11 if named else 12, change=light_leak)
    with project.reads() as session:
        told = description_of(session, finding)
    said = predict(trained.classifier, told, "TB0", {"light_leak": rate})
    assert (said.kind_probability > 0.5) == named
    assert finding.verdict.predicted_kind == "light_leak"  # flagged: something is wrong


def test_a_worse_classifier_is_kept_and_refused_unless_forced(lesson, tmp_path):
    _, project = lesson
    project_folder = project.settings.project
    with copied(project_folder, tmp_path / "copy") as copy, open_tiny(copy) as spoilt:
        spoil_labels(spoilt)
        refused = train(spoilt, who="lee")
        forced = train(spoilt, who="lee", force=True)
        assert (refused.accepted, forced.accepted) == (False, True)
        assert refused.why == "worse than the one in use on the newest fifth of the labels"
        assert refused.outcome.startswith("Refused: the old one stays; worse than")
        assert forced.why == f"{refused.why}, accepted by force"
        assert refused.old is not None
        assert refused.new is not None
        assert refused.old.macro_f1.value > refused.new.macro_f1.value
        with spoilt.reads() as session:
            rows = session.scalars(select(ClassifierRow)).all()
            acting = db.classifiers.newest_classifier(session, StandIn.fingerprint)
    assert [row.accepted for row in rows] == [True, False, True]
    assert acting is not None
    assert acting.id == rows[-1].id


def test_a_fault_without_a_name_teaches_nothing(unlearnt):
    say_of_biases(unlearnt, LabelName.BAD, "other", leaking=True)
    with unlearnt.reads() as session:
        kinds = labelled_examples(session, StandIn.fingerprint).examples.kinds
    assert (kinds.count(None), kinds.count(frozenset())) == (14, 68)
    with pytest.raises(InsufficientLabelsError, match=r"do not suffice.*expected 8 bad examples"):
        train(unlearnt, who="kim")


def test_an_accepted_outlier_teaches_nothing_of_faults(unlearnt):
    say_of_biases(unlearnt, LabelName.VALID_OUTLIER, leaking=True)
    with unlearnt.reads() as session:
        assert labelled_examples(session, StandIn.fingerprint).examples.kinds.count(None) == 14


def test_nothing_labelled_is_nothing_to_learn(project):
    with pytest.raises(InsufficientLabelsError, match=r"no extension is labelled yet.*'qc label'"):
        train(project, who="kim")


def test_what_another_encoder_has_judged_must_be_judged_again(unlearnt):
    other = StandIn()
    other.fingerprint = "stand-in-2"
    with pytest.raises(
        InsufficientLabelsError, match=r"none of the 82 .* stand-in-2.*'qc process --again'"
    ):
        train(replace(unlearnt, encoder=other), who="kim")


def test_a_classifier_told_other_numbers_is_refused_and_the_remedy_named(lesson, tmp_path):
    trained, project = lesson
    project_folder = project.settings.project
    head = trained.classifier.type_head
    older = replace(trained.classifier, type_head=replace(head, names=("x", *head.names[1:])))
    with copied(project_folder, tmp_path / "copy") as copy, open_tiny(copy) as opened:
        with opened.writes.begin() as session:
            session.scalars(select(ClassifierRow)).one().content = older.save()
        with pytest.raises(ConfigurationError, match=r"other detector numbers.*'qc train'"):
            _ = opened.classifier


def some(kinds: str, days: list[int]) -> Examples:
    """Examples that are good (g), have dust (d), or of which nobody knows (?)."""
    told = {"g": frozenset[str](), "d": frozenset({"dust"}), "?": None}
    n = len(kinds)
    nothing = NamedArrays(np.zeros((n, 0)), ())
    features = Features(np.zeros((n, 3), np.float32), "network-1", nothing, nothing)
    said = tuple(told[one] for one in kinds)
    return Examples(features, ("TB0",) * n, said, np.array(days), np.ones(n))


OLD, TRAINED, NEW = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3))


def test_an_exam_is_fair_without_the_labels_that_the_one_in_use_has_learnt_from():
    labelled = LabelledExamples(some("gdgdgd", [0, 1, 70, 71, 80, 81]), (*[OLD] * 4, NEW, NEW), 0)
    fair, month, fifth = exams(labelled, None, TRAINED)
    assert (list(fair.examples.days), list(fair.rest.days)) == ([80, 81], [0, 1, 70, 71])
    assert (list(month.examples.days), list(month.rest.days)) == ([70, 71, 80, 81], [0, 1])
    assert list(fifth.examples.days) == [80, 81]
    assert (fair.is_fair, month.is_fair, fifth.is_fair) == (True, False, True)
    assert "without those the one in use has learnt from" in fair.words


def test_without_a_classifier_in_use_every_label_is_fair():
    labelled = LabelledExamples(some("gd", [0, 81]), (OLD, OLD), 0)
    first, *_ = exams(labelled, None, None)
    assert (first.words, first.is_fair) == ("the newest month of labels", True)


def test_an_exam_of_simulated_examples_comes_last_and_says_so():
    simulated = some("gdgdgdgdgd", list(range(10)))
    labelled = LabelledExamples(some("gd", [0, 81]), (OLD, OLD), 0)
    first, *_, last = exams(labelled, simulated, None)
    assert (len(first.rest), first.simulated, first.is_real) == (11, 10, True)
    assert (list(last.examples.days), last.is_real, last.is_fair) == ([8, 9], False, False)
    assert (len(last.rest), last.simulated) == (10, 8)
    assert "simulated examples, as too few images are labelled" in last.words


def test_a_calibrated_classifier_has_no_calibration_error():
    promised = np.array([0.25] * 8 + [0.75] * 8)
    truth = np.array([True] * 2 + [False] * 6 + [True] * 6 + [False] * 2)
    assert calibration_error(promised, truth) == 0
    assert calibration_error(promised, ~truth) == 0.5
