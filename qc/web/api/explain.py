"""REST: evidence of a verdict in units of its thresholds, and the cost of flagging."""

from typing import Annotated

from fastapi import APIRouter, Depends

from qc import db
from qc.detection.thresholds import Threshold
from qc.review import explain
from qc.tuning.history import PastVerdicts
from qc.web import deps
from qc.web.threshold_cache import NEWEST, read_past

router = APIRouter(prefix="/api/v1/frames/{name}", tags=["frames"], route_class=deps.ApiRoute)


@router.get("/explanation")
@router.get("/why", include_in_schema=False)
def explanation(
    project: deps.CurrentProject,
    session: deps.ReadSession,
    name: deps.FrameName,
    extension: deps.ExtensionNumber = None,
) -> explain.VerdictExplanation:
    """Return the evidence in units of its thresholds, and the cluster of the image.

    Parameters
    ----------
    project, session : dependencies
    name : str
    extension : int, optional
    """
    return explain.explain_verdict(project, session, name, extension)


def find_cost(
    project: deps.CurrentProject,
    session: deps.ReadSession,
    cache: deps.Cache,
    name: deps.FrameName,
    extension: deps.ExtensionNumber = None,
) -> explain.FlaggingCost:
    """Return the false alarms that flagging an image would cost.

    Parameters
    ----------
    project, session, cache : dependencies
    name : str
    extension : int, optional
    """

    def read_cached(image_type: str, present: Threshold) -> PastVerdicts:
        since = db.extensions.first_night_of_newest(session, image_type, NEWEST)
        return read_past(project, session, cache, image_type, present, since)

    return explain.estimate_flagging_cost(project, name, extension, read_cached)


RequestedCost = Annotated[explain.FlaggingCost, Depends(find_cost)]


@router.get("/explanation/cost")
@router.get("/why/cost", include_in_schema=False)
def flagging_cost(cost: RequestedCost) -> explain.FlaggingCost:
    """Return the false alarms that thresholds flagging this image would cause."""
    return cost
