"""REST: state of the dashboard, acknowledgement of notifications."""

from datetime import date
from typing import Annotated

import fastapi
from pydantic import BaseModel, Field

from qc.alerts import notifications
from qc.web import auth, deps
from qc.web.dashboard import Dashboard, read_dashboard

router = fastapi.APIRouter(prefix="/api/v1", tags=["dashboard"], route_class=deps.ApiRoute)

NightParameter = Annotated[
    date | None, fastapi.Query(description="Date of the evening; default: the newest night.")
]


class AcknowledgeForm(BaseModel):
    """Acknowledgement of a notification."""

    note: Annotated[
        str, Field(max_length=notifications.LONGEST_NOTE, description="Cause or action taken.")
    ] = ""


def get_dashboard(
    request: fastapi.Request,
    project: deps.CurrentProject,
    session: deps.ReadSession,
    night: NightParameter = None,
) -> Dashboard:
    """Return the dashboard of a night.

    Parameters
    ----------
    request, project, session : dependencies
    night : date, optional
    """
    state = request.app.state
    return read_dashboard(
        session, project.settings, project.instruments, state.now(), night, state.arrivals
    )


@router.get("/dashboard")
@router.get("/tonight", include_in_schema=False)
def dashboard(
    request: fastapi.Request,
    project: deps.CurrentProject,
    session: deps.ReadSession,
    night: NightParameter = None,
) -> Dashboard:
    """Return status matrix, review queue, notifications, missing calibrations and failed files.

    Parameters
    ----------
    request, project, session : dependencies
    night : date, optional
    """
    return get_dashboard(request, project, session, night)


@router.post("/notifications/{number}/acknowledge", status_code=204)
@router.post("/notices/{number}/acknowledge", status_code=204, include_in_schema=False)
def acknowledge(
    request: fastapi.Request,
    session: deps.WriteSession,
    user: auth.Reviewer,
    number: deps.RowNumber,
    form: AcknowledgeForm,
) -> None:
    """Acknowledge a notification.

    Parameters
    ----------
    request, session, user : dependencies
    number : int
    form : AcknowledgeForm
    """
    notifications.acknowledge(session, number, user.name, request.app.state.now(), form.note)
