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
    return [one for one in verdicts if one.question in COUNTED and one.kind != REALLY]


def by_series(verdicts: Sequence[Verdict]) -> dict[str, Row]:
    """Return the figures of each series; the last row is of all of them."""
    some = counted(verdicts)
    titles = list(dict.fromkeys(one.series for one in some))
    rows = {title: _row([one for one in some if one.series == title]) for title in titles}
    return {**rows, "all": _row(some)}


def _row(some: Sequence[Verdict]) -> Row:
    bad = np.array([one.is_bad for one in some])
    scores = np.array([one.score for one in some])
    made_of = np.unique([f"{one.source} {one.part}" for one in some], return_inverse=True)[1]
    good = [one for one in some if not one.is_bad]
    return Row(
        good=len(good),
        bad=int(bad.sum()),
        auroc=bootstrap({"auroc": auroc}, scores, bad, made_of)["auroc"],
        false_alarms=wilson(sum(one.flagged for one in good), len(good)),
        recall=_recall(some),
    )


def _recall(some: Iterable[Verdict]) -> dict[str, tuple[int, int]]:
    """Return found and all bad ones by strength."""
    each = {strength: [one.flagged for one in some if one.strength == strength]
            for strength in STRENGTHS}  # fmt: skip
    return {strength: (sum(flags), len(flags)) for strength, flags in each.items() if flags}


def by_kind(verdicts: Sequence[Verdict]) -> dict[str, tuple[Mapping[str, tuple[int, int]], float]]:
    """Return, for each kind of fault, recall by strength, and AUROC.

    Each bad frame is compared with the good ones of its own series alone.
    """
    some = counted(verdicts)
    rank = _ranks(some)
    kinds = sorted({one.kind for one in some if one.is_bad})
    return {
        kind: (
            _recall([one for one in some if one.kind == kind]),
            float(np.mean([rank(one) for one in some if one.kind == kind])),
        )
        for kind in kinds
    }


def _ranks(some: Sequence[Verdict]) -> Callable[[Verdict], float]:
    """Return what tells the share of good frames of the same series below a bad one."""
    good: dict[str, list[float]] = {}
    for one in some:
        if not one.is_bad:
            good.setdefault(one.series, []).append(one.score)

    def rank(one: Verdict) -> float:
        apart = one.score - np.array(good[one.series])
        return float(((apart > 0) + 0.5 * (apart == 0)).mean())

    return rank


def misses(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the injected frames that were not flagged, the least conspicuous first."""
    missed = [one for one in counted(verdicts) if one.is_bad and not one.flagged]
    return sorted(missed, key=lambda one: one.score)


def false_alarms(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the untouched frames that were flagged, the most conspicuous first."""
    wrong = [one for one in counted(verdicts) if not one.is_bad and one.flagged]
    return sorted(wrong, key=lambda one: -one.score)
