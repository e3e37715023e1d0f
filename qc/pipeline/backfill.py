"""The pipeline over an archive: measured newest first, by all hands; judged in order of time.

What is newest is looked at first by people too, and reading is what takes long; but a frame is
judged by the nights before its own. So every frame is first measured, embedded and recorded
without a verdict, in whatever order it comes back; then the verdicts follow, night after night,
the same as if the frames had come one by one as they were taken. Both halves go on where they
were stopped: what is recorded is not read again, and what has a verdict is not judged again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from os.path import commonpath
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from qc import db
from qc._files import printable, told_time
from qc.core.enums import FrameState, LabelName
from qc.core.measurement import FileInfo
from qc.errors import FrameError, InboxUnavailableError, UnsupportedFrameError
from qc.io.remote import RemoteFile, RemoteFolder
from qc.pipeline.dask_workers import EmbeddedFrame, UnreadFile, WorkerConfig, take_in
from qc.pipeline.process import (
    OF_NO_FILE,
    ProcessingOutcome,
    by_frame,
    embed_measured,
    fault_words,
    find_frames,
    recognise_unread,
    record_fault,
    record_unprocessed,
    with_limits,
)
from qc.pipeline.readers import FrameReading, ReaderPool, RemoteFileInfo, workers_for
from qc.project import Project
from qc.settings import InboxSettings


def find_archive(places: Iterable[str], project: Project) -> list[FileInfo]:
    """Return the FITS files at some paths and addresses, newest first.

    Their names tell when they were taken, or else their dates on disk.

    Parameters
    ----------
    places : iterable of str
        Files, folders, or addresses that fsspec knows, like ``s3://bucket/raw``; what lies in the
        bucket or on the host of an inbox of the settings is read with that inbox's options.

    Raises
    ------
    UnreadableFrame
        If a path does not exist.
    InboxAway
        If a store does not answer.
    """
    found: list[FileInfo] = []
    for place in places:
        if "://" in place:
            found += _distant(place, project)
        else:
            found += [_file(path) for path in find_frames([Path(place)])]
    return sorted({one.path: one for one in found}.values(), key=_taken_at, reverse=True)


def _file(path: Path) -> FileInfo:
    path = printable(path)
    try:
        status = path.stat()
    except OSError:  # reading it will say why
        return FileInfo(path, 0, 0)
    return FileInfo(path, status.st_size, status.st_mtime_ns)


def _distant(address: str, project: Project) -> Iterator[FileInfo]:
    options = _options_for(address, project.settings.inbox)
    store = RemoteFolder(address, options)
    folder = project.settings.fetched_folder / store.folder_name
    try:
        for one in store.objects():
            known = one if one.version else store.completed(one)
            if known is not None and known.is_safe:
                yield _distant_file(folder, address, options, known)
    finally:
        store.close()


def _options_for(address: str, inboxes: Iterable[InboxSettings]) -> dict[str, Any]:
    """Return how a store is reached: as the inbox there that has most of the address in common."""
    there = [one for one in inboxes if _root(one.path) == _root(address)]
    nearest = max(there, key=lambda one: len(commonpath([one.path, address])), default=None)
    return nearest.options if nearest else {}


def _root(address: str) -> str:
    """Return protocol and bucket, or host: ``s3://bucket``."""
    return "/".join(address.split("/")[:3])


def _distant_file(folder: Path, address: str, options: dict[str, Any], one: RemoteFile) -> FileInfo:
    assert one.version is not None  # it was asked for
    return RemoteFileInfo(folder / one.relative, *one.version, address, options, one)


