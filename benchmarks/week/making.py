"""The frames of the week: a fortnight that is known to be good, and seven nights with faults."""

from datetime import date, timedelta
from pathlib import Path

from qc.simulator import simulate
from qc.simulator.plan import DEMO_PLAN, ObservingPlan

HISTORY_NIGHTS = 13
NIGHTS = 7
FAULTS = 0.1
SEED = 617
SETS_A_NIGHT = 5
# 29 frames a night are the demonstration's; five sets of each make a busy day's 145.
BUSY_PLAN = ObservingPlan(streams=DEMO_PLAN.streams * SETS_A_NIGHT, aborted=0.0)


def make_frames(work: Path, last: date) -> tuple[list[Path], list[list[Path]]]:
    """Simulate missing frames; return the history's frames, and those of each night.

    Parameters
    ----------
    last : date
        The week's last evening.
    """
    first = last - timedelta(days=NIGHTS - 1)
    history = work / f"history-{last}"
    evenings = [first + timedelta(days=n) for n in range(NIGHTS)]
    folders = [work / f"night-{evening}" for evening in evenings]
    if not (history / "truth.csv").exists():
        start = first - timedelta(days=HISTORY_NIGHTS)
        simulate(history, nights=HISTORY_NIGHTS, start=start, faults=0, seed=SEED)
    for folder, night in zip(folders, evenings, strict=True):
        if not (folder / "truth.csv").exists():
            simulate(folder, nights=1, start=night, faults=FAULTS, seed=SEED, plan=BUSY_PLAN)
    return sorted(history.rglob("*.fits")), [sorted(item.rglob("*.fits")) for item in folders]
