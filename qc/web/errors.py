"""A mistake is told on a page of its own, in the words it was made with; a bug in none."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from qc.errors import InvalidInputError, QCError, UnknownFrameError
from qc.web.rendering import render

_STATUS: dict[type[Exception], int] = {UnknownFrameError: 404, InvalidInputError: 422}


def explain(app: FastAPI) -> None:
    """Answer the errors that qc raises on purpose, as page or as JSON."""

    @app.exception_handler(QCError)
    def mistake(request: Request, error: Exception) -> Response:
        return told(request, _STATUS.get(type(error), 500), str(error))

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return told(request, error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    def nonsense(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return told(request, 422, "; ".join(_sentence(one) for one in error.errors()))


def _sentence(mistake: dict[str, Any]) -> str:
    """Say which part of a question cannot be, and why; what a form holds is not repeated."""
    where, *names = mistake["loc"]
    name = ".".join(map(str, names)) or where
    got = mistake.get("input")
    is_plain = where != "body" and isinstance(got, str | int | float)
    return f"{name}: {mistake['msg']}" + (f", got {str(got)[:40]!r}" if is_plain else "")


def told(request: Request, status: int, words: str) -> Response:
    """Return a page that says what went wrong, or for scripts a document."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": words}, status)
    return render(request, "error.html.j2", status=status, words=words)
