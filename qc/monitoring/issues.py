"""What is wrong for a while: said once when it begins, and once when it is over."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ActiveIssue:
    """Something that goes on being wrong.

    Attributes
    ----------
    key : str
        What makes it the same trouble: ``inbox /data/raw``.
    words : str
        The first sentence that it was told with.
    """

    key: str
    words: str
    since: datetime

    def has_lasted(self, span: timedelta, now: datetime) -> bool:
        """Say whether it is older than passing trouble is."""
        return now - self.since >= span


class ActiveIssues:
    """Remembers what is wrong, so that the log says it once and not at every try."""

    def __init__(self) -> None:
        self._known: dict[str, ActiveIssue] = {}

    def __iter__(self) -> Iterator[ActiveIssue]:
        return iter(list(self._known.values()))

    def begin(self, key: str, words: str, now: datetime) -> bool:
        """Say what is wrong, unless it has been said; return whether it is news."""
        is_news = key not in self._known
        if is_news:
            self._known[key] = ActiveIssue(key, words, now)
            logger.warning("trouble begins", extra={"trouble": key, "words": words})
        return is_news

    def end(self, key: str, now: datetime) -> None:
        """Say that it is over, if it was there."""
        trouble = self._known.pop(key, None)
        if trouble is not None:
            lasted = round((now - trouble.since).total_seconds())
            logger.warning("trouble is over", extra={"trouble": key, "lasted_s": lasted})

    def stand(self, prefix: str, present: Mapping[str, str], now: datetime) -> None:
        """Take the troubles of a kind to be these: others with that prefix are over."""
        for key, words in present.items():
            self.begin(f"{prefix}{key}", words, now)
        for trouble in self:
            if trouble.key.startswith(prefix) and trouble.key.removeprefix(prefix) not in present:
                self.end(trouble.key, now)
