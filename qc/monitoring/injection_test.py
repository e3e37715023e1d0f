"""Injection test: known faults put into good images of a night, to measure recall.

Faults are injected in memory and judged like the frames of the night. The frames and references
in the database stay unchanged; only the results are stored.
"""

import dataclasses
import datetime as dt
import logging
import time
from collections import abc

import numpy as np
from numpy.typing import NDArray

from qc import core, db, detection, errors, simulator
from qc._text import pluralise
from qc.db.schema.models import SelfTestRow
from qc.io import compression, frame_reader
from qc.monitoring import injection_pixels, injection_plan, recall
from qc.pipeline import process, readers
from qc.project import ProjectContext

Progress = abc.Callable[[int, int], None]
Clock = abc.Callable[[], float]

BUDGET_S = 110.0
COST_MARGIN = 1.5  # factor on the mean cost of a trial, as the next file may be a large one
_LARGEST_SCORE = 1e6  # of a refused frame; not every database stores infinity

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class InjectionTrial:
    """A fault that was injected into a good image, and its verdict."""

    instrument: str
    image_type: str
    kind: str
    strength: str
    frame: str
    is_found: bool
    score: float
    reason: str


@dataclasses.dataclass(frozen=True)
class InjectionTest:
    """Result of a night's injection test.

    Attributes
    ----------
    untried : tuple of str
        Kinds of fault and image types that the time did not suffice for; they come first the
        next night.
    beyond : tuple of str
        Kinds of the instrument file that cannot be injected into an image of this night.
    invisible : tuple of str
        Trials left out: faults below the noise, and images with too few references.
    lost : tuple of str
        Frames whose file is missing or was changed.
    elapsed_s : float
    falls : tuple of RecallDrop
        Active drops of recall.
    """

    night: dt.date
    trials: tuple[InjectionTrial, ...]
    untried: tuple[str, ...]
    beyond: tuple[str, ...]
    invisible: tuple[str, ...]
    lost: tuple[str, ...]
    elapsed_s: float
    falls: tuple[recall.RecallDrop, ...]

    @property
    def count(self) -> recall.RecallCount:
        """Number of faults found, and of trials."""
        return recall.RecallCount(sum(trial.is_found for trial in self.trials), len(self.trials))

    @property
    def is_below_limit(self) -> bool:
        """True if a drop of recall is active."""
        return bool(self.falls)

    @property
    def summary(self) -> str:
        """The result in one line."""
        if not self.trials:
            reason = (
                "no good frame of it is on disk as it was" if self.lost else "it had no good frame"
            )
            return f"night of {self.night}: nothing could be tried: {reason}"
        kinds = len({trial.kind for trial in self.trials})
        types = len({trial.image_type for trial in self.trials})
        return (
            f"night of {self.night}: {self.count.found} of {self.count.tried} injected faults "
            f"found, {pluralise(kinds, 'kind')} in {pluralise(types, 'image type')}, "
            f"{self.elapsed_s:.0f} s"
        )


def run_injection_test(
    project: ProjectContext,
    night: dt.date | None,
    now: dt.datetime,
    budget_s: float = BUDGET_S,
    progress: Progress | None = None,
    clock: Clock = time.monotonic,
) -> InjectionTest:
    """Inject faults into a night's good images, store the results, and queue alerts for drops.

    The trials of a night are reproducible, as far as the time suffices. They replace stored
    results of the same night.

    Parameters
    ----------
    project : ProjectContext
    night : date or None
        None for the newest night with frames.
    now : datetime
        Aware; stored with the results.
    budget_s : float
        No trial begins that would probably end later.
    progress : callable, optional
        Receives the number of finished trials and their total.
    clock : callable
        Returns a time in seconds.

    Returns
    -------
    InjectionTest

    Raises
    ------
    ConfigurationError
        If no frame has been processed.
    """
    started = clock()
    with project.read_session() as session:
        night = night or db.statistics.newest_night(session)
        if night is None:
            raise errors.ConfigurationError(
                "no frame has been processed yet: there is nothing to try"
            )
        images = injection_plan.find_nominal_images(session, night, project.instruments)
        plan = injection_plan.InjectionPlan(
            night, images, injection_plan.last_trials(session, night)
        )
    runner = InjectionRunner(project, plan, started, clock)
    runner.run(budget_s, progress or (lambda *_: None))
    with project.write_session.begin() as session:
        if runner.trials:  # stored results stay when the files of the night are deleted
            names = InjectionTrial.__dataclass_fields__
            rows = [
                SelfTestRow(night=night, at=now, **{name: getattr(trial, name) for name in names})
                for trial in runner.trials
            ]
            db.operations.record_injections(session, night, rows)
            session.flush()
        recall.queue_drop_alerts(session, project.instruments, night)
        drops = recall.active_drops(session, project.instruments, night)
    result = InjectionTest(
        night=night,
        trials=tuple(runner.trials),
        untried=runner.untried(),
        beyond=plan.beyond,
        invisible=tuple(runner.invisible),
        lost=tuple(sorted(runner.lost)),
        elapsed_s=clock() - started,
        falls=drops,
    )
    logger.info("self-test: %s", result.summary)
    return result


