"""What a classifier has learnt, and how well it answers: one page that needs nothing else."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from embeddings.classifier import Examples
from qc.errors import InsufficientLabelsError
from qc.figures import plots
from qc.reports.extension_figures import EmbeddedPicture, drawing
from qc.reports.night import rendered, write_page
from qc.training.train import (
    BINS,
    CONFIDENCE,
    NAMED,
    EvaluationFigures,
    EvaluationSplit,
    Predictions,
    Progress,
    Proportion,
    TrainingResult,
    answers,
    fitted,
    measure,
)

Doubles = NDArray[np.float64]
Counts = NDArray[np.int_]

NOTHING = "none"
_PARTS = (0.0, 0.25, 0.5)  # of the labelled examples; all of them are learnt by the twin
_SEED = 0


@dataclass(frozen=True)
class ClassCount:
    """How many examples there were of a class."""

    name: str
    labelled: int
    simulated: int


@dataclass(frozen=True)
class TrainingReport:
    """Everything on the page of a training.

    Attributes
    ----------
    types, kinds : tuple of Taught
        Good examples by image type, and bad ones by kind of fault.
    pictures : mapping of str to Picture
        By what they show; empty without an exam.
    """

    trained: TrainingResult
    who: str
    encoder: str
    generated_at: datetime
    types: tuple[ClassCount, ...]
    kinds: tuple[ClassCount, ...]
    pictures: Mapping[str, EmbeddedPicture]


def write_lessons(
    file: Path,
    trained: TrainingResult,
    *,
    who: str,
    encoder: str,
    generated_at: datetime,
    progress: Progress | None = None,
) -> Path:
    """Write what was learnt and how well as one HTML file.

    Parameters
    ----------
    encoder : str
        Its fingerprint.
    generated_at : datetime
        Aware.
    progress : callable, optional
        Told how many of the trainings for the learning curve are done, and of how many.
    """
    pictures = {}
    if trained.exam and trained.twin and trained.new:
        said = answers(trained.twin, trained.exam.examples)
        pictures = _pictures(said, trained.new)
        curve = learning_curve(trained.exam, trained.new.macro_f1, progress)
        pictures["learning curve"] = _drawn_curve(curve)
    page = TrainingReport(
        trained=trained,
        who=who,
        encoder=encoder,
        generated_at=generated_at,
        types=_taught(trained, _types_of(trained.examples)),
        kinds=_taught(trained, _kinds_of(trained.examples)),
        pictures=pictures,
    )
    return write_page(file, rendered("lessons.html.j2", page=page))


def learning_curve(
    exam: EvaluationSplit, of_all: Proportion, progress: Progress | None = None
) -> list[tuple[int, Proportion]]:
    """Return the macro-F1 on an exam after none, a quarter, half and all of the labelled examples.

    Beside all the simulated ones; smaller parts are drawn at random from larger ones. A part that
    is too small to learn from is left out.

    Returns
    -------
    list of (labelled examples, Share)
    """
    labelled = len(exam.rest) - exam.simulated
    order = exam.simulated + np.random.default_rng(_SEED).permutation(labelled)
    sizes = sorted({round(part * labelled) for part in _PARTS} - {labelled})
    curve = []
    for done, size in enumerate(sizes, start=1):
        rows = np.concatenate([np.arange(exam.simulated), order[:size]])
        try:
            curve.append((size, measure(fitted(exam.rest[rows]), exam.examples).macro_f1))
        except InsufficientLabelsError:
            continue
        finally:
            if progress:
                progress(done, len(sizes))
    return [*curve, (labelled, of_all)]


def confusion_of_types(said: Predictions) -> tuple[Counts, list[str], list[str]]:
    """Return how often which type of good image looks like which: counts, true, said."""
    good = np.flatnonzero(said.good)
    return _confusion([said.types[i] for i in good], [said.seen[i] for i in good])


def confusion_of_kinds(said: Predictions) -> tuple[Counts, list[str], list[str]]:
    """Return how often which kind of fault is taken for which: counts, true, said.

    Of an image with two faults, the one counts that was more probable. Where nothing is more
    probable than not, none was named.
    """
    promised, truth = said.promised[said.told], said.truth[said.told]
    kinds = np.array([*said.kinds, NOTHING])
    named = np.where(promised.max(axis=1) > NAMED, promised.argmax(axis=1), len(said.kinds))
    true = np.where(
        truth.any(axis=1), np.where(truth, promised, -1).argmax(axis=1), len(said.kinds)
    )
    return _confusion(kinds[true], kinds[named])


def _confusion(
    true: Sequence[str] | NDArray[np.str_], said: Sequence[str] | NDArray[np.str_]
) -> tuple[Counts, list[str], list[str]]:
    """Count pairs; what was only said stands behind what is true, and no fault last."""
    rows = sorted(set(map(str, true)), key=_order)
    columns = rows + sorted(set(map(str, said)) - set(rows), key=_order)
    pairs = Counter(zip(map(str, true), map(str, said), strict=True))
    return np.array([[pairs[row, column] for column in columns] for row in rows]), rows, columns


def _order(name: str) -> tuple[bool, str]:
    return name == NOTHING, name


def calibration_bins(said: Predictions) -> tuple[Doubles, Doubles, Counts]:
    """Return how often what was promised is true, in bins of equal width that hold anything.

    Returns
    -------
    promised : (b,) float64 array
        Mean probability.
    true : (b, 3) float64 array
        How often it was true, with Wilson's interval (1927).
    counts : (b,) int array
    """
    promised, truth = said.promised[said.told].ravel(), said.truth[said.told].ravel()
    bins = np.minimum((promised * BINS).astype(int), BINS - 1)
    held = [bins == i for i in np.unique(bins)]
    return (
        np.array([promised[each].mean() for each in held]),
        np.array([_wilson(int(truth[each].sum()), int(each.sum())) for each in held]),
        np.array([each.sum() for each in held]),
    )


def _wilson(hits: int, n: int) -> tuple[float, float, float]:
    interval = binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return hits / n, float(interval.low), float(interval.high)


# --- the page ------------------------------------------------------------------------------------


def _pictures(said: Predictions, figures: EvaluationFigures) -> dict[str, EmbeddedPicture]:
    types, kinds = confusion_of_types(said), confusion_of_kinds(said)
    svgs = {
        "image types": _drawn_confusion(*types, title="Image type of good images"),
        "kinds of fault": _drawn_confusion(*kinds, title="Kind of fault"),
        "precision and recall": plots.spans(
            [_spelt(kind) for kind in figures.kinds],
            {
                "precision": _spread([precision for precision, _ in figures.kinds.values()]),
                "recall": _spread([recall for _, recall in figures.kinds.values()]),
            },
            unit="share",
        ),
        "calibration": plots.calibration(*calibration_bins(said), error=figures.calibration_error),
    }
    return {name: drawing(name, svg) for name, svg in svgs.items()}


def _drawn_confusion(
    counts: Counts, rows: Sequence[str], columns: Sequence[str], *, title: str
) -> str:
    return plots.confusion(
        counts, [_spelt(name) for name in rows], [_spelt(name) for name in columns], title=title
    )


def _drawn_curve(curve: Sequence[tuple[int, Proportion]]) -> EmbeddedPicture:
    labelled = np.array([size for size, _ in curve])
    spread = _spread([share for _, share in curve])
    return drawing("learning curve", plots.learning_curve(labelled, spread, unit="macro-F1"))


def _spread(shares: Sequence[Proportion]) -> Doubles:
    """Return values, low and high ends: (n, 3)."""
    return np.array([[one.value, one.low, one.high] for one in shares])


def _spelt(name: str) -> str:
    return name.replace("_", " ")


def _types_of(examples: Examples) -> list[list[str]]:
    """Return the type that each example teaches; none unless it is good."""
    pairs = zip(examples.types, examples.kinds, strict=True)
    return [[name] if kinds is not None and not kinds else [] for name, kinds in pairs]


def _kinds_of(examples: Examples) -> list[list[str]]:
    return [sorted(kinds or ()) for kinds in examples.kinds]


def _taught(trained: TrainingResult, names: Sequence[Sequence[str]]) -> tuple[ClassCount, ...]:
    """Count the examples of each class, the simulated ones of which come first."""
    simulated, labelled = (
        Counter(name for some in part for name in some)
        for part in (names[: trained.simulated], names[trained.simulated :])
    )
    every = sorted({*simulated, *labelled})
    return tuple(ClassCount(name, labelled[name], simulated[name]) for name in every)
