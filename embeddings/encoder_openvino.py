"""A network of Keras' layers, compiled by OpenVINO: the same numbers from a processor, sooner.

OpenVINO folds the batch normalisations into the convolutions and fuses what follows them; on a
processor it needs less than TensorFlow's time and memory.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Node = Any  # OpenVINO's: (n, c, h, w) where Keras has (n, h, w, c)

# Where a processor has bfloat16, OpenVINO would use it unasked: other embeddings, and further
# from Keras' than the smallest thresholds are wide.
_AS_EXACT = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


def compile_network(
    network: Any, properties: Mapping[str, Any] = MappingProxyType(_AS_EXACT)
) -> Callable[[Floats], Floats]:
    """Return a function that does what a Keras network's `predict_on_batch` does.

    Parameters
    ----------
    network : keras.Model
        Of one (n, h, w, c) input and one (n, d) output, made of the layers of a ResNet.
    properties : mapping
        What OpenVINO is to be told of the processor.

    Raises
    ------
    ValueError
        If it has a layer that is not known here.
    """
    import openvino  # noqa: PLC0415 - slow to load, and may not be installed
    from openvino import opset13 as ops  # noqa: PLC0415

    _, *grid_and_channels = network.input.shape
    given = ops.parameter([-1, *grid_and_channels], np.float32)
    nodes: dict[int, Node] = {id(network.input): ops.transpose(given, [0, 3, 1, 2])}
    for layer in network.layers:
        if id(layer.output) not in nodes:
            nodes[id(layer.output)] = _translate(ops, layer, _inputs_of(layer, nodes))
    model = openvino.Model([nodes[id(network.output)]], [given], network.name)
    compiled = openvino.compile_model(model, "CPU", dict(properties))
    return lambda inputs: np.array(compiled(inputs)[0])


def _inputs_of(layer: Any, nodes: Mapping[int, Node]) -> list[Node]:
    given = layer.input if isinstance(layer.input, list | tuple) else [layer.input]
    return [nodes[id(one)] for one in given]


def _translate(ops: Any, layer: Any, inputs: Sequence[Node]) -> Node:
    kind = type(layer).__name__
    if kind not in _LAYERS:
        raise ValueError(f"layer {layer.name}: expected one of {', '.join(_LAYERS)}, got {kind}")
    return _LAYERS[kind](ops, layer, *inputs)


def _convolution(ops: Any, layer: Any, given: Node) -> Node:
    kernel, *bias = (np.asarray(weights) for weights in layer.get_weights())
    weights = ops.constant(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
    no_padding = [0, 0]
    made = ops.convolution(
        given,
        weights,
        list(layer.strides),
        no_padding,
        no_padding,
        list(layer.dilation_rate),
        auto_pad="same_upper" if layer.padding == "same" else "valid",
    )
    return ops.add(made, ops.constant(bias[0].reshape(1, -1, 1, 1))) if bias else made


def _normalisation(ops: Any, layer: Any, given: Node) -> Node:
    gamma, beta, mean, variance = (np.asarray(weights) for weights in layer.get_weights())
    return ops.batch_norm_inference(given, gamma, beta, mean, variance, float(layer.epsilon))


def _padding(ops: Any, layer: Any, given: Node) -> Node:
    (top, bottom), (left, right) = layer.padding
    before, after = ([0, 0, top, left], [0, 0, bottom, right])
    return ops.pad(given, before, after, "constant", ops.constant(np.float32(0)))


def _activation(ops: Any, layer: Any, given: Node) -> Node:
    if layer.activation.__name__ != "relu":
        raise ValueError(f"layer {layer.name}: expected relu, got {layer.activation.__name__}")
    return ops.relu(given)


def _highest(ops: Any, layer: Any, given: Node) -> Node:
    window = [list(layer.pool_size), "floor", "same_upper" if layer.padding == "same" else "valid"]
    size, rounding, padding = window
    made = ops.max_pool(given, list(layer.strides), [1, 1], [0, 0], [0, 0], size, rounding, padding)
    return made.output(0)


def _mean(ops: Any, layer: Any, given: Node) -> Node:
    del layer
    return ops.reduce_mean(given, [2, 3], keep_dims=False)


def _sum(ops: Any, layer: Any, first: Node, second: Node) -> Node:
    del layer
    return ops.add(first, second)


_LAYERS: Mapping[str, Callable[..., Node]] = MappingProxyType(
    {
        "Activation": _activation,
        "Add": _sum,
        "BatchNormalization": _normalisation,
        "Conv2D": _convolution,
        "GlobalAveragePooling2D": _mean,
        "MaxPooling2D": _highest,
        "ZeroPadding2D": _padding,
    }
)
