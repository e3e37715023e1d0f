"""Why not: how near a frame came to being flagged, and what catching it would cost."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from qc.web.frames import frame_url
from qc.web.images import Name, Number
from qc.web.pages import Project, Reads, render
from qc.why_not import Cost, WhyNot, read_cost, read_why

router = APIRouter()


@router.get("/frames/{name}/why", include_in_schema=False)
def why(
    request: Request, project: Project, session: Reads, name: Name, extension: Number = None
) -> HTMLResponse:
    """Show each piece of evidence in units of its limit."""
    shown = read_why(project, session, name, extension)
    return render(request, "why.html.j2", why=shown, frame_url=frame_url)


@router.get("/api/v1/frames/{name}/why", tags=["frames"])
def why_record(project: Project, session: Reads, name: Name, extension: Number = None) -> WhyNot:
    """Return each piece of evidence in units of its limit, and what the image joins."""
    return read_why(project, session, name, extension)


@router.get("/frames/{name}/why/cost", include_in_schema=False)
def cost(
    request: Request, project: Project, session: Reads, name: Name, extension: Number = None
) -> HTMLResponse:
    """Show what catching it would cost; the past of its type is judged anew."""
    why = read_why(project, session, name, extension)
    shown = read_cost(project, why.name, why.number)
    return render(request, "why_cost.html.j2", why=why, cost=shown, frame_url=frame_url)


@router.get("/api/v1/frames/{name}/why/cost", tags=["frames"])
def cost_record(project: Project, name: Name, extension: Number = None) -> Cost:
    """Return what catching it would cost in false alarms."""
    return read_cost(project, name, extension)
