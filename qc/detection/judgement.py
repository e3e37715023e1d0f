"""Judgement of extensions: measurements and references to verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embeddings import clustering
from embeddings.residual import Residual
from qc import core, detection

Floats = NDArray[np.float32]

_REFERENCES_TO_CLUSTER = 2  # with fewer there is no tree
_QUANTITIES = {"level": "level", "scatter": "noise", "peak": "brightest pixel"}
_GLOBAL_PATTERNS = {
    "power": "the whole frame",
    "outliers": "many blocks",
    "dark outliers": "many dark blocks",
}


@dataclass(frozen=True)
class Judgement:
    """Evidence and verdict of one extension, ready to be recorded.

    Attributes
    ----------
    measurement : Measurement
        Measurement in stored precision.
    embedding : (d,) float32 array
    evidence : Evidence
    verdict : Verdict
    threshold : Threshold
        Limits for the image type and night, not widened.
    nearest_id : int or None
        Id of the nearest reference; None without references.
    """

    measurement: core.Measurement
    embedding: Floats
    evidence: core.Evidence
    verdict: core.Verdict
    threshold: detection.Threshold
    nearest_id: int | None

    @property
    def highest_merge(self) -> float:
        """Return the limit of the merge height, widened for few references."""
        return detection.widen_limits(self.threshold, self.evidence.reference_size).merge_height


def judge(
    measurements: Sequence[core.Measurement],
    embeddings: Floats,
    references: Sequence[core.Reference],
    thresholds: Sequence[detection.Threshold],
    classifier: detection.FaultClassifier | None = None,
) -> tuple[Judgement, ...]:
    """Judge n extensions. A pure function without database, settings, disk or clock.

    Parameters
    ----------
    measurements : sequence of n Measurement
    embeddings : (n, d) float32 array
    references : sequence of n Reference
        Reference set of each extension, with its residual model.
    thresholds : sequence of n Threshold
        Limits for the image type and night of each extension; see `Thresholds.select`.
    classifier : FaultClassifier, optional
        Adds a prediction of image type and fault kind.

    Returns
    -------
    tuple of n Judgement
    """
    inputs = zip(measurements, embeddings, references, thresholds, strict=True)
    return tuple(judge_extension(*extension, classifier) for extension in inputs)


def judge_extension(
    measurement: core.Measurement,
    embedding: Floats,
    reference: core.Reference,
    threshold: detection.Threshold,
    classifier: detection.FaultClassifier | None = None,
) -> Judgement:
    """Judge one extension.

    Parameters
    ----------
    measurement : Measurement
    embedding : (d,) float32 array
    reference : Reference
        Reference set with its residual model.
    threshold : Threshold
        Limits for the image type and night.
    classifier : FaultClassifier, optional

    Returns
    -------
    Judgement
    """
    measurement = measurement.as_stored()  # the verdict can be repeated: decision 0091
    evidence = collect_evidence(measurement, embedding, reference)
    if classifier is not None:
        features = detection.describe_extension(measurement, embedding, evidence, threshold)
        status = detection.decide(evidence, threshold, measurement.limits).status
        prediction = classifier.predict(
            features,
            measurement.setup.image_type,
            measurement.frame_class,
            is_flagged=status is core.Status.ANOMALOUS,
        )
        evidence = replace(evidence, prediction=prediction)
    return Judgement(
        measurement=measurement,
        embedding=embedding,
        evidence=evidence,
        verdict=detection.decide(evidence, threshold, measurement.limits),
        threshold=threshold,
        nearest_id=find_nearest(embedding, reference),
    )


def collect_evidence(
    measurement: core.Measurement, embedding: Floats, reference: core.Reference
) -> core.Evidence:
    """Compare an extension with its references.

    Parameters
    ----------
    measurement : Measurement
        Measurement in stored precision.
    embedding : (d,) float32 array
    reference : Reference

    Returns
    -------
    Evidence
        Without a prediction.
    """
    m = len(reference.extension_ids)
    height, usual_height = None, 0.0
    if m >= _REFERENCES_TO_CLUSTER:
        height, usual_height = clustering.merge_heights(reference.embeddings, embedding)
    model = reference.residual_model
    residual = model.residual(measurement.above_bias) if model else None
    return core.Evidence(
        merge_height=height,
        usual_merge_height=usual_height,
        residual=residual.score if residual else None,
        usual_residual=residual.usual_score if residual else 0.0,
        pattern=describe_pattern(residual, measurement) if residual else "",
        patterns=residual.pattern_scores if residual else {},
        reference_size=m,
        widened=reference.widened,
        metrics=measurement.metrics,
        z=detection.z_scores(measurement.metrics, reference.metrics),
        duplicate_of=reference.duplicate_of,
    )


def describe_pattern(residual: Residual, measurement: core.Measurement) -> str:
    """Return the strongest pattern and its place on the detector, as text.

    Parameters
    ----------
    residual : Residual
    measurement : Measurement
        Its shape gives the scale from blocks to pixels.

    Returns
    -------
    str
        Pixels are counted from 0.
    """
    quantity, shape = residual.strongest.split(maxsplit=1)
    if shape in _GLOBAL_PATTERNS:
        return f"the {_QUANTITIES[quantity]} of {_GLOBAL_PATTERNS[shape]}"
    axes = zip(residual.place, measurement.shape, measurement.statistics.shape[:2], strict=True)
    y, x = (round((block + 0.5) * pixels / blocks) for block, pixels, blocks in axes)
    return f"the {_QUANTITIES[quantity]} of a {shape} around x {x}, y {y}"


def find_nearest(embedding: Floats, reference: core.Reference) -> int | None:
    """Return the id of the reference with the nearest embedding.

    Parameters
    ----------
    embedding : (d,) float32 array
    reference : Reference

    Returns
    -------
    int or None
        None without references.
    """
    if not reference.extension_ids:
        return None
    distances = clustering.cosine_distances(reference.embeddings, embedding[np.newaxis])[:, 0]
    return reference.extension_ids[int(distances.argmin())]
