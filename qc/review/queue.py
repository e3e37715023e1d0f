"""The review: which extensions a person should look at next, and what to know of each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from qc import db
from qc._text import chosen, chosen_all
from qc.core.enums import LabelName
from qc.core.verdict import Status
from qc.db.findings import Finding
from qc.db.models import BEYOND_IDS, ExtensionRow, FrameRow, LabelRow, VerdictRow
from qc.db.selection import ExtensionRef
from qc.errors import InvalidInputError, UnknownFrameError
from qc.io.instruments import FaultKind, Instrument
from qc.labels import spot_check, store
from qc.project import image_types_of
from qc.review.idempotency import CurrentLabel, word
from qc.summaries.night import standing

FEW = 20_000  # that many are sorted in the time of a page; more are read in a stored order
_FIRST_STRETCH, _LONGEST_STRETCH = 1000, 8000  # of an order, looked through at a time
_LONG_WAY = 30_000  # looked through in vain
_SETUP = ("chip", "binning", "read_mode", "optics")
_DRAWN_AT_MOST = 30_000  # what a question can name


class QueueOrder(StrEnum):
    """What comes first."""

    DOUBT = "doubt"  # without a verdict, then nearest to the limit on either side
    SCORE = "score"
    TIME = "time"  # newest first
    INFORMATIVE = "informative"  # what the classifier would learn most from


class LabelFilter(StrEnum):
    """Whether a label counts."""

    NO = "no"
    YES = "yes"
    ANY = "any"


@dataclass(frozen=True)
class QueueFilters:
    """Which extensions are wanted; None and empty words are any.

    Attributes
    ----------
    first, last : date or None
        Nights.
    types : str
        Image types, apart by commas or spaces; ``*`` and ``?`` stand for letters.
    setup : str
        Words that chip, binning, read mode, optics or wavelength must have, all of them.
    kind : str
        Of fault: as labelled, or else as predicted.
    least, most : float or None
        Of the score.
    by : str
        Who gave the label that counts.
    is_sample : bool
        Only what was drawn for the spot check; of the newest night, where none is named.
    """

    first: date | None = None
    last: date | None = None
    types: str = ""
    setup: str = ""
    status: str = ""
    kind: str = ""
    least: float | None = None
    most: float | None = None
    labelled: LabelFilter = LabelFilter.ANY
    by: str = ""
    is_sample: bool = False
    order: QueueOrder = QueueOrder.DOUBT


@dataclass(frozen=True)
class Page:
    """Some extensions in the order asked for.

    Attributes
    ----------
    ids : tuple of int
    after : str
        Where those that follow begin; empty where none do.
    """

    ids: tuple[int, ...]
    after: str


def read_some(
    session: Session,
    instruments: Sequence[Instrument],
    filters: QueueFilters,
    count: int,
    after: str = "",
) -> Page:
    """Return the next extensions in a stored order.

    Parameters
    ----------
    after : str
        Of the answer before this one.

    Raises
    ------
    InvalidAnswer
        If there is no such image type, status or kind, or `after` is no place.
    """
    order = _ORDERS[filters.order]
    wanted = _wanted(order).where(*_conditions(session, instruments, filters))
    place = _read_place(order, after) if after else None
    narrow: list[ColumnElement[bool]] = []
    if order.value is ExtensionRow.observed_at:
        narrow = db.engine.taken_in(*_nights(filters)) + _of_types(instruments, filters)
    if filters.order is not QueueOrder.TIME and _are_few(session, instruments, filters):
        rows = _sorted(session, order, wanted, place, count + 1)
    else:
        rows = _walked(session, order, wanted, narrow, place, count + 1)
    more = len(rows) > count
    rows = rows[:count]
    return Page(tuple(row.id for row in rows), _spell_place(rows[-1]) if more else "")


@dataclass(frozen=True)
class _SortKey:
    """A stored order, largest first, and what tells equals apart."""

    value: InstrumentedAttribute[Any]
    tie: InstrumentedAttribute[int]
    read: Callable[[str], Any]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


_ORDERS = {
    QueueOrder.DOUBT: _SortKey(VerdictRow.doubt, VerdictRow.id, float),
    QueueOrder.SCORE: _SortKey(VerdictRow.score, VerdictRow.id, float),
    QueueOrder.TIME: _SortKey(ExtensionRow.observed_at, ExtensionRow.id, _time),
    QueueOrder.INFORMATIVE: _SortKey(ExtensionRow.observed_at, ExtensionRow.id, _time),
}


@dataclass(frozen=True)
class _Cursor:
    """The last that was seen in an order."""

    value: Any
    tie: int


def _wanted(order: _SortKey) -> Select[Any]:
    """Select extensions with their places in an order, of each the newest verdict alone."""
    return (
        select(ExtensionRow.id, order.value.label("value"), order.tie.label("tie"))
        .join(ExtensionRow.frame)
        .join(VerdictRow, VerdictRow.extension_id == ExtensionRow.id)
        .where(_is_newest())
    )


def _sorted(
    session: Session, order: _SortKey, wanted: Select[Any], place: _Cursor | None, count: int
) -> list[Any]:
    """Find all that are wanted, and return those that come next."""
    if place:
        wanted = wanted.where(_beyond(order, place))
    value = func.coalesce(order.value, order.value)  # sorted, not read along the index
    return list(session.execute(wanted.order_by(value.desc(), order.tie.desc()).limit(count)))


def _walked(
    session: Session,
    order: _SortKey,
    wanted: Select[Any],
    narrow: Sequence[ColumnElement[bool]],
    place: _Cursor | None,
    count: int,
) -> list[Any]:
    """Go through a stored order, some thousand at a time, and return those that come next.

    A database that is given order and conditions in one question may find all that fit first,
    as PostgreSQL does; so it is asked of one stretch of the order after the other. Where so few
    fit that hardly any were met on a long way, finding all is quicker after all.
    """
    found: list[Any] = []
    size, far = _FIRST_STRETCH, 0
    descending = (order.value.desc(), order.tie.desc())
    while len(found) < count:
        ahead = select(order.value.label("value"), order.tie.label("tie")).where(*narrow)
        ahead = ahead.order_by(*descending)
        if place:
            ahead = ahead.where(_beyond(order, place))
        stretch = ahead.limit(size).subquery()
        these = wanted.join(stretch, stretch.c.tie == order.tie).order_by(*descending)
        found += session.execute(these.limit(count - len(found)))
        last = session.execute(ahead.offset(size - 1).limit(1)).first()
        if last is None:
            break
        far += size
        place, size = _Cursor(*last), min(2 * size, _LONGEST_STRETCH)
        if far > _LONG_WAY and len(found) < count:
            return found + _sorted(session, order, wanted, place, count - len(found))
    return found


def _spell_place(row: Any) -> str:
    value = row.value
    spelt = value.strftime("%Y-%m-%dT%H:%M:%S.%f") if isinstance(value, datetime) else repr(value)
    return f"{spelt}_{row.tie}"


def _read_place(order: _SortKey, after: str) -> _Cursor:
    spelt, _, tie = after.partition("_")
    try:
        place = _Cursor(order.read(spelt), int(tie))
    except ValueError:
        raise InvalidInputError(f"after: '{after[:60]}' is no place in this order") from None
    if not 0 <= place.tie < BEYOND_IDS:
        raise InvalidInputError(f"after: '{after[:60]}' is no place in this order")
    return place


def _beyond(order: _SortKey, place: _Cursor) -> ColumnElement[bool]:
    return tuple_(order.value, order.tie) < (place.value, place.tie)


def _is_newest() -> ColumnElement[bool]:
    newer = aliased(VerdictRow)
    return ~exists().where(newer.extension_id == VerdictRow.extension_id, newer.id > VerdictRow.id)


def _are_few(session: Session, instruments: Sequence[Instrument], filters: QueueFilters) -> bool:
    """Say whether so few fit that sorting them is quicker than looking for them in a long order."""
    if filters.is_sample:
        return True
    found: list[Select[Any]] = []
    if filters.labelled is LabelFilter.YES or filters.by:
        said = select(LabelRow.id)
        found.append(said.where(LabelRow.who == filters.by) if filters.by else said)
    if filters.first or filters.last or filters.types:
        narrow = db.engine.of_nights(*_nights(filters)) + _of_types(instruments, filters)
        found.append(select(ExtensionRow.id).join(ExtensionRow.frame).where(*narrow))
    return any(_are_at_most(session, one, FEW) for one in found)


def _are_at_most(session: Session, found: Select[Any], most: int) -> bool:
    some = found.limit(most + 1).subquery()
    return (session.scalar(select(func.count()).select_from(some)) or 0) <= most


def _conditions(
    session: Session, instruments: Sequence[Instrument], filters: QueueFilters
) -> list[ColumnElement[bool]]:
    found = db.engine.of_nights(*_nights(filters)) + _of_types(instruments, filters)
    found += [_has_word(word) for word in filters.setup.split()]
    if filters.status:
        status = Status(chosen(filters.status, Status, "status"))
        found.append(VerdictRow.status == status)
    if filters.least is not None:
        found.append(VerdictRow.score >= filters.least)
    if filters.most is not None:
        found.append(VerdictRow.score <= filters.most)
    return found + _label_conditions(instruments, filters) + _sample(session, filters)


def _of_types(
    instruments: Sequence[Instrument], filters: QueueFilters
) -> list[ColumnElement[bool]]:
    words = filters.types.replace(",", " ").split()
    known = chosen_all(words, image_types_of(instruments), "image type")
    return [ExtensionRow.image_type.in_(known)] if words else []


def _nights(filters: QueueFilters) -> tuple[date, date]:
    return filters.first or date.min, filters.last or date.max


def _has_word(word: str) -> ColumnElement[bool]:
    texts = [getattr(ExtensionRow, name).icontains(word, autoescape=True) for name in _SETUP]
    try:
        return or_(*texts, ExtensionRow.wavelength_nm == float(word))
    except ValueError:
        return or_(*texts)


def _label_conditions(
    instruments: Sequence[Instrument], filters: QueueFilters
) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if filters.labelled is LabelFilter.NO:
        found.append(db.labels.newest_label().is_(None))
    elif filters.labelled is LabelFilter.YES:
        found.append(ExtensionRow.id.in_(_labelled(LabelRow.id == _newest_label_id())))
    if filters.by:
        by = and_(LabelRow.who == filters.by, LabelRow.id == _newest_label_id())
        found.append(ExtensionRow.id.in_(_labelled(by)))
    if filters.kind:
        every = [kind.name for one in instruments for kind in one.fault_kinds()]
        kind = chosen(filters.kind, dict.fromkeys(every), "kind of fault")
        predicted = and_(VerdictRow.predicted_kind == kind, db.labels.newest_label().is_(None))
        found.append(or_(predicted, db.labels.newest_label(LabelRow.kind) == kind))
    return found


def _labelled(condition: ColumnElement[bool]) -> Select[Any]:
    return select(LabelRow.extension_id).where(condition)


def _newest_label_id() -> Any:
    """Return the label that counts of the extension that the enclosing question's label is of."""
    other, undoing = aliased(LabelRow), aliased(LabelRow)
    undone = exists().where(undoing.undoes_id == other.id)
    return (
        select(func.max(other.id))
        .where(
            other.extension_id == LabelRow.extension_id, (other.undoes_id + 0).is_(None), ~undone
        )
        .correlate(LabelRow)
        .scalar_subquery()
    )


