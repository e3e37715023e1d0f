"""Evaluation of a classifier on labelled images: accuracy, F1, calibration, intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from embeddings.classifier import DenseClassifier
from embeddings.classifier_data import Examples

Doubles = NDArray[np.float64]
Booleans = NDArray[np.bool_]

NAMED = 0.5  # probability from which a fault is named
CONFIDENCE = 0.95
BINS = 10  # of the calibration error
LEAST_PROBABILITY = 1e-6  # bounds the log loss
RESAMPLES = 500


@dataclass(frozen=True)
class Proportion:
    """A proportion with its interval and the number of images it is based on."""

    value: float
    low: float
    high: float
    count: int

    @property
    def text(self) -> str:
        """Value and interval with three digits."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})" if self.count else "none"


@dataclass(frozen=True)
class Predictions:
    """Predictions of a classifier for n images, with ground truth.

    Attributes
    ----------
    types : tuple of n str
        Image types by the header.
    predicted_types : tuple of n str
        Most probable image types.
    type_probability : (n,) float64 array
        Probability of the header's type.
    is_good, is_labelled : (n,) bool arrays
        Images without a fault; images whose faults are known.
    kinds : tuple of k str
    probabilities : (n, k) float64 array
        Probability of each kind; its frequency if the classifier has not learnt the kind.
    truth : (n, k) bool array
    """

    types: tuple[str, ...]
    predicted_types: tuple[str, ...]
    type_probability: Doubles
    is_good: Booleans
    is_labelled: Booleans
    kinds: tuple[str, ...]
    probabilities: Doubles
    truth: Booleans


@dataclass(frozen=True)
class EvaluationFigures:
    """Performance of a classifier on images that were not used to train it.

    Attributes
    ----------
    type_accuracy : Proportion
        Good images whose most probable type is the header's.
    kinds : mapping of kind to (precision, recall)
    macro_f1 : Proportion
        Mean over the kinds of fault in the images.
    calibration_error : float
        Expected calibration error of the probability of each kind.
    loss : (n,) float64 array
        Log loss of each image; two classifiers are compared by it.
    """

    type_accuracy: Proportion
    kinds: Mapping[str, tuple[Proportion, Proportion]]
    macro_f1: Proportion
    calibration_error: float
    loss: Doubles


COMPARED_FIGURES: Mapping[str, Callable[[EvaluationFigures], str]] = {
    "image type, share right": lambda figures: figures.type_accuracy.text,
    "kinds of fault, macro-F1": lambda figures: figures.macro_f1.text,
    "expected calibration error": lambda figures: f"{figures.calibration_error:.4f}",
    "mean log loss": lambda figures: f"{figures.loss.mean():.3f}",
}


def measure(
    classifier: DenseClassifier,
    examples: Examples,
    expected: Mapping[str, float] | None = None,
    kinds: Sequence[str] | None = None,
) -> EvaluationFigures:
    """Measure the performance of a classifier on labelled images.

    Parameters
    ----------
    classifier : DenseClassifier
    examples : Examples
        Labelled images.
    expected : mapping of kind to float, optional
        Share of each kind; that of the examples where absent.
    kinds : sequence of str, optional
        Kinds to predict. Losses of two classifiers are comparable for the same kinds.

    Returns
    -------
    EvaluationFigures
    """
    predictions = predict_labelled(classifier, examples, expected, kinds)
    is_labelled, is_good = predictions.is_labelled, predictions.is_good
    probabilities, truth = predictions.probabilities[is_labelled], predictions.truth[is_labelled]
    is_named = probabilities > NAMED
    is_right = np.array(predictions.predicted_types) == np.array(predictions.types)
    kind_loss = log_loss(predictions.probabilities, predictions.truth).sum(axis=1)
    type_log = np.log(np.maximum(predictions.type_probability, LEAST_PROBABILITY))
    return EvaluationFigures(
        type_accuracy=bootstrap_mean(is_right[is_good].astype(float)),
        kinds={
            kind: (
                bootstrap_mean(truth[is_named[:, i], i].astype(float)),
                bootstrap_mean(is_named[truth[:, i], i].astype(float)),
            )
            for i, kind in enumerate(predictions.kinds)
            if truth[:, i].any()
        },
        macro_f1=bootstrap_macro_f1(is_named, truth),
        calibration_error=calibration_error(probabilities.ravel(), truth.ravel()),
        loss=np.where(is_labelled, kind_loss, 0.0) - np.where(is_good, type_log, 0.0),
    )


