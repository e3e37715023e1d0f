"""Labels to a classifier: what is learnt, how good it is, and whether it replaces the old one."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings.classifier import ClassifierError, DenseClassifier, Examples
from qc import db
from qc._time import utc_now
from qc.core.enums import LabelName
from qc.core.reference import REFERENCE_NEEDED
from qc.db.findings import Finding
from qc.db.models import ClassifierRow
from qc.detection.classifier_features import (
    ClassifierFeatures,
    differences_of,
    features_of,
    looks_of,
)
from qc.errors import ConfigurationError, InsufficientLabelsError
from qc.project import Project, shipped_examples

Doubles = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Progress = Callable[[int, int], None]

NEWEST = timedelta(days=30)  # what a new classifier must not be worse on
EXAM_NEEDED = 5  # images; fewer say nothing
NAMED = 0.5  # a fault more probable than not is named
CONFIDENCE = 0.95
BINS = 10
_NEWEST_PART = 0.2
_LABEL_WEIGHT = 5.0  # a real image that a person has seen counts as so many simulated ones
_RESAMPLED = 500
_UNNAMED = frozenset({"", "other", "needs_discussion"})  # say that, not what
_STEPS = 3  # read, a twin for the exam, the classifier itself


@dataclass(frozen=True)
class LabelledExamples:
    """What people have said.

    Attributes
    ----------
    examples : Examples
        n of them.
    said_at : tuple of n datetime
    elsewhere : int
        Further labelled extensions, which another encoder has judged.
    """

    examples: Examples
    said_at: tuple[datetime, ...]
    elsewhere: int


@dataclass(frozen=True)
class EvaluationSplit:
    """Images to examine on, and those that may be learnt from for it.

    Attributes
    ----------
    examples : Examples
        Of the newest days.
    rest : Examples
        Of earlier days, and simulated ones; the simulated come first.
    simulated : int
        How many of the rest are.
    words : str
        What was chosen, for people.
    is_real : bool
        Whether people have labelled them.
    is_fair : bool
        Whether the classifier in use has not learnt from it either.
    """

    examples: Examples
    rest: Examples
    simulated: int
    words: str
    is_real: bool
    is_fair: bool

    @property
    def nights(self) -> tuple[date, date]:
        """Return the first and the last night."""
        days = self.examples.days
        return date.fromordinal(int(days.min())), date.fromordinal(int(days.max()))


@dataclass(frozen=True)
class Proportion:
    """A share of so many, with its interval."""

    value: float
    low: float
    high: float
    count: int

    @property
    def words(self) -> str:
        """Say it in three digits."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})" if self.count else "none"


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of n images, and what is true.

    Attributes
    ----------
    types : tuple of n str
        The header's.
    seen : tuple of n str
        What each looks like most.
    own : (n,) float64 array
        Probability of the header's type.
    good, told : (n,) bool arrays
        Where nothing is wrong, and where it is known whether something is.
    kinds : tuple of k str
    promised : (n, k) float64 array
        Probability of each kind; a kind that the classifier does not know is as probable as it
        is frequent.
    truth : (n, k) bool array
    """

    types: tuple[str, ...]
    seen: tuple[str, ...]
    own: Doubles
    good: Booleans
    told: Booleans
    kinds: tuple[str, ...]
    promised: Doubles
    truth: Booleans


@dataclass(frozen=True)
class EvaluationFigures:
    """How good a classifier is on images that it has not learnt from.

    Attributes
    ----------
    type_accuracy : Share
        Of good images, those whose most probable type is the header's.
    kinds : mapping of kind to (precision, recall)
    macro_f1 : Share
        Mean over the kinds of fault in the exam.
    calibration_error : float
        Expected calibration error of "has this fault": how far promised and true rates differ.
    loss : (n,) float64 array
        Log loss of each image's answers; what two classifiers are compared by.
    """

    type_accuracy: Proportion
    kinds: Mapping[str, tuple[Proportion, Proportion]]
    macro_f1: Proportion
    calibration_error: float
    loss: Doubles


@dataclass(frozen=True)
class TrainingResult:
    """What became of a training.

    Attributes
    ----------
    examples : Examples
        Learnt from; the simulated ones come first.
    simulated : int
        How many are.
    exam : Exam or None
        None where there are too few examples for one.
    twin : DenseClassifier or None
        Trained on the exam's rest alone.
    new, old : Figures or None
        The twin's and those of the classifier in use, on the exam; the old ones only where it is
        fair.
    accepted : bool
    why : str
    """

    classifier: DenseClassifier
    examples: Examples
    simulated: int
    exam: EvaluationSplit | None
    twin: DenseClassifier | None
    new: EvaluationFigures | None
    old: EvaluationFigures | None
    accepted: bool
    why: str

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Return what is compared: its name, the new one's and the old one's, in words."""
        told = [
            {name: say(each) for name, say in _COMPARED.items()} if each else {}
            for each in (self.new, self.old)
        ]
        return [(name, told[0].get(name, ""), told[1].get(name, "")) for name in _COMPARED]

    @property
    def outcome(self) -> str:
        """Say whether it acts from now on, and why."""
        acts = "Accepted: it acts from now on" if self.accepted else "Refused: the old one stays"
        return f"{acts}; {self.why}."

    @property
    def labelled(self) -> int:
        """Return how many examples people have labelled."""
        return len(self.examples) - self.simulated


