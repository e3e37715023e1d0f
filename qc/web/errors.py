"""A mistake is told on a page of its own, in the words it was made with; a bug in none."""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from qc.errors import InvalidAnswer, QCError, UnknownFrame
from qc.web.pages import render

_STATUS: dict[type[Exception], int] = {UnknownFrame: 404, InvalidAnswer: 422}


def explain(app: FastAPI) -> None:
    """Answer the errors that qc raises on purpose, as page or as JSON."""

    @app.exception_handler(QCError)
    def mistake(request: Request, error: Exception) -> Response:
        return told(request, _STATUS.get(type(error), 500), str(error))

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return told(request, error.status_code, str(error.detail))


def told(request: Request, status: int, words: str) -> Response:
    """Return a page that says what went wrong, or for scripts a document."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": words}, status)
    return render(request, "error.html.j2", status=status, words=words)
