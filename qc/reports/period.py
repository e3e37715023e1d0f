"""Week and month report: one HTML page from a period summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from sqlalchemy.orm import Session

from qc import db
from qc.detection.thresholds import Thresholds
from qc.figures import trends
from qc.io.instruments import Instrument
from qc.monitoring.recall import recall_interval
from qc.reports import rendering
from qc.reports.extension_figures import ExtensionFigures, FigureRenderer
from qc.reports.pictures import EmbeddedPicture, embed_plot
from qc.summaries.incidents import Incident
from qc.summaries.matrix import kinds_of
from qc.summaries.night_range import NightRange, midnight
from qc.summaries.performance import InjectionTestSummary
from qc.summaries.period import PeriodSummary, read_period

INCIDENTS_WITH_PICTURES = 12  # up to 250 kB each
FEWEST_IN_A_TREND = 2  # nights


@dataclass(frozen=True)
class PeriodReport:
    """Variables of the page of a week or a month.

    Attributes
    ----------
    names : mapping of str to str
        Kind in words by image type.
    figures : tuple of (Incident, ExtensionFigures)
        Of the worst confirmed incidents.
    recall : EmbeddedPicture or None
        None with too few injection tests.
    margins : tuple of EmbeddedPicture
        Weekly distance to the limits, by image type.
    """

    period: PeriodSummary
    generated_at: datetime
    instruments: str
    names: Mapping[str, str]
    thresholds_digest: str
    figures: tuple[tuple[Incident, ExtensionFigures], ...]
    recall: EmbeddedPicture | None
    margins: tuple[EmbeddedPicture, ...]


def build_period_page(
    session: Session,
    span: NightRange,
    *,
    instruments: Sequence[Instrument],
    thresholds: Thresholds,
    generated_at: datetime,
    progress: rendering.Progress | None = None,
) -> str:
    """Return the report of a week or a month.

    Parameters
    ----------
    session : Session
        Open session.
    span : NightRange
        Nights.
    instruments : sequence of Instrument
        Instrument definitions.
    thresholds : Thresholds
        Thresholds file.
    generated_at : datetime
        Time, aware.
    progress : callable, optional
        Function of the number of drawn parts and the total.

    Returns
    -------
    str
        Self-contained HTML.
    """
    period = read_period(session, span, instruments, thresholds)
    incidents = period.confirmed[:INCIDENTS_WITH_PICTURES]
    renderer = FigureRenderer(session, thresholds)
    counter = rendering.ProgressIterator(len(incidents) + len(period.margins), progress)
    figures = []
    for incident in counter.iterate(incidents):
        [finding] = db.findings.findings_by_id(session, [incident.worst.extension_id])
        figures.append((incident, renderer.render(finding)))
    report = PeriodReport(
        period=period,
        generated_at=generated_at.astimezone(UTC),
        instruments=", ".join(
            period.instruments or [instrument.name for instrument in instruments]
        ),
        names={
            kind.image_type: kind.name
            for instrument in instruments
            for kind in kinds_of(instrument)
        },
        thresholds_digest=thresholds.digest,
        figures=tuple(figures),
        recall=draw_recall_trend(period.injection_test),
        margins=tuple(
            embed_plot(
                margin.image_type,
                trends.draw_margins(margin.weeks, margin.ratios, title=margin.image_type),
            )
            for margin in counter.iterate(period.margins)
        ),
    )
    return rendering.render_template("period.html.j2", page=report)


def draw_recall_trend(test: InjectionTestSummary) -> EmbeddedPicture | None:
    """Draw the recall of each night; None with too few nights."""
    if len(test.nights) < FEWEST_IN_A_TREND:
        return None
    spread = [(found / tried, *recall_interval(found, tried)) for _, found, tried in test.nights]
    times = [midnight(night) for night, _, _ in test.nights]
    return embed_plot("recall", trends.draw_recall_trend(times, np.array(spread)))
