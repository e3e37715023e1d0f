"""Commands for archives: backfill and reprocess."""

import datetime as dt
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qc._text import pluralise
from qc.cli import options
from qc.cli.frames import Certified
from qc.cli.options import AsJson, ProjectFolder, err, opened_project, out, print_json
from qc.core.enums import ThresholdPolicy

if TYPE_CHECKING:
    from qc.pipeline.outcomes import ProcessingOutcome
    from qc.pipeline.rejudge import VerdictChange

archive_app = options.new_group("Process archives; judge stored frames again.")
options.app.add_typer(archive_app, name="archive")


@archive_app.command()
def backfill(
    places: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Files, folders or URLs such as s3://bucket/raw."),
    ],
    dask: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Dask scheduler; 'local' starts one.")
    ] = "",
    certified: Certified = None,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Process an archive; resumable."""
    from qc import db
    from qc.core.enums import LabelName
    from qc.pipeline.archive import find_archive
    from qc.pipeline.backfill import measure_archive
    from qc.pipeline.dask_workers import dashboard_of, open_cluster
    from qc.pipeline.rejudge import judge_pending

    label = LabelName(certified) if certified else None
    outcomes, verdicts = Counter[str](), Counter[str]()
    failed: list[ProcessingOutcome] = []
    with opened_project(folder) as project, options.progress_bars() as report:
        files = find_archive(places, project)
        with open_cluster(dask) if dask else nullcontext() as client:
            if client is not None:
                err.print(f"Dashboard: {dashboard_of(client)}", soft_wrap=True)
            for outcome in measure_archive(files, project, label, client):
                outcomes[str(outcome.state)] += 1
                failed += [outcome] if outcome.is_anomalous else []
                report("measure", outcomes.total(), len(files))
        with project.read_session() as session:
            waiting = db.recording.count_pending(session)
        for judgement in judge_pending(project):
            verdicts[str(judgement.verdict.status)] += 1
            report("judge", verdicts.total(), waiting)
    if as_json:
        failures = [{"file": str(outcome.path), "reason": outcome.reason} for outcome in failed]
        print_json({"files": outcomes, "verdicts": verdicts, "failures": failures})
    else:
        _print_backfill(outcomes, verdicts, failed)
    if failed or verdicts["ANOMALOUS"]:
        raise typer.Exit(options.ANOMALIES)


def _print_backfill(
    outcomes: Counter[str], verdicts: Counter[str], failed: "list[ProcessingOutcome]"
) -> None:
    from rich.table import Column, Table

    table = Table(Column("file", overflow="fold"), Column("reason of the failure"))
    for outcome in failed[: options.LIST_LIMIT]:
        table.add_row(outcome.path.name, outcome.reason.removeprefix(f"{outcome.path}: "))
    if failed:
        out.print(table)
    if len(failed) > options.LIST_LIMIT:
        out.print(f"and {len(failed) - options.LIST_LIMIT} more; --json lists all")
    for name, counts in (("files", outcomes), ("verdicts", verdicts)):
        parts = ", ".join(f"{counts[state]} {state}" for state in sorted(counts)) or "none"
        out.print(f"{counts.total()} {name}: {parts}", soft_wrap=True)


@archive_app.command()
def reprocess(
    since: options.FirstNight = None,
    until: options.LastNight = None,
    thresholds: Annotated[
        ThresholdPolicy, typer.Option(help="Threshold entry of each night, or the newest.")
    ] = ThresholdPolicy.DATED,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Judge stored frames again."""
    from qc import db
    from qc.pipeline.rejudge import rejudge_frames

    first, last = options.day_of(since, dt.date.min), options.day_of(until, dt.date.max)
    changed, judged = [], 0
    with opened_project(folder) as project, options.progress_bars() as report:
        with project.read_session() as session:
            total = db.recording.count_extensions(session, first, last)
        for change in rejudge_frames(project, first, last, thresholds):
            judged += 1
            report("judge again", judged, total)
            if change.is_changed:
                changed.append(change)
    records = [_change_record(change) for change in changed]
    if as_json:
        print_json({"judged": judged, "left_out": total - judged, "changed": records})
    else:
        _print_changes(records, judged, total - judged)
    if any(record["status"] == "ANOMALOUS" for record in records):
        raise typer.Exit(options.ANOMALIES)


def _change_record(change: "VerdictChange") -> dict[str, Any]:
    judged = change.judgement
    return {
        "frame": change.name,
        "extension": judged.measurement.number,
        "image_type": judged.measurement.setup.image_type,
        "before": change.before,
        "status": judged.verdict.status,
        "score": judged.verdict.score,
        "reference_size": judged.evidence.reference_size,
        "reasons": judged.verdict.reasons,
    }


def _print_changes(records: list[dict[str, Any]], judged: int, skipped: int) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    file = Column("frame", overflow="fold")
    table = Table(file, "type", "before", "now", "score", "n", "first reason")
    for record in records[: options.LIST_LIMIT]:
        table.add_row(
            f"{record['frame']}[{record['extension']}]",
            record["image_type"],
            record["before"],
            Text(record["status"], "bold red" if record["status"] == "ANOMALOUS" else ""),
            f"{record['score']:.1f}",
            str(record["reference_size"]),
            next(iter(record["reasons"]), ""),
        )
    if table.row_count:
        out.print(table)
    if len(records) > options.LIST_LIMIT:
        out.print(f"and {len(records) - options.LIST_LIMIT} more; --json lists all")
    summary = f"{pluralise(judged, 'extension')} judged again: {len(records)} changed status"
    if skipped:
        summary += f", {skipped} skipped: stored data incomplete, or no instrument file matches"
    out.print(summary, soft_wrap=True)
