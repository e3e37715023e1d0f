"""Subject lines of notifications: number of anomalous frames, detectors and main deviation."""

import datetime as dt
from collections import abc
from dataclasses import dataclass
from math import floor, log10

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import _text, core, db, detection, io
from qc.alerts import traces
from qc.db.schema import models
from qc.detection.decision import WORTH_NAMING

PREFIX = "[QC] "
LONGEST_SUBJECT = 160  # characters
NAMES_LISTED = 3
_NOUNS = {
    core.Topic.FILE: ("file cannot be judged", "files cannot be judged"),
    core.Topic.ABSENCE: ("missing calibration", "missing calibrations"),
    core.Topic.SELF_TEST: ("fault kind with low recall", "fault kinds with low recall"),
    core.Topic.DAEMON: ("daemon issue", "daemon issues"),
}


@dataclass(frozen=True)
class EventHeadline:
    """Event in one line.

    Attributes
    ----------
    findings : tuple of Finding
        Images of the event, worst first.
    image_types : tuple of str
        Their types, in the same order.
    headline : str
        ``3 of 5 biases anomalous, REDU, level +6.2 ADU``.
    """

    findings: tuple[db.findings.Finding, ...]
    image_types: tuple[str, ...]
    headline: str

    @property
    def worst(self) -> db.findings.Finding:
        """Return the image with the highest score."""
        return self.findings[0]


def compose_subject(
    session: Session, notification: models.NotificationRow, instruments: abc.Sequence[io.Instrument]
) -> str:
    """Return the subject line: ``[QC] URB1 2026-11-19: 3 of 5 biases anomalous, REDU``.

    Parameters
    ----------
    session : Session
        Open session.
    notification : NotificationRow
        Notification with its alerts.
    instruments : sequence of Instrument
        Instrument definitions.

    Returns
    -------
    str
        At most `LONGEST_SUBJECT` characters.
    """
    alerts = notification.alerts
    if notification.topic != core.Topic.VERDICT:
        message = alerts[0].words
        if len(alerts) > 1:
            message = f"{_text.pluralise(len(alerts), *_NOUNS[notification.topic])}: {message}"
        return _subject(alerts, notification.night, message)
    findings = traces.read_findings(session, alerts)
    if notification.form == core.NotificationKind.EVENT:
        line = describe_event(session, findings, instruments)
        types = list_names(line.image_types)
        return subject_line(f"{types} {notification.night}: {line.headline}")
    frames = len({finding.frame.id for finding in findings})
    events = len(traces.read_events(session, notification))
    summary = f"{_text.pluralise(frames, 'frame')} anomalous in {_text.pluralise(events, 'event')}"
    if notification.form == core.NotificationKind.ARCHIVE:
        return _subject(alerts, notification.night, f"of an archive, {summary}")
    worst = findings[0]
    name = f"{worst.extension.image_type} {worst.extension.chip}"
    change = describe_change(session, worst)
    return _subject(alerts, notification.night, f"{summary}; worst {name}, {change}")


def _subject(alerts: abc.Sequence[models.AlertRow], night: dt.date | None, message: str) -> str:
    names = sorted({alert.instrument for alert in alerts if alert.instrument})
    scope = " ".join([*names, *([str(night)] if night else [])])
    return subject_line(f"{scope}: {message}" if scope else message)


def subject_line(message: str) -> str:
    """Return a message as a subject line."""
    return _text.plain_line(f"{PREFIX}{message}", LONGEST_SUBJECT)


