"""Cost and recall of an injection test with full-size frames.

``python -m benchmarks.self_test --out build/self_test``

Seven kinds of unbinned calibrations, six nights of history as references, then one night whose
self-test is timed: once with the time that it has each night, once with as much as it likes.
"""

import argparse
import json
import os
import resource
import time
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qc.core.enums import FrameState, LabelName
from qc.monitoring.injection_test import BUDGET_S, InjectionTest, run_injection_test
from qc.monitoring.recall import RecallCount
from qc.pipeline.batch import process_frames
from qc.project import ProjectContext, create_project, open_project
from qc.settings import read_settings
from qc.simulator import DEMO_PLAN, ObservingPlan, simulate

FIRST = date(2026, 7, 1)
HISTORY = 6  # nights
A_NIGHT = 4  # frames of each kind: 24 references
SEED = 21
UNHURRIED_S = 3600.0


def main() -> None:
    """Simulate, judge, try, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder; what is there is used")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    create_project(folder / "project")
    with open_project(read_settings(folder / "project")) as project:
        _prepare(folder, project)
        timed = [_timed(project, budget_s) for budget_s in (BUDGET_S, UNHURRIED_S)]
    console, tested = Console(width=100), [item for item, _ in timed]
    for entry, cpu_s in timed:
        console.print(f"{entry.summary} ({cpu_s:.0f} s of one core){_untried(entry)}")
    console.print(_table(tested[-1]))
    for name in ("beyond", "invisible"):
        console.print(name, *getattr(tested[-1], name), sep="\n  ")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(f"peak memory {peak_mb:.0f} MB, {len(os.sched_getaffinity(0))} cores")
    document = json.dumps(_document(timed, peak_mb), indent=1)
    (folder / "self_test.json").write_text(document + "\n")


def _untried(tested: InjectionTest) -> str:
    return f"; no time for {', '.join(tested.untried)}" if tested.untried else ""


def _prepare(folder: Path, project: ProjectContext) -> None:
    """Simulate the frames that are not yet there, and judge those that are not yet judged."""
    streams = tuple(
        replace(stream, binning=(1, 1), read_mode="225kHz low", set_size=A_NIGHT)
        for stream in DEMO_PLAN.streams
    )
    plan = ObservingPlan(streams, aborted=0.0)
    for number in range(HISTORY + 1):
        night = FIRST + timedelta(days=number)
        inbox = folder / "frames" / night.isoformat()
        if not inbox.exists():
            paths = simulate(inbox, nights=1, start=night, faults=0, seed=SEED, plan=plan)
            label = LabelName.GOOD if number < HISTORY else None
            states = [frame.state for frame in process_frames(paths, project, label)]
            print(f"{datetime.now(UTC):%H:%M:%S} {night} {states.count(FrameState.PROCESSED)}")
        if number < HISTORY:
            for path in inbox.rglob("*.fits"):
                path.write_bytes(b"")  # judged: its 35 MB are not needed any more


def _timed(project: ProjectContext, budget_s: float) -> tuple[InjectionTest, float]:
    """Return an injection test and its cost in seconds of one core."""
    night, before_s = FIRST + timedelta(days=HISTORY), time.process_time()
    tested = run_injection_test(project, night, datetime.now(UTC), budget_s)
    return tested, time.process_time() - before_s


def _counts(tested: InjectionTest) -> dict[tuple[str, str], RecallCount]:
    counts = defaultdict[tuple[str, str], RecallCount](RecallCount)
    for trial in tested.trials:
        counts[trial.kind, trial.strength] += RecallCount(trial.is_found, 1)
    return dict(sorted(counts.items()))


def _table(tested: InjectionTest) -> Table:
    table = Table("kind", "strength", "found", "missed in")
    for (kind, strength), count in _counts(tested).items():
        results = [
            trial for trial in tested.trials if (trial.kind, trial.strength) == (kind, strength)
        ]
        missed = " ".join(
            f"{item.image_type} {item.score:.2f}" for item in results if not item.is_found
        )
        table.add_row(kind, strength, f"{count.found} of {count.tried}", missed)
    return table


def _document(timed: list[tuple[InjectionTest, float]], peak_mb: float) -> dict[str, object]:
    return {
        "peak_mb": round(peak_mb),
        "runs": [
            {
                "seconds": round(item.elapsed_s, 1),
                "core_seconds": round(cpu_s, 1),
                "tried": item.count.tried,
                "found": item.count.found,
                "untried": item.untried,
                "beyond": item.beyond,
                "invisible": item.invisible,
                "missed": [
                    f"{t.strength} {t.kind} {t.image_type}" for t in item.trials if not t.is_found
                ],
            }
            for item, cpu_s in timed
        ],
    }


if __name__ == "__main__":
    main()
