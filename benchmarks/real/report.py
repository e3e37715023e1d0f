"""The figures as Markdown."""

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

from benchmarks.detection.figures import Interval, wilson
from benchmarks.real.analysis import Row
from benchmarks.real.folds import COUNTED, NO_FIRST, REALLY
from benchmarks.real.judging import REFUSED, Verdict
from qc.simulator import STRENGTHS

_LONGEST = 110
Tally = Mapping[str, tuple[int, int]]


def series_section(rows: Mapping[str, Row], verdicts: Sequence[Verdict]) -> str:
    """Write the figures by series."""
    questions = {one.series: one.question for one in reversed(verdicts)}
    head = ("series", "tests are of", "untouched", "injected", "AUROC", "false alarms",
            *(f"found, {strength}" for strength in STRENGTHS))  # fmt: skip
    lines = [
        [title, questions.get(title, ""), str(row.good), str(row.bad), _ranged(row.auroc),
         _percent(row.false_alarms), *_tallies(row.recall)]
        for title, row in rows.items()
    ]  # fmt: skip
    return f"### Injected faults, by series\n\n{_table(head, lines)}"


def kinds_section(kinds: Mapping[str, tuple[Tally, float]]) -> str:
    """Write recall by kind of fault and strength."""
    head = ("fault", *STRENGTHS, "all strengths", "AUROC")
    lines = []
    for kind, (tally, rank) in sorted(kinds.items(), key=lambda each: each[1][1]):
        found, of = (sum(column) for column in zip(*tally.values(), strict=True))
        lines.append([kind.replace("_", " "), *_tallies(tally), _percent(wilson(found, of)),
                      f"{rank:.3f}"])  # fmt: skip
    return f"### Found, by kind of fault and strength\n\n{_table(head, lines)}"


def real_section(verdicts: Sequence[Verdict]) -> str:
    """Write the scores of what no one made up: real frames, and changes that really happened."""
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for one in verdicts:
        if one.is_real or one.kind == REALLY or one.question not in COUNTED:
            groups.setdefault((one.series, _frame(one), _what(one)), []).append(one)
    lines = [[series, frame, what, str(len(some)),
              f"{min(one.score for one in some):.2f}-{max(one.score for one in some):.2f}",
              f"{sum(one.flagged for one in some)}", max(some, key=_score).reason[:_LONGEST]]
             for (series, frame, what), some in groups.items()]  # fmt: skip
    head = ("series", "real frame", "what", "images", "scores", "flagged", "strongest evidence")
    return f"### What really happened\n\n{_table(head, lines)}"


def _what(one: Verdict) -> str:
    if one.kind == REALLY:
        return "really out of focus, its photons"
    as_it_is = "as it is" if one.is_real else "made of it"
    if one.question == NO_FIRST:
        return f"{as_it_is}, references without a first of a set"
    return as_it_is if one.is_real else "its photons, references of the other focus position"


def _score(one: Verdict) -> float:
    return one.score


def misses_section(missed: Sequence[Verdict]) -> str:
    """List every miss."""
    head = ("series", "real frame", "fault", "strength", "score", "strongest evidence")
    lines = [
        [one.series, _frame(one), one.kind.replace("_", " "), one.strength, f"{one.score:.2f}",
         one.reason[:_LONGEST]]
        for one in missed
    ]  # fmt: skip
    return f"### Every miss ({len(missed)})\n\n{_table(head, lines)}"


def false_alarms_section(wrong: Sequence[Verdict]) -> str:
    """Count the false alarms by real frame and evidence; the scores come highest first."""
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for one in wrong:
        groups.setdefault((one.series, _frame(one), re.split(r" -?\d", one.reason)[0]), []).append(
            one
        )
    head = ("series", "real frame", "false alarms", "highest score", "strongest evidence")
    lines = [
        [series, frame, str(len(some)), f"{some[0].score:.2f}", some[0].reason[:_LONGEST]]
        for (series, frame, _), some in groups.items()
    ]
    return f"### Every false alarm ({len(wrong)})\n\n{_table(head, lines)}"


def summary(rows: Mapping[str, Row]) -> str:
    """Write the two figures that matter."""
    every = rows["all"]
    aurocs = [row.auroc.value for title, row in rows.items() if title != "all"]
    return (
        f"**AUROC {mean(aurocs):.3f} (mean of {len(aurocs)} series, worst {min(aurocs):.3f}); "
        f"false alarms {_percent(every.false_alarms)} of {every.good} untouched frames; found "
        f"{', '.join(f'{a} of {b} {name}' for name, (a, b) in every.recall.items())}.** "
        f"A refused file counts as flagged, with a score of {REFUSED:g}."
    )


def _frame(one: Verdict) -> str:
    return one.source.split("/")[1].split(".fit")[0]


def _tallies(tally: Tally) -> list[str]:
    return ["{}/{}".format(*tally[name]) if name in tally else "" for name in STRENGTHS]


def _ranged(figure: Interval) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f}-{figure.high:.3f})"


def _percent(figure: Interval) -> str:
    return f"{100 * figure.value:.1f} % ({100 * figure.low:.1f}-{100 * figure.high:.1f})"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    every = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)
