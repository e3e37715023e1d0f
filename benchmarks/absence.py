"""How many absences are called on nights where nothing is amiss, and how many real ones are found.

``python -m benchmarks.absence``

Nights are planned as the simulator plans them, and only what a header says is put into a
database: no image is rendered. 109 streams of calibrations with periods of 1 to 30 nights; one
night in ten is cloudy. Real absences are made by taking from a night what it had.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sqlalchemy import delete, insert
from sqlalchemy.orm import Session

from qc.core.enums import FrameState
from qc.db.engine import connect
from qc.db.models import Base, ExtensionRow, FrameRow
from qc.io.instruments import Instrument, read_instruments
from qc.monitoring.completeness import MissingCalibration, MissingReason, find_absences
from qc.simulator import FULL_PLAN, CalibrationStream, ObservingPlan, PlannedExposure, plan_night

START = date(2026, 1, 1)
HISTORY_NIGHTS = 100  # before the first night that is looked at
CLOUDY = 0.1
SEED = 5
LATER = 3  # nights on which is looked again
PERIODIC = replace(FULL_PLAN, aborted=0.0)
_CLASSES = {"bias": "bias", "dark": "dark", "arc": "arc", "fmtchk": "arc"}  # all others: flat


@dataclass(frozen=True)
class Past:
    """Nights of exposures, and which of them an instrument stood still."""

    nights: dict[date, list[PlannedExposure]]

    def last(self, count: int) -> list[date]:
        """Return the last nights."""
        return sorted(self.nights)[-count:]


def always(_stream: CalibrationStream, _night: date) -> bool:
    """Let every stream be in use every night."""
    return True


def simulate_past(
    nights: int,
    seed: int,
    *,
    plan: ObservingPlan = PERIODIC,
    cloudy: float = CLOUDY,
    in_use: Callable[[CalibrationStream, date], bool] = always,
) -> Past:
    """Plan nights; on cloudy ones nothing is taken."""
    rng = np.random.default_rng(seed)
    past: dict[date, list[PlannedExposure]] = {}
    for number in range(nights):
        night = START + timedelta(days=number)
        is_cloudy = rng.random() < cloudy
        streams = tuple(one for one in plan.streams if in_use(one, night))
        taken = plan_night(plan, night, seed)
        past[night] = [] if is_cloudy else [one for one in taken if one.stream in streams]
    return Past(past)


class Demand:
    """Settings that are used in runs of a few nights, as science asks for them.

    Biases and the settings of one arm alone are in use always; those of the dichroics for runs of
    five nights on the average, with pauses twice as long.
    """

    def __init__(self, nights: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        settings = {self._setting(one) for one in PERIODIC.streams}
        self.used = {
            setting: self._runs(nights, rng)
            for setting in sorted(settings, key=str)
            if setting[0].startswith("DICHR")
        }

    @staticmethod
    def _setting(stream: CalibrationStream) -> tuple[str, int | None, str]:
        return stream.path, stream.setting_nm, stream.read_mode

    @staticmethod
    def _runs(nights: int, rng: np.random.Generator) -> set[date]:
        used, night = set(), 0
        while night < nights:
            night += int(rng.geometric(1 / 10))
            run = int(rng.geometric(1 / 5))
            used |= {START + timedelta(days=night + n) for n in range(run)}
            night += run
        return used

    def __call__(self, stream: CalibrationStream, night: date) -> bool:
        """Say whether a stream's setting is in use."""
        setting = self._setting(stream)
        return setting not in self.used or night in self.used[setting]


def store(session: Session, past: Past) -> None:
    """Put what headers would say into a database; flush."""
    frames, extensions = [], []
    exposures = [(night, one) for night, all_ in past.nights.items() for one in all_]
    for number, (night, one) in enumerate(exposures, start=1):
        frames.append(_frame(number, night, one))
        extensions += [_extension(number, one, hdu) for hdu in one.hdus]
    session.execute(insert(FrameRow), frames)
    session.execute(insert(ExtensionRow), extensions)


def _frame(number: int, night: date, one: PlannedExposure) -> dict[str, object]:
    return {
        "id": number,
        "state": FrameState.PROCESSED,
        "path": f"/archive/{one.archive_name}.fits",
        "file_bytes": 1,
        "modified_ns": 1,
        "processed_at": one.start + timedelta(minutes=1),
        "sha256": f"{number:064d}",
        "name": one.archive_name,
        "instrument": "UVES",
        "observed_at": one.start,
        "night": night,
        "exposure_s": one.exposure_s,
        "template": one.template_start.isoformat()[:19],
        "template_number": one.number,
        "template_size": one.stream.set_size,
    }


