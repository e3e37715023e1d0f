"""Recall of the injection test: figures with intervals, and drops below the limit."""

import datetime as dt
from collections import abc, defaultdict
from dataclasses import dataclass

from scipy.stats import beta
from sqlalchemy.orm import Session

from qc import core, db
from qc.io.instruments import Instrument

SHOWN_NIGHTS = 30
ALERT_MEMORY = dt.timedelta(days=90)  # after this span a lasting drop raises another alert
CONFIDENCE = 0.95  # of the intervals
DROP_CONFIDENCE = 0.995  # one-sided, that the recall is below its limit
KIND_NIGHTS = 2  # factor on the nights for a single kind, which has few trials a night
NAMED = 5  # kinds or image types named in one sentence


def recall_interval(found: int, tried: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of Clopper and Pearson (1934, Biometrika 26, 404) of a recall.

    Its coverage is at least the confidence, for any number of trials.

    Parameters
    ----------
    found, tried : int
        Numbers of faults.
    confidence : float

    Returns
    -------
    low, high : float
    """
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, found, tried - found + 1) if found else 0.0
    high = beta.ppf(1 - tail, found + 1, tried - found) if found < tried else 1.0
    return float(low), float(high)


@dataclass(frozen=True)
class RecallCount:
    """Number of injected faults, and of those that were found."""

    found: int = 0
    tried: int = 0

    def __add__(self, count: "RecallCount") -> "RecallCount":
        return RecallCount(self.found + count.found, self.tried + count.tried)

    @property
    def recall(self) -> float:
        """Fraction that was found; 1 without trials."""
        return self.found / self.tried if self.tried else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the recall."""
        return recall_interval(self.found, self.tried)

    def is_surely_below(self, limit: float) -> bool:
        """Return True if a recall at the limit has this result in at most 1 of 200 cases."""
        _, high = recall_interval(self.found, self.tried, 2 * DROP_CONFIDENCE - 1)
        return high < limit


@dataclass(frozen=True)
class KindRecall:
    """Recall of one kind of fault.

    Attributes
    ----------
    strengths : mapping of str to RecallCount
    missed : tuple of str
        Image types in which it was missed.
    last_missed : date or None
        Night.
    """

    kind: str
    strengths: abc.Mapping[str, RecallCount]
    missed: tuple[str, ...]
    last_missed: dt.date | None

    @property
    def all(self) -> RecallCount:
        """Count of all strengths together."""
        return sum(self.strengths.values(), RecallCount())


@dataclass(frozen=True)
class NightRecall:
    """Recall of one night's injection test."""

    night: dt.date
    count: RecallCount


def recall_by_kind(
    session: Session, until: dt.date, nights: int = SHOWN_NIGHTS, instrument: str | None = None
) -> tuple[KindRecall, ...]:
    """Return the recall of each kind of fault in the last nights, the lowest first.

    Parameters
    ----------
    session : Session
    until : date
        Last night.
    nights : int
    instrument : str, optional
        Of this instrument only.

    Returns
    -------
    tuple of KindRecall
    """
    results = defaultdict[str, list[db.operations.InjectionResult]](list)
    for result in read_results(session, until, nights, instrument):
        results[result.kind].append(result)
    recalls = []
    for kind, rows in results.items():
        strengths = count_by(rows, "strength")
        missed = [row for row in rows if row.found < row.tried]
        recalls.append(
            KindRecall(
                kind=kind,
                strengths=dict(sorted(strengths.items())),
                missed=tuple(sorted({row.image_type for row in missed})),
                last_missed=max((row.night for row in missed), default=None),
            )
        )
    return tuple(sorted(recalls, key=lambda row: (row.all.recall, -row.all.tried, row.kind)))


def recall_by_night(
    session: Session, until: dt.date, nights: int = SHOWN_NIGHTS, instrument: str | None = None
) -> tuple[NightRecall, ...]:
    """Return the recall of each of the last nights, oldest first.

    Parameters
    ----------
    session : Session
    until : date
        Last night.
    nights : int
    instrument : str, optional
        Of this instrument only.

    Returns
    -------
    tuple of NightRecall
    """
    counts = count_by_night(read_results(session, until, nights, instrument))
    return tuple(NightRecall(night, counts[night]) for night in sorted(counts))


def read_results(
    session: Session, until: dt.date, nights: int, instrument: str | None
) -> list[db.operations.InjectionResult]:
    """Read the results of the injection tests of the last nights.

    Parameters
    ----------
    session : Session
    until : date
        Last night.
    nights : int
    instrument : str or None
        None for all.

    Returns
    -------
    list of InjectionResult
    """
    first = until - dt.timedelta(days=nights - 1)
    rows = db.operations.injection_results(session, first, until)
    return [row for row in rows if instrument in {None, row.instrument}]


def count_by(
    rows: abc.Iterable[db.operations.InjectionResult], name: str
) -> abc.Mapping[str, RecallCount]:
    """Count results by one of their attributes.

    Parameters
    ----------
    rows : iterable of InjectionResult
    name : str
        Attribute.

    Returns
    -------
    mapping of str to RecallCount
    """
    counts = defaultdict[str, RecallCount](RecallCount)
    for row in rows:
        counts[getattr(row, name)] += RecallCount(row.found, row.tried)
    return counts


def count_by_night(
    rows: abc.Iterable[db.operations.InjectionResult],
) -> abc.Mapping[dt.date, RecallCount]:
    """Count results by night."""
    counts = defaultdict[dt.date, RecallCount](RecallCount)
    for row in rows:
        counts[row.night] += RecallCount(row.found, row.tried)
    return counts


# --- drops below the limit ------------------------------------------------------------------------


@dataclass(frozen=True)
class RecallDrop:
    """Recall that is below its limit since a night.

    Attributes
    ----------
    kind : str
        Of fault; empty for all kinds together.
    since : date
        First night on which the drop was significant.
    count : RecallCount
        Of the last nights.
    """

    instrument: str
    kind: str
    since: dt.date
    count: RecallCount
    limit: float
    sentence: str


def active_drops(
    session: Session, instruments: abc.Sequence[Instrument], until: dt.date
) -> tuple[RecallDrop, ...]:
    """Return the drops of recall below the instruments' limits that have not ended.

    A drop begins when the last 1, 2, 3 ... nights together have a result that a recall at the
    limit gives once in 200 times. A blind encoder is detected the next morning, a slow decline
    within a week, and a single miss raises no alert. A drop ends when the last nights together
    are at the limit again.

    Parameters
    ----------
    session : Session
    instruments : sequence of Instrument
    until : date
        Last night.

    Returns
    -------
    tuple of RecallDrop
    """
    rows = db.operations.injection_results(session, until - ALERT_MEMORY, until)
    return tuple(
        drop
        for instrument in instruments
        for drop in find_drops(
            instrument, [row for row in rows if row.instrument == instrument.name]
        )
    )


def queue_drop_alerts(
    session: Session, instruments: abc.Sequence[Instrument], until: dt.date
) -> int:
    """Queue an alert for each new drop of recall. The caller commits.

    Parameters
    ----------
    session : Session
    instruments : sequence of Instrument
    until : date
        Last night.

    Returns
    -------
    int
        Number of new alerts.
    """
    groups = defaultdict[tuple[str, bool, dt.date], list[RecallDrop]](list)
    for drop in active_drops(session, instruments, until):
        groups[drop.instrument, bool(drop.kind), drop.since].append(drop)
    return sum(
        db.operations.add_alert(
            session,
            core.Topic.SELF_TEST,
            f"self-test {instrument} {'kinds' if of_kind else 'all'} {since}",
            "; ".join(drop.sentence for drop in drops[:NAMED]),
            instrument=instrument,
            night=since,
        )
        for (instrument, of_kind, since), drops in groups.items()
    )


def find_drops(
    instrument: Instrument, rows: abc.Sequence[db.operations.InjectionResult]
) -> list[RecallDrop]:
    """Return an instrument's drops: of all kinds together, and of single kinds.

    Parameters
    ----------
    instrument : Instrument
    rows : sequence of InjectionResult
        Of this instrument.

    Returns
    -------
    list of RecallDrop
    """
    limits = instrument.self_test
    drops = []
    since = drop_start(count_by_night(rows), limits.least_recall, limits.nights)
    if since:
        drops.append(describe_drop(instrument, "", since, rows))
    for kind in sorted({row.kind for row in rows}):
        of_kind = [row for row in rows if row.kind == kind]
        nights = KIND_NIGHTS * limits.nights
        kind_since = drop_start(count_by_night(of_kind), limits.least_recall_of_kind, nights)
        if kind_since and not (since and since <= kind_since):  # named by the first sentence
            drops.append(describe_drop(instrument, kind, kind_since, of_kind))
    return drops


def drop_start(
    counts: abc.Mapping[dt.date, RecallCount], limit: float, nights: int
) -> dt.date | None:
    """Return the first night of a drop that has not ended.

    Parameters
    ----------
    counts : mapping of date to RecallCount
    limit : float
        Least recall.
    nights : int
        Number of nights to sum up.

    Returns
    -------
    date or None
    """
    since, tested = None, sorted(counts)
    for number, night in enumerate(tested, start=1):
        last = [counts[tested_night] for tested_night in tested[max(number - nights, 0) : number]]
        sums = [sum(last[-n:], RecallCount()) for n in range(1, len(last) + 1)]
        if since is None and any(count.is_surely_below(limit) for count in sums):
            since = night
        elif since is not None and sums[-1].recall >= limit:
            since = None
    return since


def describe_drop(
    instrument: Instrument,
    kind: str,
    since: dt.date,
    rows: abc.Sequence[db.operations.InjectionResult],
) -> RecallDrop:
    """Return a drop with its count and sentence.

    Parameters
    ----------
    instrument : Instrument
    kind : str
        Of fault; empty for all kinds together.
    since : date
    rows : sequence of InjectionResult

    Returns
    -------
    RecallDrop
    """
    limits = instrument.self_test
    span = limits.nights * (KIND_NIGHTS if kind else 1)
    tested = sorted({row.night for row in rows})[-span:]
    last = [row for row in rows if row.night in tested]
    count = sum(count_by_night(last).values(), RecallCount())
    limit = limits.least_recall_of_kind if kind else limits.least_recall
    faults = f"injected faults of the kind {kind}" if kind else "injected faults"
    nights = "night" if len(tested) == 1 else f"{len(tested)} nights"
    return RecallDrop(
        instrument=instrument.name,
        kind=kind,
        since=since,
        count=count,
        limit=limit,
        sentence=f"{instrument.name}: {count.found} of {count.tried} {faults} were found in the "
        f"last {nights} ({_percent(count.recall)}), at least {_percent(limit)} should be"
        f"{name_missed(last, kind)}",
    )


def name_missed(rows: abc.Sequence[db.operations.InjectionResult], kind: str) -> str:
    """Return the most frequently missed kinds, or image types of one kind, in words.

    Parameters
    ----------
    rows : sequence of InjectionResult
    kind : str
        Of fault; empty for all kinds together.

    Returns
    -------
    str
    """
    counts = count_by(rows, "image_type" if kind else "kind")
    missed = {name: count for name, count in counts.items() if count.found < count.tried}
    worst = sorted(missed, key=lambda name: missed[name].found - missed[name].tried)
    named = [f"{name} ({missed[name].found} of {missed[name].tried})" for name in worst[:NAMED]]
    more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
    return f"; missed {'in' if kind else 'most'}: {', '.join(named)}{more}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
