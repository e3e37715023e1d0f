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
from qc.db.models import EmbeddingRow, LabelRow
from qc.project import create_project, open_project
from qc.search.index_file import DamagedIndexError, read_index
from qc.search.nearest import index_file, nearest_stored, refresh_index
from qc.search.similar import similar
from qc.settings import read_settings
from tests.support.databases import copied, write_settings
from tests.support.remembered import Past, remember
from tests.support.tiny import StandIn, open_tiny

pytestmark = pytest.mark.sqlite  # PostgreSQL finds them itself: test_vector_index.py
D = 12
TYPES = ("TB0", "TF0")


def quietly(*_):
    return None


def likenesses(n: int, seed: int = 0) -> list[Past]:
    """Two tight clusters, one of them a hundred times tighter, a tenth of them labelled."""
    random = np.random.default_rng(seed)
    centres = np.eye(D)[:2] + 0.3
    found = []
    for number in range(n):
        which = int(random.integers(2))
        vector = centres[which] + (0.1, 0.001)[which] * random.normal(size=D)
        label = LabelName.GOOD if number % 10 == 0 else None
        found.append(Past(vector=tuple(vector), image_type=TYPES[which], label=label))
    return found


@pytest.fixture(scope="module")
def small(empty_project, tmp_path_factory):
    """An empty project that keeps an index from 50 embeddings on; not to be written to."""
    with copied(empty_project, tmp_path_factory.mktemp("small") / "project") as project_folder:
        write_settings(project_folder, "[search]\nexact_below = 50\n")
        yield project_folder


@pytest.fixture(scope="module")
def indexed(small, tmp_path_factory):
    """The same with 300 embeddings and their index; not to be written to."""
    with copied(small, tmp_path_factory.mktemp("indexed") / "project") as project_folder:
        with open_tiny(project_folder) as project:
            remember(project, *likenesses(300))
            assert refresh_index(project, quietly).endswith(": 300 embeddings")
        yield project_folder


@pytest.fixture
def project_folder(small, tmp_path):
    with copied(small, tmp_path / "project") as one:
        yield one


@pytest.fixture
def filled(indexed, tmp_path):
    """An indexed project of the test's own, open."""
    with copied(indexed, tmp_path / "filled") as one, open_tiny(one) as project:
        yield project


def ask(project, query, k=10, among=None):
    with project.reads() as session:
        ids, distances = nearest_stored(project, session, query, k, among or EmbeddingFilter())
    return ids.tolist(), distances


def ask_exactly(project, query, k=10, among=None):
    """The same of every vector, without the code under test."""
    with project.reads() as session:
        blocks = list(
            db.embeddings.vectors(session, StandIn.fingerprint, among or EmbeddingFilter())
        )
    if not blocks:
        return [], np.empty(0)
    ids = np.concatenate([ids for ids, _ in blocks])
    far = cosine_distances(np.concatenate([some for _, some in blocks]), query[np.newaxis])[:, 0]
    best = np.argsort(far, kind="stable")[:k]
    return ids[best].tolist(), far[best]


def assert_same(project, query, k=10, among=None):
    ids, distances = ask(project, query, k, among)
    expected, far = ask_exactly(project, query, k, among)
    assert ids == expected
    assert distances == pytest.approx(far, abs=1e-15)


def queries(n: int = 5, seed: int = 1):
    return [np.array(one.vector, np.float32) for one in likenesses(n, seed)]


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


@pytest.mark.parametrize("among", FILTERS, ids=str)
def test_with_an_index_the_answer_is_that_of_the_exact_search(filled, among):
    for query in queries():
        assert_same(filled, query, among=among)


def test_what_is_said_or_taken_back_between_two_searches_counts_at_once(filled):
    query, labelled = queries()[0], EmbeddingFilter(labelled=True)
    before, _ = ask(filled, query, 100, labelled)
    new = next(one for one in range(1, 300) if one not in before)
    with filled.writes.begin() as session:
        said = db.labels.record_label(session, new, LabelAnswer(LabelName.GOOD, "kim")).id
    assert set(ask(filled, query, 100, labelled)[0]) == {*before, new}
    with filled.writes.begin() as session:
        row = session.get_one(LabelRow, said)
        db.labels.record_label(session, new, LabelAnswer(LabelName.GOOD, "kim"), undoes=row)
    assert ask(filled, query, 100, labelled)[0] == before


