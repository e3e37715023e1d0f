"""The command line: parse, call one function, print, exit code.

Exit codes: 0 nominal, 1 anomalies found, 2 a mistake, said in one line.

Imports stand inside the commands: ``qc --help`` answers at once, though what the commands need
takes seconds to load.
"""

import json
import logging
import os
import sys
import traceback
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from qc.choices import Format, What

if TYPE_CHECKING:
    from qc.demo import DemoResult
    from qc.pipeline import Outcome
    from qc.runtime import Runtime

ANOMALIES, MISTAKE = 1, 2

app = typer.Typer(
    help="Find the calibration frame that does not belong with its kind.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
db = typer.Typer(help="Make a project, bring its database up to date, or check it.")
app.add_typer(db, name="db", no_args_is_help=True)

# A file may be called [red]x.fits or :smile:.fits; what people named is printed as it is.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

Project = Annotated[
    Path,
    typer.Option(
        "--project",
        envvar="QC_PROJECT",
        help="Folder with the settings, the thresholds and the database.",
        show_default="the current folder",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, not a table.")]
Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])]


class FitsFormat(StrEnum):
    """How simulated frames are written."""

    FITS = "fits"
    FITS_Z = "fits.Z"


class SimulatedPlan(StrEnum):
    """What a simulated observatory takes each night."""

    DEMO = "demo"
    FULL = "full"


class Certified(StrEnum):
    """What a person has already said of all the frames given."""

    GOOD = "good"


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="A new folder to make.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Another seed, another night.")] = 1,
) -> None:
    """Simulate a history and a night with faults, judge them, and write the report."""
    from qc.demo import create_demo

    with _progress() as report:
        result = create_demo(folder, seed=seed, progress=report)
    out.print(_demo_table(result))
    out.print(
        f"{result.nominal} extensions without a fault, {result.false_alarms} of them flagged.\n"
        f"\nReport:  {result.report}\n"
        f"Project: {result.project.resolve()}\n"
        f"Next:    qc status --project {result.project}",
        soft_wrap=True,
    )


def _demo_table(result: "DemoResult") -> Table:
    table = Table(title=f"Faults of the night {result.night}, found and missed")
    for name in ("fault", "strength", "image types"):
        table.add_column(name)
    table.add_column("extensions", justify="right")
    table.add_column("found", justify="right")
    for row in result.found:
        style = "" if row.noticed == row.extensions else "bold red"
        table.add_row(
            row.fault,
            row.strength,
            " ".join(row.image_types),
            str(row.extensions),
            Text(str(row.noticed), style),
        )
    table.add_section()
    extensions = sum(row.extensions for row in result.found)
    table.add_row("all", "", "", str(extensions), str(sum(row.noticed for row in result.found)))
    return table


@app.command()
def simulate(
    folder: Annotated[Path, typer.Option("--out", help="Where the nights are written.")],
    nights: Annotated[int, typer.Option(min=1, help="Consecutive nights.")] = 1,
    first: Annotated[
        datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="Date of the first evening.")
    ] = datetime(2026, 7, 1),  # noqa: DTZ001 - a date
    faults: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the frames that carry a fault.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    fits_format: Annotated[FitsFormat, typer.Option("--format")] = FitsFormat.FITS,
    plan: Annotated[
        SimulatedPlan, typer.Option(help="A small 2x2 night, or all that UVES takes.")
    ] = SimulatedPlan.DEMO,
) -> None:
    """Write raw UVES frames that never were, and the truth about each in truth.csv."""
    from qc import simulator

    plans = {SimulatedPlan.DEMO: simulator.DEMO_PLAN, SimulatedPlan.FULL: simulator.FULL_PLAN}
    with _progress() as report:
        paths = simulator.simulate(
            folder,
            nights=nights,
            start=first.date(),
            faults=faults,
            seed=seed,
            compressed=fits_format is FitsFormat.FITS_Z,
            plan=plans[plan],
            progress=lambda done, total: report("simulate", done, total),
        )
    out.print(f"{len(paths)} frames and truth.csv in {folder}", soft_wrap=True)


