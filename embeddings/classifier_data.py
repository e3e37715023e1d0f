"""Input of the classifier: features of images, labelled examples, and their file format.

Shapes: n images, d the embedding's length, k numbers besides it, q principal components.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.int_] | NDArray[np.bool_]

_EXAMPLES_PER_COMPONENT = 4
_STORED_COMPONENTS = 128  # of examples in a file: four times as many as a classifier uses
_UNKNOWN = "?"


class ClassifierError(Exception):
    """A classifier cannot be trained, read, or used on these features; with the remedy."""


class TooFewExamplesError(ClassifierError):
    """A class has too few examples, or all of them are new."""


@dataclass(frozen=True)
class NamedArrays:
    """Named numbers of n images.

    Attributes
    ----------
    values : (n, k) float64 array
        In any units; NaN where a number has no meaning.
    names : tuple of k str

    Raises
    ------
    ValueError
        If the shapes do not match.
    """

    values: Doubles
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise ValueError(f"expected (n, {len(self.names)}) numbers, got {self.values.shape}")

    def __getitem__(self, rows: Rows) -> "NamedArrays":
        """Return the numbers of the selected images."""
        return NamedArrays(self.values[rows], self.names)

    @classmethod
    def from_records(
        cls, records: Sequence[Mapping[str, float]], names: Sequence[str]
    ) -> "NamedArrays":
        """Select named numbers of n records.

        Parameters
        ----------
        records : sequence of n mappings of name to float
        names : sequence of k str

        Returns
        -------
        NamedArrays
            NaN where a record lacks a number.
        """
        values = [[record.get(name, np.nan) for name in names] for record in records]
        return cls(np.array(values, np.float64).reshape(len(records), len(names)), tuple(names))


@dataclass(frozen=True)
class Features:
    """Inputs of the classifier for n images.

    Attributes
    ----------
    embeddings : (n, d) float32 array
    fingerprint : str
        Of the encoder that computed the embeddings.
    looks : NamedArrays
        Appearance of the images, independent of their headers.
    differences : NamedArrays
        Differences of the images from their references.

    Raises
    ------
    ValueError
        If the shapes do not match.
    """

    embeddings: Floats
    fingerprint: str
    looks: NamedArrays
    differences: NamedArrays

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2:
            raise ValueError(f"expected (n, d) embeddings, got {self.embeddings.shape}")
        lengths = {len(self.embeddings), len(self.looks.values), len(self.differences.values)}
        if len(lengths) > 1:
            raise ValueError(f"expected as many numbers as embeddings, got {sorted(lengths)}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.embeddings)

    def __getitem__(self, rows: Rows) -> "Features":
        """Return the features of the selected images."""
        return Features(
            self.embeddings[rows],
            self.fingerprint,
            self.looks[rows],
            self.differences[rows],
        )

    def __add__(self, added: "Features") -> "Features":
        """Return the features of both, in this order.

        Raises
        ------
        ClassifierError
            If the encoders or the names of the numbers differ.
        """
        if self._origin != added._origin:
            raise ClassifierError(
                "expected examples of one encoder with the same numbers, got some of "
                f"{self.fingerprint} and of {added.fingerprint}; judge the older ones again"
            )
        looks = np.concatenate([self.looks.values, added.looks.values])
        differences = np.concatenate([self.differences.values, added.differences.values])
        return Features(
            np.concatenate([self.embeddings, added.embeddings]),
            self.fingerprint,
            NamedArrays(looks, self.looks.names),
            NamedArrays(differences, self.differences.names),
        )

    @property
    def _origin(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        return self.fingerprint, self.looks.names, self.differences.names

    def check_finite(self) -> None:
        """Reject embeddings with infinite or undefined numbers.

        Raises
        ------
        ClassifierError
            If an embedding is not finite.
        """
        bad = np.flatnonzero(~np.isfinite(self.embeddings).all(axis=1))
        if len(bad):
            raise ClassifierError(
                f"{len(bad)} of {len(self)} embeddings are not of numbers, the first "
                f"at {bad[0]}; embed these images again"
            )


@dataclass(frozen=True)
class Examples:
    """Labelled images.

    Attributes
    ----------
    features : Features
    types : tuple of n str
        Image type of each image; empty if unknown.
    kinds : tuple of n frozenset of str, or None
        Faults of each image; empty for a good image; None without a label.
    days : (n,) int array
        Day of each exposure; the newest examples are held back for validation.
    weights : (n,) float64 array
        Weight of each image in training.
    """

    features: Features
    types: tuple[str, ...]
    kinds: tuple[frozenset[str] | None, ...]
    days: NDArray[np.int_]
    weights: Doubles

    def __post_init__(self) -> None:
        lengths = {
            len(self.features), len(self.types), len(self.kinds), len(self.days), len(self.weights)
        }  # fmt: skip
        if len(lengths) > 1:
            raise ValueError(f"expected one of each for every image, got {sorted(lengths)}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.types)

    def __getitem__(self, rows: Rows) -> "Examples":
        """Return the selected examples."""
        indices = np.arange(len(self))[rows]
        return Examples(
            self.features[indices],
            tuple(self.types[index] for index in indices),
            tuple(self.kinds[index] for index in indices),
            self.days[indices],
            self.weights[indices],
        )

    def __add__(self, added: "Examples") -> "Examples":
        """Return the examples of both, in this order.

        Raises
        ------
        ClassifierError
            If the encoders or the names of the numbers differ.
        """
        return Examples(
            self.features + added.features,
            self.types + added.types,
            self.kinds + added.kinds,
            np.concatenate([self.days, added.days]),
            np.concatenate([self.weights, added.weights]),
        )

    def save(self) -> bytes:
        """Return the examples as the content of a file, with embeddings as leading components.

        A classifier gives the same answers for the components as for the embeddings.
        """
        features = self.features
        pca = fit_components(features.embeddings, _STORED_COMPONENTS)
        middle = pca.mean_.astype(np.float32)
        axes = pca.components_.astype(np.float16)  # (q, d)
        amplitudes = (features.embeddings - middle) @ axes.T.astype(np.float32)
        kinds = [_UNKNOWN if faults is None else " ".join(sorted(faults)) for faults in self.kinds]
        content = io.BytesIO()
        np.savez_compressed(
            content,
            fingerprint=np.array(features.fingerprint),
            middle=middle,
            axes=axes,
            amplitudes=amplitudes.astype(np.float32),
            looks=features.looks.values.astype(np.float32),
            look_names=np.array(features.looks.names),
            differences=features.differences.values.astype(np.float32),
            difference_names=np.array(features.differences.names),
            types=np.array(self.types),
            kinds=np.array(kinds),
            days=self.days,
            weights=self.weights,
        )
        return content.getvalue()

    @classmethod
    def load(cls, content: bytes) -> Self:
        """Read the result of `save`; no content is executed."""
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            embeddings = file["middle"] + file["amplitudes"] @ file["axes"].astype(np.float32)
            looks, differences = (
                NamedArrays(file[key].astype(np.float64), tuple(map(str, file[names])))
                for key, names in (("looks", "look_names"), ("differences", "difference_names"))
            )
            features = Features(embeddings, str(file["fingerprint"]), looks, differences)
            kinds = [
                None if text == _UNKNOWN else frozenset(text.split())
                for text in map(str, file["kinds"])
            ]
            types = tuple(map(str, file["types"]))
            return cls(features, types, tuple(kinds), file["days"], file["weights"])


def fit_components(embeddings: Floats, limit: int) -> PCA:
    """Fit the principal components of embeddings.

    Parameters
    ----------
    embeddings : (n, d) float32 array
    limit : int
        Largest number of components; fewer if there are few embeddings.

    Returns
    -------
    sklearn.decomposition.PCA
        Fitted with q components.
    """
    q = max(1, min(limit, len(embeddings) // _EXAMPLES_PER_COMPONENT, embeddings.shape[1]))
    return PCA(q, svd_solver="randomized", random_state=0).fit(embeddings.astype(np.float64))
