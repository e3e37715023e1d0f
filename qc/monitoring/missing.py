"""Missing calibrations: the findings of the completeness check."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

Path = tuple[str, ...]  # (), (arm,), (arm, kind) or (arm, setting), (arm, kind, setup)


class MissingReason(StrEnum):
    """Way in which a calibration is missing."""

    NEVER_CAME = "never came"  # expected on this night
    OVERDUE = "overdue"  # expected on an earlier night
    SET_STOPPED = "set incomplete"
    CHIP_MISSING = "chip missing"


@dataclass(frozen=True)
class MissingCalibration:
    """An expected calibration that did not arrive.

    Attributes
    ----------
    image_types : tuple of str
        All missing types, those of both chips together.
    scope : tuple of str
        Missing branch: empty for the whole instrument, else arm, kind or setting, and setup.
    what : str
        The same in words: ``red D1 flat of 1x1, 225kHz low, 564 nm``.
    missed : date
        First night on which it was missing.
    expected, got : int
        Number of frames, of the set or of a usual night.
    since : datetime or None
        Last arrival.
    sentence : str
        For a mail or a report.
    is_mended : bool
        True if a complete set followed the same night: reported, without an alert.
    """

    instrument: str
    image_types: tuple[str, ...]
    lack: MissingReason
    scope: Path
    what: str
    missed: date
    expected: int
    got: int
    since: datetime | None
    sentence: str
    is_mended: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the events that it may be a part of; its own key last."""
        if self.lack in {MissingReason.SET_STOPPED, MissingReason.CHIP_MISSING}:
            return (event_key(self.instrument, self.missed, (self.lack, *self.scope)),)
        scopes = (self.scope[:n] for n in range(len(self.scope) + 1))
        return tuple(event_key(self.instrument, self.missed, scope) for scope in scopes)


def event_key(instrument: str, missed: date, scope: Iterable[str]) -> str:
    """Return the key of an alert.

    Parameters
    ----------
    instrument : str
    missed : date
    scope : iterable of str

    Returns
    -------
    str
    """
    return " / ".join([f"absence {instrument} {missed}", *scope])
