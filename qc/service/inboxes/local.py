"""Local inbox: a folder of this machine or a mounted one, with file events."""

import dataclasses
import datetime as dt
import errno
import os
import stat
from collections import abc
from pathlib import Path
from typing import TYPE_CHECKING

from watchdog import events
from watchdog.observers import Observer

from qc import _files
from qc.service.inboxes import inbox
from qc.settings import InboxSettings, Settings

if TYPE_CHECKING:  # type of Observer()
    from watchdog.observers.api import BaseObserver

_IGNORED = (".", "~", "#")  # first characters of hidden files and lock files
_EVENTS = [
    events.FileCreatedEvent,
    events.FileMovedEvent,
    events.FileClosedEvent,
    events.DirCreatedEvent,
    events.DirMovedEvent,
]
_WATCH_LIMITS = (
    Path("/proc/sys/fs/inotify/max_user_watches"),
    Path("/proc/sys/user/max_inotify_watches"),
)
_JOIN_S = 5.0


@dataclasses.dataclass
class DirectoryWalk:
    """One walk through a local inbox.

    Attributes
    ----------
    now_ns : int
        Time, ns since 1970.
    evening_s : int
        Time of day at which a night's files end, s after 0 UT.
    period : QuietPeriod
        Time without change after which a file is complete.
    histories : dict of str to FileHistory
        History of each folder; updated.
    visited : set of (int, int)
        Device and inode of folders that are not entered again.
    candidates : list of Candidate
        Complete files that no scan has returned yet.
    folders : set of str
        Folders that were listed.
    unlisted : list of str
        Folders that could not be listed.
    problems : list of str
        One sentence for each file or folder that could not be read.
    pending : int
        Files that still grow.
    total : int
        FITS files.
    """

    now_ns: int
    evening_s: int
    period: inbox.QuietPeriod
    histories: dict[str, inbox.FileHistory]
    visited: set[tuple[int, int]]
    candidates: list[inbox.Candidate] = dataclasses.field(default_factory=list)
    folders: set[str] = dataclasses.field(default_factory=set)
    unlisted: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    pending: int = 0
    total: int = 0

    def walk(self, root: str) -> None:
        """List all folders below `root`, without repetition by links."""
        queue = [root]
        while queue:
            folder = queue.pop()
            try:
                queue += self.list_folder(folder)
            except FileNotFoundError:  # removed after its name was read
                continue
            except OSError as error:
                self.unlisted.append(folder)
                self.problems.append(
                    f"{_files.escape_path(folder)}: cannot be listed: {error.strerror}"
                )

    def list_folder(self, folder: str) -> list[str]:
        """Examine the files of a folder and return its subfolders."""
        status = os.stat(folder)  # noqa: PTH116 - a hundred thousand Paths cost a second
        identity = (status.st_dev, status.st_ino)
        if identity in self.visited:
            return []
        self.visited.add(identity)
        subfolders: list[str] = []
        names: set[str] = set()
        history = self.histories.setdefault(folder, inbox.FileHistory())
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(_IGNORED):
                    continue
                try:
                    if entry.is_dir():
                        subfolders.append(_resolve(entry))
                    elif _files.is_fits_name(entry.name):
                        names.add(entry.name)
                        self.examine(entry, history)
                except FileNotFoundError:  # removed after its name was read
                    continue
                except OSError as error:
                    self.problems.append(
                        f"{_files.escape_path(entry.path)}: cannot be read: {error.strerror}"
                    )
        history.keep_only(names)
        self.folders.add(folder)
        return subfolders

    def examine(self, entry: "os.DirEntry[str]", history: inbox.FileHistory) -> None:
        """Count a FITS file; add it to the candidates if it is new and complete.

        Parameters
        ----------
        entry : os.DirEntry
            Entry of a FITS file.
        history : FileHistory
            History of its folder.
        """
        name = entry.name
        status = entry.stat()
        version = (status.st_size, status.st_mtime_ns)
        if history.settled.get(name) == version:
            self.total += 1
        elif stat.S_ISREG(status.st_mode):
            self.total += 1
            if history.is_quiet(name, version, self.now_ns, self.period):
                self.candidates.append(
                    inbox.make_candidate(_resolve(entry), name, version, history, self.evening_s)
                )
            else:
                self.pending += version[0] > 0  # an empty file does not hasten the next scan

    def remove_vanished(self) -> None:
        """Remove the histories of vanished folders; keep those that cannot be listed."""
        unlisted = tuple(f"{folder}/" for folder in self.unlisted)
        for folder in self.histories.keys() - self.folders:
            if not f"{folder}/".startswith(unlisted):
                self.histories.pop(folder)


def _resolve(entry: "os.DirEntry[str]") -> str:
    return os.path.realpath(entry.path) if entry.is_symlink() else entry.path


