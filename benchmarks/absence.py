"""How many absences are called on nights where nothing is amiss, and how many real ones are found.

``python -m benchmarks.absence``

Nights are planned by the simulator. Only header values are put into a database: no image is
rendered. 109 streams of calibrations with periods of 1 to 30 nights; one
night in ten is cloudy. Absences are made by removing frames of a night.
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
from qc.db.schema.engine import connect
from qc.db.schema.models import Base, ExtensionRow, FrameRow
from qc.io.instrument_files import read_instruments
from qc.io.instruments import Instrument
from qc.monitoring.completeness import find_missing
from qc.monitoring.missing import MissingCalibration, MissingReason
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
        streams = tuple(stream for stream in plan.streams if in_use(stream, night))
        chosen = plan_night(plan, night, seed)
        past[night] = [] if is_cloudy else [item for item in chosen if item.stream in streams]
    return Past(past)


class Demand:
    """Settings that are used in runs of a few nights, as science asks for them.

    Biases and the settings of one arm alone are in use always; those of the dichroics for runs of
    five nights on the average, with pauses twice as long.
    """

    def __init__(self, nights: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        settings = {self._setting(stream) for stream in PERIODIC.streams}
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
        """Return True if a stream's setting is in use."""
        setting = self._setting(stream)
        return setting not in self.used or night in self.used[setting]


def store(session: Session, past: Past) -> None:
    """Store the header values of all exposures in a database."""
    frames, extensions = [], []
    exposures = [(night, item) for night, all_ in past.nights.items() for item in all_]
    for number, (night, exposure) in enumerate(exposures, start=1):
        frames.append(_frame(number, night, exposure))
        extensions += [_extension(number, exposure, hdu) for hdu in exposure.hdus]
    session.execute(insert(FrameRow), frames)
    session.execute(insert(ExtensionRow), extensions)


def _frame(number: int, night: date, exposure: PlannedExposure) -> dict[str, object]:
    return {
        "id": number,
        "state": FrameState.PROCESSED,
        "path": f"/archive/{exposure.archive_name}.fits",
        "file_bytes": 1,
        "modified_ns": 1,
        "processed_at": exposure.start + timedelta(minutes=1),
        "sha256": f"{number:064d}",
        "name": exposure.archive_name,
        "instrument": "UVES",
        "observed_at": exposure.start,
        "night": night,
        "exposure_s": exposure.exposure_s,
        "template": exposure.template_start.isoformat()[:19],
        "template_number": exposure.number,
        "template_size": exposure.stream.set_size,
    }


