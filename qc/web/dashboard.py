"""What is to be looked at now: how all detectors stand, what is doubtful, owed, absent, failed.

Asked for every few minutes by everybody who watches: it reads the newest night and sums of the
nights before, never their rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from qc import db
from qc.alerts import notifications
from qc.core.enums import FrameState
from qc.db.findings import Finding
from qc.db.models import (
    AlertRow,
    DeliveryRow,
    ExtensionRow,
    FrameRow,
    NotificationRow,
    VerdictRow,
    doubt,
)
from qc.db.statistics import ArrivalCount
from qc.io.instruments import Instrument
from qc.monitoring.completeness import HISTORY, MissingCalibration, find_absences
from qc.monitoring.health import read_troubles
from qc.settings import Settings
from qc.summaries.night import SEEN_WITHIN, ExtensionStanding, Matrix, matrix_of, standing

LISTED = 30  # of any one list; how many there are besides is always said
WORTH_A_LOOK = 0.7  # score of a nominal image: so near the limit somebody might disagree
OPEN_FOR = timedelta(days=30)  # notices that nobody has answered for longer are counted, not read
_NIGHTS_KEPT = 7


@dataclass(frozen=True)
class DoubtfulImage:
    """An image that nobody has spoken of yet.

    Attributes
    ----------
    doubt : float
        2 where too few references could say; else 1 on the limit, and less away from it.
    reason : str
        The first of the verdict's.
    """

    extension_id: int
    frame: str
    number: int
    image_type: str
    chip: str
    observed_at: datetime | None
    standing: ExtensionStanding
    score: float
    doubt: float
    reason: str


@dataclass(frozen=True)
class PendingAlert:
    """Something that people have not been told of yet.

    Attributes
    ----------
    to : str
        An address that the mail has not reached; empty where it is yet to be written.
    """

    since: datetime
    what: str
    to: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class ActiveSilence:
    """What people asked not to be told of.

    Attributes
    ----------
    alerts : int
        How many it has kept from them.
    """

    number: int
    topic: str
    instrument: str
    image_types: tuple[str, ...]
    who: str
    since: datetime
    until: datetime | None
    until_nominal: bool
    note: str
    alerts: int


@dataclass(frozen=True)
class OpenNotification:
    """What people were told and nobody has answered."""

    number: int
    topic: str
    subject: str
    made_at: datetime
    told: tuple[str, ...]


@dataclass(frozen=True)
class FailedFile:
    """A file that could not be judged, and when it is tried again, if it is."""

    name: str
    reason: str
    since: datetime | None
    tries: int
    retry_at: datetime | None


@dataclass(frozen=True)
class Dashboard:
    """Everything that the first page shows.

    Attributes
    ----------
    evening : date or None
        The day on which the night began; None where nothing has been processed.
    is_newest : bool
        Whether this is the newest night that brought anything.
    nights_since : int
        Whole nights that have passed since it.
    idle : mapping of instrument to tuple of chips
        Those that no frame came of for 30 days.
    queue : tuple of Doubtful
        The most doubtful first; `queued` counts those too that are not listed.
    open_notices, failed_files : int
        Counts, those too that are not listed.
    """

    at: datetime
    evening: date | None
    is_newest: bool
    nights_since: int
    frames: int
    standings: Mapping[ExtensionStanding, int]
    matrices: tuple[Matrix, ...]
    idle: Mapping[str, tuple[str, ...]]
    queue: tuple[DoubtfulImage, ...]
    queued: int
    owed: tuple[PendingAlert, ...]
    silenced: tuple[ActiveSilence, ...]
    notices: tuple[OpenNotification, ...]
    open_notices: int
    absences: tuple[MissingCalibration, ...]
    failed: tuple[FailedFile, ...]
    failed_files: int
    troubles: tuple[str, ...]


@dataclass
class PastNights:
    """What the nights before brought, kept as long as no more of them comes in.

    The sums of 100 nights cost more than all else that the page asks for.
    """

    known: dict[tuple[date, int, int], tuple[ArrivalCount, ...]] = field(default_factory=dict)

    def before(self, session: Session, night: date) -> tuple[ArrivalCount, ...]:
        """Return what each of the nights before brought of each setup."""
        first, last = night - HISTORY, night - timedelta(days=1)
        key = (night, *db.statistics.frames_between(session, first, last))
        found = self.known.get(key)
        if found is None:
            found = tuple(db.statistics.had_between(session, first, last))
            kept = list(self.known.items())[-_NIGHTS_KEPT:]
            self.known = {**dict(kept), key: found}  # anew: others may be reading the one before
        return found


def read_tonight(
    session: Session,
    settings: Settings,
    instruments: Sequence[Instrument],
    now: datetime,
    night: date | None = None,
    past: PastNights | None = None,
) -> Dashboard:
    """Return how things stand.

    Parameters
    ----------
    now : datetime
        Aware.
    night : date, optional
        Another than the newest that brought anything.
    past : Past, optional
        Where the sums of the nights before are kept from one time to the next.
    """
    newest_night = db.statistics.newest_night(session)
    evening = night or newest_night
    current = max(one.night_of(now) for one in instruments)
    is_newest = night is None or night == newest_night
    findings = db.findings.findings_without_numbers(session, evening) if evening else []
    watched = current if is_newest and evening and current > evening else evening
    absences = _absences(session, instruments, watched, now, past or PastNights())
    matrices = _matrices(
        session, instruments, evening, findings, absences, now if is_newest else None
    )
    counts = {one: sum(standing(found) is one for found in findings) for one in ExtensionStanding}
    counts[ExtensionStanding.ABSENT] = sum(not one.is_mended for one in absences)
    queue = doubtful(findings)
    unanswered = notifications.open_notices(session, now - OPEN_FOR)
    failed_files = session.scalar(
        select(func.count()).select_from(FrameRow).where(FrameRow.state == FrameState.FAILED)
    )
    return Dashboard(
        at=now,
        evening=evening,
        is_newest=is_newest,
        nights_since=max(0, (current - evening).days - 1) if evening else 0,
        frames=len({one.frame.id for one in findings}),
        standings=counts,
        matrices=tuple(one for one in matrices if one.rows),
        idle={one.instrument: one.chips for one in matrices if not one.rows},
        queue=tuple(queue[:LISTED]),
        queued=len(queue),
        owed=_owed(session),
        silenced=_silenced(session),
        notices=_notices(session, [one.id for one in unanswered[-LISTED:]]),
        open_notices=len(unanswered),
        absences=absences,
        failed=_failed(session),
        failed_files=failed_files or 0,
        troubles=read_troubles(session, settings, now),
    )


def _absences(
    session: Session,
    instruments: Sequence[Instrument],
    night: date | None,
    now: datetime,
    past: PastNights,
) -> tuple[MissingCalibration, ...]:
    if night is None:
        return ()
    ends = max(one.night_ends(night) for one in instruments)
    before = past.before(session, night)
    return find_absences(session, night, instruments, min(now, ends), before)


def _matrices(
    session: Session,
    instruments: Sequence[Instrument],
    evening: date | None,
    findings: Sequence[Finding],
    absences: Sequence[MissingCalibration],
    now: datetime | None,
) -> list[Matrix]:
    if evening is None:
        return []
    newest = db.statistics.newest_of_types(
        session, evening - SEEN_WITHIN - timedelta(days=1), evening
    )
    missed = [one for one in absences if one.missed <= evening]
    return [matrix_of(one, evening, newest, findings, (), missed, now) for one in instruments]


def doubtful(findings: Sequence[Finding]) -> list[DoubtfulImage]:
    """Return what somebody should look at, the most doubtful first.

    Where too few references could say, nobody knows; then, the nearer to the limit, the more two
    people might disagree. What a person has spoken of is in no doubt.
    """
    found = [
        _doubtful(one, stands)
        for one in findings
        if one.label is None
        and (
            (stands := standing(one)) is not ExtensionStanding.NOMINAL
            or one.verdict.score >= WORTH_A_LOOK
        )
    ]
    return sorted(found, key=lambda one: (-one.doubt, -one.score, one.extension_id))


def _doubtful(finding: Finding, stands: ExtensionStanding) -> DoubtfulImage:
    score = finding.verdict.score
    return DoubtfulImage(
        extension_id=finding.extension.id,
        frame=finding.frame.name,
        number=finding.extension.number,
        image_type=finding.extension.image_type,
        chip=finding.extension.chip,
        observed_at=finding.frame.observed_at,
        standing=stands,
        score=score,
        doubt=doubt(finding.verdict.status, score),
        reason=next(iter(finding.verdict.reasons), ""),
    )


def _owed(session: Session) -> tuple[PendingAlert, ...]:
    unwritten = (
        select(AlertRow, FrameRow.name, ExtensionRow.number)
        .outerjoin(VerdictRow, VerdictRow.id == AlertRow.verdict_id)
        .outerjoin(ExtensionRow, ExtensionRow.id == VerdictRow.extension_id)
        .outerjoin(FrameRow, FrameRow.id == ExtensionRow.frame_id)
        .where(*notifications.waiting())
        .order_by(AlertRow.id)
        .limit(LISTED)
    )
    unsent = (
        select(DeliveryRow, NotificationRow.subject)
        .join(DeliveryRow.notice)
        .where(DeliveryRow.due_at.is_not(None))
        .order_by(DeliveryRow.id)
        .limit(LISTED)
    )
    rows = session.execute(unwritten)
    first = [
        PendingAlert(one.owed_at, one.words or f"{name}[{number}]") for one, name, number in rows
    ]
    others = session.execute(unsent)
    return (
        *first,
        *(PendingAlert(one.owed_at, what, one.address, one.trouble) for one, what in others),
    )


def _silenced(session: Session) -> tuple[ActiveSilence, ...]:
    rows = notifications.silences(session)
    kept = select(AlertRow.silence_id, func.count()).where(
        AlertRow.silence_id.in_([row.id for row in rows])
    )
    counts = {silence: n for silence, n in session.execute(kept.group_by(AlertRow.silence_id))}  # noqa: C416 - a Result has keys
    return tuple(
        ActiveSilence(
            number=row.id,
            topic=row.topic,
            instrument=row.instrument or "",
            image_types=tuple(row.image_types),
            who=row.who,
            since=row.since,
            until=row.until,
            until_nominal=row.until_nominal,
            note=row.note,
            alerts=counts.get(row.id, 0),
        )
        for row in rows
    )


def _notices(session: Session, numbers: Sequence[int]) -> tuple[OpenNotification, ...]:
    """Return notices with those who were told, the newest first."""
    query = (
        select(NotificationRow)
        .where(NotificationRow.id.in_(numbers))
        .options(selectinload(NotificationRow.deliveries))
        .order_by(NotificationRow.id.desc())
    )
    return tuple(
        OpenNotification(
            number=row.id,
            topic=row.topic,
            subject=row.subject.removeprefix("[QC] "),
            made_at=row.made_at,
            told=tuple(one.address for one in row.deliveries if one.sent_at),
        )
        for row in session.scalars(query)
    )


def _failed(session: Session) -> tuple[FailedFile, ...]:
    query = (
        select(FrameRow)
        .where(FrameRow.state == FrameState.FAILED)
        .order_by(FrameRow.id.desc())
        .limit(LISTED)
    )
    return tuple(
        FailedFile(
            name=row.name,
            reason=row.reason.removeprefix(f"{row.path}: "),
            since=row.failed_since,
            tries=row.tries,
            retry_at=row.retry_at,
        )
        for row in session.scalars(query)
    )
