"""Backfill of an archive: frames are measured in any order, and judged later in order of time.

Decision 0089. `rejudge.judge_pending` gives the verdicts, the same as if the frames had arrived in
order of time. Both steps continue after an interruption: recorded frames are not read again.
"""

from collections import abc, deque
from itertools import islice
from typing import Any

from sqlalchemy.exc import OperationalError

from qc import core, db, detection, errors
from qc.detection.embedding import split_by_frame
from qc.pipeline import dask_workers, outcomes, process, readers
from qc.project import ProjectContext


def measure_archive(
    files: abc.Sequence[core.FileInfo],
    project: ProjectContext,
    label: core.LabelName | None = None,
    client: Any = None,
) -> abc.Iterator[outcomes.ProcessingOutcome]:
    """Measure, embed and record files without a verdict, in any order.

    Parameters
    ----------
    files : sequence of FileInfo
    project : ProjectContext
    label : LabelName, optional
        Label of all frames.
    client : distributed.Client, optional
        Client of the cluster that reads and embeds; without it, reader processes read.

    Yields
    ------
    ProcessingOutcome
        One for each file, when it is recorded.

    Raises
    ------
    ClusterUnavailableError
        If the scheduler of the cluster does not respond.
    """
    known: deque[outcomes.ProcessingOutcome] = deque()
    new = skip_known(files, known, project, label)
    if client is None:
        batches = read_in_processes(new, len(files), project)
    else:
        config = dask_workers.WorkerConfig(
            project.instruments, project.encoder, project.encoder.fingerprint
        )
        batches = dask_workers.read_on_cluster(new, client, config, project.settings.batch_frames)
    for batch in batches:
        while known:
            yield known.popleft()
        yield from record_batch(batch, project, label)
    while known:
        yield known.popleft()


def skip_known(
    files: abc.Iterable[core.FileInfo],
    known: deque[outcomes.ProcessingOutcome],
    project: ProjectContext,
    label: core.LabelName | None,
) -> abc.Iterator[core.FileInfo]:
    """Yield the files that are not recorded.

    Parameters
    ----------
    files : iterable of FileInfo
    known : deque of ProcessingOutcome
        Receives the outcomes of the other files.
    project : ProjectContext
    label : LabelName or None
        Label of recorded frames without one.

    Yields
    ------
    FileInfo
    """
    for file in files:
        if outcomes.is_file_known(file, project, label):
            known.append(outcomes.ProcessingOutcome(file.path, core.FrameState.KNOWN))
        else:
            yield file


# --- reader processes -----------------------------------------------------------------------------


def read_in_processes(
    files: abc.Iterator[core.FileInfo], count: int, project: ProjectContext
) -> abc.Iterator[list[dask_workers.EmbeddedFrame | dask_workers.UnreadFile]]:
    """Read files in reader processes and embed them in this process.

    Parameters
    ----------
    files : iterator of FileInfo
    count : int
        Largest number of files.
    project : ProjectContext

    Yields
    ------
    list of EmbeddedFrame or UnreadFile
        A batch.
    """
    size = project.settings.batch_frames
    workers = readers.workers_for(count, project.settings.workers)
    with readers.ReaderPool(project.instruments, workers) as pool:
        results = read_ahead(files, pool, pool.ahead and pool.ahead + size)
        while batch := list(islice(results, size)):
            readings = [result for result in batch if isinstance(result, readers.FrameReading)]
            unread = [result for result in batch if isinstance(result, dask_workers.UnreadFile)]
            yield [*embed_isolated(readings, project), *unread]


def read_ahead(
    files: abc.Iterator[core.FileInfo], pool: readers.ReaderPool, ahead: int
) -> abc.Iterator[readers.FrameReading | dask_workers.UnreadFile]:
    """Read files in their order, several at once.

    Parameters
    ----------
    files : iterator of FileInfo
    pool : ReaderPool
    ahead : int
        Number of files that are read before the first is waited for.

    Yields
    ------
    FrameReading or UnreadFile
    """
    pending: deque[tuple[core.FileInfo, abc.Callable[[], readers.FrameReading]]] = deque()
    for file in files:
        pending.append((file, pool.begin(file)))
        if len(pending) > ahead:
            yield wait_for_reading(*pending.popleft())
    while pending:
        yield wait_for_reading(*pending.popleft())


