"""A week or a month as the QC scientist would ask after it: what came, what was said, what ages."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from qc import db
from qc._text import counted
from qc.core.enums import LabelName, Topic
from qc.core.verdict import Status
from qc.db.findings import Finding
from qc.db.models import (
    AcknowledgementRow,
    AlertRow,
    ClassifierRow,
    EncoderRow,
    ExtensionRow,
    FrameRow,
    JobRunRow,
    LabelRow,
    NotificationRow,
    SelfTestRow,
    VerdictRow,
)
from qc.db.statistics import taken_at
from qc.detection.decision import widening
from qc.detection.thresholds import Threshold, Thresholds
from qc.errors import InvalidInputError
from qc.io.instruments import Instrument
from qc.labels import epochs, spot_check
from qc.labels.epochs import EpochEntry
from qc.labels.spot_check import AcceptanceBound
from qc.monitoring.completeness import MissingReason
from qc.summaries.night import ExtensionStanding, standing

WEEKS = 26  # over half a year a drift shows that no month would
_ABSENCE_JOB = "absence"
_ROWS_AT_ONCE = 2000
_MONTH = re.compile(r"(\d{4})-(\d\d)", re.ASCII)


@dataclass(frozen=True)
class NightRange:
    """Nights in a row.

    Attributes
    ----------
    name : str
        ``November 2026``, ``the week to 2026-11-19``.
    file_name : str
        Without its ending.
    """

    first: date
    last: date
    name: str
    file_name: str


def week_to(last: date) -> NightRange:
    """Return the seven nights that end with one."""
    return NightRange(last - timedelta(days=6), last, f"the week to {last}", f"week-{last}")


def month_of(first: date) -> NightRange:
    """Return the nights of the month that a day is in."""
    first = first.replace(day=1)
    last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    return NightRange(first, last, f"{first:%B %Y}", f"month-{first:%Y-%m}")


def read_month(text: str, today: date) -> NightRange:
    """Return a month by its name, ``2026-11``; ``last`` is the last that is over.

    Raises
    ------
    InvalidAnswer
        If there is no such month.
    """
    if text == "last":
        return month_of(today.replace(day=1) - timedelta(days=1))
    found = _MONTH.fullmatch(text)
    if found is None or not (1 <= int(found[2]) <= 12 and date.min.year < int(found[1]) < 9999):
        raise InvalidInputError(f"month: expected one like 2026-11, or last; got {text[:40]!r}")
    return month_of(date(int(found[1]), int(found[2]), 1))


@dataclass(frozen=True)
class LabelledCase:
    """An extension that people were asked about, or spoke of; light enough to keep thousands."""

    extension_id: int
    frame: str
    number: int
    image_type: str
    chip: str
    instrument: str
    template: str
    night: date
    observed_at: datetime
    score: float
    is_flagged: bool
    reason: str
    label: LabelName | None
    kind: str
    who: str
    said_at: datetime | None
    note: str

    @property
    def name(self) -> str:
        """Write it as people do: the frame's name and the HDU number."""
        return f"{self.frame}[{self.number}]"


@dataclass(frozen=True)
class Incident:
    """Cases of one template set, chip and image type: most often one fault; the worst first."""

    cases: tuple[LabelledCase, ...]

    @property
    def worst(self) -> LabelledCase:
        """Return the one that stands for all."""
        return self.cases[0]


@dataclass(frozen=True)
class VerdictTally:
    """What became of the extensions of an image type.

    Attributes
    ----------
    judged, undecided : int
    flagged : int
        Judged anomalous, of which people `confirmed` some, called others `false_alarms` or real
        changes (`outliers`), and left the rest `unanswered`.
    missed : int
        Judged nominal or undecided, and bad in a person's eyes.
    incomplete : int
        Sets that ended early.
    """

    image_type: str
    judged: int
    flagged: int
    confirmed: int
    false_alarms: int
    outliers: int
    unanswered: int
    missed: int
    undecided: int
    incomplete: int


