"""FastAPI dependencies: project, database sessions, cache and path parameters."""

from collections.abc import Iterator
from typing import Annotated, Any

import fastapi
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session

from qc._cache import LRUCache
from qc.db.schema.models import BEYOND_IDS
from qc.project import ProjectContext

LONGEST_NAME = 300  # characters of a frame's name


class ApiRoute(APIRoute):
    """API operation described by its docstring without the Parameters section."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.description = self.description.partition("\nParameters\n")[0].strip()


def get_project(request: fastapi.Request) -> ProjectContext:
    """Return the project of the application."""
    project: ProjectContext = request.app.state.project
    return project


def reload_project(request: fastapi.Request) -> ProjectContext:
    """Return the project with the thresholds and the classifier of now."""
    project = get_project(request).reload()
    request.app.state.project = project
    return project


def get_cache(request: fastapi.Request) -> LRUCache:
    """Return the cache that the pages share."""
    cache: LRUCache = request.app.state.cache
    return cache


def open_read_session(request: fastapi.Request) -> Iterator[Session]:
    """Yield a session for reading that lasts as long as the request."""
    with get_project(request).read_session() as session:
        yield session


def open_write_session(request: fastapi.Request) -> Iterator[Session]:
    """Yield a session whose transaction is committed if the request succeeds."""
    with get_project(request).write_session.begin() as session:
        yield session


def check_image_type(
    project: Annotated[ProjectContext, fastapi.Depends(reload_project)],
    image_type: Annotated[str, fastapi.Path(description="Image type, for example `UBB0`.")],
) -> str:
    """Return an image type, or refuse an unknown one with status 404.

    Parameters
    ----------
    project : ProjectContext
    image_type : str
    """
    if image_type not in project.thresholds.entries:
        expected = " ".join(sorted(project.thresholds.entries))
        raise fastapi.HTTPException(
            404, f"{image_type[:40]}: no such image type; expected one of {expected}"
        )
    return image_type


CurrentProject = Annotated[ProjectContext, fastapi.Depends(get_project)]
ReloadedProject = Annotated[ProjectContext, fastapi.Depends(reload_project)]
Cache = Annotated[LRUCache, fastapi.Depends(get_cache)]
ReadSession = Annotated[Session, fastapi.Depends(open_read_session)]
# Committed before the response is sent: an acknowledged change is durable.
WriteSession = Annotated[Session, fastapi.Depends(open_write_session, scope="function")]

ImageType = Annotated[str, fastapi.Depends(check_image_type)]
# Databases refuse to compare larger numbers.
RowNumber = Annotated[
    int, fastapi.Path(ge=1, lt=BEYOND_IDS, description="Number of the database row.")
]
FrameName = Annotated[
    str, fastapi.Path(max_length=LONGEST_NAME, description="Archive name of the frame.")
]
ExtensionNumber = Annotated[
    int | None, fastapi.Query(ge=0, le=1000, description="HDU number; default: first extension.")
]
