"""Train the encoder on simulated frames and measure it: one command, which can be stopped.

``python -m benchmarks.encoder --work DIR [--steps N] [--nights N]``

Leaves in DIR the simulated images, a checkpoint every fifty steps, the loss, the weights and a
card. A second run goes on where the first one was.
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.encoder import comparison
from benchmarks.encoder.comparison import Figures
from benchmarks.encoder.data import Images, Shot, load, simulate, training_shots, validation_shots
from benchmarks.encoder.network import write_resnet50
from benchmarks.encoder.training import Deck, Recipe, begin, train
from embeddings.encoder import ResNet50Encoder

_REFERENCE_NIGHTS, _TEST_NIGHTS = 25, 12  # of two exposures of a stream each
_RESIDUAL = "residual"


def main() -> None:
    """Simulate, train, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for everything made")
    parser.add_argument("--nights", type=int, default=5, help="of two exposures, in each epoch")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--crop", type=int, default=112, help="blocks along a side")
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    work, recipe = chosen.work, Recipe(steps=chosen.steps, crop=chosen.crop)
    good = _images(partial(training_shots, chosen.nights), work / "training", chosen.workers)
    network = train(good, recipe, work / "network")
    write_resnet50(network, work / "simulated.weights.h5")
    plan = partial(validation_shots, _REFERENCE_NIGHTS, _TEST_NIGHTS)
    tests = _images(plan, work / "validation", chosen.workers)
    result = _compare(tests, work, begin(Deck(good), recipe))
    (work / "card.md").write_text(_card(good, recipe, tests, result), encoding="utf-8")
    print((work / "card.md").read_text(encoding="utf-8"))


def _images(plan: Callable[[], Any], folder: Path, workers: int) -> Images:
    """Simulate a set, stream by stream, and return it."""
    shots: list[list[Shot]] = list(plan())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for number, _ in enumerate(
            pool.map(partial(simulate, shots, folder), range(len(shots))), start=1
        ):
            print(f"{folder.name}: {number} of {len(shots)} streams", flush=True)
    return load(folder)


def _compare(images: Images, work: Path, untrained: Any) -> dict[str, Figures]:
    """Return the figures of each encoder alone, and of the residual with each."""
    shipped = ResNet50Encoder(str(work / "simulated.weights.h5"))
    embedders = {
        "random": ResNet50Encoder("untrained").embed,
        "calibrated, untrained": untrained.predict_on_batch,
        "trained": shipped.embed,
    }
    residual = _kept(work / "residual.npy", partial(comparison.residuals, images))
    scores = {_RESIDUAL: residual}
    for name, embedder in embedders.items():
        path = work / f"embeddings-{name.replace(', ', '-')}.npy"
        embeddings = _kept(path, partial(comparison.embed, images, embedder))
        scores[name] = comparison.merge_heights(images, embeddings)
        both = comparison.stronger(images, [residual, scores[name]])
        scores[f"{_RESIDUAL} or {name}"] = both
    return {name: comparison.figures(images, score) for name, score in scores.items()}


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    """Return an array that was made before, or make it."""
    if not path.exists():
        np.save(path, make())
    return np.load(path)


def _card(good: Images, recipe: Recipe, tests: Images, result: dict[str, Figures]) -> str:
    """Return training data and accuracy as Markdown."""
    bad = int((tests.fault != "").sum())
    nominal = int(((tests.fault == "") & (tests.part == "test")).sum())
    return "\n".join(
        [
            f"Trained on {len(good)} good images, {len(np.unique(good.setup))} setups and epochs.",
            f"Recipe: {json.dumps(asdict(recipe))}.",
            f"Keras {keras.__version__} on {keras.backend.backend()}.",
            f"Measured on {nominal} good and {bad} faulty images of another instrument's history.",
            "",
            *_table("image type", {name: item.by_type for name, item in result.items()}),
            "",
            *_table("faults beyond", {name: item.by_limit for name, item in result.items()}),
            "",
            *_table("kind of fault", {name: item.by_kind for name, item in result.items()}),
            "",
        ]
    )


def _table(title: str, columns: dict[str, Any]) -> list[str]:
    """Return a Markdown table, a row for each key of the columns, and their mean."""
    keys = sorted(next(iter(columns.values())))
    rows = [[key, *(f"{column[key]:.3f}" for column in columns.values())] for key in keys]
    means = [f"{np.mean(list(column.values())):.4f}" for column in columns.values()]
    lines = [[title, *columns], ["---"] * (len(columns) + 1), *rows, ["mean", *means]]
    return [f"| {' | '.join(line)} |" for line in lines]


if __name__ == "__main__":
    main()
