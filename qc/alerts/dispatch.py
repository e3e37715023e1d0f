"""From the owed alert to the mail in the server's hands: gathered, told once, answered by people.

`gather_alerts` puts what is owed into notices and says who is to hear of each; `send_unsent` sends
what is due. Between the two, and between any two mails, the program may be killed.
"""

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger
from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from qc import db
from qc._text import shortened
from qc.alerts.content import (
    AlertAttributes,
    NotificationContent,
    arms,
    plain,
    read_story,
    seen,
    subject_of,
    traces,
)
from qc.alerts.grouping import AnomalyTrace, events_of
from qc.alerts.notifications import end_silences, hush, open_notices, waiting
from qc.alerts.transport import (
    Message,
    SmtpConnection,
    compose,
    post_message,
    write_letter,
    write_message,
)
from qc.core.enums import Channel, LabelName, NotificationKind, Topic
from qc.core.verdict import Status
from qc.db.models import AlertRow, DeliveryRow, ExtensionRow, FrameRow, NotificationRow, VerdictRow
from qc.errors import (
    ConfigurationError,
    DeliveryError,
    InvalidInputError,
    RecipientRefusedError,
    ServerUnreachableError,
)
from qc.io.instruments import Instrument, read_instruments
from qc.project import Project
from qc.settings import MailSettings, Settings, Subscription, matches, read_address, read_secret

logger = logging.getLogger(__name__)

PLACES_AT_ONCE = 200  # bounds how long others wait for the database, should an archive come in
LONGEST_WAIT = timedelta(hours=1)  # between two tries
LOST_IN_A_ROW = 2  # connections; then the rest waits for the next round
RECORD_FOR_S = 600.0  # how long it is tried to keep that a mail has left
_RECORD_PAUSE_S = 1.0
_GOOD = (LabelName.GOOD, LabelName.VALID_OUTLIER)

AlertPlace = tuple[Topic, str | None, date | None]  # alerts of one can be of one notice


@dataclass(frozen=True)
class DispatchResult:
    """What became of a round of sending.

    Attributes
    ----------
    sent, deferred, gave_up : int
        Mails and messages; those deferred are tried again.
    troubles : tuple of str
        Sentences, each once.
    """

    sent: int = 0
    deferred: int = 0
    gave_up: int = 0
    troubles: tuple[str, ...] = ()


# --- what is owed becomes notices -----------------------------------------------------------------


def gather_alerts(
    session: Session,
    settings: Settings,
    now: datetime,
    instruments: Sequence[Instrument] | None = None,
) -> int:
    """Put the alerts that are owed into notices, and say who is to hear of each.

    Also ends the silences whose time has come, and lets notices that nobody has acknowledged go
    to the next address. All of it in the caller's transaction.

    Parameters
    ----------
    instruments : sequence of Instrument, optional
        Those of the settings, where absent.

    Returns
    -------
    int
        New notices.
    """
    if instruments is None:
        instruments = _instruments(settings.instruments_folder)
    end_silences(session, now)
    _settle(session)
    hush(session, now)
    made = 0
    for place, owed in _owed_by_place(session)[:PLACES_AT_ONCE]:
        made += _Grouper(session, settings, instruments, place, now).take(owed)
    escalate(session, settings, now, instruments)
    return made


@cache
def _instruments(folder: Path | None) -> tuple[Instrument, ...]:
    return read_instruments(folder)


def _owed_by_place(session: Session) -> list[tuple[AlertPlace, list[AlertRow]]]:
    """Return what is owed, the newest night first."""
    found = defaultdict[AlertPlace, list[AlertRow]](list)
    for row in session.scalars(select(AlertRow).where(*waiting()).order_by(AlertRow.id)):
        found[row.topic, row.instrument, row.night].append(row)
    return sorted(found.items(), key=lambda each: each[0][2] or date.max, reverse=True)


def _settle(session: Session) -> None:
    """Tell nobody of what a person has called good by now, or what is judged nominal by now."""
    query = (
        select(AlertRow, VerdictRow.extension_id)
        .join(VerdictRow, VerdictRow.id == AlertRow.verdict_id)
        .where(*waiting())
    )
    alerts = {extension_id: alert for alert, extension_id in session.execute(query)}
    for one in db.findings.findings_with(session, list(alerts)):
        if one.label is not None and one.label.label in _GOOD:
            words = f"called {one.label.label} by {one.label.who} before it was told"
            alerts[one.extension.id].settled = words
        elif one.label is None and one.verdict.status != Status.ANOMALOUS:
            words = "judged again, and not anomalous, before it was told"
            alerts[one.extension.id].settled = words


