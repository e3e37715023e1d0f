"""Error responses: a page for browsers, JSON for scripts."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from qc import errors
from qc.web.rendering import render

_STATUS: dict[type[Exception], int] = {errors.UnknownFrameError: 404, errors.InvalidInputError: 422}


def install_handlers(app: FastAPI) -> None:
    """Render the errors that qc raises on purpose; other exceptions are bugs."""

    @app.exception_handler(errors.QCError)
    def handle_qc_error(request: Request, error: Exception) -> Response:
        return render_error(request, _STATUS.get(type(error), 500), str(error))

    @app.exception_handler(HTTPException)
    def handle_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return render_error(request, error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    def handle_invalid_request(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return render_error(request, 422, "; ".join(describe(entry) for entry in error.errors()))


def describe(error: dict[str, Any]) -> str:
    """Return a validation error in words; the content of a form is not repeated."""
    where, *path = error["loc"]
    name = ".".join(map(str, path)) or where
    value = error.get("input")
    is_simple = where != "body" and isinstance(value, str | int | float)
    return f"{name}: {error['msg']}" + (f", got {str(value)[:40]!r}" if is_simple else "")


def render_error(request: Request, status: int, message: str) -> Response:
    """Return an error as a page, or as JSON for the API.

    Parameters
    ----------
    request : Request
    status : int
        HTTP status.
    message : str
    """
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": message}, status)
    return render(request, "error.html.j2", status=status, message=message)
