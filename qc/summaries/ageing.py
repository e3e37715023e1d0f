"""Ageing of model and limits: weekly distance of nominal frames to their limits."""

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from qc import db, detection
from qc.db.schema import models
from qc.summaries.losses import ROWS_PER_FETCH

WEEKS = 26  # a drift over half a year is invisible within a month


@dataclass(frozen=True)
class LimitMargin:
    """Weekly medians of an image type in units of their limits.

    Attributes
    ----------
    weeks : tuple of date
        Last night of each week.
    ratios : (weeks, 2) float64 array
        Median merge height and median residual over their limits; NaN without frames.
    """

    image_type: str
    weeks: tuple[dt.date, ...]
    ratios: NDArray[np.float64]


def read_margins(
    session: Session, last: dt.date, thresholds: detection.Thresholds
) -> tuple[LimitMargin, ...]:
    """Return the weekly medians of each image type in the half year up to a night.

    Parameters
    ----------
    session : Session
        Open session.
    last : date
        Last night.
    thresholds : Thresholds
        Present thresholds file, for the limits of the residuals.

    Returns
    -------
    tuple of LimitMargin
    """
    weeks = tuple(last - dt.timedelta(weeks=back) for back in range(WEEKS - 1, -1, -1))
    extension, frame, verdict = models.ExtensionRow, models.FrameRow, models.VerdictRow
    query = (
        sa.select(
            extension.image_type,
            frame.night,
            verdict.merge_height,
            verdict.residual,
            verdict.threshold,
            verdict.reference_size,
            models.EncoderRow.fingerprint,
        )
        .join(extension.frame)
        .join(verdict, verdict.id == db.extensions.newest_verdict_id())
        .join(models.EncoderRow, models.EncoderRow.id == verdict.encoder_id)
        .where(frame.night >= weeks[0] - dt.timedelta(days=6), frame.night <= last)
    )
    ratios: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for row in session.execute(query.execution_options(yield_per=ROWS_PER_FETCH)):
        limit = residual_limit(thresholds, row)
        merge = row.merge_height / row.threshold if row.merge_height is not None else np.nan
        residual = row.residual / limit if row.residual is not None else np.nan
        week = WEEKS - 1 - (last - row.night).days // 7
        ratios[row.image_type, week].append((merge, residual))
    margins = []
    for name in sorted({name for name, _ in ratios}):
        medians = np.full((WEEKS, 2), np.nan)
        for week in range(WEEKS):
            values = np.array(ratios.get((name, week), []), np.float64).reshape(-1, 2)
            for column in range(2):
                finite = values[np.isfinite(values[:, column]), column]
                if finite.size:
                    medians[week, column] = np.median(finite)
        margins.append(LimitMargin(name, weeks, medians))
    return tuple(margins)


def residual_limit(thresholds: detection.Thresholds, row: Any) -> float:
    """Return the limit of a residual by the present thresholds file.

    Parameters
    ----------
    thresholds : Thresholds
        Thresholds file.
    row : Row
        Image type, night, encoder fingerprint and reference size of a verdict.

    Returns
    -------
    float
        Sigma; NaN without a valid entry.
    """
    entries = thresholds.entries.get(row.image_type, ())
    valid = [
        entry for entry in entries if entry.encoder == row.fingerprint and entry.since <= row.night
    ]
    return valid[-1].residual * detection.widening(row.reference_size) if valid else float("nan")
