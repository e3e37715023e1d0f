"""Gather alerts like the daemon, at given times."""

from datetime import datetime, timedelta

from sqlalchemy import select

from qc.alerts.gather import gather_alerts
from qc.core.enums import NotificationKind
from qc.db.schema.models import (
    DeliveryRow,
    NotificationRow,
)
from qc.io.instrument_files import read_instruments
from qc.service.job import next_report
from qc.settings import AlertSettings, Settings, Subscription
from tests.support.alert_rows import (
    JUDGED,
)

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


KIM, LEE, PAT = "kim@example.org", "lee@example.org", "pat@example.org"


INSTRUMENTS = read_instruments()


def subscribed(settings: Settings, *to: Subscription, **alerts: object) -> Settings:
    subscriptions = to or (Subscription(to=(KIM,)),)
    changed = {"subscription": subscriptions, "alerts": AlertSettings.model_validate(alerts)}
    return settings.model_copy(update=changed)


class Dispatcher:
    """Gathers alerts like the daemon, at given times."""

    def __init__(self, project, *to: Subscription, **alerts: object) -> None:
        self.project = project
        self.settings = subscribed(project.settings, *to, **alerts)

    def gather(self, minutes: float = 60, start: datetime = JUDGED) -> int:
        now = start + timedelta(minutes=minutes)
        with self.project.write_session.begin() as session:
            return gather_alerts(
                session,
                self.settings,
                now,
                INSTRUMENTS,
                lambda after: next_report(self.settings, after),
            )

    def notifications(self) -> list[tuple[NotificationKind, int]]:
        with self.project.read_session() as session:
            rows = session.scalars(select(NotificationRow).order_by(NotificationRow.id))
            return [(row.form, len(row.alerts)) for row in rows]

    def subjects(self) -> list[str]:
        with self.project.read_session() as session:
            return list(
                session.scalars(select(NotificationRow.subject).order_by(NotificationRow.id))
            )

    def recipients(self) -> list[tuple[int, str]]:
        with self.project.read_session() as session:
            rows = session.scalars(select(DeliveryRow).order_by(DeliveryRow.id))
            return [(row.notification_id, row.address) for row in rows]

    def mark_sent(self, minutes: float = 60) -> None:
        """Mark all queued deliveries as sent."""
        with self.project.write_session.begin() as session:
            for row in session.scalars(select(DeliveryRow).where(DeliveryRow.due_at.is_not(None))):
                row.sent_at, row.due_at = JUDGED + timedelta(minutes=minutes), None


CHAIN = Subscription(to=(KIM, LEE, PAT), escalate_h=4)
