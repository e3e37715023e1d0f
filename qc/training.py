"""Labels to a classifier: what is learnt, how good it is, and whether it replaces the old one."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings.classifier import DenseClassifier, Examples
from qc import database
from qc.database import ClassifierRow, Finding, LabelName
from qc.errors import ConfigurationError
from qc.features import Description, differences_of, features_of, looks_of
from qc.judge import REFERENCE_NEEDED
from qc.runtime import Runtime, shipped_examples

Doubles = NDArray[np.float64]
Booleans = NDArray[np.bool_]

NEWEST = timedelta(days=30)  # what a new classifier must not be worse on
EXAM_NEEDED = 5  # images a person has labelled; fewer say nothing
NAMED = 0.5  # a fault more probable than not is named
CONFIDENCE = 0.95
_LABEL_WEIGHT = 5.0  # a real image that a person has seen counts as so many simulated ones
_RESAMPLED = 500
_BINS = 10
_UNNAMED = frozenset({"", "other", "needs_discussion"})  # say that, not what


@dataclass(frozen=True)
class Share:
    """A share of so many, with its interval."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Figures:
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

    type_accuracy: Share
    kinds: Mapping[str, tuple[Share, Share]]
    macro_f1: Share
    calibration_error: float
    loss: Doubles


@dataclass(frozen=True)
class Trained:
    """What became of a training.

    Attributes
    ----------
    labelled, simulated : int
        Examples learnt from.
    exam : (date, date)
        First and last night of the images that old and new were compared on.
    new, old : Figures or None
        On the exam; the new one trained without it. None without enough images.
    accepted : bool
    why : str
    """

    classifier: DenseClassifier
    labelled: int
    simulated: int
    exam: tuple[date, date] | None
    new: Figures | None
    old: Figures | None
    accepted: bool
    why: str


def train(runtime: Runtime, *, who: str, force: bool = False) -> Trained:
    """Train a classifier on the simulated examples and on what people have labelled; keep it.

    It replaces the one in use if it is not worse on the newest month of labels, or by force.

    Raises
    ------
    ConfigurationError
        If there is nothing to learn from.
    """
    fingerprint = runtime.encoder.fingerprint
    with runtime.reads() as session:
        labelled = labelled_examples(session, fingerprint)
    if not len(labelled):
        raise ConfigurationError(
            "no image that was judged by this encoder is labelled yet; see 'qc label --help'"
        )
    simulated = shipped_examples()
    if simulated.features.fingerprint != fingerprint:
        simulated = simulated[np.zeros(len(simulated), bool)]
    examples = simulated + labelled if len(simulated) else labelled
    trained = _compared(runtime.classifier, examples, labelled, simulated, force=force)
    row = ClassifierRow(
        digest=trained.classifier.digest,
        trained_at=datetime.now(UTC),
        who=who,
        examples_digest=hashlib.sha256(examples.save()).hexdigest(),
        figures=_on_record(trained),
        accepted=trained.accepted,
        why=trained.why,
        content=trained.classifier.save(),
    )
    with runtime.writes.begin() as session:
        database.record_classifier(session, row, runtime.encoder)
    return trained


def labelled_examples(session: Session, fingerprint: str) -> Examples:
    """Return what people have labelled, of the extensions that this encoder has judged.

    An outlier that was accepted has its type, but differs from references that were made before:
    it teaches no fault, nor that there is none. So does a bad image whose fault has no name.
    """
    known = [
        one
        for one in database.findings(session, date.min)
        if one.label is not None and one.fingerprint == fingerprint
    ]
    return Examples(
        features_of([description_of(session, one) for one in known], fingerprint),
        tuple(one.extension.image_type for one in known),
        tuple(_kinds_of(one) for one in known),
        np.array([_day(one).toordinal() for one in known], int),
        np.full(len(known), _LABEL_WEIGHT),
    )


