"""Reading and embedding of files on a Dask cluster.

Only the client uses the database: decision 0089. The work of a worker that died is repeated by
another.
"""

import logging
import pickle
import zlib
from collections import abc
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
from qc import core, detection, errors
from qc.detection.embedding import split_by_frame
from qc.io.instruments import Instrument
from qc.pipeline import readers
from qc.pipeline.outcomes import describe_program_error

LOCAL = "local"
_GPU = "GPU"  # resource of workers that embed: --resources "GPU=1"
_BATCHES_PER_THREAD = 2  # one in work, and the next
_WAIT_S = 20


@dataclass(frozen=True)
class EmbeddedFrame:
    """Frame that was read and embedded.

    Attributes
    ----------
    reading : FrameReading
    embeddings : (n, d) float32 array
        One for each extension.
    """

    reading: readers.FrameReading
    embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class UnreadFile:
    """File that failed or was skipped, with the reason."""

    file: core.FileInfo
    state: core.FrameState
    reason: str


@dataclass(frozen=True)
class WorkerConfig:
    """Configuration of a worker.

    Attributes
    ----------
    instruments : tuple of Instrument
    encoder : Encoder
    fingerprint : str
        Fingerprint of the client's encoder.
    """

    instruments: tuple[Instrument, ...]
    encoder: Encoder
    fingerprint: str


@contextmanager
def open_cluster(address: str) -> abc.Iterator[Any]:
    """Open a client of the cluster at an address, or of a temporary local cluster.

    Raises
    ------
    ConfigurationError
        If `distributed` is not installed, or nothing answers at the address.
    """
    if find_spec("distributed") is None:
        raise errors.ConfigurationError(
            "--dask needs a package that is not installed; "
            "pip install 'calibration-qc[dask]' brings it"
        )
    from distributed import Client, LocalCluster  # noqa: PLC0415 - slow to load

    logging.getLogger("distributed").setLevel(logging.WARNING)  # logs each connection
    if address == LOCAL:
        local = LocalCluster(
            n_workers=readers.cores(),
            threads_per_worker=1,
            host="127.0.0.1",  # anyone with access to a scheduler can run code
            dashboard_address="127.0.0.1:0",
        )
        with local as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(address, timeout=_WAIT_S)
    except (OSError, ValueError) as error:
        raise errors.ConfigurationError(
            f"{address}: expected the address of a Dask scheduler, like tcp://host:8786, "
            f"that answers: {error}"
        ) from error
    with client:
        yield client


def dashboard_of(client: Any) -> str:
    """Return the address of the cluster's dashboard."""
    return str(client.dashboard_link)


def read_on_cluster(
    files: abc.Iterable[core.FileInfo], client: Any, config: WorkerConfig, batch_frames: int
) -> abc.Iterator[list[EmbeddedFrame | UnreadFile]]:
    """Read and embed files on a cluster, in any order.

    If workers offer the resource ``GPU``, they alone embed. A batch that ends its workers is
    repeated file by file, so that the faulty file is identified.

    Parameters
    ----------
    files : iterable of FileInfo
    client : distributed.Client
    config : WorkerConfig
    batch_frames : int
        Frames per batch.

    Yields
    ------
    list of EmbeddedFrame or UnreadFile
        One entry for each file of a batch.

    Raises
    ------
    ClusterUnavailableError
        If the scheduler does not respond.
    ConfigurationError
        If a worker has another encoder or another invalid installation.
    """
    from distributed import as_completed  # noqa: PLC0415 - slow to load

    pending = _PendingBatches(client, config)
    iterator = iter(files)
    batches = iter(lambda: list(islice(iterator, batch_frames)), [])
    running = as_completed(loop=client.loop)
    try:
        for batch in islice(batches, pending.depth()):
            running.add(pending.submit(batch))
        for future in running:
            results, repeated = pending.finish(future)
            for file in repeated:
                running.add(pending.submit([file]))
            if not repeated:
                yield results
                running.update([pending.submit(batch) for batch in islice(batches, 1)])
    except (OSError, TimeoutError) as error:
        raise _unavailable(error) from error


