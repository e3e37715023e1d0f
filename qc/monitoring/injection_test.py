"""Would a fault be found tonight? Faults put into the night's own good images, and judged.

They are put in in memory and judged by what judged the night; neither they nor what is learnt of
them is kept with the frames, only whether they were found.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from qc import db
from qc._text import counted
from qc.core.enums import LabelName
from qc.core.frame import Extension, Frame
from qc.core.measurement import FileInfo
from qc.core.reference import REFERENCE_NEEDED
from qc.core.verdict import Status
from qc.db.findings import Finding
from qc.db.models import SelfTestRow
from qc.errors import ConfigurationError, FrameError
from qc.io.fits import read_content
from qc.io.instruments import Instrument
from qc.io.read_frame import MAX_BYTES, check_alive, parse_frame, read_frame
from qc.monitoring.recall import RecallCount, RecallDrop, owe_falls, standing_falls
from qc.pipeline.process import MeasuredFrame, embed, judge_frame, measure_frame
from qc.project import Project
from qc.simulator import (
    CLASSES,
    FAULTS,
    FILE_FAULTS,
    INJECTABLE,
    INVISIBLE,
    inject,
    signal_to_noise,
    spoil_file,
)

Pixels = NDArray[np.uint16]
Progress = Callable[[int, int], None]
Clock = Callable[[], float]

STRENGTHS = ("gross", "moderate")  # what is faint may hide behind the noise: no miss of ours
BUDGET_S = 110.0
ROUNDS = 2  # each kind so often, at another strength each time
A_FILE = 6  # trials with one file: what is read once is used, but not for everything
MARGIN = 1.5  # times the mean cost of a trial so far: the next file may be a large one
REMEMBERED = timedelta(days=60)  # when a kind was tried last
_WHITE_ADU = 65535

# What one image shows is written under another one's header.
_OTHER_CHIP = ("chips_swapped", "chip_duplicated")
_OTHER_FRAME = ("frame_repeated", "mislabelled", "setting_wrong")
_OTHER_LIGHT = ("arc_in_flat", "flat_in_arc")
_WRONG_GAIN = "wrong_gain"
TRIED = (*INJECTABLE, *FILE_FAULTS, *_OTHER_CHIP, *_OTHER_FRAME, *_OTHER_LIGHT, _WRONG_GAIN)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InjectionTrial:
    """A fault that was put into a good image, and what was said of it."""

    instrument: str
    image_type: str
    kind: str
    strength: str
    frame: str
    is_found: bool
    score: float
    reason: str


@dataclass(frozen=True)
class InjectionTest:
    """A night's self-test.

    Attributes
    ----------
    untried : tuple of str
        Kinds of fault and image types for which there was no time; the next night begins with
        them.
    beyond : tuple of str
        Kinds that the instrument file names and that cannot be put into an existing image, or
        into none of this night's.
    invisible : tuple of str
        Trials left out, as nobody could have seen the fault; and those for which there were too
        few references.
    lost : tuple of str
        Frames that are no longer on disk as they were.
    elapsed_s : float
    falls : tuple of Fall
        Where recall is below its limit.
    """

    night: date
    trials: tuple[InjectionTrial, ...]
    untried: tuple[str, ...]
    beyond: tuple[str, ...]
    invisible: tuple[str, ...]
    lost: tuple[str, ...]
    elapsed_s: float
    falls: tuple[RecallDrop, ...]

    @property
    def count(self) -> RecallCount:
        """Return how many were found of those tried."""
        return RecallCount(sum(one.is_found for one in self.trials), len(self.trials))

    @property
    def is_below_limit(self) -> bool:
        """Say whether known faults are found too seldom, this night and lately."""
        return bool(self.falls)

    @property
    def words(self) -> str:
        """Say it in one line."""
        if not self.trials:
            why = (
                "no good frame of it is on disk as it was" if self.lost else "it had no good frame"
            )
            return f"night of {self.night}: nothing could be tried: {why}"
        kinds = len({one.kind for one in self.trials})
        types = len({one.image_type for one in self.trials})
        return (
            f"night of {self.night}: {self.count.found} of {self.count.tried} injected faults "
            f"found, {counted(kinds, 'kind')} in {counted(types, 'image type')}, "
            f"{self.elapsed_s:.0f} s"
        )


def run_self_test(
    project: Project,
    night: date | None,
    now: datetime,
    budget_s: float = BUDGET_S,
    progress: Progress | None = None,
    clock: Clock = time.monotonic,
) -> InjectionTest:
    """Put faults into a night's good images and count how many are found; owe word of a fall.

    The same night gives the same trials, as far as time allows. They take the place of those that
    were kept of the night before.

    Parameters
    ----------
    night : date, optional
        The newest that has frames, where absent.
    now : datetime
        Aware; kept with the trials.
    budget_s : float
        No trial is begun that would probably end later.
    progress : callable, optional
        Told how many trials are done, and of how many.

    Raises
    ------
    ConfigurationError
        If no night is given and none has frames.
    """
    started = clock()
    with project.reads() as session:
        night = night or db.statistics.newest_night(session)
        if night is None:
            raise ConfigurationError("no frame has been processed yet: there is nothing to try")
        goods = _good_images(session, night, project.instruments)
        plan = _InjectionPlan(night, goods, _last_tried(session, night))
    bench = _InjectionRunner(
        project, night, budget_s, started, clock, progress or (lambda *_: None)
    )
    bench.run(plan)
    with project.writes.begin() as session:
        if bench.trials:  # what is known of the night stays when its files are gone
            db.self_tests.record_self_test(
                session, night, [_row(one, night, now) for one in bench.trials]
            )
            session.flush()
        owe_falls(session, project.instruments, night)
        falls = standing_falls(session, project.instruments, night)
    tested = InjectionTest(
        night=night,
        trials=tuple(bench.trials),
        untried=_untried(plan, bench),
        beyond=plan.beyond,
        invisible=tuple(bench.invisible),
        lost=tuple(sorted(bench.lost)),
        elapsed_s=clock() - started,
        falls=falls,
    )
    logger.info("self-test: %s", tested.words)
    return tested


def _row(trial: InjectionTrial, night: date, now: datetime) -> SelfTestRow:
    facts = {name: getattr(trial, name) for name in InjectionTrial.__dataclass_fields__}
    return SelfTestRow(night=night, at=now, **facts)


def _untried(plan: "_InjectionPlan", bench: "_InjectionRunner") -> tuple[str, ...]:
    """List what was planned and not reached; for what there was no file, it is as if no time."""
    kinds = {one.kind for one in plan.tasks} - bench.reached
    types = {one.good.image_type for one in plan.tasks} - bench.reached
    return (*sorted(kinds), *sorted(types))


# --- what may be spoilt ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _NominalImage:
    """An image of the night that was judged nominal, and nobody has called bad.

    Attributes
    ----------
    image_class : str
        As the simulator knows it.
    level_adu : float or None
        Its own bias level.
    """

    instrument: Instrument
    finding: Finding
    image_class: str

    @property
    def path(self) -> Path:
        """Return where its file was."""
        return Path(self.finding.frame.path)

    @property
    def number(self) -> int:
        """Return its number in the file."""
        return self.finding.extension.number

    @property
    def image_type(self) -> str:
        """Return its image type."""
        return self.finding.extension.image_type

    @property
    def name(self) -> str:
        """Return its name for people."""
        return f"{self.finding.frame.name}[{self.number}]"

    @property
    def shape(self) -> tuple[str, str, str, str]:
        """Return what must be equal for its pixels to fit under another one's header."""
        row = self.finding.extension
        return self.instrument.name, row.chip, row.binning, row.read_mode

    @property
    def other_modes(self) -> list[str]:
        """List the read modes in which its chip has another gain."""
        row = self.finding.extension
        modes = self.instrument.chips[row.chip].read_modes
        own = modes[row.read_mode].gain_e_per_adu
        return [name for name, numbers in modes.items() if numbers.gain_e_per_adu != own]


