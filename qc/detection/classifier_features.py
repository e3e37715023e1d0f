"""Inputs and predictions of the classifier."""

from collections import abc
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embeddings import classifier as classifiers
from embeddings import classifier_data
from embeddings.preprocess import APPEARANCE
from embeddings.residual import PATTERNS
from qc import core
from qc.detection import decision
from qc.detection.metrics import METRICS
from qc.detection.thresholds import Threshold

ExpectedFaults = abc.Callable[[str, float | None], abc.Mapping[str, float]]

HEADERLESS_METRICS = ("bias_level", "read_noise")  # do not depend on the header
LOOKS = (*APPEARANCE, *HEADERLESS_METRICS)
_HEIGHT, _RESIDUAL = "merge height", "residual"
DIFFERENCES = (*METRICS, *PATTERNS, _HEIGHT, _RESIDUAL)
FLAGGED_BAD = 0.9  # expected share of bad images among the flagged; the rest is false alarms
_REASONS = 2  # differences named as the reason for a fault
_REASON_SHARE = 0.25  # least contribution of a reason, relative to the strongest
_GROSS = 1000  # sigma; larger deviations are not written out


@dataclass(frozen=True)
class ClassifierFeatures:
    """Features of one extension, by name.

    Attributes
    ----------
    embedding : (d,) float32 array
    looks : mapping of name to float
        Header-independent numbers.
    differences : mapping of name to float
        Differences from the references; empty with too few of them.
    """

    embedding: NDArray[np.float32]
    looks: abc.Mapping[str, float]
    differences: abc.Mapping[str, float]


@dataclass(frozen=True)
class FaultClassifier:
    """Classifier with the fault rates of an instrument.

    Attributes
    ----------
    model : DenseClassifier
    expected_faults : callable
        Expected share of each fault kind for a frame class and a share of bad images; None is
        the instrument's share. See `qc.io.instruments.Instrument.expected_faults`.
    """

    model: classifiers.DenseClassifier
    expected_faults: ExpectedFaults

    def predict(
        self, features: ClassifierFeatures, image_type: str, frame_class: str, *, is_flagged: bool
    ) -> core.Prediction:
        """Predict image type and fault kind of one extension.

        Parameters
        ----------
        features : ClassifierFeatures
        image_type : str
            Image type in the header.
        frame_class : str
            ``bias``, ``dark``, ``flat`` or ``arc``.
        is_flagged : bool
            True if a limit is exceeded: then the extension is expected to be bad, and the
            prediction names the fault.

        Returns
        -------
        Prediction
        """
        least = FLAGGED_BAD if is_flagged else 0.0
        expected = self.expected_faults(frame_class, least or None)
        return predict(self.model, features, image_type, expected, least)


def predict(
    classifier: classifiers.DenseClassifier,
    extension: ClassifierFeatures,
    image_type: str,
    expected_faults: abc.Mapping[str, float],
    least: float = 0.0,
) -> core.Prediction:
    """Predict image type and fault kind of one extension.

    Parameters
    ----------
    classifier : DenseClassifier
    extension : ClassifierFeatures
    image_type : str
        Image type in the header.
    expected_faults : mapping of kind to float
        Expected share of images of this class with the fault, 0 to 1.
    least : float
        Least probability of any fault, known from other evidence.

    Returns
    -------
    Prediction
    """
    features = stack_features([extension], classifier.fingerprint)
    types = dict(
        zip(classifier.type_head.classes, classifier.type_probabilities(features)[0], strict=True)
    )
    kinds = {"": 0.0}
    if extension.differences:
        probabilities = classifier.kind_probabilities(features, expected_faults)
        scaled = scale_to_total(probabilities, least)[0]
        kinds = dict(zip(classifier.kind_head.classes, scaled, strict=True))
    likeliest = max(types, key=lambda name: types[name])
    kind = max(kinds, key=lambda name: kinds[name])
    return core.Prediction(
        image_type=likeliest,
        type_probability=float(types[likeliest]),
        own_probability=float(types[image_type]) if image_type in types else None,
        kind=kind,
        kind_probability=float(kinds[kind]),
        because=explain_kind(classifier, features, kind)
        if kinds[kind] >= decision.WORTH_NAMING
        else (),
        classifier_digest=classifier.digest,
    )


