"""What there is to tell people of a notice: in one line, in a table, in pictures.

Everything that was read from a header or a file's name is made harmless here: one line, bounded,
no control characters. The templates escape it for HTML.
"""

import base64
import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from math import floor, log10
from pathlib import Path
from urllib.parse import quote

import numpy as np
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from qc import db
from qc._text import counted
from qc.alerts.grouping import AnomalyTrace, NightImage, cause_of, events_of
from qc.core.enums import NotificationKind, Topic
from qc.db.findings import Finding
from qc.db.models import (
    AlertRow,
    DeliveryRow,
    EmbeddingRow,
    ExtensionRow,
    FrameRow,
    NotificationRow,
    VerdictRow,
)
from qc.detection.decision import WORTH_NAMING
from qc.detection.metrics import METRICS
from qc.io.instruments import Instrument, OpticalMode
from qc.project import Project
from qc.reports.extension_figures import EmbeddedPicture, ExtensionFigures, FigureRenderer
from qc.reports.night import sigma

logger = logging.getLogger(__name__)

LONGEST = 300  # characters of a line
LONGEST_SUBJECT = 160
LISTED = 20  # frames, events or sentences; who needs more looks at the report
NUMBERS_SHOWN = 8
REASONS_SHOWN = 6
NAMED = 3
_BARE = OpticalMode("", ())

_NOUNS = {
    Topic.FILE: ("file that cannot be judged", "files that cannot be judged"),
    Topic.ABSENCE: ("thing that should have come", "things that should have come"),
    Topic.SELF_TEST: ("kind of fault is no longer found", "kinds of fault are no longer found"),
    Topic.DAEMON: ("trouble of the watch", "troubles of the watch"),
}
_CAPTIONS = {
    "mean": "This frame",
    "nearest mean": "Nearest nominal",
    "difference of mean": "Difference",
    "maximum": "This frame, maxima",
    "nearest maximum": "Nearest nominal, maxima",
    "difference of maximum": "Difference of maxima",
    "where": "Where it is odder than good frames get",
}


@dataclass(frozen=True)
class AlertAttributes:
    """What a subscription may ask of an alert; None where the alert is of none in particular."""

    instrument: str | None
    arm: str | None
    image_type: str | None
    score: float


@dataclass(frozen=True)
class NotificationLine:
    """One event in a line, the worst of its images first.

    Attributes
    ----------
    headline : str
        ``3 of 5 biases anomalous, REDU, level +6.2 ADU``.
    """

    findings: tuple[Finding, ...]
    image_types: tuple[str, ...]
    headline: str

    @property
    def worst(self) -> Finding:
        """Return the one that stands for all."""
        return self.findings[0]


@dataclass(frozen=True)
class InlineImage:
    """A picture that travels with the mail.

    Attributes
    ----------
    low, high : str
        What its two ends stand for.
    """

    name: str
    png: bytes
    caption: str
    low: str
    high: str


@dataclass(frozen=True)
class ImageLine:
    """One image in the list of a mail."""

    name: str
    image_type: str
    taken: str
    score: str
    reason: str
    url: str


@dataclass(frozen=True)
class EventLine:
    """One event in the list of a digest."""

    headline: str
    image_types: str
    score: str
    frame: str
    url: str


@dataclass(frozen=True)
class MetricDeviation:
    """A detector number that is beyond its warning limit."""

    name: str
    here: str
    references: str
    sigma: str


@dataclass(frozen=True)
class WorstImage:
    """The worst image of a notice, as much as a mail shows of it."""

    line: ImageLine
    setup: str
    reasons: tuple[str, ...]
    where: str
    pictures: tuple[InlineImage, ...]
    numbers: tuple[MetricDeviation, ...]
    nearest: str


@dataclass(frozen=True)
class AnomalyCounts:
    """Anomalous images by image type and chip: a row for each type, a number for each chip."""

    chips: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class EarlierNotification:
    """Somebody who was told of a notice, and when."""

    address: str
    at: str


