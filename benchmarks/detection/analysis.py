"""Scores of every method on the test nights, and the figures drawn from them."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.detection.evidence import Group, Record, Sample
from benchmarks.detection.figures import (
    Interval,
    auroc,
    best_threshold,
    bootstrap,
    calibrated,
    figures_at,
    recall_at,
    recall_at_budget,
    wilson,
)
from benchmarks.detection.history import NEW_LAMP
from benchmarks.detection.methods import Row
from benchmarks.detection.supervised import Examples, Taught, examples_of, join
from qc.core.reference import REFERENCE_NEEDED
from qc.detection.decision import rarity
from qc.simulator import STRENGTHS
from qc.tuning.extreme_values import tail_quantile

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

OURS = "ours"
FALSE_ALARMS = 0.001  # target of thresholds from nominal frames alone
COUNTED_APART = {
    "frame_repeated"
}  # its image is a good one; only a comparison of pixels detects it
BUDGET, NIGHT, RARE = 5, 120, 0.02  # images looked at a night, taken a night, share that is bad
_REFUSED = 1e6  # a score above all others: the reader would not have it
_FEWEST = 5  # nominal images of earlier nights, without which a type has no scale


@dataclass(frozen=True)
class Scored:
    """One image with the score of every method that has looked at it.

    Attributes
    ----------
    brightness : float
        Mean light in units of the references' brightest; below 0 where no lamp shines.
    dimmest : float
        Mean light of the references' dimmest, likewise.
    rate : float
        The false alarms that the limits in force were set for.
    """

    sample: Sample
    scores: dict[str, float] = field(default_factory=dict)
    brightness: float = -1.0
    dimmest: float = -1.0
    rate: float = FALSE_ALARMS

    @property
    def is_bright_as_references(self) -> bool:
        """Whether its light is within the range of the references."""
        return self.dimmest <= self.brightness <= 1


@dataclass(frozen=True)
class Column:
    """A method as it stands in the tables.

    Attributes
    ----------
    limit : str
        See `methods.Row`.
    milliseconds : float
        Time to score an image, with a share of the learning from references.
    learning_s : float
        Time to learn from labels, once.
    """

    name: str
    limit: str
    milliseconds: float
    learning_s: float = 0.0


@dataclass
class Scores:
    """All scored images, and the methods that have scored them.

    Attributes
    ----------
    examples : Examples
        The same images, in the same order, as classifiers see them.
    """

    scored: list[Scored]
    columns: list[Column]
    examples: Examples

    def teach(self, taught: Taught, examples: Examples) -> None:
        """Let a method learn from another history, and score every image."""
        start = time.perf_counter()
        predict = taught.learn(examples)
        learning_s = time.perf_counter() - start
        start = time.perf_counter()
        values = predict(self.examples)
        milliseconds = 1000 * (time.perf_counter() - start) / len(self.scored)
        _write(self.scored, taught.name, values)
        before_ours = len(self.columns) - 1
        column = Column(taught.name, taught.limit, milliseconds, learning_s)
        self.columns.insert(before_ours, column)


def score_all(records: Iterable[Record], rows: Sequence[Row]) -> Scores:
    """Score every image that was held against enough references."""
    scored: list[Scored] = []
    parts: list[Examples] = []
    seconds: dict[str, float] = defaultdict(float)
    groups = (group for record in records for group in record.groups())
    with threadpool_limits(1):  # the matrices are small: more threads wait for one another
        for group in groups:
            scoreds = _scored(group)
            for row in rows:
                start = time.perf_counter()
                _write(scoreds, row.name, row.score(group.references, group.tests))
                seconds[row.name] += time.perf_counter() - start
            scored += scoreds
            parts.append(examples_of(group))
    columns = [Column(row.name, row.limit, _each(seconds, scored, row.name)) for row in rows]
    return Scores(scored, columns, join(parts))


def _write(scored: Sequence[Scored], name: str, values: Doubles) -> None:
    for item, value in zip(scored, values, strict=True):
        if np.isfinite(value):
            item.scores[name] = float(value)


def _each(seconds: Mapping[str, float], scored: Sequence[Scored], name: str) -> float:
    """Return the milliseconds that each image took of those that were looked at."""
    return 1000 * seconds[name] / max(sum(name in item.scores for item in scored), 1)


def _scored(group: Group) -> list[Scored]:
    reference_light, new = (_brightness(item.light) for item in (group.references, group.tests))
    lit = group.tests.findings[0].extension.promised_light > 0
    rate = group.tests.thresholds.false_alarms
    bright, dimmest = (
        new / reference_light.max(),
        float(reference_light.min() / reference_light.max()),
    )
    return [
        Scored(sample, {}, float(bright[i]), dimmest, rate) if lit else Scored(sample, rate=rate)
        for i, sample in enumerate(group.samples)
    ]


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
    return bootstrap(figures_at(threshold), scores, bad, frames)


def method_tables(scores: Scores) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each method's figures by image type, of the scored images."""
    return {column.name: _method_table(column, scores.scored) for column in scores.columns}


