"""Queries for embeddings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    ColumnElement,
    func,
    select,
)
from sqlalchemy.orm import (
    Session,
)

from embeddings.encoder import Encoder
from qc.core.enums import LabelName
from qc.db.engine import _parts, add_new, of_nights
from qc.db.labels import newest_label
from qc.db.models import (
    EmbeddingRow,
    EncoderRow,
    ExtensionRow,
    FrameRow,
    LabelRow,
)

_VECTORS_AT_ONCE = 2000  # 16 MB of ResNet-50 embeddings


def embedded(
    session: Session, fingerprint: str, image_types: Sequence[str] | None, first: date, last: date
) -> Sequence[int]:
    """Return the ids of the extensions of some types and nights that have an embedding, by age."""
    query = (
        select(ExtensionRow.id)
        .join(ExtensionRow.frame)
        .join(EmbeddingRow, EmbeddingRow.extension_id == ExtensionRow.id)
        .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
        .where(EncoderRow.fingerprint == fingerprint, *of_nights(first, last))
        .order_by(ExtensionRow.observed_at, ExtensionRow.id)
    )
    if image_types is not None:
        query = query.where(ExtensionRow.image_type.in_(image_types))
    return session.scalars(query).all()


def vectors_with(
    session: Session, fingerprint: str, extension_ids: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """Return an encoder's embeddings of some extensions, (d,) each, by their ids."""
    found: dict[int, NDArray[np.float32]] = {}
    for some in _parts(extension_ids):
        query = (
            select(EmbeddingRow.extension_id, EmbeddingRow.vector)
            .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
            .where(EncoderRow.fingerprint == fingerprint, EmbeddingRow.extension_id.in_(some))
        )
        found |= {row.extension_id: row.vector for row in session.execute(query)}
    return found


@dataclass(frozen=True)
class EmbeddingFilter:
    """Which stored extensions are meant.

    Attributes
    ----------
    image_types : tuple of str or None
        Only these; None: all.
    first, last : date or None
        Only nights from the one to the other.
    labelled : bool
        Only what a person has spoken about.
    left_out : int or None
        A frame whose extensions are not meant.
    """

    image_types: tuple[str, ...] | None = None
    first: date | None = None
    last: date | None = None
    labelled: bool = False
    left_out: int | None = None

    def conditions(self, *, of_few: bool = False) -> list[ColumnElement[bool]]:
        """Say it of the extension, and its frame, of a query.

        Parameters
        ----------
        of_few : bool
            Whether the query asks it of a few that it knows already: then no index is offered
            for the type, along which SQLite would look for them among all of it.
        """
        said: list[ColumnElement[bool]] = []
        if self.image_types is not None:
            image_type = ExtensionRow.image_type.concat("") if of_few else ExtensionRow.image_type
            said.append(image_type.in_(self.image_types))
        if self.first is not None:
            said.append(FrameRow.night >= self.first)
        if self.last is not None:
            said.append(FrameRow.night <= self.last)
        if self.labelled:
            said.append(newest_label().is_not(None))
        if self.left_out is not None:
            said.append(ExtensionRow.frame_id != self.left_out)
        return said


EVERYTHING = EmbeddingFilter()


