"""One line for each event: a time, a level, what happened, and its facts as key=value."""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from qc.core.enums import LogStyle

# What logging itself puts on a record: all else was given as `extra`, and is a fact.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LONGEST = 2000  # characters of a fact: a traceback fits, a file's content does not


def start_logging(style: LogStyle) -> None:
    """Write what happens to standard error, a line an event; what libraries do, if it is bad."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter(style))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("qc").setLevel(logging.INFO)
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # we tell its troubles ourselves
    logging.captureWarnings(capture=True)


class EventFormatter(logging.Formatter):
    """Writes an event as ``time=... level=... event="..." frame=...``, or as JSON."""

    def __init__(self, style: LogStyle) -> None:
        super().__init__()
        self.style = style

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, whatever the facts hold."""
        facts = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        shortened = {name: _shortened(value) for name, value in facts.items()}
        return json.dumps(shortened) if self.style is LogStyle.JSON else _logfmt(shortened)


def _shortened(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _logfmt(facts: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_quoted(value)}" for name, value in facts.items())


def _quoted(value: Any) -> str:
    """Quote what is not one plain word; a header's line break does not begin a line of the log."""
    text = str(value)
    plain = text and all(letter.isprintable() and letter not in ' "=\\' for letter in text)
    return text if plain else json.dumps(text)