def _taken_at(file: FileInfo) -> tuple[datetime, str]:
    changed = datetime.fromtimestamp(file.modified_ns // 10**9, UTC)
    return told_time(file.path.name) or changed, file.path.name


def measure_archive(
    files: Sequence[FileInfo],
    project: Project,
    label: LabelName | None = None,
    client: Any = None,
) -> Iterator[ProcessingOutcome]:
    """Measure, embed and record files without a verdict, in whatever order they come back.

    Parameters
    ----------
    client : distributed.Client, optional
        Of the cluster whose workers do it; without one, processes beside this one read.

    Yields
    ------
    Outcome
        One for each file, when it is recorded.

    Raises
    ------
    ClusterGone
        If the cluster's scheduler does not answer any more.
    """
    known: deque[ProcessingOutcome] = deque()
    new = _unknown(files, known, project, label)
    batches = _by_processes(new, len(files), project)
    if client is not None:
        kit = WorkerConfig(project.instruments, project.encoder, project.encoder.fingerprint)
        batches = take_in(new, client, kit, project.settings.batch_frames)
    for batch in batches:
        yield from _all_of(known)
        yield from _record(batch, project, label)
    yield from _all_of(known)


def _all_of(known: deque[ProcessingOutcome]) -> Iterator[ProcessingOutcome]:
    while known:
        yield known.popleft()


def _unknown(
    files: Iterable[FileInfo],
    known: deque[ProcessingOutcome],
    project: Project,
    label: LabelName | None,
) -> Iterator[FileInfo]:
    """Yield the files that are to be read; leave the others in `known`."""
    for file in files:
        if recognise_unread(file, project, label):
            known.append(ProcessingOutcome(file.path, FrameState.KNOWN))
        else:
            yield file


# --- by processes beside this one ----------------------------------------------------------------


def _by_processes(
    files: Iterator[FileInfo], most: int, project: Project
) -> Iterator[list[EmbeddedFrame | UnreadFile]]:
    size = project.settings.batch_frames
    with ReaderPool(project.instruments, workers_for(most, project.settings.workers)) as readers:
        read = _readings(files, readers, readers.ahead and readers.ahead + size)
        while batch := list(islice(read, size)):
            unread = [one for one in batch if isinstance(one, UnreadFile)]
            yield [
                *_embedded([one for one in batch if isinstance(one, FrameReading)], project),
                *unread,
            ]


def _readings(
    files: Iterator[FileInfo], readers: ReaderPool, ahead: int
) -> Iterator[FrameReading | UnreadFile]:
    begun: deque[tuple[FileInfo, Callable[[], FrameReading]]] = deque()
    for file in files:
        begun.append((file, readers.begin(file)))
        if len(begun) > ahead:
            yield _finish(*begun.popleft())
    while begun:
        yield _finish(*begun.popleft())


def _finish(file: FileInfo, reading: Callable[[], FrameReading]) -> FrameReading | UnreadFile:
    try:
        return reading()
    except UnsupportedFrameError as error:
        return UnreadFile(file, FrameState.SKIPPED, str(error))
    except (FrameError, InboxUnavailableError) as error:
        return UnreadFile(file, FrameState.FAILED, str(error))
    except OF_NO_FILE:
        raise
    except Exception as error:  # noqa: BLE001 - told in full, and the file is on record
        return UnreadFile(file, FrameState.FAILED, fault_words(file, error))


def _embedded(
    readings: Sequence[FrameReading], project: Project
) -> Iterator[EmbeddedFrame | UnreadFile]:
    measured = [one.measured for one in readings]
    try:
        embeddings = embed_measured([one for each in measured for one in each], project.encoder)
    except OF_NO_FILE:
        raise
    except Exception as error:  # noqa: BLE001 - told in full once it is known whose it is
        if len(readings) == 1:
            file = readings[0].file
            yield UnreadFile(file, FrameState.FAILED, fault_words(file, error))
            return
        for one in readings:
            yield from _embedded([one], project)
        return
    if readings:
        yield from map(EmbeddedFrame, readings, by_frame(embeddings, measured))


# --- recorded ------------------------------------------------------------------------------------


def _record(
    batch: Sequence[EmbeddedFrame | UnreadFile], project: Project, label: LabelName | None
) -> Iterator[ProcessingOutcome]:
    """Keep a batch in one transaction; what cannot be kept with the others is kept apart."""
    taken: list[EmbeddedFrame] = []
    for one in batch:
        refused = _refusal(one, project)
        if refused is None:
            assert isinstance(one, EmbeddedFrame)  # nothing else is not refused
            taken.append(one)
        else:
            yield record_unprocessed(refused.file, refused.state, refused.reason, project)
    yield from _record_taken(taken, project, label)


def _refusal(one: EmbeddedFrame | UnreadFile, project: Project) -> UnreadFile | None:
    """Return why nothing can come of a file, if so: it was not read, or there are no limits."""
    if isinstance(one, UnreadFile):
        return one
    try:
        with_limits(one.reading, project)
    except FrameError as error:
        return UnreadFile(one.reading.file, FrameState.FAILED, str(error))
    return None


def _record_taken(
    taken: Sequence[EmbeddedFrame], project: Project, label: LabelName | None
) -> Iterator[ProcessingOutcome]:
    try:
        with project.writes.begin() as session:
            outcomes = [_record_one(session, one, project, label) for one in taken]
    except (OperationalError, *OF_NO_FILE):
        raise
    except Exception as error:  # noqa: BLE001 - told in full once it is known whose it is
        if len(taken) == 1:
            yield record_fault(taken[0].reading.file, error, project)
            return
        for one in taken:
            yield from _record_taken([one], project, label)
        return
    yield from outcomes


def _record_one(
    session: Session, one: EmbeddedFrame, project: Project, label: LabelName | None
) -> ProcessingOutcome:
    reading = one.reading
    pairs = list(zip(reading.measured, one.embeddings, strict=True))
    is_new = db.recording.record_measured(
        session, reading.file, reading.frame, pairs, encoder=project.encoder, label=label
    )
    return ProcessingOutcome(
        reading.file.path, FrameState.PROCESSED if is_new else FrameState.KNOWN
    )
