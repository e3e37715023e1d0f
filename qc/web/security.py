"""Access middleware: access control, CSRF protection, body limit and security headers.

The CSRF token proves that a page of this application sent a change. A page of another site can
send requests with the browser's cookies, but cannot read the token.
"""

import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

import fastapi
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qc import db
from qc.core import Role
from qc.db.schema.engine import user_name
from qc.project import ProjectContext
from qc.web import auth

# Nothing from other hosts, no inline script, no framing; images may be data URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
CSRF_FIELD, CSRF_HEADER = "csrf", "X-CSRF-Token"
LARGEST_BODY = 2 * 2**20  # bytes; uploads have limits of their own
DOCS_PATH = "/api/docs"  # a page under the path of the API
_PUBLIC_PATH = "/static/"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
_BROWSER_COOKIE_S = 365 * 24 * 3600
_SEED = re.compile(r"[\w-]{20,128}")

ErrorRenderer = Callable[[fastapi.Request, int, str], fastapi.Response]


def install(app: fastapi.FastAPI, render_error: ErrorRenderer) -> None:
    """Add the access middleware to an application.

    Parameters
    ----------
    app : FastAPI
    render_error : callable
        Renders a request, a status and a message as a response.
    """
    app.add_middleware(AccessMiddleware, render_error=render_error)


class AccessMiddleware:
    """ASGI middleware that admits or refuses requests and adds the security headers."""

    def __init__(self, app: ASGIApp, render_error: ErrorRenderer) -> None:
        self.app, self.render_error = app, render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request.

        Parameters
        ----------
        scope : Scope
            Receives the `RequestContext` under the key ``qc.context``.
        receive, send : callable
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = fastapi.Request(scope, receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_headers(MutableHeaders(scope=message), auth.context_of(request))
            await send(message)

        try:
            scope["qc.context"] = await run_in_threadpool(admit, request)
        except auth.AccessDeniedError as refusal:
            response = self.refuse(request, refusal)
            await response(scope, receive, send_with_headers)
            return
        await self.app(scope, limit_body(request, receive), send_with_headers)

    def refuse(self, request: fastapi.Request, refusal: auth.AccessDeniedError) -> fastapi.Response:
        """Return the response to a refused request: an error, or for pages the login.

        Parameters
        ----------
        request : Request
        refusal : AccessDeniedError
        """
        path = request.url.path
        is_page = request.method in _SAFE_METHODS and (
            path == DOCS_PATH or not path.startswith("/api/")
        )
        if refusal.status == 401 and is_page:
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"{auth.LOGIN_PATH}?to={quote(path + query)}", 303)
        response = self.render_error(request, refusal.status, refusal.message)
        if refusal.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response


def admit(request: fastapi.Request) -> auth.RequestContext | None:
    """Return the context of an admitted request; None for static files.

    Raises
    ------
    AccessDeniedError
        If the request is too large, not authenticated, or lacks the CSRF token.
    """
    if request.url.path.startswith(_PUBLIC_PATH):
        return None
    check_size(request.headers)
    project = request.app.state.project
    assert isinstance(project, ProjectContext)
    web = project.settings.web
    peer = request.client.host if request.client else ""
    is_proxied = auth.is_within(peer, web.trusted_proxies)
    is_named_by_proxy = is_proxied and web.trusted_header != ""
    address = auth.forwarded_address(request.headers, peer) if is_proxied else peer
    scheme = request.headers.get("x-forwarded-proto", "") if is_proxied else ""
    is_secure = (scheme or request.url.scheme) == "https"
    principal: auth.Principal | None
    with project.read_session() as session:
        is_open = not db.accounts.has_accounts(session) and not web.trusted_header
        if is_open:
            auth.check_own_machine(peer, request.headers)
            principal, session_key = auth.Principal(user_name(), Role.TUNE), ""
        else:
            principal, session_key = auth.authenticate(
                request, session, web, request.app.state.now(), by_proxy=is_named_by_proxy
            )
    seed = session_key or browser_seed(request)
    context = auth.RequestContext(
        principal, address, is_secure, seed or secrets.token_urlsafe(32), needs_cookie=not seed
    )
    if not is_open and not is_named_by_proxy and auth.has_token(request):
        return context  # a token is no cookie: no browser sends it unasked
    return check_csrf(request, context, has_session=bool(session_key))


# --- size of the body -----------------------------------------------------------------------------


