"""One night as a person would ask after it: what came, what did not, what stands apart."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from math import comb

from sqlalchemy.orm import Session

from qc import db
from qc.core.enums import FrameState, LabelName
from qc.core.verdict import Status
from qc.db.findings import Finding
from qc.db.models import FrameRow
from qc.io.instruments import Calibration, Instrument, Layout, OpticalMode
from qc.labels import spot_check
from qc.labels.spot_check import CONFIDENCE, AcceptanceBound
from qc.monitoring.completeness import MissingCalibration, find_absences

HISTORY_NIGHTS = 60
SEEN_WITHIN = timedelta(days=30)  # an image type not had for longer is not missed

Newest = Mapping[tuple[str, str], datetime]  # of instrument and image type


class ExtensionStanding(StrEnum):
    """Where an image type stands tonight, a person's word included; the gravest first."""

    ANOMALOUS = "anomalous"
    ABSENT = "absent"
    UNDECIDED = "undecided"
    WARNING = "warning"
    NOMINAL = "nominal"


@dataclass(frozen=True)
class CalibrationKind:
    """What an instrument takes on one chip: an image type, and its place in the matrix.

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


@dataclass(frozen=True)
class MatrixCell:
    """One image type on one chip tonight.

    Attributes
    ----------
    image_types : tuple of str
        More than one only where a chip is read through two ports.
    absent : tuple of str
        Those of them that were expected and did not come.
    partly_absent : int
        Setups and parts of sets that did not come of those that did.
    score : float or None
        The worst of the night; None without frames.
    references : int or None
        Fewest that a verdict of the night was reached with; None without frames.
    age : timedelta
        Of the newest frame ever seen: at the end of the night, or at the time of asking.
    """

    image_types: tuple[str, ...]
    absent: tuple[str, ...]
    partly_absent: int
    standing: ExtensionStanding
    score: float | None
    frames: int
    anomalous: int
    labelled: int
    references: int | None
    age: timedelta
    anchor: str


@dataclass(frozen=True)
class MatrixRow:
    """One kind of calibration; a cell is None where the chip has not had it lately."""

    name: str
    lamp: str
    cells: tuple[MatrixCell | None, ...]


@dataclass(frozen=True)
class Matrix:
    """All chips of an instrument by all kinds of calibration that it has had lately."""

    instrument: str
    ends: datetime
    chips: tuple[str, ...]
    rows: tuple[MatrixRow, ...]


@dataclass(frozen=True)
class AnomalyGroup:
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
        return any(standing(one) is ExtensionStanding.ANOMALOUS for one in self.findings)


@dataclass(frozen=True)
class SpotCheckSample:
    """The night's nominal extensions that were drawn by chance, and what people said of them.

    Attributes
    ----------
    findings : tuple of Finding
        Those of one setup stand together.
    population : int
        How many were judged nominal when they came, from which was drawn.
    answers : tuple of LabelName
        Of those that people have looked at.
    statements : tuple of Statement
        What all answers of the last 90 days prove, by image type.
    """

    findings: tuple[Finding, ...]
    population: int
    answers: tuple[LabelName, ...]
    statements: tuple[AcceptanceBound, ...]

    @property
    def bad(self) -> int:
        """Count those that people called bad."""
        return self.answers.count(LabelName.BAD)

    @property
    def missed_at_most(self) -> int:
        """Bound the anomalies in the population if none is in the sample."""
        return missed_at_most(self.population, len(self.findings))


@dataclass(frozen=True)
class NightSummary:
    """What is known of one night.

    Attributes
    ----------
    evening : date
        The day on which it began.
    ends : datetime
        When it is over for every instrument.
    kinds : tuple of Kind
        All that the instruments take.
    history : tuple of Finding
        Of the last 60 nights, this one included, oldest first.
    matrices : tuple of Matrix
        Of the instruments that had a frame lately; the others are `idle`.
    strays : mapping of str to int
        Image types judged tonight that no instrument file describes any more.
    absences : tuple of Absence
        What should have come by the time of the report and did not.
    unread : tuple of FrameRow
        Files that failed or were skipped.
    """

    evening: date
    ends: datetime
    kinds: tuple[CalibrationKind, ...]
    history: tuple[Finding, ...]
    matrices: tuple[Matrix, ...]
    idle: tuple[str, ...]
    events: tuple[AnomalyGroup, ...]
    absences: tuple[MissingCalibration, ...]
    strays: Mapping[str, int]
    unread: tuple[FrameRow, ...]
    sample: SpotCheckSample

    @property
    def names(self) -> Mapping[str, str]:
        """Say what people call each image type."""
        return {kind.image_type: kind.name for kind in self.kinds}

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """List the extensions judged tonight."""
        return tuple(one for one in self.history if one.frame.night == self.evening)

    @cached_property
    def standings(self) -> Counter[ExtensionStanding]:
        """Count the extensions by standing, and what is absent: a whole arm is one."""
        counts = Counter(standing(one) for one in self.findings)
        counts[ExtensionStanding.ABSENT] = sum(not one.is_mended for one in self.absences)
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
    def failed(self) -> tuple[FrameRow, ...]:
        """List the files that could not be judged."""
        return tuple(row for row in self.unread if row.state == FrameState.FAILED)

    @property
    def skipped(self) -> tuple[FrameRow, ...]:
        """List the files that are not ours to judge."""
        return tuple(row for row in self.unread if row.state == FrameState.SKIPPED)


def read_night(
    session: Session,
    evening: date,
    instruments: Sequence[Instrument],
    now: datetime | None = None,
) -> NightSummary:
    """Return all that is known of a night.

    Parameters
    ----------
    now : datetime, optional
        Aware; what is not yet due by then is not absent. The end of the night, where absent.
    """
    first = evening - timedelta(days=HISTORY_NIGHTS - 1)
    history = tuple(db.findings.findings(session, first, evening))
    tonight = tuple(one for one in history if one.frame.night == evening)
    events = _events(tonight)
    ends = max(one.night_ends(evening) for one in instruments)
    absences = find_absences(session, evening, instruments, now or ends)
    newest = _newest(history)
    matrices = [matrix_of(one, evening, newest, tonight, events, absences) for one in instruments]
    kinds = tuple(kind for one in instruments for kind in kinds_of(one))
    return NightSummary(
        evening=evening,
        ends=ends,
        kinds=kinds,
        history=history,
        matrices=tuple(matrix for matrix in matrices if matrix.rows),
        idle=tuple(matrix.instrument for matrix in matrices if not matrix.rows),
        events=events,
        absences=absences,
        strays=_strays(tonight, kinds),
        unread=_unread(session, matrices),
        sample=_sample(session, evening, tonight),
    )


def standing(finding: Finding) -> ExtensionStanding:
    """Say where an extension stands: a person's newest word outranks the verdict."""
    if finding.label is not None:
        return (
            ExtensionStanding.ANOMALOUS
            if finding.label.label == LabelName.BAD
            else ExtensionStanding.NOMINAL
        )
    if finding.verdict.status == Status.NOMINAL and finding.verdict.reasons:
        return ExtensionStanding.WARNING
    return ExtensionStanding(finding.verdict.status.lower())


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


