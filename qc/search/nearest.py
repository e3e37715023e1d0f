"""Nearest stored embeddings: exact search for small databases, an index for large ones.

The index selects a few hundred candidates of a million embeddings. Candidates are read from the
database and compared exactly, as are embeddings newer than the index. The index may therefore be
out of date, and the distances are always exact.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import chain
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings import index as arrays
from qc import db, errors
from qc._project_lock import file_lock
from qc.project import ProjectContext
from qc.search import index_file, pgvector

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Report = Callable[[str, int, int], None]

FOLDER = "search"
FEW_NEWER = 1000  # embeddings; reading them is faster than writing an index
_AXES_SAMPLE = 200  # embeddings of each image type that the axes are learnt from
_SAMPLES = 8
_CANDIDATES = 100
_CANDIDATES_PER_NEIGHBOUR = 5


def nearest_stored(
    project: ProjectContext,
    session: Session,
    query: Floats,
    k: int,
    criteria: db.embeddings.EmbeddingFilter,
) -> tuple[Integers, Doubles]:
    """Return the extensions with the embeddings nearest to a query, nearest first.

    Parameters
    ----------
    project : ProjectContext
    session : Session
    query : (d,) float array
        By the encoder in use.
    k : int
        Number of neighbours; fewer are returned if there are fewer.
    criteria : EmbeddingFilter
        Extensions to search.

    Returns
    -------
    ids : (k,) int array
    distances : (k,) float64 array
        Cosine distances.
    """
    fingerprint = project.encoder.fingerprint
    if has_vector_search(session.get_bind()):
        return pgvector.nearest_by_server(session, fingerprint, query, k, criteria)
    index = usable_index(project, session)
    if index is None:
        return arrays.nearest(
            query, db.embeddings.iterate_vectors(session, fingerprint, criteria), k
        )
    candidates = find_candidates(project, session, index, query, k, criteria)
    newer = db.embeddings.iterate_vectors(
        session, fingerprint, criteria, after=index.header.last_id
    )
    return arrays.nearest(query, chain(read_vectors(session, fingerprint, candidates), newer), k)


def has_vector_search(bind: sa.Engine | sa.Connection) -> bool:
    """Return True if the database itself finds nearest neighbours."""
    return bind.dialect.name == "postgresql"


def usable_index(project: ProjectContext, session: Session) -> index_file.EmbeddingIndex | None:
    """Return the index of the encoder in use; None if all embeddings must be compared.

    Parameters
    ----------
    project : ProjectContext
    session : Session

    Returns
    -------
    EmbeddingIndex or None
    """
    newest = db.embeddings.newest_embedding_id(session)
    exact_below = project.settings.search.exact_below
    if newest < exact_below:
        return None
    index, reason = open_index(project, session)
    if index is None and (
        db.embeddings.count_embeddings(session, project.encoder.fingerprint) >= exact_below
    ):
        logger.warning("searched without an index", extra={"why": reason, "made_by": "qc db index"})
    return index


def open_index(
    project: ProjectContext, session: Session
) -> tuple[index_file.EmbeddingIndex | None, str]:
    """Open the index of the encoder in use.

    Parameters
    ----------
    project : ProjectContext
    session : Session

    Returns
    -------
    index : EmbeddingIndex or None
    reason : str
        Reason why there is none.
    """
    path = index_path(project)
    try:
        status = path.stat()
        index = _read_cached(path, status.st_ino, status.st_size, status.st_mtime_ns)
    except FileNotFoundError:
        return None, "there was none yet"
    except index_file.DamagedIndexError as error:
        return None, f"it was damaged: {error}"
    if index.header.fingerprint != project.encoder.fingerprint:
        return None, f"it was of another encoder, {index.header.fingerprint}"
    expected = dict(index.header.samples)
    stored = db.embeddings.embeddings_by_id(session, list(expected))
    digests = {number: index_file.vector_digest(vector) for number, vector in stored.items()}
    if digests != expected:
        return None, "it was of another database, or an older state of this one"
    return index, ""


@functools.lru_cache(maxsize=2)
def _read_cached(
    path: Path, _inode: int, _size: int, _modified_ns: int
) -> index_file.EmbeddingIndex:
    return index_file.read_index(path)


def index_path(project: ProjectContext) -> Path:
    """Return the path of the index of the encoder in use."""
    name = sha256(project.encoder.fingerprint.encode()).hexdigest()[:16]
    return project.settings.project / FOLDER / f"{name}.index"


def find_candidates(
    project: ProjectContext,
    session: Session,
    index: index_file.EmbeddingIndex,
    query: Floats,
    k: int,
    criteria: db.embeddings.EmbeddingFilter,
) -> list[int]:
    """Return the extensions that may be nearest, oldest first.

    Parameters
    ----------
    project : ProjectContext
    session : Session
    index : EmbeddingIndex
    query : (d,) float array
    k : int
        Number of neighbours.
    criteria : EmbeddingFilter
        Extensions to search.

    Returns
    -------
    list of int
        Ids of extensions.
    """
    frame_id = criteria.left_out
    left_out = db.extensions.extension_ids_of(session, frame_id) if frame_id else []
    n = _CANDIDATES + _CANDIDATES_PER_NEIGHBOUR * k + len(left_out)
    [code] = index.axes.encode(query[np.newaxis])
    rows = index.codes.candidates(code, n, matching_rows(project, session, index, criteria))
    ids = index.extension_ids[rows].tolist()
    excluded = set(left_out)
    return [number for number in ids if number not in excluded]


def matching_rows(
    project: ProjectContext,
    session: Session,
    index: index_file.EmbeddingIndex,
    criteria: db.embeddings.EmbeddingFilter,
) -> NDArray[np.bool_] | None:
    """Return the rows of an index that meet some criteria.

    Parameters
    ----------
    project : ProjectContext
    session : Session
    index : EmbeddingIndex
        Of n embeddings.
    criteria : EmbeddingFilter

    Returns
    -------
    (n,) bool array or None
        None for all.
    """
    masks: list[NDArray[np.bool_]] = []
    header = index.header
    if criteria.image_types is not None:
        matches = np.array([name in criteria.image_types for name in header.image_types], bool)
        masks.append(matches[index.types])
    if criteria.first is not None:
        masks.append(index.nights >= criteria.first.toordinal())
    if criteria.last is not None:
        masks.append((index.nights <= criteria.last.toordinal()) & (index.nights > 0))
    if criteria.labelled:
        state = (db.labels.newest_label_id(session), header.last_id, header.learnt_from)
        make = functools.partial(labelled_rows, session, index.extension_ids)
        masks.append(project.cache.get("labelled rows", state, make))
    return np.logical_and.reduce(masks) if masks else None


def labelled_rows(session: Session, extension_ids: Integers) -> NDArray[np.bool_]:
    """Return which extensions have a label.

    Parameters
    ----------
    session : Session
    extension_ids : (n,) int array

    Returns
    -------
    (n,) bool array
    """
    is_labelled = np.zeros(int(extension_ids.max(initial=0)) + 1, bool)
    ids = np.array(db.labels.labelled_extension_ids(session), np.int64)
    is_labelled[ids[ids < len(is_labelled)]] = True
    return is_labelled[extension_ids]


def read_vectors(
    session: Session, fingerprint: str, extension_ids: list[int]
) -> Iterator[tuple[Integers, Floats]]:
    """Yield the embeddings of some extensions as one block, without deleted ones.

    Parameters
    ----------
    session : Session
    fingerprint : str
        Of the encoder.
    extension_ids : list of int

    Yields
    ------
    ids : (n,) int array
    vectors : (n, d) float array
    """
    stored = db.embeddings.vectors_of(session, fingerprint, extension_ids)
    ids = [number for number in extension_ids if number in stored]
    if ids:
        yield np.array(ids, np.int64), np.stack([stored[number] for number in ids])


# --- building the index ---------------------------------------------------------------------------


def refresh_index(project: ProjectContext, report: Report, *, few: int = 0) -> str:
    """Build the index, update it, or leave it unchanged.

    A lock allows one process at a time; other processes wait and find the index up to date.
    Searches use the previous index meanwhile, if there is one.

    Parameters
    ----------
    project : ProjectContext
    report : callable
        Receives the step, the number of finished items and their total.
    few : int
        Number of embeddings that may be newer than the index.

    Returns
    -------
    str
        Result, in words.
    """
    if has_vector_search(project.engine):
        return pgvector.index_vectors(project.engine, project.encoder.fingerprint)
    fingerprint = project.encoder.fingerprint
    path = index_path(project)
    with project.read_session() as session:
        n = db.embeddings.count_embeddings(session, fingerprint)
    if n < project.settings.search.exact_below:
        return f"{n} embeddings are searched exactly, without an index"
    path.parent.mkdir(exist_ok=True)
    with file_lock(path.parent / "lock"), project.read_session() as session:
        old, reason = open_index(project, session)
        if old is not None:
            reason = rebuild_reason(session, old)
        if old is None or reason:
            return build_index(project, session, path, report, reason)
        newer = db.embeddings.count_embeddings(session, fingerprint) - len(old.codes)
        if newer <= few:
            return f"the index of {len(old.codes)} embeddings is up to date"
        return extend_index(session, path, old, report)


def rebuild_reason(session: Session, index: index_file.EmbeddingIndex) -> str:
    """Return the reason to build an index anew; empty if it is usable.

    Parameters
    ----------
    session : Session
    index : EmbeddingIndex

    Returns
    -------
    str
    """
    header, n = index.header, len(index.codes)
    stored = db.embeddings.count_embeddings(session, header.fingerprint, header.last_id)
    if stored != n:
        return f"of its {n} embeddings {stored} are there"
    if db.embeddings.count_embeddings(session, header.fingerprint) > 2 * header.learnt_from:
        return f"it was learnt from {header.learnt_from} embeddings, and there are twice as many"
    return ""


def build_index(
    project: ProjectContext, session: Session, path: Path, report: Report, reason: str
) -> str:
    """Learn new axes and index all embeddings of the encoder in use.

    Parameters
    ----------
    project : ProjectContext
    session : Session
    path : Path
    report : callable
    reason : str
        For the log and the result.

    Returns
    -------
    str
        Result, in words.

    Raises
    ------
    InvalidInputError
        If there are no embeddings.
    """
    fingerprint = project.encoder.fingerprint
    total = db.embeddings.count_embeddings(session, fingerprint)
    logger.warning("search index is made", extra={"why": reason, "embeddings": total})
    groups = []
    types = db.extensions.list_image_types(session)
    for number, image_type in enumerate(types, 1):
        group = db.embeddings.sample_embeddings(session, fingerprint, image_type, _AXES_SAMPLE)
        groups += [group] if len(group) else []
        report("learn axes", number, len(types))
    if not groups:
        raise errors.InvalidInputError(
            f"there are no embeddings of the encoder in use, {fingerprint}"
        )
    axes = arrays.learn_axes(groups)
    empty = index_file.EmbeddingIndex(
        header=index_file.IndexHeader(fingerprint, 0, total, (), ()),
        axes=axes,
        extension_ids=np.empty(0, np.int64),
        types=np.empty(0, np.uint16),
        nights=np.empty(0, np.int32),
        codes=arrays.Codes.empty(len(axes.directions) + 1),
    )
    extend_index(session, path, empty, report)
    return f"the index was made, as {reason}: {total} embeddings"


def extend_index(
    session: Session, path: Path, old: index_file.EmbeddingIndex, report: Report
) -> str:
    """Write an index with the newer embeddings added.

    Parameters
    ----------
    session : Session
    path : Path
    old : EmbeddingIndex
    report : callable

    Returns
    -------
    str
        Result, in words.
    """
    header, codes = old.header, old.codes.copy()
    names = {name: number for number, name in enumerate(header.image_types)}
    total = db.embeddings.count_embeddings(session, header.fingerprint)
    ids, types, nights = [old.extension_ids], [old.types], [old.nights]
    last_id, before = header.last_id, len(codes)
    for batch in db.embeddings.iterate_batches(session, header.fingerprint, header.last_id):
        codes.add(old.axes.encode(batch.vectors))
        numbers = [names.setdefault(name, len(names)) for name in batch.image_types]
        ids.append(batch.extension_ids)
        types.append(np.array(numbers, np.uint16))
        nights.append(batch.nights)
        last_id = int(batch.ids[-1])
        report("index embeddings", len(codes), total)
    extension_ids = np.concatenate(ids)
    index = index_file.EmbeddingIndex(
        header=index_file.IndexHeader(
            fingerprint=header.fingerprint,
            last_id=last_id,
            learnt_from=header.learnt_from,
            image_types=tuple(names),
            samples=sample_digests(session, header.fingerprint, extension_ids),
        ),
        axes=old.axes,
        extension_ids=extension_ids,
        types=np.concatenate(types),
        nights=np.concatenate(nights),
        codes=codes,
    )
    index_file.write_index(index, path)
    return f"{len(codes) - before} embeddings were added to the index of {before}"


def sample_digests(
    session: Session, fingerprint: str, extension_ids: Integers
) -> tuple[tuple[int, str], ...]:
    """Return ids and digests of some embeddings, evenly from the first to the last.

    Parameters
    ----------
    session : Session
    fingerprint : str
        Of the encoder.
    extension_ids : (n,) int array

    Returns
    -------
    tuple of (int, str)
    """
    rows = np.unique(np.linspace(0, len(extension_ids) - 1, _SAMPLES).astype(int))
    stored = db.embeddings.embeddings_of(session, fingerprint, extension_ids[rows].tolist())
    return tuple((number, index_file.vector_digest(vector)) for number, vector in stored.items())
