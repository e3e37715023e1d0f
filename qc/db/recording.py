"""Insertion of frames, measurements and verdicts."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Select,
    delete,
    func,
    select,
)
from sqlalchemy.orm import (
    Session,
    contains_eager,
)

from embeddings.encoder import Encoder
from qc._time import utc_now
from qc.core.enums import FrameState, LabelName, Topic
from qc.core.frame import Frame, Setup
from qc.core.measurement import FileInfo, Measurement
from qc.core.verdict import Prediction, Status
from qc.db.block_statistics import _block_statistics_row, _zero, as_kept, block_statistics_of
from qc.db.embeddings import _encoder_id, find_embedding
from qc.db.engine import add_new, user
from qc.db.frames import _FRAME_FIELDS, _file_facts, _is_answered, _unprocessed, recognise
from qc.db.labels import LabelAnswer, record_label
from qc.db.models import AlertRow, EmbeddingRow, ExtensionRow, FrameRow, VerdictRow
from qc.db.verdicts import _is_judged, newest_status
from qc.detection.judgement import Judgement


def nights_between(session: Session, first: date, last: date) -> Sequence[date]:
    """Return the nights of which a frame was processed, oldest first."""
    query = select(FrameRow.night).where(
        FrameRow.state == FrameState.PROCESSED, FrameRow.night >= first, FrameRow.night <= last
    )
    nights = session.scalars(query.distinct().order_by(FrameRow.night))
    return [night for night in nights if night is not None]  # a processed frame has one


def extensions_between(session: Session, first: date, last: date) -> int:
    """Return how many extensions there are of these nights."""
    query = (
        select(func.count())
        .select_from(ExtensionRow)
        .join(ExtensionRow.frame)
        .where(FrameRow.night >= first, FrameRow.night <= last)
    )
    return session.scalar(query) or 0


def extensions_of(session: Session, night: date) -> Sequence[ExtensionRow]:
    """Return a night's extensions in order of time, with their frames."""
    return session.scalars(_extensions_of(night)).all()


def _extensions_of(night: date) -> Select[ExtensionRow]:
    return (
        select(ExtensionRow)
        .join(ExtensionRow.frame)
        .options(contains_eager(ExtensionRow.frame))
        .where(FrameRow.night == night)
        .order_by(FrameRow.observed_at, FrameRow.name, ExtensionRow.number)
    )


def nights_unjudged(session: Session) -> Sequence[date]:
    """Return the nights of which an image awaits its first verdict, oldest first."""
    query = select(FrameRow.night).join(FrameRow.extensions).where(~_is_judged())
    nights = session.scalars(query.distinct().order_by(FrameRow.night))
    return [night for night in nights if night is not None]


def count_unjudged(session: Session) -> int:
    """Return how many images await their first verdict."""
    query = select(func.count()).select_from(ExtensionRow).where(~_is_judged())
    return session.scalar(query) or 0


def unjudged_of(session: Session, night: date) -> Sequence[ExtensionRow]:
    """Return a night's extensions that await their first verdict, as `extensions_of` does."""
    return session.scalars(_extensions_of(night).where(~_is_judged())).all()


def measured_of(
    session: Session, row: ExtensionRow, limits: Mapping[str, tuple[float, float]]
) -> Measurement | None:
    """Return what was measured of a stored extension; None where too little of it was kept."""
    above_zero = block_statistics_of(session, row.id)
    light = row.light
    if above_zero is None or light is None:
        return None
    assert row.gain_e_per_adu is not None  # kept together with the light-sensitive part
    assert row.read_noise_adu is not None
    return Measurement(
        number=row.number,
        setup=row.setup,
        shape=(row.ny, row.nx),
        light=light,
        frame_class=row.frame_class,
        zero_adu=row.zero_adu,
        gain_e_per_adu=row.gain_e_per_adu,
        read_noise_adu=row.read_noise_adu,
        stretch_adu=row.stretch_adu,
        promised_light=row.promised_light,
        limits=limits,
        statistics=above_zero + _zero(row.zero_adu),
        metrics=row.metrics,
        pixels_sha256=row.pixels_sha256,
    )


def record_frame(
    session: Session,
    file: FileInfo,
    frame: Frame,
    judged: Sequence[Judgement],
    *,
    encoder: Encoder,
    thresholds_digest: str,
    label: LabelName | None = None,
) -> bool:
    """Keep a frame and everything learnt from it; return False if another was first.

    An anomalous verdict owes an alert in the same transaction, unless a person has already
    answered for the frame.
    """
    row = _new_frame_row(session, file, frame, label)
    if row is None:
        return False
    encoder_id = _encoder_id(session, encoder)
    for each in judged:
        extension = _record_extension(session, row, each.measured, each.embedding, encoder_id)
        if label is not None:
            record_label(session, extension.id, LabelAnswer(label, user()))
        _record_first_verdict(session, extension, each, encoder_id, thresholds_digest)
    return True


def record_measured(
    session: Session,
    file: FileInfo,
    frame: Frame,
    measured: Sequence[tuple[Measurement, NDArray[np.float32]]],
    *,
    encoder: Encoder,
    label: LabelName | None = None,
) -> bool:
    """Keep a frame that awaits its verdicts, each image with its embedding; False if known."""
    row = _new_frame_row(session, file, frame, label)
    if row is None:
        return False
    encoder_id = _encoder_id(session, encoder)
    for each, embedding in measured:
        extension = _record_extension(session, row, as_kept(each), embedding, encoder_id)
        if label is not None:
            record_label(session, extension.id, LabelAnswer(label, user()))
    return True


