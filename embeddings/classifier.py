"""What does an image look like? A dense network on embeddings, with calibrated probabilities.

Shapes: n images, d the embedding's length, k detector numbers beside it, q principal components,
t bins, h hidden units, c classes.

Trained by Keras on whichever backend; a trained classifier is a few matrices, and answers in
NumPy: the same on every machine, in microseconds, without a backend to start.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedGroupKFold

from embeddings.encoder import quiet_start

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Arrays = Mapping[str, Floats]

EXAMPLES_NEEDED = 8  # of each class; fewer, and what is learnt is those images
GROUPS_NEEDED = 2  # of each class: one to learn from, one to be tested on
MAX_BYTES = 64 * 2**20  # a classifier has one or two million numbers
_COMPONENTS = 64
_EXAMPLES_PER_COMPONENT = 4
_WHITENINGS = (0.0, 0.5, 1.0)  # 0: components keep their proportions; 1: all count alike
_BOUND = 10.0  # standard deviations of a component: a gross fault must not drown all others
_BINS = 32
_EXAMPLES_PER_BIN = 16
_HIDDEN = 64
_VALIDATION_FOLDS = 5
_SPLITS_TRIED = 10
_BATCH = 4096
_LEARNING_RATE = 1e-2
_WEIGHT_DECAY = 1e-2
_MOST_EPOCHS = 400
_PATIENCE = 30  # epochs without a better validation loss
_COLDEST, _HOTTEST = 0.05, 20.0  # temperatures searched
_MAGIC = b"dense classifier"
_VERSION = 1
_LONGEST_HEADER = 2**20


class ClassifierError(Exception):
    """A classifier cannot be trained, read, or used on these features; says what to do."""


class TooFewExamplesError(ClassifierError):
    """A class has too few examples, or all of them from one group."""


@dataclass(frozen=True)
class Features:
    """What is known of n images.

    Attributes
    ----------
    embeddings : (n, d) float32 array
    fingerprint : str
        Of the encoder that made them.
    numbers : (n, k) float array or None
        Detector numbers beside the embedding, in any units; NaN where one has no meaning.
    names : tuple of str
        Names of the k numbers.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """

    embeddings: Floats
    fingerprint: str
    numbers: Doubles | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2:
            raise ValueError(f"expected (n, d) embeddings, got {self.embeddings.shape}")
        shape = (0,) if self.numbers is None else self.numbers.shape
        expected = (len(self.embeddings), len(self.names)) if self.names else (0,)
        if shape != expected:
            raise ValueError(f"expected numbers of {expected}, got {shape}")

    def __getitem__(self, chosen: NDArray[np.int_] | NDArray[np.bool_]) -> "Features":
        """Return some of the images."""
        numbers = None if self.numbers is None else self.numbers[chosen]
        return Features(self.embeddings[chosen], self.fingerprint, numbers, self.names)


@dataclass(frozen=True)
class Training:
    """How a classifier came about, and what it can do on groups it has not learnt from.

    Attributes
    ----------
    examples : mapping of class to int
        Used in all.
    validation_groups : tuple of str
        Held back: for when to stop, and for the temperature.
    validation_examples : int
    epochs : int
        After which it was best.
    accuracy, log_loss : float
        On the validation groups, every class counted alike; a little better than on new images,
        because the stopping and the temperature have seen them.
    """

    seed: int
    examples: Mapping[str, int]
    validation_groups: tuple[str, ...]
    validation_examples: int
    epochs: int
    accuracy: float
    log_loss: float


@dataclass(frozen=True, eq=False)
class DenseClassifier:
    """A trained classifier.

    Attributes
    ----------
    classes : tuple of str
        In the order of the columns of `predict_proba`.
    fingerprint : str
        Of the encoder whose embeddings it knows.
    names : tuple of str
        The numbers that it wants beside the embedding.
    temperature : float
        What the logits are divided by, so that probabilities are neither bold nor shy.
    arrays : mapping of name to float32 array
        The weights, and how inputs are standardised.
    """

    classes: tuple[str, ...]
    fingerprint: str
    names: tuple[str, ...]
    temperature: float
    training: Training
    arrays: Arrays

    @classmethod
    def fit(
        cls, features: Features, labels: Sequence[str], groups: Sequence[str], *, seed: int = 0
    ) -> Self:
        """Train on labelled images.

        Every class weighs the same, however rare. About a fifth of the groups is held back: they
        decide when training stops, how much small differences of embeddings count, and the
        temperature (Guo et al. 2017, ICML 70, 1321). The same examples and seed give the same
        classifier.

        Parameters
        ----------
        labels : n str
        groups : n str
            What must not be on both sides of the split, such as the night of each image.

        Raises
        ------
        TooFewExamplesError
            If there are fewer than two classes, or one is too rare.
        ClassifierError
            If a feature is not a number.
        ValueError
            If the lengths differ.
        """
        _check_examples(features, labels, groups)
        classes, truth = np.unique(np.asarray(labels), return_inverse=True)
        held_back = _split(truth, np.asarray(groups), seed)
        weights = _class_weights(truth, len(classes))
        attempts = [
            _train(_inputs(features, arrays), arrays, truth, weights, held_back, seed)
            for arrays in _standardisations(features[~held_back])
        ]
        best = min(attempts, key=lambda attempt: attempt.loss)
        logits = _logits(_inputs(features[held_back], best.arrays), best.arrays)
        temperature = _temperature(logits, truth[held_back], weights[held_back])
        training = Training(
            seed=seed,
            examples=dict(Counter(map(str, labels))),
            validation_groups=tuple(sorted({str(each) for each in np.asarray(groups)[held_back]})),
            validation_examples=int(held_back.sum()),
            epochs=best.epoch,
            accuracy=_accuracy(logits, truth[held_back], weights[held_back]),
            log_loss=_log_loss(logits / temperature, truth[held_back], weights[held_back]),
        )
        names = tuple(str(each) for each in classes)
        return cls(
            names, features.fingerprint, features.names, temperature, training,
            MappingProxyType(best.arrays),
        )  # fmt: skip

    def predict_proba(self, features: Features) -> Doubles:
        """Return the probability of each class, as if all were as frequent: (n, c), rows sum to 1.

        An image of none of the classes is still given to one of them.

        Raises
        ------
        ClassifierError
            If the embeddings are another encoder's, or other numbers come with them.
        """
        self._check_known(features)
        _check_finite(features)
        logits = _logits(_inputs(features, self.arrays), self.arrays)
        probabilities: Doubles = softmax(logits / self.temperature, axis=1)
        return probabilities

    def _check_known(self, features: Features) -> None:
        length = len(self.arrays["middle"])
        got = features.embeddings.shape[1]
        if (features.fingerprint, got) != (self.fingerprint, length):
            raise ClassifierError(
                f"the classifier was trained on embeddings of {self.fingerprint} with {length} "
                f"numbers, these are of {features.fingerprint} with {got}; train it anew on "
                "embeddings of the encoder in use, or go back to its encoder"
            )
        if features.names != self.names:
            raise ClassifierError(
                f"the classifier was trained with the numbers {_listed(self.names)}, got "
                f"{_listed(features.names)}; train it anew with the numbers that there are"
            )

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of everything that shapes an answer: equal digests, equal answers."""
        return hashlib.sha256(self._payload).hexdigest()

    def save(self) -> bytes:
        """Return the classifier as the content of a file.

        A line with version and digest; a line of JSON; the arrays as little-endian float32.
        """
        first = b"%s %d %s\n" % (_MAGIC, _VERSION, self.digest.encode())
        return first + self._payload

    @cached_property
    def _payload(self) -> bytes:
        header = {
            "classes": self.classes,
            "fingerprint": self.fingerprint,
            "names": self.names,
            "temperature": self.temperature,
            "training": asdict(self.training),
            "shapes": {name: array.shape for name, array in self.arrays.items()},
        }
        numbers = [array.astype("<f4").tobytes() for array in self.arrays.values()]
        return b"".join([json.dumps(header).encode(), b"\n", *numbers])

    @classmethod
    def load(cls, content: bytes) -> Self:
        """Read what `save` returned; nothing in it is executed, and memory is bounded by its size.

        Raises
        ------
        ClassifierError
            If it is too large, of another version, damaged, or no classifier at all.
        """
        if len(content) > MAX_BYTES:
            raise ClassifierError(
                f"expected a classifier of at most {MAX_BYTES} bytes, got {len(content)}"
            )
        first, _, payload = content.partition(b"\n")
        _check_whole(first, payload)
        head, _, body = payload.partition(b"\n")
        try:
            return cls._read(json.loads(head[:_LONGEST_HEADER]), body)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ClassifierError(
                f"the classifier is not as this program writes it: {error}"
            ) from error

    @classmethod
    def _read(cls, header: dict[str, Any], body: bytes) -> Self:
        training = dict(header["training"])
        training["validation_groups"] = tuple(training["validation_groups"])
        one = cls(
            classes=tuple(header["classes"]),
            fingerprint=str(header["fingerprint"]),
            names=tuple(header["names"]),
            temperature=float(header["temperature"]),
            training=Training(**training),
            arrays=_arrays(header["shapes"], body),
        )
        if _shapes_of(one) != {name: array.shape for name, array in one.arrays.items()}:
            raise ValueError("its arrays do not fit together")
        if not one.temperature > 0:
            raise ValueError(f"its temperature is {one.temperature}")
        return one


