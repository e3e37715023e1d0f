"""REST: projections and dendrograms of embeddings."""

from dataclasses import asdict
from datetime import date
from typing import Annotated, Any, Literal

import fastapi
from pydantic import Field
from sqlalchemy.orm import Session

from qc import db
from qc._cache import LRUCache
from qc.project import ProjectContext
from qc.search import projection
from qc.search.similar import ANY
from qc.web import auth, deps, query
from qc.web.api import schemas

router = fastapi.APIRouter(prefix="/api/v1", route_class=deps.ApiRoute)

_MOST_NAMES = 200
Name = Annotated[str, Field(max_length=deps.LONGEST_NAME)]


class ProjectionQuery(query.QueryModel):
    """Extensions to project, method and colour."""

    type: Annotated[
        str, Field(max_length=40, description="Image type, or `any`; default: all types.")
    ] = ""
    colour: Annotated[
        Literal["year", "label", "type"], Field(description="Colour of the points on the page.")
    ] = "label"
    way: Annotated[
        projection.ProjectionMethod,
        Field(description="Method: principal components, or t-SNE, which is slow."),
    ] = projection.ProjectionMethod.PCA
    since: query.Since = None
    until: query.Until = None

    @property
    def address(self) -> str:
        """Return the query string."""
        values = self.model_dump(exclude_none=True, mode="json")
        return "&".join(f"{name}={value}" for name, value in values.items())


class DendrogramQuery(query.QueryModel):
    """Extensions of a dendrogram: named frames, or the newest of a type."""

    type: Annotated[str, Field(max_length=40, description="Image type.")]
    frame: Annotated[
        list[Name],
        Field(
            default_factory=list,
            max_length=_MOST_NAMES,
            description="Archive names; default: the newest of the type.",
        ),
    ]
    marked: Annotated[Name, Field(description="Archive name of the frame to mark.")] = ""
    since: query.Since = None
    until: query.Until = None


RequestedProjection = Annotated[ProjectionQuery, fastapi.Query()]
RequestedDendrogram = Annotated[DendrogramQuery, fastapi.Query()]


def select(
    project: ProjectContext, image_type: str, since: date | None, until: date | None
) -> projection.Selection:
    """Return the selection of an image type and a range of nights.

    Parameters
    ----------
    project : ProjectContext
    image_type : str
        Empty or ``any`` for all types.
    since, until : date or None
    """
    is_any = image_type in {"", ANY}
    types = None if is_any else (deps.check_image_type(project, image_type),)
    return projection.Selection(types, since or query.FIRST_NIGHT, until or query.LAST_NIGHT)


def read_projection(
    project: ProjectContext,
    session: Session,
    cache: LRUCache,
    projection_query: ProjectionQuery,
) -> projection.Projection:
    """Return a projection, from the cache if verdicts and labels of its types are unchanged.

    Parameters
    ----------
    project : ProjectContext
    session : Session
        For reading.
    cache : LRUCache
    projection_query : ProjectionQuery
    """
    image_type, method = projection_query.type, projection_query.way
    selection = select(project, image_type, projection_query.since, projection_query.until)
    types = (
        db.extensions.filter_image_types(session, sorted(project.thresholds.entries))
        if selection.image_types is None
        else [image_type]
    )
    newest = tuple(db.extensions.newest_ids_of_type(session, name) for name in types)
    result: projection.Projection = cache.get(
        ("map", selection, method),
        (project.encoder.fingerprint, newest),
        lambda: projection.project_embeddings(project, session, selection, method),
    )
    return result


def read_dendrogram(
    project: ProjectContext, session: Session, cache: LRUCache, dendrogram_query: DendrogramQuery
) -> projection.Dendrogram:
    """Return a dendrogram, from the cache if verdicts and labels of its type are unchanged.

    Parameters
    ----------
    project : ProjectContext
    session : Session
        For reading.
    cache : LRUCache
    dendrogram_query : DendrogramQuery
    """
    image_type, marked = dendrogram_query.type, dendrogram_query.marked
    deps.check_image_type(project, image_type)
    selection = select(project, image_type, dendrogram_query.since, dendrogram_query.until)
    frames = tuple(dict.fromkeys(dendrogram_query.frame))
    result: projection.Dendrogram = cache.get(
        ("tree", selection, frames, marked),
        (project.thresholds.digest, db.extensions.newest_ids_of_type(session, image_type)),
        lambda: projection.draw_dendrogram(project, session, selection, frames, marked),
    )
    return result


@router.get("/projection", response_model=schemas.ProjectionModel)
@router.get("/map", response_model=schemas.ProjectionModel, include_in_schema=False)
def project_extensions(
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    cache: deps.Cache,
    projection_query: RequestedProjection,
    _user: auth.User,
) -> dict[str, Any]:
    """Return embeddings projected on a plane.

    Parameters
    ----------
    project, session, cache : dependencies
    projection_query : ProjectionQuery
    """
    return asdict(read_projection(project, session, cache, projection_query))


@router.get("/dendrogram", response_model=schemas.DendrogramModel)
def dendrogram(
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    cache: deps.Cache,
    dendrogram_query: RequestedDendrogram,
    _user: auth.User,
) -> dict[str, Any]:
    """Return the leaves and merges of a dendrogram.

    Parameters
    ----------
    project, session, cache : dependencies
    dendrogram_query : DendrogramQuery
    """
    record = asdict(read_dendrogram(project, session, cache, dendrogram_query))
    del record["svg"]
    return record
