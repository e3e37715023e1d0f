"""Encoder: network inputs to embeddings, by ResNet-50.

Shapes: n inputs of (h, w, 3); d = 2048, the embedding's length.
"""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embeddings.encoder_openvino import compile_network
from embeddings.preprocess import GRID, STRETCHES

Floats = NDArray[np.float32]

ENGINES = ("keras", "openvino")
_UNTRAINED_SEED = 20190603
_FINGERPRINT_DIGITS = 12
_SHIPPED = Path(__file__).parent / "weights" / "simulated.weights.h5"
_KNOWN = {  # digests of weights, by name or by the SHA-256 of their file
    "untrained": "233c98921cb7",
    "4c9d746368c3d2814424e1a1355861a28059bc07bf1e4556595d98bb7e0cb87f": "0249b36d4242",  # shipped
}


class WeightsError(Exception):
    """The weights are missing, damaged, or belong to another network; with the remedy."""


class Encoder(Protocol):
    """Interface of encoders.

    Only embeddings of encoders with equal fingerprints are comparable.
    """

    @property
    def name(self) -> str:
        """Name of network, weights and stretch, e.g. ``resnet50-untrained-physical``."""

    @property
    def stretch(self) -> str:
        """Name of the stretch, a key of `embeddings.preprocess.STRETCHES`."""

    @property
    def fingerprint(self) -> str:
        """Name of the encoder, and a digest of everything that affects an embedding."""

    def embed(self, inputs: Floats) -> Floats:
        """Return (n, d) float32 embeddings, each of length 1, of (n, h, w, 3) float32 inputs."""


