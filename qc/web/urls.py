"""Addresses of frame pages and thumbnails."""

import re
from urllib.parse import quote

_EXTENSION_NAME = re.compile(r"(?P<frame>.+)\[(?P<number>\d{1,4})\]")


def split_name(name: str) -> tuple[str, int]:
    """Return the frame name and the HDU number of an extension's name ``FRAME[NUMBER]``."""
    match = _EXTENSION_NAME.fullmatch(name)
    return (match["frame"], int(match["number"])) if match else (name, 0)


def frame_address(name: str) -> str:
    """Return the address of the frame page of an extension."""
    frame, _ = split_name(name)
    return f"/frames/{quote(frame, safe=':')}"


def thumbnail_address(name: str) -> str:
    """Return the address of the thumbnail of an extension."""
    frame, number = split_name(name)
    return f"/thumbnails/{quote(frame, safe=':')}/{number}.png"


def frame_url(name: str, number: int | None = None, page: str = "") -> str:
    """Return the address of a page about a frame.

    Parameters
    ----------
    name : str
        Archive name.
    number : int, optional
        HDU number.
    page : str
        Path below the frame, for example ``/header``.
    """
    path = f"/frames/{quote(name, safe='')}{page}"
    return path if number is None else f"{path}?extension={number}"
