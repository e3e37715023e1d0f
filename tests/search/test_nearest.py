import multiprocessing
import os
import signal
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, update

from embeddings.clustering import cosine_distances
from embeddings.index import Codes, learn_axes
from qc import db
from qc.core.enums import LabelName
from qc.db.embeddings import EmbeddingFilter
from qc.db.labels import LabelAnswer
from qc.db.schema.models import EmbeddingRow, LabelRow
from qc.project import create_project, open_project
from qc.search.index_file import DamagedIndexError, read_index
from qc.search.nearest import index_path, nearest_stored, refresh_index
from qc.search.similar import find_similar
from qc.settings import read_settings
from tests.support.databases import copied_project, write_settings
from tests.support.tiny_spectrograph import StandIn, open_tiny
from tests.support.verdict_rows import StoredExtension, add_extensions

pytestmark = pytest.mark.sqlite  # PostgreSQL: tests/db/test_pgvector.py
D = 12
TYPES = ("TB0", "TF0")


def ignore_progress(*_):
    return None


def make_frames(n: int, seed: int = 0) -> list[StoredExtension]:
    """Two tight clusters, one of them a hundred times tighter, a tenth of them labelled."""
    random = np.random.default_rng(seed)
    centres = np.eye(D)[:2] + 0.3
    frames = []
    for number in range(n):
        cluster = int(random.integers(2))
        vector = centres[cluster] + (0.1, 0.001)[cluster] * random.normal(size=D)
        label = LabelName.GOOD if number % 10 == 0 else None
        frames.append(StoredExtension(vector=tuple(vector), image_type=TYPES[cluster], label=label))
    return frames


@pytest.fixture(scope="module")
def small(empty_project, tmp_path_factory):
    """An empty project that keeps an index from 50 embeddings on; not to be written to."""
    with copied_project(
        empty_project, tmp_path_factory.mktemp("small") / "project"
    ) as project_folder:
        write_settings(project_folder, "[search]\nexact_below = 50\n")
        yield project_folder


@pytest.fixture(scope="module")
def indexed(small, tmp_path_factory):
    """The same with 300 embeddings and their index; not to be written to."""
    with copied_project(small, tmp_path_factory.mktemp("indexed") / "project") as project_folder:
        with open_tiny(project_folder) as project:
            add_extensions(project, *make_frames(300))
            assert refresh_index(project, ignore_progress).endswith(": 300 embeddings")
        yield project_folder


@pytest.fixture
def project_folder(small, tmp_path):
    with copied_project(small, tmp_path / "project") as copy:
        yield copy


@pytest.fixture
def filled(indexed, tmp_path):
    """An indexed project of the test's own, open."""
    with copied_project(indexed, tmp_path / "filled") as copy, open_tiny(copy) as project:
        yield project


def search(project, query, k=10, criteria=None):
    with project.read_session() as session:
        ids, distances = nearest_stored(project, session, query, k, criteria or EmbeddingFilter())
    return ids.tolist(), distances


def search_exactly(project, query, k=10, criteria=None):
    """The same of every vector, without the code under test."""
    with project.read_session() as session:
        blocks = list(
            db.embeddings.iterate_vectors(
                session, StandIn.fingerprint, criteria or EmbeddingFilter()
            )
        )
    if not blocks:
        return [], np.empty(0)
    ids = np.concatenate([ids for ids, _ in blocks])
    far = cosine_distances(np.concatenate([vectors for _, vectors in blocks]), query[np.newaxis])[
        :, 0
    ]
    best = np.argsort(far, kind="stable")[:k]
    return ids[best].tolist(), far[best]


def assert_same(project, query, k=10, criteria=None):
    ids, distances = search(project, query, k, criteria)
    expected, far = search_exactly(project, query, k, criteria)
    assert ids == expected
    assert distances == pytest.approx(far, abs=1e-15)


def queries(n: int = 5, seed: int = 1):
    return [np.array(frame.vector, np.float32) for frame in make_frames(n, seed)]