def describe_event(
    session: Session,
    findings: abc.Sequence[db.findings.Finding],
    instruments: abc.Sequence[io.Instrument],
) -> EventHeadline:
    """Return an event in one line.

    Parameters
    ----------
    session : Session
        Open session.
    findings : sequence of Finding
        Images of the event, worst first.
    instruments : sequence of Instrument
        Instrument definitions.

    Returns
    -------
    EventHeadline
    """
    types = tuple(dict.fromkeys(finding.extension.image_type for finding in findings))
    chips = tuple(dict.fromkeys(finding.extension.chip for finding in findings))
    frames = len({finding.frame.id for finding in findings})
    by_name = {instrument.name: instrument for instrument in instruments}
    instrument = by_name.get(findings[0].frame.instrument or "")
    calibrations = [instrument.calibration_of(name) if instrument else None for name in types]
    nouns = {calibration.name if calibration else "frame" for calibration in calibrations}
    noun = nouns.pop() if len(nouns) == 1 else "frame"
    plural = f"{noun}es" if noun.endswith(("s", "x", "ch")) else f"{noun}s"
    total = max(frames, count_taken(session, findings, types))
    headline = (
        f"{frames} of {_text.pluralise(total, noun, plural)} anomalous, {list_names(chips)}, "
        f"{describe_change(session, findings[0])}"
    )
    return EventHeadline(tuple(findings), types, headline)


def list_names(names: abc.Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    more = len(names) - NAMES_LISTED
    return " ".join(names[:NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")


def count_taken(
    session: Session, findings: abc.Sequence[db.findings.Finding], types: abc.Sequence[str]
) -> int:
    """Count the frames of the template sets, or of the night for frames without a set.

    Parameters
    ----------
    session : Session
        Open session.
    findings : sequence of Finding
        Images of one instrument and night.
    types : sequence of str
        Image types that count.

    Returns
    -------
    int
    """
    row = models.FrameRow
    frame = findings[0].frame
    templates = {finding.frame.template for finding in findings}
    of_sets = [row.template.in_(templates)] if all(templates) else []
    query = (
        sa.select(sa.func.count(sa.func.distinct(row.id)))
        .join(models.ExtensionRow, models.ExtensionRow.frame_id == row.id)
        .where(
            row.instrument == frame.instrument,
            row.night == frame.night,
            models.ExtensionRow.image_type.in_(types),
            *of_sets,
        )
    )
    return session.scalar(query) or 0


def describe_change(session: Session, finding: db.findings.Finding) -> str:
    """Return the probable fault kind and the deviation of the first metric in the reasons.

    Parameters
    ----------
    session : Session
        Open session.
    finding : Finding
        Anomalous image.

    Returns
    -------
    str
        ``looks like light leak, level +6.2 ADU``.
    """
    verdict = finding.verdict
    metric = next(
        (
            name
            for reason in verdict.reasons
            for name in detection.METRICS
            if reason.startswith(f"{spell_name(name)} ")
        ),
        None,
    )
    is_named = verdict.predicted_kind and (verdict.kind_probability or 0) >= WORTH_NAMING
    parts = [f"looks like {spell_name(verdict.predicted_kind or '')}"] if is_named else []
    parts += [describe_deviation(session, finding, metric)] if metric else []
    if parts:
        return ", ".join(parts)
    reason = next(iter(verdict.reasons), "labelled bad")
    if reason.startswith("joins its"):
        return "unlike its references"
    return reason.split(" stands")[0]


def describe_deviation(session: Session, finding: db.findings.Finding, name: str) -> str:
    """Return the deviation of a metric from the median of the references: ``level +6.2 ADU``.

    Parameters
    ----------
    session : Session
        Open session.
    finding : Finding
        Image.
    name : str
        Name of the metric.

    Returns
    -------
    str
        The value where there are no references; the name alone without a value.
    """
    metric, title = detection.METRICS[name], spell_name(name)
    value = finding.extension.metrics.get(name)
    if value is None:
        return title
    reference = db.findings.reference_of(session, finding)
    usual = [values[name] for values in reference.metrics if name in values]
    if not usual:
        return f"{title} {metric.show(value)}"
    deviation = value - float(np.median(usual))
    digits = min(max(0, 1 - floor(log10(abs(deviation) or 1))), metric.digits)
    return f"{title.removeprefix('bias ')} {deviation:+.{digits}f} {metric.unit}".rstrip()


def spell_name(name: str) -> str:
    """Return a name with spaces for underscores."""
    return name.replace("_", " ")
