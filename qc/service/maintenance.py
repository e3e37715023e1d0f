"""Database backups: consistent copies, of which the newest are kept."""

import datetime as dt
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL

from qc.settings import Settings

FOLDER = "backups"


def back_up(settings: Settings, now: dt.datetime) -> str:
    """Copy the database while it is in use, and remove the oldest copies.

    The copy is consistent, and receives its name when it is complete. A server's database is left
    to the server's own backups.

    Parameters
    ----------
    settings : Settings
        Settings of the project.
    now : datetime
        Time, UTC; part of the copy's name.

    Returns
    -------
    str
        Result in words.
    """
    if settings.database_url.get_backend_name() != "sqlite":
        return "the database server's own backups are relied upon"
    folder = settings.project / FOLDER
    folder.mkdir(exist_ok=True)
    copy = folder / f"qc-{now:%Y-%m-%dT%H%M%S}.db"
    copy_sqlite(settings.database_url, copy)
    obsolete = sorted(folder.glob("qc-*.db"))[: -settings.keep.backups]
    for old in obsolete:
        old.unlink()
    return f"{copy.name}, {copy.stat().st_size / 1e6:.0f} MB, {len(obsolete)} older removed"


def copy_sqlite(url: URL, copy: Path) -> None:
    """Copy a SQLite database that may be in use.

    Parameters
    ----------
    url : URL
        Address of the database.
    copy : Path
        File of the copy.
    """
    unfinished = copy.with_name(f".{copy.name}.part")
    try:
        with (
            closing(sqlite3.connect(str(url.database))) as source,
            closing(sqlite3.connect(unfinished)) as target,
        ):
            # All pages in one step: SQLite restarts a copy of several steps after each write, and
            # would not end while frames arrive. In WAL mode the reader blocks no writer.
            source.backup(target, pages=-1)
        unfinished.replace(copy)
    finally:
        unfinished.unlink(missing_ok=True)