@dataclass(frozen=True)
class _Grouper:
    """Puts the alerts of one topic, instrument and night into notices."""

    session: Session
    settings: Settings
    instruments: Sequence[Instrument]
    place: AlertPlace
    now: datetime

    def take(self, owed: Sequence[AlertRow]) -> int:
        """Return how many notices were made of these alerts."""
        old = self._of_an_archive(owed)
        made = self._archive([one for one in owed if one.id in old])
        told, events = self._events([one for one in owed if one.id not in old])
        for notice, joining in told:
            self._join(notice, joining)
        ready = [event for event in events if self._is_ready(event)]
        return made + (self._tell(events, ready) if ready else 0)

    def _of_an_archive(self, owed: Sequence[AlertRow]) -> set[int]:
        oldest = timedelta(days=self.settings.alerts.oldest_days)
        query = (
            select(AlertRow.id, FrameRow.observed_at, AlertRow.owed_at)
            .join(VerdictRow, VerdictRow.id == AlertRow.verdict_id)
            .join(ExtensionRow, ExtensionRow.id == VerdictRow.extension_id)
            .join(FrameRow, FrameRow.id == ExtensionRow.frame_id)
            .where(*self._here(), *waiting())
        )
        rows = self.session.execute(query)
        old = {id_ for id_, taken, judged in rows if taken and judged - taken > oldest}
        return old.intersection(one.id for one in owed)

    def _here(self) -> tuple[ColumnElement[bool], ...]:
        topic, instrument, night = self.place
        return (
            AlertRow.topic == topic,
            AlertRow.instrument.is_not_distinct_from(instrument),
            AlertRow.night.is_not_distinct_from(night),
        )

    def _archive(self, alerts: Sequence[AlertRow]) -> int:
        if not alerts:
            return 0
        known = self._notices(NotificationKind.ARCHIVE)
        if known:
            self._join(known[-1], alerts)
            return 0
        self._make(NotificationKind.ARCHIVE, alerts)
        return 1

    def _notices(self, *forms: NotificationKind) -> list[NotificationRow]:
        """Return the notices of this place, oldest first."""
        query = (
            select(NotificationRow)
            .where(
                NotificationRow.form.in_(forms),
                NotificationRow.topic == self.place[0],
                exists().where(AlertRow.notice_id == NotificationRow.id, *self._here()),
            )
            .order_by(NotificationRow.id)
        )
        if self.place[2] is None:  # of no night: those of the last 24 hours
            query = query.where(NotificationRow.made_at > self.now - timedelta(days=1))
        return list(self.session.scalars(query))

    def _events(
        self, owed: Sequence[AlertRow]
    ) -> tuple[list[tuple[NotificationRow, list[AlertRow]]], list[list[AlertRow]]]:
        """Sort alerts into those of events that were told already, and new events."""
        topic, instrument, night = self.place
        if topic != Topic.VERDICT:
            return [], [list(owed)] if owed else []
        if not owed:
            return [], []
        alerts = {one.id: one for one in owed}
        before = AlertRow.notice_id.in_(
            [one.id for one in self._notices(NotificationKind.EVENT, NotificationKind.DIGEST)]
        ) | AlertRow.id.in_(list(alerts))
        found = traces(self.session, *self._here(), before)
        groups = events_of(found, seen(self.session, instrument, night))
        told, events = [], []
        for group in groups:
            new = [alerts[one.alert_id] for one in group if one.alert_id in alerts]
            notice = self._told_in(group, set(alerts))
            if new and notice is not None:
                told.append((notice, new))
            elif new:
                events.append(new)
        return told, events

    def _told_in(self, group: Sequence[AnomalyTrace], owed: set[int]) -> NotificationRow | None:
        """Return the first notice that tells of an event."""
        others = [one.alert_id for one in group if one.alert_id not in owed]
        query = (
            select(NotificationRow)
            .join(AlertRow, AlertRow.notice_id == NotificationRow.id)
            .where(AlertRow.id.in_(others))
            .order_by(NotificationRow.id)
            .limit(1)
        )
        return self.session.scalar(query) if others else None

    def _is_ready(self, event: Sequence[AlertRow]) -> bool:
        """Say whether an event has had its time, or a clock that was set back hides how long."""
        wait = timedelta(seconds=self.settings.alerts.gather_s)
        ages = [self.now - one.owed_at for one in event]
        return min(ages) >= wait or max(ages) >= 2 * wait or min(ages) < timedelta(0)

    def _tell(
        self, events: Sequence[Sequence[AlertRow]], ready: Sequence[Sequence[AlertRow]]
    ) -> int:
        """Tell of events one by one; of many, and of all that come after many, in a digest."""
        limits = self.settings.alerts
        digests = self._notices(NotificationKind.DIGEST)
        every = [one for event in events for one in event]
        if digests and not _has_left(digests[-1]):
            self._join(digests[-1], [one for event in ready for one in event])
            return 0
        if digests and self.now < self._morning_after(digests[-1].made_at):
            return 0
        told = len(self._notices(NotificationKind.EVENT))
        if digests or len(events) > limits.most_at_once or told + len(ready) > limits.most_a_night:
            self._make(NotificationKind.DIGEST, every)
            return 1
        for event in ready:
            self._make(NotificationKind.EVENT, event)
        return len(ready)

    def _morning_after(self, when: datetime) -> datetime:
        """Return when the next morning report is due."""
        schedule = self.settings.schedule
        trigger = CronTrigger.from_crontab(schedule.report, ZoneInfo(schedule.time_zone))
        found: datetime | None = trigger.get_next_fire_time(None, when)
        return found or when

    def _make(self, form: NotificationKind, alerts: Sequence[AlertRow]) -> None:
        topic, _, night = self.place
        notice = NotificationRow(topic=topic, form=form, night=night, made_at=self.now, subject="")
        self.session.add(notice)
        self.session.flush()
        self._join(notice, alerts)
        logger.info("notice %d: %s", notice.id, notice.subject)

    def _join(self, notice: NotificationRow, alerts: Sequence[AlertRow]) -> None:
        for one in alerts:
            one.notice_id = notice.id
        self.session.flush()
        self.session.expire(notice, ["alerts"])
        if not _has_left(notice):
            notice.subject = subject_of(self.session, notice, self.instruments)
        if notice.form != NotificationKind.ARCHIVE:
            _owe(self.session, self.settings, notice, self.instruments, self.now)