@app.command()
def process(
    paths: Annotated[
        list[Path], typer.Argument(help="FITS files (.fits, .Z, .gz, .bz2, .fz), or folders.")
    ],
    label: Annotated[
        Certified | None, typer.Option(help="Take all of them as certified references.")
    ] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Read, embed, judge and record frames; those already known cost nothing."""
    from qc.database import LabelName
    from qc.pipeline import find_frames, process_frames

    files = find_frames(paths)
    with _runtime(project) as runtime, _progress() as report:
        outcomes = []
        for outcome in process_frames(files, runtime, LabelName(label) if label else None):
            outcomes.append(outcome)
            report("process", len(outcomes), len(files))
    if as_json:
        _print_json([record for outcome in outcomes for record in _outcome_records(outcome)])
    else:
        _print_outcomes(outcomes)
    if any(outcome.is_anomalous for outcome in outcomes):
        raise typer.Exit(ANOMALIES)


def _outcome_records(outcome: "Outcome") -> list[dict[str, Any]]:
    file = {"file": outcome.path.name, "path": str(outcome.path), "state": outcome.state}
    if not outcome.judged:
        return [{**file, "reason": outcome.reason}]
    return [
        {
            **file,
            "extension": judged.measured.number,
            "image_type": judged.measured.setup.image_type,
            "status": judged.verdict.status,
            "score": judged.verdict.score,
            "merge_height": judged.evidence.merge_height,
            "threshold": judged.highest_merge,
            "reasons": judged.verdict.reasons,
        }
        for judged in outcome.judged
    ]


def _print_outcomes(outcomes: "list[Outcome]") -> None:
    file = Column("file", overflow="fold")
    table = Table(file, "ext", "type", "status", "score", "first reason")
    for outcome in outcomes:
        if not outcome.judged and outcome.reason:
            reason = outcome.reason.removeprefix(f"{outcome.path}: ")
            table.add_row(outcome.path.name, "", "", str(outcome.state), "", reason)
        for judged in outcome.judged:
            if judged.verdict.status == "ANOMALOUS":
                table.add_row(
                    outcome.path.name,
                    str(judged.measured.number),
                    judged.measured.setup.image_type,
                    Text("ANOMALOUS", "bold red"),
                    f"{judged.verdict.score:.1f}",
                    judged.verdict.reasons[0],
                )
    if table.row_count:
        out.print(table)
    out.print(_count_words(outcomes))


def _count_words(outcomes: "list[Outcome]") -> str:
    verdicts = Counter(str(each.verdict.status) for one in outcomes for each in one.judged)
    states = Counter(str(outcome.state) for outcome in outcomes)
    counts = [f"{states[name]} {name}" for name in sorted(states)]
    counts += [f"{verdicts[name]} {name}" for name in sorted(verdicts)]
    return f"{len(outcomes)} files: " + ", ".join(counts or ["none"])


@app.command()
def show(
    frame: Annotated[str, typer.Argument(help="Archive name, file name or path.")],
    project: Project = Path(),
    as_json: AsJson = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Write its page with pictures, and open it.")
    ] = False,
) -> None:
    """Tell all that is known of one frame: evidence, verdict, nearest reference."""
    from qc.exports import frame_records
    from qc.reports import write_frame_page

    with _runtime(project) as runtime:
        with runtime.reads() as session:
            records = frame_records(session, frame)
        page = write_frame_page(runtime, frame) if open_page else None
    if as_json:
        _print_json(records)
    else:
        for record in records:
            out.print(_show_table(record))
    if page:
        (err if as_json else out).print(f"Page: {page}", soft_wrap=True)
        webbrowser.open(page.as_uri())  # where there is none, the path has been said
    if any(record["status"] == "ANOMALOUS" for record in records):
        raise typer.Exit(ANOMALIES)


def _show_table(record: dict[str, Any]) -> Table:
    from qc.judge import sample_words

    title = f"{record['file']} extension {record['extension']}"
    table = Table("", Column(overflow="fold"), title=title, show_header=False)
    metrics = record["metrics"]
    for name, value in record.items():
        if value not in (None, "", metrics):
            said = sample_words(value) if name == "reference_size" else _in_lines(value)
            table.add_row(name.replace("_", " "), said)
    table.add_section()
    for name, metric in metrics.items():
        z = "" if metric["z"] is None else f"   {metric['z']:+.1f} sigma"
        table.add_row(name.replace("_", " "), f"{metric['value']:.5g}{z}")
    return table


@app.command()
def report(
    night: Day = None,
    file: Annotated[Path | None, typer.Option("--out", help="HTML file to write.")] = None,
    project: Project = Path(),
) -> None:
    """Write the spot-check report of a night as one HTML file; the newest night by default."""
    from qc.reports import write_report

    with _runtime(project) as runtime, _progress() as shown:
        day = night.date() if night else None
        written = write_report(
            runtime,
            day,
            datetime.now(UTC),
            file,
            progress=lambda done, total: shown("report", done, total),
        )
    out.print(f"Report: {written}", soft_wrap=True)


@app.command()
def export(
    what: Annotated[What, typer.Argument(help="Which table.")],
    since: Day = None,
    table_format: Annotated[Format, typer.Option("--format")] = Format.CSV,
    file: Annotated[Path | None, typer.Option("--out", help="File; else to the screen.")] = None,
    project: Project = Path(),
) -> None:
    """Write what is stored as a table: one row for each extension, with its newest verdict."""
    from qc import exports

    with _runtime(project) as runtime, runtime.reads() as session:
        table = exports.read_table(session, what, since.date() if since else None)
    if file is None:
        exports.write_table(table, table_format, sys.stdout.buffer)
    else:
        exports.write_table_file(table, table_format, file)
        err.print(f"{len(table)} rows in {file}", soft_wrap=True)


@app.command()
def status(project: Project = Path(), as_json: AsJson = False) -> None:
    """Say what is stored, what failed, what is owed, and what ran last."""
    from qc.exports import project_status

    with _runtime(project) as runtime, runtime.reads() as session:
        found = project_status(session)
    if as_json:
        _print_json(found)
        return
    table = Table("", Column(overflow="fold"), show_header=False)
    for name, value in found.items():
        table.add_row(name.replace("_", " "), _in_lines(value))
    out.print(table)


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


@db.command("upgrade")
def db_upgrade(project: Project = Path()) -> None:
    """Make a project, or bring its database to this version's schema; nothing is lost."""
    from qc.runtime import create_project

    create_project(project)
    out.print(f"{project.resolve()}: settings, thresholds and database are there", soft_wrap=True)


@db.command("check")
def db_check(project: Project = Path()) -> None:
    """Say whether the database is at this version's schema and intact."""
    from qc.database import connect
    from qc.runtime import read_settings
    from qc.schema import check_integrity

    engine = connect(read_settings(project).database_url)
    try:
        check_integrity(engine)
    finally:
        engine.dispose()
    out.print("The database is at this version's schema and intact.")


@contextmanager
def _runtime(project: Path) -> "Iterator[Runtime]":
    from qc.runtime import open_runtime, read_settings

    with open_runtime(read_settings(project)) as runtime:
        yield runtime


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


def main() -> None:
    """Run the command; end a mistake in one line, and a bug in full. Neither is exit code 1."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's greetings are no news
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except Exception as error:  # noqa: BLE001 - told in full, unless it is a mistake
        mistake = _mistake(error)
        if mistake:
            err.print(Text("qc:", "bold red"), mistake, soft_wrap=True)
        else:
            traceback.print_exc()
        sys.exit(MISTAKE)


def _mistake(error: Exception) -> str:
    """Say in one line what is the user's or the machine's to mend; nothing of a bug."""
    from sqlalchemy.exc import OperationalError

    from embeddings.encoder import WeightsError
    from qc.errors import QCError

    if isinstance(error, OperationalError):  # a full disk, a lock held for a minute
        error = ConnectionError(f"the database: {error.orig}")
    known = isinstance(error, QCError | WeightsError | OSError)
    return " ".join(str(error).split()) if known else ""