def _sample(session: Session, filters: QueueFilters) -> list[ColumnElement[bool]]:
    """Leave only what was drawn by chance: a hash decides, which a database cannot compute."""
    if not filters.is_sample:
        return []
    last = filters.last or db.statistics.newest_night(session)
    if last is None:
        return []
    first = filters.first or last
    if first < spot_check.remembered_from(last):
        raise InvalidInputError("the spot check is asked of 90 nights at most: narrow the nights")
    drawn = list(spot_check.answers_of(spot_check.read_draws(session, first, last)))
    return [ExtensionRow.id.in_(drawn[-_DRAWN_AT_MOST:])]


def parts_of_all(
    session: Session, instruments: Sequence[Instrument], filters: QueueFilters
) -> Iterator[list[Finding]]:
    """Yield all that the filters want, in a stored order, some hundred at a time; at least once.

    What comes first is there at once. After it ever more are looked for together, as the database
    may have to look through all of the order each time.
    """
    count, after, is_last = _TOGETHER, "", False
    while not is_last:
        some = read_some(session, instruments, filters, count, after)
        for start in range(0, max(len(some.ids), 1), _TOGETHER):
            yield db.findings.findings_with(session, some.ids[start : start + _TOGETHER])
            session.expunge_all()  # they are not looked at again, and there may be a million
        count = min(4 * count, _LOOKED_FOR)
        after, is_last = some.after, not some.after


