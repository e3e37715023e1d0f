"""Content of a notification: text lines, tables and pictures of a mail or chat message.

Header values and file names become plain lines of bounded length. The templates escape them for
HTML.
"""

import dataclasses
import datetime as dt
import logging
from collections import Counter, abc
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.orm import Session

from qc import _text, core, db
from qc.alerts import subjects, traces
from qc.db.schema import models
from qc.project import ProjectContext
from qc.reports import extension_figures, pictures, rendering

logger = logging.getLogger(__name__)

LISTED = 20  # frames, events or messages; the report has all
METRICS_SHOWN = 8
REASONS_SHOWN = 6
_CAPTIONS = {
    "mean": "This frame",
    "nearest mean": "Nearest nominal",
    "difference of mean": "Difference",
    "maximum": "This frame, maxima",
    "nearest maximum": "Nearest nominal, maxima",
    "difference of maximum": "Difference of maxima",
    "where": "Residual above the range of nominal frames",
}


@dataclasses.dataclass(frozen=True)
class InlineImage:
    """Picture in a mail.

    Attributes
    ----------
    name : str
        Content-ID.
    png : bytes
        The picture.
    caption : str
        Caption and alternative text.
    low, high : str
        Values of the two ends of the scale.
    """

    name: str
    png: bytes
    caption: str
    low: str
    high: str


@dataclasses.dataclass(frozen=True)
class ImageLine:
    """Image in the list of a mail."""

    name: str
    image_type: str
    taken: str
    score: str
    reason: str
    url: str


@dataclasses.dataclass(frozen=True)
class EventLine:
    """Event in the list of a digest."""

    headline: str
    image_types: str
    score: str
    frame: str
    url: str


@dataclasses.dataclass(frozen=True)
class MetricDeviation:
    """Metric beyond its warning limit, as text."""

    name: str
    here: str
    references: str
    sigma: str


@dataclasses.dataclass(frozen=True)
class WorstImage:
    """Worst image of a notification, with pictures and metrics.

    Attributes
    ----------
    line : ImageLine
        Name, type, time, score and link.
    setup : str
        Setup in words.
    reasons : tuple of str
        Reasons of the verdict.
    residual_location : str
        Place of the residual in words.
    pictures : tuple of InlineImage
        Residual map and the frame with its nearest reference.
    deviations : tuple of MetricDeviation
        Metrics beyond their limits.
    nearest : str
        Name of the nearest nominal frame.
    """

    line: ImageLine
    setup: str
    reasons: tuple[str, ...]
    residual_location: str
    pictures: tuple[InlineImage, ...]
    deviations: tuple[MetricDeviation, ...]
    nearest: str


@dataclasses.dataclass(frozen=True)
class AnomalyCounts:
    """Number of anomalous images: a row for each image type, a column for each chip."""

    chips: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]


@dataclasses.dataclass(frozen=True)
class EarlierNotification:
    """Earlier recipient of a notification, and the time of delivery."""

    address: str
    at: str


@dataclasses.dataclass(frozen=True)
class NotificationContent:
    """Content of a notification, independent of the transport.

    Attributes
    ----------
    facts : mapping of str to str
        Instrument, night, image types, chips and sets, as text.
    messages : tuple of str
        Messages of alerts without a verdict.
    total : int
        Number of images or messages; the lists are bounded.
    worst : WorstImage or None
        Worst image; None without a verdict.
    earlier : tuple of EarlierNotification
        Earlier recipients; none of them has acknowledged.
    url : str
        Review page; empty without one.
    file : Path or None
        Report page that is attached.
    """

    number: int
    topic: core.Topic
    form: core.NotificationKind
    subject: str
    headline: str
    facts: abc.Mapping[str, str]
    messages: tuple[str, ...] = ()
    total: int = 0
    worst: WorstImage | None = None
    lines: tuple[ImageLine, ...] = ()
    events: tuple[EventLine, ...] = ()
    events_total: int = 0
    counts: AnomalyCounts | None = None
    earlier: tuple[EarlierNotification, ...] = ()
    url: str = ""
    file: Path | None = None


