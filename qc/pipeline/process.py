"""Processing of one frame, from disk to a stored verdict. Start reading here."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qc import core, db, detection, errors
from qc._files import resolve_path
from qc.db.references import PendingNight
from qc.pipeline import readers
from qc.pipeline.outcomes import ProcessingOutcome
from qc.project import ProjectContext

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasuredFrame:
    """Measured frame with the limits of its night.

    Attributes
    ----------
    file : FileInfo
    frame : Frame
        Frame without its extensions.
    measurements : tuple of n Measurement
    thresholds : tuple of n Threshold
    """

    file: core.FileInfo
    frame: core.Frame
    measurements: tuple[core.Measurement, ...]
    thresholds: tuple[detection.Threshold, ...]


def process_frame(
    path: Path, project: ProjectContext, label: core.LabelName | None = None
) -> ProcessingOutcome:
    """Read, measure, judge and record one frame; all of it is stored, or nothing.

    Parameters
    ----------
    path : Path
        FITS file.
    project : ProjectContext
    label : LabelName, optional
        Label of the frame; an existing label stays.

    Returns
    -------
    ProcessingOutcome

    Raises
    ------
    FrameError
        If the file cannot be judged.
    """
    measured = read_and_measure(path, project)  # FITS -> block statistics, metrics
    embeddings = detection.embed(measured.measurements, project.encoder)  # (n, d)
    references = load_references(measured, project)  # one read transaction
    judgements = detection.judge(  # pure
        measured.measurements,
        embeddings,
        references,
        measured.thresholds,
        select_classifier(measured.frame, project),
    )
    [outcome] = record([(measured, judgements)], project, label)  # one write transaction
    return outcome


def read_and_measure(path: Path, project: ProjectContext) -> MeasuredFrame:
    """Read a file and measure each extension.

    Parameters
    ----------
    path : Path
        FITS file.
    project : ProjectContext

    Returns
    -------
    MeasuredFrame

    Raises
    ------
    FrameError
        If the file cannot be read, measured or judged.
    """
    file = inspect_file(resolve_path(path))
    return add_thresholds(readers.read_file(file, project.instruments), project)


def inspect_file(path: Path) -> core.FileInfo:
    """Return size and modification time of a file.

    Raises
    ------
    UnreadableFrameError
        If the file does not exist or is not accessible.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise errors.UnreadableFrameError(f"{path}: {error.strerror}") from error
    return core.FileInfo(path, status.st_size, status.st_mtime_ns)


def add_thresholds(reading: readers.FrameReading, project: ProjectContext) -> MeasuredFrame:
    """Add the limits that are valid on the night of a frame.

    Parameters
    ----------
    reading : FrameReading
    project : ProjectContext

    Returns
    -------
    MeasuredFrame

    Raises
    ------
    FrameError
        If no limits are valid on that night.
    """
    measurements, night = reading.measurements, reading.frame.night
    try:
        thresholds = project.thresholds.select(measurements, night, project.encoder.fingerprint)
    except errors.FrameError as error:
        raise type(error)(f"{reading.file.path}: {error}") from None
    return MeasuredFrame(reading.file, reading.frame, measurements, thresholds)


def load_references(
    measured: MeasuredFrame, project: ProjectContext, night: PendingNight | None = None
) -> tuple[core.Reference, ...]:
    """Load the reference set of each extension in one read transaction.

    Parameters
    ----------
    measured : MeasuredFrame
    project : ProjectContext
    night : PendingNight, optional
        Frames of the same night that are judged, but not recorded.

    Returns
    -------
    tuple of n Reference
    """
    with project.read_session() as session:
        return db.references.load(
            session,
            measured.frame,
            measured.measurements,
            project.encoder.fingerprint,
            project.reference_models,
            night,
        )


def select_classifier(
    frame: core.Frame, project: ProjectContext
) -> detection.FaultClassifier | None:
    """Return the classifier with the fault rates of a frame's instrument.

    Parameters
    ----------
    frame : Frame
    project : ProjectContext

    Returns
    -------
    FaultClassifier or None
        None without a classifier for the encoder.
    """
    if project.classifier is None:
        return None
    [instrument] = [item for item in project.instruments if item.name == frame.instrument]
    return detection.FaultClassifier(project.classifier, instrument.expected_faults)


def judge_frame(
    measured: MeasuredFrame,
    embeddings: NDArray[np.float32],
    project: ProjectContext,
    night: PendingNight | None = None,
) -> tuple[detection.Judgement, ...]:
    """Judge a measured frame against the stored references.

    Parameters
    ----------
    measured : MeasuredFrame
    embeddings : (n, d) float32 array
    project : ProjectContext
    night : PendingNight, optional
        Frames of the same night that are judged, but not recorded; this frame is added.

    Returns
    -------
    tuple of n Judgement
    """
    references = load_references(measured, project, night)
    judgements = detection.judge(
        measured.measurements,
        embeddings,
        references,
        measured.thresholds,
        select_classifier(measured.frame, project),
    )
    if night is not None:
        night.add(measured.frame, measured.measurements)
    return judgements


def record(
    frames: Sequence[tuple[MeasuredFrame, tuple[detection.Judgement, ...]]],
    project: ProjectContext,
    label: core.LabelName | None,
) -> list[ProcessingOutcome]:
    """Record frames in one write transaction: all, or none.

    Parameters
    ----------
    frames : sequence of (MeasuredFrame, tuple of Judgement)
    project : ProjectContext
    label : LabelName or None
        Label of all frames.

    Returns
    -------
    list of ProcessingOutcome
        KNOWN for a frame that is already recorded.
    """
    outcomes = []
    with project.insert_session.begin() as session:
        for measured, judgements in frames:
            is_new = db.recording.record_frame(
                session,
                measured.file,
                measured.frame,
                judgements,
                encoder=project.encoder,
                thresholds_digest=project.thresholds.digest,
                label=label,
            )
            state = core.FrameState.PROCESSED if is_new else core.FrameState.KNOWN
            outcome = ProcessingOutcome(
                measured.file.path, state, judgements=judgements if is_new else ()
            )
            outcomes.append(outcome)
    for (measured, _), outcome in zip(frames, outcomes, strict=True):
        for judgement in outcome.judgements:
            facts = {
                "frame": measured.frame.name,
                "extension": judgement.measurement.number,
                "image_type": judgement.measurement.setup.image_type,
                "status": str(judgement.verdict.status),
                "score": round(judgement.verdict.score, 2),
            }
            logger.info("extension judged", extra=facts)
    return outcomes