def _extension(number: int, exposure: PlannedExposure, hdu: int) -> dict[str, object]:
    stream, is_lit = exposure.stream, exposure.stream.setting_nm is not None
    chip = exposure.chips[0] if len(exposure.chips) == 1 else exposure.chips[hdu - 1]
    return {
        "frame_id": number,
        "observed_at": exposure.start,
        "number": hdu,
        "image_type": exposure.image_type(hdu),
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
    """Yield new findings at the ends of nights without a removed frame."""
    for night in nights:
        for item in find_missing(session, night, [uves], uves.night_ends(night)):
            if item.missed == night:
                yield night, item


# --- true ones ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """Frames removed from a night, and the expected finding.

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
        available = past.nights[night]
        if available:
            yield from _whole(available, night, rng)
            yield from _partial(available, night, rng)


def _trial(name: str, night: date, gone: Sequence[PlannedExposure], lack: MissingReason) -> Trial:
    types = frozenset(exposure.image_type(hdu) for exposure in gone for hdu in exposure.hdus)
    return Trial(name, night, frozenset(exposure.archive_name for exposure in gone), lack, types)


def _whole(
    exposures: Sequence[PlannedExposure], night: date, rng: np.random.Generator
) -> Iterator[Trial]:
    never = MissingReason.NEVER_CAME
    yield _trial("everything", night, exposures, never)
    arm = str(rng.choice(["blue", "red"]))
    yield _trial(
        "an arm", night, [exposure for exposure in exposures if exposure.stream.arm == arm], never
    )
    kinds = sorted({(exposure.image_type(exposure.hdus[-1])) for exposure in exposures})
    kind = str(rng.choice(kinds))
    of_kind = [exposure for exposure in exposures if exposure.image_type(exposure.hdus[-1]) == kind]
    yield _trial("a kind in all setups", night, of_kind, never)
    streams = sorted({exposure.stream for exposure in exposures}, key=repr)
    for stream in (streams[int(n)] for n in rng.integers(0, len(streams), 3)):
        gone = [exposure for exposure in exposures if exposure.stream == stream]
        yield _trial(f"a setup of {stream.every_nights} nights", night, gone, never)


def _partial(
    exposures: Sequence[PlannedExposure], night: date, rng: np.random.Generator
) -> Iterator[Trial]:
    sets = defaultdict[datetime, list[PlannedExposure]](list)
    for exposure in exposures:
        sets[exposure.template_start].append(exposure)
    large = [item for item in sets.values() if len(item) > 1]
    chosen = large[int(rng.integers(len(large)))]
    stop = int(rng.integers(1, len(chosen)))
    yield _trial("a set that stopped", night, chosen[stop:], MissingReason.SET_STOPPED)
    inside = int(rng.integers(0, len(chosen)))
    yield _trial("one of a set", night, chosen[inside : inside + 1], MissingReason.SET_STOPPED)
    red = [exposure for exposure in exposures if exposure.stream.arm == "red"]
    hdu = int(rng.integers(1, 3))
    exposure = red[int(rng.integers(len(red)))]
    types = frozenset({exposure.image_type(hdu)})
    name = frozenset({exposure.archive_name})
    yield Trial("a chip of one file", night, name, MissingReason.CHIP_MISSING, types, hdu)


@dataclass(frozen=True)
class TrialResult:
    """Findings of a trial.

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
    """Return True if all missing types are named, with the right reason."""
    either = {MissingReason.NEVER_CAME, MissingReason.OVERDUE}
    right = either if trial.lack in either else {trial.lack}
    named = {
        name
        for calibration in findings
        if calibration.lack in right
        for name in calibration.image_types
    }
    return trial.image_types <= named


def try_one(session: Session, trial: Trial, uves: Instrument) -> TrialResult:
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
        results = [find_missing(session, night, [uves], uves.night_ends(night)) for night in nights]
        delays = (later for later, those in enumerate(results) if _is_told(trial, those))
        saved.rollback()
    session.expire_all()
    return TrialResult(trial, results[0], next(delays, None))


# --- figures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """Numbers of false and true findings.

    Attributes
    ----------
    false : mapping of str to int
        False absences, by the sort of months.
    months : mapping of str to float
        Months of nights looked at.
    """

    false: dict[str, int]
    months: dict[str, float]
    told: tuple[TrialResult, ...]
    examples: tuple[str, ...]


def uves() -> Instrument:
    """Return the instrument."""
    [result] = [instrument for instrument in read_instruments() if instrument.name == "UVES"]
    return result


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
    false, examples, trial_results = Counter[str](), [], list[TrialResult]()
    instrument = uves()
    for name, past in sorts.items():
        with opened() as session:
            store(session, past)
            for night, item in false_absences(session, past.last(30 * months), instrument):
                if item.scope or past.nights[night]:  # a cloudy night is one true finding
                    false[name] += 1
                    examples.append(f"{night} {item.sentence}")
            if not trial_results:
                rng = np.random.default_rng(SEED)
                for trial in trials(past, past.last(tried_nights + LATER)[:-LATER], rng):
                    trial_results.append(try_one(session, trial, instrument))
    return Figures(
        dict(false), dict.fromkeys(sorts, float(months)), tuple(trial_results), tuple(examples)
    )


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


def _rows(results: Sequence[TrialResult]) -> list[dict[str, object]]:
    groups = defaultdict[str, list[TrialResult]](list)
    for result in results:
        groups[result.trial.name].append(result)
    return [
        {
            "taken away": name,
            "nights": len(group),
            "told that night": sum(item.nights_later == 0 for item in group),
            "told in three nights": sum(item.nights_later is not None for item in group),
            "findings": f"{np.mean([len(item.findings) for item in group]):.2f}",
        }
        for name, group in groups.items()
    ]


if __name__ == "__main__":
    main()
