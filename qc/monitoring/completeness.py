"""What should have come and did not: from the calibration plan, and from what the weeks brought.

Everything an instrument brings is a tree: the instrument, its arms, their kinds of calibration,
the setups of each. A setup also hangs on its setting (wavelength, binning, read mode), which is
in use for all kinds or for none. Each branch has its custom: in how many nights it comes again.
One that keeps neither its plan nor its custom is missed, and what hangs on a missed branch is not
missed once more. Nights on which the branch above brought nothing excuse it: they were cloudy.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from itertools import groupby, pairwise
from math import ceil
from statistics import median

from sqlalchemy.orm import Session

from qc import db
from qc._text import counted
from qc.core.enums import FrameState, Topic
from qc.core.frame import Setup
from qc.db.models import ExtensionRow, FrameRow
from qc.db.statistics import ArrivalCount
from qc.io.instruments import Calibration, Instrument, OpticalMode

HISTORY = timedelta(days=100)  # three sets of what is planned once a month
FORGOTTEN_DAYS = 30  # what has not been had for longer is not in use, nor missed
TOLD_DAYS = 7  # nobody is told of what has been missing for longer: an archive's gap
GAPS = 40  # so many last returns make a custom
FORGIVEN_OF = 8  # of so many returns one may be late: nine of the last ten nights are a custom
IRREGULAR = 3  # what returns irregularly may stay away so many times as long as ever before
AT = "at "  # before the name of a setting
MANY = 3  # findings of one arm and night that are told one by one
LISTED = 6  # setups named in one sentence
LATE_S = 7200.0  # a frame taken in so long after it was taken was waited for

Path = tuple[str, ...]  # (), (arm,), (arm, kind) or (arm, setting), (arm, kind, setup)


class MissingReason(StrEnum):
    """In what way something did not come."""

    NEVER_CAME = "never came"  # it should have come on this night
    OVERDUE = "overdue"  # it should have come on an earlier night
    SET_STOPPED = "set incomplete"
    CHIP_MISSING = "chip missing"


@dataclass(frozen=True)
class MissingCalibration:
    """Something that should have come and did not.

    Attributes
    ----------
    image_types : tuple of str
        All that are missing; those of both chips together.
    scope : tuple of str
        Of what: nothing for the whole instrument, else arm, kind or setting, and setup, as far as
        they go.
    what : str
        The same in words: ``red D1 flat of 1x1, 225kHz low, 564 nm``.
    missed : date
        The first night on which it was missed.
    expected, got : int
        Frames: of the set, or of a usual night.
    since : datetime or None
        When it was had last.
    sentence : str
        For a mail or a report.
    is_mended : bool
        It was made good the same night: worth a line, and no mail.
    """

    instrument: str
    image_types: tuple[str, ...]
    lack: MissingReason
    scope: Path
    what: str
    missed: date
    expected: int
    got: int
    since: datetime | None
    sentence: str
    is_mended: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Return what makes it one event, and before that what it would be a part of."""
        if self.lack in {MissingReason.SET_STOPPED, MissingReason.CHIP_MISSING}:
            return (_key(self.instrument, self.missed, (self.lack, *self.scope)),)
        scopes = (self.scope[:n] for n in range(len(self.scope) + 1))
        return tuple(_key(self.instrument, self.missed, scope) for scope in scopes)


def _key(instrument: str, missed: date, scope: Iterable[str]) -> str:
    return " / ".join([f"absence {instrument} {missed}", *scope])


