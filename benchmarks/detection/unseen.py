"""Faults that nobody has labelled yet: a third of the kinds is excluded from training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from benchmarks.detection.analysis import (
    COUNTED_APART,
    Scored,
    Scores,
    mean_auroc,
    mean_recall,
)
from benchmarks.detection.supervised import Examples, Taught

ROTATIONS = 3
_RATE = 0.01
_STRONG = ("gross", "moderate")


def kinds_left_out(kinds: Sequence[str], rotation: int) -> frozenset[str]:
    """Return every third kind of fault, in alphabetical order."""
    return frozenset(sorted(set(kinds) - COUNTED_APART)[rotation::ROTATIONS])


def measure(
    scores: Scores, taught: Sequence[Taught], examples: Examples | None
) -> dict[str, Mapping[str, float]]:
    """Return each method's figures on kinds that it has never seen, averaged over rotations.

    A method that learns from no bad image is measured on the same images.

    Returns
    -------
    dict
        By method: ``auroc``, mean over image types; ``recall_at_1_percent``, likewise, of gross
        and moderate faults.
    """
    learners = {item.name: item for item in taught}
    kinds = [item.sample.truth.fault for item in scores.scored if item.sample.truth.is_bad]
    rotations = [kinds_left_out(kinds, number) for number in range(ROTATIONS)]
    results: dict[str, Mapping[str, float]] = {}
    for column in scores.columns:
        if column.name not in learners:
            parts = [_figures(scores.scored, column.name, rotation) for rotation in rotations]
        elif examples is not None:
            learner = learners[column.name]
            parts = [_figures_of(learner, examples, scores, rotation) for rotation in rotations]
        results[column.name] = {name: fmean(part[name] for part in parts) for name in parts[0]}
    return results


def _figures_of(
    taught: Taught, examples: Examples, scores: Scores, left_out: frozenset[str]
) -> dict[str, float]:
    """Let a method learn without some kinds and score them."""
    predict = taught.learn(examples.only(~np.isin(examples.faults, list(left_out))))
    values = predict(scores.examples)
    scored = [
        replace(item, scores={taught.name: float(value)})
        for item, value in zip(scores.scored, values, strict=True)
    ]
    return _figures(scored, taught.name, left_out)


def _figures(scored: Sequence[Scored], method: str, left_out: frozenset[str]) -> dict[str, float]:
    def is_new(item: Scored) -> bool:
        return item.sample.truth.fault in {*left_out, ""}

    def is_new_and_strong(item: Scored) -> bool:
        return is_new(item) and item.sample.truth.strength in {*_STRONG, ""}

    return {
        "auroc": mean_auroc(scored, method, is_new),
        "recall_at_1_percent": mean_recall(scored, method, _RATE, is_new_and_strong),
    }
