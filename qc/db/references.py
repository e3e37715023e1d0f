"""Queries for reference sets."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
from sqlalchemy import (
    ColumnElement,
    and_,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.orm import (
    Session,
    aliased,
)

from qc._time import midnight
from qc.core.enums import LabelName
from qc.core.frame import Frame, Setup
from qc.core.measurement import Measurement
from qc.core.reference import REFERENCE_NEEDED, REFERENCE_NEWEST, Reference
from qc.core.verdict import Status
from qc.db.engine import of_nights
from qc.db.labels import newest_label
from qc.db.models import EmbeddingRow, EncoderRow, EpochRow, ExtensionRow, FrameRow, VerdictRow
from qc.db.verdicts import _is_judged

_WHEN = (ExtensionRow.observed_at, FrameRow.name, ExtensionRow.id)


_CANDIDATES = 400  # looked at for the newest nominal ones, at a time


def epoch_start(session: Session, image_type: str, instrument: str, night: date) -> date:
    """Return the night from which frames of `night` may have references."""
    since = session.scalar(
        select(func.max(EpochRow.since)).where(
            EpochRow.scope.in_((image_type, instrument)),
            EpochRow.since <= night,
            *_epoch_stands(),
        )
    )
    return since or date.min


def _epoch_stands() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Leave out the rows that undo another, and those undone."""
    undoing = aliased(EpochRow)
    undone = select(undoing.id).where(undoing.undoes_id == EpochRow.id).exists()
    return EpochRow.undoes_id.is_(None), ~undone


def duplicate_of(session: Session, measured: Measurement, frame: Frame) -> str:
    """Return the name of an earlier frame with the very same pixels, or an empty string.

    A frame whose header the archive has edited since is no other frame.
    """
    name = session.scalar(
        select(FrameRow.name)
        .join(FrameRow.extensions)
        .where(
            ExtensionRow.pixels_sha256 == measured.pixels_sha256,
            FrameRow.sha256 != frame.sha256,
            FrameRow.name != frame.name,
            FrameRow.observed_at <= frame.observed_at,
            _is_judged(),
        )
        .order_by(FrameRow.observed_at, FrameRow.name)
        .limit(1)
    )
    return name or ""


def reference_for(session: Session, frame: Frame, setup: Setup, fingerprint: str) -> Reference:
    """Return the newest nominal extensions of the setup and epoch, of nights before the frame's.

    Frames of the same night never vouch for each other: five biases with one fault would.

    Where the exact setup has fewer than 20, the slit width may vary (what it does to the light
    is allowed for by the light that the header promises).
    """
    widened, rows = "", _nominal(session, frame, setup, fingerprint)
    if len(rows) < REFERENCE_NEEDED and setup.slit_arcsec is not None:
        free = frozenset({"slit_arcsec"})
        widened, rows = "any slit width", _nominal(session, frame, setup, fingerprint, free)
    return Reference(
        extension_ids=tuple(row.id for row in rows),
        nights=tuple(row.night for row in rows),
        embeddings=np.stack([row.vector for row in rows]) if rows else np.empty((0, 0), np.float32),
        metrics=tuple(row.metrics for row in rows),
        widened=widened,
    )


def _nominal(
    session: Session,
    frame: Frame,
    setup: Setup,
    fingerprint: str,
    free: frozenset[str] = frozenset(),
) -> Sequence[Any]:
    """Return id, night, metrics and embedding of the newest nominal extensions of a setup."""
    since = epoch_start(session, setup.image_type, frame.instrument, frame.night)
    encoder = select(EncoderRow.id).where(EncoderRow.fingerprint == fingerprint)
    conditions = [
        EmbeddingRow.encoder_id == session.scalar(encoder),
        *_same_setup(setup, free),
        FrameRow.instrument == frame.instrument,
        FrameRow.night < frame.night,
        FrameRow.night >= since,
        # The nights say as much; by these, an index is entered where they begin, and left.
        ExtensionRow.observed_at < frame.observed_at,
        ExtensionRow.observed_at >= midnight(since),
    ]
    found: list[Any] = []
    for ids in _newest_embeddings(session, conditions):
        query = (
            select(ExtensionRow.id, FrameRow.night, ExtensionRow.metrics, EmbeddingRow.vector)
            .join(ExtensionRow.frame)
            .join(EmbeddingRow, EmbeddingRow.extension_id == ExtensionRow.id)
            .where(EmbeddingRow.id.in_(ids), _is_nominal())
            .order_by(*(one.desc() for one in _WHEN))
            .limit(REFERENCE_NEWEST - len(found))
        )
        found += session.execute(query)
        if len(found) == REFERENCE_NEWEST:
            break
    return found


def _newest_embeddings(
    session: Session, conditions: Sequence[ColumnElement[bool]]
) -> Iterator[Sequence[int]]:
    """Yield the ids of embeddings whose extensions and frames fit, newest first, some at a time.

    For whoever wants a few of them that are nominal. What is nominal takes a look at labels and
    verdicts, and in one question with the rest PostgreSQL takes that look at all there ever were.
    """
    query = (
        select(*_WHEN, EmbeddingRow.id.label("embedding_id"))
        .join(ExtensionRow.frame)
        .join(EmbeddingRow, EmbeddingRow.extension_id == ExtensionRow.id)
        .where(*conditions)
        .order_by(*(one.desc() for one in _WHEN))
        .limit(_CANDIDATES)
    )
    rows = session.execute(query).all()
    while rows:
        yield [row.embedding_id for row in rows]
        observed_at, *others = rows[-1][: len(_WHEN)]
        beyond = query.where(
            ExtensionRow.observed_at <= observed_at,  # lets an index be entered there
            tuple_(*_WHEN) < (observed_at, *others),
        )
        rows = session.execute(beyond).all() if len(rows) == _CANDIDATES else []


def _same_setup(setup: Setup, free: frozenset[str]) -> list[ColumnElement[bool]]:
    names = [name for name in Setup.__dataclass_fields__ if name not in free]
    wanted = ((getattr(ExtensionRow, name), getattr(setup, name)) for name in names)
    # "IS NOT DISTINCT FROM" says both in one, and PostgreSQL uses no index for it.
    return [one.is_(None) if value is None else one == value for one, value in wanted]


def _is_nominal() -> ColumnElement[bool]:
    """Let a person's newest word count, and without one the encoder's newest verdict."""
    label = newest_label()
    status = (
        select(VerdictRow.status)
        .where(
            VerdictRow.extension_id == ExtensionRow.id,
            VerdictRow.encoder_id == EmbeddingRow.encoder_id,
        )
        .order_by(VerdictRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    accepted = label.in_((LabelName.GOOD, LabelName.VALID_OUTLIER))
    return or_(accepted, and_(label.is_(None), status == Status.NOMINAL))


def copies(session: Session, image_type: str, first: date) -> Mapping[int, str]:
    """Return the extensions of a type, from a night on, with the very pixels of an earlier frame.

    By their ids, the name of that frame.

    As `duplicate_of` finds them when they come.
    """
    earlier_extension, earlier = aliased(ExtensionRow), aliased(FrameRow)
    query = (
        select(ExtensionRow.id, earlier.name)
        .join(ExtensionRow.frame)
        .join(earlier_extension, earlier_extension.pixels_sha256 == ExtensionRow.pixels_sha256)
        .join(earlier, earlier.id == earlier_extension.frame_id)
        .where(
            ExtensionRow.image_type == image_type,
            *of_nights(first),
            earlier.name != FrameRow.name,
            earlier.observed_at <= FrameRow.observed_at,
        )
    )
    return {row.id: row.name for row in session.execute(query)}
