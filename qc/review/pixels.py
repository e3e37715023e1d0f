"""The pixels of stored extensions: from their files as they were processed, or what was kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from qc import db
from qc._locks import KeyedLocks
from qc.db.models import ExtensionRow, FrameRow, VerdictRow
from qc.errors import FrameError, UnknownFrameError
from qc.figures import plots
from qc.io.read_frame import read_frame
from qc.project import Project
from qc.review.pyramid import Pyramid, PyramidCache, Reducer, Stretch, build

Floats = NDArray[np.float32]

CACHE = "cache"  # in the project folder
SAMPLED = 1024  # longest side of what limits are chosen from
LEAST_REACH_ADU = 5.0
_REFUSALS_KEPT = 1000
_READ_AT_ONCE = 2  # red frames take 150 MB each while they are cut up


@dataclass(frozen=True)
class PixelSource:
    """Where the pixels of an extension are, and what is needed to show them.

    Attributes
    ----------
    bias_adu : float
        Level of its overscan, or of the chip where it has none.
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
        """Write it as people do: the frame's name and the HDU number."""
        return f"{self.name}[{self.number}]"

    @property
    def pixel_aspect(self) -> float:
        """Return how much higher than wide a pixel is."""
        bin_x, bin_y = map(int, self.binning.split("x"))
        return bin_y / bin_x


@dataclass(frozen=True)
class PixelImage:
    """An extension's image at hand.

    Attributes
    ----------
    trouble : str
        Why it is not the image itself but its block means; empty if it is.
    """

    source: PixelSource
    pyramid: Pyramid
    trouble: str = ""

    @property
    def stretch(self) -> Stretch:
        """Choose a stretch: where there is light, the faint matters beside the bright."""
        return Stretch.ASINH if self.source.promised_light > 0 else Stretch.LINEAR

    def limits(self) -> tuple[float, float]:
        """Choose black and white, ADU."""
        seen = self.pyramid.at_most(SAMPLED)
        return plots.limits(seen.astype(np.float32))


def find_source(session: Session, name: str, number: int | None = None) -> PixelSource:
    """Return where the pixels of an extension are: of the newest frame of an archive name.

    Parameters
    ----------
    number : int, optional
        Of the HDU; the first of the frame where absent.

    Raises
    ------
    UnknownFrame
        If no processed frame has this archive name, or it has no such extension.
    """
    query = (
        select(FrameRow, ExtensionRow)
        .join(ExtensionRow, ExtensionRow.frame_id == FrameRow.id)
        .where(FrameRow.name == name)  # who has an extension was processed
        .order_by(FrameRow.id.desc(), ExtensionRow.number)
    )
    for frame, extension in session.execute(query):
        if number in {None, extension.number}:
            return _source(frame, extension)
    which = f" with an extension {number}" if number is not None else ""
    raise UnknownFrameError(f"{name}: no processed frame of that archive name{which}")


def nearest_source(session: Session, source: PixelSource) -> PixelSource | None:
    """Return where the pixels of the reference are that the newest verdict found nearest."""
    verdict = (
        select(VerdictRow.nearest_id)
        .where(VerdictRow.extension_id == source.extension_id)
        .order_by(VerdictRow.id.desc())
        .limit(1)
    )
    row = session.get(ExtensionRow, session.scalar(verdict) or 0)
    return _source(row.frame, row) if row else None


def _source(frame: FrameRow, extension: ExtensionRow) -> PixelSource:
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


