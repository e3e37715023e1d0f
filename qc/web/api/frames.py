"""REST: a frame with all its extensions, and its header."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from qc.errors import FrameError
from qc.io.fits import Card
from qc.review import frame_detail
from qc.review.pixels import find_source
from qc.web import deps

router = APIRouter(prefix="/api/v1/frames/{name}", tags=["frames"], route_class=deps.ApiRoute)

SearchText = Annotated[
    str, Query(max_length=200, description="Text to find in a card; default: all cards.")
]


@dataclass(frozen=True)
class HeaderSearch:
    """Header cards of a frame's file that contain a text.

    Attributes
    ----------
    wanted : str
        The text.
    trouble : str
        Error if the file could not be read.
    """

    name: str
    wanted: str
    cards: tuple[Card, ...]
    trouble: str


@router.get("")
def frame(
    project: deps.CurrentProject, session: deps.ReadSession, name: deps.FrameName
) -> frame_detail.FrameDetail:
    """Return metadata, verdicts, metrics and labels of a frame.

    Parameters
    ----------
    project, session : dependencies
    name : str
    """
    return frame_detail.read_frame_detail(project, session, name)


@router.get("/header")
def header(session: deps.ReadSession, name: deps.FrameName, q: SearchText = "") -> HeaderSearch:
    """Return the header cards of a frame's file that contain a text.

    Parameters
    ----------
    session : Session
    name, q : str
    """
    return search_header(session, name, q)


def search_header(session: Session, name: str, text: str) -> HeaderSearch:
    """Return the header cards of a frame's file that contain a text.

    Parameters
    ----------
    session : Session
        For reading.
    name : str
        Archive name of the frame.
    text : str
        Empty for all cards.
    """
    frame_name = find_source(session, name).name
    try:
        cards, trouble = frame_detail.search_header(session, name, text), ""
    except FrameError as error:
        cards, trouble = (), str(error)
    return HeaderSearch(frame_name, text, cards, trouble)
