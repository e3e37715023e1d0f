"""Details of a frame for its page: verdicts, metrics, labels, neighbours, header."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import db, errors, io
from qc.db.schema import models
from qc.detection import decision
from qc.detection.metrics import METRICS
from qc.project import ProjectContext
from qc.reports.trend_figures import main_metric
from qc.review import extension_links
from qc.review.pixels import find_source
from qc.summaries.matrix import kinds_of
from qc.summaries.standing import standing_of

MAX_CARDS = 20_000


@dataclass(frozen=True)
class LabelHistoryEntry:
    """One label of an extension.

    Attributes
    ----------
    undone_by : str
        Author of the undo; empty if the label was not undone.
    counts : bool
        True for the valid label.
    """

    label: str
    kind: str
    who: str
    at: dt.datetime
    note: str
    undone_by: str
    counts: bool


@dataclass(frozen=True)
class MetricComparison:
    """A metric in comparison with the references.

    Attributes
    ----------
    shown : str
        Value with its unit.
    z : float or None
        Deviation in robust standard deviations of the references; None with too few references.
    alarm : float or None
        Limit on abs(z); None without a limit.
    """

    name: str
    value: float
    shown: str
    unit: str
    meaning: str
    z: float | None
    alarm: float | None


@dataclass(frozen=True)
class ExtensionDetail:
    """One detector's image of a frame.

    Attributes
    ----------
    what : str
        Kind of image in the instrument's terms.
    telling : str
        Most informative metric for the image type; empty if it was not measured.
    said : tuple of LabelHistoryEntry
        All labels, newest first.
    nearest : ExtensionLink or None
        Nearest reference of the verdict.
    before, after : ExtensionLink or None
        Previous and next extension of the same setup.
    kinds : tuple of (str, str)
        Possible fault kinds, each with a sentence.
    """

    id: int
    number: int
    chip: str
    image_type: str
    what: str
    setup: str
    ny: int
    nx: int
    pixels_sha256: str
    standing: str
    status: str
    score: float
    reasons: tuple[str, ...]
    judged_at: dt.datetime
    fingerprint: str
    thresholds_digest: str
    merge_height: float | None
    threshold: float
    residual: float | None
    references: str
    widened: str
    promised_light: float
    predicted_kind: str
    kind_probability: float | None
    measures: tuple[MetricComparison, ...]
    telling: str
    said: tuple[LabelHistoryEntry, ...]
    nearest: extension_links.ExtensionLink | None
    before: extension_links.ExtensionLink | None
    after: extension_links.ExtensionLink | None
    kinds: tuple[tuple[str, str], ...]

    @property
    def label(self) -> LabelHistoryEntry | None:
        """Return the valid label."""
        return next((entry for entry in self.said if entry.counts), None)


@dataclass(frozen=True)
class FrameDetail:
    """A frame with all its extensions.

    Attributes
    ----------
    trouble : str
        Problem of its file, by size and time; empty for none.
    """

    name: str
    instrument: str
    observed_at: dt.datetime | None
    night: dt.date | None
    exposure_s: float | None
    template: str
    template_number: int | None
    template_size: int | None
    path: str
    sha256: str
    trouble: str
    extensions: tuple[ExtensionDetail, ...]

    def extension(self, number: int | None) -> ExtensionDetail:
        """Return an extension by number; the one with the highest score without a number.

        Raises
        ------
        UnknownFrameError
            If there is no such extension.
        """
        if number is None:
            return max(self.extensions, key=lambda extension: extension.score)
        for extension in self.extensions:
            if extension.number == number:
                return extension
        numbers = " and ".join(str(extension.number) for extension in self.extensions)
        raise errors.UnknownFrameError(f"{self.name}: has extension {numbers}, not {number}")


def read_frame_detail(project: ProjectContext, session: Session, name: str) -> FrameDetail:
    """Return the details of the newest frame with an archive name.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    session : Session
        For reading.
    name : str
        Archive name.

    Returns
    -------
    FrameDetail

    Raises
    ------
    UnknownFrameError
        If no processed frame has this archive name.
    """
    findings = read_frame_findings(session, name)
    frame = findings[0].frame
    labels = db.labels.labels_of(session, [finding.extension.id for finding in findings])
    return FrameDetail(
        name=frame.name,
        instrument=frame.instrument or "",
        observed_at=frame.observed_at,
        night=frame.night,
        exposure_s=frame.exposure_s,
        template=frame.template or "",
        template_number=frame.template_number,
        template_size=frame.template_size,
        path=frame.path,
        sha256=frame.sha256 or "",
        trouble=describe_file_problem(frame),
        extensions=tuple(
            make_extension_detail(project, session, finding, labels.get(finding.extension.id, ()))
            for finding in findings
        ),
    )


def read_frame_findings(session: Session, name: str) -> list[db.findings.Finding]:
    """Return the judged extensions of the newest frame with an archive name.

    Parameters
    ----------
    session : Session
        For reading.
    name : str
        Archive name; a path is not accepted.

    Returns
    -------
    list of Finding

    Raises
    ------
    UnknownFrameError
        If no processed frame has this archive name.
    """
    source = find_source(session, name)
    frame_id = session.get_one(models.ExtensionRow, source.extension_id).frame_id
    query = sa.select(models.ExtensionRow.id).where(models.ExtensionRow.frame_id == frame_id)
    ids = session.scalars(query.order_by("number")).all()
    findings = db.findings.findings_by_id(session, ids)
    if not findings:
        raise errors.UnknownFrameError(f"{name}: none of its extensions was judged")
    return findings


def find_finding(session: Session, name: str, number: int | None) -> db.findings.Finding:
    """Return a judged extension of the newest frame with an archive name.

    Parameters
    ----------
    session : Session
        For reading.
    name : str
        Archive name.
    number : int or None
        Extension; the first one if None.

    Returns
    -------
    Finding

    Raises
    ------
    UnknownFrameError
        If there is no such extension.
    """
    source = find_source(session, name, number)
    findings = db.findings.findings_by_id(session, [source.extension_id])
    if not findings:
        raise errors.UnknownFrameError(f"{source.label}: was not judged")
    return findings[0]


def describe_file_problem(frame: models.FrameRow) -> str:
    """Return a sentence if a frame's file is missing or changed; empty text otherwise."""
    try:
        status = Path(frame.path).stat()
    except OSError:
        return "The file is not there any more; pictures show the stored block statistics."
    if (status.st_size, status.st_mtime_ns) != (frame.file_bytes, frame.modified_ns):
        return (
            "The file has another size or time than when it was processed; its pixels are shown "
            "only if they are still the same."
        )
    return ""


