"""Commands for the classifier."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from qc._text import counted
from qc._time import utc_now

if TYPE_CHECKING:
    from qc.training.train import TrainingResult
from qc.cli.options import (
    REFUSED,
    AsJson,
    ProjectFolder,
    _print_json,
    _progress,
    app,
    err,
    opened_project,
    out,
)


@app.command()
def train(
    page: Annotated[
        Path | None, typer.Option("--report", help="HTML file with all figures and pictures.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the one in use even by a worse one.")
    ] = False,
    who: Annotated[str, typer.Option(help="Your name.", show_default="yours")] = "",
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Train the classifier on what was labelled; it replaces the one in use unless it is worse.

    Exit code 1: it was worse, and is kept on record only.
    """
    from qc import db
    from qc.reports import training
    from qc.training import train as classifier_training

    who = who or db.engine.user()
    with opened_project(folder) as project, _progress() as report:
        trained = classifier_training.train(
            project,
            who=who,
            force=force,
            progress=lambda done, total: report("train", done, total),
        )
        if page:
            training.write_lessons(
                page,
                trained,
                who=who,
                encoder=project.encoder.fingerprint,
                generated_at=utc_now(),
                progress=lambda done, total: report("learning curve", done, total),
            )
    if as_json:
        _print_json(classifier_training.figures_record(trained))
    else:
        _print_trained(trained)
    if page:
        err.print(f"Report: {page}", soft_wrap=True)
    if not trained.accepted:
        raise typer.Exit(REFUSED)


def _print_trained(trained: "TrainingResult") -> None:
    simulated = f"and {trained.simulated} simulated" if trained.simulated else "none simulated"
    out.print(
        f"Learnt from {counted(trained.labelled, 'labelled example')}, {simulated}.", soft_wrap=True
    )
    if trained.exam is None:
        out.print("Not examined: too few images are labelled, good and bad, on different nights.")
    else:
        nights = " to ".join(map(str, trained.exam.nights)) if trained.exam.is_real else ""
        words = f"{trained.exam.words}{', ' if nights else ''}{nights}"
        images = counted(len(trained.exam.examples), "image")
        out.print(f"Examined on {images}: {words}.", soft_wrap=True)
        columns = ["new", "in use"] if trained.old else ["new"]
        table = Table("", *(Column(name, no_wrap=True) for name in columns))
        for row in trained.rows:
            table.add_row(*row[: 1 + len(columns)])
        out.print(table)
    out.print(trained.outcome, soft_wrap=True)
