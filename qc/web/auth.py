"""Who asks, and what they may do.

Without accounts the pages are this machine's alone: requests must come from it and be addressed
to it, as a page of another host might bring its own name to this address. With accounts nobody
gets further than the login, but with a session, a token, or a proxy's word.

What changes something needs a mark besides, which only our own pages know: a page of another
host can make a browser ask, with all its cookies.
"""

import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qc import db
from qc.db.accounts import Account
from qc.db.engine import user as user_at_the_keyboard
from qc.project import Project
from qc.settings import WebSettings

# Nothing from another host, no script but ours, no frame around us; pictures may be data.
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
SESSION, BROWSER = "qc_session", "qc_browser"  # cookies
FIELD, HEADER = "csrf", "X-CSRF-Token"
LARGEST_BODY = 2 * 2**20  # bytes, of what is no upload; those have limits of their own
_OPEN = ("/static/",)
_LOGIN = "/login"
DOCS = "/api/docs"  # a page, for all that it lies among the documents
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_BROWSER_LASTS_S = 365 * 24 * 3600
_MARK = re.compile(r"[\w-]{20,128}")

Told = Callable[[Request, int, str], Response]


class Role(IntEnum):
    """What somebody may do; each includes those before it."""

    LOOK = 1
    REVIEW = 2
    TUNE = 3


@dataclass(frozen=True)
class Principal:
    """Who asks."""

    name: str
    role: Role


def person(request: Request) -> Principal:
    """Return who asks: without accounts, whoever is at this machine's keyboard."""
    found = asker(request)
    if found is None:
        raise HTTPException(401, "log in first")
    return found


def asker(request: Request) -> Principal | None:
    """Return who asks; None on the way to the login."""
    visit = visit_of(request)
    return visit.person if visit else None


Anybody = Annotated[Principal, Depends(person)]


def at_least(role: Role) -> Callable[[Principal], Principal]:
    """Return a dependency that lets only those pass who may do so much."""

    def check(who: Anybody) -> Principal:
        if who.role < role:
            raise HTTPException(403, f"{who.name} may not do this: it takes the role {role.name}")
        return who

    return check


Reviewer = Annotated[Principal, Depends(at_least(Role.REVIEW))]
Tuner = Annotated[Principal, Depends(at_least(Role.TUNE))]


# --- at the door ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RequestContext:
    """What is known of a request before it is answered.

    Attributes
    ----------
    person : Person or None
        None on the way to the login.
    address : str
        Of the browser, as a trusted proxy tells, or else of whoever is connected.
    seed : str
        What the mark of our own pages is made from: a secret of the browser's.
    is_new : bool
        Whether the browser is yet to be given it.
    is_marked : bool
        Whether nothing is to be proved any more; else a form's field must hold the mark.
    """

    person: Principal | None
    address: str
    is_secure: bool
    seed: str
    is_new: bool = False
    is_marked: bool = True

    @property
    def mark(self) -> str:
        """Return what a form or a script must give with what it changes."""
        return sha256(b"csrf " + self.seed.encode()).hexdigest()


class AccessDeniedError(Exception):
    """Somebody is not let in."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


def visit_of(request: Request) -> RequestContext | None:
    """Return what the door knows of a request; None of one that it refused."""
    visit: RequestContext | None = request.scope.get("qc.visit")
    return visit


def csrf_mark(request: Request) -> str:
    """Return what this request's page must give with what it changes; empty where it may not."""
    visit = visit_of(request)
    return visit.mark if visit else ""


def guard(app: FastAPI, told: Told) -> None:
    """Put the door before an application.

    Parameters
    ----------
    told : callable
        Makes a page of a request, a status and words.
    """
    app.add_middleware(AccessMiddleware, told=told)


class AccessMiddleware:
    """Lets a request in, or answers it; and lets every answer carry what browsers should know."""

    def __init__(self, app: ASGIApp, told: Told) -> None:
        self.app, self.told = app, told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(MutableHeaders(scope=message), visit_of(request))
            await send(message)

        try:
            scope["qc.visit"] = await run_in_threadpool(_admit, request)
        except AccessDeniedError as refusal:
            answer = _refused(request, refusal, self.told)
            await answer(scope, receive, with_headers)
            return
        await self.app(scope, _bounded(request, receive), with_headers)


