"""Mail transport: message composition and the SMTP connection."""

import datetime as dt
import re
import smtplib
import ssl
from collections import abc
from contextlib import contextmanager
from dataclasses import dataclass
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from qc import _text, errors
from qc._files import read_secret
from qc.alerts.content import InlineImage, NotificationContent
from qc.alerts.subjects import LONGEST_SUBJECT
from qc.reports import rendering
from qc.settings import MailSettings

SENDER = "Calibration QC"
LARGEST_ATTACHMENT = 20_000_000  # bytes; few servers accept more than 25 MB
LONGEST_ANSWER = 300  # characters of a server's answer
_CLOSING = 421  # SMTP status code
_POLICY = policy.SMTP.clone(cte_type="7bit")  # ASCII passes every server unchanged
# Some mail readers show a blank at the fold of a subject line, so a short one is not folded.
_UNFOLDED = _POLICY.clone(max_line_length=LONGEST_SUBJECT + 40)
_MEDIA_TYPES = {".html": ("text", "html"), ".pdf": ("application", "pdf")}
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Attachment:
    """File attached to a mail."""

    name: str
    media_type: tuple[str, str]
    content: bytes


@dataclass(frozen=True)
class Message:
    """Rendered mail, without recipient."""

    subject: str
    text: str
    html: str
    pictures: tuple[InlineImage, ...] = ()
    attachments: tuple[Attachment, ...] = ()


def render_message(content: NotificationContent) -> Message:
    """Return a notification as a mail with a text and an HTML version."""
    attachments, missing = read_attachments(content.file) if content.file else ((), ())
    context = {
        "content": content,
        "attached": [attachment.name for attachment in attachments],
        "missing": missing,
    }
    text, html = (
        _CONTROL_CHARACTERS.sub("", page.encode("utf-8", "replace").decode())
        for page in (
            rendering.render_template("mail.txt.j2", **context),
            rendering.render_template("mail.html.j2", **context),
        )
    )
    pictures = content.worst.pictures if content.worst else ()
    return Message(content.subject, text, html, pictures, attachments)


def read_attachments(file: Path) -> tuple[tuple[Attachment, ...], tuple[str, ...]]:
    """Read a report page, and the PDF file of the same name.

    Parameters
    ----------
    file : Path
        HTML page.

    Returns
    -------
    attachments : tuple of Attachment
        Files within the size limit of a mail.
    missing : tuple of str
        The other files, with the reason.
    """
    paths = [file, *filter(Path.is_file, [file.with_suffix(".pdf")])]
    attachments, missing = [], []
    free = LARGEST_ATTACHMENT
    for path in dict.fromkeys(paths):
        try:
            size = path.stat().st_size
            content = path.read_bytes() if size <= free else b""
        except OSError as error:
            missing.append(f"{_text.plain_line(path.name)}: {error.strerror}")
            continue
        if size > free:
            missing.append(
                f"{_text.plain_line(path.name)}: too large for a mail, {size / 1e6:.0f} MB"
            )
            continue
        free -= size
        media_type = _MEDIA_TYPES.get(path.suffix.lower(), ("application", "octet-stream"))
        name = re.sub(r"[^A-Za-z0-9_.+-]", "_", path.name)[-100:]
        attachments.append(Attachment(name, media_type, content))
    return tuple(attachments), tuple(missing)


def compose(
    message: Message, mail: MailSettings, to: str, message_id: str, now: dt.datetime
) -> EmailMessage:
    """Return the mail to one address.

    Parameters
    ----------
    message : Message
        Rendered mail.
    mail : MailSettings
        Sender.
    to : str
        Mail address.
    message_id : str
        Local part of the Message-ID, equal for all attempts.
    now : datetime
        Time, aware.

    Returns
    -------
    EmailMessage
    """
    subject = _text.plain_line(message.subject, LONGEST_SUBJECT)
    result = EmailMessage(policy=_UNFOLDED if subject.isascii() else _POLICY)
    result["Subject"] = subject
    result["From"] = Address(SENDER, addr_spec=mail.sender)
    result["To"] = Address(addr_spec=to)
    result["Date"] = format_datetime(now.astimezone(dt.UTC))
    result["Message-ID"] = f"<{message_id}@{mail.sender.partition('@')[2]}>"
    result["Auto-Submitted"] = "auto-generated"  # prevents vacation replies
    result.set_content(message.text)
    result.add_alternative(message.html, subtype="html")
    _, html = result.iter_parts()
    for picture in message.pictures:
        html.add_related(
            picture.png,
            maintype="image",
            subtype="png",
            cid=f"<{picture.name}>",
            filename=f"{picture.name}.png",
            disposition="inline",
        )
    for attachment in message.attachments:
        main, sub = attachment.media_type
        result.add_attachment(
            attachment.content, maintype=main, subtype=sub, filename=attachment.name
        )
    return result


# --- the SMTP connection --------------------------------------------------------------------------