class _PendingBatches:
    """Submitted batches without a result."""

    def __init__(self, client: Any, config: WorkerConfig) -> None:
        self.client = client
        self.config = zlib.compress(pickle.dumps(config))
        self.files: dict[str, abc.Sequence[core.FileInfo]] = {}

    def depth(self) -> int:
        """Return the number of batches that keep the workers busy within their memory."""
        threads = int(sum(self.client.nthreads().values()))
        return _BATCHES_PER_THREAD * max(threads, 1)

    def submit(self, batch: abc.Sequence[core.FileInfo]) -> Any:
        """Submit a batch: one reading task for each file, and one embedding task."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        has_gpu = any(worker["resources"].get(_GPU) for worker in workers)
        readings = [
            self.client.submit(read_on_worker, self.config, file, pure=False) for file in batch
        ]
        resources = {_GPU: 1} if has_gpu else None
        future = self.client.submit(
            embed_on_worker, self.config, readings, pure=False, resources=resources
        )
        self.files[future.key] = batch
        return future

    def finish(
        self, future: Any
    ) -> tuple[list[EmbeddedFrame | UnreadFile], abc.Sequence[core.FileInfo]]:
        """Return the results of a batch, or the files that are to be submitted one by one."""
        batch = self.files.pop(future.key)
        try:
            return future.result(), []
        except errors.QCError:
            raise
        except Exception as error:
            if future.status != "error":  # the result of successful work is not available
                raise _unavailable(error) from error
            if len(batch) > 1:
                return [], batch
            reason = describe_program_error(batch[0], error)
            return [UnreadFile(batch[0], core.FrameState.FAILED, reason)], []


def _unavailable(reason: object) -> errors.ClusterUnavailableError:
    return errors.ClusterUnavailableError(
        f"the cluster does not answer any more ({reason}); what it sent back is kept: run it again"
    )


# --- on a worker ----------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def unpack_config(packed: bytes) -> WorkerConfig:
    """Return the configuration of this worker."""
    config: WorkerConfig = pickle.loads(zlib.decompress(packed))  # noqa: S301 - from our client
    return config


@lru_cache(maxsize=2)
def check_encoder(packed: bytes) -> Encoder:
    """Return the encoder of this worker.

    Raises
    ------
    ConfigurationError
        If it differs from the client's.
    """
    config = unpack_config(packed)
    fingerprint = config.encoder.fingerprint
    if fingerprint != config.fingerprint:
        raise errors.ConfigurationError(
            f"a worker's encoder is {fingerprint}, expected {config.fingerprint}: its weights or "
            "its version of this program differ"
        )
    return config.encoder


def read_on_worker(packed: bytes, file: core.FileInfo) -> readers.FrameReading | UnreadFile:
    """Read a file on a worker.

    Parameters
    ----------
    packed : bytes
        Packed `WorkerConfig`.
    file : FileInfo

    Returns
    -------
    FrameReading or UnreadFile
    """
    try:
        return readers.read_file(file, unpack_config(packed).instruments)
    except errors.UnsupportedFrameError as error:
        return UnreadFile(file, core.FrameState.SKIPPED, str(error))
    except (errors.FrameError, errors.InboxUnavailableError) as error:
        return UnreadFile(file, core.FrameState.FAILED, str(error))


def embed_on_worker(
    packed: bytes, results: abc.Sequence[readers.FrameReading | UnreadFile]
) -> list[EmbeddedFrame | UnreadFile]:
    """Embed a batch of readings on a worker.

    Parameters
    ----------
    packed : bytes
        Packed `WorkerConfig`.
    results : sequence of FrameReading or UnreadFile

    Returns
    -------
    list of EmbeddedFrame or UnreadFile
    """
    readings = [result for result in results if isinstance(result, readers.FrameReading)]
    measurements = [reading.measurements for reading in readings]
    flat = [measurement for frame in measurements for measurement in frame]
    try:
        embeddings = detection.embed(flat, check_encoder(packed))
    except WeightsError as error:
        raise errors.ConfigurationError(f"on the worker {gethostname()}: {error}") from None
    vectors = split_by_frame(embeddings, measurements) if readings else []
    unread = [result for result in results if isinstance(result, UnreadFile)]
    return [*map(EmbeddedFrame, readings, vectors), *unread]
