"""What does an image look like, and what is wrong with it? A dense network on embeddings.

Two heads. The *type* head sees the embedding and how the image looks; it never sees how the image
differs from its references, which were chosen by what the header claims. The *kind* head sees the
embedding and how the image differs from its references; one probability for each kind, as a frame
can have two faults.

Shapes: n images, d the embedding's length, k numbers beside it, q principal components, t bins,
h hidden units, c classes.

Trained by Keras on whichever backend; a trained classifier is a few matrices, and answers in
NumPy: the same on every machine, in microseconds, without a backend to start.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, logit, softmax
from sklearn.decomposition import PCA

from embeddings.encoder import quiet_start

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Arrays = Mapping[str, Floats]

EXAMPLES_NEEDED = 8  # of each class; fewer, and what is learnt is those images
MAX_BYTES = 64 * 2**20  # a classifier has one or two million numbers
_COMPONENTS = 32
_KEPT_COMPONENTS = 128  # of examples in a file: twice as many as are used
_EXAMPLES_PER_COMPONENT = 4
_WHITENING = 0.5  # 0: components keep their proportions; 1: all count alike
_BOUND = 10.0  # standard deviations of a component: a gross fault must not drown all others
_BINS = 8
_EXAMPLES_PER_BIN = 16
_HIDDEN = 128
_HELD_BACK = 0.2  # of the examples, the newest
_BATCH = 256
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-2
_MOST_EPOCHS = 150
_UNTESTED_EPOCHS = 30
_PATIENCE = 25  # epochs without a better validation loss
_RAREST = 0.05  # a rarer class does not weigh as if it were more frequent than this
_COLDEST, _HOTTEST = 0.05, 20.0  # temperatures searched
_MAGIC = b"dense classifier"
_VERSION = 2
_LONGEST_HEADER = 2**20
TYPE, KIND = "type", "kind"
_UNKNOWN = "?"


class ClassifierError(Exception):
    """A classifier cannot be trained, read, or used on these features; says what to do."""


class TooFewExamplesError(ClassifierError):
    """A class has too few examples, or all of them are new."""


@dataclass(frozen=True)
class NamedArrays:
    """Named numbers of n images.

    Attributes
    ----------
    values : (n, k) float64 array
        In any units; NaN where one has no meaning.
    names : tuple of k str

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """

    values: Doubles
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise ValueError(f"expected (n, {len(self.names)}) numbers, got {self.values.shape}")

    def __getitem__(self, chosen: NDArray[np.int_] | NDArray[np.bool_]) -> "NamedArrays":
        """Return those of some of the images."""
        return NamedArrays(self.values[chosen], self.names)

    @classmethod
    def of(cls, records: Sequence[Mapping[str, float]], names: Sequence[str]) -> "NamedArrays":
        """Return the named numbers of n records, NaN where a record lacks one."""
        values = [[record.get(name, np.nan) for name in names] for record in records]
        return cls(np.array(values, np.float64).reshape(len(records), len(names)), tuple(names))


@dataclass(frozen=True)
class Features:
    """What is known of n images.

    Attributes
    ----------
    embeddings : (n, d) float32 array
    fingerprint : str
        Of the encoder that made them.
    looks : Numbers
        How they look, whatever their headers say.
    differences : Numbers
        How they differ from their references.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """

    embeddings: Floats
    fingerprint: str
    looks: NamedArrays
    differences: NamedArrays

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2:
            raise ValueError(f"expected (n, d) embeddings, got {self.embeddings.shape}")
        lengths = {len(self.embeddings), len(self.looks.values), len(self.differences.values)}
        if len(lengths) > 1:
            raise ValueError(f"expected as many numbers as embeddings, got {sorted(lengths)}")

    def __len__(self) -> int:
        """Return how many images they are of."""
        return len(self.embeddings)

    def __getitem__(self, chosen: NDArray[np.int_] | NDArray[np.bool_]) -> "Features":
        """Return those of some of the images."""
        return Features(
            self.embeddings[chosen],
            self.fingerprint,
            self.looks[chosen],
            self.differences[chosen],
        )


@dataclass(frozen=True)
class Examples:
    """Labelled images.

    Attributes
    ----------
    features : Features
    types : tuple of n str
        What each shows; empty where nobody knows.
    kinds : tuple of n frozenset of str, or None
        What is wrong with each; empty if nothing is; None where nobody knows.
    days : (n,) int array
        When each was taken; the newest are held back to learn when to stop.
    weights : (n,) float64 array
        How much each counts.
    """

    features: Features
    types: tuple[str, ...]
    kinds: tuple[frozenset[str] | None, ...]
    days: NDArray[np.int_]
    weights: Doubles

    def __post_init__(self) -> None:
        lengths = {
            len(self.features), len(self.types), len(self.kinds), len(self.days), len(self.weights)
        }  # fmt: skip
        if len(lengths) > 1:
            raise ValueError(f"expected one of each for every image, got {sorted(lengths)}")

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.types)

    def __getitem__(self, chosen: NDArray[np.int_] | NDArray[np.bool_]) -> "Examples":
        """Return some of them."""
        rows = np.arange(len(self))[chosen]
        return Examples(
            self.features[rows],
            tuple(self.types[row] for row in rows),
            tuple(self.kinds[row] for row in rows),
            self.days[rows],
            self.weights[rows],
        )

    def save(self) -> bytes:
        """Return the examples as the content of a file, their embeddings as leading components.

        What a classifier makes of the components it would make of the embeddings.
        """
        features = self.features
        pca = _components(features.embeddings, _KEPT_COMPONENTS)
        middle = pca.mean_.astype(np.float32)
        axes = pca.components_.astype(np.float16)  # (q, d)
        amplitudes = (features.embeddings - middle) @ axes.T.astype(np.float32)
        content = io.BytesIO()
        np.savez_compressed(
            content,
            fingerprint=np.array(features.fingerprint),
            middle=middle,
            axes=axes,
            amplitudes=amplitudes.astype(np.float32),
            looks=features.looks.values.astype(np.float32),
            look_names=np.array(features.looks.names),
            differences=features.differences.values.astype(np.float32),
            difference_names=np.array(features.differences.names),
            types=np.array(self.types),
            kinds=np.array(
                [_UNKNOWN if one is None else " ".join(sorted(one)) for one in self.kinds]
            ),
            days=self.days,
            weights=self.weights,
        )
        return content.getvalue()

    @classmethod
    def load(cls, content: bytes) -> Self:
        """Read what `save` returned; nothing in it is executed."""
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            embeddings = file["middle"] + file["amplitudes"] @ file["axes"].astype(np.float32)
            looks, differences = (
                NamedArrays(file[key].astype(np.float64), tuple(map(str, file[names])))
                for key, names in (("looks", "look_names"), ("differences", "difference_names"))
            )
            features = Features(embeddings, str(file["fingerprint"]), looks, differences)
            kinds = [
                None if one == _UNKNOWN else frozenset(one.split())
                for one in map(str, file["kinds"])
            ]
            types = tuple(map(str, file["types"]))
            return cls(features, types, tuple(kinds), file["days"], file["weights"])

    def __add__(self, other: "Examples") -> "Examples":
        """Return both, one after the other.

        Raises
        ------
        ClassifierError
            If they are of different encoders or have other numbers.
        """
        one, two = self.features, other.features
        _check_alike(one, two)
        features = Features(
            np.concatenate([one.embeddings, two.embeddings]),
            one.fingerprint,
            NamedArrays(np.concatenate([one.looks.values, two.looks.values]), one.looks.names),
            NamedArrays(
                np.concatenate([one.differences.values, two.differences.values]),
                one.differences.names,
            ),
        )
        return Examples(
            features,
            self.types + other.types,
            self.kinds + other.kinds,
            np.concatenate([self.days, other.days]),
            np.concatenate([self.weights, other.weights]),
        )


@dataclass(frozen=True, eq=False)
class Head:
    """One question's answers.

    Attributes
    ----------
    classes : tuple of c str
    names : tuple of str
        The numbers that it wants beside the embedding.
    exclusive : bool
        Whether an image is of exactly one class, or of any number of them.
    temperature : float
        What the logits are divided by, so that probabilities are neither bold nor shy.
    shares : (c,) float64 array
        The part of the examples that each class was, as weighed in training.
    epochs : int
        After which it was best.
    log_loss : float
        On the examples held back, classes counted alike.
    arrays : mapping of name to float32 array
        The weights, and how inputs are standardised.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    exclusive: bool
    temperature: float
    shares: Doubles
    epochs: int
    log_loss: float
    arrays: Arrays

    def logits(self, embeddings: Floats, numbers: NamedArrays) -> Doubles:
        """Return calibrated logits: (n, c)."""
        return _logits(_inputs(embeddings, numbers, self.arrays), self.arrays) / self.temperature


