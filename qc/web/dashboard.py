"""State of the dashboard: status matrix, review queue, notifications and issues of a night.

The page is polled every minute. It reads the rows of the newest night, and only counts of the
nights before.
"""

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import orm

from qc import db
from qc.alerts import notifications, silences
from qc.core.enums import FrameState
from qc.db.schema import models
from qc.io.instruments import Instrument
from qc.monitoring import completeness, missing
from qc.monitoring.health import read_issues
from qc.settings import Settings
from qc.summaries import matrix
from qc.summaries.standing import ExtensionStanding, standing_of

LISTED = 30  # entries of each list; the total count is always shown
DOUBTFUL_SCORE = 0.7  # nominal images with a higher score are near the limit, so in the queue
OPEN_FOR = dt.timedelta(days=30)  # older open notifications are left out
_MOST_NIGHTS = 7


@dataclasses.dataclass(frozen=True)
class DoubtfulImage:
    """An unlabelled image that needs a review.

    Attributes
    ----------
    doubt : float
        2 if there were too few references; else 1 at the limit, decreasing with the distance.
    reason : str
        First reason of the verdict.
    """

    extension_id: int
    frame: str
    number: int
    image_type: str
    chip: str
    observed_at: dt.datetime | None
    standing: ExtensionStanding
    score: float
    doubt: float
    reason: str


@dataclasses.dataclass(frozen=True)
class PendingAlert:
    """An alert that is not sent yet.

    Attributes
    ----------
    to : str
        Recipient of a failed delivery; empty for an alert without notification.
    trouble : str
        Error of the last attempt.
    """

    since: dt.datetime
    what: str
    to: str = ""
    trouble: str = ""


@dataclasses.dataclass(frozen=True)
class ActiveSilence:
    """A silence in force.

    Attributes
    ----------
    alerts : int
        Number of suppressed alerts.
    """

    number: int
    topic: str
    instrument: str
    image_types: tuple[str, ...]
    who: str
    since: dt.datetime
    until: dt.datetime | None
    until_nominal: bool
    note: str
    alerts: int


@dataclasses.dataclass(frozen=True)
class OpenNotification:
    """A notification that is not acknowledged.

    Attributes
    ----------
    told : tuple of str
        Recipients of a successful delivery.
    """

    number: int
    topic: str
    subject: str
    made_at: dt.datetime
    told: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class FailedFile:
    """A file that could not be processed.

    Attributes
    ----------
    retry_at : datetime or None
        None if the file is not retried until it changes.
    """

    name: str
    reason: str
    since: dt.datetime | None
    tries: int
    retry_at: dt.datetime | None


@dataclasses.dataclass(frozen=True)
class Dashboard:
    """Content of the dashboard.

    Attributes
    ----------
    evening : date or None
        Date of the night's evening; None if nothing has been processed.
    is_newest : bool
        True if this is the newest night with frames.
    nights_since : int
        Complete nights without frames since then.
    idle : mapping of instrument to tuple of chips
        Detectors without a frame for 30 days.
    queue : tuple of DoubtfulImage
        The most doubtful first.
    queued, open_notices, failed_files : int
        Counts that include entries not listed.
    owed : tuple of PendingAlert
    silenced : tuple of ActiveSilence
    notices : tuple of OpenNotification
    absences : tuple of MissingCalibration
    troubles : tuple of str
        Active issues of the service.
    """

    at: dt.datetime
    evening: dt.date | None
    is_newest: bool
    nights_since: int
    frames: int
    standings: Mapping[ExtensionStanding, int]
    matrices: tuple[matrix.Matrix, ...]
    idle: Mapping[str, tuple[str, ...]]
    queue: tuple[DoubtfulImage, ...]
    queued: int
    owed: tuple[PendingAlert, ...]
    silenced: tuple[ActiveSilence, ...]
    notices: tuple[OpenNotification, ...]
    open_notices: int
    absences: tuple[missing.MissingCalibration, ...]
    failed: tuple[FailedFile, ...]
    failed_files: int
    troubles: tuple[str, ...]