def find_absences(
    session: Session,
    night: date,
    instruments: Sequence[Instrument],
    now: datetime,
    past: Iterable[ArrivalCount] | None = None,
) -> tuple[MissingCalibration, ...]:
    """Return what should have come by now and did not, as a night stands; the gravest first.

    Parameters
    ----------
    now : datetime
        Aware. Before the hour by which a night's calibrations are due, only sets that stopped
        and what was missed on earlier nights can be told.
    past : iterable of Had, optional
        What the nights before brought, if that is known already.
    """
    first, before = night - HISTORY, night - timedelta(days=1)
    if past is None:
        past = db.statistics.had_between(session, first, before)
    had = defaultdict[str, list[ArrivalCount]](list)
    for one in (*past, *db.statistics.had_between(session, night, night)):
        had[one.instrument].append(one)
    came = db.recording.extensions_of(session, night)
    found: list[MissingCalibration] = []
    for instrument in instruments:
        diary = _ArrivalHistory(instrument, night, now, tuple(had[instrument.name]))
        own = [row for row in came if row.frame.instrument == instrument.name]
        found += [*_missed(diary), *_missing_chips(diary, own), *_stopped_sets(session, diary, own)]
    return tuple(found)


def owe_absences(session: Session, instruments: Sequence[Instrument], now: datetime) -> int:
    """Owe people word of what did not come, once for each event; return of how many.

    Nothing is told while frames are taken in that had waited for long: what seems to be absent
    may wait behind them.

    Parameters
    ----------
    session : Session
        May write; the caller commits.
    now : datetime
        Aware.
    """
    owed = 0
    for instrument in instruments:
        pause = timedelta(minutes=instrument.set_stopped_after_min)
        if db.statistics.is_catching_up(session, now, now - pause, LATE_S):
            continue
        tonight = instrument.night_of(now)
        for night in (tonight - timedelta(days=1), tonight):
            absences = find_absences(session, night, [instrument], now)
            owed += sum(_owe(session, one, tonight) for one in absences)
    return owed


def _owe(session: Session, absence: MissingCalibration, tonight: date) -> bool:
    is_old = tonight - absence.missed > timedelta(days=TOLD_DAYS)
    if is_old or absence.is_mended or db.alerts.alerts_called(session, absence.keys):
        return False
    return db.alerts.owe_alert(
        session,
        Topic.ABSENCE,
        absence.keys[-1],
        absence.sentence,
        instrument=absence.instrument,
        image_type=absence.image_types[0] if absence.scope and absence.image_types else None,
        night=absence.missed,
    )


# --- what an instrument brings --------------------------------------------------------------------


@dataclass(frozen=True)
class _CompletenessKey:
    """Where an image type hangs in the tree, and what one file holds beside it."""

    arm: str
    mode: str
    calibration: Calibration
    together: frozenset[str]

    @property
    def name(self) -> str:
        """Name the kind: ``D1 flat``."""
        return f"{self.mode} {self.calibration.name}".lstrip()


def _is_setting(path: Path) -> bool:
    """Say whether a branch is a setting, not a kind."""
    return len(path) == 2 and path[1].startswith(AT)


def _places(instrument: Instrument) -> Mapping[str, tuple[_CompletenessKey, ...]]:
    """Return the places of each image type: several if it may come in several layouts."""
    places = defaultdict[str, list[_CompletenessKey]](list)
    for calibration in instrument.calibrations:
        for mode in (OpticalMode("", ()), *(instrument.modes if calibration.light else ())):
            for layout in instrument.layouts:
                arm = instrument.arms[layout.arm]
                together = frozenset(
                    instrument.image_type(calibration, mode, arm, one.number)
                    for one in layout.sections
                )
                place = _CompletenessKey(layout.arm, mode.code, calibration, together)
                for image_type in together:
                    places[image_type].append(place)
    return {image_type: tuple(found) for image_type, found in places.items()}


@dataclass(frozen=True)
class _NightArrivals:
    """What a night brought of a branch."""

    frames: int
    last: datetime


@dataclass(frozen=True)
class _ExpectedInterval:
    """In how many nights a branch comes again, and who says so."""

    nights: int
    words: str
    is_regular: bool = False


