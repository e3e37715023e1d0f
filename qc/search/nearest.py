"""The stored embeddings nearest to one: exactly while they are few, by an index beyond.

The index narrows a million embeddings down to a few hundred; those are read from the database and
compared exactly, as are the embeddings that are newer than the index. So it can be behind, and the
distances are always true.
"""

import logging
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from hashlib import sha256
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from embeddings.index import Codes, learn_axes, nearest
from qc import db
from qc._project_lock import one_at_a_time
from qc.db.embeddings import EmbeddingFilter
from qc.db.pgvector import index_vectors, nearest_by_server
from qc.errors import InvalidInputError
from qc.project import Project
from qc.search.index_file import (
    DamagedIndexError,
    EmbeddingIndex,
    IndexHeader,
    digest_of,
    read_index,
    write_index,
)

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Report = Callable[[str, int, int], None]

FOLDER = "search"
FEW_NEWER = 1000  # embeddings that are sooner read than an index is written
_OF_EACH_TYPE = 200  # embeddings that axes are learnt from
_SAMPLES = 8
_CANDIDATES, _CANDIDATES_EACH = 100, 5  # so many, and so many more for each neighbour wanted


def nearest_stored(
    project: Project, session: Session, query: Floats, k: int, among: EmbeddingFilter
) -> tuple[Integers, Doubles]:
    """Return the extensions whose embeddings are nearest to one, nearest first.

    Parameters
    ----------
    query : (d,) float array
        By the encoder in use.
    k : int
        How many are wanted; fewer are returned if there are fewer.

    Returns
    -------
    ids : (k,) int array
    distances : (k,) float64 array
        Cosine distances.
    """
    fingerprint = project.encoder.fingerprint
    if _has_own_index(session.get_bind()):
        return nearest_by_server(session, fingerprint, query, k, among)
    index = _usable(project, session)
    if index is None:
        return nearest(query, db.embeddings.vectors(session, fingerprint, among), k)
    likely = _likely(project, session, index, query, k, among)
    newer = db.embeddings.vectors(session, fingerprint, among, after=index.facts.last_id)
    return nearest(query, chain(_read(session, fingerprint, likely), newer), k)


def _has_own_index(database_in_use: Engine | Connection) -> bool:
    """Say whether the database finds the nearest by itself."""
    return database_in_use.dialect.name == "postgresql"


def _usable(project: Project, session: Session) -> EmbeddingIndex | None:
    """Return the index of the encoder in use; None where all must be looked at."""
    newest = db.embeddings.newest_embedding_id(session)
    if newest < project.settings.search.exact_below:
        return None
    index, why = _open(project, session)
    if index is None and db.embeddings.embeddings_counted(session, project.encoder.fingerprint) >= (
        project.settings.search.exact_below
    ):
        logger.warning("searched without an index", extra={"why": why, "made_by": "qc db index"})
    return index


def _open(project: Project, session: Session) -> tuple[EmbeddingIndex | None, str]:
    """Return the index if it is of use, and why not otherwise."""
    path = index_file(project)
    try:
        status = path.stat()
        index = _read_once(path, status.st_ino, status.st_size, status.st_mtime_ns)
    except FileNotFoundError:
        return None, "there was none yet"
    except DamagedIndexError as error:
        return None, f"it was damaged: {error}"
    if index.facts.fingerprint != project.encoder.fingerprint:
        return None, f"it was of another encoder, {index.facts.fingerprint}"
    wanted = dict(index.facts.samples)
    found = db.embeddings.embeddings_by_id(session, list(wanted))
    if {number: digest_of(vector) for number, vector in found.items()} != wanted:
        return None, "it was of another database, or an older state of this one"
    return index, ""


@lru_cache(maxsize=2)
def _read_once(path: Path, _inode: int, _size: int, _modified_ns: int) -> EmbeddingIndex:
    return read_index(path)


def index_file(project: Project) -> Path:
    """Return where the index of the encoder in use is, or would be."""
    name = sha256(project.encoder.fingerprint.encode()).hexdigest()[:16]
    return project.settings.project / FOLDER / f"{name}.index"


def _likely(
    project: Project,
    session: Session,
    index: EmbeddingIndex,
    query: Floats,
    k: int,
    among: EmbeddingFilter,
) -> list[int]:
    """Return the extensions that may be nearest, of those that are meant, oldest first."""
    own = db.selection.extension_ids_of(session, among.left_out) if among.left_out else []
    n = _CANDIDATES + _CANDIDATES_EACH * k + len(own)
    [code] = index.axes.encode(query[np.newaxis])
    rows = index.codes.candidates(code, n, _allowed(project, session, index, among))
    left_out = set(own)
    return [one for one in index.extension_ids[rows].tolist() if one not in left_out]


def _allowed(
    project: Project, session: Session, index: EmbeddingIndex, among: EmbeddingFilter
) -> NDArray[np.bool_] | None:
    """Return which rows of an index are meant, (n,); None for all."""
    said: list[NDArray[np.bool_]] = []
    if among.image_types is not None:
        meant = np.array([one in among.image_types for one in index.facts.image_types], bool)
        said.append(meant[index.types])
    if among.first is not None:
        said.append(index.nights >= among.first.toordinal())
    if among.last is not None:
        said.append((index.nights <= among.last.toordinal()) & (index.nights > 0))
    if among.labelled:
        state = (db.labels.newest_label_id(session), index.facts.last_id, index.facts.learnt_from)
        make = partial(_spoken_of, session, index.extension_ids)
        said.append(project.kept.get("spoken of", state, make))
    return np.logical_and.reduce(said) if said else None