def _has_left(notice: NotificationRow) -> bool:
    return any(one.sent_at is not None for one in notice.deliveries)


# --- who is told ----------------------------------------------------------------------------------


def _owe(
    session: Session,
    settings: Settings,
    notice: NotificationRow,
    instruments: Sequence[Instrument],
    now: datetime,
) -> None:
    """Owe a notice to all who are to hear of it at once and have not been owed it before."""
    traits = _traits(session, notice, instruments)
    for subscription in settings.subscription:
        if _wants(subscription, notice.topic, traits):
            _owe_one(session, notice, Channel.MAIL, next(iter(subscription.to), ""), now)
            _owe_one(session, notice, Channel.WEBHOOK, _hook_name(subscription), now)


def _owe_one(
    session: Session, notice: NotificationRow, channel: Channel, address: str, now: datetime
) -> bool:
    known = {(one.channel, one.address.casefold()) for one in notice.deliveries}
    if not address or (channel, address.casefold()) in known:
        return False
    notice.deliveries.append(
        DeliveryRow(channel=channel, address=address, owed_at=now, due_at=now, tries=0, trouble="")
    )
    session.flush()
    return True


def _traits(
    session: Session, notice: NotificationRow, instruments: Sequence[Instrument]
) -> list[AlertAttributes]:
    arm_of = arms(instruments)
    query = (
        select(AlertRow.instrument, AlertRow.image_type, VerdictRow.score)
        .outerjoin(VerdictRow, VerdictRow.id == AlertRow.verdict_id)
        .where(AlertRow.notice_id == notice.id)
    )
    return [
        AlertAttributes(
            instrument, arm_of.get((instrument or "", image_type or "")), image_type, score or 0
        )
        for instrument, image_type, score in session.execute(query)
    ]


