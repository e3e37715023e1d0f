"""Uploaded FITS files: limited in size, time and number, deleted after use."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fastapi
from starlette.datastructures import UploadFile

from qc.web import deps

_FORM_BYTES = 64 * 1024  # allowance for the other fields and the boundaries
_CHUNK_BYTES = 2**20
MOST_CONCURRENT = 2  # each upload uses one processor and some hundred megabytes


class UploadRoute(deps.ApiRoute):
    """Route that refuses a body that is too large or of unknown length before reading it."""

    def get_route_handler(self) -> Callable[[fastapi.Request], Any]:
        """Return the request handler."""
        handle = super().get_route_handler()

        async def handle_upload(request: fastapi.Request) -> fastapi.Response:
            if request.method != "POST":
                return await handle(request)
            check_length(request)
            limit_s = deps.get_project(request).settings.web.upload_s
            try:
                async with reserve_slot(request), asyncio.timeout(limit_s):
                    return await handle(request)
            except TimeoutError:
                raise fastapi.HTTPException(
                    408, f"reading the file took longer than {limit_s:g} s and was stopped"
                ) from None

        return handle_upload


@asynccontextmanager
async def reserve_slot(request: fastapi.Request) -> AsyncIterator[None]:
    """Limit the number of uploads that are processed at the same time.

    Raises
    ------
    HTTPException
        With status 503 if all slots are in use.
    """
    state = request.app.state
    running = getattr(state, "uploads", 0)
    if running >= MOST_CONCURRENT:
        raise fastapi.HTTPException(
            503,
            f"{running} uploads are being processed, the maximum; send the file again in a minute",
        )
    state.uploads = running + 1
    try:
        yield
    finally:
        state.uploads -= 1


def check_length(request: fastapi.Request) -> None:
    """Refuse a body without declared length, or larger than the upload limit.

    Raises
    ------
    HTTPException
        With status 411 or 413.
    """
    limit_mb = deps.get_project(request).settings.web.upload_mb
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise fastapi.HTTPException(411, "the request has no Content-Length; nothing was read")
    if int(length) > limit_mb * 2**20 + _FORM_BYTES:
        raise fastapi.HTTPException(
            413,
            f"the file is too large: expected at most {limit_mb:g} MB, got "
            f"{int(length) / 2**20:.1f} MB; nothing was read",
        )


@asynccontextmanager
async def save_temporarily(upload: UploadFile) -> AsyncIterator[Path]:
    """Yield the path of a temporary copy under a random name."""
    with TemporaryDirectory(prefix="qc-upload-") as folder:
        path = Path(folder) / f"{secrets.token_hex(16)}.fits"
        with path.open("wb") as file:
            while chunk := await upload.read(_CHUNK_BYTES):
                file.write(chunk)
        yield path