class ResNet50Encoder:
    """The pooled last feature map of Keras' ResNet-50.

    Parameters
    ----------
    weights : str
        ``simulated``: trained on simulated frames, shipped with the program in
        `embeddings/weights`; ``untrained``: He-normal numbers of a fixed seed, equal on every
        machine and backend; ``imagenet``: downloaded once by Keras; or the path of a
        ``.weights.h5`` or ``.h5`` file written for this network (without its top).
    stretch : str
        Stretch of the inputs; part of the fingerprint.
    batch_size : int
        Inputs per step; limits the memory, does not change the result.
    grid : (int, int)
        Height and width of the inputs; part of the fingerprint if it is not 224 x 224.
    notes : Path, optional
        Cache file of the digests of weights files. With it, the fingerprint is available
        without loading the network, which takes seconds and a gigabyte.
    engine : str
        ``keras``, with its configured backend, or ``openvino``. The engine is no part of the
        fingerprint: the embeddings are equal to a thousandth of the smallest threshold.

    Raises
    ------
    WeightsError
        On first use, if the weights are not available; the message gives the remedy.
    """

    def __init__(
        self,
        weights: str = "untrained",
        stretch: str = "physical",
        batch_size: int = 16,
        grid: tuple[int, int] = GRID,
        notes: Path | None = None,
        engine: str = "keras",
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"no engine {engine!r}; there are {', '.join(ENGINES)}")
        if stretch not in STRETCHES:
            raise ValueError(f"no stretch {stretch!r}; there are {', '.join(STRETCHES)}")
        self.weights = weights
        self.stretch = stretch
        self.batch_size = batch_size
        self.grid = grid
        self.notes = notes
        self.engine = engine

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the parameters only: another process builds the network anew."""
        names = ("weights", "stretch", "batch_size", "grid", "engine")
        state = {name: value for name, value in vars(self).items() if name in names}
        return state | {"notes": None}  # the cache file exists on the sender's machine only

    @property
    def name(self) -> str:
        """Name of network, weights and stretch."""
        weights = Path(self.weights).name.split(".")[0]
        size = "" if self.grid == GRID else f"-{self.grid[0]}x{self.grid[1]}"
        return f"resnet50-{weights}-{self.stretch}{size}"

    @cached_property
    def fingerprint(self) -> str:
        """Name of the encoder, and a digest of all weights."""
        digests = _read_notes(self.notes) | _KNOWN
        content = self.weights_key
        digest = digests[content] if content in digests else digest_weights(self.network)
        return f"{self.name}-{digest}"

    @property
    def weights_file(self) -> Path:
        """Path of the weights file."""
        return _SHIPPED if self.weights == "simulated" else Path(self.weights)

    @cached_property
    def weights_key(self) -> str:
        """Key of the weights in the cache: the SHA-256 of their file, or their name."""
        if self.weights in {"untrained", "imagenet"}:
            return self.weights
        path = self.weights_file
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else self.weights

    def embed(self, inputs: Floats) -> Floats:
        """Return the (n, 2048) float32 embeddings of (n, h, w, 3) float32 network inputs.

        Embeddings have length 1: the cosine distance depends on the direction only, and unit
        vectors do not overflow float16. The values are rounded to float16, so that stored
        embeddings reproduce a verdict.
        """
        batches = [
            np.asarray(self._compute(inputs[i : i + self.batch_size]), np.float64)
            for i in range(0, len(inputs), self.batch_size)
        ]
        pooled = np.concatenate(batches)
        unit: NDArray[np.float64] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit.astype(np.float16).astype(np.float32)

    @cached_property
    def _compute(self) -> Callable[[Floats], Floats]:
        network = self.network
        if self.engine == "openvino":
            return compile_network(network)

        def predict(inputs: Floats) -> Floats:
            # Repeat the last input up to a power of two: Keras compiles every batch size anew.
            missing = (1 << (len(inputs) - 1).bit_length()) - len(inputs)
            padded = np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)])
            pooled: Floats = network.predict_on_batch(padded)[: len(inputs)]
            return pooled

        return predict

    @cached_property
    def network(self) -> Any:
        """Keras network with its weights; loading takes seconds and a gigabyte."""
        with quiet_start():
            network = _load_resnet50(self.weights, self.weights_file, self.grid)
        self._check_digest(digest_weights(network))
        return network

    def _check_digest(self, digest: str) -> None:
        """Compare the digest of loaded weights with the cached one; cache a new digest."""
        cached = _read_notes(self.notes)
        digests = cached | _KNOWN
        expected = digests.get(self.weights_key, digest)
        if expected != digest:
            raise WeightsError(
                f"{self.name}: expected weights with the digest {expected}, got {digest}: they "
                "are read otherwise than before, and stored embeddings are not comparable with "
                "new ones. Use the version of Keras with which they were stored; or delete "
                f"{self.notes} and judge all frames again."
            )
        if self.notes is not None and self.weights_key not in digests:
            _write_notes(self.notes, cached | {self.weights_key: digest})


def digest_weights(network: Any) -> str:
    """Return the digest of all weights of a Keras network."""
    digest = hashlib.sha256()
    for array in network.get_weights():
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()[:_FINGERPRINT_DIGITS]


def _read_notes(path: Path | None) -> dict[str, str]:
    """Return the cached digests; none if the file is missing or damaged."""
    if path is None:
        return {}
    try:
        digests = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(digests, dict):
        return {}
    return {str(key): str(digest) for key, digest in digests.items()}


def _write_notes(path: Path, digests: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # without the cache the next start loads the network again
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(digests, indent=1))
        temporary.replace(path)  # atomic: other processes read the file


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Suppress the start-up output of a backend; print it if the start fails.

    TensorFlow's native code writes before its log level applies. Only a redirection of the file
    descriptor suppresses that output.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 2)
        try:
            yield
        except WeightsError:
            raise  # its message is complete
        except BaseException:
            os.lseek(output.fileno(), 0, os.SEEK_SET)
            os.write(terminal, output.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _load_resnet50(weights: str, file: Path, grid: tuple[int, int]) -> Any:
    from keras.applications import ResNet50  # noqa: PLC0415 - seconds to load

    shape = (*grid, 3)
    if weights == "imagenet":
        try:
            return ResNet50(include_top=False, weights=weights, input_shape=shape, pooling="avg")
        except Exception as error:  # Keras raises a bare Exception when a download fails
            raise WeightsError(_NO_IMAGENET.format(reason=_first_line(error))) from error
    network = ResNet50(include_top=False, weights=None, input_shape=shape, pooling="avg")
    if weights == "untrained":
        set_random_weights(network)
    else:
        _load_weights(network, file)
    return network


_NO_IMAGENET = (
    "the ImageNet weights of ResNet-50 could not be fetched ({reason}). On a machine without "
    "network, fetch resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5 elsewhere and give its "
    "path as the weights."
)


def set_random_weights(network: Any) -> None:
    """Set He-normal kernels of a fixed seed; all other weights keep the identity.

    RandomState and not a Generator: NumPy guarantees its stream, and the fingerprint depends on
    it. The initialisers of Keras depend on the backend.
    """
    random = np.random.RandomState(_UNTRAINED_SEED)
    for variable in network.weights:
        if variable.path.endswith("kernel"):
            fan_in = int(np.prod(variable.shape[:-1]))
            kernel = random.standard_normal(tuple(variable.shape)) * np.sqrt(2 / fan_in)
            variable.assign(kernel.astype(np.float32))


def _load_weights(network: Any, path: Path) -> None:
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weights file. Give the path of a ResNet-50 weights file without "
            "its top, or one of the names 'simulated', 'untrained' and 'imagenet'."
        )
    try:
        with warnings.catch_warnings():
            # Keras warns a hundred times for a file of another network, then raises an error.
            warnings.simplefilter("ignore", UserWarning)
            network.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path}: expected the weights of Keras' ResNet-50 without its top, got "
            f"{_first_line(error)!r}. The file is damaged or of another network; fetch it again."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
