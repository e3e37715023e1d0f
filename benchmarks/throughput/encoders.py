"""Time of the encoder alone, by engine: one engine in one process.

``python -m benchmarks.throughput.encoders ENGINE INPUTS --weights W --threads N --batch B...``
prints images a second and core time of an image, as JSON. The inputs are network inputs of
frames, (n, 224, 224, 3), saved by NumPy; embeddings are compared with those beside them.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.clustering import cosine_distances
from embeddings.encoder import ResNet50Encoder, quiet_start
from embeddings.encoder_openvino import compile_network

Floats = NDArray[np.float32]
Compute = Callable[[Floats], Floats]

RESNET50_GFLOP = 7.7  # of an image of 224 x 224: two for each multiply-and-add
ENGINES = {
    "tensorflow float32": "Keras's default",
    "tensorflow bfloat16": "Keras' policy mixed_bfloat16",
    "keras on openvino": "KERAS_BACKEND=openvino",
    "openvino float32": "engine = 'openvino'",
    "openvino bfloat16": "INFERENCE_PRECISION_HINT=bf16",
    "keras on jax": "KERAS_BACKEND=jax",
    "onnx runtime": "ONNX export of Keras",
}
NEEDS = {"keras on jax": ("jax",), "onnx runtime": ("onnx", "tf2onnx", "onnxruntime")}


def missing(engine: str) -> list[str]:
    """Return the packages that an engine needs and that are not installed: none is a dependency."""
    return [name for name in NEEDS.get(engine, ()) if find_spec(name) is None]


def main() -> None:
    """Measure one engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--weights", default="untrained")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, nargs="+", required=True)
    parser.add_argument("--seconds", type=float, default=3, help="for each size of batch")
    parser.add_argument("--peak-tflops", type=float, help="the chip's matrix rate, as promised")
    arguments = parser.parse_args()
    compute = _engine(arguments.engine, arguments.weights, arguments.threads)
    inputs: Floats = np.load(arguments.inputs)
    timed = [_timed(compute, inputs, size, arguments.seconds) for size in arguments.batch]
    best = max(item["images_per_s"] for item in timed)
    share = best * RESNET50_GFLOP / 1000 / arguments.peak_tflops if arguments.peak_tflops else None
    document = {
        "engine": arguments.engine,
        "threads": arguments.threads,
        "batches": timed,
        "furthest": _furthest(compute, inputs, arguments.inputs),
        "share_of_matrix_rate": share,
    }
    print(json.dumps(document))


def _engine(name: str, weights: str, threads: int) -> Compute:
    if name.startswith("keras on "):
        os.environ["KERAS_BACKEND"] = name.removeprefix("keras on ")
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # jax knows no setting
    elif name.startswith("tensorflow"):
        _limit_tensorflow(threads)
    if name == "tensorflow bfloat16":
        import keras  # noqa: PLC0415 - after the backend was chosen

        keras.config.set_dtype_policy("mixed_bfloat16")
    network = _network(weights)
    if name == "onnx runtime":
        return _onnx(network, threads)
    if not name.startswith("openvino"):
        return lambda inputs: np.asarray(network.predict_on_batch(inputs), np.float32)
    hint = {"float32": "f32", "bfloat16": "bf16"}[name.split()[1]]
    return compile_network(
        network,
        {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )


def _onnx(network: Any, threads: int) -> Compute:
    import onnxruntime  # noqa: PLC0415 - no dependency

    network.predict_on_batch(
        np.zeros((1, 224, 224, 3), np.float32)
    )  # the called function is exported
    with TemporaryDirectory() as folder:
        file = f"{folder}/network.onnx"
        network.export(file, format="onnx", verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: np.asarray(session.run(None, {name: inputs})[0], np.float32)


def _limit_tensorflow(threads: int) -> None:
    with quiet_start():
        import tensorflow as tf  # noqa: PLC0415 - the others are measured without it

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _network(weights: str) -> Any:
    return ResNet50Encoder(weights).network


def _timed(compute: Compute, inputs: Floats, size: int, seconds: float) -> dict[str, float]:
    batch = np.resize(inputs, (size, *inputs.shape[1:]))
    compute(batch)  # compiles
    began, began_core, images = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        compute(batch)
        images += size
    elapsed, core = time.perf_counter() - began, time.process_time() - began_core
    return {"batch": size, "images_per_s": images / elapsed, "core_ms": 1000 * core / images}


def _furthest(compute: Compute, inputs: Floats, place: Path) -> float:
    """Return the largest cosine distance to the first engine's embeddings of the same inputs."""
    neighbour = place.with_suffix(".embeddings.npy")
    vectors = np.concatenate([compute(inputs[i : i + 8]) for i in range(0, len(inputs), 8)])
    if not neighbour.exists():
        np.save(neighbour, vectors)
    return _distance(np.load(neighbour), vectors)


def _distance(some: Floats, rest: Floats) -> float:
    pairs: Sequence[Any] = list(zip(some, rest, strict=True))
    return max(float(cosine_distances(a[None], b[None])[0, 0]) for a, b in pairs)


if __name__ == "__main__":
    main()
