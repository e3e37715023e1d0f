"""Small pictures of stored images."""

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import Response

from qc import db
from qc.figures import plots
from qc.reports.extension_figures import aspect_of
from qc.web.auth import Anybody
from qc.web.rendering import Reads

router = APIRouter()

_A_DAY = {"Cache-Control": "private, max-age=86400"}  # the pixels of a frame do not change
_MEAN = 0
HDUNumber = Annotated[int, Path(ge=0, le=1000)]
_NOTHING = (  # shown by a browser for all that it comes with a 404
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 120"><rect width="120" height="120" '
    'fill="#888"/><text x="60" y="64" text-anchor="middle" font-family="sans-serif" '
    'font-size="12">no picture kept</text></svg>'
)


@router.get("/thumbnails/{frame}/{number}.png", response_class=Response, include_in_schema=False)
def thumbnail(session: Reads, frame: str, number: HDUNumber, _who: Anybody) -> Response:
    """Draw the block means of an image, between its own black and white."""
    row = db.selection.extension_called(session, frame, number)
    seen = None if row is None else db.block_statistics.block_statistics_of(session, row.id)
    if row is None or seen is None:
        return Response(_NOTHING, 404, media_type="image/svg+xml")
    mean = seen[..., _MEAN]
    vmin, vmax = plots.limits(mean)
    png = plots.thumbnail(
        mean, zero_adu=0.0, scale_adu=row.stretch_adu, aspect=aspect_of(row), vmin=vmin, vmax=vmax
    )
    return Response(png, media_type="image/png", headers=_A_DAY)
