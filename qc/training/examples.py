"""Labelled extensions as training examples of the classifier."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings.classifier_data import Examples
from qc import core, db
from qc.core.enums import LabelName
from qc.detection import classifier_features

LABEL_WEIGHT = 5.0  # simulated images that one labelled image counts for
_UNNAMED = frozenset({"", "other", "needs_discussion"})  # kinds that name no fault


@dataclass(frozen=True)
class LabelledExamples:
    """Labelled extensions that the encoder in use has judged.

    Attributes
    ----------
    examples : Examples
        n of them.
    labelled_at : tuple of n datetime
    foreign : int
        Number of further labelled extensions, judged by another encoder.
    """

    examples: Examples
    labelled_at: tuple[dt.datetime, ...]
    foreign: int


def labelled_examples(session: Session, fingerprint: str) -> LabelledExamples:
    """Read the labelled extensions that an encoder has judged.

    An accepted outlier has its type, but differs from references of the time before: it is
    neither an example of a fault nor of the absence of one. The same holds for a bad image whose
    fault has no name.

    Parameters
    ----------
    session : Session
    fingerprint : str
        Of the encoder.

    Returns
    -------
    LabelledExamples
    """
    labelled = [
        finding
        for finding in db.findings.findings(session, dt.date.min)
        if finding.label is not None
    ]
    judged = [finding for finding in labelled if finding.fingerprint == fingerprint]
    features = [features_of_finding(session, finding) for finding in judged]
    examples = Examples(
        classifier_features.stack_features(features, fingerprint),
        tuple(finding.extension.image_type for finding in judged),
        tuple(fault_kinds(finding) for finding in judged),
        np.array([night.toordinal() for finding in judged if (night := finding.frame.night)], int),
        np.full(len(judged), LABEL_WEIGHT),
    )
    labelled_at = tuple(finding.label.at for finding in judged if finding.label is not None)
    return LabelledExamples(examples, labelled_at, foreign=len(labelled) - len(judged))


def features_of_finding(
    session: Session, finding: db.findings.Finding, embedding: NDArray[np.float32] | None = None
) -> classifier_features.ClassifierFeatures:
    """Return the classifier's features of a stored extension, as at its verdict.

    Parameters
    ----------
    session : Session
    finding : Finding
    embedding : (d,) float32 array, optional
        Its embedding; read from the database where absent.

    Returns
    -------
    ClassifierFeatures
    """
    verdict, extension = finding.verdict, finding.extension
    differences = classifier_features.difference_features(
        verdict.z, verdict.patterns or {}, verdict.merge_height, verdict.residual, verdict.threshold
    )
    if embedding is None:
        embedding = db.embeddings.embedding_of(session, extension.id, verdict.encoder_id)
    appearance = db.block_statistics.find_appearance(session, extension)
    return classifier_features.ClassifierFeatures(
        embedding,
        classifier_features.appearance_features(appearance, extension.metrics),
        differences if verdict.reference_size >= core.REFERENCE_NEEDED else {},
    )


def fault_kinds(finding: db.findings.Finding) -> frozenset[str] | None:
    """Return the kinds of fault that a label names; empty for good, None if unknown."""
    assert finding.label is not None
    if finding.label.label == LabelName.GOOD:
        return frozenset()
    kind = finding.label.kind
    is_named = finding.label.label == LabelName.BAD and kind not in _UNNAMED
    return frozenset({kind}) if is_named else None
