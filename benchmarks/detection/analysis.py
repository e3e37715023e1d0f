"""Scores of every method on the test nights, and the figures drawn from them."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.evidence import Group, Record, Sample
from benchmarks.detection.figures import (
    Interval,
    best_threshold,
    bootstrap,
    figures_at,
    wilson,
)
from benchmarks.detection.methods import METHODS, Row
from qc.judge import REFERENCE_NEEDED
from qc.tuning import tail_quantile

Doubles = NDArray[np.float64]

FALSE_ALARMS = 0.001  # what thresholds from nominal frames alone are set for
COUNTED_APART = {"frame_repeated"}  # its image is a good one: only a comparison of pixels can tell
_REFUSED = 1e6  # a score above all others: the reader would not have it


@dataclass(frozen=True)
class Scored:
    """One image with every method's score of it.

    Attributes
    ----------
    brightness : float
        Mean light in units of the references' brightest; below 0 where no lamp shines.
    dimmest : float
        Mean light of the references' dimmest, likewise.
    """

    sample: Sample
    scores: Mapping[str, float]
    brightness: float = -1.0
    dimmest: float = -1.0

    @property
    def is_bright_as_references(self) -> bool:
        """Whether its light lies within what the references have."""
        return self.dimmest <= self.brightness <= 1


@dataclass
class Scores:
    """All scored images, and what each method took."""

    scored: list[Scored] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, group: Group) -> None:
        """Let every method score a group."""
        by_row = {}
        for row in METHODS:
            start = time.perf_counter()
            by_row[row.name] = row.score(group.references, group.tests)
            self.seconds[row.name] += time.perf_counter() - start
        known, new = (_brightness(each.light) for each in (group.references, group.tests))
        lit = group.tests.findings[0].extension.promised_light > 0
        for i, sample in enumerate(group.samples):
            scores = {name: float(values[i]) for name, values in by_row.items()}
            light = (new[i] / known.max(), known.min() / known.max()) if lit else (-1.0, -1.0)
            self.scored.append(Scored(sample, scores, *map(float, light)))

    def milliseconds(self, row: Row) -> float:
        """Return what scoring an image took, the learning from references shared out."""
        return 1000 * self.seconds[row.name] / max(len(self.scored), 1)


def score_all(records: Iterable[Record]) -> Scores:
    """Score every image that was held against enough references."""
    scores = Scores()
    for record in records:
        for group in record.groups():
            scores.add(group)
    return scores


def _brightness(light: NDArray[np.float32]) -> Doubles:
    return np.asarray(light[..., 0].mean(axis=(1, 2)), np.float64)


def is_counted(sample: Sample) -> bool:
    """Whether an image is a test, and its fault one that its picture shows."""
    return _is_test(sample) and _shows_its_fault(sample)


def _shows_its_fault(sample: Sample) -> bool:
    return sample.truth.fault not in COUNTED_APART


# --- tables --------------------------------------------------------------------------------------


def product_table(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """Return the product's figures by image type; a refused file counts as flagged."""
    by_type = defaultdict(list)
    for sample in filter(is_counted, samples):
        if sample.finding or sample.truth.is_bad:  # a good chip is lost with its file, not flagged
            by_type[sample.truth.image_type].append(sample)
    return {name: _product_figures(some) for name, some in sorted(by_type.items())}


def _product_figures(samples: Sequence[Sample]) -> dict[str, Any]:
    scores = np.array([_score(sample) for sample in samples])
    table = _figures(scores, samples, threshold=1.0)
    flagged = sum(sample.is_flagged and not sample.truth.is_bad for sample in samples)
    return {**_counts(samples), **table, "false_alarms": wilson(flagged, _nominal(samples))}


def _nominal(samples: Iterable[Sample]) -> int:
    """Count the good images."""
    return sum(not sample.truth.is_bad for sample in samples)


def _score(sample: Sample) -> float:
    return float(sample.finding.verdict.score) if sample.finding else _REFUSED


def _counts(samples: Sequence[Sample]) -> dict[str, int]:
    nominal = _nominal(samples)
    refused = sum(sample.finding is None for sample in samples)
    return {"nominal": nominal, "bad": len(samples) - nominal, "refused": refused}


