"""Where new files arrive, and how they are noticed.

A file has arrived when it has not changed for a while. Every scan lists every inbox; what has been
handed out, or was known before, is remembered by its size and date, so that a scan of a hundred
thousand known files asks nobody anything. File events only say that a scan is worth its while.
"""

import errno
import heapq
import logging
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Unfinished
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session
from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from qc import db
from qc._files import is_fits_name, printable, spelt, told_time
from qc.core.measurement import FileInfo
from qc.db.engine import connect
from qc.errors import ConfigurationError, InboxUnavailableError
from qc.io.remote import RemoteFile, RemoteFolder
from qc.settings import InboxSettings, Settings

if TYPE_CHECKING:  # a name for what Observer() gives
    from watchdog.observers.api import BaseObserver

logger = logging.getLogger(__name__)

Version = tuple[int, int]  # size in bytes, modified in ns since 1970
IsKnown = Callable[[FileInfo], bool]

_EMPTY_WAIT_S = 600  # an empty file is a copy that has begun; one that never goes on is broken
_CLOCKS_DIFFER_S = 60  # a file server's clock may be wrong by as much and its dates be trusted
_ASKED_AT_ONCE = 20_000  # of a database some seconds; what is left is asked at the next scan
_FETCHED_AT_ONCE = 32
_COMPLETED_AT_ONCE = 200  # objects that a server must be asked about one by one
_FAILURES_AT_ONCE = 3
_PATIENCE_S = 5.0  # of a scan, with an inbox that hangs or fetches; it goes on by itself
_EVENING_H = 18  # local time: where one night's files end and the next one's begin, for the order
_UNFINISHED = (".", "~", "#")  # first characters of files that are hidden, or locks
_NEWS = (FileCreatedEvent, FileMovedEvent, FileClosedEvent, DirCreatedEvent, DirMovedEvent)
_MOST_FOLDERS = (
    Path("/proc/sys/fs/inotify/max_user_watches"),
    Path("/proc/sys/user/max_inotify_watches"),
)
_STALE_PART_S = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ScanResult:
    """What one look at every inbox has brought.

    Attributes
    ----------
    arrived : tuple of Path
        Local files ready to be read; newest night first, within it in order of arrival. Each
        version of a file is handed out once.
    restless : int
        Files that still grow, or are still to be fetched or asked about: look again soon.
    troubles : tuple of str
        A sentence for each inbox that cannot be listed, or not all of it.
    seen : int
        FITS files in all inboxes.
    """

    arrived: tuple[Path, ...]
    restless: int
    troubles: tuple[str, ...]
    seen: int


