"""Commands for the classifier: train and show."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qc._text import pluralise
from qc._time import utc_now
from qc.cli import options
from qc.cli.options import AsJson, Author, ProjectFolder, err, opened_project, out, print_json

if TYPE_CHECKING:
    from qc.training.train import TrainingResult

REFUSED = 1  # exit code: stored, but not in use

classifier_app = options.new_group("Train and show the classifier.")
options.app.add_typer(classifier_app, name="classifier")


@classifier_app.command()
def train(
    page: Annotated[Path | None, typer.Option("--report", help="HTML report to write.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Accept a worse classifier.")] = False,
    author: Author = "",
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Train the classifier on labels.

    Exit code 1: worse than the classifier in use; stored, but not in use.
    """
    from qc import db
    from qc.reports import training
    from qc.training import train as classifier_training

    author = author or db.schema.engine.user_name()
    with opened_project(folder) as project, options.progress_bars() as report:
        result = classifier_training.train(
            project,
            author=author,
            force=force,
            progress=lambda done, total: report("train", done, total),
        )
        if page:
            training.write_training_page(
                page,
                result,
                author=author,
                encoder=project.encoder.fingerprint,
                generated_at=utc_now(),
                progress=lambda done, total: report("learning curve", done, total),
            )
    if as_json:
        print_json(classifier_training.figures_record(result))
    else:
        _print_result(result)
    if page:
        err.print(f"Report: {page}", soft_wrap=True)
    if not result.accepted:
        raise typer.Exit(REFUSED)


def _print_result(result: "TrainingResult") -> None:
    from rich.table import Column, Table

    simulated = f"and {result.simulated} simulated" if result.simulated else "none simulated"
    examples = pluralise(result.labelled, "labelled example")
    out.print(f"Trained on {examples}, {simulated}.", soft_wrap=True)
    if result.split is None:
        out.print("Not evaluated: too few labels, good and bad, on different nights.")
    else:
        nights = " to ".join(map(str, result.split.nights)) if result.split.is_real else ""
        source = f"{result.split.description}{', ' if nights else ''}{nights}"
        images = pluralise(len(result.split.examples), "image")
        out.print(f"Evaluated on {images}: {source}.", soft_wrap=True)
        columns = ["new", "in use"] if result.old else ["new"]
        table = Table("", *(Column(name, no_wrap=True) for name in columns))
        for row in result.rows:
            table.add_row(*row[: 1 + len(columns)])
        out.print(table)
    out.print(result.outcome, soft_wrap=True)


@classifier_app.command()
def show(folder: ProjectFolder = Path(), as_json: AsJson = False) -> None:
    """Show the classifier in use."""
    from rich.table import Table

    from qc import db

    with opened_project(folder) as project:
        with project.read_session() as session:
            row = db.embeddings.newest_classifier(session, project.encoder.fingerprint)
            stored = {"number": row.id, "trained_at": row.trained_at, "by": row.who} if row else {}
        classifier = project.classifier
    record = {
        "source": "project" if stored else "shipped" if classifier else "none",
        **stored,
        "encoder": project.encoder.fingerprint,
        "examples": classifier.examples if classifier else 0,
    }
    if as_json:
        print_json(record)
        return
    table = Table(show_header=False)
    for name, value in record.items():
        table.add_row(name.replace("_", " "), options.format_value(value))
    out.print(table)