@dataclass(frozen=True)
class _ArrivalHistory:
    """What an instrument brought, night by night, up to one night and moment."""

    instrument: Instrument
    night: date
    now: datetime
    had: tuple[ArrivalCount, ...]

    @cached_property
    def places(self) -> Mapping[str, tuple[_CompletenessKey, ...]]:
        """Say where each image type hangs."""
        return _places(self.instrument)

    @cached_property
    def came(self) -> Mapping[Path, Mapping[date, _NightArrivals]]:
        """Say what each night brought of each branch."""
        leaves = defaultdict[tuple[Path, date], list[ArrivalCount]](list)
        for one in self.had:
            if one.setup.image_type in self.places:
                leaves[self.path(one.setup), one.night].append(one)
        came = defaultdict[Path, dict[date, _NightArrivals]](dict)
        for (path, night), chips in leaves.items():
            frames, last = max(one.frames for one in chips), max(one.last for one in chips)
            for branch in (*self.above(path), path):
                known = came[branch].get(night, _NightArrivals(0, last))
                came[branch][night] = _NightArrivals(known.frames + frames, max(known.last, last))
        return came

    @cached_property
    def image_types(self) -> Mapping[Path, tuple[str, ...]]:
        """List the image types of each branch."""
        found = defaultdict[Path, set[str]](set)
        for setup in {one.setup for one in self.had if one.setup.image_type in self.places}:
            path = self.path(setup)
            for branch in (*self.above(path), path):
                found[branch].add(setup.image_type)
        return {path: tuple(sorted(types)) for path, types in found.items()}

    @cached_property
    def settings(self) -> Mapping[Path, Path]:
        """Return the setting of each setup that light passes, where it serves several kinds."""
        lit = {one.setup for one in self.had if self.is_lit(one.setup.image_type)}
        of_setup = {self.path(one): self.setting(one) for one in lit}
        kinds = defaultdict[Path, set[str]](set)
        for path, setting in of_setup.items():
            kinds[setting].add(path[1])
        return {path: setting for path, setting in of_setup.items() if len(kinds[setting]) > 1}

    def is_lit(self, image_type: str) -> bool:
        """Say whether light passes the grating."""
        places = self.places.get(image_type)
        return places is not None and places[0].calibration.light

    def path(self, setup: Setup) -> Path:
        """Return the way from the instrument to a setup."""
        place = self.places[setup.image_type][0]
        return place.arm, place.name, setup.words

    def setting(self, setup: Setup) -> Path:
        """Return the way to what the kinds of calibration of one setting have in common."""
        place = self.places[setup.image_type][0]
        common = replace(setup, slit_arcsec=None, optics="")
        return place.arm, f"{AT}{place.mode} {common.words}".replace("  ", " ")

    def above(self, path: Path) -> tuple[Path, ...]:
        """Return the branches that a branch hangs on."""
        setting = self.settings.get(path)
        prefixes = tuple(path[:n] for n in range(len(path)))
        return (*prefixes, setting) if setting else prefixes

    def across(self, path: Path) -> tuple[Path, ...]:
        """Return the kinds that a setting serves: one that is missed explains its silence."""
        return tuple(one[:2] for one, setting in self.settings.items() if setting == path)

    def calibration(self, path: Path) -> Calibration | None:
        """Return the kind of calibration that a branch is of; None for what has several."""
        if len(path) < 2 or _is_setting(path):
            return None
        return self.places[self.image_types[path][0]][0].calibration

    def through(self, path: Path) -> date:
        """Return the last night that is late for a branch that has not come."""
        is_due = self.now >= self.instrument.due_at(self.night, self.calibration(path))
        late = self.night if is_due else self.night - timedelta(days=1)
        setting = self.settings.get(path)
        return min(late, self.in_use_until(setting)) if setting else late

    def in_use_until(self, setting: Path) -> date:
        """Return the last night on which a setting was surely in use, for any kind of frame."""
        nights = sorted(self.came[setting])
        custom = _custom(nights, self.could_come(setting), None, len(setting))
        sure = custom.nights - 1 if custom and custom.is_regular else 0
        return nights[-1] + timedelta(days=sure)

    def could_come(self, path: Path) -> Mapping[date, _NightArrivals] | None:
        """Return the nights on which a branch could have come; None for all."""
        if not path:
            return None
        return self.came[path[:1] if len(path) > 1 else ()]


