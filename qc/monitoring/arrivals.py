"""Arrival history of an instrument's calibrations, and the expected intervals between them.

Arrivals form a tree: the instrument, its arms, their kinds of calibration, the setups of each. A
setup also belongs to a setting (wavelength, binning, read mode), which all kinds share.
"""

import dataclasses
import datetime as dt
from collections import abc, defaultdict
from functools import cached_property
from itertools import pairwise
from math import ceil
from statistics import median

from qc import core, db
from qc._text import pluralise
from qc.io import instrument_parts
from qc.io.instruments import Instrument
from qc.monitoring.missing import Path

GAPS = 40  # newest intervals that determine the expected one
ONE_LATE_OF = 8  # intervals from which one late arrival is tolerated
IRREGULAR = 3  # factor on the longest interval of irregular arrivals
SETTING_PREFIX = "at "

# Intervals, and nights from the first to the last of them, that are needed to expect a further
# arrival: of the instrument, an arm, a kind, a setup. So a visitor's setup of one week is not
# expected afterwards.
_NEEDED = ((2, 2), (4, 4), (4, 8), (4, 8))
_NEEDED_BY_PLAN = (2, 14)


@dataclasses.dataclass(frozen=True)
class CalibrationPlace:
    """Branch of an image type, and the image types of the same file."""

    arm: str
    mode: str
    calibration: instrument_parts.Calibration
    file_types: frozenset[str]

    @property
    def name(self) -> str:
        """Name of the kind: ``D1 flat``."""
        return f"{self.mode} {self.calibration.name}".lstrip()


def is_setting(path: Path) -> bool:
    """Return True if a branch is a setting, not a kind."""
    return len(path) == 2 and path[1].startswith(SETTING_PREFIX)


def calibration_places(instrument: Instrument) -> abc.Mapping[str, tuple[CalibrationPlace, ...]]:
    """Return the places of each image type: several if it has several file layouts."""
    places = defaultdict[str, list[CalibrationPlace]](list)
    for calibration in instrument.calibrations:
        for mode in (
            instrument_parts.OpticalMode("", ()),
            *(instrument.modes if calibration.light else ()),
        ):
            for layout in instrument.layouts:
                arm = instrument.arms[layout.arm]
                file_types = frozenset(
                    instrument.compose_image_type(calibration, mode, arm, section.number)
                    for section in layout.sections
                )
                place = CalibrationPlace(layout.arm, mode.code, calibration, file_types)
                for image_type in file_types:
                    places[image_type].append(place)
    return {image_type: tuple(branches) for image_type, branches in places.items()}


@dataclasses.dataclass(frozen=True)
class NightArrivals:
    """Frames of a branch in one night."""

    frames: int
    last: dt.datetime


@dataclasses.dataclass(frozen=True)
class ExpectedInterval:
    """Expected number of nights between arrivals, and its basis in words."""

    nights: int
    basis: str
    is_regular: bool = False


