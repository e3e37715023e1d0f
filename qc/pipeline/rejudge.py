"""Judging of stored extensions: first verdicts after a backfill, and rejudging."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from qc import core, db, detection
from qc.db.reference_models import ReferenceModelCache
from qc.db.references import PendingNight
from qc.db.schema.models import ExtensionRow
from qc.pipeline import process, readers
from qc.project import ProjectContext

MODELS_AT_ONCE = 4  # residual models that are fitted at once; each takes 300 MB meanwhile
_ARCHIVE_CACHE = 64  # models in the cache, 9 MB each; with fewer, some are fitted again each night


@dataclasses.dataclass(frozen=True)
class VerdictChange:
    """Rejudged extension.

    Attributes
    ----------
    name : str
        Name of the frame.
    before : Status
        Status of the newest verdict before.
    judgement : Judgement
        New judgement.
    """

    name: str
    before: core.Status
    judgement: detection.Judgement

    @property
    def is_changed(self) -> bool:
        """Return True if the status has changed."""
        return self.before != self.judgement.verdict.status


def rejudge_frames(
    project: ProjectContext,
    first: date = date.min,
    last: date = date.max,
    in_force: core.ThresholdPolicy = core.ThresholdPolicy.DATED,
) -> Iterator[VerdictChange]:
    """Judge stored extensions again with the present encoder, thresholds and labels.

    Night after night, so that the references are rejudged first: decision 0018. A verdict is
    added, none is replaced. Extensions without stored block statistics, and those that no
    instrument file describes, are left out.

    Parameters
    ----------
    project : ProjectContext
    first, last : date
        Range of nights, both included.
    in_force : ThresholdPolicy
        Entry of the thresholds: of the frame's night, or the newest.

    Yields
    ------
    VerdictChange
        One for each extension, when it is stored.
    """
    with project.read_session() as session:
        nights = db.recording.find_nights(session, first, last)
    for night in nights:
        with project.read_session() as session:
            rows = db.recording.find_extensions(session, night)
        for row, measured, embeddings in load_stored(rows, project, in_force):
            with project.read_session() as session:
                before = db.extensions.newest_status(session, row.id)
            if before is None:
                continue  # `judge_pending` records the first verdict
            [judgement] = process.judge_frame(measured, embeddings, project)
            with project.insert_session.begin() as session:
                db.recording.record_verdict(
                    session,
                    row.id,
                    judgement,
                    encoder=project.encoder,
                    thresholds_digest=project.thresholds.digest,
                )
            yield VerdictChange(measured.frame.name, before, judgement)


def judge_pending(project: ProjectContext) -> Iterator[detection.Judgement]:
    """Judge measured extensions without a verdict, in order of time.

    Each night is one transaction, so that an interrupted run continues. Extensions that no
    instrument file describes stay pending.

    Yields
    ------
    Judgement
        One for each extension, when its night is stored.
    """
    project = dataclasses.replace(
        project, reference_models=ReferenceModelCache(capacity=_ARCHIVE_CACHE)
    )
    with project.read_session() as session:
        nights = db.recording.find_pending_nights(session)
    for night in nights:
        with project.read_session() as session:
            rows = sorted(db.recording.find_pending(session, night), key=processing_order)
        pending, judgements = PendingNight(), []
        fit_models(rows, project, pending)
        for row, measured, embeddings in load_stored(rows, project, core.ThresholdPolicy.DATED):
            [judgement] = process.judge_frame(measured, embeddings, project, pending)
            judgements.append((row.id, judgement))
        with project.write_session.begin() as session:
            for extension_id, judgement in judgements:
                db.recording.record_first_verdict(
                    session,
                    extension_id,
                    judgement,
                    encoder=project.encoder,
                    thresholds_digest=project.thresholds.digest,
                )
        yield from (judgement for _, judgement in judgements)


def fit_models(rows: Sequence[ExtensionRow], project: ProjectContext, night: PendingNight) -> None:
    """Fit the residual models of the setups of a night in threads.

    In an archive this takes most of the time: one second for each setup and week.

    Parameters
    ----------
    rows : sequence of ExtensionRow
        Extensions of the night.
    project : ProjectContext
    night : PendingNight
        Receives the reference sets.
    """
    by_setup = {(row.frame.instrument, row.setup): row for row in rows}
    with ThreadPoolExecutor(min(readers.cores(), MODELS_AT_ONCE)) as threads:
        list(threads.map(partial(fit_model, project=project, night=night), by_setup.values()))


def fit_model(row: ExtensionRow, project: ProjectContext, night: PendingNight) -> None:
    """Fit the residual model of the setup of an extension.

    Parameters
    ----------
    row : ExtensionRow
    project : ProjectContext
    night : PendingNight
        Receives the reference set.
    """
    with project.read_session() as session:
        measured = load_measured(session, row, project, core.ThresholdPolicy.DATED)
        if measured is None:
            return
        [measurement], frame = measured.measurements, measured.frame
        fingerprint = project.encoder.fingerprint
        reference = night.reference(session, frame, measurement.setup, fingerprint)
        project.reference_models.find(session, measurement, reference, frame.night)


def processing_order(row: ExtensionRow) -> tuple[str, str, int]:
    """Return the sort key that gives the order of `batch.process_frames`."""
    return Path(row.frame.path).name, row.frame.path, row.number


def load_stored(
    rows: Sequence[ExtensionRow], project: ProjectContext, in_force: core.ThresholdPolicy
) -> Iterator[tuple[ExtensionRow, process.MeasuredFrame, NDArray[np.float32]]]:
    """Load stored extensions as measured frames of one extension.

    Parameters
    ----------
    rows : sequence of ExtensionRow
    project : ProjectContext
    in_force : ThresholdPolicy
        Entry of the thresholds: of the frame's night, or the newest.

    Yields
    ------
    row : ExtensionRow
    measured : MeasuredFrame
    embeddings : (1, d) float32 array
        Stored embedding, or a new one for a new encoder.
    """
    for row in rows:
        with project.read_session() as session:
            measured = load_measured(session, row, project, in_force)
            fingerprint = project.encoder.fingerprint
            stored = db.embeddings.find_embedding(session, row.id, fingerprint)
        if measured is None:
            continue
        if stored is None:
            yield row, measured, detection.embed(measured.measurements, project.encoder)
        else:
            yield row, measured, stored[np.newaxis]


def load_measured(
    session: Session, row: ExtensionRow, project: ProjectContext, in_force: core.ThresholdPolicy
) -> process.MeasuredFrame | None:
    """Load a stored extension as a measured frame.

    Parameters
    ----------
    session : Session
    row : ExtensionRow
    project : ProjectContext
    in_force : ThresholdPolicy
        Entry of the thresholds: of the frame's night, or the newest.

    Returns
    -------
    MeasuredFrame or None
        None without stored block statistics, or if no instrument file describes the image type.
    """
    frame, setup = db.frames.to_frame(row.frame), row.setup
    instruments = [item for item in project.instruments if item.name == frame.instrument]
    if not any(setup.image_type in instrument.image_types() for instrument in instruments):
        return None
    limits = instruments[0].limits_of(setup.image_type, setup.chip, setup.read_mode)
    measurement = db.block_statistics.load_measurement(session, row, limits)
    if measurement is None:
        return None
    night = frame.night if in_force is core.ThresholdPolicy.DATED else date.max
    thresholds = project.thresholds.select([measurement], night, project.encoder.fingerprint)
    file = core.FileInfo(frame.path, row.frame.file_bytes, row.frame.modified_ns)
    return process.MeasuredFrame(file, frame, (measurement,), thresholds)