# --- what was missed ------------------------------------------------------------------------------


def _missed(diary: _ArrivalHistory) -> list[MissingCalibration]:
    """Return the branches that were missed, without those that hang on another missed one."""
    several_arms = len(diary.instrument.arms) > 1
    found: dict[Path, MissingCalibration] = {}
    for path in sorted(diary.came, key=lambda path: (len(path), _is_setting(path))):
        if len(path) == 1 and not several_arms:
            continue
        if found.keys().isdisjoint((*diary.above(path), *diary.across(path))):
            absence = _absence_of(diary, path)
            if absence is not None:
                found[path] = absence
    by_kind = _folded(found.values(), diary, depth=2, many=1)
    return sorted(
        _folded(by_kind, diary, depth=1, many=MANY),
        key=lambda one: (-one.missed.toordinal(), one.scope),
    )


def _absence_of(diary: _ArrivalHistory, path: Path) -> MissingCalibration | None:
    """Return a branch as absent; None if it came, or nobody expected it."""
    visits = diary.came[path]
    nights = sorted(visits)
    last = nights[-1]
    calibration = diary.calibration(path)
    every_days = calibration.expected_every_days if calibration else None
    is_forgotten = (diary.night - last).days > max(FORGOTTEN_DAYS, 2 * (every_days or 0))
    if last == diary.night or is_forgotten:
        return None
    custom = _custom(nights, diary.could_come(path), every_days, depth=len(path))
    missed = _missed_on(diary, path, last, custom.nights) if custom else None
    if custom is None or missed is None:
        return None
    had = visits[last]
    why = f"{custom.words}; last had {had.last:%Y-%m-%d %H:%M} UT"
    return MissingCalibration(
        instrument=diary.instrument.name,
        image_types=diary.image_types[path],
        lack=MissingReason.NEVER_CAME if missed == diary.night else MissingReason.OVERDUE,
        scope=path,
        what=_what(diary.instrument, path),
        missed=missed,
        expected=round(median(visits[one].frames for one in nights[-GAPS:])),
        got=0,
        since=had.last,
        sentence=f"{_nothing_of(diary, path)}: {why}",
    )


def _missed_on(diary: _ArrivalHistory, path: Path, last: date, allowed: int) -> date | None:
    """Return the first night on which a branch was late."""
    waited = _waits(diary.could_come(path), last, diary.through(path))
    return next((night for night, nights in waited if nights >= allowed), None)


def _waits(
    could: Mapping[date, _NightArrivals] | None, last: date, through: date
) -> Iterator[tuple[date, int]]:
    """Yield each night and how long one waits on it; a night without a chance begins anew."""
    waited = 0
    for days in range(1, (through - last).days + 1):
        night = last + timedelta(days=days)
        waited = waited + 1 if could is None or night in could else 0
        yield night, waited


# Returns, and nights from the first of them to the last, without which nobody expects anything:
# of the instrument, an arm, a kind, a setup. A setup of a week's visitor is not missed when he
# leaves.
_NEEDED = ((2, 2), (4, 4), (4, 8), (4, 8))
_NEEDED_BY_PLAN = (2, 14)


