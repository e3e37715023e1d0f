"""Benefit and cost of larger inputs and tiles, with the default weights.

``python -m benchmarks.encoder.inputs --work DIR``

Simulates references, good tests and every fault of a few setups, reduces each image to 448 x 448
blocks, and shows it to the network in three ways: as 224 x 224, as 448 x 448, and as four tiles of
224 x 224, of which the one that stands furthest apart counts. Prints a table.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.encoder import comparison
from benchmarks.encoder.comparison import Figures
from benchmarks.encoder.data import Images, Shot, join, load, observe, validation_shots
from embeddings.encoder import ResNet50Encoder
from embeddings.preprocess import GRID

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

FINE = (2 * GRID[0], 2 * GRID[1])
_REFERENCE_NIGHTS, _TEST_NIGHTS = 10, 5  # of two exposures of a stream each
_TIMED = 16


@dataclass(frozen=True)
class Way:
    """A way to present an image: its anomaly score, and its cost in ms."""

    heights: Doubles
    cost_ms: float


def main() -> None:
    """Simulate missing frames, embed, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the images; resumable")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    fine = _images(arguments.work, arguments.workers)
    coarse = replace(fine, light=halved(fine.light))
    ways = {
        "224 x 224": partial(_whole, coarse, ResNet50Encoder()),
        "448 x 448": partial(_whole, fine, ResNet50Encoder(grid=FINE)),
        "four tiles of 224 x 224": partial(_tiled, fine, ResNet50Encoder()),
    }
    print("| input | AUROC, mean of types | worst type | faults beyond 1.5 nominal limits | ms |")
    print("| --- | --- | --- | --- | --- |")
    for name, show in ways.items():
        way = show()
        print(_row(name, comparison.figures(coarse, way.heights), way.cost_ms), flush=True)


def _images(work: Path, workers: int) -> Images:
    shots = list(validation_shots(_REFERENCE_NIGHTS, _TEST_NIGHTS))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for number, _ in enumerate(pool.map(partial(_simulate, shots, work), range(len(shots))), 1):
            print(f"{number} of {len(shots)} streams", flush=True)
    return load(work)


def _simulate(shots: list[list[Shot]], work: Path, number: int) -> None:
    path = work / f"{number:03d}.npz"
    if path.exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    images = join([item for shot in shots[number] for item in observe(shot, FINE)])
    partial_path = path.with_suffix(".partial.npz")
    np.savez(partial_path, **{field.name: getattr(images, field.name) for field in fields(Images)})
    partial_path.rename(path)


def halved(light: NDArray[np.float16]) -> NDArray[np.float16]:
    """Merge (n, 2 h, 2 w, 3) block statistics two by two: (n, h, w, 3)."""
    n, h, w, _ = light.shape
    halves = np.empty((n, h // 2, w // 2, 3), np.float16)
    for half, item in zip(halves, light, strict=True):
        four = item.astype(np.float32).reshape(h // 2, 2, w // 2, 2, 3)
        mean = four[..., 0].mean(axis=(1, 3))
        square = (four[..., 1] ** 2 + four[..., 0] ** 2).mean(axis=(1, 3))
        half[..., 0] = mean
        half[..., 1] = np.sqrt(np.maximum(square - mean**2, 0))
        half[..., 2] = four[..., 2].max(axis=(1, 3))
    return halves


def _whole(images: Images, encoder: ResNet50Encoder) -> Way:
    heights = comparison.merge_heights(images, comparison.embed(images, encoder.embed))
    return Way(heights, _cost_ms(encoder))


def _tiled(images: Images, encoder: ResNet50Encoder) -> Way:
    """Judge each quarter by itself, in units of its type's nominal limit; the worst counts."""
    h, w = GRID
    quarters = []
    for y in (0, h):
        for x in (0, w):
            quarter = replace(images, light=images.light[:, y : y + h, x : x + w])
            embeddings = comparison.embed(quarter, encoder.embed)
            quarters.append(comparison.merge_heights(quarter, embeddings))
    return Way(comparison.stronger(images, quarters), 4 * _cost_ms(encoder))


def _cost_ms(encoder: ResNet50Encoder) -> float:
    """Return the cost of an input, one at a time."""
    item = np.random.default_rng(0).random((1, *encoder.grid, 3), np.float32)
    encoder.embed(item)
    start = time.perf_counter()
    for _ in range(_TIMED):
        encoder.embed(item)
    return 1000 * (time.perf_counter() - start) / _TIMED


def _row(name: str, figures: Figures, cost_ms: float) -> str:
    worst = min(figures.by_type.values())
    far = figures.by_limit["1.5 x"]
    return f"| {name} | {figures.mean:.4f} | {worst:.4f} | {far:.1%} | {cost_ms:.0f} |"


if __name__ == "__main__":
    main()
