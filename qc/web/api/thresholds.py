"""REST: thresholds of an image type, their history and the effect of other thresholds."""

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Any

import fastapi
from sqlalchemy.orm import Session

from qc import db, errors
from qc._cache import LRUCache
from qc.detection.thresholds import Threshold
from qc.io.instruments import Instrument
from qc.labels import epochs
from qc.project import ProjectContext
from qc.tuning import proposals
from qc.tuning.choice import TuningGoal
from qc.tuning.history import PastVerdicts
from qc.tuning.limits import limits_of
from qc.web import auth, deps, query, threshold_cache
from qc.web.api import schemas

router = fastapi.APIRouter(prefix="/api/v1", route_class=deps.ApiRoute)

MOST_FLIPS = 1000  # frames of each kind in a response


@dataclasses.dataclass(frozen=True)
class DatedEntry:
    """An entry of the thresholds file.

    Attributes
    ----------
    number : int
        Position in the file, from 1.
    is_comparable : bool
        True if it belongs to the encoder in use.
    """

    number: int
    threshold: Threshold
    is_in_force: bool
    is_comparable: bool


@dataclasses.dataclass(frozen=True)
class TypeOverview:
    """Thresholds and interventions of an image type.

    Attributes
    ----------
    digest : str
        SHA-256 of the thresholds file, to detect concurrent changes.
    effective : date
        First night on which a new entry can take effect.
    log : tuple of EpochEntry
        Interventions.
    outliers : tuple of date
        Nights of valid outliers since the last intervention.
    """

    image_type: str
    instrument: str
    present: Threshold
    entries: tuple[DatedEntry, ...]
    digest: str
    effective: dt.date
    log: tuple[epochs.EpochEntry, ...]
    outliers: tuple[dt.date, ...]


@dataclasses.dataclass(frozen=True)
class LimitEffects:
    """Effect of other thresholds on the verdicts of the past.

    Attributes
    ----------
    since : date
        First night of the frames.
    """

    proposal: proposals.ThresholdProposal
    since: dt.date


@dataclasses.dataclass(frozen=True)
class ThresholdComparison:
    """Two entries side by side.

    Attributes
    ----------
    rows : tuple of (name, one, other)
        Numbers as text; empty if an entry lacks the number.
    only_one, only_other : tuple of VerdictFlip or None
        Past frames flagged by one entry only; None if an entry is for another encoder.
    """

    one: DatedEntry
    other: DatedEntry
    rows: tuple[tuple[str, str, str], ...]
    only_one: tuple[proposals.VerdictFlip, ...] | None
    only_other: tuple[proposals.VerdictFlip, ...] | None


# --- reading --------------------------------------------------------------------------------------


def today_of(request: fastapi.Request) -> dt.date:
    """Return the date of now."""
    today: dt.date = request.app.state.now().date()
    return today


def read_entries(
    project: ProjectContext, image_type: str, today: dt.date
) -> tuple[DatedEntry, ...]:
    """Return the entries of an image type in the order of the file.

    Parameters
    ----------
    project : ProjectContext
    image_type : str
    today : date
    """
    encoder = project.encoder.fingerprint
    entries = project.thresholds.entries[image_type]
    valid = [entry for entry in entries if entry.encoder == encoder and entry.since <= today]
    in_force = valid[-1] if valid else None
    return tuple(
        DatedEntry(number, entry, entry is in_force, entry.encoder == encoder)
        for number, entry in enumerate(entries, start=1)
    )


def read_overview(
    project: ProjectContext, session: Session, today: dt.date
) -> list[tuple[str, DatedEntry]]:
    """Return the entry in force of every processed image type.

    Parameters
    ----------
    project : ProjectContext
    session : Session
        For reading.
    today : date
    """
    return [
        (image_type, entry)
        for image_type in db.extensions.filter_image_types(
            session, sorted(project.thresholds.entries)
        )
        for entry in read_entries(project, image_type, today)
        if entry.is_in_force
    ]


def read_type(
    project: ProjectContext, session: Session, image_type: str, today: dt.date
) -> TypeOverview:
    """Return the thresholds of an image type and the interventions that affect it.

    Parameters
    ----------
    project : ProjectContext
    session : Session
        For reading.
    image_type : str
    today : date
    """
    instrument = instrument_of(project, image_type)
    log = [
        entry
        for entry in epochs.read_log(session)
        if entry.epoch.scope in {image_type, instrument.name}
    ]
    last = max((entry.epoch.since for entry in log if not entry.undone_by), default=dt.date.min)
    outliers = db.findings.outlier_nights(session, image_type, max(last, query.FIRST_NIGHT))
    newest = project.thresholds.entries[image_type][-1].since
    return TypeOverview(
        image_type=image_type,
        instrument=instrument.name,
        present=project.thresholds.threshold(image_type, today, project.encoder.fingerprint),
        entries=read_entries(project, image_type, today),
        digest=project.thresholds.digest,
        effective=max(today, newest + dt.timedelta(days=1)),
        log=tuple(log),
        outliers=tuple(night for night in outliers if night > last),
    )


