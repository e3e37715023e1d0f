"""The spot-check report: one night on one page, a single file that needs nothing else.

What was found and how it is drawn is decided here; how it is said, in the template.
"""

import base64
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cached_property
from importlib.metadata import version
from math import comb
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings.clustering import average_linkage
from embeddings.preprocess import at_standard_light
from qc import database, plots
from qc.database import EpochRow, ExtensionRow, Finding, FrameRow, FrameState, LabelName, Reference
from qc.errors import ConfigurationError
from qc.frames import Setup
from qc.instruments import Calibration, Instrument, Layout, Mode
from qc.judge import Status
from qc.metrics import METRICS, Metric
from qc.runtime import Runtime
from qc.thresholds import Thresholds

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]
T = TypeVar("T")

TREND_NIGHTS = 60
SEEN_WITHIN = timedelta(days=30)  # an image type not had for longer is not missed
PICTURED_EVENTS = 20  # up to 250 kB each
LISTED = 200  # rows of any one table: who needs more asks for an export
SAMPLE_SIZE = 40  # what can be looked at in two minutes
CONFIDENCE = 0.95
SCATTER_FROM = 24  # references whose block statistics are read for the difference map
FEWEST_FOR_SCATTER = 5
LEAST_SCATTER_ADU = 0.01  # keeps the division finite where references are equal
DIFFERENCE_SIGMA = 20.0  # black and white of every difference map: equal greys, equal meaning
WARN_SIGMA = 5.0  # without a thresholds entry: what is printed hangs on it, no verdict does
MOVED_LISTED = 12  # the furthest
TALLEST_SCORE = 10.0  # higher ones are drawn here, so that the limit at 1 stays visible
MEAN, MAXIMUM = 0, 2  # planes of the block statistics
PLANES = {MEAN: "mean", MAXIMUM: "maximum"}
TOLD_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d)[:_](\d\d)[:_](\d\d)")
TREND_METRICS = {  # the first that is measured tells most about a class of frame
    "bias": ("bias_level", "light_level"),
    "dark": ("bias_level", "light_level"),
    "flat": ("light_ratio", "light_level"),
    "arc": ("light_ratio", "light_level"),
}


class NamedEncoder(Protocol):
    """What the page says of an encoder: the encoder itself or its row."""

    @property
    def name(self) -> str:
        """Say network, weights and stretch in words."""

    @property
    def fingerprint(self) -> str:
        """Return its name and digest."""


class Standing(StrEnum):
    """Where an image type stands tonight, a person's word included; the gravest first."""

    ANOMALOUS = "anomalous"
    ABSENT = "absent"
    UNDECIDED = "undecided"
    WARNING = "warning"
    NOMINAL = "nominal"


@dataclass(frozen=True)
class Cell:
    """One image type on one chip tonight.

    Attributes
    ----------
    image_types : tuple of str
        More than one only where a chip is read through two ports.
    absent : tuple of str
        Those of them that were expected and did not come.
    score : float or None
        The worst of the night; None without frames.
    age : timedelta
        Of the newest frame ever seen, at the end of the night.
    """

    image_types: tuple[str, ...]
    absent: tuple[str, ...]
    standing: Standing
    score: float | None
    frames: int
    anomalous: int
    labelled: int
    age: timedelta
    anchor: str


@dataclass(frozen=True)
class MatrixRow:
    """One kind of calibration; a cell is None where the chip has not had it lately."""

    name: str
    lamp: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Matrix:
    """All chips of an instrument by all kinds of calibration that it has had lately."""

    instrument: str
    ends: datetime
    chips: tuple[str, ...]
    rows: tuple[MatrixRow, ...]

    @property
    def absent(self) -> tuple[str, ...]:
        """List the image types that should have come and did not."""
        cells = [cell for row in self.rows for cell in row.cells if cell]
        return tuple(name for cell in cells for name in cell.absent)


