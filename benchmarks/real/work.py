"""All folds of some series, judged in one process."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.real.archive import (
    ALFOSC_ARC,
    BIAS,
    DEVENY_ARC,
    EFOSC2_ARC,
    FLAT,
    SPRAT_ARC,
    RealFrame,
    Series,
    read_real,
)
from benchmarks.real.folds import SEED, Fold, bias_folds, focus_folds, lit_folds
from benchmarks.real.judging import Verdict, judge_fold
from benchmarks.real.making import Hits, dissect, find_fixed, find_hits, wander_of
from qc.project import create_project, open_project
from qc.settings import read_settings

SHARES = ((BIAS, SPRAT_ARC), (FLAT, EFOSC2_ARC, ALFOSC_ARC, DEVENY_ARC))  # one for each core


def judge_share(number: int, real: Path, work: Path) -> list[Verdict]:
    """Judge the folds of one of `SHARES`; the folder `work` is for temporary files.

    Parameters
    ----------
    real : Path
        Folder of the real frames.
    """
    folder = work / f"share{number}"
    create_project(folder)
    folder, verdicts = folder / "fold", []
    with open_project(read_settings(folder)) as project:
        for fold in folds_of(SHARES[number], real):
            verdicts += judge_fold(fold, folder, project)
    shutil.rmtree(folder)
    return verdicts


def folds_of(some: Sequence[Series], real: Path) -> Iterator[Fold]:
    """Yield the folds of these series."""
    biases = _read(real, BIAS)
    hits = hits_of(biases)
    levels = [frame.zero_adu for frame in biases]
    for series in some:
        frames = biases if series is BIAS else _read(real, series)
        if series is BIAS:
            yield from bias_folds(frames)
        elif series is DEVENY_ARC:
            defocused = [read_real(real, series, file) for file in series.faulty]
            arcs = [frame.zero_adu for frame in (*frames, *defocused)]
            yield from focus_folds(frames, defocused, wander_of(arcs, ()), hits)
        else:
            wander_levels = levels if series in (FLAT, EFOSC2_ARC) else ()
            yield from lit_folds(series, frames, wander_of(wander_levels, frames), hits)


def hits_of(biases: Sequence[RealFrame]) -> Hits:
    """Return the cosmic rays of real biases."""
    rng, fixed = np.random.default_rng(SEED), find_fixed(biases)
    return find_hits([dissect(frame, fixed, rng) for frame in biases])


def _read(real: Path, series: Series) -> list[RealFrame]:
    return [read_real(real, series, file) for file in series.nominal]