@dataclass(frozen=True, eq=False)
class DenseClassifier:
    """A trained classifier.

    Attributes
    ----------
    fingerprint : str
        Of the encoder whose embeddings it knows.
    type_head, kind_head : Head
    examples : mapping of class to int
        Those that it was trained on.
    """

    fingerprint: str
    type_head: Head
    kind_head: Head
    examples: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def fit(cls, examples: Examples, *, seed: int = 0, least: int = EXAMPLES_NEEDED) -> Self:
        """Train on labelled images.

        The newest fifth decides when training stops and sets the temperature (Guo et al. 2017,
        ICML 70, 1321); then all are learnt, as long. Every class weighs the same, however rare,
        down to one in twenty. The same examples and seed give the same classifier. The type is
        learnt from images that nothing is wrong with.

        Parameters
        ----------
        least : int
            Examples that a class must have to be learnt.

        Raises
        ------
        TooFewExamplesError
            If there are fewer than two types or no kind with enough examples.
        ClassifierError
            If a feature is not a number.
        """
        _check_finite(examples.features)
        typed = examples[_rows(examples, _is_typed)]
        told = examples[_rows(examples, _is_told)]
        types = _enough([[each] for each in typed.types], least)
        kinds = _enough([sorted(each or ()) for each in told.kinds], least)
        if len(types) < 2:
            raise TooFewExamplesError(
                f"expected {least} good examples of at least two image types, got "
                f"{_listed(types)}; label more as good"
            )
        if not kinds:
            raise TooFewExamplesError(
                f"expected {least} bad examples of at least one kind, got "
                f"{_counted(told)}; label more as bad"
            )
        typed = typed[np.array([each in types for each in typed.types])]
        return cls(
            examples.features.fingerprint,
            _fit(typed, types, _one_of(types, typed), seed, exclusive=True),
            _fit(told, kinds, _any_of(kinds, told), seed + 1, exclusive=False),
            {**Counter(typed.types), **Counter(kind for some in told.kinds for kind in some or ())},
        )

    def type_probabilities(self, features: Features) -> Doubles:
        """Return the probability of each type, as if all were as frequent: (n, c), rows sum to 1.

        An image of none of the types is still given to one of them.

        Raises
        ------
        ClassifierError
            If the embeddings are another encoder's, or other numbers come with them.
        """
        self._check_known(features)
        logits = self.type_head.logits(features.embeddings, _seen(features))
        probabilities: Doubles = softmax(logits, axis=1)
        return probabilities

    def kind_probabilities(self, features: Features, expected: Mapping[str, float]) -> Doubles:
        """Return the probability of each kind of fault: (n, c).

        Parameters
        ----------
        expected : mapping of kind to float
            The part of all images that is expected to have it; a kind that is not named is as
            frequent as it was among the examples.

        Raises
        ------
        ClassifierError
            If the embeddings are another encoder's, or other numbers come with them.
        """
        self._check_known(features)
        head = self.kind_head
        trained = expit(head.logits(features.embeddings, _compared(features)))
        wanted = [
            expected.get(name, share) for name, share in zip(head.classes, head.shares, strict=True)
        ]
        return with_prior(trained, head.shares, np.array(wanted))

    def spoken_for(self, features: Features, kind: str) -> dict[str, float]:
        """Return how much each difference of one image spoke for a kind of fault, most first.

        By how much the logit would fall if that difference alone were zero, as in a reference.

        Raises
        ------
        ClassifierError
            If the embeddings are another encoder's, or other numbers come with them.
        """
        self._check_known(features)
        differences = features.differences
        k = len(differences.names)
        values = np.repeat(differences.values, k + 1, axis=0)  # (k + 1, k)
        missing = np.isnan(values[0])
        np.fill_diagonal(values, 0.0)  # the last row stays as it is
        copies = replace(
            features[np.zeros(k + 1, int)], differences=NamedArrays(values, differences.names)
        )
        logits = self.kind_head.logits(copies.embeddings, _compared(copies))
        fall = (logits[-1] - logits[:-1])[:, self.kind_head.classes.index(kind)]
        order = np.argsort(-fall, kind="stable")
        return {differences.names[i]: float(fall[i]) for i in order if not missing[i]}

    def _check_known(self, features: Features) -> None:
        length = len(self.type_head.arrays["middle"])
        got = features.embeddings.shape[1]
        if (features.fingerprint, got) != (self.fingerprint, length):
            raise ClassifierError(
                f"the classifier was trained on embeddings of {self.fingerprint} with {length} "
                f"numbers, these are of {features.fingerprint} with {got}; train it anew on "
                "embeddings of the encoder in use, or go back to its encoder"
            )
        names = (_seen(features).names, _compared(features).names)
        if names != (self.type_head.names, self.kind_head.names):
            raise ClassifierError(
                "the classifier was trained with other numbers beside the embedding than these; "
                "train it anew"
            )
        _check_finite(features)

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
        heads = {TYPE: self.type_head, KIND: self.kind_head}
        header = {
            "fingerprint": self.fingerprint,
            "examples": dict(self.examples),
            "heads": {name: _header_of(head) for name, head in heads.items()},
        }
        numbers = [
            array.astype("<f4").tobytes()
            for head in heads.values()
            for array in head.arrays.values()
        ]
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
        heads = header["heads"]
        shapes = {
            f"{head}/{name}": shape
            for head in (TYPE, KIND)
            for name, shape in heads[head]["shapes"].items()
        }
        arrays = _arrays(shapes, body)
        type_head, kind_head = (
            _head(heads[head], {name: arrays[f"{head}/{name}"] for name in heads[head]["shapes"]})
            for head in (TYPE, KIND)
        )
        return cls(str(header["fingerprint"]), type_head, kind_head, dict(header["examples"]))


