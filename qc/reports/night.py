"""The pages: one night, or one frame, each a single file that needs nothing else.

What there is to say is found in `nights`, what there is to see in `portraits`; how it is said, in
the templates.
"""

import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, TypeVar

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from sqlalchemy.orm import Session

from qc import db
from qc._files import written_whole
from qc._text import counted
from qc._time import utc_now
from qc.core.reference import REFERENCE_AMPLE
from qc.db.models import FrameRow
from qc.detection.decision import sample_words
from qc.detection.thresholds import Thresholds
from qc.errors import ConfigurationError
from qc.io.instruments import Instrument
from qc.labels.spot_check import CONFIDENCE, ONE_IN, REMEMBERED
from qc.monitoring.recall import SHOWN_NIGHTS
from qc.project import Project
from qc.reports.extension_figures import (
    SHOWN_AFTER,
    TALLEST_SCORE,
    EmbeddedPicture,
    ExtensionFigures,
    FigureRenderer,
    NightTrend,
    RecallFigure,
    Thumbnail,
    draw_recall,
    draw_trend,
)
from qc.summaries.night import (
    HISTORY_NIGHTS,
    ExtensionStanding,
    NightSummary,
    by_image_type,
    kinds_of,
    read_night,
    standing,
)
from qc.summaries.period import in_hours

Progress = Callable[[int, int], None]
T = TypeVar("T")

PICTURED_EVENTS = 20  # up to 250 kB each
LISTED = 200  # rows of any one table: who needs more asks for an export
LARGEST = 1000  # scores and sigmas beyond say no more than that it is gross
LONGEST_NAME = 120  # of a file, without its ending; file systems allow 255 bytes


class EncoderInfo(Protocol):
    """What the page says of an encoder: the encoder itself or its row."""

    @property
    def name(self) -> str:
        """Say network, weights and stretch in words."""

    @property
    def fingerprint(self) -> str:
        """Return its name and digest."""


@dataclass(frozen=True)
class NightReport:
    """Everything on the page of a night.

    Attributes
    ----------
    portraits : mapping of anchor to Portrait
        Of the worst events only.
    wall : tuple of Thumb
        The night's sample.
    recalls : tuple of RecallShown
        Of the instruments whose self-test found something to try lately.
    """

    night: NightSummary
    generated_at: datetime
    encoder: EncoderInfo
    thresholds_digest: str
    portraits: Mapping[str, ExtensionFigures]
    trends: tuple[NightTrend, ...]
    wall: tuple[Thumbnail, ...]
    recalls: tuple[RecallFigure, ...]

    @property
    def untrained(self) -> bool:
        """Say whether the encoder has never learnt anything."""
        return "untrained" in self.encoder.name.split("-")

    @property
    def other_encoders(self) -> tuple[str, ...]:
        """List encoders other than the present one that judged tonight."""
        used = {one.fingerprint for one in self.night.findings}
        return tuple(sorted(used - {self.encoder.fingerprint}))

    @property
    def other_thresholds(self) -> tuple[str, ...]:
        """List digests of thresholds files other than the present one used tonight."""
        used = {one.verdict.thresholds_digest for one in self.night.findings}
        return tuple(sorted(used - {self.thresholds_digest}))


@dataclass(frozen=True)
class FramePage:
    """Everything on the page of a frame.

    Attributes
    ----------
    names : mapping of str to str
        What people call each image type.
    histories : tuple of tuple of Picture
        Of each portrait's extension.
    """

    frame: FrameRow
    generated_at: datetime
    names: Mapping[str, str]
    portraits: tuple[ExtensionFigures, ...]
    histories: tuple[tuple[EmbeddedPicture, ...], ...]

    @property
    def standings(self) -> tuple[ExtensionStanding, ...]:
        """List where its extensions stand, the gravest first, each once."""
        found = {standing(one.finding) for one in self.portraits}
        return tuple(one for one in ExtensionStanding if one in found)


def build_report(
    session: Session,
    evening: date,
    *,
    instruments: Sequence[Instrument],
    encoder: EncoderInfo,
    thresholds: Thresholds | None,
    generated_at: datetime,
    progress: Progress | None = None,
) -> str:
    """Write the spot-check report of a night.

    Parameters
    ----------
    thresholds : Thresholds or None
        Tell which detector numbers are worth printing.
    generated_at : datetime
        Aware; the page shows its age from then on.
    progress : callable, optional
        Told how many parts of the page are drawn, and of how many.

    Returns
    -------
    str
        HTML, complete in itself.
    """
    night = read_night(session, evening, instruments, generated_at)
    pictured = night.events[:PICTURED_EVENTS]
    by_type = by_image_type(night.history)
    trended = [kind for kind in night.kinds if kind.image_type in by_type]
    first = evening - timedelta(days=HISTORY_NIGHTS - 1)
    epochs = db.epochs.epochs_between(session, first, evening)
    gallery = FigureRenderer(session, thresholds)
    counted = ProgressIterator(len(pictured) + len(trended), progress)
    report = NightReport(
        night=night,
        generated_at=generated_at.astimezone(UTC),
        encoder=encoder,
        thresholds_digest=thresholds.digest if thresholds else "",
        portraits={one.anchor: gallery.portrait(one.worst) for one in counted.over(pictured)},
        trends=tuple(
            draw_trend(kind, by_type[kind.image_type], epochs) for kind in counted.over(trended)
        ),
        wall=gallery.wall(night.sample.findings),
        recalls=tuple(filter(None, (draw_recall(session, evening, each) for each in instruments))),
    )
    return rendered("report.html.j2", report=report)


