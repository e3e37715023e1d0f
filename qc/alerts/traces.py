"""Queries for alert grouping: anomaly traces, images of a night, findings of alerts."""

import datetime as dt
from collections import abc, defaultdict

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import db, io
from qc.alerts import grouping
from qc.db.schema import models
from qc.detection.decision import WORTH_NAMING

_NO_MODE = io.OpticalMode("", ())


def read_traces(
    session: Session, *conditions: sa.ColumnElement[bool]
) -> list[grouping.AnomalyTrace]:
    """Return the traces of verdict alerts, in order of observation.

    Parameters
    ----------
    session : Session
        Open session.
    *conditions : ColumnElement
        Conditions of the alerts.

    Returns
    -------
    list of AnomalyTrace
    """
    query = (
        sa.select(
            models.AlertRow.id,
            models.FrameRow,
            models.ExtensionRow,
            models.VerdictRow,
            models.EmbeddingRow.vector,
        )
        .join(models.VerdictRow, models.VerdictRow.id == models.AlertRow.verdict_id)
        .join(models.ExtensionRow, models.ExtensionRow.id == models.VerdictRow.extension_id)
        .join(models.FrameRow, models.FrameRow.id == models.ExtensionRow.frame_id)
        .join(
            models.EmbeddingRow,
            (models.EmbeddingRow.extension_id == models.ExtensionRow.id)
            & (models.EmbeddingRow.encoder_id == models.VerdictRow.encoder_id),
        )
        .where(*conditions)
        .order_by(models.FrameRow.observed_at, models.ExtensionRow.id)
    )
    traces = []
    for alert_id, frame, extension, verdict, vector in session.execute(query):
        causes = [
            grouping.parse_cause(reason, extension.ny, extension.nx) for reason in verdict.reasons
        ]
        is_kind_likely = (verdict.kind_probability or 0) >= WORTH_NAMING
        traces.append(
            grouping.AnomalyTrace(
                alert_id=alert_id,
                frame_id=frame.id,
                observed_at=frame.observed_at or verdict.judged_at,
                image_type=extension.image_type,
                chip=extension.chip,
                template=frame.template or None,
                causes=tuple(cause for cause in causes if cause is not None),
                kind=(verdict.predicted_kind or "") if is_kind_likely else "",
                merge_height=verdict.merge_height,
                threshold=verdict.threshold,
                encoder_id=verdict.encoder_id,
                embedding=vector,
            )
        )
    return traces


def read_night_images(
    session: Session, instrument: str | None, night: dt.date | None
) -> list[grouping.NightImage]:
    """Return all images of an instrument and night.

    Parameters
    ----------
    session : Session
        Open session.
    instrument : str or None
        Name of the instrument.
    night : date or None
        Night.

    Returns
    -------
    list of NightImage
    """
    frame = models.FrameRow
    query = (
        sa.select(frame.id, frame.observed_at, models.ExtensionRow.chip)
        .join(models.ExtensionRow.frame)
        .where(frame.instrument == instrument, frame.night == night)
    )
    return [
        grouping.NightImage(frame_id, observed_at, chip)
        for frame_id, observed_at, chip in session.execute(query)
        if observed_at is not None
    ]


def read_findings(
    session: Session, alerts: abc.Sequence[models.AlertRow]
) -> list[db.findings.Finding]:
    """Return the images of verdict alerts, worst score first.

    Parameters
    ----------
    session : Session
        Open session.
    alerts : sequence of AlertRow
        Alerts; those without a verdict are left out.

    Returns
    -------
    list of Finding
    """
    verdict_ids = [alert.verdict_id for alert in alerts if alert.verdict_id is not None]
    query = sa.select(models.VerdictRow.extension_id).where(models.VerdictRow.id.in_(verdict_ids))
    findings = db.findings.findings_by_id(session, list(session.scalars(query)))
    return sorted(findings, key=lambda finding: -finding.verdict.score)


def read_events(
    session: Session, notification: models.NotificationRow
) -> list[list[db.findings.Finding]]:
    """Return the events of a notification, worst first.

    Parameters
    ----------
    session : Session
        Open session.
    notification : NotificationRow
        Notification of verdict alerts.

    Returns
    -------
    list of list of Finding
        Images of each event, worst first.
    """
    alerts = {alert.id: alert for alert in notification.alerts}
    by_night: dict[tuple[str | None, dt.date | None], list[grouping.AnomalyTrace]] = defaultdict(
        list
    )
    for trace in read_traces(session, models.AlertRow.notification_id == notification.id):
        alert = alerts[trace.alert_id]
        by_night[alert.instrument, alert.night].append(trace)
    events = [
        read_findings(session, [alerts[trace.alert_id] for trace in event])
        for place, traces in by_night.items()
        for event in grouping.group_anomalies(traces, read_night_images(session, *place))
    ]
    return sorted(filter(None, events), key=lambda event: -event[0].verdict.score)


def arms_by_image_type(instruments: abc.Iterable[io.Instrument]) -> dict[tuple[str, str], str]:
    """Return the arm of each image type, by names of instrument and type."""
    return {
        (
            instrument.name,
            instrument.compose_image_type(
                calibration, mode, instrument.arms[layout.arm], section.number
            ),
        ): layout.arm
        for instrument in instruments
        for calibration in instrument.calibrations
        for mode in (_NO_MODE, *instrument.modes)
        for layout in instrument.layouts
        for section in layout.sections
    }