def train(
    project: Project, *, who: str, force: bool = False, progress: Progress | None = None
) -> TrainingResult:
    """Train a classifier on the simulated examples and on what people have labelled; keep it.

    It replaces the one in use if it is not worse on the newest month of labels, or by force.

    Parameters
    ----------
    progress : callable, optional
        Told how many steps are done, and of how many; each may take half a minute.

    Raises
    ------
    CannotTrain
        If there is too little to learn from. The classifier in use stays.
    """
    report = progress or (lambda _done, _total: None)
    report(0, _STEPS)
    with project.reads() as session:
        labelled = labelled_examples(session, project.encoder.fingerprint)
        row = db.classifiers.newest_classifier(session, project.encoder.fingerprint)
    simulated = _simulated(project.encoder.fingerprint)
    _check_anything(labelled, project.encoder.fingerprint)
    report(1, _STEPS)
    candidates = exams(labelled, simulated, row.trained_at if row else None)
    exam, twin = _examined(candidates)
    report(2, _STEPS)
    trained = _trained(_together(simulated, labelled.examples), simulated, exam, twin)
    trained = _compared(trained, _in_use(project), force=force)
    _record(project, trained, who)
    report(3, _STEPS)
    return trained


def labelled_examples(session: Session, fingerprint: str) -> LabelledExamples:
    """Return what people have labelled, of the extensions that this encoder has judged.

    An outlier that was accepted has its type, but differs from references that were made before:
    it teaches no fault, nor that there is none. So does a bad image whose fault has no name.
    """
    every = [one for one in db.findings.findings(session, date.min) if one.label is not None]
    known = [one for one in every if one.fingerprint == fingerprint]
    examples = Examples(
        features_of([description_of(session, one) for one in known], fingerprint),
        tuple(one.extension.image_type for one in known),
        tuple(_kinds_of(one) for one in known),
        np.array([_day(one).toordinal() for one in known], int),
        np.full(len(known), _LABEL_WEIGHT),
    )
    said_at = tuple(one.label.at for one in known if one.label is not None)
    return LabelledExamples(examples, said_at, elsewhere=len(every) - len(known))


def description_of(
    session: Session, finding: Finding, embedding: NDArray[np.float32] | None = None
) -> ClassifierFeatures:
    """Return what a classifier is told of a stored extension, as when it was judged.

    Parameters
    ----------
    embedding : (d,) float32 array, optional
        Its own, where it was read with many others.
    """
    verdict, extension = finding.verdict, finding.extension
    differences = differences_of(
        verdict.z, verdict.patterns or {}, verdict.merge_height, verdict.residual, verdict.threshold
    )
    return ClassifierFeatures(
        db.embeddings.embedding_of(session, extension.id, verdict.encoder_id)
        if embedding is None
        else embedding,
        looks_of(db.block_statistics.appearance_of(session, extension), extension.metrics),
        differences if verdict.reference_size >= REFERENCE_NEEDED else {},
    )