def instrument_of(project: ProjectContext, image_type: str) -> Instrument:
    """Return the instrument of an image type.

    Parameters
    ----------
    project : ProjectContext
    image_type : str
    """
    return next(
        instrument for instrument in project.instruments if image_type in instrument.image_types()
    )


def find_type(
    request: fastapi.Request,
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    image_type: deps.ImageType,
) -> TypeOverview:
    """Return the thresholds of the image type in an address.

    Parameters
    ----------
    request, project, session : dependencies
    image_type : str
    """
    return read_type(project, session, image_type, today_of(request))


RequestedType = Annotated[TypeOverview, fastapi.Depends(find_type)]


def make_goal(limits: query.LimitRequest, effective: dt.date, since: dt.date) -> TuningGoal:
    """Return the tuning goal of a request.

    Parameters
    ----------
    limits : LimitRequest
    effective : date
        First night of the new thresholds.
    since : date
        First night of the frames.
    """
    return TuningGoal(effective, since, limits.false_alarms, limits.recall, limits.factor)


def read_goal_past(
    project: ProjectContext, session: Session, cache: LRUCache, image_type: str, goal: TuningGoal
) -> PastVerdicts:
    """Return the past verdicts and the thresholds in force on the night of a goal.

    Parameters
    ----------
    project : ProjectContext
    session : Session
        For reading.
    cache : LRUCache
    image_type : str
    goal : TuningGoal
    """
    encoder = project.encoder.fingerprint
    present = project.thresholds.threshold(image_type, goal.effective, encoder)
    return threshold_cache.read_past(project, session, cache, image_type, present, goal.since)


def read_effects(
    project: ProjectContext,
    session: Session,
    cache: LRUCache,
    overview: TypeOverview,
    limits: query.LimitRequest,
    author: str,
) -> LimitEffects:
    """Return the effect of other thresholds on the verdicts of the past.

    Parameters
    ----------
    project : ProjectContext
    session : Session
        For reading.
    cache : LRUCache
    overview : TypeOverview
    limits : LimitRequest
    author : str
        Of a later entry.

    Raises
    ------
    InsufficientDataError
        If the type has too few nominal or bad frames.
    """
    since = limits.since or db.extensions.first_night_of_newest(
        session, overview.image_type, threshold_cache.NEWEST
    )
    goal = make_goal(limits, overview.effective, since)
    past = read_goal_past(project, session, cache, overview.image_type, goal)
    return LimitEffects(proposals.propose_from(past, goal, "", author), since)


def read_comparison(
    project: ProjectContext,
    session: Session,
    cache: LRUCache,
    overview: TypeOverview,
    numbers: tuple[int, int],
) -> ThresholdComparison:
    """Return two entries of a type, and the past frames that only one of them flags.

    Parameters
    ----------
    project : ProjectContext
    session : Session
        For reading.
    cache : LRUCache
    overview : TypeOverview
    numbers : tuple of int
        Positions in the file, from 1.

    Raises
    ------
    InvalidInputError
        If an entry does not exist.
    """
    by_number = {entry.number: entry for entry in overview.entries}
    for number in numbers:
        if number not in by_number:
            raise errors.InvalidInputError(
                f"{overview.image_type}: no entry No. {number}; expected 1 to {len(by_number)}"
            )
    first, second = (by_number[number] for number in numbers)
    numbers_of = [format_numbers(entry.threshold) for entry in (first, second)]
    rows = tuple(
        (name, numbers_of[0].get(name, ""), numbers_of[1].get(name, ""))
        for name in dict.fromkeys([*numbers_of[0], *numbers_of[1]])
    )
    if not (first.is_comparable and second.is_comparable):
        return ThresholdComparison(first, second, rows, None, None)
    since = db.extensions.first_night_of_newest(
        session, overview.image_type, threshold_cache.NEWEST
    )
    goal = TuningGoal(overview.effective, since)
    past = read_goal_past(project, session, cache, overview.image_type, goal)
    first_limits, second_limits = limits_of(first.threshold), limits_of(second.threshold)
    return ThresholdComparison(
        first,
        second,
        rows,
        proposals.find_flips(past.history, second_limits, first_limits, flagged=True),
        proposals.find_flips(past.history, first_limits, second_limits, flagged=True),
    )


