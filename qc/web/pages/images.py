"""The pixels of frames: tiles, values, cuts, and the drawings that a frame's page loads."""

from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from qc.db.findings import Finding
from qc.detection.metrics import METRICS
from qc.errors import InvalidInputError, UnknownFrameError
from qc.reports.extension_figures import FigureRenderer, place_in_words
from qc.review.frame_detail import NearestLabelled, finding_of, nearest_bad
from qc.review.pixels import CACHE, PixelImage, PixelStore, minus, minus_whole, reach
from qc.review.pyramid import (
    TILE,
    IntensityScale,
    PyramidCache,
    Reducer,
    Stretch,
    grey_png,
    heat_png,
    signed_png,
)
from qc.web.rendering import ProjectDep, Reads

router = APIRouter()

LONGEST_NAME = 300  # characters
MOST_VALUES = 256  # on a side of a window
WHOLE = 1100  # longest side of the picture of a whole image
_HUGE = 1e9
_DEEPEST, _MOST_TILES = 16, 4096

Name = Annotated[str, Path(max_length=LONGEST_NAME, description="Archive name of a frame.")]
Number = Annotated[
    int | None, Query(ge=0, le=1000, description="HDU number; else the first of the frame.")
]
Level = Annotated[float | None, Query(ge=-_HUGE, le=_HUGE, allow_inf_nan=False)]
Column = Annotated[int, Query(ge=0, le=2**20, description="Column, from 0 as read.")]
Row = Annotated[int, Query(ge=0, le=2**20, description="Row, from 0 at the bottom, as read.")]
Side = Annotated[int, Query(ge=1, le=MOST_VALUES, description="How many pixels.")]
TileIndex = Annotated[int, Path(ge=0, le=_MOST_TILES)]
TileLevel = Annotated[int, Path(ge=0, le=_DEEPEST)]


@dataclass(frozen=True)
class DisplayOptions:
    """How an image is shown: all of it stands in the address. None is as is best for it."""

    stretch: Stretch | None = None
    low: Level = None
    high: Level = None
    show: Reducer = Reducer.MEAN


AskedLook = Annotated[DisplayOptions, Depends(DisplayOptions)]


def _spot(level: TileLevel, row: TileIndex, column: TileIndex) -> tuple[int, int, int]:
    """Say which tile of an image: rows count from the bottom, level 0 is one pixel each."""
    return level, row, column


# A drawing's settings are the library's, shared by all threads; and a setup is learnt once.
_drawing = Lock()


def plates_of(request: Request) -> PixelStore:
    """Return the images of the application's project, opened at the first question."""
    state = request.app.state
    if not hasattr(state, "plates"):
        project = state.project
        state.plates = PixelStore(
            project, PyramidCache(project.settings.project / CACHE / "pixels")
        )
    plates: PixelStore = state.plates
    return plates


@dataclass(frozen=True)
class ImageFacts:
    """What a viewer must know of an extension's image.

    Attributes
    ----------
    ny, nx : int
        Of the detector's image as read, overscan included.
    height, width : int
        Of what is shown: the same, or block means where the file is gone.
    pixel_aspect : float
        How much higher than wide a pixel is.
    low, high : float
        Black and white for a first look, ADU.
    reach : float or None
        Where the colours of the difference end; None where there is nothing to compare with.
    trouble : str
        Why it is block means that are shown.
    """

    name: str
    extension: int
    pixels_sha256: str
    ny: int
    nx: int
    height: int
    width: int
    levels: int
    tile: int
    pixel_aspect: float
    low: float
    high: float
    reach: float | None
    trouble: str


@dataclass(frozen=True)
class PixelWindow:
    """Values in ADU: rows from y up, columns from x on; pixels as read, from 0."""

    x: int
    y: int
    values: list[list[float]]
    trouble: str


@dataclass(frozen=True)
class RowColumnCuts:
    """The values of a whole row and a whole column, ADU."""

    x: int
    y: int
    row: list[float]
    column: list[float]
    trouble: str


@router.get("/api/v1/frames/{name}/image", tags=["frames"])
def image(
    request: Request,
    name: Name,
    extension: Number = None,
    *,
    difference: Annotated[
        bool, Query(description="Say where the difference's colours end.")
    ] = False,
) -> ImageFacts:
    """Return what a viewer must know of an image; this reads its file if nobody has yet."""
    plates = plates_of(request)
    plate = plates.find(name, extension)
    other = plates.beside(plate) if difference else None
    low, high = plate.limits()
    height, width = plate.pyramid.image.shape
    return ImageFacts(
        name=plate.source.name,
        extension=plate.source.number,
        pixels_sha256=plate.source.pixels_sha256,
        ny=plate.source.ny,
        nx=plate.source.nx,
        height=height,
        width=width,
        levels=plate.pyramid.depth,
        tile=TILE,
        pixel_aspect=plate.source.pixel_aspect,
        low=low,
        high=high,
        reach=reach(plate, other) if other else None,
        trouble=plate.trouble,
    )


