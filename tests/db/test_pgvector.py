"""The nearest embeddings, found by PostgreSQL."""

from datetime import date

import numpy as np
import pytest
from sqlalchemy import event, text

from embeddings.index import nearest
from qc import db
from qc.core.enums import LabelName
from qc.db import pgvector
from qc.db.embeddings import EmbeddingFilter
from qc.db.migrate import schema_differences
from qc.db.pgvector import index_vectors, nearest_by_server
from qc.db.types import spelt
from tests.support.remembered import Past, remember
from tests.support.tiny import StandIn

postgresql = pytest.mark.postgresql
D, N = 13, 400


@pytest.fixture
def clustered(project):
    """Four hundred embeddings in twenty clusters; each tenth is a flat, each fortieth labelled."""
    random = np.random.default_rng(1)
    centres = random.normal(size=(20, D))
    vectors = centres[np.arange(N) % 20] + random.normal(scale=0.05, size=(N, D))
    remember(
        project,
        *(
            Past(
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
def test_the_server_finds_what_looking_at_each_finds(clustered, monkeypatch, question, k, indexed):
    if indexed:
        monkeypatch.setattr(pgvector, "FEW_LABELS", 0)
        monkeypatch.setattr(pgvector, "INDEXED_FROM", N)
        assert (
            index_vectors(clustered.engine, StandIn.fingerprint)
            == "400 embeddings have been indexed"
        )
    with clustered.reads() as session:
        for extension_id in (1, 5, 44):
            own = db.embeddings.embedding_of(session, extension_id, 1)
            all_of_them = db.embeddings.vectors(session, StandIn.fingerprint, question)
            ids, distances = nearest(own, all_of_them, k)
            found, far = nearest_by_server(session, StandIn.fingerprint, own, k, question)
            assert found.tolist() == ids.tolist()
            assert far == pytest.approx(distances, abs=1e-12)


@postgresql
def test_an_index_is_used_by_the_question_it_is_made_for(clustered, monkeypatch):
    monkeypatch.setattr(pgvector, "INDEXED_FROM", N)
    index_vectors(clustered.engine, StandIn.fingerprint)
    assert index_vectors(clustered.engine, StandIn.fingerprint) == "400 embeddings are indexed"
    asked = []
    event.listen(
        clustered.engine,
        "after_cursor_execute",
        lambda _one, _cursor, statement, given, *_: asked.append((statement, given)),
    )
    with clustered.reads() as session:
        own = db.embeddings.embedding_of(session, 1, 1)
        nearest_by_server(session, StandIn.fingerprint, own, 10)
        statement, given = next(one for one in asked if "<->" in one[0])
        session.execute(text("SET LOCAL enable_seqscan = off"))
        session.execute(text("SET LOCAL enable_sort = off"))
        plan = session.connection().exec_driver_sql(f"EXPLAIN {statement}", given).scalars().all()
    assert any("ix_embedding_vector_1" in line for line in plan)
    assert schema_differences(clustered.engine) == []  # no migration is missing for it


@postgresql
def test_an_index_left_unfinished_is_made_anew(clustered, monkeypatch):
    monkeypatch.setattr(pgvector, "INDEXED_FROM", N)
    index_vectors(clustered.engine, StandIn.fingerprint)
    with clustered.engine.begin() as connection:
        order = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_embedding_vector_1'"
        connection.execute(text(f"{order}::regclass"))
    told = index_vectors(clustered.engine, StandIn.fingerprint)
    assert told == "400 embeddings have been indexed"


@postgresql
def test_few_embeddings_need_no_index(clustered):
    told = index_vectors(clustered.engine, StandIn.fingerprint)
    assert told == "400 embeddings: fewer than 50000 need no index"
    assert index_vectors(clustered.engine, "unknown").startswith("0 embeddings")


@postgresql
def test_an_encoder_that_nothing_was_embedded_by_has_no_neighbours(clustered):
    with clustered.reads() as session:
        ids, distances = nearest_by_server(session, "unknown", np.ones(D, np.float32), 3)
    assert (len(ids), len(distances)) == (0, 0)


def test_every_half_is_spelt_as_it_is_read_to_the_last_bit():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    read = np.array(spelt(halves).strip("[]").split(","), np.float32)
    assert np.array_equal(read.astype(np.float16), halves)
