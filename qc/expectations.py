"""What frames of a setup look like: learnt once for a set of references, kept while in use."""

from collections import OrderedDict
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from embeddings.residual import Expectation, Residual, Sensor, learn_expectation, pixels_per_block
from qc import database
from qc.database import Measured

_KEPT = 24  # 15 MB each: the setups of a busy night


@dataclass(frozen=True)
class Expectations:
    """The expectations in use, the least recently used forgotten first."""

    _learnt: OrderedDict[tuple[int, ...], Expectation] = field(default_factory=OrderedDict)

    def residual(
        self, session: Session, measured: Measured, reference_ids: tuple[int, ...]
    ) -> Residual:
        """Return what these references' nominal variation cannot explain in an extension."""
        if reference_ids not in self._learnt:
            self._learnt[reference_ids] = _learn(session, measured, reference_ids)
        self._learnt.move_to_end(reference_ids)
        while len(self._learnt) > _KEPT:
            self._learnt.popitem(last=False)
        light = database.above_bias(measured.statistics, measured.zero_adu, measured.metrics)
        return self._learnt[reference_ids].residual(light)


def _learn(session: Session, measured: Measured, reference_ids: tuple[int, ...]) -> Expectation:
    references = database.light_of(session, reference_ids)
    sensor = Sensor(
        pixels=pixels_per_block(measured.shape, measured.statistics.shape[:2]),
        gain_e_per_adu=measured.gain_e_per_adu,
        read_noise_adu=measured.read_noise_adu,
        lit=measured.promised_light > 0,
    )
    return learn_expectation(references, sensor)