@dataclass(frozen=True)
class LimitChange:
    """An entry of thresholds.yaml that began to hold.

    Attributes
    ----------
    image_types : tuple of str
        Those that share it.
    old : Threshold or None
        What held before for the same encoder.
    """

    image_types: tuple[str, ...]
    old: Threshold | None
    new: Threshold

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """List what changed: name, old value, new value."""
        before = _limits_in_words(self.old) if self.old else {}
        after = _limits_in_words(self.new)
        names = [name for name in (before | after) if before.get(name) != after.get(name)]
        return [(name, before.get(name, "none"), after.get(name, "none")) for name in names]


@dataclass(frozen=True)
class KindRecallSummary:
    """How many faults of a kind the self-test found again.

    Attributes
    ----------
    weekly : tuple of (found, tried)
        Of each of the span's weeks, oldest first.
    """

    kind: str
    found: int
    tried: int
    weekly: tuple[tuple[int, int], ...]

    @property
    def share(self) -> float:
        """Return what was found, of 1."""
        return self.found / self.tried

    @property
    def words(self) -> str:
        """Say it with its 95 % interval, Clopper & Pearson's."""
        ends = binomtest(self.found, self.tried).proportion_ci()
        low, high = (100 * end for end in (ends.low, ends.high))
        return f"{100 * self.share:.1f} % ({low:.0f} to {high:.0f})"


@dataclass(frozen=True)
class InjectionTestSummary:
    """What the self-test found.

    Attributes
    ----------
    recalls : tuple of Recall
        Of each kind, the worst first.
    nights : tuple of (date, found, tried)
        Of the half year that ends with the span.
    """

    recalls: tuple[KindRecallSummary, ...]
    nights: tuple[tuple[date, int, int], ...]

    @property
    def overall(self) -> KindRecallSummary | None:
        """Add up all kinds."""
        found, tried = (sum(getattr(one, name) for one in self.recalls) for name in _COUNTS)
        weekly = zip(*(one.weekly for one in self.recalls), strict=True)
        summed = tuple((sum(a for a, _ in week), sum(b for _, b in week)) for week in weekly)
        return KindRecallSummary("all kinds", found, tried, summed) if tried else None


_COUNTS = ("found", "tried")


@dataclass(frozen=True)
class ResponseTimes:
    """How fast people answered what they were told of flagged frames.

    Attributes
    ----------
    told : int
        Notices, and alerts that belong to none; silenced ones left out.
    waits : tuple of timedelta
        From the notice to the first label or acknowledgement, of those answered, shortest first.
    """

    told: int
    silenced: int
    waits: tuple[timedelta, ...]

    @property
    def never(self) -> int:
        """Count those that nobody has answered."""
        return self.told - len(self.waits)

    def within(self, share: float) -> timedelta:
        """Return the time in which such a share of the answers had come."""
        seconds = [one.total_seconds() for one in self.waits]
        return timedelta(seconds=float(np.quantile(seconds, share)))


@dataclass(frozen=True)
class TrainingSummary:
    """A classifier that was trained."""

    trained_at: datetime
    who: str
    accepted: bool
    why: str
    labelled: int | None
    macro_f1: float | None


@dataclass(frozen=True)
class LimitMargin:
    """How near good frames of a type come to their limits, week by week.

    Attributes
    ----------
    weeks : tuple of date
        The last night of each.
    ratios : (weeks, 2) float64 array
        Median merge height and median residual over their limits; NaN where there is none.
    """

    image_type: str
    weeks: tuple[date, ...]
    ratios: NDArray[np.float64]


@dataclass(frozen=True)
class IncompleteSet:
    """A template that ended early."""

    template: str
    image_types: tuple[str, ...]
    frames: int
    size: int
    missing: tuple[int, ...]


