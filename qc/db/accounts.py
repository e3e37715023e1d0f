"""Accounts: users, sessions, tokens and the rate limit of logins.

Passwords are stored as argon2id digests, keys as SHA-256 digests.
"""

import datetime as dt
import ipaddress
import logging
import re
import secrets
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import orm

from qc import errors
from qc._text import truncate
from qc.core.enums import Role
from qc.db.schema import models

if TYPE_CHECKING:
    from argon2 import PasswordHasher

logger = logging.getLogger(__name__)

SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 1024
# Rate limit: failed logins within the window for one account from one address, for one account
# from any address, and from one address for any account. The second limit locks the owner out
# too, so it is higher.
WINDOW = dt.timedelta(minutes=15)
MOST_OF_BOTH, MOST_OF_ACCOUNT, MOST_OF_ADDRESS = 5, 50, 30
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_CONCURRENT_DIGESTS = BoundedSemaphore(2)  # each digest takes 64 MiB of memory
# An unknown name is verified against this digest, so that it takes as long as a known one.
_DUMMY_DIGEST = (
    "$argon2id$v=19$m=65536,t=3,p=4$MTIzNDU2Nzg5MDEyMzQ1Ng"
    "$Yt2DHdNDGgkq6sVBUyOOfXAGYAiMtqxhHDb0UJgr4Nk"
)


@dataclass(frozen=True)
class Account:
    """User of the review pages."""

    name: str
    role: Role
    made_at: dt.datetime
    tokens: int = 0


@cache
def _hasher() -> "PasswordHasher":
    from argon2 import PasswordHasher

    return PasswordHasher()


def list_accounts(session: orm.Session) -> list[Account]:
    """Return all accounts by name, with the number of their tokens."""
    tokens = (
        sa.select(sa.func.count())
        .where(
            models.SessionKeyRow.account_id == models.AccountRow.id,
            ~models.SessionKeyRow.is_session,
        )
        .correlate(models.AccountRow)
        .scalar_subquery()
    )
    query = sa.select(models.AccountRow, tokens).order_by(models.AccountRow.name)
    return [
        Account(row.name, Role(row.role), row.made_at, count)
        for row, count in session.execute(query)
    ]


def has_accounts(session: orm.Session) -> bool:
    """Return True if there is an account, so that users must log in."""
    return bool(session.scalar(sa.select(sa.exists(sa.select(models.AccountRow.id)))))


def find_account(session: orm.Session, name: str) -> Account | None:
    """Return the account of a name, if any.

    Parameters
    ----------
    session : Session
    name : str

    Returns
    -------
    Account or None
    """
    row = _find_row(session, name)
    return Account(row.name, Role(row.role), row.made_at) if row else None


def add_account(
    session: orm.Session, name: str, role: Role, password: str, now: dt.datetime
) -> None:
    """Add an account.

    Parameters
    ----------
    session : Session
    name : str
        Letters, digits, dot, hyphen, underscore and @.
    role : Role
    password : str
    now : datetime

    Raises
    ------
    InvalidInputError
        If the name is taken or invalid, or the length of the password is.
    """
    if not _NAME.fullmatch(name):
        raise errors.InvalidInputError(
            f"'{truncate(name)}': expected letters, digits, dot, hyphen, underscore and @, "
            "64 at most"
        )
    if find_account(session, name):
        raise errors.InvalidInputError(
            f"there is an account {name} already; 'qc users list' shows all"
        )
    password_digest = _digest_password(password)
    session.add(models.AccountRow(name=name, role=role, password=password_digest, made_at=now))
    session.flush()


def change_password(session: orm.Session, name: str, password: str) -> None:
    """Set another password and end the account's sessions.

    Parameters
    ----------
    session : Session
    name : str
    password : str

    Raises
    ------
    InvalidInputError
        If there is no such account, or the password is too short.
    """
    row = _get_row(session, name)
    row.password = _digest_password(password)
    session.execute(
        sa.delete(models.SessionKeyRow).where(
            models.SessionKeyRow.account_id == row.id, models.SessionKeyRow.is_session
        )
    )


def remove_account(session: orm.Session, name: str) -> None:
    """Remove an account with its sessions and tokens; its labels stay.

    Parameters
    ----------
    session : Session
    name : str

    Raises
    ------
    InvalidInputError
        If there is no such account.
    """
    row = _get_row(session, name)
    session.execute(
        sa.delete(models.SessionKeyRow).where(models.SessionKeyRow.account_id == row.id)
    )
    session.delete(row)


def make_token(session: orm.Session, name: str, now: dt.datetime) -> str:
    """Return a new token for an account's scripts; it cannot be shown again.

    Parameters
    ----------
    session : Session
    name : str
    now : datetime

    Returns
    -------
    str

    Raises
    ------
    InvalidInputError
        If there is no such account.
    """
    return _add_key(session, _get_row(session, name).id, now)


def revoke_tokens(session: orm.Session, name: str) -> int:
    """Revoke all tokens of an account; return their number.

    Parameters
    ----------
    session : Session
    name : str

    Returns
    -------
    int

    Raises
    ------
    InvalidInputError
        If there is no such account.
    """
    key = models.SessionKeyRow
    tokens = key.account_id == _get_row(session, name).id, ~key.is_session
    count = session.scalar(sa.select(sa.func.count()).select_from(key).where(*tokens))
    session.execute(sa.delete(key).where(*tokens))
    return count or 0