def kinds_of(instrument: Instrument) -> tuple[CalibrationKind, ...]:
    """List what an instrument can take, in the order of its file, each image type once."""
    kinds = {
        kind.image_type: kind
        for calibration in instrument.calibrations
        for mode in (OpticalMode("", ()), *instrument.modes)
        for layout in instrument.layouts
        for kind in _kinds_of_layout(instrument, calibration, mode, layout)
    }
    return tuple(kinds.values())


def _kinds_of_layout(
    instrument: Instrument, calibration: Calibration, mode: OpticalMode, layout: Layout
) -> list[CalibrationKind]:
    arm = instrument.arms[layout.arm]
    names = [instrument.image_type(calibration, mode, arm, one.number) for one in layout.sections]
    shown = mode.code if calibration.light else ""
    return [
        CalibrationKind(name, instrument.name, shown, calibration, section.chip, frozenset(names))
        for name, section in zip(names, layout.sections, strict=True)
    ]


def by_image_type(findings: Iterable[Finding]) -> Mapping[str, Sequence[Finding]]:
    """Group findings by image type, in their order."""
    found: dict[str, list[Finding]] = defaultdict(list)
    for one in findings:
        found[one.extension.image_type].append(one)
    return found


# --- the matrix -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _MatrixBuilder:
    """What fills the cells of a matrix.

    Attributes
    ----------
    newest : mapping of image type to datetime
        When each was had last, those of the last 30 days only.
    anchors : mapping of image type to str
        Of the gravest event of each.
    """

    now: datetime
    newest: Mapping[str, datetime]
    tonight: Mapping[str, Sequence[Finding]]
    anchors: Mapping[str, str]
    absences: Sequence[MissingCalibration]

    def is_absent(self, kind: CalibrationKind) -> bool:
        """Say whether it should have come and did not come at all."""
        return kind.image_type not in self.tonight and any(
            kind.image_type in one.image_types for one in self.absences
        )

    def partly_absent(self, names: set[str]) -> int:
        """Count what is absent of image types that came otherwise: setups, chips, parts of sets."""
        return sum(
            not one.is_mended and not self.tonight.keys().isdisjoint(names & set(one.image_types))
            for one in self.absences
        )


