"""Robustness of the methods to wrong labels and few images."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.analysis import (
    OURS,
    Scored,
    Scores,
    is_counted,
    mean_auroc,
    mean_recall,
)
from benchmarks.detection.evidence import Material, Record, Sample
from benchmarks.detection.figures import false_alarms_of, recall_of
from benchmarks.detection.supervised import Examples, Taught
from embeddings.clustering import merge_heights
from embeddings.residual import Sensor, learn_expectation
from qc.core.frame import Setup
from qc.core.reference import REFERENCE_MODEL_NEWEST
from qc.core.verdict import Evidence
from qc.detection.decision import decide
from qc.detection.metrics import z_scores

Doubles = NDArray[np.float64]
Figures = Mapping[str, float]

_RATE = 0.01
_SEED = 3
_MOST = 30  # images of a type that are scored under every condition
_MANY = 0.75  # of the most references that a setup ever has


class Condition(NamedTuple):
    """How badly a method is taught: the share of labels that is wrong; how many images, or all."""

    name: str
    wrong: float = 0.0
    few: int | None = None


CONDITIONS = (
    Condition("all labels right"),
    Condition("5 % wrong", wrong=0.05),
    Condition("20 % wrong", wrong=0.2),
    *(Condition(f"{number} images", few=number) for number in (20, 50, 100, 200)),
)


@dataclass(frozen=True)
class Trial:
    """Some tests of one setup, their references, and bad images of earlier nights.

    Attributes
    ----------
    tests, references, spoilt : sequences of Sample
        References newest first.
    """

    record: Record
    tests: Sequence[Sample]
    references: Sequence[Sample]
    spoilt: Sequence[Sample]

    def can_be(self, condition: Condition) -> bool:
        """Return True if there are enough bad images to use as references."""
        return len(self.spoilt) >= round(condition.wrong * len(self.references))


def measure(
    records: Sequence[Record], scores: Scores, taught: Sequence[Taught], examples: Examples | None
) -> dict[str, dict[str, Figures]]:
    """Return figures of the product and of some learners, by condition, on the same images.

    Of the product's references some are replaced by bad images of earlier nights, or few are
    kept, and it learns and judges anew. Of the learners' labels some are turned round, or so many
    images of each type are kept. Figures are means over image types.
    """
    trials = [trial for record in records for trial in choose(record)]
    results = {
        OURS: {
            item.name: _of_ours(able, item)
            for item in CONDITIONS
            if (able := [trial for trial in trials if trial.can_be(item)])
        }
    }
    if examples is not None:
        tests = {(trial.record.arm, test.truth) for trial in trials for test in trial.tests}
        rows = [
            row
            for row, item in enumerate(scores.scored)
            if (item.sample.arm, item.sample.truth) in tests
        ]
        images, new = [scores.scored[row] for row in rows], scores.examples.only(np.array(rows))
        for learner in taught:
            results[learner.name] = {
                item.name: _figures(_rescored(images, learner.learn(_spoil(examples, item))(new)))
                for item in CONDITIONS
            }
    return results


def choose(record: Record) -> Iterator[Trial]:
    """Yield a setup and week of each image type, with many references and many bad images past.

    The first night of tests that has three quarters of the most references that any has, and bad
    images enough before it for every condition; without one, the last that has the references.
    """
    groups = record.by_night_and_setup()
    tests = {key: some for key, some in groups.items() if some[0].truth.part == "test"}
    most: dict[str, int] = defaultdict(int)
    for some in tests.values():
        name = some[0].truth.image_type
        most[name] = max(most[name], some[0].reference_size)
    best: dict[str, Trial] = {}
    for (night, setup), some in sorted(tests.items(), key=lambda item: item[0][0]):
        candidate = best.get(setup.image_type)
        complete = candidate is not None and all(map(candidate.can_be, CONDITIONS))
        if not complete and some[0].reference_size >= _MANY * most[setup.image_type]:
            best[setup.image_type] = _trial(record, tests, night, setup)
    yield from best.values()


def _trial(
    record: Record, tests: Mapping[tuple[date, Setup], Sequence[Sample]], night: date, setup: Setup
) -> Trial:
    results = [(when, some) for (when, which), some in tests.items() if which == setup]
    week = [item for when, some in results if night <= when < night + timedelta(7) for item in some]
    before = [item for when, some in results if when < night for item in some]
    counted = [item for item in week if is_counted(item)]
    drawn = np.random.default_rng(_SEED).permutation(len(counted))[:_MOST]
    return Trial(
        record,
        tests=[counted[row] for row in sorted(drawn)],
        references=record.references_of(tests[night, setup][0]),
        spoilt=[item for item in before if item.truth.is_bad and is_counted(item)],
    )


# --- the product ---------------------------------------------------------------------------------


def _of_ours(trials: Sequence[Trial], condition: Condition) -> Figures:
    scored = []
    for trial in trials:
        references = trial.record.material(teachers(trial.references, trial.spoilt, condition))
        values = judge_anew(trial.record, references, trial.record.material(trial.tests))
        scored += [
            Scored(item, {OURS: float(value)})
            for item, value in zip(trial.tests, values, strict=True)
        ]
    return {**_figures(scored), **_at_the_limit(scored)}


def teachers(
    references: Sequence[Sample], spoilt: Sequence[Sample], condition: Condition
) -> list[Sample]:
    """Return the references under a condition: fewer of them, or some replaced by bad images."""
    rng = np.random.default_rng(_SEED)
    stored = sorted(rng.permutation(len(references))[: condition.few])
    chosen = [references[row] for row in stored]
    count = min(round(condition.wrong * len(chosen)), len(spoilt))
    places = rng.permutation(len(chosen))[:count]
    for place, row in zip(places, rng.permutation(len(spoilt)), strict=False):
        chosen[place] = spoilt[row]
    return chosen


def judge_anew(record: Record, references: Material, tests: Material) -> Doubles:
    """Return the product's score of tests against references other than its own choice."""
    about = tests.findings[0].extension
    sensor, absolute = record.sensor(about), record.absolute_limits(about)
    evidence = _evidence(references, tests, sensor)
    return np.array([decide(item, tests.thresholds, absolute).score for item in evidence])


