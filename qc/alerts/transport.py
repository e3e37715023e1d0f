"""Mails and messages: how a story is put into them, and the servers that take them."""

import logging
import re
import smtplib
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from qc.alerts.content import LONGEST_SUBJECT, InlineImage, NotificationContent, plain
from qc.core.enums import Topic
from qc.errors import (
    ConfigurationError,
    DeliveryError,
    RecipientRefusedError,
    ServerUnreachableError,
)
from qc.reports.night import rendered
from qc.settings import MailSettings, read_secret

SENDER = "Calibration QC"
LARGEST_ATTACHMENT = 20_000_000  # bytes; few servers take more than 25 MB
LONGEST_ANSWER = 300  # of a server, characters
_POLICY = SMTP.clone(cte_type="7bit")  # no server can spoil what is all ASCII
# A line that need not be folded is not: some readers show a blank where a line was folded first.
_WIDE = _POLICY.clone(max_line_length=LONGEST_SUBJECT + 40)
_SUFFIXES = {".html": ("text", "html"), ".pdf": ("application", "pdf")}
_TLS_FAILED, _LOGIN_FAILED = "TLS could not be agreed on", "the login was refused"


@dataclass(frozen=True)
class Attachment:
    """A file that travels with a mail."""

    name: str
    media_type: tuple[str, str]
    content: bytes


@dataclass(frozen=True)
class Message:
    """What everybody who is told of a notice gets."""

    subject: str
    text: str
    html: str
    pictures: tuple[InlineImage, ...] = ()
    attachments: tuple[Attachment, ...] = ()


def write_letter(story: NotificationContent) -> Message:
    """Put a story into words, for readers with and without HTML."""
    attachments, missing = _attachments(story.file)
    context = {"story": story, "attached": [one.name for one in attachments], "missing": missing}
    return Message(
        subject=story.subject,
        text=_printable(rendered("mail.txt.j2", **context)),
        html=_printable(rendered("mail.html.j2", **context)),
        pictures=story.shown.pictures if story.shown else (),
        attachments=attachments,
    )


def _attachments(file: Path | None) -> tuple[tuple[Attachment, ...], tuple[str, ...]]:
    """Read a page, and its PDF if there is one; and say what cannot travel, and why."""
    if file is None:
        return (), ()
    pages = [file, *filter(Path.is_file, [file.with_suffix(".pdf")])]
    attached, missing = [], []
    room = LARGEST_ATTACHMENT
    for page in dict.fromkeys(pages):
        try:
            size = page.stat().st_size
            content = page.read_bytes() if size <= room else b""
        except OSError as error:
            missing.append(f"{plain(page.name)}: {error.strerror}")
            continue
        if size > room:
            missing.append(f"{plain(page.name)}: too large for a mail, {size / 1e6:.0f} MB")
            continue
        room -= size
        kind = _SUFFIXES.get(page.suffix.lower(), ("application", "octet-stream"))
        attached.append(Attachment(_file_name(page), kind, content))
    return tuple(attached), tuple(missing)