@dataclass(frozen=True)
class PeriodSummary:
    """What is known of a span.

    Attributes
    ----------
    instruments : tuple of str
        That had frames.
    encoders : tuple of str
        Fingerprints of those whose verdicts count here.
    nights : int
        That had frames.
    confirmed, false_alarms, unanswered, missed : tuple of Incident
        The worst first. What was missed is confirmed too.
    failed : tuple of FrameRow
        Files that could not be judged.
    absences : tuple of str
        In words, as people were told of them.
    is_watched : bool
        Whether absences were looked for in this time.
    """

    span: NightRange
    instruments: tuple[str, ...]
    encoders: tuple[str, ...]
    frames: int
    nights: int
    tallies: tuple[VerdictTally, ...]
    confirmed: tuple[Incident, ...]
    false_alarms: tuple[Incident, ...]
    unanswered: tuple[Incident, ...]
    missed: tuple[Incident, ...]
    incomplete: tuple[IncompleteSet, ...]
    failed: tuple[FrameRow, ...]
    absences: tuple[str, ...]
    is_watched: bool
    changes: tuple[LimitChange, ...]
    epochs: tuple[EpochEntry, ...]
    self_test: InjectionTestSummary
    replies: ResponseTimes
    schoolings: tuple[TrainingSummary, ...]
    statements: tuple[AcceptanceBound, ...]
    ageing: tuple[LimitMargin, ...]

    def count(self, what: str) -> int:
        """Add up a column of the tallies."""
        return sum(getattr(one, what) for one in self.tallies)

    @property
    def summary(self) -> str:
        """Say it all in a few sentences."""
        judged = counted(self.count("judged"), "extension was", "extensions were")
        frames = counted(self.frames, "frame", "frames")
        nights = counted(self.nights, "night", "nights")
        return " ".join(
            [
                f"{judged} judged, of {frames} in {nights}; {self._flagged()}.",
                *self._found_by_people(),
                *self._lost(),
                *self._watch(),
            ]
        )

    def _flagged(self) -> str:
        if not self.count("flagged"):
            return "none was flagged"
        became = [
            f"{self.count(column)} {words}"
            for column, words in _BECAME.items()
            if self.count(column)
        ]
        return f"{self.count('flagged')} flagged: " + ", ".join(became)

    def _found_by_people(self) -> Iterator[str]:
        if missed := self.count("missed"):
            yield f"People called {missed} more bad that had not been flagged."

    def _lost(self) -> Iterator[str]:
        lost = [
            counted(len(self.failed), "file failed", "files failed") if self.failed else "",
            counted(len(self.incomplete), "set ended early", "sets ended early")
            if self.incomplete
            else "",
            counted(len(self.absences), "absence was noticed", "absences were noticed")
            if self.absences
            else "",
        ]
        if any(lost):
            yield ", ".join(filter(None, lost)) + "."

    def _watch(self) -> Iterator[str]:
        if overall := self.self_test.overall:
            share = f"{100 * overall.share:.1f} %"
            yield f"The self-test found {share} of {overall.tried} known faults."
        if self.replies.waits:
            notices = counted(self.replies.told, "notice", "notices")
            half = in_hours(self.replies.within(0.5))
            yield f"Of {notices}, {self.replies.never} got no answer; half of the rest in {half}."
        elif self.replies.told:
            yield f"None of {counted(self.replies.told, 'notice', 'notices')} was answered."
        if self.changes:
            types = len({name for one in self.changes for name in one.image_types})
            yield f"Limits of {counted(types, 'image type', 'image types')} changed."


_BECAME = {
    "confirmed": "confirmed bad",
    "false_alarms": "false alarms",
    "outliers": "valid outliers",
    "unanswered": "not answered",
}


def in_hours(wait: timedelta) -> str:
    """Say how long something took, in a unit that fits."""
    minutes = wait.total_seconds() / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.1f} d"