def _kinds_of(finding: Finding) -> frozenset[str] | None:
    assert finding.label is not None
    if finding.label.label == LabelName.GOOD:
        return frozenset()
    kind = finding.label.kind
    named = finding.label.label == LabelName.BAD and kind not in _UNNAMED
    return frozenset({kind}) if named else None


def _day(finding: Finding) -> date:
    assert finding.frame.night is not None  # a processed frame has one
    return finding.frame.night


# --- what is learnt ------------------------------------------------------------------------------


def _check_anything(labelled: LabelledExamples, fingerprint: str) -> None:
    if len(labelled.examples):
        return
    if labelled.elsewhere:
        raise InsufficientLabelsError(
            f"none of the {labelled.elsewhere} labelled extensions was judged by the encoder in "
            f"use, {fingerprint}; judge them again with 'qc process --again'"
        )
    raise InsufficientLabelsError(
        "no extension is labelled yet, so there is nothing to learn; say with 'qc label' which are "
        "good, and which are bad and why"
    )


def _simulated(fingerprint: str) -> Examples | None:
    """Return the examples that came with the program, if they are this encoder's."""
    examples = shipped_examples()
    known = examples is not None and examples.features.fingerprint == fingerprint
    return examples if known else None


def _together(simulated: Examples | None, labelled: Examples) -> Examples:
    try:
        return labelled if simulated is None else simulated + labelled
    except ClassifierError as error:
        raise ConfigurationError(f"the simulated examples of the program: {error}") from error


def fitted(examples: Examples) -> DenseClassifier:
    """Return a classifier trained on examples.

    Raises
    ------
    CannotTrain
        If they are too few.
    """
    try:
        return DenseClassifier.fit(examples)
    except ClassifierError as error:
        raise InsufficientLabelsError(
            f"the labels do not suffice to learn from: {error}"
        ) from error


def _in_use(project: Project) -> DenseClassifier | None:
    """Return the classifier in use; none where it cannot be read: a new one is the remedy."""
    try:
        return project.classifier
    except ConfigurationError:
        return None


# --- the exam ------------------------------------------------------------------------------------


def exams(
    labelled: LabelledExamples, simulated: Examples | None, trained_at: datetime | None
) -> Iterator[EvaluationSplit]:
    """Yield the exams that may be held, best first, telling or not.

    Labels that the classifier in use has learnt from would flatter it.
    """
    days = labelled.examples.days
    fresh = np.array([trained_at is None or at > trained_at for at in labelled.said_at])
    month = days > days.max() - NEWEST.days
    fifth = days >= np.quantile(days, 1 - _NEWEST_PART)
    for chosen, words in (
        (month & fresh, "the newest month of labels, without those the one in use has learnt from"),
        (month, "the newest month of labels"),
        (fifth, "the newest fifth of the labels"),
    ):
        if chosen.any():
            is_fair = bool(fresh[chosen].all())
            every = "the newest month of labels" if (chosen == month).all() else words
            yield _real_exam(labelled.examples, simulated, chosen, every, is_fair=is_fair)
    if simulated is not None:
        yield _simulated_exam(labelled.examples, simulated)


def _real_exam(
    labelled: Examples,
    simulated: Examples | None,
    chosen: Booleans,
    words: str,
    *,
    is_fair: bool,
) -> EvaluationSplit:
    before = labelled[labelled.days < labelled.days[chosen].min()]
    return EvaluationSplit(
        examples=labelled[chosen],
        rest=_together(simulated, before),
        simulated=len(simulated or ()),
        words=words,
        is_real=True,
        is_fair=is_fair,
    )


