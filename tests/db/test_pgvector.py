"""Nearest neighbours in PostgreSQL."""

from datetime import date

import numpy as np
import pytest
from sqlalchemy import event, text

from embeddings.index import nearest
from qc import db
from qc.core.enums import LabelName
from qc.db.embeddings import EmbeddingFilter
from qc.db.schema.migrate import schema_differences
from qc.db.schema.types import halfvec_text
from qc.search import pgvector
from qc.search.pgvector import index_vectors, nearest_by_server
from tests.support.tiny_spectrograph import StandIn
from tests.support.verdict_rows import StoredExtension, add_extensions

postgresql = pytest.mark.postgresql
D, N = 13, 400


@pytest.fixture
def clustered(project):
    """Four hundred embeddings in twenty clusters; each tenth is a flat, each fortieth labelled."""
    random = np.random.default_rng(1)
    centres = random.normal(size=(20, D))
    vectors = centres[np.arange(N) % 20] + random.normal(scale=0.05, size=(N, D))
    add_extensions(
        project,
        *(
            StoredExtension(
                vector=tuple(vector / np.linalg.norm(vector)),
                image_type="TF0" if number % 10 == 0 else "TB0",
                label=LabelName.BAD if number % 40 == 0 else None,
            )
            for number, vector in enumerate(vectors)
        ),
    )
    return project


QUESTIONS = [
    EmbeddingFilter(),
    EmbeddingFilter(image_types=("TF0",)),
    EmbeddingFilter(image_types=("TB0",), left_out=3),
    EmbeddingFilter(labelled=True),
    EmbeddingFilter(image_types=("TF0",), labelled=True),
    EmbeddingFilter(first=date(2000, 1, 1), last=date(2001, 1, 1)),
    EmbeddingFilter(first=date(2000, 1, 1)),
    EmbeddingFilter(image_types=()),
]


@postgresql
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("k", [3, 10])  # of three, twice as many are labelled; of ten not
@pytest.mark.parametrize("indexed", [False, True])
def test_nearest_by_server_equals_exhaustive_search(clustered, monkeypatch, question, k, indexed):
    if indexed:
        monkeypatch.setattr(pgvector, "FEW_LABELS", 0)
        monkeypatch.setattr(pgvector, "INDEXED_FROM", N)
        assert (
            index_vectors(clustered.engine, StandIn.fingerprint)
            == "400 embeddings have been indexed"
        )
    with clustered.read_session() as session:
        for extension_id in (1, 5, 44):
            exact = db.embeddings.embedding_of(session, extension_id, 1)
            all_of_them = db.embeddings.iterate_vectors(session, StandIn.fingerprint, question)
            ids, distances = nearest(exact, all_of_them, k)
            is_valid, far = nearest_by_server(session, StandIn.fingerprint, exact, k, question)
            assert is_valid.tolist() == ids.tolist()
            assert far == pytest.approx(distances, abs=1e-12)


@postgresql
def test_vector_index_is_used_by_its_query(clustered, monkeypatch):
    monkeypatch.setattr(pgvector, "INDEXED_FROM", N)
    index_vectors(clustered.engine, StandIn.fingerprint)
    assert index_vectors(clustered.engine, StandIn.fingerprint) == "400 embeddings are indexed"
    filters = []
    event.listen(
        clustered.engine,
        "after_cursor_execute",
        lambda _one, _cursor, statement, given, *_: filters.append((statement, given)),
    )
    with clustered.read_session() as session:
        exact = db.embeddings.embedding_of(session, 1, 1)
        nearest_by_server(session, StandIn.fingerprint, exact, 10)
        statement, given = next(item for item in filters if "<->" in item[0])
        session.execute(text("SET LOCAL enable_seqscan = off"))
        session.execute(text("SET LOCAL enable_sort = off"))
        plan = session.connection().exec_driver_sql(f"EXPLAIN {statement}", given).scalars().all()
    assert any("ix_embedding_vector_1" in line for line in plan)
    assert schema_differences(clustered.engine) == []  # no migration is missing for it


@postgresql
def test_vector_index_invalid_is_rebuilt(clustered, monkeypatch):
    monkeypatch.setattr(pgvector, "INDEXED_FROM", N)
    index_vectors(clustered.engine, StandIn.fingerprint)
    with clustered.engine.begin() as connection:
        order = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_embedding_vector_1'"
        connection.execute(text(f"{order}::regclass"))
    message = index_vectors(clustered.engine, StandIn.fingerprint)
    assert message == "400 embeddings have been indexed"


@postgresql
def test_vector_index_few_embeddings_need_none(clustered):
    message = index_vectors(clustered.engine, StandIn.fingerprint)
    assert message == "400 embeddings: fewer than 50000 need no index"
    assert index_vectors(clustered.engine, "unknown").startswith("0 embeddings")


@postgresql
def test_nearest_by_server_unknown_encoder_has_no_neighbours(clustered):
    with clustered.read_session() as session:
        ids, distances = nearest_by_server(session, "unknown", np.ones(D, np.float32), 3)
    assert (len(ids), len(distances)) == (0, 0)


def test_halfvec_text_round_trips_every_half():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    read = np.array(halfvec_text(halves).strip("[]").split(","), np.float32)
    assert np.array_equal(read.astype(np.float16), halves)
