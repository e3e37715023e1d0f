"""One frame as closely as what is stored of it allows: what a page about it shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from embeddings.index import nearest
from qc import db
from qc.core.enums import LabelName
from qc.db.embeddings import EmbeddingFilter
from qc.db.findings import Finding
from qc.db.models import ExtensionRow, FrameRow, LabelRow
from qc.detection.decision import limits_for, sample_words
from qc.detection.metrics import METRICS
from qc.errors import UnknownFrameError
from qc.io.fits import Card, read_cards, read_content
from qc.io.read_frame import MAX_BYTES
from qc.project import Project
from qc.reports.extension_figures import telling_metric
from qc.review.pixels import find_source
from qc.summaries.night import kinds_of, standing

MOST_CARDS = 20_000


@dataclass(frozen=True)
class ExtensionLink:
    """Another extension, to be gone to."""

    name: str
    number: int
    observed_at: datetime | None
    night: date | None
    status: str = ""
    label: str = ""


@dataclass(frozen=True)
class LabelHistoryEntry:
    """What somebody said of an extension.

    Attributes
    ----------
    undone_by : str
        Empty where it was not.
    """

    label: str
    kind: str
    who: str
    at: datetime
    note: str
    undone_by: str
    counts: bool


@dataclass(frozen=True)
class MetricComparison:
    """A detector number, beside what its references have.

    Attributes
    ----------
    shown : str
        With its unit.
    z : float or None
        In robust standard deviations of the references; None without enough of them.
    alarm : float or None
        The |z| above which it is anomalous; None where it has no limit.
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
    telling : str
        The detector number that tells most about such an image; empty if it was not measured.
    nearest : Link or None
        The reference that the verdict found most like it.
    before, after : Link or None
        The images of the same setup taken just before and after.
    kinds : tuple of (str, str)
        The faults that may be named, and a sentence on each.
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
    judged_at: datetime
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
    nearest: ExtensionLink | None
    before: ExtensionLink | None
    after: ExtensionLink | None
    kinds: tuple[tuple[str, str], ...]

    @property
    def label(self) -> LabelHistoryEntry | None:
        """Return the label that counts."""
        return next((one for one in self.said if one.counts), None)


@dataclass(frozen=True)
class FrameDetail:
    """A frame with all its extensions.

    Attributes
    ----------
    trouble : str
        What is amiss with its file on disk, as far as size and time tell; empty for nothing.
    """

    name: str
    instrument: str
    observed_at: datetime | None
    night: date | None
    exposure_s: float | None
    template: str
    template_number: int | None
    template_size: int | None
    path: str
    sha256: str
    trouble: str
    extensions: tuple[ExtensionDetail, ...]

    def extension(self, number: int | None) -> ExtensionDetail:
        """Return an extension by its HDU number; the most doubtful where no number is given.

        Raises
        ------
        UnknownFrame
            If there is no such extension.
        """
        if number is None:
            return max(self.extensions, key=lambda one: one.score)
        for one in self.extensions:
            if one.number == number:
                return one
        numbers = " and ".join(str(one.number) for one in self.extensions)
        raise UnknownFrameError(f"{self.name}: has extension {numbers}, not {number}")


def read_frame_view(project: Project, session: Session, name: str) -> FrameDetail:
    """Return what is stored of the newest frame of an archive name.

    Raises
    ------
    UnknownFrame
        If no processed frame has this archive name.
    """
    found = findings_of_frame(session, name)
    frame = found[0].frame
    said = db.labels.labels_of(session, [one.extension.id for one in found])
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
        trouble=_trouble(frame),
        extensions=tuple(
            _closeup(project, session, one, said.get(one.extension.id, ())) for one in found
        ),
    )


def findings_of_frame(session: Session, name: str) -> list[Finding]:
    """Return the judged extensions of the newest frame of an archive name, and of no path.

    Raises
    ------
    UnknownFrame
        If no processed frame has this archive name.
    """
    source = find_source(session, name)
    frame_id = session.get_one(ExtensionRow, source.extension_id).frame_id
    ids = select(ExtensionRow.id).where(ExtensionRow.frame_id == frame_id)
    found = db.findings.findings_with(session, session.scalars(ids.order_by("number")).all())
    if not found:
        raise UnknownFrameError(f"{name}: none of its extensions was judged")
    return found


def finding_of(session: Session, name: str, number: int | None) -> Finding:
    """Return one judged extension of the newest frame of an archive name.

    Raises
    ------
    UnknownFrame
        If there is none.
    """
    source = find_source(session, name, number)
    found = db.findings.findings_with(session, [source.extension_id])
    if not found:
        raise UnknownFrameError(f"{source.label}: was not judged")
    return found[0]


def _trouble(frame: FrameRow) -> str:
    try:
        status = Path(frame.path).stat()
    except OSError:
        return "The file is not there any more; pictures show what was kept of it."
    if (status.st_size, status.st_mtime_ns) != (frame.file_bytes, frame.modified_ns):
        return (
            "The file has another size or time than when it was processed; its pixels are shown "
            "only if they are still the same."
        )
    return ""