class InboxSet:
    """All inboxes of a project.

    Parameters
    ----------
    is_known : callable
        Says whether this very file needs no reading. It is called from other threads, never from
        two at a time; what it raises comes out of `scan`, and nothing is lost by it.

    Raises
    ------
    ConfigurationError
        If an inbox is of a kind that nothing here can read, or is named twice.
    """

    def __init__(self, settings: Settings, is_known: IsKnown) -> None:
        one_at_a_time = Lock()

        def ask(file: FileInfo) -> bool:
            with one_at_a_time:
                return is_known(file)

        paths = [inbox.path for inbox in settings.inbox]
        twice = {path for path in paths if paths.count(path) > 1}
        if twice:
            raise ConfigurationError(f"inbox {min(twice)}: named more than once; leave one")
        self._zone = ZoneInfo(settings.schedule.time_zone)
        self._inboxes = tuple(_open(inbox, settings, ask) for inbox in settings.inbox)
        self._lock = Lock()

    def scan(self, now: datetime) -> ScanResult:
        """List every inbox once.

        One that has not answered within a few seconds goes on by itself and holds up none of the
        others; a later scan hands out what it brought.
        """
        with self._lock:
            evening_s = _evening_s(now, self._zone)
            for inbox in self._inboxes:
                inbox.begin(now, evening_s)
            deadline = time.monotonic() + _PATIENCE_S
            looks = [inbox.result(deadline, now) for inbox in self._inboxes]
            arrived = [one for look in looks for one in look.arrived]
            arrived.sort(key=lambda one: one.order)
            for one in arrived:
                one.settle()
        return ScanResult(
            arrived=tuple(dict.fromkeys(Path(one.path) for one in arrived)),
            restless=sum(look.restless for look in looks),
            troubles=tuple(trouble for look in looks for trouble in look.troubles),
            seen=sum(look.seen for look in looks),
        )

    def forget(self) -> None:
        """Let the next scan ask about every file again, whatever was handed out before."""
        with self._lock:
            for inbox in self._inboxes:
                inbox.is_to_forget = True

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, from another thread and often, when something has come.

        Only local inboxes tell; one that is away now is watched from the scan that finds it.
        """
        with self._lock:
            for inbox in self._inboxes:
                inbox.watch(wake)

    def close(self) -> None:
        """Stop watching; what is being fetched is given up."""
        with self._lock:
            for inbox in self._inboxes:
                inbox.close()


def prune_fetched(settings: Settings, now: datetime) -> int:
    """Remove copies fetched long ago whose frames are known, and say how many.

    They are not fetched again: their objects are recognised by name, size and date.
    """
    oldest_s = now.timestamp() - timedelta(days=settings.keep.fetched_days).total_seconds()
    engine = connect(settings.database_url)
    try:
        with Session(engine) as session:
            return sum(
                _prune(path, oldest_s, now.timestamp(), session)
                for path in list(settings.fetched_folder.rglob("*"))
                if path.is_file()
            )
    finally:
        engine.dispose()


def _prune(path: Path, oldest_s: float, now_s: float, session: Session) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:  # what was being fetched has its own name now
        return False
    # The date of the file is the object's; that of its entry on this disk, when it was fetched.
    if path.suffix == ".part":
        if status.st_ctime < now_s - _STALE_PART_S:  # of a fetch that was killed
            path.unlink(missing_ok=True)
        return False
    file = FileInfo(printable(path), status.st_size, status.st_mtime_ns)
    if status.st_ctime >= oldest_s or not db.frames.is_known(session, file):
        return False
    path.unlink()
    with suppress(OSError):  # it holds others
        path.parent.rmdir()
    return True


def _evening_s(now: datetime, zone: ZoneInfo) -> int:
    """Return the seconds of the day (UTC) at which one night's files end."""
    offset = now.astimezone(zone).utcoffset() or timedelta()
    return _EVENING_H * 3600 - int(offset.total_seconds())


# --- what is remembered ---------------------------------------------------------------------------


@dataclass
class _FileHistory:
    """What has been seen of the files of one folder, by name.

    Attributes
    ----------
    done : dict
        The version of each that was handed out, or known.
    waiting : dict
        Of the others the version and since when, in ns, it has been like that.
    """

    done: dict[str, Version] = field(default_factory=dict)
    waiting: dict[str, tuple[Version, int]] = field(default_factory=dict)

    def is_quiet(self, name: str, version: Version, now_ns: int, quiet: "_QuietPeriod") -> bool:
        """Say whether a file has kept still; the file is remembered as waiting."""
        before, since_ns = self.waiting.get(name, (version, now_ns))
        if before != version or since_ns > now_ns:  # it changed, or our clock was set back
            since_ns = now_ns
        self.waiting[name] = (version, since_ns)
        size, modified_ns = version
        still_ns = quiet.still_ns if size else max(quiet.still_ns, _EMPTY_WAIT_S * 10**9)
        return now_ns - since_ns >= still_ns or now_ns - modified_ns >= still_ns + quiet.trust_ns

    def settle(self, name: str, version: Version) -> None:
        self.done[name] = version
        self.waiting.pop(name, None)

    def keep_only(self, names: set[str]) -> None:
        for known in (self.done, self.waiting):
            for gone in known.keys() - names:
                known.pop(gone)