@dataclasses.dataclass
class ArrivalCache:
    """Cached frame counts of earlier nights, the most expensive query of the dashboard.

    An entry is valid as long as no frame arrives for its nights.
    """

    entries: dict[tuple[dt.date, int, int], tuple[db.statistics.ArrivalCount, ...]] = (
        dataclasses.field(default_factory=dict)
    )

    def read_before(
        self, session: orm.Session, night: dt.date
    ) -> tuple[db.statistics.ArrivalCount, ...]:
        """Return the frame counts per setup of the nights before a night.

        Parameters
        ----------
        session : Session
            For reading.
        night : date
        """
        first, last = night - completeness.HISTORY, night - dt.timedelta(days=1)
        key = (night, *db.statistics.frames_between(session, first, last))
        counts = self.entries.get(key)
        if counts is None:
            counts = tuple(db.statistics.arrivals_between(session, first, last))
            newest = list(self.entries.items())[-_MOST_NIGHTS:]
            self.entries = {**dict(newest), key: counts}  # a new dict: other threads may read
        return counts


def read_dashboard(
    session: orm.Session,
    settings: Settings,
    instruments: Sequence[Instrument],
    now: dt.datetime,
    night: dt.date | None = None,
    arrivals: ArrivalCache | None = None,
) -> Dashboard:
    """Return the content of the dashboard.

    Parameters
    ----------
    session : Session
        For reading.
    settings : Settings
    instruments : sequence of Instrument
    now : datetime
        Aware.
    night : date, optional
        Default: the newest night with frames.
    arrivals : ArrivalCache, optional
        Shared between calls.
    """
    newest_night = db.statistics.newest_night(session)
    evening = night or newest_night
    current = max(instrument.night_of(now) for instrument in instruments)
    is_newest = night is None or night == newest_night
    findings = db.findings.findings_without_metrics(session, evening) if evening else []
    watched = current if is_newest and evening and current > evening else evening
    absences = read_absences(session, instruments, watched, now, arrivals or ArrivalCache())
    matrices = read_matrices(
        session, instruments, evening, findings, absences, now if is_newest else None
    )
    standings = [standing_of(finding) for finding in findings]
    counts = {state: standings.count(state) for state in ExtensionStanding}
    counts[ExtensionStanding.ABSENT] = sum(not absence.is_mended for absence in absences)
    queue = find_doubtful(findings)
    unanswered = notifications.open_notifications(session, now - OPEN_FOR)
    n_failed = session.scalar(
        sa.select(sa.func.count())
        .select_from(models.FrameRow)
        .where(models.FrameRow.state == FrameState.FAILED)
    )
    return Dashboard(
        at=now,
        evening=evening,
        is_newest=is_newest,
        nights_since=max(0, (current - evening).days - 1) if evening else 0,
        frames=len({finding.frame.id for finding in findings}),
        standings=counts,
        matrices=tuple(matrix for matrix in matrices if matrix.rows),
        idle={matrix.instrument: matrix.chips for matrix in matrices if not matrix.rows},
        queue=tuple(queue[:LISTED]),
        queued=len(queue),
        owed=read_pending_alerts(session),
        silenced=read_silences(session),
        notices=read_notifications(session, [row.id for row in unanswered[-LISTED:]]),
        open_notices=len(unanswered),
        absences=absences,
        failed=read_failed_files(session),
        failed_files=n_failed or 0,
        troubles=read_issues(session, settings, now),
    )


def read_absences(
    session: orm.Session,
    instruments: Sequence[Instrument],
    night: dt.date | None,
    now: dt.datetime,
    arrivals: ArrivalCache,
) -> tuple[missing.MissingCalibration, ...]:
    """Return the calibrations that are missing at the end of a night, or now.

    Parameters
    ----------
    session : Session
        For reading.
    instruments : sequence of Instrument
    night : date or None
        None gives an empty result.
    now : datetime
        Aware.
    arrivals : ArrivalCache
    """
    if night is None:
        return ()
    ends = max(instrument.night_ends(night) for instrument in instruments)
    before = arrivals.read_before(session, night)
    return completeness.find_missing(session, night, instruments, min(now, ends), before)


def read_matrices(
    session: orm.Session,
    instruments: Sequence[Instrument],
    evening: dt.date | None,
    findings: Sequence[db.findings.Finding],
    absences: Sequence[missing.MissingCalibration],
    now: dt.datetime | None,
) -> list[matrix.Matrix]:
    """Return the status matrix of each instrument.

    Parameters
    ----------
    session : Session
        For reading.
    instruments : sequence of Instrument
    evening : date or None
        None gives an empty result.
    findings : sequence of Finding
        Of the night.
    absences : sequence of MissingCalibration
    now : datetime or None
        None for ages at the end of the night.
    """
    if evening is None:
        return []
    first = evening - matrix.SEEN_WITHIN - dt.timedelta(days=1)
    newest = db.statistics.newest_of_types(session, first, evening)
    missed = [absence for absence in absences if absence.missed <= evening]
    return [
        matrix.matrix_of(instrument, evening, newest, findings, (), missed, now)
        for instrument in instruments
    ]


