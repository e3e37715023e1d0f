"""Login and logout."""

from typing import Annotated

import fastapi
from fastapi.responses import RedirectResponse, Response

from qc import db
from qc.errors import AuthenticationError
from qc.web import auth, deps
from qc.web.rendering import render

router = fastapi.APIRouter(include_in_schema=False)

FormText = Annotated[str, fastapi.Form(max_length=1024)]


@router.get("/login")
def login_page(request: fastapi.Request, to: str = "/") -> Response:
    """Show the login form.

    Parameters
    ----------
    request : Request
    to : str
        Address of the page after the login.
    """
    return render(request, "login.html.j2", to=safe_target(to), trouble="")


@router.post("/login")
def log_in(
    request: fastapi.Request,
    project: deps.CurrentProject,
    name: FormText = "",
    password: FormText = "",
    to: FormText = "/",
) -> Response:
    """Start a session if user name and password are valid.

    Parameters
    ----------
    request, project : dependencies
    name, password : str
    to : str
        Address of the next page.
    """
    context = auth.context_of(request)
    assert context is not None  # set by the middleware
    duration = auth.session_duration(project.settings.web)
    try:
        key = db.accounts.log_in(
            project.write_session,
            name,
            password,
            context.address,
            request.app.state.now(),
            duration,
        )
    except AuthenticationError as error:
        message = str(error)
        trouble = f"{message[:1].upper()}{message[1:]}."
        return render(request, "login.html.j2", status=403, to=safe_target(to), trouble=trouble)
    response = RedirectResponse(safe_target(to), 303)
    cookie = auth.make_cookie(
        auth.SESSION_COOKIE, key, int(duration.total_seconds()), is_secure=context.is_secure
    )
    response.headers.append("Set-Cookie", cookie)
    return response


@router.post("/logout")
def log_out(request: fastapi.Request, session: deps.WriteSession) -> Response:
    """End the session of this browser.

    Parameters
    ----------
    request, session : dependencies
    """
    context = auth.context_of(request)
    assert context is not None
    db.accounts.log_out(session, request.cookies.get(auth.SESSION_COOKIE, ""))
    response = RedirectResponse("/login", 303)
    cookie = auth.make_cookie(auth.SESSION_COOKIE, "", 0, is_secure=context.is_secure)
    response.headers.append("Set-Cookie", cookie)
    return response


def safe_target(to: str) -> str:
    """Return an address within this application; other hosts become ``/``."""
    is_local = to.startswith("/") and not to.startswith("//") and "\\" not in to
    return to if is_local and to.isprintable() else "/"
