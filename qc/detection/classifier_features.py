"""What the classifier is told of an extension."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embeddings.classifier import DenseClassifier, Features, NamedArrays
from embeddings.preprocess import APPEARANCE
from embeddings.residual import PATTERNS
from qc.core.verdict import Prediction
from qc.detection.decision import WORTH_NAMING
from qc.detection.metrics import METRICS

# Of all detector numbers those that are measured whatever the header claims.
_HEADERLESS = ("bias_level", "read_noise")
LOOKS = (*APPEARANCE, *_HEADERLESS)
_HEIGHT, _RESIDUAL = "merge height", "residual"
DIFFERENCES = (*METRICS, *PATTERNS, _HEIGHT, _RESIDUAL)
_TELLING = 2  # differences that are named as the reason for a kind of fault
_TELLING_PART = 0.25  # of what the strongest said; less is no reason
_GROSS = 1000  # sigma; how much further says no more


@dataclass(frozen=True)
class ClassifierFeatures:
    """What is known of one extension, by name.

    Attributes
    ----------
    embedding : (d,) float32 array
    looks : mapping of name to float
        How it looks whatever its header says.
    differences : mapping of name to float
        How it differs from its references; empty where they are too few to tell.
    """

    embedding: NDArray[np.float32]
    looks: Mapping[str, float]
    differences: Mapping[str, float]


def looks_of(appearance: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
    """Return how an extension looks: its blocks' values, and its level and noise."""
    return {**appearance, **{name: metrics[name] for name in _HEADERLESS if name in metrics}}


def differences_of(
    z: Mapping[str, float],
    patterns: Mapping[str, float],
    merge_height: float | None,
    residual: float | None,
    threshold: float,
) -> dict[str, float]:
    """Return how an extension differs from its references, in sigma and in thresholds."""
    found = {**z, **patterns}
    if merge_height is not None:
        found[_HEIGHT] = merge_height / threshold
    if residual is not None:
        found[_RESIDUAL] = residual
    return found


def features_of(descriptions: Sequence[ClassifierFeatures], fingerprint: str) -> Features:
    """Return what the classifier sees of some extensions, whose embeddings are one encoder's."""
    embeddings = [one.embedding for one in descriptions]
    return Features(
        np.stack(embeddings) if embeddings else np.empty((0, 0), np.float32),
        fingerprint,
        NamedArrays.of([one.looks for one in descriptions], LOOKS),
        NamedArrays.of([one.differences for one in descriptions], DIFFERENCES),
    )


def predict(
    classifier: DenseClassifier,
    one: ClassifierFeatures,
    image_type: str,
    expected_faults: Mapping[str, float],
    least: float = 0.0,
) -> Prediction:
    """Return what the classifier says of one extension.

    Parameters
    ----------
    image_type : str
        What the header says.
    expected_faults : mapping of kind to float
        The part of all images of this class that is expected to have it.
    least : float
        How probable it is at least that something is wrong, for reasons of others.
    """
    features = features_of([one], classifier.fingerprint)
    types = dict(
        zip(classifier.type_head.classes, classifier.type_probabilities(features)[0], strict=True)
    )
    kinds = {"": 0.0}
    if one.differences:
        told = classifier.kind_probabilities(features, expected_faults)
        names = classifier.kind_head.classes
        kinds = dict(zip(names, summing_to(told, least)[0], strict=True))
    seen, kind = max(types, key=lambda name: types[name]), max(kinds, key=lambda name: kinds[name])
    return Prediction(
        image_type=seen,
        type_probability=float(types[seen]),
        own_probability=float(types[image_type]) if image_type in types else None,
        kind=kind,
        kind_probability=float(kinds[kind]),
        because=_because(classifier, features, kind) if kinds[kind] >= WORTH_NAMING else (),
        classifier_digest=classifier.digest,
    )


def knows_these(classifier: DenseClassifier) -> bool:
    """Say whether a classifier was trained with the numbers that it would be told today."""
    names = (classifier.type_head.names, classifier.kind_head.names)
    return names == (LOOKS, DIFFERENCES)


def _because(classifier: DenseClassifier, features: Features, kind: str) -> tuple[str, ...]:
    """Name the differences that spoke most for a kind, in words; few, and none that said little.

    How far the whole frame is from its references says that something is wrong, not what.
    """
    spoken = classifier.spoken_for(features, kind)
    values = dict(zip(features.differences.names, features.differences.values[0], strict=True))
    strongest = max(0.0, *spoken.values())
    telling = [
        name
        for name, much in spoken.items()
        if much > _TELLING_PART * strongest and name not in {_HEIGHT, _RESIDUAL}
    ]
    return tuple(_in_words(name, values[name]) for name in telling[:_TELLING])


def _in_words(name: str, value: float) -> str:
    spelt = name.replace("_", " ")
    far = f"{value:+.1f}" if abs(value) <= _GROSS else f"beyond {_GROSS}"
    return f"{spelt} {far} sigma"


def summing_to(probabilities: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Scale the probabilities of kinds, (n, c), so that those of an image sum to a least value.

    Where it is known that something is wrong, what the kinds are too shy of is shared out.
    """
    total = probabilities.sum(axis=1, keepdims=True)
    scale = np.maximum(1, least / np.maximum(total, np.finfo(float).tiny))
    scaled: NDArray[np.float64] = np.minimum(probabilities * scale, 1)
    return scaled
