"""Incomplete arrivals: template sets with missing frames, and files with missing chips."""

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from qc import core, db
from qc.db.schema import models
from qc.io.instruments import Instrument
from qc.monitoring import arrivals
from qc.monitoring.missing import MissingCalibration, MissingReason, Path

NAMED = 6  # files named in one sentence


def find_missing_chips(
    history: arrivals.ArrivalHistory, extensions: Sequence[models.ExtensionRow]
) -> list[MissingCalibration]:
    """Return the chips that are missing in received files, one finding per night.

    Parameters
    ----------
    history : ArrivalHistory
    extensions : sequence of ExtensionRow
        Of the night and instrument, in order of time.

    Returns
    -------
    list of MissingCalibration
    """
    types_of = defaultdict[models.FrameRow, set[str]](set)
    for row in extensions:
        types_of[row.frame].add(row.image_type)
    lacking = defaultdict[tuple[str, frozenset[str]], list[models.FrameRow]](list)
    for frame, types in types_of.items():
        places = [place for name in types for place in history.places.get(name, ())]
        if places and not any(place.file_types <= types for place in places):
            missing = min((place.file_types - types for place in places), key=len)
            lacking[places[0].arm, missing].append(frame)
    return [
        describe_missing_chip(history, arm, tuple(sorted(missing)), frames)
        for (arm, missing), frames in lacking.items()
    ]


def describe_missing_chip(
    history: arrivals.ArrivalHistory,
    arm: str,
    missing: tuple[str, ...],
    frames: Sequence[models.FrameRow],
) -> MissingCalibration:
    """Return the finding for files that lack some image types.

    Parameters
    ----------
    history : ArrivalHistory
    arm : str
    missing : tuple of str
        Image types.
    frames : sequence of FrameRow

    Returns
    -------
    MissingCalibration
    """
    names = " ".join(missing)
    files = frames[0].name if len(frames) == 1 else f"{len(frames)} files, from {frames[0].name} on"
    return MissingCalibration(
        instrument=history.instrument.name,
        image_types=missing,
        lack=MissingReason.CHIP_MISSING,
        scope=(arm, names),
        what=names,
        missed=history.night,
        expected=len(frames),
        got=0,
        since=None,
        sentence=f"{names} not in the file that should hold it: {files}",
    )