def _figures(scores: Doubles, samples: Sequence[Sample], threshold: float) -> dict[str, Interval]:
    bad = np.array([sample.truth.is_bad for sample in samples])
    names = [sample.truth.file for sample in samples]
    frames = np.unique(names, return_inverse=True)[1]
    return {
        name: bootstrap(figure, scores, bad, frames)
        for name, figure in figures_at(threshold).items()
    }


def method_tables(scores: Scores) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each method's figures by image type, of what every method could score."""
    return {row.name: _method_table(row, scores.scored) for row in METHODS}


def _method_table(row: Row, scored: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    tests, spring = defaultdict(list), defaultdict(list)
    for one in scored:
        if is_counted(one.sample):
            tests[one.sample.truth.image_type].append(one)
        elif one.sample.truth.part == "reference":
            spring[one.sample.truth.image_type].append(one.scores[row.name])
    return {
        name: _method_figures(row, some, np.array(spring[name]))
        for name, some in sorted(tests.items())
    }


def _method_figures(row: Row, scored: Sequence[Scored], spring: Doubles) -> dict[str, Any]:
    scores = np.array([one.scores[row.name] for one in scored])
    samples = [one.sample for one in scored]
    bad = np.array([sample.truth.is_bad for sample in samples])
    threshold = {
        "shipped": lambda: 1.0,
        "spring": lambda: tail_quantile(spring, FALSE_ALARMS),
        "test": lambda: best_threshold(scores, bad),
    }[row.limit]()
    alarms = wilson(int((scores[~bad] > threshold).sum()), int((~bad).sum()))
    return {**_figures(scores, samples, threshold), "false_alarms": alarms, "threshold": threshold}


def recall_by_fault(samples: Iterable[Sample]) -> dict[str, dict[str, tuple[int, int]]]:
    """Return how many were flagged, of how many, by kind of fault and strength."""
    counts: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for sample in samples:
        if sample.truth.is_bad and _is_test(sample):
            found, of = counts[sample.truth.fault].get(sample.truth.strength, (0, 0))
            tally = (found + sample.is_flagged, of + 1)
            counts[sample.truth.fault][sample.truth.strength] = tally
    return dict(sorted(counts.items()))


def misses(samples: Iterable[Sample]) -> list[Sample]:
    """Return the bad images that nobody would have been told of."""
    return [one for one in samples if _is_test(one) and one.truth.is_bad and not one.is_flagged]


def false_alarms(samples: Iterable[Sample]) -> list[Sample]:
    """Return the good images that somebody would have looked at in vain."""
    judged = [one for one in samples if _is_test(one) and one.finding]
    return [one for one in judged if not one.truth.is_bad and one.is_flagged]


def _is_test(sample: Sample) -> bool:
    return sample.truth.part == "test"


def by_reference_size(samples: Iterable[Sample]) -> dict[str, dict[str, Interval]]:
    """Return recall and false alarms by how many references there were, spring included."""
    groups = defaultdict(list)
    for sample in samples:
        if sample.reference_size >= REFERENCE_NEEDED and _shows_its_fault(sample):
            groups[_bin(sample.reference_size)].append(sample)
    return {name: _rates(groups[name]) for name in _BINS if name in groups}


_BINS = {"20 to 40": 40, "41 to 100": 100, "101 to 200": 200}


def _bin(size: int) -> str:
    return next(name for name, largest in _BINS.items() if size <= largest)


def by_brightness(scores: Scores) -> dict[str, dict[str, Interval]]:
    """Return recall and false alarms of lit images within their references' light, and beyond.

    The nights of spring and of the rebuilding included, as far as they had references.
    """
    groups = defaultdict(list)
    for one in scores.scored:
        if _shows_its_fault(one.sample) and one.brightness >= 0:
            inside = one.is_bright_as_references
            where = "within" if inside else "brighter" if one.brightness > 1 else "dimmer"
            groups[where].append(one.sample)
    return {name: _rates(groups[name]) for name in ("within", "brighter", "dimmer")}


def _rates(samples: Sequence[Sample]) -> dict[str, Interval]:
    bad = [sample.is_flagged for sample in samples if sample.truth.is_bad]
    good = [sample.is_flagged for sample in samples if not sample.truth.is_bad]
    return {"recall": wilson(sum(bad), len(bad)), "false_alarms": wilson(sum(good), len(good))}