# --- what it is trained on -----------------------------------------------------------------------


def _check_examples(features: Features, labels: Sequence[str], groups: Sequence[str]) -> None:
    if not len(features.embeddings) == len(labels) == len(groups):
        raise ValueError(
            f"expected a label and a group for each of {len(features.embeddings)} images, got "
            f"{len(labels)} and {len(groups)}"
        )
    _check_finite(features)
    counts = Counter(labels)
    if len(counts) < 2:
        raise TooFewExamplesError(
            f"expected examples of at least two classes, got {_listed(sorted(counts))}; "
            "label some of another kind"
        )
    in_groups = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    rare = [
        f"{label} ({counts[label]} in {in_groups[label]})"
        for label in sorted(counts)
        if counts[label] < EXAMPLES_NEEDED or in_groups[label] < GROUPS_NEEDED
    ]
    if rare:
        raise TooFewExamplesError(
            f"expected at least {EXAMPLES_NEEDED} examples in {GROUPS_NEEDED} groups (nights) of "
            f"each class, got {_listed(rare)}; label more of them, or leave these classes out"
        )


def _check_finite(features: Features) -> None:
    bad = np.flatnonzero(~np.isfinite(features.embeddings).all(axis=1))
    if len(bad):
        raise ClassifierError(
            f"{len(bad)} of {len(features.embeddings)} embeddings are not of numbers, the first "
            f"at {bad[0]}; embed these images again"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _split(truth: NDArray[np.int_], groups: NDArray[Any], seed: int) -> NDArray[np.bool_]:
    """Choose the groups to be held back: (n,), True for the images in them.

    About a fifth, such that every class is still there to be learnt, and as many as possible to
    be tested.
    """
    folds = min(_VALIDATION_FOLDS, len(np.unique(groups)))
    best, most_tested = np.zeros(len(truth), bool), 0
    for attempt in range(_SPLITS_TRIED):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + attempt)
        for learnt, tested in splitter.split(truth, truth, groups):
            complete = set(truth[learnt]) == set(truth)
            if complete and len(set(truth[tested])) > most_tested:
                most_tested = len(set(truth[tested]))
                best = np.isin(np.arange(len(truth)), tested)
    if not most_tested:
        raise TooFewExamplesError(
            "no group (night) can be held back without losing all examples of a class; label "
            "some on other nights"
        )
    return best


