"""Commands for labels and epochs."""

import sys
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from qc._text import MANY, counted
from qc.errors import InvalidInputError

if TYPE_CHECKING:
    from qc.io.instruments import FaultKind, Instrument
    from qc.labels.epochs import EpochChange, EpochEntry
    from qc.labels.store import LabelChange
    from qc.project import Project
from qc.cli.options import (
    ANOMALIES,
    LISTED,
    AsJson,
    ProjectFolder,
    _print_json,
    app,
    err,
    opened_project,
    out,
)


@app.command()
def label(  # noqa: PLR0913 - each is one word of a sentence
    frames: Annotated[
        list[str] | None,
        typer.Argument(help="Archive names, file names or paths; NAME[1] is one extension."),
    ] = None,
    *,
    said: Annotated[
        str, typer.Option("--as", metavar="good|bad|valid-outlier", help="What they are.")
    ] = "",
    kind: Annotated[str, typer.Option(help="What is wrong with bad ones; see --kinds.")] = "",
    note: Annotated[str, typer.Option(help="What else there is to say.")] = "",
    number: Annotated[
        int | None, typer.Option("--extension", help="Only this HDU of each frame.")
    ] = None,
    whole_set: Annotated[
        bool, typer.Option("--set", help="The same of every frame of the template set.")
    ] = False,
    image_type: Annotated[
        str | None, typer.Option("--type", help="Instead of names: all of an image type.")
    ] = None,
    night: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Instead of names: all of a night."),
    ] = None,
    status: Annotated[
        str | None, typer.Option(help="Instead of names: all of a newest verdict.")
    ] = None,
    sample: Annotated[
        bool,
        typer.Option("--sample", help="Instead of names: a night's spot check, save what has one."),
    ] = False,
    is_undo: Annotated[
        bool, typer.Option("--undo", help="Undo the label that counts; the one before it counts.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--from", help="CSV as 'qc export labels' writes it, or a list of bad files."),
    ] = None,
    kinds: Annotated[bool, typer.Option("--kinds", help="List the kinds of fault.")] = False,
    who: Annotated[str, typer.Option(help="Who says it.", show_default="you")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="However many they are.")] = False,
    folder: ProjectFolder = Path(),
) -> None:
    """Say what frames are: good, bad and of which kind, or a valid outlier; or undo it."""
    from qc.db.engine import user
    from qc.labels import store

    who = who or user()
    with opened_project(folder) as project:
        if kinds:
            _print_kinds(store.taxonomy(project.instruments, image_type))
            return
        if file:
            _import_labels(project, file, who)
            return
        if bool(said) == is_undo:
            raise InvalidInputError("say --as good, bad or valid-outlier; or --undo")
        day = night.date() if night else None
        answer = store.read_answer(said, kind, note, who=who) if said else None
        _check_meant(
            frames=bool(frames),
            sample=sample,
            is_good=said == "good",
            chosen=bool(image_type or status or (day and not sample)),
            detailed=whole_set or number is not None,
        )
        with project.reads() as session:
            if sample:
                found = store.choose_sample(session, day)
            elif frames:
                found = store.choose_named(session, frames, number, whole_set=whole_set)
            else:
                found = store.choose_where(session, project.instruments, image_type, day, status)
                _confirm(len(found), yes)
        with project.writes.begin() as session:
            if answer:
                changes = store.answer_for(session, found, answer, project.instruments)
            else:
                changes = store.undo(session, found, who, note)
    _print_changes(changes)
    if answer and answer.label == "valid-outlier":
        out.print("If it is to stay so, let references start anew:")
        for command in store.epoch_commands(found, answer.note):
            out.print(f"  {command}", soft_wrap=True)


def _check_meant(
    *, frames: bool, sample: bool, is_good: bool, chosen: bool, detailed: bool
) -> None:
    """Let people say in one way of what they speak."""
    if frames + sample + chosen != 1:
        raise InvalidInputError(
            "name frames; or choose by --type, --night and --status; or --sample"
        )
    if sample and not is_good:
        raise InvalidInputError(
            "--sample goes with --as good; label bad ones before, by their names"
        )
    if detailed and not frames:
        raise InvalidInputError("--extension and --set go with the names of frames")


def _import_labels(project: "Project", file: Path, who: str) -> None:
    from qc.labels.store import import_labels

    with project.writes.begin() as session:
        imported = import_labels(session, file, project.instruments, who)
    for refused in imported.refused:
        out.print(f"line {refused.line}: {refused.why}", soft_wrap=True)
    out.print(
        f"{counted(imported.lines, 'line')}: {counted(imported.added, 'label')} added, "
        f"{imported.known} known already, {counted(len(imported.refused), 'line')} refused"
    )
    if imported.refused:
        raise typer.Exit(ANOMALIES)