def read_period(
    session: Session, span: NightRange, instruments: Sequence[Instrument], thresholds: Thresholds
) -> PeriodSummary:
    """Return all that is known of a span; its findings are read one after the other."""
    seen = _FindingCollector()
    for finding in db.findings.findings(session, span.first, span.last):
        seen.take(finding)
    absences = _absences(session, span)
    incomplete = _incomplete_sets(session, span)
    return PeriodSummary(
        span=span,
        instruments=tuple(sorted(seen.instruments)),
        encoders=tuple(sorted(seen.encoders)),
        frames=len(seen.frames),
        nights=len(seen.nights),
        tallies=_tallies(seen, incomplete),
        confirmed=_incidents(one for one in seen.cases if one.label == LabelName.BAD),
        false_alarms=_incidents(
            one for one in seen.cases if one.is_flagged and one.label == LabelName.GOOD
        ),
        unanswered=_incidents(one for one in seen.cases if one.is_flagged and not one.label),
        missed=_incidents(
            one for one in seen.cases if not one.is_flagged and one.label == LabelName.BAD
        ),
        incomplete=incomplete,
        failed=_failed(session, span, instruments, seen.instruments),
        absences=tuple(row.words for row in absences),
        is_watched=bool(absences) or _is_watched(session, span),
        changes=limit_changes(thresholds, span),
        epochs=_epochs(session, span),
        self_test=_self_test(session, span),
        replies=_replies(session, span),
        schoolings=_schoolings(session, span),
        statements=spot_check.statements(
            spot_check.read_draws(session, spot_check.remembered_from(span.last), span.last)
        ),
        ageing=_ageing(session, span.last, thresholds),
    )


# --- what was judged ------------------------------------------------------------------------------


class _FindingCollector:
    """What is kept of the findings of a span, as they pass by; of ordinary ones, a count."""

    def __init__(self) -> None:
        self.frames: set[int] = set()
        self.nights: set[date] = set()
        self.instruments: set[str] = set()
        self.encoders: set[str] = set()
        self.cases: list[LabelledCase] = []
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)

    def take(self, finding: Finding) -> None:
        frame, verdict, label = finding.frame, finding.verdict, finding.label
        self.frames.add(frame.id)
        if frame.night:
            self.nights.add(frame.night)
        self.instruments.add(frame.instrument or "")
        self.encoders.add(finding.fingerprint)
        counts = self.counts[finding.extension.image_type]
        counts["judged"] += 1
        counts["undecided"] += standing(finding) is ExtensionStanding.UNDECIDED
        is_flagged = verdict.status == Status.ANOMALOUS
        if is_flagged or (label is not None and label.label == LabelName.BAD):
            self.cases.append(_case(finding))
            counts[_became(is_flagged, label)] += 1
            counts["flagged"] += is_flagged


def _became(is_flagged: bool, label: LabelRow | None) -> str:
    """Name the column of the tally that a case belongs to."""
    if label is None:
        return "unanswered"
    if label.label == LabelName.BAD:
        return "confirmed" if is_flagged else "missed"
    return "outliers" if label.label == LabelName.VALID_OUTLIER else "false_alarms"


def _case(finding: Finding) -> LabelledCase:
    frame, extension, label = finding.frame, finding.extension, finding.label
    assert frame.night is not None  # a processed frame has one
    assert frame.observed_at is not None
    return LabelledCase(
        extension_id=extension.id,
        frame=frame.name,
        number=extension.number,
        image_type=extension.image_type,
        chip=extension.chip,
        instrument=frame.instrument or "",
        template=frame.template or "",
        night=frame.night,
        observed_at=frame.observed_at,
        score=finding.verdict.score,
        is_flagged=finding.verdict.status == Status.ANOMALOUS,
        reason=next(iter(finding.verdict.reasons), ""),
        label=LabelName(label.label) if label else None,
        kind=label.kind if label else "",
        who=label.who if label else "",
        said_at=label.at if label else None,
        note=label.note if label else "",
    )


def _incidents(cases: Iterable[LabelledCase]) -> tuple[Incident, ...]:
    groups: dict[tuple[str, str, str, str], list[LabelledCase]] = defaultdict(list)
    for one in cases:
        occasion = one.template or one.frame
        groups[one.instrument, occasion, one.chip, one.image_type].append(one)
    for group in groups.values():
        group.sort(key=lambda one: -one.score)
    found = [Incident(tuple(group)) for group in groups.values()]
    return tuple(sorted(found, key=lambda one: (-one.worst.score, one.worst.observed_at)))


