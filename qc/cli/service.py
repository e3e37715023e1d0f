"""Commands for the daemon, the web server and the project's status."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qc._time import utc_now
from qc.cli import options
from qc.cli.options import AsJson, ProjectFolder, app, opened_project, out, print_json

if TYPE_CHECKING:
    from qc.monitoring.health import ProjectHealth
    from qc.monitoring.injection_test import InjectionTest

service_app = options.new_group("Run the daemon; run the injection test.")
app.add_typer(service_app, name="service")
web_app = options.new_group("Serve the review pages.")
app.add_typer(web_app, name="web")


@service_app.command("run")
def run_service(folder: ProjectFolder = Path()) -> None:
    """Run the daemon until SIGTERM."""
    from qc.service.jobs import run_daemon
    from qc.service.logging import start_logging
    from qc.service.systemd import ServiceManager
    from qc.settings import read_settings

    settings = read_settings(folder)
    start_logging(settings.log)
    with opened_project(folder) as project:
        run_daemon(project, ServiceManager(os.environ))


@service_app.command("self-test")
def run_injection_test(
    night: options.Night = None, folder: ProjectFolder = Path(), as_json: AsJson = False
) -> None:
    """Run the injection test of a night.

    Exit code 1: recall below the limit of the instrument file.
    """
    from qc.monitoring import injection_test

    with opened_project(folder) as project, options.progress_bars() as report:
        result = injection_test.run_injection_test(
            project,
            night.date() if night else None,
            utc_now(),
            progress=lambda done, total: report("self-test", done, total),
        )
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        _print_injection_test(result)
    if result.is_below_limit:
        raise typer.Exit(options.ANOMALIES)


def _print_injection_test(result: "InjectionTest") -> None:
    from rich.table import Column, Table

    out.print(f"{result.summary[:1].upper()}{result.summary[1:]}.", soft_wrap=True)
    missed = [trial for trial in result.trials if not trial.is_found]
    if missed:
        table = Table("missed", "strength", "type", Column("frame", no_wrap=True), "score")
        for trial in missed:
            score = f"{trial.score:.2f}"
            table.add_row(trial.kind, trial.strength, trial.image_type, trial.frame, score)
        out.print(table)
    for title, names in [
        ("No time left for", result.untried),
        ("Not applicable to images of this night", result.beyond),
        ("Not counted", result.invisible),
        ("Files missing on disk", result.lost),
    ]:
        if names:
            limit = options.LIST_LIMIT
            more = f" and {len(names) - limit} more" if len(names) > limit else ""
            out.print(f"{title}: {', '.join(names[:limit])}{more}.", soft_wrap=True)
    for drop in result.falls:
        out.print(f"Recall too low since {drop.since}: {drop.sentence}.", soft_wrap=True)


@web_app.command("serve")
def serve(
    host: Annotated[str, typer.Option(help="Address.", show_default="qc.toml's")] = "",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0: any.", show_default="qc.toml's")
    ] = None,
    folder: ProjectFolder = Path(),
) -> None:
    """Serve the review pages."""
    from qc.service.logging import start_logging
    from qc.web import server

    with opened_project(folder) as project:
        start_logging(project.settings.log)
        web = project.settings.web
        server.serve(
            project,
            host or web.host,
            web.port if port is None else port,
            lambda address: out.print(address, soft_wrap=True),
        )


@app.command()
def status(folder: ProjectFolder = Path(), as_json: AsJson = False) -> None:
    """Show stored data, active issues and jobs.

    Exit code 1: at least one active issue.
    """
    from rich.table import Column, Table

    from qc import exports
    from qc.monitoring import health as monitoring

    with opened_project(folder) as project, project.read_session() as session:
        stored = exports.project_status(session)
        health = monitoring.read_health(session, project.settings, utc_now())
    if as_json:
        print_json({**stored, "health": monitoring.health_record(health)})
    else:
        table = Table("", Column(overflow="fold"), show_header=False)
        for name, value in stored.items():
            table.add_row(name.replace("_", " "), options.format_value(value))
        out.print(table)
        _print_health(health)
    if not health.is_well:
        raise typer.Exit(options.ANOMALIES)


def _print_health(health: "ProjectHealth") -> None:
    from rich.table import Column, Table
    from rich.text import Text

    if health.jobs:
        table = Table("job", "last success", "next run", Column("last result", overflow="fold"))
        for job in health.jobs:
            times = (options.format_value(time) for time in (job.last_success, job.next_run))
            table.add_row(job.name, *times, job.summary)
        out.print(table)
    running = (
        f"is running: {health.daemon}"
        if health.is_running
        else "is not running; start: qc service run"
    )
    out.print(f"The daemon {running}.", soft_wrap=True)
    for issue in health.issues:
        out.print(Text("Issue:", "bold red"), issue, soft_wrap=True)
    if health.is_well:
        out.print("No active issues.")