def _confirm(count: int, yes: bool) -> None:
    """Let nobody label a year by a slip."""
    err.print(counted(count, "extension"))
    if count == 0:
        raise InvalidInputError("there is none of that type, night and status")
    if count <= MANY or yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInputError(f"{count} extensions are more than {MANY}: say --yes as well")
    if not typer.confirm("All of them?", err=True):
        raise InvalidInputError("nothing was kept")


def _print_kinds(kinds: "list[tuple[Instrument, FaultKind]]") -> None:
    table = Table("instrument", Column("kind", no_wrap=True), "occurs in", "what it is")
    for instrument, kind in kinds:
        table.add_row(instrument.name, kind.name, " ".join(kind.classes), kind.sentence)
    out.print(table)


def _print_changes(changes: "list[LabelChange]") -> None:
    for change in changes[:LISTED]:
        before = f"(before: {change.before})" if change.is_new else "(as before)"
        name = f"{change.one.name} {change.one.image_type}"
        out.print(f"{name}: {change.after} {before}", soft_wrap=True)
    if len(changes) > LISTED:
        out.print(f"and {len(changes) - LISTED} more")
    nights = [change.one.night for change in changes if change.is_new]
    have = "has" if len(changes) == 1 else "have"
    of = counted(len(changes), "extension")
    out.print(f"{len(nights)} of {of} {have} another label now")
    if nights:
        out.print(f"To judge again what it bears on: qc process --again --since {min(nights)}")


@app.command()
def epoch(
    scope: Annotated[
        str | None, typer.Argument(help="An image type, or an instrument's name.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="First night after the intervention."),
    ] = None,
    why: Annotated[str, typer.Option(help="What was done; or why it is undone.")] = "",
    who: Annotated[str, typer.Option(help="Who says it.", show_default="you")] = "",
    undone: Annotated[
        int | None, typer.Option("--undo", help="Number of an epoch that was a slip.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List all; so does no argument.")] = False,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Enter an intervention, from whose night on references start anew; or list them all."""
    from qc.db.engine import user
    from qc.labels import epochs

    who = who or user()
    with opened_project(folder) as project:
        if scope is None and undone is None:
            if since or why:
                raise InvalidInputError("an epoch needs an image type or instrument before --from")
            with project.reads() as session:
                _print_log(epochs.read_log(session), as_json)
        elif listed or (scope is not None and undone is not None):
            raise InvalidInputError("enter one epoch, or --undo one, or --list them all")
        elif undone is not None:
            with project.writes.begin() as session:
                entered = epochs.undo(session, undone, why, who=who)
            _print_entered(entered, is_undone=True)
        elif scope is not None and since is not None:
            with project.writes.begin() as session:
                entered = epochs.enter(
                    session, scope, since.date(), why, who=who, instruments=project.instruments
                )
            _print_entered(entered, is_undone=False)
        else:
            raise InvalidInputError("an epoch needs --from DATE and --why TEXT")


def _print_entered(entered: "EpochChange", *, is_undone: bool) -> None:
    done = " is undone" if is_undone else ""
    out.print(f"Epoch No. {entered.number}, {entered.scope} from {entered.since}{done}.")
    until = "" if entered.last == date.max else f" --until {entered.last}"
    effect = "count again" if is_undone else "count no longer"
    if entered.frames:
        out.print(
            f"Frames since then that it bears on: {entered.frames}. References from before it "
            f"{effect}.\n"
            f"To judge them again: qc process --again --since {entered.since}{until}",
            soft_wrap=True,
        )


def _print_log(log: "list[EpochEntry]", as_json: bool) -> None:
    records = [
        {
            "number": entry.epoch.id,
            "scope": entry.epoch.scope,
            "from": entry.epoch.since,
            "why": entry.epoch.why,
            "who": entry.epoch.who,
            "at": entry.epoch.at,
            "undone_by": entry.undone_by.who if entry.undone_by else None,
            "undone_why": entry.undone_by.why if entry.undone_by else None,
        }
        for entry in log
    ]
    if as_json:
        _print_json(records)
        return
    table = Table(
        "No.", "scope", "from", Column("why", overflow="fold"), "who", "said on", "undone"
    )
    for one in records:
        undone = f"by {one['undone_by']}: {one['undone_why']}" if one["undone_by"] else ""
        told = (str(one[name]) for name in ("number", "scope", "from", "why", "who"))
        table.add_row(*told, f"{one['at']:%Y-%m-%d}", undone)
    out.print(table if records else "No epoch has been entered.")