_TOGETHER = 500  # extensions that are in memory
_LOOKED_FOR = 20_000  # of which only the numbers are


# --- one of them ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class QueueItem:
    """What to know of an extension before judging it.

    Attributes
    ----------
    setup : str
        In words.
    nearest : str
        Name of the nearest nominal extension; empty without one.
    predicted : str
        Type or kind of fault that the classifier thinks of, with its probability; or empty.
    predicted_kind : str
        The kind alone.
    word : Word
        The label that counts.
    said : tuple of str
        All that was ever said of it.
    beside : int
        Extensions of its template set, itself among them.
    digest : str
        Of its pixels and its verdict: pictures of equal digests are equal.
    """

    id: int
    name: str
    frame: str
    number: int
    image_type: str
    frame_class: str
    setup: str
    night: date
    observed_at: datetime
    status: str
    standing: str
    score: float
    reasons: tuple[str, ...]
    nearest: str
    predicted: str
    predicted_kind: str
    word: CurrentLabel
    said: tuple[str, ...]
    beside: int
    digest: str


def read_looks(session: Session, extension_ids: Sequence[int]) -> tuple[QueueItem, ...]:
    """Return what to know of extensions, in this order; those never judged are left out."""
    found = db.findings.findings_with(session, extension_ids)
    said = db.labels.labels_of(session, [one.extension.id for one in found])
    sizes = _set_sizes(session, found)
    nearest = _names(session, [one.verdict.nearest_id for one in found])
    return tuple(
        _look(
            one,
            said.get(one.extension.id, []),
            sizes.get((one.frame.template or "", one.extension.image_type), 1),
            nearest.get(one.verdict.nearest_id or 0, ""),
        )
        for one in found
    )