class LocalInbox(inbox.Inbox):
    """A folder of this machine, or a mounted folder.

    Parameters
    ----------
    entry : InboxSettings
        Entry of the settings.
    settings : Settings
        Settings of the project.
    is_known : callable
        Returns True for a file that needs no processing.
    """

    def __init__(self, entry: InboxSettings, settings: Settings, is_known: inbox.IsKnown) -> None:
        path = entry.path.removeprefix("file://").removeprefix("local://")
        self.root = settings.project / Path(path).expanduser()
        super().__init__(_files.escape_path(str(self.root)), settings, is_known)
        self._histories: dict[str, inbox.FileHistory] = {}
        self._device: int | None = None
        self._watcher = EventWatcher(self.name)
        self._period = inbox.QuietPeriod(self.quiet_ns, inbox.CLOCK_ERROR_S * 10**9)

    def list_files(self, now: dt.datetime, evening_s: int) -> inbox.InboxListing:
        """Walk through the inbox; the histories of an unavailable inbox are kept.

        Parameters
        ----------
        now : datetime
            Time of the scan.
        evening_s : int
            Time of day at which a night's files end, s after 0 UT.

        Returns
        -------
        InboxListing
        """
        try:
            device = self.root.stat().st_dev
            with os.scandir(self.root):
                pass  # the folder can be listed
        except OSError as error:
            self._watcher.stop()
            return self.report_failure(
                f"{self.name}: cannot be listed: {error.strerror}; is it mounted?"
            )
        is_other = self._device not in {None, device}
        if is_other and self.last.total and not self.walk(now, evening_s, {}).total:
            return self.report_failure(
                f"{self.name}: is empty and no longer the file system it was; is it mounted?"
            )
        self._device = device
        walk = self.walk(now, evening_s, self._histories)
        walk.remove_vanished()
        self._watcher.follow(self.root, len(walk.folders))
        arrived, remaining = self.select_unknown(walk.candidates)
        problems = (*inbox.summarise(walk.problems), *self._watcher.problems)
        return inbox.InboxListing(tuple(arrived), walk.pending + remaining, problems, walk.total)

    def walk(
        self, now: dt.datetime, evening_s: int, histories: dict[str, inbox.FileHistory]
    ) -> DirectoryWalk:
        """Walk through the inbox, without the folder of fetched copies.

        Parameters
        ----------
        now : datetime
            Time of the scan.
        evening_s : int
            Time of day at which a night's files end, s after 0 UT.
        histories : dict of str to FileHistory
            History of each folder; updated.

        Returns
        -------
        DirectoryWalk
        """
        try:
            status = self.settings.fetched_folder.stat()
            excluded = {(status.st_dev, status.st_ino)}
        except OSError:
            excluded = set()
        walk = DirectoryWalk(inbox.to_ns(now), evening_s, self._period, histories, excluded)
        walk.walk(os.path.realpath(self.root))
        return walk

    def reset(self) -> None:
        """Clear the history of settled files; observation times are kept."""
        for history in self._histories.values():
            history.settled.clear()
        self._watcher.is_refused = False

    def watch(self, wake: abc.Callable[[], None]) -> None:
        """Call `wake` on file events."""
        self._watcher.wake = wake
        self._watcher.follow(self.root, 0)

    def close(self) -> None:
        """Stop watching."""
        self._watcher.stop()


class EventWatcher(events.FileSystemEventHandler):
    """File events of one folder, as long as it is the same folder.

    Attributes
    ----------
    wake : callable or None
        Called on each event.
    is_refused : bool
        True if the kernel refused the watch.
    problems : tuple of str
        Reason why events are missing.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.wake: abc.Callable[[], None] | None = None
        self.is_refused = False
        self.problems: tuple[str, ...] = ()
        self._observer: BaseObserver | None = None
        self._folder: tuple[int, int] | None = None

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        """Call `wake` for a FITS file or a folder that appeared or was closed."""
        names = (os.fsdecode(event.src_path), os.fsdecode(event.dest_path))
        if self.wake is not None and (event.is_directory or any(map(_files.is_fits_name, names))):
            self.wake()

    def follow(self, root: Path, folder_count: int) -> None:
        """Watch a folder, unless it is watched already or the kernel has refused.

        Parameters
        ----------
        root : Path
            Folder of the inbox.
        folder_count : int
            Number of folders in it.
        """
        if self.wake is None or self.is_refused:
            return
        try:
            status = root.stat()
            folder = (status.st_dev, status.st_ino)
            if folder != self._folder:  # created, or another one was mounted
                self.stop()
                self.start(root)
                self._folder = folder
            self.problems = tuple(self.check_limit(folder_count))
        except OSError as error:
            self.stop()
            self.is_refused = error.errno not in {errno.ENOENT, errno.ENOTDIR}
            if self.is_refused:
                self.problems = (self._describe(error.strerror or str(error)),)

    def start(self, root: Path) -> None:
        """Start an observer of a folder and its subfolders."""
        observer = Observer()
        try:
            observer.schedule(self, str(root), recursive=True, event_filter=_EVENTS)
            observer.start()
        except OSError:
            observer.stop()
            raise
        self._observer = observer

    def check_limit(self, folder_count: int) -> abc.Iterator[str]:
        """Yield a problem if the inbox has more folders than the kernel's limit on watches.

        watchdog does not report a subfolder whose watch was refused.
        """
        try:
            limit = min(int(path.read_text()) for path in _WATCH_LIMITS)
        except (OSError, ValueError):  # a system without such limits
            return
        if folder_count > limit:
            yield self._describe(f"{folder_count} folders, and the kernel lets {limit} be watched")

    def _describe(self, reason: str) -> str:
        return (
            f"{self.name}: new files are noticed by the scans only: {reason}; "
            "raise fs.inotify.max_user_watches or max_user_instances"
        )

    def stop(self) -> None:
        """Stop watching until the next call of `follow`."""
        self._folder, self.problems, self.is_refused = None, (), False
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(_JOIN_S)
            self._observer = None