def _wants(subscription: Subscription, topic: Topic, traits: Iterable[AlertAttributes]) -> bool:
    """Say whether a subscription is to hear of a notice.

    What is of no instrument, arm or image type in particular concerns those of all.
    """
    asked = topic in subscription.topics if subscription.topics else topic != Topic.REPORT
    if not asked:
        return False
    return topic == Topic.REPORT or any(_wants_one(subscription, topic, one) for one in traits)


def _wants_one(subscription: Subscription, topic: Topic, trait: AlertAttributes) -> bool:
    asked = (
        (trait.instrument, subscription.instruments),
        (trait.arm, subscription.arms),
        (trait.image_type, subscription.image_types),
    )
    grave = topic != Topic.VERDICT or trait.score >= subscription.least_score
    return grave and all(name is None or matches(name, patterns) for name, patterns in asked)


def _hook_name(subscription: Subscription) -> str:
    """Name a webhook without telling its address, which may be a secret."""
    if subscription.webhook_file is not None:
        return str(subscription.webhook_file)
    url = subscription.webhook.get_secret_value()
    if not url:
        return ""
    host = url.split("/")[2].rpartition("@")[2]
    return f"{host}#{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def _hook_address(name: str, settings: Settings) -> str:
    """Return the address of a webhook by its name.

    Raises
    ------
    Refused
        If the settings know it no more.
    ConfigurationError
        If its file cannot be used.
    """
    for subscription in settings.subscription:
        if _hook_name(subscription) == name:
            if subscription.webhook_file is not None:
                return read_secret(settings.project / subscription.webhook_file)
            return subscription.webhook.get_secret_value()
    raise RecipientRefusedError("webhook: the settings name it no more")


def owe_report(
    session: Session,
    settings: Settings,
    file: Path,
    subject: str,
    night: date | None,
    now: datetime,
) -> int:
    """Owe a page to those who asked for reports; return how many they are.

    One that is still owed is not owed twice: what is in the file when it leaves is sent.
    """
    unsent = (
        select(NotificationRow)
        .join(NotificationRow.deliveries)
        .where(
            NotificationRow.topic == Topic.REPORT,
            NotificationRow.file == str(file),
            DeliveryRow.due_at.is_not(None),
            DeliveryRow.sent_at.is_(None),
        )
    )
    notice = session.scalar(unsent.limit(1)) or NotificationRow(
        topic=Topic.REPORT,
        form=NotificationKind.EVENT,
        night=night,
        made_at=now,
        file=str(file),
        subject="",
    )
    notice.subject = plain(subject)
    if not any(_wants(one, Topic.REPORT, ()) for one in settings.subscription):
        return 0
    session.add(notice)
    session.flush()
    _owe(session, settings, notice, (), now)
    return len(notice.deliveries)


def escalate(
    session: Session,
    settings: Settings,
    now: datetime,
    instruments: Sequence[Instrument] | None = None,
) -> int:
    """Owe notices that nobody has answered to the next address; return how many.

    Each address follows `escalate_h` hours after the one before it was told, or at once where that
    one cannot be told at all. Notices of last week are left alone: a new address in the settings is
    not told the past.
    """
    if not any(len(one.to) > 1 for one in settings.subscription):
        return 0
    instruments = _instruments(settings.instruments_folder) if instruments is None else instruments
    since = now - timedelta(days=settings.alerts.oldest_days)
    owed = 0
    for notice in open_notices(session, since):
        due = [(one, _next(notice, one, now)) for one in settings.subscription]
        if not any(address for _, address in due):
            continue
        traits = _traits(session, notice, instruments)
        for one, address in due:
            if _wants(one, notice.topic, traits):
                owed += _owe_one(session, notice, Channel.MAIL, address, now)
    return owed


def _next(notice: NotificationRow, subscription: Subscription, now: datetime) -> str:
    """Return the address that is to be told now; empty if none is."""
    by_address = {
        one.address.casefold(): one for one in notice.deliveries if one.channel == Channel.MAIL
    }
    told = [by_address.get(address.casefold()) for address in subscription.to]
    if None not in told[1:] or told[0] is None:
        return ""
    number = told.index(None)
    before = told[number - 1]
    assert before is not None
    patience = timedelta(hours=subscription.escalate_h)
    waited = before.sent_at is not None and now >= before.sent_at + patience
    return subscription.to[number] if waited or before.gave_up_at else ""