def _good_images(
    session: Session, night: date, instruments: Sequence[Instrument]
) -> tuple[_NominalImage, ...]:
    by_name = {one.name: one for one in instruments}
    goods = []
    for one in db.findings.findings(session, night, night):
        instrument = by_name.get(one.frame.instrument or "")
        known = instrument.calibration_of(one.extension.image_type) if instrument else None
        is_bad = one.label is not None and one.label.label == LabelName.BAD
        if instrument and known and one.verdict.status == Status.NOMINAL and not is_bad:
            image_class = known.name if known.name in CLASSES else known.frame_class
            goods.append(_NominalImage(instrument, one, image_class))
    return tuple(goods)


@dataclass(frozen=True)
class _InjectionTask:
    """A fault to be put into an image, with what another image shows if it needs one."""

    kind: str
    strength: str
    good: _NominalImage
    donor: _NominalImage | None = None

    @property
    def words(self) -> str:
        """Name it."""
        return f"{self.strength} {self.kind} in {self.good.image_type}"

    def rng(self, night: date) -> np.random.Generator:
        """Return the generator that belongs to this trial alone."""
        return np.random.default_rng(
            [night.toordinal(), *f"{self.words} {self.good.name}".encode()]
        )


def _last_tried(session: Session, night: date) -> Mapping[str, date]:
    """Return when each kind and image type was tried last before a night."""
    before = night - timedelta(days=1)
    rows = db.self_tests.faults_tried(session, night - REMEMBERED, before)
    return {name: one.night for one in rows for name in (one.kind, one.image_type)}