def read_content(
    session: Session,
    notification: models.NotificationRow,
    project: ProjectContext,
    due_since: dt.datetime | None = None,
) -> NotificationContent:
    """Return the content of a notification.

    Parameters
    ----------
    session : Session
        Open session.
    notification : NotificationRow
        Notification with its alerts.
    project : ProjectContext
        Open project.
    due_since : datetime, optional
        Time at which the delivery became due. Recipients before that time are listed as earlier
        recipients.

    Returns
    -------
    NotificationContent
    """
    subject = _text.plain_line(notification.subject, subjects.LONGEST_SUBJECT)
    findings = traces.read_findings(session, notification.alerts)
    content = NotificationContent(
        number=notification.id,
        topic=notification.topic,
        form=notification.form,
        subject=subject,
        headline=subject.removeprefix(subjects.PREFIX),
        facts=read_facts(notification, findings),
        messages=tuple(
            _text.plain_line(alert.words) for alert in notification.alerts[:LISTED] if alert.words
        ),
        total=len(notification.alerts),
        earlier=tuple(
            EarlierNotification(_text.plain_line(delivery.address), format_minute(delivery.sent_at))
            for delivery in notification.deliveries
            if due_since and delivery.sent_at is not None and delivery.sent_at < due_since
        ),
        url=night_url(project, notification.night),
        file=Path(notification.file) if notification.file else None,
    )
    if not findings:
        return content
    content = dataclasses.replace(
        content,
        worst=read_worst_image(session, findings[0], project),
        lines=tuple(read_image_line(finding, project) for finding in findings[:LISTED]),
        total=len(findings),
    )
    if notification.form == core.NotificationKind.EVENT:
        return content
    events = traces.read_events(session, notification)
    return dataclasses.replace(
        content,
        events=tuple(read_event_line(session, event, project) for event in events[:LISTED]),
        events_total=len(events),
        counts=count_anomalies([finding for event in events for finding in event]),
    )


def read_facts(
    notification: models.NotificationRow, findings: abc.Sequence[db.findings.Finding]
) -> dict[str, str]:
    """Return instrument, night, image types, chips and sets as text.

    Parameters
    ----------
    notification : NotificationRow
        Notification with its alerts.
    findings : sequence of Finding
        Its images, worst first.

    Returns
    -------
    dict of str to str
        Facts without a value are left out.
    """
    facts = {
        "Instrument": sorted({row.instrument for row in notification.alerts if row.instrument}),
        "Night": [str(notification.night or "")],
        "Image types": [finding.extension.image_type for finding in findings],
        "Chips": [finding.extension.chip for finding in findings],
        "Sets": [finding.frame.template or "" for finding in findings],
    }
    distinct = {name: list(dict.fromkeys(filter(None, values))) for name, values in facts.items()}
    return {
        name: _text.plain_line(subjects.list_names(values))
        for name, values in distinct.items()
        if values
    }


def format_minute(time: dt.datetime | None) -> str:
    """Return a time in UTC, to the minute; empty for None."""
    return f"{time.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC" if time else ""


def night_url(project: ProjectContext, night: dt.date | None) -> str:
    """Return the URL of a night's review page; empty without a web server.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    night : date or None
        None for the start page.

    Returns
    -------
    str
    """
    base = project.settings.alerts.review_url.rstrip("/")
    return f"{base}/nights/{night}" if base and night else base


def read_image_line(finding: db.findings.Finding, project: ProjectContext) -> ImageLine:
    """Return an image as a line of a list.

    Parameters
    ----------
    finding : Finding
        Image.
    project : ProjectContext
        Open project.

    Returns
    -------
    ImageLine
    """
    score = finding.verdict.score
    base = project.settings.alerts.review_url.rstrip("/")
    return ImageLine(
        name=f"{_text.plain_line(finding.frame.name, 80)}[{finding.extension.number}]",
        image_type=f"{finding.extension.image_type} {finding.extension.chip}",
        taken=format_minute(finding.frame.observed_at),
        score=">1000" if score > 1000 else f"{score:.1f}" if score < 10 else f"{score:.0f}",
        reason=_text.plain_line(next(iter(finding.verdict.reasons), "")),
        url=f"{base}/frames/{quote(finding.frame.name, safe='')}" if base else "",
    )