def _newest(history: Iterable[Finding]) -> Newest:
    """Say when each image type of each instrument was had last; the history's oldest come first."""
    return {
        (str(one.frame.instrument), one.extension.image_type): one.frame.observed_at
        for one in history
        if one.frame.observed_at
    }


def matrix_of(
    instrument: Instrument,
    night: date,
    newest: Newest,
    tonight: Sequence[Finding],
    events: Sequence[AnomalyGroup],
    absences: Sequence[MissingCalibration],
    now: datetime | None = None,
) -> Matrix:
    """Return how an instrument's chips stand in a night.

    Parameters
    ----------
    newest : mapping of (instrument, image type) to datetime
        When each was had last, up to this night.
    tonight : sequence of Finding
        All that were judged of the night.
    now : datetime, optional
        Aware; ages are told of this moment. The end of the night, where absent.
    """
    ends = instrument.night_ends(night)
    own = [one for one in tonight if one.frame.instrument == instrument.name]
    view = _MatrixBuilder(
        now=now or ends,
        newest={
            image_type: at
            for (name, image_type), at in newest.items()
            if name == instrument.name and ends - at <= SEEN_WITHIN
        },
        tonight=by_image_type(own),
        anchors={one.worst.extension.image_type: one.anchor for one in reversed(events)},
        absences=[one for one in absences if one.instrument == instrument.name],
    )
    places: dict[tuple[str, str], list[CalibrationKind]] = defaultdict(list)
    for kind in kinds_of(instrument):
        if kind.image_type in view.newest:
            places[kind.mode, kind.calibration.name].append(kind)
    chips = tuple(instrument.chips)
    rows = tuple(_matrix_row(kinds, chips, view) for kinds in places.values())
    return Matrix(instrument.name, ends, chips, rows)


def _matrix_row(
    kinds: Sequence[CalibrationKind], chips: Sequence[str], view: _MatrixBuilder
) -> MatrixRow:
    on_chip = [[kind for kind in kinds if kind.chip == chip] for chip in chips]
    cells = tuple(_cell(here, view) if here else None for here in on_chip)
    return MatrixRow(kinds[0].name, kinds[0].calibration.lamp or "", cells)


