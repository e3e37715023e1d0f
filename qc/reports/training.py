"""Training report: one HTML page with examples and accuracy of a trained classifier."""

import datetime as dt
from collections import Counter, abc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from qc import errors
from qc.figures import classification
from qc.reports import rendering
from qc.reports.pictures import EmbeddedPicture, embed_plot
from qc.training import evaluate, train

Doubles = NDArray[np.float64]
Counts = NDArray[np.int_]

NO_FAULT = "none"
_FRACTIONS = (0.0, 0.25, 0.5)  # of the labelled examples; the evaluated classifier has all
_SEED = 0


@dataclass(frozen=True)
class ClassCount:
    """Number of examples of a class."""

    name: str
    labelled: int
    simulated: int


@dataclass(frozen=True)
class TrainingReport:
    """Variables of the page of a training.

    Attributes
    ----------
    types, kinds : tuple of ClassCount
        Good examples by image type, bad ones by kind of fault.
    pictures : mapping of str to EmbeddedPicture
        Plots by content; empty without an evaluation.
    """

    trained: train.TrainingResult
    author: str
    encoder: str
    generated_at: dt.datetime
    types: tuple[ClassCount, ...]
    kinds: tuple[ClassCount, ...]
    pictures: abc.Mapping[str, EmbeddedPicture]


def write_training_page(
    file: Path,
    trained: train.TrainingResult,
    *,
    author: str,
    encoder: str,
    generated_at: dt.datetime,
    progress: train.Progress | None = None,
) -> Path:
    """Write the page of a training.

    Parameters
    ----------
    file : Path
        HTML file.
    trained : TrainingResult
        Result of the training.
    author : str
        Name of the person.
    encoder : str
        Fingerprint of the encoder.
    generated_at : datetime
        Time, aware.
    progress : callable, optional
        Function of the number of finished trainings of the learning curve, and the total.

    Returns
    -------
    Path
        The file.
    """
    pictures: dict[str, EmbeddedPicture] = {}
    if trained.split and trained.evaluated and trained.new:
        predictions = evaluate.predict_labelled(trained.evaluated, trained.split.examples)
        pictures = draw_evaluation(predictions, trained.new)
        curve = learning_curve(trained.split, trained.new.macro_f1, progress)
        sizes = np.array([size for size, _ in curve])
        svg = classification.draw_learning_curve(
            sizes, interval_array([f1 for _, f1 in curve]), unit="macro-F1"
        )
        pictures["learning curve"] = embed_plot("learning curve", svg)
    examples = trained.examples
    types = [  # only good examples train the type
        [name] if kinds is not None and not kinds else []
        for name, kinds in zip(examples.types, examples.kinds, strict=True)
    ]
    page = TrainingReport(
        trained=trained,
        author=author,
        encoder=encoder,
        generated_at=generated_at,
        types=count_classes(types, trained.simulated),
        kinds=count_classes([sorted(kinds or ()) for kinds in examples.kinds], trained.simulated),
        pictures=pictures,
    )
    return rendering.write_page(file, rendering.render_template("training.html.j2", page=page))


def learning_curve(
    split: train.EvaluationSplit,
    of_all: evaluate.Proportion,
    progress: train.Progress | None = None,
) -> list[tuple[int, evaluate.Proportion]]:
    """Return the macro-F1 after training with none, a quarter, half and all labelled examples.

    The simulated examples are always included. Smaller parts are random subsets of larger ones. A
    part with too few examples is left out.

    Parameters
    ----------
    split : EvaluationSplit
        Examples for training and evaluation.
    of_all : Proportion
        Macro-F1 with all labelled examples.
    progress : callable, optional
        Function of the number of finished trainings and the total.

    Returns
    -------
    list of (int, Proportion)
        Number of labelled examples, and macro-F1.
    """
    labelled = len(split.rest) - split.simulated
    order = split.simulated + np.random.default_rng(_SEED).permutation(labelled)
    sizes = sorted({round(fraction * labelled) for fraction in _FRACTIONS} - {labelled})
    curve = []
    for done, size in enumerate(sizes, start=1):
        rows = np.concatenate([np.arange(split.simulated), order[:size]])
        try:
            classifier = train.fit_classifier(split.rest[rows])
            curve.append((size, evaluate.measure(classifier, split.examples).macro_f1))
        except errors.InsufficientLabelsError:
            continue
        finally:
            if progress:
                progress(done, len(sizes))
    return [*curve, (labelled, of_all)]


def confusion_of_types(predictions: evaluate.Predictions) -> tuple[Counts, list[str], list[str]]:
    """Return the confusion matrix of the image types of good images.

    Returns
    -------
    counts : (r, c) int array
    true, predicted : list of str
        Names of rows and columns.
    """
    good = np.flatnonzero(predictions.is_good)
    return confusion(
        [predictions.types[i] for i in good], [predictions.predicted_types[i] for i in good]
    )


