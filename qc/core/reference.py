"""Reference set of an extension."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embeddings.residual import Expectation

REFERENCE_NEEDED = 20  # with fewer, cluster and robust z-score depend on the sample too much
REFERENCE_AMPLE = 100  # from this size on, limits are not widened: decision 0021
REFERENCE_NEWEST = 200  # more dilute the present state; fewer have poorly sampled tails
REFERENCE_MODEL_NEWEST = 100  # more frames cost time and do not improve the reference model


@dataclass(frozen=True)
class Reference:
    """Nominal extensions that a new extension is compared with, newest first.

    Attributes
    ----------
    extension_ids : tuple of m int
    nights : tuple of m date
    embeddings : (m, d) float32 array
    metrics : tuple of m mappings
        Values by metric.
    widened : str
        Setup property that may differ, as text; empty for the exact setup.
    residual_model : Expectation or None
        Model of the nominal variation; None with too few references, or if not loaded.
    duplicate_of : str
        Name of an earlier frame with identical pixels; empty without one.
    """

    extension_ids: tuple[int, ...]
    nights: tuple[date, ...]
    embeddings: "NDArray[np.float32]"
    metrics: tuple[Mapping[str, float], ...]
    widened: str
    residual_model: "Expectation | None" = None
    duplicate_of: str = ""

    def select_for_model(self, night: date) -> tuple[int, ...]:
        """Return the ids of the references for the residual model of a night.

        The newest 100 from before the night's week, or of all nights where those are fewer than
        20. The selection stays the same for a week, so that the model can be cached: decision
        0098.
        """
        monday = night - timedelta(days=night.weekday())
        pairs = zip(self.extension_ids, self.nights, strict=True)
        earlier = [number for number, taken_on in pairs if taken_on < monday]
        is_enough = len(earlier) >= REFERENCE_NEEDED
        return tuple(earlier if is_enough else self.extension_ids)[:REFERENCE_MODEL_NEWEST]
