"""Commands for user accounts."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from qc._text import counted
from qc._time import utc_now
from qc.cli.options import (
    AccountName,
    AsJson,
    PasswordFile,
    ProjectFolder,
    _print_json,
    opened_project,
    out,
    users_app,
)
from qc.core.enums import Role
from qc.errors import InvalidInputError


@users_app.command("add")
def user_add(
    name: AccountName,
    role: Annotated[Role, typer.Option(help="look; review: label too; tune: and set limits.")],
    password_file: PasswordFile = None,
    folder: ProjectFolder = Path(),
) -> None:
    """Let somebody in, with a password that is asked for."""
    from qc import db

    password = _password(password_file)
    with opened_project(folder) as project, project.writes.begin() as session:
        db.accounts.add_account(session, name, role, password, utc_now())
    out.print(f"{name} may log in, with the role {role}.", soft_wrap=True)


@users_app.command("list")
def user_list(folder: ProjectFolder = Path(), as_json: AsJson = False) -> None:
    """Say who may log in."""
    from qc import db

    with opened_project(folder) as project, project.reads() as session:
        found = db.accounts.accounts(session)
    if as_json:
        _print_json([asdict(one) for one in found])
        return
    if not found:
        out.print("Nobody: the review pages are this machine's alone. 'qc user add' adds somebody.")
        return
    table = Table("name", "role", "since", "tokens")
    for one in found:
        table.add_row(one.name, one.role, f"{one.made_at:%Y-%m-%d}", str(one.tokens))
    out.print(table)


@users_app.command("password")
def user_password(
    name: AccountName, password_file: PasswordFile = None, folder: ProjectFolder = Path()
) -> None:
    """Set another password; who is logged in with the old one is not any more."""
    from qc import db

    password = _password(password_file)
    with opened_project(folder) as project, project.writes.begin() as session:
        db.accounts.change_password(session, name, password)
    out.print(f"{name} has another password.", soft_wrap=True)


@users_app.command("remove")
def user_remove(name: AccountName, folder: ProjectFolder = Path()) -> None:
    """Let somebody in no more; what they said stays."""
    from qc import db

    with opened_project(folder) as project, project.writes.begin() as session:
        db.accounts.remove_account(session, name)
        is_last = not db.accounts.has_accounts(session)
    out.print(f"{name} is let in no more.", soft_wrap=True)
    if is_last:
        out.print("Nobody else has an account: the pages are this machine's alone now.")


@users_app.command("token")
def user_token(
    name: AccountName,
    revoke: Annotated[bool, typer.Option("--revoke", help="Let none of them in any more.")] = False,
    folder: ProjectFolder = Path(),
) -> None:
    """Make a token for somebody's scripts, as 'Authorization: Bearer TOKEN'; it is shown once."""
    from qc import db

    with opened_project(folder) as project, project.writes.begin() as session:
        if revoke:
            count = db.accounts.revoke_tokens(session, name)
            tokens, opens = counted(count, "token"), "opens" if count == 1 else "open"
            words = f"{tokens} of {name} {opens} nothing any more."
        else:
            words = db.accounts.make_token(session, name, utc_now())
    out.print(words, soft_wrap=True)


def _password(file: Path | None) -> str:
    """Return the first line of a file, or what is typed twice, unseen; never an argument."""
    if file is None:
        typed: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    try:
        content = sys.stdin.readline() if file == Path("-") else file.read_text()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{file}: a password is expected here: {error}") from None
    return next(iter(content.splitlines()), "")
