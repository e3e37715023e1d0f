"""The page of a week or a month: what there is to say is found in `periods`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time

import numpy as np
from sqlalchemy.orm import Session

from qc import db
from qc.detection.thresholds import Thresholds
from qc.figures import plots
from qc.io.instruments import Instrument
from qc.monitoring.recall import recall_interval
from qc.reports.extension_figures import EmbeddedPicture, ExtensionFigures, FigureRenderer, drawing
from qc.reports.night import Progress, ProgressIterator, rendered
from qc.summaries.night import kinds_of
from qc.summaries.period import (
    Incident,
    InjectionTestSummary,
    LimitMargin,
    NightRange,
    PeriodSummary,
    read_period,
)

PICTURED = 12  # events, up to 250 kB each
FEWEST_IN_A_TREND = 2  # nights


@dataclass(frozen=True)
class PeriodReport:
    """Everything on the page of a week or a month.

    Attributes
    ----------
    names : mapping of str to str
        What people call each image type.
    portraits : tuple of (Incident, Portrait)
        Of the worst confirmed anomalies.
    recall : Picture or None
        None where the self-test has run too seldom for a trend.
    """

    period: PeriodSummary
    generated_at: datetime
    instruments: str
    names: Mapping[str, str]
    thresholds_digest: str
    portraits: tuple[tuple[Incident, ExtensionFigures], ...]
    recall: EmbeddedPicture | None
    ageing: tuple[EmbeddedPicture, ...]


def build_survey(
    session: Session,
    span: NightRange,
    *,
    instruments: Sequence[Instrument],
    thresholds: Thresholds,
    generated_at: datetime,
    progress: Progress | None = None,
) -> str:
    """Write the report of a week or a month.

    Parameters
    ----------
    generated_at : datetime
        Aware.
    progress : callable, optional
        Told how many parts of the page are drawn, and of how many.

    Returns
    -------
    str
        HTML, complete in itself.
    """
    period = read_period(session, span, instruments, thresholds)
    pictured = period.confirmed[:PICTURED]
    gallery = FigureRenderer(session, thresholds)
    counted = ProgressIterator(len(pictured) + len(period.ageing), progress)
    survey = PeriodReport(
        period=period,
        generated_at=generated_at.astimezone(UTC),
        instruments=", ".join(period.instruments or [one.name for one in instruments]),
        names={kind.image_type: kind.name for one in instruments for kind in kinds_of(one)},
        thresholds_digest=thresholds.digest,
        portraits=tuple((one, _portrait(session, gallery, one)) for one in counted.over(pictured)),
        recall=_draw_recall(period.self_test),
        ageing=tuple(_draw_ageing(one) for one in counted.over(period.ageing)),
    )
    return rendered("period.html.j2", page=survey)


def _portrait(session: Session, gallery: FigureRenderer, incident: Incident) -> ExtensionFigures:
    [finding] = db.findings.findings_with(session, [incident.worst.extension_id])
    return gallery.portrait(finding)


def _draw_recall(test: InjectionTestSummary) -> EmbeddedPicture | None:
    if len(test.nights) < FEWEST_IN_A_TREND:
        return None
    spread = [(found / tried, *recall_interval(found, tried)) for _, found, tried in test.nights]
    times = [datetime.combine(night, time(), UTC) for night, _, _ in test.nights]
    return drawing("recall", plots.recall_trend(times, np.array(spread)))


def _draw_ageing(one: LimitMargin) -> EmbeddedPicture:
    return drawing(one.image_type, plots.ageing(one.weeks, one.ratios, title=one.image_type))
