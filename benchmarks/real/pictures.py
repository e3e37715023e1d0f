"""The pictures of the benchmark."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.real.analysis import counted
from benchmarks.real.folds import REALLY
from benchmarks.real.judging import Verdict

_DPI = 100
_COARSE_DPI = 70
_SHOWN = (0.1, 1e4)
_COLOURS = {
    "untouched": "#2ca02c",
    "faint": "#1f77b4",
    "moderate": "#ff7f0e",
    "gross": "#d62728",
    "really faulty": "#000000",
}
_COLUMNS = 7


def draw_scores(verdicts: Sequence[Verdict], path: Path) -> None:
    """Draw every score by series and fault."""
    titles = list(dict.fromkeys(verdict.series for verdict in verdicts))
    really = [verdict for verdict in verdicts if verdict.kind == REALLY]
    displayed = [*counted(verdicts), *really]
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    for offset, (name, colour) in enumerate(_COLOURS.items()):
        some = [item for item in displayed if _group(item) == name]
        place = [titles.index(image.series) + 0.17 * (offset - 2) for image in some]
        x = np.array(place) + rng.uniform(-0.06, 0.06, len(some))
        axes.plot(
            x, np.clip([image.score for image in some], *_SHOWN), ".", color=colour, label=name
        )
    axes.axhline(1, color="black", lw=1)
    axes.set(yscale="log", ylabel="score (above 1: anomalous)", ylim=(0.08, 1.3e4))
    axes.set_xticks(range(len(titles)), titles)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper center", ncols=5, bbox_to_anchor=(0.5, 1.1))
    figure.savefig(path, dpi=_DPI)


def _group(verdict: Verdict) -> str:
    return "really faulty" if verdict.kind == REALLY else verdict.strength or "untouched"


def draw_frames(verdicts: Sequence[Verdict], path: Path) -> None:
    """Draw a good image and some bad ones of each series, minus the mean good image."""
    titles = list(dict.fromkeys(verdict.series for verdict in verdicts))
    figure = Figure(figsize=(2.1 * _COLUMNS, 2.4 * len(titles)), layout="constrained")
    for line, title in zip(
        figure.subplots(len(titles), _COLUMNS, squeeze=False), titles, strict=True
    ):
        some = [verdict for verdict in verdicts if verdict.series == title]
        good = next(image for image in some if not image.is_bad)
        bad = _choose([image for image in some if image.is_bad])
        _draw(line[0], good, np.arcsinh((good.picture - np.median(good.picture)) / 10), "gray")
        line[0].set_ylabel(title)
        for axes, item in zip(line[1:], bad, strict=False):
            twin = next(
                (image for image in some if not image.is_bad and image.source == item.source), good
            )
            _draw(axes, item, _apart(item, twin), "RdBu_r")
    figure.savefig(path, dpi=_COARSE_DPI)


def _choose(bad: Sequence[Verdict]) -> list[Verdict]:
    """Take misses first, then really faulty ones, then faint ones of different kinds."""
    ordered = sorted(
        bad, key=lambda item: (item.flagged, item.kind != REALLY, item.strength, item.score)
    )
    chosen: dict[str, Verdict] = {}
    for entry in ordered:
        chosen.setdefault(entry.kind, entry)
    return list(chosen.values())[: _COLUMNS - 1]


def _apart(verdict: Verdict, twin: Verdict) -> np.ndarray:
    """Return the difference to an untouched image of the same real frame at the same light."""
    level, baseline = (item.picture - np.percentile(item.picture, 2) for item in (verdict, twin))
    bright = baseline > np.percentile(baseline, 80)
    ratio = np.median(level[bright]) / max(float(np.median(baseline[bright])), 1e-3)
    apart = level - (baseline * np.clip(ratio, 0.3, 3) if baseline.max() > 300 else baseline)
    return np.asarray(apart / np.maximum(np.sqrt(np.abs(baseline) / 10 + 1), 1))


def _draw(axes: Axes, verdict: Verdict, image: np.ndarray, cmap: str) -> None:
    reach = max(float(np.percentile(np.abs(image), 99)), 1e-3)
    low = -reach if cmap != "gray" else float(image.min())
    axes.imshow(image, origin="lower", cmap=cmap, vmin=low, vmax=reach, aspect="auto")
    title = (
        f"{verdict.kind.replace('_', ' ')} {verdict.strength}" if verdict.is_bad else "untouched"
    )
    axes.set_title(
        f"{title}\n{verdict.score:.2f}", size=8, color="red" if verdict.flagged else "black"
    )
    axes.set_xticks([])
    axes.set_yticks([])
