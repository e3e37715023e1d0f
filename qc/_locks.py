"""Turns: who wants the same thing waits, so that it is made once; others go on meanwhile."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Lock


@dataclass
class _CountedLock:
    lock: Lock = field(default_factory=Lock)
    wanted: int = 0


class KeyedLocks:
    """One at a time for each name.

    Parameters
    ----------
    at_once : int, optional
        How many names are had at once at most; any number, where absent.
    """

    def __init__(self, at_once: int | None = None) -> None:
        self._lock = Lock()
        self._turns: dict[Hashable, _CountedLock] = {}
        self._room = BoundedSemaphore(at_once) if at_once else None

    @contextmanager
    def of(self, name: Hashable) -> Iterator[None]:
        """Wait for whoever has a name, and have it until the end of the block."""
        with self._lock:
            turn = self._turns.setdefault(name, _CountedLock())
            turn.wanted += 1
        try:
            with turn.lock:
                if self._room is None:
                    yield
                else:
                    with self._room:
                        yield
        finally:
            with self._lock:
                turn.wanted -= 1
                if not turn.wanted:
                    del self._turns[name]

    @contextmanager
    def if_free(self, name: Hashable) -> Iterator[bool]:
        """Have a name until the end of the block unless another has it; say whether it is had."""
        with self._lock:
            is_free = name not in self._turns
        if is_free:
            with self.of(name):
                yield True
        else:
            yield False
