"""Limits of an image type: what others would have done to its past, and who set which, and why."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from math import log10
from typing import Annotated, Any, Self

from fastapi import APIRouter, BackgroundTasks, Depends, Form, HTTPException, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field, model_validator
from sqlalchemy.orm import Session

from qc import db
from qc._cache import LRUCache
from qc._locks import KeyedLocks
from qc.detection.thresholds import Threshold
from qc.errors import ConfigurationError, InsufficientDataError, InvalidInputError
from qc.io.instruments import Instrument
from qc.labels import epochs
from qc.labels.epochs import EpochEntry
from qc.labels.store import LONGEST_NOTE, one_line
from qc.project import Project
from qc.tuning import proposals
from qc.tuning.fit import limits_of
from qc.tuning.proposals import PastVerdicts, ThresholdProposal, TuningGoal, VerdictFlip
from qc.web import plots
from qc.web.api import schemas
from qc.web.auth import Anybody, Tuner
from qc.web.plots import PrecisionRecallCurve, RatioHistogram
from qc.web.rendering import Keeping, Reads, Renewed, Writes, render
from qc.web.threshold_cache import NEWEST, past_of

router = APIRouter()

SHOWN = 48  # flips of a kind on the page
TOLD = 1000  # and in its JSON
_NARROWEST, _WIDEST = 0.1, 10.0


class LimitRequest(BaseModel):
    """What limits are wanted: all present ones times a factor, or for a rate, or for a recall."""

    factor: Annotated[
        float | None,
        Field(ge=_NARROWEST, le=_WIDEST, description="All present limits, so many times."),
    ] = None
    false_alarms: Annotated[
        float | None, Field(ge=1e-6, le=0.5, description="Limits for such a rate per extension.")
    ] = None
    recall: Annotated[
        float | None, Field(ge=0, le=1, description="Limits that find this share of the bad ones.")
    ] = None
    since: Annotated[
        date | None, Field(description="First night that is looked at; else the newest 20000.")
    ] = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = (self.factor, self.false_alarms, self.recall)
        if sum(one is not None for one in given) > 1:
            raise ValueError("give a factor, a rate of false alarms or a recall: only one of them")
        return self

    @property
    def is_made(self) -> bool:
        """Say whether anything is wanted at all."""
        return not (self.factor is None and self.false_alarms is None and self.recall is None)

    @property
    def log_factor(self) -> float:
        """Return where the slider stands."""
        return round(log10(self.factor), 2) if self.factor else 0.0


class NewThresholdEntry(LimitRequest):
    """A wish that is to be written, and what its author had before their eyes."""

    why: str
    effective: date
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class DatedEntry:
    """An entry of the file.

    Attributes
    ----------
    number : int
        In order of the file, from 1.
    is_comparable : bool
        Whether it is for the encoder in use.
    """

    number: int
    threshold: Threshold
    is_in_force: bool
    is_comparable: bool


@dataclass(frozen=True)
class TypeOverview:
    """What is known of a type's limits without reading its past.

    Attributes
    ----------
    digest : str
        Of the file; it must be the same when an entry is written.
    effective : date
        The first night from which a new entry could hold.
    outliers : tuple of date
        Nights of valid outliers since the last intervention.
    """

    image_type: str
    instrument: str
    present: Threshold
    entries: tuple[DatedEntry, ...]
    digest: str
    effective: date
    log: tuple[EpochEntry, ...]
    outliers: tuple[date, ...]


@dataclass(frozen=True)
class LimitEffects:
    """What other limits would have done."""

    proposal: ThresholdProposal
    distribution: RatioHistogram
    curve: PrecisionRecallCurve | None
    since: date


@dataclass(frozen=True)
class ThresholdComparison:
    """Two entries side by side.

    Attributes
    ----------
    rows : tuple of (name, one, other)
        Numbers as text; an empty one where an entry has none.
    only_one, only_other : tuple of Flip or None
        Past frames that only one of them flags; None where they are not for the encoder in use.
    """

    one: DatedEntry
    other: DatedEntry
    rows: tuple[tuple[str, str, str], ...]
    only_one: tuple[VerdictFlip, ...] | None
    only_other: tuple[VerdictFlip, ...] | None


def known_type(project: Renewed, image_type: Annotated[str, Path(description="As `UBB0`.")]) -> str:
    """Let through only what is an image type."""
    if image_type not in project.thresholds.entries:
        known = " ".join(sorted(project.thresholds.entries))
        raise HTTPException(404, f"{image_type[:40]}: no such image type; there are {known}")
    return image_type


ImageType = Annotated[str, Depends(known_type)]


@router.get("/thresholds", include_in_schema=False)
def overview(request: Request, project: Renewed, session: Reads, _who: Anybody) -> HTMLResponse:
    """List the limits in force."""
    shown = read_overview(project, session, _today(request))
    return render(request, "thresholds.html.j2", types=shown, digest=project.thresholds.digest)


@router.get("/api/v1/thresholds", response_model=schemas.LimitsInForce)
def overview_json(
    request: Request, project: Renewed, session: Reads, _who: Anybody
) -> dict[str, Any]:
    """Return the limits in force."""
    found = read_overview(project, session, _today(request))
    return {"types": [{"image_type": name, "entry": _entry_record(one)} for name, one in found]}


def read_overview(project: Project, session: Session, today: date) -> list[tuple[str, DatedEntry]]:
    """Return the entry in force of every image type that was ever seen."""
    found = []
    for name in db.findings.types_among(session, sorted(project.thresholds.entries)):
        in_force = [one for one in _entries(project, name, today) if one.is_in_force]
        if in_force:
            found.append((name, in_force[0]))
    return found


def _today(request: Request) -> date:
    today: date = request.app.state.now().date()
    return today


def _entries(project: Project, image_type: str, today: date) -> tuple[DatedEntry, ...]:
    own = project.encoder.fingerprint
    entries = project.thresholds.entries[image_type]
    valid = [one for one in entries if one.encoder == own and one.since <= today]
    return tuple(
        DatedEntry(number, one, one is (valid[-1] if valid else None), one.encoder == own)
        for number, one in enumerate(entries, start=1)
    )


def asked_desk(
    request: Request, project: Renewed, session: Reads, image_type: ImageType
) -> TypeOverview:
    """Return what is known of the limits of the type in an address."""
    return read_desk(project, session, image_type, _today(request))


AskedDesk = Annotated[TypeOverview, Depends(asked_desk)]


@router.get("/thresholds/{image_type}", include_in_schema=False)
def desk(
    request: Request,
    project: Renewed,
    session: Reads,
    kept: Keeping,
    shown: AskedDesk,
    wish: Annotated[LimitRequest, Query()],
    who: Anybody,
    afterwards: BackgroundTasks,
) -> HTMLResponse:
    """Show a type's limits; and, where others are wanted, what they would have done."""
    tried, refused = None, ""
    if not wish.is_made:  # the past is read while they are, for the first move of the slider
        afterwards.add_task(_read_ahead, project, kept, shown)
    else:
        try:
            tried = read_consequences(project, session, kept, shown, wish, who.name)
        except InsufficientDataError as error:
            refused = str(error)
    return render(
        request,
        "threshold.html.j2",
        desk=shown,
        wish=wish,
        tried=tried,
        refused=refused,
        most=SHOWN,
    )


