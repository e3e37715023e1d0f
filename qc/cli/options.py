"""Shared options, consoles, exit codes and the application of the command line."""

import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from qc.project import ProjectContext

ANOMALIES = 1  # exit code: anomalies found, an open alert, a refused classifier
ERROR = 2  # exit code: wrong usage or configuration, reported in one line
LIST_LIMIT = 50  # lines of a list before "and N more"

_HELP_NAMES = {"help_option_names": ["-h", "--help"]}


def new_group(text: str, *, shows_help: bool = True) -> typer.Typer:
    """Return a group of commands with a help text.

    Parameters
    ----------
    text : str
        Help text.
    shows_help : bool
        Without a command, print the help; else run the callback of the group.

    Returns
    -------
    Typer
    """
    return typer.Typer(help=text, no_args_is_help=shows_help, context_settings=_HELP_NAMES)


app = typer.Typer(
    help="Detect anomalies in the calibration frames of UVES.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=_HELP_NAMES,
)

# File names such as [red]x.fits or :smile:.fits are printed unchanged.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

ProjectFolder = Annotated[
    Path,
    typer.Option(
        "--project",
        envvar="QC_PROJECT",
        help="Project folder: settings, thresholds, database.",
        show_default="current folder",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Author = Annotated[str, typer.Option("--by", help="Author.", show_default="user name")]
Note = Annotated[str, typer.Option("--note", help="Free text.")]
FrameName = Annotated[str, typer.Argument(help="Archive name, file name or path.")]
FirstNight = Annotated[
    dt.datetime | None, typer.Option("--since", formats=["%Y-%m-%d"], help="First night.")
]
LastNight = Annotated[
    dt.datetime | None, typer.Option("--until", formats=["%Y-%m-%d"], help="Last night.")
]
Night = Annotated[
    dt.datetime | None, typer.Option("--night", formats=["%Y-%m-%d"], help="Night, YYYY-MM-DD.")
]


def day_of(moment: dt.datetime | None, default: dt.date) -> dt.date:
    """Return the date of an option that holds a date, or `default` where it is absent.

    Parameters
    ----------
    moment : datetime or None
        Value of the option.
    default : date
        Result without the option.

    Returns
    -------
    date
    """
    return moment.date() if moment else default


@contextmanager
def opened_project(folder: Path) -> "Iterator[ProjectContext]":
    """Open the project in `folder` for one command and close it."""
    from qc.project import open_project
    from qc.settings import read_settings

    with open_project(read_settings(folder)) as project:
        yield project


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show one progress bar per task on stderr; one line per task without a terminal."""
    from rich import progress

    columns = (
        progress.TextColumn("{task.description:22}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with progress.Progress(*columns, console=err, disable=not err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def report(task: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total)
                if not err.is_terminal:
                    err.print(f"{task} ({total})")
            bars.update(tasks[task], completed=done, total=total)

        yield report


def print_json(document: Any) -> None:
    """Print a JSON document on stdout; dates and paths become strings."""
    print(json.dumps(document, default=str, indent=1))  # noqa: T201 - rich would wrap the lines


def format_value(value: Any) -> str:
    """Format a value of a record for a table cell: four digits, one item per line."""
    if isinstance(value, Mapping):
        value = [f"{count:6d} {name}" for name, count in value.items()]
    if isinstance(value, list):
        return "\n".join(value) or "none"
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M} UT"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none yet" if value is None else str(value)