def test_the_few_that_are_newer_are_not_looked_for_among_all_of_their_type(filled):
    plans: list[str] = []

    @event.listens_for(filled.engine, "before_cursor_execute")
    def explain(_connection, cursor, statement, given, *_):
        if "embedding.id >" in statement:
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", given)
            plans.extend(row[-1] for row in cursor.fetchall())

    ask(filled, queries()[0], among=EmbeddingFilter(image_types=("TB0",)))
    assert "SEARCH embedding USING INTEGER PRIMARY KEY (rowid>?)" in plans
    assert not any("ix_extension_image_type" in line for line in plans)


def test_an_index_is_used_where_there_is_one(filled):
    """What is changed behind its back is not noticed, unless it is one of its samples."""
    query = np.roll(queries()[0], 3)
    with filled.writes.begin() as session:
        session.execute(update(EmbeddingRow).where(EmbeddingRow.id == 150).values(vector=query))
    assert ask_exactly(filled, query)[0][0] == 150
    assert 150 not in ask(filled, query)[0]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 400), st.integers(1, 9), st.sampled_from([8, 40, 300]), st.integers(0, 10_000)
)
def test_candidates_hold_the_nearest(n, k, d, seed):
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


def test_what_is_newer_than_the_index_is_found(filled):
    before = index_file(filled).read_bytes()
    query = queries()[0]
    [name] = remember(filled, Past(vector=tuple(query.tolist())))
    ids, distances = ask(filled, query)
    assert name == "TINY.300[0]"
    assert (ids[0], distances[0]) == (301, pytest.approx(0, abs=1e-6))
    assert index_file(filled).read_bytes() == before
    assert_same(filled, query, among=EmbeddingFilter(image_types=("TB0",)))


def test_newer_embeddings_are_added_and_axes_kept(filled):
    axes = read_index(index_file(filled)).axes
    remember(filled, *likenesses(20, seed=5))
    words = refresh_index(filled, quietly)
    assert words == "20 embeddings were added to the index of 300"
    after = read_index(index_file(filled))
    assert len(after.codes) == len(after.extension_ids) == 320
    assert np.array_equal(after.axes.directions, axes.directions)
    for query in queries():
        assert_same(filled, query)
    assert refresh_index(filled, quietly) == "the index of 320 embeddings is up to date"


def test_a_few_newer_ones_do_not_rewrite_the_index(filled):
    remember(filled, *likenesses(20, seed=5))
    assert refresh_index(filled, quietly, few=20) == "the index of 300 embeddings is up to date"


def test_an_index_that_has_doubled_is_learnt_again(filled):
    remember(filled, *likenesses(301, seed=6))
    assert "learnt from 300 embeddings, and there are twice as many" in refresh_index(
        filled, quietly
    )
    assert read_index(index_file(filled)).facts.learnt_from == 601


def test_below_the_limit_there_is_none(project):
    assert "0 embeddings are searched exactly" in refresh_index(project, quietly)
    assert ask(project, queries()[0])[0] == []
    remember(project, *likenesses(49))
    assert "49 embeddings are searched exactly" in refresh_index(project, quietly)
    assert not index_file(project).parent.exists()
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
def test_a_damaged_index_is_told_left_alone_and_made_anew(filled, damage, caplog):
    path = index_file(filled)
    DAMAGES[damage](path)
    with pytest.raises(DamagedIndexError, match=path.name):
        read_index(path)
    for query in queries(2):
        assert_same(filled, query)
    [told, *_] = [one for one in caplog.records if one.message == "searched without an index"]
    assert "it was damaged" in told.why
    assert "made, as it was damaged" in refresh_index(filled, quietly)
    assert len(read_index(path).codes) == 300


def test_an_index_of_another_encoder_is_not_used(filled):
    class Other(StandIn):
        fingerprint = "another"

    remember(filled, *[Past(vector=one.vector, encoder="another") for one in likenesses(60, 9)])
    with open_tiny(filled.settings.project, Other()) as other:
        assert "there was none yet" in refresh_index(other, quietly)
        index_file(other).write_bytes(index_file(filled).read_bytes())
        assert "it was of another encoder, stand-in-1" in refresh_index(other, quietly)
        ids, _ = ask(other, queries()[0], 60)
        assert sorted(ids) == list(range(301, 361))
    ids, _ = ask(filled, queries()[0], 400)
    assert max(ids) == 300


def test_an_index_of_a_database_that_was_restored_is_made_anew(filled):
    with filled.writes.begin() as session:
        vector = np.roll(queries()[0], 3)
        session.execute(update(EmbeddingRow).where(EmbeddingRow.id == 300).values(vector=vector))
    assert_same(filled, vector)
    assert "made, as it was of another database" in refresh_index(filled, quietly)
    assert_same(filled, vector)


