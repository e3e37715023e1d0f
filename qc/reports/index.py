"""Report index: a page with all reports by month, and the outcome of each night."""

import datetime as dt
import itertools
import re
from collections import Counter, abc, defaultdict
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import _text, core, db, io
from qc.db.schema import models
from qc.project import ProjectContext
from qc.reports import rendering
from qc.summaries import night_range
from qc.summaries.standing import ExtensionStanding, standing_by

INDEX = "index.html"
_NAME = re.compile(r"(?P<kind>week-|month-|)(?P<date>\d{4}-\d\d(-\d\d)?)\.html", re.ASCII)


@dataclass(frozen=True)
class NightOutcome:
    """Outcome of a night.

    Attributes
    ----------
    frames, failed : int
        Judged frames; files that could not be judged.
    counts : Counter of ExtensionStanding
        Extensions by standing; ``ABSENT`` counts the alerts of missing calibrations.
    """

    frames: int
    failed: int
    counts: Counter[ExtensionStanding]

    @property
    def description(self) -> str:
        """Return the outcome in one line: ``2 anomalous, 1 absent; 145 frames``."""
        parts = [
            f"{self.counts[standing]} {standing}"
            for standing in ExtensionStanding
            if self.counts[standing] and standing != ExtensionStanding.NOMINAL
        ]
        parts += [f"{self.failed} failed"] if self.failed else []
        return f"{', '.join(parts) or 'all nominal'}; {_text.pluralise(self.frames, 'frame')}"

    @property
    def worst(self) -> ExtensionStanding:
        """Return the most severe standing."""
        present = (standing for standing in ExtensionStanding if self.counts[standing])
        return next(present, ExtensionStanding.NOMINAL)


@dataclass(frozen=True)
class ReportEntry:
    """Report of a night, a week or a month.

    Attributes
    ----------
    title : str
        ``2026-11-19``, ``week to 2026-11-19``, ``November 2026``.
    last : date
        Last night.
    html, pdf : str
        File names, relative to the index; empty without a file.
    outcome : NightOutcome or None
        None for a week or a month.
    """

    title: str
    last: dt.date
    html: str
    pdf: str
    outcome: NightOutcome | None = None


@dataclass(frozen=True)
class MonthOfReports:
    """Reports of one month: the month, its weeks, its nights, newest first."""

    name: str
    whole: tuple[ReportEntry, ...]
    weeks: tuple[ReportEntry, ...]
    nights: tuple[ReportEntry, ...]


@dataclass(frozen=True)
class ReportIndex:
    """Variables of the index page."""

    generated_at: dt.datetime
    instruments: str
    months: tuple[MonthOfReports, ...]


def read_outcome(project: ProjectContext, night: dt.date) -> NightOutcome:
    """Return the outcome of a night.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    night : date
        Night.

    Returns
    -------
    NightOutcome
    """
    with project.read_session() as session:
        in_use = db.statistics.list_instruments(session)
        outcomes = read_outcomes(session, night, project.instruments, in_use)
    return outcomes.get(night, NightOutcome(0, 0, Counter()))


def write_index(project: ProjectContext, now: dt.datetime) -> Path:
    """Write the index page from the report files and the database.

    Other files in the folder are neither listed nor changed.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    now : datetime
        Time, aware; the page shows its age.

    Returns
    -------
    Path
        The file.
    """
    folder = project.settings.reports_folder
    folder.mkdir(parents=True, exist_ok=True)
    with project.read_session() as session:
        index = read_index(session, folder, project.instruments, now)
    page = rendering.render_template("index.html.j2", index=index)
    return rendering.write_page(folder / INDEX, page)


def read_index(
    session: Session, folder: Path, instruments: abc.Sequence[io.Instrument], now: dt.datetime
) -> ReportIndex:
    """Return all reports, and all nights since the first one with a report.

    Parameters
    ----------
    session : Session
        Open session.
    folder : Path
        Folder of the reports.
    instruments : sequence of Instrument
        Instrument definitions.
    now : datetime
        Time, aware.

    Returns
    -------
    ReportIndex
    """
    names = {path.name for path in folder.iterdir() if path.is_file()}
    entries = {}
    for match in map(_NAME.fullmatch, sorted(names)):
        entry = read_entry(match, names) if match else None
        if entry is not None:
            entries[entry.title] = entry
    nights = [entry.last for entry in entries.values() if entry.title == str(entry.last)]
    in_use = db.statistics.list_instruments(session)
    if nights:
        outcomes = read_outcomes(session, min(nights), instruments, in_use)
        for night in {*nights, *outcomes}:
            entry = entries.get(str(night), ReportEntry(str(night), night, "", ""))
            outcome = outcomes.get(night, NightOutcome(0, 0, Counter()))
            entries[str(night)] = ReportEntry(entry.title, night, entry.html, entry.pdf, outcome)
    return ReportIndex(
        generated_at=now.astimezone(dt.UTC),
        instruments=", ".join(in_use or [instrument.name for instrument in instruments]),
        months=tuple(group_by_month(entries.values())),
    )


