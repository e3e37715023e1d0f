"""Tonight: every detector at once, what should be looked at first, and how old the page is."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, Field

from qc.alerts import notifications
from qc.alerts.notifications import LONGEST_NOTE
from qc.core.reference import REFERENCE_AMPLE
from qc.web.auth import Reviewer, Role
from qc.web.dashboard import Dashboard, PastNights, read_tonight
from qc.web.rendering import ProjectDep, Reads, RowNumber, Writes, render

router = APIRouter()

# Beyond it the page is read again by itself, so that only a page which cannot be is ever so old.
STALE_S = 600


ShownNight = Annotated[date | None, Query(description="The evening's date; else the newest.")]


class AcknowledgeForm(BaseModel):
    """What somebody says of a notice."""

    note: Annotated[str, Field(max_length=LONGEST_NOTE, description="For those who ask later.")] = (
        ""
    )


@router.get("/", include_in_schema=False)
def tonight(
    request: Request, project: ProjectDep, session: Reads, night: ShownNight = None
) -> HTMLResponse:
    """Show the newest night, or the one asked for."""
    return render(
        request,
        "tonight.html.j2",
        night=_read(request, project, session, night),
        ample=REFERENCE_AMPLE,
        reviews=Role.REVIEW,
        stale_s=STALE_S,
    )


@router.get("/api/v1/tonight", tags=["tonight"])
def tonight_document(
    request: Request, project: ProjectDep, session: Reads, night: ShownNight = None
) -> Dashboard:
    """Say how all detectors stand, what is doubtful, owed, silenced, absent and failed."""
    return _read(request, project, session, night)


def _read(request: Request, project: ProjectDep, session: Reads, night: date | None) -> Dashboard:
    state = request.app.state
    past: PastNights = state.past
    return read_tonight(session, project.settings, project.instruments, state.now(), night, past)


@router.post("/notices/{number}/acknowledge", include_in_schema=False)
def acknowledge(
    request: Request,
    session: Writes,
    who: Reviewer,
    number: RowNumber,
    note: Annotated[str, Form(max_length=LONGEST_NOTE)] = "",
) -> Response:
    """Keep that somebody has seen a notice: nobody else is told."""
    notifications.acknowledge(session, number, who.name, request.app.state.now(), note)
    return RedirectResponse("/#notices", 303)


@router.post("/api/v1/notices/{number}/acknowledge", tags=["tonight"], status_code=204)
def acknowledge_by_script(
    request: Request, session: Writes, who: Reviewer, number: RowNumber, seen: AcknowledgeForm
) -> None:
    """Keep that somebody has seen a notice: nobody else is told."""
    notifications.acknowledge(session, number, who.name, request.app.state.now(), seen.note)
