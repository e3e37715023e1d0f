"""The web application: routes, access control and error handlers."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import fastapi
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles

from qc import _cache
from qc._time import utc_now
from qc.db.reference_models import ReferenceModelCache
from qc.project import ProjectContext
from qc.web import api, errors, pages, plots, security
from qc.web.api.documentation import ProblemDetail
from qc.web.dashboard import ArrivalCache

STATIC = Path(__file__).parent / "static"

# The middleware checks the token; this entry documents it in the OpenAPI document.
_TOKEN = HTTPBearer(
    auto_error=False, scheme_name="token", description="Token from 'qc users token'."
)


def create_app(project: ProjectContext, now: Callable[[], datetime] = utc_now) -> fastapi.FastAPI:
    """Return the application of an open project.

    Parameters
    ----------
    project : ProjectContext
    now : callable
        Returns the time, aware.
    """
    app = fastapi.FastAPI(
        title="calibration-qc",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        dependencies=[fastapi.Depends(security.check_form_token), fastapi.Depends(_TOKEN)],
        responses={"4XX": {"model": ProblemDetail, "description": "The request is refused."}},
    )
    app.state.project, app.state.now = project, now
    app.state.cache, app.state.pictures = _cache.LRUCache(), _cache.picture_cache()
    app.state.arrivals, app.state.reference_models = ArrivalCache(), ReferenceModelCache()
    app.mount("/static/bokeh", StaticFiles(directory=plots.bokeh_folder()), name="bokeh")
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    security.install(app, errors.render_error)
    errors.install_handlers(app)
    for router in (*api.routers(), *pages.routers()):
        app.include_router(router)
    return app
