"""Authentication and roles.

Without accounts only this machine may open the pages, under a name of its own. With accounts a
request needs a session cookie, an API token or the trusted header of a reverse proxy.
"""

import datetime as dt
import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

import fastapi
from sqlalchemy.orm import Session
from starlette.datastructures import Headers

from qc import db
from qc.core import Role
from qc.db.accounts import Account
from qc.settings import WebSettings

SESSION_COOKIE, BROWSER_COOKIE = "qc_session", "qc_browser"
LOGIN_PATH = "/login"
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::\d{1,5})?")


@dataclass(frozen=True)
class Principal:
    """The authenticated user of a request."""

    name: str
    role: Role


@dataclass(frozen=True)
class RequestContext:
    """Identity and origin of a request, set by the access middleware.

    Attributes
    ----------
    principal : Principal or None
        None before the login.
    address : str
        IP address of the browser; behind a trusted proxy the forwarded address.
    is_secure : bool
        True if the browser uses HTTPS.
    csrf_seed : str
        Secret of the session or browser, from which the CSRF token is derived.
    needs_cookie : bool
        True if the browser has not received its seed yet.
    is_csrf_checked : bool
        False if a form field must still prove the CSRF token.
    """

    principal: Principal | None
    address: str
    is_secure: bool
    csrf_seed: str
    needs_cookie: bool = False
    is_csrf_checked: bool = True

    @property
    def csrf_token(self) -> str:
        """Return the token that a form or script must send with a change."""
        return sha256(b"csrf " + self.csrf_seed.encode()).hexdigest()


class AccessDeniedError(Exception):
    """The request is refused with an HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


# --- access to the context ------------------------------------------------------------------------


def context_of(request: fastapi.Request) -> RequestContext | None:
    """Return the context of a request; None if the middleware refused it or it is static."""
    context: RequestContext | None = request.scope.get("qc.context")
    return context


def csrf_token_of(request: fastapi.Request) -> str:
    """Return the CSRF token for the forms of a page; empty without context."""
    context = context_of(request)
    return context.csrf_token if context else ""


def principal_of(request: fastapi.Request) -> Principal | None:
    """Return the user of a request; None before the login."""
    context = context_of(request)
    return context.principal if context else None


def require_principal(request: fastapi.Request) -> Principal:
    """Return the user of a request, or refuse it with status 401."""
    principal = principal_of(request)
    if principal is None:
        raise fastapi.HTTPException(401, "Not logged in; log in first.")
    return principal


User = Annotated[Principal, fastapi.Depends(require_principal)]


def require_role(role: Role) -> Callable[[Principal], Principal]:
    """Return a dependency that refuses users without a role."""

    def check(user: User) -> Principal:
        if not user.role.includes(role):
            raise fastapi.HTTPException(
                403,
                f"Not allowed: user {user.name} has the role {user.role.name}, expected the role "
                f"{role.name}.",
            )
        return user

    return check


Reviewer = Annotated[Principal, fastapi.Depends(require_role(Role.REVIEW))]
Tuner = Annotated[Principal, fastapi.Depends(require_role(Role.TUNE))]


# --- authentication -------------------------------------------------------------------------------


def authenticate(
    request: fastapi.Request,
    session: Session,
    web: WebSettings,
    now: dt.datetime,
    *,
    by_proxy: bool,
) -> tuple[Principal | None, str]:
    """Return the user of a request and the session key that proves it.

    Parameters
    ----------
    request : Request
    session : Session
        For reading.
    web : WebSettings
    now : datetime
        Aware.
    by_proxy : bool
        True if a trusted proxy names the user in a header.

    Returns
    -------
    principal : Principal or None
        None on the way to the login page.
    session_key : str
        Empty unless a session cookie was used.

    Raises
    ------
    AccessDeniedError
        If the request needs a login, or its token or proxy user is unknown.
    """
    is_login = request.url.path == LOGIN_PATH
    if by_proxy:
        name = request.headers.get(web.trusted_header, "")
        account = db.accounts.find_account(session, name) if name else None
        if account is None and not is_login:
            raise AccessDeniedError(403, "The user named by the proxy has no account here.")
        return _principal(account), ""
    if has_token(request):
        key = request.headers["authorization"][len("bearer ") :].strip()
        account = db.accounts.find_holder(session, key, now, is_session=False)
        if account is None:
            raise AccessDeniedError(401, "Invalid token; create one with 'qc users token NAME'.")
        return _principal(account), ""
    key = request.cookies.get(SESSION_COOKIE, "")
    account = db.accounts.find_holder(session, key, now, is_session=True) if key else None
    if account is None and not is_login:
        raise AccessDeniedError(401, "Not logged in; log in first.")
    return _principal(account), key if account else ""


def _principal(account: Account | None) -> Principal | None:
    return Principal(account.name, account.role) if account else None


def has_token(request: fastapi.Request) -> bool:
    """Return True if an API request carries a bearer token."""
    is_api = request.url.path.startswith("/api/")
    return is_api and request.headers.get("authorization", "").lower().startswith("bearer ")


# --- address of the client ------------------------------------------------------------------------


def check_own_machine(peer: str, headers: Headers) -> None:
    """Refuse a request from another machine or under a foreign host name (DNS rebinding).

    Parameters
    ----------
    peer : str
        IP address of the connection.
    headers : Headers

    Raises
    ------
    AccessDeniedError
        If the request is forwarded, or its peer or host is not a loopback address.
    """
    is_forwarded = any(name in headers for name in ("forwarded", "x-forwarded-for", "x-real-ip"))
    match = _HOST.fullmatch(headers.get("host", ""))
    host = (match[1] or match[2]) if match else ""
    if is_forwarded or not is_loopback(peer) or not is_loopback(host):
        raise AccessDeniedError(
            403,
            "Without accounts the pages are open to this machine only, as http://localhost/. "
            "Create an account with 'qc users add NAME --role review'.",
        )


def is_loopback(host: str) -> bool:
    """Return True if a host name or address is a loopback address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_within(address: str, networks: Iterable[str]) -> bool:
    """Return True if an IP address belongs to a network.

    Parameters
    ----------
    address : str
    networks : iterable of str
        In CIDR notation.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in ipaddress.ip_network(network) for network in networks)


def forwarded_address(headers: Headers, peer: str) -> str:
    """Return the browser's address behind a trusted proxy.

    Only the last entry of X-Forwarded-For is from the proxy; the client can forge the others.

    Parameters
    ----------
    headers : Headers
    peer : str
        Address of the proxy, the fallback.
    """
    last = headers.get("x-forwarded-for", "").rsplit(",", 1)[-1].strip()
    try:
        return str(ipaddress.ip_address(last))
    except ValueError:
        return peer


# --- cookies --------------------------------------------------------------------------------------


def make_cookie(name: str, value: str, max_age_s: int, *, is_secure: bool) -> str:
    """Return a Set-Cookie header, hidden from scripts and from forms of other sites.

    Parameters
    ----------
    name, value : str
    max_age_s : int
        0 deletes the cookie.
    is_secure : bool
        Send the cookie over HTTPS only.
    """
    secure = "; Secure" if is_secure else ""
    return f"{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}"


def session_duration(web: WebSettings) -> dt.timedelta:
    """Return the lifetime of a login session."""
    return dt.timedelta(hours=web.session_h)
