"""Who may use the review pages: accounts, what opens the pages for them, and who may not try again.

Nothing here is kept that opens anything: of passwords argon2id digests, of keys their SHA-256.
"""

import ipaddress
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from threading import BoundedSemaphore

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from sqlalchemy import ColumnElement, delete, exists, func, or_, select
from sqlalchemy.orm import Session, sessionmaker

from qc._text import shortened
from qc.core.enums import Role
from qc.db.models import AccountRow, FailedLoginRow, SessionKeyRow
from qc.errors import AuthenticationError, InvalidInputError

logger = logging.getLogger(__name__)

SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 1024
WINDOW = timedelta(minutes=15)
# Failed tries within that time: of one account from one address; of one account from anywhere,
# more, as its owner is shut out with the thief; of one address, whatever the account.
MOST_OF_BOTH, MOST_OF_ACCOUNT, MOST_OF_ADDRESS = 5, 50, 30
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_AT_ONCE = BoundedSemaphore(2)  # each digest takes 64 MiB: a crowd at the door takes no more
_HASHER = PasswordHasher()
# Of nobody's password: a name that is not there takes as long as one that is.
_NOBODY = (
    "$argon2id$v=19$m=65536,t=3,p=4$MTIzNDU2Nzg5MDEyMzQ1Ng"
    "$Yt2DHdNDGgkq6sVBUyOOfXAGYAiMtqxhHDb0UJgr4Nk"
)


@dataclass(frozen=True)
class Account:
    """Somebody who may use the pages."""

    name: str
    role: Role
    made_at: datetime
    tokens: int = 0


def accounts(session: Session) -> list[Account]:
    """List who may use the pages, by name."""
    tokens = (
        select(func.count())
        .where(SessionKeyRow.account_id == AccountRow.id, ~SessionKeyRow.is_session)
        .correlate(AccountRow)
        .scalar_subquery()
    )
    rows = session.execute(select(AccountRow, tokens).order_by(AccountRow.name))
    return [Account(row.name, Role(row.role), row.made_at, count) for row, count in rows]


def has_accounts(session: Session) -> bool:
    """Say whether people must say who they are."""
    return bool(session.scalar(select(exists(select(AccountRow.id)))))


def find_account(session: Session, name: str) -> Account | None:
    """Return an account, if there is one of that name."""
    row = _row(session, name)
    return Account(row.name, Role(row.role), row.made_at) if row else None


def add_account(session: Session, name: str, role: Role, password: str, now: datetime) -> None:
    """Let somebody in.

    Raises
    ------
    InvalidAnswer
        If the name is taken or no name, or the password is too short.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"'{shortened(name)}': expected letters, digits, dot, hyphen, underscore and @, "
            "64 at most"
        )
    if find_account(session, name):
        raise InvalidInputError(f"there is an account {name} already; 'qc user list' shows all")
    session.add(AccountRow(name=name, role=role, password=_digest_of(password), made_at=now))
    session.flush()


def change_password(session: Session, name: str, password: str) -> None:
    """Set another password; whoever is logged in with the old one is not any more.

    Raises
    ------
    InvalidAnswer
        If there is no such account, or the password is too short.
    """
    row = _named(session, name)
    row.password = _digest_of(password)
    session.execute(
        delete(SessionKeyRow).where(SessionKeyRow.account_id == row.id, SessionKeyRow.is_session)
    )


def remove_account(session: Session, name: str) -> None:
    """Let somebody in no more, at once; what they said stays.

    Raises
    ------
    InvalidAnswer
        If there is no such account.
    """
    row = _named(session, name)
    session.execute(delete(SessionKeyRow).where(SessionKeyRow.account_id == row.id))
    session.delete(row)


def make_token(session: Session, name: str, now: datetime) -> str:
    """Return a new token for somebody's scripts; it cannot be shown again.

    Raises
    ------
    InvalidAnswer
        If there is no such account.
    """
    return _make_key(session, _named(session, name).id, now)


def revoke_tokens(session: Session, name: str) -> int:
    """Let none of somebody's scripts in any more; return how many tokens there were.

    Raises
    ------
    InvalidAnswer
        If there is no such account.
    """
    tokens = SessionKeyRow.account_id == _named(session, name).id, ~SessionKeyRow.is_session
    count = session.scalar(select(func.count()).select_from(SessionKeyRow).where(*tokens))
    session.execute(delete(SessionKeyRow).where(*tokens))
    return count or 0


def holder_of(session: Session, key: str, now: datetime, *, is_session: bool) -> Account | None:
    """Return whose key it is, if it opens anything."""
    query = (
        select(AccountRow)
        .join(SessionKeyRow, SessionKeyRow.account_id == AccountRow.id)
        .where(
            SessionKeyRow.digest == _key_digest(key),
            SessionKeyRow.is_session.is_(is_session),
            or_(SessionKeyRow.expires_at.is_(None), SessionKeyRow.expires_at > now),
        )
    )
    row = session.scalar(query)
    return Account(row.name, Role(row.role), row.made_at) if row else None


def log_out(session: Session, key: str) -> None:
    """Let a session's key open nothing any more."""
    session.execute(
        delete(SessionKeyRow).where(
            SessionKeyRow.digest == _key_digest(key), SessionKeyRow.is_session
        )
    )