def _admit(request: Request) -> RequestContext | None:
    """Return what is known of a request that may come in.

    Raises
    ------
    Refusal
        If it may not.
    """
    if any(request.url.path.startswith(prefix) for prefix in _OPEN):
        return None
    _check_size(request.headers)
    project = _runtime_of(request)
    now: datetime = request.app.state.now()
    peer = request.client.host if request.client else ""
    web = project.settings.web
    is_proxied = _is_within(peer, web.trusted_proxies)
    is_named = is_proxied and web.trusted_header != ""
    address = _forwarded(request.headers, peer) if is_proxied else peer
    scheme = request.headers.get("x-forwarded-proto", "") if is_proxied else ""
    is_secure = (scheme or request.url.scheme) == "https"
    with project.reads() as session:
        is_open = not db.accounts.has_accounts(session) and not web.trusted_header
        if is_open:
            _check_own_machine(peer, request.headers)
            who, key = _at_the_keyboard(), ""
        else:
            who, key = _known(request, session, web, now, is_named=is_named)
    seed = key or _browser_seed(request)
    visit = RequestContext(who, address, is_secure, seed or secrets.token_urlsafe(32), not seed)
    is_script = not is_open and not is_named and _is_token(request)
    return visit if is_script else _marked(request, visit, has_session=bool(key))


def _at_the_keyboard() -> Principal | None:
    return Principal(user_at_the_keyboard(), Role.TUNE)


def _runtime_of(request: Request) -> Project:
    project = request.app.state.project
    assert isinstance(project, Project)
    return project


def _known(
    request: Request, session: Any, web: WebSettings, now: datetime, *, is_named: bool
) -> tuple[Principal | None, str]:
    """Return who asks, and by which session's key."""
    is_login = request.url.path == _LOGIN
    if is_named:
        name = request.headers.get(web.trusted_header, "")
        found = db.accounts.find_account(session, name) if name else None
        if found is None and not is_login:
            raise AccessDeniedError(403, "the proxy has let in somebody who has no account here")
        return _person(found), ""
    if _is_token(request):
        return _bearer(request, session, now), ""
    key = request.cookies.get(SESSION, "")
    found = db.accounts.holder_of(session, key, now, is_session=True) if key else None
    if found is None and not is_login:
        raise AccessDeniedError(401, "log in first")
    return _person(found), key if found else ""


def _is_token(request: Request) -> bool:
    is_api = request.url.path.startswith("/api/")
    return is_api and request.headers.get("authorization", "").lower().startswith("bearer ")


def _bearer(request: Request, session: Any, now: datetime) -> Principal:
    key = request.headers["authorization"][len("bearer ") :].strip()
    found = db.accounts.holder_of(session, key, now, is_session=False)
    if found is None:
        raise AccessDeniedError(401, "this token opens nothing; 'qc user token' makes one")
    return Principal(found.name, Role[found.role.name])


def _person(found: Account | None) -> Principal | None:
    return Principal(found.name, Role[found.role.name]) if found else None


def _check_own_machine(peer: str, headers: Headers) -> None:
    """Let in only who asks from this machine, and by its own name: no page of another host."""
    forwarded = any(name in headers for name in ("forwarded", "x-forwarded-for", "x-real-ip"))
    if not is_loopback(peer) or forwarded or not is_loopback(_host_of(headers)):
        raise AccessDeniedError(
            403,
            "without accounts these pages are for this machine alone, as http://localhost/; "
            "'qc user add NAME --role review' makes an account",
        )