def _closeup(
    project: Project, session: Session, finding: Finding, said: Sequence[LabelRow]
) -> ExtensionDetail:
    extension, verdict = finding.extension, finding.verdict
    before, after = (
        _link(session, db.findings.next_alike(session, finding, later=later))
        for later in (False, True)
    )
    return ExtensionDetail(
        id=extension.id,
        number=extension.number,
        chip=extension.chip,
        image_type=extension.image_type,
        what=_what(project, finding),
        setup=extension.setup.words,
        ny=extension.ny,
        nx=extension.nx,
        pixels_sha256=extension.pixels_sha256,
        standing=str(standing(finding)),
        status=str(verdict.status),
        score=verdict.score,
        reasons=tuple(verdict.reasons),
        judged_at=verdict.judged_at,
        fingerprint=finding.fingerprint,
        thresholds_digest=verdict.thresholds_digest,
        merge_height=verdict.merge_height,
        threshold=verdict.threshold,
        residual=verdict.residual,
        references=sample_words(verdict.reference_size),
        widened=verdict.widened,
        promised_light=extension.promised_light,
        predicted_kind=verdict.predicted_kind or "",
        kind_probability=verdict.kind_probability,
        measures=_measures(project, finding),
        telling=telling_metric(finding),
        said=_log(said),
        nearest=_link(session, verdict.nearest_id),
        before=before,
        after=after,
        kinds=_kinds(project, finding),
    )


def _what(project: Project, finding: Finding) -> str:
    """Say what an image is of, as the instrument's people do."""
    for instrument in project.instruments:
        for kind in kinds_of(instrument) if instrument.name == finding.frame.instrument else ():
            if kind.image_type == finding.extension.image_type:
                return kind.name
    return finding.extension.frame_class


def _kinds(project: Project, finding: Finding) -> tuple[tuple[str, str], ...]:
    return tuple(
        (kind.name, kind.sentence)
        for instrument in project.instruments
        if instrument.name == finding.frame.instrument
        for kind in instrument.fault_kinds(finding.extension.frame_class)
    )


def _measures(project: Project, finding: Finding) -> tuple[MetricComparison, ...]:
    """List all that was measured, the furthest from the references first."""
    alarms = _alarms(project, finding)
    values, z = finding.extension.metrics, finding.verdict.z
    found = [
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
    return tuple(sorted(found, key=lambda one: -abs(one.z or 0.0)))


def _alarms(project: Project, finding: Finding) -> dict[str, float]:
    """Return the limits in force; the page must be had even where there are none."""
    night = finding.frame.night or date.max
    known = project.thresholds.entries.get(finding.extension.image_type, ())
    valid = [one for one in known if one.encoder == finding.fingerprint and one.since <= night]
    if not valid:
        return {}
    limits = limits_for(valid[-1], finding.verdict.reference_size)
    return {name: one.alarm for name, one in limits.metrics.items()}


def _log(said: Sequence[LabelRow]) -> tuple[LabelHistoryEntry, ...]:
    """Return all that was said, the newest first; what undoes another is told with it."""
    undoing = {row.undoes_id: row for row in said if row.undoes_id}
    counts = db.labels.standing(said)
    return tuple(
        LabelHistoryEntry(
            label=str(row.label),
            kind=row.kind,
            who=row.who,
            at=row.at,
            note=row.note,
            undone_by=undoing[row.id].who if row.id in undoing else "",
            counts=row is counts,
        )
        for row in reversed(said)
        if not row.undoes_id
    )


# --- what is beside it ----------------------------------------------------------------------------


def _link(session: Session, extension_id: int | None) -> ExtensionLink | None:
    """Return where an extension is, if it is still stored."""
    if extension_id is None:
        return None
    query = (
        select(FrameRow.name, ExtensionRow.number, FrameRow.observed_at, FrameRow.night)
        .join(ExtensionRow.frame)
        .where(ExtensionRow.id == extension_id)
    )
    row = session.execute(query).first()
    return ExtensionLink(row.name, row.number, row.observed_at, row.night) if row else None


@dataclass(frozen=True)
class NearestLabelled:
    """An image most like another, of those that people called bad.

    Attributes
    ----------
    distance : float
        Cosine distance.
    """

    link: ExtensionLink
    distance: float
    kind: str
    note: str


def nearest_bad(session: Session, finding: Finding) -> NearestLabelled | None:
    """Return the image of the same type most like this one that people call bad; None for none."""
    own = db.embeddings.find_embedding(session, finding.extension.id, finding.fingerprint)
    if own is None:
        return None
    bad = db.embeddings.vectors(
        session,
        finding.fingerprint,
        EmbeddingFilter((finding.extension.image_type,), left_out=finding.frame.id),
        called=LabelName.BAD,
    )
    ids, distances = nearest(own, bad, 1)
    found = db.findings.findings_with(session, ids.tolist())
    if not found:
        return None
    [one] = found
    assert one.label is not None  # it was chosen for it
    return NearestLabelled(
        ExtensionLink(
            one.frame.name,
            one.extension.number,
            one.frame.observed_at,
            one.frame.night,
            str(one.verdict.status),
            str(one.label.label),
        ),
        float(distances[0]),
        one.label.kind,
        one.label.note,
    )


# --- its header -----------------------------------------------------------------------------------


def read_header(session: Session, name: str, wanted: str = "") -> tuple[Card, ...]:
    """Return the header cards of a frame's file in which some words stand, whatever their case.

    Raises
    ------
    UnknownFrame
        If no processed frame has this archive name.
    FrameError
        If its file is gone or cannot be read.
    """
    path = Path(find_source(session, name).path)
    words = wanted.casefold().split()
    cards = []
    for card in read_cards(read_content(path, MAX_BYTES)):
        text = f"{card.keyword} {card.value} {card.comment}".casefold()
        if all(word in text for word in words):
            cards.append(card)
        if len(cards) == MOST_CARDS:
            break
    return tuple(cards)