@dataclass(frozen=True)
class IncompleteSet:
    """A template that ended early."""

    template: str
    image_types: tuple[str, ...]
    frames: int
    size: int
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Attributes
    ----------
    address : str
        A ``data:`` URL that holds the picture itself.
    span : str
        From black to white, with the unit; empty for a drawing.
    """

    kind: str
    address: str
    span: str


@dataclass(frozen=True)
class Moved:
    """A detector number that is not where its references are."""

    name: str
    metric: Metric
    value: float
    median: float | None
    z: float


@dataclass(frozen=True)
class Portrait:
    """What there is to see of one anomaly.

    Attributes
    ----------
    pictures : tuple of Picture
        Each `kind` says what it shows: ``mean``, ``nearest mean``, ``difference`` ...
    references : int
        How many there are now; not always as many as at the time of the verdict.
    """

    pictures: tuple[Picture, ...]
    references: int
    nearest: ExtensionRow | None
    moved: tuple[Moved, ...]
    tree: Picture | None


@dataclass(frozen=True)
class Event:
    """Anomalies of one template set, chip and image type: most often one fault.

    Attributes
    ----------
    findings : tuple of Finding
        The worst first.
    frames : int
        Extensions of that chip in the set, anomalous or not.
    """

    anchor: str
    findings: tuple[Finding, ...]
    frames: int

    @property
    def worst(self) -> Finding:
        """Return the one that stands for all."""
        return self.findings[0]

    @property
    def is_open(self) -> bool:
        """Say whether no person has called all of them good."""
        return any(standing(one) is Standing.ANOMALOUS for one in self.findings)


@dataclass(frozen=True)
class Trend:
    """One image type over the last nights; drawn is the worst extension of each night."""

    image_type: str
    chip: str
    setup: Setup
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Thumb:
    """One nominal extension on the wall of the spot check."""

    finding: Finding
    picture: Picture | None


@dataclass(frozen=True)
class Sample:
    """A random choice of the night's nominal extensions, and what it proves if all are good."""

    thumbs: tuple[Thumb, ...]
    population: int
    missed_at_most: int


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes
    ----------
    ends : datetime
        When the night is over for every instrument.
    names : mapping of str to str
        What people call each image type.
    idle : tuple of str
        Instruments that had no frame lately.
    strays : mapping of str to int
        Image types judged tonight that no instrument file describes any more.
    unread : tuple of FrameRow
        Files that failed or were skipped.
    portraits : mapping of anchor to Portrait
        Of the worst events only.
    """

    night: date
    ends: datetime
    generated_at: datetime
    encoder: NamedEncoder
    thresholds_digest: str
    names: Mapping[str, str]
    findings: tuple[Finding, ...]
    matrices: tuple[Matrix, ...]
    idle: tuple[str, ...]
    incomplete: tuple[IncompleteSet, ...]
    strays: Mapping[str, int]
    unread: tuple[FrameRow, ...]
    events: tuple[Event, ...]
    portraits: Mapping[str, Portrait]
    trends: tuple[Trend, ...]
    sample: Sample
    versions: Mapping[str, str]

    @cached_property
    def standings(self) -> Counter[Standing]:
        """Count the extensions by standing, and the absent image types."""
        counts = Counter(standing(one) for one in self.findings)
        counts[Standing.ABSENT] = sum(len(matrix.absent) for matrix in self.matrices)
        return counts

    @property
    def frames(self) -> int:
        """Count the frames that were judged."""
        return len({one.frame.id for one in self.findings})

    @property
    def instruments(self) -> str:
        """Name the instruments that are in use, or else all."""
        return ", ".join([matrix.instrument for matrix in self.matrices] or self.idle)

    @property
    def untrained(self) -> bool:
        """Say whether the encoder has never learnt anything."""
        return "untrained" in self.encoder.name.split("-")

    @property
    def failed(self) -> tuple[FrameRow, ...]:
        """List the files that could not be judged."""
        return tuple(row for row in self.unread if row.state == FrameState.FAILED)

    @property
    def skipped(self) -> tuple[FrameRow, ...]:
        """List the files that are not ours to judge."""
        return tuple(row for row in self.unread if row.state == FrameState.SKIPPED)

    @property
    def other_encoders(self) -> tuple[str, ...]:
        """List encoders other than the present one that judged tonight."""
        return tuple(
            sorted({one.fingerprint for one in self.findings} - {self.encoder.fingerprint})
        )

    @property
    def other_thresholds(self) -> tuple[str, ...]:
        """List digests of thresholds files other than the present one used tonight."""
        used = {one.verdict.thresholds_digest for one in self.findings}
        return tuple(sorted(used - {self.thresholds_digest}))


def build_report(
    session: Session,
    night: date,
    *,
    instruments: Sequence[Instrument],
    encoder: NamedEncoder,
    thresholds: Thresholds | None,
    generated_at: datetime,
    progress: Progress | None = None,
) -> str:
    """Write the spot-check report of a night.

    Parameters
    ----------
    thresholds : Thresholds or None
        Tell which detector numbers are worth printing.
    generated_at : datetime
        Aware; the page shows its age from then on.
    progress : callable, optional
        Told how many parts of the page are drawn, and of how many.

    Returns
    -------
    str
        HTML, complete in itself.
    """
    first = night - timedelta(days=TREND_NIGHTS - 1)
    history = tuple(database.findings(session, first, night))
    tonight = tuple(one for one in history if one.frame.night == night)
    events = _events(tonight)
    matrices = [_matrix(one, night, history, events) for one in instruments]
    by_type = _by_image_type(history)
    kinds = [kind for one in instruments for kind in _kinds(one)]
    trended = [kind for kind in kinds if kind.image_type in by_type]
    epochs = database.epochs_between(session, first, night)
    gallery = _Gallery(session, thresholds)
    counted = _Counted(len(events[:PICTURED_EVENTS]) + len(trended), progress)
    report = Report(
        night=night,
        ends=max(matrix.ends for matrix in matrices),
        generated_at=generated_at.astimezone(UTC),
        encoder=encoder,
        thresholds_digest=thresholds.digest if thresholds else "",
        names={kind.image_type: kind.name for kind in kinds},
        findings=tonight,
        matrices=tuple(matrix for matrix in matrices if matrix.rows),
        idle=tuple(matrix.instrument for matrix in matrices if not matrix.rows),
        incomplete=_incomplete_sets(tonight),
        strays=_strays(tonight, kinds),
        unread=_unread(session, matrices),
        events=events,
        portraits={
            event.anchor: gallery.portrait(event.worst)
            for event in counted.over(events[:PICTURED_EVENTS])
        },
        trends=tuple(
            _trend(kind, by_type[kind.image_type], epochs) for kind in counted.over(trended)
        ),
        sample=gallery.sample(night, tonight),
        versions={"calibration-qc": version("calibration-qc"), "Python": platform.python_version()},
    )
    return _environment().get_template("report.html.j2").render(report=report)


def write_report(
    runtime: Runtime,
    night: date | None,
    now: datetime,
    file: Path | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Write the report of a night as a file; nothing that was there is lost if that fails.

    Parameters
    ----------
    night : date, optional
        The newest that has frames, where absent.
    file : Path, optional
        ``reports/<night>.html`` in the project folder, where absent.

    Raises
    ------
    ConfigurationError
        If no night is given and none has frames.
    """
    with runtime.reads() as session:
        night = night or database.newest_night(session)
        if night is None:
            raise ConfigurationError("no frame has been processed yet: there is no night to report")
        page = build_report(
            session,
            night,
            instruments=runtime.instruments,
            encoder=runtime.encoder,
            thresholds=runtime.thresholds,
            generated_at=now,
            progress=progress,
        )
    file = file or runtime.settings.project / "reports" / f"{night}.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    half_written = file.with_name(f".{file.name}.part")
    half_written.write_text(page, encoding="utf-8")
    half_written.replace(file)
    return file