def make_extension_detail(
    project: ProjectContext,
    session: Session,
    finding: db.findings.Finding,
    labels: Sequence[models.LabelRow],
) -> ExtensionDetail:
    """Return the details of an extension.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    session : Session
        For reading.
    finding : Finding
        Extension with its newest verdict.
    labels : sequence of LabelRow
        All labels, oldest first.

    Returns
    -------
    ExtensionDetail
    """
    extension, verdict = finding.extension, finding.verdict
    before, after = (
        extension_links.find_link(
            session, db.findings.find_neighbour(session, finding, later=later)
        )
        for later in (False, True)
    )
    kinds = (
        (kind.name, kind.sentence)
        for instrument in project.instruments
        if instrument.name == finding.frame.instrument
        for kind in instrument.fault_kinds(extension.frame_class)
    )
    return ExtensionDetail(
        id=extension.id,
        number=extension.number,
        chip=extension.chip,
        image_type=extension.image_type,
        what=describe_kind(project, finding),
        setup=extension.setup.description,
        ny=extension.ny,
        nx=extension.nx,
        pixels_sha256=extension.pixels_sha256,
        standing=str(standing_of(finding)),
        status=str(verdict.status),
        score=verdict.score,
        reasons=tuple(verdict.reasons),
        judged_at=verdict.judged_at,
        fingerprint=finding.fingerprint,
        thresholds_digest=verdict.thresholds_digest,
        merge_height=verdict.merge_height,
        threshold=verdict.threshold,
        residual=verdict.residual,
        references=decision.describe_sample(verdict.reference_size),
        widened=verdict.widened,
        promised_light=extension.promised_light,
        predicted_kind=verdict.predicted_kind or "",
        kind_probability=verdict.kind_probability,
        measures=compare_metrics(project, finding),
        telling=main_metric(finding),
        said=make_label_history(labels),
        nearest=extension_links.find_link(session, verdict.nearest_id),
        before=before,
        after=after,
        kinds=tuple(kinds),
    )