@router.get("/api/v1/thresholds/{image_type}", response_model=schemas.TypeLimits)
def desk_json(shown: AskedDesk, _who: Anybody) -> dict[str, Any]:
    """Return a type's entries and interventions."""
    return {
        "image_type": shown.image_type,
        "digest": shown.digest,
        "entries": [_entry_record(one) for one in shown.entries],
        "interventions": [_epoch_record(one) for one in shown.log],
        "valid_outliers_since_the_last": shown.outliers,
    }


@router.get(
    "/api/v1/thresholds/{image_type}/consequences", response_model=schemas.LimitConsequences
)
def consequences_json(
    project: Renewed,
    session: Reads,
    kept: Keeping,
    shown: AskedDesk,
    wish: Annotated[LimitRequest, Query()],
    who: Anybody,
) -> dict[str, Any]:
    """Return what other limits would have done to the past: by default those in force."""
    asked = wish if wish.is_made else wish.model_copy(update={"factor": 1.0})
    try:
        tried = read_consequences(project, session, kept, shown, asked, who.name)
    except InsufficientDataError as error:
        raise InvalidInputError(str(error)) from None
    record = proposals.proposal_record(tried.proposal)
    both = ("newly_flagged", "no_longer_flagged")
    counts = {f"{name}_count": len(record[name]) for name in both}
    return record | {name: record[name][:TOLD] for name in both} | counts | {"since": tried.since}


def _entry_record(one: DatedEntry) -> dict[str, Any]:
    own = {"number": one.number, "is_in_force": one.is_in_force}
    return own | one.threshold.model_dump(mode="json", by_alias=True)