def describe_extension(
    measurement: core.Measurement,
    embedding: NDArray[np.float32],
    evidence: core.Evidence,
    threshold: Threshold,
) -> ClassifierFeatures:
    """Return the classifier features of an extension.

    Parameters
    ----------
    measurement : Measurement
    embedding : (d,) float32 array
    evidence : Evidence
    threshold : Threshold
        Limits for the image type and night, not widened.

    Returns
    -------
    ClassifierFeatures
    """
    size = evidence.reference_size
    differences = difference_features(
        evidence.z,
        evidence.patterns,
        evidence.merge_height,
        evidence.residual,
        decision.widen_limits(threshold, size).merge_height,
    )
    looks = appearance_features(measurement.appearance, measurement.metrics)
    is_enough = size >= core.REFERENCE_NEEDED
    return ClassifierFeatures(embedding, looks, differences if is_enough else {})


def appearance_features(
    appearance: abc.Mapping[str, float], metrics: abc.Mapping[str, float]
) -> dict[str, float]:
    """Return the header-independent features.

    Parameters
    ----------
    appearance : mapping of str to float
        Numbers of `embeddings.preprocess.appearance`.
    metrics : mapping of str to float
        Values by metric.

    Returns
    -------
    dict of str to float
        By the names in `LOOKS`; without metrics that were not measured.
    """
    headerless = {name: metrics[name] for name in HEADERLESS_METRICS if name in metrics}
    return {**appearance, **headerless}


def difference_features(
    z: abc.Mapping[str, float],
    patterns: abc.Mapping[str, float],
    merge_height: float | None,
    residual: float | None,
    threshold: float,
) -> dict[str, float]:
    """Return the differences from the references.

    Parameters
    ----------
    z : mapping of str to float
        Robust z-scores by metric.
    patterns : mapping of str to float
        Strength of each residual pattern, sigma.
    merge_height : float or None
        Cosine distance.
    residual : float or None
        Strength of the strongest pattern, sigma.
    threshold : float
        Limit of the merge height, widened.

    Returns
    -------
    dict of str to float
        By the names in `DIFFERENCES`; the merge height in units of its limit.
    """
    differences = {**z, **patterns}
    if merge_height is not None:
        differences[_HEIGHT] = merge_height / threshold
    if residual is not None:
        differences[_RESIDUAL] = residual
    return differences


def stack_features(
    extensions: abc.Sequence[ClassifierFeatures], fingerprint: str
) -> classifier_data.Features:
    """Return the features of n extensions as arrays.

    Parameters
    ----------
    extensions : sequence of ClassifierFeatures
    fingerprint : str
        Fingerprint of the encoder of all embeddings.

    Returns
    -------
    Features
    """
    embeddings = [extension.embedding for extension in extensions]
    return classifier_data.Features(
        np.stack(embeddings) if embeddings else np.empty((0, 0), np.float32),
        fingerprint,
        classifier_data.NamedArrays.from_records(
            [extension.looks for extension in extensions], LOOKS
        ),
        classifier_data.NamedArrays.from_records(
            [extension.differences for extension in extensions], DIFFERENCES
        ),
    )


def is_compatible(classifier: classifiers.DenseClassifier) -> bool:
    """Return True if a classifier was trained with the features of this version."""
    names = (classifier.type_head.names, classifier.kind_head.names)
    return names == (LOOKS, DIFFERENCES)


def explain_kind(
    classifier: classifiers.DenseClassifier, features: classifier_data.Features, kind: str
) -> tuple[str, ...]:
    """Return the differences that contribute most to a fault kind, as text.

    Merge height and residual are left out: they do not distinguish fault kinds.

    Parameters
    ----------
    classifier : DenseClassifier
    features : Features
        Features of one extension.
    kind : str
        Fault kind.

    Returns
    -------
    tuple of str
        At most two texts.
    """
    contributions = classifier.contributions(features, kind)
    values = dict(zip(features.differences.names, features.differences.values[0], strict=True))
    strongest = max(0.0, *contributions.values())
    reasons = []
    for name, contribution in contributions.items():
        if contribution > _REASON_SHARE * strongest and name not in {_HEIGHT, _RESIDUAL}:
            value = values[name]
            sigma = f"{value:+.1f}" if abs(value) <= _GROSS else f"beyond {_GROSS}"
            reasons.append(f"{name.replace('_', ' ')} {sigma} sigma")
    return tuple(reasons[:_REASONS])


def scale_to_total(probabilities: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Scale the probabilities of fault kinds so that their sum has a least value.

    Parameters
    ----------
    probabilities : (n, c) float64 array
        Probability of each kind.
    least : float
        Least sum of each row.

    Returns
    -------
    (n, c) float64 array
        Each at most 1.
    """
    total = probabilities.sum(axis=1, keepdims=True)
    scale = np.maximum(1, least / np.maximum(total, np.finfo(float).tiny))
    scaled: NDArray[np.float64] = np.minimum(probabilities * scale, 1)
    return scaled
