"""Images of stored frames: tiles, pictures, residual maps, plots and thumbnails."""

from dataclasses import dataclass
from typing import Annotated, Any

import fastapi
from fastapi.responses import Response
from numpy.typing import NDArray

from qc import db, errors
from qc.detection.metrics import METRICS
from qc.figures import images as figure_images
from qc.reports.extension_figures import FigureRenderer
from qc.reports.pictures import aspect_of
from qc.review import frame_detail, pixels, pyramid
from qc.web import auth, deps
from qc.web.api import images

router = fastapi.APIRouter(include_in_schema=False)

LONGEST_SIDE = 1100  # of the picture of a whole image, pixels
_LARGEST_ADU = 1e9
_DEEPEST, _MOST_TILES = 16, 4096
_MEAN = 0  # index of the mean among the block statistics
_MISSING = (  # a browser shows it although the status is 404
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 120"><rect width="120" height="120" '
    'fill="#888"/><text x="60" y="64" text-anchor="middle" font-family="sans-serif" '
    'font-size="12">no picture kept</text></svg>'
)

Level = Annotated[
    float | None, fastapi.Query(ge=-_LARGEST_ADU, le=_LARGEST_ADU, allow_inf_nan=False)
]
ColourRange = Annotated[
    float, fastapi.Query(alias="reach", gt=0, le=_LARGEST_ADU, allow_inf_nan=False)
]
TileIndex = Annotated[int, fastapi.Path(ge=0, le=_MOST_TILES)]
TileLevel = Annotated[int, fastapi.Path(ge=0, le=_DEEPEST)]
HDUNumber = Annotated[int, fastapi.Path(ge=0, le=1000)]
OtherFrame = Annotated[str, fastapi.Query(max_length=deps.LONGEST_NAME)]
MetricName = Annotated[str, fastapi.Query(max_length=100)]


@dataclass(frozen=True)
class DisplayOptions:
    """Display of an image, from the address; None stands for the default of the image."""

    stretch: pyramid.Stretch | None = None
    low: Level = None
    high: Level = None
    show: pyramid.Reducer = pyramid.Reducer.MEAN


RequestedDisplay = Annotated[DisplayOptions, fastapi.Depends(DisplayOptions)]


def tile_position(level: TileLevel, row: TileIndex, column: TileIndex) -> tuple[int, int, int]:
    """Return level, row and column of a tile: rows upwards, level 0 at full resolution.

    Parameters
    ----------
    level, row, column : int
    """
    return level, row, column


TilePosition = Annotated[tuple[int, int, int], fastapi.Depends(tile_position)]


# --- tiles and pictures ---------------------------------------------------------------------------


def png_response(png: bytes, *, is_cacheable: bool) -> Response:
    """Return a PNG picture.

    Parameters
    ----------
    png : bytes
    is_cacheable : bool
        True if the address determines the picture completely.
    """
    control = "private, max-age=86400" if is_cacheable else "no-store"
    return Response(png, media_type="image/png", headers={"Cache-Control": control})


def intensity_scale(image: pixels.PixelImage, display: DisplayOptions) -> pyramid.IntensityScale:
    """Return the intensity scale of an image.

    Parameters
    ----------
    image : PixelImage
        Provides the defaults.
    display : DisplayOptions

    Raises
    ------
    InvalidInputError
        If black is not below white.
    """
    low, high = display.low, display.high
    if low is None or high is None:
        default_low, default_high = image.limits()
        low = default_low if low is None else low
        high = default_high if high is None else high
    if not low < high:
        raise errors.InvalidInputError(f"expected black below white, got {low:g} and {high:g} ADU")
    return pyramid.IntensityScale(low, high, display.stretch or image.stretch)


def check_tile(tile: NDArray[Any], image: pixels.PixelImage) -> None:
    """Raise `UnknownFrameError` if a tile is outside the image.

    Parameters
    ----------
    tile : array
    image : PixelImage
    """
    if not tile.size:
        raise errors.UnknownFrameError(f"{image.source.label}: no such tile")


def find_pair(
    request: fastapi.Request, name: str, number: int | None
) -> tuple[pixels.PixelImage, pixels.PixelImage]:
    """Return an image and its nearest nominal image.

    Parameters
    ----------
    request : Request
    name : str
    number : int or None
        HDU number.

    Raises
    ------
    UnknownFrameError
        If there is no comparable nominal image.
    """
    store = images.pixel_store_of(request)
    image = store.find(name, number)
    reference = store.find_reference(image)
    if reference is None:
        raise errors.UnknownFrameError(f"{image.source.label}: no nominal image to subtract")
    return image, reference


@router.get("/frames/{name}/tiles/{level}/{row}/{column}.png")
def tile(
    request: fastapi.Request,
    name: deps.FrameName,
    position: TilePosition,
    display: RequestedDisplay,
    extension: deps.ExtensionNumber = None,
) -> Response:
    """Return a tile of an image.

    Parameters
    ----------
    request, display : dependencies
    name : str
    position : tuple of int
        Level, row and column.
    extension : int, optional
    """
    image = images.pixel_store_of(request).find(name, extension)
    values = image.pyramid.tile(*position, display.show)
    check_tile(values, image)
    png = pyramid.grey_png(values, intensity_scale(image, display))
    return png_response(png, is_cacheable=not image.trouble)


