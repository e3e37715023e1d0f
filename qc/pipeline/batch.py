"""Processing of many files in batches."""

from collections import abc, deque
from itertools import groupby
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from qc import _files, core, detection, errors
from qc.db.references import PendingNight
from qc.detection.embedding import split_by_frame
from qc.pipeline import outcomes, process, readers
from qc.project import ProjectContext


def find_frames(paths: abc.Iterable[Path]) -> list[Path]:
    """Return the given files and the FITS files below the given folders, without duplicates.

    Raises
    ------
    UnreadableFrameError
        If a path does not exist.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += [
                file
                for file in path.rglob("*")
                if _files.is_fits_name(file.name) and file.is_file()
            ]
        elif path.exists():
            files.append(path)
        else:
            raise errors.UnreadableFrameError(f"{path}: no such file or folder")
    return list(dict.fromkeys(files))


def process_frames(
    paths: abc.Iterable[Path], project: ProjectContext, label: core.LabelName | None = None
) -> abc.Iterator[outcomes.ProcessingOutcome]:
    """Process many files in order of their names, in an ESO archive the order of time.

    Files that were processed before are not read. A file that cannot be judged is recorded with
    the reason. Many files are read by reader processes: decision 0092; the verdicts and their
    order are the same.

    Parameters
    ----------
    paths : iterable of Path
        FITS files.
    project : ProjectContext
    label : LabelName, optional
        Label of all frames; existing labels stay.

    Yields
    ------
    ProcessingOutcome
        One for each path, when it is stored.
    """
    project.load_files()
    ordered = sorted(paths, key=lambda path: (path.name, path))
    batch: list[process.MeasuredFrame] = []
    for result in read_frames(ordered, project, label):
        if isinstance(result, outcomes.ProcessingOutcome):
            yield result
            continue
        batch.append(result)
        if len(batch) == project.settings.batch_frames:
            yield from judge_batch(batch, project, label)
            batch = []
    yield from judge_batch(batch, project, label)


def read_frames(
    paths: abc.Sequence[Path], project: ProjectContext, label: core.LabelName | None
) -> abc.Iterator[process.MeasuredFrame | outcomes.ProcessingOutcome]:
    """Read and measure files in their order.

    Parameters
    ----------
    paths : sequence of Path
    project : ProjectContext
    label : LabelName or None
        Label of frames that are already recorded.

    Yields
    ------
    MeasuredFrame or ProcessingOutcome
        Outcome of a known, skipped or failed file, which is recorded.
    """
    workers = readers.workers_for(len(paths), project.settings.workers)
    with readers.ReaderPool(project.instruments, workers) as pool:
        # The next batch is read while a batch is judged; the sum bounds the memory.
        ahead = pool.ahead and pool.ahead + project.settings.batch_frames
        pending: deque[abc.Callable[[], process.MeasuredFrame | outcomes.ProcessingOutcome]] = (
            deque()
        )
        for path in paths:
            pending.append(begin_reading(path, pool, project, label))
            if len(pending) > ahead:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()


def begin_reading(
    path: Path, pool: readers.ReaderPool, project: ProjectContext, label: core.LabelName | None
) -> abc.Callable[[], process.MeasuredFrame | outcomes.ProcessingOutcome]:
    """Begin to read a file, unless it is known.

    Parameters
    ----------
    path : Path
    pool : ReaderPool
    project : ProjectContext
    label : LabelName or None

    Returns
    -------
    callable
        Waits for the result and returns it.
    """
    file = core.FileInfo(_files.resolve_path(path), 0, 0)
    try:
        file = process.inspect_file(file.path)
    except errors.FrameError as error:
        failed = core.FrameState.FAILED
        outcome = outcomes.record_unprocessed(file, failed, str(error), project)
        return lambda: outcome
    if outcomes.is_file_known(file, project, label):
        return lambda: outcomes.ProcessingOutcome(file.path, core.FrameState.KNOWN)
    reading = pool.begin(file)
    return lambda: finish_reading(file, reading, project, label)


def finish_reading(
    file: core.FileInfo,
    reading: abc.Callable[[], readers.FrameReading],
    project: ProjectContext,
    label: core.LabelName | None,
) -> process.MeasuredFrame | outcomes.ProcessingOutcome:
    """Wait for a file that is being read; record a failure.

    Parameters
    ----------
    file : FileInfo
    reading : callable
        Waits for the reading.
    project : ProjectContext
    label : LabelName or None

    Returns
    -------
    MeasuredFrame or ProcessingOutcome
        Outcome of a known, skipped or failed file.
    """
    try:
        result = reading()
        if outcomes.is_frame_known(result.file, result.frame.sha256, project, label):
            return outcomes.ProcessingOutcome(file.path, core.FrameState.KNOWN)
        return process.add_thresholds(result, project)
    except errors.FrameError as error:
        is_unsupported = isinstance(error, errors.UnsupportedFrameError)
        state = core.FrameState.SKIPPED if is_unsupported else core.FrameState.FAILED
        return outcomes.record_unprocessed(file, state, str(error), project)
    except (DBAPIError, *outcomes.FATAL_ERRORS):
        raise
    except Exception as error:  # noqa: BLE001 - recorded, and logged with its traceback
        return outcomes.record_program_error(file, error, project)


def judge_batch(
    frames: abc.Sequence[process.MeasuredFrame],
    project: ProjectContext,
    label: core.LabelName | None,
) -> abc.Iterator[outcomes.ProcessingOutcome]:
    """Judge and record a batch; isolate a frame that causes a program error.

    Parameters
    ----------
    frames : sequence of MeasuredFrame
    project : ProjectContext
    label : LabelName or None

    Yields
    ------
    ProcessingOutcome
        One for each frame.
    """
    done = 0
    try:
        for outcome in judge_nights(frames, project, label):
            done += 1
            yield outcome
    except (DBAPIError, *outcomes.FATAL_ERRORS):
        raise
    except Exception as error:  # noqa: BLE001 - recorded and logged for the frame that causes it
        remaining = frames[done:]
        if len(remaining) == 1:
            yield outcomes.record_program_error(remaining[0].file, error, project)
            return
        for frame in remaining:
            yield from judge_batch([frame], project, label)


def judge_nights(
    frames: abc.Sequence[process.MeasuredFrame],
    project: ProjectContext,
    label: core.LabelName | None,
) -> abc.Iterator[outcomes.ProcessingOutcome]:
    """Embed a batch at once; judge and record it night by night.

    Frames of one night are no references of each other, so that one transaction records them all.
    Frames of the next night find them as references.

    Parameters
    ----------
    frames : sequence of MeasuredFrame
    project : ProjectContext
    label : LabelName or None

    Yields
    ------
    ProcessingOutcome
        One for each frame.
    """
    if not frames:
        return
    measurements = [frame.measurements for frame in frames]
    flat = [measurement for frame in measurements for measurement in frame]
    embeddings = split_by_frame(detection.embed(flat, project.encoder), measurements)
    pairs = zip(frames, embeddings, strict=True)
    for _, pairs_of_night in groupby(pairs, lambda pair: pair[0].frame.night):
        night = PendingNight()
        judged = [
            (frame, process.judge_frame(frame, vectors, project, night))
            for frame, vectors in pairs_of_night
        ]
        yield from process.record(judged, project, label)
