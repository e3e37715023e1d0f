"""Selection of extensions to be labelled: by name, filter or spot check."""

import re
from collections.abc import Iterable, Sequence
from datetime import date
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from qc import core, db, errors
from qc._text import match_name
from qc.db.extensions import ExtensionRef
from qc.labels import spot_check

if TYPE_CHECKING:
    from qc.io.instruments import Instrument

_NAME_WITH_NUMBER = re.compile(r"(?P<name>.+)\[(?P<number>\d{1,4})\]")


def select_named(
    session: Session, names: Iterable[str], number: int | None = None, *, whole_set: bool = False
) -> tuple[ExtensionRef, ...]:
    """Return extensions by the names of their frames.

    Parameters
    ----------
    session : Session
    names : iterable of str
        Archive names, file names or paths; ``NAME[1]`` is one extension.
    number : int, optional
        Number of the extension of each frame; all where absent.
    whole_set : bool
        Add the same extension of all frames of the template set.

    Returns
    -------
    tuple of ExtensionRef
        Each extension once.

    Raises
    ------
    UnknownFrameError
        If no processed frame has one of the names.
    InvalidInputError
        If a frame has no extension of that number.
    """
    selected: list[ExtensionRef] = []
    for name in names:
        for extension in _find_named(session, name, number):
            selected += (
                db.extensions.template_set_of(session, extension) if whole_set else [extension]
            )
    return tuple(dict.fromkeys(selected))


def _find_named(session: Session, name: str, number: int | None) -> list[ExtensionRef]:
    name = name.encode("utf-8", "backslashreplace").decode()  # databases store no surrogates
    try:
        extensions = db.extensions.extensions_named(session, name)
    except errors.UnknownFrameError:
        match = _NAME_WITH_NUMBER.fullmatch(name)
        if match is None:
            raise
        name, number = match["name"], int(match["number"])
        extensions = db.extensions.extensions_named(session, name)
    return select_number(extensions, number)


def select_number(extensions: Sequence[ExtensionRef], number: int | None) -> list[ExtensionRef]:
    """Return the extension of a number among those of a frame.

    Parameters
    ----------
    extensions : sequence of ExtensionRef
        All of one frame.
    number : int or None
        Number of the HDU; None for all.

    Returns
    -------
    list of ExtensionRef

    Raises
    ------
    InvalidInputError
        If the frame has no extension of that number.
    """
    selected = [extension for extension in extensions if number in {None, extension.number}]
    if not selected:
        numbers = " and ".join(str(extension.number) for extension in extensions)
        raise errors.InvalidInputError(
            f"{extensions[0].frame}: has extension {numbers}, not {number}"
        )
    return selected


def select_where(
    session: Session,
    instruments: "Sequence[Instrument]",
    image_type: str | None,
    night: date | None,
    status: str | None,
) -> tuple[ExtensionRef, ...]:
    """Return the extensions of an image type, night and newest verdict.

    Parameters
    ----------
    session : Session
    instruments : sequence of Instrument
    image_type, night, status : optional
        None is any.

    Returns
    -------
    tuple of ExtensionRef

    Raises
    ------
    InvalidInputError
        If the image type or status does not exist.
    """
    types = [name for instrument in instruments for name in instrument.image_types()]
    known_type = match_name(image_type, types, "image type") if image_type else None
    known_status = core.Status(match_name(status, core.Status, "status")) if status else None
    return tuple(db.extensions.extensions_where(session, known_type, night, known_status))


def select_sample(session: Session, night: date | None) -> tuple[ExtensionRef, ...]:
    """Return the unlabelled extensions of the spot check of a night.

    Parameters
    ----------
    session : Session
    night : date or None
        None for the newest night with frames.

    Returns
    -------
    tuple of ExtensionRef

    Raises
    ------
    InvalidInputError
        If nothing was drawn, or everything drawn has a label.
    """
    night = night or db.statistics.newest_night(session)
    draws = spot_check.read_draws(session, night, night) if night else []
    drawn = list(spot_check.drawn_answers(draws))
    unlabelled = db.labels.unlabelled(session, drawn)
    if not unlabelled:
        reason = f"all {len(drawn)} drawn have a label" if drawn else "nothing was drawn"
        raise errors.InvalidInputError(f"spot check of the night {night or '(none yet)'}: {reason}")
    return tuple(db.extensions.extensions_by_id(session, unlabelled))
