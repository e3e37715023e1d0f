"""The figures as Markdown and JSON."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.detection.evidence import Sample
from benchmarks.detection.figures import Interval
from benchmarks.detection.methods import METHODS
from qc.database import VerdictRow

Table = Mapping[str, Mapping[str, Any]]

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_FORERUNNER_F1 = {
    "UBB0": 0.97, "URB1": 0.89, "URB2": 0.94, "UBW1": 0.73, "UBW2": 0.74, "UD1BF0": 0.73,
    "UD1BDF0": 0.78, "URW1": 0.73, "URW2": 0.74, "UD1RF1": 0.83, "UD1RF2": 0.75,
}  # fmt: skip
_RARE = 0.02  # a share of bad frames as on a telescope, for the precision to be expected there


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write every figure with its interval."""
    path.write_text(json.dumps(results, indent=1, default=_plain) + "\n", encoding="utf-8")


def _plain(value: object) -> Any:
    assert is_dataclass(value)
    assert not isinstance(value, type)
    return {name: round(number, 6) for name, number in asdict(value).items()}


def update_markdown(path: Path, sections: Sequence[str]) -> None:
    """Replace what lies between the two markers; the prose around them is a person's."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    body = "\n\n".join(sections)
    path.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")


def product_section(table: Table) -> str:
    """Write the product's figures by image type."""
    head = (
        "type", "good", "bad", "AUROC", "average precision", "F1 of the verdict", "recall",
        "precision", "best F1", "recall at 1 %", "at 0.1 %", "false alarms", "forerunner F1",
    )  # fmt: skip
    rows = [_product_row(name, figures) for name, figures in table.items()]
    names = ("auroc", "average_precision", "f1", "recall", "precision", "best_f1",
             "recall_at_1_percent", "recall_at_0.1_percent", "false_alarms")  # fmt: skip
    means = {name: fmean(figures[name].value for figures in table.values()) for name in names}
    last = ["**mean**", *(str(sum(each[name] for each in table.values())) for name in _COUNTS)]
    last += [f"**{_percent(mean) if name == 'false_alarms' else f'{mean:.3f}'}**"
             for name, mean in means.items()]  # fmt: skip
    last.append(f"{fmean(_FORERUNNER_F1.values()):.2f}")
    alarms, recall = means["false_alarms"], means["recall"]
    rare = recall * _RARE / (recall * _RARE + alarms * (1 - _RARE))
    return (
        f"### The product's verdicts\n\n{_markdown(head, [*rows, last])}\n\n"
        f"Half of these images are bad. Were {_RARE:.0%} bad, as on a good telescope, the same "
        f"recall and false alarms would mean a precision of {rare:.2f}."
    )


_COUNTS = ("nominal", "bad")


def _product_row(name: str, figures: Mapping[str, Any]) -> list[str]:
    ranged = ("auroc", "average_precision", "f1", "recall", "precision", "best_f1")
    return [
        name,
        *(str(figures[each]) for each in _COUNTS),
        *(_ranged(figures[each]) for each in ranged),
        *(
            f"{figures[each].value:.3f}"
            for each in ("recall_at_1_percent", "recall_at_0.1_percent")
        ),
        _ranged_percent(figures["false_alarms"]),
        f"{_FORERUNNER_F1[name]:.2f}" if name in _FORERUNNER_F1 else "",
    ]


def methods_section(tables: Mapping[str, Table], milliseconds: Mapping[str, float]) -> str:
    """Write the methods' figures, averaged over image types."""
    head = (
        "method", "AUROC", "worst type", "average precision", "best F1", "F1 at its threshold",
        "recall", "precision", "recall at 1 %", "at 0.1 %", "false alarms", "threshold", "ms",
    )  # fmt: skip
    rows = []
    for row in METHODS:
        table = tables[row.name]
        means = [f"{_mean(table, name):.3f}" for name in _MEANS]
        worst = min(table, key=lambda name: table[name]["auroc"].value)
        means.insert(1, f"{table[worst]['auroc'].value:.3f} {worst}")
        alarms = _percent(_mean(table, "false_alarms"))
        rows.append([row.name, *means, alarms, row.limit, f"{milliseconds[row.name]:.1f}"])
    return f"### Methods on the same images\n\n{_markdown(head, rows)}"


_MEANS = (
    "auroc", "average_precision", "best_f1", "f1", "recall", "precision",
    "recall_at_1_percent", "recall_at_0.1_percent",
)  # fmt: skip


def by_type_section(tables: Mapping[str, Table], figure: str, title: str) -> str:
    """Write one figure of every method by image type."""
    types = list(tables[METHODS[0].name])
    rows = [
        [row.name, *(f"{tables[row.name][name][figure].value:.3f}" for name in types)]
        for row in METHODS
    ]
    return f"### {title}\n\n{_markdown(('method', *types), rows)}"


def rates_section(title: str, first: str, groups: Mapping[str, Mapping[str, Interval]]) -> str:
    """Write recall and false alarms of some groups of images."""
    rows = [
        [name, _ranged(rates["recall"]), _ranged_percent(rates["false_alarms"])]
        for name, rates in groups.items()
    ]
    return f"### {title}\n\n{_markdown((first, 'recall', 'false alarms'), rows)}"


def misses_section(samples: Sequence[Sample]) -> str:
    """List every miss."""
    head = ("image", "type", "fault", "strength", "score", "references")
    rows = [
        [_name(one), one.truth.image_type, one.truth.fault.replace("_", " "), one.truth.strength,
         f"{_verdict(one).score:.2f}", str(one.reference_size)]
        for one in sorted(samples, key=lambda one: (one.truth.fault, one.truth.strength))
    ]  # fmt: skip
    return f"### Every miss ({len(rows)})\n\n{_markdown(head, rows)}"


def false_alarms_section(samples: Sequence[Sample]) -> str:
    """Count the false alarms by the evidence that raised them."""
    groups = Counter((one.truth.image_type, _evidence_of(_verdict(one))) for one in samples)
    worst: dict[tuple[str, str], float] = defaultdict(float)
    for one in samples:
        key = (one.truth.image_type, _evidence_of(_verdict(one)))
        worst[key] = max(worst[key], _verdict(one).score)
    rows = [
        [image_type, evidence, str(count), f"{worst[image_type, evidence]:.2f}"]
        for (image_type, evidence), count in sorted(groups.items())
    ]
    head = ("type", "strongest evidence", "false alarms", "highest score")
    return f"### Every false alarm ({len(samples)})\n\n{_markdown(head, rows)}"


def _evidence_of(verdict: VerdictRow) -> str:
    """Name the kind of a verdict's first reason, without its numbers."""
    first = verdict.reasons[0]
    if first.startswith("joins"):
        return "merge height"
    if "stands out" in first:
        return f"residual: {first.removeprefix('a ').split(' around')[0]}"
    return re.split(r" -?\d", first)[0]


def _verdict(sample: Sample) -> VerdictRow:
    assert sample.finding is not None
    return sample.finding.verdict


def _name(sample: Sample) -> str:
    return f"{sample.truth.file.removesuffix('.fits')}[{sample.truth.extension}]"


def _mean(table: Table, name: str) -> float:
    return fmean(figures[name].value for figures in table.values())


def _ranged(figure: Interval) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f}-{figure.high:.3f})"


def _ranged_percent(figure: Interval) -> str:
    return f"{_percent(figure.value)} ({100 * figure.low:.1f}-{100 * figure.high:.1f})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