def _epoch_record(entry: EpochEntry) -> dict[str, Any]:
    epoch = entry.epoch
    return {
        "number": epoch.id,
        "scope": epoch.scope,
        "from": epoch.since,
        "why": epoch.why,
        "who": epoch.who,
        "at": epoch.at,
        "undone_by": entry.undone_by.who if entry.undone_by else None,
    }


def read_desk(project: Project, session: Session, image_type: str, today: date) -> TypeOverview:
    """Return a type's limits, who set them, and the interventions that bear on it."""
    instrument = instrument_of(project, image_type)
    log = [
        one for one in epochs.read_log(session) if one.epoch.scope in {image_type, instrument.name}
    ]
    last = max((one.epoch.since for one in log if not one.undone_by), default=date.min)
    outliers = db.findings.outlier_nights(session, image_type, max(last, _EARLIEST))
    newest = project.thresholds.entries[image_type][-1].since
    return TypeOverview(
        image_type=image_type,
        instrument=instrument.name,
        present=project.thresholds.threshold(image_type, today, project.encoder.fingerprint),
        entries=_entries(project, image_type, today),
        digest=project.thresholds.digest,
        effective=max(today, newest + timedelta(days=1)),
        log=tuple(log),
        outliers=tuple(night for night in outliers if night > last),
    )


_EARLIEST = date(1990, 1, 1)


def instrument_of(project: Project, image_type: str) -> Instrument:
    """Return the instrument that has an image type."""
    return next(one for one in project.instruments if image_type in one.image_types())


def read_consequences(
    project: Project,
    session: Session,
    kept: LRUCache,
    shown: TypeOverview,
    wish: LimitRequest,
    who: str,
) -> LimitEffects:
    """Return what the limits that are wanted would have done to the past.

    Raises
    ------
    CannotTune
        If too little is known of the type.
    """
    since = wish.since or db.findings.night_of_newest(session, shown.image_type, NEWEST)
    goal = _goal(wish, shown.effective, since)
    proposal = proposals.propose_from(_past(project, session, kept, shown, goal), goal, "", who)
    history = proposal.history
    # In units of the limits tried: not all of them are scaled alike, as each has a floor.
    tried = limits_of(proposal.proposed)
    nominal, bad = history.ratios_to(tried)
    known = len(nominal) + len(bad)
    groups = {"nominal": nominal, "bad": bad, "others": history.ratios(tried)[known:]}
    return LimitEffects(
        proposal,
        plots.distribution(groups),
        plots.curve(nominal, bad) if len(bad) else None,
        since,
    )


def _goal(wish: LimitRequest, effective: date, since: date) -> TuningGoal:
    return TuningGoal(effective, since, wish.false_alarms, wish.recall, wish.factor)


def _past(
    project: Project, session: Session, kept: LRUCache, shown: TypeOverview, goal: TuningGoal
) -> PastVerdicts:
    """Return a type's past beside the limits in force on the night from which others would hold."""
    encoder = project.encoder.fingerprint
    present = project.thresholds.threshold(shown.image_type, goal.effective, encoder)
    return past_of(project, session, kept, shown.image_type, present, goal.since)


def _read_ahead(project: Project, kept: LRUCache, shown: TypeOverview) -> None:
    """Read the past of a type, unless that is done already: who waits holds a connection."""
    ahead: KeyedLocks = kept.get("ahead", None, KeyedLocks)
    with ahead.if_free(shown.image_type) as is_free:
        if is_free:
            with project.reads() as session:
                since = db.findings.night_of_newest(session, shown.image_type, NEWEST)
                _past(project, session, kept, shown, TuningGoal(shown.effective, since))


@router.post("/thresholds/{image_type}", include_in_schema=False)
def save(
    request: Request,
    project: Renewed,
    session: Reads,
    kept: Keeping,
    image_type: ImageType,
    form: Annotated[NewThresholdEntry, Form()],
    who: Tuner,
) -> RedirectResponse:
    """Write the limits that were wanted into the file, as 'qc tune --write' does."""
    if not form.is_made:
        raise InvalidInputError(
            "nothing to save: choose a factor, a rate of false alarms or a recall"
        )
    why = one_line(form.why, "reason", LONGEST_NOTE, needed=True)
    if form.digest != project.thresholds.digest:
        raise HTTPException(
            409,
            f"{project.thresholds.path.name} was changed after this page had been made; nothing "
            "is written: look at the limits that are there now, and try once more",
        )
    shown = read_desk(project, session, image_type, _today(request))
    since = form.since or db.findings.night_of_newest(session, image_type, NEWEST)
    goal = _goal(form, form.effective, since)
    past = _past(project, session, kept, shown, goal)
    proposal = proposals.propose_from(past, goal, why, who.name)
    try:
        proposals.write_proposals(project, [proposal])
    except ConfigurationError as error:  # another was quicker, or the date is taken
        raise HTTPException(409, str(error)) from None
    return RedirectResponse(f"/thresholds/{image_type}#entries", 303)


