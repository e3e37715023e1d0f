"""Keyboard keys of fault kinds (decision 0073), and an example of each kind."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import core, db, io
from qc.db.schema import models
from qc.review import queue_filters, queue_items

# Second keys; 0 and the punctuation are reserved for the page.
_KEYS = "123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class FaultKey:
    """A fault kind and its key, pressed after the key of `bad`; empty beyond the 61st kind."""

    key: str
    kind: io.FaultKind


@dataclass(frozen=True)
class FaultExample:
    """A fault kind, and the newest extension labelled with it, if one exists."""

    key: FaultKey
    instrument: str
    look: queue_items.QueueItem | None


def list_fault_keys(
    instruments: Sequence[io.Instrument],
    extension: db.extensions.ExtensionRef | queue_items.QueueItem,
) -> tuple[FaultKey, ...]:
    """Return the keys of the fault kinds that are possible for an extension.

    A kind has the same key for every frame, so that people can learn it.

    Parameters
    ----------
    instruments : sequence of Instrument
        Instruments of the project.
    extension : ExtensionRef or QueueItem
        Extension.

    Returns
    -------
    tuple of FaultKey
    """
    for instrument in instruments:
        if instrument.calibration_of(extension.image_type):
            possible = {kind.name for kind in instrument.fault_kinds(extension.frame_class)}
            return tuple(key for key in assign_keys(instrument) if key.kind.name in possible)
    return ()


def assign_keys(instrument: io.Instrument) -> list[FaultKey]:
    """Return the keys of all fault kinds of an instrument."""
    kinds = instrument.fault_kinds()
    keys = [*_KEYS, *[""] * max(0, len(kinds) - len(_KEYS))]
    return [FaultKey(key, kind) for key, kind in zip(keys, kinds, strict=False)]


def read_fault_examples(
    session: Session, instruments: Sequence[io.Instrument]
) -> tuple[FaultExample, ...]:
    """Return every fault kind with its newest labelled extension.

    Parameters
    ----------
    session : Session
        For reading.
    instruments : sequence of Instrument
        Instruments whose kinds are listed.

    Returns
    -------
    tuple of FaultExample
    """
    newest = (
        sa.select(models.LabelRow.kind, sa.func.max(models.LabelRow.extension_id))
        .where(
            models.LabelRow.label == core.LabelName.BAD,
            models.LabelRow.id == queue_filters.newest_label_id(),
        )
        .group_by(models.LabelRow.kind)
    )
    ids = {row[0]: row[1] for row in session.execute(newest)}
    items = {item.id: item for item in queue_items.read_items(session, list(ids.values()))}
    return tuple(
        FaultExample(key, instrument.name, items.get(ids.get(key.kind.name, 0)))
        for instrument in instruments
        for key in assign_keys(instrument)
    )
