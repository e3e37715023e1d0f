"""Moments: now, and where a night stands on an axis of time."""

from datetime import UTC, date, datetime


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def noon(night: date) -> datetime:
    """Return the middle of the day that a night begins on: where a mark on a time axis stands."""
    return datetime(night.year, night.month, night.day, 12, tzinfo=UTC)


def midnight(day: date) -> datetime:
    """Return when a day begins."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