def is_loopback(host: str) -> bool:
    """Say whether a name or address is this machine's own, seen from itself."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(headers: Headers) -> str:
    found = re.fullmatch(
        r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::\d{1,5})?", headers.get("host", "")
    )
    return (found[1] or found[2]) if found else ""


def _is_within(address: str, networks: Iterable[str]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in ipaddress.ip_network(one) for one in networks)


def _forwarded(headers: Headers, peer: str) -> str:
    """Return the last address that was added: what stands before it anybody may have written."""
    last = headers.get("x-forwarded-for", "").rsplit(",", 1)[-1].strip()
    try:
        return str(ipaddress.ip_address(last))
    except ValueError:
        return peer


def _check_size(headers: Headers) -> None:
    told = headers.get("content-length", "0")
    if not _is_upload(headers) and (not told.isdecimal() or int(told) > LARGEST_BODY):
        raise AccessDeniedError(413, f"expected {LARGEST_BODY} bytes at most")


def _is_upload(headers: Headers) -> bool:
    return headers.get("content-type", "").startswith("multipart/form-data")


def _bounded(request: Request, receive: Receive) -> Receive:
    """Read no more than was allowed of a body whose length nobody told."""
    if _is_upload(request.headers):
        return receive
    read = 0

    async def counted() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > LARGEST_BODY:
            raise HTTPException(413, f"expected {LARGEST_BODY} bytes at most")
        return message

    return counted


# --- what only our own pages know -----------------------------------------------------------------


def _browser_seed(request: Request) -> str:
    found = request.cookies.get(BROWSER, "")
    return found if _MARK.fullmatch(found) else ""


def _marked(request: Request, visit: RequestContext, *, has_session: bool) -> RequestContext:
    """Return the visit of a request that changes nothing, or proves that a page of ours asks.

    Who sends neither an origin nor a site, nor a session's cookie, is no browser that a page of
    another host could have asked.
    """
    if request.method in _SAFE:
        return visit
    site, origin = (request.headers.get(name) for name in ("sec-fetch-site", "origin"))
    if site is None and origin is None and not has_session:
        return visit
    if site not in {None, "same-origin", "none"}:
        raise AccessDeniedError(403, "a page of another host asks; nothing was changed")
    given = request.headers.get(HEADER)
    if given is not None and _is_mark(given, visit):
        return visit
    if given is None and request.headers.get("content-type", "").startswith(_FORMS):
        return RequestContext(
            visit.person, visit.address, visit.is_secure, visit.seed, visit.is_new, False
        )
    raise AccessDeniedError(
        403, f"nothing was changed: the page's mark ({HEADER}) is missing or another's"
    )


def _is_mark(given: Any, visit: RequestContext) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode(), visit.mark.encode())


async def unforged(request: Request) -> None:
    """Let a form in only with the mark that our own page put into it."""
    visit = visit_of(request)
    if visit is None or visit.is_marked:
        return
    if not _is_mark((await request.form()).get(FIELD), visit):
        raise HTTPException(
            403, "nothing was changed: this form is not of our making, or too old; load it again"
        )


# --- what goes with every answer ------------------------------------------------------------------


def _add_headers(headers: MutableHeaders, visit: RequestContext | None) -> None:
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if visit is None:
        return
    headers.setdefault("Cache-Control", "private, no-cache")
    if visit.is_new:
        headers.append("Set-Cookie", cookie(BROWSER, visit.seed, _BROWSER_LASTS_S, visit.is_secure))


def cookie(name: str, value: str, lasts_s: int, is_secure: bool) -> str:
    """Return a Set-Cookie header that no script can read and no other host's form is sent with."""
    secure = "; Secure" if is_secure else ""
    return f"{name}={value}; Path=/; Max-Age={lasts_s}; HttpOnly; SameSite=Lax{secure}"


def _refused(request: Request, refusal: AccessDeniedError, told: Told) -> Response:
    path = request.url.path
    is_page = request.method in _SAFE and (path == DOCS or not path.startswith("/api/"))
    if refusal.status == 401 and is_page:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{_LOGIN}?to={quote(path + query)}", 303)
    answer = told(request, refusal.status, refusal.words)
    if refusal.status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def session_lasts(web: WebSettings) -> timedelta:
    """Return how long somebody stays logged in."""
    return timedelta(hours=web.session_h)
