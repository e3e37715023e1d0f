"""Commands for the database."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from qc.cli.options import ProjectFolder, _progress, database_app, opened_project, out


@database_app.command("upgrade")
def db_upgrade(folder: ProjectFolder = Path()) -> None:
    """Make a project, or bring its database to this version's schema; nothing is lost."""
    from qc.project import create_project

    create_project(folder)
    out.print(f"{folder.resolve()}: settings, thresholds and database are there", soft_wrap=True)


@database_app.command("check")
def db_check(folder: ProjectFolder = Path()) -> None:
    """Say whether the database is at this version's schema and intact."""
    from qc.db.engine import connect
    from qc.db.migrate import check_integrity
    from qc.settings import read_settings

    engine = connect(read_settings(folder).database_url)
    try:
        check_integrity(engine)
    finally:
        engine.dispose()
    out.print("The database is at this version's schema and intact.")


@database_app.command("index")
def db_index(folder: ProjectFolder = Path()) -> None:
    """Bring the index up to date that 'qc similar' searches large archives with, or make it."""
    from qc.search.nearest import refresh_index

    with opened_project(folder) as project, _progress() as report:
        words = refresh_index(project, report)
    out.print(f"{words[0].upper()}{words[1:]}.", soft_wrap=True)


@database_app.command("copy")
def db_copy(
    source: Annotated[str, typer.Argument(metavar="SQLITE_URL", help="sqlite:///qc.db")],
    target: Annotated[
        str, typer.Argument(metavar="POSTGRES_URL", help="postgresql+psycopg://user@host/name")
    ],
) -> None:
    """Copy a database into PostgreSQL, going on where another run stopped, and compare each row."""
    from qc.db.copy import transfer

    with _progress() as report:
        done = transfer(source, target, report)
    table = Table("table")
    table.add_column("rows", justify="right")
    table.add_column("copied now", justify="right")
    for one in done:
        table.add_row(one.table, str(one.rows), str(one.copied))
    out.print(table)
    out.print(f"{sum(one.rows for one in done)} rows are the same on both sides.")
