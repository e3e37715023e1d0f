"""Keep a copy of the database that is whole, and nothing for longer than it is of use."""

import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

from sqlalchemy import URL

from qc.settings import Settings

FOLDER = "backups"


def back_up(settings: Settings, now: datetime) -> str:
    """Copy the database while it is in use, keep the newest copies, and say what was done.

    The copy is of one moment, and takes its name only when it is whole. A server's database is
    left to the server's own tools: a copy on another machine is theirs to make.
    """
    if settings.database_url.get_backend_name() != "sqlite":
        return "the database server's own backups are relied upon"
    folder = settings.project / FOLDER
    folder.mkdir(exist_ok=True)
    copy = folder / f"qc-{now:%Y-%m-%dT%H%M%S}.db"
    _copy_sqlite(settings.database_url, copy)
    removed = _remove_oldest(folder, settings.keep.backups)
    return f"{copy.name}, {copy.stat().st_size / 1e6:.0f} MB, {removed} older removed"


def _copy_sqlite(url: URL, copy: Path) -> None:
    unfinished = copy.with_name(f".{copy.name}.part")
    try:
        with (
            closing(sqlite3.connect(str(url.database))) as source,
            closing(sqlite3.connect(unfinished)) as target,
        ):
            # All pages in one step: between two of several, any writer makes SQLite begin anew,
            # without end while frames come. Nobody waits: in WAL mode readers stop no writer.
            source.backup(target, pages=-1)
        unfinished.replace(copy)
    finally:
        unfinished.unlink(missing_ok=True)


def _remove_oldest(folder: Path, kept: int) -> int:
    copies = sorted(folder.glob("qc-*.db"))
    for old in copies[:-kept]:
        old.unlink()
    return max(len(copies) - kept, 0)
