"""Scans of all inboxes, and removal of old local copies.

A file has arrived when it has not changed for a while. Every scan lists every inbox. Files that
were returned before, or are in the database, are recognised by size and date: a scan of a hundred
thousand known files needs no query. A file event only triggers a scan.
"""

import datetime as dt
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from qc import _files, core, db, errors
from qc.service.inboxes import inbox, local, remote
from qc.settings import Settings

_SCAN_TIMEOUT_S = 5.0  # a slower inbox goes on in its thread
_EVENING_H = 18  # local time at which one night's files end and the next night's begin
_STALE_PART_S = 86_400


@dataclass(frozen=True)
class ScanResult:
    """Result of one scan of all inboxes.

    Attributes
    ----------
    arrived : tuple of Path
        Local files ready to be read: newest night first, in order of arrival within a night. Each
        version of a file is returned once.
    pending : int
        Files that still grow, or are still to be fetched or queried: the next scan is due soon.
    problems : tuple of str
        A sentence for each inbox that cannot be listed completely.
    total : int
        FITS files in all inboxes.
    """

    arrived: tuple[Path, ...]
    pending: int
    problems: tuple[str, ...]
    total: int


class InboxSet:
    """All inboxes of a project.

    Parameters
    ----------
    settings : Settings
        Settings of the project.
    is_known : callable
        Returns True for a file that needs no processing. It is called from other threads, by one
        at a time. `scan` raises its errors, and the file is queried again.

    Raises
    ------
    ConfigurationError
        If no installed package reads an inbox, or an inbox is listed twice.
    """

    def __init__(self, settings: Settings, is_known: inbox.IsKnown) -> None:
        query_lock = Lock()

        def is_known_locked(file: core.FileInfo) -> bool:
            with query_lock:
                return is_known(file)

        paths = [entry.path for entry in settings.inbox]
        duplicates = {path for path in paths if paths.count(path) > 1}
        if duplicates:
            raise errors.ConfigurationError(
                f"inbox {min(duplicates)}: named more than once; remove the other entries"
            )
        self._zone = ZoneInfo(settings.schedule.time_zone)
        self._inboxes: tuple[inbox.Inbox, ...] = tuple(
            (remote.RemoteInbox if entry.is_remote else local.LocalInbox)(
                entry, settings, is_known_locked
            )
            for entry in settings.inbox
        )
        self._lock = Lock()

    def scan(self, now: dt.datetime) -> ScanResult:
        """List every inbox once.

        An inbox without answer within a few seconds goes on in its thread and delays no other
        inbox; a later scan returns its files.
        """
        with self._lock:
            offset = now.astimezone(self._zone).utcoffset() or dt.timedelta()
            evening_s = _EVENING_H * 3600 - int(offset.total_seconds())
            for listed in self._inboxes:
                listed.begin(now, evening_s)
            deadline = time.monotonic() + _SCAN_TIMEOUT_S
            listings = [listed.result(deadline, now) for listed in self._inboxes]
            arrived = [file for listing in listings for file in listing.arrived]
            arrived.sort(key=lambda file: file.order)
            for file in arrived:
                file.settle()
        return ScanResult(
            arrived=tuple(dict.fromkeys(Path(file.path) for file in arrived)),
            pending=sum(listing.pending for listing in listings),
            problems=tuple(problem for listing in listings for problem in listing.problems),
            total=sum(listing.total for listing in listings),
        )

    def reset(self) -> None:
        """Let the next scan query every file again."""
        with self._lock:
            for entry in self._inboxes:
                entry.is_reset_due = True

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` on file events, from another thread and possibly often.

        Only local inboxes have events. A missing folder is watched from the first scan that
        finds it.
        """
        with self._lock:
            for entry in self._inboxes:
                entry.watch(wake)

    def close(self) -> None:
        """Stop watching and fetching."""
        with self._lock:
            for entry in self._inboxes:
                entry.close()


def prune_fetched(settings: Settings, now: dt.datetime) -> int:
    """Remove old local copies whose frames are in the database.

    They are not fetched again: their remote files are recognised by name, size and date.

    Parameters
    ----------
    settings : Settings
        Settings of the project.
    now : datetime
        Time, UTC.

    Returns
    -------
    int
        Number of removed copies.
    """
    oldest_s = now.timestamp() - dt.timedelta(days=settings.keep.fetched_days).total_seconds()
    engine = db.schema.engine.connect(settings.database_url)
    try:
        with Session(engine) as session:
            return sum(
                remove_copy_if_old(path, oldest_s, now.timestamp(), session)
                for path in list(settings.fetched_folder.rglob("*"))
                if path.is_file()
            )
    finally:
        engine.dispose()


def remove_copy_if_old(path: Path, oldest_s: float, now_s: float, session: Session) -> bool:
    """Remove a local copy that is old and known, or a part of an interrupted transfer.

    Parameters
    ----------
    path : Path
        File in the folder of copies.
    oldest_s : float
        Copies fetched before this time are old, s since 1970.
    now_s : float
        Time, s since 1970.
    session : Session
        Database session.

    Returns
    -------
    bool
        True if a complete copy was removed.
    """
    try:
        status = path.stat()
    except FileNotFoundError:  # a part that was renamed after its transfer
        return False
    # st_mtime is the date of the remote file; st_ctime is the time of the transfer.
    if path.suffix == ".part":
        if status.st_ctime < now_s - _STALE_PART_S:
            path.unlink(missing_ok=True)
        return False
    file = core.FileInfo(_files.resolve_path(path), status.st_size, status.st_mtime_ns)
    if status.st_ctime >= oldest_s or not db.frames.is_known(session, file):
        return False
    path.unlink()
    with suppress(OSError):  # the folder has other files
        path.parent.rmdir()
    return True
