"""Active issues: conditions that last, logged once at their begin and once at their end."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ActiveIssue:
    """An issue that is not resolved yet.

    Attributes
    ----------
    key : str
        Identity of the issue, such as ``inbox /data/raw``.
    message : str
        First message of the issue.
    """

    key: str
    message: str
    since: datetime

    def has_lasted(self, span: timedelta, now: datetime) -> bool:
        """Return True if the issue is at least as old as a span.

        Parameters
        ----------
        span : timedelta
        now : datetime
            Aware.

        Returns
        -------
        bool
        """
        return now - self.since >= span


class ActiveIssues:
    """Registry of active issues; each is logged at its begin and end, not at every retry."""

    def __init__(self) -> None:
        self._issues: dict[str, ActiveIssue] = {}

    def __iter__(self) -> Iterator[ActiveIssue]:
        return iter(list(self._issues.values()))

    def begin(self, key: str, message: str, now: datetime) -> bool:
        """Register and log an issue unless it is active already.

        Parameters
        ----------
        key, message : str
        now : datetime
            Aware.

        Returns
        -------
        bool
            True if the issue is new.
        """
        is_new = key not in self._issues
        if is_new:
            self._issues[key] = ActiveIssue(key, message, now)
            logger.warning("issue begins", extra={"issue": key, "words": message})
        return is_new

    def end(self, key: str, now: datetime) -> None:
        """Remove an issue and log its duration; nothing happens if it is not active.

        Parameters
        ----------
        key : str
        now : datetime
            Aware.
        """
        issue = self._issues.pop(key, None)
        if issue is not None:
            lasted = round((now - issue.since).total_seconds())
            logger.warning("issue ends", extra={"issue": key, "lasted_s": lasted})

    def replace(self, prefix: str, messages: Mapping[str, str], now: datetime) -> None:
        """Replace the active issues whose key has a prefix.

        Parameters
        ----------
        prefix : str
        messages : mapping of str to str
            Messages of the issues by key, without the prefix.
        now : datetime
            Aware.
        """
        for key, message in messages.items():
            self.begin(f"{prefix}{key}", message, now)
        for issue in self:
            is_obsolete = issue.key.removeprefix(prefix) not in messages
            if issue.key.startswith(prefix) and is_obsolete:
                self.end(issue.key, now)
