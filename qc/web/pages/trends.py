"""Trends: one number of an image type over the years, with what was done meanwhile."""

import csv
import io
from dataclasses import asdict, dataclass
from datetime import date
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import Field, model_validator
from sqlalchemy.orm import Session

from qc import db
from qc._cache import LRUCache
from qc._time import noon
from qc.core.verdict import Status
from qc.errors import InvalidInputError
from qc.project import Project
from qc.summaries import trends
from qc.summaries.trends import QUANTITIES, MetricTrend
from qc.web.api import schemas
from qc.web.auth import Anybody
from qc.web.drawings import PointGroup, VerticalMark, scatter
from qc.web.pages.thresholds import ImageType, known_type
from qc.web.query import QueryModel, Since, Until
from qc.web.rendering import Keeping, Reads, Renewed, render
from qc.web.urls import frame_address

router = APIRouter()

_LOOKS = {  # shape says it again without colour
    Status.NOMINAL: ("nominal", "#7f8a95", "circle"),
    Status.UNDECIDED: ("undecided", "#4a90c2", "inverted_triangle"),
    Status.ANOMALOUS: ("anomalous", "#d1443a", "diamond"),
}
_CSV: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "Every point."}
}
_FIRST = date(1990, 1, 1)
_LAST = date(2100, 1, 1)


class TrendQuery(QueryModel):
    """Which number, and of which nights."""

    metric: Annotated[
        str, Field(description="`score`, `merge_height`, `residual`, or a detector number.")
    ] = "score"
    since: Since = None
    until: Until = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.metric not in QUANTITIES:
            raise ValueError(f"there is no metric {self.metric[:40]!r}; see the list on the page")
        if self.since and self.until and self.since > self.until:
            raise ValueError(f"since {self.since} comes after until {self.until}")
        return self

    @property
    def query(self) -> str:
        """Write it as the end of an address."""
        given = self.model_dump(
            include=set(TrendQuery.model_fields), exclude_none=True, mode="json"
        )
        return "&".join(f"{name}={value}" for name, value in given.items())


class TrendForm(TrendQuery):
    """What the form of the page says."""

    type: str


@dataclass(frozen=True)
class TrendPage:
    """A trend, and how it was asked for."""

    trend: MetricTrend
    wanted: TrendQuery


def find(
    project: Renewed,
    session: Reads,
    kept: Keeping,
    image_type: ImageType,
    wanted: Annotated[TrendQuery, Query()],
    _who: Anybody,
) -> TrendPage:
    """Return the trend that an address asks for, read again only when its type has changed."""
    return TrendPage(read(project, session, kept, image_type, wanted), wanted)


AskedTrend = Annotated[TrendPage, Depends(find)]


@router.get("/trends", include_in_schema=False)
def overview(request: Request, session: Reads, project: Renewed, _who: Anybody) -> HTMLResponse:
    """List the types that have a trend."""
    seen = db.findings.types_among(session, sorted(project.thresholds.entries))
    return render(request, "trends.html.j2", types=seen)


@router.get("/trends/choose", include_in_schema=False)
def choose(
    project: Renewed,
    choice: Annotated[TrendForm, Query()],
    _who: Anybody,
) -> RedirectResponse:
    """Lead from what a form says to the address of the page."""
    return RedirectResponse(f"/trends/{known_type(project, choice.type)}?{choice.query}", 303)


@router.get("/trends/{image_type}", include_in_schema=False)
def page(
    request: Request,
    project: Renewed,
    session: Reads,
    image_type: ImageType,
    wanted: Annotated[TrendQuery, Query()],
    _who: Anybody,
) -> HTMLResponse:
    """Show where a trend is drawn; plot and table are fetched after it."""
    seen = db.findings.types_among(session, sorted(project.thresholds.entries))
    return render(
        request,
        "trend.html.j2",
        image_type=image_type,
        types=seen if image_type in seen else [*seen, image_type],
        wanted=wanted,
        quantity=QUANTITIES[wanted.metric],
        quantities=QUANTITIES,
    )


