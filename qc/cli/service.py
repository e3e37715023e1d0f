"""Commands for the daemon, the server and alerts."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from qc._text import counted
from qc._time import utc_now

if TYPE_CHECKING:
    from qc.monitoring.health import ProjectHealth
from qc.cli.options import (
    ANOMALIES,
    LISTED,
    AsJson,
    ProjectFolder,
    _in_lines,
    _print_json,
    app,
    opened_project,
    out,
)


@app.command()
def run(folder: ProjectFolder = Path()) -> None:
    """Keep watch: take in new frames, tell people, write reports; until it is told to end."""
    from qc.service.jobs import run_daemon
    from qc.service.logging import start_logging
    from qc.service.systemd import ServiceManager
    from qc.settings import read_settings

    settings = read_settings(folder)
    start_logging(settings.log)
    with opened_project(folder) as project:
        run_daemon(project, ServiceManager(os.environ))


@app.command()
def alerts(
    every: Annotated[bool, typer.Option("--all", help="The answered ones too.")] = False,
    test_mail: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Send a test mail now; say what the server answers."),
    ] = None,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Say what people were told and have not answered, who was told, and what is owed.

    Exit code 1: something is open.
    """
    from qc.alerts.notifications import alerts_record

    if test_mail is not None:
        _send_test(folder, test_mail)
        return
    with opened_project(folder) as project, project.reads() as session:
        record = alerts_record(session, every=every)
    if as_json:
        _print_json(record)
    else:
        _print_alerts(record)
    if record["open"]:
        raise typer.Exit(ANOMALIES)


def _send_test(folder: Path, address: str) -> None:
    from qc.alerts.dispatch import send_test
    from qc.settings import read_settings

    settings = read_settings(folder)
    answer = send_test(settings.mail, settings.project, address, utc_now())
    out.print(f"{settings.mail.host} took the mail for {address}: {answer}", soft_wrap=True)


def _print_alerts(record: dict[str, Any]) -> None:
    table = Table("No.", "made (UT)", Column("what", overflow="fold"), "told", "answered")
    for one in record["notices"][-LISTED:]:
        said = [f"{each['who']}: {each['note']}".rstrip(": ") for each in one["acknowledged"]]
        table.add_row(
            str(one["number"]),
            f"{one['made_at']:%Y-%m-%d %H:%M}",
            one["subject"].removeprefix("[QC] "),
            "\n".join(_delivery_words(each) for each in one["deliveries"]) or "nobody",
            Text("open", "bold red") if one["open"] else "\n".join(said),
        )
    if table.row_count:
        out.print(table)
    if len(record["notices"]) > LISTED:
        out.print(f"and {len(record['notices']) - LISTED} older ones; --json lists all")
    for one in record["silences"]:
        out.print(_silence_words(one), soft_wrap=True)
    out.print(f"{record['open']} open, {counted(record['waiting'], 'alert')} waiting to be told")


def _delivery_words(delivery: dict[str, Any]) -> str:
    address = delivery["address"]
    if delivery["sent_at"]:
        return f"{address} {delivery['sent_at']:%m-%d %H:%M}"
    if delivery["gave_up_at"]:
        return f"{address}: given up: {delivery['trouble']}"
    if delivery["tries"]:
        return f"{address}: owed, tried {counted(delivery['tries'], 'time')}: {delivery['trouble']}"
    return f"{address}: owed"


def _silence_words(one: dict[str, Any]) -> str:
    about = " ".join([one["topic"], one["instrument"] or "", *one["image_types"]])
    ends = [f"until {one['until']:%Y-%m-%d %H:%M} UT"] if one["until"] else []
    ends += ["until the next nominal frame"] if one["until_nominal"] else []
    over = (
        f"; ended {one['ended_at']:%Y-%m-%d %H:%M}: {one['ended_why']}" if one["ended_at"] else ""
    )
    note = f": {one['note']}" if one["note"] else ""
    return f"Silence {one['number']}: {about} {' or '.join(ends)}, says {one['who']}{note}{over}"


@app.command()
def ack(
    numbers: Annotated[list[int], typer.Argument(help="Numbers of notices, see 'qc alerts'.")],
    span: Annotated[
        str | None, typer.Option("--for", help="No more mail of the like: 30m, 12h, 7d.")
    ] = None,
    until_nominal: Annotated[
        bool, typer.Option("--until-nominal", help="No more of the like until a frame is nominal.")
    ] = False,
    note: Annotated[str, typer.Option(help="What it is.")] = "",
    who: Annotated[str, typer.Option(help="Who says it.", show_default="you")] = "",
    folder: ProjectFolder = Path(),
) -> None:
    """Say that a notice has been seen: nobody else is told; and silence its like, if asked."""
    from qc._text import read_span
    from qc.alerts import notifications
    from qc.db.engine import user

    now = utc_now()
    until = now + read_span(span) if span is not None else None
    with opened_project(folder) as project, project.writes.begin() as session:
        for number in numbers:
            notifications.acknowledge(session, number, who or user(), now, note)
            if until is not None or until_nominal:
                notifications.silence(
                    session, number, until, until_nominal, who or user(), now, note
                )
    ends = [f"until {until:%Y-%m-%d %H:%M} UT"] if until else []
    ends += ["until the next nominal frame"] if until_nominal else []
    silent = f"; no mail of the like {' or '.join(ends)}" if ends else ""
    seen = ", ".join(map(str, numbers))
    out.print(f"Acknowledged: {seen}{silent}.", soft_wrap=True)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address.", show_default="qc.toml's")] = "",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0: any.", show_default="qc.toml's")
    ] = None,
    folder: ProjectFolder = Path(),
) -> None:
    """Serve the review pages to a browser; on this machine alone until 'qc user' adds somebody."""
    from qc.service.logging import start_logging
    from qc.web.server import serve as serve_pages

    with opened_project(folder) as project:
        start_logging(project.settings.log)
        web = project.settings.web
        serve_pages(
            project,
            host or web.host,
            web.port if port is None else port,
            lambda address: out.print(address, soft_wrap=True),
        )


@app.command()
def status(folder: ProjectFolder = Path(), as_json: AsJson = False) -> None:
    """Say whether all is well: what is stored, what failed, what is owed, how the daemon does.

    Exit code 1: something is not well.
    """
    from qc.exports import project_status
    from qc.monitoring.health import health_record, read_health

    with opened_project(folder) as project, project.reads() as session:
        found = project_status(session)
        health = read_health(session, project.settings, utc_now())
    if as_json:
        _print_json({**found, "health": health_record(health)})
    else:
        table = Table("", Column(overflow="fold"), show_header=False)
        for name, value in found.items():
            table.add_row(name.replace("_", " "), _in_lines(value))
        out.print(table)
        _print_health(health)
    if not health.is_well:
        raise typer.Exit(ANOMALIES)


def _print_health(health: "ProjectHealth") -> None:
    if health.jobs:
        table = Table("job", "last success", "next run", Column("newest", overflow="fold"))
        for job in health.jobs:
            moments = (_in_lines(at) for at in (job.last_success, job.next_run))
            table.add_row(job.name, *moments, job.words)
        out.print(table)
    running = f"runs: {health.daemon}" if health.is_running else "does not run; 'qc run' starts it"
    out.print(f"The daemon {running}.", soft_wrap=True)
    for trouble in health.troubles:
        out.print(Text("Trouble:", "bold red"), trouble, soft_wrap=True)
    if health.is_well:
        out.print("All is well.")
