"""The pictures of the benchmark."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from benchmarks.detection.analysis import OURS, Column, Scored, Scores, is_counted
from benchmarks.detection.evidence import Sample
from benchmarks.detection.history import ARMS, History, Shot, images_of, plan_shots
from embeddings.preprocess import block_statistics
from qc.simulator import STRENGTHS

Doubles = NDArray[np.float64]
Tables = Mapping[str, Mapping[str, Mapping[str, Any]]]

_RATES = np.geomspace(1e-3, 1, 200)
_RECALLS = np.linspace(0, 1, 201)
_SHOWN = (0.1, 1e4)  # the range of scores that is drawn
_DPI = 110


def draw_all(
    scores: Scores,
    results: Mapping[str, Any],
    misses: Sequence[Sample],
    history: History,
    folder: Path,
) -> None:
    """Draw every picture of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_curves(scores, results["methods"], folder / "detection_curves.png")
    draw_methods(scores.columns, results, folder / "detection_methods.png")
    draw_recall(results["recall_by_fault"], folder / "detection_recall.png")
    draw_scores(scores.scored, folder / "detection_scores.png")
    draw_misses(misses, history, folder / "detection_misses.png")


def draw_curves(scores: Scores, tables: Tables, path: Path) -> None:
    """Draw ROC and precision-recall curves, averaged over image types, each with its threshold."""
    figure = Figure(figsize=(15, 6), layout="constrained")
    roc, pr = figure.subplots(1, 2)
    for number, column in enumerate(scores.columns):
        curves = [_curves(values, bad) for values, bad in _by_type(scores.scored, column.name)]
        style = _style(column, number)
        roc.plot(_RATES, np.mean([item for item, _ in curves], axis=0), label=column.name, **style)
        pr.plot(_RECALLS, np.mean([item for _, item in curves], axis=0), **style)
        point = {name: _mean(tables[column.name], name) for name in ("false_alarms", "recall")}
        displayed = max(point["false_alarms"], float(_RATES[0]))
        dot = {"color": style["color"], "ms": 7, "mec": "white"}
        roc.plot(displayed, point["recall"], "o", **dot)
        pr.plot(point["recall"], _mean(tables[column.name], "precision"), "o", **dot)
    roc.set(xscale="log", xlabel="false alarms per good image", ylabel="recall", ylim=(0, 1.02))
    pr.set(xlabel="recall", ylabel="precision", ylim=(0.45, 1.02))
    for axes in (roc, pr):
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8, title="dot: at the threshold")
    figure.suptitle("Mean over image types")
    figure.savefig(path, dpi=_DPI)


def _style(column: Column, number: int) -> dict[str, Any]:
    """Return a line's looks: the product's own thick and black, the later ones dashed."""
    if column.name == OURS:
        return {"color": "black", "lw": 2.4}
    colour = colormaps["tab20"](number % 20)
    return {"color": colour, "lw": 1.2, "ls": "-" if number < 10 else "--"}


def draw_methods(columns: Sequence[Column], results: Mapping[str, Any], path: Path) -> None:
    """Draw the main figures of every method, the best at the top."""
    names = [column.name for column in columns]
    values = np.array([_summary(results, name) for name in names])
    order = np.argsort(-values[:, 0])
    figure = Figure(figsize=(9, 0.32 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(values[order], cmap="viridis", vmin=0.4, vmax=1, aspect="auto")
    for i, row in enumerate(values[order]):
        for j, value in enumerate(row):
            colour = "white" if value < 0.7 else "black"
            text = "" if np.isnan(value) else f"{value:.3f}"
            axes.text(j, i, text, ha="center", va="center", color=colour, size=9)
    axes.set_xticks(range(len(_SUMMARY)), _SUMMARY, size=9)
    axes.set_yticks(range(len(names)), [names[i] for i in order], size=9)
    axes.xaxis.tick_top()
    figure.savefig(path, dpi=_DPI)


_SUMMARY = (
    "AUROC,\nmean of types", "AUROC,\nworst type", "AUROC,\nunseen kinds",
    "recall at 0.1 %\nfalse alarms", "recall in\nfive a night",
)  # fmt: skip


def _summary(results: Mapping[str, Any], name: str) -> list[float]:
    table = results["methods"][name]
    return [
        _mean(table, "auroc"),
        min(figures["auroc"].value for figures in table.values()),
        results["unseen"].get(name, {}).get("auroc", np.nan),
        _mean(table, "recall_at_0.1_percent"),
        results["at_budget"].get(name, np.nan),
    ]


def _by_type(scored: Sequence[Scored], method: str) -> list[tuple[Doubles, NDArray[np.bool_]]]:
    groups = defaultdict(list)
    for item in scored:
        if is_counted(item.sample) and method in item.scores:
            truth = item.sample.truth
            groups[truth.image_type].append((item.scores[method], truth.is_bad))
    both = [
        (np.array([score for score, _ in some]), np.array([bad for _, bad in some]))
        for some in groups.values()
    ]
    return [(scores, bad) for scores, bad in both if 0 < bad.sum() < len(bad)]


def _curves(scores: Doubles, bad: NDArray[np.bool_]) -> tuple[Doubles, Doubles]:
    """Return recall at `_RATES` of false alarms, and precision at `_RECALLS`."""
    rates, recalls, _ = roc_curve(bad, scores)
    at_rates = recalls[np.searchsorted(rates, _RATES, side="right") - 1]
    precision, recall, _ = precision_recall_curve(bad, scores)
    at_recalls = np.array([precision[recall >= item - 1e-9].max() for item in _RECALLS])
    return np.asarray(at_rates), at_recalls


def _mean(table: Mapping[str, Mapping[str, Any]], name: str) -> float:
    return float(np.mean([figures[name].value for figures in table.values()]))


def draw_recall(counts: Mapping[str, Mapping[str, tuple[int, int]]], path: Path) -> None:
    """Draw recall by kind of fault and strength; each cell has hits and total."""
    kinds = sorted(counts, key=lambda kind: _share(counts[kind].values()))
    grid = np.full((len(kinds), len(STRENGTHS)), np.nan)
    figure = Figure(figsize=(6.5, 0.21 * len(kinds) + 1.2), layout="constrained")
    axes = figure.subplots()
    for i, kind in enumerate(kinds):
        for j, strength in enumerate(STRENGTHS):
            if strength in counts[kind]:
                result, of = counts[kind][strength]
                grid[i, j] = result / of
                colour = "white" if result / of < 0.5 else "black"
                axes.text(j, i, f"{result}/{of}", ha="center", va="center", color=colour, size=8)
    image = axes.imshow(grid, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(STRENGTHS)), STRENGTHS)
    axes.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds], size=8)
    figure.colorbar(image, label="share flagged", shrink=0.4)
    figure.savefig(path, dpi=_DPI)