def confusion_of_kinds(predictions: evaluate.Predictions) -> tuple[Counts, list[str], list[str]]:
    """Return the confusion matrix of the kinds of fault.

    Of an image with two faults, the more probable one counts. Without a kind above 50 % the
    prediction is "none".

    Returns
    -------
    counts : (r, c) int array
    true, predicted : list of str
        Names of rows and columns.
    """
    rows = predictions.is_labelled
    probability, truth = predictions.probabilities[rows], predictions.truth[rows]
    kinds = np.array([*predictions.kinds, NO_FAULT])
    none = len(predictions.kinds)
    is_named = probability.max(axis=1) > evaluate.NAMED
    predicted = np.where(is_named, probability.argmax(axis=1), none)
    of_truth = np.where(truth, probability, -1).argmax(axis=1)
    true = np.where(truth.any(axis=1), of_truth, none)
    return confusion(kinds[true], kinds[predicted])


def confusion(
    true: abc.Sequence[str] | NDArray[np.str_], predicted: abc.Sequence[str] | NDArray[np.str_]
) -> tuple[Counts, list[str], list[str]]:
    """Return a confusion matrix; columns without a row come last, and "none" after the others.

    Parameters
    ----------
    true, predicted : (n,) sequence of str
        Class of each image.

    Returns
    -------
    counts : (r, c) int array
    rows, columns : list of str
        True and predicted classes.
    """

    def order(name: str) -> tuple[bool, str]:
        return name == NO_FAULT, name

    rows = sorted(set(map(str, true)), key=order)
    columns = rows + sorted(set(map(str, predicted)) - set(rows), key=order)
    pairs = Counter(zip(map(str, true), map(str, predicted), strict=True))
    return np.array([[pairs[row, column] for column in columns] for row in rows]), rows, columns


def calibration_bins(predictions: evaluate.Predictions) -> tuple[Doubles, Doubles, Counts]:
    """Return the true rate by predicted probability, in bins of equal width that are not empty.

    Returns
    -------
    predicted : (b,) float64 array
        Mean predicted probability.
    true : (b, 3) float64 array
        True rate, with Wilson's interval (1927).
    counts : (b,) int array
        Number of predictions.
    """
    probability = predictions.probabilities[predictions.is_labelled].ravel()
    truth = predictions.truth[predictions.is_labelled].ravel()
    bins = np.minimum((probability * evaluate.BINS).astype(int), evaluate.BINS - 1)
    masks = [bins == i for i in np.unique(bins)]
    rates = []
    for mask in masks:
        hits, n = int(truth[mask].sum()), int(mask.sum())
        interval = binomtest(hits, n).proportion_ci(evaluate.CONFIDENCE, method="wilson")
        rates.append((hits / n, float(interval.low), float(interval.high)))
    return (
        np.array([probability[mask].mean() for mask in masks]),
        np.array(rates),
        np.array([mask.sum() for mask in masks]),
    )


# --- the page ------------------------------------------------------------------------------------


def draw_evaluation(
    predictions: evaluate.Predictions, figures: evaluate.EvaluationFigures
) -> dict[str, EmbeddedPicture]:
    """Draw confusion matrices, precision and recall, and the calibration of probabilities.

    Parameters
    ----------
    predictions : Predictions
        Predictions for the evaluation examples.
    figures : EvaluationFigures
        Figures of merit.

    Returns
    -------
    dict of str to EmbeddedPicture
    """
    types, kinds = confusion_of_types(predictions), confusion_of_kinds(predictions)
    bins = calibration_bins(predictions)
    svgs = {
        "image types": draw_confusion(*types, title="Image type of good images"),
        "kinds of fault": draw_confusion(*kinds, title="Kind of fault"),
        "precision and recall": classification.draw_intervals(
            [spell_name(kind) for kind in figures.kinds],
            {
                "precision": interval_array([precision for precision, _ in figures.kinds.values()]),
                "recall": interval_array([recall for _, recall in figures.kinds.values()]),
            },
            unit="share",
        ),
        "calibration": classification.draw_calibration(*bins, error=figures.calibration_error),
    }
    return {name: embed_plot(name, svg) for name, svg in svgs.items()}


def draw_confusion(
    counts: Counts, rows: abc.Sequence[str], columns: abc.Sequence[str], *, title: str
) -> str:
    """Draw a confusion matrix.

    Parameters
    ----------
    counts : (r, c) int array
        Number of images.
    rows, columns : sequence of str
        True and predicted classes.
    title : str
        Title.

    Returns
    -------
    str
        SVG.
    """
    return classification.draw_confusion_matrix(
        counts,
        [spell_name(name) for name in rows],
        [spell_name(name) for name in columns],
        title=title,
    )


def interval_array(proportions: abc.Sequence[evaluate.Proportion]) -> Doubles:
    """Return values, low and high ends: (n, 3)."""
    return np.array([[share.value, share.low, share.high] for share in proportions])


def spell_name(name: str) -> str:
    """Return a name with spaces for underscores."""
    return name.replace("_", " ")


def count_classes(
    classes: abc.Sequence[abc.Sequence[str]], simulated: int
) -> tuple[ClassCount, ...]:
    """Count the examples of each class.

    Parameters
    ----------
    classes : sequence of sequence of str
        Classes of each example, simulated examples first.
    simulated : int
        Number of simulated examples.

    Returns
    -------
    tuple of ClassCount
    """
    simulated_counts, labelled_counts = (
        Counter(name for names in part for name in names)
        for part in (classes[:simulated], classes[simulated:])
    )
    return tuple(
        ClassCount(name, labelled_counts[name], simulated_counts[name])
        for name in sorted({*simulated_counts, *labelled_counts})
    )
