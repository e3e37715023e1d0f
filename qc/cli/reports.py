"""Commands for reports: night, week, month and frame."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qc._time import utc_now
from qc.cli import options
from qc.cli.options import AsJson, ProjectFolder, err, opened_project, out, print_json
from qc.errors import InvalidInputError

if TYPE_CHECKING:
    from qc.project import ProjectContext
    from qc.reports.publish import PublishedReport
    from qc.summaries.night_range import NightRange

report_app = options.new_group("Write reports as HTML, PDF or mail.", shows_help=False)
options.app.add_typer(report_app, name="report")

OutFile = Annotated[Path | None, typer.Option("--out", help="HTML file to write.")]
Pdf = Annotated[bool, typer.Option("--pdf", help="Write a PDF as well.")]
Mail = Annotated[bool, typer.Option("--mail", help="Send it to the subscribers.")]


@report_app.callback(invoke_without_command=True)
def report(
    context: typer.Context,
    night: Annotated[dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], hidden=True)] = None,
    week: Annotated[bool, typer.Option("--week", hidden=True)] = False,
    month: Annotated[str, typer.Option(hidden=True)] = "",
    file: Annotated[Path | None, typer.Option("--out", hidden=True)] = None,
    pdf: Annotated[bool, typer.Option("--pdf", hidden=True)] = False,
    mail: Annotated[bool, typer.Option("--mail", hidden=True)] = False,
    folder: ProjectFolder = Path(),
) -> None:
    """Write reports as HTML, PDF or mail."""
    if context.invoked_subcommand is not None:
        return
    if month and (week or night):
        raise InvalidInputError("give --month alone; --night goes with --week, or alone")
    if month:
        report_month(month, file, pdf, mail, folder)
    elif week:
        report_week(night, file, pdf, mail, folder)
    else:
        report_night(night, file, pdf, mail, folder)


@report_app.command("night")
def report_night(
    night: options.Night = None,
    file: OutFile = None,
    pdf: Pdf = False,
    mail: Mail = False,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Write the report of a night; default: newest."""
    from qc.alerts import report_mail
    from qc.reports import publish

    now = utc_now()
    with opened_project(folder) as project, options.progress_bars() as bars:
        day = night.date() if night else publish.newest_week(project, None).last
        written = publish.publish_night(
            project, day, now, file=file, pdf=pdf, progress=lambda n, m: bars("report", n, m)
        )
        subscribers = report_mail.mail_night(project, day, written, now) if mail else 0
        _finish(project, written, subscribers if mail else None, as_json)


@report_app.command("week")
def report_week(
    night: Annotated[
        dt.datetime | None, typer.Option("--night", formats=["%Y-%m-%d"], help="Last night.")
    ] = None,
    file: OutFile = None,
    pdf: Pdf = False,
    mail: Mail = False,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Write the report of seven nights."""
    from qc.reports import publish

    with opened_project(folder) as project:
        nights = publish.newest_week(project, night.date() if night else None)
    _report_nights(nights, file, pdf, mail, folder, as_json)


@report_app.command("month")
def report_month(
    month: Annotated[
        str, typer.Argument(metavar="[YYYY-MM|last]", help="Month; default: last full month.")
    ] = "last",
    file: OutFile = None,
    pdf: Pdf = False,
    mail: Mail = False,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Write the report of a month."""
    from qc.summaries.night_range import read_month

    nights = read_month(month, utc_now().date())
    _report_nights(nights, file, pdf, mail, folder, as_json)


def _report_nights(
    nights: "NightRange", file: Path | None, pdf: bool, mail: bool, folder: Path, as_json: bool
) -> None:
    from qc.alerts import report_mail
    from qc.reports import publish

    now = utc_now()
    with opened_project(folder) as project, options.progress_bars() as bars:
        written = publish.publish_span(
            project, nights, now, file=file, pdf=pdf, progress=lambda n, m: bars("report", n, m)
        )
        subscribers = report_mail.mail_span(project, nights, written, now) if mail else 0
        _finish(project, written, subscribers if mail else None, as_json)


def _finish(
    project: "ProjectContext", written: "PublishedReport", subscribers: int | None, as_json: bool
) -> None:
    """Send a report to its subscribers and print the paths; None: no mail requested."""
    from qc.alerts.dispatch import send_unsent

    sent = send_unsent(project, utc_now()) if subscribers else None
    if as_json:
        mail = {"subscribers": subscribers, "sent": sent.sent if sent else 0}
        print_json(
            {
                "html": written.html,
                "pdf": written.pdf,
                "mail": None if subscribers is None else mail,
            }
        )
    else:
        out.print(f"Report: {written.html}", soft_wrap=True)
        if written.pdf:
            out.print(f"PDF:    {written.pdf}", soft_wrap=True)
        if subscribers is not None:
            count = sent.sent if sent else 0
            out.print(f"Mail:   {subscribers} queued, {count} sent", soft_wrap=True)
    for issue in sent.problems if sent else ():
        err.print(issue, soft_wrap=True)


@report_app.command("frame")
def report_frame(frame: options.FrameName, folder: ProjectFolder = Path()) -> None:
    """Write the page of a frame."""
    from qc.reports.frame import write_frame_page

    with opened_project(folder) as project:
        page = write_frame_page(project, frame)
    out.print(f"Page: {page}", soft_wrap=True)