def find_holder(
    session: orm.Session, key: str, now: dt.datetime, *, is_session: bool
) -> Account | None:
    """Return the account of a valid key.

    Parameters
    ----------
    session : Session
    key : str
    now : datetime
    is_session : bool
        True for a session's key, False for a token.

    Returns
    -------
    Account or None
        None for an unknown or expired key.
    """
    query = (
        sa.select(models.AccountRow)
        .join(models.SessionKeyRow, models.SessionKeyRow.account_id == models.AccountRow.id)
        .where(
            models.SessionKeyRow.digest == _digest_text(key),
            models.SessionKeyRow.is_session.is_(is_session),
            sa.or_(
                models.SessionKeyRow.expires_at.is_(None), models.SessionKeyRow.expires_at > now
            ),
        )
    )
    row = session.scalar(query)
    return Account(row.name, Role(row.role), row.made_at) if row else None


def log_out(session: orm.Session, key: str) -> None:
    """Delete a session's key.

    Parameters
    ----------
    session : Session
    key : str
    """
    session.execute(
        sa.delete(models.SessionKeyRow).where(
            models.SessionKeyRow.digest == _digest_text(key), models.SessionKeyRow.is_session
        )
    )


def log_in(
    writes: orm.sessionmaker[orm.Session],
    name: str,
    password: str,
    address: str,
    now: dt.datetime,
    lasts: dt.timedelta,
) -> str:
    """Check a password and return the key of a new session.

    The attempt is stored before its password is verified, so that concurrent attempts count. No
    transaction is open during the verification.

    Parameters
    ----------
    writes : sessionmaker
        Sessions that write.
    name, password : str
    address : str
        Client's IP address.
    now : datetime
    lasts : timedelta
        Lifetime of the session.

    Returns
    -------
    str

    Raises
    ------
    AuthenticationError
        If name or password is invalid, or the rate limit is exceeded.
    """
    facts = {"address": address, "account": ""}
    with writes.begin() as session:
        row = _find_row(session, name)
        stored = row.password if row else _DUMMY_DIGEST
        facts["account"] = row.name if row else "unknown"  # the name may be a password
        attempt = _begin_attempt(session, name, address, now)
    if attempt is None:
        logger.warning("login rate limit exceeded", extra=facts)
        minutes = int(WINDOW.total_seconds() / 60)
        raise errors.AuthenticationError(f"too many failed logins; try again in {minutes} minutes")
    if not _verify_password(password, stored):
        logger.warning("login refused", extra=facts)
        raise errors.AuthenticationError("invalid user name or password")
    with writes.begin() as session:
        row = _find_row(session, name)
        if row is None or row.password != stored:  # removed or changed during the verification
            raise errors.AuthenticationError("invalid user name or password")
        session.execute(sa.delete(models.FailedLoginRow).where(models.FailedLoginRow.id == attempt))
        key = _add_key(session, row.id, now, now + lasts)
    logger.info("login", extra=facts)
    return key


def _begin_attempt(session: orm.Session, name: str, address: str, now: dt.datetime) -> int | None:
    """Store an attempt as failed and return its id; None if the rate limit is exceeded."""
    login = models.FailedLoginRow
    session.execute(sa.delete(login).where(login.at <= now - WINDOW))
    session.execute(sa.delete(models.SessionKeyRow).where(models.SessionKeyRow.expires_at <= now))
    name_digest, network = _digest_text(name), network_of(address)
    of_account, of_address = login.name_digest == name_digest, login.address == network
    limits = (
        ((of_account, of_address), MOST_OF_BOTH),
        ((of_account,), MOST_OF_ACCOUNT),
        ((of_address,), MOST_OF_ADDRESS),
    )
    for conditions, limit in limits:
        query = sa.select(sa.func.count()).select_from(login).where(*conditions)
        if (session.scalar(query) or 0) >= limit:
            return None
    row = login(name_digest=name_digest, address=network, at=now)
    session.add(row)
    session.flush()
    return row.id


def network_of(address: str) -> str:
    """Return an IPv4 address, or the /64 network of an IPv6 address: one client's share."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else address


def _verify_password(password: str, digest: str) -> bool:
    from argon2.exceptions import VerifyMismatchError

    with _CONCURRENT_DIGESTS:
        try:
            return _hasher().verify(digest, password[:LONGEST_PASSWORD])
        except VerifyMismatchError:
            return False


def _digest_password(password: str) -> str:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise errors.InvalidInputError(
            f"password: expected {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters, "
            f"got {len(password)}"
        )
    with _CONCURRENT_DIGESTS:
        return _hasher().hash(password)


def _add_key(
    session: orm.Session, account_id: int, now: dt.datetime, expires_at: dt.datetime | None = None
) -> str:
    key = f"qc_{secrets.token_urlsafe(32)}"
    session.add(
        models.SessionKeyRow(
            digest=_digest_text(key),
            account_id=account_id,
            is_session=expires_at is not None,
            made_at=now,
            expires_at=expires_at,
        )
    )
    session.flush()
    return key


def _digest_text(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


def _find_row(session: orm.Session, name: str) -> models.AccountRow | None:
    if not _NAME.fullmatch(name):  # databases refuse some characters
        return None
    return session.scalar(sa.select(models.AccountRow).where(models.AccountRow.name == name))


def _get_row(session: orm.Session, name: str) -> models.AccountRow:
    row = _find_row(session, name)
    if row is None:
        raise errors.InvalidInputError(
            f"there is no account '{truncate(name)}'; 'qc users list' shows all"
        )
    return row