def build_frame_page(
    session: Session,
    name: str,
    *,
    instruments: Sequence[Instrument],
    thresholds: Thresholds | None,
    generated_at: datetime,
) -> str:
    """Write the page of one frame, all its extensions, whatever was thought of them.

    Raises
    ------
    UnknownFrame
        If no processed frame has this archive name, file name or path.
    """
    findings = db.findings.findings_named(session, name)
    gallery = FigureRenderer(session, thresholds)
    portraits = tuple(gallery.portrait(one) for one in findings)
    page = FramePage(
        frame=findings[0].frame,
        generated_at=generated_at.astimezone(UTC),
        names={kind.image_type: kind.name for one in instruments for kind in kinds_of(one)},
        portraits=portraits,
        histories=tuple(gallery.history(one) for one in portraits),
    )
    return rendered("frame.html.j2", page=page)


def write_report(
    project: Project,
    night: date | None,
    now: datetime,
    file: Path | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Write the report of a night as a file; nothing that was there is lost if that fails.

    Parameters
    ----------
    night : date, optional
        The newest that has frames, where absent.
    file : Path, optional
        ``reports/<night>.html`` in the project folder, where absent.

    Raises
    ------
    ConfigurationError
        If no night is given and none has frames.
    """
    with project.reads() as session:
        night = night or db.statistics.newest_night(session)
        if night is None:
            raise ConfigurationError("no frame has been processed yet: there is no night to report")
        page = build_report(
            session,
            night,
            instruments=project.instruments,
            encoder=project.encoder,
            thresholds=project.thresholds,
            generated_at=now,
            progress=progress,
        )
    return write_page(file or project.settings.project / "reports" / f"{night}.html", page)


def write_frame_page(project: Project, name: str) -> Path:
    """Write the page of one frame as ``frames/<archive name>.html`` in the project folder.

    Raises
    ------
    UnknownFrame
        If no processed frame has this archive name, file name or path.
    """
    with project.reads() as session:
        frame = db.findings.findings_named(session, name)[0].frame
        page = build_frame_page(
            session,
            name,
            instruments=project.instruments,
            thresholds=project.thresholds,
            generated_at=utc_now(),
        )
        return write_page(project.settings.project / "frames" / f"{_file_name(frame)}.html", page)


def write_page(file: Path, page: str) -> Path:
    """Write a page; what was there stays until the new one is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as stream:
        stream.write(page.encode())
    return file


def _file_name(frame: FrameRow) -> str:
    """Return the archive name; or, where a file cannot be called so, one that looks like it.

    The name is from the header, where anything may stand.
    """
    safe = re.sub(r"[^A-Za-z0-9_.:+-]", "_", frame.name)[:LONGEST_NAME].lstrip(".")
    return safe if safe == frame.name else f"{safe}-{(frame.sha256 or '')[:8]}"


class ProgressIterator:
    """Hands items on, and tells a listener how many are done."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.progress, self.done = total, progress, 0

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items; each counts as done when the next is asked for."""
        for item in items:
            yield item
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.total)


# --- how things are said --------------------------------------------------------------------------


def rendered(template: str, **context: object) -> str:
    """Return a page of one of the templates, complete in itself."""
    versions = {"calibration-qc": version("calibration-qc"), "Python": platform.python_version()}
    return _environment().get_template(template).render(versions=versions, **context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("qc.reports"), PackageLoader("qc.alerts")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score, "age": _age, "sigma": sigma, "utc": _utc}
    environment.filters |= {"sample": sample_words, "hours": in_hours}
    environment.globals |= {
        "counted": counted,
        "standing": standing,
        "listed": LISTED,
        "ample": REFERENCE_AMPLE,
        "history_nights": HISTORY_NIGHTS,
        "recall_nights": SHOWN_NIGHTS,
        "shown_after_days": SHOWN_AFTER.days,
        "tallest_score": f"{TALLEST_SCORE:g}",
        "confidence": CONFIDENCE,
        "one_in": ONE_IN,
        "remembered_days": REMEMBERED.days,
    }
    return environment


def _score(value: float) -> str:
    if value > LARGEST:
        return f">{LARGEST}"
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def sigma(value: float) -> str:
    """Write how far off a number is, in standard deviations; beyond a thousand it is gross."""
    if abs(value) > LARGEST:
        return f">+{LARGEST}" if value > 0 else f"<-{LARGEST}"
    return f"{value:+.1f}" if abs(value) < 100 else f"{value:+.0f}"


def _age(value: timedelta) -> str:
    hours = value.total_seconds() / 3600
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"


def _utc(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
