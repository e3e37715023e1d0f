"""The instrument's history that detection is measured on: nine months, half the test frames bad.

The first nights give the references, labelled good. Tests follow over months, unlabelled, judged
night by night. Then the instrument is opened: a new epoch begins, its references are built anew
from some good nights, and the tests go on. Every frame goes through the product's own pipeline; a
night's files are deleted once it is judged.
"""

import csv
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np

from qc._files import packaged_path
from qc.core.enums import LabelName
from qc.db.schema.models import EpochRow
from qc.pipeline.batch import process_frames
from qc.pipeline.rejudge import rejudge_frames
from qc.project import ProjectContext, create_project, open_project
from qc.settings import read_settings
from qc.simulator import (
    CalibrationStream,
    InjectedFault,
    ObservingPlan,
    PlannedExposure,
    expose,
    interventions,
    lamp_replacements,
    make_case,
    plan_night,
    possible_faults,
    render,
    state_at,
)
from qc.simulator.nights import frame_rng

ARMS = ("blue", "red")  # a project each, so that two cores can work
TRUTH_COLUMNS = ("night", "part", "file", "extension", "image_type", "fault", "strength")
_TOLD_EVERY = 500
_SET = 5  # frames of one template; each has its own exposure time
_FILE_FAULTS = {"keyword_missing", "binning_misreported", "frame_repeated"}


NEW_LAMP = "new lamp"  # the part of a test night that its references cannot judge
_QUIET_DAYS = (206, 22)  # before and after the intervention, without another


@dataclass(frozen=True)
class History:
    """Nine months of the instrument.

    Attributes
    ----------
    seed : int
        Of the instrument's fate, the pixels and the faults.
    share : float
        Part of the test frames that are taken; the references are all taken.
    """

    seed: int
    share: float = 1.0

    @cached_property
    def opened(self) -> date:
        """Return the day of the first intervention from 2025 on with quiet months around it."""
        days = [
            intervention.when.date()
            for year in range(2024, 2100)
            for intervention in interventions(year, self.seed)
        ]
        return next(
            day
            for before, day, after in zip(days, days[1:], days[2:], strict=False)
            if day.year >= 2025
            and (day - before).days > _QUIET_DAYS[0]
            and (after - day).days > _QUIET_DAYS[1]
        )

    @property
    def nights(self) -> tuple["Night", ...]:
        """Return the nights that are simulated, in order."""
        nights: list[Night] = []
        taught = self.opened
        for first, count, part in _CALENDAR:
            for number in range(count):
                night = self.opened + timedelta(days=first + number)
                taught = taught if part == "test" else night
                nights.append(Night(taught, night, part))
        return tuple(nights)


VALIDATION = History(97, share=0.4)  # used during the development of the detector
TEST = History(239)  # looked at once it was
FRESH = History(409, share=0.2)  # looked at last of all, when nothing more was changed
_CALENDAR = (  # first day, counted from the intervention; nights in a row; purpose
    (-205, 4, "reference"),
    (-177, 3, "reference"),
    (-149, 3, "reference"),
    (-114, 3, "test"),
    (-65, 3, "test"),
    (-16, 3, "test"),
    (1, 4, "rebuild"),
    (5, 2, "test"),
    (19, 3, "test"),
)


@dataclass(frozen=True)
class Kind:
    """A setup, and how many of its frames each kind of night has.

    Attributes
    ----------
    faulty : float
        Share of a test night's frames that are given a fault. Where only one of two chips has
        it, more frames must have one for as many bad extensions.
    """

    stream: CalibrationStream
    history: int
    rebuild: int
    test: int
    faulty: float

    def frames(self, part: str, share: float) -> int:
        """Return how many a night of this part has."""
        test = max(1, round(self.test * share))
        return {"reference": self.history, "rebuild": self.rebuild, "test": test}[part]


@dataclass(frozen=True)
class Night:
    """A night to be simulated: labelled good as a reference, or a test.

    Attributes
    ----------
    taught : date
        The last night that was labelled.
    """

    taught: date
    date: date
    part: str  # reference, rebuild or test

    @property
    def label(self) -> LabelName | None:
        """Label of its frames."""
        return None if self.part == "test" else LabelName.GOOD


