"""How many known faults are found: the self-test's trials as figures, and when they fall too low.

Rows in, figures out; `selftest` makes the rows.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from scipy.stats import beta
from sqlalchemy.orm import Session

from qc import db
from qc.core.enums import Topic
from qc.db.self_tests import InjectionResult
from qc.io.instruments import Instrument

SHOWN_NIGHTS = 30
REMEMBERED = timedelta(days=90)  # a fall that has lasted for longer is told once more
CONFIDENCE = 0.95  # of the intervals shown
PROVEN = 0.995  # one-sided: so sure must be that recall is below its limit
KIND_NIGHTS = 2  # times as many nights for one kind: it has few trials a night
NAMED = 5  # kinds named in one sentence


def recall_interval(found: int, tried: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Clopper and Pearson's interval of a recall: never too narrow, however few the trials.

    Clopper & Pearson 1934, Biometrika 26, 404.
    """
    rest = (1 - confidence) / 2
    low = beta.ppf(rest, found, tried - found + 1) if found else 0.0
    high = beta.ppf(1 - rest, found + 1, tried - found) if found < tried else 1.0
    return float(low), float(high)


@dataclass(frozen=True)
class RecallCount:
    """How many of so many injected faults were found."""

    found: int = 0
    tried: int = 0

    def __add__(self, other: "RecallCount") -> "RecallCount":
        return RecallCount(self.found + other.found, self.tried + other.tried)

    @property
    def recall(self) -> float:
        """Return the part that was found; all of nothing."""
        return self.found / self.tried if self.tried else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """Return the interval of 95 %."""
        return recall_interval(self.found, self.tried)

    def is_surely_below(self, limit: float) -> bool:
        """Say whether a recall at the limit would hardly ever show so few."""
        _, high = recall_interval(self.found, self.tried, 2 * PROVEN - 1)
        return high < limit


@dataclass(frozen=True)
class KindRecall:
    """How one kind of fault has been found lately.

    Attributes
    ----------
    strengths : mapping of str to Count
        In order of strength as tried.
    missed : tuple of str
        Image types in which it was missed.
    last_missed : date or None
        Night.
    """

    kind: str
    strengths: Mapping[str, RecallCount]
    missed: tuple[str, ...]
    last_missed: date | None

    @property
    def all(self) -> RecallCount:
        """Return all strengths together."""
        return sum(self.strengths.values(), RecallCount())


@dataclass(frozen=True)
class NightRecall:
    """How one night's self-test went."""

    night: date
    count: RecallCount


def recall_by_kind(
    session: Session, until: date, nights: int = SHOWN_NIGHTS, instrument: str | None = None
) -> tuple[KindRecall, ...]:
    """Return how each kind of fault was found in the last nights, the least found first.

    Parameters
    ----------
    until : date
        The last night that counts.
    instrument : str, optional
        Only of this one.
    """
    by_kind = defaultdict[str, list[InjectionResult]](list)
    for one in _tried(session, until, nights, instrument):
        by_kind[one.kind].append(one)
    found = [_kind_recall(kind, rows) for kind, rows in by_kind.items()]
    return tuple(sorted(found, key=lambda one: (one.all.recall, -one.all.tried, one.kind)))


def recall_by_night(
    session: Session, until: date, nights: int = SHOWN_NIGHTS, instrument: str | None = None
) -> tuple[NightRecall, ...]:
    """Return how each of the last nights' self-tests went, oldest first."""
    counts = _by_night(_tried(session, until, nights, instrument))
    return tuple(NightRecall(night, counts[night]) for night in sorted(counts))


def _tried(
    session: Session, until: date, nights: int, instrument: str | None
) -> list[InjectionResult]:
    first = until - timedelta(days=nights - 1)
    rows = db.self_tests.faults_tried(session, first, until)
    return [one for one in rows if instrument in {None, one.instrument}]


def _kind_recall(kind: str, rows: Sequence[InjectionResult]) -> KindRecall:
    strengths = defaultdict[str, RecallCount](RecallCount)
    for one in rows:
        strengths[one.strength] += RecallCount(one.found, one.tried)
    missed = [one for one in rows if one.found < one.tried]
    return KindRecall(
        kind=kind,
        strengths=dict(sorted(strengths.items())),
        missed=tuple(sorted({one.image_type for one in missed})),
        last_missed=max((one.night for one in missed), default=None),
    )


def _by_night(rows: Iterable[InjectionResult]) -> Mapping[date, RecallCount]:
    counts = defaultdict[date, RecallCount](RecallCount)
    for one in rows:
        counts[one.night] += RecallCount(one.found, one.tried)
    return counts


