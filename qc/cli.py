"""The command line: parse, call one function, print, exit code.

Exit codes: 0 nominal, 1 anomalies found (or a classifier refused), 2 a mistake, said in one line.

Imports stand inside the commands: ``qc --help`` answers at once, though what the commands need
takes seconds to load.
"""

import json
import logging
import os
import sys
import traceback
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from qc.choices import MANY, Format, InForce, Role, What, counted
from qc.errors import InvalidAnswer
from qc.times import utc_now

if TYPE_CHECKING:
    from qc.demo import DemoResult
    from qc.epochs import Entered, Entry
    from qc.health import Health
    from qc.history import Likeness
    from qc.instruments import FaultKind, Instrument
    from qc.labels import Change
    from qc.pipeline import Outcome, Rejudged
    from qc.proposals import Flip, Proposal
    from qc.runtime import Runtime
    from qc.selftest import SelfTest
    from qc.training import Trained

ANOMALIES, MISTAKE = 1, 2
REFUSED = 1  # by 'qc train': kept, but not in use
LISTED = 50  # lines of what has changed

app = typer.Typer(
    help="Find the calibration frame that does not belong with its kind.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
db = typer.Typer(help="Make a project, bring its database up to date, or check it.")
app.add_typer(db, name="db", no_args_is_help=True)
user = typer.Typer(help="Say who may use the review pages, and what they may do there.")
app.add_typer(user, name="user", no_args_is_help=True)

# A file may be called [red]x.fits or :smile:.fits; what people named is printed as it is.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

Project = Annotated[
    Path,
    typer.Option(
        "--project",
        envvar="QC_PROJECT",
        help="Folder with the settings, the thresholds and the database.",
        show_default="the current folder",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, not a table.")]
AccountName = Annotated[str, typer.Argument(metavar="NAME", help="Of the account.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(help="A file with the password, or - for standard input; otherwise it is asked."),
]
Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])]


class FitsFormat(StrEnum):
    """How simulated frames are written."""

    FITS = "fits"
    FITS_Z = "fits.Z"


class SimulatedPlan(StrEnum):
    """What a simulated observatory takes each night."""

    DEMO = "demo"
    FULL = "full"


class Certified(StrEnum):
    """What a person has already said of all the frames given."""

    GOOD = "good"


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="A new folder to make.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Another seed, another night.")] = 1,
) -> None:
    """Simulate a history and a night with faults, judge them, and write the report."""
    from qc.demo import create_demo

    with _progress() as report:
        result = create_demo(folder, seed=seed, progress=report)
    out.print(_demo_table(result))
    out.print(
        f"{result.nominal} extensions without a fault, {result.false_alarms} of them flagged.\n"
        f"\nReport:  {result.report}\n"
        f"Project: {result.project.resolve()}\n"
        f"Next:    qc status --project {result.project}",
        soft_wrap=True,
    )


def _demo_table(result: "DemoResult") -> Table:
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
    folder: Annotated[Path, typer.Option("--out", help="Where the nights are written.")],
    nights: Annotated[int, typer.Option(min=1, help="Consecutive nights.")] = 1,
    first: Annotated[
        datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="Date of the first evening.")
    ] = datetime(2026, 7, 1),  # noqa: DTZ001 - a date
    faults: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the frames that carry a fault.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    fits_format: Annotated[FitsFormat, typer.Option("--format")] = FitsFormat.FITS,
    plan: Annotated[
        SimulatedPlan, typer.Option(help="A small 2x2 night, or all that UVES takes.")
    ] = SimulatedPlan.DEMO,
) -> None:
    """Write raw UVES frames that never were, and the truth about each in truth.csv."""
    from qc import simulator

    plans = {SimulatedPlan.DEMO: simulator.DEMO_PLAN, SimulatedPlan.FULL: simulator.FULL_PLAN}
    with _progress() as report:
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


@app.command()
def process(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="FITS files (.fits, .Z, .gz, .bz2, .fz), or folders."),
    ] = None,
    certified: Annotated[
        Certified | None, typer.Option("--label", help="Take all of them as certified references.")
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
        InForce | None, typer.Option(help="Judge again by the entry of each night, or the newest.")
    ] = None,
    project: Project = Path(),
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
        _judge_again(project, first, last, thresholds or InForce.DATED, as_json)
    else:
        _process(paths or [], certified, project, as_json)


