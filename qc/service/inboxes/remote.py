"""Remote inbox: a folder of an object store or a server, read from local copies."""

import datetime as dt
import logging
import os
from collections import abc
from pathlib import Path
from threading import Event

from qc import _files, errors, io
from qc.service.inboxes import inbox
from qc.settings import InboxSettings, Settings

logger = logging.getLogger(__name__)

_MAX_FETCHED = 32  # files of one scan
_MAX_REQUESTS = 200  # requests for size and date in one scan
_MAX_FAILURES = 3


class RemoteInbox(inbox.Inbox):
    """A folder of an object store or a server.

    A copy has the name and the date of its remote file: the file is recognised by them after the
    copy was pruned.

    Parameters
    ----------
    entry : InboxSettings
        Entry of the settings.
    settings : Settings
        Settings of the project.
    is_known : callable
        Returns True for a file that needs no processing.

    Raises
    ------
    ConfigurationError
        If no installed package reads such addresses.
    """

    def __init__(self, entry: InboxSettings, settings: Settings, is_known: inbox.IsKnown) -> None:
        self._storage = io.RemoteFolder(entry.path, entry.options)
        super().__init__(self._storage.name, settings, is_known)
        self._copies = settings.fetched_folder / self._storage.folder_name
        self._history = inbox.FileHistory()
        self._failures: dict[str, int] = {}
        self._listed_at = inbox.EPOCH
        self._stopped = Event()
        # Objects of a store appear complete; files on a server grow as on a disk.
        margin_s = 0 if self._storage.is_object_store else inbox.CLOCK_ERROR_S
        self._period = inbox.QuietPeriod(self.quiet_ns, margin_s * 10**9)

    def list_files(self, now: dt.datetime, evening_s: int) -> inbox.InboxListing:
        """List the remote folder and fetch some of the new files.

        A scan that follows soon, caused by a local file, does not list again: a listing costs
        time and money.

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
        pause_s = self.settings.watch.scan_s / 2
        is_soon = dt.timedelta() <= now - self._listed_at < dt.timedelta(seconds=pause_s)
        if is_soon and not self.last.pending:
            return inbox.InboxListing(problems=self.last.problems, total=self.last.total)
        self._listed_at = now
        try:
            return self.fetch_new_files(now, evening_s)
        except errors.InboxUnavailableError as error:
            logger.info("%s", error)
            return self.report_failure(str(error))

    def fetch_new_files(self, now: dt.datetime, evening_s: int) -> inbox.InboxListing:
        """List the remote folder, select the new files and fetch the first of them.

        Parameters
        ----------
        now : datetime
            Time of the scan.
        evening_s : int
            Time of day at which a night's files end, s after 0 UT.

        Returns
        -------
        InboxListing

        Raises
        ------
        InboxUnavailableError
            If the folder cannot be listed.
        """
        names: set[str] = set()
        new, problems = self.list_new_files(names)
        complete, without_version = self.request_versions(new, problems)
        candidates, growing = self.select_quiet(complete, inbox.to_ns(now), evening_s)
        self._history.keep_only(names)
        for name in self._failures.keys() - names:
            self._failures.pop(name)
        unknown, remaining = self.select_unknown(candidates)
        files = {file.relative: file for file in complete}
        arrived, unfetched = self.fetch(unknown, files, problems)
        summary = inbox.summarise(problems)
        for problem in summary:
            logger.info("%s", problem)
        pending = growing + without_version + remaining + unfetched
        return inbox.InboxListing(tuple(arrived), pending, summary, len(names))

    def list_new_files(self, names: set[str]) -> tuple[list[io.RemoteFile], list[str]]:
        """List the remote folder; add all names to `names`.

        Returns
        -------
        (list of RemoteFile, list of str)
            New files, and a problem for each unsafe name.
        """
        new, problems = [], []
        for file in self._storage.list_files():
            if not file.is_safe:
                name = repr(file.relative[:80])
                problems.append(
                    f"{self.name}: expected names that a file can bear, left out {name}"
                )
                continue
            names.add(file.relative)
            settled = self._history.settled.get(file.relative)
            # Without dates in the listing a replaced file looks unchanged until `reset`.
            if settled is None or (file.version is not None and file.version != settled):
                new.append(file)
        return new, problems

    def request_versions(
        self, files: list[io.RemoteFile], problems: list[str]
    ) -> tuple[list[io.RemoteFile], int]:
        """Request size and date of files whose listing lacks them, newest names first.

        Parameters
        ----------
        files : list of RemoteFile
            New files.
        problems : list of str
            Receives a problem for each file without a size.

        Returns
        -------
        (list of RemoteFile, int)
            Files with version, and the number of files left for the next scan.
        """
        complete = [file for file in files if file.version is not None]
        incomplete = [file for file in files if file.version is None]
        incomplete.sort(
            key=lambda file: (_files.time_in_name(file.relative) or inbox.EPOCH, file.relative),
            reverse=True,
        )
        for file in incomplete[:_MAX_REQUESTS]:
            answer = self._storage.read_version(file)
            if answer is not None and answer.version is None:
                problems.append(f"{self.name}: the size of {file.relative} is missing")
            elif answer is not None:
                complete.append(answer)
        return complete, max(0, len(incomplete) - _MAX_REQUESTS)

    def select_quiet(
        self, files: abc.Iterable[io.RemoteFile], now_ns: int, evening_s: int
    ) -> tuple[list[inbox.Candidate], int]:
        """Select the files that have not changed for the quiet period.

        Parameters
        ----------
        files : iterable of RemoteFile
            New files with version.
        now_ns : int
            Time, ns since 1970.
        evening_s : int
            Time of day at which a night's files end, s after 0 UT.

        Returns
        -------
        (list of Candidate, int)
            Complete files, and the number of files that still grow.
        """
        root = os.path.realpath(self._copies)
        quiet, growing = [], 0
        for file in files:
            version = file.version
            assert version is not None
            if self._history.is_quiet(file.relative, version, now_ns, self._period):
                path = f"{root}/{file.relative}"
                quiet.append(
                    inbox.make_candidate(path, file.relative, version, self._history, evening_s)
                )
            else:
                growing += version[0] > 0
        return quiet, growing

    def fetch(
        self,
        candidates: list[inbox.Candidate],
        files: dict[str, io.RemoteFile],
        problems: list[str],
    ) -> tuple[list[inbox.Candidate], int]:
        """Fetch the first candidates; those that failed before come last.

        Parameters
        ----------
        candidates : list of Candidate
            Files to fetch; sorted in place.
        files : dict of str to RemoteFile
            Remote files by name.
        problems : list of str
            Receives a problem for each failed transfer.

        Returns
        -------
        (list of Candidate, int)
            Files with a local copy, and the number of files left for the next scan.
        """
        candidates.sort(key=lambda file: self._failures.get(file.name, 0))  # a stable sort
        fetched: list[inbox.Candidate] = []
        failure_count = 0
        for position, candidate in enumerate(candidates):
            if len(fetched) == _MAX_FETCHED or self._stopped.is_set():
                return fetched, len(candidates) - position
            if failure_count == _MAX_FAILURES:  # the cause is probably common to all files
                break
            try:
                if has_copy(candidate) or self._storage.fetch(
                    files[candidate.name], Path(candidate.path)
                ):
                    fetched.append(candidate)
                self._failures.pop(candidate.name, None)
            except errors.InboxUnavailableError as error:
                failure_count += 1
                self._failures[candidate.name] = self._failures.get(candidate.name, 0) + 1
                problems.append(str(error))
        return fetched, 0

    def reset(self) -> None:
        """Clear the history of settled files and list again at the next scan."""
        self._history.settled.clear()
        self._failures.clear()
        self._listed_at = inbox.EPOCH

    def watch(self, wake: abc.Callable[[], None]) -> None:
        """Do nothing: remote storage has no file events."""

    def close(self) -> None:
        """Stop fetching before the next file."""
        self._stopped.set()
        self._storage.close()


def has_copy(candidate: inbox.Candidate) -> bool:
    """Return True if a copy exists: a daemon may have stopped before it read the copy."""
    try:
        status = os.stat(candidate.path)  # noqa: PTH116 - the path is text until it is returned
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == candidate.version
