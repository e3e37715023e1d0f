"""Insertion of frames, measurements and verdicts; selection of stored extensions to judge.

The caller owns the transaction.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import orm

from embeddings.encoder import Encoder
from qc import core
from qc._time import utc_now
from qc.core.measurement import level_offsets
from qc.db import embeddings, extensions, frames, labels
from qc.db.schema import engine, models
from qc.detection.judgement import Judgement

# --- selection ------------------------------------------------------------------------------------


def find_nights(session: orm.Session, first: date, last: date) -> Sequence[date]:
    """Return the nights with processed frames, oldest first.

    Parameters
    ----------
    session : Session
    first, last : date
        Range of nights, both included.

    Returns
    -------
    sequence of date
    """
    query = sa.select(models.FrameRow.night).where(
        models.FrameRow.state == core.FrameState.PROCESSED,
        models.FrameRow.night >= first,
        models.FrameRow.night <= last,
    )
    nights = session.scalars(query.distinct().order_by(models.FrameRow.night))
    return [night for night in nights if night is not None]  # a processed frame has a night


def count_extensions(session: orm.Session, first: date, last: date) -> int:
    """Count the extensions of some nights.

    Parameters
    ----------
    session : Session
    first, last : date
        Range of nights, both included.

    Returns
    -------
    int
    """
    query = (
        sa.select(sa.func.count())
        .select_from(models.ExtensionRow)
        .join(models.ExtensionRow.frame)
        .where(models.FrameRow.night >= first, models.FrameRow.night <= last)
    )
    return session.scalar(query) or 0


def find_extensions(session: orm.Session, night: date) -> Sequence[models.ExtensionRow]:
    """Return the extensions of a night with their frames, in order of time.

    Parameters
    ----------
    session : Session
    night : date

    Returns
    -------
    sequence of ExtensionRow
    """
    return session.scalars(_select_extensions(night)).all()


def find_pending_nights(session: orm.Session) -> Sequence[date]:
    """Return the nights with extensions without a verdict, oldest first."""
    query = (
        sa.select(models.FrameRow.night)
        .join(models.FrameRow.extensions)
        .where(~extensions.is_judged())
    )
    nights = session.scalars(query.distinct().order_by(models.FrameRow.night))
    return [night for night in nights if night is not None]


def count_pending(session: orm.Session) -> int:
    """Count the extensions without a verdict."""
    query = (
        sa.select(sa.func.count()).select_from(models.ExtensionRow).where(~extensions.is_judged())
    )
    return session.scalar(query) or 0


def find_pending(session: orm.Session, night: date) -> Sequence[models.ExtensionRow]:
    """Return the extensions of a night without a verdict, with their frames, in order of time.

    Parameters
    ----------
    session : Session
    night : date

    Returns
    -------
    sequence of ExtensionRow
    """
    return session.scalars(_select_extensions(night).where(~extensions.is_judged())).all()


def _select_extensions(night: date) -> sa.Select[models.ExtensionRow]:
    return (
        sa.select(models.ExtensionRow)
        .join(models.ExtensionRow.frame)
        .options(orm.contains_eager(models.ExtensionRow.frame))
        .where(models.FrameRow.night == night)
        .order_by(models.FrameRow.observed_at, models.FrameRow.name, models.ExtensionRow.number)
    )


# --- insertion ------------------------------------------------------------------------------------


def record_frame(
    session: orm.Session,
    file: core.FileInfo,
    frame: core.Frame,
    judgements: Sequence[Judgement],
    *,
    encoder: Encoder,
    thresholds_digest: str,
    label: core.LabelName | None = None,
) -> bool:
    """Insert a frame with measurements, embeddings and verdicts.

    An anomalous verdict creates an alert, unless a person has labelled the extension.

    Parameters
    ----------
    session : Session
    file : FileInfo
        File of the frame.
    frame : Frame
    judgements : sequence of Judgement
        One for each extension.
    encoder : Encoder
        Encoder of the embeddings.
    thresholds_digest : str
        Digest of the thresholds file.
    label : LabelName, optional
        Label of all extensions.

    Returns
    -------
    bool
        False if the frame is already recorded.
    """
    row = insert_frame(session, file, frame, label)
    if row is None:
        return False
    encoder_id = embeddings.ensure_encoder(session, encoder)
    for judgement in judgements:
        measurement, embedding = judgement.measurement, judgement.embedding
        extension = insert_extension(session, row, measurement, embedding, encoder_id)
        if label is not None:
            answer = labels.LabelAnswer(label, engine.user_name())
            labels.record_label(session, extension.id, answer)
        insert_first_verdict(session, extension, judgement, encoder_id, thresholds_digest)
    return True


def record_measurements(
    session: orm.Session,
    file: core.FileInfo,
    frame: core.Frame,
    pairs: Sequence[tuple[core.Measurement, NDArray[np.float32]]],
    *,
    encoder: Encoder,
    label: core.LabelName | None = None,
) -> bool:
    """Insert a frame with measurements and embeddings, to be judged later.

    Parameters
    ----------
    session : Session
    file : FileInfo
        File of the frame.
    frame : Frame
    pairs : sequence of (Measurement, (d,) float32 array)
        Measurement and embedding of each extension.
    encoder : Encoder
        Encoder of the embeddings.
    label : LabelName, optional
        Label of all extensions.

    Returns
    -------
    bool
        False if the frame is already recorded.
    """
    row = insert_frame(session, file, frame, label)
    if row is None:
        return False
    encoder_id = embeddings.ensure_encoder(session, encoder)
    for measurement, embedding in pairs:
        stored = measurement.as_stored()
        extension = insert_extension(session, row, stored, embedding, encoder_id)
        if label is not None:
            answer = labels.LabelAnswer(label, engine.user_name())
            labels.record_label(session, extension.id, answer)
    return True


def record_first_verdict(
    session: orm.Session,
    extension_id: int,
    judgement: Judgement,
    *,
    encoder: Encoder,
    thresholds_digest: str,
) -> None:
    """Insert the first verdict of an extension, unless it has a verdict.

    Parameters
    ----------
    session : Session
    extension_id : int
    judgement : Judgement
    encoder : Encoder
        Encoder of the embedding.
    thresholds_digest : str
        Digest of the thresholds file.
    """
    extension = session.get_one(models.ExtensionRow, extension_id)
    if extensions.newest_status(session, extension_id) is None:
        encoder_id = embeddings.ensure_encoder(session, encoder)
        insert_first_verdict(session, extension, judgement, encoder_id, thresholds_digest)


def record_verdict(
    session: orm.Session,
    extension_id: int,
    judgement: Judgement,
    *,
    encoder: Encoder,
    thresholds_digest: str,
) -> None:
    """Insert another verdict of an extension, and its embedding for a new encoder.

    The newest verdict counts. Rejudging creates no alert.

    Parameters
    ----------
    session : Session
    extension_id : int
    judgement : Judgement
    encoder : Encoder
        Encoder of the embedding.
    thresholds_digest : str
        Digest of the thresholds file.
    """
    encoder_id = embeddings.ensure_encoder(session, encoder)
    if embeddings.find_embedding(session, extension_id, encoder.fingerprint) is None:
        columns = {"extension_id": extension_id, "encoder_id": encoder_id}
        engine.insert_new(session, models.EmbeddingRow, vector=judgement.embedding, **columns)
    session.add(make_verdict_row(extension_id, encoder_id, judgement, thresholds_digest))


# --- rows -----------------------------------------------------------------------------------------


def insert_frame(
    session: orm.Session, file: core.FileInfo, frame: core.Frame, label: core.LabelName | None
) -> models.FrameRow | None:
    """Insert a frame and delete the row of an earlier failure of its file.

    Parameters
    ----------
    session : Session
    file : FileInfo
    frame : Frame
    label : LabelName or None
        Label of a frame that is already recorded.

    Returns
    -------
    FrameRow or None
        None if the frame is already recorded, possibly by a concurrent process.
    """
    if frames.match_processed_file(session, file, frame.sha256, label):
        return None
    session.execute(sa.delete(models.FrameRow).where(frames.is_unprocessed(file)))
    columns = {name: getattr(frame, name) for name in frames.FRAME_FIELDS}
    columns |= frames.file_columns(file)
    row_id = engine.insert_new(session, models.FrameRow, state=core.FrameState.PROCESSED, **columns)
    if row_id is None:
        frames.match_processed_file(session, file, frame.sha256, label)
        return None
    return session.get_one(models.FrameRow, row_id)


def insert_extension(
    session: orm.Session,
    frame: models.FrameRow,
    measurement: core.Measurement,
    embedding: NDArray[np.float32],
    encoder_id: int,
) -> models.ExtensionRow:
    """Insert an extension with block statistics and embedding.

    Parameters
    ----------
    session : Session
    frame : FrameRow
    measurement : Measurement
        Measurement in stored precision.
    embedding : (d,) float32 array
    encoder_id : int

    Returns
    -------
    ExtensionRow
    """
    setup = {name: getattr(measurement.setup, name) for name in core.Setup.__dataclass_fields__}
    extension = models.ExtensionRow(
        frame=frame,
        number=measurement.number,
        frame_class=measurement.frame_class,
        ny=measurement.shape[0],
        nx=measurement.shape[1],
        gain_e_per_adu=measurement.gain_e_per_adu,
        read_noise_adu=measurement.read_noise_adu,
        light_bottom=measurement.light[0].start,
        light_top=measurement.light[0].stop,
        light_left=measurement.light[1].start,
        light_right=measurement.light[1].stop,
        pixels_sha256=measurement.pixels_sha256,
        promised_light=measurement.promised_light,
        zero_adu=measurement.zero_adu,
        stretch_adu=measurement.stretch_adu,
        metrics=dict(measurement.metrics),
        appearance=measurement.appearance,
        **setup,
    )
    session.add(extension)
    session.flush()
    above_zero_adu = measurement.statistics - level_offsets(measurement.zero_adu)
    session.add_all(
        [
            models.BlockStatisticsRow(extension_id=extension.id, above_zero_adu=above_zero_adu),
            models.EmbeddingRow(extension_id=extension.id, encoder_id=encoder_id, vector=embedding),
        ]
    )
    session.flush()
    return extension


def insert_first_verdict(
    session: orm.Session,
    extension: models.ExtensionRow,
    judgement: Judgement,
    encoder_id: int,
    thresholds_digest: str,
) -> None:
    """Insert a first verdict; create an alert if it is anomalous and without a label.

    Parameters
    ----------
    session : Session
    extension : ExtensionRow
    judgement : Judgement
    encoder_id : int
    thresholds_digest : str
    """
    verdict = make_verdict_row(extension.id, encoder_id, judgement, thresholds_digest)
    session.add(verdict)
    session.flush()
    is_anomalous = judgement.verdict.status is core.Status.ANOMALOUS
    if is_anomalous and not frames.is_answered(session, extension.id):
        session.add(
            models.AlertRow(
                topic=core.Topic.VERDICT,
                verdict_id=verdict.id,
                instrument=extension.frame.instrument,
                image_type=extension.image_type,
                night=extension.frame.night,
                owed_at=verdict.judged_at,
            )
        )


def make_verdict_row(
    extension_id: int, encoder_id: int, judgement: Judgement, thresholds_digest: str
) -> models.VerdictRow:
    """Return the row of a verdict.

    Parameters
    ----------
    extension_id, encoder_id : int
    judgement : Judgement
    thresholds_digest : str

    Returns
    -------
    VerdictRow
    """
    evidence, verdict = judgement.evidence, judgement.verdict
    columns: dict[str, Any] = {}
    if evidence.prediction is not None:
        columns = {
            "classifier_digest": evidence.prediction.classifier_digest,
            "predicted_type": evidence.prediction.image_type,
            "type_probability": evidence.prediction.type_probability,
            "predicted_kind": evidence.prediction.kind,
            "kind_probability": evidence.prediction.kind_probability,
        }
    return models.VerdictRow(
        extension_id=extension_id,
        encoder_id=encoder_id,
        judged_at=utc_now(),
        status=verdict.status,
        score=verdict.score,
        reasons=list(verdict.reasons),
        merge_height=evidence.merge_height,
        residual=evidence.residual,
        threshold=judgement.highest_merge,
        thresholds_digest=thresholds_digest,
        reference_size=evidence.reference_size,
        widened=evidence.widened,
        z=dict(evidence.z),
        patterns={name: round(sigma, 2) for name, sigma in evidence.patterns.items()},
        nearest_id=judgement.nearest_id,
        **columns,
    )