@dataclass(frozen=True)
class _InjectionPlan:
    """What to try: every kind of fault and every image type once, then again while time lasts.

    What was not tried for longest comes first.
    """

    night: date
    goods: tuple[_NominalImage, ...]
    last_tried: Mapping[str, date]

    @cached_property
    def options(self) -> Mapping[str, Sequence[_InjectionTask]]:
        """List for each kind all that could be tried."""
        found = defaultdict[str, list[_InjectionTask]](list)
        for good in self.goods:
            for kind in TRIED:
                found[kind] += self._tasks(kind, good)
        return {kind: tasks for kind, tasks in found.items() if tasks}

    @property
    def beyond(self) -> tuple[str, ...]:
        """List the kinds that people know and that cannot be tried tonight."""
        named = {fault.name for good in self.goods for fault in good.instrument.faults}
        return tuple(sorted(named - self.options.keys()))

    @cached_property
    def tasks(self) -> tuple[_InjectionTask, ...]:
        """List what to try, in order; trials with one file stand together."""
        rng = np.random.default_rng(self.night.toordinal())
        chosen: list[_InjectionTask] = []
        seen, load = Counter[str](), Counter[Path]()
        for _ in range(ROUNDS):
            tried = list[_InjectionTask]()
            for kind in self._longest_untried(self.options, rng):
                options = [task for task in self.options[kind] if task not in chosen]
                tried += self._choose(options, seen, load, rng)
            for image_type in self._longest_untried({one.image_type for one in self.goods}, rng):
                if not seen[image_type]:
                    every = [task for tasks in self.options.values() for task in tasks]
                    own = [task for task in every if task.good.image_type == image_type]
                    tried += self._choose(own, seen, load, rng)
            chosen += _by_file(tried)
        return tuple(chosen)

    def _longest_untried(self, names: Iterable[str], rng: np.random.Generator) -> list[str]:
        shuffled = rng.permutation(sorted(names))
        return sorted(map(str, shuffled), key=lambda name: self.last_tried.get(name, date.min))

    def _choose(
        self,
        options: Sequence[_InjectionTask],
        seen: Counter[str],
        load: Counter[Path],
        rng: np.random.Generator,
    ) -> list[_InjectionTask]:
        """Choose one at random, of the image types least seen and the files in use."""

        def cost(task: _InjectionTask) -> tuple[int, int, bool]:
            path = task.good.path
            return (
                seen[f"{task.kind} {task.strength}"],
                seen[task.good.image_type],
                not (0 < load[path] < A_FILE),
            )

        if not options:
            return []
        least = min(map(cost, options))
        best = [task for task in options if cost(task) == least]
        task = best[int(rng.integers(len(best)))]
        seen.update([f"{task.kind} {task.strength}", task.good.image_type])
        load.update([task.good.path])
        return [task]

    def _tasks(self, kind: str, good: _NominalImage) -> list[_InjectionTask]:
        fault, row = FAULTS[kind], good.finding.extension
        known = {one.name for one in good.instrument.faults if row.frame_class in one.classes}
        simulated = {chip for one in FAULTS.values() for chip in one.chips}
        elsewhere = row.chip in simulated and row.chip not in fault.chips
        donors = self._donors(kind, good)
        if kind not in known or elsewhere or not donors:
            return []
        offered = fault.classes.get(good.image_class, ())
        return [
            _InjectionTask(kind, strength, good, donor)
            for strength in STRENGTHS
            if strength in offered
            for donor in donors
        ]

    def _donors(self, kind: str, good: _NominalImage) -> Sequence[_NominalImage | None]:
        """Return what else is needed: [None] for nothing, an empty list where it is lacking."""
        if kind in INJECTABLE:
            return [None]
        if kind in FILE_FAULTS:
            return [None] if kind != "chip_missing" or self._twins(good) else []
        if kind == _WRONG_GAIN:
            return [None] if good.other_modes else []
        if kind in _OTHER_CHIP:
            return self._twins(good)
        fits = [one for one in self._fitting.get(good.shape, ()) if _may_lend(kind, one, good)]
        return fits[:1]

    def _twins(self, good: _NominalImage) -> list[_NominalImage]:
        same = [one for one in self._files[good.path] if one.number != good.number]
        rows = [one.finding.extension for one in (good, *same)]
        return same if len({(row.ny, row.nx) for row in rows}) == 1 else []

    @cached_property
    def _files(self) -> Mapping[Path, Sequence[_NominalImage]]:
        found = defaultdict[Path, list[_NominalImage]](list)
        for one in self.goods:
            found[one.path].append(one)
        return found

    @cached_property
    def _fitting(self) -> Mapping[tuple[str, ...], Sequence[_NominalImage]]:
        found = defaultdict[tuple[str, ...], list[_NominalImage]](list)
        for one in self.goods:
            found[one.shape].append(one)
        return found


