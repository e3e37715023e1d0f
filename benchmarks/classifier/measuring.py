"""Figures of a classifier on a history that it never saw."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from benchmarks.classifier.examples import LabelledSet
from embeddings.classifier import DenseClassifier
from embeddings.classifier_data import Examples
from qc.detection.classifier_features import FLAGGED_BAD, scale_to_total
from qc.detection.decision import WORTH_NAMING
from qc.io.instrument_files import read_instruments
from qc.io.instruments import Instrument
from qc.training.evaluate import NAMED, Proportion, measure

Doubles = NDArray[np.float64]
Booleans = NDArray[np.bool_]

CLEAR = ("gross", "moderate")
# Indistinguishable in one image: it shows the other chip; there is more light.
ALIKE = {"chip_duplicated": "chips_swapped", "slit_width_wrong": "overexposed"}
_FALSE_ALARMS = 0.001  # granted rate of the product
_LABELS = 50
_TRANSFERRED = 20
_LABEL_WEIGHT = 5.0  # as in training
_DRAWS = 3
_SEED = 9
_RESAMPLED = 200


@dataclass(frozen=True)
class TypeFigures:
    """Accuracy of image types.

    Attributes
    ----------
    by_type : mapping of str to (Share, Share)
        Of the good images of a type, those that look like it most: of all types that the classifier
        knows, and of those in the exam.
    contradicted : Share
        Of the good images, those whose header the product would contradict: false alarms.
    exposed : mapping of kind to Share
        Of the images with such a fault, those whose header it would contradict.
    """

    by_type: Mapping[str, tuple[Proportion, Proportion]]
    contradicted: Proportion
    exposed: Mapping[str, Proportion]


@dataclass(frozen=True)
class KindFigures:
    """Accuracy of kinds of fault.

    Attributes
    ----------
    by_kind : mapping of str to (precision, recall)
        Gross and moderate faults among good images.
    clear, faint : Share
        Macro-F1 of gross and moderate faults, and of faint ones, each among the good images.
    told : Share
        Of gross and moderate ones, indistinguishable kinds merged.
    calibration_error : float
    """

    by_kind: Mapping[str, tuple[Proportion, Proportion]]
    clear: Proportion
    faint: Proportion
    told: Proportion
    calibration_error: float


def share(flags: Booleans) -> Proportion:
    """Return a share with its Wilson interval."""
    if not len(flags):
        return Proportion(float("nan"), 0.0, 1.0, 0)
    interval = binomtest(int(flags.sum()), len(flags)).proportion_ci(method="wilson")
    return Proportion(float(flags.mean()), float(interval.low), float(interval.high), len(flags))


def of_types(classifier: DenseClassifier, labelled: LabelledSet) -> TypeFigures:
    """Return the accuracy of types, and the detection of wrong headers."""
    probabilities = classifier.type_probabilities(labelled.examples.features)
    classes = np.array(classifier.type_head.classes)
    place = {name: number for number, name in enumerate(classes)}
    header_probability = np.array(
        [row[place[name]] for row, name in zip(probabilities, labelled.headers, strict=True)]
    )
    good, faults = labelled.strengths == "", np.array(fault_of(labelled))
    right = classes[probabilities.argmax(axis=1)] == labelled.headers
    restricted = np.where(np.isin(classes, labelled.headers[good]), probabilities, 0)
    right_of_asked = classes[restricted.argmax(axis=1)] == labelled.headers
    return TypeFigures(
        by_type={
            str(name): (
                share(right[good & (labelled.headers == name)]),
                share(right_of_asked[good & (labelled.headers == name)]),
            )
            for name in np.unique(labelled.headers[good])
        },
        contradicted=share(header_probability[good] < _FALSE_ALARMS),
        exposed={
            str(item): share(header_probability[faults == item] < _FALSE_ALARMS)
            for item in np.unique(faults)
            if item
        },
    )


def fault_of(labelled: LabelledSet) -> list[str]:
    """Return each image's kind of fault; empty without one, or where it cannot be known."""
    return [" ".join(kind or ()) for kind in labelled.examples.kinds]


def of_kinds(classifier: DenseClassifier, labelled: LabelledSet) -> KindFigures:
    """Return the accuracy of kinds for images with references."""
    usable = labelled[np.array([kind is not None for kind in labelled.examples.kinds])]
    clear = usable[np.isin(usable.strengths, ("", *CLEAR))]
    faint = usable[np.isin(usable.strengths, ("", "faint"))]
    named, truth = named_kinds(classifier, clear), np.array(fault_of(clear))
    kinds = [str(kind) for kind in np.unique(truth) if kind]
    return KindFigures(
        by_kind={
            kind: (share(truth[named == kind] == kind), share(named[truth == kind] == kind))
            for kind in kinds
        },
        clear=_macro_f1(named, truth),
        faint=_macro_f1(named_kinds(classifier, faint), np.array(fault_of(faint))),
        told=_macro_f1(_merged(named), _merged(truth)),
        calibration_error=measure(classifier, clear.examples).calibration_error,
    )


def _merged(kinds: NDArray[np.str_]) -> NDArray[np.str_]:
    return np.array([ALIKE.get(str(kind), str(kind)) for kind in kinds])


