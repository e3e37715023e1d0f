"""Full-size frames as an archive holds them: made once by the simulator, a night at a time."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

from qc.simulator import CalibrationStream, ObservingPlan, simulate

_SEED = 77
_FIRST = date(2026, 7, 1)
_BIASES, _FLATS = 20, 4  # of a night: references enough for the next one's biases
FRAMES_A_NIGHT = _BIASES + _FLATS


def night_plan() -> ObservingPlan:
    """Return a night of unbinned red frames, both chips: 35 MB each before compression."""
    bias = CalibrationStream("bias", "red", "RED", set_size=_BIASES)
    flat = CalibrationStream("flat", "red", "RED", 580, set_size=_FLATS)
    unbinned = (replace(item, binning=(1, 1), read_mode="225kHz low") for item in (bias, flat))
    return ObservingPlan(streams=tuple(unbinned), aborted=0.0)


def archive(folder: Path, nights: int) -> list[Path]:
    """Return the frames of some nights in order of time; those missing are made first."""
    return [path for night in range(nights) for path in _night(folder, night)]


def _night(folder: Path, number: int) -> Iterator[Path]:
    night = _FIRST + timedelta(days=number)
    place, done = folder / night.isoformat(), folder / f"{night}.done"
    if not done.exists():
        simulate(
            place, nights=1, start=night, faults=0, seed=_SEED, compressed=True, plan=night_plan()
        )
        done.touch()
    yield from sorted(place.rglob("*.fits.Z"))