FILTERS = [
    EmbeddingFilter(),
    EmbeddingFilter(image_types=("TB0",)),
    EmbeddingFilter(image_types=("TF0",), labelled=True),
    EmbeddingFilter(labelled=True),
    EmbeddingFilter(first=date(2026, 1, 10)),
    EmbeddingFilter(first=date(2026, 1, 10), last=date(2026, 1, 12)),
    EmbeddingFilter(image_types=("TB0", "TF0"), last=date(2026, 1, 4), left_out=7),
    EmbeddingFilter(image_types=()),
    EmbeddingFilter(first=date(2030, 1, 1)),
]


@pytest.mark.parametrize("criteria", FILTERS, ids=str)
def test_nearest_with_an_index_equals_the_exact_search(filled, criteria):
    for query in queries():
        assert_same(filled, query, criteria=criteria)


def test_nearest_labelled_follows_new_and_undone_labels(filled):
    query, labelled = queries()[0], EmbeddingFilter(labelled=True)
    before, _ = search(filled, query, 100, labelled)
    new = next(number for number in range(1, 300) if number not in before)
    with filled.write_session.begin() as session:
        label_id = db.labels.record_label(session, new, LabelAnswer(LabelName.GOOD, "kim")).id
    assert set(search(filled, query, 100, labelled)[0]) == {*before, new}
    with filled.write_session.begin() as session:
        row = session.get_one(LabelRow, label_id)
        db.labels.record_label(session, new, LabelAnswer(LabelName.GOOD, "kim"), undoes=row)
    assert search(filled, query, 100, labelled)[0] == before


def test_nearest_reads_newer_embeddings_by_their_id(filled):
    plans: list[str] = []

    @event.listens_for(filled.engine, "before_cursor_execute")
    def explain(_connection, cursor, statement, parameters, *_):
        if "embedding.id >" in statement:
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[-1] for row in cursor.fetchall())

    search(filled, queries()[0], criteria=EmbeddingFilter(image_types=("TB0",)))
    assert "SEARCH embedding USING INTEGER PRIMARY KEY (rowid>?)" in plans
    assert not any("ix_extension_image_type" in line for line in plans)


def test_nearest_uses_the_index(filled):
    """Changes in the database alone are not detected, except for samples of the index."""
    query = np.roll(queries()[0], 3)
    with filled.write_session.begin() as session:
        session.execute(update(EmbeddingRow).where(EmbeddingRow.id == 150).values(vector=query))
    assert search_exactly(filled, query)[0][0] == 150
    assert 150 not in search(filled, query)[0]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 400), st.integers(1, 9), st.sampled_from([8, 40, 300]), st.integers(0, 10_000)
)
def test_candidates_contain_the_nearest(n, k, d, seed):
    """Of clusters of three widths in as many dimensions as codes keep, fewer, and more."""
    random = np.random.default_rng(seed)
    spread = random.choice([0.3, 0.01, 1e-3], size=(n, 1))
    spectrum = np.arange(1, d + 1) ** -0.8  # like that of real ones
    away = spread * spectrum * random.normal(size=(n, d))
    vectors = (1 + away).astype(np.float32)
    axes = learn_axes([vectors])
    codes = Codes.empty(len(axes.directions) + 1)
    codes.add(axes.encode(vectors))
    query = vectors[random.integers(n)]
    [code] = axes.encode(query[np.newaxis])
    rows = codes.candidates(code, 50 + 5 * k, None)
    far = cosine_distances(vectors, query[np.newaxis])[:, 0]
    best = np.sort(far)[:k]
    assert np.sort(far[rows])[:k] == pytest.approx(best, rel=1e-9, abs=1e-15)


def test_nearest_finds_embeddings_newer_than_the_index(filled):
    before = index_path(filled).read_bytes()
    query = queries()[0]
    [name] = add_extensions(filled, StoredExtension(vector=tuple(query.tolist())))
    ids, distances = search(filled, query)
    assert name == "TINY.300[0]"
    assert (ids[0], distances[0]) == (301, pytest.approx(0, abs=1e-6))
    assert index_path(filled).read_bytes() == before
    assert_same(filled, query, criteria=EmbeddingFilter(image_types=("TB0",)))