@router.get("/frames/{name}/tiles/{level}/{row}/{column}.png", include_in_schema=False)
def tile(
    request: Request,
    name: Name,
    spot: Annotated[tuple[int, int, int], Depends(_spot)],
    look: AskedLook,
    extension: Number = None,
) -> Response:
    """Draw a tile of an image."""
    plate = plates_of(request).find(name, extension)
    part = plate.pyramid.tile(*spot, look.show)
    _check_there(part, plate)
    return _picture(grey_png(part, _greys(plate, look)), is_kept=not plate.trouble)


@router.get("/frames/{name}/difference/{level}/{row}/{column}.png", include_in_schema=False)
def difference_tile(
    request: Request,
    name: Name,
    spot: Annotated[tuple[int, int, int], Depends(_spot)],
    reach_adu: Annotated[float, Query(alias="reach", gt=0, le=_HUGE, allow_inf_nan=False)],
    extension: Number = None,
) -> Response:
    """Draw a tile of an image less its nearest nominal one."""
    plate, other = _pair(request, name, extension)
    away = minus(plate, other, spot)
    _check_there(away, plate)
    is_kept = not (plate.trouble or other.trouble)
    return _picture(signed_png(away, reach_adu), is_kept=is_kept)


@router.get("/frames/{name}/difference.png", include_in_schema=False)
def difference(request: Request, name: Name, extension: Number = None) -> Response:
    """Draw the whole image less its nearest nominal one."""
    plate, other = _pair(request, name, extension)
    away = minus_whole(plate, other, WHOLE)
    return _picture(signed_png(away, reach(plate, other)), is_kept=False)


def _pair(request: Request, name: str, number: int | None) -> tuple[PixelImage, PixelImage]:
    plates = plates_of(request)
    plate = plates.find(name, number)
    other = plates.beside(plate)
    if other is None:
        raise UnknownFrameError(f"{plate.source.label}: there is no image to take off it")
    return plate, other


@router.get("/frames/{name}/picture.png", include_in_schema=False)
def picture(
    request: Request,
    name: Name,
    look: AskedLook,
    extension: Number = None,
    like: Annotated[str, Query(max_length=LONGEST_NAME)] = "",
    like_extension: Number = None,
) -> Response:
    """Draw the whole image, at most 1100 pixels on a side; in the greys best for another."""
    plates = plates_of(request)
    plate = plates.find(name, extension)
    judged_by = plates.find(like, like_extension) if like else plate
    part = plate.pyramid.at_most(WHOLE, look.show)
    return _picture(grey_png(part, _greys(judged_by, look)), is_kept=False)


def _greys(plate: PixelImage, look: DisplayOptions) -> IntensityScale:
    low, high = look.low, look.high
    if low is None or high is None:
        own_low, own_high = plate.limits()
        low, high = own_low if low is None else low, own_high if high is None else high
    if not low < high:
        raise InvalidInputError(f"black is to be below white, got {low:g} and {high:g} ADU")
    return IntensityScale(low, high, look.stretch or plate.stretch)


def _check_there(part: NDArray[Any], plate: PixelImage) -> None:
    if not part.size:
        raise UnknownFrameError(f"{plate.source.label}: there is no such tile")


def _picture(png: bytes, *, is_kept: bool) -> Response:
    """Answer with a picture; one whose address tells all that it hangs on need not come twice."""
    age = "private, max-age=86400" if is_kept else "no-store"
    return Response(png, media_type="image/png", headers={"Cache-Control": age})


# --- values ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImagePart:
    """A part of an image: from row y up and column x on."""

    plate: PixelImage
    x: int
    y: int
    values: NDArray[Any]


def part(
    request: Request,
    name: Name,
    extension: Number = None,
    x: Column = 0,
    y: Row = 0,
    width: Side = 64,
    height: Side = 64,
) -> ImagePart:
    """Return the part of an image that an address asks for; less at its edges."""
    plate = plates_of(request).find(name, extension)
    return ImagePart(plate, x, y, _part(plate, x, y, width, height))


AskedPart = Annotated[ImagePart, Depends(part)]