def _may_lend(kind: str, lender: _NominalImage, good: _NominalImage) -> bool:
    """Say whether an image shows what a fault would have under another one's header."""
    theirs, ours = lender.finding.extension, good.finding.extension
    if kind == "frame_repeated":
        earlier, later = lender.finding.frame.observed_at, good.finding.frame.observed_at
        return theirs.setup == ours.setup and bool(earlier and later and earlier < later)
    if kind == "mislabelled":
        return theirs.frame_class != ours.frame_class
    if kind == "setting_wrong":
        return theirs.image_type == ours.image_type and theirs.wavelength_nm != ours.wavelength_nm
    wanted = "arc" if kind == "arc_in_flat" else "flat"
    same_setting = theirs.wavelength_nm == ours.wavelength_nm is not None
    return lender.image_class == wanted and same_setting


def _by_file(tasks: Sequence[_InjectionTask]) -> list[_InjectionTask]:
    """Put trials with one file together, in the order of the first of each."""
    groups = defaultdict[Path, list[_InjectionTask]](list)
    for task in tasks:
        groups[task.good.path].append(task)
    return [task for group in groups.values() for task in group]


# --- spoiling -------------------------------------------------------------------------------------


def _spoilt_pixels(
    task: _InjectionTask, extension: Extension, donor: Extension | None, rng: np.random.Generator
) -> Pixels:
    """Return the image with its fault."""
    pixels = _counts(extension.pixels)
    if donor is not None and task.kind in _OTHER_LIGHT:
        own_adu = _bias_of(task.donor or task.good, donor)
        light = (donor.pixels.astype(np.float32) - own_adu) / np.float32(donor.promised_light or 1)
        return _counts(pixels + np.float32(FAULTS[task.kind].amount[task.strength]) * light)
    if donor is not None:
        return _counts(donor.pixels)
    if task.kind == _WRONG_GAIN:
        return _other_gain(task.good, extension, rng)
    return inject(
        pixels,
        light=extension.light,
        gain_e_per_adu=extension.detector.gain_e_per_adu,
        read_noise_adu=extension.detector.read_noise_adu,
        bias_adu=_bias_of(task.good, extension),
        kind=task.kind,
        strength=task.strength,
        rng=rng,
    ).pixels