def standing(finding: Finding) -> Standing:
    """Say where an extension stands: a person's newest word outranks the verdict."""
    if finding.label is not None:
        return Standing.ANOMALOUS if finding.label.label == LabelName.BAD else Standing.NOMINAL
    if finding.verdict.status == Status.NOMINAL and finding.verdict.reasons:
        return Standing.WARNING
    return Standing(finding.verdict.status.lower())


def missed_at_most(population: int, sampled: int) -> int:
    """Bound the anomalies among `population` extensions when none is among `sampled` of them.

    The largest number K for which a clean sample still has a chance of 5 %, that is
    ``C(N - K, n) / C(N, n) >= 0.05``: exact for a finite night, where the well-known rule of
    three (Hanley & Lippman-Hand 1983, JAMA 249, 1743) is for an endless one. See Wright 1991,
    Exact Confidence Bounds when Sampling from Small Finite Universes.
    """
    ways = comb(population, sampled)
    return max(
        k
        for k in range(population - sampled + 1)
        if comb(population - k, sampled) >= (1 - CONFIDENCE) * ways
    )


class _Counted:
    """Hands items on, and tells a listener how many are done."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.progress, self.done = total, progress, 0

    def over(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            yield item
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.total)


def _by_image_type(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = defaultdict(list)
    for one in findings:
        found[one.extension.image_type].append(one)
    return dict(found)


# --- the matrix -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """Where an image type has its place in the matrix.

    Attributes
    ----------
    together : frozenset of str
        The image types that one file of this kind holds.
    """

    image_type: str
    instrument: str
    mode: str
    calibration: Calibration
    chip: str
    together: frozenset[str]

    @property
    def name(self) -> str:
        """Say it to people: ``D1 flat``."""
        return f"{self.mode} {self.calibration.name}".lstrip()


def _kinds(instrument: Instrument) -> tuple[_Kind, ...]:
    """List what an instrument can take, in the order of its file, each image type once."""
    kinds = {
        kind.image_type: kind
        for calibration in instrument.calibrations
        for mode in (Mode("", ()), *instrument.modes)
        for layout in instrument.layouts
        for kind in _kinds_of_layout(instrument, calibration, mode, layout)
    }
    return tuple(kinds.values())


def _kinds_of_layout(
    instrument: Instrument, calibration: Calibration, mode: Mode, layout: Layout
) -> list[_Kind]:
    arm = instrument.arms[layout.arm]
    names = [instrument.image_type(calibration, mode, arm, one.number) for one in layout.sections]
    shown = mode.code if calibration.light else ""
    return [
        _Kind(name, instrument.name, shown, calibration, section.chip, frozenset(names))
        for name, section in zip(names, layout.sections, strict=True)
    ]


@dataclass(frozen=True)
class _NightView:
    """What fills the cells of a matrix.

    Attributes
    ----------
    newest : mapping of image type to datetime
        When each was had last, those of the last 30 days only.
    anchors : mapping of image type to str
        Of the gravest event of each.
    """

    ends: datetime
    newest: Mapping[str, datetime]
    tonight: Mapping[str, Sequence[Finding]]
    anchors: Mapping[str, str]

    def is_absent(self, kind: _Kind) -> bool:
        """Say whether it should have come: its plan says so, or the rest of its file did come."""
        if kind.image_type in self.tonight:
            return False
        days = kind.calibration.expected_every_days
        age = self.ends - self.newest[kind.image_type]
        is_overdue = days is not None and age > timedelta(days=days)
        return is_overdue or not kind.together.isdisjoint(self.tonight)


def _matrix(
    instrument: Instrument, night: date, history: Sequence[Finding], events: Sequence[Event]
) -> Matrix:
    own = [one for one in history if one.frame.instrument == instrument.name]
    ends = _ends(instrument, night)
    last = {one.extension.image_type: one.frame.observed_at for one in own}  # oldest first
    view = _NightView(
        ends=ends,
        newest={name: at for name, at in last.items() if at and ends - at <= SEEN_WITHIN},
        tonight=_by_image_type(one for one in own if one.frame.night == night),
        anchors={one.worst.extension.image_type: one.anchor for one in reversed(events)},
    )
    places: dict[tuple[str, str], list[_Kind]] = defaultdict(list)
    for kind in _kinds(instrument):
        if kind.image_type in view.newest:
            places[kind.mode, kind.calibration.name].append(kind)
    chips = tuple(instrument.chips)
    rows = tuple(_matrix_row(kinds, chips, view) for kinds in places.values())
    return Matrix(instrument.name, ends, chips, rows)


def _ends(instrument: Instrument, night: date) -> datetime:
    """Return when a night's calibrations are over: the next one's begin."""
    midnight = datetime.combine(night, time(), UTC)
    return midnight + timedelta(days=1, hours=instrument.night_starts_utc_hour)


def _matrix_row(kinds: Sequence[_Kind], chips: Sequence[str], view: _NightView) -> MatrixRow:
    on_chip = [[kind for kind in kinds if kind.chip == chip] for chip in chips]
    cells = tuple(_cell(here, view) if here else None for here in on_chip)
    return MatrixRow(kinds[0].name, kinds[0].calibration.lamp or "", cells)


def _cell(kinds: Sequence[_Kind], view: _NightView) -> Cell:
    names = tuple(kind.image_type for kind in kinds)
    absent = tuple(kind.image_type for kind in kinds if view.is_absent(kind))
    findings = [one for name in names for one in view.tonight.get(name, ())]
    standings = [standing(one) for one in findings] + [Standing.ABSENT for _ in absent]
    anchors = [view.anchors[name] for name in names if name in view.anchors]
    return Cell(
        image_types=names,
        absent=absent,
        standing=_gravest(standings),
        score=max((one.verdict.score for one in findings), default=None),
        frames=len({one.frame.id for one in findings}),
        anomalous=standings.count(Standing.ANOMALOUS),
        labelled=sum(one.label is not None for one in findings),
        age=view.ends - max(view.newest[name] for name in names),
        anchor=anchors[0] if anchors else f"type-{names[0]}",
    )


def _gravest(standings: Sequence[Standing]) -> Standing:
    """Return the gravest; not due and not there is as it should be."""
    return min(standings, key=list(Standing).index, default=Standing.NOMINAL)


# --- what did not come whole ----------------------------------------------------------------------


def _incomplete_sets(tonight: Sequence[Finding]) -> tuple[IncompleteSet, ...]:
    sets: dict[tuple[str | None, str], list[Finding]] = defaultdict(list)
    for one in tonight:
        if one.frame.template:
            sets[one.frame.instrument, one.frame.template].append(one)
    found = (_incomplete_set(template, each) for (_, template), each in sets.items())
    return tuple(one for one in found if one.frames < one.size)


def _incomplete_set(template: str, findings: Sequence[Finding]) -> IncompleteSet:
    size = max(one.frame.template_size or 0 for one in findings)
    numbers = {one.frame.template_number for one in findings}
    return IncompleteSet(
        template=template,
        image_types=tuple(sorted({one.extension.image_type for one in findings})),
        frames=len({one.frame.id for one in findings}),
        size=size,
        missing=tuple(n for n in range(1, size + 1) if n not in numbers),
    )


def _strays(tonight: Sequence[Finding], kinds: Sequence[_Kind]) -> Mapping[str, int]:
    known = {kind.image_type for kind in kinds}
    return Counter(
        one.extension.image_type for one in tonight if one.extension.image_type not in known
    )


def _unread(session: Session, matrices: Sequence[Matrix]) -> tuple[FrameRow, ...]:
    """Return the night's failed and skipped files, of the instruments that are in use."""
    in_use = [matrix for matrix in matrices if matrix.rows] or matrices
    start = min(matrix.ends for matrix in in_use) - timedelta(days=1)
    end = max(matrix.ends for matrix in in_use)
    rows = database.unprocessed_between(session, start, end)
    return tuple(row for row in rows if start <= _taken_at(row) < end)