def _extension(number: int, one: PlannedExposure, hdu: int) -> dict[str, object]:
    stream, is_lit = one.stream, one.stream.setting_nm is not None
    chip = one.chips[0] if len(one.chips) == 1 else one.chips[hdu - 1]
    return {
        "frame_id": number,
        "observed_at": one.start,
        "number": hdu,
        "image_type": one.image_type(hdu),
        "chip": chip,
        "binning": f"{stream.binning[0]}x{stream.binning[1]}",
        "read_mode": stream.read_mode,
        "wavelength_nm": float(stream.setting_nm) if stream.setting_nm else None,
        "slit_arcsec": stream.slit_arcsec if is_lit else None,
        "optics": stream.path if is_lit else "",
        "frame_class": _CLASSES.get(stream.image_class, "flat"),
        "ny": 1,
        "nx": 1,
        "pixels_sha256": f"{number:063d}{hdu}",
        "promised_light": 0.0,
        "zero_adu": 0.0,
        "stretch_adu": 1.0,
        "metrics": {},
    }


# --- false ones -----------------------------------------------------------------------------------


def false_absences(
    session: Session, nights: Sequence[date], uves: Instrument
) -> Iterator[tuple[date, MissingCalibration]]:
    """Yield what is newly called absent at the ends of nights without a fault."""
    for night in nights:
        for one in find_absences(session, night, [uves], uves.night_ends(night)):
            if one.missed == night:
                yield night, one


# --- true ones ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """Frames taken away from a night, and what should be said of it.

    Attributes
    ----------
    image_types : frozenset of str
        That are missing.
    """

    name: str
    night: date
    frames: frozenset[str]
    lack: MissingReason
    image_types: frozenset[str]
    chip: int = 0


def trials(past: Past, nights: Sequence[date], rng: np.random.Generator) -> Iterator[Trial]:
    """Yield absences of every sort, some on each night that had frames."""
    for night in nights:
        had = past.nights[night]
        if had:
            yield from _whole(had, night, rng)
            yield from _partial(had, night, rng)


def _trial(name: str, night: date, gone: Sequence[PlannedExposure], lack: MissingReason) -> Trial:
    types = frozenset(one.image_type(hdu) for one in gone for hdu in one.hdus)
    return Trial(name, night, frozenset(one.archive_name for one in gone), lack, types)


def _whole(
    had: Sequence[PlannedExposure], night: date, rng: np.random.Generator
) -> Iterator[Trial]:
    never = MissingReason.NEVER_CAME
    yield _trial("everything", night, had, never)
    arm = str(rng.choice(["blue", "red"]))
    yield _trial("an arm", night, [one for one in had if one.stream.arm == arm], never)
    kinds = sorted({(one.image_type(one.hdus[-1])) for one in had})
    kind = str(rng.choice(kinds))
    of_kind = [one for one in had if one.image_type(one.hdus[-1]) == kind]
    yield _trial("a kind in all setups", night, of_kind, never)
    streams = sorted({one.stream for one in had}, key=repr)
    for stream in (streams[int(n)] for n in rng.integers(0, len(streams), 3)):
        gone = [one for one in had if one.stream == stream]
        yield _trial(f"a setup of {stream.every_nights} nights", night, gone, never)


def _partial(
    had: Sequence[PlannedExposure], night: date, rng: np.random.Generator
) -> Iterator[Trial]:
    sets = defaultdict[datetime, list[PlannedExposure]](list)
    for one in had:
        sets[one.template_start].append(one)
    large = [one for one in sets.values() if len(one) > 1]
    chosen = large[int(rng.integers(len(large)))]
    stop = int(rng.integers(1, len(chosen)))
    yield _trial("a set that stopped", night, chosen[stop:], MissingReason.SET_STOPPED)
    inside = int(rng.integers(0, len(chosen)))
    yield _trial("one of a set", night, chosen[inside : inside + 1], MissingReason.SET_STOPPED)
    red = [one for one in had if one.stream.arm == "red"]
    hdu = int(rng.integers(1, 3))
    one = red[int(rng.integers(len(red)))]
    types = frozenset({one.image_type(hdu)})
    name = frozenset({one.archive_name})
    yield Trial("a chip of one file", night, name, MissingReason.CHIP_MISSING, types, hdu)


@dataclass(frozen=True)
class Told:
    """What was said of a trial.

    Attributes
    ----------
    findings : tuple of Absence
        On the night itself.
    nights_later : int or None
        When the right one was first among them; None if not within three nights.
    """

    trial: Trial
    findings: tuple[MissingCalibration, ...]
    nights_later: int | None


def _is_told(trial: Trial, findings: Sequence[MissingCalibration]) -> bool:
    """Say whether all that is missing is named, in the right way."""
    either = {MissingReason.NEVER_CAME, MissingReason.OVERDUE}
    right = either if trial.lack in either else {trial.lack}
    named = {name for one in findings if one.lack in right for name in one.image_types}
    return trial.image_types <= named


def try_one(session: Session, trial: Trial, uves: Instrument) -> Told:
    """Take the frames away, ask, and give them back."""
    with session.begin_nested() as saved:
        gone = FrameRow.name.in_(trial.frames)
        if trial.chip:
            ids = [row.id for row in session.query(FrameRow).where(gone)]
            where = ExtensionRow.frame_id.in_(ids), ExtensionRow.number == trial.chip
            session.execute(delete(ExtensionRow).where(*where))
        else:
            session.execute(delete(FrameRow).where(gone))
        session.expire_all()
        nights = [trial.night + timedelta(days=later) for later in range(LATER + 1)]
        found = [find_absences(session, one, [uves], uves.night_ends(one)) for one in nights]
        told = (later for later, those in enumerate(found) if _is_told(trial, those))
        saved.rollback()
    session.expire_all()
    return Told(trial, found[0], next(told, None))


# --- figures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What came of it.

    Attributes
    ----------
    false : mapping of str to int
        False absences, by the sort of months.
    months : mapping of str to float
        Months of nights looked at.
    """

    false: dict[str, int]
    months: dict[str, float]
    told: tuple[Told, ...]
    examples: tuple[str, ...]


