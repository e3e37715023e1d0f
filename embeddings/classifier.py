"""Supervised classifier of image type and fault: a dense network on embeddings.

It has two heads. The *type* head uses the embedding and the appearance of the image. It does not
use the differences from the references, which are selected by the header. The *kind* head uses
the embedding and the differences from the references. It gives one probability for each kind of
fault, as a frame can have two faults.

Keras trains the heads, on any backend. A trained classifier is a few matrices, evaluated in
NumPy: the result is the same on every machine, within microseconds, without a backend.

Shapes: n images, d the embedding's length, k numbers besides it, c classes.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from scipy.special import expit, logit, softmax

from embeddings import classifier_data, classifier_head, classifier_training

EXAMPLES_NEEDED = 8  # of each class; with fewer, the network overfits these images
MAX_BYTES = 64 * 2**20  # a classifier has one or two million numbers
TYPE, KIND = "type", "kind"
_MAGIC = b"dense classifier"
_VERSION = 2
_LONGEST_HEADER = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class DenseClassifier:
    """A trained classifier.

    Attributes
    ----------
    fingerprint : str
        Of the encoder of its embeddings.
    type_head, kind_head : Head
    examples : mapping of class to int
        Number of examples in training.
    """

    fingerprint: str
    type_head: classifier_head.Head
    kind_head: classifier_head.Head
    examples: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        examples: classifier_data.Examples,
        *,
        seed: int = 0,
        minimum_examples: int = EXAMPLES_NEEDED,
    ) -> Self:
        """Train on labelled images.

        The newest fifth determines the number of epochs and the temperature (Guo et al. 2017,
        ICML 70, 1321); the final training uses all examples and the same number of epochs. Every
        class has the same weight, down to a share of one in twenty. The same examples and seed
        give the same classifier. The type is learnt from good images only.

        Parameters
        ----------
        examples : Examples
        seed : int
        minimum_examples : int
            Number of examples that a class needs.

        Returns
        -------
        DenseClassifier

        Raises
        ------
        TooFewExamplesError
            If there are fewer than two types or no kind with enough examples.
        ClassifierError
            If a feature is not a number.
        """
        examples.features.check_finite()
        labels = list(zip(examples.types, examples.kinds, strict=True))
        good = examples[
            np.array([bool(name) and kinds == frozenset() for name, kinds in labels], bool)
        ]
        labelled = examples[np.array([kinds is not None for _, kinds in labels], bool)]
        types = _frequent_classes([[name] for name in good.types], minimum_examples)
        kinds = _frequent_classes(
            [sorted(faults or ()) for faults in labelled.kinds], minimum_examples
        )
        kind_counts = Counter(kind for faults in labelled.kinds for kind in faults or ())
        if len(types) < 2:
            raise classifier_data.TooFewExamplesError(
                f"expected {minimum_examples} good examples of at least two image types, got "
                f"{', '.join(types) or 'none'}; label more as good"
            )
        if not kinds:
            counts = [f"{name} ({count})" for name, count in sorted(kind_counts.items())]
            raise classifier_data.TooFewExamplesError(
                f"expected {minimum_examples} bad examples of at least one kind, got "
                f"{', '.join(counts) or 'none'}; label more as bad"
            )
        good = good[np.array([name in types for name in good.types])]
        type_targets = [[name == image_type for name in types] for image_type in good.types]
        kind_targets = [[name in (faults or ()) for name in kinds] for faults in labelled.kinds]
        return cls(
            examples.features.fingerprint,
            classifier_training.fit_head(
                good, types, np.array(type_targets, np.float32), seed, exclusive=True
            ),
            classifier_training.fit_head(
                labelled, kinds, np.array(kind_targets, np.float32), seed + 1, exclusive=False
            ),
            {**Counter(good.types), **kind_counts},
        )

    def type_probabilities(self, features: classifier_data.Features) -> classifier_data.Doubles:
        """Return the probability of each type for equal priors: (n, c), rows sum to 1.

        An image of none of the types is assigned to one of them nevertheless.

        Raises
        ------
        ClassifierError
            If the encoder or the names of the numbers differ from the training.
        """
        self._check_features(features)
        logits = self.type_head.logits(features.embeddings, features.looks)
        probabilities: classifier_data.Doubles = softmax(logits, axis=1)
        return probabilities

    def kind_probabilities(
        self, features: classifier_data.Features, expected: Mapping[str, float]
    ) -> classifier_data.Doubles:
        """Compute the probability of each kind of fault.

        Parameters
        ----------
        features : Features
            Of n images.
        expected : mapping of kind to float
            Expected share of each kind among all images; a missing kind is as frequent as among
            the examples.

        Returns
        -------
        (n, c) float64 array

        Raises
        ------
        ClassifierError
            If the encoder or the names of the numbers differ from the training.
        """
        self._check_features(features)
        head = self.kind_head
        trained = expit(head.logits(features.embeddings, features.differences))
        prior = [
            expected.get(name, share) for name, share in zip(head.classes, head.shares, strict=True)
        ]
        return with_prior(trained, head.shares, np.array(prior))

    def contributions(self, features: classifier_data.Features, kind: str) -> dict[str, float]:
        """Attribute the logit of a kind of fault to the differences of one image.

        The contribution of a difference is the decrease of the logit if this difference alone
        were zero, as in a reference.

        Parameters
        ----------
        features : Features
            Of one image.
        kind : str

        Returns
        -------
        dict of name to float
            In descending order; missing differences are left out.

        Raises
        ------
        ClassifierError
            If the encoder or the names of the numbers differ from the training.
        """
        self._check_features(features)
        differences = features.differences
        k = len(differences.names)
        values = np.repeat(differences.values, k + 1, axis=0)  # (k + 1, k)
        missing = np.isnan(values[0])
        np.fill_diagonal(values, 0.0)  # the last row stays as it is
        copies = dataclasses.replace(
            features[np.zeros(k + 1, int)],
            differences=classifier_data.NamedArrays(values, differences.names),
        )
        logits = self.kind_head.logits(copies.embeddings, copies.differences)
        decrease = (logits[-1] - logits[:-1])[:, self.kind_head.classes.index(kind)]
        order = np.argsort(-decrease, kind="stable")
        return {differences.names[i]: float(decrease[i]) for i in order if not missing[i]}

    def _check_features(self, features: classifier_data.Features) -> None:
        expected = len(self.type_head.arrays["middle"])
        length = features.embeddings.shape[1]
        if (features.fingerprint, length) != (self.fingerprint, expected):
            raise classifier_data.ClassifierError(
                f"the classifier was trained on embeddings of {self.fingerprint} with {expected} "
                f"numbers, these are of {features.fingerprint} with {length}; train it anew on "
                "embeddings of the encoder in use, or go back to its encoder"
            )
        names = (features.looks.names, features.differences.names)
        if names != (self.type_head.names, self.kind_head.names):
            raise classifier_data.ClassifierError(
                "the classifier was trained with other numbers besides the embedding than these; "
                "train it anew"
            )
        features.check_finite()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all content that affects a result: equal digests, equal results."""
        return hashlib.sha256(self._payload).hexdigest()

    def save(self) -> bytes:
        """Return the classifier as the content of a file.

        A line with version and digest; a line of JSON; the arrays as little-endian float32.
        """
        first_line = b"%s %d %s\n" % (_MAGIC, _VERSION, self.digest.encode())
        return first_line + self._payload

    @cached_property
    def _payload(self) -> bytes:
        heads = {TYPE: self.type_head, KIND: self.kind_head}
        header = {
            "fingerprint": self.fingerprint,
            "examples": dict(self.examples),
            "heads": {name: head.header() for name, head in heads.items()},
        }
        numbers = [
            array.astype("<f4").tobytes()
            for head in heads.values()
            for array in head.arrays.values()
        ]
        return b"".join([json.dumps(header).encode(), b"\n", *numbers])

    @classmethod
    def load(cls, content: bytes) -> Self:
        """Read the result of `save`; no content is executed, and the memory is bounded.

        Raises
        ------
        ClassifierError
            If the content is too large, of another version, damaged, or no classifier.
        """
        if len(content) > MAX_BYTES:
            raise classifier_data.ClassifierError(
                f"expected a classifier of at most {MAX_BYTES} bytes, got {len(content)}"
            )
        first_line, _, payload = content.partition(b"\n")
        _check_first_line(first_line, payload)
        header, _, body = payload.partition(b"\n")
        try:
            return cls._from_parts(json.loads(header[:_LONGEST_HEADER]), body)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise classifier_data.ClassifierError(
                f"the classifier is not as this program writes it: {error}"
            ) from error

    @classmethod
    def _from_parts(cls, header: dict[str, Any], body: bytes) -> Self:
        heads = header["heads"]
        shapes = {
            f"{head}/{name}": shape
            for head in (TYPE, KIND)
            for name, shape in heads[head]["shapes"].items()
        }
        arrays = _split_arrays(shapes, body)
        type_head, kind_head = (
            classifier_head.Head.from_header(
                heads[head], {name: arrays[f"{head}/{name}"] for name in heads[head]["shapes"]}
            )
            for head in (TYPE, KIND)
        )
        return cls(str(header["fingerprint"]), type_head, kind_head, dict(header["examples"]))


