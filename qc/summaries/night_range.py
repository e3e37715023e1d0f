"""Ranges of nights: a week, a month."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from qc.errors import InvalidInputError

_MONTH = re.compile(r"(\d{4})-(\d\d)", re.ASCII)


@dataclass(frozen=True)
class NightRange:
    """Consecutive nights.

    Attributes
    ----------
    name : str
        ``November 2026``, ``the week to 2026-11-19``.
    file_name : str
        Without suffix.
    """

    first: date
    last: date
    name: str
    file_name: str

    @property
    def begins(self) -> datetime:
        """Return midnight UTC of the first day."""
        return midnight(self.first)


def week_to(last: date) -> NightRange:
    """Return the seven nights up to a night."""
    return NightRange(last - timedelta(days=6), last, f"the week to {last}", f"week-{last}")


def month_of(day: date) -> NightRange:
    """Return the nights of the month of a day."""
    first = day.replace(day=1)
    last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    return NightRange(first, last, f"{first:%B %Y}", f"month-{first:%Y-%m}")


def read_month(text: str, today: date) -> NightRange:
    """Return a month by its name.

    Parameters
    ----------
    text : str
        ``2026-11``, or ``last`` for the last full month.
    today : date
        Today.

    Returns
    -------
    NightRange

    Raises
    ------
    InvalidInputError
        If there is no such month.
    """
    if text == "last":
        return month_of(today.replace(day=1) - timedelta(days=1))
    match = _MONTH.fullmatch(text)
    if match is None or not (1 <= int(match[2]) <= 12 and date.min.year < int(match[1]) < 9999):
        raise InvalidInputError(f"month: expected one like 2026-11, or last; got {text[:40]!r}")
    return month_of(date(int(match[1]), int(match[2]), 1))


def midnight(day: date) -> datetime:
    """Return midnight UTC at the beginning of a day."""
    return datetime.combine(day, time(), UTC)


def format_duration(duration: timedelta) -> str:
    """Return a duration in minutes, hours or days: ``29 min``, ``3.2 h``, ``5.0 d``."""
    minutes = duration.total_seconds() / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.1f} d"