def predict_labelled(
    classifier: DenseClassifier,
    examples: Examples,
    expected: Mapping[str, float] | None = None,
    kinds: Sequence[str] | None = None,
) -> Predictions:
    """Return a classifier's predictions for labelled images.

    Parameters
    ----------
    classifier : DenseClassifier
    examples : Examples
        Labelled images.
    expected : mapping of kind to float, optional
        Share of each kind; that of the examples where absent.
    kinds : sequence of str, optional
        Kinds to predict; all kinds of the examples and of the classifier where absent.

    Returns
    -------
    Predictions
    """
    kinds = kinds or all_kinds(examples, classifier)
    is_labelled = np.array([faults is not None for faults in examples.kinds])
    truth = np.array([[kind in (faults or ()) for kind in kinds] for faults in examples.kinds])
    rates = np.clip(truth[is_labelled].mean(axis=0), 1e-4, 0.99)
    shares = dict(expected or zip(kinds, rates, strict=True))
    types = classifier.type_head.classes
    type_probabilities = classifier.type_probabilities(examples.features)
    return Predictions(
        types=examples.types,
        predicted_types=tuple(types[i] for i in type_probabilities.argmax(axis=1)),
        type_probability=header_type_probability(type_probabilities, types, examples.types),
        is_good=np.array([faults is not None and not faults for faults in examples.kinds]),
        is_labelled=is_labelled,
        kinds=tuple(kinds),
        probabilities=kind_probabilities(classifier, examples, kinds, shares),
        truth=truth,
    )


def all_kinds(examples: Examples, *classifiers: DenseClassifier) -> list[str]:
    """Return the kinds in the examples or learnt by a classifier.

    Parameters
    ----------
    examples : Examples
    *classifiers : DenseClassifier

    Returns
    -------
    list of str
        Sorted.
    """
    learnt = {kind for classifier in classifiers for kind in classifier.kind_head.classes}
    return sorted(learnt.union(*(faults or () for faults in examples.kinds)))


def kind_probabilities(
    classifier: DenseClassifier,
    examples: Examples,
    kinds: Sequence[str],
    shares: Mapping[str, float],
) -> Doubles:
    """Return the probability of each kind; its share if the classifier has not learnt the kind.

    Parameters
    ----------
    classifier : DenseClassifier
    examples : Examples
        n images.
    kinds : sequence of k str
    shares : mapping of kind to float
        Prior probabilities.

    Returns
    -------
    (n, k) float array
    """
    probabilities = classifier.kind_probabilities(examples.features, shares)
    learnt = dict(zip(classifier.kind_head.classes, probabilities.T, strict=True))
    priors = {kind: np.full(len(examples), shares.get(kind, 0.0)) for kind in kinds}
    return np.column_stack([{**priors, **learnt}[kind] for kind in kinds])


def header_type_probability(
    probabilities: Doubles, classes: Sequence[str], types: Sequence[str]
) -> Doubles:
    """Return the probability of the header's type; uniform for a type not learnt.

    Parameters
    ----------
    probabilities : (n, c) float array
    classes : sequence of c str
    types : sequence of n str

    Returns
    -------
    (n,) float array
    """
    column = {name: i for i, name in enumerate(classes)}
    uniform = 1 / (len(classes) + 1)
    pairs = zip(probabilities, types, strict=True)
    return np.array([row[column[name]] if name in column else uniform for row, name in pairs])


