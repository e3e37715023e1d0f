"""Pixels of stored extensions, from their files or from the stored block statistics."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from qc import db, errors, io
from qc._locks import KeyedLocks
from qc.db.schema import models
from qc.figures import images
from qc.project import ProjectContext
from qc.review import pyramid
from qc.review.pyramid import Pyramid, Reducer, Stretch

Floats = NDArray[np.float32]

CACHE = "cache"  # folder in the project
SAMPLE_SIDE = 1024  # longest side of the image from which display limits are chosen
MIN_RANGE_ADU = 5.0
_MAX_FAILURES = 1000
_MAX_CONCURRENT = 2  # a red frame takes 150 MB while its pyramid is built


@dataclasses.dataclass(frozen=True)
class PixelSource:
    """Location of an extension's pixels, with the properties that their display needs.

    Attributes
    ----------
    bias_adu : float
        Level of the overscan; without overscan the detector's bias level.
    """

    extension_id: int
    name: str
    number: int
    path: str
    file_sha256: str
    pixels_sha256: str
    ny: int
    nx: int
    binning: str
    frame_class: str
    promised_light: float
    bias_adu: float

    @property
    def label(self) -> str:
        """Return the frame's name with the extension's number."""
        return f"{self.name}[{self.number}]"

    @property
    def pixel_aspect(self) -> float:
        """Return height divided by width of a pixel."""
        bin_x, bin_y = map(int, self.binning.split("x"))
        return bin_y / bin_x


@dataclasses.dataclass(frozen=True)
class PixelImage:
    """Pixels of an extension, or its block means.

    Attributes
    ----------
    trouble : str
        Reason for block means instead of pixels; empty for pixels.
    """

    source: PixelSource
    pyramid: Pyramid
    trouble: str = ""

    @property
    def stretch(self) -> Stretch:
        """Return the default stretch: asinh for exposures with light, else linear."""
        return Stretch.ASINH if self.source.promised_light > 0 else Stretch.LINEAR

    def limits(self) -> tuple[float, float]:
        """Return the levels of black and white, ADU."""
        sample = self.pyramid.at_most(SAMPLE_SIDE)
        return images.display_limits(sample.astype(np.float32))


def find_source(session: Session, name: str, number: int | None = None) -> PixelSource:
    """Return the location of an extension's pixels, in the newest frame with a name.

    Parameters
    ----------
    session : Session
        For reading.
    name : str
        Archive name.
    number : int, optional
        Extension; the first one if omitted.

    Returns
    -------
    PixelSource

    Raises
    ------
    UnknownFrameError
        If no processed frame has this archive name, or it has no such extension.
    """
    query = (
        sa.select(models.FrameRow, models.ExtensionRow)
        .join(models.ExtensionRow, models.ExtensionRow.frame_id == models.FrameRow.id)
        .where(models.FrameRow.name == name)  # only processed frames have extensions
        .order_by(models.FrameRow.id.desc(), models.ExtensionRow.number)
    )
    for frame, extension in session.execute(query):
        if number in {None, extension.number}:
            return make_source(frame, extension)
    suffix = f" with an extension {number}" if number is not None else ""
    raise errors.UnknownFrameError(f"{name}: no processed frame of that archive name{suffix}")


def find_nearest_source(session: Session, source: PixelSource) -> PixelSource | None:
    """Return the pixels of the nearest reference of an extension's newest verdict.

    Parameters
    ----------
    session : Session
        For reading.
    source : PixelSource
        Extension.

    Returns
    -------
    PixelSource or None
    """
    query = (
        sa.select(models.VerdictRow.nearest_id)
        .where(models.VerdictRow.extension_id == source.extension_id)
        .order_by(models.VerdictRow.id.desc())
        .limit(1)
    )
    row = session.get(models.ExtensionRow, session.scalar(query) or 0)
    return make_source(row.frame, row) if row else None


def make_source(frame: models.FrameRow, extension: models.ExtensionRow) -> PixelSource:
    """Return the location of an extension's pixels.

    Parameters
    ----------
    frame : FrameRow
        Frame.
    extension : ExtensionRow
        Extension of the frame.

    Returns
    -------
    PixelSource
    """
    return PixelSource(
        extension_id=extension.id,
        name=frame.name,
        number=extension.number,
        path=frame.path,
        file_sha256=frame.sha256 or "",
        pixels_sha256=extension.pixels_sha256,
        ny=extension.ny,
        nx=extension.nx,
        binning=extension.binning,
        frame_class=extension.frame_class,
        promised_light=extension.promised_light,
        bias_adu=extension.metrics.get("bias_level", extension.zero_adu),
    )


@dataclasses.dataclass(frozen=True)
class PixelStore:
    """Images of a project's extensions, cached as pyramids.

    Each file is read once; two files at a time, as they are large.
    """

    project: ProjectContext
    pyramids: pyramid.PyramidCache
    _reading: KeyedLocks = dataclasses.field(default_factory=lambda: KeyedLocks(_MAX_CONCURRENT))
    _failures: dict[tuple[str, str, int, int], str] = dataclasses.field(default_factory=dict)

    def find(self, name: str, number: int | None = None) -> PixelImage:
        """Return the image of an extension.

        Parameters
        ----------
        name : str
            Archive name.
        number : int, optional
            Extension; the first one if omitted.

        Returns
        -------
        PixelImage

        Raises
        ------
        UnknownFrameError
            If there is no such extension.
        """
        with self.project.read_session() as session:  # closed before a file is read
            source = find_source(session, name, number)
        return self.load(source)

    def find_reference(self, image: PixelImage) -> PixelImage | None:
        """Return the image of the nearest reference, if both have the same shape."""
        with self.project.read_session() as session:
            source = find_nearest_source(session, image.source)
        reference = self.load(source) if source else None
        if reference and reference.pyramid.image.shape == image.pyramid.image.shape:
            return reference
        return None

    def load(self, source: PixelSource) -> PixelImage:
        """Return the pixels; if the file is missing or changed, the block means.

        Raises
        ------
        UnknownFrameError
            If neither pixels nor block means exist.
        """
        cached = self.pyramids.find(source.pixels_sha256)
        if cached is not None:
            return PixelImage(source, cached)
        with self._reading.hold(source.path):
            trouble = self.cache_file(source)
        cached = None if trouble else self.pyramids.find(source.pixels_sha256)
        return PixelImage(source, cached) if cached else self.load_block_means(source, trouble)

    def cache_file(self, source: PixelSource) -> str:
        """Read a file, unless it failed before, and cache the pyramids of its extensions.

        Returns
        -------
        str
            Reason of a failure; empty for success.
        """
        if self.pyramids.find(source.pixels_sha256) is not None:
            return ""  # cached by another request
        try:
            status = Path(source.path).stat()
        except OSError:
            return f"{source.path} is not there any more"
        key = (source.path, source.file_sha256, status.st_size, status.st_mtime_ns)
        if key not in self._failures:
            trouble = self.read_file(source)
            if not trouble:
                return ""
            if len(self._failures) >= _MAX_FAILURES:
                self._failures.clear()
            self._failures[key] = trouble
        return self._failures[key]

    def read_file(self, source: PixelSource) -> str:
        """Read a file and cache the pyramids of its extensions.

        Returns
        -------
        str
            Reason of a failure; empty for success.
        """
        try:
            frame = io.read_frame(Path(source.path), self.project.instruments)
        except errors.FrameError as error:
            return str(error)
        if frame.sha256 != source.file_sha256:
            return f"{source.path} is not the file that was processed: its content has changed"
        with self.project.read_session() as session:
            stored = db.frames.find_by_digest(session, source.file_sha256)
            rows = stored.extensions if stored else []
            digests = {row.number: row.pixels_sha256 for row in rows}
        for extension in frame.extensions:
            if extension.number in digests:
                self.pyramids.store(digests[extension.number], extension.pixels)
        return ""

    def load_block_means(self, source: PixelSource, trouble: str) -> PixelImage:
        """Return the stored block means and maxima as an image.

        Parameters
        ----------
        source : PixelSource
            Extension.
        trouble : str
            Reason why its pixels are not available.

        Returns
        -------
        PixelImage

        Raises
        ------
        UnknownFrameError
            If no block statistics are stored.
        """
        with self.project.read_session() as session:
            row = session.get_one(models.ExtensionRow, source.extension_id)
            statistics = db.block_statistics.find_block_statistics(session, row.id)
            zero_adu = row.zero_adu
        if statistics is None:
            raise errors.UnknownFrameError(
                f"{source.label}: {trouble}, and no block statistics of it are stored"
            )
        means, peaks = (np.ascontiguousarray(statistics[..., k]) + zero_adu for k in (0, 2))
        levels = {
            Reducer.MEAN: pyramid.build(means).levels[Reducer.MEAN],
            Reducer.PEAK: pyramid.build(peaks).levels[Reducer.PEAK],
        }
        return PixelImage(source, Pyramid(levels), trouble)


# --- difference of two images ---------------------------------------------------------------------


def subtract(
    image: PixelImage, reference: PixelImage, part: Sequence[int], show: Reducer = Reducer.MEAN
) -> Floats:
    """Return a tile of the difference of two images.

    Parameters
    ----------
    image, reference : PixelImage
        Images of the same shape.
    part : (level, row, column)
        Tile.
    show : Reducer
        Reduction of pixels in smaller levels.

    Returns
    -------
    (ny, nx) float32 array
        Difference, ADU; empty outside the image.
    """
    level, row, column = part
    return subtract_scaled(
        image,
        reference,
        image.pyramid.tile(level, row, column, show),
        reference.pyramid.tile(level, row, column, show),
    )


def subtract_whole(image: PixelImage, reference: PixelImage, longest: int) -> Floats:
    """Return the difference of two whole images.

    Parameters
    ----------
    image, reference : PixelImage
        Images of the same shape.
    longest : int
        Largest length of a side, pixels.

    Returns
    -------
    (ny, nx) float32 array
        Difference, ADU.
    """
    return subtract_scaled(
        image, reference, image.pyramid.at_most(longest), reference.pyramid.at_most(longest)
    )


def colour_range(image: PixelImage, reference: PixelImage) -> float:
    """Return the range of the colours of a difference, ADU: its 99.5 % quantile.

    Parameters
    ----------
    image, reference : PixelImage
        Images of the same shape.

    Returns
    -------
    float
    """
    difference = subtract_whole(image, reference, SAMPLE_SIDE)
    return max(MIN_RANGE_ADU, float(np.nanpercentile(np.abs(difference), 99.5)))


def subtract_scaled(
    image: PixelImage,
    reference: PixelImage,
    pixels: NDArray[np.generic],
    reference_pixels: NDArray[np.generic],
) -> Floats:
    """Return the difference of two arrays.

    With light, the reference is scaled to the image's bias level and exposure. Other images are
    compared as read: the level of a bias matters.

    Parameters
    ----------
    image, reference : PixelImage
        Images; for bias levels and exposures.
    pixels, reference_pixels : (ny, nx) array
        Parts of the images, ADU.

    Returns
    -------
    (ny, nx) float32 array
        Difference, ADU.
    """
    a, b = pixels.astype(np.float32), reference_pixels.astype(np.float32)
    light, reference_light = image.source.promised_light, reference.source.promised_light
    if light > 0 and reference_light > 0:
        scale = np.float32(light / reference_light)
        return (a - np.float32(image.source.bias_adu)) - (
            b - np.float32(reference.source.bias_adu)
        ) * scale
    return a - b
