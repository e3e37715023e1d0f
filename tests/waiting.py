"""Waiting for what another thread or process does: by looking again and again, until a deadline."""

import time
from collections.abc import Callable
from threading import Event

DEADLINE_S = 60


def wait_until(is_true: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Return as soon as it is true."""
    ends = time.monotonic() + deadline_s
    while not is_true():
        assert time.monotonic() < ends, "waited in vain"
        Event().wait(0.02)