def wait_for_reading(
    file: core.FileInfo, reading: abc.Callable[[], readers.FrameReading]
) -> readers.FrameReading | dask_workers.UnreadFile:
    """Wait for a file that is being read.

    Parameters
    ----------
    file : FileInfo
    reading : callable
        Waits for the reading.

    Returns
    -------
    FrameReading or UnreadFile
    """
    try:
        return reading()
    except errors.UnsupportedFrameError as error:
        return dask_workers.UnreadFile(file, core.FrameState.SKIPPED, str(error))
    except (errors.FrameError, errors.InboxUnavailableError) as error:
        return dask_workers.UnreadFile(file, core.FrameState.FAILED, str(error))
    except outcomes.FATAL_ERRORS:
        raise
    except Exception as error:  # noqa: BLE001 - recorded, and logged with its traceback
        reason = outcomes.describe_program_error(file, error)
        return dask_workers.UnreadFile(file, core.FrameState.FAILED, reason)


def embed_isolated(
    readings: abc.Sequence[readers.FrameReading], project: ProjectContext
) -> abc.Iterator[dask_workers.EmbeddedFrame | dask_workers.UnreadFile]:
    """Embed a batch; isolate a frame that causes a program error.

    Parameters
    ----------
    readings : sequence of FrameReading
    project : ProjectContext

    Yields
    ------
    EmbeddedFrame or UnreadFile
        One for each reading.
    """
    measurements = [reading.measurements for reading in readings]
    flat = [measurement for frame in measurements for measurement in frame]
    try:
        embeddings = detection.embed(flat, project.encoder)
    except outcomes.FATAL_ERRORS:
        raise
    except Exception as error:  # noqa: BLE001 - logged for the frame that causes it
        if len(readings) == 1:
            file = readings[0].file
            reason = outcomes.describe_program_error(file, error)
            yield dask_workers.UnreadFile(file, core.FrameState.FAILED, reason)
            return
        for reading in readings:
            yield from embed_isolated([reading], project)
        return
    if readings:
        yield from map(
            dask_workers.EmbeddedFrame, readings, split_by_frame(embeddings, measurements)
        )


# --- recording ------------------------------------------------------------------------------------


def record_batch(
    batch: abc.Sequence[dask_workers.EmbeddedFrame | dask_workers.UnreadFile],
    project: ProjectContext,
    label: core.LabelName | None,
) -> abc.Iterator[outcomes.ProcessingOutcome]:
    """Record a batch: failures one by one, frames in one transaction.

    Parameters
    ----------
    batch : sequence of EmbeddedFrame or UnreadFile
    project : ProjectContext
    label : LabelName or None

    Yields
    ------
    ProcessingOutcome
        One for each file.
    """
    frames: list[dask_workers.EmbeddedFrame] = []
    for result in batch:
        failure = result if isinstance(result, dask_workers.UnreadFile) else None
        if isinstance(result, dask_workers.EmbeddedFrame):
            try:
                process.add_thresholds(result.reading, project)  # frames without limits fail
                frames.append(result)
            except errors.FrameError as error:
                file = result.reading.file
                failure = dask_workers.UnreadFile(file, core.FrameState.FAILED, str(error))
        if failure is not None:
            yield outcomes.record_unprocessed(failure.file, failure.state, failure.reason, project)
    yield from record_frames(frames, project, label)


def record_frames(
    frames: abc.Sequence[dask_workers.EmbeddedFrame],
    project: ProjectContext,
    label: core.LabelName | None,
) -> abc.Iterator[outcomes.ProcessingOutcome]:
    """Record frames in one transaction; isolate a frame that causes a program error.

    Parameters
    ----------
    frames : sequence of EmbeddedFrame
    project : ProjectContext
    label : LabelName or None

    Yields
    ------
    ProcessingOutcome
        One for each frame.
    """
    results = []
    try:
        with project.write_session.begin() as session:
            for frame in frames:
                reading = frame.reading
                is_new = db.recording.record_measurements(
                    session,
                    reading.file,
                    reading.frame,
                    list(zip(reading.measurements, frame.embeddings, strict=True)),
                    encoder=project.encoder,
                    label=label,
                )
                state = core.FrameState.PROCESSED if is_new else core.FrameState.KNOWN
                results.append(outcomes.ProcessingOutcome(reading.file.path, state))
    except (OperationalError, *outcomes.FATAL_ERRORS):
        raise
    except Exception as error:  # noqa: BLE001 - recorded and logged for the frame that causes it
        if len(frames) == 1:
            yield outcomes.record_program_error(frames[0].reading.file, error, project)
            return
        for frame in frames:
            yield from record_frames([frame], project, label)
        return
    yield from results
