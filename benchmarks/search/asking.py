"""Queries of an archive, their exact results, and recall and latency of the search."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import URL
from sqlalchemy.orm import Session

from benchmarks.search.making import (
    BLOCK,
    FINGERPRINT,
    D,
    EmbeddingBlock,
    Setup,
    fill,
    image_types,
    make_block,
    make_blocks,
    make_setups,
)
from embeddings.clustering import cosine_distances
from embeddings.index import AXES, nearest
from qc import db
from qc.db.embeddings import EmbeddingFilter
from qc.db.schema.engine import connect
from qc.db.schema.migrate import upgrade_schema
from qc.db.schema.models import VECTOR_INDEX
from qc.project import ProjectContext, create_project, open_project
from qc.search.nearest import index_path, nearest_stored, refresh_index
from qc.settings import Settings

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

K = 10
RERANKED = 100  # of the others' nearest, by their exact distances
TWO_YEARS = (date(2014, 1, 1), date(2015, 12, 31))
ONE_YEAR = (date(2017, 1, 1), date(2017, 12, 31))


@dataclass(frozen=True)
class Question:
    """Among which embeddings the nearest are wanted; `own` is the query's own image type."""

    words: str
    own: bool
    nights: tuple[date, date] | None = None
    labelled: bool = False

    def among(self, image_type: str, frame_id: int) -> EmbeddingFilter:
        """Ask it of a stored frame."""
        first, last = self.nights or (None, None)
        types = (image_type,) if self.own else None
        return EmbeddingFilter(types, first, last, labelled=self.labelled, left_out=frame_id)

    def meant(self, some: EmbeddingBlock) -> NDArray[np.bool_]:
        """Return which are meant, if type did not matter: (n,)."""
        meant = some.labelled.copy() if self.labelled else np.ones(len(some.setups), bool)
        if self.nights:
            first, last = (night.toordinal() for night in self.nights)
            meant &= (some.nights >= first) & (some.nights <= last)
        return meant


QUESTIONS = (
    Question("its own type", own=True),
    Question("its own type, two years", own=True, nights=TWO_YEARS),
    Question("its own type, labelled", own=True, labelled=True),
    Question("any type", own=False),
    Question("any type, one year", own=False, nights=ONE_YEAR),
    Question("any type, labelled", own=False, labelled=True),
)


class MadeUp:
    """Encoder of the generated embeddings; it never embeds."""

    name, stretch, fingerprint = "made up", "physical", FINGERPRINT

    def embed(self, inputs: Floats) -> Floats:
        """Refuse."""
        raise NotImplementedError


def settings_of(work: Path, postgres: str = "") -> Settings:
    """Return the settings of the project in a folder; its database is a file, or a server's."""
    return Settings(project=work / "project", database=postgres)


@contextmanager
def opened(settings: Settings) -> Iterator[ProjectContext]:
    """Open the project."""
    with open_project(settings) as project:
        yield replace(project, encoder=MadeUp())


def make(work: Path, total: int, postgres: str) -> dict[str, Any]:
    """Create the archive; return its size."""
    create_project(work / "project")
    settings = settings_of(work, postgres)
    engine = connect(settings.database_url)
    upgrade_schema(engine)
    engine.dispose()
    with opened(settings) as project:
        fill(project.write_session, make_setups(), total)
    return {"database_bytes": size_of(settings.database_url)}


def size_of(url: URL) -> int:
    """Return the bytes of a database."""
    if url.get_backend_name() != "sqlite":
        return _told_by_server(url, "pg_database_size(current_database())")
    return sum(path.stat().st_size for path in Path(str(url.database)).parent.glob("qc.db*"))


def _told_by_server(url: URL, name: str) -> int:
    engine = connect(url)
    with engine.connect() as connection:
        number: int = connection.exec_driver_sql(f"SELECT {name}").scalar_one()
    engine.dispose()
    return number


def _index_bytes(project: ProjectContext) -> int:
    url = project.settings.database_url
    if url.get_backend_name() == "sqlite":
        return index_path(project).stat().st_size
    clause = f"FROM pg_class WHERE relname LIKE '{VECTOR_INDEX}%%'"
    return _told_by_server(url, f"coalesce(sum(pg_relation_size(oid)), 0)::bigint {clause}")


def index(work: Path, postgres: str) -> dict[str, Any]:
    """Make the index, and add to it, as 'qc db index' does."""
    with opened(settings_of(work, postgres)) as project:
        started, cpu = time.perf_counter(), time.process_time()
        text = refresh_index(project, lambda *_: None)
        return {
            "build_s": time.perf_counter() - started,
            "build_cpu_s": time.process_time() - cpu,
            "index_bytes": _index_bytes(project),
            "build_peak_bytes": peak_bytes(),
            "words": text,
        }


