"""An inbox: listed in a thread of its own, with the history of its files."""

import dataclasses
import datetime as dt
import heapq
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from threading import Thread

from qc import _files, core
from qc.settings import Settings

Version = tuple[int, int]  # size in bytes, time of modification in ns since 1970
IsKnown = Callable[[core.FileInfo], bool]

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
CLOCK_ERROR_S = 60  # largest accepted error of a file server's clock

_EMPTY_WAIT_S = 600  # an empty file is a copy that has begun; if it stays empty it is broken
_MAX_QUERIES = 20_000  # a few seconds of database time; the next scan queries the others


def to_ns(time: dt.datetime) -> int:
    """Return a time as ns since 1970."""
    return (time - EPOCH) // dt.timedelta(microseconds=1) * 1000


def summarise(problems: Sequence[str]) -> tuple[str, ...]:
    """Shorten several problems of an inbox to the first one and a count."""
    if not problems:
        return ()
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return (f"{problems[0]}{more}",)


@dataclasses.dataclass(frozen=True)
class QuietPeriod:
    """Time without change after which a file is complete.

    Attributes
    ----------
    observed_ns : int
        Time between two observations of the same version.
    margin_ns : int
        Additional age of the file's own date for which one observation is enough.
    """

    observed_ns: int
    margin_ns: int


