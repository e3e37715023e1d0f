"""Training of the fault classifier on simulated and labelled examples."""

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from embeddings import classifier_data
from embeddings.classifier import DenseClassifier
from qc import db, errors
from qc._time import utc_now
from qc.db.schema.models import ClassifierRow
from qc.project import ProjectContext, read_packaged_examples
from qc.training import evaluate
from qc.training.examples import LabelledExamples, labelled_examples

Doubles = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Progress = Callable[[int, int], None]

NEWEST = dt.timedelta(days=30)  # a new classifier must not be worse on labels of this span
EVALUATION_NEEDED = 5  # labelled images
_NEWEST_FRACTION = 0.2
_SIMULATED_SPLIT = "the newest fifth of the simulated examples, as too few images are labelled"
_STEPS = 3  # read, train for the evaluation, train on all examples


@dataclasses.dataclass(frozen=True)
class EvaluationSplit:
    """Examples to evaluate on, and older ones to train on for it.

    Attributes
    ----------
    examples : Examples
        Of the newest days.
    rest : Examples
        Simulated ones, then those of earlier days.
    simulated : int
        Number of simulated examples in the rest.
    description : str
        Choice of the examples, in words.
    is_real : bool
        True for labelled images, False for simulated ones.
    is_fair : bool
        True if the classifier in use was not trained on the examples.
    """

    examples: classifier_data.Examples
    rest: classifier_data.Examples
    simulated: int
    description: str
    is_real: bool
    is_fair: bool

    @property
    def nights(self) -> tuple[dt.date, dt.date]:
        """First and last night of the examples."""
        days = self.examples.days
        return dt.date.fromordinal(int(days.min())), dt.date.fromordinal(int(days.max()))


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Attributes
    ----------
    classifier : DenseClassifier
        Trained on all examples.
    examples : Examples
        The simulated ones come first.
    simulated : int
        Number of simulated examples.
    split : EvaluationSplit or None
        None if there are too few examples for an evaluation.
    evaluated : DenseClassifier or None
        Trained on the rest of the split alone.
    new, old : EvaluationFigures or None
        Of `evaluated` and of the classifier in use; the old ones only for a fair split.
    accepted : bool
        True if the classifier replaces the one in use.
    reason : str
        Reason of the decision.
    """

    classifier: DenseClassifier
    examples: classifier_data.Examples
    simulated: int
    split: EvaluationSplit | None
    evaluated: DenseClassifier | None
    new: evaluate.EvaluationFigures | None
    old: evaluate.EvaluationFigures | None
    accepted: bool
    reason: str

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Table of figures: name, new classifier, classifier in use."""
        return [
            (name, text(self.new) if self.new else "", text(self.old) if self.old else "")
            for name, text in evaluate.COMPARED_FIGURES.items()
        ]

    @property
    def outcome(self) -> str:
        """Decision with its reason, as a sentence."""
        acts = "Accepted: it acts from now on" if self.accepted else "Refused: the old one stays"
        return f"{acts}; {self.reason}."

    @property
    def labelled(self) -> int:
        """Number of labelled examples."""
        return len(self.examples) - self.simulated