def _file_name(page: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", page.name)[-100:]


def _printable(page: str) -> str:
    """Leave out what is neither to be seen nor the end of a line, and halves of letters."""
    whole = page.encode("utf-8", "replace").decode()
    return _UNSEEN.sub("", whole)


_UNSEEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def compose(
    letter: Message, mail: MailSettings, to: str, message_id: str, now: datetime
) -> EmailMessage:
    """Return the mail to one address.

    Parameters
    ----------
    message_id : str
        What stands before the ``@``; the same for the same mail, however often it leaves.
    """
    subject = plain(letter.subject, LONGEST_SUBJECT)
    message = EmailMessage(policy=_WIDE if subject.isascii() else _POLICY)
    message["Subject"] = subject
    message["From"] = Address(SENDER, addr_spec=mail.sender)
    message["To"] = Address(addr_spec=to)
    message["Date"] = format_datetime(now.astimezone(UTC))
    message["Message-ID"] = f"<{message_id}@{mail.sender.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # or holiday notes come back
    message.set_content(letter.text)
    message.add_alternative(letter.html, subtype="html")
    _add_pictures(message, letter.pictures)
    for one in letter.attachments:
        main, sub = one.media_type
        message.add_attachment(one.content, maintype=main, subtype=sub, filename=one.name)
    return message


def _add_pictures(message: EmailMessage, pictures: tuple[InlineImage, ...]) -> None:
    _, html = message.iter_parts()
    for one in pictures:
        html.add_related(
            one.png,
            maintype="image",
            subtype="png",
            cid=f"<{one.name}>",
            filename=f"{one.name}.png",
            disposition="inline",
        )


# --- the mail server ------------------------------------------------------------------------------


class SmtpConnection:
    """One connection to the mail server for many mails; opened anew after it broke.

    Parameters
    ----------
    project : Path
        Where relative paths begin.
    """

    def __init__(self, mail: MailSettings, project: Path) -> None:
        self.mail, self.project = mail, project
        self._server: smtplib.SMTP | None = None
        self._password = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect, agree on TLS and log in, unless that is done.

        Raises
        ------
        OutOfReach
            If any of it fails; what is wrong with the settings is said, never the password.
        """
        if self._server is None:
            with self._told():
                self._server = self._connected()

    def _connected(self) -> smtplib.SMTP:
        mail = self.mail
        if not mail.host:
            raise ServerUnreachableError(
                "no mail server is set: mail.host in the settings is empty"
            )
        self._password = _password(mail, self.project)
        context = _tls(mail, self.project) if mail.security != "none" else None
        if mail.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                mail.host, mail.port, timeout=mail.timeout_s, context=context
            )
        else:
            server = smtplib.SMTP(mail.host, mail.port, timeout=mail.timeout_s)
        try:
            server.ehlo_or_helo_if_needed()
            if mail.security == "starttls":
                server.starttls(context=context)
                server.ehlo()
            if mail.user:
                server.login(mail.user, self._password)
        except BaseException:
            server.close()
            raise
        return server

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say of any failure to connect what it means, without a secret."""
        where = f"mail server {self.mail.host}:{self.mail.port}"
        try:
            yield
        except (ConfigurationError, ServerUnreachableError) as error:
            raise ServerUnreachableError(str(error)) from None
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or error
            raise ServerUnreachableError(f"{where}: {_TLS_FAILED}: {reason}") from None
        except smtplib.SMTPAuthenticationError as error:
            answer = f"{error.smtp_code} {self._harmless(error.smtp_error)}"
            raise ServerUnreachableError(f"{where}: {_LOGIN_FAILED}: {answer}") from None
        except smtplib.SMTPNotSupportedError as error:
            advice = f"mail.security is {self.mail.security}"
            raise ServerUnreachableError(
                f"{where}: {self._harmless(str(error))} {advice}"
            ) from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise ServerUnreachableError(f"{where}: {self._harmless(_words_of(error))}") from None

    def post(self, message: EmailMessage, to: str) -> str:
        """Hand a mail over; return what the server said when it took it.

        Raises
        ------
        OutOfReach
            If the connection is or gets lost: nobody knows whether the mail was taken.
        NotDelivered
            If the server does not take it now.
        Refused
            If it never will, for this address.
        """
        self.open()
        assert self._server is not None
        try:
            return self._hand_over(self._server, message, to)
        except DeliveryError:
            raise
        except (smtplib.SMTPException, OSError, ValueError) as error:
            self._drop()
            words = self._harmless(_words_of(error))
            where = f"mail server {self.mail.host}:{self.mail.port}"
            raise ServerUnreachableError(f"{where}: lost while it took a mail: {words}") from None

    def _hand_over(self, server: smtplib.SMTP, message: EmailMessage, to: str) -> str:
        content = message.as_bytes()
        self._check(server.mail(self.mail.sender), "the sender", last=False)
        self._check(server.rcpt(to), to, last=True)
        try:
            answer = server.data(content)
        except smtplib.SMTPDataError as error:
            answer = error.smtp_code, _bytes(error.smtp_error)
        return self._check(answer, f"the mail to {to}", last=True)

    def _check(self, answer: tuple[int, bytes], what: str, *, last: bool) -> str:
        """Return the server's words if it agrees.

        Parameters
        ----------
        last : bool
            Whether its refusal for good is the last word. Of a sender it is not: that is for
            the operator to mend, and the mails wait.
        """
        code, said = answer
        words = f"{code} {self._harmless(said)}"
        if 200 <= code < 300:
            return words
        if code == _CLOSING:
            self._drop()
            raise ServerUnreachableError(
                f"mail server {self.mail.host}: closes the connection: {words}"
            )
        self._reset()
        if code >= 500 and last:
            raise RecipientRefusedError(f"{what} was refused: {words}")
        raise DeliveryError(f"{what} was not taken: {words}")

    def _reset(self) -> None:
        """Let the next mail begin anew, whatever this one came to."""
        try:
            if self._server is not None:
                self._server.rset()
        except (smtplib.SMTPException, OSError):
            self._drop()

    def _harmless(self, said: str | bytes) -> str:
        """Return a server's words in a line, should it repeat the password without it."""
        words = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        hidden = words.replace(self._password, "***") if self._password else words
        return plain(hidden, LONGEST_ANSWER)

    def _drop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        """Take leave of the server, if it is still there."""
        if self._server is not None:
            try:
                self._server.quit()
            except (smtplib.SMTPException, OSError):  # it has all it should have
                self._server.close()
            self._server = None


_CLOSING = 421


def _bytes(said: bytes | str) -> bytes:
    return said if isinstance(said, bytes) else said.encode()


def _words_of(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_bytes(error.smtp_error).decode('utf-8', 'replace')}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _password(mail: MailSettings, project: Path) -> str:
    if not mail.user:
        return ""
    if mail.password_file is not None:
        return read_secret(project / mail.password_file)
    password = mail.password.get_secret_value()
    if not password:
        raise ConfigurationError(
            f"mail.user is {mail.user}: expected the password in QC_MAIL__PASSWORD or in the file "
            "that mail.password_file names"
        )
    return password


def _tls(mail: MailSettings, project: Path) -> ssl.SSLContext:
    if mail.ca_file is None:
        return ssl.create_default_context()
    file = project / mail.ca_file
    try:
        return ssl.create_default_context(cafile=str(file))
    except OSError as error:  # an SSLError is one
        raise ConfigurationError(
            f"mail.ca_file {file}: expected certificates in PEM: {error.strerror or error}"
        ) from None


# --- webhooks -------------------------------------------------------------------------------------


def write_message(story: NotificationContent, project: str) -> dict[str, Any]:
    """Return what is posted to a webhook: ``text`` is what Mattermost and Slack show.

    The further facts are for programs, and as fields for the two.
    """
    lines = [f"**{_unmarked(story.headline)}**" if not story.url else _linked(story)]
    reasons = story.shown.reasons if story.shown else story.words
    lines += [f"- {_unmarked(one)}" for one in reasons[:3]]
    lines += [] if story.topic == Topic.REPORT else [f"Acknowledge: `qc ack {story.number}`"]
    fields = [
        {"title": name, "value": _unmarked(value), "short": True}
        for name, value in story.facts.items()
    ]
    return {
        "text": "\n".join(lines),
        "attachments": [{"fallback": _unmarked(story.headline), "fields": fields}],
        "qc": _record(story, project),
    }


def _linked(story: NotificationContent) -> str:
    return f"**{_unmarked(story.headline)}**\n{story.url}"


def _record(story: NotificationContent, project: str) -> Mapping[str, Any]:
    return {
        "notice": story.number,
        "topic": str(story.topic),
        "form": str(story.form),
        "subject": story.subject,
        "project": project,
        "facts": dict(story.facts),
        "words": list(story.words),
        "reasons": list(story.shown.reasons) if story.shown else [],
        "frames": [one.name for one in story.lines],
        "total": story.total,
        "url": story.url,
    }


def _unmarked(text: str) -> str:
    """Take from a text what a chat would make a link, a style or a call to everybody of."""
    calm = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(" ", calm).replace("@", "@\u200b")


_MARKS = re.compile(r"[`*~|\[\]]")


def post_message(url: str, message: Mapping[str, Any], timeout_s: float) -> str:
    """Post a message as JSON; return the server's answer.

    The address may be a secret: it is neither logged nor told.

    Raises
    ------
    Refused
        If the server says that it never will: a redirection, or 4xx but for "too many".
    NotDelivered
        If it cannot now.
    """
    for name in ("httpx", "httpcore"):  # they log whole addresses
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with (
            httpx.Client(timeout=timeout_s) as client,
            client.stream("POST", url, json=message) as response,
        ):
            code = response.status_code
    except httpx.TimeoutException:
        raise DeliveryError("webhook: no answer in time") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DeliveryError(f"webhook: not to be had: {type(error).__name__}") from None
    if 200 <= code < 300:
        return f"HTTP {code}"
    if 300 <= code < 500 and code not in _LATER:
        raise RecipientRefusedError(f"webhook: refused: HTTP {code}")
    raise DeliveryError(f"webhook: not taken: HTTP {code}")


_LATER = (408, 425, 429)
