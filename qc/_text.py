"""What may be asked for by name, for the door and for what lies behind it.

Apart from both, as the door must open without loading what lies behind.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from difflib import get_close_matches
from fnmatch import fnmatchcase

from qc.errors import InvalidInputError

MANY = 20  # extensions that may be labelled together without a second thought


_SHOWN = 60  # characters of a word that nobody knows


def chosen(word: str, known: Iterable[str], what: str) -> str:
    """Return the name that was meant, whatever its case, its hyphens or underscores.

    Raises
    ------
    InvalidAnswer
        If none is; with the one that is nearly so, or else with all.
    """
    names = {_plain(name): name for name in known}
    if _plain(word) in names:
        return names[_plain(word)]
    close = get_close_matches(_plain(word)[:_SHOWN], names, n=1)
    advice = (
        f"did you mean {names[close[0]]}?" if close else f"there are: {', '.join(names.values())}"
    )
    raise InvalidInputError(f"'{shortened(word)}' is no {what}; {advice}")


def chosen_all(words: Iterable[str], known: Sequence[str], what: str) -> list[str]:
    """Return the names that were meant, each once; a word with ``*`` or ``?`` means many.

    Raises
    ------
    InvalidAnswer
        If a word means none.
    """
    found: dict[str, None] = {}
    for word in words:
        many = [name for name in known if fnmatchcase(_plain(name), _plain(word))]
        found |= dict.fromkeys(many or [chosen(word, known, what)])
    return list(found)


def read_span(words: str) -> timedelta:
    """Return how long ``30m``, ``12h`` or ``7d`` is.

    Raises
    ------
    InvalidAnswer
        If it is none of these, or no time at all, or more than a year.
    """
    found = _SPAN.fullmatch(words.strip())
    span = timedelta(**{_UNITS[found["unit"]]: int(found["count"])}) if found else timedelta(0)
    if not timedelta(0) < span <= _A_YEAR:
        raise InvalidInputError(
            f"'{shortened(words)}': expected a time like 30m, 12h or 7d, a year at most"
        )
    return span


_SPAN = re.compile(r"(?P<count>\d{1,6})(?P<unit>[mhd])")


_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


_A_YEAR = timedelta(days=366)


def _plain(word: str) -> str:
    return word.strip().casefold().replace("-", "_")


def counted(n: int, one: str, many: str = "") -> str:
    """Write a number with its noun: ``1 frame``, ``2 frames``; another plural may be given."""
    return f"{n} {one if n == 1 else many or f'{one}s'}"


def shortened(word: str) -> str:
    """Return the beginning of a word that may be endless, or a terminal's commands."""
    seen = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in word[:_SHOWN])
    return "".join(seen) + ("…" if len(word) > _SHOWN else "")
