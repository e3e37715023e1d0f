"""What takes seconds to make is made once, for as long as what it was made from is the same."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Annotated, Any

from fastapi import Depends, Request

_MOST = 24  # of a size that each page bounds


class Kept:
    """A few results, the least lately used forgotten first; two who ask at once wait for one."""

    def __init__(self, most: int = _MOST) -> None:
        self._most, self._lock = most, Lock()
        self._kept: OrderedDict[Hashable, tuple[Hashable, Any]] = OrderedDict()
        self._making: dict[Hashable, Lock] = {}

    def get(self, name: Hashable, stamp: Hashable, make: Callable[[], Any]) -> Any:
        """Return what was made under a name and stamp, or make it.

        Parameters
        ----------
        stamp : hashable
            What it is made from: of each name only the newest is kept.
        """
        with self._lock:
            making = self._making.setdefault(name, Lock())
        with making:
            with self._lock:
                if name in self._kept and self._kept[name][0] == stamp:
                    self._kept.move_to_end(name)
                    return self._kept[name][1]
            made = make()
            with self._lock:
                self._kept[name] = stamp, made
                self._kept.move_to_end(name)
                while len(self._kept) > self._most:
                    gone, _ = self._kept.popitem(last=False)
                    self._making.pop(gone, None)
            return made


def _kept_of(request: Request) -> Kept:
    kept: Kept = request.app.state.kept
    return kept


Keeping = Annotated[Kept, Depends(_kept_of)]
