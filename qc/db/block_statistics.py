"""Queries for block statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    func,
    select,
)
from sqlalchemy.orm import (
    Session,
)

from embeddings.preprocess import appearance
from qc.core.measurement import Measurement
from qc.db.models import BlockStatisticsRow, ExtensionRow, FrameRow
from qc.db.types import rounded_to_keep

_PICTURES_AT_ONCE = 20


def light_of(session: Session, extension_ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the block statistics of some extensions above their own bias level: (m, h, w, 3).

    Those whose statistics are no longer kept are left out.
    """
    query = (
        select(BlockStatisticsRow.above_zero_adu, ExtensionRow.zero_adu, ExtensionRow.metrics)
        .join(ExtensionRow, ExtensionRow.id == BlockStatisticsRow.extension_id)
        .join(ExtensionRow.frame)
        .where(ExtensionRow.id.in_(extension_ids))
        # Of time, not of arrival: what is learnt from them depends on their order a little.
        .order_by(FrameRow.observed_at, FrameRow.name, ExtensionRow.number)
    )
    found = session.execute(query.execution_options(yield_per=_PICTURES_AT_ONCE))
    light, kept = np.empty((0, 0, 0, 3), np.float32), 0
    for each, zero, metrics in found:
        if not kept:  # filled as they are read: two hundred are 120 MB, and in a list as much again
            light = np.empty((len(extension_ids), *each.shape), np.float32)
        light[kept] = above_bias(each + _zero(zero), zero, metrics)
        kept += 1
    return light[:kept]


def pictures_kept(session: Session, extension_ids: Sequence[int]) -> int:
    """Return of how many of some extensions the block statistics are still kept."""
    query = (
        select(func.count())
        .select_from(BlockStatisticsRow)
        .where(BlockStatisticsRow.extension_id.in_(extension_ids))
    )
    return session.scalar(query) or 0


def above_bias(
    statistics: NDArray[np.float32], zero_adu: float, metrics: Mapping[str, float]
) -> NDArray[np.float32]:
    """Return (h, w, 3) block statistics above the frame's own bias level, if it has an overscan."""
    return statistics - _zero(metrics.get("bias_level", zero_adu))


def _zero(level_adu: float) -> NDArray[np.float32]:
    """Return what is to be taken off a mean, a standard deviation and a maximum."""
    return np.array([level_adu, 0, level_adu], np.float32)


def block_statistics_of(session: Session, extension_id: int) -> NDArray[np.float32] | None:
    """Return an extension's (h, w, 3) block statistics in ADU above zero, if still kept."""
    query = select(BlockStatisticsRow.above_zero_adu).where(
        BlockStatisticsRow.extension_id == extension_id
    )
    return session.scalar(query)


def appearance_of(session: Session, row: ExtensionRow) -> Mapping[str, float]:
    """Return how an extension looks; empty where it was measured before this was kept."""
    if row.appearance is not None:
        return row.appearance
    above_zero = block_statistics_of(session, row.id)
    if above_zero is None:
        return {}
    return appearance(above_zero, row.metrics.get("bias_level", row.zero_adu) - row.zero_adu)


def as_kept(measured: Measurement) -> Measurement:
    """Return what was measured of an extension as it will be read back: rounded to be kept."""
    zero = _zero(measured.zero_adu)
    return replace(measured, statistics=rounded_to_keep(measured.statistics - zero) + zero)


def _block_statistics_row(extension_id: int, measured: Measurement) -> BlockStatisticsRow:
    above_zero_adu = measured.statistics - _zero(measured.zero_adu)
    return BlockStatisticsRow(extension_id=extension_id, above_zero_adu=above_zero_adu)
