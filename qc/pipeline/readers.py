"""Files to numbers: read, and reduced to block statistics and detector numbers.

In this process, or in others beside it: of a full-size frame it is most of the work, and the
encoder can go on meanwhile. What comes back from another process is small, a megabyte of a
frame of seventy.
"""

import ctypes
import hashlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import numpy as np

from embeddings.preprocess import GRID, block_statistics
from qc.core.frame import Extension, Frame
from qc.core.measurement import FileInfo, Measurement
from qc.detection.metrics import measure
from qc.errors import DeadDetectorError, FrameError, ShapeMismatchError, UnreadableFrameError
from qc.io.instruments import Instrument
from qc.io.read_frame import read_frame
from qc.io.remote import RemoteFile, RemoteFolder

logger = logging.getLogger(__name__)

_BRIGHTEST_ADU = 1e12  # beyond it squares overflow float32; no detector has a millionth of it
_AHEAD = 2  # files a process has in hand: one it reads, and the next
_WORTH_STARTING = 64  # files; starting a process costs as much as reading three or four


@dataclass(frozen=True)
class FrameReading:
    """A frame that has been read; `frame` has lost its pixels.

    Attributes
    ----------
    measured : tuple
        One for each extension.
    """

    file: FileInfo
    frame: Frame
    measured: tuple[Measurement, ...]


@dataclass(frozen=True)
class RemoteFileInfo(FileInfo):
    """A file of a store: fetched to be read, and forgotten; `path` is where a copy would lie.

    Attributes
    ----------
    store : str
        The store's address.
    options : mapping
        What fsspec is to be told besides.
    content : Object
        As the store lists it.
    """

    store: str
    options: Mapping[str, Any]
    content: RemoteFile


def read_file(file: FileInfo, instruments: Sequence[Instrument]) -> FrameReading:
    """Read a file and reduce each of its images to block statistics and detector numbers.

    Raises
    ------
    FrameError
        If it cannot be read to its end, or is not a frame that can be judged.
    InboxAway
        If it lies in a store that does not give it.
    """
    if isinstance(file, RemoteFileInfo):
        return _read_distant(file, instruments)
    return reduce_frame(file, read_frame(file.path, instruments))


def _read_distant(file: RemoteFileInfo, instruments: Sequence[Instrument]) -> FrameReading:
    store = RemoteFolder(file.store, file.options)
    with TemporaryDirectory(prefix="qc-") as folder:
        copy = Path(folder) / file.path.name
        try:
            if not store.fetch(file.content, copy):
                raise UnreadableFrameError(f"{file.path}: it has gone from {store.name}")
            frame = read_frame(copy, instruments)
        except FrameError as error:
            raise type(error)(str(error).replace(str(copy), str(file.path))) from None
        finally:
            store.close()
        own = FileInfo(file.path, file.size_bytes, file.modified_ns)
        return reduce_frame(own, replace(frame, path=file.path))


def reduce_frame(file: FileInfo, frame: Frame) -> FrameReading:
    """Reduce each image of a frame to block statistics and detector numbers.

    Raises
    ------
    FrameError
        If one is not an image that can be judged.
    """
    try:
        for extension in frame.extensions:
            _check_measurable(extension)
    except FrameError as error:
        raise type(error)(f"{file.path}: {error}") from None
    measured = tuple(_measure(extension) for extension in frame.extensions)
    return FrameReading(file, replace(frame, extensions=()), measured)


def _check_measurable(extension: Extension) -> None:
    """Refuse what would stop the night, or go through it as infinity."""
    ny, nx = extension.pixels.shape
    if ny < GRID[0] or nx < GRID[1]:
        raise ShapeMismatchError(f"expected at least {GRID[0]}x{GRID[1]} pixels, got {ny}x{nx}")
    highest = max(abs(float(extension.pixels.min())), abs(float(extension.pixels.max())))
    if highest / (extension.promised_light or 1) > _BRIGHTEST_ADU:
        raise DeadDetectorError(
            f"expected pixels of a detector, got up to {highest:.3g} ADU at "
            f"{extension.promised_light:.3g} of the standard exposure"
        )


