"""Tune the thresholds that come with the program, on simulated nominal nights alone.

``python -m benchmarks.thresholds --work /tmp/tuning --out thresholds.yaml``

Every stream of the full UVES plan is taken a few times a night in the 2x2 mode, and those of the
forerunner's image types in the unbinned mode too. No frame has a fault. Each is judged against
the nights before it, as on a real night; the limits are where one nominal frame in a thousand
would lie. The two arms of the instrument are simulated and judged side by side; a run that was
stopped goes on where it was.
"""

import argparse
import multiprocessing
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

from embeddings.encoder import ResNet50Encoder
from qc import db
from qc.core.enums import LabelName
from qc.core.reference import REFERENCE_NEEDED
from qc.db.findings import Finding
from qc.detection.thresholds import MetricLimit
from qc.io.instrument_files import read_instruments
from qc.io.instruments import Instrument
from qc.pipeline.batch import process_frames
from qc.pipeline.rejudge import rejudge_frames
from qc.project import ProjectContext, create_project, open_project
from qc.settings import read_settings
from qc.simulator import FULL_PLAN, CalibrationStream, ObservingPlan, simulate
from qc.tuning.fit import fit_limits

SEED = 20100101  # no other benchmark, test or demonstration uses it
FIRST_NIGHT = date(2026, 1, 18)  # of this seed: no intervention, no new lamp until 2 April
FALSE_ALARMS = 0.001
ARMS = ("blue", "red")
_EVERY_NIGHTS = 3  # references and judged frames are up to ten weeks apart: a drift shows
_SET = 2  # frames of each stream a night
_TWO_PORTS_SET = 4  # only one stream is read so, and each half has its own image type
_UNBINNED_TOO = {
    ("bias", None),
    ("arc", 437),
    ("arc", 580),
    ("flat", 390),
    ("flat", 564),
    ("dflat", 346),
}


@dataclass(frozen=True)
class _Limits:
    """Fitted limits: heights and residuals by image type, metric limits by class of frame."""

    heights: dict[str, float]
    residuals: dict[str, float]
    counts: dict[str, int]
    metrics: dict[str, Mapping[str, MetricLimit]]


