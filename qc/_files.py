"""File names and paths, atomic writes and packaged files."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from qc.errors import ConfigurationError

_FITS_NAME = re.compile(r"\.(fits|fit|fts)(\.(Z|gz|bz2|fz))?$", re.IGNORECASE)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d)[:_](\d\d)[:_](\d\d)", re.ASCII)


def is_fits_name(name: str) -> bool:
    """Return True for the name of a FITS file, compressed or not."""
    return _FITS_NAME.search(name) is not None


def time_in_name(name: str) -> datetime | None:
    """Return the time (UTC) in an archive file's name; None without one."""
    match = _TIME.search(name)
    if match is None:
        return None
    day, *clock = match.groups()
    try:
        return datetime.fromisoformat(f"{day}T{':'.join(clock)}+00:00")
    except ValueError:  # a 31st of February
        return None


def resolve_path(path: Path) -> Path:
    """Return the absolute path without links, in characters that a database can store.

    A name that is not UTF-8 is escaped with backslashes; no such file will be found.
    """
    return Path(escape_path(os.path.realpath(path)))  # Path.resolve raises at a loop of links


def escape_path(path: str) -> str:
    """Return a path in characters that a database can store and a page can show."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a stream whose bytes replace the file at the end of the block.

    After an error the old file stays, and the unfinished one is deleted.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with unfinished.open("wb") as stream:
            yield stream
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def packaged_path(name: str) -> Path:
    """Return the path of a packaged file or folder: inside the wheel, or in the checkout."""
    package = Path(str(resources.files("qc")))
    inside = package / name
    return inside if inside.exists() else package.parent / name


_LONGEST_SECRET = 4096


def read_secret(file: Path) -> str:
    """Return the content of a file that only its owner may read.

    Raises
    ------
    ConfigurationError
        If it cannot be read, is empty, or others may read it; without its content.
    """
    try:
        mode = file.stat().st_mode
        content = file.read_bytes()[:_LONGEST_SECRET].decode().strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"{file}: a secret is expected here: {reason}") from None
    if mode & 0o077:
        raise ConfigurationError(
            f"{file}: holds a secret that others may read; expected mode 600: chmod 600 {file}"
        )
    if not content:
        raise ConfigurationError(f"{file}: expected a secret, got an empty file")
    return content
