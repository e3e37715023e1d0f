"""Nearest neighbours in PostgreSQL: pgvector, with one HNSW index per encoder."""

from collections import abc  # noqa: TC003 - annotations are read at run time
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings.index import nearest
from qc.db import embeddings
from qc.db.schema import models
from qc.db.schema.types import halfvec_text

INDEXED_FROM = 50_000  # embeddings of an encoder; a scan of fewer takes no more time
BUILD_MEMORY = 2 * 2**30  # bytes of the server; more only if its own settings allow it
LINK_BYTES = 2048  # per vector, for the links of the index while it is built
SEARCH_CANDIDATES = 1000  # hnsw.ef_search
LINKS, BUILD_CANDIDATES = 32, 128  # m, ef_construction; smaller values separate tight groups
SCAN_LIMIT = 10_000  # vectors of other types before all of the wanted type are scanned instead
FEW_LABELS = 2000  # labelled images that are read faster than searched
_MARGIN = 90  # candidates beyond twice the wanted ones, as the order of the index is approximate


def nearest_by_server(
    session: Session,
    fingerprint: str,
    query: NDArray[np.float32],
    k: int,
    criteria: embeddings.EmbeddingFilter = embeddings.ALL_EMBEDDINGS,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the k stored embeddings at the smallest cosine distance, nearest first.

    Equivalent to `embeddings.index.nearest` over `db.embeddings.iterate_vectors`, without reading
    all vectors. With an index the result is approximate. If the index yields too few matches, all
    embeddings are scanned. The distances are computed here, exactly.

    Parameters
    ----------
    session : Session
    fingerprint : str
        Of the encoder.
    query : (d,) float32 array
    k : int
        Number of neighbours.
    criteria : EmbeddingFilter
        Extensions to search.

    Returns
    -------
    ids : (k,) int array
        Of extensions; fewer if there are fewer.
    distances : (k,) float64 array
        Cosine distances, 0 to 2.
    """
    encoder_id = session.scalar(
        sa.select(models.EncoderRow.id).where(models.EncoderRow.fingerprint == fingerprint)
    )
    if encoder_id is None:
        return np.empty(0, np.int64), np.empty(0)
    n = 2 * k + _MARGIN
    rows: abc.Sequence[Any] = ()
    labels = sa.select(sa.func.count()).select_from(models.LabelRow)
    if not criteria.labelled or (session.scalar(labels) or 0) > FEW_LABELS:
        configure_search(session)
        rows = session.execute(candidates_query(encoder_id, query, n, criteria, indexed=True)).all()
    if len(rows) < 2 * k:
        rows = session.execute(
            candidates_query(encoder_id, query, n, criteria, indexed=False)
        ).all()
    if not rows:
        return np.empty(0, np.int64), np.empty(0)
    ordered = sorted(rows, key=lambda row: int(row.id))  # of equal distances the oldest is first
    ids = np.array([row.extension_id for row in ordered], np.int64)
    return nearest(query, [(ids, np.stack([row.vector for row in ordered]))], k)


def configure_search(session: Session) -> None:
    """Set the index's number of candidates, and continue its scan past unwanted matches."""
    settings = {
        "hnsw.ef_search": SEARCH_CANDIDATES,
        "hnsw.iterative_scan": "relaxed_order",
        "hnsw.max_scan_tuples": SCAN_LIMIT,
    }
    for name, value in settings.items():
        session.execute(sa.select(sa.func.set_config(name, str(value), True)))


def candidates_query(
    encoder_id: int,
    query: NDArray[np.float32],
    n: int,
    criteria: embeddings.EmbeddingFilter,
    *,
    indexed: bool,
) -> sa.Select[int, int, NDArray[np.float32]]:
    """Return the query for candidates, in order of distance.

    Parameters
    ----------
    encoder_id : int
    query : (d,) float32 array
    n : int
        Number of candidates.
    criteria : EmbeddingFilter
    indexed : bool
        False for a scan of all embeddings.

    Returns
    -------
    Select of id, extension id and vector
    """
    # PostgreSQL matches the index by its exact expression and condition, without parameters.
    expression: sa.ColumnElement[Any] = sa.literal_column(indexed_expression(len(query)))
    distance = expression.op("<->")(sa.text("CAST(:query AS halfvec)"))
    direction = query / np.linalg.norm(query)
    order = distance if indexed else distance + 0
    embedding, extension, frame = models.EmbeddingRow, models.ExtensionRow, models.FrameRow
    return (
        sa.select(embedding.id, embedding.extension_id, embedding.vector)
        .join(extension, extension.id == embedding.extension_id)
        .join(frame, frame.id == extension.frame_id)
        .where(sa.text(f"embedding.encoder_id = {encoder_id:d}"), *criteria.conditions())
        .order_by(order)
        .limit(n)
        .params(query=halfvec_text(direction.astype("<f2")))
    )


def indexed_expression(d: int) -> str:
    """Return the SQL expression that is indexed: the direction of an embedding.

    The index uses squared Euclidean distance, which is twice the cosine distance for directions.
    Images of one setup have distances of 1e-6. pgvector's cosine distance, computed as one minus
    a sum in single precision, is accurate to 3e-7 only.
    """
    return f"(l2_normalize(embedding.vector::halfvec({d:d}))::halfvec({d:d}))"


def index_vectors(engine: sa.Engine, fingerprint: str) -> str:
    """Build an encoder's index if it has none and enough embeddings.

    Other connections can read and write meanwhile. An incomplete index is built anew.

    Parameters
    ----------
    engine : Engine
    fingerprint : str
        Of the encoder.

    Returns
    -------
    str
        Result, in words.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        query = sa.select(models.EncoderRow.id).where(models.EncoderRow.fingerprint == fingerprint)
        encoder_id = connection.scalar(query)
        is_encoder = models.EmbeddingRow.encoder_id == encoder_id
        total = sa.select(sa.func.count(models.EmbeddingRow.id)).where(is_encoder)
        count = connection.scalar(total) or 0
        if encoder_id is None or count < INDEXED_FROM:
            return f"{count} embeddings: fewer than {INDEXED_FROM} need no index"
        name = f"{models.VECTOR_INDEX}{encoder_id:d}"
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
        is_valid = connection.scalar(sa.text(valid), {"name": name})
        if is_valid:
            return f"{count} embeddings are indexed"
        if is_valid is False:
            connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {name}"))
        length: sa.Select[int] = (
            sa.select(sa.literal_column("vector_dims(embedding.vector)")).where(is_encoder).limit(1)
        )
        d = connection.scalar(length) or 0
        allow_memory(connection, count * (2 * d + LINK_BYTES))
        connection.execute(
            sa.text(
                f"CREATE INDEX CONCURRENTLY {name} ON embedding"
                f" USING hnsw ({indexed_expression(d)} halfvec_l2_ops)"
                f" WITH (m = {LINKS}, ef_construction = {BUILD_CANDIDATES})"
                f" WHERE encoder_id = {encoder_id:d}"
            )
        )
        return f"{count} embeddings have been indexed"


def allow_memory(connection: sa.Connection, needed_bytes: int) -> None:
    """Raise the memory limit for building an index; outside memory it takes ten times as long.

    Parameters
    ----------
    connection : Connection
    needed_bytes : int
        At most `BUILD_MEMORY` is used.
    """
    setting = "SELECT pg_size_bytes(current_setting('maintenance_work_mem'))"
    allowed_bytes = connection.scalar(sa.text(setting)) or 0
    kib = max(allowed_bytes, min(needed_bytes, BUILD_MEMORY)) // 1024
    connection.execute(sa.text(f"SET maintenance_work_mem = {kib:d}"))
