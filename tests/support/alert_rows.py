"""Rows of anomalous extensions with pending alerts, inserted without files."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from qc.core.enums import FrameState, Topic
from qc.core.verdict import Status
from qc.db.schema.models import (
    AlertRow,
    EmbeddingRow,
    EncoderRow,
    ExtensionRow,
    FrameRow,
    VerdictRow,
)
from qc.project import ProjectContext
from tests.support.tiny_spectrograph import MERGE_HEIGHT, StandIn

NIGHT = date(2026, 11, 19)
TAKEN = datetime(2026, 11, 20, 11, tzinfo=UTC)  # the first frame
JUDGED = datetime(2026, 11, 20, 12, tzinfo=UTC)  # the first verdict
LEVEL = "bias level 206.20 ADU, +24.8 sigma from its references"
NOISE = "read noise 8.100 ADU, +95.0 sigma from its references"
DIM = "light ratio -0.510 dex, -51.0 sigma from its references"
APART = "joins its 100 references at cosine distance 0.02, 20.0 times the threshold 0.001"


@dataclass(frozen=True)
class Shot:
    """Judged extension; by default an anomalous bias of the upper red chip.

    Attributes
    ----------
    minute : float
        Time of observation and verdict, minutes after the first.
    frame : str
        Name of the file; by default each extension has its own.
    """

    minute: float = 0
    image_type: str = "URB1"
    chip: str = "REDU"
    template: str | None = None
    reasons: tuple[str, ...] = (LEVEL,)
    kind: str = ""
    score: float = 4.0
    vector: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    merge_height: float = 0.3 * MERGE_HEIGHT
    status: Status = Status.ANOMALOUS
    frame: str = ""
    instrument: str = "UVES"
    night: date = NIGHT
    taken: datetime = TAKEN
    number: int = 1
    frame_class: str = "bias"


def template_set(n: int = 5, start: float = 0, step: float = 0.5, **changes: object) -> list[Shot]:
    """Return extensions of one template set, half a minute apart."""
    template = changes.pop("template", f"set {start}")
    return [
        Shot(start + step * number, template=template, **changes)  # type: ignore[arg-type]
        for number in range(n)
    ]


def add_alerts(project: ProjectContext, *shots: Shot, judged: datetime = JUDGED) -> list[int]:
    """Insert extensions as the pipeline does; return their ids."""
    with project.write_session.begin() as session:
        return [_add(session, shot, judged) for shot in shots]


def _add(session: Session, shot: Shot, judged: datetime) -> int:
    frame = _frame(session, shot)
    judged_at = judged + timedelta(minutes=shot.minute)
    extension = ExtensionRow(
        frame=frame,
        number=shot.number,
        image_type=shot.image_type,
        chip=shot.chip,
        binning="2x2",
        read_mode="50kHz high",
        optics="",
        frame_class=shot.frame_class,
        ny=2048,
        nx=1024,
        pixels_sha256=f"{frame.name}{shot.number}",
        promised_light=0.0,
        zero_adu=200.0,
        stretch_adu=10.0,
        metrics={"bias_level": 206.2, "read_noise": 8.1},
    )
    session.add(extension)
    session.flush()
    encoder_id = _encoder_id(session)
    vector = np.array(shot.vector, np.float32)
    session.add(EmbeddingRow(extension_id=extension.id, encoder_id=encoder_id, vector=vector))
    verdict = VerdictRow(
        extension_id=extension.id,
        encoder_id=encoder_id,
        judged_at=judged_at,
        status=shot.status,
        score=shot.score,
        reasons=list(shot.reasons),
        merge_height=shot.merge_height,
        residual=None,
        threshold=MERGE_HEIGHT,
        thresholds_digest="0" * 64,
        reference_size=100,
        widened="",
        z={"bias_level": 24.8},
        predicted_kind=shot.kind or None,
        kind_probability=0.9 if shot.kind else None,
    )
    session.add(verdict)
    session.flush()
    if shot.status is Status.ANOMALOUS:
        session.add(
            AlertRow(
                topic=Topic.VERDICT,
                verdict_id=verdict.id,
                instrument=shot.instrument,
                image_type=shot.image_type,
                night=shot.night,
                owed_at=judged_at,
            )
        )
        session.flush()
    return extension.id


def _frame(session: Session, shot: Shot) -> FrameRow:
    query = select(FrameRow).where(FrameRow.name == shot.frame)
    frame = session.scalar(query) if shot.frame else None
    if frame is not None:
        return frame
    taken = shot.taken + timedelta(minutes=shot.minute)
    number = len(session.scalars(select(FrameRow.id)).all())
    name = shot.frame or f"{shot.instrument}.{taken:%Y-%m-%dT%H:%M:%S}.{number:03}"
    frame = FrameRow(
        state=FrameState.PROCESSED,
        path=f"/archive/{number}.fits",
        file_bytes=1,
        modified_ns=1,
        processed_at=JUDGED + timedelta(minutes=shot.minute),
        sha256=f"{number}",
        name=name,
        instrument=shot.instrument,
        observed_at=taken,
        night=shot.night,
        template=shot.template,
    )
    session.add(frame)
    session.flush()
    return frame


def _encoder_id(session: Session) -> int:
    row = session.scalar(select(EncoderRow))
    if row is None:
        row = EncoderRow(fingerprint=StandIn.fingerprint, name="stand-in", stretch="physical")
        session.add(row)
        session.flush()
    return row.id


def broken_file(at: datetime) -> FrameRow:
    """Return the row of a file that failed three times."""
    return FrameRow(
        state=FrameState.FAILED,
        reason="/in/b.fits: it ends too early",
        path="/in/b.fits",
        name="b.fits",
        file_bytes=1,
        modified_ns=1,
        processed_at=at,
        tries=3,
    )