def _tallies(
    seen: _FindingCollector, incomplete: Sequence[IncompleteSet]
) -> tuple[VerdictTally, ...]:
    ended_early = Counter(name for one in incomplete for name in one.image_types)
    columns = ("judged", "flagged", "confirmed", "false_alarms", "outliers", "unanswered")
    return tuple(
        VerdictTally(
            image_type=name,
            **{column: seen.counts[name][column] for column in (*columns, "missed", "undecided")},
            incomplete=ended_early[name],
        )
        for name in sorted(seen.counts)
    )


def _incomplete_sets(session: Session, span: NightRange) -> tuple[IncompleteSet, ...]:
    """List the template sets that ended early, oldest first."""
    row = FrameRow
    query = (
        select(row.instrument, row.template, row.template_number, row.template_size)
        .add_columns(ExtensionRow.image_type)
        .join(ExtensionRow.frame)
        .where(row.night >= span.first, row.night <= span.last, row.template != "")
        .order_by(row.observed_at, row.id)
    )
    sets: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for one in session.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)):
        sets[one.instrument, one.template].append(one)
    found = (_incomplete_set(template, rows) for (_, template), rows in sets.items())
    return tuple(one for one in found if one.frames < one.size)


def _incomplete_set(template: str, rows: Sequence[Any]) -> IncompleteSet:
    size = max(one.template_size or 0 for one in rows)
    numbers = {one.template_number for one in rows}
    return IncompleteSet(
        template=template,
        image_types=tuple(sorted({one.image_type for one in rows})),
        frames=len(numbers),
        size=size,
        missing=tuple(n for n in range(1, size + 1) if n not in numbers),
    )


def _absences(session: Session, span: NightRange) -> Sequence[AlertRow]:
    """Return what people were told was missing; sets that ended early have a table of their own."""
    query = (
        select(AlertRow)
        .where(
            AlertRow.topic == Topic.ABSENCE,
            AlertRow.night >= span.first,
            AlertRow.night <= span.last,
            ~AlertRow.key.contains(MissingReason.SET_STOPPED),
        )
        .order_by(AlertRow.night, AlertRow.id)
    )
    return session.scalars(query).all()


def _is_watched(session: Session, span: NightRange) -> bool:
    query = select(JobRunRow.id).where(
        JobRunRow.job == _ABSENCE_JOB,
        JobRunRow.started_at >= _midnight(span.first),
        JobRunRow.started_at < _midnight(span.last) + timedelta(days=2),
    )
    return session.scalar(query.limit(1)) is not None


def _failed(
    session: Session, span: NightRange, instruments: Sequence[Instrument], in_use: Iterable[str]
) -> tuple[FrameRow, ...]:
    """Return the files that could not be judged and were taken in the span, as well as is known."""
    used = [one for one in instruments if one.name in in_use] or instruments
    hours = timedelta(hours=min(one.night_starts_utc_hour for one in used))
    start, end = _midnight(span.first) + hours, _midnight(span.last) + hours + timedelta(days=1)
    rows = db.statistics.failed(session)
    return tuple(row for row in rows if start <= taken_at(row) < end)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


# --- what people changed --------------------------------------------------------------------------


