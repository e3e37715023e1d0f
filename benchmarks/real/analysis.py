"""The figures of the verdicts. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.detection.figures import Interval, auroc, bootstrap, wilson
from benchmarks.real.folds import COUNTED, REALLY
from benchmarks.real.judging import Verdict
from qc.simulator import STRENGTHS


@dataclass(frozen=True)
class Row:
    """The figures of a series, or of all.

    Attributes
    ----------
    auroc : Interval
        Of injected against untouched frames.
    recall : mapping of strength to (found, of)
    """

    good: int
    bad: int
    auroc: Interval
    false_alarms: Interval
    recall: Mapping[str, tuple[int, int]]


def counted(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return untouched and injected frames whose references are as they should be."""
    return [
        verdict for verdict in verdicts if verdict.question in COUNTED and verdict.kind != REALLY
    ]


def by_series(verdicts: Sequence[Verdict]) -> dict[str, Row]:
    """Return the figures of each series; the last row is of all of them."""
    some = counted(verdicts)
    titles = list(dict.fromkeys(image.series for image in some))
    rows = {title: _row([image for image in some if image.series == title]) for title in titles}
    return {**rows, "all": _row(some)}


def _row(some: Sequence[Verdict]) -> Row:
    bad = np.array([verdict.is_bad for verdict in some])
    scores = np.array([verdict.score for verdict in some])
    made_of = np.unique(
        [f"{verdict.source} {verdict.part}" for verdict in some], return_inverse=True
    )[1]
    good = [verdict for verdict in some if not verdict.is_bad]
    return Row(
        good=len(good),
        bad=int(bad.sum()),
        auroc=bootstrap({"auroc": auroc}, scores, bad, made_of)["auroc"],
        false_alarms=wilson(sum(image.flagged for image in good), len(good)),
        recall=_recall(some),
    )


def _recall(some: Iterable[Verdict]) -> dict[str, tuple[int, int]]:
    """Return found and all bad ones by strength."""
    results = {strength: [verdict.flagged for verdict in some if verdict.strength == strength]
            for strength in STRENGTHS}  # fmt: skip
    return {strength: (sum(flags), len(flags)) for strength, flags in results.items() if flags}


def by_kind(verdicts: Sequence[Verdict]) -> dict[str, tuple[Mapping[str, tuple[int, int]], float]]:
    """Return, for each kind of fault, recall by strength, and AUROC.

    Each bad frame is compared with the good ones of its own series alone.
    """
    some = counted(verdicts)
    rank = _ranks(some)
    kinds = sorted({verdict.kind for verdict in some if verdict.is_bad})
    return {
        kind: (
            _recall([verdict for verdict in some if verdict.kind == kind]),
            float(np.mean([rank(verdict) for verdict in some if verdict.kind == kind])),
        )
        for kind in kinds
    }


def _ranks(some: Sequence[Verdict]) -> Callable[[Verdict], float]:
    """Return a function for the share of good frames of the same series below a bad one."""
    good: dict[str, list[float]] = {}
    for item in some:
        if not item.is_bad:
            good.setdefault(item.series, []).append(item.score)

    def rank(verdict: Verdict) -> float:
        apart = verdict.score - np.array(good[verdict.series])
        return float(((apart > 0) + 0.5 * (apart == 0)).mean())

    return rank


def misses(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the injected frames that were not flagged, the least conspicuous first."""
    missed = [verdict for verdict in counted(verdicts) if verdict.is_bad and not verdict.flagged]
    return sorted(missed, key=lambda item: item.score)


def false_alarms(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the untouched frames that were flagged, the most conspicuous first."""
    wrong = [verdict for verdict in counted(verdicts) if not verdict.is_bad and verdict.flagged]
    return sorted(wrong, key=lambda item: -item.score)
