"""Active learning: the unlabelled extensions that are most informative for the classifier."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from sqlalchemy.orm import Session

from embeddings.classifier import DenseClassifier
from qc import db, io
from qc.detection import classifier_features
from qc.project import ProjectContext
from qc.review import queue, queue_filters
from qc.training.examples import features_of_finding

Doubles = NDArray[np.float64]

NEWEST = 500  # unlabelled extensions to rank: a week of nights, in a second
RANKED = 100  # more than a person labels before the next ranking


def most_informative(
    session: Session,
    project: ProjectContext,
    filters: queue_filters.QueueFilters,
    ranked: int = RANKED,
) -> tuple[int, ...]:
    """Return the newest unlabelled extensions, most informative first.

    The ranking prefers uncertain extensions that differ from those before them: ten frames of one
    template teach little more than one of them.

    Parameters
    ----------
    session : Session
        For reading.
    project : ProjectContext
        Open project.
    filters : QueueFilters
        Selection; label filter and order are replaced.
    ranked : int
        Largest number of extensions.

    Returns
    -------
    tuple of int
        Extensions.
    """
    unlabelled = replace(
        filters, labelled=queue_filters.LabelFilter.NO, by="", order=queue_filters.QueueOrder.TIME
    )
    page = queue.read_page(session, project.instruments, unlabelled, NEWEST)
    fingerprint = project.encoder.fingerprint
    findings = [
        finding
        for finding in db.findings.findings_by_id(session, page.ids)
        if finding.fingerprint == fingerprint
    ]
    if not findings:
        return page.ids[:ranked]
    ids = [finding.extension.id for finding in findings]
    vectors = db.embeddings.vectors_of(session, fingerprint, ids)
    features = [
        features_of_finding(session, finding, vectors.get(finding.extension.id))
        for finding in findings
    ]
    uncertainty = measure_uncertainty(project.classifier, findings, features, project.instruments)
    embeddings = np.stack([feature.embedding for feature in features])  # (n, d)
    order = rank_by_novelty(uncertainty, embeddings, ranked)
    return tuple(ids[index] for index in order)


def measure_uncertainty(
    classifier: DenseClassifier | None,
    findings: Sequence[db.findings.Finding],
    features: Sequence[classifier_features.ClassifierFeatures],
    instruments: Sequence[io.Instrument],
) -> Doubles:
    """Return the uncertainty of each extension.

    It is the entropy of image type and fault kinds; without a classifier, the distance of the
    score to the limit.

    Parameters
    ----------
    classifier : DenseClassifier or None
        Classifier in use.
    findings : sequence of Finding
        The n extensions.
    features : sequence of ClassifierFeatures
        Their features.
    instruments : sequence of Instrument
        Instruments of the project.

    Returns
    -------
    (n,) float array
        Uncertainty, bits; 0 is certain.
    """
    if classifier is None:
        return np.array([min(finding.verdict.doubt, 1.0) for finding in findings])
    expected: dict[str, float] = {}  # highest frequency: 0 in one class does not exclude a kind
    classes = {finding.extension.frame_class for finding in findings}
    for instrument in instruments:
        for frame_class in classes:
            for kind, share in instrument.expected_faults(frame_class).items():
                expected[kind] = max(share, expected.get(kind, 0.0))
    stacked = classifier_features.stack_features(features, classifier.fingerprint)
    types = classifier.type_probabilities(stacked)  # (n, t)
    kinds = classifier.kind_probabilities(stacked, expected)  # (n, k)
    has_kinds = np.array([bool(feature.differences) for feature in features])
    type_entropy: Doubles = -xlogy(types, types).sum(axis=1)
    kind_entropy: Doubles = -(xlogy(kinds, kinds) + xlogy(1 - kinds, 1 - kinds)).sum(axis=1)
    bits: Doubles = (type_entropy + np.where(has_kinds, kind_entropy, 0.0)) / np.log(2)
    return bits


def rank_by_novelty(uncertainty: Doubles, vectors: NDArray[np.float32], limit: int) -> list[int]:
    """Rank by uncertainty times the distance to the nearest vector ranked before.

    Parameters
    ----------
    uncertainty : (n,) float array
        Uncertainty of each extension.
    vectors : (n, d) float array
        Embeddings.
    limit : int
        Largest number of ranked extensions.

    Returns
    -------
    list of int
        Indices, most informative first.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    distances = np.ones(len(unit))  # equal before the first choice
    ranked: list[int] = []
    for _ in range(min(limit, len(unit))):
        value = (uncertainty + 1e-12) * distances
        value[ranked] = -1.0
        best = int(np.argmax(value))
        ranked.append(best)
        distances = np.minimum(distances, np.maximum(1 - unit @ unit[best], 0.0))
    return ranked
