"""Reading and measuring of files, in this process or in reader processes.

Reading takes most of the time of a full-size frame: decision 0092. A reader process returns the
measurements only, 1 MB for a frame of 70 MB.
"""

import ctypes
import dataclasses
import logging
import os
import signal
import threading
from collections import abc
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from qc import core, detection, errors
from qc.io import remote
from qc.io.frame_reader import read_frame
from qc.io.instruments import Instrument

logger = logging.getLogger(__name__)

_FILES_PER_PROCESS = 2  # one in work, and the next
_WORTH_STARTING = 64  # files; the start of a process takes as long as reading three or four
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers in malloc.h
_ABOVE_ANY_FRAME = 2**30  # bytes


@dataclasses.dataclass(frozen=True)
class FrameReading:
    """Frame that was read and measured.

    Attributes
    ----------
    file : FileInfo
    frame : Frame
        Frame without its extensions.
    measurements : tuple of Measurement
        One for each extension.
    """

    file: core.FileInfo
    frame: core.Frame
    measurements: tuple[core.Measurement, ...]


@dataclasses.dataclass(frozen=True)
class RemoteFileInfo(core.FileInfo):
    """File of a remote storage, fetched to be read and deleted; `path` would be its local copy.

    Attributes
    ----------
    store : str
        Address of the storage.
    options : mapping
        Options of fsspec.
    content : RemoteFile
        Entry in the listing of the storage.
    """

    store: str
    options: abc.Mapping[str, Any]
    content: remote.RemoteFile


def read_file(file: core.FileInfo, instruments: abc.Sequence[Instrument]) -> FrameReading:
    """Read a file and measure each extension.

    Parameters
    ----------
    file : FileInfo
    instruments : sequence of Instrument

    Returns
    -------
    FrameReading

    Raises
    ------
    FrameError
        If the file cannot be read or measured.
    InboxUnavailableError
        If the remote storage does not respond.
    """
    if isinstance(file, RemoteFileInfo):
        return read_remote_file(file, instruments)
    return reduce_frame(file, read_frame(file.path, instruments))


def read_remote_file(file: RemoteFileInfo, instruments: abc.Sequence[Instrument]) -> FrameReading:
    """Fetch a file of a remote storage, read it and measure each extension.

    Parameters
    ----------
    file : RemoteFileInfo
    instruments : sequence of Instrument

    Returns
    -------
    FrameReading
    """
    store = remote.RemoteFolder(file.store, file.options)
    with TemporaryDirectory(prefix="qc-") as folder:
        copy = Path(folder) / file.path.name
        try:
            if not store.fetch(file.content, copy):
                raise errors.UnreadableFrameError(f"{file.path}: it has gone from {store.name}")
            frame = read_frame(copy, instruments)
        except errors.FrameError as error:
            raise type(error)(str(error).replace(str(copy), str(file.path))) from None
        finally:
            store.close()
        local = core.FileInfo(file.path, file.size_bytes, file.modified_ns)
        return reduce_frame(local, dataclasses.replace(frame, path=file.path))


def reduce_frame(file: core.FileInfo, frame: core.Frame) -> FrameReading:
    """Measure each extension of a frame and drop the pixels.

    Parameters
    ----------
    file : FileInfo
    frame : Frame
        Frame with its pixels.

    Returns
    -------
    FrameReading

    Raises
    ------
    FrameError
        If an extension cannot be measured.
    """
    measurements = detection.measure(frame)
    return FrameReading(file, dataclasses.replace(frame, extensions=()), measurements)


# --- reader processes -----------------------------------------------------------------------------


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def workers_for(files: int, setting: int | None) -> int:
    """Return the number of reader processes.

    Parameters
    ----------
    files : int
        Number of files to read.
    setting : int or None
        Number in the settings; None is automatic.

    Returns
    -------
    int
        0 for few files, because the start of processes would take longer.
    """
    if setting is not None:
        return setting
    return cores() if files >= _WORTH_STARTING else 0


class ReaderPool:
    """Pool of reader processes; without workers, files are read in this process.

    The processes start with the first file, and end with the block or with the parent process. A
    script that uses them must guard its start with ``__name__ == "__main__"``.

    Parameters
    ----------
    instruments : sequence of Instrument
    workers : int
        Number of processes.

    Attributes
    ----------
    ahead : int
        Number of files to `begin` before the first is waited for.
    """

    def __init__(self, instruments: abc.Sequence[Instrument], workers: int) -> None:
        self.ahead = _FILES_PER_PROCESS * workers
        self._instruments = tuple(instruments)
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._alone: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._workers:  # each batch of a long run reuses the memory of the last
            keep_freed_memory()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        for pool in (self._pool, self._alone):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def begin(self, file: core.FileInfo) -> abc.Callable[[], FrameReading]:
        """Begin to read a file; return a function that waits for the reading.

        A process that dies is replaced, and its files are read again, one at a time. A file that
        ends a process twice raises `UnreadableFrameError`.
        """
        if not self._workers:
            return lambda: read_file(file, self._instruments)
        pool = self._pool = self._pool or start_pool(self._workers, self._instruments)
        try:
            future = pool.submit(read_in_worker, file)
        except BrokenProcessPool:  # died before the first wait
            return lambda: self._read_alone(file)
        return lambda: self._wait(file, future, pool)

    def _wait(
        self, file: core.FileInfo, future: Future[FrameReading], pool: ProcessPoolExecutor
    ) -> FrameReading:
        try:
            return future.result()
        except BrokenProcessPool:
            if pool is self._pool:
                logger.warning("a reader process died", extra={"frame": file.path.name})
                self._pool = None
            return self._read_alone(file)

    def _read_alone(self, file: core.FileInfo) -> FrameReading:
        self._alone = self._alone or start_pool(1, self._instruments)
        try:
            return self._alone.submit(read_in_worker, file).result()
        except BrokenProcessPool:
            self._alone = None
            raise errors.UnreadableFrameError(
                f"{file.path}: the process that read it died, twice: it was killed, for want of "
                "memory perhaps, or the file crashes what decompresses it"
            ) from None


def start_pool(workers: int, instruments: tuple[Instrument, ...]) -> ProcessPoolExecutor:
    """Start reader processes.

    Parameters
    ----------
    workers : int
    instruments : tuple of Instrument

    Returns
    -------
    ProcessPoolExecutor
    """
    # Spawned, because a fork of a process with TensorFlow's threads may hang.
    return ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=start_worker, initargs=(instruments,)
    )


_worker_instruments: tuple[Instrument, ...] = ()  # set once in a reader process


def start_worker(instruments: tuple[Instrument, ...]) -> None:
    """Initialise a reader process."""
    global _worker_instruments  # noqa: PLW0603 - an initializer has no other place for its result
    _worker_instruments = instruments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    keep_freed_memory()
    threading.Thread(target=exit_with_parent, daemon=True).start()


def keep_freed_memory() -> None:
    """Keep freed memory in this process, where the C library can.

    glibc returns large blocks to the kernel, which clears each page anew: an eighth of the reading
    time of a full-size frame.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _ABOVE_ANY_FRAME)
        mallopt(_TRIM_THRESHOLD, _ABOVE_ANY_FRAME)


def exit_with_parent() -> None:
    """Exit when the parent process has ended, even if it was killed."""
    parent = parent_process()
    assert parent is not None  # a spawned process has a parent
    connection.wait([parent.sentinel])
    os._exit(1)


def read_in_worker(file: core.FileInfo) -> FrameReading:
    """Read a file in a reader process."""
    return read_file(file, _worker_instruments)