@router.get("/trends/{image_type}/plot.json", include_in_schema=False)
def plot(found: AskedTrend) -> JSONResponse:
    """Return the plot as BokehJS draws it."""
    return JSONResponse(draw(found.trend))


@router.get("/trends/{image_type}/table", include_in_schema=False)
def table(request: Request, found: AskedTrend) -> HTMLResponse:
    """Show the trend month by month, and what was done meanwhile."""
    return render(request, "trend_table.html.j2", trend=found.trend, wanted=found.wanted)


@router.get("/api/v1/trends/{image_type}", response_model=schemas.TrendModel)
def trend_json(asked: AskedTrend) -> dict[str, Any]:
    """Return a trend: at most some thousand points with all extremes, and how many there are."""
    found = asked.trend
    return {
        "image_type": found.image_type,
        "quantity": asdict(found.quantity),
        "count": len(found.points),
        "points": [
            {
                "at": one.at,
                "frame": f"{one.frame}[{one.number}]",
                "value": one.value,
                "status": one.status,
            }
            for one in found.shown
        ],
        "months": [asdict(one) for one in found.months],
        "events": [asdict(one) for one in found.events],
        "limit": [{"from": since, "limit": value} for since, value in found.limit],
    }


@router.get("/api/v1/trends/{image_type}/points.csv", response_class=Response, responses=_CSV)
def trend_csv(asked: AskedTrend) -> Response:
    """Return every point of a trend as CSV."""
    found, metric = asked.trend, asked.wanted.metric
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["frame", "extension", "observed_at", "night", metric, "status"])
    lines.writerows(
        [one.frame, one.number, one.at.isoformat(), one.night, repr(one.value), one.status]
        for one in found.points
    )
    name = f"{found.image_type}_{metric}.csv"
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=disposition)


def read(
    project: Project, session: Session, kept: LRUCache, image_type: str, wanted: TrendQuery
) -> MetricTrend:
    """Return a trend, read again only when something of its type has changed."""
    first, last = wanted.since or _FIRST, wanted.until or _LAST
    newest = db.findings.newest_word(session, image_type)
    said = [entry.id for entry in db.epochs.epochs(session)][-1:]
    stamp = newest, tuple(said), project.thresholds.digest
    found: MetricTrend = kept.get(
        ("trend", image_type, wanted.metric, first, last),
        stamp,
        lambda: trends.read_trend(project, session, image_type, wanted.metric, first, last),
    )
    if not found.points and not db.findings.types_among(session, [image_type]):
        raise InvalidInputError(f"{image_type}: nothing of this type has been processed")
    return found


def draw(trend: MetricTrend) -> Any:
    """Return a trend as BokehJS draws it."""
    shown = trend.shown
    groups = []
    for status, (name, colour, marker) in _LOOKS.items():
        some = [one for one in shown if one.status == status]
        if some:
            groups.append(
                PointGroup(
                    name,
                    colour,
                    marker,
                    [one.at.replace(tzinfo=None) for one in some],
                    [one.value for one in some],
                    [f"{one.frame}[{one.number}]" for one in some],
                    [frame_address(f"{one.frame}[{one.number}]") for one in some],
                    [f"{one.at:%Y-%m-%d %H:%M}: {one.value:.5g}" for one in some],
                )
            )
    first, last = (shown[0].night, shown[-1].night) if shown else (_FIRST, _FIRST)
    times, values = trends.steps(trend.limit, first, last)
    marks = [
        VerticalMark(noon(one.night), one.kind, one.words)
        for one in trend.events
        if first <= one.night <= last
    ]
    unit = f" ({trend.quantity.unit})" if trend.quantity.unit else ""
    return scatter(
        groups,
        across="",
        up=f"{trend.quantity.name}{unit}",
        is_time=True,
        marks=marks,
        limit=([time.replace(tzinfo=None) for time in times], values),
    )
