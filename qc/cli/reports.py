"""Commands for reports and the injection test."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from qc._time import utc_now
from qc.errors import InvalidInputError

if TYPE_CHECKING:
    from qc.monitoring.injection_test import InjectionTest
from qc.cli.options import (
    ANOMALIES,
    LISTED,
    AsJson,
    Day,
    ProjectFolder,
    _print_json,
    _progress,
    app,
    err,
    opened_project,
    out,
)


@app.command()
def report(
    night: Day = None,
    week: Annotated[
        bool, typer.Option("--week", help="Of the seven nights that end with that one.")
    ] = False,
    month: Annotated[
        str, typer.Option(metavar="YYYY-MM|last", help="Of a month; last is the last full one.")
    ] = "",
    file: Annotated[Path | None, typer.Option("--out", help="HTML file to write.")] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write a PDF beside it as well.")] = False,
    mail: Annotated[
        bool, typer.Option("--mail", help="Send it to those whose subscription asks for reports.")
    ] = False,
    folder: ProjectFolder = Path(),
) -> None:
    """Write the report of a night, a week or a month as one HTML file; by default the newest."""
    from qc.alerts import report_mail
    from qc.alerts.dispatch import send_unsent
    from qc.reports import publish
    from qc.summaries.period import read_month

    if month and (week or night):
        raise InvalidInputError("give --month alone; --night goes with --week, or alone")
    now = utc_now()
    day = night.date() if night else None
    with opened_project(folder) as project, _progress() as shown:

        def drawn(done: int, total: int) -> None:
            shown("report", done, total)

        if week or month:
            this = read_month(month, now.date()) if month else publish.newest_week(project, day)
            written = publish.publish_span(project, this, now, file=file, pdf=pdf, progress=drawn)
            heard = report_mail.mail_span(project, this, written, now) if mail else 0
        else:
            day = day or publish.newest_week(project, None).last
            written = publish.publish_night(project, day, now, file=file, pdf=pdf, progress=drawn)
            heard = report_mail.mail_night(project, day, written, now) if mail else 0
        sent = send_unsent(project, utc_now()) if heard else None
    out.print(f"Report: {written.html}", soft_wrap=True)
    if written.pdf:
        out.print(f"PDF:    {written.pdf}", soft_wrap=True)
    if mail:
        out.print(f"Mail:   owed to {heard}, {sent.sent if sent else 0} sent now", soft_wrap=True)
        for trouble in sent.troubles if sent else ():
            err.print(trouble, soft_wrap=True)


@app.command("self-test")
def self_test(
    night: Day = None,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Put faults into a night's good images, in memory, and say how many of them are found.

    Exit code 1: fewer than the instrument's file demands, this night and lately.
    """
    from qc.monitoring.injection_test import run_self_test

    with opened_project(folder) as project, _progress() as shown:
        tested = run_self_test(
            project,
            night.date() if night else None,
            utc_now(),
            progress=lambda done, total: shown("self-test", done, total),
        )
    if as_json:
        _print_json(asdict(tested))
    else:
        _print_self_test(tested)
    if tested.is_below_limit:
        raise typer.Exit(ANOMALIES)


def _print_self_test(tested: "InjectionTest") -> None:
    out.print(f"{tested.words[:1].upper()}{tested.words[1:]}.", soft_wrap=True)
    missed = [one for one in tested.trials if not one.is_found]
    if missed:
        table = Table("missed", "strength", "type", Column("frame", no_wrap=True), "score")
        for one in missed:
            score = f"{one.score:.2f}"
            table.add_row(one.kind, one.strength, one.image_type, one.frame, score)
        out.print(table)
    for what, names in [
        ("No time for", tested.untried),
        ("Not to be put into images of this night", tested.beyond),
        ("Not counted", tested.invisible),
        ("No longer on disk", tested.lost),
    ]:
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            out.print(f"{what}: {', '.join(names[:LISTED])}{more}.", soft_wrap=True)
    for fall in tested.falls:
        out.print(f"Too few since {fall.since}: {fall.sentence}.", soft_wrap=True)
