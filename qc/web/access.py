"""Who asks, and what they may do."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response

from qc.database import user as user_at_the_keyboard

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


class Role(IntEnum):
    """What somebody may do; each includes those before it."""

    LOOK = 1
    REVIEW = 2
    TUNE = 3


@dataclass(frozen=True)
class Person:
    """Who asks."""

    name: str
    role: Role


def person(request: Request) -> Person:
    """Return who asks: without accounts, whoever is at this machine's keyboard."""
    del request
    return Person(user_at_the_keyboard(), Role.TUNE)


Anybody = Annotated[Person, Depends(person)]


def at_least(role: Role) -> Callable[[Person], Person]:
    """Return a dependency that lets only those pass who may do so much."""

    def check(who: Anybody) -> Person:
        if who.role < role:
            raise HTTPException(403, f"{who.name} may not do this: it takes the role {role.name}")
        return who

    return check


Reviewer = Annotated[Person, Depends(at_least(Role.REVIEW))]
Tuner = Annotated[Person, Depends(at_least(Role.TUNE))]


def guard(app: FastAPI) -> None:
    """Let every answer carry what keeps a browser from doing what a page did not ask for."""

    @app.middleware("http")
    async def headers(
        request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await answer(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response
