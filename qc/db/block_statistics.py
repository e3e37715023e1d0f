"""Queries for block statistics and stored measurements."""

from collections.abc import Mapping, Sequence

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings.preprocess import appearance
from qc import core
from qc.core import measurement
from qc.db.schema import models

Floats = NDArray[np.float32]

_ROWS_PER_FETCH = 20  # 200 at once are 120 MB, and as much again in a list


def load_light(session: Session, extension_ids: Sequence[int]) -> Floats:
    """Load the block statistics of some extensions above their bias levels.

    Parameters
    ----------
    session : Session
    extension_ids : sequence of int

    Returns
    -------
    (m, h, w, 3) float32 array
        ADU, oldest first; without extensions whose statistics are no longer stored.
    """
    query = (
        sa.select(
            models.BlockStatisticsRow.above_zero_adu,
            models.ExtensionRow.zero_adu,
            models.ExtensionRow.metrics,
        )
        .join(models.ExtensionRow, models.ExtensionRow.id == models.BlockStatisticsRow.extension_id)
        .join(models.ExtensionRow.frame)
        .where(models.ExtensionRow.id.in_(extension_ids))
        # In order of observation, not of arrival: a fitted model depends slightly on the order.
        .order_by(models.FrameRow.observed_at, models.FrameRow.name, models.ExtensionRow.number)
    )
    rows = session.execute(query.execution_options(yield_per=_ROWS_PER_FETCH))
    light, count = np.empty((0, 0, 0, 3), np.float32), 0
    for above_zero, zero, metrics in rows:
        if not count:
            light = np.empty((len(extension_ids), *above_zero.shape), np.float32)
        light[count] = measurement.above_bias(
            above_zero + measurement.level_offsets(zero), zero, metrics
        )
        count += 1
    return light[:count]


def load_measurement(
    session: Session, row: models.ExtensionRow, limits: Mapping[str, tuple[float, float]]
) -> core.Measurement | None:
    """Load the measurement of a stored extension.

    Parameters
    ----------
    session : Session
    row : ExtensionRow
    limits : mapping of str to (float, float)
        Absolute limits by metric.

    Returns
    -------
    Measurement or None
        None if the block statistics or the light-sensitive region are not stored.
    """
    above_zero = find_block_statistics(session, row.id)
    light = row.light
    if above_zero is None or light is None:
        return None
    assert row.gain_e_per_adu is not None  # stored together with the light-sensitive region
    assert row.read_noise_adu is not None
    return core.Measurement(
        number=row.number,
        setup=row.setup,
        shape=(row.ny, row.nx),
        light=light,
        frame_class=row.frame_class,
        zero_adu=row.zero_adu,
        gain_e_per_adu=row.gain_e_per_adu,
        read_noise_adu=row.read_noise_adu,
        stretch_adu=row.stretch_adu,
        promised_light=row.promised_light,
        limits=limits,
        statistics=above_zero + measurement.level_offsets(row.zero_adu),
        metrics=row.metrics,
        pixels_sha256=row.pixels_sha256,
    )


def count_stored(session: Session, extension_ids: Sequence[int]) -> int:
    """Count the extensions whose block statistics are stored.

    Parameters
    ----------
    session : Session
    extension_ids : sequence of int
        Extensions to look for.

    Returns
    -------
    int
    """
    query = (
        sa.select(sa.func.count())
        .select_from(models.BlockStatisticsRow)
        .where(models.BlockStatisticsRow.extension_id.in_(extension_ids))
    )
    return session.scalar(query) or 0


def find_block_statistics(session: Session, extension_id: int) -> Floats | None:
    """Return the block statistics of an extension.

    Parameters
    ----------
    session : Session
    extension_id : int

    Returns
    -------
    (h, w, 3) float32 array or None
        ADU above the nominal bias level; None if no longer stored.
    """
    query = sa.select(models.BlockStatisticsRow.above_zero_adu).where(
        models.BlockStatisticsRow.extension_id == extension_id
    )
    return session.scalar(query)


def find_appearance(session: Session, row: models.ExtensionRow) -> Mapping[str, float]:
    """Return the header-independent numbers of an extension.

    Parameters
    ----------
    session : Session
    row : ExtensionRow

    Returns
    -------
    mapping of str to float
        Empty if neither they nor the block statistics are stored.
    """
    if row.appearance is not None:
        return row.appearance
    above_zero = find_block_statistics(session, row.id)
    if above_zero is None:
        return {}
    return appearance(above_zero, row.metrics.get("bias_level", row.zero_adu) - row.zero_adu)
