"""Evidence, prediction and verdict of an extension."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Status(StrEnum):
    """The outcome of judging one extension."""

    NOMINAL = "NOMINAL"
    ANOMALOUS = "ANOMALOUS"
    UNDECIDED = "UNDECIDED"  # too few references to compare with, and nothing absolute is wrong


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one extension.

    Attributes
    ----------
    image_type : str
        What it looks like most.
    type_probability : float
        Of that.
    own_probability : float or None
        Of the type that the header says; None if the classifier has never seen that type.
    kind : str
        The most probable fault; empty if it was not asked.
    kind_probability : float
    because : tuple of str
        The differences from the references that spoke most for that kind, in words.
    classifier_digest : str
        Whose words these are.
    """

    image_type: str
    type_probability: float
    own_probability: float | None
    kind: str = ""
    kind_probability: float = 0.0
    because: tuple[str, ...] = ()
    classifier_digest: str = ""


@dataclass(frozen=True)
class Evidence:
    """What was measured of one extension; no opinion.

    Attributes
    ----------
    merge_height : float or None
        Cosine distance at which it joins its references; None without two of them.
    reference_size : int
        Nominal extensions it was held against.
    widened : str
        What was let vary to find enough references, in words; empty for the exact setup.
    metrics : mapping of name to float
        The detector numbers, in the units of `qc.metrics.METRICS`.
    z : mapping of name to float
        Their robust z-scores against the reference.
    duplicate_of : str
        Name of another frame with the very same pixels; empty if there is none.
    residual : float or None
        How far the strongest pattern that nominal variation cannot explain stands out, in robust
        standard deviations of what held-out references show; None with too few of them.
    pattern : str
        That pattern and its place, in words.
    patterns : mapping of name to float
        How far every such pattern stands out, in the same unit.
    usual_merge_height, usual_residual : float
        Medians over the references, each held against the others.
    prediction : Prediction or None
        What the classifier says; None without one for this encoder.
    """

    merge_height: float | None
    reference_size: int
    widened: str
    metrics: Mapping[str, float]
    z: Mapping[str, float]
    duplicate_of: str = ""
    residual: float | None = None
    pattern: str = ""
    patterns: Mapping[str, float] = field(default_factory=dict)
    usual_merge_height: float = 0.0
    usual_residual: float = 0.0
    prediction: Prediction | None = None


@dataclass(frozen=True)
class Verdict:
    """A status, how far the evidence is beyond or within the limits, and why in words.

    Attributes
    ----------
    score : float
        Of the strongest evidence, 1 at its limit: above is anomalous. See `rarity`.
    reasons : tuple of str
        Strongest first, and behind it what the frame looks like. A nominal frame may have some:
        its warnings.
    """

    status: Status
    score: float
    reasons: tuple[str, ...] = ()
