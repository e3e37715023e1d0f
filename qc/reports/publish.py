"""Publish reports: HTML file, PDF file and the report index."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from qc import db, errors
from qc.project import ProjectContext
from qc.reports import index, period, rendering
from qc.reports.night import write_report
from qc.reports.pdf import write_pdf
from qc.summaries import night_range


@dataclass(frozen=True)
class PublishedReport:
    """Files of a report; `pdf` is None without a PDF file."""

    html: Path
    pdf: Path | None


def publish_night(
    project: ProjectContext,
    night: dt.date | None,
    now: dt.datetime,
    *,
    file: Path | None = None,
    pdf: bool = False,
    progress: rendering.Progress | None = None,
) -> PublishedReport:
    """Write the report of a night, and the index.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    night : date or None
        Default: the newest night with frames.
    now : datetime
        Time, aware.
    file : Path, optional
        Default: ``reports/<night>.html`` in the project folder. With another file the index stays
        unchanged.
    pdf : bool
        Write a PDF file as well.
    progress : callable, optional
        Function of the number of drawn parts and the total.

    Returns
    -------
    PublishedReport

    Raises
    ------
    ConfigurationError
        If no night is given and none has frames, or WeasyPrint is not installed.
    """
    html = write_report(project, night, now, file, progress=progress)
    return _finish(project, html, now, is_indexed=file is None, pdf=pdf)


def publish_span(
    project: ProjectContext,
    span: night_range.NightRange,
    now: dt.datetime,
    *,
    file: Path | None = None,
    pdf: bool = False,
    progress: rendering.Progress | None = None,
) -> PublishedReport:
    """Write the report of a week or a month, and the index.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    span : NightRange
        Nights.
    now : datetime
        Time, aware.
    file : Path, optional
        Default: a file like ``reports/month-2026-11.html`` in the project folder. With another
        file the index stays unchanged.
    pdf : bool
        Write a PDF file as well.
    progress : callable, optional
        Function of the number of drawn parts and the total.

    Returns
    -------
    PublishedReport

    Raises
    ------
    ConfigurationError
        If WeasyPrint is not installed.
    """
    with project.read_session() as session:
        page = period.build_period_page(
            session,
            span,
            instruments=project.instruments,
            thresholds=project.thresholds,
            generated_at=now,
            progress=progress,
        )
    html = file or project.settings.reports_folder / f"{span.file_name}.html"
    return _finish(project, rendering.write_page(html, page), now, is_indexed=file is None, pdf=pdf)


def newest_week(project: ProjectContext, night: dt.date | None) -> night_range.NightRange:
    """Return the week up to a night.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    night : date or None
        Default: the newest night with frames.

    Returns
    -------
    NightRange

    Raises
    ------
    ConfigurationError
        If no night is given and none has frames.
    """
    with project.read_session() as session:
        night = night or db.statistics.newest_night(session)
    if night is None:
        raise errors.ConfigurationError(
            "no frame has been processed yet: there is no week to report"
        )
    return night_range.week_to(night)


def _finish(
    project: ProjectContext, html: Path, now: dt.datetime, *, is_indexed: bool, pdf: bool
) -> PublishedReport:
    written = write_pdf(html.read_text(encoding="utf-8"), html.with_suffix(".pdf")) if pdf else None
    if is_indexed:
        index.write_index(project, now)
    return PublishedReport(html, written)
