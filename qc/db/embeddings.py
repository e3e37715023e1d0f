"""Embeddings, their encoders and classifiers: queries and inserts."""

from collections import abc
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from qc.core.enums import LabelName
from qc.db import labels
from qc.db.schema import engine, models

if TYPE_CHECKING:
    from embeddings.encoder import Encoder

_VECTORS_PER_FETCH = 2000  # 16 MB of ResNet-50 embeddings


@dataclass(frozen=True)
class EmbeddingFilter:
    """Filter of stored extensions.

    Attributes
    ----------
    image_types : tuple of str or None
        None: all.
    first, last : date or None
        First and last night.
    labelled : bool
        Only extensions with a current label.
    left_out : int or None
        Id of a frame whose extensions are excluded.
    """

    image_types: tuple[str, ...] | None = None
    first: date | None = None
    last: date | None = None
    labelled: bool = False
    left_out: int | None = None

    def conditions(self, *, of_few: bool = False) -> list[sa.ColumnElement[bool]]:
        """Return the conditions for a query of extensions and frames.

        Parameters
        ----------
        of_few : bool
            True for a query that is limited to few rows: SQLite must not use the index of the
            image type then.
        """
        conditions: list[sa.ColumnElement[bool]] = []
        if self.image_types is not None:
            image_type = (
                models.ExtensionRow.image_type.concat("")
                if of_few
                else models.ExtensionRow.image_type
            )
            conditions.append(image_type.in_(self.image_types))
        if self.first is not None:
            conditions.append(models.FrameRow.night >= self.first)
        if self.last is not None:
            conditions.append(models.FrameRow.night <= self.last)
        if self.labelled:
            conditions.append(labels.newest_label().is_not(None))
        if self.left_out is not None:
            conditions.append(models.ExtensionRow.frame_id != self.left_out)
        return conditions


ALL_EMBEDDINGS = EmbeddingFilter()


@dataclass(frozen=True)
class EmbeddingBatch:
    """Block of n stored embeddings.

    Attributes
    ----------
    ids, extension_ids : (n,) int array
        Of the embeddings, ascending; of the extensions.
    image_types : tuple of n str
    nights : (n,) int array
        As `date.toordinal`; 0: unknown.
    vectors : (n, d) float32 array
    """

    ids: NDArray[np.int64]
    extension_ids: NDArray[np.int64]
    image_types: tuple[str, ...]
    nights: NDArray[np.int32]
    vectors: NDArray[np.float32]


def list_embedded(
    session: Session,
    fingerprint: str,
    image_types: abc.Sequence[str] | None,
    first: date,
    last: date,
) -> abc.Sequence[int]:
    """Return the ids of the extensions with an embedding, oldest first.

    Parameters
    ----------
    session : Session
    fingerprint : str
        Of the encoder.
    image_types : sequence of str or None
        None: all.
    first, last : date
        First and last night.

    Returns
    -------
    sequence of int
    """
    query = (
        sa.select(models.ExtensionRow.id)
        .join(models.ExtensionRow.frame)
        .join(models.EmbeddingRow, models.EmbeddingRow.extension_id == models.ExtensionRow.id)
        .join(models.EncoderRow, models.EncoderRow.id == models.EmbeddingRow.encoder_id)
        .where(models.EncoderRow.fingerprint == fingerprint, *engine.night_conditions(first, last))
        .order_by(models.ExtensionRow.observed_at, models.ExtensionRow.id)
    )
    if image_types is not None:
        query = query.where(models.ExtensionRow.image_type.in_(image_types))
    return session.scalars(query).all()


