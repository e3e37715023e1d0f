"""Rows of judged extensions, inserted without files."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from qc.core.enums import FrameState, LabelName
from qc.core.frame import Setup
from qc.core.verdict import Status
from qc.db.schema.models import (
    EmbeddingRow,
    EncoderRow,
    ExtensionRow,
    FrameRow,
    LabelRow,
    VerdictRow,
)
from qc.project import ProjectContext
from tests.support.tiny_spectrograph import MERGE_HEIGHT, StandIn

FIRST_NIGHT = datetime(2026, 1, 1, 20, tzinfo=UTC)
SETUP = Setup("TB0", "CCD", "1x1", "only")
A_NIGHT = 10  # frames


@dataclass(frozen=True)
class StoredExtension:
    """Stored extension; by default a nominal bias."""

    merge_height: float = 0.3 * MERGE_HEIGHT
    residual: float = 10.0
    bias_level_z: float = 0.5
    bias_level_adu: float = 100.0
    label: LabelName | None = None
    kind: str = ""
    note: str = ""
    status: Status = Status.NOMINAL
    references: int = 100
    image_type: str = "TB0"
    encoder: str = StandIn.fingerprint
    vector: tuple[float, ...] = (1.0, 0.0)
    pixels: str = ""  # digest; equal digests are copies
    name: str = ""
    others: dict[str, float] = field(default_factory=dict)  # further z
    score: float = 0.5
    template: str = ""
    template_number: int = 1
    template_size: int = 1


def add_extensions(project: ProjectContext, *past: StoredExtension) -> list[str]:
    """Insert extensions in order of time, ten per night; return their names."""
    with project.write_session.begin() as session:
        start = len(session.scalars(select(FrameRow.id)).all())
        return [_add(session, start + number, item) for number, item in enumerate(past)]


def _add(session: Session, number: int, past: StoredExtension) -> str:
    when = FIRST_NIGHT + timedelta(days=number // A_NIGHT, minutes=number % A_NIGHT)
    frame = FrameRow(
        state=FrameState.PROCESSED,
        path=f"/archive/{number}.fits",
        file_bytes=1,
        modified_ns=1,
        processed_at=when,
        sha256=str(number),
        name=past.name or f"TINY.{number}",
        instrument="TINY",
        observed_at=when,
        night=when.date(),
        exposure_s=1.0,
        template=past.template,
        template_number=past.template_number,
        template_size=past.template_size,
    )
    setup = {name: getattr(SETUP, name) for name in Setup.__dataclass_fields__}
    extension = ExtensionRow(
        frame=frame,
        number=0,
        frame_class="bias",
        ny=224,
        nx=240,
        pixels_sha256=past.pixels or str(number),
        promised_light=0.0,
        zero_adu=100.0,
        stretch_adu=10.0,
        metrics={"bias_level": past.bias_level_adu},
        **setup | {"image_type": past.image_type},
    )
    session.add(extension)
    session.flush()
    encoder_id = _encoder_id(session, past.encoder)
    vector = np.array(past.vector, np.float32)
    session.add(EmbeddingRow(extension_id=extension.id, encoder_id=encoder_id, vector=vector))
    session.add(_verdict(extension.id, encoder_id, past, when))
    if past.label:
        session.add(
            LabelRow(
                extension_id=extension.id,
                label=past.label,
                kind=past.kind,
                who="kim",
                at=when,
                note=past.note,
            )
        )
    return f"{frame.name}[0]"


def _verdict(
    extension_id: int, encoder_id: int, past: StoredExtension, when: datetime
) -> VerdictRow:
    return VerdictRow(
        extension_id=extension_id,
        encoder_id=encoder_id,
        judged_at=when,
        status=past.status,
        score=past.score,
        reasons=[],
        merge_height=past.merge_height,
        residual=past.residual,
        threshold=MERGE_HEIGHT,
        thresholds_digest="0" * 64,
        reference_size=past.references,
        widened="",
        z={"bias_level": past.bias_level_z, **past.others},
        patterns=None,
    )


def _encoder_id(session: Session, fingerprint: str) -> int:
    row = session.scalar(select(EncoderRow).where(EncoderRow.fingerprint == fingerprint))
    if row is None:
        row = EncoderRow(fingerprint=fingerprint, name=fingerprint, stretch="physical")
        session.add(row)
        session.flush()
    return row.id


def nominal_frames(
    n: int = 100, seed: int = 1, label: LabelName | None = LabelName.GOOD
) -> list[StoredExtension]:
    """Return extensions with exponential merge heights and residuals and normal bias levels."""
    random = np.random.default_rng(seed)
    heights = MERGE_HEIGHT * (0.2 + random.exponential(0.05, n))
    residuals = 5 + random.exponential(2, n)
    return [
        StoredExtension(float(height), float(residual), float(z), label=label)
        for height, residual, z in zip(heights, residuals, random.normal(size=n), strict=True)
    ]


def unit_vector(*values: float) -> NDArray[np.float32]:
    """Return a (d,) vector of length 1."""
    vector = np.array(values, np.float32)
    direction: NDArray[np.float32] = vector / np.linalg.norm(vector)
    return direction