@dataclasses.dataclass
class FileHistory:
    """Versions of the files of one folder, by name.

    Attributes
    ----------
    settled : dict
        Version of each file that was returned by a scan or is in the database.
    waiting : dict
        Version of each other file, and the time of its first observation, ns since 1970.
    """

    settled: dict[str, Version] = dataclasses.field(default_factory=dict)
    waiting: dict[str, tuple[Version, int]] = dataclasses.field(default_factory=dict)

    def is_quiet(self, name: str, version: Version, now_ns: int, period: QuietPeriod) -> bool:
        """Record a version and return True if the file has not changed for the quiet period.

        Parameters
        ----------
        name : str
            Name of the file.
        version : (int, int)
            Size in bytes and time of modification in ns.
        now_ns : int
            Time, ns since 1970.
        period : QuietPeriod
            Required time without change.

        Returns
        -------
        bool
        """
        before, since_ns = self.waiting.get(name, (version, now_ns))
        if before != version or since_ns > now_ns:  # changed file, or clock set back
            since_ns = now_ns
        self.waiting[name] = (version, since_ns)
        size, modified_ns = version
        quiet_ns = period.observed_ns if size else max(period.observed_ns, _EMPTY_WAIT_S * 10**9)
        return now_ns - since_ns >= quiet_ns or now_ns - modified_ns >= quiet_ns + period.margin_ns

    def settle(self, name: str, version: Version) -> None:
        """Record that a version needs no further attention.

        Parameters
        ----------
        name : str
            Name of the file.
        version : (int, int)
            Size in bytes and time of modification in ns.
        """
        self.settled[name] = version
        self.waiting.pop(name, None)

    def keep_only(self, names: set[str]) -> None:
        """Remove the entries of files that no longer exist."""
        for entries in (self.settled, self.waiting):
            for name in entries.keys() - names:
                entries.pop(name)


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A complete file that no scan has returned yet.

    Attributes
    ----------
    night : int
        Number of the night, for the order.
    modified_ns : int
        Time of modification, ns since 1970.
    name : str
        Key in the history.
    path : str
        Absolute local path.
    version : (int, int)
        Size in bytes and time of modification in ns.
    history : FileHistory
        History of the folder.
    """

    night: int
    modified_ns: int
    name: str
    path: str
    version: Version
    history: FileHistory

    @property
    def order(self) -> tuple[int, int, str, str]:
        """Return the sort key: newest night first, then by time of modification."""
        return -self.night, self.modified_ns, self.name, self.path

    @property
    def file(self) -> core.FileInfo:
        """Return path and version as the database stores them."""
        return core.FileInfo(Path(_files.escape_path(self.path)), *self.version)

    def settle(self) -> None:
        """Record in the history that the file needs no further attention."""
        self.history.settle(self.name, self.version)


def make_candidate(
    path: str, name: str, version: Version, history: FileHistory, evening_s: int
) -> Candidate:
    """Make a candidate; the time in its name determines the night, else its date.

    Parameters
    ----------
    path : str
        Absolute local path.
    name : str
        Key in the history.
    version : (int, int)
        Size in bytes and time of modification in ns.
    history : FileHistory
        History of the folder.
    evening_s : int
        Time of day at which a night's files end, s after 0 UT.

    Returns
    -------
    Candidate
    """
    named = _files.time_in_name(name.rpartition("/")[2])
    observed_s = version[1] // 10**9 if named is None else int(named.timestamp())
    night = (observed_s - evening_s) // 86_400
    return Candidate(night, version[1], name, path, version, history)


@dataclasses.dataclass(frozen=True)
class InboxListing:
    """Result of listing one inbox.

    Attributes
    ----------
    arrived : tuple of Candidate
        New files; they are settled once the scan returns them.
    pending : int
        Files that still grow, or are still to be fetched or queried.
    problems : tuple of str
        One sentence for each problem.
    total : int
        FITS files in the inbox.
    """

    arrived: tuple[Candidate, ...] = ()
    pending: int = 0
    problems: tuple[str, ...] = ()
    total: int = 0


class Inbox(ABC):
    """An inbox that is listed in a thread of its own: a disk or server may hang for hours.

    Parameters
    ----------
    name : str
        Name for messages.
    settings : Settings
        Settings of the project.
    is_known : callable
        Returns True for a file that needs no processing.
    """

    def __init__(self, name: str, settings: Settings, is_known: IsKnown) -> None:
        self.name = name
        self.settings = settings
        self.is_known = is_known
        self.is_reset_due = False
        self.quiet_ns = int(settings.watch.quiet_s * 1e9)
        self.last = InboxListing()
        self._running: futures.Future[InboxListing] | None = None
        self._started = EPOCH

    def begin(self, now: dt.datetime, evening_s: int) -> None:
        """Start listing, unless the last listing has not ended.

        Parameters
        ----------
        now : datetime
            Time of the scan.
        evening_s : int
            Time of day at which a night's files end, s after 0 UT.
        """
        if self._running is None:
            if self.is_reset_due:
                self.reset()
                self.is_reset_due = False
            self._started = now
            self._running = run_in_thread(lambda: self.list_files(now, evening_s), self.name)

    def result(self, deadline: float, now: dt.datetime) -> InboxListing:
        """Return the listing; after the deadline an empty one with the state so far.

        Parameters
        ----------
        deadline : float
            Value of `time.monotonic` until which a listing of this scan is awaited.
        now : datetime
            Time of the scan.

        Returns
        -------
        InboxListing
        """
        assert self._running is not None
        is_late = now > self._started
        try:
            listing = self._running.result(0 if is_late else max(0, deadline - time.monotonic()))
        except futures.TimeoutError:
            problem = f"{self.name}: has not answered since {self._started:%Y-%m-%d %H:%M:%S} UT"
            hangs = (now - self._started).total_seconds() > self.timeout_s
            return InboxListing((), 1, (problem,) if hangs else (), self.last.total)
        except BaseException:
            self._running = None
            raise
        self._running, self.last = None, dataclasses.replace(listing, arrived=())
        return listing

    @property
    def timeout_s(self) -> float:
        """Return the time after which a silent inbox is reported, s."""
        return 2 * self.settings.watch.scan_s

    def select_unknown(self, candidates: list[Candidate]) -> tuple[list[Candidate], int]:
        """Query the database for the first candidates.

        Returns
        -------
        (list of Candidate, int)
            Unknown files, and the number of candidates left for the next scan.
        """
        unknown = []
        for candidate in heapq.nsmallest(_MAX_QUERIES, candidates, key=lambda file: file.order):
            if self.is_known(candidate.file):
                candidate.settle()
            else:
                unknown.append(candidate)
        return unknown, max(0, len(candidates) - _MAX_QUERIES)

    def report_failure(self, problem: str) -> InboxListing:
        """Return a listing with a problem; the history is unchanged."""
        return InboxListing(problems=(problem,), total=self.last.total)

    @abstractmethod
    def list_files(self, now: dt.datetime, evening_s: int) -> InboxListing:
        """List the inbox.

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

    @abstractmethod
    def reset(self) -> None:
        """Clear the history of settled files."""

    @abstractmethod
    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` on file events, if the inbox has them."""

    @abstractmethod
    def close(self) -> None:
        """Stop watching and fetching."""


def run_in_thread(work: Callable[[], InboxListing], name: str) -> "futures.Future[InboxListing]":
    """Run a function in a daemon thread: the process need not wait for it at its end.

    Parameters
    ----------
    work : callable
        Function without arguments.
    name : str
        Name of the thread.

    Returns
    -------
    Future
        Result or error of the function.
    """
    future: futures.Future[InboxListing] = futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again by Future.result
            future.set_exception(error)

    Thread(target=run, name=name, daemon=True).start()
    return future
