"""Many embeddings on a plane, so that a person sees which are alike."""

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

Floats = NDArray[np.float32]

MOST_NEIGHBOURS = 1500  # for t-SNE: more take minutes
_INNER = 50  # axes that t-SNE looks at
_PERPLEXITY = 30.0


def principal_plane(embeddings: Floats) -> Floats:
    """Return each embedding's place along the two directions in which they differ most.

    Parameters
    ----------
    embeddings : (n, d) float array

    Returns
    -------
    (n, 2) float32 array, in units of the embeddings; zeros where there is no second direction
    """
    return _principal(embeddings, 2)


def neighbour_plane(embeddings: Floats) -> Floats:
    """Return places at which near embeddings are near (t-SNE); far ones may be anywhere.

    Parameters
    ----------
    embeddings : (n, d) float array, n at most `MOST_NEIGHBOURS`

    Returns
    -------
    (n, 2) float32 array, without unit
    """
    n = len(embeddings)
    if n < 4:  # too few for neighbours to mean anything
        return principal_plane(embeddings)
    inner = _principal(embeddings, _INNER)
    perplexity = min(_PERPLEXITY, (n - 1) / 3)
    spread = TSNE(2, perplexity=perplexity, init="random", random_state=0, max_iter=500)
    return np.asarray(spread.fit_transform(inner), np.float32)


def _principal(embeddings: Floats, axes: int) -> Floats:
    """Return (n, axes) along the principal axes, the last ones zero where there are fewer."""
    found = np.zeros((len(embeddings), axes), np.float32)
    known = min(axes, *embeddings.shape)
    if len(embeddings) > 1:
        fitted = PCA(known, svd_solver="randomized", random_state=0)
        found[:, :known] = fitted.fit_transform(embeddings.astype(np.float32))
    return found
