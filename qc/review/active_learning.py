"""What the classifier would learn most from, were a person to say what it is."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from sqlalchemy.orm import Session

from embeddings.classifier import DenseClassifier
from qc import db
from qc.db.findings import Finding
from qc.detection.classifier_features import ClassifierFeatures, features_of
from qc.io.instruments import Instrument
from qc.project import Project
from qc.review.queue import LabelFilter, QueueFilters, QueueOrder, read_some
from qc.training.train import description_of

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

NEWEST = 500  # unlabelled ones that are weighed: a week of nights, in a second
RANKED = 100  # more than a person labels before the ranking is made anew


def most_informative(
    session: Session, project: Project, filters: QueueFilters, ranked: int = RANKED
) -> tuple[int, ...]:
    """Return the unlabelled extensions that the classifier would learn most from, most first.

    Of the newest that the filters want. Those that it is least sure of, each unlike those before
    it: ten frames of one template teach little more than one of them.

    Parameters
    ----------
    ranked : int
        How many at most.
    """
    unlabelled = replace(filters, labelled=LabelFilter.NO, by="", order=QueueOrder.TIME)
    some = read_some(session, project.instruments, unlabelled, NEWEST)
    found = db.findings.findings_with(session, some.ids)
    fingerprint = project.encoder.fingerprint
    known = [one for one in found if one.fingerprint == fingerprint]
    if not known:
        return some.ids[:ranked]
    ids = [one.extension.id for one in known]
    own = db.embeddings.vectors_with(session, fingerprint, ids)
    told = [description_of(session, one, own.get(one.extension.id)) for one in known]
    uncertain = uncertainty(project.classifier, known, told, project.instruments)
    vectors = np.stack([one.embedding for one in told])  # (n, d)
    order = unlike_each_other(uncertain, vectors, ranked)
    return tuple(known[place].extension.id for place in order)


def uncertainty(
    classifier: DenseClassifier | None,
    found: Sequence[Finding],
    told: Sequence[ClassifierFeatures],
    instruments: Sequence[Instrument],
) -> Doubles:
    """Return how little is known of what extensions are, (n,): 0 is sure.

    The entropy of the type and of each kind of fault, summed, in bits; without a classifier, how
    near the score is to the limit.
    """
    if classifier is None:
        return np.array([min(one.verdict.doubt, 1.0) for one in found])
    expected = _expected_faults(found, instruments)
    features = features_of(told, classifier.fingerprint)
    types = classifier.type_probabilities(features)  # (n, t)
    kinds = classifier.kind_probabilities(features, expected)  # (n, k)
    has_kinds = np.array([bool(one.differences) for one in told])
    of_types: Doubles = -xlogy(types, types).sum(axis=1)
    of_kinds: Doubles = -(xlogy(kinds, kinds) + xlogy(1 - kinds, 1 - kinds)).sum(axis=1)
    bits: Doubles = (of_types + np.where(has_kinds, of_kinds, 0.0)) / np.log(2)
    return bits


def _expected_faults(
    found: Sequence[Finding], instruments: Sequence[Instrument]
) -> dict[str, float]:
    """Return how frequent kinds are at most: what cannot be in one class is sure to be absent."""
    every: dict[str, float] = {}
    classes = {one.extension.frame_class for one in found}
    for instrument in instruments:
        for frame_class in classes:
            for kind, share in instrument.expected_faults(frame_class).items():
                every[kind] = max(share, every.get(kind, 0.0))
    return every


def unlike_each_other(uncertain: Doubles, vectors: Floats, most: int) -> list[int]:
    """Rank by uncertainty times the distance to the nearest that was taken before.

    Parameters
    ----------
    uncertain : (n,) float array
    vectors : (n, d) float array
        Embeddings.
    most : int
        How many are ranked at most.

    Returns
    -------
    list of int
        Places in the arrays, most informative first.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    away = np.ones(len(unit))  # nothing taken yet: all are equally far
    taken: list[int] = []
    for _ in range(min(most, len(unit))):
        worth = (uncertain + 1e-12) * away
        worth[taken] = -1.0
        best = int(np.argmax(worth))
        taken.append(best)
        away = np.minimum(away, np.maximum(1 - unit @ unit[best], 0.0))
    return taken
