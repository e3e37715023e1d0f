"""Files read and embedded by the workers of a Dask cluster, which its owner brings or we begin.

The workers compute and send back; none of them touches the database, so that they need neither
its address nor its password, and SQLite will do. What a worker had in hand when it died is given
to another.
"""

import logging
import pickle
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from socket import gethostname
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.encoder import Encoder, WeightsError
from qc.core.enums import FrameState
from qc.core.measurement import FileInfo
from qc.errors import (
    ClusterUnavailableError,
    ConfigurationError,
    FrameError,
    InboxUnavailableError,
    QCError,
    UnsupportedFrameError,
)
from qc.io.instruments import Instrument
from qc.pipeline.process import by_frame, embed_measured, fault_words
from qc.pipeline.readers import FrameReading, cores, read_file

Floats = NDArray[np.float32]

LOCAL = "local"
_GPU = "GPU"  # what workers that have one are started with: --resources "GPU=1"
_BATCHES_AHEAD = 2  # of each thread of each worker: one in work, one to come
_WAIT_S = 20


@dataclass(frozen=True)
class EmbeddedFrame:
    """A frame that has been read and embedded.

    Attributes
    ----------
    embeddings : (n, d) float32 array
        One for each extension.
    """

    reading: FrameReading
    embeddings: Floats


@dataclass(frozen=True)
class UnreadFile:
    """A file of which nothing could be made, and why."""

    file: FileInfo
    state: FrameState
    reason: str


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs to know."""

    instruments: tuple[Instrument, ...]
    encoder: Encoder
    fingerprint: str


@contextmanager
def open_cluster(address: str) -> Iterator[Any]:
    """Give a client of the cluster at an address, or of one begun here for the while.

    Raises
    ------
    ConfigurationError
        If `distributed` is not installed, or nothing answers at the address.
    """
    if find_spec("distributed") is None:
        raise ConfigurationError(
            "--dask needs a package that is not installed; "
            "pip install 'calibration-qc[dask]' brings it"
        )
    from distributed import Client, LocalCluster  # noqa: PLC0415 - slow to load

    logging.getLogger("distributed").setLevel(logging.WARNING)  # it tells of each connection
    if address == LOCAL:
        own = LocalCluster(
            n_workers=cores(),
            threads_per_worker=1,
            host="127.0.0.1",  # whoever reaches a scheduler may run what he likes
            dashboard_address="127.0.0.1:0",
        )
        with own as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(address, timeout=_WAIT_S)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{address}: expected the address of a Dask scheduler, like tcp://host:8786, "
            f"that answers: {error}"
        ) from error
    with client:
        yield client


def dashboard_of(client: Any) -> str:
    """Return where a browser sees what the workers do."""
    return str(client.dashboard_link)


def take_in(
    files: Iterable[FileInfo], client: Any, kit: WorkerConfig, batch_frames: int
) -> Iterator[list[EmbeddedFrame | UnreadFile]]:
    """Read and embed files on a cluster, in no particular order; each is answered for once.

    Where workers offer the resource ``GPU``, they alone embed. A batch that brings its workers
    down is given out file by file, so that the one file at fault is known.

    Raises
    ------
    ClusterGone
        If the scheduler does not answer any more.
    ConfigurationError
        If a worker's encoder is not ours, or another thing is wrong with the installation.
    """
    from distributed import as_completed  # noqa: PLC0415 - slow to load

    work = _PendingBatches(client, kit)
    batches = _batches(iter(files), batch_frames)
    running = as_completed(loop=client.loop)
    try:
        for batch in islice(batches, work.depth()):
            running.add(work.begin(batch))
        for future in running:
            done, again = work.finish(future)
            for one in again:
                running.add(work.begin([one]))
            if not again:
                yield done
                running.update([work.begin(batch) for batch in islice(batches, 1)])
    except (OSError, TimeoutError) as error:
        raise _gone(error) from error


class _PendingBatches:
    """Batches given out, and not yet come back."""

    def __init__(self, client: Any, kit: WorkerConfig) -> None:
        self.client = client
        self.kit = zlib.compress(pickle.dumps(kit))
        self.files: dict[str, Sequence[FileInfo]] = {}

    def depth(self) -> int:
        """Return how many batches keep the workers busy; more would only fill their memory."""
        threads = int(sum(self.client.nthreads().values()))
        return _BATCHES_AHEAD * max(threads, 1)

    def begin(self, batch: Sequence[FileInfo]) -> Any:
        """Give out a batch: each file to whoever is free, and what they read to an embedder."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        has_gpu = any(worker["resources"].get(_GPU) for worker in workers)
        read = [self.client.submit(_read_there, self.kit, one, pure=False) for one in batch]
        resources = {_GPU: 1} if has_gpu else None
        future = self.client.submit(_embed_there, self.kit, read, pure=False, resources=resources)
        self.files[future.key] = batch
        return future

    def finish(self, future: Any) -> tuple[list[EmbeddedFrame | UnreadFile], Sequence[FileInfo]]:
        """Return what became of a batch, or its files if they are to be given out one by one."""
        batch = self.files.pop(future.key)
        try:
            return future.result(), []
        except QCError:
            raise
        except Exception as error:
            if future.status != "error":  # the work did not fail: its result cannot be had
                raise _gone(error) from error
            if len(batch) > 1:
                return [], batch
            return [UnreadFile(batch[0], FrameState.FAILED, fault_words(batch[0], error))], []


def _gone(why: object) -> ClusterUnavailableError:
    return ClusterUnavailableError(
        f"the cluster does not answer any more ({why}); what it sent back is kept: run it again"
    )


def _batches(files: Iterator[FileInfo], size: int) -> Iterator[list[FileInfo]]:
    while batch := list(islice(files, size)):
        yield batch


# --- on a worker ---------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _unpacked(kit: bytes) -> WorkerConfig:
    """Return what this worker knows; its encoder must be the one whose embeddings are kept."""
    known: WorkerConfig = pickle.loads(zlib.decompress(kit))  # noqa: S301 - from our own client
    return known


@lru_cache(maxsize=2)
def _encoder(kit: bytes) -> Encoder:
    known = _unpacked(kit)
    own = known.encoder.fingerprint
    if own != known.fingerprint:
        raise ConfigurationError(
            f"a worker's encoder is {own}, expected {known.fingerprint}: its weights or its "
            "version of this program differ"
        )
    return known.encoder


def _read_there(kit: bytes, file: FileInfo) -> FrameReading | UnreadFile:
    try:
        return read_file(file, _unpacked(kit).instruments)
    except UnsupportedFrameError as error:
        return UnreadFile(file, FrameState.SKIPPED, str(error))
    except (FrameError, InboxUnavailableError) as error:
        return UnreadFile(file, FrameState.FAILED, str(error))


def _embed_there(
    kit: bytes, read: Sequence[FrameReading | UnreadFile]
) -> list[EmbeddedFrame | UnreadFile]:
    readings = [one for one in read if isinstance(one, FrameReading)]
    measured = [one.measured for one in readings]
    try:
        embeddings = embed_measured([one for each in measured for one in each], _encoder(kit))
    except WeightsError as error:
        raise ConfigurationError(f"on the worker {gethostname()}: {error}") from None
    taken = map(EmbeddedFrame, readings, by_frame(embeddings, measured) if readings else [])
    return [*taken, *(one for one in read if isinstance(one, UnreadFile))]
