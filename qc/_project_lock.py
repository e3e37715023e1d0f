"""Project lock: one daemon for each project, by a file lock that ends with its process."""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO

from qc.errors import ConfigurationError

LOCK_FILE = "daemon.lock"
_TIMEOUT_S = 1  # read_holder holds the lock for a moment too


@dataclasses.dataclass(frozen=True)
class LockHolder:
    """Process that holds, or held, the lock of a project."""

    pid: int
    host: str
    since: datetime

    def __str__(self) -> str:
        """Return process, host and time."""
        return f"process {self.pid} on {self.host}, since {self.since:%Y-%m-%d %H:%M:%S} UT"


@contextlib.contextmanager
def daemon_lock(project: Path, now: datetime) -> Iterator[LockHolder | None]:
    """Hold the lock of a project; the context is the previous holder if it crashed.

    The system releases the lock of a process that ends in any way. The content of the file names
    the holder.

    Parameters
    ----------
    project : Path
        Project folder.
    now : datetime

    Yields
    ------
    LockHolder or None

    Raises
    ------
    ConfigurationError
        If another daemon holds it.
    """
    path = project / LOCK_FILE
    with path.open("a+", encoding="utf-8") as file:
        if not _try_lock(file, timeout_s=_TIMEOUT_S):
            raise ConfigurationError(
                f"{project}: another daemon is running: {_read(file) or 'it has just started'}; "
                "one daemon per project is enough, 'qc status' shows its state"
            )
        crashed = _read(file)
        _write(file, LockHolder(os.getpid(), socket.gethostname(), now))
        yield crashed
        _write(file, None)  # not reached after an exception: the holder has crashed


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Wait for the lock of a file, and hold it until the end of the block or process."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_holder(project: Path) -> tuple[LockHolder | None, bool]:
    """Return the current or last holder of a project's lock, and True if it is running."""
    try:
        file = (project / LOCK_FILE).open("r+", encoding="utf-8")
    except OSError:
        return None, False
    with file:
        is_free = _try_lock(file)
        return _read(file), not is_free


def _try_lock(file: TextIO, timeout_s: float = 0) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _read(file: TextIO) -> LockHolder | None:
    file.seek(0)
    with contextlib.suppress(ValueError, KeyError, TypeError):  # empty, or truncated by a full disk
        values = json.load(file)
        return LockHolder(values["pid"], values["host"], datetime.fromisoformat(values["since"]))
    return None


def _write(file: TextIO, holder: LockHolder | None) -> None:
    file.seek(0)
    file.truncate()
    if holder is not None:
        json.dump(dataclasses.asdict(holder), file, default=str)
    file.flush()
