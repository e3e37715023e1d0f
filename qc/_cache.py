"""Thread-safe LRU cache, invalidated by version."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

from qc._locks import KeyedLocks

_DEFAULT_ROOM = 24  # values
PICTURES_BYTES = 64 * 2**20  # some thousand pictures
_ENTRY_BYTES = 200  # memory of an entry without its value


class LRUCache:
    """Least-recently-used cache; concurrent callers of one key wait for one computation.

    Parameters
    ----------
    room : int
        Largest total weight.
    weigh : callable
        Returns the weight of a value; 1 where absent.
    """

    def __init__(
        self, room: int = _DEFAULT_ROOM, weigh: Callable[[Any], int] = lambda _value: 1
    ) -> None:
        self._room, self._weigh, self._used = room, weigh, 0
        self._lock, self._key_locks = Lock(), KeyedLocks()
        self._entries: OrderedDict[Hashable, tuple[Hashable, Any]] = OrderedDict()

    @property
    def used(self) -> int:
        """Return the total weight."""
        return self._used

    def get(self, name: Hashable, stamp: Hashable, make: Callable[[], Any]) -> Any:
        """Return the cached value of a name and version, or compute it.

        Parameters
        ----------
        name : hashable
            Key.
        stamp : hashable
            Version of the value's source; only the newest version is cached.
        make : callable
            Computes the value; None is a value too.

        Returns
        -------
        object
        """
        with self._key_locks.hold(name):
            with self._lock:
                if name in self._entries and self._entries[name][0] == stamp:
                    self._entries.move_to_end(name)
                    return self._entries[name][1]
            value = make()  # without the lock: other keys are served meanwhile
            with self._lock:
                if name in self._entries:
                    self._used -= self._weigh(self._entries.pop(name)[1])
                self._entries[name] = stamp, value
                self._used += self._weigh(value)
                while self._used > self._room:
                    _, (_, evicted) = self._entries.popitem(last=False)
                    self._used -= self._weigh(evicted)
            return value


def picture_cache() -> LRUCache:
    """Return a cache of encoded pictures, limited by their bytes."""
    return LRUCache(PICTURES_BYTES, lambda picture: _ENTRY_BYTES + len(picture or b""))