@dataclasses.dataclass(frozen=True)
class ArrivalHistory:
    """Arrivals of an instrument, night by night, up to a night and a moment."""

    instrument: Instrument
    night: dt.date
    now: dt.datetime
    counts: tuple[db.statistics.ArrivalCount, ...]

    @cached_property
    def places(self) -> abc.Mapping[str, tuple[CalibrationPlace, ...]]:
        """Places of each image type."""
        return calibration_places(self.instrument)

    @cached_property
    def arrivals(self) -> abc.Mapping[Path, abc.Mapping[dt.date, NightArrivals]]:
        """Arrivals of each branch in each night."""
        leaves = defaultdict[tuple[Path, dt.date], list[db.statistics.ArrivalCount]](list)
        for count in self.counts:
            if count.setup.image_type in self.places:
                leaves[self.path(count.setup), count.night].append(count)
        arrivals = defaultdict[Path, dict[dt.date, NightArrivals]](dict)
        for (path, night), chips in leaves.items():
            frames, last = max(chip.frames for chip in chips), max(chip.last for chip in chips)
            for branch in (*self.parents(path), path):
                sums = arrivals[branch].get(night, NightArrivals(0, last))
                arrivals[branch][night] = NightArrivals(sums.frames + frames, max(sums.last, last))
        return arrivals

    @cached_property
    def image_types(self) -> abc.Mapping[Path, tuple[str, ...]]:
        """Image types of each branch."""
        types = defaultdict[Path, set[str]](set)
        setups = {count.setup for count in self.counts if count.setup.image_type in self.places}
        for setup in setups:
            path = self.path(setup)
            for branch in (*self.parents(path), path):
                types[branch].add(setup.image_type)
        return {path: tuple(sorted(names)) for path, names in types.items()}

    @cached_property
    def settings(self) -> abc.Mapping[Path, Path]:
        """Setting of each setup with light, if several kinds of calibration share it."""
        lit = {count.setup for count in self.counts if self.is_lit(count.setup.image_type)}
        of_setup = {self.path(setup): self.setting(setup) for setup in lit}
        kinds = defaultdict[Path, set[str]](set)
        for path, setting in of_setup.items():
            kinds[setting].add(path[1])
        return {path: setting for path, setting in of_setup.items() if len(kinds[setting]) > 1}

    def is_lit(self, image_type: str) -> bool:
        """Return True if light passes the grating."""
        places = self.places.get(image_type)
        return places is not None and places[0].calibration.light

    def path(self, setup: core.Setup) -> Path:
        """Return the branch of a setup."""
        place = self.places[setup.image_type][0]
        return place.arm, place.name, setup.description

    def setting(self, setup: core.Setup) -> Path:
        """Return the branch of a setup's setting."""
        place = self.places[setup.image_type][0]
        common = dataclasses.replace(setup, slit_arcsec=None, optics="")
        name = f"{SETTING_PREFIX}{place.mode} {common.description}"
        return place.arm, name.replace("  ", " ")

    def parents(self, path: Path) -> tuple[Path, ...]:
        """Return the branches above a branch."""
        setting = self.settings.get(path)
        prefixes = tuple(path[:n] for n in range(len(path)))
        return (*prefixes, setting) if setting else prefixes

    def kinds_of_setting(self, path: Path) -> tuple[Path, ...]:
        """Return the kinds that share a setting; a missing kind explains a missing setting."""
        return tuple(setup[:2] for setup, setting in self.settings.items() if setting == path)

    def calibration(self, path: Path) -> instrument_parts.Calibration | None:
        """Return the kind of calibration of a branch; None if it has several."""
        if len(path) < 2 or is_setting(path):
            return None
        return self.places[self.image_types[path][0]][0].calibration

    def last_late_night(self, path: Path) -> dt.date:
        """Return the last night whose calibrations of a branch are due by now."""
        is_due = self.now >= self.instrument.due_at(self.night, self.calibration(path))
        late = self.night if is_due else self.night - dt.timedelta(days=1)
        setting = self.settings.get(path)
        return min(late, self.in_use_until(setting)) if setting else late

    def in_use_until(self, setting: Path) -> dt.date:
        """Return the last night on which a setting was in use, for any kind of frame."""
        nights = sorted(self.arrivals[setting])
        interval = expected_interval(nights, self.possible_nights(setting), None, len(setting))
        certain = interval.nights - 1 if interval and interval.is_regular else 0
        return nights[-1] + dt.timedelta(days=certain)

    def possible_nights(self, path: Path) -> abc.Mapping[dt.date, NightArrivals] | None:
        """Return the nights on which a branch could arrive; None for all.

        On other nights the branch above had no arrivals either, for example in clouds.
        """
        if not path:
            return None
        return self.arrivals[path[:1] if len(path) > 1 else ()]


def waiting_nights(
    possible: abc.Mapping[dt.date, NightArrivals] | None, last: dt.date, through: dt.date
) -> abc.Iterator[tuple[dt.date, int]]:
    """Yield each night after an arrival with the nights waited so far.

    Parameters
    ----------
    possible : mapping of date to NightArrivals, or None
        Nights on which it could arrive; another night restarts the count. None for all.
    last, through : date
        Night of the arrival, and last night to yield.

    Yields
    ------
    night : date
    waited : int
    """
    waited = 0
    for days in range(1, (through - last).days + 1):
        night = last + dt.timedelta(days=days)
        waited = waited + 1 if possible is None or night in possible else 0
        yield night, waited