# --- sending --------------------------------------------------------------------------------------


def send_unsent(project: Project, now: datetime) -> DispatchResult:
    """Send all that is due, each committed as sent right after the server took it.

    A try is on record before it begins, as one that failed: whoever is killed in the midst of it
    repeats that one mail, later, with the same Message-ID. A server that is out of reach defers
    all mails at once; one bad address holds up no other.
    """
    return _DispatchRound(project, now).run()


@dataclass(frozen=True)
class _DueDelivery:
    """A delivery to be tried."""

    id: int
    notice_id: int
    channel: Channel
    address: str
    owed_at: datetime
    tries: int


class _DispatchRound:
    """One round of sending."""

    def __init__(self, project: Project, now: datetime) -> None:
        self.project, self.mail = project, project.settings.mail
        self._now, self._started = now, time.monotonic()
        self._sent = self._deferred = self._gave_up = 0
        self._troubles: dict[str, None] = {}
        self._story: tuple[tuple[int, datetime], NotificationContent] | None = None
        self._letter: tuple[tuple[int, datetime], Message] | None = None

    @property
    def now(self) -> datetime:
        return self._now + timedelta(seconds=time.monotonic() - self._started)

    def run(self) -> DispatchResult:
        due = self._read_due()
        self._send_mails([one for one in due if one.channel == Channel.MAIL])
        for one in due:
            if one.channel == Channel.WEBHOOK:
                self._try(one, self._post_webhook)
        return DispatchResult(self._sent, self._deferred, self._gave_up, tuple(self._troubles))

    def _read_due(self) -> list[_DueDelivery]:
        """Return what is due; what was tried least comes first, so that nothing is held up."""
        query = (
            select(DeliveryRow)
            .where(DeliveryRow.due_at <= self._now)
            .order_by(DeliveryRow.tries, DeliveryRow.notice_id, DeliveryRow.id)
        )
        with self.project.reads() as session:
            return [
                _DueDelivery(
                    row.id, row.notice_id, row.channel, row.address, row.owed_at, row.tries
                )
                for row in session.scalars(query)
            ]

    def _send_mails(self, due: list[_DueDelivery]) -> None:
        lost = 0
        with SmtpConnection(self.mail, self.project.settings.project) as box:
            for number, one in enumerate(due):
                try:
                    box.open()
                except ServerUnreachableError as error:
                    self._defer_all(due[number:], str(error))
                    return
                is_lost = self._try(one, lambda each: self._post_mail(box, each))
                lost = lost + 1 if is_lost else 0
                if lost == LOST_IN_A_ROW:  # the rest is due still, and comes first next time
                    self._deferred += len(due) - number - 1
                    return

    def _try(self, one: _DueDelivery, post: Callable[[_DueDelivery], str]) -> bool:
        """Try one delivery, and say whether the connection was lost."""
        if not self._claim(one):
            return False
        try:
            answer = post(one)
        except RecipientRefusedError as error:
            self._give_up(one, str(error))
        except (DeliveryError, ConfigurationError) as error:
            self._defer(one, str(error))
            return isinstance(error, ServerUnreachableError)
        except OperationalError:
            raise
        except Exception as error:  # one notice that cannot be written holds up no other
            logger.exception("notice %d: cannot be written", one.notice_id)
            self._defer(one, f"the notice cannot be written: {type(error).__name__}; see the log")
        else:
            self._keep(one, sent_at=self.now, due_at=None, trouble="")
            self._sent += 1
            logger.info("notice %d: %s to %s: %s", one.notice_id, one.channel, one.address, answer)
        return False

    def _claim(self, one: _DueDelivery) -> bool:
        """Put a try on record before it begins; return False if another was first."""
        with self.project.writes.begin() as session:
            row = session.get(DeliveryRow, one.id)
            if row is None or row.tries != one.tries or row.due_at is None:
                return False
            row.tries += 1
            row.due_at = self.now + self._wait(row.tries)
            row.trouble = "the last try did not come to its end"
        return True

    def _wait(self, tries: int) -> timedelta:
        first = timedelta(seconds=self.mail.retry_first_s)
        return min(first * float(1 << min(tries - 1, 30)), LONGEST_WAIT)

    def _defer(self, one: _DueDelivery, why: str) -> None:
        if self._is_over(one):
            days = self.mail.retry_days
            self._give_up(one, f"given up after {days:g} {'day' if days == 1 else 'days'}: {why}")
            return
        self._keep(one, trouble=why)
        self._note(one, why)
        self._deferred += 1

    def _is_over(self, one: _DueDelivery) -> bool:
        return self.now - one.owed_at >= timedelta(days=self.mail.retry_days)

    def _defer_all(self, due: Sequence[_DueDelivery], why: str) -> None:
        """Defer all mails: the server is out of reach for each of them."""
        for one in due:
            if self._claim(one):
                self._defer(one, why)

    def _give_up(self, one: _DueDelivery, why: str) -> None:
        self._keep(one, due_at=None, gave_up_at=self.now, trouble=why)
        self._note(one, why)
        self._gave_up += 1

    def _note(self, one: _DueDelivery, why: str) -> None:
        self._troubles.setdefault(why)
        logger.warning("notice %d: %s to %s: %s", one.notice_id, one.channel, one.address, why)

    def _keep(self, one: _DueDelivery, **values: Any) -> None:
        """Put on record what became of a try; a database that is away for minutes is waited for.

        Otherwise a mail that has left would be sent again.
        """
        until = time.monotonic() + RECORD_FOR_S
        while True:
            try:
                with self.project.writes.begin() as session:
                    row = session.get(DeliveryRow, one.id)
                    for name, value in values.items():
                        setattr(row, name, value)
            except OperationalError:
                if time.monotonic() > until:
                    raise
                logger.warning("notice %d: what became of it cannot be kept yet", one.notice_id)
                time.sleep(_RECORD_PAUSE_S)
            else:
                return

    def _post_mail(self, box: SmtpConnection, one: _DueDelivery) -> str:
        with self.project.reads() as session:
            row = session.get_one(DeliveryRow, one.id)
            made_at = row.notice.made_at
        message = compose(
            self._letter_of(one), self.mail, one.address, _message_id(one, made_at), self.now
        )
        return box.post(message, one.address)

    def _letter_of(self, one: _DueDelivery) -> Message:
        key = one.notice_id, one.owed_at
        if self._letter is None or self._letter[0] != key:
            self._letter = key, write_letter(self._story_of(one))
        return self._letter[1]

    def _story_of(self, one: _DueDelivery) -> NotificationContent:
        """Read a notice once for all who get it now."""
        key = one.notice_id, one.owed_at
        if self._story is None or self._story[0] != key:
            with self.project.reads() as session:
                notice = session.get_one(NotificationRow, one.notice_id)
                self._story = key, read_story(session, notice, self.project, one.owed_at)
        return self._story[1]

    def _post_webhook(self, one: _DueDelivery) -> str:
        settings = self.project.settings
        url = _hook_address(one.address, settings)
        message = write_message(self._story_of(one), settings.project.name)
        return post_message(url, message, self.mail.timeout_s)