def vectors(
    session: Session,
    fingerprint: str,
    among: EmbeddingFilter = EVERYTHING,
    *,
    called: LabelName | None = None,
    after: int = 0,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the embeddings of one encoder a block at a time, oldest first.

    Parameters
    ----------
    called : LabelName, optional
        Only those of which this label counts.
    after : int
        Only the embeddings kept later than the one with this id.

    Yields
    ------
    ids : (n,) int array
        Of extensions.
    vectors : (n, d) float32 array
    """
    query = (
        select(EmbeddingRow.extension_id, EmbeddingRow.vector)
        .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
        .join(ExtensionRow, ExtensionRow.id == EmbeddingRow.extension_id)
        .where(EncoderRow.fingerprint == fingerprint, *among.conditions(of_few=after > 0))
        .order_by(EmbeddingRow.id)
    )
    if among.first is not None or among.last is not None:
        query = query.join(FrameRow, FrameRow.id == ExtensionRow.frame_id)
    if called is not None:  # the few of which it was ever said, before what counts is asked of each
        ever = select(LabelRow.extension_id).where(LabelRow.label == called)
        query = query.where(ExtensionRow.id.in_(ever), newest_label() == called)
    if after:
        query = query.where(EmbeddingRow.id > after)
    rows = session.execute(query.execution_options(yield_per=_VECTORS_AT_ONCE))
    for block in rows.partitions():
        ids, found = zip(*block, strict=True)
        yield np.array(ids, np.int64), np.stack(found)


@dataclass(frozen=True)
class EmbeddingBatch:
    """Embeddings as they are kept: n of them, and what they are of.

    Attributes
    ----------
    ids, extension_ids : (n,) int array
        Of the embeddings, in rising order; of the extensions.
    image_types : tuple of n str
    nights : (n,) int array
        As `date.toordinal`; 0: not known.
    vectors : (n, d) float32 array
    """

    ids: NDArray[np.int64]
    extension_ids: NDArray[np.int64]
    image_types: tuple[str, ...]
    nights: NDArray[np.int32]
    vectors: NDArray[np.float32]


def embeddings_after(
    session: Session, fingerprint: str, after: int = 0
) -> Iterator[EmbeddingBatch]:
    """Yield what one encoder made after the embedding with this id, a block at a time."""
    query = (
        select(
            EmbeddingRow.id,
            EmbeddingRow.extension_id,
            ExtensionRow.image_type,
            FrameRow.night,
            EmbeddingRow.vector,
        )
        .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
        .join(ExtensionRow, ExtensionRow.id == EmbeddingRow.extension_id)
        .join(FrameRow, FrameRow.id == ExtensionRow.frame_id)
        .where(EncoderRow.fingerprint == fingerprint, EmbeddingRow.id > after)
        .order_by(EmbeddingRow.id)
        .execution_options(yield_per=_VECTORS_AT_ONCE)
    )
    for block in session.execute(query).partitions():
        ids, extension_ids, types, nights, found = zip(*block, strict=True)
        yield EmbeddingBatch(
            np.array(ids, np.int64),
            np.array(extension_ids, np.int64),
            types,
            np.array([night.toordinal() if night else 0 for night in nights], np.int32),
            np.stack(found),
        )


def newest_embedding_id(session: Session) -> int:
    """Return the id of the embedding that was kept last, of whatever encoder; 0 without any."""
    return session.scalar(select(func.max(EmbeddingRow.id))) or 0


def embeddings_counted(session: Session, fingerprint: str, until: int | None = None) -> int:
    """Return how many embeddings of an encoder there are, up to the one with an id."""
    encoder_id = session.scalar(select(EncoderRow.id).where(EncoderRow.fingerprint == fingerprint))
    query = select(func.count()).where(EmbeddingRow.encoder_id == encoder_id)
    if until is not None:
        query = query.where(EmbeddingRow.id <= until)
    return session.scalar(query.select_from(EmbeddingRow)) or 0


def embeddings_evenly(
    session: Session, fingerprint: str, image_type: str, most: int
) -> NDArray[np.float32]:
    """Return at most so many embeddings of an image type, (n, d), evenly from all there are."""
    ids = (
        select(EmbeddingRow.id)
        .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
        .join(ExtensionRow, ExtensionRow.id == EmbeddingRow.extension_id)
        .where(EncoderRow.fingerprint == fingerprint, ExtensionRow.image_type == image_type)
        .order_by(EmbeddingRow.id)
    )
    every = session.scalars(ids).all()
    chosen = [every[i] for i in np.linspace(0, len(every) - 1, min(most, len(every))).astype(int)]
    found = [
        vector
        for some in _parts(chosen)
        for vector in session.scalars(
            select(EmbeddingRow.vector).where(EmbeddingRow.id.in_(some)).order_by(EmbeddingRow.id)
        )
    ]
    return np.stack(found) if found else np.empty((0, 0), np.float32)


def embeddings_by_id(session: Session, ids: Sequence[int]) -> Mapping[int, NDArray[np.float32]]:
    """Return some embeddings, (d,) each, by their ids; those that are not there are left out."""
    query = select(EmbeddingRow.id, EmbeddingRow.vector).where(EmbeddingRow.id.in_(ids))
    return {row.id: row.vector for row in session.execute(query)}


def embeddings_of(
    session: Session, fingerprint: str, extension_ids: Sequence[int]
) -> Mapping[int, NDArray[np.float32]]:
    """Return an encoder's embeddings of some extensions, (d,) each, by the embeddings' ids."""
    query = (
        select(EmbeddingRow.id, EmbeddingRow.vector)
        .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
        .where(EncoderRow.fingerprint == fingerprint, EmbeddingRow.extension_id.in_(extension_ids))
    )
    return {row.id: row.vector for row in session.execute(query)}


def embedding_of(session: Session, extension_id: int, encoder_id: int) -> NDArray[np.float32]:
    """Return one encoder's embedding of an extension: (d,)."""
    query = select(EmbeddingRow.vector).where(
        EmbeddingRow.extension_id == extension_id, EmbeddingRow.encoder_id == encoder_id
    )
    return session.scalars(query).one()


def find_embedding(
    session: Session, extension_id: int, fingerprint: str
) -> NDArray[np.float32] | None:
    """Return an extension's embedding by this encoder, (d,), if it has one."""
    query = (
        select(EmbeddingRow.vector)
        .join(EncoderRow, EncoderRow.id == EmbeddingRow.encoder_id)
        .where(EmbeddingRow.extension_id == extension_id, EncoderRow.fingerprint == fingerprint)
    )
    return session.scalar(query)


def _encoder_id(session: Session, encoder: Encoder) -> int:
    query = select(EncoderRow.id).where(EncoderRow.fingerprint == encoder.fingerprint)
    facts = {"fingerprint": encoder.fingerprint, "name": encoder.name, "stretch": encoder.stretch}
    known = session.scalar(query)
    if known is None:
        add_new(session, EncoderRow, **facts)
        known = session.scalars(query).one()
    return known
