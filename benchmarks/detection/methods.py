"""The methods that are compared: each a function from references and tests to scores.

A higher score is odder. To add a row, write a function and name it in `METHODS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.svm import OneClassSVM

from benchmarks.detection.evidence import Material
from embeddings.clustering import cosine_distances, merge_height

Doubles = NDArray[np.float64]
Method = Callable[[Material, Material], Doubles]

_SEED = 0
_COMPONENTS = 12


@dataclass(frozen=True)
class Row:
    """A method as it stands in the tables.

    Attributes
    ----------
    limit : str
        Where its threshold comes from: ``shipped`` (the product's own, from simulated nominal
        nights of another seed: the score is in its units), ``spring`` (the nominal nights before
        the tests), ``test`` (best F1 on the very frames it is measured on).
    """

    name: str
    score: Method
    limit: str


def ours(_references: Material, tests: Material) -> Doubles:
    """Return the product's score: the strongest evidence in units of its limit."""
    return np.array([one.verdict.score for one in tests.findings])


def merge_heights(_references: Material, tests: Material) -> Doubles:
    """Return the product's merge heights, by themselves."""
    heights = [one.verdict.merge_height or 0.0 for one in tests.findings]
    return np.array(heights) / tests.thresholds.merge_height


def residuals(_references: Material, tests: Material) -> Doubles:
    """Return the product's residuals, by themselves."""
    found = [one.verdict.residual or 0.0 for one in tests.findings]
    return np.array(found) / tests.thresholds.residual


def detector_numbers(_references: Material, tests: Material) -> Doubles:
    """Return the detector number that is furthest out, in units of its alarm."""
    limits = tests.thresholds.metrics
    return np.array(
        [
            max((abs(z) / limits[name].alarm for name, z in each.items() if name in limits))
            for each in (one.verdict.z for one in tests.findings)
        ]
    )


def forerunner(references: Material, tests: Material) -> Doubles:
    """Do as the forerunner did: 8 bits by the image's own extremes, average linkage."""
    return np.array([merge_height(references.forerunner, one) for one in tests.forerunner])


def nearest(references: Material, tests: Material) -> Doubles:
    """Return the cosine distance to the nearest reference."""
    nearest_one: Doubles = cosine_distances(tests.embeddings, references.embeddings).min(axis=1)
    return nearest_one


def isolation_forest(references: Material, tests: Material) -> Doubles:
    """Isolate images in embedding space by random cuts."""
    forest = IsolationForest(random_state=_SEED).fit(references.embeddings)
    return np.asarray(-forest.score_samples(tests.embeddings))


def one_class_svm(references: Material, tests: Material) -> Doubles:
    """Enclose the references' embeddings, standardised by their total scatter."""
    middle, scatter = references.embeddings.mean(axis=0), references.embeddings.std()
    machine = OneClassSVM(nu=0.05, gamma="scale").fit((references.embeddings - middle) / scatter)
    return np.asarray(-machine.decision_function((tests.embeddings - middle) / scatter))


def naive_pca(references: Material, tests: Material) -> Doubles:
    """Return the root mean square error of rebuilding the block means from components."""
    known, new = (each.light[..., 0].reshape(len(each.light), -1) for each in (references, tests))
    model = PCA(min(_COMPONENTS, len(known) // 4), svd_solver="full").fit(known)
    rebuilt = model.inverse_transform(model.transform(new))
    return np.asarray(np.sqrt(((new - rebuilt) ** 2).mean(axis=1)), np.float64)


METHODS = (
    Row("forerunner: 8-bit stretch, average linkage", forerunner, "test"),
    Row("isolation forest on embeddings", isolation_forest, "spring"),
    Row("one-class SVM on embeddings", one_class_svm, "spring"),
    Row("nearest reference embedding", nearest, "spring"),
    Row("PCA error of block means", naive_pca, "spring"),
    Row("ours: merge height alone", merge_heights, "shipped"),
    Row("ours: detector numbers alone", detector_numbers, "shipped"),
    Row("ours: residual alone", residuals, "shipped"),
    Row("ours", ours, "shipped"),
)
