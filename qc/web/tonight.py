"""Tonight: every detector at once, what should be looked at first, and how old the page is."""

from datetime import date

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from qc import database
from qc.nights import read_night
from qc.web.pages import Project, Reads, render

router = APIRouter()


@router.get("/")
def tonight(
    request: Request, project: Project, session: Reads, night: date | None = None
) -> HTMLResponse:
    """Show the newest night, or the one asked for."""
    evening = night or database.newest_night(session)
    now = request.app.state.now()
    shown = read_night(session, evening, project.instruments, now) if evening else None
    return render(request, "tonight.html.j2", night=shown)
