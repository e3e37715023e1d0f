"""Commands for projects: demo, simulate, init, db, users, instruments."""

import dataclasses
import datetime as dt
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qc._text import pluralise
from qc._time import utc_now
from qc.cli import options
from qc.cli.options import AsJson, ProjectFolder, app, opened_project, out, print_json
from qc.core.enums import Role
from qc.errors import InvalidInputError

if TYPE_CHECKING:
    from rich.table import Table

    from qc.demo import DemoResult

database_app = options.new_group("Create, upgrade, check, index and copy the database.")
app.add_typer(database_app, name="db")
users_app = options.new_group("Manage user accounts of the review pages.")
app.add_typer(users_app, name="users")
instruments_app = options.new_group("List and check instrument files.")
app.add_typer(instruments_app, name="instruments")

AccountName = Annotated[str, typer.Argument(metavar="NAME", help="User name.")]
PasswordFile = Annotated[
    Path | None, typer.Option(help="File with the password; - for stdin; default: prompt.")
]


class FitsFormat(StrEnum):
    """File format of simulated frames."""

    FITS = "fits"
    FITS_Z = "fits.Z"


class PlanName(StrEnum):
    """Calibration plan of a simulated observatory."""

    DEMO = "demo"
    FULL = "full"


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="New project folder.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Simulate, judge and report a demonstration night."""
    from qc.demo import create_demo

    with options.progress_bars() as report:
        result = create_demo(folder, seed=seed, progress=report)
    if as_json:
        print_json(dataclasses.asdict(result))
        return
    out.print(_demo_table(result))
    out.print(
        f"{result.nominal} extensions without a fault, {result.false_alarms} of them flagged.\n"
        f"\nReport:  {result.report}\n"
        f"Project: {result.folder.resolve()}\n"
        f"Next:    qc status --project {result.folder}",
        soft_wrap=True,
    )


def _demo_table(result: "DemoResult") -> "Table":
    from rich.table import Table
    from rich.text import Text

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
    folder: Annotated[Path, typer.Option("--out", help="Output folder.")],
    nights: Annotated[int, typer.Option(min=1, help="Number of consecutive nights.")] = 1,
    first: Annotated[
        dt.datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First night.")
    ] = dt.datetime(2026, 7, 1),  # noqa: DTZ001 - a date
    faults: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of frames with a fault.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed; equal seeds give equal bytes.")] = 1,
    fits_format: Annotated[FitsFormat, typer.Option("--format")] = FitsFormat.FITS,
    plan: Annotated[
        PlanName, typer.Option(help="Small 2x2 plan, or all that UVES takes.")
    ] = PlanName.DEMO,
) -> None:
    """Simulate raw UVES frames with ground truth."""
    from qc import simulator

    plans = {PlanName.DEMO: simulator.DEMO_PLAN, PlanName.FULL: simulator.FULL_PLAN}
    with options.progress_bars() as report:
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


@app.command("init")
@database_app.command("upgrade")
def upgrade_database(folder: ProjectFolder = Path()) -> None:
    """Create a project, or upgrade its database."""
    from qc.project import create_project

    create_project(folder)
    out.print(f"{folder.resolve()}: settings, thresholds and database exist.", soft_wrap=True)


@database_app.command("check")
def check_database(folder: ProjectFolder = Path()) -> None:
    """Check schema version and integrity."""
    from qc.db.schema.engine import connect
    from qc.db.schema.migrate import check_integrity
    from qc.settings import read_settings

    engine = connect(read_settings(folder).database_url)
    try:
        check_integrity(engine)
    finally:
        engine.dispose()
    out.print("The database is at this version's schema and intact.")


@database_app.command("index")
def index_database(folder: ProjectFolder = Path()) -> None:
    """Create or refresh the similarity index."""
    from qc.search.nearest import refresh_index

    with opened_project(folder) as project, options.progress_bars() as report:
        result = refresh_index(project, report)
    out.print(f"{result[0].upper()}{result[1:]}.", soft_wrap=True)


@database_app.command("copy")
def copy_database(
    source: Annotated[str, typer.Argument(metavar="SQLITE_URL", help="sqlite:///qc.db")],
    target: Annotated[
        str, typer.Argument(metavar="POSTGRES_URL", help="postgresql+psycopg://user@host/name")
    ],
    as_json: AsJson = False,
) -> None:
    """Copy SQLite to PostgreSQL; resumable."""
    from rich.table import Table

    from qc.db.schema.copy import copy_database

    with options.progress_bars() as report:
        copies = copy_database(source, target, report)
    if as_json:
        print_json([dataclasses.asdict(copy) for copy in copies])
        return
    table = Table("table")
    table.add_column("rows", justify="right")
    table.add_column("copied now", justify="right")
    for copy in copies:
        table.add_row(copy.table, str(copy.rows), str(copy.copied))
    out.print(table)
    out.print(f"{sum(copy.rows for copy in copies)} rows are equal in both databases.")