def _cell(kinds: Sequence[CalibrationKind], view: _MatrixBuilder) -> MatrixCell:
    names = tuple(kind.image_type for kind in kinds)
    absent = tuple(kind.image_type for kind in kinds if view.is_absent(kind))
    findings = [one for name in names for one in view.tonight.get(name, ())]
    partly = view.partly_absent(set(names))
    standings = [standing(one) for one in findings]
    standings += [ExtensionStanding.ABSENT] * (len(absent) + partly)
    anchors = [view.anchors[name] for name in names if name in view.anchors]
    return MatrixCell(
        image_types=names,
        absent=absent,
        partly_absent=partly,
        standing=_gravest(standings),
        score=max((one.verdict.score for one in findings), default=None),
        frames=len({one.frame.id for one in findings}),
        anomalous=standings.count(ExtensionStanding.ANOMALOUS),
        labelled=sum(one.label is not None for one in findings),
        references=min((one.verdict.reference_size for one in findings), default=None),
        age=view.now - max(view.newest[name] for name in names),
        anchor=anchors[0] if anchors else f"type-{names[0]}",
    )


def _gravest(standings: Sequence[ExtensionStanding]) -> ExtensionStanding:
    """Return the gravest; not due and not there is as it should be."""
    return min(standings, key=list(ExtensionStanding).index, default=ExtensionStanding.NOMINAL)


# --- what has no place in the matrix --------------------------------------------------------------


def _strays(tonight: Sequence[Finding], kinds: Sequence[CalibrationKind]) -> Mapping[str, int]:
    known = {kind.image_type for kind in kinds}
    return Counter(
        one.extension.image_type for one in tonight if one.extension.image_type not in known
    )


def _unread(session: Session, matrices: Sequence[Matrix]) -> tuple[FrameRow, ...]:
    """Return the night's failed and skipped files, of the instruments that are in use."""
    in_use = [matrix for matrix in matrices if matrix.rows] or matrices
    start = min(matrix.ends for matrix in in_use) - timedelta(days=1)
    end = max(matrix.ends for matrix in in_use)
    rows = db.statistics.unprocessed_between(session, start, end)
    return tuple(row for row in rows if start <= db.statistics.taken_at(row) < end)


# --- what stands apart, and what does not ---------------------------------------------------------


def _events(tonight: Sequence[Finding]) -> tuple[AnomalyGroup, ...]:
    """Group the anomalies of each set, chip and image type; what people closed comes last."""
    groups: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
    for one in tonight:
        template = one.frame.template or one.frame.name
        groups[template, one.extension.chip, one.extension.image_type].append(one)
    events = [_event(group) for group in groups.values() if any(map(_is_anomaly, group))]
    events.sort(key=lambda event: (not event.is_open, -event.worst.verdict.score))
    return tuple(replace(event, anchor=f"event-{n}") for n, event in enumerate(events, start=1))


def _event(group: Sequence[Finding]) -> AnomalyGroup:
    anomalies = sorted(filter(_is_anomaly, group), key=lambda one: -one.verdict.score)
    return AnomalyGroup("", tuple(anomalies), len(group))


def _is_anomaly(finding: Finding) -> bool:
    """Say whether it was judged so or called so; a later good word closes it, but hides nothing."""
    return (
        finding.verdict.status == Status.ANOMALOUS
        or standing(finding) is ExtensionStanding.ANOMALOUS
    )


def _sample(session: Session, evening: date, tonight: Sequence[Finding]) -> SpotCheckSample:
    draws = spot_check.read_draws(session, spot_check.remembered_from(evening), evening)
    own = [one for one in draws if one.night == evening]
    drawn = spot_check.answers_of(own)
    findings = [one for one in tonight if one.extension.id in drawn]
    findings.sort(key=lambda one: str(one.extension.setup))
    answers = tuple(answer for answer in drawn.values() if answer)
    return SpotCheckSample(tuple(findings), len(own), answers, spot_check.statements(draws))
