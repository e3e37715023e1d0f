"""References that an extension is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

REFERENCE_NEWEST = 200  # a longer memory dilutes the present state; a shorter one has thin tails


SETTLED_NEWEST = 100  # for what is learnt of whole pictures: more cost time and gain nothing


@dataclass(frozen=True)
class Reference:
    """The nominal extensions that a new one is held against, newest first.

    Attributes
    ----------
    extension_ids : tuple of m int
    nights : tuple of m date
    embeddings : (m, d) float32 array
    metrics : tuple of m mappings
    widened : str
        What was let vary to find enough, in words; empty for the exact setup.
    """

    extension_ids: tuple[int, ...]
    nights: tuple[date, ...]
    embeddings: NDArray[np.float32]
    metrics: tuple[Mapping[str, float], ...]
    widened: str

    def settled(self, night: date) -> tuple[int, ...]:
        """Return the newest 100 of the weeks before `night`'s, or of all where those are few.

        The same frames all week long: what is learnt from them need not be learnt every night,
        and does not depend on when it was.
        """
        week = night - timedelta(days=night.weekday())
        ids = zip(self.extension_ids, self.nights, strict=True)
        before = [one for one, taken in ids if taken < week]
        enough = len(before) >= REFERENCE_NEEDED
        return tuple(before if enough else self.extension_ids)[:SETTLED_NEWEST]


REFERENCE_NEEDED = 20  # below, a cluster and a robust z-score say more of the sample than the frame


REFERENCE_AMPLE = 100  # from here on limits are taken as they were tuned
