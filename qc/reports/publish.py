"""The folder of the reports: a file for each night, week and month, and a page that lists them."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path

from sqlalchemy import String, cast, func, select
from sqlalchemy.orm import Session

from qc import db
from qc._text import counted
from qc.core.enums import LabelName, Topic
from qc.core.verdict import Status
from qc.db.models import AlertRow, ExtensionRow, FrameRow, LabelRow, VerdictRow
from qc.db.statistics import taken_at
from qc.errors import ConfigurationError
from qc.io.instruments import Instrument
from qc.project import Project
from qc.reports.night import Progress, rendered, write_page, write_report
from qc.reports.pdf import write_pdf
from qc.reports.period import build_survey
from qc.summaries.night import ExtensionStanding
from qc.summaries.period import NightRange, month_of, week_to

INDEX = "index.html"
_NAME = re.compile(r"(?P<kind>week-|month-|)(?P<date>\d{4}-\d\d(-\d\d)?)\.html", re.ASCII)


@dataclass(frozen=True)
class PublishedReport:
    """The files of a report; `pdf` is None where none was asked for."""

    html: Path
    pdf: Path | None


def publish_night(
    project: Project,
    night: date | None,
    now: datetime,
    *,
    file: Path | None = None,
    pdf: bool = False,
    progress: Progress | None = None,
) -> PublishedReport:
    """Write the report of a night, its PDF if wanted, and the index; see `write_report`.

    Raises
    ------
    ConfigurationError
        If no night is given and none has frames, or a PDF cannot be made.
    """
    html = write_report(project, night, now, file, progress=progress)
    return _published(project, html, now, is_kept=file is None, pdf=pdf)


def publish_span(
    project: Project,
    span: NightRange,
    now: datetime,
    *,
    file: Path | None = None,
    pdf: bool = False,
    progress: Progress | None = None,
) -> PublishedReport:
    """Write the report of a week or a month, its PDF if wanted, and the index.

    Parameters
    ----------
    file : Path, optional
        ``reports/month-2026-11.html`` in the project folder and the like, where absent.

    Raises
    ------
    ConfigurationError
        If a PDF cannot be made.
    """
    with project.reads() as session:
        page = build_survey(
            session,
            span,
            instruments=project.instruments,
            thresholds=project.thresholds,
            generated_at=now,
            progress=progress,
        )
    html = file or project.settings.reports_folder / f"{span.file_name}.html"
    return _published(project, write_page(html, page), now, is_kept=file is None, pdf=pdf)


def newest_week(project: Project, night: date | None) -> NightRange:
    """Return the week that ends with a night, or with the newest that has frames.

    Raises
    ------
    ConfigurationError
        If no night is given and none has frames.
    """
    with project.reads() as session:
        night = night or db.statistics.newest_night(session)
    if night is None:
        raise ConfigurationError("no frame has been processed yet: there is no week to report")
    return week_to(night)


def _published(
    project: Project, html: Path, now: datetime, *, is_kept: bool, pdf: bool
) -> PublishedReport:
    written = write_pdf(html.read_text(encoding="utf-8"), html.with_suffix(".pdf")) if pdf else None
    if is_kept:
        write_index(project, now)
    return PublishedReport(html, written)


# --- the index ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NightOutcome:
    """How a night went, as one line says it.

    Attributes
    ----------
    counts : Counter of Standing
        Extensions; of absences, how many people were told of.
    """

    frames: int
    failed: int
    counts: Counter[ExtensionStanding]

    @property
    def words(self) -> str:
        """Say it in one line: ``2 anomalous, 1 absent; 145 frames``."""
        grave = [f"{self.counts[one]} {one}" for one in ExtensionStanding if self.counts[one]]
        failed = [f"{self.failed} failed"] if self.failed else []
        told = [each for each in [*grave, *failed] if not each.endswith(ExtensionStanding.NOMINAL)]
        return f"{', '.join(told) or 'all nominal'}; {counted(self.frames, 'frame')}"

    @property
    def worst(self) -> ExtensionStanding:
        """Return the gravest standing; a file that failed may hide anything."""
        return next(
            (one for one in ExtensionStanding if self.counts[one]), ExtensionStanding.NOMINAL
        )


@dataclass(frozen=True)
class ReportEntry:
    """A night, a week or a month with its files; names without a folder, to be linked to.

    Attributes
    ----------
    title : str
        ``2026-11-19``, ``week to 2026-11-19``.
    last : date
        Its last night.
    html, pdf : str
        Empty where there is none.
    outcome : Outcome or None
        None of a week or a month.
    """

    title: str
    last: date
    html: str
    pdf: str
    outcome: NightOutcome | None = None


@dataclass(frozen=True)
class MonthOfReports:
    """The reports of one month: of all of it, of its weeks, of its nights; the newest first."""

    name: str
    whole: tuple[ReportEntry, ...]
    weeks: tuple[ReportEntry, ...]
    nights: tuple[ReportEntry, ...]


@dataclass(frozen=True)
class ReportIndex:
    """Everything on the index page."""

    generated_at: datetime
    instruments: str
    shelves: tuple[MonthOfReports, ...]


def read_outcome(project: Project, night: date) -> NightOutcome:
    """Return how a night went."""
    with project.reads() as session:
        in_use = db.statistics.instruments_seen(session)
        outcomes = _outcomes(session, night, project.instruments, in_use)
    return outcomes.get(night, NightOutcome(0, 0, Counter()))


def write_index(project: Project, now: datetime) -> Path:
    """Write the page that lists the reports, from the files that are there and the database.

    Files that it does not know are neither listed nor touched.

    Parameters
    ----------
    now : datetime
        Aware; the page shows its age from then on.
    """
    folder = project.settings.reports_folder
    folder.mkdir(parents=True, exist_ok=True)
    with project.reads() as session:
        index = read_index(session, folder, project.instruments, now)
    return write_page(folder / INDEX, rendered("index.html.j2", index=index))


def read_index(
    session: Session, folder: Path, instruments: Sequence[Instrument], now: datetime
) -> ReportIndex:
    """Return what is to be listed: every report, and every night since the first that has one."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    found = [_entry(match, names) for match in map(_NAME.fullmatch, sorted(names)) if match]
    entries = {one.title: one for one in found if one is not None}
    nights = [one.last for one in entries.values() if one.title == str(one.last)]
    in_use = db.statistics.instruments_seen(session)
    if nights:
        outcomes = _outcomes(session, min(nights), instruments, in_use)
        for night in {*nights, *outcomes}:
            entry = entries.get(str(night), ReportEntry(str(night), night, "", ""))
            outcome = outcomes.get(night, NightOutcome(0, 0, Counter()))
            entries[str(night)] = ReportEntry(entry.title, night, entry.html, entry.pdf, outcome)
    return ReportIndex(
        generated_at=now.astimezone(UTC),
        instruments=", ".join(in_use) or ", ".join(one.name for one in instruments),
        shelves=tuple(_shelves(entries.values())),
    )


