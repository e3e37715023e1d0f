"""Per-key locks."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Lock


@dataclass
class _CountedLock:
    lock: Lock = field(default_factory=Lock)
    users: int = 0  # holder and waiting threads


class KeyedLocks:
    """One lock for each key; a lock exists while a thread holds or awaits it.

    Parameters
    ----------
    at_once : int, optional
        Largest number of locks held at once; unlimited where absent.
    """

    def __init__(self, at_once: int | None = None) -> None:
        self._guard = Lock()
        self._locks: dict[Hashable, _CountedLock] = {}
        self._slots = BoundedSemaphore(at_once) if at_once else None

    @contextmanager
    def hold(self, key: Hashable) -> Iterator[None]:
        """Wait for the lock of a key, and hold it until the end of the block."""
        with self._guard:
            counted = self._locks.setdefault(key, _CountedLock())
            counted.users += 1
        try:
            with counted.lock:
                if self._slots is None:
                    yield
                else:
                    with self._slots:
                        yield
        finally:
            with self._guard:
                counted.users -= 1
                if not counted.users:
                    del self._locks[key]

    @contextmanager
    def try_hold(self, key: Hashable) -> Iterator[bool]:
        """Hold the lock of a key if it is free; the context is False if it is not."""
        with self._guard:
            is_free = key not in self._locks
        if is_free:
            with self.hold(key):
                yield True
        else:
            yield False