def _taken_at(row: FrameRow) -> datetime:
    """Guess when a file that could not be read was taken: its name tells, or else the disk."""
    told = TOLD_TIME.search(row.name)
    if told is None:
        return datetime.fromtimestamp(row.modified_ns / 1e9, UTC)
    day, *clock = told.groups()
    return datetime.fromisoformat(f"{day}T{':'.join(clock)}+00:00")


# --- the anomalies --------------------------------------------------------------------------------


def _events(tonight: Sequence[Finding]) -> tuple[Event, ...]:
    """Group the anomalies of each set, chip and image type; what people closed comes last."""
    groups: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
    for one in tonight:
        template = one.frame.template or one.frame.name
        groups[template, one.extension.chip, one.extension.image_type].append(one)
    events = [_event(group) for group in groups.values() if any(map(_is_anomaly, group))]
    events.sort(key=lambda event: (not event.is_open, -event.worst.verdict.score))
    return tuple(replace(event, anchor=f"event-{n}") for n, event in enumerate(events, start=1))


def _event(group: Sequence[Finding]) -> Event:
    anomalies = sorted(filter(_is_anomaly, group), key=lambda one: -one.verdict.score)
    return Event("", tuple(anomalies), len(group))


def _is_anomaly(finding: Finding) -> bool:
    """Say whether it was judged so or called so; a later good word closes it, but hides nothing."""
    return finding.verdict.status == Status.ANOMALOUS or standing(finding) is Standing.ANOMALOUS