@dataclass(frozen=True)
class PixelStore:
    """Images of a project's extensions. Each file is read once, two at a time: they are large."""

    project: Project
    pyramids: PyramidCache
    _reading: KeyedLocks = field(default_factory=lambda: KeyedLocks(_READ_AT_ONCE))
    _refused: dict[tuple[str, str, int, int], str] = field(default_factory=dict)

    def find(self, name: str, number: int | None = None) -> PixelImage:
        """Return the image of an extension.

        Raises
        ------
        UnknownFrame
            If there is no such extension.
        """
        with self.project.reads() as session:  # let go before anything is read or waited for
            source = find_source(session, name, number)
        return self.of(source)

    def beside(self, plate: PixelImage) -> PixelImage | None:
        """Return the image of the nearest reference, if it can be taken off this one."""
        with self.project.reads() as session:
            source = nearest_source(session, plate.source)
        other = self.of(source) if source else None
        return other if other and _is_comparable(plate, other) else None

    def of(self, source: PixelSource) -> PixelImage:
        """Return the image; or, where its file is not as it was processed, its block means."""
        kept = self.pyramids.find(source.pixels_sha256)
        if kept is not None:
            return PixelImage(source, kept)
        with self._reading.of(source.path):
            trouble = self._read(source)
        found = None if trouble else self.pyramids.find(source.pixels_sha256)
        return PixelImage(source, found) if found else self._remembered(source, trouble)

    def _read(self, source: PixelSource) -> str:
        """Read a file, keep the pyramids of all its extensions; return what was in the way."""
        if self.pyramids.find(source.pixels_sha256) is not None:
            return ""  # another request was waited for
        try:
            status = Path(source.path).stat()
        except OSError:
            return f"{source.path} is not there any more"
        key = (source.path, source.file_sha256, status.st_size, status.st_mtime_ns)
        if key not in self._refused:
            trouble = self._read_file(source)
            if not trouble:
                return ""
            if len(self._refused) >= _REFUSALS_KEPT:
                self._refused.clear()
            self._refused[key] = trouble
        return self._refused[key]

    def _read_file(self, source: PixelSource) -> str:
        try:
            frame = read_frame(Path(source.path), self.project.instruments)
        except FrameError as error:
            return str(error)
        if frame.sha256 != source.file_sha256:
            return f"{source.path} is not the file that was processed: its content has changed"
        with self.project.reads() as session:
            digests = _digests(session, source.file_sha256)
        for extension in frame.extensions:
            if extension.number in digests:
                self.pyramids.keep(digests[extension.number], extension.pixels)
        return ""

    def _remembered(self, source: PixelSource, trouble: str) -> PixelImage:
        with self.project.reads() as session:
            row = session.get_one(ExtensionRow, source.extension_id)
            kept = db.block_statistics.block_statistics_of(session, row.id)
            zero = row.zero_adu
        if kept is None:
            raise UnknownFrameError(f"{source.label}: {trouble}, and no picture of it was kept")
        means, peaks = (np.ascontiguousarray(kept[..., plane]) + zero for plane in (0, 2))
        levels = {
            Reducer.MEAN: build(means).levels[Reducer.MEAN],
            Reducer.PEAK: build(peaks).levels[Reducer.PEAK],
        }
        return PixelImage(source, Pyramid(levels), trouble)


def _digests(session: Session, file_sha256: str) -> dict[int, str]:
    """Return what the pixels of a frame's extensions are kept under, by HDU number."""
    frame = db.frames.frame_with_digest(session, file_sha256)
    return {row.number: row.pixels_sha256 for row in frame.extensions} if frame else {}


# --- one minus another ----------------------------------------------------------------------------


def _is_comparable(own: PixelImage, other: PixelImage) -> bool:
    """Say whether one image can be taken off the other pixel by pixel."""
    return own.pyramid.image.shape == other.pyramid.image.shape


def minus(
    own: PixelImage, other: PixelImage, part: Sequence[int], show: Reducer = Reducer.MEAN
) -> Floats:
    """Return a tile of one image less that of another, ADU; empty where there is none.

    Of images with light, the other is brought to this one's bias level and promised light. Others
    are compared as they were read: of a bias, the level is what matters.

    Parameters
    ----------
    part : (level, row, column)
    """
    level, row, column = part
    return _less(
        own,
        other,
        own.pyramid.tile(level, row, column, show),
        other.pyramid.tile(level, row, column, show),
    )


def minus_whole(own: PixelImage, other: PixelImage, longest: int) -> Floats:
    """Return the same of the whole images, as large as no side is longer."""
    return _less(own, other, own.pyramid.at_most(longest), other.pyramid.at_most(longest))


def reach(own: PixelImage, other: PixelImage) -> float:
    """Choose where the colours of a difference end: what one pixel in 200 exceeds, ADU."""
    away = minus_whole(own, other, SAMPLED)
    return max(LEAST_REACH_ADU, float(np.nanpercentile(np.abs(away), 99.5)))


def _less(
    own: PixelImage, other: PixelImage, mine: NDArray[np.generic], others: NDArray[np.generic]
) -> Floats:
    a, b = mine.astype(np.float32), others.astype(np.float32)
    light, other_light = own.source.promised_light, other.source.promised_light
    if light > 0 and other_light > 0:
        scaled = (b - np.float32(other.source.bias_adu)) * np.float32(light / other_light)
        return (a - np.float32(own.source.bias_adu)) - scaled
    return a - b