def find_doubtful(findings: Sequence[db.findings.Finding]) -> list[DoubtfulImage]:
    """Return the unlabelled images that need a review, the most doubtful first.

    Images with too few references come first, then those near the limit.
    """
    images = []
    for finding in findings:
        standing, score = standing_of(finding), finding.verdict.score
        is_clear = standing is ExtensionStanding.NOMINAL and score < DOUBTFUL_SCORE
        if finding.label is not None or is_clear:
            continue
        image = DoubtfulImage(
            extension_id=finding.extension.id,
            frame=finding.frame.name,
            number=finding.extension.number,
            image_type=finding.extension.image_type,
            chip=finding.extension.chip,
            observed_at=finding.frame.observed_at,
            standing=standing,
            score=score,
            doubt=models.doubt(finding.verdict.status, score),
            reason=next(iter(finding.verdict.reasons), ""),
        )
        images.append(image)
    return sorted(images, key=lambda image: (-image.doubt, -image.score, image.extension_id))


def read_pending_alerts(session: orm.Session) -> tuple[PendingAlert, ...]:
    """Return the alerts without notification, then the deliveries to be retried."""
    without_notification = (
        sa.select(models.AlertRow, models.FrameRow.name, models.ExtensionRow.number)
        .outerjoin(models.VerdictRow, models.VerdictRow.id == models.AlertRow.verdict_id)
        .outerjoin(models.ExtensionRow, models.ExtensionRow.id == models.VerdictRow.extension_id)
        .outerjoin(models.FrameRow, models.FrameRow.id == models.ExtensionRow.frame_id)
        .where(*notifications.pending_conditions())
        .order_by(models.AlertRow.id)
        .limit(LISTED)
    )
    undelivered = (
        sa.select(models.DeliveryRow, models.NotificationRow.subject)
        .join(models.DeliveryRow.notification)
        .where(models.DeliveryRow.due_at.is_not(None))
        .order_by(models.DeliveryRow.id)
        .limit(LISTED)
    )
    alerts = [
        PendingAlert(alert.owed_at, alert.words or f"{name}[{number}]")
        for alert, name, number in session.execute(without_notification)
    ]
    deliveries = [
        PendingAlert(delivery.owed_at, subject, delivery.address, delivery.trouble)
        for delivery, subject in session.execute(undelivered)
    ]
    return (*alerts, *deliveries)


def read_silences(session: orm.Session) -> tuple[ActiveSilence, ...]:
    """Return the silences in force, with the number of alerts that they suppress."""
    rows = silences.read_silences(session)
    suppressed = (
        sa.select(models.AlertRow.silence_id, sa.func.count())
        .where(models.AlertRow.silence_id.in_([row.id for row in rows]))
        .group_by(models.AlertRow.silence_id)
    )
    counts = {silence: n for silence, n in session.execute(suppressed)}  # noqa: C416 - a Result has keys
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


def read_notifications(
    session: orm.Session, numbers: Sequence[int]
) -> tuple[OpenNotification, ...]:
    """Return notifications with their recipients, the newest first.

    Parameters
    ----------
    session : Session
        For reading.
    numbers : sequence of int
        Row numbers.
    """
    query = (
        sa.select(models.NotificationRow)
        .where(models.NotificationRow.id.in_(numbers))
        .options(orm.selectinload(models.NotificationRow.deliveries))
        .order_by(models.NotificationRow.id.desc())
    )
    return tuple(
        OpenNotification(
            number=row.id,
            topic=row.topic,
            subject=row.subject.removeprefix("[QC] "),
            made_at=row.made_at,
            told=tuple(delivery.address for delivery in row.deliveries if delivery.sent_at),
        )
        for row in session.scalars(query)
    )


def read_failed_files(session: orm.Session) -> tuple[FailedFile, ...]:
    """Return the newest files that could not be processed."""
    query = (
        sa.select(models.FrameRow)
        .where(models.FrameRow.state == FrameState.FAILED)
        .order_by(models.FrameRow.id.desc())
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
