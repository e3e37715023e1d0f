"""What frames of a setup look like: learnt once for a set of references, kept while in use."""

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings.residual import (
    Expectation,
    Residual,
    Sensor,
    exposed_share,
    learn_expectation,
    pixels_per_block,
)
from embeddings.residual_maps import ResidualMapModel, learn_explainer
from qc._locks import KeyedLocks
from qc.core.measurement import Measurement
from qc.core.reference import REFERENCE_NEEDED
from qc.db.block_statistics import above_bias, light_of, pictures_kept
from qc.db.models import ExtensionRow
from qc.db.recording import measured_of

_KEPT = 24  # 9 MB each: the setups of a busy night, as it comes
_EXPLAINED_BY = 30  # of the newest references; a second for a setup


@dataclass(frozen=True)
class ReferenceModelCache:
    """The expectations in use, the least recently used forgotten first.

    Threads may share them: who needs the same one waits until it is learnt.

    Attributes
    ----------
    room : int
        How many there are at most.
    """

    room: int = _KEPT

    _learnt: OrderedDict[tuple[int, ...], Expectation] = field(default_factory=OrderedDict)
    _explainers: dict[tuple[int, ...], ResidualMapModel] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _learning: KeyedLocks = field(default_factory=KeyedLocks)

    def residual(
        self, session: Session, measured: Measurement, reference_ids: tuple[int, ...]
    ) -> Residual:
        """Return what these references' nominal variation cannot explain in an extension."""
        expectation = self.learn(session, sensor_of(measured), reference_ids)
        light = above_bias(measured.statistics, measured.zero_adu, measured.metrics)
        return expectation.residual(light)

    def explanation(
        self, session: Session, extension: ExtensionRow, reference_ids: tuple[int, ...]
    ) -> NDArray[np.float32] | None:
        """Return where a stored extension differs from these references.

        Returns
        -------
        (h, w) float32 array or None
            1 is as odd as good frames get. None where too little was kept of the extension, or
            of the references.
        """
        measured = measured_of(session, extension, limits={})
        if measured is None or pictures_kept(session, reference_ids) < REFERENCE_NEEDED:
            return None
        expectation = self.learn(session, sensor_of(measured), reference_ids)
        explainer = self._explainer(session, expectation, reference_ids)
        light = above_bias(measured.statistics, measured.zero_adu, measured.metrics)
        return explainer.explain(expectation.residual(light).maps)

    def _explainer(
        self, session: Session, expectation: Expectation, reference_ids: tuple[int, ...]
    ) -> ResidualMapModel:
        with self._learning.of(reference_ids):
            known = self._explainers.get(reference_ids)
            if known is not None:
                return known
            newest = light_of(session, reference_ids[:_EXPLAINED_BY])
            explainer = learn_explainer(expectation.residual(each).maps for each in newest)
            with self._lock:
                if reference_ids in self._learnt:  # it is forgotten together with that one
                    self._explainers[reference_ids] = explainer
            return explainer

    def learn(
        self, session: Session, sensor: Sensor, reference_ids: tuple[int, ...]
    ) -> Expectation:
        """Return what these references let expect of an extension, learnt if it is not known."""
        with self._learning.of(reference_ids):
            with self._lock:
                if reference_ids in self._learnt:
                    self._learnt.move_to_end(reference_ids)
                    return self._learnt[reference_ids]
            expectation = learn_expectation(light_of(session, reference_ids), sensor)
            with self._lock:
                self._learnt[reference_ids] = expectation
                while len(self._learnt) > self.room:
                    forgotten, _ = self._learnt.popitem(last=False)
                    self._explainers.pop(forgotten, None)
            return expectation


def sensor_of(measured: Measurement) -> Sensor:
    """Return what turned light into noise in an extension."""
    grid = measured.statistics.shape[0], measured.statistics.shape[1]
    return Sensor(
        pixels=pixels_per_block(measured.shape, grid),
        exposed=exposed_share(measured.light, measured.shape, grid),
        gain_e_per_adu=measured.gain_e_per_adu,
        read_noise_adu=measured.read_noise_adu,
        lit=measured.promised_light > 0,
    )