def read_event_line(
    session: Session, findings: abc.Sequence[db.findings.Finding], project: ProjectContext
) -> EventLine:
    """Return an event as a line of a list.

    Parameters
    ----------
    session : Session
        Open session.
    findings : sequence of Finding
        Images of the event, worst first.
    project : ProjectContext
        Open project.

    Returns
    -------
    EventLine
    """
    event = subjects.describe_event(session, findings, project.instruments)
    worst = read_image_line(event.worst, project)
    types = subjects.list_names(event.image_types)
    return EventLine(_text.plain_line(event.headline), types, worst.score, worst.name, worst.url)


def count_anomalies(findings: abc.Sequence[db.findings.Finding]) -> AnomalyCounts:
    """Count images by image type and chip."""
    chips = tuple(sorted({finding.extension.chip for finding in findings}))
    cells = Counter((finding.extension.image_type, finding.extension.chip) for finding in findings)
    types = sorted({name for name, _ in cells})
    rows = ((_text.plain_line(name), tuple(cells[name, chip] for chip in chips)) for name in types)
    return AnomalyCounts(tuple(map(_text.plain_line, chips)), tuple(rows))


def read_worst_image(
    session: Session, finding: db.findings.Finding, project: ProjectContext
) -> WorstImage:
    """Return the worst image with pictures and metrics.

    Parameters
    ----------
    session : Session
        Open session.
    finding : Finding
        Image.
    project : ProjectContext
        Open project.

    Returns
    -------
    WorstImage
        Without pictures if they cannot be drawn.
    """
    try:
        renderer = extension_figures.FigureRenderer(session, project.thresholds)
        figures = renderer.render(finding)
    except Exception:  # the alert is sent without pictures
        logger.exception(
            "%s: cannot draw the pictures of the mail", _text.plain_line(finding.frame.name)
        )
        figures = None
    setup = finding.extension.setup
    light = [f"{setup.wavelength_nm:g} nm"] if setup.wavelength_nm is not None else []
    light += [f"slit {setup.slit_arcsec:g} arcsec"] if setup.slit_arcsec is not None else []
    parts = [setup.binning, setup.read_mode, *light, *filter(None, [setup.optics])]
    nearest = figures.nearest if figures else None
    location = figures.residual_location if figures else None
    return WorstImage(
        line=read_image_line(finding, project),
        setup=_text.plain_line(", ".join(parts)),
        reasons=tuple(
            _text.plain_line(reason) for reason in finding.verdict.reasons[:REASONS_SHOWN]
        ),
        residual_location=_text.plain_line(location.description) if location else "",
        pictures=inline_pictures(figures) if figures else (),
        deviations=format_deviations(figures) if figures else (),
        nearest=_text.plain_line(nearest.frame.name, 80) if nearest else "",
    )


def inline_pictures(figures: extension_figures.ExtensionFigures) -> tuple[InlineImage, ...]:
    """Return the residual map and the last row of pictures, in which the fault is clearest."""
    location = figures.residual_location
    selected: list[pictures.EmbeddedPicture] = [location.picture] if location else []
    selected += figures.pictures[-3:]
    return tuple(
        InlineImage(
            f"picture{number}", picture.content, _CAPTIONS[picture.kind], picture.low, picture.high
        )
        for number, picture in enumerate(selected, start=1)
    )


def format_deviations(
    figures: extension_figures.ExtensionFigures,
) -> tuple[MetricDeviation, ...]:
    """Return the metrics beyond their limits as text, largest deviation first."""
    return tuple(
        MetricDeviation(
            name=subjects.spell_name(row.name),
            here=row.metric.show(row.value),
            references="-" if row.median is None else row.metric.show(row.median),
            sigma="-" if row.z is None else rendering.format_sigma(row.z),
        )
        for row in figures.deviating[:METRICS_SHOWN]
    )