@users_app.command("add")
def add_user(
    name: AccountName,
    role: Annotated[Role, typer.Option(help="look; review: may label; tune: may set thresholds.")],
    password_file: PasswordFile = None,
    folder: ProjectFolder = Path(),
) -> None:
    """Add a user; prompt for the password."""
    from qc import db

    password = _read_password(password_file)
    with opened_project(folder) as project, project.write_session.begin() as session:
        db.accounts.add_account(session, name, role, password, utc_now())
    out.print(f"{name} may log in, with the role {role}.", soft_wrap=True)


@users_app.command("list")
def list_users(folder: ProjectFolder = Path(), as_json: AsJson = False) -> None:
    """List users."""
    from rich.table import Table

    from qc import db

    with opened_project(folder) as project, project.read_session() as session:
        accounts = db.accounts.list_accounts(session)
    if as_json:
        print_json([dataclasses.asdict(account) for account in accounts])
        return
    if not accounts:
        out.print("No users: the review pages accept this machine only. Add one: qc users add")
        return
    table = Table("name", "role", "since", "tokens")
    for account in accounts:
        since = f"{account.made_at:%Y-%m-%d}"
        table.add_row(account.name, account.role, since, str(account.tokens))
    out.print(table)


@users_app.command("password")
def set_password(
    name: AccountName, password_file: PasswordFile = None, folder: ProjectFolder = Path()
) -> None:
    """Change a password; end open sessions."""
    from qc import db

    password = _read_password(password_file)
    with opened_project(folder) as project, project.write_session.begin() as session:
        db.accounts.change_password(session, name, password)
    out.print(f"The password of {name} is changed.", soft_wrap=True)


@users_app.command("remove")
def remove_user(name: AccountName, folder: ProjectFolder = Path()) -> None:
    """Remove a user; labels remain."""
    from qc import db

    with opened_project(folder) as project, project.write_session.begin() as session:
        db.accounts.remove_account(session, name)
        is_last = not db.accounts.has_accounts(session)
    out.print(f"{name} is removed.", soft_wrap=True)
    if is_last:
        out.print("No users remain: the review pages accept this machine only.")


@users_app.command("token")
def create_token(
    name: AccountName,
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke all tokens.")] = False,
    folder: ProjectFolder = Path(),
) -> None:
    """Create an API token, shown once."""
    from qc import db

    with opened_project(folder) as project, project.write_session.begin() as session:
        if revoke:
            count = db.accounts.revoke_tokens(session, name)
            message = f"{pluralise(count, 'token')} of {name} revoked."
        else:
            message = db.accounts.make_token(session, name, utc_now())
    out.print(message, soft_wrap=True)


def _read_password(file: Path | None) -> str:
    """Return the first line of a file or a typed password; never a command-line argument."""
    if file is None:
        typed: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    try:
        content = sys.stdin.readline() if file == Path("-") else file.read_text()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{file}: expected a password: {error}") from None
    return next(iter(content.splitlines()), "")


@instruments_app.command("list")
def list_instruments(folder: ProjectFolder = Path(), as_json: AsJson = False) -> None:
    """List instruments and image types."""
    from rich.table import Column, Table

    from qc.io.instrument_files import read_instruments
    from qc.settings import read_settings

    instruments = read_instruments(read_settings(folder).instruments_folder)
    if as_json:
        print_json({instrument.name: list(instrument.image_types()) for instrument in instruments})
        return
    table = Table("instrument", Column("image types", overflow="fold"))
    for instrument in instruments:
        table.add_row(instrument.name, " ".join(instrument.image_types()))
    out.print(table)


@instruments_app.command("check")
def check_instruments(folder: ProjectFolder = Path()) -> None:
    """Check all instrument files."""
    from qc.io.instrument_files import read_instruments
    from qc.settings import read_settings

    instruments = read_instruments(read_settings(folder).instruments_folder)
    names = ", ".join(instrument.name for instrument in instruments)
    out.print(f"{pluralise(len(instruments), 'instrument file')} valid: {names}", soft_wrap=True)
