"""One daemon for each project: a lock that the system lets go of when its holder dies."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

from qc.errors import ConfigurationError

LOCK_FILE = "daemon.lock"


@dataclass(frozen=True)
class LockHolder:
    """Who holds, or held, a project's lock."""

    pid: int
    host: str
    since: datetime

    def __str__(self) -> str:
        """Say it in words."""
        return f"process {self.pid} on {self.host}, since {self.since:%Y-%m-%d %H:%M:%S} UT"


@contextmanager
def only_daemon(project: Path, now: datetime) -> Iterator[LockHolder | None]:
    """Hold the project's lock; give the one that died with it in hand, if any.

    The lock is the file's, not its content: the system opens it when its holder dies, however
    that happens. The content says who it was.

    Raises
    ------
    ConfigurationError
        If another daemon holds it.
    """
    path = project / LOCK_FILE
    with path.open("a+", encoding="utf-8") as file:
        if not _take(file, patience_s=1):  # who only asks holds it for a moment too
            raise ConfigurationError(
                f"{project}: another daemon is running: {_read(file) or 'it has just started'}; "
                "one a project is enough, 'qc status' tells how it does"
            )
        died = _read(file)
        _write(file, LockHolder(os.getpid(), socket.gethostname(), now))
        yield died
        _write(file, None)  # reached only without an exception: who crashes has not said good-bye


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process holds this file, and hold it; one that dies lets go of it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def holder(project: Path) -> tuple[LockHolder | None, bool]:
    """Return who holds the lock or held it last, and whether that one is alive."""
    try:
        file = (project / LOCK_FILE).open("r+", encoding="utf-8")
    except OSError:
        return None, False
    with file:
        is_free = _take(file)
        return _read(file), not is_free


def _take(file: TextIO, patience_s: float = 0) -> bool:
    ends = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends:
                return False
            time.sleep(0.05)
        else:
            return True


def _read(file: TextIO) -> LockHolder | None:
    file.seek(0)
    with suppress(ValueError, KeyError, TypeError):  # empty, or cut short by a full disk
        found = json.load(file)
        return LockHolder(found["pid"], found["host"], datetime.fromisoformat(found["since"]))
    return None


def _write(file: TextIO, who: LockHolder | None) -> None:
    file.seek(0)
    file.truncate()
    if who is not None:
        json.dump(asdict(who), file, default=str)
    file.flush()
