"""Similar frames: search by the name of a stored frame or with an uploaded file."""

from collections.abc import Sequence
from typing import Annotated

import fastapi
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session

from qc import db
from qc.project import ProjectContext
from qc.search.similar import SimilarFrames
from qc.web import auth, deps
from qc.web.api import similar, uploads
from qc.web.rendering import render

router = fastapi.APIRouter(
    prefix="/similar", route_class=uploads.UploadRoute, include_in_schema=False
)


@router.get("")
def search_by_name(
    request: fastapi.Request,
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    similar_query: Annotated[similar.SimilarQuery, fastapi.Query()],
    _user: auth.User,
) -> HTMLResponse:
    """Show the search forms and, for a named frame, its nearest neighbours.

    Parameters
    ----------
    request, project, session : dependencies
    similar_query : SimilarQuery
    """
    results = None
    if similar_query.frame:
        results = similar.find_similar_to_stored(project, session, similar_query)
    return render_results(request, project, session, similar_query, results)


@router.post("")
async def search_by_file(
    request: fastapi.Request, project: deps.ReloadedProject, _user: auth.User
) -> HTMLResponse:
    """Show the nearest neighbours of an uploaded file, which is deleted afterwards.

    Parameters
    ----------
    request, project : dependencies
    """
    results, similar_query = await similar.find_similar_to_upload(request, project)
    with project.read_session() as session:
        return render_results(request, project, session, similar_query, results)


def render_results(
    request: fastapi.Request,
    project: ProjectContext,
    session: Session,
    similar_query: similar.SimilarQuery,
    results: Sequence[SimilarFrames] | None,
) -> HTMLResponse:
    """Return the page with search forms and results.

    Parameters
    ----------
    request : Request
    project : ProjectContext
    session : Session
        For reading.
    similar_query : SimilarQuery
    results : sequence of SimilarFrames or None
        None without a search.
    """
    return render(
        request,
        "similar.html.j2",
        query=similar_query,
        results=results,
        types=db.extensions.filter_image_types(session, sorted(project.thresholds.entries)),
        limit_mb=project.settings.web.upload_mb,
    )
