"""Features of the same images by other networks; cached in a folder, as it takes minutes.

An extractor is a name and a function from network inputs to features. To compare another
network, write one; `methods` defines the use of the features.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.encoder import ResNet50Encoder
from embeddings.preprocess import GRID

Floats = NDArray[np.float32]
Picture = Floats
Pictures = Callable[[Sequence[int]], Iterable[Picture]]

_SEED = 0
_AT_ONCE = 32
_PATCH_LAYERS = ("conv3_block4_out", "conv4_block6_out")
_PATCH_GRID = 14  # places along each side: the coarser of the two layers
_PATCH_CHANNELS = 32  # of each layer, drawn at random, as PaDiM does (Defard et al. 2021)


@dataclass(frozen=True)
class Extractor:
    """A network, by name.

    Attributes
    ----------
    extract : callable
        (n, h, w, 3) network inputs to (n, ...) float32 features.
    """

    name: str
    extract: Callable[[Floats], Floats]


@dataclass(frozen=True)
class Networks:
    """Networks that are compared with the product's; none is loaded yet.

    Attributes
    ----------
    resnets : tuple of str
        Weights files of ResNet-50, or names that the product knows.
    vggs : tuple of Path or None
        Weights files of VGG16; None for random weights.
    """

    resnets: tuple[str, ...] = ()
    vggs: tuple[Path | None, ...] = (None,)

    def pooled(self) -> tuple[Extractor, ...]:
        """Return those whose last feature map is averaged."""
        return (*map(encoder, self.resnets), *map(vgg16, self.vggs))

    def extractors(self) -> tuple[Extractor, ...]:
        """Return all of them."""
        return (patches(), *self.pooled())


def extract(extractor: Extractor, ids: Sequence[int], pictures: Pictures, folder: Path) -> Any:
    """Return the features of some images by id, computed at most once for the same images."""
    folder.mkdir(exist_ok=True)
    stored = folder / f"{extractor.name}.npz"
    if not stored.exists() or np.load(stored)["ids"].tolist() != list(ids):
        np.savez(stored, ids=ids, vectors=np.concatenate(list(_extract(extractor, ids, pictures))))
    return dict(zip(ids, np.load(stored)["vectors"], strict=True))


def _extract(extractor: Extractor, ids: Sequence[int], pictures: Pictures) -> Iterator[Floats]:
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        yield extractor.extract(np.stack(list(pictures(some))))


def vgg16(weights: Path | None = None) -> Extractor:
    """Return VGG16's pooled last feature map, of random weights or of those in a file."""
    return Extractor(
        f"vgg16-{weights.stem if weights else 'random'}",
        lambda inputs: np.asarray(_vgg16(weights).predict_on_batch(inputs), np.float32),
    )


def encoder(weights: str) -> Extractor:
    """Return a ResNet-50 of the product's, of the weights in a file or of a known name."""
    network = ResNet50Encoder(weights, "physical", batch_size=_AT_ONCE)
    return Extractor(network.name, network.embed)


def patches() -> Extractor:
    """Return feature vectors of 14 x 14 places, of two middle layers of a random ResNet-50."""
    return Extractor("patches", _patches)


def _patches(inputs: Floats) -> Floats:
    network, channels = _patch_network()
    layers = (np.asarray(item) for item in network.predict_on_batch(inputs))
    chosen = [_on_patch_grid(item[..., some]) for item, some in zip(layers, channels, strict=True)]
    return np.concatenate(chosen, axis=-1)  # (n, 14, 14, 64)


def _on_patch_grid(layer: Floats) -> Floats:
    """Average a finer layer over each place."""
    n, h, w, c = layer.shape
    blocks = layer.reshape(n, _PATCH_GRID, h // _PATCH_GRID, _PATCH_GRID, w // _PATCH_GRID, c)
    return np.asarray(blocks.mean(axis=(2, 4)), np.float32)


@cache
def _vgg16(weights: Path | None) -> Any:
    from keras.applications import VGG16  # noqa: PLC0415 - seconds to load
    from keras.utils import set_random_seed  # noqa: PLC0415

    set_random_seed(_SEED)
    network = VGG16(include_top=False, weights=None, input_shape=(*GRID, 3), pooling="avg")
    if weights is not None:
        network.load_weights(weights)
    return network


@cache
def _patch_network() -> tuple[Any, list[NDArray[np.intp]]]:
    from keras import Model  # noqa: PLC0415 - seconds to load
    from keras.applications import ResNet50  # noqa: PLC0415
    from keras.utils import set_random_seed  # noqa: PLC0415

    set_random_seed(_SEED)
    whole = ResNet50(include_top=False, weights=None, input_shape=(*GRID, 3))
    layers = [whole.get_layer(name).output for name in _PATCH_LAYERS]
    rng = np.random.default_rng(_SEED)
    drawn = [rng.permutation(layer.shape[-1])[:_PATCH_CHANNELS] for layer in layers]
    return Model(whole.input, layers), drawn