def main() -> None:
    """Simulate, judge, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=24)
    parser.add_argument("--out", type=Path, required=True, help="thresholds.yaml to write")
    parser.add_argument("--work", type=Path, required=True, help="folder for databases; resumable")
    parser.add_argument("--again", action="store_true", help="judge anew what is in the folder")
    arguments = parser.parse_args()
    judge_arm = partial(
        judge_nominal_nights, work=arguments.work, nights=arguments.nights, again=arguments.again
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(ARMS), mp_context=context) as pool:
        results = [finding for some in pool.map(judge_arm, ARMS) for finding in some]
    encoder = ResNet50Encoder()
    arguments.out.write_text(_document(_fit(results), read_instruments(), encoder.fingerprint))


def tuning_plan(arm: str) -> ObservingPlan:
    """Return the full plan of an arm with each stream short and nightly."""
    of_arm = [stream for stream in FULL_PLAN.streams if stream.arm == arm]
    return ObservingPlan(streams=tuple(_short_streams(of_arm)), aborted=0.0)


def _short_streams(streams: Iterable[CalibrationStream]) -> Iterator[CalibrationStream]:
    for stream in streams:
        binned = stream.binning != (1, 1)
        if binned or (stream.image_class, stream.setting_nm) in _UNBINNED_TOO:
            size = _TWO_PORTS_SET if stream.two_ports else _SET
            yield replace(stream, set_size=size, every_nights=1)


def judge_nominal_nights(arm: str, work: Path, nights: int, *, again: bool) -> list[Finding]:
    """Return the product's results for an arm's nominal nights; without limits, no anomalies."""
    folder = work / arm / "project"
    folder.mkdir(parents=True, exist_ok=True)
    instruments, encoder = read_instruments(), ResNet50Encoder()
    no_limits = _document(_Limits({}, {}, {}, {}), instruments, encoder.fingerprint)
    (folder / "thresholds.yaml").write_text(no_limits)
    create_project(folder)
    with open_project(read_settings(folder)) as project:
        for number in range(nights):
            night = FIRST_NIGHT + timedelta(days=_EVERY_NIGHTS * number)
            _live_one(arm, night, work / arm, project)
        if again:
            for _ in rejudge_frames(project):
                pass
        with project.read_session() as session:
            return list(db.findings.findings(session, FIRST_NIGHT))


def _live_one(arm: str, night: date, folder: Path, project: ProjectContext) -> None:
    """Simulate a night, let the product judge it, delete it; unless that was done before."""
    done = folder / f"{night}.done"
    if done.exists():
        return
    paths = simulate(
        folder / "frames",
        nights=1,
        start=night,
        faults=0,
        seed=SEED,
        plan=tuning_plan(arm),
        workers=1,
    )
    for _ in process_frames(paths, project, LabelName.GOOD):
        pass
    shutil.rmtree(folder / "frames")
    done.touch()
    print(f"{datetime.now(UTC):%H:%M:%S} {arm} {night} {len(paths)} frames", flush=True)


def _fit(findings: Sequence[Finding]) -> _Limits:
    """Fit merge heights and residuals by image type, metrics by class of frame: more of them."""
    by_type, by_class = defaultdict(list), defaultdict(list)
    for finding in findings:
        if finding.verdict.reference_size >= REFERENCE_NEEDED:
            evidence = db.findings.evidence_of(finding)
            by_type[finding.extension.image_type].append(evidence)
            by_class[finding.extension.frame_class].append(evidence)
    types = {name: fit_limits(some, FALSE_ALARMS) for name, some in by_type.items()}
    return _Limits(
        {name: limits.merge_height for name, limits in types.items()},
        {name: limits.residual for name, limits in types.items()},
        {name: len(some) for name, some in by_type.items()},
        {name: fit_limits(some, FALSE_ALARMS).metrics for name, some in by_class.items()},
    )


_HEADER = """\
# Thresholds by image type. The newest entry not later than the frame's night applies, of those
# made for the encoder in use. A key may name several image types that share their entries.
#
#   merge_height   cosine distance above which a frame stands apart from its references
#   residual       how far, in robust sigma of held-out references, a pattern may stand out that
#                  their nominal variation cannot explain
#   false_alarms   the rate per frame that this was tuned for
#   metrics        |z| of a detector number against the references: warn is for the report,
#                  alarm makes the frame anomalous
#
# Made by: python -m benchmarks.thresholds
"""


def _document(limits: _Limits, instruments: Sequence[Instrument], fingerprint: str) -> str:
    """Return the YAML file: a tuned entry for each simulated type, one for the rest of a class."""
    sections = [_HEADER]
    written: set[str] = set()
    for frame_class, types in _by_class(instruments).items():
        tuned = [name for name in types if name in limits.heights]
        for name in tuned:
            why = f"tuned from {limits.counts[name]} simulated nominal frames, none bad"
            sections.append(_entry(limits, name, [name], frame_class, why, fingerprint, written))
        if rest := " ".join(name for name in types if name not in limits.heights):
            why = f"not tuned, the widest of the simulated {frame_class} types"
            sections.append(_entry(limits, rest, tuned, frame_class, why, fingerprint, written))
    return "\n".join(sections)


_ANY_HEIGHT = 2.0  # no cosine distance is greater
_ANY_RESIDUAL = 1000.0


def _by_class(instruments: Sequence[Instrument]) -> dict[str, list[str]]:
    by_class = defaultdict(list)
    for instrument in instruments:
        for name in instrument.image_types():
            calibration = instrument.calibration_of(name)
            assert calibration is not None
            by_class[calibration.frame_class].append(name)
    return by_class


def _entry(
    limits: _Limits,
    names: str,
    tuned: Sequence[str],
    frame_class: str,
    why: str,
    fingerprint: str,
    written: set[str],
) -> str:
    """Write the entry of some image types with the widest limits of the tuned ones."""
    height = max((limits.heights[name] for name in tuned), default=_ANY_HEIGHT)
    residual = max((limits.residuals[name] for name in tuned), default=_ANY_RESIDUAL)
    return (
        f"{names}:\n"
        f"  - from: 2000-01-01\n"
        f"    encoder: {fingerprint}\n"
        f"    merge_height: {height:.3g}\n"
        f"    residual: {residual:.3g}\n"
        f"    false_alarms: {FALSE_ALARMS}\n"
        f"    metrics: {_metrics(limits, frame_class, written)}\n"
        f"    why: {why}\n"
        f"    by: benchmarks.thresholds\n"
    )


def _metrics(limits: _Limits, frame_class: str, written: set[str]) -> str:
    """Write a class's limits out where they first occur, and refer to them afterwards."""
    metrics = limits.metrics.get(frame_class, {})
    if not metrics:
        return "{}"
    if frame_class in written:
        return f"*{frame_class}"
    written.add(frame_class)
    lines = [
        f"      {name}: {{warn: {limit.warn}, alarm: {limit.alarm}}}"
        for name, limit in metrics.items()
    ]
    return "\n".join([f"&{frame_class}", *lines])


if __name__ == "__main__":
    main()