def _bias_of(good: _NominalImage, extension: Extension) -> float:
    """Return the image's own bias level: what is injected must leave no seam."""
    return float(good.finding.extension.metrics.get("bias_level", extension.detector.bias_adu))


def _other_gain(good: _NominalImage, extension: Extension, rng: np.random.Generator) -> Pixels:
    """Read the same charge with another gain, and that mode's bias level."""
    other = good.instrument.chips[extension.setup.chip].read_modes[
        str(rng.choice(good.other_modes))
    ]
    factor = np.float32(extension.detector.gain_e_per_adu / other.gain_e_per_adu)
    above = extension.pixels.astype(np.float32) - np.float32(_bias_of(good, extension))
    return _counts(above * factor + np.float32(other.bias_adu))


def _counts(adu: NDArray[np.generic]) -> Pixels:
    if adu.dtype == np.uint16:
        return np.asarray(adu, np.uint16)
    rounded = np.rint(np.asarray(adu, np.float32))
    return np.clip(rounded, 0, _WHITE_ADU).astype(np.uint16)


# --- judging --------------------------------------------------------------------------------------


class _FrameLostError(Exception):
    """A frame is no longer on disk as it was."""


class _InjectionRunner:
    """Where trials are made: reads a file at a time, and stops when time is up."""

    def __init__(
        self,
        project: Project,
        night: date,
        budget_s: float,
        started: float,
        clock: Clock,
        progress: Progress,
    ) -> None:
        self.project, self.night, self.progress = project, night, progress
        self.budget_s, self.started, self.clock = budget_s, started, clock
        self.trials: list[InjectionTrial] = []
        self.invisible: list[str] = []
        self.lost: set[str] = set()
        self.reached: set[str] = set()
        self.done = 0

    def run(self, plan: _InjectionPlan) -> None:
        """Try what there is time for."""
        total = len(plan.tasks)
        self.progress(0, total)
        for tasks in _runs(plan.tasks):
            spent_s = self.clock() - self.started
            each_s = MARGIN * spent_s / self.done if self.done else 0.0
            if spent_s + each_s * len(tasks) > self.budget_s:
                break
            self._try_file(tasks, plan)
            self.done += len(tasks)
            self.progress(self.done, total)

    def _try_file(self, tasks: Sequence[_InjectionTask], plan: _InjectionPlan) -> None:
        """Try with one file; with another like it if it is gone."""
        first = tasks[0].good
        own = (first.path, *(one.path for one in plan.goods if _alike(one, first)))
        for path in dict.fromkeys(own):
            moved = [_with_file(task, path, plan.goods) for task in tasks]
            here = [task for task in moved if task is not None]
            try:
                if here:
                    self._try_all(here, _read(here[0].good, self.project))
                    return
            except _FrameLostError:
                self.lost.add(str(here[0].good.finding.frame.name))

    def _try_all(self, tasks: Sequence[_InjectionTask], frame: Frame) -> None:
        arrivals: list[tuple[_InjectionTask, MeasuredFrame]] = []
        for task in tasks:
            self.reached |= {task.kind, task.good.image_type}
            try:
                arrivals.append((task, self._arrive(task, frame)))
            except FrameError as error:
                self._keep(task, is_found=True, score=np.inf, reason=str(error))
            except _InjectionImpossibleError as reason:
                self.invisible.append(f"{task.words}: {reason}")
        embeddings = embed([arrival for _, arrival in arrivals], self.project)  # (n, d)
        for task, arrival in arrivals:
            own, embeddings = np.split(embeddings, [len(arrival.measured)])
            self._judge(task, frame, arrival, own)

    def _arrive(self, task: _InjectionTask, frame: Frame) -> MeasuredFrame:
        """Spoil, and measure as if it had just come."""
        file = FileInfo(task.good.path, 0, 0)
        if task.kind in FILE_FAULTS:
            content = read_content(task.good.path, MAX_BYTES)
            try:
                spoilt = spoil_file(content, task.kind, task.strength)
            except ValueError as error:
                raise _InjectionImpossibleError(str(error)) from None
            return measure_frame(
                file, parse_frame(spoilt, task.good.path, self.project.instruments), self.project
            )
        extension = _extension_of(frame, task.good)
        pixels = self._pixels(task, frame)
        check_alive(pixels, task.good.number, extension.setup.chip)
        ill = replace(extension, pixels=pixels)
        return measure_frame(file, replace(frame, extensions=(ill,)), self.project)

    def _pixels(self, task: _InjectionTask, frame: Frame) -> Pixels:
        donor = None
        if task.donor is not None:
            is_here = task.donor.path == task.good.path
            lender = frame if is_here else self._borrow(task.donor)
            donor = _extension_of(lender, task.donor)
        return _spoilt_pixels(task, _extension_of(frame, task.good), donor, task.rng(self.night))

    def _borrow(self, donor: _NominalImage) -> Frame:
        try:
            return _read(donor, self.project)
        except _FrameLostError:
            self.lost.add(str(donor.finding.frame.name))
            raise _InjectionImpossibleError(f"{donor.finding.frame.name} is gone") from None

    def _judge(
        self,
        task: _InjectionTask,
        frame: Frame,
        arrival: MeasuredFrame,
        embeddings: NDArray[np.float32],
    ) -> None:
        judged = judge_frame(arrival, embeddings, self.project)
        worst = max(judged, key=lambda one: one.verdict.score)
        is_found = any(one.verdict.status is Status.ANOMALOUS for one in judged)
        if not is_found and any(one.evidence.reference_size < REFERENCE_NEEDED for one in judged):
            self.invisible.append(f"{task.words}: too few references")
        elif not is_found and self._is_invisible(task, frame):
            self.invisible.append(f"{task.words}: nobody could see it")
        else:
            reason = worst.verdict.reasons[0] if worst.verdict.reasons else ""
            self._keep(task, is_found=is_found, score=worst.verdict.score, reason=reason)

    def _is_invisible(self, task: _InjectionTask, frame: Frame) -> bool:
        """Say whether the fault, known exactly, drowns in the noise of this very image."""
        if task.kind in FILE_FAULTS:
            return False
        well = _extension_of(frame, task.good)
        ratio = signal_to_noise(
            self._pixels(task, frame),
            well.pixels,
            gain_e_per_adu=well.detector.gain_e_per_adu,
            read_noise_adu=well.detector.read_noise_adu,
        )
        return ratio < INVISIBLE

    def _keep(self, task: _InjectionTask, *, is_found: bool, score: float, reason: str) -> None:
        self.trials.append(
            InjectionTrial(
                instrument=task.good.instrument.name,
                image_type=task.good.image_type,
                kind=task.kind,
                strength=task.strength,
                frame=task.good.name,
                is_found=is_found,
                score=float(min(score, _HIGHEST)),
                reason=reason,
            )
        )


