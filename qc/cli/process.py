"""Commands that process and show frames."""

import webbrowser
from collections import Counter
from contextlib import nullcontext
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from qc._text import counted
from qc.core.enums import ThresholdPolicy

if TYPE_CHECKING:
    from qc.pipeline.process import ProcessingOutcome, VerdictChange
from qc.cli.options import (
    ANOMALIES,
    LISTED,
    AsJson,
    ProjectFolder,
    _in_lines,
    _print_json,
    _progress,
    app,
    err,
    opened_project,
    out,
)


class CertifiedLabel(StrEnum):
    """What a person has already said of all the frames given."""

    GOOD = "good"


@app.command()
def process(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="FITS files (.fits, .Z, .gz, .bz2, .fz), or folders."),
    ] = None,
    certified: Annotated[
        CertifiedLabel | None,
        typer.Option("--label", help="Take all of them as certified references."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Judge what is stored, by today's labels and epochs.")
    ] = False,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First night judged again.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last night judged again.")
    ] = None,
    thresholds: Annotated[
        ThresholdPolicy | None,
        typer.Option(help="Judge again by the entry of each night, or the newest."),
    ] = None,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Read, embed, judge and record frames; those already known cost nothing."""
    if again == bool(paths):
        raise typer.BadParameter("give files or folders; or --again, for what is stored")
    if again and certified:
        raise typer.BadParameter("--label is for files; 'qc label' is for what is stored")
    if not again and (since or until or thresholds):
        raise typer.BadParameter("--since, --until and --thresholds go with --again")
    if again:
        first = since.date() if since else date.min
        last = until.date() if until else date.max
        _judge_again(folder, first, last, thresholds or ThresholdPolicy.DATED, as_json)
    else:
        _process(paths or [], certified, folder, as_json)


def _process(
    paths: list[Path], certified: CertifiedLabel | None, folder: Path, as_json: bool
) -> None:
    from qc.core.enums import LabelName
    from qc.pipeline.process import find_frames, process_frames

    files = find_frames(paths)
    with opened_project(folder) as project, _progress() as report:
        outcomes = []
        for outcome in process_frames(files, project, LabelName(certified) if certified else None):
            outcomes.append(outcome)
            report("process", len(outcomes), len(files))
    if as_json:
        _print_json([record for outcome in outcomes for record in _outcome_records(outcome)])
    else:
        _print_outcomes(outcomes)
    if any(outcome.is_anomalous for outcome in outcomes):
        raise typer.Exit(ANOMALIES)


@app.command()
def backfill(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="FITS files, folders, or addresses such as s3://bucket/raw."
        ),
    ],
    dask: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Of a Dask scheduler; 'local' begins one here.")
    ] = "",
    certified: Annotated[
        CertifiedLabel | None,
        typer.Option("--label", help="Take all of them as certified references."),
    ] = None,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Take in an archive: measured newest first, then judged in order of time.

    It may be stopped at any time and given again: what is known is not read again.
    """
    from qc.core.enums import LabelName
    from qc.db.recording import count_unjudged
    from qc.pipeline.backfill import find_archive, measure_archive
    from qc.pipeline.dask_workers import dashboard_of, open_cluster
    from qc.pipeline.process import judge_waiting

    label = LabelName(certified) if certified else None
    outcomes, verdicts = Counter[str](), Counter[str]()
    failed: list[ProcessingOutcome] = []
    with opened_project(folder) as project, _progress() as report:
        files = find_archive(places, project)
        with open_cluster(dask) if dask else nullcontext() as client:
            if client is not None:
                err.print(f"Dashboard: {dashboard_of(client)}", soft_wrap=True)
            for outcome in measure_archive(files, project, label, client):
                outcomes[str(outcome.state)] += 1
                failed += [outcome] if outcome.is_anomalous else []
                report("measure", outcomes.total(), len(files))
        with project.reads() as session:
            waiting = count_unjudged(session)
        for judged in judge_waiting(project):
            verdicts[str(judged.verdict.status)] += 1
            report("judge", verdicts.total(), waiting)
    if as_json:
        failures = [{"file": str(one.path), "reason": one.reason} for one in failed]
        _print_json({"files": outcomes, "verdicts": verdicts, "failures": failures})
    else:
        _print_backfill(outcomes, verdicts, failed)
    if failed or verdicts["ANOMALOUS"]:
        raise typer.Exit(ANOMALIES)


def _print_backfill(
    outcomes: Counter[str], verdicts: Counter[str], failed: "list[ProcessingOutcome]"
) -> None:
    table = Table(Column("file", overflow="fold"), Column("why it could not be read"))
    for outcome in failed[:LISTED]:
        table.add_row(outcome.path.name, outcome.reason.removeprefix(f"{outcome.path}: "))
    if failed:
        out.print(table)
    if len(failed) > LISTED:
        out.print(f"and {len(failed) - LISTED} more; --json lists all")
    for total, what, counts in (
        (outcomes.total(), "files", outcomes),
        (verdicts.total(), "verdicts", verdicts),
    ):
        words = ", ".join(f"{counts[name]} {name}" for name in sorted(counts)) or "none"
        out.print(f"{total} {what}: {words}", soft_wrap=True)


def _outcome_records(outcome: "ProcessingOutcome") -> list[dict[str, Any]]:
    file = {"file": outcome.path.name, "path": str(outcome.path), "state": outcome.state}
    if not outcome.judged:
        return [{**file, "reason": outcome.reason}]
    return [
        {
            **file,
            "extension": judged.measured.number,
            "image_type": judged.measured.setup.image_type,
            "status": judged.verdict.status,
            "score": judged.verdict.score,
            "merge_height": judged.evidence.merge_height,
            "threshold": judged.highest_merge,
            "reasons": judged.verdict.reasons,
        }
        for judged in outcome.judged
    ]


