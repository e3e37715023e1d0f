"""Commands for thresholds: tune, show and diff."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qc._text import match_names
from qc._time import utc_now
from qc.cli import options
from qc.cli.options import AsJson, Author, ProjectFolder, err, opened_project, out, print_json
from qc.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qc.detection.thresholds import Threshold
    from qc.project import ProjectContext
    from qc.tuning.proposals import ThresholdProposal, VerdictFlip

thresholds_app = options.new_group("Tune, show and compare thresholds.")
options.app.add_typer(thresholds_app, name="thresholds")

FLIP_LIMIT = 20  # past frames listed per direction

Types = Annotated[
    list[str] | None, typer.Argument(help="Image types or patterns such as 'UD1*'; default: all.")
]


@thresholds_app.command()
def tune(  # noqa: PLR0913, PLR0917 - one parameter per option
    image_types: Types = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(min=1e-6, max=0.5, help="Granted rate per extension, e.g. 0.001."),
    ] = None,
    recall: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fraction of bad frames to find.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Add them to thresholds.yaml.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Reason, for the file.")] = "",
    author: Author = "",
    since: options.FirstNight = None,
    effective: Annotated[
        dt.datetime | None,
        typer.Option("--effective", formats=["%Y-%m-%d"], help="First night in force."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file of the figure.")] = None,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Propose thresholds and show their effect."""
    from qc import db
    from qc._files import atomic_writer
    from qc.tuning import choice, proposals

    if false_alarms is not None and recall is not None:
        raise InvalidInputError("give --false-alarms or --recall, not both")
    if write and not reason.strip():
        raise InvalidInputError("--write requires --reason, e.g. --reason 'new lamp on 3 March'")
    if plot and plot.suffix.lower() != ".png":
        raise InvalidInputError(f"{plot}: expected a name that ends in .png")
    goal = choice.TuningGoal(
        effective=options.day_of(effective, utc_now().date()),
        since=options.day_of(since, dt.date.min),
        false_alarms=false_alarms,
        recall=recall,
    )
    with opened_project(folder) as project, options.progress_bars() as report:
        proposed, refused = proposals.propose_all(
            project,
            image_types or [],
            goal,
            reason.strip(),
            author or db.schema.engine.user_name(),
            progress=lambda done, total: report("tune", done, total),
        )
        if plot:
            with atomic_writer(plot) as stream:
                stream.write(proposals.draw_proposals(proposed))
        if write:
            proposals.write_proposals(project, proposed)
    if as_json:
        records = [proposals.proposal_record(proposal) for proposal in proposed]
        print_json({"proposals": records, "refused": refused})
    else:
        _print_proposals(proposed, refused)
    if plot:
        err.print(f"Figure: {plot}", soft_wrap=True)
    if write:
        entries = "1 entry" if len(proposed) == 1 else f"{len(proposed)} entries"
        path = project.thresholds.path
        err.print(f"{entries} from {goal.effective} on in {path}", soft_wrap=True)


def _print_proposals(proposed: "list[ThresholdProposal]", refused: "list[str]") -> None:
    from rich.table import Column, Table

    for proposal in proposed:
        out.print(f"{proposal.image_type}: {proposal.basis}", soft_wrap=True)
        table = Table(Column(no_wrap=True))
        for name in ("present", "proposed", "95 % interval"):
            table.add_column(name, justify="right")
        for row in proposal.rows():
            table.add_row(*row)
        out.print(table)
        _print_flips("Newly flagged", proposal.newly_flagged)
        _print_flips("No longer flagged", proposal.no_longer_flagged)
        for note in proposal.notes:
            out.print(f"Note: {note}.", soft_wrap=True)
        out.print()
    for sentence in refused:
        out.print(f"{sentence}.", soft_wrap=True)


def _print_flips(title: str, flips: "Sequence[VerdictFlip]") -> None:
    if not flips:
        return
    out.print(f"{title}: {len(flips)} past frames")
    for flip in flips[:FLIP_LIMIT]:
        label = f"labelled {flip.label} {flip.kind}".strip() if flip.label else "not labelled"
        line = f"  {flip.name}  {flip.night}  {flip.ratio:.2f} times the new limit, {label}"
        out.print(line, soft_wrap=True)
    if len(flips) > FLIP_LIMIT:
        out.print(f"  and {len(flips) - FLIP_LIMIT} more")


@thresholds_app.command()
def show(
    image_types: Types = None,
    night: options.Night = None,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Show the thresholds in force."""
    day = options.day_of(night, utc_now().date())
    with opened_project(folder) as project:
        entries = _entries_in_force(project, image_types, day)
    if as_json:
        print_json({name: _record_of(entry) for name, entry in entries.items()})
        return
    _print_limits({name: {str(entry.since): entry} for name, entry in entries.items()})


@thresholds_app.command()
def diff(
    first: Annotated[dt.datetime, typer.Argument(formats=["%Y-%m-%d"], help="First night.")],
    second: Annotated[dt.datetime, typer.Argument(formats=["%Y-%m-%d"], help="Second night.")],
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Compare the thresholds of two nights."""
    with opened_project(folder) as project:
        before = _entries_in_force(project, None, first.date())
        after = _entries_in_force(project, None, second.date())
    changed = [name for name in after if before.get(name) != after[name]]
    pairs = {name: [entries.get(name) for entries in (before, after)] for name in changed}
    if as_json:
        records = {
            name: [_record_of(entry) if entry else None for entry in pair]
            for name, pair in pairs.items()
        }
        print_json(records)
        return
    if not changed:
        out.print("The thresholds of both nights are equal.")
    _print_limits(
        {
            name: {str(entry.since): entry for entry in pair if entry is not None}
            for name, pair in pairs.items()
        }
    )


def _entries_in_force(
    project: "ProjectContext", patterns: list[str] | None, night: dt.date
) -> "dict[str, Threshold]":
    """Return the newest entry of each image type that begins not later than `night`."""
    known = project.thresholds.entries
    names = match_names(patterns, sorted(known), "image type") if patterns else sorted(known)
    valid = {name: [entry for entry in known[name] if entry.since <= night] for name in names}
    return {name: entries[-1] for name, entries in valid.items() if entries}


def _record_of(entry: "Threshold") -> dict[str, Any]:
    record: dict[str, Any] = entry.model_dump(mode="json", by_alias=True)
    return record


def _print_limits(entries: "Mapping[str, Mapping[str, Threshold]]") -> None:
    """Print one table per image type, one column per entry."""
    from rich.table import Column, Table

    for image_type, columns in entries.items():
        heads = [Column(f"from {since}", justify="right") for since in columns]
        table = Table(Column(image_type, no_wrap=True), *heads)
        limits = [
            {
                "merge height (cosine distance)": f"{entry.merge_height:.3g}",
                "residual (robust sigma)": f"{entry.residual:.3g}",
                "granted false-alarm rate": f"{entry.false_alarms:.3g}",
                **{
                    f"{name} (sigma: warn, alarm)": f"{limit.warn:.3g}, {limit.alarm:.3g}"
                    for name, limit in entry.metrics.items()
                },
                "by": entry.by,
                "reason": entry.why,
            }
            for entry in columns.values()
        ]
        for name in dict.fromkeys(key for column in limits for key in column):
            table.add_row(name, *(column.get(name, "") for column in limits))
        out.print(table)