def _share(tallies: Any) -> float:
    result, of = np.sum(list(tallies), axis=0)
    return float(result / of)


def draw_misses(missed: Sequence[Sample], history: History, path: Path) -> None:
    """Draw missed images, one of each kind of fault and image type.

    Above the whole; below the fault alone, around where it is strongest, in standard deviations
    of a block's noise.
    """
    chosen = list({(item.truth.fault, item.truth.image_type): item for item in missed}.values())[
        :_MOST
    ]
    if not chosen:
        return
    shots = {
        (arm, shot.name): shot
        for arm in ARMS
        for some in plan_shots(arm, history).values()
        for shot in some
    }
    figure = Figure(figsize=(2.2 * len(chosen), 5), layout="constrained")
    for column, sample in zip(
        figure.subplots(2, len(chosen), squeeze=False).T, chosen, strict=True
    ):
        _draw_miss(column, sample, shots[sample.arm, sample.truth.file])
    figure.savefig(path, dpi=_DPI)


_MOST = 10
_AROUND = 16  # blocks on each side


def _draw_miss(column: Sequence[Axes], sample: Sample, shot: Shot) -> None:
    number, truth = sample.truth.extension, sample.truth
    ill, well = (
        block_statistics(images_of(shot, healthy=healthy)[number]) for healthy in (False, True)
    )
    fault = (ill - well)[..., 0] / np.maximum(np.median(well[..., 1]) / _PIXELS, 1e-3)
    whole, part = column
    low, high = np.percentile(ill[..., 0], [1, 99])
    whole.imshow(ill[..., 0], origin="lower", cmap="gray", vmin=low, vmax=high)
    y, x = np.unravel_index(np.abs(fault).argmax(), fault.shape)
    y, x = (int(np.clip(item, _AROUND, len(fault) - _AROUND)) for item in (y, x))
    box = slice(y - _AROUND, y + _AROUND), slice(x - _AROUND, x + _AROUND)
    part.imshow(fault[box], origin="lower", cmap="RdBu_r", vmin=-6, vmax=6)
    whole.plot(x, y, "o", mfc="none", mec="red", ms=12)
    title = f"{truth.fault.replace('_', ' ')}\n{truth.strength}, {truth.image_type}"
    whole.set_title(title, size=8)
    for axes in column:
        axes.set_xticks([])
        axes.set_yticks([])


_PIXELS = 9.0  # the root of a block's pixels, roughly: for the eye


def draw_scores(scored: Sequence[Scored], path: Path) -> None:
    """Draw the product's score of every test image by type, good ones and each strength."""
    groups = defaultdict(list)
    for entry in scored:
        if is_counted(entry.sample):
            truth = entry.sample.truth
            score = np.clip(entry.scores[OURS], *_SHOWN)
            groups[truth.image_type, truth.strength or "good"].append(score)
    types = sorted({image_type for image_type, _ in groups})
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots()
    for offset, (name, colour) in enumerate(_STRENGTH_COLOURS.items()):
        _dots(axes, [groups[item, name] for item in types], offset, colour, name)
    axes.axhline(1, color="black", lw=1)
    axes.set(yscale="log", ylabel="score (above 1: anomalous)", ylim=_SHOWN)
    axes.set_xticks(range(len(types)), types)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper right", ncols=4)
    figure.savefig(path, dpi=_DPI)


_STRENGTH_COLOURS = {
    "good": "#2ca02c",
    "faint": "#1f77b4",
    "moderate": "#ff7f0e",
    "gross": "#d62728",
}


def _dots(
    axes: Axes, columns: Sequence[Sequence[float]], offset: int, colour: str, name: str
) -> None:
    rng = np.random.default_rng(0)
    for i, column in enumerate(columns):
        x = i + 0.2 * (offset - 1.5) + rng.uniform(-0.08, 0.08, len(column))
        axes.plot(x, column, ".", ms=3, color=colour, label=name if i == 0 else None)