def _custom(
    nights: Sequence[date],
    could: Mapping[date, _NightArrivals] | None,
    every_days: float | None,
    depth: int,
) -> _ExpectedInterval | None:
    """Return when a branch is expected again: by its plan if it keeps it, by its habit, or never.

    Parameters
    ----------
    nights : sequence of date
        On which it came, in order.
    could : mapping, optional
        Nights on which it could have; all where absent.
    """
    gaps = _returns(nights[-GAPS - 1 :], could)
    found = []
    enough, span = _NEEDED[depth]
    if len(gaps) >= enough and sum(gaps) >= span:
        found.append(_instrument_habit(gaps) if depth == 0 else _habit(gaps))
    enough, span = _NEEDED_BY_PLAN
    if every_days and len(gaps) >= enough and sum(gaps) >= span and max(gaps) <= ceil(every_days):
        found.append(
            _ExpectedInterval(ceil(every_days), f"planned every {_nights(ceil(every_days), 'day')}")
        )
    return min(found, key=lambda one: one.nights, default=None)


def _returns(nights: Sequence[date], could: Mapping[date, _NightArrivals] | None) -> list[int]:
    """Return after how many nights it came again; cut short by a cloudy night only if still long.

    A wait that began anew says at least how long it was; what it says less than the others it
    may say for the clouds.
    """
    whole, cut = list[int](), list[int]()
    for before, after in pairwise(nights):
        longest = max(waited for _, waited in _waits(could, before, after))
        is_whole = longest == (after - before).days
        (whole if is_whole else cut).append(longest)
    return whole + [one for one in cut if one > max(whole, default=0)]


def _instrument_habit(gaps: Sequence[int]) -> _ExpectedInterval:
    """Return the usual: a night without anything is worth a sentence, even if some are cloudy."""
    usual = ceil(median(gaps))
    return _ExpectedInterval(usual, f"it brings something every {_nights(usual, 'night')}")


def _habit(gaps: Sequence[int]) -> _ExpectedInterval:
    """Return after how many nights it comes again; much later where it is irregular."""
    kept = sorted(gaps)[: len(gaps) - (len(gaps) >= FORGIVEN_OF)]
    if kept[0] == kept[-1]:
        but = ", once later" if max(gaps) > kept[0] else ""
        words = f"it came every {_nights(kept[0], 'night')}, {counted(len(gaps), 'time')}{but}"
        return _ExpectedInterval(kept[0], words, is_regular=True)
    longest = max(gaps)
    came, away = counted(len(gaps) + 1, "time"), counted(longest, "night")
    words = f"it came {came} and never stayed away for more than {away}"
    return _ExpectedInterval(IRREGULAR * longest, words)


def _nights(count: int, word: str) -> str:
    return word if count == 1 else f"{count} {word}s"


def _what(instrument: Instrument, path: Path) -> str:
    """Name a branch."""
    if not path:
        return instrument.name
    arm = f"{path[0]} " if len(instrument.arms) > 1 else ""
    if len(path) == 1:
        return f"{arm}arm".strip()
    if _is_setting(path):
        return f"{arm}arm {path[1]}".lstrip()
    return " of ".join([f"{arm}{path[1]}", *path[2:]])


def _nothing_of(diary: _ArrivalHistory, path: Path) -> str:
    what = _what(diary.instrument, path)
    if diary.calibration(path):
        return f"No {what} came ({' '.join(diary.image_types[path])})"
    return f"Nothing came from {what if not path else f'the {what} of {diary.instrument.name}'}"


def _folded(
    absences: Iterable[MissingCalibration], diary: _ArrivalHistory, depth: int, many: int
) -> list[MissingCalibration]:
    """Make one finding of more than `many` that were missed on one night below one branch."""

    def branch(one: MissingCalibration) -> tuple[date, Path]:
        return one.missed, one.scope[:depth]

    folded: list[MissingCalibration] = []
    for (_, path), group in groupby(sorted(absences, key=branch), branch):
        members = list(group)
        deeper = all(len(one.scope) > depth for one in members)
        folded += [_together(members, path, diary)] if deeper and len(members) > many else members
    return folded


