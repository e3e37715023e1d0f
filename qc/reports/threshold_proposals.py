"""The weekly proposal of thresholds as a page: a person decides, and is told how."""

from base64 import b64encode
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from qc._text import counted
from qc.errors import InsufficientDataError
from qc.project import Project
from qc.reports.night import rendered, write_page
from qc.tuning import proposals

FOLDER = "proposals"
SHOWN_FLIPS = 20  # of a type: who needs all asks 'qc tune --json'
_WHY, _BY = "the weekly proposal", "the daemon"


@dataclass(frozen=True)
class ThresholdProposalPage:
    """Everything on the page.

    Attributes
    ----------
    refused : list of str
        Why nothing is proposed for other image types, a sentence each.
    picture : str
        PNG, base64.
    shown : int
        Of the frames that would be judged otherwise, how many of a type are listed.
    """

    proposals: list[proposals.ThresholdProposal]
    refused: list[str]
    picture: str
    generated_at: datetime
    shown: int = SHOWN_FLIPS


def write_proposal_page(project: Project, now: datetime, first: date = date.min) -> str:
    """Propose limits for every image type, write the page, and say what it holds.

    Nothing is changed: limits are people's.

    Parameters
    ----------
    first : date
        First night whose frames are looked at.
    """
    goal = proposals.TuningGoal(effective=now.date(), since=first)
    try:
        found, refused = proposals.propose_all(
            project, (), goal, _WHY, _BY, progress=lambda _done, _total: None
        )
    except InsufficientDataError as error:
        return f"nothing to propose: {error}"
    picture = b64encode(proposals.draw_proposals(found)).decode()
    page = rendered("proposals.html.j2", page=ThresholdProposalPage(found, refused, picture, now))
    file = project.settings.reports_folder / FOLDER / f"{now:%Y-%m-%d}.html"
    return _words(found, write_page(file, page))


def _words(found: list[proposals.ThresholdProposal], file: Path) -> str:
    flips = sum(len(one.newly_flagged) + len(one.no_longer_flagged) for one in found)
    types, past = counted(len(found), "image type"), counted(flips, "past frame")
    return f"{file.name}: {types}, {past} would be judged otherwise"