@dataclass(frozen=True)
class _Looks:
    """How the references of a setup look at standard light: what a difference is measured in.

    Attributes
    ----------
    centre, scatter : (h, w, 3) float32 arrays
        Median and standard deviation of their block statistics, ADU.
    """

    centre: Floats
    scatter: Floats


class _Gallery:
    """Draws tonight's extensions; what a setup's references look like is asked once."""

    def __init__(self, session: Session, thresholds: Thresholds | None) -> None:
        self.session = session
        self.thresholds = thresholds
        self._references: dict[tuple[Setup, str], Reference] = {}
        self._looks: dict[tuple[Setup, str], _Looks | None] = {}

    def portrait(self, finding: Finding) -> Portrait:
        """Show one anomaly beside what it should be like."""
        key = finding.extension.setup, finding.fingerprint
        if key not in self._references:
            self._references[key] = database.reference_of(self.session, finding)
            self._looks[key] = self._look_at(self._references[key])
        reference, looks = self._references[key], self._looks[key]
        nearest = self.session.get(ExtensionRow, finding.verdict.nearest_id or 0)
        return Portrait(
            pictures=self._pictures(finding.extension, nearest, looks),
            references=len(reference.extension_ids),
            nearest=nearest,
            moved=_moved(finding, reference, self.thresholds),
            tree=self._tree(finding, reference),
        )

    def sample(self, night: date, tonight: Sequence[Finding]) -> Sample:
        """Choose nominal extensions at random, the same ones for every reader of the night."""
        nominal = [
            one for one in tonight if one.verdict.status == Status.NOMINAL and one.label is None
        ]
        size = min(SAMPLE_SIZE, len(nominal))
        chosen = np.random.default_rng(night.toordinal()).permutation(len(nominal))[:size]
        by_setup: dict[Setup, list[Finding]] = defaultdict(list)
        for index in sorted(chosen):
            by_setup[nominal[index].extension.setup].append(nominal[index])
        thumbs = [
            thumb for setup in sorted(by_setup, key=str) for thumb in self._thumbs(by_setup[setup])
        ]
        return Sample(tuple(thumbs), len(nominal), missed_at_most(len(nominal), size))

    def _thumbs(self, findings: Sequence[Finding]) -> list[Thumb]:
        """Draw small means of one setup between the same black and white."""
        seen = [self._seen(one.extension) for one in findings]
        means = [None if one is None else _halved(one[..., MEAN]) for one in seen]
        ends = plots.limits(*(mean for mean in means if mean is not None))
        return [
            Thumb(one, None if mean is None else _grey("mean", mean, one.extension, ends))
            for one, mean in zip(findings, means, strict=True)
        ]

    def _seen(self, extension: ExtensionRow) -> Floats | None:
        """Return block statistics above zero at standard light, (h, w, 3), if still kept."""
        statistics = database.block_statistics_of(self.session, extension.id)
        if statistics is None:
            return None
        level = extension.metrics.get("bias_level", extension.zero_adu) - extension.zero_adu
        return at_standard_light(statistics, level, extension.promised_light)

    def _look_at(self, reference: Reference) -> _Looks | None:
        newest = (
            self.session.get(ExtensionRow, one) for one in reference.extension_ids[:SCATTER_FROM]
        )
        seen = [kept for one in newest if one and (kept := self._seen(one)) is not None]
        if len(seen) < FEWEST_FOR_SCATTER:
            return None
        stack = np.stack(seen)  # (m, h, w, 3)
        scatter = stack.std(axis=0, ddof=1)
        floor = np.percentile(scatter, 10, axis=(0, 1)).clip(LEAST_SCATTER_ADU)
        return _Looks(np.median(stack, axis=0), np.maximum(scatter, floor))

    def _pictures(
        self, extension: ExtensionRow, nearest: ExtensionRow | None, looks: _Looks | None
    ) -> tuple[Picture, ...]:
        seen = self._seen(extension)
        beside = self._seen(nearest) if nearest else None
        if seen is None:
            return ()
        planes = [MEAN]
        away = (seen - looks.centre) / looks.scatter if looks else None  # (h, w, 3), in sigma
        if away is not None and _furthest(away, MAXIMUM) > 2 * _furthest(away, MEAN):
            planes.append(MAXIMUM)
        return tuple(
            picture
            for plane in planes
            for picture in _row_of_pictures(plane, seen, beside, away, extension)
        )

    def _tree(self, finding: Finding, reference: Reference) -> Picture | None:
        m = len(reference.extension_ids)
        if m < 2:
            return None
        own = database.embedding_of(self.session, finding.extension.id, finding.verdict.encoder_id)
        merges = average_linkage(np.vstack([reference.embeddings, own]))
        threshold = finding.verdict.threshold
        return _drawing("tree", plots.dendrogram(merges, threshold=threshold, marked=m))