def _simulated_exam(labelled: Examples, simulated: Examples) -> EvaluationSplit:
    newest = simulated.days >= np.quantile(simulated.days, 1 - _NEWEST_PART)
    before = simulated[~newest]
    return EvaluationSplit(
        examples=simulated[newest],
        rest=before + labelled,
        simulated=len(before),
        words="the newest fifth of the simulated examples, as too few images are labelled",
        is_real=False,
        is_fair=False,
    )


def _examined(
    exams: Iterator[EvaluationSplit],
) -> tuple[EvaluationSplit, DenseClassifier] | tuple[None, None]:
    """Return the first exam that tells something, and a classifier that has learnt its rest."""
    for exam in exams:
        if _is_telling(exam):
            try:
                return exam, fitted(exam.rest)
            except InsufficientLabelsError:
                continue
    return None, None


def _is_telling(exam: EvaluationSplit) -> bool:
    """Say whether there are good and bad images, and not most of what was labelled."""
    told = [one for one in exam.examples.kinds if one is not None]
    enough = len(told) >= EXAM_NEEDED and any(told) and not all(told)
    earlier = len(exam.rest) - exam.simulated
    return enough and (earlier >= len(exam.examples) or not exam.is_real)


# --- the old and the new -------------------------------------------------------------------------


def _trained(
    examples: Examples,
    simulated: Examples | None,
    exam: EvaluationSplit | None,
    twin: DenseClassifier | None,
) -> TrainingResult:
    return TrainingResult(
        classifier=fitted(examples),
        examples=examples,
        simulated=len(simulated or ()),
        exam=exam,
        twin=twin,
        new=measure(twin, exam.examples) if exam and twin else None,
        old=None,
        accepted=True,
        why="",
    )


def _compared(
    trained: TrainingResult, old: DenseClassifier | None, *, force: bool
) -> TrainingResult:
    """Hold the twin, which has not seen the exam, against the classifier in use."""
    exam, twin = trained.exam, trained.twin
    if old is None:
        return replace(trained, why="none was in use")
    if exam is None or twin is None or not exam.is_fair:
        why = (
            f"there is nothing to compare them on: fewer than {EXAM_NEEDED} images of the newest "
            "month, good and bad, that the one in use has not learnt from"
        )
        return replace(trained, why=why)
    kinds = _kinds_asked(exam.examples, twin, old)
    new_figures, old_figures = (measure(one, exam.examples, kinds=kinds) for one in (twin, old))
    worse = _is_worse(new_figures.loss, old_figures.loss)
    why = f"{'worse' if worse else 'not worse'} than the one in use on {exam.words}"
    if worse and force:
        why += ", accepted by force"
    return replace(trained, new=new_figures, old=old_figures, accepted=force or not worse, why=why)


def _is_worse(new: Doubles, old: Doubles) -> bool:
    """Say whether the losses of the same images have risen by more than chance would."""
    rise = new - old
    error = rise.std() / np.sqrt(len(rise))
    return bool(rise.mean() > error)


def _record(project: Project, trained: TrainingResult, who: str) -> None:
    row = ClassifierRow(
        digest=trained.classifier.digest,
        trained_at=utc_now(),
        who=who,
        examples_digest=_digest(trained.examples),
        figures=figures_record(trained),
        accepted=trained.accepted,
        why=trained.why,
        content=trained.classifier.save(),
    )
    with project.writes.begin() as session:
        db.classifiers.record_classifier(session, row, project.encoder)


def _digest(examples: Examples) -> str:
    """Return the SHA-256 of all that was learnt from."""
    features = examples.features
    told = [examples.types, [None if one is None else sorted(one) for one in examples.kinds]]
    digest = hashlib.sha256(json.dumps([features.fingerprint, *told]).encode())
    for array in (
        features.embeddings,
        features.looks.values,
        features.differences.values,
        examples.days,
        examples.weights,
    ):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# --- figures -------------------------------------------------------------------------------------


