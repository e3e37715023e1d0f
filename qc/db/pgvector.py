"""Nearest embeddings found by PostgreSQL itself: pgvector, with an index for each encoder."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Select, func, literal_column, select, text
from sqlalchemy.orm import Session

from embeddings.index import nearest
from qc.db.embeddings import EVERYTHING, EmbeddingFilter
from qc.db.models import VECTOR_INDEX, EmbeddingRow, EncoderRow, ExtensionRow, FrameRow, LabelRow
from qc.db.types import spelt

INDEXED_FROM = 50_000  # embeddings of an encoder: fewer are looked at one by one in no more time
BUILT_IN_BYTES = 2 * 2**30  # of the server's memory; more only where its own settings allow it
NEIGHBOURS_BYTES = 2048  # that the index keeps of a vector beside it, while it is made
LOOKED_AT = 1000  # candidates the index keeps while it searches (hnsw.ef_search)
LINKS, BUILT_WITH = 32, 128  # of a vector (m, ef_construction): with fewer, tight groups fall apart
SCANNED_MOST = 10_000  # of other types, before all of the type wanted are looked at instead
FEW_LABELS = 2000  # so few labelled images are sooner read than found among all others
_MORE = 90  # candidates beyond twice those wanted: their order is the index's guess


def nearest_by_server(
    session: Session,
    fingerprint: str,
    query: NDArray[np.float32],
    k: int,
    among: EmbeddingFilter = EVERYTHING,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the k stored embeddings at the smallest cosine distance, nearest first.

    As `embeddings.index.nearest` over `database.vectors`, without fetching all of them. Found by
    the encoder's index if it has one, and then not certain to be all of the nearest; where the
    index finds too few that are wanted, all are looked at. Distances are computed here, exactly.

    Parameters
    ----------
    query : (d,) float32 array

    Returns
    -------
    ids : (k,) int array
        Of extensions; fewer if there are fewer.
    distances : (k,) float64 array
        Cosine distances, 0 to 2.
    """
    encoder_id = session.scalar(select(EncoderRow.id).where(EncoderRow.fingerprint == fingerprint))
    if encoder_id is None:
        return np.empty(0, np.int64), np.empty(0)
    n = 2 * k + _MORE
    rows: Sequence[Any] = ()
    if not among.labelled or _labels(session) > FEW_LABELS:
        _prepare(session)
        rows = session.execute(_candidates(encoder_id, query, n, among, indexed=True)).all()
    if len(rows) < 2 * k:
        rows = session.execute(_candidates(encoder_id, query, n, among, indexed=False)).all()
    if not rows:
        return np.empty(0, np.int64), np.empty(0)
    return nearest(query, [_apart(rows)], k)


def _labels(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(LabelRow)) or 0


def _apart(rows: Sequence[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return ids and vectors, the oldest first: of equal ones that counts as the nearer."""
    ordered = sorted(rows, key=lambda row: int(row.id))
    ids = np.array([row.extension_id for row in ordered], np.int64)
    return ids, np.stack([row.vector for row in ordered])


def _prepare(session: Session) -> None:
    """Let the index look at enough, and go on where what it finds is not wanted."""
    settings = {
        "hnsw.ef_search": LOOKED_AT,
        "hnsw.iterative_scan": "relaxed_order",
        "hnsw.max_scan_tuples": SCANNED_MOST,
    }
    for name, value in settings.items():
        session.execute(select(func.set_config(name, str(value), True)))


def _candidates(
    encoder_id: int,
    query: NDArray[np.float32],
    n: int,
    among: EmbeddingFilter,
    *,
    indexed: bool,
) -> Select[int, int, NDArray[np.float32]]:
    # The index is found by its very expression and condition: no parameter may stand in them.
    distance = literal_column(_indexed(len(query))).op("<->")(text("CAST(:query AS halfvec)"))
    direction = query / np.linalg.norm(query)
    order = distance if indexed else distance + 0
    return (
        select(EmbeddingRow.id, EmbeddingRow.extension_id, EmbeddingRow.vector)
        .join(ExtensionRow, ExtensionRow.id == EmbeddingRow.extension_id)
        .join(FrameRow, FrameRow.id == ExtensionRow.frame_id)
        .where(text(f"embedding.encoder_id = {encoder_id:d}"), *among.conditions())
        .order_by(order)
        .limit(n)
        .params(query=spelt(direction.astype("<f2")))
    )


def _indexed(d: int) -> str:
    """Write what the index holds of an embedding: its direction.

    By the squares of differences, which for directions are twice the cosine distance: images of
    one setup are some 1e-6 apart, and pgvector's own cosine distance, one less a sum in single
    precision, is not certain to 3e-7.
    """
    return f"(l2_normalize(embedding.vector::halfvec({d:d}))::halfvec({d:d}))"


def index_vectors(engine: Engine, fingerprint: str) -> str:
    """Make an encoder's index if it lacks one and has embeddings enough; say what was done.

    Others read and write meanwhile. An index that was left unfinished is made anew.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        query = select(EncoderRow.id).where(EncoderRow.fingerprint == fingerprint)
        encoder_id = connection.scalar(query)
        own = EmbeddingRow.encoder_id == encoder_id
        count = connection.scalar(select(func.count(EmbeddingRow.id)).where(own)) or 0
        if encoder_id is None or count < INDEXED_FROM:
            return f"{count} embeddings: fewer than {INDEXED_FROM} need no index"
        name = f"{VECTOR_INDEX}{encoder_id:d}"
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
        found = connection.scalar(text(valid), {"name": name})
        if found:
            return f"{count} embeddings are indexed"
        if found is False:
            connection.execute(text(f"DROP INDEX CONCURRENTLY {name}"))
        length: Select[int] = (
            select(literal_column("vector_dims(embedding.vector)")).where(own).limit(1)
        )
        d = connection.scalar(length) or 0
        _allow_memory(connection, count * (2 * d + NEIGHBOURS_BYTES))
        connection.execute(
            text(
                f"CREATE INDEX CONCURRENTLY {name} ON embedding"
                f" USING hnsw ({_indexed(d)} halfvec_l2_ops)"
                f" WITH (m = {LINKS}, ef_construction = {BUILT_WITH})"
                f" WHERE encoder_id = {encoder_id:d}"
            )
        )
        return f"{count} embeddings have been indexed"


def _allow_memory(connection: Connection, wanted_bytes: int) -> None:
    """Let an index be made in memory, up to a limit: without room it takes ten times as long."""
    allowed = "SELECT pg_size_bytes(current_setting('maintenance_work_mem'))"
    allowed_bytes = connection.scalar(text(allowed)) or 0
    kib = max(allowed_bytes, min(wanted_bytes, BUILT_IN_BYTES)) // 1024
    connection.execute(text(f"SET maintenance_work_mem = {kib:d}"))
