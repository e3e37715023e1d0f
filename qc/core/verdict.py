"""Evidence, prediction and verdict of an extension."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Status(StrEnum):
    """Outcome of judging one extension."""

    NOMINAL = "NOMINAL"
    ANOMALOUS = "ANOMALOUS"
    UNDECIDED = "UNDECIDED"  # too few references, and no absolute limit exceeded


@dataclass(frozen=True)
class Prediction:
    """Image type and fault kind of one extension by the classifier.

    Attributes
    ----------
    image_type : str
        Most probable image type.
    type_probability : float
        Probability of `image_type`.
    own_probability : float or None
        Probability of the header's image type; None if the classifier was not trained on it.
    kind : str
        Most probable fault kind; empty without references.
    kind_probability : float
        Probability of `kind`.
    because : tuple of str
        Differences from the references that contribute most to `kind`, as text.
    classifier_digest : str
        Digest of the classifier.
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
    """Measured deviations of one extension from its references, without a decision.

    Attributes
    ----------
    merge_height : float or None
        Cosine distance at which the extension joins its references; None with fewer than two.
    reference_size : int
        Number of references.
    widened : str
        Setup property that may differ, as text; empty for the exact setup.
    metrics : mapping of name to float
        Values by metric, in the units of `qc.detection.METRICS`.
    z : mapping of name to float
        Robust z-scores of the metrics.
    duplicate_of : str
        Name of another frame with identical pixels; empty without one.
    residual : float or None
        Strength of the strongest pattern that nominal variation does not explain, in robust
        standard deviations of held-out references; None with too few references.
    pattern : str
        That pattern and its place, as text.
    patterns : mapping of name to float
        Strength of every pattern, in the same unit.
    usual_merge_height, usual_residual : float
        Medians over the references, each compared with the others.
    prediction : Prediction or None
        Prediction of the classifier; None without a classifier.
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
    """Status of one extension, with its score and the reasons.

    Attributes
    ----------
    status : Status
    score : float
        Strongest evidence in units of its limit: above 1 is anomalous. See decision 0006.
    reasons : tuple of str
        Strongest first. A nominal extension may have reasons: its warnings.
    image_type : str
        Image type of the extension, e.g. ``UBB0``; empty if unknown.
    evidence : Evidence or None
        Metrics, z-scores, merge height and residual; None if only the verdict is at hand.
    figure : callable or None
        Draws the verdict; see `plot`.

    Examples
    --------
    >>> verdict = Verdict(Status.ANOMALOUS, 3.2, ("bias level 14 sigma high",), "UBB0")
    >>> print(verdict)
    UBB0 ANOMALOUS, score 3.2: bias level 14 sigma high
    """

    status: Status
    score: float
    reasons: tuple[str, ...] = ()
    image_type: str = ""
    evidence: Evidence | None = field(default=None, compare=False, repr=False)
    figure: "Callable[[], Figure] | None" = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        head = f"{self.image_type} {self.status}".strip()
        reasons = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return f"{head}, score {self.score:.1f}{reasons}"

    def plot(self) -> "Figure":
        """Draw the image, the residual map, the nearest reference and the metrics.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If the verdict has no pixels at hand, e.g. because it was read from the database.
        """
        if self.figure is None:
            raise ValueError("expected a verdict of `judge`, found one without pixels; judge again")
        return self.figure()

    def _repr_html_(self) -> str:
        colour = {Status.ANOMALOUS: "#b3261e", Status.NOMINAL: "#1b6e3c"}.get(self.status, "#555")
        reasons = "".join(f"<li>{escape(reason)}</li>" for reason in self.reasons)
        return (
            f"<b>{escape(self.image_type)}</b> "
            f"<b style='color:{colour}'>{self.status}</b>, score {self.score:.1f}<ul>{reasons}</ul>"
        )
