"""Explanation page: evidence in units of its thresholds, and the cost of flagging a frame."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from qc.review import explain
from qc.web import deps
from qc.web.api.explain import RequestedCost
from qc.web.rendering import render

router = APIRouter(prefix="/frames/{name}", include_in_schema=False)


@router.get("/explanation")
@router.get("/why")
def explanation(
    request: Request,
    project: deps.CurrentProject,
    session: deps.ReadSession,
    name: deps.FrameName,
    extension: deps.ExtensionNumber = None,
) -> HTMLResponse:
    """Show the evidence of a verdict in units of its thresholds.

    Parameters
    ----------
    request, project, session : dependencies
    name : str
    extension : int, optional
    """
    why = explain.explain_verdict(project, session, name, extension)
    return render(request, "explain.html.j2", why=why)


@router.get("/explanation/cost")
@router.get("/why/cost")
def show_cost(
    request: Request,
    project: deps.CurrentProject,
    session: deps.ReadSession,
    name: deps.FrameName,
    cost: RequestedCost,
    extension: deps.ExtensionNumber = None,
) -> HTMLResponse:
    """Show the false alarms that flagging an image would cost.

    Parameters
    ----------
    request, project, session, cost : dependencies
    name : str
    extension : int, optional
    """
    why = explain.explain_verdict(project, session, name, extension)
    return render(request, "explain_cost.html.j2", why=why, cost=cost)