@dataclass(frozen=True)
class Shot:
    """An exposure, the exposure that its image shows (itself, or an earlier one), and its fault."""

    exposure: PlannedExposure
    shown: PlannedExposure
    case: InjectedFault | None
    seed: int

    @property
    def name(self) -> str:
        """Return the file's name."""
        return f"{self.exposure.archive_name}.fits"


_FAST_ARC = CalibrationStream("arc", "blue", "BLUE", 437, 0.4, (1, 1), "625kHz low")
KINDS = {
    "blue": (
        Kind(CalibrationStream("bias", "blue", "BLUE"), 6, 8, 31, 0.5),
        Kind(CalibrationStream("flat", "blue", "DICHR#1", 390), 6, 8, 22, 0.5),
        Kind(CalibrationStream("flat", "blue", "DICHR#1", 346), 4, 6, 11, 0.5),
        Kind(CalibrationStream("dflat", "blue", "DICHR#1", 346), 5, 6, 31, 0.5),
        Kind(_FAST_ARC, 6, 8, 33, 0.6),
    ),
    "red": (
        Kind(CalibrationStream("bias", "red", "RED"), 6, 8, 36, 0.75),
        Kind(CalibrationStream("arc", "red", "RED", 580), 6, 8, 23, 0.64),
        Kind(CalibrationStream("arc", "red", "RED", 860), 3, 6, 8, 0.64),
        Kind(CalibrationStream("flat", "red", "DICHR#1", 564), 6, 8, 33, 0.64),
    ),
}


def live_through(arm: str, work: Path, history: History) -> None:
    """Simulate and judge every night of one arm that is not yet done.

    Leaves ``project/qc.db`` and ``truth/<night>.csv`` in the folder of the arm.
    """
    folder, truths = work / arm / "project", work / arm / "truth"
    truths.mkdir(parents=True, exist_ok=True)
    create_project(folder)
    shots = plan_shots(arm, history)
    with open_project(read_settings(folder)) as project:
        for night in history.nights:
            truth = truths / f"{night.date}.csv"
            if not truth.exists():
                rows = _live_one(night, shots[night.date], work / arm / "frames", project)
                write_truth(truth, rows)
                print(f"{datetime.now(UTC):%H:%M:%S} {arm} {night.date} {night.part}", flush=True)


def judge_anew(arm: str, work: Path) -> None:
    """Judge every stored image of an arm with the encoder and thresholds that ship today."""
    folder = work / arm / "project"
    shutil.copyfile(packaged_path("thresholds.yaml"), folder / "thresholds.yaml")
    with open_project(read_settings(folder)) as project:
        for done, _ in enumerate(rejudge_frames(project), start=1):
            if done % _TOLD_EVERY == 0:
                print(f"{datetime.now(UTC):%H:%M:%S} {arm} {done} judged anew", flush=True)


def plan_shots(arm: str, history: History) -> dict[date, list[Shot]]:
    """Plan the exposures of an arm with their faults; reproducible."""
    rng = np.random.default_rng(np.random.SeedSequence([history.seed, 100, *arm.encode()]))
    decks = {kind.stream: Deck(rng) for kind in KINDS[arm]}
    return {
        night.date: list(_shots_of(arm, night, history, decks, rng)) for night in history.nights
    }


def _shots_of(
    arm: str,
    night: Night,
    history: History,
    decks: dict[CalibrationStream, "Deck"],
    rng: np.random.Generator,
) -> Iterator[Shot]:
    plan = _plan(arm, night.part, history.share)
    exposures = list(plan_night(plan, night.date, history.seed))
    rates = {kind.stream: kind.faulty if night.part == "test" else 0.0 for kind in KINDS[arm]}
    before: Shot | None = None
    for exposure in exposures:
        stream = replace(exposure.stream, set_size=_SET)
        case, displayed = None, exposure
        if rng.random() < rates[stream]:
            repeatable = before is not None and before.case is None and exposure.number > 1
            case = decks[stream].draw(exposure, repeatable=repeatable)
            if case.kind == "frame_repeated" and before is not None:
                displayed = before.exposure
        before = Shot(exposure, displayed, case, history.seed)
        yield before