@router.post("/thresholds/{image_type}/epochs", include_in_schema=False)
def enter(
    project: Renewed,
    session: Writes,
    image_type: ImageType,
    scope: Annotated[str, Form(max_length=80)],
    since: Annotated[date, Form()],
    why: Annotated[str, Form()],
    who: Tuner,
) -> RedirectResponse:
    """Enter an intervention, as 'qc epoch' does."""
    epochs.enter(session, scope, since, why, who=who.name, instruments=project.instruments)
    return RedirectResponse(f"/thresholds/{image_type}#interventions", 303)


def compared_entries(
    shown: AskedDesk,
    project: Renewed,
    session: Reads,
    kept: Keeping,
    one: Annotated[int, Query(ge=1, description="Number of an entry.")],
    other: Annotated[int, Query(ge=1, description="Number of another entry.")],
    _who: Anybody,
) -> ThresholdComparison:
    """Return the two entries that an address names, side by side."""
    return read_comparison(project, session, kept, shown, (one, other))


Compared = Annotated[ThresholdComparison, Depends(compared_entries)]


@router.get("/thresholds/{image_type}/compare", include_in_schema=False)
def compare(request: Request, shown: AskedDesk, compared: Compared) -> HTMLResponse:
    """Show two entries side by side."""
    return render(request, "compare.html.j2", desk=shown, compared=compared, most=SHOWN)


@router.get("/api/v1/thresholds/{image_type}/compare", response_model=schemas.EntryComparison)
def compare_json(compared: Compared) -> dict[str, Any]:
    """Return two entries side by side."""
    return {
        "one": _entry_record(compared.one),
        "other": _entry_record(compared.other),
        "only_one_flags": _flip_records(compared.only_one),
        "only_other_flags": _flip_records(compared.only_other),
    }


def _flip_records(flips: Sequence[VerdictFlip] | None) -> list[dict[str, Any]] | None:
    return None if flips is None else [asdict(flip) for flip in flips[:TOLD]]


def read_comparison(
    project: Project,
    session: Session,
    kept: LRUCache,
    shown: TypeOverview,
    numbers: tuple[int, int],
) -> ThresholdComparison:
    """Return two entries of a type, and which past frames only one of them flags.

    Raises
    ------
    InvalidAnswer
        If there is no entry of such a number.
    """
    by_number = {one.number: one for one in shown.entries}
    for number in numbers:
        if number not in by_number:
            raise InvalidInputError(
                f"{shown.image_type}: has no entry No. {number}; it has 1 to {len(by_number)}"
            )
    one, other = (by_number[number] for number in numbers)
    if not (one.is_comparable and other.is_comparable):
        return ThresholdComparison(one, other, _rows(one, other), None, None)
    since = db.findings.night_of_newest(session, shown.image_type, NEWEST)
    past = _past(project, session, kept, shown, TuningGoal(shown.effective, since))
    first, second = limits_of(one.threshold), limits_of(other.threshold)
    return ThresholdComparison(
        one,
        other,
        _rows(one, other),
        proposals.flips(past.history, second, first, flagged=True),
        proposals.flips(past.history, first, second, flagged=True),
    )


def _rows(one: DatedEntry, other: DatedEntry) -> tuple[tuple[str, str, str], ...]:
    both = [_numbers(entry.threshold) for entry in (one, other)]
    names = dict.fromkeys([*both[0], *both[1]])
    return tuple((name, both[0].get(name, ""), both[1].get(name, "")) for name in names)


def _numbers(entry: Threshold) -> dict[str, str]:
    first = {
        "merge height": f"{entry.merge_height:.3g}",
        "residual": f"{entry.residual:.3g}",
        "false alarms": f"{entry.false_alarms:.3g}",
    }
    return first | {
        f"|z| of {name}: warn / alarm": f"{limit.warn:g} / {limit.alarm:g}"
        for name, limit in entry.metrics.items()
    }
