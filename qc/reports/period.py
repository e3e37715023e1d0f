"""Week and month report: one HTML page from a period summary."""

import datetime as dt
from collections import abc
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from qc import db, detection, io
from qc.figures import trends
from qc.monitoring.recall import recall_interval
from qc.reports import extension_figures, pictures, rendering
from qc.summaries import night_range
from qc.summaries.incidents import Incident
from qc.summaries.matrix import kinds_of
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
    generated_at: dt.datetime
    instruments: str
    names: abc.Mapping[str, str]
    thresholds_digest: str
    figures: tuple[tuple[Incident, extension_figures.ExtensionFigures], ...]
    recall: pictures.EmbeddedPicture | None
    margins: tuple[pictures.EmbeddedPicture, ...]


def build_period_page(
    session: Session,
    span: night_range.NightRange,
    *,
    instruments: abc.Sequence[io.Instrument],
    thresholds: detection.Thresholds,
    generated_at: dt.datetime,
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
    renderer = extension_figures.FigureRenderer(session, thresholds)
    counter = rendering.ProgressIterator(len(incidents) + len(period.margins), progress)
    figures = []
    for incident in counter.iterate(incidents):
        [finding] = db.findings.findings_by_id(session, [incident.worst.extension_id])
        figures.append((incident, renderer.render(finding)))
    report = PeriodReport(
        period=period,
        generated_at=generated_at.astimezone(dt.UTC),
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
            pictures.embed_plot(
                margin.image_type,
                trends.draw_margins(margin.weeks, margin.ratios, title=margin.image_type),
            )
            for margin in counter.iterate(period.margins)
        ),
    )
    return rendering.render_template("period.html.j2", page=report)


def draw_recall_trend(test: InjectionTestSummary) -> pictures.EmbeddedPicture | None:
    """Draw the recall of each night; None with too few nights."""
    if len(test.nights) < FEWEST_IN_A_TREND:
        return None
    spread = [(hits / n, *recall_interval(hits, n)) for _, hits, n in test.nights]
    times = [night_range.midnight(night) for night, _, _ in test.nights]
    return pictures.embed_plot("recall", trends.draw_recall_trend(times, np.array(spread)))
