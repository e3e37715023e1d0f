"""Commands for labels and epochs."""

import datetime as dt
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qc._text import MANY, pluralise
from qc.cli import options
from qc.cli.options import AsJson, Author, Note, ProjectFolder, err, opened_project, out, print_json
from qc.errors import InvalidInputError

if TYPE_CHECKING:
    from qc.core.enums import LabelName
    from qc.db.extensions import ExtensionRef
    from qc.labels.epochs import EpochChange, EpochEntry
    from qc.labels.store import LabelChange
    from qc.project import ProjectContext

labels_app = options.new_group("Label frames; import and undo labels, list kinds of fault.")
options.app.add_typer(labels_app, name="labels")
epochs_app = options.new_group("Enter, undo and list interventions.")
options.app.add_typer(epochs_app, name="epochs")

Frames = Annotated[
    list[str] | None,
    typer.Argument(help="Archive names, file names or paths; NAME[1] is one extension."),
]
LabelText = Annotated[str, typer.Option("--as", metavar="good|bad|valid-outlier", help="Label.")]
Kind = Annotated[str, typer.Option(help="Kind of fault; see 'qc labels kinds'.")]
Number = Annotated[int | None, typer.Option("--extension", help="This HDU of each frame only.")]
WholeSet = Annotated[bool, typer.Option("--set", help="All frames of the template set.")]
ImageType = Annotated[str | None, typer.Option("--type", help="Select by image type.")]
Status = Annotated[str | None, typer.Option(help="Select by newest verdict.")]
Yes = Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")]


@dataclass(frozen=True)
class ExtensionSelection:
    """Options of a command that select extensions: names of frames, or a filter."""

    frames: list[str]
    number: int | None
    whole_set: bool
    image_type: str | None
    night: dt.datetime | None
    status: str | None
    yes: bool

    def check(self) -> None:
        """Accept names or a filter, never both."""
        if bool(self.frames) == bool(self.image_type or self.status or self.night):
            raise InvalidInputError("name frames, or select by --type, --night and --status")
        if (self.whole_set or self.number is not None) and not self.frames:
            raise InvalidInputError("--extension and --set require the names of frames")

    def read(self, project: "ProjectContext") -> "tuple[ExtensionRef, ...]":
        """Return the selected extensions; a filter that matches many needs a confirmation."""
        from qc.labels import selection

        with project.read_session() as session:
            if self.frames:
                return selection.select_named(
                    session, self.frames, self.number, whole_set=self.whole_set
                )
            night = self.night.date() if self.night else None
            selected = selection.select_where(
                session, project.instruments, self.image_type, night, self.status
            )
        _confirm(len(selected), self.yes)
        return selected


@labels_app.command("add")
def add_labels(  # noqa: PLR0913 - one parameter per option
    frames: Frames = None,
    *,
    label: LabelText,
    kind: Kind = "",
    note: Note = "",
    number: Number = None,
    whole_set: WholeSet = False,
    image_type: ImageType = None,
    night: options.Night = None,
    status: Status = None,
    author: Author = "",
    yes: Yes = False,
    folder: ProjectFolder = Path(),
) -> None:
    """Label frames, selected by name or filter."""
    from qc import db
    from qc.labels import store

    author = author or db.schema.engine.user_name()
    answer = store.parse_answer(label, kind, note, who=author)
    choice = ExtensionSelection(frames or [], number, whole_set, image_type, night, status, yes)
    choice.check()
    with opened_project(folder) as project:
        selected = choice.read(project)
        with project.write_session.begin() as session:
            changes = store.add_labels(session, selected, answer, project.instruments)
    _print_changes(changes)
    _print_epoch_commands(answer.label, changes, answer.note)