def test_refresh_adds_newer_embeddings_with_the_same_axes(filled):
    axes = read_index(index_path(filled)).axes
    add_extensions(filled, *make_frames(20, seed=5))
    result = refresh_index(filled, ignore_progress)
    assert result == "20 embeddings were added to the index of 300"
    after = read_index(index_path(filled))
    assert len(after.codes) == len(after.extension_ids) == 320
    assert np.array_equal(after.axes.directions, axes.directions)
    for query in queries():
        assert_same(filled, query)
    assert refresh_index(filled, ignore_progress) == "the index of 320 embeddings is up to date"


def test_refresh_tolerates_few_newer_embeddings(filled):
    add_extensions(filled, *make_frames(20, seed=5))
    assert (
        refresh_index(filled, ignore_progress, few=20)
        == "the index of 300 embeddings is up to date"
    )


def test_refresh_of_a_doubled_index_learns_new_axes(filled):
    add_extensions(filled, *make_frames(301, seed=6))
    assert "learnt from 300 embeddings, and there are twice as many" in refresh_index(
        filled, ignore_progress
    )
    assert read_index(index_path(filled)).header.learnt_from == 601


def test_refresh_below_the_limit_builds_no_index(project):
    assert "0 embeddings are searched exactly" in refresh_index(project, ignore_progress)
    assert search(project, queries()[0])[0] == []
    add_extensions(project, *make_frames(49))
    assert "49 embeddings are searched exactly" in refresh_index(project, ignore_progress)
    assert not index_path(project).parent.exists()
    assert_same(project, queries()[0])