def format_numbers(entry: Threshold) -> dict[str, str]:
    """Return the numbers of an entry as text, by name."""
    general = {
        "merge height": f"{entry.merge_height:.3g}",
        "residual": f"{entry.residual:.3g}",
        "false alarms": f"{entry.false_alarms:.3g}",
    }
    return general | {
        f"|z| of {name}: warn / alarm": f"{limit.warn:g} / {limit.alarm:g}"
        for name, limit in entry.metrics.items()
    }


def find_comparison(
    overview: RequestedType,
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    cache: deps.Cache,
    one: Annotated[int, fastapi.Query(ge=1, description="Number of the first entry.")],
    other: Annotated[int, fastapi.Query(ge=1, description="Number of the second entry.")],
    _user: auth.User,
) -> ThresholdComparison:
    """Return the comparison of the two entries in an address.

    Parameters
    ----------
    overview : TypeOverview
    project, session, cache : dependencies
    one, other : int
    """
    return read_comparison(project, session, cache, overview, (one, other))


RequestedComparison = Annotated[ThresholdComparison, fastapi.Depends(find_comparison)]


# --- operations -----------------------------------------------------------------------------------


@router.get("/thresholds", response_model=schemas.LimitsInForce)
def thresholds_in_force(
    request: fastapi.Request,
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    _user: auth.User,
) -> dict[str, Any]:
    """Return the thresholds in force of all processed image types.

    Parameters
    ----------
    request, project, session : dependencies
    """
    entries = read_overview(project, session, today_of(request))
    return {
        "types": [
            {"image_type": image_type, "entry": entry_record(entry)}
            for image_type, entry in entries
        ]
    }


@router.get("/thresholds/{image_type}", response_model=schemas.TypeLimits)
def thresholds_of_type(overview: RequestedType, _user: auth.User) -> dict[str, Any]:
    """Return all thresholds and interventions of an image type.

    Parameters
    ----------
    overview : TypeOverview
    """
    return {
        "image_type": overview.image_type,
        "digest": overview.digest,
        "entries": [entry_record(entry) for entry in overview.entries],
        "interventions": [
            {
                "number": entry.epoch.id,
                "scope": entry.epoch.scope,
                "from": entry.epoch.since,
                "why": entry.epoch.why,
                "who": entry.epoch.who,
                "at": entry.epoch.at,
                "undone_by": entry.undone_by.who if entry.undone_by else None,
            }
            for entry in overview.log
        ],
        "valid_outliers_since_the_last": overview.outliers,
    }


@router.get("/thresholds/{image_type}/consequences", response_model=schemas.LimitConsequences)
def threshold_effects(
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    cache: deps.Cache,
    overview: RequestedType,
    limits: Annotated[query.LimitRequest, fastapi.Query()],
    user: auth.User,
) -> dict[str, Any]:
    """Return the effect of other thresholds on the past; default: those in force.

    Parameters
    ----------
    project, session, cache, user : dependencies
    overview : TypeOverview
    limits : LimitRequest
    """
    limits = limits if limits.is_set else limits.model_copy(update={"factor": 1.0})
    try:
        effects = read_effects(project, session, cache, overview, limits, user.name)
    except errors.InsufficientDataError as error:
        raise errors.InvalidInputError(str(error)) from None
    record = proposals.proposal_record(effects.proposal)
    for name in ("newly_flagged", "no_longer_flagged"):
        record |= {name: record[name][:MOST_FLIPS], f"{name}_count": len(record[name])}
    return record | {"since": effects.since}


@router.get("/thresholds/{image_type}/compare", response_model=schemas.EntryComparison)
def threshold_comparison(comparison: RequestedComparison) -> dict[str, Any]:
    """Return two entries side by side."""
    return {
        "one": entry_record(comparison.one),
        "other": entry_record(comparison.other),
        "only_one_flags": flip_records(comparison.only_one),
        "only_other_flags": flip_records(comparison.only_other),
    }


def entry_record(entry: DatedEntry) -> dict[str, Any]:
    """Return an entry as JSON."""
    position = {"number": entry.number, "is_in_force": entry.is_in_force}
    return position | entry.threshold.model_dump(mode="json", by_alias=True)


def flip_records(flips: Sequence[proposals.VerdictFlip] | None) -> list[dict[str, Any]] | None:
    """Return changed verdicts as JSON, at most the first thousand."""
    return None if flips is None else [dataclasses.asdict(flip) for flip in flips[:MOST_FLIPS]]
