"""In and out."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from qc import db
from qc.errors import AuthenticationError
from qc.web.auth import SESSION, cookie, session_lasts, visit_of
from qc.web.rendering import ProjectDep, Writes, render

router = APIRouter(include_in_schema=False)

Word = Annotated[str, Form(max_length=1024)]


@router.get("/login")
def login_page(request: Request, to: str = "/") -> Response:
    """Ask who it is."""
    return render(request, "login.html.j2", to=_ours(to), trouble="")


@router.post("/login")
def log_in(
    request: Request,
    project: ProjectDep,
    name: Word = "",
    password: Word = "",
    to: Word = "/",
) -> Response:
    """Let somebody in, if name and password fit."""
    visit = visit_of(request)
    assert visit is not None  # the door lets nobody come here unseen
    lasts = session_lasts(project.settings.web)
    now = request.app.state.now()
    try:
        key = db.accounts.log_in(project.writes, name, password, visit.address, now, lasts)
    except AuthenticationError as refusal:
        trouble = f"You are not logged in: {refusal}."
        return render(request, "login.html.j2", status=403, to=_ours(to), trouble=trouble)
    answer = RedirectResponse(_ours(to), 303)
    seconds = int(lasts.total_seconds())
    answer.headers.append("Set-Cookie", cookie(SESSION, key, seconds, visit.is_secure))
    return answer


@router.post("/logout")
def log_out(request: Request, session: Writes) -> Response:
    """Let this browser in no more."""
    visit = visit_of(request)
    assert visit is not None
    db.accounts.log_out(session, request.cookies.get(SESSION, ""))
    answer = RedirectResponse("/login", 303)
    answer.headers.append("Set-Cookie", cookie(SESSION, "", 0, visit.is_secure))
    return answer


def _ours(to: str) -> str:
    """Return a way within our pages: never another host's, however it is spelt."""
    is_ours = to.startswith("/") and not to.startswith("//") and "\\" not in to and to.isprintable()
    return to if is_ours else "/"
