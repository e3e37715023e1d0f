"""Typed values of header keywords; each error quotes keyword and value."""

import datetime as dt
import math
from collections.abc import Sequence

from qc import core, errors

_EARLIEST, _LATEST = 1970, 2100  # years
_MAX_BINNING = 16
_LARGEST = 1e12  # beyond any wavelength, width or exposure


def quote(header: core.Header, keywords: Sequence[str]) -> str:
    """Return keywords with their values for a message, in one line.

    Parameters
    ----------
    header : Header
        Values by keyword.
    keywords : sequence of str
        Keywords to quote; absent ones are left out.

    Returns
    -------
    str
    """
    quoted = (f"{key} = {header[key]!r:.60}" for key in keywords if key in header)
    return ", ".join(quoted) or f"none of {', '.join(keywords)}"


def require(header: core.Header, groups: Sequence[Sequence[str]]) -> None:
    """Check that one keyword of each group is present.

    Parameters
    ----------
    header : Header
        Values by keyword.
    groups : sequence of sequence of str
        Alternative keywords; an empty group is ignored.

    Raises
    ------
    IncompleteHeaderError
        If all keywords of a group are absent; the message lists every such group.
    """
    missing = [" or ".join(keys) for keys in groups if keys and read_value(header, keys) is None]
    if missing:
        raise errors.IncompleteHeaderError(f"missing or blank: {', '.join(missing)}")


def read_value(header: core.Header, keywords: Sequence[str]) -> core.Value | None:
    """Return the value of the first keyword that is present.

    Parameters
    ----------
    header : Header
        Values by keyword.
    keywords : sequence of str
        Alternatives, in order of preference.

    Returns
    -------
    str, int, float, bool or None
        None without any of the keywords.
    """
    return next((header[key] for key in keywords if key in header), None)


def read_text(header: core.Header, keywords: Sequence[str]) -> str:
    """Return a value as text.

    Parameters
    ----------
    header : Header
        Values by keyword.
    keywords : sequence of str
        Alternatives, in order of preference.

    Returns
    -------
    str
        Empty without any of the keywords.
    """
    value = read_value(header, keywords)
    return "" if value is None else str(value)


def read_number(
    header: core.Header, keywords: Sequence[str], *, lowest: float, digits: int | None = None
) -> float | None:
    """Return a number.

    Parameters
    ----------
    header : Header
        Values by keyword.
    keywords : sequence of str
        Alternatives, in order of preference.
    lowest : float
        Smallest plausible value.
    digits : int, optional
        Number of decimals to round to: encoders return slightly different values of one setting.

    Returns
    -------
    float or None
        None without any of the keywords.

    Raises
    ------
    IncompleteHeaderError
        If the value is not a plausible number.
    """
    value = read_value(header, keywords)
    if value is None:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not lowest <= number <= _LARGEST:
        raise errors.IncompleteHeaderError(
            f"{quote(header, keywords)}: expected a number that makes sense"
        )
    return number if digits is None else round(number, digits)


def read_count(header: core.Header, keywords: Sequence[str]) -> int:
    """Return a count that is informative only.

    Parameters
    ----------
    header : Header
        Values by keyword.
    keywords : sequence of str
        Alternatives, in order of preference.

    Returns
    -------
    int
        1 if the value is absent or implausible.
    """
    value = read_value(header, keywords)
    return value if type(value) is int and value > 0 else 1


def read_binning(header: core.Header, keywords: Sequence[str]) -> tuple[int, int]:
    """Return the binning in x and y.

    Parameters
    ----------
    header : Header
        Values by keyword.
    keywords : sequence of str
        Two keywords, or one whose value is such as ``'1 2'``; all are present.

    Returns
    -------
    (int, int)

    Raises
    ------
    IncompleteHeaderError
        If the values are not a plausible binning.
    """
    factors = " ".join(str(header[key]) for key in keywords).split()
    try:
        bin_x, bin_y = (int(factor) for factor in factors)
    except ValueError:
        bin_x = bin_y = 0
    if not (0 < bin_x <= _MAX_BINNING and 0 < bin_y <= _MAX_BINNING):
        raise errors.IncompleteHeaderError(
            f"{quote(header, keywords)}: expected a binning such as 1 and 2"
        )
    return bin_x, bin_y


def read_time(
    header: core.Header, date_keywords: Sequence[str], time_keywords: Sequence[str]
) -> dt.datetime:
    """Return a date and time, UTC.

    Parameters
    ----------
    header : Header
        Values by keyword.
    date_keywords : sequence of str
        Alternatives for the date, or the date and time.
    time_keywords : sequence of str
        Alternatives for the time of day, if the date has none.

    Returns
    -------
    datetime
        With time zone UTC; a time without zone is UTC.

    Raises
    ------
    IncompleteHeaderError
        If the value is no date of 1970 to 2100.
    """
    text = read_text(header, date_keywords)
    if time_keywords and "T" not in text:
        text = f"{text}T{read_text(header, time_keywords)}"
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or not _EARLIEST <= time.year <= _LATEST:
        keywords = (*date_keywords, *time_keywords)
        raise errors.IncompleteHeaderError(f"{quote(header, keywords)}: expected a date and time")
    return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
