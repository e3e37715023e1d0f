"""Dashboard page."""

from typing import Annotated

import fastapi
from fastapi import responses

from qc import core
from qc.alerts import notifications
from qc.web import auth, deps
from qc.web.api.dashboard import NightParameter, get_dashboard
from qc.web.rendering import render

router = fastapi.APIRouter(include_in_schema=False)

# The page reloads itself every minute; an older page has lost its server.
STALE_S = 600


@router.get("/")
def dashboard(
    request: fastapi.Request,
    project: deps.CurrentProject,
    session: deps.ReadSession,
    night: NightParameter = None,
) -> responses.HTMLResponse:
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
        ample=core.REFERENCE_AMPLE,
        reviewer=core.Role.REVIEW,
        stale_s=STALE_S,
    )


@router.post("/notifications/{number}/acknowledge")
@router.post("/notices/{number}/acknowledge")
def acknowledge(
    request: fastapi.Request,
    session: deps.WriteSession,
    user: auth.Reviewer,
    number: deps.RowNumber,
    note: Annotated[str, fastapi.Form(max_length=notifications.LONGEST_NOTE)] = "",
) -> responses.Response:
    """Acknowledge a notification.

    Parameters
    ----------
    request, session, user : dependencies
    number : int
    note : str
    """
    notifications.acknowledge(session, number, user.name, request.app.state.now(), note)
    return responses.RedirectResponse("/#notifications", 303)