def named_kinds(classifier: DenseClassifier, labelled: LabelledSet) -> NDArray[np.str_]:
    """Return the fault that the product names in each image, empty if none: (n,).

    Flagged images are probably bad, others hardly ever.
    """
    (uves,) = (instrument for instrument in read_instruments() if instrument.name == "UVES")
    classes = np.array(classifier.kind_head.classes)
    named = np.full(len(labelled.headers), "", classes.dtype)
    for frame_class, rows in _by_class(uves, labelled.headers).items():
        for flagged in (True, False):
            selected = rows & (labelled.flagged == flagged)
            least = FLAGGED_BAD if flagged else 0.0
            expected = uves.expected_faults(frame_class, least or None)
            if selected.any():
                features = labelled.examples.features[selected]
                estimates = classifier.kind_probabilities(features, expected)
                probabilities = scale_to_total(estimates, least)
                best = classes[probabilities.argmax(axis=1)]
                named[selected] = np.where(probabilities.max(axis=1) > WORTH_NAMING, best, "")
    return named


def _by_class(uves: Instrument, headers: NDArray[np.str_]) -> dict[str, Booleans]:
    classes: dict[str, Booleans] = {}
    for name in np.unique(headers):
        calibration = uves.calibration_of(str(name))
        assert calibration is not None
        rows = headers == name
        classes[calibration.frame_class] = rows | classes.get(calibration.frame_class, False)
    return classes


def _macro_f1(named: NDArray[np.str_], truth: NDArray[np.str_]) -> Proportion:
    """Return the mean F1 of the kinds there are, with its bootstrap interval."""
    kinds = [kind for kind in np.unique(truth) if kind]
    rng = np.random.default_rng(_SEED)
    draws = [rng.integers(0, len(truth), len(truth)) for _ in range(_RESAMPLED)]
    means = [_mean_f1(named[rows], truth[rows], kinds) for rows in draws]
    low, high = np.quantile(means, [0.025, 0.975])
    return Proportion(_mean_f1(named, truth, kinds), float(low), float(high), len(kinds))


def _mean_f1(named: NDArray[np.str_], truth: NDArray[np.str_], kinds: Sequence[str]) -> float:
    there = [kind for kind in kinds if (truth == kind).any()]
    item = f1_score(truth, named, labels=there, average=None, zero_division=0)
    return float(np.mean(item))


def of_seldom(
    classifier: DenseClassifier, labelled: LabelledSet, rate: float
) -> Mapping[str, float]:
    """Return the precision of naming any fault where few images have one, with and without prior.

    The bad images are weighed down to the rate.
    """
    is_labelled = np.array([kind is not None for kind in labelled.examples.kinds])
    features = labelled.examples.features[is_labelled]
    bad = np.asarray(labelled.strengths[is_labelled] != "")
    kinds = classifier.kind_head.classes
    results = {}
    for name, expected in (
        ("as trained", {}),
        ("moved to the rate", dict.fromkeys(kinds, rate / len(kinds))),
    ):
        probabilities = classifier.kind_probabilities(features, expected)
        named = np.asarray((probabilities > NAMED).any(axis=1))
        hits, alarms = rate * named[bad].mean(), (1 - rate) * named[~bad].mean()
        results[f"{name}: precision"] = float(hits / (hits + alarms))
        results[f"{name}: recall"] = float(named[bad].mean())
    return results


def retraining(examples: Examples, labels: Examples) -> float:
    """Return how many seconds it takes to learn anew with fifty more labels."""
    rows = np.random.default_rng(_SEED).permutation(len(labels))[:_LABELS]
    start = time.perf_counter()
    DenseClassifier.fit(examples + labels[rows])
    return time.perf_counter() - start


def transfer(teachers: Examples, target: LabelledSet) -> Mapping[str, Sequence[float]]:
    """Return the macro-F1 of kinds on another instrument, with twenty of its images labelled.

    Twenty bad images are drawn, and as many good ones; the kinds asked for are those among them
    that the teachers know too. The rest of the instrument's images are the exam.
    """
    usable = target.examples[np.array([kind is not None for kind in target.examples.kinds])]
    untaught = DenseClassifier.fit(teachers, minimum_examples=1)
    results: dict[str, list[float]] = {
        name: [] for name in ("these alone", "with both", "other alone")
    }
    for draw in range(_DRAWS):
        rows = _drawn(usable, np.random.default_rng([_SEED, draw]))
        few = replace(usable[rows], weights=np.full(len(rows), _LABEL_WEIGHT))
        exam = usable[np.setdiff1d(np.arange(len(usable)), rows)]
        kinds = {kind for item in few.kinds for kind in item or ()}
        for name, classifier in (
            ("these alone", DenseClassifier.fit(few, minimum_examples=1)),
            ("with both", DenseClassifier.fit(teachers + few, minimum_examples=1)),
            ("other alone", untaught),
        ):
            results[name].append(_transferred_f1(classifier, exam, kinds))
    return results


def _drawn(examples: Examples, rng: np.random.Generator) -> NDArray[np.int_]:
    bad = np.array([bool(kind) for kind in examples.kinds])
    chosen = [rng.permutation(np.flatnonzero(item))[:_TRANSFERRED] for item in (bad, ~bad)]
    return np.sort(np.concatenate(chosen))


def _transferred_f1(classifier: DenseClassifier, exam: Examples, kinds: set[str]) -> float:
    """Return the macro-F1 of some kinds; of a kind that the classifier does not know, 0."""
    stored = np.array([not item or bool(item & kinds) for item in exam.kinds])
    exam = exam[stored]
    f1 = []
    for kind in sorted(kinds):
        truth = np.array([kind in (item or ()) for item in exam.kinds])
        if not truth.any():
            continue
        if kind not in classifier.kind_head.classes:
            f1.append(0.0)
            continue
        column = classifier.kind_head.classes.index(kind)
        named = classifier.kind_probabilities(exam.features, {})[:, column] > NAMED
        f1.append(2 * float((named & truth).sum()) / max(int(named.sum() + truth.sum()), 1))
    return float(np.mean(f1))
