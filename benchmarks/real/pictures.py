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
    """Draw every score by series, and what is wrong with the frame."""
    titles = list(dict.fromkeys(one.series for one in verdicts))
    really = [one for one in verdicts if one.kind == REALLY]
    shown = [*counted(verdicts), *really]
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    for offset, (name, colour) in enumerate(_COLOURS.items()):
        some = [one for one in shown if _group(one) == name]
        place = [titles.index(one.series) + 0.17 * (offset - 2) for one in some]
        x = np.array(place) + rng.uniform(-0.06, 0.06, len(some))
        axes.plot(x, np.clip([one.score for one in some], *_SHOWN), ".", color=colour, label=name)
    axes.axhline(1, color="black", lw=1)
    axes.set(yscale="log", ylabel="score (above 1: anomalous)", ylim=(0.08, 1.3e4))
    axes.set_xticks(range(len(titles)), titles)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper center", ncols=5, bbox_to_anchor=(0.5, 1.1))
    figure.savefig(path, dpi=_DPI)


def _group(one: Verdict) -> str:
    return "really faulty" if one.kind == REALLY else one.strength or "untouched"


def draw_frames(verdicts: Sequence[Verdict], path: Path) -> None:
    """Draw, of each series, an untouched image and some bad ones, less what its good ones show."""
    titles = list(dict.fromkeys(one.series for one in verdicts))
    figure = Figure(figsize=(2.1 * _COLUMNS, 2.4 * len(titles)), layout="constrained")
    for line, title in zip(
        figure.subplots(len(titles), _COLUMNS, squeeze=False), titles, strict=True
    ):
        some = [one for one in verdicts if one.series == title]
        good = next(one for one in some if not one.is_bad)
        bad = _choose([one for one in some if one.is_bad])
        _draw(line[0], good, np.arcsinh((good.picture - np.median(good.picture)) / 10), "gray")
        line[0].set_ylabel(title)
        for axes, one in zip(line[1:], bad, strict=False):
            twin = next(
                (each for each in some if not each.is_bad and each.source == one.source), good
            )
            _draw(axes, one, _apart(one, twin), "RdBu_r")
    figure.savefig(path, dpi=_COARSE_DPI)


def _choose(bad: Sequence[Verdict]) -> list[Verdict]:
    """Take misses first, then really faulty ones, then faint ones of different kinds."""
    ordered = sorted(
        bad, key=lambda one: (one.flagged, one.kind != REALLY, one.strength, one.score)
    )
    chosen: dict[str, Verdict] = {}
    for one in ordered:
        chosen.setdefault(one.kind, one)
    return list(chosen.values())[: _COLUMNS - 1]


def _apart(one: Verdict, twin: Verdict) -> np.ndarray:
    """Return the difference to an untouched image of the same real frame at the same light."""
    level, other = (each.picture - np.percentile(each.picture, 2) for each in (one, twin))
    bright = other > np.percentile(other, 80)
    ratio = np.median(level[bright]) / max(float(np.median(other[bright])), 1e-3)
    apart = level - (other * np.clip(ratio, 0.3, 3) if other.max() > 300 else other)
    return np.asarray(apart / np.maximum(np.sqrt(np.abs(other) / 10 + 1), 1))


def _draw(axes: Axes, one: Verdict, image: np.ndarray, cmap: str) -> None:
    reach = max(float(np.percentile(np.abs(image), 99)), 1e-3)
    low = -reach if cmap != "gray" else float(image.min())
    axes.imshow(image, origin="lower", cmap=cmap, vmin=low, vmax=reach, aspect="auto")
    what = f"{one.kind.replace('_', ' ')} {one.strength}" if one.is_bad else "untouched"
    axes.set_title(f"{what}\n{one.score:.2f}", size=8, color="red" if one.flagged else "black")
    axes.set_xticks([])
    axes.set_yticks([])
