"""Shared options, consoles and exit codes of the command line."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from qc.project import Project

ANOMALIES, MISTAKE = 1, 2


REFUSED = 1  # by 'qc train': kept, but not in use


LISTED = 50  # lines of what has changed


app = typer.Typer(
    help="Find the calibration frame that does not belong with its kind.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


database_app = typer.Typer(help="Make a project, bring its database up to date, or check it.")


app.add_typer(database_app, name="db", no_args_is_help=True)


users_app = typer.Typer(help="Say who may use the review pages, and what they may do there.")


app.add_typer(users_app, name="user", no_args_is_help=True)


# A file may be called [red]x.fits or :smile:.fits; what people named is printed as it is.
out = Console(highlight=False, markup=False, emoji=False)


err = Console(stderr=True, highlight=False, markup=False, emoji=False)


ProjectFolder = Annotated[
    Path,
    typer.Option(
        "--project",
        envvar="QC_PROJECT",
        help="Folder with the settings, the thresholds and the database.",
        show_default="the current folder",
    ),
]


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, not a table.")]


AccountName = Annotated[str, typer.Argument(metavar="NAME", help="Of the account.")]


PasswordFile = Annotated[
    Path | None,
    typer.Option(help="A file with the password, or - for standard input; otherwise it is asked."),
]


Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])]


def _in_lines(value: Any) -> str:
    """Write a value as a person would: a count or an item a line, four digits of a number."""
    if isinstance(value, Mapping):
        value = [f"{count:6d} {name}" for name, count in value.items()]
    if isinstance(value, list):
        return "\n".join(value) or "none"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UT"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none yet" if value is None else str(value)


@contextmanager
def opened_project(folder: Path) -> "Iterator[Project]":
    from qc.project import open_project
    from qc.settings import read_settings

    with open_project(read_settings(folder)) as project:
        yield project


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each kind of work, on the error stream; a line where that is no terminal."""
    columns = (
        TextColumn("{task.description:22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
                if not err.is_terminal:
                    err.print(f"{what} ({total})")
            bars.update(tasks[what], completed=done, total=total)

        yield report


def _print_json(document: Any) -> None:
    print(json.dumps(document, default=str, indent=1))  # noqa: T201 - rich would wrap it
