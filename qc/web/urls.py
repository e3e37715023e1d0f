"""Where the pages of what has a name are."""

import re
from urllib.parse import quote

_NAME = re.compile(r"(?P<frame>.+)\[(?P<number>\d{1,4})\]")


def parts_of(name: str) -> tuple[str, int]:
    """Take an extension's name apart: the frame's, and the HDU number."""
    found = _NAME.fullmatch(name)
    return (found["frame"], int(found["number"])) if found else (name, 0)


def frame_address(name: str) -> str:
    """Return where the page of an extension's frame is."""
    frame, _ = parts_of(name)
    return f"/frames/{quote(frame, safe=':')}"


def thumbnail_address(name: str) -> str:
    """Return where the small picture of an extension is."""
    frame, number = parts_of(name)
    return f"/thumbnails/{quote(frame, safe=':')}/{number}.png"