def train(
    project: ProjectContext,
    *,
    author: str,
    force: bool = False,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a classifier on the simulated and the labelled examples, and store it.

    It replaces the classifier in use unless it is worse on the newest month of labels.

    Parameters
    ----------
    project : ProjectContext
    author : str
        Recorded with the classifier.
    force : bool
        Accept a worse classifier.
    progress : callable, optional
        Receives the number of finished steps and their total; a step may take half a minute.

    Returns
    -------
    TrainingResult

    Raises
    ------
    InsufficientLabelsError
        If there are too few examples. The classifier in use stays.
    """
    report = progress or (lambda _done, _total: None)
    report(0, _STEPS)
    fingerprint = project.encoder.fingerprint
    with project.read_session() as session:
        labelled = labelled_examples(session, fingerprint)
        row = db.embeddings.newest_classifier(session, fingerprint)
    simulated = read_packaged_examples()
    if simulated is not None and simulated.features.fingerprint != fingerprint:
        simulated = None
    check_labels(labelled, fingerprint)
    report(1, _STEPS)
    splits = evaluation_splits(labelled, simulated, row.trained_at if row else None)
    split, evaluated = train_for_evaluation(splits)
    report(2, _STEPS)
    examples = join_examples(simulated, labelled.examples)
    result = TrainingResult(
        classifier=fit_classifier(examples),
        examples=examples,
        simulated=len(simulated or ()),
        split=split,
        evaluated=evaluated,
        new=evaluate.measure(evaluated, split.examples) if split and evaluated else None,
        old=None,
        accepted=True,
        reason="",
    )
    try:
        in_use = project.classifier
    except errors.ConfigurationError:  # an unreadable classifier is replaced
        in_use = None
    result = compare_with_old(result, in_use, force=force)
    record_classifier(project, result, author)
    report(3, _STEPS)
    return result


def check_labels(labelled: LabelledExamples, fingerprint: str) -> None:
    """Check that there are labelled examples.

    Parameters
    ----------
    labelled : LabelledExamples
    fingerprint : str
        Of the encoder in use.

    Raises
    ------
    InsufficientLabelsError
        If there are none.
    """
    if len(labelled.examples):
        return
    if labelled.foreign:
        raise errors.InsufficientLabelsError(
            f"none of the {labelled.foreign} labelled extensions was judged by the encoder in "
            f"use, {fingerprint}; judge them again with 'qc archive reprocess'"
        )
    raise errors.InsufficientLabelsError(
        "no extension is labelled yet, so there is nothing to train on; label good ones, and bad "
        "ones with their kind, with 'qc labels add'"
    )


def join_examples(
    simulated: classifier_data.Examples | None, labelled: classifier_data.Examples
) -> classifier_data.Examples:
    """Return simulated examples followed by labelled ones.

    Parameters
    ----------
    simulated : Examples or None
    labelled : Examples

    Returns
    -------
    joined : Examples

    Raises
    ------
    ConfigurationError
        If the simulated examples have other features.
    """
    try:
        return labelled if simulated is None else simulated + labelled
    except classifier_data.ClassifierError as error:
        raise errors.ConfigurationError(
            f"the simulated examples of the program: {error}"
        ) from error


def fit_classifier(examples: classifier_data.Examples) -> DenseClassifier:
    """Train a classifier on examples.

    Raises
    ------
    InsufficientLabelsError
        If there are too few.
    """
    try:
        return DenseClassifier.fit(examples)
    except classifier_data.ClassifierError as error:
        raise errors.InsufficientLabelsError(
            f"the labels do not suffice to train: {error}"
        ) from error


# --- evaluation splits ---------------------------------------------------------------------------


def evaluation_splits(
    labelled: LabelledExamples,
    simulated: classifier_data.Examples | None,
    trained_at: dt.datetime | None,
) -> Iterator[EvaluationSplit]:
    """Yield the possible evaluation splits, best first, whether informative or not.

    Labels that the classifier in use was trained on would favour it.

    Parameters
    ----------
    labelled : LabelledExamples
        At least one.
    simulated : Examples or None
    trained_at : datetime or None
        Training time of the classifier in use.

    Yields
    ------
    EvaluationSplit
    """
    days = labelled.examples.days
    fresh = np.array([trained_at is None or at > trained_at for at in labelled.labelled_at])
    month = days > days.max() - NEWEST.days
    fifth = days >= np.quantile(days, 1 - _NEWEST_FRACTION)
    for mask, description in (
        (month & fresh, "the newest month of labels, without those the one in use has learnt from"),
        (month, "the newest month of labels"),
        (fifth, "the newest fifth of the labels"),
    ):
        if mask.any():
            before = labelled.examples[days < days[mask].min()]
            yield EvaluationSplit(
                examples=labelled.examples[mask],
                rest=join_examples(simulated, before),
                simulated=len(simulated or ()),
                description=(
                    "the newest month of labels" if (mask == month).all() else description
                ),
                is_real=True,
                is_fair=bool(fresh[mask].all()),
            )
    if simulated is not None:
        newest = simulated.days >= np.quantile(simulated.days, 1 - _NEWEST_FRACTION)
        before = simulated[~newest]
        yield EvaluationSplit(
            examples=simulated[newest],
            rest=before + labelled.examples,
            simulated=len(before),
            description=_SIMULATED_SPLIT,
            is_real=False,
            is_fair=False,
        )


def train_for_evaluation(
    splits: Iterator[EvaluationSplit],
) -> tuple[EvaluationSplit, DenseClassifier] | tuple[None, None]:
    """Return the first informative split, and a classifier trained on its rest."""
    for split in splits:
        if is_informative(split):
            try:
                return split, fit_classifier(split.rest)
            except errors.InsufficientLabelsError:
                continue
    return None, None


def is_informative(split: EvaluationSplit) -> bool:
    """Return True if a split has good and bad images, and at most half of the labelled ones."""
    labelled = [faults for faults in split.examples.kinds if faults is not None]
    has_both = any(labelled) and not all(labelled)
    earlier = len(split.rest) - split.simulated
    is_small = earlier >= len(split.examples) or not split.is_real
    return len(labelled) >= EVALUATION_NEEDED and has_both and is_small


# --- comparison with the classifier in use -------------------------------------------------------


def compare_with_old(
    result: TrainingResult, in_use: DenseClassifier | None, *, force: bool
) -> TrainingResult:
    """Compare the evaluated classifier with the one in use, and decide on acceptance.

    Parameters
    ----------
    result : TrainingResult
    in_use : DenseClassifier or None
    force : bool
        Accept a worse classifier.

    Returns
    -------
    TrainingResult
        With old figures, decision and reason.
    """
    split, evaluated = result.split, result.evaluated
    if in_use is None:
        return dataclasses.replace(result, reason="none was in use")
    if split is None or evaluated is None or not split.is_fair:
        reason = (
            f"there is nothing to compare them on: fewer than {EVALUATION_NEEDED} images of the "
            "newest month, good and bad, that the one in use has not learnt from"
        )
        return dataclasses.replace(result, reason=reason)
    kinds = evaluate.all_kinds(split.examples, evaluated, in_use)
    new, old = (
        evaluate.measure(classifier, split.examples, kinds=kinds)
        for classifier in (evaluated, in_use)
    )
    is_worse = has_risen(new.loss, old.loss)
    reason = f"{'worse' if is_worse else 'not worse'} than the one in use on {split.description}"
    if is_worse and force:
        reason += ", accepted by force"
    return dataclasses.replace(
        result, new=new, old=old, accepted=force or not is_worse, reason=reason
    )


def has_risen(new: Doubles, old: Doubles) -> bool:
    """Return True if the losses of the same images have risen by more than one standard error.

    Parameters
    ----------
    new, old : (n,) float arrays

    Returns
    -------
    bool
    """
    rise = new - old
    error = rise.std() / np.sqrt(len(rise))
    return bool(rise.mean() > error)


def record_classifier(project: ProjectContext, result: TrainingResult, author: str) -> None:
    """Store a trained classifier.

    Parameters
    ----------
    project : ProjectContext
    result : TrainingResult
    author : str
    """
    row = ClassifierRow(
        digest=result.classifier.digest,
        trained_at=utc_now(),
        who=author,
        examples_digest=examples_digest(result.examples),
        figures=figures_record(result),
        accepted=result.accepted,
        why=result.reason,
        content=result.classifier.save(),
    )
    with project.write_session.begin() as session:
        db.embeddings.record_classifier(session, row, project.encoder)


def examples_digest(examples: classifier_data.Examples) -> str:
    """Return the SHA-256 digest of training examples."""
    features = examples.features
    kinds = [None if faults is None else sorted(faults) for faults in examples.kinds]
    header = [features.fingerprint, examples.types, kinds]
    digest = hashlib.sha256(json.dumps(header).encode())
    for array in (
        features.embeddings,
        features.looks.values,
        features.differences.values,
        examples.days,
        examples.weights,
    ):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def figures_record(result: TrainingResult) -> dict[str, object]:
    """Return the figures of a training as plain values for JSON."""
    split = result.split
    return {
        "labelled": result.labelled,
        "simulated": result.simulated,
        "examples": dict(result.classifier.examples),
        "accepted": result.accepted,
        "why": result.reason,
        "digest": result.classifier.digest,
        "exam": split.description if split else None,
        "exam_images": len(split.examples) if split else 0,
        "exam_nights": [night.isoformat() for night in split.nights] if split else None,
        "new": evaluate.figures_as_dict(result.new),
        "old": evaluate.figures_as_dict(result.old),
    }
