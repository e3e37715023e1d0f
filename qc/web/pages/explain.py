"""Why not: how near a frame came to being flagged, and what catching it would cost."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from qc import db
from qc.detection.thresholds import Threshold
from qc.review.explain import FlaggingCost, VerdictExplanation, read_cost, read_why
from qc.tuning.proposals import PastVerdicts
from qc.web.pages.frames import frame_url
from qc.web.pages.images import Name, Number
from qc.web.rendering import Keeping, ProjectDep, Reads, render
from qc.web.threshold_cache import NEWEST, past_of

router = APIRouter()


@router.get("/frames/{name}/why", include_in_schema=False)
def why(
    request: Request, project: ProjectDep, session: Reads, name: Name, extension: Number = None
) -> HTMLResponse:
    """Show each piece of evidence in units of its limit."""
    shown = read_why(project, session, name, extension)
    return render(request, "why.html.j2", why=shown, frame_url=frame_url)


@router.get("/api/v1/frames/{name}/why", tags=["frames"])
def why_record(
    project: ProjectDep, session: Reads, name: Name, extension: Number = None
) -> VerdictExplanation:
    """Return each piece of evidence in units of its limit, and what the image joins."""
    return read_why(project, session, name, extension)


def find_cost(
    project: ProjectDep, session: Reads, kept: Keeping, name: Name, extension: Number = None
) -> FlaggingCost:
    """Return what catching the image of an address would cost; its type's past is kept."""

    def remember(image_type: str, present: Threshold) -> PastVerdicts:
        since = db.findings.night_of_newest(session, image_type, NEWEST)
        return past_of(project, session, kept, image_type, present, since)

    return read_cost(project, name, extension, remember)


FoundCost = Annotated[FlaggingCost, Depends(find_cost)]


@router.get("/frames/{name}/why/cost", include_in_schema=False)
def cost(
    request: Request,
    project: ProjectDep,
    session: Reads,
    name: Name,
    found: FoundCost,
    extension: Number = None,
) -> HTMLResponse:
    """Show what catching it would cost; the past of its type is judged anew."""
    why = read_why(project, session, name, extension)
    return render(request, "why_cost.html.j2", why=why, cost=found, frame_url=frame_url)


@router.get("/api/v1/frames/{name}/why/cost", tags=["frames"])
def cost_record(found: FoundCost) -> FlaggingCost:
    """Return what catching it would cost in false alarms."""
    return found