def describe_kind(project: ProjectContext, finding: db.findings.Finding) -> str:
    """Return the kind of an image in the instrument's terms, or its frame class.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    finding : Finding
        Extension.

    Returns
    -------
    str
    """
    for instrument in project.instruments:
        if instrument.name == finding.frame.instrument:
            for kind in kinds_of(instrument):
                if kind.image_type == finding.extension.image_type:
                    return kind.name
    return finding.extension.frame_class


def compare_metrics(
    project: ProjectContext, finding: db.findings.Finding
) -> tuple[MetricComparison, ...]:
    """Return all metrics of an extension, largest deviation from the references first.

    Parameters
    ----------
    project : ProjectContext
        Open project; metrics have no limit if its thresholds have no entry for the extension.
    finding : Finding
        Extension.

    Returns
    -------
    tuple of MetricComparison
    """
    night = finding.frame.night or dt.date.max
    entries = project.thresholds.entries.get(finding.extension.image_type, ())
    valid = [
        entry for entry in entries if entry.encoder == finding.fingerprint and entry.since <= night
    ]
    alarms: dict[str, float] = {}
    if valid:
        limits = decision.widen_limits(valid[-1], finding.verdict.reference_size)
        alarms = {name: limit.alarm for name, limit in limits.metrics.items()}
    values, z = finding.extension.metrics, finding.verdict.z
    comparisons = [
        MetricComparison(
            name=name,
            value=values[name],
            shown=metric.show(values[name]),
            unit=metric.unit,
            meaning=metric.meaning,
            z=z.get(name),
            alarm=alarms.get(name),
        )
        for name, metric in METRICS.items()
        if name in values
    ]
    return tuple(sorted(comparisons, key=lambda comparison: -abs(comparison.z or 0.0)))


def make_label_history(labels: Sequence[models.LabelRow]) -> tuple[LabelHistoryEntry, ...]:
    """Return all labels of an extension, newest first, each with its undo."""
    undoing = {row.undoes_id: row for row in labels if row.undoes_id}
    current = db.labels.current_label(labels)
    return tuple(
        LabelHistoryEntry(
            label=str(row.label),
            kind=row.kind,
            who=row.who,
            at=row.at,
            note=row.note,
            undone_by=undoing[row.id].who if row.id in undoing else "",
            counts=row is current,
        )
        for row in reversed(labels)
        if not row.undoes_id
    )


def search_header(session: Session, name: str, text: str = "") -> tuple[io.Card, ...]:
    """Return the header cards of a frame's file that contain some words.

    Parameters
    ----------
    session : Session
        For reading.
    name : str
        Archive name.
    text : str
        Words, without regard to case; all must occur in a card.

    Returns
    -------
    tuple of Card

    Raises
    ------
    UnknownFrameError
        If no processed frame has this archive name.
    FrameError
        If its file is missing or unreadable.
    """
    path = Path(find_source(session, name).path)
    terms = text.casefold().split()
    cards = []
    for card in io.read_cards(io.read_content(path, io.MAX_BYTES)):
        content = f"{card.keyword} {card.value} {card.comment}".casefold()
        if all(term in content for term in terms):
            cards.append(card)
        if len(cards) == MAX_CARDS:
            break
    return tuple(cards)
