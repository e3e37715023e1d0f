"""Commands that simulate frames."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from qc.demo import DemoResult
from qc.cli.options import _progress, app, out


class FitsFormat(StrEnum):
    """How simulated frames are written."""

    FITS = "fits"
    FITS_Z = "fits.Z"


class PlanName(StrEnum):
    """What a simulated observatory takes each night."""

    DEMO = "demo"
    FULL = "full"


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
        f"Project: {result.folder.resolve()}\n"
        f"Next:    qc status --project {result.folder}",
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
        PlanName, typer.Option(help="A small 2x2 night, or all that UVES takes.")
    ] = PlanName.DEMO,
) -> None:
    """Write raw UVES frames that never were, and the truth about each in truth.csv."""
    from qc import simulator

    plans = {PlanName.DEMO: simulator.DEMO_PLAN, PlanName.FULL: simulator.FULL_PLAN}
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
