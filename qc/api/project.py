"""Project with its verbs: process, judge, label, report, and tables of the database."""

from collections.abc import Iterable
from datetime import date
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from qc import core, db, detection, exports
from qc._time import utc_now
from qc.api import detector
from qc.core.enums import ExportTable
from qc.labels import selection, store
from qc.pipeline import batch
from qc.pipeline import process as single
from qc.pipeline.outcomes import ProcessingOutcome
from qc.project import ProjectContext
from qc.reports import publish
from qc.search import similar
from qc.settings import read_settings

UNITS = {
    "merge_height": "cosine distance",
    "threshold": "cosine distance",
    "distance": "cosine distance",
    "score": "1 at the limit",
    "residual": "robust sigma",
    "wavelength_nm": "nm",
    "slit_arcsec": "arcsec",
    "exposure_s": "s",
    **{name: metric.unit for name, metric in detection.METRICS.items()},
}


class Project(ProjectContext):
    """Opened project: a folder with settings, thresholds and a database.

    A project is also a context manager. Tables are DataFrames; ``table.attrs["units"]`` holds the
    units of their columns.

    Attributes
    ----------
    settings : Settings
    thresholds : Thresholds
    instruments : tuple of Instrument
    encoder : Encoder

    Examples
    --------
    >>> import qc
    >>> with qc.open_project("demo") as project:
    ...     verdicts = project.verdicts()
    >>> verdicts[["file", "image_type", "status"]].tail(1).to_dict("records")
    [{'file': 'UVES...fits', 'image_type': 'UBB0', 'status': 'NOMINAL'}]
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _repr_html_(self) -> str:
        with self.read_session() as session:
            status = exports.project_status(session)
        rows = "".join(
            f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(str(value))}</td></tr>"
            for name, value in status.items()
        )
        return f"<b>{escape(repr(self))}</b><table>{rows}</table>"

    def process(
        self, paths: str | Path | Iterable[str | Path], label: core.LabelName | str | None = None
    ) -> pd.DataFrame:
        """Read, judge and store files; a file that cannot be judged is recorded with its reason.

        Parameters
        ----------
        paths : str, Path or iterable of them
            FITS files, or folders that are searched for FITS files.
        label : Label or str, optional
            ``"good"`` certifies all frames as references.

        Returns
        -------
        DataFrame
            One row per judged extension, or per file without one: file, state, reason,
            extension, image_type, status, score.

        Raises
        ------
        UnreadableFrameError
            If a path does not exist.
        """
        places = [paths] if isinstance(paths, str | Path) else list(paths)
        files = batch.find_frames([Path(place) for place in places])
        name = None if label is None else core.LabelName(label)
        rows: list[dict[str, Any]] = []
        for outcome in batch.process_frames(files, self, name):
            rows += _outcome_rows(outcome)
        columns = ["file", "state", "reason", "extension", "image_type", "status", "score"]
        return pd.DataFrame.from_records(rows, columns=columns)

    def judge(self, frame: detector.Source) -> list[core.Verdict]:
        """Judge each extension of a frame against the stored references; nothing is stored.

        Parameters
        ----------
        frame : str, Path or Frame

        Returns
        -------
        list of Verdict
            One for each extension, with evidence and a figure.

        Raises
        ------
        FrameError
            If the file cannot be read, or the frame cannot be measured.
        """
        measured = self._measure(frame)
        embeddings = detection.embed(measured.measurements, self.encoder)
        references = single.load_references(measured, self)
        judgements = detection.judge(
            measured.measurements,
            embeddings,
            references,
            measured.thresholds,
            single.select_classifier(measured.frame, self),
        )
        with self.read_session() as session:
            return [
                detector.describe_verdict(judgement, reference, _nearest_image(session, judgement))
                for judgement, reference in zip(judgements, references, strict=True)
            ]

    def _measure(self, frame: detector.Source) -> single.MeasuredFrame:
        if not isinstance(frame, core.Frame):
            return single.read_and_measure(Path(frame), self)
        measurements = detection.measure(frame)
        thresholds = self.thresholds.select(measurements, frame.night, self.encoder.fingerprint)
        return single.MeasuredFrame(
            core.FileInfo(frame.path, 0, 0), frame, measurements, thresholds
        )

    def frames(self) -> pd.DataFrame:
        """Return all files that were seen: processed, skipped or failed, with the reason.

        Returns
        -------
        DataFrame
            name, instrument, night, observed_at, exposure_s, state, reason, path.

        Examples
        --------
        >>> import qc
        >>> with qc.open_project("demo") as project:
        ...     frames = project.frames()
        >>> len(frames), frames.attrs["units"]["exposure_s"]
        (24, 's')
        """
        columns = ["name", "instrument", "night", "observed_at", "exposure_s", "state", "reason"]
        columns.append("path")
        query = select(*(getattr(db.schema.models.FrameRow, column) for column in columns))
        with self.read_session() as session:
            rows = [tuple(row) for row in session.execute(query)]
        table = pd.DataFrame.from_records(rows, columns=columns)
        return _with_units(table.sort_values(["night", "observed_at"], ignore_index=True))

    def verdicts(self, since: date | None = None) -> pd.DataFrame:
        """Return the newest verdict of each extension, oldest frame first.

        Parameters
        ----------
        since : date, optional
            First night.

        Returns
        -------
        DataFrame
        """
        return self._table(ExportTable.VERDICTS, since)

    def metrics(self, since: date | None = None) -> pd.DataFrame:
        """Return the metrics of each judged extension, oldest frame first.

        Parameters
        ----------
        since : date, optional
            First night.

        Returns
        -------
        DataFrame
            Units in ``attrs["units"]``; ADU are those of the raw frame.
        """
        return self._table(ExportTable.METRICS, since)

    def embeddings(self, since: date | None = None) -> pd.DataFrame:
        """Return the embeddings of each judged extension, oldest frame first.

        Parameters
        ----------
        since : date, optional
            First night.

        Returns
        -------
        DataFrame
            Its column ``embedding`` holds (d,) float32 arrays.
        """
        return self._table(ExportTable.EMBEDDINGS, since)

    def _table(self, name: ExportTable, since: date | None) -> pd.DataFrame:
        with self.read_session() as session:
            return _with_units(exports.read_table(session, name, since))

    def similar(self, frame: str | Path, k: int = 10, **criteria: Any) -> pd.DataFrame:
        """Return the nearest neighbours of a frame in the history.

        Parameters
        ----------
        frame : str or Path
            Archive name or path of a stored frame, or path of a file that is not stored.
        k : int
            Number of neighbours of each extension.
        **criteria
            ``image_type``, ``labelled``, ``extension``, ``first``, ``last``; see
            `qc.search.similar.find_similar`.

        Returns
        -------
        DataFrame
            query, name, image_type, night, distance, status, label, kind, note.

        Raises
        ------
        UnknownFrameError
            If there is neither such a frame nor such a file.
        """
        rows = [
            {"query": result.name, **vars(neighbour)}
            for result in similar.find_similar(self, str(frame), k, **criteria)
            for neighbour in result.neighbours
        ]
        return _with_units(pd.DataFrame.from_records(rows))

    def label(
        self,
        name: str,
        label: core.LabelName | str,
        *,
        kind: str = "",
        note: str = "",
        author: str = "",
    ) -> None:
        """Label a stored frame.

        Parameters
        ----------
        name : str
            Archive name, file name or path; ``NAME[1]`` is one extension.
        label : Label or str
            ``"good"``, ``"bad"`` or ``"valid-outlier"``.
        kind : str
            Kind of fault; required for ``"bad"``.
        note : str
            Free text.
        author : str
            Default: the user of the operating system.

        Raises
        ------
        UnknownFrameError
            If no processed frame has that name.
        InvalidInputError
            If the label or the kind does not exist, or does not fit the frame.
        """
        author = author or db.schema.engine.user_name()
        answer = store.parse_answer(str(label), kind, note, who=author)
        with self.write_session.begin() as session:
            extensions = selection.select_named(session, [name])
            store.add_labels(session, extensions, answer, self.instruments)

    def report(self, night: date | None = None) -> Path:
        """Write the report of a night.

        Parameters
        ----------
        night : date, optional
            Default: the newest night.

        Returns
        -------
        Path
            HTML file in the folder ``reports`` of the project.

        Raises
        ------
        ConfigurationError
            If no night is given and no frame is stored.
        """
        return publish.publish_night(self, night, utc_now()).html


def open_project(folder: str | Path = ".") -> Project:
    """Open a project; close it with `Project.close` or a ``with`` block.

    Parameters
    ----------
    folder : str or Path
        Project folder, made by ``qc init`` or ``qc demo``.

    Returns
    -------
    Project

    Raises
    ------
    ConfigurationError
        If the folder is no project, or its database has another version's schema.

    Examples
    --------
    >>> import qc
    >>> project = qc.open_project("demo")
    >>> project
    Project('...demo')
    >>> project.judge("bias.fits")[0].status.name
    'NOMINAL'
    >>> project.close()
    """
    return Project.open(read_settings(Path(folder)))


def _outcome_rows(outcome: ProcessingOutcome) -> list[dict[str, Any]]:
    file = {"file": outcome.path.name, "state": str(outcome.state), "reason": outcome.reason}
    return [
        {
            **file,
            "reason": "; ".join(judgement.verdict.reasons),
            "extension": judgement.measurement.number,
            "image_type": judgement.measurement.setup.image_type,
            "status": str(judgement.verdict.status),
            "score": judgement.verdict.score,
        }
        for judgement in outcome.judgements
    ] or [file]


def _nearest_image(session: Session, judgement: detection.Judgement) -> NDArray[np.float32] | None:
    """Return the block means of the nearest stored reference, ADU; None if not stored."""
    if judgement.nearest_id is None:
        return None
    statistics = db.block_statistics.find_block_statistics(session, judgement.nearest_id)
    if statistics is None:
        return None
    image: NDArray[np.float32] = statistics[..., 0] + judgement.measurement.zero_adu
    return image


def _with_units(table: pd.DataFrame) -> pd.DataFrame:
    table.attrs["units"] = {name: UNITS[name] for name in table if name in UNITS}
    return table