def _print_outcomes(outcomes: "list[ProcessingOutcome]") -> None:
    file = Column("file", overflow="fold")
    table = Table(file, "ext", "type", "status", "score", "first reason")
    for outcome in outcomes:
        if not outcome.judged and outcome.reason:
            reason = outcome.reason.removeprefix(f"{outcome.path}: ")
            table.add_row(outcome.path.name, "", "", str(outcome.state), "", reason)
        for judged in outcome.judged:
            if judged.verdict.status == "ANOMALOUS":
                table.add_row(
                    outcome.path.name,
                    str(judged.measured.number),
                    judged.measured.setup.image_type,
                    Text("ANOMALOUS", "bold red"),
                    f"{judged.verdict.score:.1f}",
                    judged.verdict.reasons[0],
                )
    if table.row_count:
        out.print(table)
    out.print(_count_words(outcomes))


def _judge_again(
    folder: Path, first: date, last: date, in_force: ThresholdPolicy, as_json: bool
) -> None:
    from qc.db.recording import extensions_between
    from qc.pipeline.process import judge_again

    changed, judged = [], 0
    with opened_project(folder) as project, _progress() as report:
        with project.reads() as session:
            total = extensions_between(session, first, last)
        for one in judge_again(project, first, last, in_force):
            judged += 1
            report("judge again", judged, total)
            if one.is_changed:
                changed.append(one)
    records = [_rejudged_record(one) for one in changed]
    if as_json:
        _print_json({"judged": judged, "left_out": total - judged, "changed": records})
    else:
        _print_rejudged(records, judged, total - judged)
    if any(record["status"] == "ANOMALOUS" for record in records):
        raise typer.Exit(ANOMALIES)


def _rejudged_record(one: "VerdictChange") -> dict[str, Any]:
    judged = one.judged
    return {
        "frame": one.name,
        "extension": judged.measured.number,
        "image_type": judged.measured.setup.image_type,
        "before": one.before,
        "status": judged.verdict.status,
        "score": judged.verdict.score,
        "reference_size": judged.evidence.reference_size,
        "reasons": judged.verdict.reasons,
    }


def _print_rejudged(records: list[dict[str, Any]], judged: int, left_out: int) -> None:
    file = Column("frame", overflow="fold")
    table = Table(file, "type", "before", "now", "score", "n", "first reason")
    for record in records[:LISTED]:
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
    if len(records) > LISTED:
        out.print(f"and {len(records) - LISTED} more; --json lists all")
    words = f"{counted(judged, 'extension')} judged again: {len(records)} changed status"
    if left_out:
        words += f", {left_out} left out: too little was kept, or no instrument file knows them"
    out.print(words, soft_wrap=True)


def _count_words(outcomes: "list[ProcessingOutcome]") -> str:
    verdicts = Counter(str(each.verdict.status) for one in outcomes for each in one.judged)
    states = Counter(str(outcome.state) for outcome in outcomes)
    counts = [f"{states[name]} {name}" for name in sorted(states)]
    counts += [f"{verdicts[name]} {name}" for name in sorted(verdicts)]
    return f"{counted(len(outcomes), 'file')}: " + ", ".join(counts or ["none"])


@app.command()
def show(
    frame: Annotated[str, typer.Argument(help="Archive name, file name or path.")],
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Write its page with pictures, and open it.")
    ] = False,
) -> None:
    """Tell all that is known of one frame: evidence, verdict, nearest reference."""
    from qc.exports import frame_records
    from qc.reports.night import write_frame_page

    with opened_project(folder) as project:
        with project.reads() as session:
            records = frame_records(session, frame)
        page = write_frame_page(project, frame) if open_page else None
    if as_json:
        _print_json(records)
    else:
        for record in records:
            out.print(_show_table(record))
    if page:
        (err if as_json else out).print(f"Page: {page}", soft_wrap=True)
        webbrowser.open(page.as_uri())  # where there is none, the path has been said
    if any(record["status"] == "ANOMALOUS" for record in records):
        raise typer.Exit(ANOMALIES)


def _show_table(record: dict[str, Any]) -> Table:
    from qc.detection.decision import sample_words

    title = f"{record['file']} extension {record['extension']}"
    record = _with_probabilities(record)
    table = Table("", Column(overflow="fold"), title=title, show_header=False)
    metrics = record["metrics"]
    for name, value in record.items():
        if value not in (None, "", metrics):
            said = sample_words(value) if name == "reference_size" else _in_lines(value)
            table.add_row(name.replace("_", " "), said)
    table.add_section()
    for name, metric in metrics.items():
        z = "" if metric["z"] is None else f"   {metric['z']:+.1f} sigma"
        table.add_row(name.replace("_", " "), f"{metric['value']:.5g}{z}")
    return table


def _with_probabilities(record: dict[str, Any]) -> dict[str, Any]:
    """Say each likely prediction with its probability; alone it would sound certain."""
    from qc.detection.decision import WORTH_NAMING

    said = dict(record)
    for name in ("type", "kind"):
        probability = said.pop(f"{name}_probability")
        if probability is not None:
            likely = probability >= WORTH_NAMING
            words = said[f"predicted_{name}"] if likely else "none likely"
            said[f"predicted_{name}"] = f"{words} ({probability:.0%})"
    return said
