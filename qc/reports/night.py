"""Night report: one HTML page with matrix, anomalies, trends, injection test and spot check."""

import datetime as dt
from collections import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy.orm import Session

from qc import db, detection, errors, io
from qc.project import ProjectContext
from qc.reports import extension_figures, rendering, trend_figures
from qc.summaries.matrix import by_image_type
from qc.summaries.night import HISTORY_NIGHTS, NightSummary, read_night

EVENTS_WITH_PICTURES = 20  # up to 250 kB each


class EncoderInfo(Protocol):
    """Encoder of a report: the encoder itself or its row."""

    @property
    def name(self) -> str:
        """Return network, weights and stretch."""

    @property
    def fingerprint(self) -> str:
        """Return name and digest."""


@dataclass(frozen=True)
class NightReport:
    """Variables of the page of a night.

    Attributes
    ----------
    figures : mapping of str to ExtensionFigures
        Of the worst events, by anchor.
    sample : tuple of Thumbnail
        Spot-check sample of the night.
    recalls : tuple of RecallFigure
        Of the instruments with recent injection tests.
    """

    night: NightSummary
    generated_at: dt.datetime
    encoder: EncoderInfo
    thresholds_digest: str
    figures: abc.Mapping[str, extension_figures.ExtensionFigures]
    trends: tuple[trend_figures.NightTrend, ...]
    sample: tuple[extension_figures.Thumbnail, ...]
    recalls: tuple[trend_figures.RecallFigure, ...]

    @property
    def is_untrained(self) -> bool:
        """Return True for an encoder with random weights."""
        return "untrained" in self.encoder.name.split("-")

    @property
    def other_encoders(self) -> tuple[str, ...]:
        """Return the other encoders of the night's verdicts."""
        used = {finding.fingerprint for finding in self.night.findings}
        return tuple(sorted(used - {self.encoder.fingerprint}))

    @property
    def other_thresholds(self) -> tuple[str, ...]:
        """Return the digests of other thresholds files of the night's verdicts."""
        used = {finding.verdict.thresholds_digest for finding in self.night.findings}
        return tuple(sorted(used - {self.thresholds_digest}))


def build_report(
    session: Session,
    evening: dt.date,
    *,
    instruments: abc.Sequence[io.Instrument],
    encoder: EncoderInfo,
    thresholds: detection.Thresholds | None,
    generated_at: dt.datetime,
    progress: rendering.Progress | None = None,
) -> str:
    """Return the report of a night.

    Parameters
    ----------
    session : Session
        Open session.
    evening : date
        Day on which the night began.
    instruments : sequence of Instrument
        Instrument definitions.
    encoder : EncoderInfo
        Present encoder.
    thresholds : Thresholds or None
        Warning limits of the listed metrics.
    generated_at : datetime
        Time, aware; the page shows its age.
    progress : callable, optional
        Function of the number of drawn parts and the total.

    Returns
    -------
    str
        Self-contained HTML.
    """
    night = read_night(session, evening, instruments, generated_at)
    events = night.events[:EVENTS_WITH_PICTURES]
    by_type = by_image_type(night.history)
    kinds = [kind for kind in night.kinds if kind.image_type in by_type]
    first = evening - dt.timedelta(days=HISTORY_NIGHTS - 1)
    epochs = db.labels.epochs_between(session, first, evening)
    renderer = extension_figures.FigureRenderer(session, thresholds)
    counter = rendering.ProgressIterator(len(events) + len(kinds), progress)
    recalls = [trend_figures.draw_recall(session, evening, entry) for entry in instruments]
    report = NightReport(
        night=night,
        generated_at=generated_at.astimezone(dt.UTC),
        encoder=encoder,
        thresholds_digest=thresholds.digest if thresholds else "",
        figures={event.anchor: renderer.render(event.worst) for event in counter.iterate(events)},
        trends=tuple(
            trend_figures.draw_trend(kind, by_type[kind.image_type], epochs)
            for kind in counter.iterate(kinds)
        ),
        sample=renderer.draw_thumbnails(night.sample.findings),
        recalls=tuple(figure for figure in recalls if figure),
    )
    return rendering.render_template("report.html.j2", report=report)


def write_report(
    project: ProjectContext,
    night: dt.date | None,
    now: dt.datetime,
    file: Path | None = None,
    *,
    progress: rendering.Progress | None = None,
) -> Path:
    """Write the report of a night; the previous file stays until the new one is complete.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    night : date or None
        Default: the newest night with frames.
    now : datetime
        Time, aware.
    file : Path, optional
        Default: ``reports/<night>.html`` in the project folder.
    progress : callable, optional
        Function of the number of drawn parts and the total.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigurationError
        If no night is given and none has frames.
    """
    with project.read_session() as session:
        night = night or db.statistics.newest_night(session)
        if night is None:
            raise errors.ConfigurationError(
                "no frame has been processed yet: there is no night to report"
            )
        page = build_report(
            session,
            night,
            instruments=project.instruments,
            encoder=project.encoder,
            thresholds=project.thresholds,
            generated_at=now,
            progress=progress,
        )
    target = file or project.settings.project / "reports" / f"{night}.html"
    return rendering.write_page(target, page)
