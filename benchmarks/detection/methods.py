"""The methods that need no bad image: each a function from references and tests to scores.

A higher score is more anomalous; NaN if the method has not scored the image. To add a row, write
a function and name it in `FIELD`. The methods that learn from labelled bad images are in
`supervised`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.svm import OneClassSVM

from benchmarks.detection.evidence import Material
from benchmarks.detection.features import Extractor, Networks, patches
from embeddings.clustering import cosine_distances, merge_height

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Method = Callable[[Material, Material], Doubles]
OfFeatures = Callable[[Floats, Floats], Doubles]

_SEED = 0
_COMPONENTS = 12
_CLUSTERS = 4
_EIGENVECTORS = 8
_FEWEST = 8  # sampled references; the scatter of good images is unknown with fewer


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
    return np.array([finding.verdict.score for finding in tests.findings])


def merge_heights(_references: Material, tests: Material) -> Doubles:
    """Return the product's merge heights, by themselves."""
    heights = [finding.verdict.merge_height or 0.0 for finding in tests.findings]
    return np.array(heights) / tests.thresholds.merge_height


def residuals(_references: Material, tests: Material) -> Doubles:
    """Return the product's residuals, by themselves."""
    results = [finding.verdict.residual or 0.0 for finding in tests.findings]
    return np.array(results) / tests.thresholds.residual


def metrics_alone(_references: Material, tests: Material) -> Doubles:
    """Return the detector number that is furthest out, in units of its alarm."""
    limits = tests.thresholds.metrics
    return np.array(
        [
            max((abs(z) / limits[name].alarm for name, z in item.items() if name in limits))
            for item in (finding.verdict.z for finding in tests.findings)
        ]
    )


# --- embeddings ----------------------------------------------------------------------------------


def forerunner(references: Material, tests: Material) -> Doubles:
    """Do as the forerunner did: 8 bits by the image's own extremes, average linkage."""
    return np.array([merge_height(references.forerunner, item) for item in tests.forerunner])


def k_means(references: Material, tests: Material) -> Doubles:
    """Return the distance to the nearest of a few centres of the forerunner's embeddings."""
    clusters = KMeans(_CLUSTERS, n_init=4, random_state=_SEED).fit(references.forerunner)
    return np.asarray(clusters.transform(tests.forerunner).min(axis=1), np.float64)


def spectral(references: Material, tests: Material) -> Doubles:
    """Cluster references and tests among the leading eigenvectors of their affinities.

    Ng, Jordan and Weiss (2001), but each image is akin to itself too: else one that is akin to
    no other has no eigenvector of its own. The score is the distance to the nearest centre of the
    references.
    """
    m = len(references.forerunner)
    together = np.vstack([references.forerunner, tests.forerunner])
    distances = cosine_distances(together, together)
    affinity = np.exp(-distances / np.median(distances[:m, :m]))
    root = np.sqrt(affinity.sum(axis=1))
    n = len(together)
    _, leading = eigh(affinity / np.outer(root, root), subset_by_index=(n - _EIGENVECTORS, n - 1))
    clusters = KMeans(_CLUSTERS, n_init=4, random_state=_SEED).fit(leading[:m])
    return np.asarray(clusters.transform(leading[m:]).min(axis=1), np.float64)


def nearest(references: Material, tests: Material) -> Doubles:
    """Return the cosine distance to the nearest reference."""
    return _nearest(references.embeddings, tests.embeddings)


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
    nominal, new = (item.light[..., 0].reshape(len(item.light), -1) for item in (references, tests))
    model = PCA(min(_COMPONENTS, len(nominal) // 4), svd_solver="full").fit(nominal)
    rebuilt = model.inverse_transform(model.transform(new))
    return np.asarray(np.sqrt(((new - rebuilt) ** 2).mean(axis=1)), np.float64)


# --- other networks' features, of a sample of the images -----------------------------------------


def of_features(name: str, score: OfFeatures) -> Method:
    """Return a method that scores the sampled images by an extractor's features."""

    def score_sample(references: Material, tests: Material) -> Doubles:
        scores = np.full(len(tests.embeddings), np.nan)
        nominal, new = references.features[name], tests.features[name]
        if len(nominal.rows) >= _FEWEST and len(new.rows):
            scores[new.rows] = score(nominal.vectors, new.vectors)
        return scores

    return score_sample


def _nearest(nominal: Floats, new: Floats) -> Doubles:
    distances: Doubles = cosine_distances(new, nominal).min(axis=1)
    return distances


def linked(nominal: Floats, new: Floats) -> Doubles:
    """Return the height at which each new vector joins the known ones."""
    return np.array([merge_height(nominal, item) for item in new])


def nearest_in_place(nominal: Floats, new: Floats) -> Doubles:
    """Return the greatest distance of any place to the same place of the nearest reference.

    In units of the mutual distance of the place's references, as PatchCore's memory (Roth et
    al. 2022) with one bank for each place.
    """
    apart = _distances_in_place(nominal, nominal)
    np.einsum("iip->ip", apart)[...] = np.inf  # no reference is its own neighbour
    scale = np.median(apart.min(axis=1), axis=0)
    return np.asarray((_distances_in_place(new, nominal).min(axis=1) / scale).max(axis=1))


def _distances_in_place(a: Floats, b: Floats) -> Doubles:
    """Return the distances of vectors of (n, y, x, c) and (m, y, x, c): (n, m, places)."""
    flat_a, flat_b = (item.reshape(len(item), -1, item.shape[-1]) for item in (a, b))
    return np.stack([np.linalg.norm(item - flat_b, axis=-1) for item in flat_a]).astype(np.float64)


def gaussian_in_place(nominal: Floats, new: Floats) -> Doubles:
    """Return the greatest Mahalanobis distance of any place to its references.

    As PaDiM (Defard et al. 2021), the covariance shrunk as Ledoit and Wolf (2004) would.
    """
    scale = np.maximum(nominal.std(axis=(0, 1, 2)), 1e-6)  # layers differ in size
    flat_known, flat_new = (
        (item / scale).reshape(len(item), -1, item.shape[-1]) for item in (nominal, new)
    )
    distances = [
        LedoitWolf().fit(flat_known[:, place]).mahalanobis(flat_new[:, place])
        for place in range(flat_known.shape[1])
    ]
    return np.asarray(np.max(distances, axis=0), np.float64)


FIELD = (
    Row("forerunner: 8-bit stretch, average linkage", forerunner, "test"),
    Row("8-bit stretch, k-means", k_means, "spring"),
    Row("8-bit stretch, spectral clustering", spectral, "spring"),
    Row("isolation forest on embeddings", isolation_forest, "spring"),
    Row("one-class SVM on embeddings", one_class_svm, "spring"),
    Row("nearest reference embedding", nearest, "spring"),
    Row("PCA error of block means", naive_pca, "spring"),
)
OURS = (
    Row("ours: merge height alone", merge_heights, "shipped"),
    Row("ours: metrics alone", metrics_alone, "shipped"),
    Row("ours: residual alone", residuals, "shipped"),
    Row("ours", ours, "shipped"),
)


def rows_of_features(networks: Networks) -> tuple[Row, ...]:
    """Return the rows of other networks."""
    places = patches()
    return (
        Row("patch features, nearest in place *", _of(places, nearest_in_place), "spring"),
        Row("patch features, Gaussian in place *", _of(places, gaussian_in_place), "spring"),
        *(
            Row(f"{item.name}, average linkage *", _of(item, linked), "spring")
            for item in networks.pooled()
        ),
    )


def _of(extractor: Extractor, score: OfFeatures) -> Method:
    return of_features(extractor.name, score)
