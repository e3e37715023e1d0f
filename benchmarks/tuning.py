"""Test tuned thresholds of one history on another.

``python -m benchmarks.tuning --learn-from V --test-on T``

V and T are the validation and the test history of ``benchmarks.detection``, judged by the shipped
thresholds. For each image type limits are tuned as by ``qc thresholds tune``, from at most a
hundred good images of V alone, and from these and twenty bad ones. All images of T are then
compared with them. Writes the tables in ``docs/results/tuning.md``.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.analysis import is_counted
from benchmarks.detection.evidence import Record
from benchmarks.detection.history import ARMS
from benchmarks.detection.report import update_markdown
from benchmarks.paths import PAGES
from qc import db
from qc.core.reference import REFERENCE_NEEDED
from qc.core.verdict import Evidence
from qc.tuning.extreme_values import Interval
from qc.tuning.fit import tune_to_nominal
from qc.tuning.label_fit import tune_to_labels
from qc.tuning.limits import LimitSet, evidence_ratio, limits_of

Doubles = NDArray[np.float64]

RATES = (0.01, 0.001)
_NOMINAL = 100
_BAD = 20
_SEED = 17


@dataclass(frozen=True)
class Images:
    """The evidence of one image type's images, and the limits that ship for it."""

    present: LimitSet
    nominal: Sequence[Evidence]
    bad: Sequence[Evidence]


@dataclass(frozen=True)
class RateResult:
    """A granted rate: expected and observed false alarms of all types."""

    promised: Interval
    flagged: int
    images: int

    @property
    def rate(self) -> float:
        """Return the share that was flagged."""
        return self.flagged / self.images


def main() -> None:
    """Read, tune, try, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learn-from", type=Path, required=True, help="the validation history")
    parser.add_argument("--test-on", type=Path, required=True, help="the test history")
    arguments = parser.parse_args()
    validation, new = read_images(arguments.learn_from), read_images(arguments.test_on)
    both = sorted(validation.keys() & new.keys())
    results = {rate: from_nominal(validation, new, both, rate) for rate in RATES}
    labelled = {name: from_labels(validation[name], new[name]) for name in both}
    update_markdown(PAGES / "tuning.md", [_nominal_table(results), _label_table(labelled)])


def read_images(work: Path) -> dict[str, Images]:
    """Return the images of a history by type, those that had enough references."""
    nominal: dict[str, list[Evidence]] = defaultdict(list)
    bad: dict[str, list[Evidence]] = defaultdict(list)
    present = {}
    for record in (Record(work, arm) for arm in ARMS):
        for sample in record.samples:
            if not (sample.truth.part == "test" and sample.finding and is_counted(sample)):
                continue
            if sample.reference_size < REFERENCE_NEEDED:
                continue
            name, night = sample.finding.extension.image_type, sample.truth.night
            (bad if sample.truth.is_bad else nominal)[name].append(
                db.findings.evidence_of(sample.finding)
            )
            threshold = record.thresholds.threshold(name, night, sample.finding.fingerprint)
            present[name] = limits_of(threshold)
    return {name: Images(present[name], nominal[name], bad[name]) for name in nominal if bad[name]}


def from_nominal(
    validation: Mapping[str, Images], new: Mapping[str, Images], names: Sequence[str], rate: float
) -> RateResult:
    """Tune each type to a rate, from good images alone; count flagged new ones."""
    low = high = value = 0.0
    flagged = images = 0
    for name in names:
        tuned = tune_to_nominal(_some(validation[name].nominal, _NOMINAL), rate)
        ratios = _ratios(new[name].nominal, tuned.limits)
        flagged, images = flagged + int((ratios > 1).sum()), images + len(ratios)
        value += tuned.false_alarms.value * len(ratios)
        low += tuned.false_alarms.low * len(ratios)
        high += tuned.false_alarms.high * len(ratios)
    return RateResult(Interval(value / images, low / images, high / images), flagged, images)


def from_labels(images: Images, new: Images) -> tuple[float, float]:
    """Return F1 on new images at limits from twenty bad ones, and the best that scaling allows."""
    nominal = _ratios(_some(images.nominal, _NOMINAL), images.present)
    bad = _ratios(_some(images.bad, _BAD), images.present)
    tuned = tune_to_labels(images.present, nominal, bad, false_alarms=RATES[-1])
    got = _f1(_ratios(new.nominal, tuned.limits), _ratios(new.bad, tuned.limits), 1.0)
    good, ill = _ratios(new.nominal, new.present), _ratios(new.bad, new.present)
    return got, max(_f1(good, ill, cut) for cut in np.concatenate([good, ill]))


def _some(evidence: Sequence[Evidence], most: int) -> list[Evidence]:
    """Draw at most so many, in their order."""
    rows = np.random.default_rng(_SEED).permutation(len(evidence))[:most]
    return [evidence[row] for row in sorted(rows)]


def _ratios(evidence: Sequence[Evidence], limits: LimitSet) -> Doubles:
    return np.array([evidence_ratio(item, limits) for item in evidence])


def _f1(nominal: Doubles, bad: Doubles, cut: float) -> float:
    hits, false = int((bad > cut).sum()), int((nominal > cut).sum())
    return 2 * hits / (hits + false + len(bad))


def _nominal_table(stored: Mapping[float, RateResult]) -> str:
    lines = [
        "| granted | expected | expected range | new good images | flagged | share |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for rate, item in stored.items():
        span = f"{item.promised.low:.2%} to {item.promised.high:.2%}"
        lines.append(
            f"| {rate:.1%} | {item.promised.value:.2%} | {span} | {item.images} | {item.flagged} | "
            f"{item.rate:.2%} |"
        )
    return "\n".join(["## From a hundred good images of each type", "", *lines])


def _label_table(result: Mapping[str, tuple[float, float]]) -> str:
    lines = ["| type | F1 | best possible | short by |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {got:.3f} | {best:.3f} | {best - got:.3f} |"
        for name, (got, best) in result.items()
    ]
    short = float(np.mean([best - got for got, best in result.values()]))
    lines.append(f"| **mean** | | | **{short:.4f}** |")
    return "\n".join(["## From twenty images labelled bad of each type", "", *lines])


if __name__ == "__main__":
    main()