def record_first_verdict(
    session: Session,
    extension_id: int,
    judged: Judgement,
    *,
    encoder: Encoder,
    thresholds_digest: str,
) -> None:
    """Keep the verdict that an extension has been waiting for, unless another was first."""
    extension = session.get_one(ExtensionRow, extension_id)
    if newest_status(session, extension_id) is None:
        encoder_id = _encoder_id(session, encoder)
        _record_first_verdict(session, extension, judged, encoder_id, thresholds_digest)


def _new_frame_row(
    session: Session, file: FileInfo, frame: Frame, label: LabelName | None
) -> FrameRow | None:
    """Return the row of a frame that is new, in place of what was kept of a failed try, if any.

    None if it is known, be it that another has recorded it since it was looked for.
    """
    if recognise(session, file, frame.sha256, label):
        return None
    session.execute(delete(FrameRow).where(_unprocessed(file)))
    facts = {name: getattr(frame, name) for name in _FRAME_FIELDS}
    added = add_new(session, FrameRow, state=FrameState.PROCESSED, **_file_facts(file), **facts)
    if added is None:
        recognise(session, file, frame.sha256, label)
        return None
    return session.get_one(FrameRow, added)


def _record_extension(
    session: Session,
    row: FrameRow,
    measured: Measurement,
    embedding: NDArray[np.float32],
    encoder_id: int,
) -> ExtensionRow:
    extension = _extension_row(row, measured)
    session.add(extension)
    session.flush()
    session.add_all(
        [
            _block_statistics_row(extension.id, measured),
            EmbeddingRow(extension_id=extension.id, encoder_id=encoder_id, vector=embedding),
        ]
    )
    session.flush()
    return extension


def _record_first_verdict(
    session: Session,
    extension: ExtensionRow,
    judged: Judgement,
    encoder_id: int,
    thresholds_digest: str,
) -> None:
    """Keep a verdict; an anomalous one owes an alert, unless a person has answered already."""
    verdict = _verdict_row(extension.id, encoder_id, judged, thresholds_digest)
    session.add(verdict)
    session.flush()
    if judged.verdict.status is Status.ANOMALOUS and not _is_answered(session, extension.id):
        session.add(
            AlertRow(
                topic=Topic.VERDICT,
                verdict_id=verdict.id,
                instrument=extension.frame.instrument,
                image_type=extension.image_type,
                night=extension.frame.night,
                owed_at=verdict.judged_at,
            )
        )


def record_verdict(
    session: Session,
    extension_id: int,
    judged: Judgement,
    *,
    encoder: Encoder,
    thresholds_digest: str,
) -> None:
    """Keep another verdict on a stored extension, and its embedding if the encoder is new to it.

    The newest counts; none is replaced. No alert: the frame is not news.
    """
    encoder_id = _encoder_id(session, encoder)
    if find_embedding(session, extension_id, encoder.fingerprint) is None:
        facts = {"extension_id": extension_id, "encoder_id": encoder_id}
        add_new(session, EmbeddingRow, vector=judged.embedding, **facts)
    session.add(_verdict_row(extension_id, encoder_id, judged, thresholds_digest))


def _extension_row(row: FrameRow, measured: Measurement) -> ExtensionRow:
    setup = {name: getattr(measured.setup, name) for name in Setup.__dataclass_fields__}
    return ExtensionRow(
        frame=row,
        number=measured.number,
        frame_class=measured.frame_class,
        ny=measured.shape[0],
        nx=measured.shape[1],
        gain_e_per_adu=measured.gain_e_per_adu,
        read_noise_adu=measured.read_noise_adu,
        light_bottom=measured.light[0].start,
        light_top=measured.light[0].stop,
        light_left=measured.light[1].start,
        light_right=measured.light[1].stop,
        pixels_sha256=measured.pixels_sha256,
        promised_light=measured.promised_light,
        zero_adu=measured.zero_adu,
        stretch_adu=measured.stretch_adu,
        metrics=dict(measured.metrics),
        appearance=measured.appearance,
        **setup,
    )


def _verdict_row(
    extension_id: int, encoder_id: int, judged: Judgement, thresholds_digest: str
) -> VerdictRow:
    return VerdictRow(
        extension_id=extension_id,
        encoder_id=encoder_id,
        judged_at=utc_now(),
        status=judged.verdict.status,
        score=judged.verdict.score,
        reasons=list(judged.verdict.reasons),
        merge_height=judged.evidence.merge_height,
        residual=judged.evidence.residual,
        threshold=judged.highest_merge,
        thresholds_digest=thresholds_digest,
        reference_size=judged.evidence.reference_size,
        widened=judged.evidence.widened,
        z=dict(judged.evidence.z),
        **_prediction_columns(judged.evidence.prediction),
        patterns={name: round(far, 2) for name, far in judged.evidence.patterns.items()},
        nearest_id=judged.nearest_id,
    )


def _prediction_columns(said: Prediction | None) -> dict[str, Any]:
    if said is None:
        return {}
    return {
        "classifier_digest": said.classifier_digest,
        "predicted_type": said.image_type,
        "type_probability": said.type_probability,
        "predicted_kind": said.kind,
        "kind_probability": said.kind_probability,
    }