@router.get("/frames/{name}/difference/{level}/{row}/{column}.png")
def difference_tile(
    request: fastapi.Request,
    name: deps.FrameName,
    position: TilePosition,
    reach_adu: ColourRange,
    extension: deps.ExtensionNumber = None,
) -> Response:
    """Return a tile of the difference to the nearest nominal image.

    Parameters
    ----------
    request : Request
    name : str
    position : tuple of int
        Level, row and column.
    reach_adu : float
        Upper end of the colour scale.
    extension : int, optional
    """
    image, reference = find_pair(request, name, extension)
    values = pixels.subtract(image, reference, position)
    check_tile(values, image)
    is_cacheable = not (image.trouble or reference.trouble)
    return png_response(pyramid.signed_png(values, reach_adu), is_cacheable=is_cacheable)


@router.get("/frames/{name}/difference.png")
def difference(
    request: fastapi.Request, name: deps.FrameName, extension: deps.ExtensionNumber = None
) -> Response:
    """Return the whole difference to the nearest nominal image.

    Parameters
    ----------
    request : Request
    name : str
    extension : int, optional
    """
    image, reference = find_pair(request, name, extension)
    values = pixels.subtract_whole(image, reference, LONGEST_SIDE)
    png = pyramid.signed_png(values, pixels.colour_range(image, reference))
    return png_response(png, is_cacheable=False)


@router.get("/frames/{name}/picture.png")
def picture(
    request: fastapi.Request,
    name: deps.FrameName,
    display: RequestedDisplay,
    extension: deps.ExtensionNumber = None,
    like: OtherFrame = "",
    like_extension: deps.ExtensionNumber = None,
) -> Response:
    """Return the whole image, at most 1100 pixels on a side.

    Parameters
    ----------
    request, display : dependencies
    name : str
    extension : int, optional
    like : str
        Frame whose default intensity scale is used.
    like_extension : int, optional
    """
    store = images.pixel_store_of(request)
    image = store.find(name, extension)
    scale_image = store.find(like, like_extension) if like else image
    values = image.pyramid.at_most(LONGEST_SIDE, display.show)
    png = pyramid.grey_png(values, intensity_scale(scale_image, display))
    return png_response(png, is_cacheable=False)


@router.get("/frames/{name}/values.bin")
def raw_values(part: images.RequestedPart) -> Response:
    """Return pixel values as little-endian float32, row by row from the bottom."""
    height, width = part.values.shape
    shape = {"X-Height": str(height), "X-Width": str(width)}
    content = part.values.astype("<f4").tobytes()
    return Response(content, 200, shape, "application/octet-stream")


@router.get("/thumbnails/{frame}/{number}.png")
def thumbnail(
    session: deps.ReadSession, frame: str, number: HDUNumber, _user: auth.User
) -> Response:
    """Return the block means of an image, between its image black and white.

    Parameters
    ----------
    session : Session
    frame : str
    number : int
        HDU number.
    """
    extension = db.extensions.find_extension(session, frame, number)
    statistics = None
    if extension is not None:
        statistics = db.block_statistics.find_block_statistics(session, extension.id)
    if extension is None or statistics is None:
        return Response(_MISSING, 404, media_type="image/svg+xml")
    mean = statistics[..., _MEAN]
    vmin, vmax = figure_images.display_limits(mean)
    png = figure_images.draw_thumbnail(
        mean,
        zero_adu=0.0,
        scale_adu=extension.stretch_adu,
        aspect=aspect_of(extension),
        vmin=vmin,
        vmax=vmax,
    )
    return png_response(png, is_cacheable=True)  # the pixels of a frame do not change


# --- residual map and plots -----------------------------------------------------------------------


@router.get("/frames/{name}/residual-map.png")
@router.get("/frames/{name}/where.png")
def residual_map(
    project: deps.CurrentProject,
    session: deps.ReadSession,
    name: deps.FrameName,
    extension: deps.ExtensionNumber = None,
) -> Response:
    """Return an overlay: transparent where the image is nominal, orange where it differs.

    Parameters
    ----------
    project, session : dependencies
    name : str
    extension : int, optional
    """
    _, residuals = images.find_residuals(project, session, name, extension)
    if residuals is None:
        raise errors.UnknownFrameError(
            f"{name}: no residual map, as statistics or references are missing"
        )
    return png_response(pyramid.heat_png(residuals), is_cacheable=False)


@router.get("/frames/{name}/dendrogram.svg")
@router.get("/frames/{name}/tree.svg")
def dendrogram(
    project: deps.CurrentProject,
    session: deps.ReadSession,
    name: deps.FrameName,
    extension: deps.ExtensionNumber = None,
) -> Response:
    """Return the dendrogram of an image and its references, with the image marked.

    Parameters
    ----------
    project, session : dependencies
    name : str
    extension : int, optional
    """
    finding = frame_detail.find_finding(session, name, extension)
    with images.figure_lock:
        plot = FigureRenderer(session, project.thresholds).draw_tree(finding)
    if plot is None:
        raise errors.UnknownFrameError(f"{name}: too few references for a dendrogram")
    return svg_response(plot.content)


@router.get("/frames/{name}/history.svg")
def metric_history(
    project: deps.CurrentProject,
    session: deps.ReadSession,
    name: deps.FrameName,
    metric: MetricName,
    extension: deps.ExtensionNumber = None,
) -> Response:
    """Return a metric of the setup over the neighbouring nights, with the image marked.

    Parameters
    ----------
    project, session : dependencies
    name, metric : str
    extension : int, optional
    """
    finding = frame_detail.find_finding(session, name, extension)
    if metric not in METRICS or metric not in finding.extension.metrics:
        raise errors.InvalidInputError(f"{name}: has no metric of that name")
    with images.figure_lock:
        [plot] = FigureRenderer(session, project.thresholds).draw_metrics(finding, [metric])
    return svg_response(plot.content)


def svg_response(svg: bytes) -> Response:
    """Return an SVG drawing that is not cached."""
    return Response(svg, media_type="image/svg+xml", headers={"Cache-Control": "no-store"})