@dataclass(frozen=True)
class TemplateSet:
    """Frames of one template execution; of one arm if each arm is counted separately."""

    name: str
    path: Path
    frames: tuple[models.FrameRow, ...]
    image_types: tuple[str, ...]
    size: int

    @property
    def is_complete(self) -> bool:
        """True if at least the expected number of frames has arrived."""
        return len(self.frames) >= self.size

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the missing frames; empty if the frames have no numbers."""
        numbers = {frame.template_number for frame in self.frames}
        if len(numbers) < len(self.frames):
            return ()
        return tuple(n for n in range(1, self.size + 1) if n not in numbers)

    @property
    def first(self) -> dt.datetime:
        """Start of its first frame."""
        return min(frame.observed_at for frame in self.frames if frame.observed_at)

    @property
    def last(self) -> dt.datetime:
        """Start of its last frame."""
        return max(frame.observed_at for frame in self.frames if frame.observed_at)


def find_incomplete_sets(
    session: Session, history: arrivals.ArrivalHistory, extensions: Sequence[models.ExtensionRow]
) -> list[MissingCalibration]:
    """Return the sets that ended with fewer frames than expected.

    Parameters
    ----------
    session : Session
    history : ArrivalHistory
    extensions : sequence of ExtensionRow
        Of the night and instrument.

    Returns
    -------
    list of MissingCalibration
    """
    sets = group_sets(history, extensions)
    missing = []
    for template in sets:
        if template.is_complete or not has_ended(template, history):
            continue
        failed, skipped = find_unprocessed(session, template, history.instrument)
        if len(template.frames) + skipped < template.size:  # skipped frames count for the set
            missing.append(describe_incomplete_set(history, template, sets, failed))
    return missing


def group_sets(
    history: arrivals.ArrivalHistory, extensions: Sequence[models.ExtensionRow]
) -> list[TemplateSet]:
    """Group the extensions of a night into sets, by template or by setup.

    Parameters
    ----------
    history : ArrivalHistory
    extensions : sequence of ExtensionRow

    Returns
    -------
    list of TemplateSet
    """
    templates = defaultdict[str, list[models.ExtensionRow]](list)
    has_templates = bool(history.instrument.keywords.template)
    for row in extensions:
        if row.image_type in history.places:
            setup_key = str(history.path(row.setup))
            templates[(row.frame.template or "") if has_templates else setup_key].append(row)
    templates.pop("", None)
    sets = []
    for name, rows in templates.items():
        arms = defaultdict[str, list[models.ExtensionRow]](list)
        for row in rows:
            arms[history.places[row.image_type][0].arm].append(row)
        numbers = [{row.frame.template_number for row in arm} for arm in arms.values()]
        is_per_arm = sum(map(len, numbers)) > len(set().union(*numbers))
        for group in list(arms.values()) if is_per_arm else [rows]:
            first = group[0]
            planned = history.places[first.image_type][0].calibration.set_size
            announced = max(row.frame.template_size or 1 for row in group)
            sets.append(
                TemplateSet(
                    name=name,
                    path=history.path(first.setup),
                    frames=tuple(dict.fromkeys(row.frame for row in group)),
                    image_types=tuple(sorted({row.image_type for row in group})),
                    size=announced if has_templates else planned,
                )
            )
    return sets


def has_ended(template: TemplateSet, history: arrivals.ArrivalHistory) -> bool:
    """Return True if the next frame is overdue, or the night has ended.

    Parameters
    ----------
    template : TemplateSet
    history : ArrivalHistory

    Returns
    -------
    bool
    """
    exposure_s = max(frame.exposure_s or 0.0 for frame in template.frames)
    wait = dt.timedelta(minutes=history.instrument.set_stopped_after_min, seconds=2 * exposure_s)
    night_end = history.instrument.night_ends(history.night)
    return history.now >= min(template.last + wait, night_end)


def find_unprocessed(
    session: Session, template: TemplateSet, instrument: Instrument
) -> tuple[list[models.FrameRow], int]:
    """Return the failed files from the time of a set, and the number of skipped ones.

    Parameters
    ----------
    session : Session
    template : TemplateSet
    instrument : Instrument

    Returns
    -------
    failed : list of FrameRow
    skipped : int
    """
    start = template.first
    end = template.last + dt.timedelta(minutes=instrument.set_stopped_after_min)
    rows = [
        row
        for row in db.statistics.unprocessed_between(session, start, end)
        if start <= db.statistics.estimate_observed_at(row) <= end
    ]
    failed = [row for row in rows if row.state == core.FrameState.FAILED]
    return failed, len(rows) - len(failed)


def describe_incomplete_set(
    history: arrivals.ArrivalHistory,
    template: TemplateSet,
    sets: Sequence[TemplateSet],
    failed: Sequence[models.FrameRow],
) -> MissingCalibration:
    """Return the finding for an incomplete set.

    Parameters
    ----------
    history : ArrivalHistory
    template : TemplateSet
    sets : sequence of TemplateSet
        Of the night; a later complete one repeats it.
    failed : sequence of FrameRow
        Failed files from the time of the set.

    Returns
    -------
    MissingCalibration
    """
    repeated = [
        later.last
        for later in sets
        if later.is_complete and later.path == template.path and later.last > template.last
    ]
    missing = ", ".join(map(str, template.missing))
    numbers = f", No. {missing} missing" if missing else ""
    unread = f"; not read, of that time: {', '.join(row.name for row in failed[:NAMED])}"
    description = arrivals.describe_branch(history.instrument, template.path)
    return MissingCalibration(
        instrument=history.instrument.name,
        image_types=template.image_types,
        lack=MissingReason.SET_STOPPED,
        scope=(template.name, *template.image_types),
        what=description,
        missed=history.night,
        expected=template.size,
        got=len(template.frames),
        since=template.last,
        sentence=f"Set of {description} ({' '.join(template.image_types)}), begun "
        f"{template.first:%Y-%m-%d %H:%M:%S} UT: {len(template.frames)} of {template.size} came"
        f"{numbers}{unread if failed else ''}"
        f"{f'; repeated whole by {repeated[0]:%H:%M} UT' if repeated else ''}",
        is_mended=bool(repeated),
    )
