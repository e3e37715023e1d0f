"""Tell systemd how it goes: ready, alive, stopping. Without systemd, nobody is told."""

import math
import socket
import time
from collections.abc import Mapping

_PINGS = 3  # in the time after which systemd would think that we hang


class ServiceManager:
    """Whoever started the program and restarts it when it hangs.

    The protocol is that of sd_notify(3): datagrams of ``KEY=value`` to a named socket.

    Parameters
    ----------
    environment : mapping of str to str
        That of the process: systemd says in it where it listens and how long it waits.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        waits_s = int(environment.get("WATCHDOG_USEC", "0")) / 1e6
        self._interval_s = waits_s / _PINGS
        self._pinged = -math.inf  # the clock counts from the machine's start: 0 may be just now

    def say(self, words: str) -> None:
        """Send one message, ``READY=1``; a supervisor that does not listen is not waited for."""
        if not self._address:
            return
        address = self._address.replace("@", "\0", 1) if self._address[0] == "@" else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(words.encode(), socket.MSG_DONTWAIT, address)

    def ping(self) -> None:
        """Say that the program is alive, as often as is asked for."""
        now = time.monotonic()
        if self._interval_s and now - self._pinged >= self._interval_s:
            self._pinged = now
            self.say("WATCHDOG=1")
