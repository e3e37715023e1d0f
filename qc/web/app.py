"""The application: its pages, who may see them, and what goes with every answer."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles

from qc._cache import LRUCache, pictures_kept
from qc._time import utc_now
from qc.db.reference_models import ReferenceModelCache
from qc.project import Project
from qc.web import auth, errors
from qc.web.api import documentation
from qc.web.dashboard import PastNights
from qc.web.drawings import bokeh_folder
from qc.web.pages import (
    dashboard,
    explain,
    frames,
    images,
    labels,
    login,
    reports,
    review,
    similar,
    thresholds,
    thumbnails,
    trends,
)

STATIC = Path(__file__).parent / "static"

Now = Callable[[], datetime]

# The door has looked at it; here it is only told to those who read the OpenAPI document.
_TOKEN = HTTPBearer(auto_error=False, scheme_name="token", description="Of 'qc user token'.")


def create_app(project: Project, now: Now = utc_now) -> FastAPI:
    """Return the application over an open project.

    Parameters
    ----------
    now : callable
        Tells the time.
    """
    app = FastAPI(
        title="calibration-qc",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        dependencies=[Depends(auth.unforged), Depends(_TOKEN)],
        responses={
            "4XX": {"model": documentation.ProblemDetail, "description": "Why it was not done."}
        },
    )
    app.state.project, app.state.now, app.state.past = project, now, PastNights()
    app.state.kept, app.state.pictures = LRUCache(), pictures_kept()
    app.state.expectations = ReferenceModelCache()
    app.mount("/static/bokeh", StaticFiles(directory=bokeh_folder()), name="bokeh")
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    auth.guard(app, errors.told)
    errors.explain(app)
    app.include_router(login.router)
    app.include_router(documentation.router)
    app.include_router(dashboard.router)
    app.include_router(images.router)
    app.include_router(frames.router)
    app.include_router(explain.router)
    app.include_router(review.router)
    app.include_router(labels.router)
    app.include_router(thresholds.router)
    app.include_router(trends.router)
    app.include_router(similar.router)
    app.include_router(similar.uploads)
    app.include_router(thumbnails.router)
    app.include_router(reports.router)
    return app