def _together(
    members: Sequence[MissingCalibration], path: Path, diary: _ArrivalHistory
) -> MissingCalibration:
    """Return one finding that stands for several."""
    parts = [" of ".join(one.scope[len(path) :]) or one.what for one in members]
    named = "; ".join(parts[:LISTED]) + (
        f"; and {len(parts) - LISTED} more" if parts[LISTED:] else ""
    )
    types = tuple(sorted({name for one in members for name in one.image_types}))
    whole, unit = _what(diary.instrument, path), "kinds" if len(path) == 1 else "setups"
    last = max(one.since for one in members if one.since)
    return replace(
        members[0],
        image_types=types,
        scope=path,
        what=f"{whole}: {len(members)} {unit}",
        expected=sum(one.expected for one in members),
        since=last,
        sentence=f"{len(members)} {unit} of {whole} did not come ({' '.join(types)}): {named}; "
        f"the last of them was had {last:%Y-%m-%d %H:%M} UT",
    )


# --- what did not come whole ----------------------------------------------------------------------


def _missing_chips(
    diary: _ArrivalHistory, came: Sequence[ExtensionRow]
) -> list[MissingCalibration]:
    """Return chips whose images are not in files that came, all files of a night as one finding."""
    lacking = defaultdict[tuple[str, frozenset[str]], list[FrameRow]](list)
    for frame, types in _files(came):
        places = [one for name in types for one in diary.places.get(name, ())]
        if places and not any(one.together <= types for one in places):
            missing = min((one.together - types for one in places), key=len)
            lacking[places[0].arm, missing].append(frame)
    return [
        _missing_chip(diary, arm, tuple(sorted(missing)), frames)
        for (arm, missing), frames in lacking.items()
    ]


def _files(came: Sequence[ExtensionRow]) -> list[tuple[FrameRow, frozenset[str]]]:
    """Return the frames with the image types that each holds, in order of time."""
    types = defaultdict[FrameRow, set[str]](set)
    for row in came:
        types[row.frame].add(row.image_type)
    return [(frame, frozenset(held)) for frame, held in types.items()]


def _missing_chip(
    diary: _ArrivalHistory, arm: str, missing: tuple[str, ...], frames: Sequence[FrameRow]
) -> MissingCalibration:
    names = " ".join(missing)
    files = frames[0].name if len(frames) == 1 else f"{len(frames)} files, from {frames[0].name} on"
    return MissingCalibration(
        instrument=diary.instrument.name,
        image_types=missing,
        lack=MissingReason.CHIP_MISSING,
        scope=(arm, names),
        what=names,
        missed=diary.night,
        expected=len(frames),
        got=0,
        since=None,
        sentence=f"{names} not in the file that should hold it: {files}",
    )


@dataclass(frozen=True)
class _TemplateSet:
    """Frames that one template took, of one arm if each arm was counted by itself."""

    name: str
    path: Path
    frames: tuple[FrameRow, ...]
    image_types: tuple[str, ...]
    size: int

    @property
    def is_whole(self) -> bool:
        """Say whether as many came as were promised."""
        return len(self.frames) >= self.size

    @property
    def missing(self) -> tuple[int, ...]:
        """List the numbers that did not come; none where the frames were not counted."""
        numbers = {one.template_number for one in self.frames}
        if len(numbers) < len(self.frames):
            return ()
        return tuple(n for n in range(1, self.size + 1) if n not in numbers)

    @property
    def last(self) -> datetime:
        """Return when its last frame was begun."""
        return max(one.observed_at for one in self.frames if one.observed_at)


def _stopped_sets(
    session: Session, diary: _ArrivalHistory, came: Sequence[ExtensionRow]
) -> list[MissingCalibration]:
    """Return the sets that have fewer frames than were promised and will hardly get more."""
    sets = _sets(diary, came)
    found = []
    for one in sets:
        if one.is_whole or not _is_over(one, diary):
            continue
        failed, skipped = _others(session, one, diary.instrument)
        if len(one.frames) + skipped < one.size:  # a frame that is not ours was counted too
            found.append(_stopped(diary, one, sets, failed))
    return found


