"""Commands for frames: process, show, similar, export."""

import dataclasses
import sys
import webbrowser
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qc._text import pluralise
from qc.cli import options
from qc.cli.options import AsJson, ProjectFolder, err, opened_project, out, print_json
from qc.core.enums import ExportFormat, ExportTable

if TYPE_CHECKING:
    from rich.table import Table

    from qc.pipeline.outcomes import ProcessingOutcome
    from qc.search.similar import SimilarFrames

frames_app = options.new_group("Process, show, compare and export frames.")
options.app.add_typer(frames_app, name="frames")


class CertifiedLabel(StrEnum):
    """Label of all frames of a command."""

    GOOD = "good"


Certified = Annotated[
    CertifiedLabel | None, typer.Option("--label", help="Certify all frames as references.")
]


@frames_app.command()
def process(
    paths: Annotated[
        list[Path], typer.Argument(help="FITS files (.fits, .Z, .gz, .bz2, .fz) or folders.")
    ],
    certified: Certified = None,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Read, judge and store frames."""
    from qc.core.enums import LabelName
    from qc.pipeline.batch import find_frames, process_frames

    files = find_frames(paths)
    label = LabelName(certified) if certified else None
    with opened_project(folder) as project, options.progress_bars() as report:
        outcomes = []
        for outcome in process_frames(files, project, label):
            outcomes.append(outcome)
            report("process", len(outcomes), len(files))
    if as_json:
        print_json([record for outcome in outcomes for record in _outcome_records(outcome)])
    else:
        _print_outcomes(outcomes)
    if any(outcome.is_anomalous for outcome in outcomes):
        raise typer.Exit(options.ANOMALIES)


def _outcome_records(outcome: "ProcessingOutcome") -> list[dict[str, Any]]:
    file = {"file": outcome.path.name, "path": str(outcome.path), "state": outcome.state}
    if not outcome.judgements:
        return [{**file, "reason": outcome.reason}]
    return [
        {
            **file,
            "extension": judged.measurement.number,
            "image_type": judged.measurement.setup.image_type,
            "status": judged.verdict.status,
            "score": judged.verdict.score,
            "merge_height": judged.evidence.merge_height,
            "threshold": judged.highest_merge,
            "reasons": judged.verdict.reasons,
        }
        for judged in outcome.judgements
    ]


def _print_outcomes(outcomes: "list[ProcessingOutcome]") -> None:
    from rich.table import Column, Table
    from rich.text import Text

    file = Column("file", overflow="fold")
    table = Table(file, "ext", "type", "status", "score", "first reason")
    for outcome in outcomes:
        if not outcome.judgements and outcome.reason:
            reason = outcome.reason.removeprefix(f"{outcome.path}: ")
            table.add_row(outcome.path.name, "", "", str(outcome.state), "", reason)
        for judged in outcome.judgements:
            if judged.verdict.status == "ANOMALOUS":
                table.add_row(
                    outcome.path.name,
                    str(judged.measurement.number),
                    judged.measurement.setup.image_type,
                    Text("ANOMALOUS", "bold red"),
                    f"{judged.verdict.score:.1f}",
                    judged.verdict.reasons[0],
                )
    if table.row_count:
        out.print(table)
    verdicts = Counter(
        str(judged.verdict.status) for outcome in outcomes for judged in outcome.judgements
    )
    states = Counter(str(outcome.state) for outcome in outcomes)
    counts = [f"{states[name]} {name}" for name in sorted(states)]
    counts += [f"{verdicts[name]} {name}" for name in sorted(verdicts)]
    out.print(f"{pluralise(len(outcomes), 'file')}: " + ", ".join(counts or ["none"]))


@frames_app.command()
def show(
    frame: options.FrameName,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Write the frame's page and open it.")
    ] = False,
) -> None:
    """Show evidence, verdict and nearest reference."""
    from qc import exports

    with opened_project(folder) as project:
        with project.read_session() as session:
            records = exports.frame_records(session, frame)
        if open_page:
            from qc.reports.frame import write_frame_page

            page = write_frame_page(project, frame)
    if as_json:
        print_json(records)
    else:
        for record in records:
            out.print(_frame_table(record))
    if open_page:
        (err if as_json else out).print(f"Page: {page}", soft_wrap=True)
        webbrowser.open(page.as_uri())  # without a browser, the printed path remains
    if any(record["status"] == "ANOMALOUS" for record in records):
        raise typer.Exit(options.ANOMALIES)


def _frame_table(record: dict[str, Any]) -> "Table":
    from rich.table import Column, Table

    from qc.detection.decision import describe_sample

    title = f"{record['file']} extension {record['extension']}"
    record = _with_probabilities(record)
    table = Table("", Column(overflow="fold"), title=title, show_header=False)
    metrics = record["metrics"]
    for name, value in record.items():
        if value not in (None, "", metrics):
            cell = (
                describe_sample(value) if name == "reference_size" else options.format_value(value)
            )
            table.add_row(name.replace("_", " "), cell)
    table.add_section()
    for name, metric in metrics.items():
        z_score = "" if metric["z"] is None else f"   {metric['z']:+.1f} sigma"
        table.add_row(name.replace("_", " "), f"{metric['value']:.5g}{z_score}")
    return table


def _with_probabilities(record: dict[str, Any]) -> dict[str, Any]:
    """Join each prediction with its probability; improbable ones become "none likely"."""
    from qc.detection.decision import WORTH_NAMING

    joined = dict(record)
    for name in ("type", "kind"):
        probability = joined.pop(f"{name}_probability")
        if probability is not None:
            is_likely = probability >= WORTH_NAMING
            prediction = joined[f"predicted_{name}"] if is_likely else "none likely"
            joined[f"predicted_{name}"] = f"{prediction} ({probability:.0%})"
    return joined


@frames_app.command()
def similar(  # noqa: PLR0913, PLR0917 - one parameter per option
    frame: options.FrameName,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of neighbours.")] = 10,
    image_type: Annotated[
        str | None,
        typer.Option("--type", help="Image type, pattern or 'any'; default: its own."),
    ] = None,
    labelled: Annotated[bool, typer.Option("--labelled", help="Labelled frames only.")] = False,
    extension: Annotated[int | None, typer.Option(help="This HDU only.")] = None,
    since: options.FirstNight = None,
    until: options.LastNight = None,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Find the most similar frames of the history."""
    from qc.search import nearest
    from qc.search import similar as similarity

    with opened_project(folder) as project:
        with options.progress_bars() as report:
            nearest.refresh_index(project, report, few=nearest.FEW_NEWER)
        results = similarity.find_similar(
            project,
            frame,
            k,
            image_type=image_type,
            labelled=labelled,
            extension=extension,
            first=since.date() if since else None,
            last=until.date() if until else None,
        )
    if as_json:
        print_json([dataclasses.asdict(result) for result in results])
        return
    for result in results:
        for sentence in result.sentences():
            out.print(sentence, soft_wrap=True)
        if result.neighbours:
            out.print(_neighbour_table(result))


def _neighbour_table(result: "SimilarFrames") -> "Table":
    from rich.table import Column, Table

    columns = [Column("distance (thresholds)", justify="right")]
    columns += [Column("frame", no_wrap=True), Column("night", no_wrap=True)]
    is_mixed = any(row.image_type != result.image_type for row in result.neighbours)
    columns += [Column("type")] * is_mixed
    table = Table(*columns, Column("verdict and label", overflow="fold"))
    for row in result.neighbours:
        scale = f" ({row.distance / result.threshold:.1f})" if result.threshold else ""
        remarks = [text for text in (row.status, row.label, row.kind, row.note) if text]
        types = [row.image_type] * is_mixed
        night = str(row.night or "")
        table.add_row(f"{row.distance:.2g}{scale}", row.name, night, *types, ", ".join(remarks))
    return table


@frames_app.command()
def export(
    table: Annotated[ExportTable, typer.Argument(help="Table to write.")],
    since: options.FirstNight = None,
    table_format: Annotated[ExportFormat, typer.Option("--format")] = ExportFormat.CSV,
    file: Annotated[Path | None, typer.Option("--out", help="File; default: stdout.")] = None,
    folder: ProjectFolder = Path(),
) -> None:
    """Write verdicts, labels, metrics or embeddings."""
    from qc import exports

    with opened_project(folder) as project, project.read_session() as session:
        tables = exports.read_tables(session, table, since.date() if since else None)
        if file is None:
            exports.write_tables(tables, table_format, sys.stdout.buffer)
        else:
            rows = exports.write_tables_file(tables, table_format, file)
            err.print(f"{pluralise(rows, 'row')} in {file}", soft_wrap=True)
