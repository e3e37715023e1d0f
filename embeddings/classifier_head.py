"""Head of the classifier: a small dense network, evaluated in NumPy, and its part of a file.

Shapes: n images, d the embedding's length, k numbers besides it, q principal components, t bins,
h hidden units, c classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from embeddings.classifier_data import Doubles, Floats, NamedArrays

Arrays = Mapping[str, Floats]

_BOUND = 10.0  # standard deviations of a component: a gross fault must not hide all others


@dataclass(frozen=True, eq=False)
class Head:
    """Trained network for one set of classes.

    Attributes
    ----------
    classes : tuple of c str
    names : tuple of str
        Names of the numbers that it expects besides the embedding.
    exclusive : bool
        True if an image belongs to exactly one class; False if to any number of classes.
    temperature : float
        Divisor of the logits, which calibrates the probabilities.
    shares : (c,) float64 array
        Share of each class among the examples, as weighted in training.
    epochs : int
        Epochs of training until the validation loss was lowest.
    log_loss : float
        On the examples held back, with equal weight of the classes.
    arrays : mapping of name to float32 array
        Weights of the network, and the standardisation of its inputs.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    exclusive: bool
    temperature: float
    shares: Doubles
    epochs: int
    log_loss: float
    arrays: Arrays

    def logits(self, embeddings: Floats, numbers: NamedArrays) -> Doubles:
        """Compute calibrated logits.

        Parameters
        ----------
        embeddings : (n, d) float32 array
        numbers : NamedArrays
            Of the same n images, with the names of the head.

        Returns
        -------
        (n, c) float64 array
        """
        inputs = standardised_inputs(embeddings, numbers, self.arrays)
        return network_logits(inputs, self.arrays) / self.temperature

    def header(self) -> dict[str, Any]:
        """Return the JSON header of the head: all but the content of the arrays."""
        return {
            "classes": self.classes,
            "names": self.names,
            "exclusive": self.exclusive,
            "temperature": self.temperature,
            "shares": self.shares.tolist(),
            "epochs": self.epochs,
            "log_loss": self.log_loss,
            "shapes": {name: array.shape for name, array in self.arrays.items()},
        }

    @classmethod
    def from_header(cls, header: dict[str, Any], arrays: Arrays) -> Self:
        """Build a head from its header and arrays.

        Parameters
        ----------
        header : dict
            As `header` returns it.
        arrays : mapping of name to float32 array

        Returns
        -------
        Head

        Raises
        ------
        ValueError
            If the parts contradict each other.
        """
        head = cls(
            classes=tuple(header["classes"]),
            names=tuple(header["names"]),
            exclusive=bool(header["exclusive"]),
            temperature=float(header["temperature"]),
            shares=np.array(header["shares"], np.float64),
            epochs=int(header["epochs"]),
            log_loss=float(header["log_loss"]),
            arrays=MappingProxyType(dict(arrays)),
        )
        if head._expected_shapes() != {name: array.shape for name, array in arrays.items()}:
            raise ValueError("the shapes of its arrays do not match")
        if not head.temperature > 0:
            raise ValueError(f"its temperature is {head.temperature}")
        if len(head.shares) != len(head.classes) or not (head.shares > 0).all():
            raise ValueError("its shares of classes do not match its classes")
        return head

    def _expected_shapes(self) -> dict[str, tuple[int, ...]]:
        (d, q), h = self.arrays["axes"].shape, self.arrays["hidden_bias"].size
        t = len(self.arrays["edges"]) - 1
        k, c = len(self.names), len(self.classes)
        return {
            "middle": (d,),
            "axes": (d, q),
            "edges": (t + 1, k),
            "hidden": (q + k * t + k, h),
            "hidden_bias": (h,),
            "output": (h, c),
            "output_bias": (c,),
        }


def compressed(numbers: NamedArrays) -> Doubles:
    """Return the numbers, (n, k), logarithmic beyond 1 in both directions; NaN if infinite.

    Differences of two and of two thousand sigma both carry information.
    """
    return np.where(np.isfinite(numbers.values), np.arcsinh(numbers.values), np.nan)


def standardised_inputs(embeddings: Floats, numbers: NamedArrays, arrays: Arrays) -> Floats:
    """Compute the inputs of the network, all of order 1.

    The inputs are the components; the filled fraction of each bin of each number, which resolves
    a number where its examples are, whatever its unit and however long its tail (Gorishniy et al.
    2022, NeurIPS 35, 24991); and flags of missing numbers.

    Parameters
    ----------
    embeddings : (n, d) float32 array
    numbers : NamedArrays
    arrays : mapping of name to float32 array
        The standardisation: ``middle``, ``axes`` and ``edges``.

    Returns
    -------
    (n, q + k t + k) float32 array
    """
    components = (embeddings - arrays["middle"]) @ arrays["axes"].astype(np.float64)
    values = compressed(numbers)
    low, high = arrays["edges"][:-1], arrays["edges"][1:]
    narrow = np.finfo(np.float32).tiny  # a bin of equal values is a step
    filled = (values[:, np.newaxis] - low) / np.maximum(high - low, narrow)  # (n, t, k)
    bins = np.nan_to_num(np.clip(filled, 0, 1)).reshape(len(values), -1)
    bounded = np.clip(components, -_BOUND, _BOUND)
    return np.hstack([bounded, bins, np.isnan(values)]).astype(np.float32)


def network_logits(inputs: Floats, arrays: Arrays) -> Doubles:
    """Evaluate the trained network.

    Parameters
    ----------
    inputs : (n, q + k t + k) float32 array
    arrays : mapping of name to float32 array
        The weights: ``hidden``, ``hidden_bias``, ``output`` and ``output_bias``.

    Returns
    -------
    (n, c) float64 array
        Logits before calibration.
    """
    hidden = np.maximum(inputs @ arrays["hidden"] + arrays["hidden_bias"], 0)
    return np.asarray(hidden @ arrays["output"] + arrays["output_bias"], np.float64)