def _measure(extension: Extension) -> Measurement:
    return Measurement(
        number=extension.number,
        setup=extension.setup,
        shape=extension.pixels.shape,
        light=extension.light,
        frame_class=extension.frame_class,
        zero_adu=extension.detector.bias_adu,
        gain_e_per_adu=extension.detector.gain_e_per_adu,
        read_noise_adu=extension.detector.read_noise_adu,
        stretch_adu=extension.stretch_adu,
        promised_light=extension.promised_light,
        limits=extension.limits,
        statistics=block_statistics(extension.pixels),
        metrics=measure(extension),
        pixels_sha256=hashlib.sha256(np.ascontiguousarray(extension.pixels).data).hexdigest(),
    )


# --- other processes -----------------------------------------------------------------------------


def cores() -> int:
    """Return how many processor cores this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def workers_for(files: int, wanted: int | None) -> int:
    """Return how many processes should read so many files: none where starting them costs more.

    Parameters
    ----------
    wanted : int or None
        What a person has set; None leaves it to us.
    """
    if wanted is not None:
        return wanted
    return cores() if files >= _WORTH_STARTING else 0


class ReaderPool:
    """Processes that read and measure files; or with none, this one.

    They are spawned when the first file is given to them, and end with the block, or with the
    process that began it, however that ends. A script that uses them must guard its own start
    with ``__name__ == "__main__"``.

    Attributes
    ----------
    ahead : int
        How many files it pays to `begin` before the first is waited for.
    """

    def __init__(self, instruments: Sequence[Instrument], workers: int) -> None:
        self.ahead = _AHEAD * workers
        self._instruments = tuple(instruments)
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._alone: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._workers:  # a run over many files, whose every batch needs the memory of the last
            _keep_freed_memory()
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

    def begin(self, file: FileInfo) -> Callable[[], FrameReading]:
        """Have a file read; what is returned waits for it, and raises what the reading raised.

        A process that dies over it is replaced, and every file that it may have had in hand is
        read once more, alone: the one that kills again raises `UnreadableFrame`.
        """
        if not self._workers:
            return lambda: read_file(file, self._instruments)
        pool = self._pool = self._pool or _spawned(self._workers, self._instruments)
        try:
            future = pool.submit(_read_here, file)
        except BrokenProcessPool:  # before anybody has waited for what it had in hand
            return lambda: self._read_alone(file)
        return lambda: self._wait(file, future, pool)

    def _wait(
        self, file: FileInfo, future: Future[FrameReading], pool: ProcessPoolExecutor
    ) -> FrameReading:
        try:
            return future.result()
        except BrokenProcessPool:
            if pool is self._pool:
                logger.warning("a reading process died", extra={"frame": file.path.name})
                self._pool = None
            return self._read_alone(file)

    def _read_alone(self, file: FileInfo) -> FrameReading:
        self._alone = self._alone or _spawned(1, self._instruments)
        try:
            return self._alone.submit(_read_here, file).result()
        except BrokenProcessPool:
            self._alone = None
            raise UnreadableFrameError(
                f"{file.path}: the process that read it died, twice: it was killed, for want of "
                "memory perhaps, or the file crashes what decompresses it"
            ) from None


def _spawned(workers: int, instruments: tuple[Instrument, ...]) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork of a process with TensorFlow's threads may hang.
    return ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_start_worker, initargs=(instruments,)
    )


_known_instruments: tuple[Instrument, ...] = ()  # of a worker process, set once when it starts


def _start_worker(instruments: tuple[Instrument, ...]) -> None:
    global _known_instruments  # noqa: PLW0603 - what an initializer leaves for the tasks
    _known_instruments = instruments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who waits for us
    _keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _keep_freed_memory() -> None:
    """Let the memory of one frame serve for the next in this process, if its C library can do so.

    glibc gives large blocks back at once, and the kernel clears each page anew: of a full-size
    frame 15 000, an eighth of the time that reading takes, and more where two processes do.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _BEYOND_ANY_FRAME)
        mallopt(_TRIM_THRESHOLD, _BEYOND_ANY_FRAME)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
_BEYOND_ANY_FRAME = 2**30  # bytes


def _end_with_parent() -> None:
    """Leave when the process that spawned this one has gone, even if it was killed."""
    parent = parent_process()
    assert parent is not None  # a worker has one
    connection.wait([parent.sentinel])
    os._exit(1)


def _read_here(file: FileInfo) -> FrameReading:
    return read_file(file, _known_instruments)