@dataclass(frozen=True)
class NotificationContent:
    """All that a mail tells.

    Attributes
    ----------
    facts : mapping of str to str
        Instrument, night and the like, as they are printed.
    words : tuple of str
        Sentences of what is no verdict.
    total : int
        Images, or sentences; the lists are bounded.
    before : tuple of Before
        Those who were told and have not answered.
    file : Path or None
        A page that travels as it is.
    """

    number: int
    topic: Topic
    form: NotificationKind
    subject: str
    headline: str
    facts: Mapping[str, str]
    words: tuple[str, ...] = ()
    total: int = 0
    shown: WorstImage | None = None
    lines: tuple[ImageLine, ...] = ()
    events: tuple[EventLine, ...] = ()
    events_total: int = 0
    counts: AnomalyCounts | None = None
    before: tuple[EarlierNotification, ...] = ()
    url: str = ""
    file: Path | None = None


def plain(text: str, longest: int = LONGEST) -> str:
    """Return a text in one line of bounded length, without anything that is not to be seen.

    Neither line ends, in any of Unicode's ways, nor what turns the direction of writing.
    """
    seen = (" " if _is_unseen(letter) else letter for letter in text[: 4 * longest])
    line = " ".join("".join(seen).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _is_unseen(letter: str) -> bool:
    kind = unicodedata.category(letter)
    return kind.startswith("C") or kind in {"Zl", "Zp"}


# --- alerts as traces and traits ------------------------------------------------------------------


def traces(session: Session, *conditions: ColumnElement[bool]) -> list[AnomalyTrace]:
    """Return the alerts of verdicts that meet some conditions, as far as events are known by."""
    query = (
        select(AlertRow.id, FrameRow, ExtensionRow, VerdictRow, EmbeddingRow.vector)
        .join(VerdictRow, VerdictRow.id == AlertRow.verdict_id)
        .join(ExtensionRow, ExtensionRow.id == VerdictRow.extension_id)
        .join(FrameRow, FrameRow.id == ExtensionRow.frame_id)
        .join(
            EmbeddingRow,
            (EmbeddingRow.extension_id == ExtensionRow.id)
            & (EmbeddingRow.encoder_id == VerdictRow.encoder_id),
        )
        .where(*conditions)
        .order_by(FrameRow.observed_at, ExtensionRow.id)
    )
    return [_trace(*row) for row in session.execute(query)]


def _trace(
    alert_id: int, frame: FrameRow, extension: ExtensionRow, verdict: VerdictRow, vector: np.ndarray
) -> AnomalyTrace:
    causes = [cause_of(each, extension.ny, extension.nx) for each in verdict.reasons]
    probable = (verdict.kind_probability or 0) >= WORTH_NAMING
    return AnomalyTrace(
        alert_id=alert_id,
        frame_id=frame.id,
        observed_at=frame.observed_at or verdict.judged_at,
        image_type=extension.image_type,
        chip=extension.chip,
        template=frame.template or None,
        causes=tuple(each for each in causes if each is not None),
        kind=(verdict.predicted_kind or "") if probable else "",
        stands_apart_by=verdict.merge_height,
        threshold=verdict.threshold,
        encoder_id=verdict.encoder_id,
        embedding=vector,
    )


def seen(session: Session, instrument: str | None, night: date | None) -> list[NightImage]:
    """Return all images of an instrument and night."""
    query = (
        select(FrameRow.id, FrameRow.observed_at, ExtensionRow.chip)
        .join(ExtensionRow.frame)
        .where(FrameRow.instrument == instrument, FrameRow.night == night)
    )
    return [NightImage(id_, at, chip) for id_, at, chip in session.execute(query) if at is not None]


def arms(instruments: Iterable[Instrument]) -> dict[tuple[str, str], str]:
    """Return the arm of each instrument's image types."""
    return {
        (one.name, one.image_type(calibration, mode, one.arms[layout.arm], section.number)): (
            layout.arm
        )
        for one in instruments
        for calibration in one.calibrations
        for mode in (_BARE, *one.modes)
        for layout in one.layouts
        for section in layout.sections
    }


def findings_of(session: Session, alerts: Sequence[AlertRow]) -> list[Finding]:
    """Return the images that alerts are of, the worst first."""
    verdicts = [one.verdict_id for one in alerts if one.verdict_id is not None]
    query = select(VerdictRow.extension_id).where(VerdictRow.id.in_(verdicts))
    found = db.findings.findings_with(session, list(session.scalars(query)))
    return sorted(found, key=lambda one: -one.verdict.score)


# --- in one line ----------------------------------------------------------------------------------


def subject_of(session: Session, notice: NotificationRow, instruments: Sequence[Instrument]) -> str:
    """Return the line that says it all: ``[QC] URB1 2026-11-19: 3 of 5 biases anomalous, REDU``."""
    alerts = notice.alerts
    if notice.topic != Topic.VERDICT:
        return _subject(alerts, notice.night, _words_in_a_line(notice.topic, alerts))
    findings = findings_of(session, alerts)
    if notice.form == NotificationKind.EVENT:
        told = _told(session, findings, instruments)
        return _line(f"{_some(told.image_types)} {notice.night}: {told.headline}")
    frames = len({one.frame.id for one in findings})
    events = len(_events(session, notice))
    words = (
        f"{counted(frames, 'frame', 'frames')} anomalous in {counted(events, 'event', 'events')}"
    )
    if notice.form == NotificationKind.ARCHIVE:
        return _subject(alerts, notice.night, f"of an archive, {words}")
    worst = findings[0]
    worst_words = f"{worst.extension.image_type} {worst.extension.chip}, {_change(session, worst)}"
    return _subject(alerts, notice.night, f"{words}; worst {worst_words}")


def _subject(alerts: Sequence[AlertRow], night: date | None, words: str) -> str:
    names = sorted({one.instrument for one in alerts if one.instrument})
    about = " ".join([*names, *([str(night)] if night else [])])
    return _line(f"{about}: {words}" if about else words)


def _line(words: str) -> str:
    return plain(f"[QC] {words}", LONGEST_SUBJECT)


def _words_in_a_line(topic: Topic, alerts: Sequence[AlertRow]) -> str:
    if len(alerts) == 1:
        return alerts[0].words
    return f"{counted(len(alerts), *_NOUNS[topic])}: {alerts[0].words}"


def _told(
    session: Session, findings: Sequence[Finding], instruments: Sequence[Instrument]
) -> NotificationLine:
    """Put an event in a line; its findings are sorted, the worst first."""
    types = tuple(dict.fromkeys(one.extension.image_type for one in findings))
    chips = tuple(dict.fromkeys(one.extension.chip for one in findings))
    frames = len({one.frame.id for one in findings})
    known = {one.name: one for one in instruments}.get(findings[0].frame.instrument or "")
    named = [known.calibration_of(one) if known else None for one in types]
    names = {one.name if one else "frame" for one in named}
    noun = names.pop() if len(names) == 1 else "frame"
    of = max(frames, _frames_beside(session, findings, types))
    headline = (
        f"{frames} of {counted(of, noun, _plural(noun))} anomalous, {_some(chips)}, "
        f"{_change(session, findings[0])}"
    )
    return NotificationLine(tuple(findings), types, headline)


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith(("s", "x", "ch")) else f"{noun}s"


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return " ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _frames_beside(session: Session, findings: Sequence[Finding], types: Sequence[str]) -> int:
    """Count the frames of the sets concerned, or of the night where they are of no set."""
    frame = findings[0].frame
    sets = {one.frame.template for one in findings}
    whole = [] if not all(sets) else [FrameRow.template.in_(sets)]
    query = (
        select(func.count(func.distinct(FrameRow.id)))
        .join(ExtensionRow, ExtensionRow.frame_id == FrameRow.id)
        .where(
            FrameRow.instrument == frame.instrument,
            FrameRow.night == frame.night,
            ExtensionRow.image_type.in_(types),
            *whole,
        )
    )
    return session.scalar(query) or 0


def _change(session: Session, finding: Finding) -> str:
    """Say what it looks like, and the number that an astronomer would check first."""
    verdict = finding.verdict
    moved = (name for each in verdict.reasons for name in METRICS if _is_of(each, name))
    name = next(moved, None)
    is_named = verdict.predicted_kind and (verdict.kind_probability or 0) >= WORTH_NAMING
    words = [f"looks like {_spelt(verdict.predicted_kind or '')}"] if is_named else []
    words += [_moved_by(session, finding, name)] if name else []
    if words:
        return ", ".join(words)
    first = next(iter(verdict.reasons), "called bad by a person")
    return "unlike its references" if first.startswith("joins its") else first.split(" stands")[0]


def _is_of(reason: str, metric: str) -> bool:
    return reason.startswith(f"{_spelt(metric)} ")


def _spelt(name: str) -> str:
    return name.replace("_", " ")


def _moved_by(session: Session, finding: Finding, name: str) -> str:
    value = finding.extension.metrics.get(name)
    if value is None:
        return _spelt(name)
    metrics = db.findings.reference_of(session, finding).metrics
    usual = [each[name] for each in metrics if name in each]
    if not usual:
        return f"{_spelt(name)} {METRICS[name].show(value)}"
    off = value - float(np.median(usual))
    digits = min(max(0, 1 - floor(log10(abs(off) or 1))), METRICS[name].digits)
    return f"{_spelt(name).removeprefix('bias ')} {off:+.{digits}f} {METRICS[name].unit}".rstrip()


# --- all of it ------------------------------------------------------------------------------------


def read_story(
    session: Session, notice: NotificationRow, project: Project, owed_at: datetime | None = None
) -> NotificationContent:
    """Return all that a mail tells of a notice.

    Parameters
    ----------
    owed_at : datetime, optional
        When the mail became due: those who had been told by then have not answered.
    """
    subject = plain(notice.subject, LONGEST_SUBJECT)
    findings = findings_of(session, notice.alerts)
    story = NotificationContent(
        number=notice.id,
        topic=notice.topic,
        form=notice.form,
        subject=subject,
        headline=subject.removeprefix("[QC] "),
        facts=_facts(notice, findings),
        words=tuple(plain(one.words) for one in notice.alerts[:LISTED] if one.words),
        total=len(notice.alerts),
        before=_told_before(notice.deliveries, owed_at) if owed_at else (),
        url=_night_url(project, notice.night),
        file=Path(notice.file) if notice.file else None,
    )
    if not findings:
        return story
    story = replace(
        story,
        shown=_shown(session, findings[0], project),
        lines=tuple(_read_line(one, project) for one in findings[:LISTED]),
        total=len(findings),
    )
    return (
        story
        if notice.form == NotificationKind.EVENT
        else _with_events(session, story, notice, project)
    )


def _with_events(
    session: Session, story: NotificationContent, notice: NotificationRow, project: Project
) -> NotificationContent:
    events = _events(session, notice)
    return replace(
        story,
        events=tuple(_event_line(session, one, project) for one in events[:LISTED]),
        events_total=len(events),
        counts=_counts([one for event in events for one in event]),
    )


def _told_before(
    deliveries: Sequence[DeliveryRow], owed_at: datetime
) -> tuple[EarlierNotification, ...]:
    return tuple(
        EarlierNotification(plain(one.address), _utc(one.sent_at))
        for one in deliveries
        if one.sent_at is not None and one.sent_at < owed_at
    )


def _facts(notice: NotificationRow, findings: Sequence[Finding]) -> dict[str, str]:
    instruments = sorted({one.instrument for one in notice.alerts if one.instrument})
    frames = [one.frame.template for one in findings]
    facts = {
        "Instrument": instruments,
        "Night": [str(notice.night or "")],
        "Image types": [one.extension.image_type for one in findings],
        "Chips": [one.extension.chip for one in findings],
        "Sets": [template or "" for template in frames],
    }
    named = {name: list(dict.fromkeys(filter(None, values))) for name, values in facts.items()}
    return {name: plain(_some(values)) for name, values in named.items() if values}


def _utc(when: datetime | None) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if when else ""


def _night_url(project: Project, night: date | None) -> str:
    base = project.settings.alerts.review_url.rstrip("/")
    return f"{base}/nights/{night}" if base and night else base


def _frame_url(project: Project, name: str) -> str:
    base = project.settings.alerts.review_url.rstrip("/")
    return f"{base}/frames/{quote(name, safe='')}" if base else ""


def _read_line(finding: Finding, project: Project) -> ImageLine:
    name = plain(finding.frame.name, 80)
    return ImageLine(
        name=f"{name}[{finding.extension.number}]",
        image_type=f"{finding.extension.image_type} {finding.extension.chip}",
        taken=_utc(finding.frame.observed_at),
        score=_score(finding.verdict.score),
        reason=plain(next(iter(finding.verdict.reasons), "")),
        url=_frame_url(project, finding.frame.name),
    )


def _score(value: float) -> str:
    return ">1000" if value > 1000 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _events(session: Session, notice: NotificationRow) -> list[list[Finding]]:
    """Sort a notice's images into events, the worst first."""
    found = traces(session, AlertRow.notice_id == notice.id)
    by_night: dict[tuple[str | None, date | None], list[AnomalyTrace]] = defaultdict(list)
    places = {one.id: (one.instrument, one.night) for one in notice.alerts}
    for one in found:
        by_night[places[one.alert_id]].append(one)
    alerts = {one.id: one for one in notice.alerts}
    events = [
        findings_of(session, [alerts[one.alert_id] for one in event])
        for place, some in by_night.items()
        for event in events_of(some, seen(session, *place))
    ]
    return sorted(filter(None, events), key=lambda event: -event[0].verdict.score)


def _event_line(session: Session, findings: Sequence[Finding], project: Project) -> EventLine:
    told = _told(session, findings, project.instruments)
    worst = _read_line(told.worst, project)
    return EventLine(
        plain(told.headline), _some(told.image_types), worst.score, worst.name, worst.url
    )


def _counts(findings: Sequence[Finding]) -> AnomalyCounts:
    chips = tuple(sorted({one.extension.chip for one in findings}))
    cells = Counter((one.extension.image_type, one.extension.chip) for one in findings)
    types = sorted({name for name, _ in cells})
    rows = ((plain(name), tuple(cells[name, chip] for chip in chips)) for name in types)
    return AnomalyCounts(tuple(map(plain, chips)), tuple(rows))


def _shown(session: Session, finding: Finding, project: Project) -> WorstImage:
    try:
        portrait = FigureRenderer(session, project.thresholds).portrait(finding)
    except Exception:  # an alert must not be lost for a picture that cannot be drawn
        logger.exception("%s: no picture for the mail", plain(finding.frame.name))
        portrait = None
    return WorstImage(
        line=_read_line(finding, project),
        setup=plain(_setup(finding)),
        reasons=tuple(plain(one) for one in finding.verdict.reasons[:REASONS_SHOWN]),
        where=plain(portrait.where.words) if portrait and portrait.where else "",
        pictures=_pictures(portrait) if portrait else (),
        numbers=_moved(portrait) if portrait else (),
        nearest=_nearest(portrait) if portrait else "",
    )


def _setup(finding: Finding) -> str:
    setup = finding.extension.setup
    light = [f"{setup.wavelength_nm:g} nm"] if setup.wavelength_nm is not None else []
    light += [f"slit {setup.slit_arcsec:g} arcsec"] if setup.slit_arcsec is not None else []
    return ", ".join([setup.binning, setup.read_mode, *light, *filter(None, [setup.optics])])


def _nearest(portrait: ExtensionFigures) -> str:
    return plain(portrait.nearest.frame.name, 80) if portrait.nearest else ""


def _pictures(portrait: ExtensionFigures) -> tuple[InlineImage, ...]:
    """Choose the map, and of what else is drawn the row that shows it best: the last."""
    where = [portrait.where.picture] if portrait.where else []
    return tuple(_inline(n, one) for n, one in enumerate([*where, *portrait.pictures[-3:]], 1))


def _inline(n: int, picture: EmbeddedPicture) -> InlineImage:
    png = base64.b64decode(picture.address.partition(",")[2])
    return InlineImage(f"picture{n}", png, _CAPTIONS[picture.kind], picture.low, picture.high)


def _moved(portrait: ExtensionFigures) -> tuple[MetricDeviation, ...]:
    return tuple(
        MetricDeviation(
            name=_spelt(one.name),
            here=one.metric.show(one.value),
            references="-" if one.median is None else one.metric.show(one.median),
            sigma="-" if one.z is None else sigma(one.z),
        )
        for one in portrait.moved[:NUMBERS_SHOWN]
    )
