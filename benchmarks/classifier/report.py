"""The classifier's figures as Markdown and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from benchmarks.classifier.examples import LabelledSet
from benchmarks.classifier.measuring import CLEAR, KindFigures, TypeFigures, fault_of, named_kinds
from embeddings.classifier import DenseClassifier
from qc.training.evaluate import Proportion

_NOTHING = "no fault"


def sections(results: Mapping[str, Any]) -> list[str]:
    """Write every table, in order."""
    return [
        _types(results["types"]),
        _exposed(results["types"]),
        _kinds(results["kinds"]),
        _rest(results),
    ]


def percent(share: Proportion) -> str:
    """Write a share with its interval."""
    return f"{share.value:.1%} ({share.low:.1%}-{share.high:.1%})"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines)])


def _types(figures: TypeFigures) -> str:
    rows = [
        [name, str(accuracy.count), percent(accuracy), percent(restricted)]
        for name, (accuracy, restricted) in figures.by_type.items()
    ]
    means = [fmean(item[i].value for item in figures.by_type.values()) for i in range(2)]
    rows.append(["**mean**", "", *(f"{mean:.2%}" for mean in means)])
    alarms = figures.contradicted
    after = (
        f"The header of {percent(alarms)} of the {alarms.count} good images is contradicted "
        "(its type has a probability below 0.001): false alarms."
    )
    return (
        _table(
            "Image type of good images",
            ["type", "images", "right, of all", "right, of these"],
            rows,
        )
        + "\n\n"
        + after
    )


def _exposed(figures: TypeFigures) -> str:
    often = {kind: entry for kind, entry in figures.exposed.items() if entry.value > 0}
    ordered = sorted(often.items(), key=lambda item: -item[1].value)
    rows = [[kind.replace("_", " "), str(entry.count), percent(entry)] for kind, entry in ordered]
    return _table("Headers contradicted, by fault", ["fault", "images", "contradicted"], rows)


def _kinds(figures: KindFigures) -> str:
    rows = [
        [kind.replace("_", " "), str(recall.count), percent(precision), percent(recall)]
        for kind, (precision, recall) in figures.by_kind.items()
    ]
    after = (
        f"Macro-F1 {figures.clear.value:.3f} ({figures.clear.low:.3f}-{figures.clear.high:.3f}) of "
        f"gross and moderate faults, {figures.told.value:.3f} where kinds that are "
        f"indistinguishable in one image count as one; {figures.faint.value:.3f} of faint ones; "
        f"expected calibration error {figures.calibration_error:.4f}."
    )
    columns = ["fault", "images", "precision", "recall"]
    return _table("Kind of gross and moderate faults", columns, rows) + "\n\n" + after


def _rest(results: Mapping[str, Any]) -> str:
    rows = [[name, f"{value:.3f}"] for name, value in results["seldom"].items()]
    rows.append(["retraining with 50 more labels, s", f"{results['retraining_s']:.1f}"])
    for where, methods in results["transfer"].items():
        rows += [
            [
                f"{where}: macro-F1, {name}",
                f"{fmean(values):.3f} ({min(values):.3f}-{max(values):.3f})",
            ]
            for name, values in methods.items()
        ]
    title = "Prevalence of 2 %, training time, twenty labels of another instrument"
    return _table(title, ["quantity", "value"], rows)


def draw(classifier: DenseClassifier, labelled: LabelledSet, pictures: Path) -> None:
    """Draw which kind is taken for which."""
    is_labelled = np.array([kind is not None for kind in labelled.examples.kinds])
    selection = labelled[is_labelled & np.isin(labelled.strengths, ("", *CLEAR))]
    names = np.array([*classifier.kind_head.classes, _NOTHING])
    named = np.array([name or _NOTHING for name in named_kinds(classifier, selection)])
    truth = [fault or _NOTHING for fault in fault_of(selection)]
    labels = [name for name in names if name in truth]
    matrix = confusion_matrix(truth, named, labels=labels, normalize="true")
    figure = Figure(figsize=(11, 10), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    spelt = [name.replace("_", " ") for name in labels]
    axes.set_xticks(range(len(labels)), spelt, rotation=90)
    axes.set_yticks(range(len(labels)), spelt)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (gross and moderate)")
    for i, j in zip(*np.nonzero(matrix > 0.02), strict=True):
        colour = "white" if matrix[i, j] > 0.5 else "black"
        axes.text(j, i, f"{matrix[i, j]:.0%}", ha="center", va="center", fontsize=6, color=colour)
    figure.savefig(pictures / "classifier_kinds.png", dpi=110)