def _class_weights(truth: NDArray[np.int_], c: int) -> Doubles:
    """Return weights that make every class count alike: (n,), of mean 1."""
    counts = np.bincount(truth, minlength=c)
    weights: Doubles = len(truth) / (c * counts[truth])
    return weights


# --- inputs --------------------------------------------------------------------------------------


def _standardisations(features: Features) -> list[dict[str, Floats]]:
    """Learn several ways to bring embeddings and numbers to unit scatter.

    The embeddings of an untrained network differ by a thousandth of their length; a network
    learns nothing from such inputs. Principal components do. Whether the small ones are noise, or
    all that tells two classes apart, only the held-back examples can say.
    """
    embeddings = features.embeddings.astype(np.float64)
    q = max(1, min(_COMPONENTS, len(embeddings) // _EXAMPLES_PER_COMPONENT, embeddings.shape[1]))
    pca = PCA(q, svd_solver="full").fit(embeddings)
    scatter = np.sqrt(np.maximum(pca.explained_variance_, np.finfo(np.float32).tiny))
    edges = _edges(_numbers(features)).astype(np.float32)
    middle = pca.mean_.astype(np.float32)
    standardisations = []
    for whitening in _WHITENINGS:
        scale = scatter**whitening * scatter[0] ** (1 - whitening)
        axes = (pca.components_.T / scale).astype(np.float32)
        standardisations.append({"middle": middle, "axes": axes, "edges": edges})
    return standardisations


def _numbers(features: Features) -> Doubles:
    """Return the numbers, (n, k), infinite ones as missing; k = 0 if there are none."""
    if features.numbers is None:
        return np.empty((len(features.embeddings), 0))
    return np.where(np.isfinite(features.numbers), features.numbers, np.nan).astype(np.float64)


def _edges(numbers: Doubles) -> Doubles:
    """Return the edges of bins that hold equally many examples: (t + 1, k)."""
    t = max(1, min(_BINS, len(numbers) // _EXAMPLES_PER_BIN))
    edges = np.zeros((t + 1, numbers.shape[1]))
    for column, values in zip(edges.T, numbers.T, strict=True):
        known = values[np.isfinite(values)]
        if len(known):
            column[:] = np.quantile(known, np.linspace(0, 1, t + 1))
    return edges


def _inputs(features: Features, arrays: Arrays) -> Floats:
    """Return what the network sees, all of order 1: (n, q + k t + k).

    Components; how far each number fills each bin, 0 to 1, which resolves a number where its
    examples are, whatever its unit and however long its tail (Gorishniy et al. 2022, NeurIPS 35,
    24991); and which numbers are missing.
    """
    components = (features.embeddings - arrays["middle"]) @ arrays["axes"].astype(np.float64)
    numbers = _numbers(features)
    low, high = arrays["edges"][:-1], arrays["edges"][1:]
    narrow = np.finfo(np.float32).tiny  # a bin of equal values is a step
    filled = (numbers[:, np.newaxis] - low) / np.maximum(high - low, narrow)  # (n, t, k)
    bins = np.nan_to_num(np.clip(filled, 0, 1)).reshape(len(numbers), -1)
    bounded = np.clip(components, -_BOUND, _BOUND)
    return np.hstack([bounded, bins, np.isnan(numbers)]).astype(np.float32)


# --- the network ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Attempt:
    """A trained network with its standardisation, at the epoch of least validation loss."""

    arrays: Arrays
    epoch: int
    loss: float


def _train(
    inputs: Floats,
    standardisation: Arrays,
    truth: NDArray[np.int_],
    weights: Doubles,
    held_back: NDArray[np.bool_],
    seed: int,
) -> _Attempt:
    """Train until the validation loss has not fallen for a while.

    The order of examples and the first weights come from NumPy: Keras' own draws differ by
    backend and would change the state of everybody's generators. Validation is done in NumPy
    too: Keras takes longer to begin an evaluation than all of it needs.
    """
    rng = np.random.default_rng(seed)
    learnt = rng.permutation(np.flatnonzero(~held_back))
    batches = np.array_split(learnt, -(-len(learnt) // _BATCH))
    network = _network(inputs.shape[1], int(truth.max()) + 1, rng)
    best = _Attempt({}, 0, np.inf)
    for epoch in range(1, _MOST_EPOCHS + 1):
        for batch in batches:
            network.train_on_batch(inputs[batch], truth[batch], sample_weight=weights[batch])
        arrays = {**standardisation, **_weights(network)}
        logits = _logits(inputs[held_back], arrays)
        loss = _log_loss(logits, truth[held_back], weights[held_back])
        if loss < best.loss:
            best = _Attempt(arrays, epoch, loss)
        elif epoch >= best.epoch + _PATIENCE:
            break
    return best


_LAYERS = ("hidden", "hidden_bias", "output", "output_bias")


def _network(width: int, c: int, rng: np.random.Generator) -> Any:
    """Return an untrained Keras network with He-normal weights."""
    with quiet_start():
        import keras  # noqa: PLC0415 - seconds to load

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
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # takes longer than the training
    )
    return network


def _weights(network: Any) -> Arrays:
    arrays = [np.array(array, np.float32) for array in network.get_weights()]
    return dict(zip(_LAYERS, arrays, strict=True))


def _logits(inputs: Floats, arrays: Arrays) -> Doubles:
    """Return what the trained network says: (n, c)."""
    hidden = np.maximum(inputs @ arrays["hidden"] + arrays["hidden_bias"], 0)
    return np.asarray(hidden @ arrays["output"] + arrays["output_bias"], np.float64)


# --- calibration ---------------------------------------------------------------------------------


def _temperature(logits: Doubles, truth: NDArray[np.int_], weights: Doubles) -> float:
    """Return the temperature of the least log loss.

    The truth is taken as a little uncertain, as after Laplace's rule of succession (Platt 1999,
    Advances in Large Margin Classifiers, 61): n images without an error do not prove that there
    never is one, and the temperature would otherwise fall to zero.
    """
    n, c = logits.shape
    doubt = 1 / (n + 2)
    target = np.full((n, c), doubt / (c - 1))
    target[np.arange(n), truth] = 1 - doubt

    def loss(log_temperature: float) -> float:
        terms = target * log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-(weights * terms.sum(axis=1)).sum())

    bounds = (np.log(_COLDEST), np.log(_HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def _accuracy(logits: Doubles, truth: NDArray[np.int_], weights: Doubles) -> float:
    return float(np.average(logits.argmax(axis=1) == truth, weights=weights))


def _log_loss(logits: Doubles, truth: NDArray[np.int_], weights: Doubles) -> float:
    losses = -log_softmax(logits, axis=1)[np.arange(len(truth)), truth]
    return float(np.average(losses, weights=weights))


# --- files ---------------------------------------------------------------------------------------


def _check_whole(first: bytes, payload: bytes) -> None:
    magic, _, rest = first.rpartition(b" ")[0].rpartition(b" ")
    digest = first.rpartition(b" ")[2]
    if magic != _MAGIC:
        raise ClassifierError("not a classifier: it does not begin as one; train one")
    if rest != str(_VERSION).encode():
        raise ClassifierError(
            f"expected a classifier of version {_VERSION}, got {rest.decode(errors='replace')}; "
            "train it anew with this program"
        )
    if digest.decode(errors="replace") != hashlib.sha256(payload).hexdigest():
        raise ClassifierError("the classifier is damaged: its digest is wrong; train it anew")


def _arrays(shapes: Mapping[str, Sequence[int]], body: bytes) -> Arrays:
    """Cut the arrays out of a file's last part, without a copy."""
    sizes = {name: int(np.prod(shape, dtype=object)) for name, shape in shapes.items()}
    if 4 * sum(sizes.values()) != len(body) or min(sizes.values(), default=0) < 0:
        raise ValueError(f"expected {4 * sum(sizes.values())} bytes of arrays, got {len(body)}")
    numbers = np.frombuffer(body, "<f4").astype(np.float32)
    parts = np.split(numbers, np.cumsum(list(sizes.values()))[:-1])
    cut = zip(shapes.items(), parts, strict=True)
    return MappingProxyType({name: part.reshape(tuple(shape)) for (name, shape), part in cut})


def _shapes_of(one: DenseClassifier) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a classifier's arrays must have."""
    (d, q), h = one.arrays["axes"].shape, one.arrays["hidden_bias"].size
    t = len(one.arrays["edges"]) - 1
    k, c = len(one.names), len(one.classes)
    return {
        "middle": (d,),
        "axes": (d, q),
        "edges": (t + 1, k),
        "hidden": (q + k * t + k, h),
        "hidden_bias": (h,),
        "output": (h, c),
        "output_bias": (c,),
    }
