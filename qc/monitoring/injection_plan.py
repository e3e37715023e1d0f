"""Plan of an injection test: faults, images and donor images of a night."""

import datetime as dt
from collections import Counter, abc, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from sqlalchemy.orm import Session

from qc import core, db, simulator
from qc.io.instruments import Instrument

STRENGTHS = ("gross", "moderate")  # a faint fault may be below the noise
ROUNDS = 2  # trials of each kind, at another strength each time
TRIALS_PER_FILE = 6  # a file is read once for several trials, but not for all
MEMORY = dt.timedelta(days=60)  # of the last trial of each kind

# Faults made of another image's pixels under this image's header.
OTHER_CHIP = ("chips_swapped", "chip_duplicated")
OTHER_FRAME = ("frame_repeated", "mislabelled", "setting_wrong")
OTHER_LIGHT = ("arc_in_flat", "flat_in_arc")
WRONG_GAIN = "wrong_gain"
INJECTED_KINDS = (
    *simulator.INJECTABLE,
    *simulator.FILE_FAULTS,
    *OTHER_CHIP,
    *OTHER_FRAME,
    *OTHER_LIGHT,
    WRONG_GAIN,
)


@dataclass(frozen=True)
class NominalImage:
    """An image that was judged nominal and is not labelled bad.

    Attributes
    ----------
    image_class : str
        Class of the simulator.
    """

    instrument: Instrument
    finding: db.findings.Finding
    image_class: str

    @property
    def path(self) -> Path:
        """Path of its file when it was processed."""
        return Path(self.finding.frame.path)

    @property
    def number(self) -> int:
        """Number of its extension."""
        return self.finding.extension.number

    @property
    def image_type(self) -> str:
        """Image type."""
        return self.finding.extension.image_type

    @property
    def name(self) -> str:
        """Name of frame and extension."""
        return f"{self.finding.frame.name}[{self.number}]"

    @property
    def pixel_format(self) -> tuple[str, str, str, str]:
        """Key that is equal for images whose pixels are interchangeable."""
        row = self.finding.extension
        return self.instrument.name, row.chip, row.binning, row.read_mode

    @property
    def other_modes(self) -> list[str]:
        """Read modes in which its chip has another gain."""
        row = self.finding.extension
        modes = self.instrument.chips[row.chip].read_modes
        gain = modes[row.read_mode].gain_e_per_adu
        return [name for name, numbers in modes.items() if numbers.gain_e_per_adu != gain]

    def has_setup_of(self, image: "NominalImage") -> bool:
        """Return True if it has the same setup as another image."""
        return self.finding.extension.setup == image.finding.extension.setup


def find_nominal_images(
    session: Session, night: dt.date, instruments: abc.Sequence[Instrument]
) -> tuple[NominalImage, ...]:
    """Return the images of a night that were judged nominal and are not labelled bad.

    Parameters
    ----------
    session : Session
    night : date
    instruments : sequence of Instrument

    Returns
    -------
    tuple of NominalImage
    """
    by_name = {instrument.name: instrument for instrument in instruments}
    images = []
    for finding in db.findings.findings(session, night, night):
        instrument = by_name.get(finding.frame.instrument or "")
        image_type = finding.extension.image_type
        calibration = instrument.calibration_of(image_type) if instrument else None
        is_nominal = finding.verdict.status == core.Status.NOMINAL
        is_bad = finding.label is not None and finding.label.label == core.LabelName.BAD
        if instrument and calibration and is_nominal and not is_bad:
            name = calibration.name
            image_class = name if name in simulator.CLASSES else calibration.frame_class
            images.append(NominalImage(instrument, finding, image_class))
    return tuple(images)