def peak_bytes() -> int:
    """Return the most memory that this process ever held, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def own_bytes() -> int:
    """Return the memory of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [names for names in lines if names.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@dataclass(frozen=True)
class Truth:
    """Stored frames that are asked about, and how far their nearest are.

    Attributes
    ----------
    ids : (q,) int array
        Of the frames and their extensions.
    vectors : (q, d) float32 array
    setups : (q,) int array
    far : (questions, q, K) float64 array
        Exact distances, nearest first; infinite where there are fewer.
    """

    ids: NDArray[np.int64]
    vectors: Floats
    setups: NDArray[np.int64]
    far: Doubles


def find_truth(total: int, q: int) -> Truth:
    """Look at all that is made, in double precision."""
    setups = make_setups()
    target, vectors, which = _choose(setups, total, q)
    far = np.full((len(QUESTIONS), len(target), K), np.inf)
    for some in make_blocks(setups, total):
        distances = cosine_distances(vectors, some.vectors.astype(np.float32))  # (q, n)
        is_query = target[:, np.newaxis] == some.start + np.arange(len(some.setups))
        distances[is_query] = np.inf
        same = which[:, np.newaxis] == some.setups
        for number, question in enumerate(QUESTIONS):
            meant = question.meant(some) & (same if question.own else True)
            both = np.concatenate([far[number], np.where(meant, distances, np.inf)], axis=1)
            far[number] = np.sort(np.partition(both, K, axis=1)[:, :K], axis=1)
    return Truth(target + 1, vectors, which, far)


def _choose(
    setups: list[Setup], total: int, q: int
) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Return the numbers, vectors and setups of frames of ten blocks, evenly over time."""
    blocks = range(0, total, BLOCK)
    starts = [blocks[i] for i in np.unique(np.linspace(0, len(blocks) - 1, 10).astype(int))]
    numbers, vectors, which = [], [], []
    for start in starts:
        some = make_block(setups, total, start)
        places = np.linspace(0, len(some.setups) - 1, q // len(starts)).astype(int)
        numbers.append(start + places)
        vectors.append(some.vectors[places].astype(np.float32))
        which.append(some.setups[places])
    return np.concatenate(numbers), np.concatenate(vectors), np.concatenate(which)


def recall(result: Doubles, truth: Doubles) -> float:
    """Return the share of the nearest that were found; one as near as the last is one of them."""
    last = truth[np.isfinite(truth)].max(initial=0)
    target = int(np.isfinite(truth).sum())
    return float(min((result <= last + 1e-12).sum(), target) / target) if target else 1.0


def ask(work: Path, truth: Truth, postgres: str) -> dict[str, Any]:
    """Ask every question of every query, through the product."""
    types = image_types()
    with opened(settings_of(work, postgres)) as project:
        with project.read_session() as session:
            started = time.perf_counter()
            nearest_stored(project, session, truth.vectors[0], K, EmbeddingFilter())
            first_s = time.perf_counter() - started
        answers = {}
        for number, question in enumerate(QUESTIONS):

            def answer(place: int, question: Question = question) -> Doubles:
                image_type = types[truth.setups[place]]
                criteria = question.among(image_type, int(truth.ids[place]))
                with project.read_session() as session:
                    return nearest_stored(project, session, truth.vectors[place], K, criteria)[1]

            answers[question.words] = _measured(answer, truth.far[number])
        return {
            "first_s": first_s,
            "questions": answers,
            "peak_bytes": peak_bytes(),
            "own_bytes": own_bytes(),
        }


def _measured(answer: Callable[[int], Doubles], truth: Doubles) -> dict[str, float]:
    recalls, clock, cpu = [], [], []
    for place, far in enumerate(truth):
        started, busy = time.perf_counter(), time.process_time()
        result = answer(place)
        clock.append(1000 * (time.perf_counter() - started))
        cpu.append(1000 * (time.process_time() - busy))
        recalls.append(recall(result, far))
    return {
        "recall": float(np.mean(recalls)),
        "worst": float(np.min(recalls)),
        "p50_ms": float(np.median(clock)),
        "p95_ms": float(np.quantile(clock, 0.95)),
        "cpu_p50_ms": float(np.median(cpu)),
        "cpu_p95_ms": float(np.quantile(cpu, 0.95)),
    }


def ask_exactly(work: Path, truth: Truth, postgres: str, most: int = 3) -> dict[str, Any]:
    """Ask for any type as it is done without an index: every vector is read."""
    with opened(settings_of(work, postgres)) as project:

        def answer(place: int) -> Doubles:
            with project.read_session() as session:
                return _read_all(session, truth.vectors[place], int(truth.ids[place]))

        return _measured(answer, truth.far[_ANY_TYPE][:most])


_ANY_TYPE = 3


def _read_all(session: Session, query: Floats, left_out: int) -> Doubles:
    blocks = db.embeddings.iterate_vectors(session, FINGERPRINT, EmbeddingFilter(left_out=left_out))
    return nearest(query, blocks, K)[1]


def ask_other(name: str, total: int, truth: Truth) -> dict[str, Any]:
    """Build another way over the same vectors, and ask it for any type."""
    halves = np.empty((total, D), np.float16)
    for some in make_blocks(make_setups(), total):
        halves[some.start : some.start + len(some.vectors)] = some.vectors
    mean = truth.vectors.mean(axis=0)
    vectors = halves.astype(np.float32) - mean
    from benchmarks.search.ways import OTHERS  # noqa: PLC0415 - they need packages of the benchmark

    before, (text, build) = own_bytes(), OTHERS[name]
    started, cpu = time.perf_counter(), time.process_time()
    way = build(vectors)
    built = {
        "words": text,
        "build_s": time.perf_counter() - started,
        "build_cpu_s": time.process_time() - cpu,
        "index_bytes": way.size_bytes,
        "memory_bytes": own_bytes() - before,
    }
    far = truth.far[_ANY_TYPE]

    def near(place: int, n: int) -> Doubles:
        rows = way.ask(truth.vectors[place] - mean, n + 1)
        rows = rows[rows != truth.ids[place] - 1][:n]
        some = halves[rows].astype(np.float32)
        exact = cosine_distances(some, truth.vectors[place][np.newaxis])[:, 0]
        return np.sort(exact)[:K]

    return built | {
        "as it is": _measured(lambda place: near(place, K), far),
        "reranked": _measured(lambda place: near(place, RERANKED), far),
    }


def environment() -> dict[str, Any]:
    """Return the versions and the size of a code."""
    import faiss  # noqa: PLC0415 - for its version alone
    import usearch  # noqa: PLC0415

    return {
        "faiss": faiss.__version__,
        "usearch": usearch.__version__,
        "numpy": np.__version__,
        "axes": AXES,
    }
