"""Commands for alerts: list, acknowledge, silence and test."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer

from qc._text import pluralise
from qc._time import utc_now
from qc.cli import options
from qc.cli.options import AsJson, Author, Note, ProjectFolder, opened_project, out, print_json
from qc.errors import InvalidInputError

alerts_app = options.new_group("List, acknowledge, silence and test alerts.", shows_help=False)
options.app.add_typer(alerts_app, name="alerts")

Numbers = Annotated[list[int], typer.Argument(help="Numbers in 'qc alerts list'.")]
Duration = Annotated[str | None, typer.Option("--for", help="Silence for 30m, 12h or 7d.")]
UntilNominal = Annotated[
    bool, typer.Option("--until-nominal", help="Silence until the next nominal frame.")
]
All = Annotated[bool, typer.Option("--all", help="Include acknowledged alerts.")]


@alerts_app.callback(invoke_without_command=True)
def alerts(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", hidden=True)] = False,
    address: Annotated[str | None, typer.Option("--test-mail", hidden=True)] = None,
    folder: ProjectFolder = Path(),
    as_json: Annotated[bool, typer.Option("--json", hidden=True)] = False,
) -> None:
    """List, acknowledge, silence and test alerts."""
    if context.invoked_subcommand is not None:
        return
    if address is not None:
        send_test_mail(address, folder)
    else:
        list_alerts(every, folder, as_json)


@alerts_app.command("list")
def list_alerts(
    every: All = False, folder: ProjectFolder = Path(), as_json: AsJson = False
) -> None:
    """List open alerts.

    Exit code 1: at least one alert is open.
    """
    from qc.alerts import notifications

    with opened_project(folder) as project, project.read_session() as session:
        record = notifications.alerts_record(session, every=every)
    if as_json:
        print_json(record)
    else:
        _print_alerts(record)
    if record["open"]:
        raise typer.Exit(options.ANOMALIES)


def _print_alerts(record: dict[str, Any]) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    subject = Column("subject", overflow="fold")
    table = Table("No.", "created (UT)", subject, "deliveries", "acknowledged")
    notifications = record["notices"]
    for notification in notifications[-options.LIST_LIMIT :]:
        remarks = [
            f"{ack['who']}: {ack['note']}".rstrip(": ") for ack in notification["acknowledged"]
        ]
        deliveries = [_delivery_text(delivery) for delivery in notification["deliveries"]]
        table.add_row(
            str(notification["number"]),
            f"{notification['made_at']:%Y-%m-%d %H:%M}",
            notification["subject"].removeprefix("[QC] "),
            "\n".join(deliveries) or "no recipient",
            Text("open", "bold red") if notification["open"] else "\n".join(remarks),
        )
    if table.row_count:
        out.print(table)
    if len(notifications) > options.LIST_LIMIT:
        out.print(f"and {len(notifications) - options.LIST_LIMIT} older ones; --json lists all")
    for silence in record["silences"]:
        out.print(_silence_text(silence), soft_wrap=True)
    out.print(f"{record['open']} open, {pluralise(record['waiting'], 'alert')} pending")


def _delivery_text(delivery: dict[str, Any]) -> str:
    address = delivery["address"]
    if delivery["sent_at"]:
        return f"{address} {delivery['sent_at']:%m-%d %H:%M}"
    if delivery["gave_up_at"]:
        return f"{address}: abandoned: {delivery['trouble']}"
    if delivery["tries"]:
        attempts = pluralise(delivery["tries"], "attempt")
        return f"{address}: pending, {attempts}: {delivery['trouble']}"
    return f"{address}: pending"


def _silence_text(silence: dict[str, Any]) -> str:
    scope = " ".join([silence["topic"], silence["instrument"] or "", *silence["image_types"]])
    ends = _silence_end(silence["until"], silence["until_nominal"])
    ended = ""
    if silence["ended_at"]:
        ended = f"; ended {silence['ended_at']:%Y-%m-%d %H:%M}: {silence['ended_why']}"
    note = f": {silence['note']}" if silence["note"] else ""
    return f"Silence {silence['number']}: {scope} {ends}, by {silence['who']}{note}{ended}"


def _silence_end(until: dt.datetime | None, until_nominal: bool) -> str:
    ends = [f"until {until:%Y-%m-%d %H:%M} UT"] if until else []
    return " or ".join(ends + ["until the next nominal frame"] * until_nominal)


@alerts_app.command("ack")
def acknowledge(
    numbers: Numbers,
    duration: Duration = None,
    until_nominal: UntilNominal = False,
    note: Note = "",
    author: Author = "",
    folder: ProjectFolder = Path(),
) -> None:
    """Acknowledge an alert; optionally silence similar ones."""
    end = _store(numbers, True, duration, until_nominal, note, author, folder)
    silence = f"; similar alerts are silenced {end}" if end else ""
    out.print(f"Acknowledged: {', '.join(map(str, numbers))}{silence}.", soft_wrap=True)


@alerts_app.command("silence")
def silence(
    numbers: Numbers,
    duration: Duration = None,
    until_nominal: UntilNominal = False,
    note: Note = "",
    author: Author = "",
    folder: ProjectFolder = Path(),
) -> None:
    """Silence alerts similar to one."""
    if duration is None and not until_nominal:
        raise InvalidInputError("give --for DURATION, e.g. --for 7d, or --until-nominal")
    end = _store(numbers, False, duration, until_nominal, note, author, folder)
    out.print(
        f"Alerts similar to {', '.join(map(str, numbers))} are silenced {end}.", soft_wrap=True
    )


def _store(
    numbers: list[int],
    is_acknowledged: bool,
    duration: str | None,
    until_nominal: bool,
    note: str,
    author: str,
    folder: Path,
) -> str:
    """Store acknowledgements and silences; return the end of the silence as text."""
    from qc import db
    from qc._text import parse_duration
    from qc.alerts import notifications, silences

    now = utc_now()
    author = author or db.schema.engine.user_name()
    until = now + parse_duration(duration) if duration is not None else None
    with opened_project(folder) as project, project.write_session.begin() as session:
        for number in numbers:
            if is_acknowledged:
                notifications.acknowledge(session, number, author, now, note)
            if until is not None or until_nominal:
                silences.silence(session, number, until, until_nominal, author, now, note)
    return _silence_end(until, until_nominal)


@alerts_app.command("test")
def send_test_mail(
    address: Annotated[str, typer.Argument(help="Recipient.")], folder: ProjectFolder = Path()
) -> None:
    """Send a test mail; print the server's reply."""
    from qc.alerts.dispatch import send_test
    from qc.settings import read_settings

    settings = read_settings(folder)
    reply = send_test(settings.mail, settings.project, address, utc_now())
    out.print(f"{settings.mail.host} accepted the mail for {address}: {reply}", soft_wrap=True)