def _message_id(one: _DueDelivery, made_at: datetime) -> str:
    """Return what makes a delivery's mail known again, whenever it is sent."""
    facts = f"{one.id} {one.notice_id} {one.address} {made_at.isoformat()}"
    return f"qc.{one.notice_id}.{hashlib.sha256(facts.encode()).hexdigest()[:20]}"


def send_test(mail: MailSettings, project: Path, to: str, now: datetime) -> str:
    """Send a mail that says it is a test, and return what the server answered.

    Raises
    ------
    InvalidAnswer
        If that is no address.
    NotDelivered
        If it was not taken; the reason says what to do.
    """
    try:
        read_address(to)
    except ValueError as error:
        raise InvalidInputError(f"'{shortened(to)}': {error}") from None
    subject = "[QC] a test: mails arrive"
    words = (
        f"Sent by 'qc alerts --test-mail' from the project {project.name} "
        f"at {now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC. Nothing is wrong."
    )
    letter = Message(subject, f"{words}\n", f"<p>{words}</p>\n")
    identity = hashlib.sha256(f"{to} {now.isoformat()}".encode()).hexdigest()[:20]
    with SmtpConnection(mail, project) as box:
        box.open()
        return box.post(compose(letter, mail, to, f"qc.test.{identity}", now), to)