# --- when it is too low ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RecallDrop:
    """Known faults are found too seldom since a night.

    Attributes
    ----------
    kind : str
        Of fault; empty for all together.
    since : date
        The first night on which it was sure.
    count : Count
        Of the last nights.
    """

    instrument: str
    kind: str
    since: date
    count: RecallCount
    limit: float
    sentence: str


def standing_falls(
    session: Session, instruments: Sequence[Instrument], until: date
) -> tuple[RecallDrop, ...]:
    """Return where recall fell below the instruments' limits and has not risen again.

    It has fallen when one of the last 1, 2, 3 ... nights together have so few found that a recall
    at the limit would show them once in 200 times: a blind encoder is noticed the next morning, a
    slow decline within a week, and one unlucky miss wakes nobody. It has risen when the last nights
    together are at the limit again.
    """
    rows = db.self_tests.faults_tried(session, until - REMEMBERED, until)
    return tuple(
        fall
        for instrument in instruments
        for fall in _falls(instrument, [one for one in rows if one.instrument == instrument.name])
    )


def owe_falls(session: Session, instruments: Sequence[Instrument], until: date) -> int:
    """Owe people word of each fall, once; return how many are new. The caller commits."""
    groups = defaultdict[tuple[str, bool, date], list[RecallDrop]](list)
    for fall in standing_falls(session, instruments, until):
        groups[fall.instrument, bool(fall.kind), fall.since].append(fall)
    return sum(
        db.alerts.owe_alert(
            session,
            Topic.SELF_TEST,
            f"self-test {instrument} {'kinds' if of_kind else 'all'} {since}",
            "; ".join(one.sentence for one in falls[:NAMED]),
            instrument=instrument,
            night=since,
        )
        for (instrument, of_kind, since), falls in groups.items()
    )


def _falls(instrument: Instrument, rows: Sequence[InjectionResult]) -> list[RecallDrop]:
    limits = instrument.self_test
    fallen = []
    since = _fallen_since(_by_night(rows), limits.least_recall, limits.nights)
    if since:
        fallen.append(_fall(instrument, "", since, rows))
    for kind in sorted({one.kind for one in rows}):
        own = [one for one in rows if one.kind == kind]
        nights = KIND_NIGHTS * limits.nights
        of_kind = _fallen_since(_by_night(own), limits.least_recall_of_kind, nights)
        if of_kind and not (since and since <= of_kind):  # the first sentence names it
            fallen.append(_fall(instrument, kind, of_kind, own))
    return fallen


def _fallen_since(counts: Mapping[date, RecallCount], limit: float, nights: int) -> date | None:
    """Return since when recall has been below a limit; None if it is not."""
    since, tested = None, sorted(counts)
    for number, night in enumerate(tested, start=1):
        last = [counts[one] for one in tested[max(number - nights, 0) : number]]
        sums = [sum(last[-n:], RecallCount()) for n in range(1, len(last) + 1)]
        if since is None and any(one.is_surely_below(limit) for one in sums):
            since = night
        elif since is not None and sums[-1].recall >= limit:
            since = None
    return since


def _fall(
    instrument: Instrument, kind: str, since: date, rows: Sequence[InjectionResult]
) -> RecallDrop:
    limits = instrument.self_test
    nights_kept = limits.nights * (KIND_NIGHTS if kind else 1)
    tested = sorted({one.night for one in rows})[-nights_kept:]
    last = [one for one in rows if one.night in tested]
    count = sum(_by_night(last).values(), RecallCount())
    limit = limits.least_recall_of_kind if kind else limits.least_recall
    what = f"injected faults of the kind {kind}" if kind else "injected faults"
    nights = "night" if len(tested) == 1 else f"{len(tested)} nights"
    return RecallDrop(
        instrument=instrument.name,
        kind=kind,
        since=since,
        count=count,
        limit=limit,
        sentence=f"{instrument.name}: {count.found} of {count.tried} {what} were found in the last "
        f"{nights} ({_percent(count.recall)}), at least {_percent(limit)} should be"
        f"{_missed_in_words(last, kind)}",
    )


def _missed_in_words(rows: Sequence[InjectionResult], kind: str) -> str:
    """Name what was missed most: kinds, or image types of one kind."""
    counts = defaultdict[str, RecallCount](RecallCount)
    for one in rows:
        counts[one.image_type if kind else one.kind] += RecallCount(one.found, one.tried)
    missed = {name: one for name, one in counts.items() if one.found < one.tried}
    worst = sorted(missed, key=lambda name: missed[name].found - missed[name].tried)
    named = [f"{name} ({missed[name].found} of {missed[name].tried})" for name in worst[:NAMED]]
    more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
    return f"; missed {'in' if kind else 'most'}: {', '.join(named)}{more}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
