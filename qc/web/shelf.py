"""Pictures that were drawn, kept while there is room for them."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

ROOM = 64 * 2**20  # bytes: some thousand pictures


class Shelf:
    """Pictures by what they show, those not asked for the longest taken off first.

    Parameters
    ----------
    room : int
        Bytes.
    """

    def __init__(self, room: int = ROOM) -> None:
        self.room, self.used = room, 0
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, bytes | None] = OrderedDict()

    def get(self, what: Hashable, draw: Callable[[], bytes | None]) -> bytes | None:
        """Return a picture, drawn if it is not there; None is kept as an answer too."""
        with self._lock:
            if what in self._kept:
                self._kept.move_to_end(what)
                return self._kept[what]
        drawn = draw()  # outside of the lock: others are served meanwhile
        with self._lock:
            self._put(what, drawn)
        return drawn

    def _put(self, what: Hashable, drawn: bytes | None) -> None:
        if what in self._kept:
            return  # another drew the same
        self._kept[what] = drawn
        self.used += _size(drawn)
        while self.used > self.room:
            _, gone = self._kept.popitem(last=False)
            self.used -= _size(gone)


def _size(drawn: bytes | None) -> int:
    return 200 + len(drawn or b"")  # an entry takes room of its own