def uves() -> Instrument:
    """Return the instrument."""
    [found] = [one for one in read_instruments() if one.name == "UVES"]
    return found


def opened() -> Session:
    """Return a session of an empty database in memory."""
    engine = connect("sqlite://")
    Base.metadata.create_all(engine)
    return Session(engine)


def measure(months: int, tried_nights: int) -> Figures:
    """Look at months of each sort, and take things away on some nights of the first."""
    total = HISTORY_NIGHTS + 30 * months
    sorts = {
        "as planned, one night in ten cloudy": simulate_past(total, SEED),
        "dichroics on demand": simulate_past(total, SEED, in_use=Demand(total, SEED)),
    }
    false, examples, told = Counter[str](), [], list[Told]()
    instrument = uves()
    for name, past in sorts.items():
        with opened() as session:
            store(session, past)
            for night, one in false_absences(session, past.last(30 * months), instrument):
                if one.scope or past.nights[night]:  # a cloudy night is one true finding
                    false[name] += 1
                    examples.append(f"{night} {one.sentence}")
            if not told:
                rng = np.random.default_rng(SEED)
                for trial in trials(past, past.last(tried_nights + LATER)[:-LATER], rng):
                    told.append(try_one(session, trial, instrument))
    return Figures(dict(false), dict.fromkeys(sorts, float(months)), tuple(told), tuple(examples))


def main() -> None:
    """Measure, print, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--months", type=int, default=3, help="of each sort")
    parser.add_argument("--nights", type=int, default=30, help="on which things are taken away")
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    started = datetime.now(UTC)
    figures = measure(arguments.months, arguments.nights)
    console = Console()
    for name, months in figures.months.items():
        console.print(f"{figures.false.get(name, 0)} false absences in {months:g} months: {name}")
    for example in figures.examples:
        console.print(f"  {example}", highlight=False)
    rows = _rows(figures.told)
    table = Table("taken away", "nights", "told that night", "within three nights", "findings each")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
    console.print(f"{(datetime.now(UTC) - started).total_seconds():.0f} s")
    if arguments.out:
        document = {"false": figures.false, "months": figures.months, "true": rows}
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")


def _rows(told: Sequence[Told]) -> list[dict[str, object]]:
    groups = defaultdict[str, list[Told]](list)
    for one in told:
        groups[one.trial.name].append(one)
    return [
        {
            "taken away": name,
            "nights": len(group),
            "told that night": sum(one.nights_later == 0 for one in group),
            "told in three nights": sum(one.nights_later is not None for one in group),
            "findings": f"{np.mean([len(one.findings) for one in group]):.2f}",
        }
        for name, group in groups.items()
    ]


if __name__ == "__main__":
    main()
