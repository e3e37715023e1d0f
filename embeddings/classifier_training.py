"""Training of a classifier head with Keras: class weights, early stopping, calibration.

Shapes: n images, d the embedding's length, k numbers besides it, q principal components, t bins,
c classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax

from embeddings import classifier_data as data
from embeddings import classifier_head as heads
from embeddings.encoder import quiet_start

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_COMPONENTS = 32
_WHITENING = 0.5  # 0: components keep their proportions; 1: all count alike
_BINS = 8
_EXAMPLES_PER_BIN = 16
_HIDDEN = 128
_HELD_BACK = 0.2  # of the examples, the newest
_BATCH = 256
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-2
_MOST_EPOCHS = 150
_UNTESTED_EPOCHS = 30
_EPOCHS_WITHOUT_GAIN = 25  # epochs without a better validation loss
_RAREST = 0.05  # a rarer class does not weigh as if it were more frequent than this
_COLDEST, _HOTTEST = 0.05, 20.0  # temperatures searched
_LAYERS = ("hidden", "hidden_bias", "output", "output_bias")


def fit_head(
    examples: data.Examples,
    classes: tuple[str, ...],
    targets: Floats,
    seed: int,
    *,
    exclusive: bool,
) -> heads.Head:
    """Train a head: choose epochs and temperature on the newest examples, then train on all.

    Parameters
    ----------
    examples : Examples
        n labelled images.
    classes : tuple of c str
    targets : (n, c) float32 array
        1 where an image belongs to a class, else 0.
    seed : int
    exclusive : bool
        True for the type head, which sees the appearance of the images; False for the kind head,
        which sees their differences from the references.

    Returns
    -------
    Head
    """
    features = examples.features
    numbers = features.looks if exclusive else features.differences
    arrays = _standardisation(features.embeddings, numbers, _balanced_weights(targets))
    weights, shares = _class_weights(targets, examples.weights, exclusive=exclusive)
    training_data = _HeadTrainingData(
        heads.standardised_inputs(features.embeddings, numbers, arrays),
        targets,
        weights,
        exclusive=exclusive,
    )
    held_back = _held_back_rows(examples, targets)
    epochs, temperature, loss = _validate(training_data[~held_back], training_data[held_back], seed)
    layers = next(islice(_train_epochs(training_data, seed), epochs - 1, None))
    return heads.Head(
        classes=classes,
        names=numbers.names,
        exclusive=exclusive,
        temperature=temperature,
        shares=shares,
        epochs=epochs,
        log_loss=loss,
        arrays=MappingProxyType({**arrays, **layers}),
    )


@dataclass(frozen=True)
class _HeadTrainingData:
    """Inputs (n, q + k t + k), targets (n, c) of 0 and 1, and weights (n, c) of the targets."""

    inputs: Floats
    targets: Floats
    weights: Floats
    exclusive: bool

    def __getitem__(self, rows: data.Rows) -> "_HeadTrainingData":
        return _HeadTrainingData(
            self.inputs[rows], self.targets[rows], self.weights[rows], self.exclusive
        )

    def loss(self, logits: Doubles) -> float:
        """Return the mean log loss of an answer.

        The targets are smoothed by Laplace's rule of succession (Platt 1999, Advances in Large
        Margin Classifiers, 61): n images without an error do not prove that no error occurs, and
        the temperature would otherwise fall to zero.
        """
        doubt = 1 / (len(self.targets) + 2)
        target = np.clip(self.targets, doubt, 1 - doubt)
        if self.exclusive:
            terms = target * log_softmax(logits, axis=1)
            return -float((self.weights.sum(axis=1) * terms.sum(axis=1)).mean())
        terms = target * log_expit(logits) + (1 - target) * log_expit(-logits)
        return -float((self.weights * terms).mean())

    def best_temperature(self, logits: Doubles) -> float:
        """Return the temperature with the lowest loss (Guo et al. 2017, ICML 70, 1321)."""
        bounds = (np.log(_COLDEST), np.log(_HOTTEST))
        best = minimize_scalar(
            lambda log_temperature: self.loss(logits / np.exp(log_temperature)),
            bounds=bounds,
            method="bounded",
        )
        return float(np.exp(best.x))


# --- weights and standardisation -----------------------------------------------------------------


def _held_back_rows(examples: data.Examples, targets: Floats) -> NDArray[np.bool_]:
    """Select the validation examples, (n,): those of the newest days, about a fifth.

    An example whose class would be missing among the older ones is not held back.
    """
    start = np.quantile(examples.days, 1 - _HELD_BACK)
    held_back = np.asarray(examples.days >= start)
    if held_back.all():
        held_back = np.asarray(examples.days > examples.days.min())
    unlearnt = targets[~held_back].sum(axis=0) == 0
    held_back &= ~(targets[:, unlearnt] > 0).any(axis=1)
    return held_back


def _class_weights(targets: Floats, weights: Doubles, *, exclusive: bool) -> tuple[Floats, Doubles]:
    """Return the weight of each target, (n, c), and the resulting share of each class, (c,).

    Classes have equal weight, except those rarer than one in twenty.
    """
    class_weights = weights[:, np.newaxis] * targets
    share = class_weights.sum(axis=0) / weights.sum()
    if exclusive:
        balanced = class_weights / np.maximum(share, _RAREST) / targets.shape[1]
        total = balanced.sum()
        return (balanced * len(targets) / total).astype(np.float32), balanced.sum(axis=0) / total
    positive = class_weights * (_RAREST / np.minimum(np.maximum(share, _RAREST / 10), _RAREST))
    negative = weights[:, np.newaxis] * (1 - targets)
    both = positive + negative
    return both.astype(np.float32), positive.sum(axis=0) / both.sum(axis=0)


def _balanced_weights(targets: Floats) -> Doubles:
    """Return weights of the images, (n,), that sum to 1 for every class and for no class."""
    no_class = 1 - targets.max(axis=1, keepdims=True)
    groups = np.hstack([targets, no_class]).astype(np.float64)
    weights: Doubles = (groups / np.maximum(groups.sum(axis=0), 1)).sum(axis=1)
    return weights


def _standardisation(
    embeddings: Floats, numbers: data.NamedArrays, weights: Doubles
) -> dict[str, Floats]:
    """Learn the transformation of embeddings and numbers to unit scatter.

    The embeddings of an untrained network differ by a thousandth of their length. A network
    learns nothing from such inputs, but from their principal components.
    """
    pca = data.fit_components(embeddings, _COMPONENTS)
    scatter = np.sqrt(np.maximum(pca.explained_variance_, np.finfo(np.float32).tiny))
    scale = scatter**_WHITENING * scatter[0] ** (1 - _WHITENING)
    return {
        "middle": pca.mean_.astype(np.float32),
        "axes": (pca.components_.T / scale).astype(np.float32),
        "edges": _bin_edges(heads.compressed(numbers), weights).astype(np.float32),
    }


def _bin_edges(numbers: Doubles, weights: Doubles) -> Doubles:
    """Return the edges, (t + 1, k), of bins of equal weight."""
    t = max(1, min(_BINS, len(numbers) // _EXAMPLES_PER_BIN))
    edges = np.zeros((t + 1, numbers.shape[1]))
    for column, values in zip(edges.T, numbers.T, strict=True):
        finite = np.isfinite(values)
        if finite.any():
            steps = np.linspace(0, 1, t + 1)
            column[:] = np.quantile(
                values[finite], steps, weights=weights[finite], method="inverted_cdf"
            )
    return edges


# --- network -------------------------------------------------------------------------------------


def _validate(
    training_data: _HeadTrainingData, validation_data: _HeadTrainingData, seed: int
) -> tuple[int, float, float]:
    """Return the number of epochs with the lowest validation loss, the temperature, and the loss.

    The validation runs in NumPy: the start of an evaluation in Keras takes longer than that.
    """
    if not len(validation_data.inputs):
        return _UNTESTED_EPOCHS, 1.0, float("nan")
    best, epochs, lowest = np.zeros_like(validation_data.targets, np.float64), 0, np.inf
    for epoch, layers in enumerate(islice(_train_epochs(training_data, seed), _MOST_EPOCHS), 1):
        logits = heads.network_logits(validation_data.inputs, layers)
        loss = validation_data.loss(logits)
        if loss < lowest:
            best, epochs, lowest = logits, epoch, loss
        elif epoch >= epochs + _EPOCHS_WITHOUT_GAIN:
            break
    temperature = validation_data.best_temperature(best)
    return epochs, temperature, validation_data.loss(best / temperature)


def _train_epochs(training_data: _HeadTrainingData, seed: int) -> Iterator[heads.Arrays]:
    """Train without end; yield the weights after each epoch.

    The order of examples and the first weights come from NumPy: the random numbers of Keras
    differ by backend, and drawing them changes the global generators.
    """
    rng = np.random.default_rng(seed)
    n = len(training_data.inputs)
    network = _new_network(
        training_data.inputs.shape[1], training_data.targets.shape[1], rng, training_data.exclusive
    )
    answers = np.stack([training_data.targets, training_data.weights], axis=-1)  # (n, c, 2)
    while True:
        order = rng.permutation(n)
        for batch in np.array_split(order, -(-n // _BATCH)):
            network.train_on_batch(training_data.inputs[batch], answers[batch])
        arrays = [np.array(array, np.float32) for array in network.get_weights()]
        yield dict(zip(_LAYERS, arrays, strict=True))


def _new_network(width: int, c: int, rng: np.random.Generator, exclusive: bool) -> Any:
    """Return an untrained Keras network with He-normal weights."""
    with quiet_start():
        import keras  # noqa: PLC0415 - seconds to load

    def loss(answers: Any, logits: Any) -> Any:
        """Cross-entropy of the answers, which hold targets and weights, (n, c, 2).

        Parameters
        ----------
        answers : (n, c, 2) tensor
        logits : (n, c) tensor
        """
        target, weight = answers[..., 0], answers[..., 1]
        if exclusive:
            terms = -target * keras.ops.log_softmax(logits, axis=-1)
        else:
            terms = keras.ops.softplus(logits) - target * logits
        return keras.ops.sum(weight * terms, axis=-1)

    network = keras.Sequential(
        [
            keras.Input((width,)),
            keras.layers.Dense(_HIDDEN, activation="relu"),
            keras.layers.Dense(c),
        ]
    )
    hidden = rng.normal(0, np.sqrt(2 / width), (width, _HIDDEN))
    output = rng.normal(0, np.sqrt(2 / _HIDDEN), (_HIDDEN, c))
    network.set_weights([hidden, np.zeros(_HIDDEN), output, np.zeros(c)])
    network.compile(
        optimizer=keras.optimizers.AdamW(_LEARNING_RATE, weight_decay=_WEIGHT_DECAY),
        loss=loss,
        jit_compile=False,  # takes longer than the training
    )
    return network
