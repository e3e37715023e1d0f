"""Performance in a period: injection recall, and response times to notifications."""

import datetime as dt
from collections import Counter, abc, defaultdict
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from scipy.stats import binomtest
from sqlalchemy.orm import Session

from qc import core, db
from qc.db.schema import models
from qc.summaries import night_range
from qc.summaries.ageing import WEEKS
from qc.summaries.losses import ROWS_PER_FETCH


@dataclass(frozen=True)
class KindRecallSummary:
    """Recall of the injection test for one kind of fault.

    Attributes
    ----------
    found, tried : int
        Faults found and injected.
    weekly : tuple of (found, tried)
        For each week of the period, oldest first.
    """

    kind: str
    found: int
    tried: int
    weekly: tuple[tuple[int, int], ...]

    @property
    def share(self) -> float:
        """Return the recall, 0 to 1."""
        return self.found / self.tried

    @property
    def text(self) -> str:
        """Return the recall in percent, with the 95 % interval of Clopper & Pearson."""
        interval = binomtest(self.found, self.tried).proportion_ci()
        low, high = 100 * interval.low, 100 * interval.high
        return f"{100 * self.share:.1f} % ({low:.0f} to {high:.0f})"


@dataclass(frozen=True)
class InjectionTestSummary:
    """Results of the injection test.

    Attributes
    ----------
    recalls : tuple of KindRecallSummary
        For each kind of fault, lowest recall first.
    nights : tuple of (date, found, tried)
        For each night of the half year up to the end of the period.
    """

    recalls: tuple[KindRecallSummary, ...]
    nights: tuple[tuple[dt.date, int, int], ...]

    @property
    def overall(self) -> KindRecallSummary | None:
        """Return the recall of all kinds; None without a test."""
        found = sum(recall.found for recall in self.recalls)
        tried = sum(recall.tried for recall in self.recalls)
        weekly = zip(*(recall.weekly for recall in self.recalls), strict=True)
        summed = tuple((sum(f for f, _ in week), sum(n for _, n in week)) for week in weekly)
        return KindRecallSummary("all kinds", found, tried, summed) if tried else None


@dataclass(frozen=True)
class ResponseTimes:
    """Times between notifications of flagged frames and the first answer.

    Attributes
    ----------
    notified : int
        Notifications, and alerts without one; silenced alerts are left out.
    silenced : int
        Silenced alerts.
    waits : tuple of timedelta
        Time to the first label or acknowledgement, of the answered ones, shortest first.
    """

    notified: int
    silenced: int
    waits: tuple[dt.timedelta, ...]

    @property
    def unanswered(self) -> int:
        """Count the notifications without an answer."""
        return self.notified - len(self.waits)

    def quantile(self, share: float) -> dt.timedelta:
        """Return the time within which a share of the answers came."""
        seconds = [wait.total_seconds() for wait in self.waits]
        return dt.timedelta(seconds=float(np.quantile(seconds, share)))


def read_injection_test(session: Session, span: night_range.NightRange) -> InjectionTestSummary:
    """Return the results of the injection test in a period.

    Parameters
    ----------
    session : Session
        Open session.
    span : NightRange
        Nights.

    Returns
    -------
    InjectionTestSummary
    """
    row = models.SelfTestRow
    query = sa.select(row.night, row.kind, row.is_found).where(
        row.night > span.last - dt.timedelta(weeks=WEEKS), row.night <= span.last
    )
    tried_by_night: Counter[dt.date] = Counter()
    found_by_night: Counter[dt.date] = Counter()
    kinds: dict[str, list[tuple[int, bool]]] = defaultdict(list)  # week and result
    for night, kind, is_found in session.execute(query.execution_options(yield_per=ROWS_PER_FETCH)):
        tried_by_night[night] += 1
        found_by_night[night] += is_found
        if night >= span.first:
            kinds[kind].append(((night - span.first).days // 7, is_found))
    weeks = (span.last - span.first).days // 7 + 1
    recalls = []
    for kind, results in kinds.items():
        by_week = [[hit for when, hit in results if when == week] for week in range(weeks)]
        weekly = tuple((sum(hits), len(hits)) for hits in by_week)
        found = sum(hit for _, hit in results)
        recalls.append(KindRecallSummary(kind, found, len(results), weekly))
    recalls.sort(key=lambda recall: (recall.share, recall.kind))
    nights = tuple((night, found_by_night[night], n) for night, n in sorted(tried_by_night.items()))
    return InjectionTestSummary(tuple(recalls), nights)


def read_response_times(session: Session, span: night_range.NightRange) -> ResponseTimes:
    """Return the response times to notifications of flagged frames.

    Parameters
    ----------
    session : Session
        Open session.
    span : NightRange
        Nights.

    Returns
    -------
    ResponseTimes
    """
    alert, verdict, notification = models.AlertRow, models.VerdictRow, models.NotificationRow
    query = (
        sa.select(alert.owed_at, alert.silence_id, verdict.extension_id, notification)
        .join(verdict, verdict.id == alert.verdict_id)
        .outerjoin(notification, notification.id == alert.notification_id)
        .where(
            alert.topic == core.Topic.VERDICT,
            alert.night >= span.first,
            alert.night <= span.last,
        )
        .order_by(alert.id)
    )
    groups: dict[str, list[tuple[dt.datetime, int]]] = defaultdict(list)  # time and extension
    silenced = 0
    numbers: set[int] = set()
    for owed_at, silence_id, extension_id, row in session.execute(query):
        if row is not None:
            numbers.add(row.id)
            groups[f"notification {row.id}"].append((row.made_at, extension_id))
        elif silence_id is None:
            groups[f"extension {extension_id}"].append((owed_at, extension_id))
        else:
            silenced += 1
    ids = [extension_id for alerts in groups.values() for _, extension_id in alerts]
    labels = {
        extension_id: [label.at for label in rows if label.undoes_id is None]
        for extension_id, rows in db.labels.labels_of(session, ids).items()
    }
    answer = models.AcknowledgementRow
    first_answers = sa.select(answer.notification_id, sa.func.min(answer.at)).group_by(
        answer.notification_id
    )
    acknowledged = {
        f"notification {number}": time
        for number, time in session.execute(first_answers)
        if number in numbers
    }
    waits = [first_wait(alerts, labels, acknowledged.get(key)) for key, alerts in groups.items()]
    answered = sorted(wait for wait in waits if wait is not None)
    return ResponseTimes(len(groups), silenced, tuple(answered))


def first_wait(
    alerts: abc.Sequence[tuple[dt.datetime, int]],
    labels: abc.Mapping[int, abc.Sequence[dt.datetime]],
    acknowledged: dt.datetime | None,
) -> dt.timedelta | None:
    """Return the time from a notification to the first answer; None without an answer.

    Parameters
    ----------
    alerts : sequence of (datetime, int)
        Time of notification and extension of each alert.
    labels : mapping of int to sequence of datetime
        Times of labels by extension; labels before the notification do not count.
    acknowledged : datetime or None
        Time of the first acknowledgement.

    Returns
    -------
    timedelta or None
    """
    since = min(time for time, _ in alerts)
    answers = [
        time for _, extension_id in alerts for time in labels.get(extension_id, ()) if time >= since
    ]
    answers += [acknowledged] if acknowledged else []
    return max(min(answers) - since, dt.timedelta()) if answers else None