def read_entry(match: re.Match[str], names: set[str]) -> ReportEntry | None:
    """Return the report of a file; None for an invalid date.

    Parameters
    ----------
    match : re.Match
        File name by kind and date.
    names : set of str
        All file names in the folder.

    Returns
    -------
    ReportEntry or None
    """
    kind, text = match["kind"], match["date"]
    is_month = kind == "month-"
    try:
        day = dt.date.fromisoformat(f"{text}-01" if is_month else text)
    except ValueError:  # e.g. 31 February, or a night without a day
        return None
    pdf = match[0].removesuffix(".html") + ".pdf"
    title = {"": text, "week-": f"week to {text}", "month-": f"{day:%B %Y}"}[kind]
    last = night_range.month_of(day).last if is_month else day
    return ReportEntry(title, last, match[0], pdf if pdf in names else "")


def group_by_month(entries: abc.Iterable[ReportEntry]) -> abc.Iterator[MonthOfReports]:
    """Yield reports by month, newest first."""
    newest_first = sorted(entries, key=lambda entry: entry.last, reverse=True)
    for name, group in itertools.groupby(newest_first, key=lambda entry: f"{entry.last:%B %Y}"):
        reports = list(group)
        whole = [entry for entry in reports if entry.title == name]
        nights = [entry for entry in reports if entry.outcome is not None]
        weeks = [entry for entry in reports if entry not in whole and entry not in nights]
        yield MonthOfReports(name, tuple(whole), tuple(weeks), tuple(nights))


def read_outcomes(
    session: Session,
    first: dt.date,
    instruments: abc.Sequence[io.Instrument],
    in_use: abc.Sequence[str],
) -> dict[dt.date, NightOutcome]:
    """Return the outcome of each night with frames, failed files or missing calibrations.

    Parameters
    ----------
    session : Session
        Open session.
    first : date
        First night.
    instruments : sequence of Instrument
        Instrument definitions.
    in_use : sequence of str
        Names of the instruments with frames.

    Returns
    -------
    dict of date to NightOutcome
    """
    counts: dict[dt.date, Counter[ExtensionStanding]] = defaultdict(Counter)
    for night, standing, n in count_standings(session, first):
        counts[night][standing] += n
    alert = models.AlertRow
    missing = (
        sa.select(alert.night, sa.func.count())
        .where(alert.topic == core.Topic.ABSENCE, alert.night >= first)
        .group_by(alert.night)
    )
    for alert_night, n in session.execute(missing):
        if alert_night is not None:
            counts[alert_night][ExtensionStanding.ABSENT] += n
    frames = db.statistics.frames_by_night(session, first)
    failed = count_failed(session, first, instruments, in_use)
    return {
        night: NightOutcome(frames.get(night, 0), failed[night], counts[night])
        for night in {*counts, *frames, *failed}
    }


def count_standings(
    session: Session, first: dt.date
) -> abc.Iterator[tuple[dt.date, ExtensionStanding, int]]:
    """Yield the number of extensions by night and standing, counted in the database.

    Parameters
    ----------
    session : Session
        Open session.
    first : date
        First night.

    Yields
    ------
    tuple of (date, ExtensionStanding, int)
    """
    frame, extension = models.FrameRow, models.ExtensionRow
    verdict, label = models.VerdictRow, models.LabelRow
    current = db.labels.current_labels()
    has_reasons = sa.cast(verdict.reasons, sa.String) != "[]"
    query = (
        sa.select(frame.night, verdict.status, label.label, has_reasons, sa.func.count())
        .select_from(extension)
        .join(extension.frame)
        .join(verdict, verdict.id == db.extensions.newest_verdict_id())
        .outerjoin(current, current.c.extension_id == extension.id)
        .outerjoin(label, label.id == current.c.label_id)
        .where(frame.night >= first)
        .group_by(frame.night, verdict.status, label.label, has_reasons)
    )
    for night, status, name, is_warned, n in session.execute(query):
        if night is not None:  # every processed frame has a night
            yield night, standing_by(core.Status(status), name, has_reasons=is_warned), n


def count_failed(
    session: Session,
    first: dt.date,
    instruments: abc.Sequence[io.Instrument],
    in_use: abc.Sequence[str],
) -> Counter[dt.date]:
    """Count the files that could not be judged by their estimated night.

    Parameters
    ----------
    session : Session
        Open session.
    first : date
        First night.
    instruments : sequence of Instrument
        Instrument definitions.
    in_use : sequence of str
        Names of the instruments that define the begin of a night; empty for all.

    Returns
    -------
    Counter of date
    """
    used = [instrument for instrument in instruments if instrument.name in in_use] or instruments
    hours = dt.timedelta(hours=min(instrument.night_starts_utc_hour for instrument in used))
    rows = db.statistics.failed_files(session)
    nights = ((db.statistics.estimate_observed_at(row) - hours).date() for row in rows)
    return Counter(night for night in nights if night >= first)
