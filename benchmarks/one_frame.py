"""Where the time goes for one full-size red frame, from ``.fits.Z`` on disk to its verdicts.

``python -m benchmarks.one_frame``

The history holds unbinned biases of the night before; each stage is repeated and its median
given, beside the floor that decompression alone sets (``zcat`` of the same file).
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from embeddings.preprocess import block_statistics
from qc import detection
from qc.core.enums import LabelName
from qc.detection.measurement import measure_metrics
from qc.io.frame_reader import read_frame
from qc.pipeline import process
from qc.pipeline.batch import process_frames
from qc.project import ProjectContext, create_project, open_project
from qc.settings import read_settings
from qc.simulator import CalibrationStream, ObservingPlan, simulate

REPEATS = 5
_BIASES = CalibrationStream(
    "bias", "red", "RED", None, binning=(1, 1), read_mode="225kHz low", set_size=40
)


def main() -> None:
    """Make the frames, time the stages, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--references", type=int, default=40, help="frames of the night before")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        create_project(folder)
        *history, new = _simulate(folder, arguments.references)
        with open_project(read_settings(folder)) as project:
            for _ in process_frames(history, project, LabelName.GOOD):
                pass
            _print(new, _stages(new, project), arguments.references)


def _simulate(folder: Path, references: int) -> list[Path]:
    history = _biases(folder / "archive", date(2026, 7, 1), references)
    return [*history, *_biases(folder / "inbox", date(2026, 7, 2), 1)]


def _biases(folder: Path, night: date, count: int) -> list[Path]:
    plan = ObservingPlan(streams=(replace(_BIASES, set_size=count),), aborted=0.0)
    return simulate(folder, nights=1, start=night, faults=0, seed=77, compressed=True, plan=plan)


def _stages(path: Path, project: ProjectContext) -> dict[str, float]:
    """Return the median milliseconds of each stage and of the whole."""
    frame = read_frame(path, project.instruments)
    arrival = process.read_and_measure(path, project)
    embeddings = detection.embed(arrival.measurements, project.encoder)
    return {
        "decompression alone (zcat)": _median_ms(lambda: _zcat(path)),
        "read: decompress, digest, parse": _median_ms(
            lambda: read_frame(path, project.instruments)
        ),
        "block statistics, both chips": _median_ms(
            lambda: [block_statistics(extension.pixels) for extension in frame.extensions]
        ),
        "metrics, both chips": _median_ms(
            lambda: [measure_metrics(extension) for extension in frame.extensions]
        ),
        "embeddings, both chips": _median_ms(
            lambda: detection.embed(arrival.measurements, project.encoder)
        ),
        "references, linkage, verdicts": _median_ms(
            lambda: process.judge_frame(arrival, embeddings, project)
        ),
        "whole, recorded": _whole_ms(path, project),
    }


def _zcat(path: Path) -> None:
    subprocess.run(["zcat", path], stdout=subprocess.DEVNULL, check=True)  # noqa: S603, S607


def _median_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _whole_ms(path: Path, project: ProjectContext) -> float:
    start = time.perf_counter()
    process.process_frame(path, project)
    return 1000 * (time.perf_counter() - start)


def _print(path: Path, stages: dict[str, float], references: int) -> None:
    size_mb = path.stat().st_size / 1e6
    table = Table("stage", "ms", title=f"{path.name}, {size_mb:.1f} MB, {references} references")
    for name, milliseconds in stages.items():
        table.add_row(name, f"{milliseconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