def _spoken_of(session: Session, extension_ids: Integers) -> NDArray[np.bool_]:
    """Return of which extensions a label counts: (n,)."""
    spoken_of = np.zeros(int(extension_ids.max(initial=0)) + 1, bool)
    ids = np.array(db.labels.extensions_spoken_of(session), np.int64)
    spoken_of[ids[ids < len(spoken_of)]] = True
    return spoken_of[extension_ids]


def _read(
    session: Session, fingerprint: str, extension_ids: list[int]
) -> Iterator[tuple[Integers, Floats]]:
    """Yield these embeddings as one block, without those that are not there any more."""
    known = db.embeddings.vectors_with(session, fingerprint, extension_ids)
    there = [one for one in extension_ids if one in known]
    if there:
        yield np.array(there, np.int64), np.stack([known[one] for one in there])


# --- making it ------------------------------------------------------------------------------------


def refresh_index(project: Project, report: Report, *, few: int = 0) -> str:
    """Make the index, bring it up to date, or leave it as it is; say what was done.

    Only one process does so at a time; others that want to wait for it, and find it done. While
    it is made, searches use the one before, if there is any.

    Parameters
    ----------
    few : int
        So many embeddings may be newer than the index.
    """
    if _has_own_index(project.engine):
        return index_vectors(project.engine, project.encoder.fingerprint)
    path = index_file(project)
    with project.reads() as session:
        n = db.embeddings.embeddings_counted(session, project.encoder.fingerprint)
    if n < project.settings.search.exact_below:
        return f"{n} embeddings are searched exactly, without an index"
    path.parent.mkdir(exist_ok=True)
    with one_at_a_time(path.parent / "lock"), project.reads() as session:
        old, why = _open(project, session)
        why = why or _outgrown(project, session, old)
        if old is None or why:
            return _make(project, session, path, report, why)
        newer = db.embeddings.embeddings_counted(session, project.encoder.fingerprint) - len(
            old.codes
        )
        if newer <= few:
            return f"the index of {len(old.codes)} embeddings is up to date"
        return _extend(session, path, old, report)


def _outgrown(project: Project, session: Session, old: EmbeddingIndex | None) -> str:
    """Say why an index that is of use had better be made anew; nothing if it had not."""
    if old is None:
        return ""
    fingerprint = project.encoder.fingerprint
    there = db.embeddings.embeddings_counted(session, fingerprint, old.facts.last_id)
    if there != len(old.codes):
        return f"of its {len(old.codes)} embeddings {there} are there"
    if db.embeddings.embeddings_counted(session, fingerprint) > 2 * old.facts.learnt_from:
        return f"it was learnt from {old.facts.learnt_from} embeddings, and there are twice as many"
    return ""


def _make(project: Project, session: Session, path: Path, report: Report, why: str) -> str:
    fingerprint = project.encoder.fingerprint
    total = db.embeddings.embeddings_counted(session, fingerprint)
    logger.warning("search index is made", extra={"why": why, "embeddings": total})
    groups = []
    types = db.findings.image_types_seen(session)
    for number, image_type in enumerate(types, 1):
        found = db.embeddings.embeddings_evenly(session, fingerprint, image_type, _OF_EACH_TYPE)
        groups += [found] if len(found) else []
        report("learn axes", number, len(types))
    if not groups:
        raise InvalidInputError(f"there are no embeddings of the encoder in use, {fingerprint}")
    axes = learn_axes(groups)
    none = EmbeddingIndex(
        facts=IndexHeader(fingerprint, 0, total, (), ()),
        axes=axes,
        extension_ids=np.empty(0, np.int64),
        types=np.empty(0, np.uint16),
        nights=np.empty(0, np.int32),
        codes=Codes.empty(len(axes.directions) + 1),
    )
    _extend(session, path, none, report)
    return f"the index was made, as {why}: {total} embeddings"


def _extend(session: Session, path: Path, old: EmbeddingIndex, report: Report) -> str:
    """Write an index with what is newer than the old one added."""
    facts, codes = old.facts, old.codes.copy()
    names = {name: number for number, name in enumerate(facts.image_types)}
    total = db.embeddings.embeddings_counted(session, facts.fingerprint)
    ids, types, nights = [old.extension_ids], [old.types], [old.nights]
    last_id, before = facts.last_id, len(codes)
    for some in db.embeddings.embeddings_after(session, facts.fingerprint, facts.last_id):
        codes.add(old.axes.encode(some.vectors))
        numbers = [names.setdefault(name, len(names)) for name in some.image_types]
        ids.append(some.extension_ids)
        types.append(np.array(numbers, np.uint16))
        nights.append(some.nights)
        last_id = int(some.ids[-1])
        report("index embeddings", len(codes), total)
    extension_ids = np.concatenate(ids)
    new = EmbeddingIndex(
        facts=IndexHeader(
            fingerprint=facts.fingerprint,
            last_id=last_id,
            learnt_from=facts.learnt_from,
            image_types=tuple(names),
            samples=_samples(session, facts.fingerprint, extension_ids),
        ),
        axes=old.axes,
        extension_ids=extension_ids,
        types=np.concatenate(types),
        nights=np.concatenate(nights),
        codes=codes,
    )
    write_index(new, path)
    return f"{len(codes) - before} embeddings were added to the index of {before}"


def _samples(
    session: Session, fingerprint: str, extension_ids: Integers
) -> tuple[tuple[int, str], ...]:
    """Return the ids and digests of some embeddings, evenly from the first to the last."""
    places = np.unique(np.linspace(0, len(extension_ids) - 1, _SAMPLES).astype(int))
    found = db.embeddings.embeddings_of(session, fingerprint, extension_ids[places].tolist())
    return tuple((number, digest_of(vector)) for number, vector in found.items())
