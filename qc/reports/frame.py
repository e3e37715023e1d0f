"""Frame report: one HTML page with the figures of each extension of a frame."""

import datetime as dt
import re
from collections import abc
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from qc import db, detection, io
from qc._time import utc_now
from qc.db.schema import models
from qc.project import ProjectContext
from qc.reports import extension_figures, pictures, rendering
from qc.summaries.matrix import kinds_of
from qc.summaries.standing import ExtensionStanding, standing_of

LONGEST_NAME = 120  # characters of a file name without suffix; file systems allow 255 bytes


@dataclass(frozen=True)
class FrameReport:
    """Variables of the page of a frame.

    Attributes
    ----------
    names : mapping of str to str
        Kind in words by image type.
    figures : tuple of ExtensionFigures
        For each extension.
    histories : tuple of tuple of EmbeddedPicture
        Metrics over time, for each extension.
    """

    frame: models.FrameRow
    generated_at: dt.datetime
    names: abc.Mapping[str, str]
    figures: tuple[extension_figures.ExtensionFigures, ...]
    histories: tuple[tuple[pictures.EmbeddedPicture, ...], ...]

    @property
    def standings(self) -> tuple[ExtensionStanding, ...]:
        """Return the distinct standings of the extensions, most severe first."""
        present = {standing_of(figures.finding) for figures in self.figures}
        return tuple(standing for standing in ExtensionStanding if standing in present)


def build_frame_page(
    session: Session,
    name: str,
    *,
    instruments: abc.Sequence[io.Instrument],
    thresholds: detection.Thresholds | None,
    generated_at: dt.datetime,
) -> str:
    """Return the page of one frame, with all its extensions.

    Parameters
    ----------
    session : Session
        Open session.
    name : str
        Archive name, file name or path.
    instruments : sequence of Instrument
        Instrument definitions.
    thresholds : Thresholds or None
        Warning limits of the metrics.
    generated_at : datetime
        Time, aware.

    Returns
    -------
    str
        Self-contained HTML.

    Raises
    ------
    UnknownFrameError
        If no processed frame has this name.
    """
    findings = db.findings.findings_named(session, name)
    renderer = extension_figures.FigureRenderer(session, thresholds)
    figures = tuple(renderer.render(finding) for finding in findings)
    report = FrameReport(
        frame=findings[0].frame,
        generated_at=generated_at.astimezone(dt.UTC),
        names={
            kind.image_type: kind.name
            for instrument in instruments
            for kind in kinds_of(instrument)
        },
        figures=figures,
        histories=tuple(renderer.draw_history(entry) for entry in figures),
    )
    return rendering.render_template("frame.html.j2", page=report)


def write_frame_page(project: ProjectContext, name: str) -> Path:
    """Write the page of one frame as ``frames/<archive name>.html`` in the project folder.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    name : str
        Archive name, file name or path.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UnknownFrameError
        If no processed frame has this name.
    """
    with project.read_session() as session:
        frame = db.findings.findings_named(session, name)[0].frame
        page = build_frame_page(
            session,
            name,
            instruments=project.instruments,
            thresholds=project.thresholds,
            generated_at=utc_now(),
        )
        file = project.settings.project / "frames" / f"{file_name_of(frame)}.html"
        return rendering.write_page(file, page)


def file_name_of(frame: models.FrameRow) -> str:
    """Return a valid file name for a frame: its archive name, or one with a part of the digest.

    The archive name comes from the header and may contain any character.
    """
    safe = re.sub(r"[^A-Za-z0-9_.:+-]", "_", frame.name)[:LONGEST_NAME].lstrip(".")
    return safe if safe == frame.name else f"{safe}-{(frame.sha256 or '')[:8]}"
