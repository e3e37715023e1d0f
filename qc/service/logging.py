"""Structured logging: one line per event, as key=value or JSON."""

import datetime as dt
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

from qc.core.enums import LogStyle

# Attributes that the logging module sets; all others come from `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MAX_LENGTH = 2000  # characters of a value: a traceback fits, the content of a file does not


def start_logging(style: LogStyle) -> None:
    """Log to standard error: events of qc from INFO, of libraries from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter(style))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("qc").setLevel(logging.INFO)
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # the daemon logs its errors
    logging.captureWarnings(capture=True)


class EventFormatter(logging.Formatter):
    """Formats an event as ``time=... level=... event="..." frame=...``, or as JSON.

    Parameters
    ----------
    style : LogStyle
        Format.
    """

    def __init__(self, style: LogStyle) -> None:
        super().__init__()
        self.style = style

    def format(self, record: logging.LogRecord) -> str:
        """Return the event as one line."""
        facts = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        shortened = {name: shorten(value) for name, value in facts.items()}
        return json.dumps(shortened) if self.style is LogStyle.JSON else to_logfmt(shortened)


def shorten(value: Any) -> str | int | float | bool | None:
    """Return a value as JSON can store it, with long text cut."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= _MAX_LENGTH else text[:_MAX_LENGTH] + "…"


def to_logfmt(facts: Mapping[str, Any]) -> str:
    """Return facts as ``key=value``; quotes keep line breaks and spaces of a value together."""
    pairs = []
    for name, value in facts.items():
        text = str(value)
        is_plain = text and all(letter.isprintable() and letter not in ' "=\\' for letter in text)
        pairs.append(f"{name}={text if is_plain else json.dumps(text)}")
    return " ".join(pairs)
