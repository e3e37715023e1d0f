"""File on disk, and retry policy of a failed file."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

_MAX_DOUBLINGS = 8  # from one minute to four hours


@dataclass(frozen=True)
class RetryPolicy:
    """Retry of a failed file with exponential backoff.

    Attributes
    ----------
    first : timedelta
        Delay before the first retry; doubled after each try.
    ends : timedelta
        Time after the first failure at which retries end.
    """

    first: timedelta = timedelta(minutes=1)
    ends: timedelta = timedelta(hours=48)

    def next_try(self, failed_since: datetime, tries: int, now: datetime) -> datetime | None:
        """Return the time of the next try.

        Parameters
        ----------
        failed_since : datetime
            Time of the first failure.
        tries : int
            Number of tries so far, 1 or more.
        now : datetime
            Current time.

        Returns
        -------
        datetime or None
            None after the last try.
        """
        if now - failed_since >= self.ends:
            return None
        delay = self.first * float(2 ** min(tries - 1, _MAX_DOUBLINGS))
        return min(now + delay, max(failed_since + self.ends, now + self.first))


@dataclass(frozen=True)
class FileInfo:
    """Path, size and modification time of an unread file."""

    path: Path
    size_bytes: int
    modified_ns: int
