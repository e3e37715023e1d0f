"""Names matched to choices, durations, plurals and shortened texts; fast to import."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import timedelta
from difflib import get_close_matches
from fnmatch import fnmatchcase

from qc.errors import InvalidInputError

MANY = 20  # extensions that may be labelled together without confirmation
_LONGEST_SHOWN = 60  # characters of an unknown word
_DURATION = re.compile(r"(?P<count>\d{1,6})(?P<unit>[mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_LONGEST_DURATION = timedelta(days=366)


def match_name(word: str, known: Iterable[str], title: str) -> str:
    """Return the known name that equals a word, except for case, hyphens and underscores.

    Parameters
    ----------
    word : str
    known : iterable of str
        Valid names.
    title : str
        Noun for the names in error messages.

    Returns
    -------
    str

    Raises
    ------
    InvalidInputError
        Without such a name; the message has the closest name, or all names.
    """
    names = {normalise(name): name for name in known}
    if normalise(word) in names:
        return names[normalise(word)]
    close = get_close_matches(normalise(word)[:_LONGEST_SHOWN], names, n=1)
    advice = (
        f"did you mean {names[close[0]]}?" if close else f"there are: {', '.join(names.values())}"
    )
    raise InvalidInputError(f"'{truncate(word)}' is no {title}; {advice}")


def match_names(words: Iterable[str], known: Sequence[str], title: str) -> list[str]:
    """Return the known names that equal words or match patterns with ``*`` and ``?``.

    Parameters
    ----------
    words : iterable of str
    known : sequence of str
        Valid names.
    title : str
        Noun for the names in error messages.

    Returns
    -------
    list of str
        Each name once.

    Raises
    ------
    InvalidInputError
        If a word matches no name.
    """
    matches: dict[str, None] = {}
    for word in words:
        names = [name for name in known if fnmatchcase(normalise(name), normalise(word))]
        matches |= dict.fromkeys(names or [match_name(word, known, title)])
    return list(matches)


def normalise(word: str) -> str:
    """Return a name in lower case, with underscores for hyphens."""
    return word.strip().casefold().replace("-", "_")


def parse_duration(text: str) -> timedelta:
    """Return a duration like ``30m``, ``12h`` or ``7d``.

    Raises
    ------
    InvalidInputError
        If it is none, zero, or longer than a year.
    """
    match = _DURATION.fullmatch(text.strip())
    duration = timedelta(**{_UNITS[match["unit"]]: int(match["count"])}) if match else timedelta(0)
    if not timedelta(0) < duration <= _LONGEST_DURATION:
        raise InvalidInputError(
            f"'{truncate(text)}': expected a time like 30m, 12h or 7d, a year at most"
        )
    return duration


def pluralise(n: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 frame``, ``2 frames``.

    Parameters
    ----------
    n : int
    singular : str
    plural : str
        Singular with "s", where empty.

    Returns
    -------
    str
    """
    return f"{n} {singular if n == 1 else plural or f'{singular}s'}"


def truncate(text: str) -> str:
    """Return the beginning of a text, with escapes for characters that cannot be printed."""
    start = text[:_LONGEST_SHOWN]
    letters = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in start)
    return "".join(letters) + ("…" if len(text) > _LONGEST_SHOWN else "")


def plain_line(text: str, longest: int = 300) -> str:
    """Return a text as one line of bounded length, without control or format characters.

    Removed are line ends of every kind in Unicode, and characters that change the direction of
    writing.

    Parameters
    ----------
    text : str
        Text of any origin, e.g. a header value or a file name.
    longest : int
        Largest number of characters.

    Returns
    -------
    str
    """
    letters = []
    for letter in text[: 4 * longest]:
        category = unicodedata.category(letter)
        is_hidden = category.startswith("C") or category in {"Zl", "Zp"}
        letters.append(" " if is_hidden else letter)
    line = " ".join("".join(letters).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