def vectors_of(
    session: Session, fingerprint: str, extension_ids: abc.Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """Return an encoder's embeddings by extension id.

    Parameters
    ----------
    session : Session
    fingerprint : str
        Of the encoder.
    extension_ids : sequence of int

    Returns
    -------
    dict of int to (d,) float32 array
        Extensions without embedding are absent.
    """
    vectors: dict[int, NDArray[np.float32]] = {}
    for chunk in engine.chunks(extension_ids):
        query = (
            sa.select(models.EmbeddingRow.extension_id, models.EmbeddingRow.vector)
            .join(models.EncoderRow, models.EncoderRow.id == models.EmbeddingRow.encoder_id)
            .where(
                models.EncoderRow.fingerprint == fingerprint,
                models.EmbeddingRow.extension_id.in_(chunk),
            )
        )
        vectors |= {row.extension_id: row.vector for row in session.execute(query)}
    return vectors


def iterate_vectors(
    session: Session,
    fingerprint: str,
    among: EmbeddingFilter = ALL_EMBEDDINGS,
    *,
    called: LabelName | None = None,
    after: int = 0,
) -> abc.Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the embeddings of one encoder in blocks, oldest first.

    Parameters
    ----------
    session : Session
    fingerprint : str
        Of the encoder.
    among : EmbeddingFilter
    called : LabelName, optional
        Only extensions with this current label.
    after : int
        Only embeddings with a larger id.

    Yields
    ------
    ids : (n,) int array
        Of extensions.
    vectors : (n, d) float32 array
    """
    query = (
        sa.select(models.EmbeddingRow.extension_id, models.EmbeddingRow.vector)
        .join(models.EncoderRow, models.EncoderRow.id == models.EmbeddingRow.encoder_id)
        .join(models.ExtensionRow, models.ExtensionRow.id == models.EmbeddingRow.extension_id)
        .where(models.EncoderRow.fingerprint == fingerprint, *among.conditions(of_few=after > 0))
        .order_by(models.EmbeddingRow.id)
    )
    if among.first is not None or among.last is not None:
        query = query.join(models.FrameRow, models.FrameRow.id == models.ExtensionRow.frame_id)
    if called is not None:
        # Rows with such a label, current or not, limit the evaluation of the current label.
        label = models.LabelRow
        ever = sa.select(label.extension_id).where(label.label == called)
        query = query.where(models.ExtensionRow.id.in_(ever), labels.newest_label() == called)
    if after:
        query = query.where(models.EmbeddingRow.id > after)
    rows = session.execute(query.execution_options(yield_per=_VECTORS_PER_FETCH))
    for block in rows.partitions():
        ids, vectors = zip(*block, strict=True)
        yield np.array(ids, np.int64), np.stack(vectors)


def iterate_batches(
    session: Session, fingerprint: str, after: int = 0
) -> abc.Iterator[EmbeddingBatch]:
    """Yield the embeddings of one encoder with their facts, in blocks, in order of their ids.

    Parameters
    ----------
    session : Session
    fingerprint : str
        Of the encoder.
    after : int
        Only embeddings with a larger id.

    Yields
    ------
    EmbeddingBatch
    """
    query = (
        sa.select(
            models.EmbeddingRow.id,
            models.EmbeddingRow.extension_id,
            models.ExtensionRow.image_type,
            models.FrameRow.night,
            models.EmbeddingRow.vector,
        )
        .join(models.EncoderRow, models.EncoderRow.id == models.EmbeddingRow.encoder_id)
        .join(models.ExtensionRow, models.ExtensionRow.id == models.EmbeddingRow.extension_id)
        .join(models.FrameRow, models.FrameRow.id == models.ExtensionRow.frame_id)
        .where(models.EncoderRow.fingerprint == fingerprint, models.EmbeddingRow.id > after)
        .order_by(models.EmbeddingRow.id)
        .execution_options(yield_per=_VECTORS_PER_FETCH)
    )
    for block in session.execute(query).partitions():
        ids, extension_ids, types, nights, vectors = zip(*block, strict=True)
        yield EmbeddingBatch(
            np.array(ids, np.int64),
            np.array(extension_ids, np.int64),
            types,
            np.array([night.toordinal() if night else 0 for night in nights], np.int32),
            np.stack(vectors),
        )


def newest_embedding_id(session: Session) -> int:
    """Return the id of the newest embedding of all encoders; 0 without any."""
    return session.scalar(sa.select(sa.func.max(models.EmbeddingRow.id))) or 0


def count_embeddings(session: Session, fingerprint: str, until: int | None = None) -> int:
    """Return the number of an encoder's embeddings.

    Parameters
    ----------
    session : Session
    fingerprint : str
        Of the encoder.
    until : int, optional
        Largest id of an embedding.

    Returns
    -------
    int
    """
    encoder_id = session.scalar(
        sa.select(models.EncoderRow.id).where(models.EncoderRow.fingerprint == fingerprint)
    )
    query = sa.select(sa.func.count()).where(models.EmbeddingRow.encoder_id == encoder_id)
    if until is not None:
        query = query.where(models.EmbeddingRow.id <= until)
    return session.scalar(query.select_from(models.EmbeddingRow)) or 0


def sample_embeddings(
    session: Session, fingerprint: str, image_type: str, most: int
) -> NDArray[np.float32]:
    """Return a regular sample of an image type's embeddings.

    Parameters
    ----------
    session : Session
    fingerprint : str
        Of the encoder.
    image_type : str
    most : int
        Largest size of the sample.

    Returns
    -------
    (n, d) float32 array
    """
    query = (
        sa.select(models.EmbeddingRow.id)
        .join(models.EncoderRow, models.EncoderRow.id == models.EmbeddingRow.encoder_id)
        .join(models.ExtensionRow, models.ExtensionRow.id == models.EmbeddingRow.extension_id)
        .where(
            models.EncoderRow.fingerprint == fingerprint,
            models.ExtensionRow.image_type == image_type,
        )
        .order_by(models.EmbeddingRow.id)
    )
    ids = session.scalars(query).all()
    positions = np.linspace(0, len(ids) - 1, min(most, len(ids))).astype(int)
    vectors: list[NDArray[np.float32]] = []
    for chunk in engine.chunks([ids[i] for i in positions]):
        vectors += session.scalars(
            sa.select(models.EmbeddingRow.vector)
            .where(models.EmbeddingRow.id.in_(chunk))
            .order_by(models.EmbeddingRow.id)
        )
    return np.stack(vectors) if vectors else np.empty((0, 0), np.float32)


def embeddings_by_id(
    session: Session, ids: abc.Sequence[int]
) -> abc.Mapping[int, NDArray[np.float32]]:
    """Return embeddings by their ids.

    Parameters
    ----------
    session : Session
    ids : sequence of int

    Returns
    -------
    mapping of int to (d,) float32 array
        Unknown ids are absent.
    """
    query = sa.select(models.EmbeddingRow.id, models.EmbeddingRow.vector).where(
        models.EmbeddingRow.id.in_(ids)
    )
    return {row.id: row.vector for row in session.execute(query)}


def embeddings_of(
    session: Session, fingerprint: str, extension_ids: abc.Sequence[int]
) -> abc.Mapping[int, NDArray[np.float32]]:
    """Return an encoder's embeddings of some extensions by the ids of the embeddings.

    Parameters
    ----------
    session : Session
    fingerprint : str
        Of the encoder.
    extension_ids : sequence of int

    Returns
    -------
    mapping of int to (d,) float32 array
    """
    query = (
        sa.select(models.EmbeddingRow.id, models.EmbeddingRow.vector)
        .join(models.EncoderRow, models.EncoderRow.id == models.EmbeddingRow.encoder_id)
        .where(
            models.EncoderRow.fingerprint == fingerprint,
            models.EmbeddingRow.extension_id.in_(extension_ids),
        )
    )
    return {row.id: row.vector for row in session.execute(query)}


def embedding_of(session: Session, extension_id: int, encoder_id: int) -> NDArray[np.float32]:
    """Return one encoder's embedding of an extension, which must exist.

    Parameters
    ----------
    session : Session
    extension_id, encoder_id : int

    Returns
    -------
    (d,) float32 array
    """
    query = sa.select(models.EmbeddingRow.vector).where(
        models.EmbeddingRow.extension_id == extension_id,
        models.EmbeddingRow.encoder_id == encoder_id,
    )
    return session.scalars(query).one()


def find_embedding(
    session: Session, extension_id: int, fingerprint: str
) -> NDArray[np.float32] | None:
    """Return one encoder's embedding of an extension, if any.

    Parameters
    ----------
    session : Session
    extension_id : int
    fingerprint : str
        Of the encoder.

    Returns
    -------
    (d,) float32 array or None
    """
    query = (
        sa.select(models.EmbeddingRow.vector)
        .join(models.EncoderRow, models.EncoderRow.id == models.EmbeddingRow.encoder_id)
        .where(
            models.EmbeddingRow.extension_id == extension_id,
            models.EncoderRow.fingerprint == fingerprint,
        )
    )
    return session.scalar(query)


def ensure_encoder(session: Session, encoder: "Encoder") -> int:
    """Return the id of an encoder, inserted if it is new.

    Parameters
    ----------
    session : Session
    encoder : Encoder

    Returns
    -------
    int
    """
    query = sa.select(models.EncoderRow.id).where(
        models.EncoderRow.fingerprint == encoder.fingerprint
    )
    encoder_id = session.scalar(query)
    if encoder_id is None:
        columns = ("fingerprint", "name", "stretch")
        engine.insert_new(
            session, models.EncoderRow, **{name: getattr(encoder, name) for name in columns}
        )
        encoder_id = session.scalars(query).one()
    return encoder_id


def newest_classifier(session: Session, fingerprint: str) -> models.ClassifierRow | None:
    """Return the newest accepted classifier of an encoder's embeddings, if any.

    Parameters
    ----------
    session : Session
    fingerprint : str
        Of the encoder.

    Returns
    -------
    ClassifierRow or None
    """
    classifier = models.ClassifierRow
    query = (
        sa.select(classifier)
        .join(models.EncoderRow, models.EncoderRow.id == classifier.encoder_id)
        .where(models.EncoderRow.fingerprint == fingerprint, classifier.accepted)
        .order_by(classifier.id.desc())
        .limit(1)
    )
    return session.scalar(query)


def record_classifier(session: Session, row: models.ClassifierRow, encoder: "Encoder") -> None:
    """Insert a classifier, accepted or not.

    Parameters
    ----------
    session : Session
    row : ClassifierRow
    encoder : Encoder
        Of the training set's embeddings.
    """
    row.encoder_id = ensure_encoder(session, encoder)
    session.add(row)