def _row_of_pictures(
    plane: int, seen: Floats, beside: Floats | None, away: Floats | None, extension: ExtensionRow
) -> Iterator[Picture]:
    """Draw one plane of an extension, its nearest reference in the same greys, the difference."""
    own = seen[..., plane]
    near = beside[..., plane] if beside is not None else None
    ends = plots.limits(own) if near is None else plots.limits(own, near)
    yield _grey(PLANES[plane], own, extension, ends)
    if near is not None:
        yield _grey(f"nearest {PLANES[plane]}", near, extension, ends)
    if away is not None:
        yield _difference(f"difference of {PLANES[plane]}", away[..., plane], extension)


def _furthest(away: Floats, plane: int) -> float:
    return float(np.abs(away[..., plane]).max())


def _grey(kind: str, image: Floats, extension: ExtensionRow, ends: tuple[float, float]) -> Picture:
    black, white = ends
    png = plots.thumbnail(
        image,
        zero_adu=0,
        scale_adu=extension.stretch_adu,
        aspect=_aspect(extension),
        vmin=black,
        vmax=white,
    )
    return Picture(kind, _address("image/png", png), f"{black:.0f} to {white:.0f} ADU")


def _difference(kind: str, away: Floats, extension: ExtensionRow) -> Picture:
    png = plots.thumbnail(
        away,
        zero_adu=0,
        scale_adu=3,  # sigma: noise stays a hint
        aspect=_aspect(extension),
        vmin=-DIFFERENCE_SIGMA,
        vmax=DIFFERENCE_SIGMA,
    )
    span = f"{-DIFFERENCE_SIGMA:g} to {DIFFERENCE_SIGMA:g} sigma"
    return Picture(kind, _address("image/png", png), span)


