"""Items of the review queue: verdict, labels and context of an extension."""

import datetime as dt
from collections import abc
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from qc import db, errors
from qc.labels import store
from qc.review import idempotency
from qc.summaries.standing import standing_of


@dataclass(frozen=True)
class QueueItem:
    """An extension with the information that a label needs.

    Attributes
    ----------
    id : int
        Number of the extension in the database.
    name : str
        Archive name with the extension's number.
    setup : str
        Setup in words.
    nearest : str
        Name of the nearest reference; empty without references.
    predicted : str
        Image type or fault kind that the classifier predicts, with its probability; or empty.
    predicted_kind : str
        Predicted fault kind.
    word : CurrentLabel
        Valid label.
    said : tuple of str
        History of all labels.
    beside : int
        Number of extensions of its template set, including itself.
    digest : str
        Digest of pixels and verdict: pictures with equal digests are equal.
    """

    id: int
    name: str
    frame: str
    number: int
    image_type: str
    frame_class: str
    setup: str
    night: dt.date
    observed_at: dt.datetime
    status: str
    standing: str
    score: float
    reasons: tuple[str, ...]
    nearest: str
    predicted: str
    predicted_kind: str
    word: idempotency.CurrentLabel
    said: tuple[str, ...]
    beside: int
    digest: str


def read_items(session: Session, extension_ids: abc.Sequence[int]) -> tuple[QueueItem, ...]:
    """Return extensions with their verdicts and labels, in the given order.

    Parameters
    ----------
    session : Session
        For reading.
    extension_ids : sequence of int
        Extensions; those without a verdict are left out.

    Returns
    -------
    tuple of QueueItem
    """
    findings = db.findings.findings_by_id(session, extension_ids)
    labels = db.labels.labels_of(session, [finding.extension.id for finding in findings])
    set_sizes = count_template_sets(session, findings)
    names = read_names(session, [finding.verdict.nearest_id for finding in findings])
    return tuple(
        make_item(
            finding,
            labels.get(finding.extension.id, []),
            set_sizes.get((finding.frame.template or "", finding.extension.image_type), 1),
            names.get(finding.verdict.nearest_id or 0, ""),
        )
        for finding in findings
    )


def read_item(session: Session, extension_id: int) -> QueueItem:
    """Return an extension with its verdict and labels.

    Parameters
    ----------
    session : Session
        For reading.
    extension_id : int
        Extension.

    Returns
    -------
    QueueItem

    Raises
    ------
    UnknownFrameError
        If the extension does not exist or has no verdict.
    """
    items = read_items(session, [extension_id])
    if not items:
        raise errors.UnknownFrameError(f"extension {extension_id}: there is none of that number")
    return items[0]


def make_item(
    finding: db.findings.Finding,
    labels: abc.Sequence[db.schema.models.LabelRow],
    set_size: int,
    nearest: str,
) -> QueueItem:
    """Make the queue item of an extension.

    Parameters
    ----------
    finding : Finding
        Extension with its newest verdict.
    labels : sequence of LabelRow
        All labels, oldest first.
    set_size : int
        Number of extensions of its template set.
    nearest : str
        Name of the nearest reference.

    Returns
    -------
    QueueItem
    """
    frame, extension, verdict = finding.frame, finding.extension, finding.verdict
    assert frame.night is not None  # a processed frame has both
    assert frame.observed_at is not None
    return QueueItem(
        id=extension.id,
        name=f"{frame.name}[{extension.number}]",
        frame=frame.name,
        number=extension.number,
        image_type=extension.image_type,
        frame_class=extension.frame_class,
        setup=f"{extension.chip}, {extension.setup.description}",
        night=frame.night,
        observed_at=frame.observed_at,
        status=str(verdict.status),
        standing=str(standing_of(finding)),
        score=verdict.score,
        reasons=tuple(verdict.reasons),
        nearest=nearest,
        predicted=describe_prediction(finding),
        predicted_kind=verdict.predicted_kind or "",
        word=idempotency.make_current_label(extension.id, db.labels.current_label(labels)),
        said=tuple(store.history_lines(labels)),
        beside=set_size,
        digest=picture_digest(finding),
    )


def picture_digest(finding: db.findings.Finding) -> str:
    """Return the digest of an extension's pictures: of its pixels and its verdict."""
    return f"{finding.extension.pixels_sha256[:12]}-{finding.verdict.id}"


def describe_prediction(finding: db.findings.Finding) -> str:
    """Return the predicted image type, if it differs, and the predicted fault kind."""
    verdict = finding.verdict
    parts = []
    if verdict.predicted_type and verdict.predicted_type != finding.extension.image_type:
        parts.append(f"looks like {verdict.predicted_type}, {verdict.type_probability or 0:.0%}")
    if verdict.predicted_kind:
        kind = verdict.predicted_kind.replace("_", " ")
        parts.append(f"{kind}, {verdict.kind_probability or 0:.0%}")
    return "; ".join(parts)


def count_template_sets(
    session: Session, findings: abc.Sequence[db.findings.Finding]
) -> abc.Mapping[tuple[str, str], int]:
    """Return the number of extensions by template and image type.

    Parameters
    ----------
    session : Session
        For reading.
    findings : sequence of Finding
        Extensions whose templates are counted.

    Returns
    -------
    mapping of (str, str) to int
    """
    templates = {finding.frame.template for finding in findings if finding.frame.template}
    query = (
        sa.select(
            db.schema.models.FrameRow.template,
            db.schema.models.ExtensionRow.image_type,
            sa.func.count(),
        )
        .join(db.schema.models.ExtensionRow.frame)
        .where(db.schema.models.FrameRow.template.in_(templates))
        .group_by(db.schema.models.FrameRow.template, db.schema.models.ExtensionRow.image_type)
    )
    return {(str(template), name): count for template, name, count in session.execute(query)}


def read_names(session: Session, ids: abc.Sequence[int | None]) -> abc.Mapping[int, str]:
    """Return the names of extensions by id.

    Parameters
    ----------
    session : Session
        For reading.
    ids : sequence of int or None
        Extensions; None is ignored.

    Returns
    -------
    mapping of int to str
    """
    query = (
        sa.select(
            db.schema.models.ExtensionRow.id,
            db.schema.models.FrameRow.name,
            db.schema.models.ExtensionRow.number,
        )
        .join(db.schema.models.ExtensionRow.frame)
        .where(db.schema.models.ExtensionRow.id.in_({number for number in ids if number}))
    )
    return {row.id: f"{row.name}[{row.number}]" for row in session.execute(query)}