@labels_app.command("undo")
def undo_labels(  # noqa: PLR0913 - one parameter per option
    frames: Frames = None,
    *,
    note: Note = "",
    number: Number = None,
    whole_set: WholeSet = False,
    image_type: ImageType = None,
    night: options.Night = None,
    status: Status = None,
    author: Author = "",
    yes: Yes = False,
    folder: ProjectFolder = Path(),
) -> None:
    """Undo the newest label of frames."""
    from qc import db
    from qc.labels import store

    choice = ExtensionSelection(frames or [], number, whole_set, image_type, night, status, yes)
    choice.check()
    with opened_project(folder) as project:
        selected = choice.read(project)
        with project.write_session.begin() as session:
            changes = store.undo(session, selected, author or db.schema.engine.user_name(), note)
    _print_changes(changes)


@labels_app.command("sample")
def label_sample(
    night: options.Night = None,
    note: Note = "",
    author: Author = "",
    folder: ProjectFolder = Path(),
) -> None:
    """Label the unlabelled spot check good."""
    from qc import db
    from qc.labels import selection, store

    answer = store.parse_answer("good", "", note, who=author or db.schema.engine.user_name())
    with opened_project(folder) as project:
        with project.read_session() as session:
            selected = selection.select_sample(session, night.date() if night else None)
        with project.write_session.begin() as session:
            changes = store.add_labels(session, selected, answer, project.instruments)
    _print_changes(changes)