def _process(paths: list[Path], certified: Certified | None, project: Path, as_json: bool) -> None:
    from qc.pipeline import find_frames, process_frames
    from qc.tables import LabelName

    files = find_frames(paths)
    with _runtime(project) as runtime, _progress() as report:
        outcomes = []
        for outcome in process_frames(files, runtime, LabelName(certified) if certified else None):
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
        Certified | None, typer.Option("--label", help="Take all of them as certified references.")
    ] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Take in an archive: measured newest first, then judged in order of time.

    It may be stopped at any time and given again: what is known is not read again.
    """
    from qc.backfill import find_archive, measure_archive
    from qc.cluster import dashboard_of, open_cluster
    from qc.database import count_unjudged
    from qc.pipeline import judge_waiting
    from qc.tables import LabelName

    label = LabelName(certified) if certified else None
    outcomes, verdicts = Counter[str](), Counter[str]()
    failed: list[Outcome] = []
    with _runtime(project) as runtime, _progress() as report:
        files = find_archive(places, runtime)
        with open_cluster(dask) if dask else nullcontext() as client:
            if client is not None:
                err.print(f"Dashboard: {dashboard_of(client)}", soft_wrap=True)
            for outcome in measure_archive(files, runtime, label, client):
                outcomes[str(outcome.state)] += 1
                failed += [outcome] if outcome.is_anomalous else []
                report("measure", outcomes.total(), len(files))
        with runtime.reads() as session:
            waiting = count_unjudged(session)
        for judged in judge_waiting(runtime):
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
    outcomes: Counter[str], verdicts: Counter[str], failed: "list[Outcome]"
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


def _outcome_records(outcome: "Outcome") -> list[dict[str, Any]]:
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


def _print_outcomes(outcomes: "list[Outcome]") -> None:
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


def _judge_again(project: Path, first: date, last: date, in_force: InForce, as_json: bool) -> None:
    from qc.database import extensions_between
    from qc.pipeline import judge_again

    changed, judged = [], 0
    with _runtime(project) as runtime, _progress() as report:
        with runtime.reads() as session:
            total = extensions_between(session, first, last)
        for one in judge_again(runtime, first, last, in_force):
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


def _rejudged_record(one: "Rejudged") -> dict[str, Any]:
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


def _count_words(outcomes: "list[Outcome]") -> str:
    verdicts = Counter(str(each.verdict.status) for one in outcomes for each in one.judged)
    states = Counter(str(outcome.state) for outcome in outcomes)
    counts = [f"{states[name]} {name}" for name in sorted(states)]
    counts += [f"{verdicts[name]} {name}" for name in sorted(verdicts)]
    return f"{counted(len(outcomes), 'file')}: " + ", ".join(counts or ["none"])


@app.command()
def show(
    frame: Annotated[str, typer.Argument(help="Archive name, file name or path.")],
    project: Project = Path(),
    as_json: AsJson = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Write its page with pictures, and open it.")
    ] = False,
) -> None:
    """Tell all that is known of one frame: evidence, verdict, nearest reference."""
    from qc.exports import frame_records
    from qc.reports import write_frame_page

    with _runtime(project) as runtime:
        with runtime.reads() as session:
            records = frame_records(session, frame)
        page = write_frame_page(runtime, frame) if open_page else None
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
    from qc.judge import sample_words

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
    from qc.judge import WORTH_NAMING

    said = dict(record)
    for name in ("type", "kind"):
        probability = said.pop(f"{name}_probability")
        if probability is not None:
            likely = probability >= WORTH_NAMING
            words = said[f"predicted_{name}"] if likely else "none likely"
            said[f"predicted_{name}"] = f"{words} ({probability:.0%})"
    return said


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
    project: Project = Path(),
) -> None:
    """Say what frames are: good, bad and of which kind, or a valid outlier; or undo it."""
    from qc import labels
    from qc.database import user

    who = who or user()
    with _runtime(project) as runtime:
        if kinds:
            _print_kinds(labels.taxonomy(runtime.instruments, image_type))
            return
        if file:
            _import_labels(runtime, file, who)
            return
        if bool(said) == is_undo:
            raise InvalidAnswer("say --as good, bad or valid-outlier; or --undo")
        day = night.date() if night else None
        answer = labels.read_answer(said, kind, note, who=who) if said else None
        _check_meant(
            frames=bool(frames),
            sample=sample,
            is_good=said == "good",
            chosen=bool(image_type or status or (day and not sample)),
            detailed=whole_set or number is not None,
        )
        with runtime.reads() as session:
            if sample:
                found = labels.choose_sample(session, day)
            elif frames:
                found = labels.choose_named(session, frames, number, whole_set=whole_set)
            else:
                found = labels.choose_where(session, runtime.instruments, image_type, day, status)
                _confirm(len(found), yes)
        with runtime.writes.begin() as session:
            if answer:
                changes = labels.answer_for(session, found, answer, runtime.instruments)
            else:
                changes = labels.undo(session, found, who, note)
    _print_changes(changes)
    if answer and answer.label == "valid-outlier":
        out.print("If it is to stay so, let references start anew:")
        for command in labels.epoch_commands(found, answer.note):
            out.print(f"  {command}", soft_wrap=True)


def _check_meant(
    *, frames: bool, sample: bool, is_good: bool, chosen: bool, detailed: bool
) -> None:
    """Let people say in one way of what they speak."""
    if frames + sample + chosen != 1:
        raise InvalidAnswer("name frames; or choose by --type, --night and --status; or --sample")
    if sample and not is_good:
        raise InvalidAnswer("--sample goes with --as good; label bad ones before, by their names")
    if detailed and not frames:
        raise InvalidAnswer("--extension and --set go with the names of frames")


def _import_labels(runtime: "Runtime", file: Path, who: str) -> None:
    from qc.labels import import_labels

    with runtime.writes.begin() as session:
        imported = import_labels(session, file, runtime.instruments, who)
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
        raise InvalidAnswer("there is none of that type, night and status")
    if count <= MANY or yes:
        return
    if not sys.stdin.isatty():
        raise InvalidAnswer(f"{count} extensions are more than {MANY}: say --yes as well")
    if not typer.confirm("All of them?", err=True):
        raise InvalidAnswer("nothing was kept")


def _print_kinds(kinds: "list[tuple[Instrument, FaultKind]]") -> None:
    table = Table("instrument", Column("kind", no_wrap=True), "occurs in", "what it is")
    for instrument, kind in kinds:
        table.add_row(instrument.name, kind.name, " ".join(kind.classes), kind.sentence)
    out.print(table)


def _print_changes(changes: "list[Change]") -> None:
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
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Enter an intervention, from whose night on references start anew; or list them all."""
    from qc import epochs
    from qc.database import user

    who = who or user()
    with _runtime(project) as runtime:
        if scope is None and undone is None:
            if since or why:
                raise InvalidAnswer("an epoch needs an image type or instrument before --from")
            with runtime.reads() as session:
                _print_log(epochs.read_log(session), as_json)
        elif listed or (scope is not None and undone is not None):
            raise InvalidAnswer("enter one epoch, or --undo one, or --list them all")
        elif undone is not None:
            with runtime.writes.begin() as session:
                entered = epochs.undo(session, undone, why, who=who)
            _print_entered(entered, is_undone=True)
        elif scope is not None and since is not None:
            with runtime.writes.begin() as session:
                entered = epochs.enter(
                    session, scope, since.date(), why, who=who, instruments=runtime.instruments
                )
            _print_entered(entered, is_undone=False)
        else:
            raise InvalidAnswer("an epoch needs --from DATE and --why TEXT")