@dataclass(frozen=True)
class InjectionTask:
    """A fault to inject into an image, with a donor image if it needs one."""

    kind: str
    strength: str
    image: NominalImage
    donor: NominalImage | None = None

    @property
    def description(self) -> str:
        """Strength, kind and image type, in words."""
        return f"{self.strength} {self.kind} in {self.image.image_type}"

    def rng(self, night: dt.date) -> np.random.Generator:
        """Return the random generator of this task."""
        text = f"{self.description} {self.image.name}"
        return np.random.default_rng([night.toordinal(), *text.encode()])

    def with_file(self, path: Path, images: abc.Sequence[NominalImage]) -> "InjectionTask | None":
        """Return the task for another file of the same setup.

        Parameters
        ----------
        path : Path
            Of the file; the task is unchanged if it is its own.
        images : sequence of NominalImage
            Of the night.

        Returns
        -------
        InjectionTask or None
            None if the file has no such image, or the fault needs its own file.
        """
        if self.image.path == path:
            return self
        candidates = (candidate for candidate in images if candidate.path == path)
        image = next(
            (candidate for candidate in candidates if candidate.has_setup_of(self.image)), None
        )
        needs_file = self.donor is not None and self.donor.path == self.image.path
        if image is None or needs_file:
            return None
        return InjectionTask(self.kind, self.strength, image, self.donor)


def last_trials(session: Session, night: dt.date) -> abc.Mapping[str, dt.date]:
    """Return the last trial of each kind and image type before a night.

    Parameters
    ----------
    session : Session
    night : date

    Returns
    -------
    mapping of str to date
    """
    rows = db.operations.injection_results(session, night - MEMORY, night - dt.timedelta(days=1))
    return {name: row.night for row in rows for name in (row.kind, row.image_type)}


@dataclass(frozen=True)
class InjectionPlan:
    """Tasks of a night: each kind and each image type once, then again while time remains.

    Kinds and types without a trial for the longest time come first.
    """

    night: dt.date
    images: tuple[NominalImage, ...]
    last_trials: abc.Mapping[str, dt.date]

    @cached_property
    def options(self) -> abc.Mapping[str, abc.Sequence[InjectionTask]]:
        """Possible tasks of each kind."""
        options = defaultdict[str, list[InjectionTask]](list)
        for image in self.images:
            for kind in INJECTED_KINDS:
                options[kind] += self.possible_tasks(kind, image)
        return {kind: tasks for kind, tasks in options.items() if tasks}

    @property
    def beyond(self) -> tuple[str, ...]:
        """Kinds of the instrument files that cannot be injected this night."""
        kinds = {fault.name for image in self.images for fault in image.instrument.faults}
        return tuple(sorted(kinds - self.options.keys()))

    @cached_property
    def tasks(self) -> tuple[InjectionTask, ...]:
        """Tasks in order; those with the same file follow each other."""
        rng = np.random.default_rng(self.night.toordinal())
        image_types = {image.image_type for image in self.images}
        planned: list[InjectionTask] = []
        trials, load = Counter[str](), Counter[Path]()
        for _ in range(ROUNDS):
            tasks = list[InjectionTask]()
            for kind in self.order_by_age(self.options, rng):
                options = [task for task in self.options[kind] if task not in planned]
                tasks += choose_task(options, trials, load, rng)
            for image_type in self.order_by_age(image_types, rng):
                if not trials[image_type]:
                    options = [
                        task
                        for of_kind in self.options.values()
                        for task in of_kind
                        if task.image.image_type == image_type
                    ]
                    tasks += choose_task(options, trials, load, rng)
            by_file = defaultdict[Path, list[InjectionTask]](list)
            for task in tasks:
                by_file[task.image.path].append(task)
            planned += [task for group in by_file.values() for task in group]
        return tuple(planned)

    def order_by_age(self, names: abc.Iterable[str], rng: np.random.Generator) -> list[str]:
        """Return names by the age of their last trial, the oldest first, else at random.

        Parameters
        ----------
        names : iterable of str
            Kinds or image types.
        rng : Generator

        Returns
        -------
        list of str
        """
        shuffled = rng.permutation(sorted(names))
        return sorted(map(str, shuffled), key=lambda name: self.last_trials.get(name, dt.date.min))

    def possible_tasks(self, kind: str, image: NominalImage) -> list[InjectionTask]:
        """Return the tasks of one kind with one image.

        Parameters
        ----------
        kind : str
        image : NominalImage

        Returns
        -------
        list of InjectionTask
        """
        fault, row = simulator.FAULTS[kind], image.finding.extension
        faults = image.instrument.faults
        kinds = {entry.name for entry in faults if row.frame_class in entry.classes}
        simulated = {chip for entry in simulator.FAULTS.values() for chip in entry.chips}
        is_elsewhere = row.chip in simulated and row.chip not in fault.chips
        donors = self.find_donors(kind, image)
        if kind not in kinds or is_elsewhere or not donors:
            return []
        strengths = fault.classes.get(image.image_class, ())
        return [
            InjectionTask(kind, strength, image, donor)
            for strength in STRENGTHS
            if strength in strengths
            for donor in donors
        ]

    def find_donors(self, kind: str, image: NominalImage) -> abc.Sequence[NominalImage | None]:
        """Return the donor images for a fault.

        Parameters
        ----------
        kind : str
        image : NominalImage

        Returns
        -------
        sequence of NominalImage or None
            [None] if the fault needs no donor; empty if there is none.
        """
        if kind in simulator.INJECTABLE:
            return [None]
        if kind in simulator.FILE_FAULTS:
            return [None] if kind != "chip_missing" or self.find_siblings(image) else []
        if kind == WRONG_GAIN:
            return [None] if image.other_modes else []
        if kind in OTHER_CHIP:
            return self.find_siblings(image)
        candidates = self._by_format.get(image.pixel_format, ())
        return [donor for donor in candidates if is_donor(kind, donor, image)][:1]

    def find_siblings(self, image: NominalImage) -> list[NominalImage]:
        """Return the other images of a file, if all have the same shape."""
        siblings = [member for member in self._by_path[image.path] if member.number != image.number]
        rows = [member.finding.extension for member in (image, *siblings)]
        return siblings if len({(row.ny, row.nx) for row in rows}) == 1 else []

    @cached_property
    def _by_path(self) -> abc.Mapping[Path, abc.Sequence[NominalImage]]:
        groups = defaultdict[Path, list[NominalImage]](list)
        for image in self.images:
            groups[image.path].append(image)
        return groups

    @cached_property
    def _by_format(self) -> abc.Mapping[tuple[str, ...], abc.Sequence[NominalImage]]:
        groups = defaultdict[tuple[str, ...], list[NominalImage]](list)
        for image in self.images:
            groups[image.pixel_format].append(image)
        return groups