@labels_app.command("import")
def import_labels(
    file: Annotated[
        Path, typer.Argument(help="CSV of 'qc frames export labels', or list of bad files.")
    ],
    author: Author = "",
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Import labels from a CSV file."""
    from qc import db
    from qc.labels import import_file

    with opened_project(folder) as project, project.write_session.begin() as session:
        result = import_file.import_labels(
            session, file, project.instruments, author or db.schema.engine.user_name()
        )
    if as_json:
        refused = [{"line": line.line, "reason": line.why} for line in result.refused]
        record = {"lines": result.lines, "added": result.added, "known": result.known}
        print_json({**record, "refused": refused})
    else:
        for line in result.refused:
            out.print(f"line {line.line}: {line.why}", soft_wrap=True)
        out.print(
            f"{pluralise(result.lines, 'line')}: {pluralise(result.added, 'label')} added, "
            f"{result.known} known already, {pluralise(len(result.refused), 'line')} refused"
        )
    if result.refused:
        raise typer.Exit(options.ANOMALIES)


@labels_app.command("kinds")
def list_kinds(
    image_type: ImageType = None, folder: ProjectFolder = Path(), as_json: AsJson = False
) -> None:
    """List the kinds of fault."""
    from rich.table import Column, Table

    from qc.labels import taxonomy

    with opened_project(folder) as project:
        kinds = taxonomy.list_kinds(project.instruments, image_type)
    if as_json:
        print_json(
            [
                {
                    "instrument": instrument.name,
                    "kind": kind.name,
                    "classes": kind.classes,
                    "description": kind.sentence,
                }
                for instrument, kind in kinds
            ]
        )
        return
    table = Table("instrument", Column("kind", no_wrap=True), "occurs in", "description")
    for instrument, kind in kinds:
        table.add_row(instrument.name, kind.name, " ".join(kind.classes), kind.sentence)
    out.print(table)


def _confirm(count: int, yes: bool) -> None:
    """Ask before a label is given to many extensions."""
    err.print(pluralise(count, "extension"))
    if count == 0:
        raise InvalidInputError("no extension matches that type, night and status")
    if count <= MANY or yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInputError(f"{count} extensions are more than {MANY}: add --yes")
    if not typer.confirm("All of them?", err=True):
        raise InvalidInputError("cancelled; nothing was stored")


def _print_changes(changes: "list[LabelChange]") -> None:
    for change in changes[: options.LIST_LIMIT]:
        before = f"(before: {change.before})" if change.is_new else "(unchanged)"
        name = f"{change.extension.name} {change.extension.image_type}"
        out.print(f"{name}: {change.after} {before}", soft_wrap=True)
    if len(changes) > options.LIST_LIMIT:
        out.print(f"and {len(changes) - options.LIST_LIMIT} more")
    nights = [change.extension.night for change in changes if change.is_new]
    out.print(f"{len(nights)} of {pluralise(len(changes), 'label')} changed")
    if nights:
        out.print(f"To judge affected frames again: qc archive reprocess --since {min(nights)}")


def _print_epoch_commands(label: "LabelName", changes: "list[LabelChange]", note: str) -> None:
    from qc.labels import epochs

    if label == "valid-outlier":
        out.print("If the change is permanent, begin a new epoch:")
        for command in epochs.suggest_commands([change.extension for change in changes], note):
            out.print(f"  {command}", soft_wrap=True)


@epochs_app.command("add")
def add_epoch(
    scope: Annotated[str, typer.Argument(help="Image type or instrument.")],
    since: Annotated[
        dt.datetime,
        typer.Option("--from", formats=["%Y-%m-%d"], help="First night after the intervention."),
    ],
    reason: Annotated[str, typer.Option("--reason", help="Description of the intervention.")],
    author: Author = "",
    folder: ProjectFolder = Path(),
) -> None:
    """Enter an intervention; references restart there."""
    from qc import db
    from qc.labels import epochs

    with opened_project(folder) as project, project.write_session.begin() as session:
        change = epochs.add(
            session,
            scope,
            since.date(),
            reason,
            who=author or db.schema.engine.user_name(),
            instruments=project.instruments,
        )
    _print_epoch(change, is_undone=False)


@epochs_app.command("undo")
def undo_epoch(
    number: Annotated[int, typer.Argument(help="Number of the epoch.")],
    reason: Annotated[str, typer.Option("--reason", help="Reason of the correction.")],
    author: Author = "",
    folder: ProjectFolder = Path(),
) -> None:
    """Undo an epoch."""
    from qc import db
    from qc.labels import epochs

    with opened_project(folder) as project, project.write_session.begin() as session:
        change = epochs.undo(session, number, reason, who=author or db.schema.engine.user_name())
    _print_epoch(change, is_undone=True)


@epochs_app.command("list")
def list_epochs(folder: ProjectFolder = Path(), as_json: AsJson = False) -> None:
    """List all epochs."""
    from rich.table import Column, Table

    from qc.labels import epochs

    with opened_project(folder) as project, project.read_session() as session:
        records = [_epoch_record(entry) for entry in epochs.read_log(session)]
    if as_json:
        print_json(records)
        return
    reason = Column("reason", overflow="fold")
    table = Table("No.", "scope", "from", reason, "by", "entered on", "undone")
    for record in records:
        undone_by = record["undone_by"]
        undone = f"by {undone_by}: {record['undone_why']}" if undone_by else ""
        cells = (str(record[name]) for name in ("number", "scope", "from", "why", "who"))
        table.add_row(*cells, f"{record['at']:%Y-%m-%d}", undone)
    out.print(table if records else "No epochs yet.")


def _epoch_record(entry: "EpochEntry") -> dict[str, object]:
    return {
        "number": entry.epoch.id,
        "scope": entry.epoch.scope,
        "from": entry.epoch.since,
        "why": entry.epoch.why,
        "who": entry.epoch.who,
        "at": entry.epoch.at,
        "undone_by": entry.undone_by.who if entry.undone_by else None,
        "undone_why": entry.undone_by.why if entry.undone_by else None,
    }


def _print_epoch(change: "EpochChange", *, is_undone: bool) -> None:
    suffix = " is undone" if is_undone else ""
    out.print(f"Epoch No. {change.number}, {change.scope} from {change.since}{suffix}.")
    if change.frames:
        until = "" if change.last == dt.date.max else f" --until {change.last}"
        effect = "count again" if is_undone else "no longer count"
        out.print(
            f"Affected frames: {change.frames}. Earlier references {effect}.\n"
            f"To judge them again: qc archive reprocess --since {change.since}{until}",
            soft_wrap=True,
        )
