"""Value of an encoder: ranking of faults by merge height, alone and with the residual.

References and tests are of `data.validation_shots`. No training saw a simulated fault, so every
kind here is new to every encoder.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.encoder.data import Images
from embeddings.clustering import merge_height
from embeddings.preprocess import GRID
from embeddings.residual import Sensor, exposed_share, learn_expectation, pixels_per_block

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_AT_ONCE = 16
_TIMES = (1, 1.5, 2, 3)  # nominal limits
_NOMINAL_LIMIT = 0.99  # quantile of good tests that makes two scores comparable


class Embedder(Protocol):
    """Embeds (n, h, w, 3) network inputs as (n, d) vectors."""

    def __call__(self, inputs: Floats) -> Floats:
        """Return the embeddings."""


@dataclass(frozen=True)
class Figures:
    """Separation of bad and good images by one score.

    Attributes
    ----------
    by_type, by_kind : mapping of str to float
        AUROC of an image type, or of a kind of fault.
    by_limit : mapping of str to float
        The share of faulty images beyond so many times their type's nominal limit. Where AUROC
        is near 1, this still separates narrow from wide margins.
    """

    by_type: Mapping[str, float]
    by_kind: Mapping[str, float]
    by_limit: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Return the mean over image types."""
        return float(np.mean(list(self.by_type.values())))


def embed(images: Images, embedder: Embedder) -> Floats:
    """Return the embeddings of all images, (n, d), of length 1 and rounded as the product's are."""
    steps = np.array_split(np.arange(len(images)), -(-len(images) // _AT_ONCE))
    pooled = np.concatenate(
        [embedder(np.stack([images.network_input(index) for index in step])) for step in steps]
    ).astype(np.float64)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return np.asarray(unit.astype(np.float16), np.float32)


def merge_heights(images: Images, embeddings: Floats) -> Doubles:
    """Return the height at which each test joins its setup's references; 0 for references."""
    heights = np.zeros(len(images))
    for references, tests in _setups(images):
        for index in tests:
            heights[index] = merge_height(embeddings[references], embeddings[index])
    return heights


def residuals(images: Images) -> Doubles:
    """Return each test's residual against its setup's references; 0 for references."""
    scores = np.zeros(len(images))
    for references, tests in _setups(images):
        light = np.stack([_above_bias(images, index) for index in references])
        expectation = learn_expectation(light, _sensor(images, references[0]))
        for index in tests:
            scores[index] = expectation.residual(_above_bias(images, index)).score
    return scores


def _setups(images: Images) -> list[tuple[NDArray[np.int_], NDArray[np.int_]]]:
    """Return the numbers of each setup's references and tests."""
    is_reference = images.part == "reference"
    setups = [images.setup == item for item in np.unique(images.setup[is_reference])]
    return [
        (np.flatnonzero(setup & is_reference), np.flatnonzero(setup & ~is_reference))
        for setup in setups
    ]


def _above_bias(images: Images, index: int) -> Floats:
    zero = images.zero_adu[index]
    above = images.light[index] - np.array([zero, 0, zero], np.float32)
    return np.asarray(above, np.float32)


def _sensor(images: Images, index: int) -> Sensor:
    ny, nx = (int(n) for n in images.shape[index])
    top, bottom, remaining, right = (int(edge) for edge in images.exposed[index])
    exposed = (slice(top, bottom), slice(remaining, right))
    return Sensor(
        pixels=pixels_per_block((ny, nx), GRID),
        exposed=exposed_share(exposed, (ny, nx), GRID),
        gain_e_per_adu=float(images.gain_e_per_adu[index]),
        read_noise_adu=float(images.read_noise_adu[index]),
        lit=bool(images.promised_light[index] > 0),
    )


def figures(images: Images, scores: Doubles) -> Figures:
    """Return the AUROC of each image type, and of each kind averaged over the types it is in.

    Parameters
    ----------
    scores : (n,) float64 array
        The larger, the odder.
    """
    by_type, by_kind = {}, defaultdict(list)
    for image_type in np.unique(images.image_type):
        tests = (images.image_type == image_type) & (images.part == "test")
        fault, score = images.fault[tests], scores[tests]
        by_type[str(image_type)] = float(roc_auc_score(fault != "", score))
        for kind in np.unique(fault[fault != ""]):
            in_kind = (fault == "") | (fault == kind)
            by_kind[str(kind)].append(roc_auc_score(fault[in_kind] != "", score[in_kind]))
    bad = _in_limits(images, scores)[images.fault != ""]
    by_limit = {f"{times:g} x": float((bad > times).mean()) for times in _TIMES}
    return Figures(
        by_type, {kind: float(np.mean(item)) for kind, item in by_kind.items()}, by_limit
    )


def stronger(images: Images, scores: Sequence[Doubles]) -> Doubles:
    """Return the strongest of several scores, each in units of its own nominal limit by type."""
    return np.asarray(np.max([_in_limits(images, score) for score in scores], axis=0))


def _in_limits(images: Images, scores: Doubles) -> Doubles:
    scaled = scores.copy()
    for image_type in np.unique(images.image_type):
        of_type = images.image_type == image_type
        good = of_type & (images.part == "test") & (images.fault == "")
        scaled[of_type] /= np.quantile(scores[good], _NOMINAL_LIMIT)
    return scaled