def read_look(session: Session, extension_id: int) -> QueueItem:
    """Return what to know of an extension.

    Raises
    ------
    UnknownFrame
        If there is none of that number, or it was never judged.
    """
    found = read_looks(session, [extension_id])
    if not found:
        raise UnknownFrameError(f"extension {extension_id}: there is none of that number")
    return found[0]


def _look(one: Finding, said: Sequence[LabelRow], beside: int, nearest: str) -> QueueItem:
    frame, extension, verdict = one.frame, one.extension, one.verdict
    assert frame.night is not None  # a processed frame has both
    assert frame.observed_at is not None
    return QueueItem(
        id=extension.id,
        name=f"{frame.name}[{extension.number}]",
        frame=frame.name,
        number=extension.number,
        image_type=extension.image_type,
        frame_class=extension.frame_class,
        setup=f"{extension.chip}, {extension.setup.words}",
        night=frame.night,
        observed_at=frame.observed_at,
        status=str(verdict.status),
        standing=str(standing(one)),
        score=verdict.score,
        reasons=tuple(verdict.reasons),
        nearest=nearest,
        predicted=_predicted(one),
        predicted_kind=verdict.predicted_kind or "",
        word=word(extension.id, db.labels.standing(said)),
        said=tuple(store.log_in_words(said)),
        beside=beside,
        digest=digest_of(one),
    )