def _entry(match: re.Match[str], names: set[str]) -> ReportEntry | None:
    """Return what a file is the report of; None if its name only looks like one's."""
    kind, told = match["kind"], match["date"]
    is_month = kind == "month-"
    try:
        day = date.fromisoformat(f"{told}-01" if is_month else told)
    except ValueError:  # a 31st of February, or a night without a day
        return None
    pdf = match[0].removesuffix(".html") + ".pdf"
    title = {"": told, "week-": f"week to {told}", "month-": f"{day:%B %Y}"}[kind]
    last = month_of(day).last if is_month else day
    return ReportEntry(title, last, match[0], pdf if pdf in names else "")


def _shelves(entries: Iterable[ReportEntry]) -> Iterator[MonthOfReports]:
    newest_first = sorted(entries, key=lambda one: one.last, reverse=True)
    for name, group in groupby(newest_first, key=lambda one: f"{one.last:%B %Y}"):
        own = list(group)
        whole = [one for one in own if one.title == name]
        nights = [one for one in own if one.outcome is not None]
        weeks = [one for one in own if one not in whole and one not in nights]
        yield MonthOfReports(name, tuple(whole), tuple(weeks), tuple(nights))


def _outcomes(
    session: Session, first: date, instruments: Sequence[Instrument], in_use: Sequence[str]
) -> dict[date, NightOutcome]:
    """Return how each night went from the first on, of those of which anything is known."""
    counts: dict[date, Counter[ExtensionStanding]] = defaultdict(Counter)
    for night, state, n in _standings(session, first):
        counts[night][state] += n
    absent = (
        select(AlertRow.night, func.count())
        .where(AlertRow.topic == Topic.ABSENCE, AlertRow.night >= first)
        .group_by(AlertRow.night)
    )
    for missed, n in session.execute(absent):
        if missed is not None:
            counts[missed][ExtensionStanding.ABSENT] += n
    frames = db.statistics.frames_by_night(session, first)
    failed = _failed(session, first, instruments, in_use)
    return {
        night: NightOutcome(frames.get(night, 0), failed[night], counts[night])
        for night in {*counts, *frames, *failed}
    }


def _standings(session: Session, first: date) -> Iterator[tuple[date, ExtensionStanding, int]]:
    """Count extensions by night and standing, as `nights.standing` says it, in the database."""
    said = db.labels.standing_labels()
    has_reasons = cast(VerdictRow.reasons, String) != "[]"
    query = (
        select(FrameRow.night, VerdictRow.status, LabelRow.label, has_reasons, func.count())
        .select_from(ExtensionRow)
        .join(ExtensionRow.frame)
        .join(VerdictRow, VerdictRow.id == db.verdicts.newest_verdict_id())
        .outerjoin(said, said.c.extension_id == ExtensionRow.id)
        .outerjoin(LabelRow, LabelRow.id == said.c.label_id)
        .where(FrameRow.night >= first)
        .group_by(FrameRow.night, VerdictRow.status, LabelRow.label, has_reasons)
    )
    for night, status, label, warned, n in session.execute(query):
        if night is not None:  # as it is of a processed frame
            yield night, _standing(Status(status), label, warned), n


def _standing(status: Status, said: str | None, warned: bool) -> ExtensionStanding:
    if said is not None:
        return ExtensionStanding.ANOMALOUS if said == LabelName.BAD else ExtensionStanding.NOMINAL
    if status == Status.NOMINAL and warned:
        return ExtensionStanding.WARNING
    return ExtensionStanding(status.lower())


def _failed(
    session: Session, first: date, instruments: Sequence[Instrument], in_use: Sequence[str]
) -> Counter[date]:
    """Count the files that could not be judged by the night in which they were taken."""
    used = [one for one in instruments if one.name in in_use] or instruments
    hours = timedelta(hours=min(one.night_starts_utc_hour for one in used))
    nights = ((taken_at(row) - hours).date() for row in db.statistics.failed(session))
    return Counter(night for night in nights if night >= first)
