"""Records of trained classifiers."""

from sqlalchemy import (
    select,
)
from sqlalchemy.orm import (
    Session,
)

from embeddings.encoder import Encoder
from qc.db.embeddings import _encoder_id
from qc.db.models import ClassifierRow, EncoderRow


def newest_classifier(session: Session, fingerprint: str) -> ClassifierRow | None:
    """Return the newest accepted classifier of an encoder's embeddings, if any was trained."""
    query = (
        select(ClassifierRow)
        .join(EncoderRow, EncoderRow.id == ClassifierRow.encoder_id)
        .where(EncoderRow.fingerprint == fingerprint, ClassifierRow.accepted)
        .order_by(ClassifierRow.id.desc())
        .limit(1)
    )
    return session.scalar(query)


def record_classifier(session: Session, row: ClassifierRow, encoder: Encoder) -> None:
    """Keep a classifier, accepted or not."""
    row.encoder_id = _encoder_id(session, encoder)
    session.add(row)
