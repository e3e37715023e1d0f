"""Waiting for another thread or process by polling, with a deadline."""

import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from threading import Event, Thread

DEADLINE_S = 60


def wait_until(is_true: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Return as soon as a condition is true."""
    ends = time.monotonic() + deadline_s
    while not is_true():
        assert time.monotonic() < ends, "the deadline has passed"
        Event().wait(0.02)


def wait_for_end(*workers: Thread | BaseProcess) -> None:
    """Return when all workers have ended."""
    for worker in workers:
        worker.join(DEADLINE_S)
        assert not worker.is_alive(), f"{worker.name} does not end"