def choose_task(
    options: abc.Sequence[InjectionTask],
    trials: Counter[str],
    load: Counter[Path],
    rng: np.random.Generator,
) -> list[InjectionTask]:
    """Choose a task at random, of the least tried image types and the files in use.

    Parameters
    ----------
    options : sequence of InjectionTask
    trials : Counter of str
        Tasks by strength and kind, and by image type; the chosen one is added.
    load : Counter of Path
        Tasks by file; the chosen one is added.
    rng : Generator

    Returns
    -------
    list of InjectionTask
        Empty without options.
    """

    def cost(task: InjectionTask) -> tuple[int, int, bool]:
        return (
            trials[f"{task.kind} {task.strength}"],
            trials[task.image.image_type],
            not (0 < load[task.image.path] < TRIALS_PER_FILE),
        )

    if not options:
        return []
    least = min(map(cost, options))
    best = [task for task in options if cost(task) == least]
    task = best[int(rng.integers(len(best)))]
    trials.update([f"{task.kind} {task.strength}", task.image.image_type])
    load.update([task.image.path])
    return [task]


def is_donor(kind: str, donor: NominalImage, image: NominalImage) -> bool:
    """Return True if an image's pixels under another one's header make a fault.

    Parameters
    ----------
    kind : str
        Of fault.
    donor, image : NominalImage

    Returns
    -------
    bool
    """
    source, target = donor.finding.extension, image.finding.extension
    if kind == "frame_repeated":
        earlier, later = donor.finding.frame.observed_at, image.finding.frame.observed_at
        return source.setup == target.setup and bool(earlier and later and earlier < later)
    if kind == "mislabelled":
        return source.frame_class != target.frame_class
    is_same_setting = source.wavelength_nm == target.wavelength_nm
    if kind == "setting_wrong":
        return source.image_type == target.image_type and not is_same_setting
    image_class = "arc" if kind == "arc_in_flat" else "flat"
    is_dispersed = is_same_setting and target.wavelength_nm is not None
    return donor.image_class == image_class and is_dispersed
