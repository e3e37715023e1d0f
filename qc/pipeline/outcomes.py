"""Outcome of a file, and records of files that are known or cannot be processed."""

import logging
from dataclasses import dataclass
from pathlib import Path

from embeddings.encoder import WeightsError
from qc import core, db
from qc.detection.judgement import Judgement
from qc.errors import QCError
from qc.project import ProjectContext

logger = logging.getLogger(__name__)

FATAL_ERRORS = (OSError, QCError, WeightsError)  # errors of the installation, which end a run

_LOG_LEVELS = {core.FrameState.SKIPPED: logging.INFO, core.FrameState.FAILED: logging.WARNING}


@dataclass(frozen=True)
class ProcessingOutcome:
    """State of a processed file with its judgements.

    Attributes
    ----------
    path : Path
    state : FrameState
    reason : str
        Reason for a failure or a skip, else empty.
    judgements : tuple of Judgement
        One for each extension of a judged frame.
    """

    path: Path
    state: core.FrameState
    reason: str = ""
    judgements: tuple[Judgement, ...] = ()

    @property
    def is_anomalous(self) -> bool:
        """Return True if the file failed or an extension is anomalous."""
        return self.state is core.FrameState.FAILED or any(
            judgement.verdict.status is core.Status.ANOMALOUS for judgement in self.judgements
        )


def is_file_known(
    file: core.FileInfo, project: ProjectContext, label: core.LabelName | None
) -> bool:
    """Return True if an unread file was processed before; add a missing label.

    Parameters
    ----------
    file : FileInfo
    project : ProjectContext
    label : LabelName or None
        Label of the frame, if it has none.

    Returns
    -------
    bool
    """
    with project.read_session() as session:
        is_known = db.frames.is_known(session, file)
    if is_known and label is not None:
        with project.insert_session.begin() as session:
            db.frames.label_file(session, file, label)
    return is_known


def is_frame_known(
    file: core.FileInfo, sha256: str, project: ProjectContext, label: core.LabelName | None
) -> bool:
    """Return True if a frame was processed before, from any file; add a missing label.

    Parameters
    ----------
    file : FileInfo
    sha256 : str
        Digest of the uncompressed FITS bytes.
    project : ProjectContext
    label : LabelName or None
        Label of the frame, if it has none.

    Returns
    -------
    bool
    """
    with project.read_session() as session:
        if db.frames.find_by_digest(session, sha256) is None:
            return False
    with project.insert_session.begin() as session:
        return db.frames.match_processed_file(session, file, sha256, label)


def record_unprocessed(
    file: core.FileInfo, state: core.FrameState, reason: str, project: ProjectContext
) -> ProcessingOutcome:
    """Record a failed or skipped file.

    Parameters
    ----------
    file : FileInfo
    state : FrameState
        FAILED or SKIPPED.
    reason : str
        Reason, stored and logged.
    project : ProjectContext

    Returns
    -------
    ProcessingOutcome
    """
    with project.insert_session.begin() as session:
        policy = project.settings.watch.retry_policy
        db.frames.record_unprocessed(session, file, state, reason, policy)
    facts = {"frame": file.path.name, "reason": reason}
    logger.log(_LOG_LEVELS[state], "file %s", state, extra=facts)
    return ProcessingOutcome(file.path, state, reason)


def record_program_error(
    file: core.FileInfo, error: BaseException, project: ProjectContext
) -> ProcessingOutcome:
    """Record a file that failed because of an unexpected error; log the traceback.

    Parameters
    ----------
    file : FileInfo
    error : BaseException
    project : ProjectContext

    Returns
    -------
    ProcessingOutcome
    """
    reason = describe_program_error(file, error)
    return record_unprocessed(file, core.FrameState.FAILED, reason, project)


def describe_program_error(file: core.FileInfo, error: BaseException) -> str:
    """Return the reason for a failure by an unexpected error; log the traceback.

    Parameters
    ----------
    file : FileInfo
    error : BaseException

    Returns
    -------
    str
    """
    facts = {"frame": file.path.name}
    logger.error("file not processed because of a program error", exc_info=error, extra=facts)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{file.path}: a fault of the program: {text}"
