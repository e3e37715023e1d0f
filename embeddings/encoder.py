"""Network inputs to embeddings.

Shapes: n inputs of (h, w, 3); d = 2048, the embedding's length.
"""

import hashlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
_KNOWN = {  # digests of weights: of the fixed seed, and by the SHA-256 of the file that has them
    "untrained": "233c98921cb7",
    "4c9d746368c3d2814424e1a1355861a28059bc07bf1e4556595d98bb7e0cb87f": "0249b36d4242",  # shipped
}


class WeightsError(Exception):
    """The weights are missing, damaged, or belong to another network."""


class Encoder(Protocol):
    """Whatever turns network inputs into embeddings.

    Two embeddings may be compared only if their encoders share a fingerprint.
    """

    @property
    def name(self) -> str:
        """Say network, weights and stretch in words: ``resnet50-untrained-physical``."""

    @property
    def stretch(self) -> str:
        """Name the stretch, a key of `embeddings.preprocess.STRETCHES`."""

    @property
    def fingerprint(self) -> str:
        """Return the name and a digest of everything that shapes an embedding."""

    def embed(self, inputs: Floats) -> Floats:
        """Return (n, d) float32 embeddings, each of length 1, of (n, h, w, 3) float32 inputs."""


class ResNet50Encoder:
    """The pooled last feature map of Keras' ResNet-50.

    Parameters
    ----------
    weights : str
        ``simulated``: trained on simulated frames, came with the program (`embeddings/weights`);
        ``untrained``: He-normal numbers of a fixed seed, the same on every machine and backend;
        ``imagenet``: fetched once by Keras; or the path of a ``.weights.h5`` or ``.h5`` file
        written for this network (without its top).
    stretch : str
        The stretch whose output this encoder is to see; part of the fingerprint.
    batch_size : int
        Inputs per step; bounds the memory, does not change the result.
    grid : (int, int)
        Height and width of the inputs; part of the fingerprint where it is not 224 x 224.
    notes : Path, optional
        A file in which it is noted which file has which weights: a network and its library take
        seconds and a gigabyte to load, too much for those who only want the fingerprint.
    engine : str
        What computes: ``keras``, by the backend that it is set to, or ``openvino``. No part of
        the fingerprint: the embeddings are equal to a thousandth of the smallest threshold.

    Raises
    ------
    WeightsError
        On first use, if the weights cannot be had; the message says what to do.
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
        """Travel without the network: it is built anew, and its fingerprint taken, elsewhere."""
        kept = ("weights", "stretch", "batch_size", "grid", "engine")
        own = {name: value for name, value in vars(self).items() if name in kept}
        return own | {"notes": None}  # they lie in a folder of the one that sends it

    @property
    def name(self) -> str:
        """Say network, weights and stretch in words."""
        weights = Path(self.weights).name.split(".")[0]
        size = "" if self.grid == GRID else f"-{self.grid[0]}x{self.grid[1]}"
        return f"resnet50-{weights}-{self.stretch}{size}"

    @cached_property
    def fingerprint(self) -> str:
        """Return the name and a digest of all weights: equal digests, comparable embeddings."""
        return f"{self.name}-{self._digest}"

    @cached_property
    def _digest(self) -> str:
        known = _read_notes(self.notes) | _KNOWN
        content = self._content
        return known[content] if content in known else _digest_of(self._network)

    @cached_property
    def _content(self) -> str:
        """Name what the weights are: the digest of their file, or the name of those without one."""
        if self.weights in {"untrained", "imagenet"}:
            return self.weights
        path = self._file
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else self.weights

    @property
    def _file(self) -> Path:
        return _SHIPPED if self.weights == "simulated" else Path(self.weights)

    def embed(self, inputs: Floats) -> Floats:
        """Return the (n, 2048) float32 embeddings of (n, h, w, 3) float32 network inputs.

        Each has length 1: the direction is all that the cosine sees, and stays within float16,
        which the pooled activations of an untrained network do not. The values are rounded to
        float16, so that what is stored can be judged again with the same result.
        """
        steps = range(0, len(inputs), self.batch_size)
        pooled = np.concatenate([self._pool(inputs[i : i + self.batch_size]) for i in steps])
        unit: NDArray[np.float64] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit.astype(np.float16).astype(np.float32)

    def _pool(self, inputs: Floats) -> NDArray[np.float64]:
        """Return the pooled last feature map of one batch: (n, 2048)."""
        return np.asarray(self._compute(inputs), np.float64)

    @cached_property
    def _compute(self) -> Callable[[Floats], Floats]:
        network = self._network
        if self.engine == "openvino":
            return compile_network(network)
        return lambda inputs: network.predict_on_batch(_padded(inputs))[: len(inputs)]

    @cached_property
    def _network(self) -> Any:
        with quiet_start():
            network = _resnet50(self.weights, self._file, self.grid)
        self._check(_digest_of(network))
        return network

    def _check(self, digest: str) -> None:
        """Note the digest of weights that were loaded; none may have changed its fingerprint."""
        noted = _read_notes(self.notes)
        known = noted | _KNOWN
        told = known.get(self._content, digest)
        if told != digest:
            raise WeightsError(
                f"{self.name}: expected weights with the digest {told}, got {digest}: they are "
                "read otherwise than before, and what was stored cannot be compared with what "
                "they make. Use the version of Keras with which it was stored; or delete "
                f"{self.notes} and judge all frames again."
            )
        if self.notes is not None and self._content not in known:
            _write_notes(self.notes, noted | {self._content: digest})


def _digest_of(network: Any) -> str:
    digest = hashlib.sha256()
    for array in network.get_weights():
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()[:_FINGERPRINT_DIGITS]


def _read_notes(path: Path | None) -> dict[str, str]:
    """Return what was noted; nothing where the file is gone or spoilt: it is written anew then."""
    if path is None:
        return {}
    try:
        noted = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    is_ours = isinstance(noted, dict)
    return {str(one): str(digest) for one, digest in noted.items()} if is_ours else {}


def _write_notes(path: Path, noted: dict[str, str]) -> None:
    with suppress(OSError):  # where nothing can be kept, the network is loaded the next time too
        path.parent.mkdir(exist_ok=True)
        own = path.with_name(f"{path.name}.{os.getpid()}")
        own.write_text(json.dumps(noted, indent=1))
        own.replace(path)  # others read it meanwhile: the one or the other, whole


def _padded(inputs: Floats) -> Floats:
    """Repeat the last input until there are 1, 2, 4, 8 ...: each shape is compiled for anew."""
    missing = (1 << (len(inputs) - 1).bit_length()) - len(inputs)
    return np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)])


@contextmanager
def quiet_start() -> Iterator[None]:
    """Keep a backend's start-up chatter off the terminal; show it if the start fails.

    TensorFlow's native half writes it before any of its log levels is in force, so that only
    the file descriptor can be turned away.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except WeightsError:
            raise  # says all there is to say
        except BaseException:
            os.lseek(chatter.fileno(), 0, os.SEEK_SET)
            os.write(terminal, chatter.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _resnet50(weights: str, file: Path, grid: tuple[int, int]) -> Any:
    from keras.applications import ResNet50  # noqa: PLC0415 - seconds to load

    shape = (*grid, 3)
    if weights == "imagenet":
        try:
            return ResNet50(include_top=False, weights=weights, input_shape=shape, pooling="avg")
        except Exception as error:  # Keras raises a bare Exception when a download fails
            raise WeightsError(_NO_IMAGENET.format(reason=_first_line(error))) from error
    network = ResNet50(include_top=False, weights=None, input_shape=shape, pooling="avg")
    if weights == "untrained":
        _draw_weights(network)
    else:
        _load_weights(network, file)
    return network


_NO_IMAGENET = (
    "the ImageNet weights of ResNet-50 could not be fetched ({reason}). On a machine without "
    "network, fetch resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5 elsewhere and give its "
    "path as the weights."
)


def _draw_weights(network: Any) -> None:
    """Set He-normal kernels; leave the rest at the identity that Keras gives it.

    RandomState rather than a Generator: NumPy guarantees its stream for ever, and these numbers
    must be the same after ten years of updates. Keras' own initialisers differ by backend.
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
            # A hundred of them for a file of another network; the error that follows says it once.
            warnings.simplefilter("ignore", UserWarning)
            network.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path}: expected the weights of Keras' ResNet-50 without its top, got "
            f"{_first_line(error)!r}. The file is damaged or of another network; fetch it again."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
