"""Threshold proposals: a weekly HTML page; a person decides."""

import datetime as dt
from base64 import b64encode
from dataclasses import dataclass

from qc import _text, errors
from qc.project import ProjectContext
from qc.reports import rendering
from qc.tuning import choice, proposals

FOLDER = "proposals"
LISTED_CHANGES = 20  # for each image type; 'qc thresholds tune --json' lists all
_REASON, _AUTHOR = "the weekly proposal", "the daemon"


@dataclass(frozen=True)
class ThresholdProposalPage:
    """Variables of the page.

    Attributes
    ----------
    refused : list of str
        Reasons for image types without a proposal.
    picture : str
        PNG, base64.
    listed_changes : int
        Largest number of listed verdict changes of an image type.
    """

    proposals: list[proposals.ThresholdProposal]
    refused: list[str]
    picture: str
    generated_at: dt.datetime
    listed_changes: int = LISTED_CHANGES


def write_proposal_page(
    project: ProjectContext, now: dt.datetime, first: dt.date = dt.date.min
) -> str:
    """Propose limits for every image type and write the page; no limit is changed.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    now : datetime
        Time, aware.
    first : date
        First night of the data.

    Returns
    -------
    str
        Name of the file and number of proposals.
    """
    goal = choice.TuningGoal(effective=now.date(), since=first)
    try:
        proposed, refused = proposals.propose_all(
            project, (), goal, _REASON, _AUTHOR, progress=lambda _done, _total: None
        )
    except errors.InsufficientDataError as error:
        return f"nothing to propose: {error}"
    picture = b64encode(proposals.draw_proposals(proposed)).decode()
    page = ThresholdProposalPage(proposed, refused, picture, now)
    file = project.settings.reports_folder / FOLDER / f"{now:%Y-%m-%d}.html"
    rendering.write_page(file, rendering.render_template("proposals.html.j2", page=page))
    changes = sum(len(entry.newly_flagged) + len(entry.no_longer_flagged) for entry in proposed)
    types, frames = (
        _text.pluralise(len(proposed), "image type"),
        _text.pluralise(changes, "past frame"),
    )
    return f"{file.name}: {types}, {frames} with another verdict"