def with_prior(probability: Doubles, trained: Any, expected: Any) -> Doubles:
    """Return probabilities for another share of positives than that of the training.

    ``P_N / (P_N + (pi_N / (1 - pi_N)) ((1 - pi) / pi) (1 - P_N))``, Bayes' rule: a classifier
    trained on half-and-half would cry wolf where one image in a hundred is bad.

    Parameters
    ----------
    probability : float array
        As trained.
    trained, expected : float arrays that broadcast with it, 0 to 1, exclusive
        The share of positives in training, and where it is used.
    """
    moved = logit(probability) - logit(trained) + logit(expected)
    shifted: Doubles = expit(moved)
    return shifted


# --- what it is trained on -----------------------------------------------------------------------


def _rows(
    examples: Examples, chosen: Callable[[str, frozenset[str] | None], bool]
) -> NDArray[np.bool_]:
    pairs = zip(examples.types, examples.kinds, strict=True)
    return np.array([chosen(name, kinds) for name, kinds in pairs], bool)


def _is_typed(name: str, kinds: frozenset[str] | None) -> bool:
    return bool(name) and kinds is not None and not kinds


def _is_told(_name: str, kinds: frozenset[str] | None) -> bool:
    return kinds is not None


def _enough(labels: Sequence[Sequence[str]], least: int) -> tuple[str, ...]:
    """Return the classes with enough examples, in order."""
    counts = Counter(label for some in labels for label in some)
    return tuple(sorted(name for name, count in counts.items() if count >= least))


