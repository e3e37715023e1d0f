"""REST: trend of a quantity of an image type."""

import csv
import dataclasses
import io
from typing import Annotated, Any, Self

import fastapi
from pydantic import Field, model_validator
from sqlalchemy.orm import Session

from qc import db
from qc._cache import LRUCache
from qc.errors import InvalidInputError
from qc.project import ProjectContext
from qc.summaries import trends
from qc.web import auth, deps, query
from qc.web.api import schemas

router = fastapi.APIRouter(prefix="/api/v1/trends/{image_type}", route_class=deps.ApiRoute)

_CSV: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "Every point."}
}


class TrendQuery(query.QueryModel):
    """Quantity and nights of a trend."""

    metric: Annotated[
        str, Field(description="`score`, `merge_height`, `residual`, or the name of a metric.")
    ] = "score"
    since: query.Since = None
    until: query.Until = None

    @model_validator(mode="after")
    def check_values(self) -> Self:
        """Refuse an unknown metric or an empty range of nights."""
        if self.metric not in trends.QUANTITIES:
            raise ValueError(f"no metric {self.metric[:40]!r}; the page of the trend lists them")
        if self.since and self.until and self.since > self.until:
            raise ValueError(f"since {self.since} is after until {self.until}")
        return self

    @property
    def address(self) -> str:
        """Return the query string."""
        values = self.model_dump(
            include=set(TrendQuery.model_fields), exclude_none=True, mode="json"
        )
        return "&".join(f"{name}={value}" for name, value in values.items())


@dataclasses.dataclass(frozen=True)
class TrendResult:
    """A trend and its query."""

    trend: trends.MetricTrend
    query: TrendQuery


def read_trend(
    project: ProjectContext,
    session: Session,
    cache: LRUCache,
    image_type: str,
    trend_query: TrendQuery,
) -> trends.MetricTrend:
    """Return a trend, from the cache if verdicts, interventions and thresholds are unchanged.

    Parameters
    ----------
    project : ProjectContext
    session : Session
        For reading.
    cache : LRUCache
    image_type : str
    trend_query : TrendQuery

    Raises
    ------
    InvalidInputError
        If nothing of this type has been processed.
    """
    first = trend_query.since or query.FIRST_NIGHT
    last = trend_query.until or query.LAST_NIGHT
    newest_epoch = tuple(epoch.id for epoch in db.labels.epochs(session))[-1:]
    stamp = (
        db.extensions.newest_ids_of_type(session, image_type),
        newest_epoch,
        project.thresholds.digest,
    )
    metric = trend_query.metric
    trend: trends.MetricTrend = cache.get(
        ("trend", image_type, metric, first, last),
        stamp,
        lambda: trends.read_trend(project, session, image_type, metric, first, last),
    )
    if not trend.points and not db.extensions.filter_image_types(session, [image_type]):
        raise InvalidInputError(f"{image_type}: no frame of this type has been processed")
    return trend


def find_trend(
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    cache: deps.Cache,
    image_type: deps.ImageType,
    trend_query: Annotated[TrendQuery, fastapi.Query()],
    _user: auth.User,
) -> TrendResult:
    """Return the trend in an address.

    Parameters
    ----------
    project, session, cache : dependencies
    image_type : str
    trend_query : TrendQuery
    """
    trend = read_trend(project, session, cache, image_type, trend_query)
    return TrendResult(trend, trend_query)


RequestedTrend = Annotated[TrendResult, fastapi.Depends(find_trend)]


@router.get("", response_model=schemas.TrendModel)
def metric_trend(result: RequestedTrend) -> dict[str, Any]:
    """Return a trend, thinned to some thousand points with all extremes."""
    trend = result.trend
    return {
        "image_type": trend.image_type,
        "quantity": {
            "name": trend.quantity.name,
            "unit": trend.quantity.unit,
            "words": trend.quantity.description,
        },
        "count": len(trend.points),
        "points": [
            {
                "at": point.at,
                "frame": f"{point.frame}[{point.number}]",
                "value": point.value,
                "status": point.status,
            }
            for point in trend.plotted
        ],
        "months": [dataclasses.asdict(month) for month in trend.months],
        "events": [dataclasses.asdict(event) for event in trend.events],
        "limit": [{"from": since, "limit": value} for since, value in trend.limit],
    }


@router.get("/points.csv", response_class=fastapi.Response, responses=_CSV)
def trend_csv(result: RequestedTrend) -> fastapi.Response:
    """Return every point of a trend as CSV."""
    metric = result.query.metric
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["frame", "extension", "observed_at", "night", metric, "status"])
    for point in result.trend.points:
        time, value = point.at.isoformat(), repr(point.value)
        table.writerow([point.frame, point.number, time, point.night, value, point.status])
    name = f"{result.trend.image_type}_{metric}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return fastapi.Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)
