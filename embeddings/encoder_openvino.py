"""Conversion of a Keras network to OpenVINO, for faster inference on processors.

OpenVINO folds batch normalisations into the convolutions and fuses the layers behind them. On a
processor it needs less time and memory than TensorFlow.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Node = Any  # of OpenVINO: (n, c, h, w) where Keras has (n, h, w, c)

# By default OpenVINO uses bfloat16 on processors that have it. The embeddings would then differ
# from those of Keras by more than the smallest thresholds.
_FULL_PRECISION = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


def compile_network(
    network: Any, properties: Mapping[str, Any] = MappingProxyType(_FULL_PRECISION)
) -> Callable[[Floats], Floats]:
    """Compile a Keras network to a function equivalent to its `predict_on_batch`.

    Parameters
    ----------
    network : keras.Model
        With one (n, h, w, c) input and one (n, d) output, made of the layers of a ResNet.
    properties : mapping
        Properties of OpenVINO's processor plug-in.

    Returns
    -------
    callable
        From (n, h, w, c) float32 inputs to (n, d) float32 outputs.

    Raises
    ------
    ValueError
        If the network has a layer of an unsupported type.
    """
    import openvino  # noqa: PLC0415 - slow to load, and may not be installed
    from openvino import opset13 as ops  # noqa: PLC0415

    _, *grid_and_channels = network.input.shape
    parameter = ops.parameter([-1, *grid_and_channels], np.float32)
    nodes: dict[int, Node] = {id(network.input): ops.transpose(parameter, [0, 3, 1, 2])}
    for layer in network.layers:
        if id(layer.output) in nodes:
            continue
        kind = type(layer).__name__
        if kind not in _LAYERS:
            raise ValueError(
                f"layer {layer.name}: expected one of {', '.join(_LAYERS)}, got {kind}"
            )
        tensors = layer.input if isinstance(layer.input, list | tuple) else [layer.input]
        inputs = [nodes[id(tensor)] for tensor in tensors]
        nodes[id(layer.output)] = _LAYERS[kind](ops, layer, *inputs)
    model = openvino.Model([nodes[id(network.output)]], [parameter], network.name)
    compiled = openvino.compile_model(model, "CPU", dict(properties))
    return lambda inputs: np.array(compiled(inputs)[0])


def _convolution(ops: Any, layer: Any, node: Node) -> Node:
    kernel, *bias = (np.asarray(weights) for weights in layer.get_weights())
    weights = ops.constant(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
    no_padding = [0, 0]
    convolved = ops.convolution(
        node,
        weights,
        list(layer.strides),
        no_padding,
        no_padding,
        list(layer.dilation_rate),
        auto_pad="same_upper" if layer.padding == "same" else "valid",
    )
    return ops.add(convolved, ops.constant(bias[0].reshape(1, -1, 1, 1))) if bias else convolved


def _normalisation(ops: Any, layer: Any, node: Node) -> Node:
    gamma, beta, mean, variance = (np.asarray(weights) for weights in layer.get_weights())
    return ops.batch_norm_inference(node, gamma, beta, mean, variance, float(layer.epsilon))


def _padding(ops: Any, layer: Any, node: Node) -> Node:
    (top, bottom), (start, end) = layer.padding
    before, after = ([0, 0, top, start], [0, 0, bottom, end])
    return ops.pad(node, before, after, "constant", ops.constant(np.float32(0)))


def _activation(ops: Any, layer: Any, node: Node) -> Node:
    if layer.activation.__name__ != "relu":
        raise ValueError(f"layer {layer.name}: expected relu, got {layer.activation.__name__}")
    return ops.relu(node)


def _max_pooling(ops: Any, layer: Any, node: Node) -> Node:
    padding = "same_upper" if layer.padding == "same" else "valid"
    size, strides = list(layer.pool_size), list(layer.strides)
    return ops.max_pool(node, strides, [1, 1], [0, 0], [0, 0], size, "floor", padding).output(0)


_LAYERS: Mapping[str, Callable[..., Node]] = MappingProxyType(
    {
        "Activation": _activation,
        "Add": lambda ops, _layer, first, second: ops.add(first, second),
        "BatchNormalization": _normalisation,
        "Conv2D": _convolution,
        "GlobalAveragePooling2D": lambda ops, _layer, node: ops.reduce_mean(
            node, [2, 3], keep_dims=False
        ),
        "MaxPooling2D": _max_pooling,
        "ZeroPadding2D": _padding,
    }
)