@dataclass(frozen=True)
class _QuietPeriod:
    """How long a file must have kept still.

    Attributes
    ----------
    still_ns : int
        As seen by us, in two looks.
    trust_ns : int
        How much older its own date must be for one look to be enough.
    """

    still_ns: int
    trust_ns: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A quiet file that has not been handed out."""

    night: int
    modified_ns: int
    name: str
    path: str
    version: Version
    memory: _FileHistory

    @property
    def order(self) -> tuple[int, int, str, str]:
        """Return what it is sorted by: the newest night, in it by date of the file."""
        return -self.night, self.modified_ns, self.name, self.path

    def settle(self) -> None:
        """Remember that nobody need hear of it again."""
        self.memory.settle(self.name, self.version)

    @property
    def file(self) -> FileInfo:
        return FileInfo(Path(spelt(self.path)), *self.version)


def _candidate(
    path: str, name: str, version: Version, memory: _FileHistory, evening_s: int
) -> _Candidate:
    told = told_time(name.rpartition("/")[2])
    taken_s = version[1] // 10**9 if told is None else int(told.timestamp())
    night = (taken_s - evening_s) // 86_400
    return _Candidate(night, version[1], name, path, version, memory)


@dataclass(frozen=True)
class _ScanPass:
    """What one inbox has brought; what arrived is settled when it has been handed out."""

    arrived: tuple[_Candidate, ...] = ()
    restless: int = 0
    troubles: tuple[str, ...] = ()
    seen: int = 0


# --- one inbox ------------------------------------------------------------------------------------


def _open(inbox: InboxSettings, settings: Settings, ask: IsKnown) -> "_InboxThread":
    return (_RemoteInbox if inbox.is_remote else _LocalInbox)(inbox, settings, ask)


class _InboxThread(ABC):
    """An inbox that is looked at in a thread of its own: a disk or server may hang for hours."""

    name: str

    def __init__(self, settings: Settings, ask: IsKnown) -> None:
        self.settings = settings
        self.ask = ask
        self.is_to_forget = False
        self.still_ns = int(settings.watch.quiet_s * 1e9)
        self.last = _ScanPass()
        self._running: Future[_ScanPass] | None = None
        self._since = _EPOCH

    def begin(self, now: datetime, evening_s: int) -> None:
        """Start looking, unless the last look has not ended."""
        if self._running is None:
            if self.is_to_forget:
                self.forget()
                self.is_to_forget = False
            self._since = now
            self._running = _in_thread(lambda: self.look(now, evening_s), self.name)

    def result(self, deadline: float, now: datetime) -> _ScanPass:
        """Return what was found; of a look that has not ended, that it is not to be waited for."""
        assert self._running is not None
        is_late = now > self._since
        try:
            look = self._running.result(0 if is_late else max(0, deadline - time.monotonic()))
        except Unfinished:
            said = f"{self.name}: has not answered since {self._since:%Y-%m-%d %H:%M:%S} UT"
            hangs = (now - self._since).total_seconds() > self.patience_s
            return _ScanPass((), 1, (said,) if hangs else (), self.last.seen)
        except BaseException:
            self._running = None
            raise
        self._running, self.last = None, replace(look, arrived=())
        return look

    @property
    def patience_s(self) -> float:
        """Seconds after which an inbox that is silent is reported."""
        return 2 * self.settings.watch.scan_s

    def unknown(self, candidates: list[_Candidate]) -> tuple[list[_Candidate], int]:
        """Ask about the first of them; return those that nobody knows, and how many are left."""
        unknown = []
        for one in heapq.nsmallest(_ASKED_AT_ONCE, candidates, key=lambda one: one.order):
            if self.ask(one.file):
                one.settle()
            else:
                unknown.append(one)
        return unknown, max(0, len(candidates) - _ASKED_AT_ONCE)

    @abstractmethod
    def look(self, now: datetime, evening_s: int) -> _ScanPass:
        """List the inbox."""

    @abstractmethod
    def forget(self) -> None:
        """Forget what was handed out."""

    @abstractmethod
    def watch(self, wake: Callable[[], None]) -> None:
        """Tell when something comes, if it can be known."""

    @abstractmethod
    def close(self) -> None:
        """Stop."""


def _in_thread(work: Callable[[], _ScanPass], name: str) -> "Future[_ScanPass]":
    """Run it in a thread that the program need not wait for when it ends."""
    future: Future[_ScanPass] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is taken
            future.set_exception(error)

    Thread(target=run, name=name, daemon=True).start()
    return future


# --- a folder of this machine ---------------------------------------------------------------------


@dataclass
class _DirectoryWalk:
    """One walk through a local inbox."""

    now_ns: int
    evening_s: int
    quiet: _QuietPeriod
    memories: dict[str, _FileHistory]
    entered: set[tuple[int, int]]
    candidates: list[_Candidate] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    unlisted: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    restless: int = 0
    seen: int = 0

    def through(self, root: str) -> None:
        """Look at all folders below `root`, each once, whatever links lead to it."""
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            try:
                waiting += self._enter(folder)
            except FileNotFoundError:  # it went away after its name was read
                continue
            except OSError as error:
                self.unlisted.append(folder)
                self.faults.append(f"{spelt(folder)}: cannot be listed: {error.strerror}")

    def _enter(self, folder: str) -> list[str]:
        status = os.stat(folder)  # noqa: PTH116 - a hundred thousand Paths cost a second
        identity = (status.st_dev, status.st_ino)
        if identity in self.entered:
            return []
        self.entered.add(identity)
        inner: list[str] = []
        names: set[str] = set()
        memory = self.memories.setdefault(folder, _FileHistory())
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(_UNFINISHED):
                    continue
                try:
                    self._meet(entry, memory, names, inner)
                except FileNotFoundError:  # it went away after its name was read
                    continue
                except OSError as error:
                    self.faults.append(
                        f"{spelt(entry.path)}: cannot be looked at: {error.strerror}"
                    )
        memory.keep_only(names)
        self.folders.add(folder)
        return inner

    def _meet(
        self, entry: "os.DirEntry[str]", memory: _FileHistory, names: set[str], inner: list[str]
    ) -> None:
        if entry.is_dir():
            inner.append(os.path.realpath(entry.path) if entry.is_symlink() else entry.path)
            return
        name = entry.name
        if not is_fits_name(name):
            return
        names.add(name)
        status = entry.stat()
        version = (status.st_size, status.st_mtime_ns)
        if memory.done.get(name) == version:
            self.seen += 1
        elif stat.S_ISREG(status.st_mode):
            self.seen += 1
            if memory.is_quiet(name, version, self.now_ns, self.quiet):
                path = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                self.candidates.append(_candidate(path, name, version, memory, self.evening_s))
            else:
                self.restless += version[0] > 0  # one that is empty is waited for, not chased

    def forget_vanished(self) -> None:
        """Drop what is known of folders that are gone; of those that cannot be listed it stays."""
        kept = tuple(f"{folder}/" for folder in self.unlisted)
        for folder in self.memories.keys() - self.folders:
            if not f"{folder}/".startswith(kept):
                self.memories.pop(folder)


class _LocalInbox(_InboxThread):
    """A folder of this machine, or one that is mounted."""

    def __init__(self, inbox: InboxSettings, settings: Settings, ask: IsKnown) -> None:
        super().__init__(settings, ask)
        path = inbox.path.removeprefix("file://").removeprefix("local://")
        self.root = settings.project / Path(path).expanduser()
        self.name = spelt(str(self.root))
        self._memories: dict[str, _FileHistory] = {}
        self._device: int | None = None
        self._observer = _EventWatcher(self.name)
        self._quiet = _QuietPeriod(self.still_ns, _CLOCKS_DIFFER_S * 10**9)

    def look(self, now: datetime, evening_s: int) -> _ScanPass:
        """Walk through the inbox; of one that is away nothing is forgotten."""
        try:
            device = self.root.stat().st_dev
            with os.scandir(self.root):
                pass  # it is a folder that can be listed
        except OSError as error:
            self._observer.stop()
            return self._away(f"cannot be listed: {error.strerror}; is it mounted?")
        is_other = self._device not in {None, device}
        if is_other and self.last.seen and not self._walk(now, evening_s, {}).seen:
            return self._away("is empty and no longer the file system it was; is it mounted?")
        self._device = device
        walk = self._walk(now, evening_s, self._memories)
        walk.forget_vanished()
        self._observer.follow(self.root, len(walk.folders))
        arrived, left = self.unknown(walk.candidates)
        troubles = (*_first_of(walk.faults), *self._observer.troubles)
        return _ScanPass(tuple(arrived), walk.restless + left, troubles, walk.seen)

    def _walk(
        self, now: datetime, evening_s: int, memories: dict[str, _FileHistory]
    ) -> _DirectoryWalk:
        walk = _DirectoryWalk(_ns(now), evening_s, self._quiet, memories, self._not_ours())
        walk.through(os.path.realpath(self.root))
        return walk

    def _not_ours(self) -> set[tuple[int, int]]:
        """Return the folder of fetched copies, which a wide inbox may hold: not to be entered."""
        try:
            status = self.settings.fetched_folder.stat()
        except OSError:
            return set()
        return {(status.st_dev, status.st_ino)}

    def _away(self, why: str) -> _ScanPass:
        return _ScanPass(troubles=(f"{self.name}: {why}",), seen=self.last.seen)

    def forget(self) -> None:
        """Ask about every file again; that one keeps still is remembered."""
        for memory in self._memories.values():
            memory.done.clear()
        self._observer.is_refused = False

    def watch(self, wake: Callable[[], None]) -> None:
        """Have file events wake the daemon."""
        self._observer.wake = wake
        self._observer.follow(self.root, 0)

    def close(self) -> None:
        """Stop watching."""
        self._observer.stop()


def _first_of(faults: Sequence[str]) -> Iterator[str]:
    """Make one sentence of many faults."""
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        yield f"{faults[0]}{more}"


def _ns(when: datetime) -> int:
    return (when - _EPOCH) // timedelta(microseconds=1) * 1000


class _EventWatcher(FileSystemEventHandler):
    """Events of one folder, as long as it is the same folder."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wake: Callable[[], None] | None = None
        self.is_refused = False
        self.troubles: tuple[str, ...] = ()
        self._observer: BaseObserver | None = None
        self._folder: tuple[int, int] | None = None

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Wake the daemon for a FITS file or a folder that came or was closed."""
        names = (os.fsdecode(event.src_path), os.fsdecode(event.dest_path))
        if self.wake is not None and (event.is_directory or any(map(is_fits_name, names))):
            self.wake()

    def follow(self, root: Path, folders: int) -> None:
        """Watch the folder, unless it is watched already or the kernel has refused."""
        if self.wake is None or self.is_refused:
            return
        try:
            status = root.stat()
            folder = (status.st_dev, status.st_ino)
            if folder != self._folder:  # it came, or another was mounted in its place
                self.stop()
                self._start(root)
                self._folder = folder
            self.troubles = tuple(self._beyond_limit(folders))
        except OSError as error:
            self.stop()
            self.is_refused = error.errno not in {errno.ENOENT, errno.ENOTDIR}
            if self.is_refused:
                self.troubles = (self._unwatched(error.strerror or str(error)),)

    def _start(self, root: Path) -> None:
        observer = Observer()
        try:
            observer.schedule(self, str(root), recursive=True, event_filter=list(_NEWS))
            observer.start()
        except OSError:
            observer.stop()
            raise
        self._observer = observer

    def _beyond_limit(self, folders: int) -> Iterator[str]:
        """Say so where there are more folders than the kernel lets anyone watch.

        watchdog is silent about a folder within the inbox that it was refused.
        """
        try:
            most = min(int(path.read_text()) for path in _MOST_FOLDERS)
        except (OSError, ValueError):  # no such limits on this system
            return
        if folders > most:
            yield self._unwatched(f"{folders} folders, and the kernel lets {most} be watched")

    def _unwatched(self, why: str) -> str:
        return (
            f"{self.name}: new files are noticed by the scans only: {why}; "
            "raise fs.inotify.max_user_watches or max_user_instances"
        )

    def stop(self) -> None:
        """Watch no more, until told to follow again."""
        self._folder, self.troubles, self.is_refused = None, (), False
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(_PATIENCE_S)
            self._observer = None


# --- what must be fetched -------------------------------------------------------------------------


class _RemoteInbox(_InboxThread):
    """A folder of an object store or a server; its files are read from copies.

    A copy lies under the object's name and bears its date: by them the object is recognised
    when the copy has been pruned.
    """

    def __init__(self, inbox: InboxSettings, settings: Settings, ask: IsKnown) -> None:
        super().__init__(settings, ask)
        self._store = RemoteFolder(inbox.path, inbox.options)
        self.name = self._store.name
        self._copies = settings.fetched_folder / self._store.folder_name
        self._memory = _FileHistory()
        self._failures: dict[str, int] = {}
        self._listed_at = _EPOCH
        self._stopped = Event()
        # Objects of a store appear whole; files on a server grow like anywhere else.
        trust_s = 0 if self._store.is_object_store else _CLOCKS_DIFFER_S
        self._quiet = _QuietPeriod(self.still_ns, trust_s * 10**9)

    def look(self, now: datetime, evening_s: int) -> _ScanPass:
        """List the objects and fetch some of the new ones.

        Not at every scan that a local file may cause: a listing takes its time and its price.
        """
        pause_s = self.settings.watch.scan_s / 2
        is_soon = timedelta() <= now - self._listed_at < timedelta(seconds=pause_s)
        if is_soon and not self.last.restless:
            return _ScanPass(troubles=self.last.troubles, seen=self.last.seen)
        self._listed_at = now
        try:
            return self._bring(now, evening_s)
        except InboxUnavailableError as error:
            return self._away(error)

    def _away(self, error: InboxUnavailableError) -> _ScanPass:
        logger.info("%s", error)
        return _ScanPass(troubles=(str(error),), seen=self.last.seen)

    def _bring(self, now: datetime, evening_s: int) -> _ScanPass:
        names: set[str] = set()
        new, faults = self._new_objects(names)
        whole, rest = self._completed(new, faults)
        candidates, restless = self._quiet_ones(whole, _ns(now), evening_s)
        self._memory.keep_only(names)
        for gone in self._failures.keys() - names:
            self._failures.pop(gone)
        unknown, left = self.unknown(candidates)
        objects = {one.relative: one for one in whole}
        arrived, unfetched = self._fetch(unknown, objects, faults)
        troubles = tuple(_first_of(faults))
        for trouble in troubles:
            logger.info("%s", trouble)
        return _ScanPass(tuple(arrived), restless + rest + left + unfetched, troubles, len(names))

    def _new_objects(self, names: set[str]) -> tuple[list[RemoteFile], list[str]]:
        """List everything into `names`; return what is new, and what must never be fetched."""
        new, unsafe = [], []
        for one in self._store.objects():
            if not one.is_safe:
                name = repr(one.relative[:80])
                unsafe.append(f"{self.name}: expected names that a file can bear, left out {name}")
                continue
            names.add(one.relative)
            done = self._memory.done.get(one.relative)
            # A listing that tells no dates cannot tell what was replaced: `forget` asks again.
            if done is None or (one.version is not None and one.version != done):
                new.append(one)
        return new, unsafe

    def _completed(
        self, objects: list[RemoteFile], faults: list[str]
    ) -> tuple[list[RemoteFile], int]:
        """Ask for size and date where the listing has none; return how many are left to ask.

        The newest are asked first, by their names.
        """
        whole = [one for one in objects if one.version is not None]
        rest = [one for one in objects if one.version is None]
        rest.sort(key=lambda one: (told_time(one.relative) or _EPOCH, one.relative), reverse=True)
        for one in rest[:_COMPLETED_AT_ONCE]:
            told = self._store.completed(one)
            if told is not None and told.version is None:
                faults.append(f"{self.name}: does not tell the size of {one.relative}")
            elif told is not None:
                whole.append(told)
        return whole, max(0, len(rest) - _COMPLETED_AT_ONCE)

    def _quiet_ones(
        self, objects: Iterable[RemoteFile], now_ns: int, evening_s: int
    ) -> tuple[list[_Candidate], int]:
        root = os.path.realpath(self._copies)
        quiet, restless = [], 0
        for one in objects:
            version = one.version
            assert version is not None
            if self._memory.is_quiet(one.relative, version, now_ns, self._quiet):
                path = f"{root}/{one.relative}"
                quiet.append(_candidate(path, one.relative, version, self._memory, evening_s))
            else:
                restless += version[0] > 0
        return quiet, restless

    def _fetch(
        self, wanted: list[_Candidate], objects: dict[str, RemoteFile], faults: list[str]
    ) -> tuple[list[_Candidate], int]:
        """Fetch the first of them, those that failed before last; return how many are left."""
        wanted.sort(key=lambda one: self._failures.get(one.name, 0))  # a stable sort
        here: list[_Candidate] = []
        failed = 0
        for tried, one in enumerate(wanted):
            if len(here) == _FETCHED_AT_ONCE or self._stopped.is_set():
                return here, len(wanted) - tried
            if failed == _FAILURES_AT_ONCE:  # whatever is wrong, it is wrong with more than one
                break
            try:
                if self._is_here(one) or self._store.fetch(objects[one.name], Path(one.path)):
                    here.append(one)
                self._failures.pop(one.name, None)
            except InboxUnavailableError as error:
                failed += 1
                self._failures[one.name] = self._failures.get(one.name, 0) + 1
                faults.append(str(error))
        return here, 0

    def _is_here(self, one: _Candidate) -> bool:
        """Say whether it was fetched before, by a daemon that was killed before it read it."""
        try:
            status = os.stat(one.path)  # noqa: PTH116 - the path is text until it is handed out
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == one.version

    def forget(self) -> None:
        """Ask about every object again, at once."""
        self._memory.done.clear()
        self._failures.clear()
        self._listed_at = _EPOCH

    def watch(self, wake: Callable[[], None]) -> None:
        """Do nothing: nobody tells what comes to a store."""

    def close(self) -> None:
        """Give up what is being fetched, at the next object."""
        self._stopped.set()
        self._store.close()