def check_size(headers: Headers) -> None:
    """Refuse a body that is larger than allowed, unless it is an upload.

    Raises
    ------
    AccessDeniedError
        If the declared length is too large or not a number.
    """
    length = headers.get("content-length", "0")
    if not is_upload(headers) and (not length.isdecimal() or int(length) > LARGEST_BODY):
        raise auth.AccessDeniedError(
            413, f"Request body too large: expected at most {LARGEST_BODY} bytes."
        )


def is_upload(headers: Headers) -> bool:
    """Return True if the request sends a multipart form."""
    return headers.get("content-type", "").startswith("multipart/form-data")


def limit_body(request: fastapi.Request, receive: Receive) -> Receive:
    """Return a receiver that refuses a body beyond the limit, also without declared length.

    Parameters
    ----------
    request : Request
    receive : callable
        Receiver of the ASGI server.
    """
    if is_upload(request.headers):
        return receive
    n_bytes = 0

    async def receive_limited() -> Message:
        nonlocal n_bytes
        message = await receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > LARGEST_BODY:
            raise fastapi.HTTPException(
                413, f"Request body too large: expected at most {LARGEST_BODY} bytes."
            )
        return message

    return receive_limited


# --- CSRF token -----------------------------------------------------------------------------------


def browser_seed(request: fastapi.Request) -> str:
    """Return the CSRF seed of a browser without session; empty if there is none."""
    seed = request.cookies.get(auth.BROWSER_COOKIE, "")
    return seed if _SEED.fullmatch(seed) else ""


def check_csrf(
    request: fastapi.Request, context: auth.RequestContext, *, has_session: bool
) -> auth.RequestContext:
    """Return the context of a request that changes nothing or has a CSRF token.

    A request without origin, fetch site and session cookie is not from a browser, so that no
    other site can have caused it.

    Parameters
    ----------
    request : Request
    context : RequestContext
    has_session : bool
        True if a session cookie authenticated the request.

    Returns
    -------
    RequestContext
        With `is_csrf_checked` False if the token may still be in a form field.

    Raises
    ------
    AccessDeniedError
        If the request is from another site, or its token is missing or wrong.
    """
    if request.method in _SAFE_METHODS:
        return context
    site, origin = (request.headers.get(name) for name in ("sec-fetch-site", "origin"))
    if site is None and origin is None and not has_session:
        return context
    if site not in {None, "same-origin", "none"}:
        raise auth.AccessDeniedError(
            403, "The request is from a page of another site; nothing was changed."
        )
    token = request.headers.get(CSRF_HEADER)
    if token is not None and is_csrf_token(token, context):
        return context
    if token is None and request.headers.get("content-type", "").startswith(_FORM_TYPES):
        return replace(context, is_csrf_checked=False)
    raise auth.AccessDeniedError(
        403,
        f"CSRF token ({CSRF_HEADER}) missing or invalid; nothing was changed. Reload the page.",
    )


def is_csrf_token(token: object, context: auth.RequestContext) -> bool:
    """Return True if a token is that of the context, compared in constant time.

    Parameters
    ----------
    token : object
        A form field may be a file instead of text.
    context : RequestContext
    """
    return isinstance(token, str) and hmac.compare_digest(
        token.encode(), context.csrf_token.encode()
    )


async def check_form_token(request: fastapi.Request) -> None:
    """Refuse a form without the CSRF token; a dependency of every route."""
    context = auth.context_of(request)
    if context is None or context.is_csrf_checked:
        return
    if not is_csrf_token((await request.form()).get(CSRF_FIELD), context):
        raise fastapi.HTTPException(
            403, "The form has no valid CSRF token; nothing was changed. Reload the page."
        )


# --- response headers -----------------------------------------------------------------------------


def add_headers(headers: MutableHeaders, context: auth.RequestContext | None) -> None:
    """Add the security headers, and the browser cookie if it is new.

    Parameters
    ----------
    headers : MutableHeaders
        Of the response; existing values stay.
    context : RequestContext or None
    """
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if context is None:
        return
    headers.setdefault("Cache-Control", "private, no-cache")
    if context.needs_cookie:
        cookie = auth.make_cookie(
            auth.BROWSER_COOKIE, context.csrf_seed, _BROWSER_COOKIE_S, is_secure=context.is_secure
        )
        headers.append("Set-Cookie", cookie)
