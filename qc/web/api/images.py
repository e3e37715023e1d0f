"""REST: image properties, pixel values and cuts; place of the residuals."""

from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Any

import fastapi
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from qc.db.findings import Finding
from qc.errors import InvalidInputError
from qc.project import ProjectContext
from qc.reports import extension_figures, pictures
from qc.review import extension_links, frame_detail, pixels, pyramid
from qc.web import deps

router = fastapi.APIRouter(
    prefix="/api/v1/frames/{name}", tags=["frames"], route_class=deps.ApiRoute
)

MOST_VALUES = 256  # on a side of a window of values
# matplotlib is not thread-safe, and a reference model is to be computed once.
figure_lock = Lock()

Column = Annotated[int, fastapi.Query(ge=0, le=2**20, description="Column, from 0, as read.")]
Row = Annotated[
    int, fastapi.Query(ge=0, le=2**20, description="Row, from 0 at the bottom, as read.")
]
Side = Annotated[int, fastapi.Query(ge=1, le=MOST_VALUES, description="Number of pixels.")]


@dataclass(frozen=True)
class ImageFacts:
    """Properties of an extension's image, for a viewer.

    Attributes
    ----------
    ny, nx : int
        Size of the detector image as read, with overscan.
    height, width : int
        Size of the image shown: the same, or that of the block means if the file is missing.
    pixel_aspect : float
        Height of a pixel divided by its width.
    low, high : float
        Default black and white level, ADU.
    reach : float or None
        Upper end of the colour scale of the difference, ADU; None without a reference image.
    trouble : str
        Reason why block means are shown.
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
    """Values in ADU: rows upwards from y, columns from x; pixels as read, from 0."""

    x: int
    y: int
    values: list[list[float]]
    trouble: str


@dataclass(frozen=True)
class RowColumnCuts:
    """Values of a whole row and a whole column, ADU."""

    x: int
    y: int
    row: list[float]
    column: list[float]
    trouble: str


@dataclass(frozen=True)
class ResidualLocationModel:
    """Place where an extension differs from its references, in words; empty if unknown."""

    words: str


@dataclass(frozen=True)
class ComparisonImage:
    """The labelled-bad image of the same type nearest to an extension; None without one."""

    bad: extension_links.NearestLabelled | None


def pixel_store_of(request: fastapi.Request) -> pixels.PixelStore:
    """Return the pixel store of the application, opened at the first request."""
    state = request.app.state
    if not hasattr(state, "pixel_store"):
        folder = state.project.settings.project / pixels.CACHE / "pixels"
        state.pixel_store = pixels.PixelStore(state.project, pyramid.PyramidCache(folder))
    store: pixels.PixelStore = state.pixel_store
    return store


@router.get("/image")
def image(
    request: fastapi.Request,
    name: deps.FrameName,
    extension: deps.ExtensionNumber = None,
    *,
    difference: Annotated[
        bool, fastapi.Query(description="Also return the colour range of the difference image.")
    ] = False,
) -> ImageFacts:
    """Return the properties of an image; the first request reads its file.

    Parameters
    ----------
    request : Request
    name : str
    extension : int, optional
    difference : bool
    """
    store = pixel_store_of(request)
    pixel_image = store.find(name, extension)
    reference = store.find_reference(pixel_image) if difference else None
    low, high = pixel_image.limits()
    height, width = pixel_image.pyramid.image.shape
    return ImageFacts(
        name=pixel_image.source.name,
        extension=pixel_image.source.number,
        pixels_sha256=pixel_image.source.pixels_sha256,
        ny=pixel_image.source.ny,
        nx=pixel_image.source.nx,
        height=height,
        width=width,
        levels=pixel_image.pyramid.depth,
        tile=pyramid.TILE,
        pixel_aspect=pixel_image.source.pixel_aspect,
        low=low,
        high=high,
        reach=pixels.colour_range(pixel_image, reference) if reference else None,
        trouble=pixel_image.trouble,
    )


# --- values ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImagePart:
    """Part of an image, from row y and column x."""

    image: pixels.PixelImage
    x: int
    y: int
    values: NDArray[Any]


def cut_out(
    pixel_image: pixels.PixelImage, x: int, y: int, width: int, height: int
) -> NDArray[Any]:
    """Return the pixels of a rectangle, less at the edges of the image.

    Parameters
    ----------
    pixel_image : PixelImage
    x, y : int
        Lower left corner.
    width, height : int

    Returns
    -------
    (height, width) array

    Raises
    ------
    InvalidInputError
        If the corner is outside the image.
    """
    values: NDArray[Any] = pixel_image.pyramid.image[y : y + height, x : x + width]
    if not values.size:
        ny, nx = pixel_image.pyramid.image.shape
        raise InvalidInputError(f"expected x below {nx} and y below {ny}, got x {x}, y {y}")
    return values


def find_part(
    request: fastapi.Request,
    name: deps.FrameName,
    extension: deps.ExtensionNumber = None,
    x: Column = 0,
    y: Row = 0,
    width: Side = 64,
    height: Side = 64,
) -> ImagePart:
    """Return the part of an image that a request names, less at its edges.

    Parameters
    ----------
    request : Request
    name : str
    extension : int, optional
    x, y, width, height : int
    """
    pixel_image = pixel_store_of(request).find(name, extension)
    return ImagePart(pixel_image, x, y, cut_out(pixel_image, x, y, width, height))


RequestedPart = Annotated[ImagePart, fastapi.Depends(find_part)]


@router.get("/values")
def values(part: RequestedPart) -> PixelWindow:
    """Return the values of a part of the image, less at its edges."""
    return PixelWindow(part.x, part.y, part.values.astype(float).tolist(), part.image.trouble)


@router.get("/cuts")
def cuts(
    request: fastapi.Request,
    name: deps.FrameName,
    x: Column,
    y: Row,
    extension: deps.ExtensionNumber = None,
) -> RowColumnCuts:
    """Return the row and the column through a pixel.

    Parameters
    ----------
    request : Request
    name : str
    x, y : int
    extension : int, optional
    """
    pixel_image = pixel_store_of(request).find(name, extension)
    cut_out(pixel_image, x, y, 1, 1)
    whole = pixel_image.pyramid.image
    row, column = whole[y].astype(float).tolist(), whole[:, x].astype(float).tolist()
    return RowColumnCuts(x, y, row, column, pixel_image.trouble)


# --- residuals and comparison ---------------------------------------------------------------------


def find_residuals(
    project: ProjectContext, session: Session, name: str, number: int | None
) -> tuple[Finding, NDArray[np.float32] | None]:
    """Return an extension and its residual map in units of the scatter of the references.

    Parameters
    ----------
    project : ProjectContext
    session : Session
        For reading.
    name : str
    number : int or None
        HDU number.
    """
    finding = frame_detail.find_finding(session, name, number)
    with figure_lock:
        renderer = extension_figures.FigureRenderer(session, project.thresholds)
        return finding, renderer.residual_map(finding, project.reference_models)


@router.get("/residual-map")
@router.get("/where", include_in_schema=False)
def residual_place(
    project: deps.CurrentProject,
    session: deps.ReadSession,
    name: deps.FrameName,
    extension: deps.ExtensionNumber = None,
) -> ResidualLocationModel:
    """Return in words where the image differs from its references.

    Parameters
    ----------
    project, session : dependencies
    name : str
    extension : int, optional
    """
    finding, residuals = find_residuals(project, session, name, extension)
    if residuals is None:
        return ResidualLocationModel("")
    return ResidualLocationModel(pictures.describe_location(residuals, finding.extension))


@router.get("/nearest-bad")
@router.get("/beside", include_in_schema=False)
def nearest_bad(
    session: deps.ReadSession, name: deps.FrameName, extension: deps.ExtensionNumber = None
) -> ComparisonImage:
    """Return the nearest image of the same type with the label bad.

    Parameters
    ----------
    session : Session
    name : str
    extension : int, optional
    """
    finding = frame_detail.find_finding(session, name, extension)
    return ComparisonImage(extension_links.find_nearest_bad(session, finding))
