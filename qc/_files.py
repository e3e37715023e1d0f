"""Files as the disk shows them: what their names tell, and how one is written whole."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import BinaryIO

_FITS_NAME = re.compile(r"\.(fits|fit|fts)(\.(Z|gz|bz2|fz))?$", re.IGNORECASE)


_TOLD_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d)[:_](\d\d)[:_](\d\d)", re.ASCII)


def is_fits_name(name: str) -> bool:
    """Say whether a file of this name is FITS, compressed or not."""
    return _FITS_NAME.search(name) is not None


def told_time(name: str) -> datetime | None:
    """Return the time (UTC) that is part of a file's name, as in an archive; None without."""
    told = _TOLD_TIME.search(name)
    if told is None:
        return None
    day, *clock = told.groups()
    try:
        return datetime.fromisoformat(f"{day}T{':'.join(clock)}+00:00")
    except ValueError:  # a 31st of February
        return None


def printable(path: Path) -> Path:
    """Return the absolute path, links followed, in characters that a database can hold.

    A name that is not UTF-8 is spelt with backslashes, and no such file will be found.
    """
    return Path(spelt(os.path.realpath(path)))  # Path.resolve raises at a loop of links


def spelt(path: str) -> str:
    """Return a path in characters that a database can hold, or a page."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Give a stream whose bytes take the file's place when all are written.

    If that fails, what was there stays, and nothing half-written is left beside it.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with unfinished.open("wb") as stream:
            yield stream
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def shipped(name: str) -> Path:
    """Return a file or folder that came with the program: inside its wheel, or in its checkout."""
    package = Path(str(resources.files("qc")))
    inside = package / name
    return inside if inside.exists() else package.parent / name
