"""Every kind of fault at every strength, judged against the good nights of the thresholds."""

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.detection.history import ARMS, KINDS, Deck, Night, Shot, write, write_truth
from benchmarks.thresholds import SEED
from qc.pipeline.batch import process_frames
from qc.project import create_project, open_project
from qc.settings import read_settings
from qc.simulator import ObservingPlan, plan_night

_FIRST_NIGHT = date(2026, 3, 29)  # the night after the last good one; a lamp is new on 2 April
_NIGHTS = 2
_FRAMES = 85  # of each stream a night: once through its faults


def spoil(work: Path, nominal: Path) -> None:
    """Simulate and judge the bad nights that are not yet in the folder, one process an arm.

    Parameters
    ----------
    nominal : Path
        A folder that ``benchmarks.thresholds`` has filled; it is copied.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(ARMS), mp_context=context) as pool:
        list(pool.map(partial(_spoil_arm, work=work, nominal=nominal), ARMS))


def _spoil_arm(arm: str, work: Path, nominal: Path) -> None:
    folder = work / arm
    folder, truths = folder / "project", folder / "truth"
    if not folder.exists():
        shutil.copytree(nominal / arm / "project", folder)
        (folder / "thresholds.yaml").unlink(missing_ok=True)
    create_project(folder)
    truths.mkdir(exist_ok=True)
    with open_project(read_settings(folder)) as project:
        for number in range(_NIGHTS):
            day = _FIRST_NIGHT + timedelta(days=number)
            truth = truths / f"{day}.csv"
            if truth.exists():
                continue
            shots = _bad_night(arm, day)
            frames = folder / "frames"
            frames.mkdir()
            night = Night(day, day, "training")
            rows = [row for shot in shots for row in write(shot, frames, night)]
            for _ in process_frames([frames / shot.name for shot in shots], project):
                pass
            shutil.rmtree(frames)
            write_truth(truth, rows)
            print(f"{datetime.now(UTC):%H:%M:%S} {arm} {day} {len(shots)} frames", flush=True)


def _bad_night(arm: str, day: date) -> list[Shot]:
    """Plan exposures that all have a fault."""
    rng = np.random.default_rng([SEED, day.toordinal(), *arm.encode()])
    streams = tuple(replace(kind.stream, set_size=_FRAMES) for kind in KINDS[arm])
    decks = {stream: Deck(rng) for stream in streams}
    exposures = plan_night(ObservingPlan(streams, aborted=0.0), day, SEED)
    return [
        Shot(exposure, exposure, decks[exposure.stream].draw(exposure, repeatable=False), SEED)
        for exposure in exposures
    ]
