"""A narrow network that is a part of ResNet-50: trained alone, then put into its place.

Most of a ResNet-50 can be silent: a block whose last convolution is zero returns its
input, and a channel whose weights are zero has no effect. The rest, the first block of each
stage with half the channels, is the same function at a tenth of the cost, and can be trained on
two cores. Batch normalisation stays at the identity: the scale of each channel is set from data
before training, once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

Floats = NDArray[np.float32]

STEM = 48  # of ResNet-50's 64 channels
WIDTHS = (32, 64, 128, 256)  # of 64, 128, 256, 512: inside the first block of each stage
HANDED_ON = (128, 256, 512, 2048)  # of 256, 512, 1024, 2048: outputs of each stage
_NORMALISATION_EPSILON = 1.001e-5  # Keras' own, in its ResNet


def narrow_network(seed: int) -> Any:
    """Return the part of ResNet-50 that is trained, its pooled output (n, 2048)."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((None, None, 3))
    x = layers.ZeroPadding2D(3)(pixels)
    x = layers.ReLU()(_convolution(STEM, 7, "conv1_conv", strides=2)(x))
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))
    for stage, (width, wide) in enumerate(zip(WIDTHS, HANDED_ON, strict=True), start=2):
        x = _block(x, width, wide, f"conv{stage}_block1", strides=1 if stage == 2 else 2)
    return keras.Model(pixels, layers.GlobalAveragePooling2D()(x))


def _block(x: Any, width: int, wide: int, name: str, strides: int) -> Any:
    shortcut = _convolution(wide, 1, f"{name}_0_conv", strides=strides)(x)
    x = layers.ReLU()(_convolution(width, 1, f"{name}_1_conv", strides=strides)(x))
    x = layers.ReLU()(_convolution(width, 3, f"{name}_2_conv", padding="same")(x))
    x = _convolution(wide, 1, f"{name}_3_conv")(x)
    return layers.ReLU()(layers.Add()([shortcut, x]))


def _convolution(channels: int, size: int, name: str, **more: Any) -> Any:
    return layers.Conv2D(channels, size, name=name, kernel_initializer="he_normal", **more)


def calibrate(network: Any, inputs: Floats) -> None:
    """Give each channel of each convolution zero mean and unit scatter over (n, h, w, 3) inputs.

    Replaces batch normalisation by a single step, so that training and use see the same network
    (Mishkin & Matas 2016).
    """
    for layer in convolutions(network):
        observed = keras.Model(network.input, layer.output).predict_on_batch(inputs)
        mean, scatter = observed.mean(axis=(0, 1, 2)), observed.std(axis=(0, 1, 2)) + 1e-6
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel / scatter, (bias - mean) / scatter])


def convolutions(network: Any) -> Iterator[Any]:
    """Yield the convolutions in the order of the data."""
    return (layer for layer in network.layers if isinstance(layer, layers.Conv2D))


def ranking_loss(margin: float, good: int) -> Any:
    """Return the loss: in each group, every spoilt image should merge higher than every good one.

    Heights are mean cosine distances to the group's good images, as of average linkage, and are
    compared as logarithms: the scale of a setup's distances does not matter, its order does.

    Parameters
    ----------
    margin : float
        By how much the logarithms should differ.
    good : int
        Good images in a group; as many spoilt ones, made of them in the same order, follow.
    """

    def loss(_: Any, embeddings: Any) -> Any:
        groups = ops.reshape(ops.cast(embeddings, "float32"), (-1, 2 * good, embeddings.shape[-1]))
        heights = _log_heights(groups, good)
        excess = heights[:, :good, None] - heights[:, None, good:]  # (groups, good, spoilt)
        return ops.mean(ops.softplus(margin + excess))

    return loss


def _log_heights(groups: Any, good: int) -> Any:
    """Return the log mean distance of each image to the good ones it was not made of."""
    unit = groups / (ops.norm(groups, axis=-1, keepdims=True) + 1e-6)
    away = unit[:, :, None] - unit[:, None, :good]  # (groups, 2 good, good, d)
    distances = ops.sum(away**2, axis=-1) / 2  # 1 - cos, without the loss of its digits
    rest = np.tile(1 - np.eye(good, dtype=np.float32), (2, 1))
    return ops.log(ops.sum(distances * rest, axis=-1) / (good - 1) + 1e-8)


def write_resnet50(network: Any, path: Path) -> None:
    """Write a ResNet-50 equivalent to the narrow network, as float16."""
    whole = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(224, 224, 3), pooling="avg"
    )
    trained = {layer.name: layer.get_weights() for layer in convolutions(network)}
    for layer in whole.layers:
        if isinstance(layer, layers.Conv2D):
            layer.set_weights(_placed(layer.get_weights(), trained.get(layer.name)))
        elif isinstance(layer, layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights([gamma, beta, mean, variance - _NORMALISATION_EPSILON])
    whole.save_weights(path)
    _halve(path)


def _placed(room: list[Floats], trained: list[Floats] | None) -> list[Floats]:
    """Return zeros of the room's shapes with one's own weights in their first places."""
    empty = [np.zeros_like(item) for item in room]
    for place, weights in zip(empty, trained or (), strict=False):
        place[tuple(slice(n) for n in weights.shape)] = weights
    return empty


def _halve(path: Path) -> None:
    """Rewrite a weights file in float16, compressed: most of it is zero."""
    with h5py.File(path) as file:
        arrays: dict[str, Floats] = {}
        file.visititems(lambda name, item: _keep(arrays, name, item))
        attributes = {name: dict(file[name].attrs) for name in _groups(file)}
    partial = path.with_suffix(".partial")
    with h5py.File(partial, "w") as file:
        for name, result in attributes.items():
            file.require_group(name).attrs.update(result)
        for name, array in arrays.items():
            half = array.astype(np.float16)
            file.create_dataset(name, data=half, compression="gzip", shuffle=True)
    partial.rename(path)


def _keep(arrays: dict[str, Floats], name: str, item: Any) -> None:
    if isinstance(item, h5py.Dataset):
        arrays[name] = item[()]


def _groups(file: Any) -> list[str]:
    names = ["/"]
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Group) else None)
    return names
