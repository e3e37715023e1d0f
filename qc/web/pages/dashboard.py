"""Dashboard page."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from qc.alerts import notifications
from qc.core import REFERENCE_AMPLE, Role
from qc.web import auth, deps
from qc.web.api.dashboard import NightParameter, get_dashboard
from qc.web.rendering import render

router = APIRouter(include_in_schema=False)

# The page reloads itself every minute; an older page has lost its server.
STALE_S = 600


@router.get("/")
def dashboard(
    request: Request,
    project: deps.CurrentProject,
    session: deps.ReadSession,
    night: NightParameter = None,
) -> HTMLResponse:
    """Show the dashboard of a night.

    Parameters
    ----------
    request, project, session : dependencies
    night : date, optional
    """
    return render(
        request,
        "dashboard.html.j2",
        dashboard=get_dashboard(request, project, session, night),
        ample=REFERENCE_AMPLE,
        reviewer=Role.REVIEW,
        stale_s=STALE_S,
    )


@router.post("/notifications/{number}/acknowledge")
@router.post("/notices/{number}/acknowledge")
def acknowledge(
    request: Request,
    session: deps.WriteSession,
    user: auth.Reviewer,
    number: deps.RowNumber,
    note: Annotated[str, Form(max_length=notifications.LONGEST_NOTE)] = "",
) -> Response:
    """Acknowledge a notification.

    Parameters
    ----------
    request, session, user : dependencies
    number : int
    note : str
    """
    notifications.acknowledge(session, number, user.name, request.app.state.now(), note)
    return RedirectResponse("/#notifications", 303)
