"""Group pending alerts into notifications, and assign recipients."""

import datetime as dt
import functools
import logging
from collections import abc, defaultdict
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import core, db, io
from qc.alerts import grouping, notifications, recipients, silences, subjects, traces
from qc.db.schema import models
from qc.settings import Settings

logger = logging.getLogger(__name__)

PLACES_PER_TRANSACTION = 200  # bounds the duration of the database lock when an archive arrives
_GOOD = (core.LabelName.GOOD, core.LabelName.VALID_OUTLIER)

AlertPlace = tuple[core.Topic, str | None, dt.date | None]  # topic, instrument and night
NextReport = abc.Callable[
    [dt.datetime], dt.datetime
]  # time of the first morning report after a time


def gather_alerts(
    session: Session,
    settings: Settings,
    now: dt.datetime,
    instruments: abc.Sequence[io.Instrument] | None,
    next_report: NextReport,
) -> int:
    """Group pending alerts into notifications, assign recipients, and escalate.

    Expired silences end first. All changes belong to the caller's transaction.

    Parameters
    ----------
    session : Session
        Open session; the caller commits.
    settings : Settings
        Limits and subscriptions.
    now : datetime
        Time, UTC.
    instruments : sequence of Instrument or None
        Instrument definitions; None for those of the settings, cached.
    next_report : callable
        Function of a time: the time of the next morning report. Digests after the first of a
        night wait for it.

    Returns
    -------
    int
        Number of new notifications.
    """
    if instruments is None:
        instruments = _read_instruments(settings.instruments_folder)
    silences.end_silences(session, now)
    settle_alerts(session)
    silences.apply_silences(session, now)
    count = 0
    for place, alerts in pending_by_place(session)[:PLACES_PER_TRANSACTION]:
        grouper = Grouper(session, settings, instruments, place, now, next_report)
        count += grouper.group(alerts)
    recipients.escalate(session, settings, now, instruments)
    return count


@functools.cache
def _read_instruments(folder: Path | None) -> tuple[io.Instrument, ...]:
    return io.read_instruments(folder)


def pending_by_place(session: Session) -> list[tuple[AlertPlace, list[models.AlertRow]]]:
    """Return the pending alerts by topic, instrument and night, newest night first."""
    places = defaultdict[AlertPlace, list[models.AlertRow]](list)
    row = models.AlertRow
    for alert in session.scalars(
        sa.select(row).where(*notifications.pending_conditions()).order_by(row.id)
    ):
        places[alert.topic, alert.instrument, alert.night].append(alert)
    return sorted(places.items(), key=lambda place: place[0][2] or dt.date.max, reverse=True)


def settle_alerts(session: Session) -> None:
    """Settle pending alerts of images that are labelled good or judged nominal by now."""
    query = (
        sa.select(models.AlertRow, models.VerdictRow.extension_id)
        .join(models.VerdictRow, models.VerdictRow.id == models.AlertRow.verdict_id)
        .where(*notifications.pending_conditions())
    )
    alerts = {extension_id: alert for alert, extension_id in session.execute(query)}
    for finding in db.findings.findings_by_id(session, list(alerts)):
        alert, label = alerts[finding.extension.id], finding.label
        if label is not None and label.label in _GOOD:
            alert.settled = f"labelled {label.label} by {label.who} before the notification"
        elif label is None and finding.verdict.status != core.Status.ANOMALOUS:
            alert.settled = "judged again and not anomalous before the notification"


