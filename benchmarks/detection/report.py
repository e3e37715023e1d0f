"""The figures as Markdown and JSON."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.detection.analysis import BUDGET, NIGHT, OURS, RARE, Column
from benchmarks.detection.evidence import SAMPLED_TESTS, Sample
from benchmarks.detection.figures import Interval
from benchmarks.detection.visibility import INVISIBLE
from qc.db.schema.models import VerdictRow
from qc.simulator import STRENGTHS

Table = Mapping[str, Mapping[str, Any]]

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_FORERUNNER_F1 = {
    "UBB0": 0.97, "URB1": 0.89, "URB2": 0.94, "UBW1": 0.73, "UBW2": 0.74, "UD1BF0": 0.73,
    "UD1BDF0": 0.78, "URW1": 0.73, "URW2": 0.74, "UD1RF1": 0.83, "UD1RF2": 0.75,
}  # fmt: skip


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write every figure with its interval."""
    path.write_text(json.dumps(results, indent=1, default=_plain) + "\n", encoding="utf-8")


def _plain(value: object) -> Any:
    assert is_dataclass(value)
    assert not isinstance(value, type)
    return {
        name: round(part, 6) if isinstance(part, float) else part
        for name, part in asdict(value).items()
    }


def read_json(path: Path) -> dict[str, Any]:
    """Read the figures that `write_json` wrote, intervals included."""
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), object_hook=_structured)
    results["costs"] = [Column(**column) for column in results["costs"]]
    return results


def _structured(value: dict[str, Any]) -> Any:
    return Interval(**value) if value.keys() == {"value", "low", "high"} else value


def update_markdown(path: Path, sections: Sequence[str]) -> None:
    """Replace the text between the two markers."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    body = "\n\n".join(sections)
    path.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")


def sections(
    results: Mapping[str, Any],
    misses: Sequence[Sample],
    visible: Mapping[Sample, float],
    alarms: Sequence[Sample],
) -> list[str]:
    """Write every table, in order."""
    methods, costs = results["methods"], results["costs"]
    return [
        product_section(results["product"]),
        strength_section(results["by_strength"], visible),
        methods_section(methods, costs, results["not measured"]),
        operation_section(costs, results),
        by_type_section(methods, "auroc", "AUROC by image type"),
        by_type_section(methods, "f1", "F1 at the threshold by image type"),
        robustness_section(results["robustness"]),
        calibration_section(results["calibration"]),
        rates_section(
            "Verdicts by number of references", "references", results["by_reference_size"]
        ),
        rates_section("Verdicts by light, lamp frames", "light", results["by_brightness"]),
        rates_section(
            "Images of a new lamp without an epoch (in no other table)",
            "image type",
            results["new_lamp"],
        ),
        misses_section(misses, visible),
        false_alarms_section(alarms),
    ]


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
    last = ["**mean**", *(str(sum(item[name] for item in table.values())) for name in _COUNTS)]
    last += [f"**{_percent(mean) if name == 'false_alarms' else f'{mean:.3f}'}**"
             for name, mean in means.items()]  # fmt: skip
    last.append(f"{fmean(_FORERUNNER_F1.values()):.2f}")
    alarms, recall = means["false_alarms"], means["recall"]
    rare = recall * RARE / (recall * RARE + alarms * (1 - RARE))
    return (
        f"## The product's verdicts\n\n{_markdown(head, [*rows, last])}\n\n"
        f"Half of these images are bad. Were {RARE:.0%} bad, as on a good telescope, the same "
        f"recall and false alarms would mean a precision of {rare:.2f}."
    )


_COUNTS = ("nominal", "bad")


def _product_row(name: str, figures: Mapping[str, Any]) -> list[str]:
    ranged = ("auroc", "average_precision", "f1", "recall", "precision", "best_f1")
    return [
        name,
        *(str(figures[item]) for item in _COUNTS),
        *(_ranged(figures[item]) for item in ranged),
        *(
            f"{figures[item].value:.3f}"
            for item in ("recall_at_1_percent", "recall_at_0.1_percent")
        ),
        _ranged_percent(figures["false_alarms"]),
        f"{_FORERUNNER_F1[name]:.2f}" if name in _FORERUNNER_F1 else "",
    ]


def methods_section(
    tables: Mapping[str, Table], columns: Sequence[Column], skipped: Sequence[str]
) -> str:
    """Write the methods' figures, averaged over image types."""
    head = (
        "method", "AUROC", "worst type", "average precision", "best F1", "F1 at its threshold",
        "recall", "precision", "recall at 1 %", "at 0.1 %", "false alarms", "threshold", "ms",
        "learning, s",
    )  # fmt: skip
    rows = [_method_row(column, tables[column.name]) for column in columns]
    note = (
        f"\\* Of a sample: {SAMPLED_TESTS} good and {SAMPLED_TESTS} bad test images of each type, "
        "and as references those drawn of every setup's labelled nights."
    )
    missing = [f"Not measured: {reason}." for reason in skipped]
    return "\n\n".join(
        ["## Methods on the same images", _markdown(head, rows), " ".join([note, *missing])]
    )


def _method_row(column: Column, table: Table) -> list[str]:
    means = [f"{_mean(table, name):.3f}" for name in _MEANS]
    worst = min(table, key=lambda name: table[name]["auroc"].value)
    means.insert(1, f"{table[worst]['auroc'].value:.3f} {worst}")
    learning = f"{column.learning_s:.1f}" if column.learning_s else ""
    alarms = _percent(_mean(table, "false_alarms"))
    return [column.name, *means, alarms, column.limit, f"{column.milliseconds:.1f}", learning]


