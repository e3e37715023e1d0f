"""Hidden aliases: the command names of version 0.1, kept for one release."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer

from qc.cli import administration, alerts, archive, classifier, frames, labels, options, service
from qc.cli import thresholds as threshold_commands
from qc.cli.frames import Certified
from qc.cli.options import AsJson, ProjectFolder, app
from qc.core.enums import ThresholdPolicy
from qc.errors import InvalidInputError

OldAuthor = Annotated[str, typer.Option("--who", "--by")]

app.command("show", hidden=True)(frames.show)
app.command("similar", hidden=True)(frames.similar)
app.command("export", hidden=True)(frames.export)
app.command("backfill", hidden=True)(archive.backfill)
app.command("run", hidden=True)(service.run_service)
app.command("self-test", hidden=True)(service.run_injection_test)
app.command("serve", hidden=True)(service.serve)
app.add_typer(administration.users_app, name="user", hidden=True)


@app.command("process", hidden=True)
def process(
    paths: Annotated[list[Path] | None, typer.Argument()] = None,
    certified: Certified = None,
    again: Annotated[bool, typer.Option("--again")] = False,
    since: options.FirstNight = None,
    until: options.LastNight = None,
    thresholds: ThresholdPolicy | None = None,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Process files, or judge stored frames again."""
    if again == bool(paths):
        raise typer.BadParameter("give files or folders, or --again for stored frames")
    if again and certified:
        raise typer.BadParameter("--label applies to files; use 'qc labels add' for stored frames")
    if not again and (since or until or thresholds):
        raise typer.BadParameter("--since, --until and --thresholds require --again")
    if again:
        policy = thresholds or ThresholdPolicy.DATED
        archive.reprocess(since, until, policy, folder, as_json)
    else:
        frames.process(paths or [], certified, folder, as_json)


@app.command("label", hidden=True)
def label(  # noqa: PLR0913 - one parameter per option of version 0.1
    names: labels.Frames = None,
    *,
    label_text: Annotated[str, typer.Option("--as")] = "",
    kind: labels.Kind = "",
    note: options.Note = "",
    number: labels.Number = None,
    whole_set: labels.WholeSet = False,
    image_type: labels.ImageType = None,
    night: options.Night = None,
    status: labels.Status = None,
    sample: Annotated[bool, typer.Option("--sample")] = False,
    is_undo: Annotated[bool, typer.Option("--undo")] = False,
    file: Annotated[Path | None, typer.Option("--from")] = None,
    kinds: Annotated[bool, typer.Option("--kinds")] = False,
    author: OldAuthor = "",
    yes: labels.Yes = False,
    folder: ProjectFolder = Path(),
) -> None:
    """Label frames, undo or import labels, list kinds."""
    if kinds:
        labels.list_kinds(image_type, folder)
    elif file:
        labels.import_labels(file, author, folder)
    elif bool(label_text) == is_undo:
        raise InvalidInputError("give --as good, bad or valid-outlier, or --undo")
    elif sample:
        if label_text != "good" or names or image_type or status:
            raise InvalidInputError(
                "--sample requires --as good without names or filters; label bad frames before"
            )
        labels.label_sample(night, note, author, folder)
    else:
        selection: dict[str, Any] = {
            "note": note,
            "number": number,
            "whole_set": whole_set,
            "image_type": image_type,
            "night": night,
            "status": status,
            "author": author,
            "yes": yes,
            "folder": folder,
        }
        if is_undo:
            labels.undo_labels(names, **selection)
        else:
            labels.add_labels(names, label=label_text, kind=kind, **selection)


@app.command("epoch", hidden=True)
def epoch(
    scope: Annotated[str | None, typer.Argument()] = None,
    since: Annotated[dt.datetime | None, typer.Option("--from", formats=["%Y-%m-%d"])] = None,
    reason: Annotated[str, typer.Option("--why")] = "",
    author: OldAuthor = "",
    undone: Annotated[int | None, typer.Option("--undo")] = None,
    listed: Annotated[bool, typer.Option("--list")] = False,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Enter, undo or list epochs."""
    if scope is None and undone is None:
        if since or reason:
            raise InvalidInputError("expected an image type or instrument before --from")
        labels.list_epochs(folder, as_json)
    elif listed or (scope is not None and undone is not None):
        raise InvalidInputError("enter one epoch, or --undo one, or --list all")
    elif undone is not None:
        labels.undo_epoch(undone, reason, author, folder)
    elif scope is not None and since is not None:
        labels.add_epoch(scope, since, reason, author, folder)
    else:
        raise InvalidInputError("an epoch requires --from DATE and --why TEXT")


@app.command("tune", hidden=True)
def tune(  # noqa: PLR0913, PLR0917 - one parameter per option of version 0.1
    image_types: threshold_commands.Types = None,
    false_alarms: Annotated[float | None, typer.Option(min=1e-6, max=0.5)] = None,
    recall: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    write: Annotated[bool, typer.Option("--write")] = False,
    reason: Annotated[str, typer.Option("--why")] = "",
    author: OldAuthor = "",
    since: options.FirstNight = None,
    effective: Annotated[dt.datetime | None, typer.Option("--from", formats=["%Y-%m-%d"])] = None,
    plot: Path | None = None,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Propose thresholds."""
    threshold_commands.tune(
        image_types,
        false_alarms,
        recall,
        write,
        reason,
        author,
        since,
        effective,
        plot,
        folder,
        as_json,
    )


@app.command("train", hidden=True)
def train(
    page: Annotated[Path | None, typer.Option("--report")] = None,
    force: Annotated[bool, typer.Option("--force")] = False,
    author: OldAuthor = "",
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Train the classifier."""
    classifier.train(page, force, author, folder, as_json)


@app.command("ack", hidden=True)
def acknowledge(
    numbers: alerts.Numbers,
    duration: alerts.Duration = None,
    until_nominal: alerts.UntilNominal = False,
    note: options.Note = "",
    author: OldAuthor = "",
    folder: ProjectFolder = Path(),
) -> None:
    """Acknowledge alerts."""
    alerts.acknowledge(numbers, duration, until_nominal, note, author, folder)