def _plan(arm: str, part: str, share: float) -> ObservingPlan:
    """Return a night's streams in sets of five, the last of them smaller."""
    streams = tuple(
        replace(kind.stream, set_size=min(_SET, frames - start))
        for kind in KINDS[arm]
        for frames in [kind.frames(part, share)]
        for start in range(0, frames, _SET)
    )
    return ObservingPlan(streams, aborted=0.0)


class Deck:
    """Every kind of fault at every strength, dealt in random order before any comes again."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._cards: list[tuple[str, str]] = []

    def draw(self, exposure: PlannedExposure, *, repeatable: bool) -> InjectedFault:
        """Deal the next fault that this exposure can have."""
        for _ in range(2):
            for card in self._cards:
                if card[0] != "frame_repeated" or repeatable:
                    self._cards.remove(card)
                    return make_case(exposure, *card, self._rng)
            self._cards += self._shuffled(exposure)
        raise AssertionError("a fresh deck has a fault for every exposure")

    def _shuffled(self, exposure: PlannedExposure) -> list[tuple[str, str]]:
        image_class = exposure.stream.image_class
        second = replace(exposure, number=2)  # one that a frame comes before
        cards = [
            (fault.kind, strength)
            for fault in possible_faults(second)
            for strength in fault.classes[image_class]
        ]
        self._rng.shuffle(cards)
        return cards


def _live_one(
    night: Night, shots: Sequence[Shot], folder: Path, project: ProjectContext
) -> list[tuple[str, ...]]:
    """Write a night, let the product judge it, delete it; return the truth about it."""
    folder.mkdir(parents=True, exist_ok=True)
    if night.part == "rebuild":
        _begin_epoch(project, night.date - timedelta(days=1))
    truth = [row for shot in shots for row in write(shot, folder, night)]
    paths = [folder / shot.name for shot in shots]
    for _ in process_frames(paths, project, night.label):
        pass
    shutil.rmtree(folder)
    return truth


def _begin_epoch(project: ProjectContext, since: date) -> None:
    """Record the intervention, as a person would on the day."""
    with project.write_session.begin() as session:
        if session.query(EpochRow).count() == 0:
            why, now = "instrument opened", datetime.now(UTC)
            session.add(EpochRow(scope="UVES", since=since, why=why, who="benchmark", at=now))


def write(shot: Shot, folder: Path, night: Night) -> Iterator[tuple[str, ...]]:
    """Write one frame; yield a row of truth for each of its images."""
    exposed = expose(shot.exposure, shot.seed, shot.case, shot.shown)
    (folder / shot.name).write_bytes(exposed.content)
    images = exposed.images
    bad = _bad_hdus(shot, images)
    for hdu in images:
        fault = (shot.case.kind, shot.case.strength) if shot.case and hdu in bad else ("", "")
        image_type = shot.exposure.image_type(hdu)
        part = NEW_LAMP if _has_new_lamp(shot, night) else night.part
        yield (night.date.isoformat(), part, shot.name, str(hdu), image_type, *fault)


def _has_new_lamp(shot: Shot, night: Night) -> bool:
    """Return True if a lamp was replaced since the references without a recorded epoch.

    Good images of it differ from their references and should raise an alert; they are no test of
    false alarms, nor their faults of recall.
    """
    lamp = shot.exposure.lamp
    if lamp is None or night.part != "test":
        return False
    start = shot.exposure.start
    return any(
        night.taught < when.date() and when <= start for when in lamp_replacements(lamp, shot.seed)
    )


def images_of(shot: Shot, *, healthy: bool = False) -> dict[int, np.ndarray]:
    """Render a shot's images by HDU, with or without the fault."""
    rng = frame_rng(shot.seed, shot.shown, "pixels")
    case = None if healthy else shot.case
    return render(shot.shown, state_at(shot.shown.start, shot.seed), rng, case)


def _bad_hdus(shot: Shot, images: Mapping[int, np.ndarray]) -> Iterable[int]:
    """Return the images that have the fault: of a chip read in two halves, not always both."""
    if shot.case is None:
        return ()
    if not shot.exposure.stream.two_ports or shot.case.kind in _FILE_FAULTS:
        return shot.case.hdus
    twin = images_of(shot, healthy=True)
    return [hdu for hdu, pixels in images.items() if not np.array_equal(pixels, twin[hdu])]


def write_truth(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    """Write the truth about a night's images, which is then done."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(TRUTH_COLUMNS)
        table.writerows(rows)
