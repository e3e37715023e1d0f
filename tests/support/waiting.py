"""Waiting for what another thread or process does: by looking again and again, until a deadline."""

import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from threading import Event, Thread

DEADLINE_S = 60


def wait_until(is_true: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Return as soon as it is true."""
    ends = time.monotonic() + deadline_s
    while not is_true():
        assert time.monotonic() < ends, "waited in vain"
        Event().wait(0.02)


def wait_for_end(*workers: Thread | BaseProcess) -> None:
    """Return when all have ended."""
    for one in workers:
        one.join(DEADLINE_S)
        assert not one.is_alive(), f"{one.name} does not end"