def with_prior(
    probability: classifier_data.Doubles, trained: Any, expected: Any
) -> classifier_data.Doubles:
    """Convert probabilities to another share of positives than that of the training.

    ``P_N / (P_N + (pi_N / (1 - pi_N)) ((1 - pi) / pi) (1 - P_N))``, Bayes' rule: a classifier
    trained on half-and-half has too many false positives where one image in a hundred is bad.

    Parameters
    ----------
    probability : float array
        As trained.
    trained, expected : float arrays that broadcast with it, 0 to 1, exclusive
        Share of positives in training, and among the images of the application.

    Returns
    -------
    float64 array
    """
    shifted_logit = logit(probability) - logit(trained) + logit(expected)
    shifted: classifier_data.Doubles = expit(shifted_logit)
    return shifted


def _frequent_classes(labels: Sequence[Sequence[str]], minimum_examples: int) -> tuple[str, ...]:
    """Return the classes with enough examples, sorted."""
    counts = Counter(label for image_labels in labels for label in image_labels)
    return tuple(sorted(name for name, count in counts.items() if count >= minimum_examples))


def _check_first_line(first_line: bytes, payload: bytes) -> None:
    start, _, digest = first_line.rpartition(b" ")
    magic, _, version = start.rpartition(b" ")
    if magic != _MAGIC:
        raise classifier_data.ClassifierError(
            "not a classifier: it does not begin as one; train one"
        )
    if version != str(_VERSION).encode():
        raise classifier_data.ClassifierError(
            f"expected a classifier of version {_VERSION}, got "
            f"{version.decode(errors='replace')}; train it anew with this program"
        )
    if digest.decode(errors="replace") != hashlib.sha256(payload).hexdigest():
        raise classifier_data.ClassifierError(
            "the classifier is damaged: its digest is wrong; train it anew"
        )


def _split_arrays(shapes: Mapping[str, Sequence[int]], body: bytes) -> classifier_head.Arrays:
    """Split the last part of a file into arrays, without a copy."""
    sizes = {name: int(np.prod(shape, dtype=object)) for name, shape in shapes.items()}
    if 4 * sum(sizes.values()) != len(body) or min(sizes.values(), default=0) < 0:
        raise ValueError(f"expected {4 * sum(sizes.values())} bytes of arrays, got {len(body)}")
    numbers = np.frombuffer(body, "<f4").astype(np.float32)
    parts = np.split(numbers, np.cumsum(list(sizes.values()))[:-1])
    pairs = zip(shapes.items(), parts, strict=True)
    return MappingProxyType({name: part.reshape(tuple(shape)) for (name, shape), part in pairs})
