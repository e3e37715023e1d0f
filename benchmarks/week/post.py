"""A local mail server that stores mails, and can be down."""

import re
import socket
import time
from dataclasses import dataclass
from email import message_from_bytes, policy
from threading import Lock
from typing import Any

from aiosmtpd.controller import Controller


@dataclass(frozen=True)
class Letter:
    """A mail as it arrived, at a second of the monotonic clock and of the wall's."""

    message_id: str
    subject: str
    frames: tuple[str, ...]
    at: float
    bytes_: int


class PostOffice:
    """Takes mail on a port of loopback; `close` and `open` as often as is liked."""

    def __init__(self) -> None:
        self.letters: list[Letter] = []
        self.port = _free_port()
        self._lock = Lock()
        self._controller: Controller | None = None

    def open(self) -> None:
        """Take mail from now on."""
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    def close(self) -> None:
        """Refuse connections from now on."""
        if self._controller is not None:
            self._controller.stop(no_assert=True)
            self._controller = None

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        """Keep a mail (aiosmtpd's hook)."""
        message = message_from_bytes(envelope.content, policy=policy.default)
        texts = [part for part in message.walk() if part.get_content_maintype() == "text"]
        text = "".join(part.get_content() for part in texts)
        letter = Letter(
            message_id=str(message["Message-ID"]),
            subject=str(message["Subject"]),
            frames=tuple(sorted(set(re.findall(r"UVES\.[0-9T:.-]+\d", text)))),
            at=time.time(),
            bytes_=len(envelope.content),
        )
        with self._lock:
            self.letters.append(letter)
        return "250 kept"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
