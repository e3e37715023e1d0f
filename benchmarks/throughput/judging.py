"""Time to judge an extension, by the size of its reference.

``python -m benchmarks.throughput.judging PROJECT FILE`` prints milliseconds of one core, as JSON.
The references are one frame's numbers with noise: as many as are wanted, under other names.
"""

import hashlib
import json
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from qc.core.enums import LabelName
from qc.detection import embed
from qc.pipeline.process import MeasuredFrame, judge_frame, read_and_measure, record
from qc.project import ProjectContext, create_project, open_project
from qc.settings import read_settings

SIZES = (20, 50, 100, 200)
_REPEATS = 7


def main() -> None:
    """Let the reference grow, and judge the frame again at each size."""
    folder, name = Path(sys.argv[1]), Path(sys.argv[2])
    create_project(folder)
    with open_project(read_settings(folder)) as project:
        new = read_and_measure(name, project)
        embeddings = embed(new.measurements, project.encoder)
        result, done = [], 0
        for size in SIZES:
            for number in range(done, size):
                _add_reference(new, embeddings, number, project)
            done = size
            result.append({"references": size, **_judged_ms(new, embeddings, project)})
    print(json.dumps(result))


def _add_reference(
    like: MeasuredFrame, embeddings: np.ndarray, number: int, project: ProjectContext
) -> None:
    random = np.random.default_rng(number)
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    measured = tuple(
        replace(
            measurement,
            statistics=measurement.statistics
            + random.normal(0, 0.1, measurement.statistics.shape).astype(np.float32),
            pixels_sha256=digest[:60] + str(measurement.number),
        )
        for measurement in like.measurements
    )
    frame = replace(
        like.frame,
        name=f"reference {number}",
        sha256=digest,
        observed_at=like.frame.observed_at - timedelta(days=1, minutes=number),
        night=like.frame.night - timedelta(days=1),
    )
    file = replace(like.file, path=Path(f"/reference/{number}.fits"))
    noise = random.normal(0, 1e-4, embeddings.shape).astype(np.float32)
    item = MeasuredFrame(file, frame, measured, like.thresholds)
    judged = judge_frame(item, embeddings + noise, project)
    record([(item, judged)], project, LabelName.GOOD)


def _judged_ms(
    new: MeasuredFrame, embeddings: np.ndarray, project: ProjectContext
) -> dict[str, float]:
    """Return the core time of the first verdict, which learns, and the median of later ones."""
    times = []
    for _ in range(1 + _REPEATS):
        began = time.process_time()
        judge_frame(new, embeddings, project)
        times.append(1000 * (time.process_time() - began) / len(new.measurements))
    first, *later = times
    return {"first_ms": first, "later_ms": float(np.median(later))}


if __name__ == "__main__":
    main()
