"""The judgement of one extension."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qc.core.measurement import Measurement
from qc.core.verdict import Evidence, Verdict
from qc.detection.decision import limits_for
from qc.detection.thresholds import Threshold


@dataclass(frozen=True)
class Judgement:
    """One extension with all that was learnt from it, ready to be recorded."""

    measured: Measurement
    embedding: NDArray[np.float32]
    evidence: Evidence
    verdict: Verdict
    threshold: Threshold
    nearest_id: int | None

    @property
    def highest_merge(self) -> float:
        """Return the merge height above which it stood apart: the threshold, or wider for few."""
        return limits_for(self.threshold, self.evidence.reference_size).merge_height
