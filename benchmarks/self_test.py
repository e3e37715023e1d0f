"""What a self-test of full-size frames costs and finds.

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
from qc.monitoring.injection_test import BUDGET_S, InjectionTest, run_self_test
from qc.monitoring.recall import RecallCount
from qc.pipeline.process import process_frames
from qc.project import Project, create_project, open_project
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
    console, tested = Console(width=100), [one for one, _ in timed]
    for one, cpu_s in timed:
        console.print(f"{one.words} ({cpu_s:.0f} s of one core){_untried(one)}")
    console.print(_table(tested[-1]))
    for name in ("beyond", "invisible"):
        console.print(name, *getattr(tested[-1], name), sep="\n  ")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(f"peak memory {peak_mb:.0f} MB, {len(os.sched_getaffinity(0))} cores")
    document = json.dumps(_document(timed, peak_mb), indent=1)
    (folder / "self_test.json").write_text(document + "\n")


def _untried(tested: InjectionTest) -> str:
    return f"; no time for {', '.join(tested.untried)}" if tested.untried else ""


def _prepare(folder: Path, project: Project) -> None:
    """Simulate the frames that are not yet there, and judge those that are not yet judged."""
    streams = tuple(
        replace(one, binning=(1, 1), read_mode="225kHz low", set_size=A_NIGHT)
        for one in DEMO_PLAN.streams
    )
    plan = ObservingPlan(streams, aborted=0.0)
    for number in range(HISTORY + 1):
        night = FIRST + timedelta(days=number)
        inbox = folder / "frames" / night.isoformat()
        if not inbox.exists():
            paths = simulate(inbox, nights=1, start=night, faults=0, seed=SEED, plan=plan)
            label = LabelName.GOOD if number < HISTORY else None
            states = [one.state for one in process_frames(paths, project, label)]
            print(f"{datetime.now(UTC):%H:%M:%S} {night} {states.count(FrameState.PROCESSED)}")
        if number < HISTORY:
            for path in inbox.rglob("*.fits"):
                path.write_bytes(b"")  # judged: its 35 MB are not needed any more


def _timed(project: Project, budget_s: float) -> tuple[InjectionTest, float]:
    """Return a self-test and what it cost in seconds of one core, whatever else was running."""
    night, before_s = FIRST + timedelta(days=HISTORY), time.process_time()
    tested = run_self_test(project, night, datetime.now(UTC), budget_s)
    return tested, time.process_time() - before_s


def _counts(tested: InjectionTest) -> dict[tuple[str, str], RecallCount]:
    counts = defaultdict[tuple[str, str], RecallCount](RecallCount)
    for one in tested.trials:
        counts[one.kind, one.strength] += RecallCount(one.is_found, 1)
    return dict(sorted(counts.items()))


def _table(tested: InjectionTest) -> Table:
    table = Table("kind", "strength", "found", "missed in")
    for (kind, strength), count in _counts(tested).items():
        own = [one for one in tested.trials if (one.kind, one.strength) == (kind, strength)]
        missed = " ".join(f"{one.image_type} {one.score:.2f}" for one in own if not one.is_found)
        table.add_row(kind, strength, f"{count.found} of {count.tried}", missed)
    return table


def _document(timed: list[tuple[InjectionTest, float]], peak_mb: float) -> dict[str, object]:
    return {
        "peak_mb": round(peak_mb),
        "runs": [
            {
                "seconds": round(one.elapsed_s, 1),
                "core_seconds": round(cpu_s, 1),
                "tried": one.count.tried,
                "found": one.count.found,
                "untried": one.untried,
                "beyond": one.beyond,
                "invisible": one.invisible,
                "missed": [
                    f"{t.strength} {t.kind} {t.image_type}" for t in one.trials if not t.is_found
                ],
            }
            for one, cpu_s in timed
        ],
    }


if __name__ == "__main__":
    main()
