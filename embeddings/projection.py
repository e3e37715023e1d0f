"""Two-dimensional projections of embeddings: PCA and t-SNE."""

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

Floats = NDArray[np.float32]

MOST_TSNE_POINTS = 1500  # more take minutes
_INNER = 50  # principal components that t-SNE receives
_PERPLEXITY = 30.0


def project_pca(embeddings: Floats) -> Floats:
    """Project embeddings on their first two principal components.

    Parameters
    ----------
    embeddings : (n, d) float array

    Returns
    -------
    (n, 2) float32 array, in units of the embeddings; zeros where there is no second component
    """
    return principal_components(embeddings, 2)


def project_tsne(embeddings: Floats) -> Floats:
    """Project embeddings by t-SNE: neighbours stay close, large distances mean nothing.

    Parameters
    ----------
    embeddings : (n, d) float array, n at most `MOST_TSNE_POINTS`

    Returns
    -------
    (n, 2) float32 array, without unit
    """
    n = len(embeddings)
    if n < 4:  # too few for a neighbourhood
        return project_pca(embeddings)
    inner = principal_components(embeddings, _INNER)
    perplexity = min(_PERPLEXITY, (n - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="random", random_state=0, max_iter=500)
    return np.asarray(tsne.fit_transform(inner), np.float32)


def principal_components(embeddings: Floats, count: int) -> Floats:
    """Return the coordinates of embeddings along their principal axes.

    Parameters
    ----------
    embeddings : (n, d) float array
    count : int
        Number of axes.

    Returns
    -------
    (n, count) float32 array, the last columns zero where there are fewer axes
    """
    coordinates = np.zeros((len(embeddings), count), np.float32)
    available = min(count, *embeddings.shape)
    if len(embeddings) > 1:
        pca = PCA(available, svd_solver="randomized", random_state=0)
        coordinates[:, :available] = pca.fit_transform(embeddings.astype(np.float32))
    return coordinates