def _sets(diary: _ArrivalHistory, came: Sequence[ExtensionRow]) -> list[_TemplateSet]:
    templates = defaultdict[str, list[ExtensionRow]](list)
    counts_templates = bool(diary.instrument.keywords.template)
    for row in came:
        if row.image_type in diary.places:
            planned = str(diary.path(row.setup))
            templates[(row.frame.template or "") if counts_templates else planned].append(row)
    templates.pop("", None)
    sets = []
    for name, rows in templates.items():
        arms = defaultdict[str, list[ExtensionRow]](list)
        for row in rows:
            arms[diary.places[row.image_type][0].arm].append(row)
        numbers = [{row.frame.template_number for row in own} for own in arms.values()]
        each_counts = sum(map(len, numbers)) > len(set().union(*numbers))
        groups = list(arms.values()) if each_counts else [rows]
        sets += [_set(diary, name, group, counts_templates=counts_templates) for group in groups]
    return sets


def _set(
    diary: _ArrivalHistory, name: str, rows: Sequence[ExtensionRow], *, counts_templates: bool
) -> _TemplateSet:
    first = rows[0]
    promised = max(row.frame.template_size or 1 for row in rows)
    planned = diary.places[first.image_type][0].calibration.set_size
    return _TemplateSet(
        name=name,
        path=diary.path(first.setup),
        frames=tuple(dict.fromkeys(row.frame for row in rows)),
        image_types=tuple(sorted({row.image_type for row in rows})),
        size=promised if counts_templates else planned,
    )


def _is_over(one: _TemplateSet, diary: _ArrivalHistory) -> bool:
    """Say whether the next frame would have come by now, or the night is over."""
    exposure_s = max(frame.exposure_s or 0.0 for frame in one.frames)
    wait = timedelta(minutes=diary.instrument.set_stopped_after_min, seconds=2 * exposure_s)
    ends = diary.instrument.night_ends(diary.night)
    return diary.now >= min(one.last + wait, ends)


def _others(
    session: Session, one: _TemplateSet, instrument: Instrument
) -> tuple[list[FrameRow], int]:
    """Return the failed files of a set's time, and how many were skipped."""
    start = min(frame.observed_at for frame in one.frames if frame.observed_at)
    end = one.last + timedelta(minutes=instrument.set_stopped_after_min)
    rows = [
        row
        for row in db.statistics.unprocessed_between(session, start, end)
        if start <= db.statistics.taken_at(row) <= end
    ]
    failed = [row for row in rows if row.state == FrameState.FAILED]
    return failed, len(rows) - len(failed)


def _stopped(
    diary: _ArrivalHistory,
    one: _TemplateSet,
    sets: Sequence[_TemplateSet],
    failed: Sequence[FrameRow],
) -> MissingCalibration:
    first = min(frame.observed_at for frame in one.frames if frame.observed_at)
    again = [
        other.last
        for other in sets
        if other.is_whole and other.path == one.path and other.last > one.last
    ]
    numbers = f", No. {', '.join(map(str, one.missing))} missing" if one.missing else ""
    unread = f"; not read, of that time: {', '.join(row.name for row in failed[:LISTED])}"
    what = _what(diary.instrument, one.path)
    return MissingCalibration(
        instrument=diary.instrument.name,
        image_types=one.image_types,
        lack=MissingReason.SET_STOPPED,
        scope=(one.name, *one.image_types),
        what=what,
        missed=diary.night,
        expected=one.size,
        got=len(one.frames),
        since=one.last,
        sentence=f"Set of {what} ({' '.join(one.image_types)}), begun {first:%Y-%m-%d %H:%M:%S} "
        f"UT: {len(one.frames)} of {one.size} came{numbers}"
        f"{unread if failed else ''}"
        f"{f'; repeated whole by {again[0]:%H:%M} UT' if again else ''}",
        is_mended=bool(again),
    )