def expected_interval(
    nights: abc.Sequence[dt.date],
    possible: abc.Mapping[dt.date, NightArrivals] | None,
    every_days: float | None,
    depth: int,
) -> ExpectedInterval | None:
    """Return the expected interval of a branch, by its plan if it follows it, or by its history.

    Parameters
    ----------
    nights : sequence of date
        Nights with an arrival, in order.
    possible : mapping of date to NightArrivals, or None
        Nights on which it could arrive; None for all.
    every_days : float or None
        Interval of the calibration plan.
    depth : int
        Of the branch; 0 for the instrument.

    Returns
    -------
    ExpectedInterval or None
        None if no arrival is expected.
    """
    gaps = measure_gaps(nights[-GAPS - 1 :], possible)
    intervals = []
    enough, span = _NEEDED[depth]
    if len(gaps) >= enough and sum(gaps) >= span:
        intervals.append(instrument_interval(gaps) if depth == 0 else usual_interval(gaps))
    enough, span = _NEEDED_BY_PLAN
    if every_days and len(gaps) >= enough and sum(gaps) >= span and max(gaps) <= ceil(every_days):
        basis = f"planned every {count_unless_one(ceil(every_days), 'day')}"
        intervals.append(ExpectedInterval(ceil(every_days), basis))
    return min(intervals, key=lambda interval: interval.nights, default=None)


def measure_gaps(
    nights: abc.Sequence[dt.date], possible: abc.Mapping[dt.date, NightArrivals] | None
) -> list[int]:
    """Return the number of nights between arrivals.

    An interval with impossible nights is a lower bound. It counts only if it is longer than all
    others.

    Parameters
    ----------
    nights : sequence of date
        Nights with an arrival, in order.
    possible : mapping of date to NightArrivals, or None
        Nights on which it could arrive; None for all.

    Returns
    -------
    list of int
    """
    complete, cut = list[int](), list[int]()
    for before, after in pairwise(nights):
        longest = max(waited for _, waited in waiting_nights(possible, before, after))
        is_complete = longest == (after - before).days
        (complete if is_complete else cut).append(longest)
    return complete + [gap for gap in cut if gap > max(complete, default=0)]


def instrument_interval(gaps: abc.Sequence[int]) -> ExpectedInterval:
    """Return the median interval: a night without any frame is reported even if often cloudy."""
    usual = ceil(median(gaps))
    return ExpectedInterval(usual, f"it brings something every {count_unless_one(usual, 'night')}")


def usual_interval(gaps: abc.Sequence[int]) -> ExpectedInterval:
    """Return the interval of regular arrivals; a multiple of the longest for irregular ones."""
    regular = sorted(gaps)[: len(gaps) - (len(gaps) >= ONE_LATE_OF)]
    if regular[0] == regular[-1]:
        late = ", once later" if max(gaps) > regular[0] else ""
        interval = count_unless_one(regular[0], "night")
        basis = f"it came every {interval}, {pluralise(len(gaps), 'time')}{late}"
        return ExpectedInterval(regular[0], basis, is_regular=True)
    longest = max(gaps)
    times, absent = pluralise(len(gaps) + 1, "time"), pluralise(longest, "night")
    basis = f"it came {times} and never stayed away for more than {absent}"
    return ExpectedInterval(IRREGULAR * longest, basis)


def count_unless_one(count: int, unit: str) -> str:
    """Return a count with its unit; the unit alone for 1.

    Parameters
    ----------
    count : int
    unit : str
        Singular.

    Returns
    -------
    str
    """
    return unit if count == 1 else f"{count} {unit}s"


def describe_branch(instrument: Instrument, path: Path) -> str:
    """Return a branch in words.

    Parameters
    ----------
    instrument : Instrument
    path : tuple of str

    Returns
    -------
    str
    """
    if not path:
        return instrument.name
    arm = f"{path[0]} " if len(instrument.arms) > 1 else ""
    if len(path) == 1:
        return f"{arm}arm".strip()
    if is_setting(path):
        return f"{arm}arm {path[1]}".lstrip()
    return " of ".join([f"{arm}{path[1]}", *path[2:]])