class SmtpConnection:
    """Connection to the mail server for many mails, opened again after a failure.

    Parameters
    ----------
    mail : MailSettings
        Server and credentials.
    project : Path
        Project folder, the base of relative paths.
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
        """Connect, start TLS and log in, unless connected.

        Raises
        ------
        ServerUnreachableError
            If a step fails. The message has the wrong setting, never the password.
        """
        if self._server is None:
            with self._errors_explained():
                self._server = self._connect()

    def _connect(self) -> smtplib.SMTP:
        mail = self.mail
        if not mail.host:
            raise errors.ServerUnreachableError(
                "no mail server is set: mail.host in the settings is empty"
            )
        self._password = read_password(mail, self.project)
        context = tls_context(mail, self.project) if mail.security != "none" else None
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
    def _errors_explained(self) -> abc.Iterator[None]:
        """Replace errors of a connection by a message without secrets."""
        server = f"mail server {self.mail.host}:{self.mail.port}"
        try:
            yield
        except (errors.ConfigurationError, errors.ServerUnreachableError) as error:
            raise errors.ServerUnreachableError(str(error)) from None
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or error
            raise errors.ServerUnreachableError(f"{server}: TLS failed: {reason}") from None
        except smtplib.SMTPAuthenticationError as error:
            answer = f"{error.smtp_code} {self._without_password(error.smtp_error)}"
            raise errors.ServerUnreachableError(f"{server}: login refused: {answer}") from None
        except smtplib.SMTPNotSupportedError as error:
            setting = f"mail.security is {self.mail.security}"
            raise errors.ServerUnreachableError(
                f"{server}: {self._without_password(str(error))} {setting}"
            ) from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            reason = self._without_password(describe_error(error))
            raise errors.ServerUnreachableError(f"{server}: {reason}") from None

    def post(self, message: EmailMessage, to: str) -> str:
        """Send a mail.

        Parameters
        ----------
        message : EmailMessage
            Mail.
        to : str
            Mail address.

        Returns
        -------
        str
            The server's answer.

        Raises
        ------
        ServerUnreachableError
            If the connection is lost; it is unknown whether the server accepted the mail.
        DeliveryError
            If the server does not accept the mail now.
        RecipientRefusedError
            If the server refuses the address or the mail for good.
        """
        self.open()
        server = self._server
        assert server is not None
        try:
            content = message.as_bytes()
            self._check(server.mail(self.mail.sender), "the sender", is_final=False)
            self._check(server.rcpt(to), to, is_final=True)
            try:
                answer = server.data(content)
            except smtplib.SMTPDataError as error:
                answer = error.smtp_code, _encode(error.smtp_error)
            return self._check(answer, f"the mail to {to}", is_final=True)
        except errors.DeliveryError:
            raise
        except (smtplib.SMTPException, OSError, ValueError) as error:
            self._drop()
            reason = self._without_password(describe_error(error))
            raise errors.ServerUnreachableError(
                f"mail server {self.mail.host}:{self.mail.port}: connection lost during a mail: "
                f"{reason}"
            ) from None

    def _check(self, answer: tuple[int, bytes], subject: str, *, is_final: bool) -> str:
        """Return the server's answer if it is positive.

        Parameters
        ----------
        answer : tuple of (int, bytes)
            SMTP status code and text.
        subject : str
            Address or mail, for the error message.
        is_final : bool
            True if a permanent refusal ends the delivery. A refused sender does not: the operator
            corrects the settings, and the mails stay queued.
        """
        code, text = answer
        reply = f"{code} {self._without_password(text)}"
        if 200 <= code < 300:
            return reply
        if code == _CLOSING:
            self._drop()
            raise errors.ServerUnreachableError(
                f"mail server {self.mail.host}: connection closed by the server: {reply}"
            )
        try:  # the next mail starts a new transaction
            if self._server is not None:
                self._server.rset()
        except (smtplib.SMTPException, OSError):
            self._drop()
        if code >= 500 and is_final:
            raise errors.RecipientRefusedError(f"{subject} was refused: {reply}")
        raise errors.DeliveryError(f"{subject} was not accepted: {reply}")

    def _without_password(self, answer: str | bytes) -> str:
        """Return a server's answer as one line, without the password that it may repeat."""
        text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
        hidden = text.replace(self._password, "***") if self._password else text
        return _text.plain_line(hidden, LONGEST_ANSWER)

    def _drop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        """Close the connection."""
        if self._server is not None:
            try:
                self._server.quit()
            except (smtplib.SMTPException, OSError):  # all mails are complete by now
                self._server.close()
            self._server = None


def _encode(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def describe_error(error: Exception) -> str:
    """Return an error of a connection in words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_encode(error.smtp_error).decode('utf-8', 'replace')}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def read_password(mail: MailSettings, project: Path) -> str:
    """Return the password of the mail account; empty without an account.

    Parameters
    ----------
    mail : MailSettings
        Account and password, or the file with the password.
    project : Path
        Project folder, the base of relative paths.

    Returns
    -------
    str

    Raises
    ------
    ConfigurationError
        If there is an account without a password, or the file cannot be used.
    """
    if not mail.user:
        return ""
    if mail.password_file is not None:
        return read_secret(project / mail.password_file)
    password = mail.password.get_secret_value()
    if not password:
        raise errors.ConfigurationError(
            f"mail.user is {mail.user}: expected the password in QC_MAIL__PASSWORD or in the file "
            "mail.password_file"
        )
    return password


def tls_context(mail: MailSettings, project: Path) -> ssl.SSLContext:
    """Return the TLS context with the trusted certificates.

    Parameters
    ----------
    mail : MailSettings
        ``ca_file`` replaces the certificates of the system.
    project : Path
        Project folder, the base of relative paths.

    Returns
    -------
    ssl.SSLContext

    Raises
    ------
    ConfigurationError
        If the file has no certificates.
    """
    if mail.ca_file is None:
        return ssl.create_default_context()
    file = project / mail.ca_file
    try:
        return ssl.create_default_context(cafile=str(file))
    except OSError as error:  # includes SSLError
        raise errors.ConfigurationError(
            f"mail.ca_file {file}: expected certificates in PEM: {error.strerror or error}"
        ) from None
