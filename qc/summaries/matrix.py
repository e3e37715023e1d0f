"""Status matrix: the chips of an instrument by kind of calibration."""

import datetime as dt
from collections import abc, defaultdict
from dataclasses import dataclass
from typing import Protocol

from qc import db, io
from qc.monitoring.missing import MissingCalibration
from qc.summaries.standing import ExtensionStanding, standing_of

SEEN_WITHIN = dt.timedelta(days=30)  # image types without a newer frame are left out

NewestTimes = abc.Mapping[tuple[str, str], dt.datetime]  # by instrument and image type


@dataclass(frozen=True)
class CalibrationKind:
    """Image type of an instrument, with its place in the matrix.

    Attributes
    ----------
    together : frozenset of str
        Image types in a file of this kind.
    """

    image_type: str
    instrument: str
    mode: str
    calibration: io.Calibration
    chip: str
    together: frozenset[str]

    @property
    def name(self) -> str:
        """Return the kind in words: ``D1 flat``."""
        return f"{self.mode} {self.calibration.name}".lstrip()


@dataclass(frozen=True)
class MatrixCell:
    """Image type of one chip in a night.

    Attributes
    ----------
    image_types : tuple of str
        More than one only for a chip that is read through two ports.
    absent : tuple of str
        Expected image types without a frame.
    partly_absent : int
        Missing setups and parts of template sets of the other image types.
    score : float or None
        Highest score; None without frames.
    references : int or None
        Smallest reference set of a verdict; None without frames.
    age : timedelta
        Age of the newest frame of any night.
    anchor : str
        Link target in the report.
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
    age: dt.timedelta
    anchor: str


@dataclass(frozen=True)
class MatrixRow:
    """Kind of calibration; a cell is None for a chip without recent frames."""

    name: str
    lamp: str
    cells: tuple[MatrixCell | None, ...]


@dataclass(frozen=True)
class Matrix:
    """Chips of an instrument by kinds of calibration with recent frames."""

    instrument: str
    ends: dt.datetime
    chips: tuple[str, ...]
    rows: tuple[MatrixRow, ...]


class LinkedGroup(Protocol):
    """Group of anomalies with a link target."""

    @property
    def anchor(self) -> str:
        """Return the link target."""

    @property
    def worst(self) -> db.findings.Finding:
        """Return the image with the highest score."""


def kinds_of(instrument: io.Instrument) -> tuple[CalibrationKind, ...]:
    """Return the image types of an instrument, in the order of its file."""
    kinds: dict[str, CalibrationKind] = {}
    for calibration in instrument.calibrations:
        for mode in (io.OpticalMode("", ()), *instrument.modes):
            for layout in instrument.layouts:
                arm = instrument.arms[layout.arm]
                names = [
                    instrument.compose_image_type(calibration, mode, arm, section.number)
                    for section in layout.sections
                ]
                code = mode.code if calibration.light else ""
                for name, section in zip(names, layout.sections, strict=True):
                    kinds[name] = CalibrationKind(
                        name, instrument.name, code, calibration, section.chip, frozenset(names)
                    )
    return tuple(kinds.values())


def by_image_type(
    findings: abc.Iterable[db.findings.Finding],
) -> abc.Mapping[str, abc.Sequence[db.findings.Finding]]:
    """Return findings by image type, in their order."""
    groups: dict[str, list[db.findings.Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.extension.image_type].append(finding)
    return groups


def newest_times(findings: abc.Iterable[db.findings.Finding]) -> NewestTimes:
    """Return the newest observation by instrument and image type, from findings oldest first."""
    return {
        (str(finding.frame.instrument), finding.extension.image_type): finding.frame.observed_at
        for finding in findings
        if finding.frame.observed_at
    }


@dataclass(frozen=True)
class CellBuilder:
    """Builds the cells of a matrix.

    Attributes
    ----------
    newest : mapping of image type to datetime
        Newest observation, of recent types only.
    findings : mapping of image type to sequence of Finding
        Extensions of the night.
    anchors : mapping of image type to str
        Link target of the worst event.
    """

    now: dt.datetime
    newest: abc.Mapping[str, dt.datetime]
    findings: abc.Mapping[str, abc.Sequence[db.findings.Finding]]
    anchors: abc.Mapping[str, str]
    missing: abc.Sequence[MissingCalibration]

    def build(self, kinds: abc.Sequence[CalibrationKind]) -> MatrixCell:
        """Return the cell of the image types of one chip."""
        names = tuple(kind.image_type for kind in kinds)
        absent = tuple(name for name in names if self.is_absent(name))
        findings = [finding for name in names for finding in self.findings.get(name, ())]
        partly = self.count_partly_absent(set(names))
        standings = [standing_of(finding) for finding in findings]
        standings += [ExtensionStanding.ABSENT] * (len(absent) + partly)
        severity = list(ExtensionStanding).index
        anchors = [self.anchors[name] for name in names if name in self.anchors]
        return MatrixCell(
            image_types=names,
            absent=absent,
            partly_absent=partly,
            standing=min(standings, key=severity, default=ExtensionStanding.NOMINAL),
            score=max((finding.verdict.score for finding in findings), default=None),
            frames=len({finding.frame.id for finding in findings}),
            anomalous=standings.count(ExtensionStanding.ANOMALOUS),
            labelled=sum(finding.label is not None for finding in findings),
            references=min((finding.verdict.reference_size for finding in findings), default=None),
            age=self.now - max(self.newest[name] for name in names),
            anchor=anchors[0] if anchors else f"type-{names[0]}",
        )

    def is_absent(self, image_type: str) -> bool:
        """Return True if an expected image type has no frame."""
        return image_type not in self.findings and any(
            image_type in absence.image_types for absence in self.missing
        )

    def count_partly_absent(self, names: set[str]) -> int:
        """Count missing setups, chips and parts of sets of image types with frames."""
        return sum(
            not absence.is_mended
            and not self.findings.keys().isdisjoint(names & set(absence.image_types))
            for absence in self.missing
        )


def matrix_of(
    instrument: io.Instrument,
    night: dt.date,
    newest: NewestTimes,
    findings: abc.Sequence[db.findings.Finding],
    events: abc.Sequence[LinkedGroup],
    missing: abc.Sequence[MissingCalibration],
    now: dt.datetime | None = None,
) -> Matrix:
    """Return the status matrix of an instrument in a night.

    Parameters
    ----------
    instrument : Instrument
        Instrument definition.
    night : date
        Night.
    newest : mapping of (instrument, image type) to datetime
        Newest observation up to this night.
    findings : sequence of Finding
        Judged extensions of the night.
    events : sequence of LinkedGroup
        Events of the night, worst first: targets of the links.
    missing : sequence of MissingCalibration
        Missing calibrations.
    now : datetime, optional
        Time for the ages, aware. Default: the end of the night.

    Returns
    -------
    Matrix
    """
    ends = instrument.night_ends(night)
    builder = CellBuilder(
        now=now or ends,
        newest={
            image_type: time
            for (name, image_type), time in newest.items()
            if name == instrument.name and ends - time <= SEEN_WITHIN
        },
        findings=by_image_type(
            finding for finding in findings if finding.frame.instrument == instrument.name
        ),
        anchors={event.worst.extension.image_type: event.anchor for event in reversed(events)},
        missing=[absence for absence in missing if absence.instrument == instrument.name],
    )
    places: dict[tuple[str, str], list[CalibrationKind]] = defaultdict(list)
    for kind in kinds_of(instrument):
        if kind.image_type in builder.newest:
            places[kind.mode, kind.calibration.name].append(kind)
    chips = tuple(instrument.chips)
    rows = []
    for kinds in places.values():
        by_chip = [[kind for kind in kinds if kind.chip == chip] for chip in chips]
        cells = tuple(builder.build(group) if group else None for group in by_chip)
        rows.append(MatrixRow(kinds[0].name, kinds[0].calibration.lamp or "", cells))
    return Matrix(instrument.name, ends, chips, tuple(rows))