_HIGHEST = 1e6  # what was refused has no score; infinity is no number to every database


class _InjectionImpossibleError(Exception):
    """A fault cannot be put into this very image."""


def _runs(tasks: Sequence[_InjectionTask]) -> Iterable[list[_InjectionTask]]:
    """Group neighbours that use one file, so many at most."""
    run: list[_InjectionTask] = []
    for task in tasks:
        if run and (task.good.path != run[0].good.path or len(run) == A_FILE):
            yield run
            run = []
        run.append(task)
    if run:
        yield run


def _alike(one: _NominalImage, other: _NominalImage) -> bool:
    return one.finding.extension.setup == other.finding.extension.setup


def _with_file(
    task: _InjectionTask, path: Path, goods: Sequence[_NominalImage]
) -> _InjectionTask | None:
    """Return the trial with another file of the same setup; with its own, as it is."""
    if task.good.path == path:
        return task
    there = (one for one in goods if one.path == path and _alike(one, task.good))
    good = next(there, None)
    needs_own = task.donor is not None and task.donor.path == task.good.path
    return None if good is None or needs_own else replace(task, good=good)


def _read(good: _NominalImage, project: Project) -> Frame:
    try:
        frame = read_frame(good.path, project.instruments)
    except FrameError as error:
        raise _FrameLostError(str(error)) from None
    if frame.sha256 != good.finding.frame.sha256:
        raise _FrameLostError("another file has its name")
    return frame


def _extension_of(frame: Frame, good: _NominalImage) -> Extension:
    return next(one for one in frame.extensions if one.number == good.number)