def description_of(session: Session, finding: Finding) -> Description:
    """Return what a classifier is told of a stored extension, as when it was judged."""
    verdict, extension = finding.verdict, finding.extension
    differences = differences_of(
        verdict.z, verdict.patterns or {}, verdict.merge_height, verdict.residual, verdict.threshold
    )
    return Description(
        database.embedding_of(session, extension.id, verdict.encoder_id),
        looks_of(database.appearance_of(session, extension), extension.metrics),
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


# --- the old and the new -------------------------------------------------------------------------


def _compared(
    old: DenseClassifier | None,
    examples: Examples,
    labelled: Examples,
    simulated: Examples,
    *,
    force: bool,
) -> Trained:
    """Train; hold a twin that has not seen the newest month against the classifier in use."""
    new = DenseClassifier.fit(examples)
    exam = labelled[labelled.days > labelled.days.max() - NEWEST.days]
    span = (date.fromordinal(int(exam.days.min())), date.fromordinal(int(exam.days.max())))
    if len(exam) < EXAM_NEEDED or old is None:
        why = "nothing to compare it with" if old is None else f"only {len(exam)} images to compare"
        return Trained(new, len(labelled), len(simulated), None, None, None, accepted=True, why=why)
    rest = examples[~_same_days(examples, exam, len(simulated))]
    results = measure(DenseClassifier.fit(rest), exam), measure(old, exam)
    worse = _is_worse(results[0].loss, results[1].loss)
    why = "worse than the one in use on the newest month" if worse else "not worse on it"
    if worse and force:
        why += ", accepted by force"
    return Trained(
        new, len(labelled), len(simulated), span, *results, accepted=force or not worse, why=why
    )


def _same_days(examples: Examples, exam: Examples, simulated: int) -> Booleans:
    """Return which examples are in the exam; the simulated ones, which come first, are not."""
    real = np.arange(len(examples)) >= simulated
    same: Booleans = real & (examples.days >= exam.days.min())
    return same


def _is_worse(new: Doubles, old: Doubles) -> bool:
    """Say whether the losses of the same images have risen by more than chance would."""
    rise = new - old
    error = rise.std() / np.sqrt(len(rise))
    return bool(rise.mean() > error)


def measure(
    classifier: DenseClassifier, exam: Examples, expected: Mapping[str, float] | None = None
) -> Figures:
    """Return how good a classifier is on labelled images.

    Parameters
    ----------
    expected : mapping of kind to float, optional
        The share of each kind; those of the exam if left out.
    """
    kinds = classifier.kind_head.classes
    told = np.array([one is not None for one in exam.kinds])
    truth = np.array([[kind in (one or ()) for kind in kinds] for one in exam.kinds])
    shares = expected or dict(
        zip(kinds, np.clip(truth[told].mean(axis=0), 1e-4, 0.99), strict=True)
    )
    promised = classifier.kind_probabilities(exam.features, shares)
    good = np.array([one is not None and not one for one in exam.kinds])
    typed = good & np.isin(exam.types, classifier.type_head.classes)
    seen = classifier.type_probabilities(exam.features)
    right = np.array([classifier.type_head.classes[i] for i in seen.argmax(axis=1)]) == exam.types
    loss = np.where(told, _log_loss(promised, truth).sum(axis=1), 0.0)
    return Figures(
        type_accuracy=_resampled(right[typed].astype(float)),
        kinds={
            kind: _precision_and_recall(promised[told, i] > NAMED, truth[told, i])
            for i, kind in enumerate(kinds)
            if truth[told, i].any()
        },
        macro_f1=_macro_f1(promised[told] > NAMED, truth[told]),
        calibration_error=calibration_error(promised[told].ravel(), truth[told].ravel()),
        loss=loss + np.where(typed, _type_loss(classifier, seen, exam), 0.0),
    )


def _log_loss(promised: Doubles, truth: Booleans) -> Doubles:
    bounded = np.clip(promised, 1e-6, 1 - 1e-6)
    losses: Doubles = -np.where(truth, np.log(bounded), np.log1p(-bounded))
    return losses


def _type_loss(classifier: DenseClassifier, seen: Doubles, exam: Examples) -> Doubles:
    place = {name: i for i, name in enumerate(classifier.type_head.classes)}
    own = np.array(
        [
            row[place[name]] if name in place else 1.0
            for row, name in zip(seen, exam.types, strict=True)
        ]
    )
    losses: Doubles = -np.log(np.maximum(own, 1e-6))
    return losses


def calibration_error(promised: Doubles, truth: Booleans) -> float:
    """Return the expected calibration error: mean over ten bins of |promised - true| rate.

    Bins are of equal width, each counts as much as it holds (Naeini et al. 2015, AAAI 29, 2901).
    """
    bins = np.minimum((promised * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(promised[bins == i].mean() - truth[bins == i].mean()) * (bins == i).mean()
        for i in np.unique(bins)
    ]
    return float(sum(gaps))


def _precision_and_recall(named: Booleans, truth: Booleans) -> tuple[Share, Share]:
    return _resampled(truth[named].astype(float)), _resampled(named[truth].astype(float))


def _resampled(values: Doubles) -> Share:
    """Return a mean with its bootstrap interval; of nothing, anything is possible."""
    if not len(values):
        return Share(float("nan"), 0.0, 1.0, 0)
    rng = np.random.default_rng(0)
    means = rng.choice(values, (_RESAMPLED, len(values))).mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Share(float(values.mean()), float(low), float(high), len(values))


def _macro_f1(named: Booleans, truth: Booleans) -> Share:
    asked = truth.any(axis=0)
    if not asked.any():
        return Share(float("nan"), 0.0, 1.0, 0)
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(truth), len(truth)) for _ in range(_RESAMPLED)]
    means = [_mean_f1(named[rows][:, asked], truth[rows][:, asked]) for rows in draws]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = _mean_f1(named[:, asked], truth[:, asked])
    return Share(value, float(low), float(high), int(asked.sum()))


def _mean_f1(named: Booleans, truth: Booleans) -> float:
    """Return the mean F1 of the columns that have something to find."""
    hits = (named & truth).sum(axis=0)
    there = truth.sum(axis=0) > 0
    f1 = 2 * hits / np.maximum(named.sum(axis=0) + truth.sum(axis=0), 1)
    return float(f1[there].mean())


def _on_record(trained: Trained) -> dict[str, object]:
    return {
        "labelled": trained.labelled,
        "simulated": trained.simulated,
        "examples": dict(Counter(trained.classifier.examples)),
        "exam": [each.isoformat() for each in trained.exam] if trained.exam else None,
        "new": _figures_on_record(trained.new),
        "old": _figures_on_record(trained.old),
    }


def _figures_on_record(figures: Figures | None) -> dict[str, object] | None:
    if figures is None:
        return None
    return {
        "type_accuracy": asdict(figures.type_accuracy),
        "macro_f1": asdict(figures.macro_f1),
        "calibration_error": figures.calibration_error,
        "kinds": {
            kind: {"precision": asdict(precision), "recall": asdict(recall)}
            for kind, (precision, recall) in figures.kinds.items()
        },
    }
