"""Cache of residual models and residual map models by reference set."""

import dataclasses
from collections import OrderedDict
from datetime import date
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings import residual, residual_maps
from qc import core
from qc._locks import KeyedLocks
from qc.db import block_statistics
from qc.db.schema.models import ExtensionRow
from qc.detection.references import sensor_of

_CAPACITY = 24  # the setups of a busy night; 9 MB each
_MAP_REFERENCES = 30  # newest references for a residual map model, which takes 1 s


@dataclasses.dataclass(frozen=True)
class ReferenceModelCache:
    """LRU cache of residual models, shared by threads: decision 0098.

    A thread that needs a model waits while another thread fits it.

    Attributes
    ----------
    capacity : int
        Largest number of models.
    """

    capacity: int = _CAPACITY

    _models: OrderedDict[tuple[int, ...], residual.Expectation] = dataclasses.field(
        default_factory=OrderedDict
    )
    _map_models: dict[tuple[int, ...], residual_maps.ResidualMapModel] = dataclasses.field(
        default_factory=dict
    )
    _lock: Lock = dataclasses.field(default_factory=Lock)
    _fitting: KeyedLocks = dataclasses.field(default_factory=KeyedLocks)

    def find(
        self,
        session: Session,
        measurement: core.Measurement,
        reference: core.Reference,
        night: date,
    ) -> residual.Expectation | None:
        """Return the residual model for an extension.

        Parameters
        ----------
        session : Session
        measurement : Measurement
            Measurement of the extension.
        reference : Reference
            Its reference set.
        night : date
            Night of the extension.

        Returns
        -------
        Expectation or None
            None with too few references.
        """
        if len(reference.extension_ids) < core.REFERENCE_NEEDED:
            return None
        return self.fit(session, measurement, reference.select_for_model(night))

    def fit(
        self, session: Session, measurement: core.Measurement, reference_ids: tuple[int, ...]
    ) -> residual.Expectation:
        """Return the residual model of some references; fit it if it is not cached.

        Parameters
        ----------
        session : Session
        measurement : Measurement
            Its detector properties apply to all references.
        reference_ids : tuple of int

        Returns
        -------
        Expectation
        """
        with self._fitting.hold(reference_ids):
            with self._lock:
                if reference_ids in self._models:
                    self._models.move_to_end(reference_ids)
                    return self._models[reference_ids]
            light = block_statistics.load_light(session, reference_ids)
            model = residual.learn_expectation(light, sensor_of(measurement))
            with self._lock:
                self._models[reference_ids] = model
                while len(self._models) > self.capacity:
                    oldest, _ = self._models.popitem(last=False)
                    self._map_models.pop(oldest, None)
            return model

    def residual_map(
        self, session: Session, extension: ExtensionRow, reference_ids: tuple[int, ...]
    ) -> NDArray[np.float32] | None:
        """Return the residual map of a stored extension.

        Parameters
        ----------
        session : Session
        extension : ExtensionRow
        reference_ids : tuple of int

        Returns
        -------
        (h, w) float32 array or None
            Oddness of each block; 1 is the highest value in nominal frames. None if too few
            block statistics are stored.
        """
        measurement = block_statistics.load_measurement(session, extension, limits={})
        stored = block_statistics.count_stored(session, reference_ids)
        if measurement is None or stored < core.REFERENCE_NEEDED:
            return None
        model = self.fit(session, measurement, reference_ids)
        map_model = self._fit_map_model(session, model, reference_ids)
        return map_model.explain(model.residual(measurement.above_bias).maps)

    def _fit_map_model(
        self, session: Session, model: residual.Expectation, reference_ids: tuple[int, ...]
    ) -> residual_maps.ResidualMapModel:
        with self._fitting.hold(reference_ids):
            cached = self._map_models.get(reference_ids)
            if cached is not None:
                return cached
            newest = block_statistics.load_light(session, reference_ids[:_MAP_REFERENCES])
            maps = (model.residual(light).maps for light in newest)
            map_model = residual_maps.learn_map_model(maps)
            with self._lock:
                if reference_ids in self._models:  # both are removed together
                    self._map_models[reference_ids] = map_model
            return map_model