def _print_entered(entered: "Entered", *, is_undone: bool) -> None:
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


def _print_log(log: "list[Entry]", as_json: bool) -> None:
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


@app.command()
def tune(  # noqa: PLR0913, PLR0917 - each is one word of a sentence
    image_types: Annotated[
        list[str] | None,
        typer.Argument(help="Image types, or patterns as 'UD1*'; all that were seen by default."),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(min=1e-6, max=0.5, help="Rate per extension that is granted, e.g. 0.001."),
    ] = None,
    recall: Annotated[
        float | None, typer.Option(min=0, max=1, help="Part of the bad frames to be found.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Add them to thresholds.yaml.")] = False,
    why: Annotated[str, typer.Option(help="The reason, for the file.")] = "",
    by: Annotated[str, typer.Option(help="Your name, for the file.", show_default="yours")] = "",
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="First night whose frames are looked at."),
    ] = None,
    effective: Annotated[
        datetime | None,
        typer.Option(
            "--from", formats=["%Y-%m-%d"], help="Night from which they hold; today by default."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw them in.")] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Propose new limits from what was judged and labelled, and say what they would change."""
    from qc import database, proposals
    from qc.files import written_whole

    if false_alarms is not None and recall is not None:
        raise InvalidAnswer("give --false-alarms or --recall: one limit cannot be set for both")
    if write and not why.strip():
        raise InvalidAnswer("--write needs a reason for the file: --why 'a new lamp on 3 March'")
    if plot and plot.suffix.lower() != ".png":
        raise InvalidAnswer(f"{plot}: the picture is a PNG; give a name that ends in .png")
    goal = proposals.Goal(
        effective=(effective or utc_now()).date(),
        since=since.date() if since else date.min,
        false_alarms=false_alarms,
        recall=recall,
    )
    with _runtime(project) as runtime, _progress() as report:
        found, refused = proposals.propose_all(
            runtime,
            image_types or [],
            goal,
            why.strip(),
            by or database.user(),
            progress=lambda done, total: report("tune", done, total),
        )
        if plot:
            with written_whole(plot) as stream:
                stream.write(proposals.draw_proposals(found))
        if write:
            proposals.write_proposals(runtime, found)
    if as_json:
        records = [proposals.proposal_record(one) for one in found]
        _print_json({"proposals": records, "refused": refused})
    else:
        _print_proposals(found, refused)
    if plot:
        err.print(f"Picture: {plot}", soft_wrap=True)
    if write:
        changed = runtime.thresholds.path
        count = "1 entry" if len(found) == 1 else f"{len(found)} entries"
        err.print(f"{count} from {goal.effective} on in {changed}", soft_wrap=True)


def _print_proposals(found: "list[Proposal]", refused: "list[str]") -> None:
    for proposal in found:
        out.print(f"{proposal.image_type}: {proposal.basis}", soft_wrap=True)
        out.print(_proposal_table(proposal))
        _print_flips("Newly flagged", proposal.newly_flagged)
        _print_flips("No longer flagged", proposal.no_longer_flagged)
        for note in proposal.notes:
            out.print(f"Note: {note}.", soft_wrap=True)
        out.print()
    for sentence in refused:
        out.print(f"{sentence}.", soft_wrap=True)


def _proposal_table(proposal: "Proposal") -> Table:
    table = Table(Column(no_wrap=True))
    for name in ("present", "proposed", "95 % interval"):
        table.add_column(name, justify="right")
    for row in proposal.rows():
        table.add_row(*row)
    return table


_SHOWN_FLIPS = 20


def _print_flips(title: str, flips: "Sequence[Flip]") -> None:
    if not flips:
        return
    out.print(f"{title}: {len(flips)} of the past")
    for flip in flips[:_SHOWN_FLIPS]:
        said = f"labelled {flip.label} {flip.kind}".strip() if flip.label else "not labelled"
        line = f"  {flip.name}  {flip.night}  {flip.ratio:.2f} times the new limit, {said}"
        out.print(line, soft_wrap=True)
    if len(flips) > _SHOWN_FLIPS:
        out.print(f"  and {len(flips) - _SHOWN_FLIPS} more")


@app.command()
def train(
    page: Annotated[
        Path | None, typer.Option("--report", help="HTML file with all figures and pictures.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the one in use even by a worse one.")
    ] = False,
    who: Annotated[str, typer.Option(help="Your name.", show_default="yours")] = "",
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Train the classifier on what was labelled; it replaces the one in use unless it is worse.

    Exit code 1: it was worse, and is kept on record only.
    """
    from qc import database, lessons, training

    who = who or database.user()
    with _runtime(project) as runtime, _progress() as report:
        trained = training.train(
            runtime,
            who=who,
            force=force,
            progress=lambda done, total: report("train", done, total),
        )
        if page:
            lessons.write_lessons(
                page,
                trained,
                who=who,
                encoder=runtime.encoder.fingerprint,
                generated_at=utc_now(),
                progress=lambda done, total: report("learning curve", done, total),
            )
    if as_json:
        _print_json(training.figures_record(trained))
    else:
        _print_trained(trained)
    if page:
        err.print(f"Report: {page}", soft_wrap=True)
    if not trained.accepted:
        raise typer.Exit(REFUSED)


def _print_trained(trained: "Trained") -> None:
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


@app.command()
def similar(  # noqa: PLR0913, PLR0917 - each is one word of a sentence
    frame: Annotated[
        str, typer.Argument(help="Archive name, file name or path; a new file is only read.")
    ],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many.")] = 10,
    image_type: Annotated[
        str | None,
        typer.Option(
            "--type", help="Among which: an image type, a pattern, or 'any'; its own by default."
        ),
    ] = None,
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Only what a person has spoken about.")
    ] = False,
    extension: Annotated[int | None, typer.Option(help="Only this HDU.")] = None,
    since: Day = None,
    until: Day = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Find the frames of the whole history that look most like one, and what was said of them."""
    from dataclasses import asdict

    from qc import history
    from qc.search import FEW_NEWER, refresh_index

    with _runtime(project) as runtime:
        with _progress() as report:
            refresh_index(runtime, report, few=FEW_NEWER)
        found = history.similar(
            runtime,
            frame,
            k,
            image_type=image_type,
            labelled=labelled,
            extension=extension,
            first=since.date() if since else None,
            last=until.date() if until else None,
        )
    if as_json:
        _print_json([asdict(one) for one in found])
        return
    for one in found:
        for sentence in one.sentences():
            out.print(sentence, soft_wrap=True)
        if one.neighbours:
            out.print(_likeness_table(one))


def _likeness_table(likeness: "Likeness") -> Table:
    columns = [Column("distance (thresholds)", justify="right")]
    columns += [Column("frame", no_wrap=True), Column("night", no_wrap=True)]
    mixed = any(one.image_type != likeness.image_type for one in likeness.neighbours)
    columns += [Column("type")] * mixed
    table = Table(*columns, Column("what it was", overflow="fold"))
    for one in likeness.neighbours:
        scale = f" ({one.distance / likeness.threshold:.1f})" if likeness.threshold else ""
        said = [word for word in (one.status, one.label, one.kind, one.note) if word]
        types = [one.image_type] * mixed
        night = str(one.night or "")
        table.add_row(f"{one.distance:.2g}{scale}", one.name, night, *types, ", ".join(said))
    return table


@app.command()
def report(
    night: Day = None,
    week: Annotated[
        bool, typer.Option("--week", help="Of the seven nights that end with that one.")
    ] = False,
    month: Annotated[
        str, typer.Option(metavar="YYYY-MM|last", help="Of a month; last is the last full one.")
    ] = "",
    file: Annotated[Path | None, typer.Option("--out", help="HTML file to write.")] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write a PDF beside it as well.")] = False,
    mail: Annotated[
        bool, typer.Option("--mail", help="Send it to those whose subscription asks for reports.")
    ] = False,
    project: Project = Path(),
) -> None:
    """Write the report of a night, a week or a month as one HTML file; by default the newest."""
    from qc import mailing, publishing
    from qc.alerts import send_unsent
    from qc.periods import read_month

    if month and (week or night):
        raise InvalidAnswer("give --month alone; --night goes with --week, or alone")
    now = utc_now()
    day = night.date() if night else None
    with _runtime(project) as runtime, _progress() as shown:

        def drawn(done: int, total: int) -> None:
            shown("report", done, total)

        if week or month:
            this = read_month(month, now.date()) if month else publishing.newest_week(runtime, day)
            written = publishing.publish_span(
                runtime, this, now, file=file, pdf=pdf, progress=drawn
            )
            heard = mailing.mail_span(runtime, this, written, now) if mail else 0
        else:
            day = day or publishing.newest_week(runtime, None).last
            written = publishing.publish_night(
                runtime, day, now, file=file, pdf=pdf, progress=drawn
            )
            heard = mailing.mail_night(runtime, day, written, now) if mail else 0
        sent = send_unsent(runtime, utc_now()) if heard else None
    out.print(f"Report: {written.html}", soft_wrap=True)
    if written.pdf:
        out.print(f"PDF:    {written.pdf}", soft_wrap=True)
    if mail:
        out.print(f"Mail:   owed to {heard}, {sent.sent if sent else 0} sent now", soft_wrap=True)
        for trouble in sent.troubles if sent else ():
            err.print(trouble, soft_wrap=True)


@app.command("self-test")
def self_test(
    night: Day = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Put faults into a night's good images, in memory, and say how many of them are found.

    Exit code 1: fewer than the instrument's file demands, this night and lately.
    """
    from dataclasses import asdict

    from qc.selftest import run_self_test

    with _runtime(project) as runtime, _progress() as shown:
        tested = run_self_test(
            runtime,
            night.date() if night else None,
            utc_now(),
            progress=lambda done, total: shown("self-test", done, total),
        )
    if as_json:
        _print_json(asdict(tested))
    else:
        _print_self_test(tested)
    if tested.is_below_limit:
        raise typer.Exit(ANOMALIES)


def _print_self_test(tested: "SelfTest") -> None:
    out.print(f"{tested.words[:1].upper()}{tested.words[1:]}.", soft_wrap=True)
    missed = [one for one in tested.trials if not one.is_found]
    if missed:
        table = Table("missed", "strength", "type", Column("frame", no_wrap=True), "score")
        for one in missed:
            score = f"{one.score:.2f}"
            table.add_row(one.kind, one.strength, one.image_type, one.frame, score)
        out.print(table)
    for what, names in [
        ("No time for", tested.untried),
        ("Not to be put into images of this night", tested.beyond),
        ("Not counted", tested.invisible),
        ("No longer on disk", tested.lost),
    ]:
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            out.print(f"{what}: {', '.join(names[:LISTED])}{more}.", soft_wrap=True)
    for fall in tested.falls:
        out.print(f"Too few since {fall.since}: {fall.sentence}.", soft_wrap=True)


@app.command()
def export(
    what: Annotated[What, typer.Argument(help="Which table.")],
    since: Day = None,
    table_format: Annotated[Format, typer.Option("--format")] = Format.CSV,
    file: Annotated[Path | None, typer.Option("--out", help="File; else to the screen.")] = None,
    project: Project = Path(),
) -> None:
    """Write what is stored as a table: one row for each extension, with its newest verdict."""
    from qc import exports

    with _runtime(project) as runtime, runtime.reads() as session:
        tables = exports.read_tables(session, what, since.date() if since else None)
        if file is None:
            exports.write_tables(tables, table_format, sys.stdout.buffer)
        else:
            rows = exports.write_tables_file(tables, table_format, file)
            err.print(f"{counted(rows, 'row')} in {file}", soft_wrap=True)


@app.command()
def run(project: Project = Path()) -> None:
    """Keep watch: take in new frames, tell people, write reports; until it is told to end."""
    from qc.daemon import run_daemon
    from qc.logs import start_logging
    from qc.service import Supervisor
    from qc.settings import read_settings

    settings = read_settings(project)
    start_logging(settings.log)
    with _runtime(project) as runtime:
        run_daemon(runtime, Supervisor(os.environ))


@app.command()
def alerts(
    every: Annotated[bool, typer.Option("--all", help="The answered ones too.")] = False,
    test_mail: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Send a test mail now; say what the server answers."),
    ] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Say what people were told and have not answered, who was told, and what is owed.

    Exit code 1: something is open.
    """
    from qc.notices import alerts_record

    if test_mail is not None:
        _send_test(project, test_mail)
        return
    with _runtime(project) as runtime, runtime.reads() as session:
        record = alerts_record(session, every=every)
    if as_json:
        _print_json(record)
    else:
        _print_alerts(record)
    if record["open"]:
        raise typer.Exit(ANOMALIES)


def _send_test(project: Path, address: str) -> None:
    from qc.alerts import send_test
    from qc.settings import read_settings

    settings = read_settings(project)
    answer = send_test(settings.mail, settings.project, address, utc_now())
    out.print(f"{settings.mail.host} took the mail for {address}: {answer}", soft_wrap=True)


def _print_alerts(record: dict[str, Any]) -> None:
    table = Table("No.", "made (UT)", Column("what", overflow="fold"), "told", "answered")
    for one in record["notices"][-LISTED:]:
        said = [f"{each['who']}: {each['note']}".rstrip(": ") for each in one["acknowledged"]]
        table.add_row(
            str(one["number"]),
            f"{one['made_at']:%Y-%m-%d %H:%M}",
            one["subject"].removeprefix("[QC] "),
            "\n".join(_delivery_words(each) for each in one["deliveries"]) or "nobody",
            Text("open", "bold red") if one["open"] else "\n".join(said),
        )
    if table.row_count:
        out.print(table)
    if len(record["notices"]) > LISTED:
        out.print(f"and {len(record['notices']) - LISTED} older ones; --json lists all")
    for one in record["silences"]:
        out.print(_silence_words(one), soft_wrap=True)
    out.print(f"{record['open']} open, {counted(record['waiting'], 'alert')} waiting to be told")


def _delivery_words(delivery: dict[str, Any]) -> str:
    address = delivery["address"]
    if delivery["sent_at"]:
        return f"{address} {delivery['sent_at']:%m-%d %H:%M}"
    if delivery["gave_up_at"]:
        return f"{address}: given up: {delivery['trouble']}"
    if delivery["tries"]:
        return f"{address}: owed, tried {counted(delivery['tries'], 'time')}: {delivery['trouble']}"
    return f"{address}: owed"


def _silence_words(one: dict[str, Any]) -> str:
    about = " ".join([one["topic"], one["instrument"] or "", *one["image_types"]])
    ends = [f"until {one['until']:%Y-%m-%d %H:%M} UT"] if one["until"] else []
    ends += ["until the next nominal frame"] if one["until_nominal"] else []
    over = (
        f"; ended {one['ended_at']:%Y-%m-%d %H:%M}: {one['ended_why']}" if one["ended_at"] else ""
    )
    note = f": {one['note']}" if one["note"] else ""
    return f"Silence {one['number']}: {about} {' or '.join(ends)}, says {one['who']}{note}{over}"


@app.command()
def ack(
    numbers: Annotated[list[int], typer.Argument(help="Numbers of notices, see 'qc alerts'.")],
    span: Annotated[
        str | None, typer.Option("--for", help="No more mail of the like: 30m, 12h, 7d.")
    ] = None,
    until_nominal: Annotated[
        bool, typer.Option("--until-nominal", help="No more of the like until a frame is nominal.")
    ] = False,
    note: Annotated[str, typer.Option(help="What it is.")] = "",
    who: Annotated[str, typer.Option(help="Who says it.", show_default="you")] = "",
    project: Project = Path(),
) -> None:
    """Say that a notice has been seen: nobody else is told; and silence its like, if asked."""
    from qc import notices
    from qc.choices import read_span
    from qc.database import user

    now = utc_now()
    until = now + read_span(span) if span is not None else None
    with _runtime(project) as runtime, runtime.writes.begin() as session:
        for number in numbers:
            notices.acknowledge(session, number, who or user(), now, note)
            if until is not None or until_nominal:
                notices.silence(session, number, until, until_nominal, who or user(), now, note)
    ends = [f"until {until:%Y-%m-%d %H:%M} UT"] if until else []
    ends += ["until the next nominal frame"] if until_nominal else []
    silent = f"; no mail of the like {' or '.join(ends)}" if ends else ""
    seen = ", ".join(map(str, numbers))
    out.print(f"Acknowledged: {seen}{silent}.", soft_wrap=True)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address.", show_default="qc.toml's")] = "",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0: any.", show_default="qc.toml's")
    ] = None,
    project: Project = Path(),
) -> None:
    """Serve the review pages to a browser; on this machine alone until 'qc user' adds somebody."""
    from qc.logs import start_logging
    from qc.web.server import serve as serve_pages

    with _runtime(project) as runtime:
        start_logging(runtime.settings.log)
        web = runtime.settings.web
        serve_pages(
            runtime,
            host or web.host,
            web.port if port is None else port,
            lambda address: out.print(address, soft_wrap=True),
        )


@user.command("add")
def user_add(
    name: AccountName,
    role: Annotated[Role, typer.Option(help="look; review: label too; tune: and set limits.")],
    password_file: PasswordFile = None,
    project: Project = Path(),
) -> None:
    """Let somebody in, with a password that is asked for."""
    from qc import accounts

    password = _password(password_file)
    with _runtime(project) as runtime, runtime.writes.begin() as session:
        accounts.add_account(session, name, role, password, utc_now())
    out.print(f"{name} may log in, with the role {role}.", soft_wrap=True)


@user.command("list")
def user_list(project: Project = Path(), as_json: AsJson = False) -> None:
    """Say who may log in."""
    from qc import accounts

    with _runtime(project) as runtime, runtime.reads() as session:
        found = accounts.accounts(session)
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


@user.command("password")
def user_password(
    name: AccountName, password_file: PasswordFile = None, project: Project = Path()
) -> None:
    """Set another password; who is logged in with the old one is not any more."""
    from qc import accounts

    password = _password(password_file)
    with _runtime(project) as runtime, runtime.writes.begin() as session:
        accounts.change_password(session, name, password)
    out.print(f"{name} has another password.", soft_wrap=True)


@user.command("remove")
def user_remove(name: AccountName, project: Project = Path()) -> None:
    """Let somebody in no more; what they said stays."""
    from qc import accounts

    with _runtime(project) as runtime, runtime.writes.begin() as session:
        accounts.remove_account(session, name)
        is_last = not accounts.has_accounts(session)
    out.print(f"{name} is let in no more.", soft_wrap=True)
    if is_last:
        out.print("Nobody else has an account: the pages are this machine's alone now.")


@user.command("token")
def user_token(
    name: AccountName,
    revoke: Annotated[bool, typer.Option("--revoke", help="Let none of them in any more.")] = False,
    project: Project = Path(),
) -> None:
    """Make a token for somebody's scripts, as 'Authorization: Bearer TOKEN'; it is shown once."""
    from qc import accounts

    with _runtime(project) as runtime, runtime.writes.begin() as session:
        if revoke:
            count = accounts.revoke_tokens(session, name)
            tokens, opens = counted(count, "token"), "opens" if count == 1 else "open"
            words = f"{tokens} of {name} {opens} nothing any more."
        else:
            words = accounts.make_token(session, name, utc_now())
    out.print(words, soft_wrap=True)


def _password(file: Path | None) -> str:
    """Return the first line of a file, or what is typed twice, unseen; never an argument."""
    if file is None:
        typed: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    try:
        content = sys.stdin.readline() if file == Path("-") else file.read_text()
    except (OSError, ValueError) as error:
        raise InvalidAnswer(f"{file}: a password is expected here: {error}") from None
    return next(iter(content.splitlines()), "")


@app.command()
def status(project: Project = Path(), as_json: AsJson = False) -> None:
    """Say whether all is well: what is stored, what failed, what is owed, how the daemon does.

    Exit code 1: something is not well.
    """
    from qc.exports import project_status
    from qc.health import health_record, read_health

    with _runtime(project) as runtime, runtime.reads() as session:
        found = project_status(session)
        health = read_health(session, runtime.settings, utc_now())
    if as_json:
        _print_json({**found, "health": health_record(health)})
    else:
        table = Table("", Column(overflow="fold"), show_header=False)
        for name, value in found.items():
            table.add_row(name.replace("_", " "), _in_lines(value))
        out.print(table)
        _print_health(health)
    if not health.is_well:
        raise typer.Exit(ANOMALIES)


def _print_health(health: "Health") -> None:
    if health.jobs:
        table = Table("job", "last success", "next run", Column("newest", overflow="fold"))
        for job in health.jobs:
            moments = (_in_lines(at) for at in (job.last_success, job.next_run))
            table.add_row(job.name, *moments, job.words)
        out.print(table)
    running = f"runs: {health.daemon}" if health.is_running else "does not run; 'qc run' starts it"
    out.print(f"The daemon {running}.", soft_wrap=True)
    for trouble in health.troubles:
        out.print(Text("Trouble:", "bold red"), trouble, soft_wrap=True)
    if health.is_well:
        out.print("All is well.")


def _in_lines(value: Any) -> str:
    """Write a value as a person would: a count or an item a line, four digits of a number."""
    if isinstance(value, Mapping):
        value = [f"{count:6d} {name}" for name, count in value.items()]
    if isinstance(value, list):
        return "\n".join(value) or "none"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UT"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none yet" if value is None else str(value)


@db.command("upgrade")
def db_upgrade(project: Project = Path()) -> None:
    """Make a project, or bring its database to this version's schema; nothing is lost."""
    from qc.runtime import create_project

    create_project(project)
    out.print(f"{project.resolve()}: settings, thresholds and database are there", soft_wrap=True)


@db.command("check")
def db_check(project: Project = Path()) -> None:
    """Say whether the database is at this version's schema and intact."""
    from qc.database import connect
    from qc.schema import check_integrity
    from qc.settings import read_settings

    engine = connect(read_settings(project).database_url)
    try:
        check_integrity(engine)
    finally:
        engine.dispose()
    out.print("The database is at this version's schema and intact.")


@db.command("index")
def db_index(project: Project = Path()) -> None:
    """Bring the index up to date that 'qc similar' searches large archives with, or make it."""
    from qc.search import refresh_index

    with _runtime(project) as runtime, _progress() as report:
        words = refresh_index(runtime, report)
    out.print(f"{words[0].upper()}{words[1:]}.", soft_wrap=True)


@db.command("copy")
def db_copy(
    source: Annotated[str, typer.Argument(metavar="SQLITE_URL", help="sqlite:///qc.db")],
    target: Annotated[
        str, typer.Argument(metavar="POSTGRES_URL", help="postgresql+psycopg://user@host/name")
    ],
) -> None:
    """Copy a database into PostgreSQL, going on where another run stopped, and compare each row."""
    from qc.transfer import transfer

    with _progress() as report:
        done = transfer(source, target, report)
    table = Table("table")
    table.add_column("rows", justify="right")
    table.add_column("copied now", justify="right")
    for one in done:
        table.add_row(one.table, str(one.rows), str(one.copied))
    out.print(table)
    out.print(f"{sum(one.rows for one in done)} rows are the same on both sides.")


@contextmanager
def _runtime(project: Path) -> "Iterator[Runtime]":
    from qc.runtime import open_runtime
    from qc.settings import read_settings

    with open_runtime(read_settings(project)) as runtime:
        yield runtime


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each kind of work, on the error stream; a line where that is no terminal."""
    columns = (
        TextColumn("{task.description:22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
                if not err.is_terminal:
                    err.print(f"{what} ({total})")
            bars.update(tasks[what], completed=done, total=total)

        yield report


def _print_json(document: Any) -> None:
    print(json.dumps(document, default=str, indent=1))  # noqa: T201 - rich would wrap it


def main() -> None:
    """Run the command; end a mistake in one line, and a bug in full. Neither is exit code 1."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's greetings are no news
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except Exception as error:  # noqa: BLE001 - told in full, unless it is a mistake
        mistake = _mistake(error)
        if mistake:
            err.print(Text("qc:", "bold red"), mistake, soft_wrap=True)
        else:
            traceback.print_exc()
        sys.exit(MISTAKE)


# What SQLite, too, calls operational: a full disk, a lock held for a minute, a table that is gone.
_OPERATORS = {
    "42501": "no privilege",
    "42P01": "no such table",
    "25006": "a server that only reads",
}


def _mistake(error: Exception) -> str:
    """Say in one line what is the user's or the machine's to mend; nothing of a bug."""
    from sqlalchemy.exc import DBAPIError, OperationalError

    from embeddings.encoder import WeightsError
    from qc.errors import QCError

    state = getattr(error.orig, "sqlstate", "") if isinstance(error, DBAPIError) else ""
    if isinstance(error, OperationalError) or state in _OPERATORS:
        error = ConnectionError(f"the database: {getattr(error, 'orig', error)}")
    known = isinstance(error, QCError | WeightsError | OSError)
    return " ".join(str(error).split()) if known else ""
