"""State of the instrument at a moment: lamps, temperature, format, bias level.

Everything follows from the seed and the date alone, so that a night simulated by itself is the
same as that night within a year.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np

from qc.simulator.detector import CHIPS
from qc.simulator.lamps import LAMPS

_LAMP_LIFE_DAYS = {"FFL1": 420, "FFL2": 420, "FFL3": 500, "FFL4": 500, "D2": 600, "ThAr": 700}
_FIRST_LAMP = datetime(2000, 3, 11, tzinfo=UTC)  # start of operation
_INTERVENTIONS_PER_YEAR = 4
_REASONS = (
    "grating unit realigned",
    "camera refocused",
    "instrument opened",
    "cross-disperser unit serviced",
)


@dataclass(frozen=True)
class StateChange:
    """Intervention that changes the format permanently.

    Attributes
    ----------
    when : datetime
        UTC; an afternoon on Paranal.
    shift_px : mapping of chip to (x, y)
        Where the format lies from now on, relative to the model, unbinned raw pixels.
    bias_offset_adu : mapping of chip to float
        Likewise for the bias level.
    """

    when: datetime
    why: str
    shift_px: Mapping[str, tuple[float, float]]
    bias_offset_adu: Mapping[str, float]


@dataclass(frozen=True)
class InstrumentState:
    """The instrument at one moment.

    Attributes
    ----------
    temperature_c : float
        Of the camera.
    pressure_hpa : float
    shift_px : mapping of chip to (x, y)
        Of the format, unbinned raw pixels.
    bias_offset_adu : mapping of chip to float
    lamp_output : mapping of lamp to float
        1 is a new lamp.
    blur_px : float
        Gaussian sigma of defocus.
    """

    temperature_c: float
    pressure_hpa: float
    shift_px: Mapping[str, tuple[float, float]]
    bias_offset_adu: Mapping[str, float]
    lamp_output: Mapping[str, float]
    blur_px: float = 0.0


def state_at(when: datetime, seed: int) -> InstrumentState:
    """Return the state of the instrument at a moment.

    Parameters
    ----------
    when : datetime
        UTC.
    seed : int
        Seed of the history.

    Returns
    -------
    InstrumentState
    """
    temperature_c, pressure_hpa = _weather(when, seed)
    last = last_intervention(when, seed)
    # 1 hPa or 0.3 C moves lines by 1/20 px; whole-camera drift is at most 0.2 px/K (manual).
    drift_px = 0.12 * (temperature_c - 14) + 0.05 * (pressure_hpa - 743)
    shift_px = {chip: (x + 0.3 * drift_px, y + drift_px) for chip, (x, y) in last.shift_px.items()}
    return InstrumentState(
        temperature_c=temperature_c,
        pressure_hpa=pressure_hpa,
        shift_px=shift_px,
        bias_offset_adu={
            chip: last.bias_offset_adu[chip] + _bias_wander_adu(chip, when, seed) for chip in CHIPS
        },
        lamp_output={lamp: _lamp_output(lamp, when, seed) for lamp in LAMPS},
        blur_px=0.05 * abs(temperature_c - 14),
    )


def interventions(year: int, seed: int) -> tuple[StateChange, ...]:
    """Return the interventions of a year in order of time.

    Shifts as in the format checks of 2014 to 2019 (EDIBLES): 1 to 6 px, mostly along X.

    Parameters
    ----------
    year : int
    seed : int
        Seed of the history.

    Returns
    -------
    tuple of StateChange
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1, year]))
    days = np.sort(rng.choice(np.arange(5, 360), _INTERVENTIONS_PER_YEAR, replace=False))
    start = datetime(year, 1, 1, 17, tzinfo=UTC)
    return tuple(
        StateChange(
            when=start + timedelta(days=int(day)),
            why=str(rng.choice(_REASONS)),
            shift_px={chip: (rng.normal(0, 2.2), rng.normal(0, 1.2)) for chip in CHIPS},
            bias_offset_adu={chip: rng.normal(0, 0.8) for chip in CHIPS},
        )
        for day in days
    )


def last_intervention(when: datetime, seed: int) -> StateChange:
    """Return the newest intervention before a moment.

    Parameters
    ----------
    when : datetime
        UTC.
    seed : int
        Seed of the history.

    Returns
    -------
    StateChange
    """
    changes = (*interventions(when.year - 1, seed), *interventions(when.year, seed))
    earlier = [change for change in changes if change.when <= when]
    return max(earlier, key=lambda change: change.when)


def _waves(name: str, when: datetime, seed: int, periods_days: tuple[float, ...]) -> float:
    """Return a slow random signal of unit scatter: a few waves of random phase."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2, *name.encode()]))
    days = when.timestamp() / 86400
    phases = rng.uniform(0, 2 * np.pi, len(periods_days))
    waves = np.sin(2 * np.pi * days / np.array(periods_days) + phases)
    return float(waves.sum() * np.sqrt(2 / len(periods_days)))


def _weather(when: datetime, seed: int) -> tuple[float, float]:
    """Return temperature (C) and pressure (hPa): southern summer warm, weather of a few days."""
    season = np.cos(2 * np.pi * (when.timetuple().tm_yday - 20) / 365.25)
    temperature_c = 14 + 2.5 * season + 0.9 * _waves("temperature", when, seed, (2.9, 7.3, 17.0))
    pressure_hpa = 743 + 1.2 * _waves("pressure", when, seed, (3.7, 9.1, 23.0))
    return float(temperature_c), pressure_hpa


def _bias_wander_adu(chip: str, when: datetime, seed: int) -> float:
    """Return the drift of the bias level, and its settling after the last wipe of the chip."""
    wander = 0.35 * _waves(f"bias {chip}", when, seed, (0.6, 4.1, 11.0, 37.0))
    minutes = (when - when.replace(hour=9, minute=0, second=0)).total_seconds() / 60
    return wander + (0.7 * float(np.exp(-minutes / 12)) if minutes >= 0 else 0.0)


@lru_cache(maxsize=256)
def _lamp_installations(lamp: str, seed: int) -> tuple[float, ...]:
    """Return the installation times of successive lamps (POSIX days) up to the year 2060."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 3, *lamp.encode()]))
    installations = [_FIRST_LAMP.timestamp() / 86400 - rng.uniform(0, 300)]
    while installations[-1] < 33_000:
        installations.append(installations[-1] + _LAMP_LIFE_DAYS[lamp] * rng.uniform(0.6, 1.4))
    return tuple(installations)


def lamp_replacements(lamp: str, seed: int) -> tuple[datetime, ...]:
    """Return the times of the replacements of a lamp (UTC), oldest first.

    Parameters
    ----------
    lamp : str
        Key of `LAMPS`.
    seed : int
        Seed of the history.

    Returns
    -------
    tuple of datetime
    """
    return tuple(
        datetime.fromtimestamp(86400 * day, UTC) for day in _lamp_installations(lamp, seed)
    )


def _lamp_output(lamp: str, when: datetime, seed: int) -> float:
    """Return the brightness of a lamp: 5 % scatter between lamps, a quarter less at its end."""
    installations = _lamp_installations(lamp, seed)
    days = when.timestamp() / 86400
    number = int(np.searchsorted(installations, days)) - 1
    new = np.random.default_rng(np.random.SeedSequence([seed, 4, number, *lamp.encode()]))
    age = (days - installations[max(number, 0)]) / _LAMP_LIFE_DAYS[lamp]
    return float(new.normal(1.0, 0.05) * np.exp(-0.25 * age))