@dataclass(frozen=True)
class Grouper:
    """Groups the alerts of one topic, instrument and night into notifications."""

    session: Session
    settings: Settings
    instruments: abc.Sequence[io.Instrument]
    place: AlertPlace
    now: dt.datetime
    next_report: NextReport

    def group(self, alerts: abc.Sequence[models.AlertRow]) -> int:
        """Group alerts; return the number of new notifications."""
        archived = self.find_archived()
        old = [alert for alert in alerts if alert.id in archived]
        known = self.read_notifications(core.NotificationKind.ARCHIVE) if old else []
        count = 0
        if known:
            self.add_alerts(known[-1], old)
        elif old:
            self.create_notification(core.NotificationKind.ARCHIVE, old)
            count = 1
        known_events, events = self.find_events(
            [alert for alert in alerts if alert.id not in archived]
        )
        for notification, new in known_events:
            self.add_alerts(notification, new)
        ready = [event for event in events if self.is_ready(event)]
        return count + (self.notify(events, ready) if ready else 0)

    def find_archived(self) -> set[int]:
        """Return the ids of alerts whose frames were observed long before the verdict."""
        oldest = dt.timedelta(days=self.settings.alerts.oldest_days)
        alert, verdict = models.AlertRow, models.VerdictRow
        extension, frame = models.ExtensionRow, models.FrameRow
        query = (
            sa.select(alert.id, frame.observed_at, alert.owed_at)
            .join(verdict, verdict.id == alert.verdict_id)
            .join(extension, extension.id == verdict.extension_id)
            .join(frame, frame.id == extension.frame_id)
            .where(*self.place_conditions(), *notifications.pending_conditions())
        )
        rows = self.session.execute(query)
        return {id_ for id_, observed, judged in rows if observed and judged - observed > oldest}

    def place_conditions(self) -> tuple[sa.ColumnElement[bool], ...]:
        """Return the conditions of alerts of this topic, instrument and night."""
        topic, instrument, night = self.place
        return (
            models.AlertRow.topic == topic,
            models.AlertRow.instrument.is_not_distinct_from(instrument),
            models.AlertRow.night.is_not_distinct_from(night),
        )

    def read_notifications(self, *forms: core.NotificationKind) -> list[models.NotificationRow]:
        """Return the notifications of this topic, instrument and night, oldest first."""
        row, alert = models.NotificationRow, models.AlertRow
        query = (
            sa.select(row)
            .where(
                row.form.in_(forms),
                row.topic == self.place[0],
                sa.exists().where(alert.notification_id == row.id, *self.place_conditions()),
            )
            .order_by(row.id)
        )
        if self.place[2] is None:  # alerts without a night: the last 24 hours
            query = query.where(row.made_at > self.now - dt.timedelta(days=1))
        return list(self.session.scalars(query))

    def find_events(
        self, alerts: abc.Sequence[models.AlertRow]
    ) -> tuple[
        list[tuple[models.NotificationRow, list[models.AlertRow]]], list[list[models.AlertRow]]
    ]:
        """Group alerts into events.

        Returns
        -------
        known : list of (NotificationRow, list of AlertRow)
            New alerts of events with a notification.
        new : list of list of AlertRow
            Alerts of new events.
        """
        topic, instrument, night = self.place
        if topic != core.Topic.VERDICT:
            return [], [list(alerts)] if alerts else []
        if not alerts:
            return [], []
        pending = {alert.id: alert for alert in alerts}
        kinds = (core.NotificationKind.EVENT, core.NotificationKind.DIGEST)
        notified = [row.id for row in self.read_notifications(*kinds)]
        condition = models.AlertRow.notification_id.in_(notified) | models.AlertRow.id.in_(
            list(pending)
        )
        anomalies = traces.read_traces(self.session, *self.place_conditions(), condition)
        images = traces.read_night_images(self.session, instrument, night)
        known, events = [], []
        for group in grouping.group_anomalies(anomalies, images):
            ids = [trace.alert_id for trace in group]
            new = [pending[id_] for id_ in ids if id_ in pending]
            notification = self.find_notification([id_ for id_ in ids if id_ not in pending])
            if new and notification is not None:
                known.append((notification, new))
            elif new:
                events.append(new)
        return known, events

    def find_notification(self, alert_ids: abc.Sequence[int]) -> models.NotificationRow | None:
        """Return the first notification of some alerts; None without alerts."""
        query = (
            sa.select(models.NotificationRow)
            .join(models.AlertRow, models.AlertRow.notification_id == models.NotificationRow.id)
            .where(models.AlertRow.id.in_(alert_ids))
            .order_by(models.NotificationRow.id)
            .limit(1)
        )
        return self.session.scalar(query) if alert_ids else None

    def is_ready(self, event: abc.Sequence[models.AlertRow]) -> bool:
        """Return True after the waiting time for further frames, or if the clock was set back."""
        wait = dt.timedelta(seconds=self.settings.alerts.gather_s)
        ages = [self.now - alert.owed_at for alert in event]
        return min(ages) >= wait or max(ages) >= 2 * wait or min(ages) < dt.timedelta(0)

    def notify(
        self,
        events: abc.Sequence[abc.Sequence[models.AlertRow]],
        ready: abc.Sequence[abc.Sequence[models.AlertRow]],
    ) -> int:
        """Create a notification for each ready event, or one digest for many events.

        Parameters
        ----------
        events : sequence of sequence of AlertRow
            All pending events.
        ready : sequence of sequence of AlertRow
            Events after their waiting time.

        Returns
        -------
        int
            Number of new notifications.
        """
        limits = self.settings.alerts
        digests = self.read_notifications(core.NotificationKind.DIGEST)
        if digests and not is_sent(digests[-1]):
            self.add_alerts(digests[-1], [alert for event in ready for alert in event])
            return 0
        if digests and self.now < self.next_report(digests[-1].made_at):
            return 0
        notified = len(self.read_notifications(core.NotificationKind.EVENT))
        if (
            digests
            or len(events) > limits.most_at_once
            or notified + len(ready) > limits.most_a_night
        ):
            alerts = [alert for event in events for alert in event]
            self.create_notification(core.NotificationKind.DIGEST, alerts)
            return 1
        for event in ready:
            self.create_notification(core.NotificationKind.EVENT, event)
        return len(ready)

    def create_notification(
        self, form: core.NotificationKind, alerts: abc.Sequence[models.AlertRow]
    ) -> None:
        """Create a notification of alerts.

        Parameters
        ----------
        form : NotificationKind
            Event, digest or archive.
        alerts : sequence of AlertRow
            Alerts.
        """
        topic, _, night = self.place
        notification = models.NotificationRow(
            topic=topic, form=form, night=night, made_at=self.now, subject=""
        )
        self.session.add(notification)
        self.session.flush()
        self.add_alerts(notification, alerts)
        logger.info("notification %d: %s", notification.id, notification.subject)

    def add_alerts(
        self, notification: models.NotificationRow, alerts: abc.Sequence[models.AlertRow]
    ) -> None:
        """Add alerts to a notification, update its subject until it is sent, queue deliveries.

        Parameters
        ----------
        notification : NotificationRow
            Notification.
        alerts : sequence of AlertRow
            Alerts of the same topic, instrument and night.
        """
        for alert in alerts:
            alert.notification_id = notification.id
        self.session.flush()
        self.session.expire(notification, ["alerts"])
        if not is_sent(notification):
            notification.subject = subjects.compose_subject(
                self.session, notification, self.instruments
            )
        if notification.form != core.NotificationKind.ARCHIVE:
            recipients.queue_deliveries(
                self.session, self.settings, notification, self.instruments, self.now
            )


def is_sent(notification: models.NotificationRow) -> bool:
    """Return True if a delivery of the notification succeeded."""
    return any(delivery.sent_at is not None for delivery in notification.deliveries)