def measure(
    classifier: DenseClassifier,
    exam: Examples,
    expected: Mapping[str, float] | None = None,
    kinds: Sequence[str] | None = None,
) -> EvaluationFigures:
    """Return how good a classifier is on labelled images.

    Parameters
    ----------
    expected : mapping of kind to float, optional
        The share of each kind; those of the exam if left out.
    kinds : sequence of str, optional
        Those asked for; to compare two classifiers' losses, the same for both.
    """
    said = answers(classifier, exam, expected, kinds)
    promised, truth = said.promised[said.told], said.truth[said.told]
    right = np.array(said.seen)[said.good] == np.array(said.types)[said.good]
    loss = np.where(said.told, _log_loss(said.promised, said.truth).sum(axis=1), 0.0)
    return EvaluationFigures(
        type_accuracy=_resampled(right.astype(float)),
        kinds={
            kind: _precision_and_recall(promised[:, i] > NAMED, truth[:, i])
            for i, kind in enumerate(said.kinds)
            if truth[:, i].any()
        },
        macro_f1=_macro_f1(promised > NAMED, truth),
        calibration_error=calibration_error(promised.ravel(), truth.ravel()),
        loss=loss - np.where(said.good, np.log(np.maximum(said.own, _LEAST_PROBABILITY)), 0.0),
    )


_LEAST_PROBABILITY = 1e-6
_COMPARED: Mapping[str, Callable[[EvaluationFigures], str]] = {
    "image type, share right": lambda one: one.type_accuracy.words,
    "kinds of fault, macro-F1": lambda one: one.macro_f1.words,
    "expected calibration error": lambda one: f"{one.calibration_error:.4f}",
    "mean log loss": lambda one: f"{one.loss.mean():.3f}",
}


def answers(
    classifier: DenseClassifier,
    exam: Examples,
    expected: Mapping[str, float] | None = None,
    kinds: Sequence[str] | None = None,
) -> Predictions:
    """Return what a classifier says of labelled images; parameters as for `measure`."""
    kinds = kinds or _kinds_asked(exam, classifier)
    told = np.array([one is not None for one in exam.kinds])
    truth = np.array([[kind in (one or ()) for kind in kinds] for one in exam.kinds])
    rates = np.clip(truth[told].mean(axis=0), 1e-4, 0.99)
    shares = dict(expected or zip(kinds, rates, strict=True))
    types = classifier.type_head.classes
    seen = classifier.type_probabilities(exam.features)
    return Predictions(
        types=exam.types,
        seen=tuple(types[i] for i in seen.argmax(axis=1)),
        own=_own_probability(seen, types, exam.types),
        good=np.array([one is not None and not one for one in exam.kinds]),
        told=told,
        kinds=tuple(kinds),
        promised=_promised(classifier, exam, kinds, shares),
        truth=truth,
    )


def _kinds_asked(exam: Examples, *classifiers: DenseClassifier) -> list[str]:
    """Return the kinds that are in the exam or that a classifier knows."""
    known = {kind for one in classifiers for kind in one.kind_head.classes}
    return sorted(known.union(*(one or () for one in exam.kinds)))


def _promised(
    classifier: DenseClassifier, exam: Examples, kinds: Sequence[str], shares: Mapping[str, float]
) -> Doubles:
    """Return the probability of each kind, (n, k): of one that it does not know, the share."""
    promised = classifier.kind_probabilities(exam.features, shares)
    known = dict(zip(classifier.kind_head.classes, promised.T, strict=True))
    unknown = {kind: np.full(len(exam), shares.get(kind, 0.0)) for kind in kinds}
    return np.column_stack([{**unknown, **known}[kind] for kind in kinds])


def _own_probability(seen: Doubles, classes: Sequence[str], types: Sequence[str]) -> Doubles:
    """Return the probability of the header's type, (n,); of one that it does not know, a guess."""
    place = {name: i for i, name in enumerate(classes)}
    guess = 1 / (len(classes) + 1)
    pairs = zip(seen, types, strict=True)
    return np.array([row[place[name]] if name in place else guess for row, name in pairs])


