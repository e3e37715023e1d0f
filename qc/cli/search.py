"""Commands for similarity search and export."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from qc._text import counted
from qc.core.enums import ExportFormat, ExportTable

if TYPE_CHECKING:
    from qc.search.similar import SimilarFrames
from qc.cli.options import (
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
def similar(  # noqa: PLR0913, PLR0917 - each is one word of a sentence
    frame: Annotated[
        str, typer.Argument(help="Archive name, file name or path; a new file is only read.")
    ],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many.")] = 10,
    image_type: Annotated[
        str | None,
        typer.Option(
            "--type", help="Among which: an image type, a pattern, or 'any'; its own by default."
        ),
    ] = None,
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Only what a person has spoken about.")
    ] = False,
    extension: Annotated[int | None, typer.Option(help="Only this HDU.")] = None,
    since: Day = None,
    until: Day = None,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Find the frames of the whole history that look most like one, and what was said of them."""
    from qc.search import similar as history
    from qc.search.nearest import FEW_NEWER, refresh_index

    with opened_project(folder) as project:
        with _progress() as report:
            refresh_index(project, report, few=FEW_NEWER)
        found = history.similar(
            project,
            frame,
            k,
            image_type=image_type,
            labelled=labelled,
            extension=extension,
            first=since.date() if since else None,
            last=until.date() if until else None,
        )
    if as_json:
        _print_json([asdict(one) for one in found])
        return
    for one in found:
        for sentence in one.sentences():
            out.print(sentence, soft_wrap=True)
        if one.neighbours:
            out.print(_likeness_table(one))


def _likeness_table(likeness: "SimilarFrames") -> Table:
    columns = [Column("distance (thresholds)", justify="right")]
    columns += [Column("frame", no_wrap=True), Column("night", no_wrap=True)]
    mixed = any(one.image_type != likeness.image_type for one in likeness.neighbours)
    columns += [Column("type")] * mixed
    table = Table(*columns, Column("what it was", overflow="fold"))
    for one in likeness.neighbours:
        scale = f" ({one.distance / likeness.threshold:.1f})" if likeness.threshold else ""
        said = [word for word in (one.status, one.label, one.kind, one.note) if word]
        types = [one.image_type] * mixed
        night = str(one.night or "")
        table.add_row(f"{one.distance:.2g}{scale}", one.name, night, *types, ", ".join(said))
    return table


@app.command()
def export(
    what: Annotated[ExportTable, typer.Argument(help="Which table.")],
    since: Day = None,
    table_format: Annotated[ExportFormat, typer.Option("--format")] = ExportFormat.CSV,
    file: Annotated[Path | None, typer.Option("--out", help="File; else to the screen.")] = None,
    folder: ProjectFolder = Path(),
) -> None:
    """Write what is stored as a table: one row for each extension, with its newest verdict."""
    from qc import exports

    with opened_project(folder) as project, project.reads() as session:
        tables = exports.read_tables(session, what, since.date() if since else None)
        if file is None:
            exports.write_tables(tables, table_format, sys.stdout.buffer)
        else:
            rows = exports.write_tables_file(tables, table_format, file)
            err.print(f"{counted(rows, 'row')} in {file}", soft_wrap=True)
