"""What costs time to make is made once, for as long as what it was made from is the same."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

from qc._locks import KeyedLocks

_MOST = 24  # of a size that each page bounds
PICTURES_BYTES = 64 * 2**20  # some thousand of them


class LRUCache:
    """Results, the least lately used forgotten first; two who ask at once wait for one.

    Parameters
    ----------
    room : int
        What all of them may weigh together.
    weigh : callable
        Tells what one weighs; where absent, each is one.
    """

    def __init__(self, room: int = _MOST, weigh: Callable[[Any], int] = lambda _made: 1) -> None:
        self._room, self._weigh, self._used = room, weigh, 0
        self._lock, self._turns = Lock(), KeyedLocks()
        self._kept: OrderedDict[Hashable, tuple[Hashable, Any]] = OrderedDict()

    @property
    def used(self) -> int:
        """Return what all of them weigh."""
        return self._used

    def get(self, name: Hashable, stamp: Hashable, make: Callable[[], Any]) -> Any:
        """Return what was made under a name and stamp, or make it; None is a result too.

        Parameters
        ----------
        stamp : hashable
            What it is made from: of each name only the newest is kept.
        """
        with self._turns.of(name):
            with self._lock:
                if name in self._kept and self._kept[name][0] == stamp:
                    self._kept.move_to_end(name)
                    return self._kept[name][1]
            made = make()  # outside of the lock: others are served meanwhile
            with self._lock:
                self._put(name, stamp, made)
            return made

    def _put(self, name: Hashable, stamp: Hashable, made: Any) -> None:
        if name in self._kept:
            self._used -= self._weigh(self._kept.pop(name)[1])
        self._kept[name] = stamp, made
        self._used += self._weigh(made)
        while self._used > self._room:
            _, (_, forgotten) = self._kept.popitem(last=False)
            self._used -= self._weigh(forgotten)


def pictures_kept() -> LRUCache:
    """Return what keeps drawn pictures, as many as there is room for."""
    return LRUCache(
        PICTURES_BYTES, lambda drawn: 200 + len(drawn or b"")
    )  # an entry takes room too