def _log_loss(promised: Doubles, truth: Booleans) -> Doubles:
    bounded = np.clip(promised, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    losses: Doubles = -np.where(truth, np.log(bounded), np.log1p(-bounded))
    return losses


def calibration_error(promised: Doubles, truth: Booleans) -> float:
    """Return the expected calibration error: mean over ten bins of |promised - true| rate.

    Bins are of equal width, each counts as much as it holds (Naeini et al. 2015, AAAI 29, 2901).
    """
    bins = np.minimum((promised * BINS).astype(int), BINS - 1)
    gaps = [
        abs(promised[bins == i].mean() - truth[bins == i].mean()) * (bins == i).mean()
        for i in np.unique(bins)
    ]
    return float(sum(gaps))


def _precision_and_recall(named: Booleans, truth: Booleans) -> tuple[Proportion, Proportion]:
    return _resampled(truth[named].astype(float)), _resampled(named[truth].astype(float))


def _resampled(values: Doubles) -> Proportion:
    """Return a mean with its bootstrap interval; of nothing, anything is possible.

    Where all agree, resampling knows no doubt; the interval is then Clopper and Pearson's (1934).
    """
    n = len(values)
    if not n:
        return Proportion(float("nan"), 0.0, 1.0, 0)
    mean, tail = float(values.mean()), (1 - CONFIDENCE) / 2
    if mean in {0.0, 1.0}:
        reach = 1 - tail ** (1 / n)
        return Proportion(mean, mean * (1 - reach), mean + (1 - mean) * reach, n)
    rng = np.random.default_rng(0)
    means = rng.choice(values, (_RESAMPLED, n)).mean(axis=1)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Proportion(mean, float(low), float(high), n)


def _macro_f1(named: Booleans, truth: Booleans) -> Proportion:
    asked = truth.any(axis=0)
    if not asked.any():
        return Proportion(float("nan"), 0.0, 1.0, 0)
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(truth), len(truth)) for _ in range(_RESAMPLED)]
    telling = [rows for rows in draws if truth[rows].any()] or [np.arange(len(truth))]
    means = [_mean_f1(named[rows][:, asked], truth[rows][:, asked]) for rows in telling]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = _mean_f1(named[:, asked], truth[:, asked])
    return Proportion(value, float(low), float(high), int(asked.sum()))


def _mean_f1(named: Booleans, truth: Booleans) -> float:
    """Return the mean F1 of the columns that have something to find."""
    hits = (named & truth).sum(axis=0)
    there = truth.sum(axis=0) > 0
    f1 = 2 * hits / np.maximum(named.sum(axis=0) + truth.sum(axis=0), 1)
    return float(f1[there].mean())


def figures_record(trained: TrainingResult) -> dict[str, object]:
    """Return what there is to say of a training as plain lists and numbers."""
    exam = trained.exam
    return {
        "labelled": trained.labelled,
        "simulated": trained.simulated,
        "examples": dict(trained.classifier.examples),
        "accepted": trained.accepted,
        "why": trained.why,
        "digest": trained.classifier.digest,
        "exam": exam.words if exam else None,
        "exam_images": len(exam.examples) if exam else 0,
        "exam_nights": [night.isoformat() for night in exam.nights] if exam else None,
        "new": _figures_on_record(trained.new),
        "old": _figures_on_record(trained.old),
    }


def _figures_on_record(figures: EvaluationFigures | None) -> dict[str, object] | None:
    if figures is None:
        return None
    return {
        "type_accuracy": _plain(figures.type_accuracy),
        "macro_f1": _plain(figures.macro_f1),
        "calibration_error": figures.calibration_error,
        "kinds": {
            kind: {"precision": _plain(precision), "recall": _plain(recall)}
            for kind, (precision, recall) in figures.kinds.items()
        },
    }


def _plain(share: Proportion) -> dict[str, float | None]:
    """Return a share as JSON knows it: of nothing, there is none."""
    return {**asdict(share), "value": share.value if share.count else None}