def digest_of(one: Finding) -> str:
    """Name what the pictures of an extension show: the pixels, and what they were held against."""
    return f"{one.extension.pixels_sha256[:12]}-{one.verdict.id}"


def _predicted(one: Finding) -> str:
    verdict = one.verdict
    words = []
    if verdict.predicted_type and verdict.predicted_type != one.extension.image_type:
        words.append(f"looks like {verdict.predicted_type}, {verdict.type_probability or 0:.0%}")
    if verdict.predicted_kind:
        kind = verdict.predicted_kind.replace("_", " ")
        words.append(f"{kind}, {verdict.kind_probability or 0:.0%}")
    return "; ".join(words)


def _set_sizes(session: Session, found: Sequence[Finding]) -> Mapping[tuple[str, str], int]:
    templates = {one.frame.template for one in found if one.frame.template}
    query = (
        select(FrameRow.template, ExtensionRow.image_type, func.count())
        .join(ExtensionRow.frame)
        .where(FrameRow.template.in_(templates))
        .group_by(FrameRow.template, ExtensionRow.image_type)
    )
    return {(str(template), name): count for template, name, count in session.execute(query)}


def _names(session: Session, ids: Sequence[int | None]) -> Mapping[int, str]:
    query = (
        select(ExtensionRow.id, FrameRow.name, ExtensionRow.number)
        .join(ExtensionRow.frame)
        .where(ExtensionRow.id.in_({one for one in ids if one}))
    )
    return {one: f"{name}[{number}]" for one, name, number in session.execute(query)}


# --- keys -----------------------------------------------------------------------------------------

# Of the second key; 0 and the punctuation stay free for what a page may need.
_KEYS = "123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class FaultKey:
    """The key that names a kind of fault once `bad` was pressed; empty beyond the 61st kind."""

    key: str
    kind: FaultKind


def keys_of(
    instruments: Sequence[Instrument], one: ExtensionRef | QueueItem
) -> tuple[FaultKey, ...]:
    """Return the keys of the kinds that fit an extension.

    A kind has one key whatever the frame: fingers remember places, and a list that closes up
    around what cannot be would move them.
    """
    for instrument in instruments:
        if instrument.calibration_of(one.image_type):
            possible = {kind.name for kind in instrument.fault_kinds(one.frame_class)}
            return tuple(key for key in _all_keys(instrument) if key.kind.name in possible)
    return ()


def _all_keys(instrument: Instrument) -> list[FaultKey]:
    kinds = instrument.fault_kinds()
    keys = [*_KEYS, *[""] * max(0, len(kinds) - len(_KEYS))]
    return [FaultKey(key, kind) for key, kind in zip(keys, kinds, strict=False)]


@dataclass(frozen=True)
class FaultExample:
    """A kind of fault, and the newest extension that people say has it, if there is one."""

    key: FaultKey
    instrument: str
    look: QueueItem | None


def read_examples(session: Session, instruments: Sequence[Instrument]) -> tuple[FaultExample, ...]:
    """Return an example of every kind of fault that people have labelled."""
    newest = (
        select(LabelRow.kind, func.max(LabelRow.extension_id))
        .where(LabelRow.label == LabelName.BAD, LabelRow.id == _newest_label_id())
        .group_by(LabelRow.kind)
    )
    of_kind = {row[0]: row[1] for row in session.execute(newest)}
    looks = {look.id: look for look in read_looks(session, list(of_kind.values()))}
    return tuple(
        FaultExample(key, instrument.name, looks.get(of_kind.get(key.kind.name, 0)))
        for instrument in instruments
        for key in _all_keys(instrument)
    )