def _counted(examples: Examples) -> str:
    counts = Counter(kind for some in examples.kinds for kind in some or ())
    return _listed([f"{name} ({count})" for name, count in sorted(counts.items())])


def _one_of(classes: Sequence[str], examples: Examples) -> Floats:
    return np.array([[each == name for name in classes] for each in examples.types], np.float32)


def _any_of(classes: Sequence[str], examples: Examples) -> Floats:
    return np.array(
        [[name in (some or ()) for name in classes] for some in examples.kinds], np.float32
    )


def _check_alike(one: Features, two: Features) -> None:
    same = (one.fingerprint, one.looks.names, one.differences.names) == (
        two.fingerprint,
        two.looks.names,
        two.differences.names,
    )
    if not same:
        raise ClassifierError(
            "expected examples of one encoder with the same numbers, got some of "
            f"{one.fingerprint} and of {two.fingerprint}; judge the older ones again"
        )


def _check_finite(features: Features) -> None:
    bad = np.flatnonzero(~np.isfinite(features.embeddings).all(axis=1))
    if len(bad):
        raise ClassifierError(
            f"{len(bad)} of {len(features)} embeddings are not of numbers, the first "
            f"at {bad[0]}; embed these images again"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _newest(examples: Examples, targets: Floats) -> NDArray[np.bool_]:
    """Choose the examples to be held back: (n,), True for those of the newest days.

    About a fifth, whole days; older ones keep an example of every class, or it is not held back.
    """
    start = np.quantile(examples.days, 1 - _HELD_BACK)
    held_back = np.asarray(examples.days >= start)
    if held_back.all():
        held_back = np.asarray(examples.days > examples.days.min())
    unlearnt = targets[~held_back].sum(axis=0) == 0
    held_back &= ~(targets[:, unlearnt] > 0).any(axis=1)
    return held_back


def _weights_of(targets: Floats, weights: Doubles, *, exclusive: bool) -> tuple[Floats, Doubles]:
    """Return the weight of each answer, (n, c), and the share that each class then has: (c,).

    Classes count alike, but for those rarer than one in twenty.
    """
    own = weights[:, np.newaxis] * targets
    share = own.sum(axis=0) / weights.sum()
    if exclusive:
        each = own / np.maximum(share, _RAREST) / targets.shape[1]
        total = each.sum()
        return (each * len(targets) / total).astype(np.float32), each.sum(axis=0) / total
    positive = own * (_RAREST / np.minimum(np.maximum(share, _RAREST / 10), _RAREST))
    negative = weights[:, np.newaxis] * (1 - targets)
    both = positive + negative
    return both.astype(np.float32), positive.sum(axis=0) / both.sum(axis=0)


# --- inputs --------------------------------------------------------------------------------------


def _seen(features: Features) -> NamedArrays:
    """Return the numbers that the type head may see."""
    return features.looks


def _compared(features: Features) -> NamedArrays:
    """Return the numbers that the kind head may see: how it looks tells the type, not the fault."""
    return features.differences


def _standardisation(
    embeddings: Floats, numbers: NamedArrays, weights: Doubles
) -> dict[str, Floats]:
    """Learn how to bring embeddings and numbers to unit scatter.

    The embeddings of an untrained network differ by a thousandth of their length; a network
    learns nothing from such inputs. Principal components do.
    """
    pca = _components(embeddings, _COMPONENTS)
    scatter = np.sqrt(np.maximum(pca.explained_variance_, np.finfo(np.float32).tiny))
    scale = scatter**_WHITENING * scatter[0] ** (1 - _WHITENING)
    return {
        "middle": pca.mean_.astype(np.float32),
        "axes": (pca.components_.T / scale).astype(np.float32),
        "edges": _edges(_scaled(numbers), weights).astype(np.float32),
    }


def _components(embeddings: Floats, most: int) -> PCA:
    q = max(1, min(most, len(embeddings) // _EXAMPLES_PER_COMPONENT, embeddings.shape[1]))
    return PCA(q, svd_solver="randomized", random_state=0).fit(embeddings.astype(np.float64))


def _scaled(numbers: NamedArrays) -> Doubles:
    """Return the numbers, (n, k), logarithmic beyond 1 either way; infinite ones as missing.

    Of two sigma and of two thousand, both tell something.
    """
    return np.where(np.isfinite(numbers.values), np.arcsinh(numbers.values), np.nan)


def _balance(targets: Floats) -> Doubles:
    """Return weights by which every class, and none of them, counts alike: (n,)."""
    none = 1 - targets.max(axis=1, keepdims=True)
    every = np.hstack([targets, none]).astype(np.float64)
    weights: Doubles = (every / np.maximum(every.sum(axis=0), 1)).sum(axis=1)
    return weights


def _edges(numbers: Doubles, weights: Doubles) -> Doubles:
    """Return the edges of bins that hold equally much weight: (t + 1, k)."""
    t = max(1, min(_BINS, len(numbers) // _EXAMPLES_PER_BIN))
    edges = np.zeros((t + 1, numbers.shape[1]))
    for column, values in zip(edges.T, numbers.T, strict=True):
        known = np.isfinite(values)
        if known.any():
            steps = np.linspace(0, 1, t + 1)
            column[:] = np.quantile(
                values[known], steps, weights=weights[known], method="inverted_cdf"
            )
    return edges


def _inputs(embeddings: Floats, numbers: NamedArrays, arrays: Arrays) -> Floats:
    """Return what the network sees, all of order 1: (n, q + k t + k).

    Components; how far each number fills each bin, 0 to 1, which resolves a number where its
    examples are, whatever its unit and however long its tail (Gorishniy et al. 2022, NeurIPS 35,
    24991); and which numbers are missing.
    """
    components = (embeddings - arrays["middle"]) @ arrays["axes"].astype(np.float64)
    values = _scaled(numbers)
    low, high = arrays["edges"][:-1], arrays["edges"][1:]
    narrow = np.finfo(np.float32).tiny  # a bin of equal values is a step
    filled = (values[:, np.newaxis] - low) / np.maximum(high - low, narrow)  # (n, t, k)
    bins = np.nan_to_num(np.clip(filled, 0, 1)).reshape(len(values), -1)
    bounded = np.clip(components, -_BOUND, _BOUND)
    return np.hstack([bounded, bins, np.isnan(values)]).astype(np.float32)


# --- the network ---------------------------------------------------------------------------------


def _fit(
    examples: Examples, classes: tuple[str, ...], targets: Floats, seed: int, *, exclusive: bool
) -> Head:
    """Learn from all but the newest when to stop and how sure to be; then learn from all."""
    features = examples.features
    numbers = _seen(features) if exclusive else _compared(features)
    arrays = _standardisation(features.embeddings, numbers, _balance(targets))
    weights, shares = _weights_of(targets, examples.weights, exclusive=exclusive)
    lesson = _HeadTrainingData(
        _inputs(features.embeddings, numbers, arrays), targets, weights, exclusive=exclusive
    )
    held_back = _newest(examples, targets)
    epochs, temperature, loss = _rehearse(lesson[~held_back], lesson[held_back], seed)
    layers = next(islice(_epochs(lesson, seed), epochs - 1, None))
    return Head(
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
    """What a head learns from: inputs (n, q), answers (n, c) of 0 and 1, and their weights."""

    inputs: Floats
    targets: Floats
    weights: Floats
    exclusive: bool

    def __getitem__(self, chosen: NDArray[np.int_] | NDArray[np.bool_]) -> "_HeadTrainingData":
        return _HeadTrainingData(
            self.inputs[chosen], self.targets[chosen], self.weights[chosen], self.exclusive
        )

    def loss(self, logits: Doubles) -> float:
        """Return the mean log loss of an answer.

        The truth is taken as a little uncertain, as after Laplace's rule of succession (Platt
        1999, Advances in Large Margin Classifiers, 61): n images without an error do not prove
        that there never is one, and the temperature would otherwise fall to zero.
        """
        doubt = 1 / (len(self.targets) + 2)
        target = np.clip(self.targets, doubt, 1 - doubt)
        if self.exclusive:
            terms = target * log_softmax(logits, axis=1)
            return -float((self.weights.sum(axis=1) * terms.sum(axis=1)).mean())
        terms = target * log_expit(logits) + (1 - target) * log_expit(-logits)
        return -float((self.weights * terms).mean())


def _rehearse(
    lesson: _HeadTrainingData, exam: _HeadTrainingData, seed: int
) -> tuple[int, float, float]:
    """Return after how many epochs the exam is passed best, the temperature, and its loss.

    Validation is done in NumPy: Keras takes longer to begin an evaluation than all of it needs.
    """
    if not len(exam.inputs):
        return _UNTESTED_EPOCHS, 1.0, float("nan")
    best, epochs, least = np.zeros_like(exam.targets, np.float64), 0, np.inf
    for epoch, layers in enumerate(islice(_epochs(lesson, seed), _MOST_EPOCHS), 1):
        logits = _logits(exam.inputs, layers)
        loss = exam.loss(logits)
        if loss < least:
            best, epochs, least = logits, epoch, loss
        elif epoch >= epochs + _PATIENCE:
            break
    temperature = _temperature(exam, best)
    return epochs, temperature, exam.loss(best / temperature)


def _temperature(exam: _HeadTrainingData, logits: Doubles) -> float:
    """Return the temperature of the least log loss."""
    bounds = (np.log(_COLDEST), np.log(_HOTTEST))
    best = minimize_scalar(
        lambda warmth: exam.loss(logits / np.exp(warmth)), bounds=bounds, method="bounded"
    )
    return float(np.exp(best.x))


def _epochs(lesson: _HeadTrainingData, seed: int) -> Iterator[Arrays]:
    """Train for ever; yield the weights after each epoch.

    The order of examples and the first weights come from NumPy: Keras' own draws differ by
    backend and would change the state of everybody's generators.
    """
    rng = np.random.default_rng(seed)
    network = _network(lesson.inputs.shape[1], lesson.targets.shape[1], rng, lesson.exclusive)
    n = len(lesson.inputs)
    answers = np.stack([lesson.targets, lesson.weights], axis=-1)  # (n, c, 2)
    while True:
        order = rng.permutation(n)
        for batch in np.array_split(order, -(-n // _BATCH)):
            network.train_on_batch(lesson.inputs[batch], answers[batch])
        yield _layers(network)


_LAYERS = ("hidden", "hidden_bias", "output", "output_bias")


def _network(width: int, c: int, rng: np.random.Generator, exclusive: bool) -> Any:
    """Return an untrained Keras network with He-normal weights."""
    with quiet_start():
        import keras  # noqa: PLC0415 - seconds to load

    def loss(answers: Any, logits: Any) -> Any:
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


def _layers(network: Any) -> Arrays:
    arrays = [np.array(array, np.float32) for array in network.get_weights()]
    return dict(zip(_LAYERS, arrays, strict=True))


def _logits(inputs: Floats, arrays: Arrays) -> Doubles:
    """Return what the trained network says: (n, c)."""
    hidden = np.maximum(inputs @ arrays["hidden"] + arrays["hidden_bias"], 0)
    return np.asarray(hidden @ arrays["output"] + arrays["output_bias"], np.float64)


# --- files ---------------------------------------------------------------------------------------


def _header_of(head: Head) -> dict[str, Any]:
    return {
        "classes": head.classes,
        "names": head.names,
        "exclusive": head.exclusive,
        "temperature": head.temperature,
        "shares": head.shares.tolist(),
        "epochs": head.epochs,
        "log_loss": head.log_loss,
        "shapes": {name: array.shape for name, array in head.arrays.items()},
    }


def _head(header: dict[str, Any], arrays: Arrays) -> Head:
    head = Head(
        classes=tuple(header["classes"]),
        names=tuple(header["names"]),
        exclusive=bool(header["exclusive"]),
        temperature=float(header["temperature"]),
        shares=np.array(header["shares"], np.float64),
        epochs=int(header["epochs"]),
        log_loss=float(header["log_loss"]),
        arrays=MappingProxyType(dict(arrays)),
    )
    if _shapes_of(head) != {name: array.shape for name, array in arrays.items()}:
        raise ValueError("its arrays do not fit together")
    if not head.temperature > 0:
        raise ValueError(f"its temperature is {head.temperature}")
    if len(head.shares) != len(head.classes) or not (head.shares > 0).all():
        raise ValueError("its shares of classes do not fit")
    return head


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


def _shapes_of(head: Head) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a head's arrays must have."""
    (d, q), h = head.arrays["axes"].shape, head.arrays["hidden_bias"].size
    t = len(head.arrays["edges"]) - 1
    k, c = len(head.names), len(head.classes)
    return {
        "middle": (d,),
        "axes": (d, q),
        "edges": (t + 1, k),
        "hidden": (q + k * t + k, h),
        "hidden_bias": (h,),
        "output": (h, c),
        "output_bias": (c,),
    }
