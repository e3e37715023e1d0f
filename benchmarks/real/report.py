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
    questions = {verdict.series: verdict.question for verdict in reversed(verdicts)}
    head = ("series", "tests are of", "untouched", "injected", "AUROC", "false alarms",
            *(f"found, {strength}" for strength in STRENGTHS))  # fmt: skip
    lines = [
        [title, questions.get(title, ""), str(row.good), str(row.bad), _ranged(row.auroc),
         _percent(row.false_alarms), *_tallies(row.recall)]
        for title, row in rows.items()
    ]  # fmt: skip
    return f"## Injected faults, by series\n\n{_table(head, lines)}"


def kinds_section(kinds: Mapping[str, tuple[Tally, float]]) -> str:
    """Write recall by kind of fault and strength."""
    head = ("fault", *STRENGTHS, "all strengths", "AUROC")
    lines = []
    for kind, (tally, rank) in sorted(kinds.items(), key=lambda item: item[1][1]):
        result, of = (sum(column) for column in zip(*tally.values(), strict=True))
        lines.append([kind.replace("_", " "), *_tallies(tally), _percent(wilson(result, of)),
                      f"{rank:.3f}"])  # fmt: skip
    return f"## Found, by kind of fault and strength\n\n{_table(head, lines)}"


def real_section(verdicts: Sequence[Verdict]) -> str:
    """Write the scores of real frames and of real changes."""
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.is_real or verdict.kind == REALLY or verdict.question not in COUNTED:
            groups.setdefault((verdict.series, _frame(verdict), _what(verdict)), []).append(verdict)
    lines = [[series, frame, kind, str(len(some)),
              f"{min(image.score for image in some):.2f}-{max(image.score for image in some):.2f}",
              f"{sum(image.flagged for image in some)}", max(some, key=_score).reason[:_LONGEST]]
             for (series, frame, kind), some in groups.items()]  # fmt: skip
    head = ("series", "real frame", "test", "images", "scores", "flagged", "strongest evidence")
    return f"## Real events\n\n{_table(head, lines)}"


def _what(verdict: Verdict) -> str:
    if verdict.kind == REALLY:
        return "really out of focus, its photons"
    as_it_is = "as it is" if verdict.is_real else "made of it"
    if verdict.question == NO_FIRST:
        return f"{as_it_is}, references without a first of a set"
    return as_it_is if verdict.is_real else "its photons, references of the other focus position"


def _score(verdict: Verdict) -> float:
    return verdict.score


def misses_section(missed: Sequence[Verdict]) -> str:
    """List every miss."""
    head = ("series", "real frame", "fault", "strength", "score", "strongest evidence")
    lines = [
        [verdict.series, _frame(verdict), verdict.kind.replace("_", " "), verdict.strength,
         f"{verdict.score:.2f}", verdict.reason[:_LONGEST]]
        for verdict in missed
    ]  # fmt: skip
    return f"## Every miss ({len(missed)})\n\n{_table(head, lines)}"


def false_alarms_section(wrong: Sequence[Verdict]) -> str:
    """Count the false alarms by real frame and evidence; the scores come highest first."""
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in wrong:
        groups.setdefault(
            (verdict.series, _frame(verdict), re.split(r" -?\d", verdict.reason)[0]), []
        ).append(verdict)
    head = ("series", "real frame", "false alarms", "highest score", "strongest evidence")
    lines = [
        [series, frame, str(len(some)), f"{some[0].score:.2f}", some[0].reason[:_LONGEST]]
        for (series, frame, _), some in groups.items()
    ]
    return f"## Every false alarm ({len(wrong)})\n\n{_table(head, lines)}"


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


def _frame(verdict: Verdict) -> str:
    return verdict.source.split("/")[1].split(".fit")[0]


def _tallies(tally: Tally) -> list[str]:
    return ["{}/{}".format(*tally[name]) if name in tally else "" for name in STRENGTHS]


def _ranged(figure: Interval) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f}-{figure.high:.3f})"


def _percent(figure: Interval) -> str:
    return f"{100 * figure.value:.1f} % ({100 * figure.low:.1f}-{100 * figure.high:.1f})"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    every = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)