def log_in(
    writes: sessionmaker[Session],
    name: str,
    password: str,
    address: str,
    now: datetime,
    lasts: timedelta,
) -> str:
    """Return the key of a new session.

    A try is kept before its password is looked at, so that many at once are counted too; the
    database is not held meanwhile.

    Raises
    ------
    NotAdmitted
        If name and password do not fit, or too many tries have failed.
    """
    facts = {"address": address, "account": ""}
    with writes.begin() as session:
        row = _row(session, name)
        stored = row.password if row else _NOBODY
        facts["account"] = row.name if row else "unknown"  # it may be a password
        attempt = _begin_attempt(session, name, address, now)
    if attempt is None:
        logger.warning("login put off", extra=facts)
        minutes = int(WINDOW.total_seconds() / 60)
        raise AuthenticationError(f"too many tries have failed; try again in {minutes} minutes")
    if not _fits(password, stored):
        logger.warning("login refused", extra=facts)
        raise AuthenticationError("name and password do not fit")
    with writes.begin() as session:
        row = _row(session, name)
        if row is None or row.password != stored:  # removed or changed in these milliseconds
            raise AuthenticationError("name and password do not fit")
        session.execute(delete(FailedLoginRow).where(FailedLoginRow.id == attempt))
        key = _make_key(session, row.id, now, now + lasts)
    logger.info("login", extra=facts)
    return key


def _begin_attempt(session: Session, name: str, address: str, now: datetime) -> int | None:
    """Keep that somebody tries, and return its number; None if that is once too often."""
    session.execute(delete(FailedLoginRow).where(FailedLoginRow.at <= now - WINDOW))
    session.execute(delete(SessionKeyRow).where(SessionKeyRow.expires_at <= now))
    whose, whence = (
        FailedLoginRow.name_digest == _key_digest(name),
        FailedLoginRow.address == _net(address),
    )
    limits = (
        ((whose, whence), MOST_OF_BOTH),
        ((whose,), MOST_OF_ACCOUNT),
        ((whence,), MOST_OF_ADDRESS),
    )
    if any(_tries(session, of) >= most for of, most in limits):
        return None
    row = FailedLoginRow(name_digest=_key_digest(name), address=_net(address), at=now)
    session.add(row)
    session.flush()
    return row.id


def _tries(session: Session, of: Sequence[ColumnElement[bool]]) -> int:
    return session.scalar(select(func.count()).select_from(FailedLoginRow).where(*of)) or 0


def _net(address: str) -> str:
    """Return what one customer has: an address, or 2^64 of them where these are long."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address


def _fits(password: str, stored: str) -> bool:
    with _AT_ONCE:
        try:
            return _HASHER.verify(stored, password[:LONGEST_PASSWORD])
        except VerifyMismatchError:
            return False


def _digest_of(password: str) -> str:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise InvalidInputError(
            f"password: expected {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters, "
            f"got {len(password)}"
        )
    with _AT_ONCE:
        return _HASHER.hash(password)


def _make_key(
    session: Session, account_id: int, now: datetime, expires_at: datetime | None = None
) -> str:
    key = f"qc_{secrets.token_urlsafe(32)}"
    session.add(
        SessionKeyRow(
            digest=_key_digest(key),
            account_id=account_id,
            is_session=expires_at is not None,
            made_at=now,
            expires_at=expires_at,
        )
    )
    session.flush()
    return key


def _key_digest(key: str) -> str:
    return sha256(key.encode(errors="surrogatepass")).hexdigest()


def _row(session: Session, name: str) -> AccountRow | None:
    is_name = _NAME.fullmatch(name)  # what is none may hold what a database takes for no text
    return session.scalar(select(AccountRow).where(AccountRow.name == name)) if is_name else None


def _named(session: Session, name: str) -> AccountRow:
    row = _row(session, name)
    if row is None:
        raise InvalidInputError(
            f"there is no account '{shortened(name)}'; 'qc user list' shows all"
        )
    return row