def flip_a_bit(path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a bit of the axes": lambda path: flip_a_bit(path, 0.01),
    "a bit of the codes": lambda path: flip_a_bit(path, 0.7),
    "a bit of the footer": lambda path: flip_a_bit(path, 0.98),
    "a bit of the end": lambda path: flip_a_bit(path, 0.9999),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "its middle missing": lambda path: path.write_bytes(
        path.read_bytes()[:200] + path.read_bytes()[300:]
    ),
    "another file": lambda path: path.write_bytes(b"SQLite format 3" * 100),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_index_is_logged_unused_and_rebuilt(filled, damage, caplog):
    path = index_path(filled)
    DAMAGES[damage](path)
    with pytest.raises(DamagedIndexError, match=path.name):
        read_index(path)
    for query in queries(2):
        assert_same(filled, query)
    [record, *_] = [item for item in caplog.records if item.message == "searched without an index"]
    assert "it was damaged" in record.why
    assert "made, as it was damaged" in refresh_index(filled, ignore_progress)
    assert len(read_index(path).codes) == 300


def test_index_of_another_encoder_is_not_used(filled):
    class Other(StandIn):
        fingerprint = "another"

    add_extensions(
        filled,
        *[StoredExtension(vector=frame.vector, encoder="another") for frame in make_frames(60, 9)],
    )
    with open_tiny(filled.settings.project, Other()) as opened:
        assert "there was none yet" in refresh_index(opened, ignore_progress)
        index_path(opened).write_bytes(index_path(filled).read_bytes())
        assert "it was of another encoder, stand-in-1" in refresh_index(opened, ignore_progress)
        ids, _ = search(opened, queries()[0], 60)
        assert sorted(ids) == list(range(301, 361))
    ids, _ = search(filled, queries()[0], 400)
    assert max(ids) == 300


def test_index_of_a_restored_database_is_rebuilt(filled):
    with filled.write_session.begin() as session:
        vector = np.roll(queries()[0], 3)
        session.execute(update(EmbeddingRow).where(EmbeddingRow.id == 300).values(vector=vector))
    assert_same(filled, vector)
    assert "made, as it was of another database" in refresh_index(filled, ignore_progress)
    assert_same(filled, vector)


def test_deleted_embedding_is_not_found_and_index_rebuilt(filled):
    query = queries()[0]
    [nearest_id, *_], _ = search(filled, query)
    with filled.write_session.begin() as session:
        session.execute(delete(EmbeddingRow).where(EmbeddingRow.extension_id == nearest_id))
    assert nearest_id not in search(filled, query)[0]
    assert_same(filled, query)
    assert "of its 300 embeddings 299 are there" in refresh_index(filled, ignore_progress)
    assert len(read_index(index_path(filled)).codes) == 299


def test_nearest_of_equal_embeddings_have_no_distance(project):
    add_extensions(project, *[StoredExtension(vector=(1.0, 0.5))] * 1000)
    refresh_index(project, ignore_progress)
    ids, distances = search(project, np.array([1.0, 0.5], np.float32), 20)
    assert len(set(ids)) == 20
    assert distances == pytest.approx(np.zeros(20), abs=1e-12)


def test_find_similar_with_an_index(filled):
    [result] = find_similar(filled, "TINY.5", 10)
    with filled.read_session() as session:
        vector = db.embeddings.find_embedding(session, 6, StandIn.fingerprint)
    criteria = EmbeddingFilter(image_types=(result.image_type,), left_out=6)
    expected, _ = search_exactly(filled, vector, criteria=criteria)
    assert [item.name for item in result.neighbours] == [f"TINY.{n - 1}[0]" for n in expected]


def test_find_similar_between_nights(filled):
    first, last = date(2026, 1, 5), date(2026, 1, 6)
    [result] = find_similar(filled, "TINY.5", 50, image_type="any", first=first, last=last)
    assert {neighbour.night for neighbour in result.neighbours} == {first, last}
    assert len(result.neighbours) == 20


def _rebuild(project_folder, begun, go_on) -> None:
    def report(step, done, _total):
        if step == "index embeddings" and done == 300:
            begun.set()
            go_on.wait(60)

    with open_tiny(project_folder) as project:
        refresh_index(project, report)


def start_rebuild(project_folder):
    """Start a process that builds the index, and pause it before the end."""
    context = multiprocessing.get_context("spawn")
    begun, go_on = context.Event(), context.Event()
    process = context.Process(target=_rebuild, args=(project_folder, begun, go_on))
    process.start()
    assert begun.wait(60)
    return process, go_on


@pytest.mark.slow
def test_search_during_a_rebuild_by_another_process(filled):
    path = index_path(filled)
    flip_a_bit(path, 0.7)
    process, go_on = start_rebuild(filled.settings.project)
    for query in queries(2):
        assert_same(filled, query)
    go_on.set()
    assert refresh_index(filled, ignore_progress) == "the index of 300 embeddings is up to date"
    process.join(60)
    assert process.exitcode == 0


def test_killed_rebuild_leaves_the_old_index(filled):
    path = index_path(filled)
    before = path.read_bytes()
    with filled.write_session.begin() as session:
        session.execute(delete(EmbeddingRow).where(EmbeddingRow.id == 4))
    add_extensions(filled, *make_frames(1, seed=8))
    process, _ = start_rebuild(filled.settings.project)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert path.read_bytes() == before
    for query in queries(2):
        assert_same(filled, query)
    assert "of its 300 embeddings 299 are there" in refresh_index(filled, ignore_progress)
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([path.name, "lock"])


def test_db_index_command_builds_the_index(tmp_path, qc):
    create_project(tmp_path)
    (tmp_path / "qc.toml").write_text("[search]\nexact_below = 50\n")
    output = qc("db", "index", "--project", tmp_path)
    assert output.out == "0 embeddings are searched exactly, without an index.\n"
    with open_project(read_settings(tmp_path)) as project:
        encoder = project.encoder.fingerprint
        add_extensions(project, *[replace(frame, encoder=encoder) for frame in make_frames(60)])
        output = qc("db", "index", "--project", tmp_path)
        assert output.out == "The index was made, as there was none yet: 60 embeddings.\n"
        assert output.err.splitlines() == ["learn axes (2)", "index embeddings (60)"]
        assert index_path(project).is_file()
    output = qc("db", "index", "--project", tmp_path)
    assert (output.code, output.out) == (0, "The index of 60 embeddings is up to date.\n")


def test_nearest_before_the_first_night_is_empty(filled):
    assert_same(
        filled, queries()[0], criteria=EmbeddingFilter(last=date(2025, 12, 31) - timedelta(1))
    )