def _aspect(extension: ExtensionRow) -> float:
    """Return height over width on the detector, whatever the binning."""
    bin_x, bin_y = map(int, extension.binning.split("x"))
    return (extension.ny * bin_y) / (extension.nx * bin_x)


def _halved(image: Floats) -> Floats:
    """Average groups of 2 x 2; a last odd row or column is left out."""
    h, w = (length // 2 * 2 for length in image.shape)
    halved: Floats = image[:h, :w].reshape(h // 2, 2, w // 2, 2).mean(axis=(1, 3))
    return halved


def _drawing(kind: str, svg: str) -> Picture:
    # As an image rather than in the page's own text: two drawings' names cannot clash.
    return Picture(kind, _address("image/svg+xml", svg.encode()), "")


def _address(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _moved(
    finding: Finding, reference: Reference, thresholds: Thresholds | None
) -> tuple[Moved, ...]:
    """List the detector numbers beyond their warning limits, the furthest first."""
    warn = _warning_limits(finding, thresholds)
    z, values = finding.verdict.z, finding.extension.metrics
    names = [name for name in warn if name in values and abs(z.get(name, 0)) > warn[name]]
    names.sort(key=lambda name: -abs(z[name]))
    return tuple(
        Moved(name, METRICS[name], values[name], _median(name, reference), z[name])
        for name in names[:MOVED_LISTED]
    )


def _warning_limits(finding: Finding, thresholds: Thresholds | None) -> Mapping[str, float]:
    """Return the warning limits in force; the page must be had even where there are none."""
    night = finding.frame.night or date.max
    known = thresholds.entries.get(finding.extension.image_type, ()) if thresholds else ()
    valid = [e for e in known if e.encoder == finding.fingerprint and e.since <= night]
    if not valid:
        return dict.fromkeys(METRICS, WARN_SIGMA)
    return {name: each.warn for name, each in valid[-1].metrics.items() if name in METRICS}


def _median(name: str, reference: Reference) -> float | None:
    values = [metrics[name] for metrics in reference.metrics if name in metrics]
    return float(np.median(values)) if values else None


# --- the trends -----------------------------------------------------------------------------------


def _trend(kind: _Kind, findings: Sequence[Finding], epochs: Sequence[EpochRow]) -> Trend:
    """Draw the worst score of each night; and a telling number of the setup used most."""
    [(setup, _)] = Counter(one.extension.setup for one in findings).most_common(1)
    alike = _worst_of_each_night(one for one in findings if one.extension.setup == setup)
    events = [
        (datetime.combine(epoch.since, time(), UTC), epoch.why)
        for epoch in epochs
        if epoch.scope in {kind.image_type, kind.instrument}
    ]
    scores = _worst_of_each_night(findings)
    heights = [min(one.verdict.score, TALLEST_SCORE) for one in scores]
    drawings = [_draw_trend("score", scores, heights, "1 = at the limit", events, limit=1.0)]
    for name in _telling_metric(alike):
        measured = [one for one in alike if name in one.extension.metrics]
        values = [one.extension.metrics[name] for one in measured]
        drawings.append(_draw_trend(name, measured, values, METRICS[name].unit, events))
    return Trend(kind.image_type, kind.chip, setup, tuple(drawings))


def _worst_of_each_night(findings: Iterable[Finding]) -> list[Finding]:
    worst: dict[date | None, Finding] = {}
    for one in findings:
        night = one.frame.night
        if night not in worst or one.verdict.score > worst[night].verdict.score:
            worst[night] = one
    return list(worst.values())


def _telling_metric(findings: Sequence[Finding]) -> Sequence[str]:
    newest = findings[-1].extension
    known = TREND_METRICS.get(newest.frame_class, ("bias_level", "light_level"))
    return [name for name in known if name in newest.metrics][:1]


def _draw_trend(
    name: str,
    findings: Sequence[Finding],
    values: Sequence[float],
    unit: str,
    events: Sequence[tuple[datetime, str]],
    *,
    limit: float | None = None,
) -> Picture:
    svg = plots.trend(
        [one.frame.observed_at for one in findings if one.frame.observed_at],
        np.array(values),
        [_STATUSES.get(standing(one), "nominal") for one in findings],
        limit=limit,
        title=name,
        unit=unit,
        events=events,
    )
    return _drawing(name, svg)


_STATUSES = {Standing.ANOMALOUS: "anomalous", Standing.UNDECIDED: "undecided"}


# --- the page -------------------------------------------------------------------------------------


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("qc"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score, "age": _age, "sigma": _sigma, "utc": _utc}
    environment.filters["setup"] = _setup
    environment.globals |= {
        "standing": standing,
        "listed": LISTED,
        "trend_nights": TREND_NIGHTS,
        "confidence": CONFIDENCE,
    }
    return environment


def _score(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _sigma(value: float) -> str:
    return f"{value:+.1f}" if abs(value) < 100 else f"{value:+.0f}"


def _age(value: timedelta) -> str:
    hours = value.total_seconds() / 3600
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"


def _utc(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _setup(value: Setup) -> str:
    """Write a setup without its image type and chip."""
    light = [f"{value.wavelength_nm:g} nm"] if value.wavelength_nm is not None else []
    light += [f"slit {value.slit_arcsec:g} arcsec"] if value.slit_arcsec is not None else []
    return ", ".join([value.binning, value.read_mode, *light, *filter(None, [value.optics])])
