"""Notifications to systemd: ready, alive, stopping."""

import math
import socket
import time
from collections.abc import Mapping

_PINGS = 3  # within the watchdog interval


class ServiceManager:
    """The process that started the daemon and restarts it when it hangs.

    The protocol is that of sd_notify(3): datagrams of ``KEY=value`` to a socket. Without systemd
    all methods do nothing.

    Parameters
    ----------
    environment : mapping of str to str
        Environment of the process: ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC``.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        watchdog_s = int(environment.get("WATCHDOG_USEC", "0")) / 1e6
        self._interval_s = watchdog_s / _PINGS
        self._pinged_at = -math.inf  # the monotonic clock may be near 0 after a boot

    def notify(self, message: str) -> None:
        """Send one message, e.g. ``READY=1``, without waiting."""
        if not self._address:
            return
        address = self._address.replace("@", "\0", 1) if self._address[0] == "@" else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(message.encode(), socket.MSG_DONTWAIT, address)

    def ping(self) -> None:
        """Send a watchdog message if it is due."""
        now = time.monotonic()
        if self._interval_s and now - self._pinged_at >= self._interval_s:
            self._pinged_at = now
            self.notify("WATCHDOG=1")
