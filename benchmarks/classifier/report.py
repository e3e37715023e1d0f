"""The classifier's figures as Markdown and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from benchmarks.classifier.examples import Known
from benchmarks.classifier.measuring import CLEAR, KindFigures, TypeFigures, fault_of, named_kinds
from embeddings.classifier import DenseClassifier
from qc.training.train import Proportion

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
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(line)} |" for line in lines)])


def _types(found: TypeFigures) -> str:
    rows = [
        [name, str(one.count), percent(one), percent(asked)]
        for name, (one, asked) in found.by_type.items()
    ]
    means = [fmean(each[i].value for each in found.by_type.values()) for i in range(2)]
    rows.append(["**mean**", "", *(f"{mean:.2%}" for mean in means)])
    alarms = found.contradicted
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


def _exposed(found: TypeFigures) -> str:
    often = {kind: each for kind, each in found.exposed.items() if each.value > 0}
    ordered = sorted(often.items(), key=lambda item: -item[1].value)
    rows = [[kind.replace("_", " "), str(each.count), percent(each)] for kind, each in ordered]
    return _table("Headers contradicted, by fault", ["fault", "images", "contradicted"], rows)


def _kinds(found: KindFigures) -> str:
    rows = [
        [kind.replace("_", " "), str(recall.count), percent(precision), percent(recall)]
        for kind, (precision, recall) in found.by_kind.items()
    ]
    after = (
        f"Macro-F1 {found.clear.value:.3f} ({found.clear.low:.3f}-{found.clear.high:.3f}) of gross "
        f"and moderate faults, {found.told.value:.3f} where kinds that one image cannot tell apart "
        f"are taken for one; {found.faint.value:.3f} of faint ones; expected calibration error "
        f"{found.calibration_error:.4f}."
    )
    columns = ["fault", "images", "precision", "recall"]
    return _table("Kind of gross and moderate faults", columns, rows) + "\n\n" + after


def _rest(results: Mapping[str, Any]) -> str:
    rows = [[name, f"{value:.3f}"] for name, value in results["seldom"].items()]
    rows.append(["learnt anew with 50 more labels, s", f"{results['retraining_s']:.1f}"])
    for where, methods in results["transfer"].items():
        rows += [
            [
                f"{where}: macro-F1, {name}",
                f"{fmean(values):.3f} ({min(values):.3f}-{max(values):.3f})",
            ]
            for name, values in methods.items()
        ]
    title = "Where two images in a hundred are bad; time; twenty labels of another instrument"
    return _table(title, ["what", "figure"], rows)


def draw(classifier: DenseClassifier, known: Known, pictures: Path) -> None:
    """Draw which kind is taken for which."""
    told = np.array([one is not None for one in known.examples.kinds])
    asked = known[told & np.isin(known.strengths, ("", *CLEAR))]
    names = np.array([*classifier.kind_head.classes, _NOTHING])
    said = np.array([name or _NOTHING for name in named_kinds(classifier, asked)])
    truth = [fault or _NOTHING for fault in fault_of(asked)]
    labels = [name for name in names if name in truth]
    matrix = confusion_matrix(truth, said, labels=labels, normalize="true")
    figure = Figure(figsize=(11, 10), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    spelt = [name.replace("_", " ") for name in labels]
    axes.set_xticks(range(len(labels)), spelt, rotation=90)
    axes.set_yticks(range(len(labels)), spelt)
    axes.set_xlabel("said")
    axes.set_ylabel("true (gross and moderate)")
    for i, j in zip(*np.nonzero(matrix > 0.02), strict=True):
        colour = "white" if matrix[i, j] > 0.5 else "black"
        axes.text(j, i, f"{matrix[i, j]:.0%}", ha="center", va="center", fontsize=6, color=colour)
    figure.savefig(pictures / "classifier_kinds.png", dpi=110)