def _evidence(references: Material, tests: Material, sensor: Sensor) -> Iterator[Evidence]:
    expectation = learn_expectation(references.light[:REFERENCE_MODEL_NEWEST], sensor)
    for light, embedding, metrics in zip(tests.light, tests.embeddings, tests.metrics, strict=True):
        residual = expectation.residual(light)
        height, usual = merge_heights(references.embeddings, embedding)
        yield Evidence(
            merge_height=height,
            usual_merge_height=usual,
            residual=residual.score,
            usual_residual=residual.usual_score,
            reference_size=len(references.embeddings),
            widened="",
            metrics=metrics,
            z=z_scores(metrics, references.metrics),
        )


def _at_the_limit(scored: Sequence[Scored]) -> Figures:
    """Return recall and false alarms at the shipped limit."""
    flagged = np.array([item.scores[OURS] > 1 for item in scored])
    bad = np.array([item.sample.truth.is_bad for item in scored])
    return {"recall": recall_of(flagged, bad), "false_alarms": false_alarms_of(flagged, bad)}


# --- learners ------------------------------------------------------------------------------------


def _spoil(examples: Examples, condition: Condition) -> Examples:
    chosen = examples if condition.few is None else examples.few(condition.few)
    return chosen.mislabelled(condition.wrong)


def _rescored(images: Sequence[Scored], values: Doubles) -> list[Scored]:
    return [
        replace(item, scores={OURS: float(value)})
        for item, value in zip(images, values, strict=True)
    ]


def _figures(scored: Sequence[Scored]) -> dict[str, float]:
    def all_of_them(_one: Scored) -> bool:
        return True

    return {
        "auroc": mean_auroc(scored, OURS),
        "recall_at_1_percent": mean_recall(scored, OURS, _RATE, all_of_them),
    }
