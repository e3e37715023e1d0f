"""A mail server that takes mails, refuses them, stalls and drops them; and certificates for it."""

import asyncio
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword, syntax
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER, PASSWORD = "watch", "correct horse"
OK = "250 taken"


@dataclass
class Taken:
    """A mail that the server took."""

    to: str
    content: bytes

    @property
    def message(self) -> EmailMessage:
        parsed = message_from_bytes(self.content, policy=default)
        assert isinstance(parsed, EmailMessage)
        return parsed

    @property
    def text(self) -> str:
        """What a reader without HTML shows."""
        return self._body("plain")

    @property
    def html(self) -> str:
        return self._body("html")

    def _body(self, kind: str) -> str:
        part = self.message.get_body((kind,))
        assert part is not None
        return str(part.get_content()).replace("\r\n", "\n")


@dataclass
class Handler:
    """What the server answers.

    Attributes
    ----------
    on_recipient, on_mail : callable
        Return the answer to an address, or to a mail for it; a mail's is called before the
        client hears of it.
    stalls, drops : set of str
        Addresses whose mails are never answered, or are cut off in their midst.
    """

    taken: list[Taken] = field(default_factory=list)
    on_recipient: Callable[[str], str] = lambda _: OK
    on_mail: Callable[[Taken], str] = lambda _: OK
    stalls: set[str] = field(default_factory=set)
    drops: set[str] = field(default_factory=set)
    connections: int = 0

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, session: Any, _envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.connections += 1
        return responses

    async def handle_RCPT(  # noqa: N802
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
        answer = self.on_recipient(address)
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        [to] = envelope.rcpt_tos
        if to in self.stalls:
            await asyncio.Event().wait()
        taken = Taken(to, envelope.content)
        answer = self.on_mail(taken)
        if answer.startswith("250"):
            self.taken.append(taken)
        return answer


class _Server(SMTP):  # type: ignore[misc]
    """Hangs up in the midst of the mails that it is told to drop."""

    @syntax("DATA")  # type: ignore[untyped-decorator]
    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        if set(self.envelope.rcpt_tos) & self.event_handler.drops:
            await self.push("354 go on")
            await self._reader.readline()
            self.transport.abort()
            return
        await super().smtp_DATA(arg)


class _Controller(Controller):  # type: ignore[misc]
    """Serves at a port that the system chose and nobody can take in between."""

    def __init__(self, handler: Handler, listening: socket.socket, **told: Any) -> None:
        super().__init__(handler, port=listening.getsockname()[1], **told)
        self.listening = listening

    def _create_server(self) -> Any:
        return self.loop.create_server(
            self._factory_invoker, sock=self.listening, ssl=self.ssl_context
        )

    def factory(self) -> SMTP:
        with warnings.catch_warnings():  # that TLS from the first byte is TLS, it does not know
            warnings.filterwarnings("ignore", "Requiring AUTH while not requiring TLS")
            return _Server(self.handler, **self.SMTP_kwargs)


@contextmanager
def mail_server(
    handler: Handler, context: ssl.SSLContext | None = None, *, security: str = "none"
) -> Iterator[int]:
    """Serve, and give the port; with login unless it is in the clear."""
    starttls = context if security == "starttls" else None
    controller = _Controller(
        handler,
        socket.create_server(("127.0.0.1", 0)),
        hostname="127.0.0.1",
        ssl_context=context if security == "tls" else None,
        tls_context=starttls,
        require_starttls=starttls is not None,
        auth_required=security != "none",
        auth_require_tls=security == "starttls",
        authenticator=_authenticate,
    )
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


def _authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> Any:
    known = isinstance(data, LoginPassword) and (data.login, data.password) == (
        USER.encode(),
        PASSWORD.encode(),
    )
    return AuthResult(success=known, handled=False)


def write_certificate(folder: Path, name: str = "127.0.0.1") -> tuple[Path, ssl.SSLContext]:
    """Write a certificate for a host that signs itself; return it and a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a mail server")])
    now = datetime.now(UTC)
    host = x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "server.pem", folder / "server.key"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context
