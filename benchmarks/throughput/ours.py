"""An archive through the pipeline, in a process of its own.

``python -m benchmarks.throughput.ours PROJECT FILE...`` prints the time, as JSON; the
settings come from the environment, as QC_WORKERS and QC_ENGINE.
"""

import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from qc.core.enums import LabelName
from qc.pipeline.batch import process_frames
from qc.project import ProjectContext, create_project, open_project
from qc.settings import read_settings


def main() -> None:
    """Take all in as a certified archive: each night is judged by those before it."""
    folder, *names = sys.argv[1:]
    paths = [Path(name) for name in names]
    create_project(Path(folder))
    with open_project(read_settings(Path(folder))) as project:
        project.encoder.embed(np.ones((16, 224, 224, 3), np.float32))  # its start is not counted
        began, began_core = time.perf_counter(), _core_seconds()
        states = _process(paths, project)
        seconds = time.perf_counter() - began
    print(
        json.dumps(
            {
                "frames": len(paths),
                "seconds": seconds,
                "core_seconds": _core_seconds() - began_core,
                "states": states,
            }
        )
    )


def _process(paths: list[Path], project: ProjectContext) -> Counter[str]:
    states = Counter[str]()
    for outcome in process_frames(paths, project, LabelName.GOOD):
        states[str(outcome.state)] += 1
        for judged in outcome.judgements:
            states[str(judged.verdict.status)] += 1
    return states


def _core_seconds() -> float:
    """Return the resources used by this process and its ended children."""
    both = (resource.getrusage(user) for user in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


if __name__ == "__main__":
    main()
