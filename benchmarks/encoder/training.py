"""The training itself: groups of good and spoilt images, steps, checkpoints."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from benchmarks.encoder.anomalies import Scene, spoil
from benchmarks.encoder.data import Images
from benchmarks.encoder.network import calibrate, narrow_network, ranking_loss

Floats = NDArray[np.float32]

_CHECKPOINT_STEPS = 50
GOOD = 4  # good images in a group, and as many spoilt ones


@dataclass(frozen=True)
class Recipe:
    """Parameters of a training.

    Attributes
    ----------
    steps : int
    groups : int
        In a step; each has four good images of one setup and four spoilt ones.
    crop : int
        Blocks along a side of the crop; the same crop for a group.
    rate : float
        Greatest learning rate of Adam; rises over the first twentieth, falls as a cosine.
    margin : float
        Of the loss, in logarithms of distance.
    """

    steps: int
    groups: int = 8
    crop: int = 112
    rate: float = 1e-3
    margin: float = 1.0
    seed: int = 31


class Deck:
    """Groups of images to distinguish, drawn at random, reproducible.

    Parameters
    ----------
    images : Images
        Good ones only. A setup with fewer than four is not used.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        members = [np.flatnonzero(images.setup == item) for item in np.unique(images.setup)]
        self._setups = [member for member in members if len(member) >= GOOD]
        types = [images.image_type[setup[0]] for setup in self._setups]
        alike = np.array([types.count(name) for name in types], float)
        self._chance = 1 / alike**0.5  # a type with many settings counts for more, but not as many
        self._chance /= self._chance.sum()

    def groups(self, count: int, crop: int, rng: np.random.Generator) -> Floats:
        """Return (8 count, crop, crop, 3) inputs: of each group four good ones, four spoilt."""
        return np.concatenate([self._group(crop, rng) for _ in range(count)])

    def _group(self, crop: int, rng: np.random.Generator) -> Floats:
        setup = self._setups[rng.choice(len(self._setups), p=self._chance)]
        chosen = rng.choice(setup, GOOD, replace=False)
        y, x = rng.integers(0, self._images.light.shape[1] - crop + 1, 2)
        box = (slice(y, y + crop), slice(x, x + crop))
        light = [self._images.light[index][box].astype(np.float32) for index in chosen]
        foreign = self._images.light[rng.integers(len(self._images))][box].astype(np.float32)
        bad = [
            spoil(self._scene(index, item, foreign), rng)
            for index, item in zip(chosen, light, strict=True)
        ]
        pairs = zip([*chosen, *chosen], [*light, *bad], strict=True)
        return np.stack([self._images.network_input(index, item) for index, item in pairs])

    def _scene(self, index: int, light: Floats, foreign: Floats) -> Scene:
        images = self._images
        photons = np.maximum(light[..., 0], 0) / images.gain_e_per_adu[index]
        ny, nx = images.shape[index]
        return Scene(
            light=light,
            other=foreign,
            sigma=np.sqrt(photons + images.read_noise_adu[index] ** 2),
            pixels=float(ny * nx / images.light[index, ..., 0].size),
            lit=bool(images.promised_light[index] > 0),
        )


def train(images: Images, recipe: Recipe, folder: Path, stop_after: int | None = None) -> Any:
    """Train the narrow network; go on from the newest checkpoint of the folder.

    Leaves ``network.keras`` and ``loss.csv``; returns the network.

    Parameters
    ----------
    stop_after : int, optional
        Stop at this step, though the recipe has more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, state = folder / "network.keras", folder / "state.json"
    deck = Deck(images)
    done = json.loads(state.read_text())["step"] if state.exists() else 0
    network = keras.saving.load_model(checkpoint, compile=False) if done else None
    if network is None:
        network = begin(deck, recipe)
    network.compile(optimizer=_optimizer(recipe), loss=ranking_loss(recipe.margin, GOOD))
    if done:
        _restore(network.optimizer, folder / "optimizer.npz", network)
    began, losses = time.monotonic(), []
    last = recipe.steps if stop_after is None else stop_after
    for step in range(done, last):
        rng = np.random.default_rng([recipe.seed, step])
        inputs = deck.groups(recipe.groups, recipe.crop, rng)
        losses.append(float(network.train_on_batch(inputs, np.zeros((len(inputs), 1), "f4"))))
        if (step + 1) % _CHECKPOINT_STEPS == 0 or step + 1 == last:
            _keep(network, folder, step + 1)
            rate = len(losses) * len(inputs) / (time.monotonic() - began)
            _note(folder, step + 1, losses[-_CHECKPOINT_STEPS:], rate)
    return network


def begin(deck: Deck, recipe: Recipe) -> Any:
    """Return the network before its first step: random numbers, calibrated."""
    network = narrow_network(recipe.seed)
    rng = np.random.default_rng([recipe.seed, 2**31])
    calibrate(network, deck.groups(2 * recipe.groups, recipe.crop, rng))
    return network


def _optimizer(recipe: Recipe) -> Any:
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=recipe.rate / 20,
        decay_steps=recipe.steps - recipe.steps // 20,
        alpha=0.01,
        warmup_target=recipe.rate,
        warmup_steps=recipe.steps // 20,
    )
    return keras.optimizers.Adam(schedule, clipnorm=1.0)


def _keep(network: Any, folder: Path, step: int) -> None:
    """Write a checkpoint; the step is written last, so that it names a whole one."""
    partial = folder / "partial.keras"
    network.save(partial)
    state = [np.asarray(variable) for variable in network.optimizer.variables]
    np.savez(folder / "optimizer.npz", *state)
    partial.rename(folder / "network.keras")
    (folder / "state.json").write_text(json.dumps({"step": step}))


def _restore(optimizer: Any, path: Path, network: Any) -> None:
    optimizer.build(network.trainable_variables)
    with np.load(path) as file:
        arrays: Sequence[Any] = [file[name] for name in file.files]
    for variable, array in zip(optimizer.variables, arrays, strict=True):
        variable.assign(array)


def _note(folder: Path, step: int, losses: Sequence[float], images_per_s: float) -> None:
    line = f"{step},{np.mean(losses):.4f},{images_per_s:.1f}"
    with (folder / "loss.csv").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(f"step, loss, images/s: {line}", flush=True)
