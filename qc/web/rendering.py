"""What every page shares: the project it is about, its template, and its age."""

from collections.abc import Iterator
from datetime import UTC
from functools import cache
from typing import Annotated, Any

from fastapi import Depends, Path, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from sqlalchemy.orm import Session

from qc._cache import LRUCache
from qc._text import counted
from qc.db.models import BEYOND_IDS
from qc.project import Project
from qc.web.auth import FIELD, SESSION, asker, csrf_mark
from qc.web.urls import frame_address, thumbnail_address


def project_of(request: Request) -> Project:
    """Return the project that the application is about."""
    project: Project = request.app.state.project
    return project


def reading(request: Request) -> Iterator[Session]:
    """Give a session that only reads, for as long as the request lasts."""
    with project_of(request).reads() as session:
        yield session


def writing(request: Request) -> Iterator[Session]:
    """Give a session whose transaction is committed when the request has gone well."""
    with project_of(request).writes.begin() as session:
        yield session


def kept_of(request: Request) -> LRUCache:
    """Return what was made for earlier pages."""
    kept: LRUCache = request.app.state.kept
    return kept


def renewed(request: Request) -> Project:
    """Return the project with what people have changed since: limits, and the classifier."""
    project = project_of(request).renewed()
    request.app.state.project = project
    return project


Renewed = Annotated[Project, Depends(renewed)]
ProjectDep = Annotated[Project, Depends(project_of)]
Keeping = Annotated[LRUCache, Depends(kept_of)]
Reads = Annotated[Session, Depends(reading)]
# Its transaction ends before the answer leaves: what was answered is kept.
Writes = Annotated[Session, Depends(writing, scope="function")]

# A row's number in an address; a database refuses to look for larger ones.
RowNumber = Annotated[int, Path(ge=1, lt=BEYOND_IDS, description="A row's number.")]


def render(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Return a page; it shows how old it is from then on."""
    page = _environment().get_template(template)
    mark = csrf_mark(request)
    generated_at = request.app.state.now().astimezone(UTC)
    content = page.render(
        request=request,
        project=project_of(request).settings.project.name,
        person=asker(request),
        has_session=SESSION in request.cookies,
        csrf_mark=mark,
        csrf=lambda: Markup('<input type="hidden" name="{}" value="{}">').format(FIELD, mark),
        status=status,
        generated_at=generated_at,
        **context,
    )
    return HTMLResponse(content, status, headers={"Cache-Control": "no-store"})


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("qc.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["counted"] = counted
    made.filters |= {"frame_address": frame_address, "thumbnail_address": thumbnail_address}
    return made
