"""Recipients of notifications: subscriptions, delivery queue and escalation."""

import datetime as dt
import hashlib
from collections import abc
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import core, errors, io
from qc._files import read_secret
from qc.alerts import notifications, traces
from qc.db.schema import models
from qc.settings import Settings, Subscription, matches_patterns


@dataclass(frozen=True)
class AlertAttributes:
    """Attributes of an alert by which subscriptions select; None for all."""

    instrument: str | None
    arm: str | None
    image_type: str | None
    score: float


def queue_deliveries(
    session: Session,
    settings: Settings,
    notification: models.NotificationRow,
    instruments: abc.Sequence[io.Instrument],
    now: dt.datetime,
) -> None:
    """Queue a notification for the first address and the webhook of each subscription.

    Parameters
    ----------
    session : Session
        Open session; the caller commits.
    settings : Settings
        Subscriptions.
    notification : NotificationRow
        Notification; its earlier recipients are left out.
    instruments : sequence of Instrument
        Instrument definitions.
    now : datetime
        Time, UTC.
    """
    attributes = read_attributes(session, notification, instruments)
    for subscription in settings.subscription:
        if selects(subscription, notification.topic, attributes):
            address = next(iter(subscription.to), "")
            queue_delivery(session, notification, core.Channel.MAIL, address, now)
            webhook = webhook_name(subscription)
            queue_delivery(session, notification, core.Channel.WEBHOOK, webhook, now)


def queue_delivery(
    session: Session,
    notification: models.NotificationRow,
    channel: core.Channel,
    address: str,
    now: dt.datetime,
) -> bool:
    """Queue a notification for one address, once.

    Parameters
    ----------
    session : Session
        Open session; the caller commits.
    notification : NotificationRow
        Notification.
    channel : Channel
        Transport.
    address : str
        Mail address or name of a webhook; empty for none.
    now : datetime
        Time, UTC.

    Returns
    -------
    bool
        False if the address is empty or queued already.
    """
    queued = {(row.channel, row.address.casefold()) for row in notification.deliveries}
    if not address or (channel, address.casefold()) in queued:
        return False
    notification.deliveries.append(
        models.DeliveryRow(
            channel=channel, address=address, owed_at=now, due_at=now, tries=0, trouble=""
        )
    )
    session.flush()
    return True


def read_attributes(
    session: Session,
    notification: models.NotificationRow,
    instruments: abc.Sequence[io.Instrument],
) -> list[AlertAttributes]:
    """Return the attributes of a notification's alerts.

    Parameters
    ----------
    session : Session
        Open session.
    notification : NotificationRow
        Notification.
    instruments : sequence of Instrument
        Instrument definitions.

    Returns
    -------
    list of AlertAttributes
    """
    arms = traces.arms_by_image_type(instruments)
    alert, verdict = models.AlertRow, models.VerdictRow
    query = (
        sa.select(alert.instrument, alert.image_type, verdict.score)
        .outerjoin(verdict, verdict.id == alert.verdict_id)
        .where(alert.notification_id == notification.id)
    )
    return [
        AlertAttributes(
            instrument, arms.get((instrument or "", image_type or "")), image_type, score or 0
        )
        for instrument, image_type, score in session.execute(query)
    ]


def selects(
    subscription: Subscription, topic: core.Topic, attributes: abc.Iterable[AlertAttributes]
) -> bool:
    """Return True if a subscription selects a notification.

    An alert without instrument, arm or image type matches every pattern.

    Parameters
    ----------
    subscription : Subscription
        Subscription.
    topic : Topic
        Topic of the notification.
    attributes : iterable of AlertAttributes
        Attributes of its alerts; one match is enough.

    Returns
    -------
    bool
    """
    has_topic = topic in subscription.topics if subscription.topics else topic != core.Topic.REPORT
    if not has_topic:
        return False
    if topic == core.Topic.REPORT:
        return True
    for alert in attributes:
        patterns = (
            (alert.instrument, subscription.instruments),
            (alert.arm, subscription.arms),
            (alert.image_type, subscription.image_types),
        )
        is_severe = topic != core.Topic.VERDICT or alert.score >= subscription.least_score
        if is_severe and all(
            name is None or matches_patterns(name, allowed) for name, allowed in patterns
        ):
            return True
    return False


def webhook_name(subscription: Subscription) -> str:
    """Return a name for a webhook without its URL, which may contain a secret."""
    if subscription.webhook_file is not None:
        return str(subscription.webhook_file)
    url = subscription.webhook.get_secret_value()
    if not url:
        return ""
    host = url.split("/")[2].rpartition("@")[2]
    return f"{host}#{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def webhook_url(name: str, settings: Settings) -> str:
    """Return the URL of a webhook.

    Parameters
    ----------
    name : str
        Name by `webhook_name`.
    settings : Settings
        Subscriptions.

    Returns
    -------
    str

    Raises
    ------
    RecipientRefusedError
        If no subscription has the webhook any more.
    ConfigurationError
        If its file cannot be used.
    """
    for subscription in settings.subscription:
        if webhook_name(subscription) == name:
            if subscription.webhook_file is not None:
                return read_secret(settings.project / subscription.webhook_file)
            return subscription.webhook.get_secret_value()
    raise errors.RecipientRefusedError("webhook: no longer in the settings")


def escalate(
    session: Session,
    settings: Settings,
    now: dt.datetime,
    instruments: abc.Sequence[io.Instrument],
) -> int:
    """Queue notifications without an acknowledgement for the next address.

    Each address follows `escalate_h` hours after the delivery to the previous one, or at once if
    that delivery was given up. Notifications older than `oldest_days` are left out, so that a new
    address in the settings does not receive old ones.

    Parameters
    ----------
    session : Session
        Open session; the caller commits.
    settings : Settings
        Subscriptions.
    now : datetime
        Time, UTC.
    instruments : sequence of Instrument
        Instrument definitions.

    Returns
    -------
    int
        Number of queued deliveries.
    """
    if not any(len(subscription.to) > 1 for subscription in settings.subscription):
        return 0
    since = now - dt.timedelta(days=settings.alerts.oldest_days)
    count = 0
    for notification in notifications.open_notifications(session, since):
        due = [
            (subscription, next_address(notification, subscription, now))
            for subscription in settings.subscription
        ]
        if not any(address for _, address in due):
            continue
        attributes = read_attributes(session, notification, instruments)
        for subscription, address in due:
            if selects(subscription, notification.topic, attributes):
                count += queue_delivery(session, notification, core.Channel.MAIL, address, now)
    return count


def next_address(
    notification: models.NotificationRow, subscription: Subscription, now: dt.datetime
) -> str:
    """Return the address to which a notification escalates now; empty for none.

    Parameters
    ----------
    notification : NotificationRow
        Notification without an acknowledgement.
    subscription : Subscription
        Addresses in order.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
    """
    by_address = {
        row.address.casefold(): row
        for row in notification.deliveries
        if row.channel == core.Channel.MAIL
    }
    deliveries = [by_address.get(address.casefold()) for address in subscription.to]
    if None not in deliveries[1:] or deliveries[0] is None:
        return ""
    number = deliveries.index(None)
    previous = deliveries[number - 1]
    assert previous is not None
    wait = dt.timedelta(hours=subscription.escalate_h)
    is_overdue = previous.sent_at is not None and now >= previous.sent_at + wait
    return subscription.to[number] if is_overdue or previous.gave_up_at else ""
