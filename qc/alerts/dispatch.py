"""Dispatch: send due notifications by mail and webhook, with retry.

The process may be killed between any two mails: each attempt is stored before it begins, and each
result right after it.
"""

import datetime as dt
import hashlib
import logging
import time
from collections import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from qc import _text, core, errors
from qc.alerts import content, email, recipients, webhook
from qc.db.schema import models
from qc.project import ProjectContext
from qc.settings import MailSettings, check_address

logger = logging.getLogger(__name__)

LONGEST_RETRY_WAIT = dt.timedelta(hours=1)
LOST_CONNECTIONS = 2  # in succession; the other mails wait for the next round
RECORD_FOR_S = 600.0  # retry time for storing the result of an attempt
_RECORD_PAUSE_S = 1.0


@dataclass(frozen=True)
class DispatchResult:
    """Result of a round of sending.

    Attributes
    ----------
    sent, deferred, gave_up : int
        Number of deliveries; deferred ones are tried again.
    problems : tuple of str
        Distinct error messages.
    """

    sent: int = 0
    deferred: int = 0
    gave_up: int = 0
    problems: tuple[str, ...] = ()


def send_unsent(project: ProjectContext, now: dt.datetime) -> DispatchResult:
    """Send all due deliveries; each is committed as sent after the server accepted it.

    An attempt is stored as failed before it begins. A process that is killed during an attempt
    repeats that mail later, with the same Message-ID. An unreachable server defers all mails; a
    refused address delays no other.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    now : datetime
        Time, UTC.

    Returns
    -------
    DispatchResult
    """
    return DispatchRound(project, now).run()


@dataclass(frozen=True)
class DueDelivery:
    """Delivery that is due."""

    id: int
    notification_id: int
    channel: core.Channel
    address: str
    owed_at: dt.datetime
    tries: int