def limit_changes(thresholds: Thresholds, span: NightRange) -> tuple[LimitChange, ...]:
    """List the entries that began to hold in a span; types that share one stand together."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, dated in thresholds.entries.items():
        names[id(dated)].append(name)  # types that share a key of the file share the very tuple
    lists = {id(dated): dated for dated in thresholds.entries.values()}
    found = [
        LimitChange(tuple(names[key]), _before(dated[:place], entry), entry)
        for key, dated in lists.items()
        for place, entry in enumerate(dated)
        if span.first <= entry.since <= span.last
    ]
    return tuple(sorted(found, key=lambda one: (one.new.since, one.image_types)))


def _before(earlier: Sequence[Threshold], entry: Threshold) -> Threshold | None:
    return next((one for one in reversed(earlier) if one.encoder == entry.encoder), None)


def _limits_in_words(entry: Threshold) -> dict[str, str]:
    metrics = {
        name.replace("_", " "): f"{limit.warn:g} / {limit.alarm:g} sigma"
        for name, limit in entry.metrics.items()
    }
    return {
        "merge height": f"{entry.merge_height:.3g}",
        "residual": f"{entry.residual:.3g} sigma",
        "false alarms": f"{entry.false_alarms:g}",
        **metrics,
    }


def _epochs(session: Session, span: NightRange) -> tuple[EpochEntry, ...]:
    """Return the interventions of a span and those that were entered in it, undone or not."""
    return tuple(
        one
        for one in epochs.read_log(session)
        if span.first <= one.epoch.since <= span.last
        or span.first <= one.epoch.at.date() <= span.last
    )


def _schoolings(session: Session, span: NightRange) -> tuple[TrainingSummary, ...]:
    row = ClassifierRow  # its content is megabytes
    query = (
        select(row.trained_at, row.who, row.accepted, row.why, row.figures)
        .where(
            row.trained_at >= _midnight(span.first),
            row.trained_at < _midnight(span.last) + timedelta(days=2),
        )
        .order_by(row.id)
    )
    return tuple(
        TrainingSummary(
            trained_at=one.trained_at,
            who=one.who,
            accepted=one.accepted,
            why=one.why,
            labelled=one.figures.get("labelled"),
            macro_f1=((one.figures.get("new") or {}).get("macro_f1") or {}).get("value"),
        )
        for one in session.execute(query)
    )


# --- how good the watch is ------------------------------------------------------------------------


def _self_test(session: Session, span: NightRange) -> InjectionTestSummary:
    weeks = (span.last - span.first).days // 7 + 1
    by_night: Counter[date] = Counter()
    found_by_night: Counter[date] = Counter()
    kinds: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for night, kind, is_found in _trials(session, span.last):
        by_night[night] += 1
        found_by_night[night] += is_found
        if night >= span.first:
            kinds[kind].append(((night - span.first).days // 7, is_found))
    recalls = [
        KindRecallSummary(
            kind=kind,
            found=sum(found for _, found in tried),
            tried=len(tried),
            weekly=tuple(_of_week(tried, week) for week in range(weeks)),
        )
        for kind, tried in kinds.items()
    ]
    return InjectionTestSummary(
        recalls=tuple(sorted(recalls, key=lambda one: (one.share, one.kind))),
        nights=tuple((night, found_by_night[night], n) for night, n in sorted(by_night.items())),
    )


def _trials(session: Session, last: date) -> Iterator[tuple[date, str, bool]]:
    query = select(SelfTestRow.night, SelfTestRow.kind, SelfTestRow.is_found).where(
        SelfTestRow.night > last - timedelta(weeks=WEEKS), SelfTestRow.night <= last
    )
    for row in session.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)):
        yield row.night, row.kind, row.is_found


def _of_week(tried: Sequence[tuple[int, bool]], week: int) -> tuple[int, int]:
    own = [found for when, found in tried if when == week]
    return sum(own), len(own)


def _replies(session: Session, span: NightRange) -> ResponseTimes:
    query = (
        select(AlertRow.owed_at, AlertRow.silence_id, VerdictRow.extension_id, NotificationRow)
        .join(VerdictRow, VerdictRow.id == AlertRow.verdict_id)
        .outerjoin(NotificationRow, NotificationRow.id == AlertRow.notice_id)
        .where(
            AlertRow.topic == Topic.VERDICT,
            AlertRow.night >= span.first,
            AlertRow.night <= span.last,
        )
        .order_by(AlertRow.id)
    )
    groups: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    silenced = 0
    notices: set[int] = set()
    for owed_at, silence_id, extension_id, notice in session.execute(query):
        if notice is not None:
            notices.add(notice.id)
            groups[f"notice {notice.id}"].append((notice.made_at, extension_id))
        elif silence_id is None:
            groups[f"extension {extension_id}"].append((owed_at, extension_id))
        else:
            silenced += 1
    ids = [extension_id for told in groups.values() for _, extension_id in told]
    labels, seen = _first_labels(session, ids), _acknowledged(session, notices)
    waits = [_wait(key, told, labels, seen) for key, told in groups.items()]
    return ResponseTimes(
        len(groups), silenced, tuple(sorted(one for one in waits if one is not None))
    )


def _first_labels(session: Session, ids: Sequence[int]) -> Mapping[int, list[datetime]]:
    said = db.labels.labels_of(session, ids)
    return {one: [row.at for row in rows if row.undoes_id is None] for one, rows in said.items()}


def _acknowledged(session: Session, notices: set[int]) -> Mapping[str, datetime]:
    query = select(AcknowledgementRow.notice_id, func.min(AcknowledgementRow.at)).group_by(
        AcknowledgementRow.notice_id
    )
    return {f"notice {one}": at for one, at in session.execute(query) if one in notices}


def _wait(
    key: str,
    told: Sequence[tuple[datetime, int]],
    labels: Mapping[int, list[datetime]],
    acknowledged: Mapping[str, datetime],
) -> timedelta | None:
    """Return the time from a notice to the first answer to any of its frames."""
    since = min(at for at, _ in told)
    answers = [at for _, one in told for at in labels.get(one, ()) if at >= since]
    answers += [acknowledged[key]] if key in acknowledged else []
    return max(min(answers) - since, timedelta()) if answers else None


def _ageing(session: Session, last: date, thresholds: Thresholds) -> tuple[LimitMargin, ...]:
    weeks = tuple(last - timedelta(weeks=back) for back in range(WEEKS - 1, -1, -1))
    ratios: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for row in _distances(session, weeks[0] - timedelta(days=6), last):
        residual_limit = _residual_limit(thresholds, row)
        merge = row.merge_height / row.threshold if row.merge_height is not None else np.nan
        residual = row.residual / residual_limit if row.residual is not None else np.nan
        week = WEEKS - 1 - (last - row.night).days // 7
        ratios[row.image_type, week].append((merge, residual))
    names = sorted({name for name, _ in ratios})
    return tuple(LimitMargin(name, weeks, _medians(ratios, name)) for name in names)


def _medians(
    ratios: Mapping[tuple[str, int], list[tuple[float, float]]], name: str
) -> NDArray[np.float64]:
    found = np.full((WEEKS, 2), np.nan)
    for week in range(WEEKS):
        values = np.array(ratios.get((name, week), []), np.float64).reshape(-1, 2)
        for column in range(2):
            known = values[np.isfinite(values[:, column]), column]
            if known.size:
                found[week, column] = np.median(known)
    return found


def _residual_limit(thresholds: Thresholds, row: Any) -> float:
    """Return what a residual was held against, by the thresholds file of today."""
    known = thresholds.entries.get(row.image_type, ())
    valid = [e for e in known if e.encoder == row.fingerprint and e.since <= row.night]
    return valid[-1].residual * widening(row.reference_size) if valid else float("nan")


def _distances(session: Session, first: date, last: date) -> Iterator[Any]:
    query = (
        select(
            ExtensionRow.image_type,
            FrameRow.night,
            VerdictRow.merge_height,
            VerdictRow.residual,
            VerdictRow.threshold,
            VerdictRow.reference_size,
            EncoderRow.fingerprint,
        )
        .join(ExtensionRow.frame)
        .join(VerdictRow, VerdictRow.id == db.verdicts.newest_verdict_id())
        .join(EncoderRow, EncoderRow.id == VerdictRow.encoder_id)
        .where(FrameRow.night >= first, FrameRow.night <= last)
    )
    yield from session.execute(query.execution_options(yield_per=_ROWS_AT_ONCE))