_MEANS = (
    "auroc", "average_precision", "best_f1", "f1", "recall", "precision",
    "recall_at_1_percent", "recall_at_0.1_percent",
)  # fmt: skip


def strength_section(
    table: Mapping[str, Mapping[str, Mapping[str, float]]], visible: Mapping[Sample, float]
) -> str:
    """Write the product's recall by strength, and every method's."""
    head = (
        "method",
        *(f"{strength}, {how}" for how in ("pooled", "mean of types") for strength in STRENGTHS),
    )
    rows = [
        [name, *(_share(result[how].get(item)) for how in ("pooled", "mean") for item in STRENGTHS)]
        for name, result in table.items()
    ]
    invisible = Counter(item.truth.strength for item, ratio in visible.items() if ratio < INVISIBLE)
    counts = ", ".join(f"{invisible[strength]} {strength}" for strength in STRENGTHS)
    return (
        f"## Recall at 0.1 % of false alarms, by strength\n\n{_markdown(head, rows)}\n\n"
        f"Of the {len(visible)} faults that `{OURS}` misses here or at its own limit, these are "
        f"invisible (signal-to-noise ratio of a matched filter below {INVISIBLE:g}): {counts}."
    )


def operation_section(columns: Sequence[Column], results: Mapping[str, Any]) -> str:
    """Write the recall of each method for unknown kinds and for a limited number of images."""
    head = (
        "method",
        "AUROC, unseen kinds",
        "recall at 1 %, unseen kinds",
        "recall in five a night",
    )
    rows = []
    for column in columns:
        unseen, budget = (results[item].get(column.name) for item in ("unseen", "at_budget"))
        figures = (unseen["auroc"], unseen["recall_at_1_percent"]) if unseen else (None, None)
        rows.append([column.name, *(_share(item) for item in (*figures, budget))])
    return (
        f"## Unseen kinds, and five inspections a night\n\n{_markdown(head, rows)}\n\n"
        "*Unseen*: the kinds are divided into three groups; each group in turn is excluded from "
        "the labels and is tested alone, with every good image. Recall of gross and moderate "
        "faults. "
        f"*Five a night*: nights of {NIGHT} images drawn from the tests, {RARE:.0%} of them bad; "
        f"the {BUDGET} with the highest score are inspected."
    )


def robustness_section(table: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Write the effect of wrong labels and few images."""
    head = ("method", "", "AUROC", "recall at 1 %", "recall at its limit", "false alarms")
    rows = [
        [
            name,
            condition,
            *(_share(figures.get(item)) for item in ("auroc", "recall_at_1_percent", "recall")),
            _percent(figures["false_alarms"]) if "false_alarms" in figures else "",
        ]
        for name, conditions in table.items()
        for condition, figures in conditions.items()
    ]
    return (
        f"## Wrong labels, few images\n\n{_markdown(head, rows)}\n\n"
        f"Of `{OURS}` the images are references, of one setup of each type, and wrong ones are bad "
        "images of earlier nights; of the others, labelled images of each type."
    )


def calibration_section(shares: Mapping[str, Interval]) -> str:
    """Write the rate of good images by score."""
    rows = [[_percent(float(p)), _ranged_percent(share)] for p, share in shares.items()]
    head = ("nominal share of good images", "observed share")
    return f"## Calibration of the score\n\n{_markdown(head, rows)}"


def by_type_section(tables: Mapping[str, Table], figure: str, title: str) -> str:
    """Write one figure of every method by image type."""
    types = list(tables[OURS])
    rows = [
        [name, *(f"{table[name][figure].value:.3f}" if name in table else "" for name in types)]
        for name, table in tables.items()
    ]
    return f"## {title}\n\n{_markdown(('method', *types), rows)}"


def rates_section(title: str, first: str, groups: Mapping[str, Mapping[str, Interval]]) -> str:
    """Write recall and false alarms of some groups of images."""
    rows = [
        [name, _ranged(rates["recall"]), _ranged_percent(rates["false_alarms"])]
        for name, rates in groups.items()
    ]
    return f"## {title}\n\n{_markdown((first, 'recall', 'false alarms'), rows)}"


def misses_section(samples: Sequence[Sample], visible: Mapping[Sample, float]) -> str:
    """List every miss, with the signal-to-noise ratio that its fault has at best."""
    head = ("image", "type", "fault", "strength", "score", "references", "signal to noise")
    rows = [
        [sample.name, sample.truth.image_type, sample.truth.fault.replace("_", " "),
         sample.truth.strength, f"{_verdict(sample).score:.2f}", str(sample.reference_size),
         _ratio(visible.get(sample))]
        for sample in sorted(samples, key=lambda item: (item.truth.fault, item.truth.strength))
    ]  # fmt: skip
    return f"## Every miss ({len(rows)})\n\n{_markdown(head, rows)}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}{' (invisible)' if value < INVISIBLE else ''}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def false_alarms_section(samples: Sequence[Sample]) -> str:
    """Count the false alarms by the evidence that raised them."""
    groups = Counter(
        (sample.truth.image_type, _evidence_of(_verdict(sample))) for sample in samples
    )
    worst: dict[tuple[str, str], float] = defaultdict(float)
    for item in samples:
        key = (item.truth.image_type, _evidence_of(_verdict(item)))
        worst[key] = max(worst[key], _verdict(item).score)
    rows = [
        [image_type, evidence, str(count), f"{worst[image_type, evidence]:.2f}"]
        for (image_type, evidence), count in sorted(groups.items())
    ]
    head = ("type", "strongest evidence", "false alarms", "highest score")
    return f"## Every false alarm ({len(samples)})\n\n{_markdown(head, rows)}"


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
