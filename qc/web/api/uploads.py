"""A file that a browser sends to be looked at: bounded in size and time, and gone afterwards."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import UploadFile

from qc.web.rendering import project_of

_FORM_BYTES = 64 * 1024  # what the other fields and the boundaries may take
_PIECE_BYTES = 2**20
AT_ONCE = 2  # files that are looked at: each takes a processor, and some hundred megabytes


class BoundedRoute(APIRoute):
    """A route that says no to a body that is too large, or of untold length, before it is read."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            if request.method != "POST":
                return await answer(request)
            _check_length(request)
            limit_s = project_of(request).settings.web.upload_s
            try:
                async with _one_of_few(request), asyncio.timeout(limit_s):
                    return await answer(request)
            except TimeoutError:
                raise HTTPException(
                    408, f"reading the file took more than {limit_s:g} s; it was given up"
                ) from None

        return bounded


@asynccontextmanager
async def _one_of_few(request: Request) -> AsyncIterator[None]:
    """Let a few files be looked at at once; who comes then is told to come again."""
    state = request.app.state
    looked_at = getattr(state, "uploads", 0)
    if looked_at >= AT_ONCE:
        raise HTTPException(
            503,
            f"{looked_at} files are being looked at, as many as may be at once; send it again in "
            "a minute",
        )
    state.uploads = looked_at + 1
    try:
        yield
    finally:
        state.uploads -= 1


def _check_length(request: Request) -> None:
    limit_mb = project_of(request).settings.web.upload_mb
    told = request.headers.get("content-length", "")
    if not told.isdecimal():
        raise HTTPException(411, "the request does not say how long it is; nothing was read")
    if int(told) > limit_mb * 2**20 + _FORM_BYTES:
        raise HTTPException(
            413,
            f"the file is too large: expected at most {limit_mb:g} MB, got "
            f"{int(told) / 2**20:.1f} MB; nothing was read",
        )


@asynccontextmanager
async def on_disk(upload: UploadFile) -> AsyncIterator[Path]:
    """Give the path of a copy under a name of our own, for as long as it is looked at."""
    with TemporaryDirectory(prefix="qc-upload-") as folder:
        path = Path(folder) / f"{secrets.token_hex(16)}.fits"
        with path.open("wb") as file:
            while piece := await upload.read(_PIECE_BYTES):
                file.write(piece)
        yield path
