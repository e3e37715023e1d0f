"""Current time, and times of a date in UTC."""

from datetime import UTC, date, datetime


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


def noon(night: date) -> datetime:
    """Return noon of the day on which a night begins: its position on a time axis."""
    return datetime(night.year, night.month, night.day, 12, tzinfo=UTC)


def midnight(day: date) -> datetime:
    """Return the beginning of a day."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
