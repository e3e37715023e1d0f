"""Checks at the end of the week: every frame judged once, every alert sent once."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.week.post import Letter
from qc.core.enums import FrameState, Topic
from qc.db.schema.models import (
    AlertRow,
    DeliveryRow,
    ExtensionRow,
    FrameRow,
    NotificationRow,
    VerdictRow,
)


@dataclass(frozen=True)
class Account:
    """The figures of the week.

    Attributes
    ----------
    lost, twice : int
        Files delivered that are not on record, or more than once; a broken one is on record too.
    verdicts : mapping of int
        Extensions by how many verdicts they have: all should have one.
    alerts, untold : int
        Owed for verdicts; and of these, those without a notice that has left.
    unsent : int
        Deliveries that were never made.
    letters, repeated : int
        Mails received; and how many of them had been received before.
    to_verdict_s : list of float
        From the file's arrival.
    to_mail : list of (float, float)
        When the first anomalous frame of an event had arrived, and how long after that the mail.
    """

    files: int
    processed: int
    failed: int
    lost: int
    twice: int
    verdicts: dict[int, int]
    alerts: int
    untold: int
    notices: int
    unsent: int
    letters: int
    repeated: int
    to_verdict_s: list[float]
    to_mail: list[tuple[float, float]]


def take_account(
    session: Session, arrived: dict[Path, float], letters: Sequence[Letter]
) -> Account:
    """Compare the delivered frames with the database and the received mails.

    Parameters
    ----------
    arrived : mapping of Path to float
        When each file was whole, as seconds since 1970.
    """
    results = {str(path) for path in arrived}
    rows = [row for row in session.scalars(select(FrameRow)) if row.path in results]
    counts = Counter(row.path for row in rows)
    ids = {row.id for row in rows}
    verdicts = Counter(_verdict_counts(session, ids).values())
    alerts = session.scalars(select(AlertRow).where(AlertRow.topic == Topic.VERDICT)).all()
    is_sent = DeliveryRow.sent_at.is_not(None)
    sent = set(session.scalars(select(DeliveryRow.notification_id).where(is_sent)))
    unsent = session.scalars(select(DeliveryRow.id).where(~is_sent)).all()
    observed = Counter(letter.message_id for letter in letters)
    return Account(
        files=len(results),
        processed=sum(row.state == FrameState.PROCESSED for row in rows),
        failed=sum(row.state == FrameState.FAILED for row in rows),
        lost=len(results - counts.keys()),
        twice=sum(count > 1 for count in counts.values()),
        verdicts=dict(sorted(verdicts.items())),
        alerts=len(alerts),
        untold=sum(alert.notification_id not in sent for alert in alerts),
        notices=len(session.scalars(select(NotificationRow.id)).all()),
        unsent=len(unsent),
        letters=len(letters),
        repeated=sum(count - 1 for count in observed.values()),
        to_verdict_s=[
            row.processed_at.timestamp() - arrived[Path(row.path)]
            for row in rows
            if row.state == FrameState.PROCESSED
        ],
        to_mail=_to_mail(session, arrived, letters),
    )


def _verdict_counts(session: Session, frames: set[int]) -> dict[int, int]:
    query = (
        select(ExtensionRow.id, ExtensionRow.frame_id, func.count(VerdictRow.id))
        .outerjoin(VerdictRow, VerdictRow.extension_id == ExtensionRow.id)
        .group_by(ExtensionRow.id)
    )
    return {item: count for item, frame, count in session.execute(query) if frame in frames}


def _to_mail(
    session: Session, arrived: dict[Path, float], letters: Sequence[Letter]
) -> list[tuple[float, float]]:
    """Return when each notice's first anomalous frame arrived, and how long after that its mail.

    A frame of a reported event raises no further alert.
    """
    received: dict[str, float] = {}
    for letter in sorted(letters, key=lambda item: item.at):
        for name in letter.frames:
            received.setdefault(name, letter.at)
    query = (
        select(AlertRow.notification_id, FrameRow.path, FrameRow.name)
        .join(VerdictRow, VerdictRow.id == AlertRow.verdict_id)
        .join(ExtensionRow, ExtensionRow.id == VerdictRow.extension_id)
        .join(FrameRow, FrameRow.id == ExtensionRow.frame_id)
        .where(AlertRow.notification_id.is_not(None))
        .order_by(AlertRow.id)
    )
    first = defaultdict[int | None, list[tuple[str, str]]](list)
    for notice, path, name in session.execute(query):
        first[notice].append((path, name))
    spans = []
    for frames in first.values():
        path, name = frames[0]
        if name in received and Path(path) in arrived:
            at = arrived[Path(path)]
            spans.append((at, received[name] - at))
    return spans


def percentile(values: Sequence[float], part: float) -> float:
    """Return a percentile; NaN of nothing."""
    return float(np.percentile(values, part)) if values else float("nan")
