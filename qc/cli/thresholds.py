"""Commands for thresholds."""

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from qc._time import utc_now
from qc.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qc.tuning.proposals import ThresholdProposal, VerdictFlip
from qc.cli.options import (
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
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Propose new limits from what was judged and labelled, and say what they would change."""
    from qc import db
    from qc._files import written_whole
    from qc.tuning import proposals

    if false_alarms is not None and recall is not None:
        raise InvalidInputError("give --false-alarms or --recall: one limit cannot be set for both")
    if write and not why.strip():
        raise InvalidInputError(
            "--write needs a reason for the file: --why 'a new lamp on 3 March'"
        )
    if plot and plot.suffix.lower() != ".png":
        raise InvalidInputError(f"{plot}: the picture is a PNG; give a name that ends in .png")
    goal = proposals.TuningGoal(
        effective=(effective or utc_now()).date(),
        since=since.date() if since else date.min,
        false_alarms=false_alarms,
        recall=recall,
    )
    with opened_project(folder) as project, _progress() as report:
        found, refused = proposals.propose_all(
            project,
            image_types or [],
            goal,
            why.strip(),
            by or db.engine.user(),
            progress=lambda done, total: report("tune", done, total),
        )
        if plot:
            with written_whole(plot) as stream:
                stream.write(proposals.draw_proposals(found))
        if write:
            proposals.write_proposals(project, found)
    if as_json:
        records = [proposals.proposal_record(one) for one in found]
        _print_json({"proposals": records, "refused": refused})
    else:
        _print_proposals(found, refused)
    if plot:
        err.print(f"Picture: {plot}", soft_wrap=True)
    if write:
        changed = project.thresholds.path
        count = "1 entry" if len(found) == 1 else f"{len(found)} entries"
        err.print(f"{count} from {goal.effective} on in {changed}", soft_wrap=True)


def _print_proposals(found: "list[ThresholdProposal]", refused: "list[str]") -> None:
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


def _proposal_table(proposal: "ThresholdProposal") -> Table:
    table = Table(Column(no_wrap=True))
    for name in ("present", "proposed", "95 % interval"):
        table.add_column(name, justify="right")
    for row in proposal.rows():
        table.add_row(*row)
    return table


_SHOWN_FLIPS = 20


def _print_flips(title: str, flips: "Sequence[VerdictFlip]") -> None:
    if not flips:
        return
    out.print(f"{title}: {len(flips)} of the past")
    for flip in flips[:_SHOWN_FLIPS]:
        said = f"labelled {flip.label} {flip.kind}".strip() if flip.label else "not labelled"
        line = f"  {flip.name}  {flip.night}  {flip.ratio:.2f} times the new limit, {said}"
        out.print(line, soft_wrap=True)
    if len(flips) > _SHOWN_FLIPS:
        out.print(f"  and {len(flips) - _SHOWN_FLIPS} more")