@router.get("/api/v1/frames/{name}/values", tags=["frames"])
def values(asked: AskedPart) -> PixelWindow:
    """Return the values of a part of the image; less at its edges."""
    return PixelWindow(asked.x, asked.y, asked.values.astype(float).tolist(), asked.plate.trouble)


@router.get("/frames/{name}/values.bin", include_in_schema=False)
def raw_values(asked: AskedPart) -> Response:
    """Return the same as little-endian float32, a row after the other, the lowest first."""
    height, width = asked.values.shape
    shape = {"X-Height": str(height), "X-Width": str(width)}
    content = asked.values.astype("<f4").tobytes()
    return Response(content, 200, shape, "application/octet-stream")


def _part(plate: PixelImage, x: int, y: int, width: int, height: int) -> NDArray[Any]:
    part: NDArray[Any] = plate.pyramid.image[y : y + height, x : x + width]
    if not part.size:
        ny, nx = plate.pyramid.image.shape
        raise InvalidInputError(f"expected x below {nx} and y below {ny}, got x {x}, y {y}")
    return part


@router.get("/api/v1/frames/{name}/cuts", tags=["frames"])
def cuts(
    request: Request, name: Name, x: Column, y: Row, extension: Number = None
) -> RowColumnCuts:
    """Return the row and the column through a pixel."""
    plate = plates_of(request).find(name, extension)
    _part(plate, x, y, 1, 1)
    whole = plate.pyramid.image
    row, column = whole[y].astype(float).tolist(), whole[:, x].astype(float).tolist()
    return RowColumnCuts(x, y, row, column, plate.trouble)


# --- where it differs, and drawings ---------------------------------------------------------------


@dataclass(frozen=True)
class ResidualLocationModel:
    """Where an extension differs from its references, in words; empty if that cannot be said."""

    words: str


@router.get("/frames/{name}/where.png", include_in_schema=False)
def where(project: ProjectDep, session: Reads, name: Name, extension: Number = None) -> Response:
    """Draw a veil for the image: clear where it is like good ones, orange where it is not."""
    _, times = _explain(project, session, name, extension)
    if times is None:
        raise UnknownFrameError(f"{name}: too little is kept to say where it differs")
    return _picture(heat_png(times), is_kept=False)


@router.get("/api/v1/frames/{name}/where", tags=["frames"])
def where_in_words(
    project: ProjectDep, session: Reads, name: Name, extension: Number = None
) -> ResidualLocationModel:
    """Say where the image differs from its references."""
    finding, times = _explain(project, session, name, extension)
    return ResidualLocationModel("" if times is None else place_in_words(times, finding.extension))


def _explain(
    project: ProjectDep, session: Reads, name: str, number: int | None
) -> tuple[Finding, NDArray[np.float32] | None]:
    finding = finding_of(session, name, number)
    with _drawing:
        gallery = FigureRenderer(session, project.thresholds)
        return finding, gallery.explain(finding, project.expectations)


@router.get("/frames/{name}/tree.svg", include_in_schema=False)
def tree(project: ProjectDep, session: Reads, name: Name, extension: Number = None) -> Response:
    """Draw the tree of an image and its references, the image marked."""
    finding = finding_of(session, name, extension)
    with _drawing:
        drawn = FigureRenderer(session, project.thresholds).draw_tree(finding)
    if drawn is None:
        raise UnknownFrameError(f"{name}: has too few references for a tree")
    return _drawn(drawn.content)


@router.get("/frames/{name}/history.svg", include_in_schema=False)
def history(
    project: ProjectDep,
    session: Reads,
    name: Name,
    metric: Annotated[str, Query(max_length=100)],
    extension: Number = None,
) -> Response:
    """Draw a detector number of the setup over the nights around the image's, it marked."""
    finding = finding_of(session, name, extension)
    if metric not in METRICS or metric not in finding.extension.metrics:
        raise InvalidInputError(f"{name}: has no detector number of that name")
    with _drawing:
        [drawn] = FigureRenderer(session, project.thresholds).draw_metrics(finding, [metric])
    return _drawn(drawn.content)


def _drawn(svg: bytes) -> Response:
    return Response(svg, media_type="image/svg+xml", headers={"Cache-Control": "no-store"})


# --- beside it ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ComparisonImage:
    """The image of the same type most like one that people call bad; None for none."""

    bad: NearestLabelled | None


@router.get("/api/v1/frames/{name}/beside", tags=["frames"])
def beside(session: Reads, name: Name, extension: Number = None) -> ComparisonImage:
    """Find the labelled-bad image most like this one: every one of its type is looked at."""
    return ComparisonImage(nearest_bad(session, finding_of(session, name, extension)))