class DispatchRound:
    """One round of sending."""

    def __init__(self, project: ProjectContext, now: dt.datetime) -> None:
        self.project, self.mail = project, project.settings.mail
        self.started_at, self._start_s = now, time.monotonic()
        self._sent = self._deferred = self._gave_up = 0
        self._problems: dict[str, None] = {}
        self._content: tuple[tuple[int, dt.datetime], content.NotificationContent] | None = None
        self._message: tuple[tuple[int, dt.datetime], email.Message] | None = None

    @property
    def now(self) -> dt.datetime:
        """Return the time, UTC."""
        return self.started_at + dt.timedelta(seconds=time.monotonic() - self._start_s)

    def run(self) -> DispatchResult:
        """Send all due deliveries."""
        due = self.read_due()
        self.send_mails([delivery for delivery in due if delivery.channel == core.Channel.MAIL])
        for delivery in due:
            if delivery.channel == core.Channel.WEBHOOK:
                self.attempt(delivery, self._post_webhook)
        return DispatchResult(self._sent, self._deferred, self._gave_up, tuple(self._problems))

    def read_due(self) -> list[DueDelivery]:
        """Return the due deliveries, fewest attempts first, so that no mail blocks the others."""
        row = models.DeliveryRow
        query = (
            sa.select(row)
            .where(row.due_at <= self.started_at)
            .order_by(row.tries, row.notification_id, row.id)
        )
        with self.project.read_session() as session:
            return [
                DueDelivery(
                    row.id, row.notification_id, row.channel, row.address, row.owed_at, row.tries
                )
                for row in session.scalars(query)
            ]

    def send_mails(self, due: abc.Sequence[DueDelivery]) -> None:
        """Send mails by one SMTP connection, until the server is unreachable."""
        lost = 0
        with email.SmtpConnection(self.mail, self.project.settings.project) as connection:
            for number, delivery in enumerate(due):
                try:
                    connection.open()
                except errors.ServerUnreachableError as error:
                    for unsent in due[number:]:
                        if self.claim(unsent):
                            self.defer(unsent, str(error))
                    return
                is_lost = self.attempt(delivery, lambda item: self._post_mail(connection, item))
                lost = lost + 1 if is_lost else 0
                if lost == LOST_CONNECTIONS:  # the rest stays due and is first in the next round
                    self._deferred += len(due) - number - 1
                    return

    def attempt(self, delivery: DueDelivery, post: abc.Callable[[DueDelivery], str]) -> bool:
        """Try a delivery and store the result.

        Parameters
        ----------
        delivery : DueDelivery
            Delivery.
        post : callable
            Transport; returns the server's answer.

        Returns
        -------
        bool
            True if the connection was lost.
        """
        if not self.claim(delivery):
            return False
        number = delivery.notification_id
        try:
            answer = post(delivery)
        except errors.RecipientRefusedError as error:
            self.give_up(delivery, str(error))
        except (errors.DeliveryError, errors.ConfigurationError) as error:
            self.defer(delivery, str(error))
            return isinstance(error, errors.ServerUnreachableError)
        except OperationalError:
            raise
        except Exception as error:  # a broken notification does not block the others
            logger.exception("notification %d: cannot be composed", number)
            kind = type(error).__name__
            self.defer(delivery, f"the notification cannot be composed: {kind}; see the log")
        else:
            self.record(delivery, sent_at=self.now, due_at=None, trouble="")
            self._sent += 1
            channel, address = delivery.channel, delivery.address
            logger.info("notification %d: %s to %s: %s", number, channel, address, answer)
        return False

    def claim(self, delivery: DueDelivery) -> bool:
        """Store an attempt before it begins; return False if another process was faster."""
        with self.project.write_session.begin() as session:
            row = session.get(models.DeliveryRow, delivery.id)
            if row is None or row.tries != delivery.tries or row.due_at is None:
                return False
            row.tries += 1
            first = dt.timedelta(seconds=self.mail.retry_first_s)
            wait = min(first * float(1 << min(row.tries - 1, 30)), LONGEST_RETRY_WAIT)
            row.due_at = self.now + wait
            row.trouble = "the last attempt was interrupted"
        return True

    def defer(self, delivery: DueDelivery, problem: str) -> None:
        """Leave a delivery queued for the next attempt, or give it up after `retry_days`.

        Parameters
        ----------
        delivery : DueDelivery
            Delivery.
        problem : str
            Error message.
        """
        if self.now - delivery.owed_at >= dt.timedelta(days=self.mail.retry_days):
            days = self.mail.retry_days
            duration = f"{days:g} {'day' if days == 1 else 'days'}"
            self.give_up(delivery, f"given up after {duration}: {problem}")
            return
        self.record(delivery, trouble=problem)
        self._log_problem(delivery, problem)
        self._deferred += 1

    def give_up(self, delivery: DueDelivery, problem: str) -> None:
        """Remove a delivery from the queue.

        Parameters
        ----------
        delivery : DueDelivery
            Delivery.
        problem : str
            Error message.
        """
        self.record(delivery, due_at=None, gave_up_at=self.now, trouble=problem)
        self._log_problem(delivery, problem)
        self._gave_up += 1

    def _log_problem(self, delivery: DueDelivery, problem: str) -> None:
        self._problems.setdefault(problem)
        number, channel = delivery.notification_id, delivery.channel
        logger.warning("notification %d: %s to %s: %s", number, channel, delivery.address, problem)

    def record(self, delivery: DueDelivery, **values: Any) -> None:
        """Store the result of an attempt; retry for minutes while the database is unavailable.

        Without the result, a sent mail would be sent again.

        Parameters
        ----------
        delivery : DueDelivery
            Delivery.
        **values
            Columns of the delivery.
        """
        until = time.monotonic() + RECORD_FOR_S
        while True:
            try:
                with self.project.write_session.begin() as session:
                    row = session.get(models.DeliveryRow, delivery.id)
                    for name, value in values.items():
                        setattr(row, name, value)
            except OperationalError:
                if time.monotonic() > until:
                    raise
                number = delivery.notification_id
                logger.warning("notification %d: result not stored yet; trying again", number)
                time.sleep(_RECORD_PAUSE_S)
            else:
                return

    def _post_mail(self, connection: email.SmtpConnection, delivery: DueDelivery) -> str:
        with self.project.read_session() as session:
            row = session.get_one(models.DeliveryRow, delivery.id)
            created = row.notification.made_at
        message = email.compose(
            self._message_of(delivery),
            self.mail,
            delivery.address,
            message_id(delivery, created),
            self.now,
        )
        return connection.post(message, delivery.address)

    def _message_of(self, delivery: DueDelivery) -> email.Message:
        """Return the rendered message, cached for all recipients of a notification."""
        key = delivery.notification_id, delivery.owed_at
        if self._message is None or self._message[0] != key:
            self._message = key, email.render_message(self._content_of(delivery))
        return self._message[1]

    def _content_of(self, delivery: DueDelivery) -> content.NotificationContent:
        """Return the content, cached for all recipients of a notification."""
        key = delivery.notification_id, delivery.owed_at
        if self._content is None or self._content[0] != key:
            with self.project.read_session() as session:
                row = session.get_one(models.NotificationRow, delivery.notification_id)
                self._content = (
                    key,
                    content.read_content(session, row, self.project, delivery.owed_at),
                )
        return self._content[1]

    def _post_webhook(self, delivery: DueDelivery) -> str:
        settings = self.project.settings
        url = recipients.webhook_url(delivery.address, settings)
        message = webhook.build_message(self._content_of(delivery), settings.project.name)
        return webhook.post_message(url, message, self.mail.timeout_s)


def message_id(delivery: DueDelivery, created: dt.datetime) -> str:
    """Return the local part of a Message-ID, equal for all attempts of a delivery.

    Parameters
    ----------
    delivery : DueDelivery
        Delivery.
    created : datetime
        Time of the notification.

    Returns
    -------
    str
    """
    number = delivery.notification_id
    facts = f"{delivery.id} {number} {delivery.address} {created.isoformat()}"
    return f"qc.{number}.{hashlib.sha256(facts.encode()).hexdigest()[:20]}"


def send_test(mail: MailSettings, project: Path, to: str, now: dt.datetime) -> str:
    """Send a test mail.

    Parameters
    ----------
    mail : MailSettings
        Mail server.
    project : Path
        Project folder, the base of relative paths.
    to : str
        Mail address.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        The server's answer.

    Raises
    ------
    InvalidInputError
        If the address is invalid.
    DeliveryError
        If the server did not accept the mail; the message has the remedy.
    """
    try:
        check_address(to)
    except ValueError as error:
        raise errors.InvalidInputError(f"'{_text.truncate(to)}': {error}") from None
    text = (
        f"Test mail of 'qc alerts test' for the project {project.name}, "
        f"{now.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC. No action is needed."
    )
    message = email.Message("[QC] test mail", f"{text}\n", f"<p>{text}</p>\n")
    identity = hashlib.sha256(f"{to} {now.isoformat()}".encode()).hexdigest()[:20]
    with email.SmtpConnection(mail, project) as connection:
        connection.open()
        return connection.post(email.compose(message, mail, to, f"qc.test.{identity}", now), to)