def test_what_was_deleted_is_not_found_and_soon_forgotten(filled):
    query = queries()[0]
    [nearest_id, *_], _ = ask(filled, query)
    with filled.writes.begin() as session:
        session.execute(delete(EmbeddingRow).where(EmbeddingRow.extension_id == nearest_id))
    assert nearest_id not in ask(filled, query)[0]
    assert_same(filled, query)
    assert "of its 300 embeddings 299 are there" in refresh_index(filled, quietly)
    assert len(read_index(index_file(filled)).codes) == 299


def test_a_thousand_equal_frames_are_all_at_no_distance(project):
    remember(project, *[Past(vector=(1.0, 0.5))] * 1000)
    refresh_index(project, quietly)
    ids, distances = ask(project, np.array([1.0, 0.5], np.float32), 20)
    assert len(set(ids)) == 20
    assert distances == pytest.approx(np.zeros(20), abs=1e-12)


def test_similar_frames_are_found_through_the_index_with_their_words(filled):
    [found] = similar(filled, "TINY.5", 10)
    with filled.reads() as session:
        own = db.embeddings.find_embedding(session, 6, StandIn.fingerprint)
    among = EmbeddingFilter(image_types=(found.image_type,), left_out=6)
    expected, _ = ask_exactly(filled, own, among=among)
    assert [one.name for one in found.neighbours] == [f"TINY.{one - 1}[0]" for one in expected]


def test_nights_bound_what_is_similar(filled):
    first, last = date(2026, 1, 5), date(2026, 1, 6)
    [found] = similar(filled, "TINY.5", 50, image_type="any", first=first, last=last)
    assert {one.night for one in found.neighbours} == {first, last}
    assert len(found.neighbours) == 20


def _refresh_elsewhere(project_folder, begun, go_on) -> None:
    def report(what, done, _total):
        if what == "index embeddings" and done == 300:
            begun.set()
            go_on.wait(60)

    with open_tiny(project_folder) as project:
        refresh_index(project, report)


def elsewhere(project_folder):
    """Begin to make the index in another process, and stop in the midst of it."""
    context = multiprocessing.get_context("spawn")
    begun, go_on = context.Event(), context.Event()
    process = context.Process(target=_refresh_elsewhere, args=(project_folder, begun, go_on))
    process.start()
    assert begun.wait(60)
    return process, go_on


def test_while_one_process_makes_the_index_another_searches_and_then_has_it(filled):
    path = index_file(filled)
    flip_a_bit(path, 0.7)
    process, go_on = elsewhere(filled.settings.project)
    for query in queries(2):
        assert_same(filled, query)
    go_on.set()
    assert refresh_index(filled, quietly) == "the index of 300 embeddings is up to date"
    process.join(60)
    assert process.exitcode == 0


def test_one_killed_while_making_the_index_leaves_the_old_one(filled):
    path = index_file(filled)
    before = path.read_bytes()
    with filled.writes.begin() as session:
        session.execute(delete(EmbeddingRow).where(EmbeddingRow.id == 4))
    remember(filled, *likenesses(1, seed=8))
    process, _ = elsewhere(filled.settings.project)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert path.read_bytes() == before
    for query in queries(2):
        assert_same(filled, query)
    assert "of its 300 embeddings 299 are there" in refresh_index(filled, quietly)
    assert sorted(one.name for one in path.parent.iterdir()) == sorted([path.name, "lock"])


def test_the_command_makes_it_and_says_so(tmp_path, qc):
    create_project(tmp_path)
    (tmp_path / "qc.toml").write_text("[search]\nexact_below = 50\n")
    told = qc("db", "index", "--project", tmp_path)
    assert told.out == "0 embeddings are searched exactly, without an index.\n"
    with open_project(read_settings(tmp_path)) as project:
        encoder = project.encoder.fingerprint
        remember(project, *[replace(one, encoder=encoder) for one in likenesses(60)])
        told = qc("db", "index", "--project", tmp_path)
        assert told.out == "The index was made, as there was none yet: 60 embeddings.\n"
        assert told.err.splitlines() == ["learn axes (2)", "index embeddings (60)"]
        assert index_file(project).is_file()
    told = qc("db", "index", "--project", tmp_path)
    assert (told.code, told.out) == (0, "The index of 60 embeddings is up to date.\n")


def test_nights_of_a_frame_long_ago_are_no_nights(filled):
    assert_same(filled, queries()[0], among=EmbeddingFilter(last=date(2025, 12, 31) - timedelta(1)))
