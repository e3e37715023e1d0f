"""Links from an extension to others: references, neighbours in time, labelled ones."""

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from embeddings.index import nearest
from qc import core, db
from qc.db.schema import models


@dataclass(frozen=True)
class ExtensionLink:
    """Another extension, for a link."""

    name: str
    number: int
    observed_at: dt.datetime | None
    night: dt.date | None
    status: str = ""
    label: str = ""


def find_link(session: Session, extension_id: int | None) -> ExtensionLink | None:
    """Return the link to an extension; None if it is not stored.

    Parameters
    ----------
    session : Session
        For reading.
    extension_id : int or None
        Extension.

    Returns
    -------
    ExtensionLink or None
    """
    if extension_id is None:
        return None
    query = (
        sa.select(
            models.FrameRow.name,
            models.ExtensionRow.number,
            models.FrameRow.observed_at,
            models.FrameRow.night,
        )
        .join(models.ExtensionRow.frame)
        .where(models.ExtensionRow.id == extension_id)
    )
    row = session.execute(query).first()
    return ExtensionLink(row.name, row.number, row.observed_at, row.night) if row else None


@dataclass(frozen=True)
class NearestLabelled:
    """The nearest neighbour among the extensions labelled bad.

    Attributes
    ----------
    distance : float
        Cosine distance.
    """

    link: ExtensionLink
    distance: float
    kind: str
    note: str


def find_nearest_bad(session: Session, finding: db.findings.Finding) -> NearestLabelled | None:
    """Return the nearest extension of the same image type that is labelled bad.

    Parameters
    ----------
    session : Session
        For reading.
    finding : Finding
        Extension; its own frame is left out.

    Returns
    -------
    NearestLabelled or None
    """
    embedding = db.embeddings.find_embedding(session, finding.extension.id, finding.fingerprint)
    if embedding is None:
        return None
    bad = db.embeddings.iterate_vectors(
        session,
        finding.fingerprint,
        db.embeddings.EmbeddingFilter((finding.extension.image_type,), left_out=finding.frame.id),
        called=core.LabelName.BAD,
    )
    ids, distances = nearest(embedding, bad, 1)
    findings = db.findings.findings_by_id(session, ids.tolist())
    if not findings:
        return None
    [neighbour] = findings
    assert neighbour.label is not None  # the query selects labelled extensions
    return NearestLabelled(
        ExtensionLink(
            neighbour.frame.name,
            neighbour.extension.number,
            neighbour.frame.observed_at,
            neighbour.frame.night,
            str(neighbour.verdict.status),
            str(neighbour.label.label),
        ),
        float(distances[0]),
        neighbour.label.kind,
        neighbour.label.note,
    )