def _method_table(column: Column, scored: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    spring = _spring(scored, column.name)
    return {
        name: _method_figures(column, some, spring.get(name, np.empty(0)))
        for name, some in _tests_by_type(scored, column.name).items()
    }


def _tests_by_type(scored: Iterable[Scored], method: str) -> dict[str, list[Scored]]:
    """Return the counted tests that a method has scored, by image type; both good and bad."""
    groups = defaultdict(list)
    for item in scored:
        if is_counted(item.sample) and method in item.scores:
            groups[item.sample.truth.image_type].append(item)
    mixed = {name for name, some in groups.items() if 0 < _bad(some).sum() < len(some)}
    return {name: some for name, some in sorted(groups.items()) if name in mixed}


def _spring(scored: Iterable[Scored], method: str) -> dict[str, Doubles]:
    """Return a method's scores of the nominal images before the tests, by image type."""
    groups = defaultdict(list)
    for item in scored:
        if item.sample.truth.part == "reference" and method in item.scores:
            groups[item.sample.truth.image_type].append(item.scores[method])
    return {name: np.array(some) for name, some in groups.items() if len(some) >= _FEWEST}


def _method_figures(column: Column, scored: Sequence[Scored], spring: Doubles) -> dict[str, Any]:
    scores, bad = _of(scored, column.name), _bad(scored)
    threshold = {
        "shipped": lambda: 1.0,
        "spring": lambda: tail_quantile(spring, FALSE_ALARMS) if len(spring) else np.inf,
        "test": lambda: best_threshold(scores, bad),
    }[column.limit]()
    alarms = wilson(int((scores[~bad] > threshold).sum()), int((~bad).sum()))
    figures = _figures(scores, [item.sample for item in scored], threshold)
    return {**figures, "false_alarms": alarms, "threshold": threshold}


def _of(scored: Iterable[Scored], method: str) -> Doubles:
    return np.array([item.scores[method] for item in scored])


def _bad(scored: Iterable[Scored]) -> Flags:
    return np.array([item.sample.truth.is_bad for item in scored])


def together(scored: Sequence[Scored], column: Column) -> tuple[list[Scored], Doubles]:
    """Return every counted test with a score that can be ranked over all image types.

    The product's own score is in units of its limit; any other is put on the scale of its type's
    nominal images before the tests.
    """
    spring = _spring(scored, column.name)
    chosen: list[Scored] = []
    values: list[Doubles] = []
    for name, some in _tests_by_type(scored, column.name).items():
        if column.limit == "shipped" or name in spring:
            matching = _of(some, column.name)
            chosen += some
            values.append(
                matching if column.limit == "shipped" else calibrated(matching, spring[name])
            )
    return chosen, np.concatenate(values) if values else np.empty(0)


def by_strength(
    scores: Scores, rate: float = FALSE_ALARMS
) -> dict[str, dict[str, dict[str, float]]]:
    """Return each method's recall at a rate of false alarms, by strength of the fault.

    ``pooled``: one limit for all image types; ``mean``: one for each type, the mean over them.
    """
    return {
        column.name: {
            "pooled": _recalls(*together(scores.scored, column), rate),
            "mean": _mean_recalls(scores.scored, column.name, rate),
        }
        for column in scores.columns
    }


def _recalls(scored: Sequence[Scored], values: Doubles, rate: float) -> dict[str, float]:
    """Return the recall of each strength, each with all good images."""
    bad, recalls = _bad(scored), {}
    strengths = np.array([item.sample.truth.strength for item in scored])
    for strength in STRENGTHS:
        chosen = ~bad | (strengths == strength) if len(scored) else bad
        if (strengths == strength).any():
            recalls[strength] = recall_at(rate, values[chosen], bad[chosen])
    return recalls


def _mean_recalls(scored: Sequence[Scored], method: str, rate: float) -> dict[str, float]:
    groups = _tests_by_type(scored, method).values()
    results = [_recalls(some, _of(some, method), rate) for some in groups]
    return {
        strength: fmean(result)
        for strength in STRENGTHS
        if (result := [item[strength] for item in results if strength in item])
    }


def at_budget(scores: Scores) -> dict[str, float]:
    """Return each method's recall where people look at the five oddest images of a night."""
    result = {}
    for column in scores.columns:
        scored, values = together(scores.scored, column)
        if scored:
            result[column.name] = recall_at_budget(
                values, _bad(scored), budget=BUDGET, night=NIGHT, share=RARE
            )
    return result


def calibration(scores: Scores) -> dict[str, Interval]:
    """Return how many good tests look as odd as so rare a share of good images should.

    See `qc.judge.rarity`: the meaning of the product's score.
    """
    good = [
        item for item in scores.scored if is_counted(item.sample) and not item.sample.truth.is_bad
    ]
    chances = np.array([rarity(item.scores[OURS], item.rate) for item in good])
    return {f"{p:g}": wilson(int((chances < p).sum()), len(good)) for p in _PROMISED}


_PROMISED = (0.1, 0.01, 0.001)


def hard(scores: Scores) -> list[Sample]:
    """Return the bad images that the product misses, at its own limit or at 0.1 % pooled."""
    tests = [item for item in scores.scored if is_counted(item.sample)]
    good = np.sort(_of((test for test in tests if not test.sample.truth.is_bad), OURS))[::-1]
    limit = max(1.0, good[int(FALSE_ALARMS * len(good))])
    return [
        test.sample for test in tests if test.sample.truth.is_bad and test.scores[OURS] <= limit
    ]


def mean_auroc(
    scored: Sequence[Scored], method: str, which: Callable[[Scored], bool] = lambda _: True
) -> float:
    """Return the AUROC averaged over image types, of those images that are wanted."""
    chosen = [item for item in scored if which(item)]
    groups = _tests_by_type(chosen, method).values()
    return fmean(auroc(_of(some, method), _bad(some)) for some in groups)


def mean_recall(
    scored: Sequence[Scored], method: str, rate: float, which: Callable[[Scored], bool]
) -> float:
    """Return the recall at a rate of false alarms averaged over image types."""
    chosen = [item for item in scored if which(item)]
    groups = _tests_by_type(chosen, method).values()
    return fmean(recall_at(rate, _of(some, method), _bad(some)) for some in groups)


def recall_by_fault(samples: Iterable[Sample]) -> dict[str, dict[str, tuple[int, int]]]:
    """Return how many were flagged, of how many, by kind of fault and strength."""
    counts: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for sample in samples:
        if sample.truth.is_bad and _is_test(sample):
            result, of = counts[sample.truth.fault].get(sample.truth.strength, (0, 0))
            tally = (result + sample.is_flagged, of + 1)
            counts[sample.truth.fault][sample.truth.strength] = tally
    return dict(sorted(counts.items()))


def misses(samples: Iterable[Sample]) -> list[Sample]:
    """Return the bad images without an alert."""
    return [
        sample
        for sample in samples
        if _is_test(sample) and sample.truth.is_bad and not sample.is_flagged
    ]


def false_alarms(samples: Iterable[Sample]) -> list[Sample]:
    """Return the good images that somebody would have looked at in vain."""
    judged = [sample for sample in samples if _is_test(sample) and sample.finding]
    return [item for item in judged if not item.truth.is_bad and item.is_flagged]


def _is_test(sample: Sample) -> bool:
    return sample.truth.part == "test"


def by_reference_size(samples: Iterable[Sample]) -> dict[str, dict[str, Interval]]:
    """Return recall and false alarms by how many references there were, spring included."""
    groups = defaultdict(list)
    for sample in samples:
        if sample.truth.part == NEW_LAMP or not _shows_its_fault(sample):
            continue
        if sample.reference_size >= REFERENCE_NEEDED:
            groups[_bin(sample.reference_size)].append(sample)
    return {name: _rates(groups[name]) for name in _BINS if name in groups}


_BINS = {"20 to 40": 40, "41 to 100": 100, "101 to 200": 200}


def _bin(size: int) -> str:
    return next(name for name, largest in _BINS.items() if size <= largest)


def with_a_new_lamp(samples: Iterable[Sample]) -> dict[str, dict[str, Interval]]:
    """Return the flagged images of each type after an unrecorded lamp change."""
    groups = defaultdict(list)
    for sample in samples:
        if sample.truth.part == NEW_LAMP and sample.reference_size >= REFERENCE_NEEDED:
            groups[sample.truth.image_type].append(sample)
    return {name: _rates(some) for name, some in sorted(groups.items())}


def by_brightness(scores: Scores) -> dict[str, dict[str, Interval]]:
    """Return recall and false alarms of lit images within their references' light, and beyond.

    The nights of spring and of the rebuilding included, as far as they had references.
    """
    groups = defaultdict(list)
    for item in scores.scored:
        if item.sample.truth.part == NEW_LAMP:
            continue
        if _shows_its_fault(item.sample) and item.brightness >= 0:
            inside = item.is_bright_as_references
            where = "within" if inside else "brighter" if item.brightness > 1 else "dimmer"
            groups[where].append(item.sample)
    return {name: _rates(groups[name]) for name in ("within", "brighter", "dimmer")}


def _rates(samples: Sequence[Sample]) -> dict[str, Interval]:
    bad = [sample.is_flagged for sample in samples if sample.truth.is_bad]
    good = [sample.is_flagged for sample in samples if not sample.truth.is_bad]
    return {"recall": wilson(sum(bad), len(bad)), "false_alarms": wilson(sum(good), len(good))}