def log_loss(probabilities: Doubles, truth: Booleans) -> Doubles:
    """Return the log loss of each probability.

    Parameters
    ----------
    probabilities : float array
    truth : bool array
        Of the same shape.

    Returns
    -------
    float array
        Of the same shape.
    """
    bounded = np.clip(probabilities, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    losses: Doubles = -np.where(truth, np.log(bounded), np.log1p(-bounded))
    return losses


def calibration_error(probabilities: Doubles, truth: Booleans) -> float:
    """Return the expected calibration error: mean over ten bins of |predicted - true| rate.

    The bins have equal width and are weighted by their number of values (Naeini et al. 2015,
    AAAI 29, 2901).

    Parameters
    ----------
    probabilities : (n,) float array
    truth : (n,) bool array

    Returns
    -------
    float
    """
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = [
        abs(probabilities[bins == i].mean() - truth[bins == i].mean()) * (bins == i).mean()
        for i in np.unique(bins)
    ]
    return float(sum(gaps))


def bootstrap_mean(values: Doubles) -> Proportion:
    """Return a mean with its bootstrap interval; from 0 to 1 without values.

    If all values are equal, resampling gives no interval. Clopper and Pearson's (1934) is used.
    """
    n = len(values)
    if not n:
        return Proportion(float("nan"), 0.0, 1.0, 0)
    mean, tail = float(values.mean()), (1 - CONFIDENCE) / 2
    if mean in {0.0, 1.0}:
        reach = 1 - tail ** (1 / n)
        return Proportion(mean, mean * (1 - reach), mean + (1 - mean) * reach, n)
    rng = np.random.default_rng(0)
    means = rng.choice(values, (RESAMPLES, n)).mean(axis=1)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Proportion(mean, float(low), float(high), n)


def bootstrap_macro_f1(is_named: Booleans, truth: Booleans) -> Proportion:
    """Return the mean F1 of the kinds that occur, with its bootstrap interval.

    Parameters
    ----------
    is_named, truth : (n, k) bool arrays

    Returns
    -------
    Proportion
        Its count is the number of kinds.
    """
    occurs = truth.any(axis=0)
    if not occurs.any():
        return Proportion(float("nan"), 0.0, 1.0, 0)
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(truth), len(truth)) for _ in range(RESAMPLES)]
    usable = [rows for rows in draws if truth[rows].any()] or [np.arange(len(truth))]
    means = [mean_f1(is_named[rows][:, occurs], truth[rows][:, occurs]) for rows in usable]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = mean_f1(is_named[:, occurs], truth[:, occurs])
    return Proportion(value, float(low), float(high), int(occurs.sum()))


def mean_f1(is_named: Booleans, truth: Booleans) -> float:
    """Return the mean F1 of the columns with at least one true value.

    Parameters
    ----------
    is_named, truth : (n, k) bool arrays

    Returns
    -------
    float
    """
    hits = (is_named & truth).sum(axis=0)
    occurs = truth.sum(axis=0) > 0
    f1 = 2 * hits / np.maximum(is_named.sum(axis=0) + truth.sum(axis=0), 1)
    return float(f1[occurs].mean())


def figures_as_dict(figures: EvaluationFigures | None) -> dict[str, object] | None:
    """Return figures as plain values for JSON."""
    if figures is None:
        return None
    return {
        "type_accuracy": proportion_as_dict(figures.type_accuracy),
        "macro_f1": proportion_as_dict(figures.macro_f1),
        "calibration_error": figures.calibration_error,
        "kinds": {
            kind: {
                "precision": proportion_as_dict(precision),
                "recall": proportion_as_dict(recall),
            }
            for kind, (precision, recall) in figures.kinds.items()
        },
    }


def proportion_as_dict(proportion: Proportion) -> dict[str, float | None]:
    """Return a proportion as plain values for JSON; its value is None without images."""
    return {**asdict(proportion), "value": proportion.value if proportion.count else None}
