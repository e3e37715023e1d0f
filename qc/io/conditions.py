"""Conditions on header values, as instrument files state them."""

import operator
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from qc import core

_COMPARISONS = {"<=": operator.le, ">=": operator.ge}


def _to_list(value: Any) -> Any:
    """Wrap a single value in a list: an instrument file may omit the brackets."""
    return value if isinstance(value, list | tuple) else [value]


def _check_comparison(value: core.Value | None) -> core.Value | None:
    """Refuse a comparison whose right side is not a number."""
    if isinstance(value, str) and value[:2] in _COMPARISONS:
        float(value[2:])
    return value


Expected = Annotated[core.Value | None, AfterValidator(_check_comparison)]


Condition = dict[str, Annotated[tuple[Expected, ...], BeforeValidator(_to_list)]]


"""Keyword -> allowed values; all keywords must match.

A string may have wildcards (``*,SLIC#*``) and is compared without case; ``">=3"`` and ``"<=0.001"``
compare numbers; null means that the keyword is absent or blank.
"""


When = Annotated[tuple[Condition, ...], BeforeValidator(_to_list)]


"""Conditions of which one must hold."""


Keywords = Annotated[tuple[str, ...], BeforeValidator(_to_list)]


"""Alternative keywords; the first one present counts."""


def matches(when: tuple[Condition, ...], header: core.Header) -> bool:
    """Return True if one of the conditions holds, or if there is no condition.

    Parameters
    ----------
    when : tuple of Condition
        Alternatives.
    header : Header
        Values by keyword.

    Returns
    -------
    bool
    """
    return not when or any(
        all(
            any(is_match(header.get(keyword), expected) for expected in allowed)
            for keyword, allowed in condition.items()
        )
        for condition in when
    )


def is_match(value: core.Value | None, expected: core.Value | None) -> bool:
    """Return True if a header value equals or satisfies the expected value.

    Parameters
    ----------
    value : str, int, float, bool or None
        Value in the header; None if absent.
    expected : str, int, float, bool or None
        Value in the instrument file: a pattern, a comparison, a number, or None for absent.

    Returns
    -------
    bool
    """
    if value is None or expected is None:
        return value is expected
    if isinstance(expected, str):
        compare = _COMPARISONS.get(expected[:2])
        if compare:
            return not isinstance(value, str) and compare(value, float(expected[2:]))
        return fnmatchcase(str(value).strip().casefold(), expected.casefold())
    return not isinstance(value, str) and value == expected


def list_keywords(alternatives: Iterable[tuple[Condition, ...]]) -> tuple[str, ...]:
    """Return the keywords that conditions use, without repetition."""
    return tuple(
        dict.fromkeys(
            keyword for when in alternatives for condition in when for keyword in condition
        )
    )