class _FrameLostError(Exception):
    """The file of a frame is missing or was changed."""


class _InjectionImpossibleError(Exception):
    """A fault cannot be injected into this image."""


class InjectionRunner:
    """Run of an injection test: one file at a time, until the time is over.

    Parameters
    ----------
    project : ProjectContext
    plan : InjectionPlan
    started : float
        Time of the clock at the start of the test.
    clock : callable
        Returns a time in seconds.
    """

    def __init__(
        self,
        project: ProjectContext,
        plan: injection_plan.InjectionPlan,
        started: float,
        clock: Clock,
    ) -> None:
        self.project, self.plan = project, plan
        self.started, self.clock = started, clock
        self.trials: list[InjectionTrial] = []
        self.invisible: list[str] = []
        self.lost: set[str] = set()
        self.reached: set[str] = set()

    def run(self, budget_s: float, progress: Progress) -> None:
        """Run the tasks that the time suffices for.

        Parameters
        ----------
        budget_s : float
        progress : callable
            Receives the number of finished tasks and their total.
        """
        done, total = 0, len(self.plan.tasks)
        progress(0, total)
        for tasks in group_by_file(self.plan.tasks):
            spent_s = self.clock() - self.started
            cost_s = COST_MARGIN * spent_s / done if done else 0.0
            if spent_s + cost_s * len(tasks) > budget_s:
                break
            self.run_file(tasks)
            done += len(tasks)
            progress(done, total)

    def untried(self) -> tuple[str, ...]:
        """Return the planned kinds and image types without a trial."""
        kinds = {task.kind for task in self.plan.tasks} - self.reached
        types = {task.image.image_type for task in self.plan.tasks} - self.reached
        return (*sorted(kinds), *sorted(types))

    def run_file(self, tasks: abc.Sequence[injection_plan.InjectionTask]) -> None:
        """Run tasks with their file, or with another of the same setup if it is lost."""
        image, images = tasks[0].image, self.plan.images
        similar = (candidate.path for candidate in images if candidate.has_setup_of(image))
        for path in dict.fromkeys((image.path, *similar)):
            moved = [task.with_file(path, images) for task in tasks]
            possible = [task for task in moved if task is not None]
            try:
                if possible:
                    self.run_tasks(possible, self.read(possible[0].image))
                    return
            except _FrameLostError:
                self.lost.add(str(possible[0].image.finding.frame.name))

    def run_tasks(
        self, tasks: abc.Sequence[injection_plan.InjectionTask], frame: core.Frame
    ) -> None:
        """Inject and judge faults in one frame.

        Parameters
        ----------
        tasks : sequence of InjectionTask
        frame : Frame
            Without faults.
        """
        arrivals: list[tuple[injection_plan.InjectionTask, process.MeasuredFrame]] = []
        for task in tasks:
            self.reached |= {task.kind, task.image.image_type}
            try:
                arrivals.append((task, self.measure(task, frame)))
            except errors.FrameError as error:
                self.add_trial(task, is_found=True, score=np.inf, reason=str(error))
            except _InjectionImpossibleError as reason:
                self.invisible.append(f"{task.description}: {reason}")
        measurements = [item for _, arrival in arrivals for item in arrival.measurements]
        embeddings = detection.embed(measurements, self.project.encoder)  # (n, d)
        for task, arrival in arrivals:
            part, embeddings = np.split(embeddings, [len(arrival.measurements)])
            self.judge(task, frame, arrival, part)

    def measure(
        self, task: injection_plan.InjectionTask, frame: core.Frame
    ) -> process.MeasuredFrame:
        """Inject a fault and measure the frame as if it had arrived.

        Parameters
        ----------
        task : InjectionTask
        frame : Frame
            Without the fault.

        Returns
        -------
        MeasuredFrame

        Raises
        ------
        FrameError
            If the frame with the fault is refused.
        _InjectionImpossibleError
            If the fault cannot be injected.
        """
        path, number = task.image.path, task.image.number
        file = core.FileInfo(path, 0, 0)
        if task.kind in simulator.FILE_FAULTS:
            content = compression.read_content(path, frame_reader.MAX_BYTES)
            try:
                content = simulator.spoil_file(content, task.kind, task.strength)
            except ValueError as error:
                raise _InjectionImpossibleError(str(error)) from None
            faulty = frame_reader.parse_frame(content, path, self.project.instruments)
            return process.add_thresholds(readers.reduce_frame(file, faulty), self.project)
        extension = find_extension(frame, number)
        pixels = self.inject(task, frame)
        frame_reader.check_alive(pixels, number, extension.setup.chip)
        faulty = dataclasses.replace(
            frame, extensions=(dataclasses.replace(extension, pixels=pixels),)
        )
        return process.add_thresholds(readers.reduce_frame(file, faulty), self.project)

    def inject(
        self, task: injection_plan.InjectionTask, frame: core.Frame
    ) -> injection_pixels.Pixels:
        """Return the pixels of a task's image with its fault.

        Parameters
        ----------
        task : InjectionTask
        frame : Frame
            Without the fault.

        Returns
        -------
        (ny, nx) uint16 array

        Raises
        ------
        _InjectionImpossibleError
            If the file of the donor is lost.
        """
        donor = None
        if task.donor is not None:
            donor_frame = frame
            if task.donor.path != task.image.path:
                try:
                    donor_frame = self.read(task.donor)
                except _FrameLostError:
                    name = task.donor.finding.frame.name
                    self.lost.add(str(name))
                    raise _InjectionImpossibleError(f"{name} is gone") from None
            donor = find_extension(donor_frame, task.donor.number)
        extension = find_extension(frame, task.image.number)
        rng = task.rng(self.plan.night)
        return injection_pixels.inject_fault(task, extension, donor, rng)

    def judge(
        self,
        task: injection_plan.InjectionTask,
        frame: core.Frame,
        arrival: process.MeasuredFrame,
        embeddings: NDArray[np.float32],
    ) -> None:
        """Judge a frame with a fault, and add the trial.

        Parameters
        ----------
        task : InjectionTask
        frame : Frame
            Without the fault.
        arrival : MeasuredFrame
            With the fault.
        embeddings : (n, d) float32 array
        """
        judgements = process.judge_frame(arrival, embeddings, self.project)
        worst = max(judgements, key=lambda judgement: judgement.verdict.score)
        is_found = any(item.verdict.status is core.Status.ANOMALOUS for item in judgements)
        fewest = min(item.evidence.reference_size for item in judgements)
        if not is_found and fewest < core.REFERENCE_NEEDED:
            self.invisible.append(f"{task.description}: too few references")
        elif not is_found and self.is_invisible(task, frame):
            self.invisible.append(f"{task.description}: below the noise")
        else:
            reason = worst.verdict.reasons[0] if worst.verdict.reasons else ""
            self.add_trial(task, is_found=is_found, score=worst.verdict.score, reason=reason)

    def is_invisible(self, task: injection_plan.InjectionTask, frame: core.Frame) -> bool:
        """Return True if a fault, known exactly, is below the noise of its image.

        Parameters
        ----------
        task : InjectionTask
        frame : Frame
            Without the fault.

        Returns
        -------
        bool
        """
        if task.kind in simulator.FILE_FAULTS:
            return False
        extension = find_extension(frame, task.image.number)
        ratio = simulator.signal_to_noise(
            self.inject(task, frame),
            extension.pixels,
            gain_e_per_adu=extension.detector.gain_e_per_adu,
            read_noise_adu=extension.detector.read_noise_adu,
        )
        return ratio < simulator.INVISIBLE

    def add_trial(
        self, task: injection_plan.InjectionTask, *, is_found: bool, score: float, reason: str
    ) -> None:
        """Add the result of a trial.

        Parameters
        ----------
        task : InjectionTask
        is_found : bool
        score : float
        reason : str
            First reason of the verdict.
        """
        self.trials.append(
            InjectionTrial(
                instrument=task.image.instrument.name,
                image_type=task.image.image_type,
                kind=task.kind,
                strength=task.strength,
                frame=task.image.name,
                is_found=is_found,
                score=float(min(score, _LARGEST_SCORE)),
                reason=reason,
            )
        )

    def read(self, image: injection_plan.NominalImage) -> core.Frame:
        """Read the frame of an image.

        Raises
        ------
        _FrameLostError
            If its file is missing or was changed.
        """
        try:
            frame = frame_reader.read_frame(image.path, self.project.instruments)
        except errors.FrameError as error:
            raise _FrameLostError(str(error)) from None
        if frame.sha256 != image.finding.frame.sha256:
            raise _FrameLostError("another file has its name")
        return frame


def group_by_file(
    tasks: abc.Sequence[injection_plan.InjectionTask],
) -> abc.Iterable[list[injection_plan.InjectionTask]]:
    """Yield groups of successive tasks with the same file, of limited size."""
    group: list[injection_plan.InjectionTask] = []
    for task in tasks:
        is_full = len(group) == injection_plan.TRIALS_PER_FILE
        if group and (is_full or task.image.path != group[0].image.path):
            yield group
            group = []
        group.append(task)
    if group:
        yield group


def find_extension(frame: core.Frame, number: int) -> core.Extension:
    """Return an extension of a frame.

    Parameters
    ----------
    frame : Frame
    number : int

    Returns
    -------
    Extension
    """
    return next(item for item in frame.extensions if item.number == number)
