"""Threshold pages: thresholds in force, effect of others, history and interventions."""

from dataclasses import dataclass
from datetime import date
from typing import Annotated

import fastapi
from fastapi import responses
from pydantic import Field

from qc import db, errors
from qc._cache import LRUCache
from qc._locks import KeyedLocks
from qc.labels import epochs, store
from qc.project import ProjectContext
from qc.tuning import limits, proposals
from qc.tuning.choice import TuningGoal
from qc.web import auth, deps
from qc.web.api import thresholds
from qc.web.pages import charts
from qc.web.query import LimitRequest
from qc.web.rendering import render
from qc.web.threshold_cache import NEWEST

router = fastapi.APIRouter(prefix="/thresholds", include_in_schema=False)

MOST_THUMBNAILS = 48  # changed verdicts of each kind on the page


class NewThresholdEntry(LimitRequest):
    """Form that writes a new entry.

    Attributes
    ----------
    digest : str
        SHA-256 of the thresholds file that the page showed.
    """

    why: str
    effective: date
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class EffectCharts:
    """Effect of other thresholds, with its charts.

    Attributes
    ----------
    curve : PrecisionRecallCurve or None
        None without bad frames.
    """

    proposal: proposals.ThresholdProposal
    since: date
    histogram: charts.RatioHistogram
    curve: charts.PrecisionRecallCurve | None


def draw_effects(effects: thresholds.LimitEffects) -> EffectCharts:
    """Return the charts of an effect, in units of the thresholds tried.

    The present thresholds are no unit, as floors prevent a common scale.
    """
    proposal = effects.proposal
    tried = limits.limits_of(proposal.proposed)
    nominal, bad = proposal.history.ratios_to(tried)
    other_ratios = proposal.history.ratios(tried)[len(nominal) + len(bad) :]
    return EffectCharts(
        proposal,
        effects.since,
        charts.plot_histogram({"nominal": nominal, "bad": bad, "others": other_ratios}),
        charts.plot_precision_recall(nominal, bad) if len(bad) else None,
    )


@router.get("")
def overview_page(
    request: fastapi.Request,
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    _user: auth.User,
) -> responses.HTMLResponse:
    """List the thresholds in force.

    Parameters
    ----------
    request, project, session : dependencies
    """
    types = thresholds.read_overview(project, session, thresholds.today_of(request))
    return render(request, "thresholds.html.j2", types=types)


@router.get("/{image_type}")
def type_page(
    request: fastapi.Request,
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    cache: deps.Cache,
    overview: thresholds.RequestedType,
    limit_request: Annotated[LimitRequest, fastapi.Query()],
    user: auth.User,
    background: fastapi.BackgroundTasks,
) -> responses.HTMLResponse:
    """Show the thresholds of a type and, if requested, the effect of others.

    Parameters
    ----------
    request, project, session, cache, user, background : dependencies
    overview : TypeOverview
    limit_request : LimitRequest
    """
    tried, refused = None, ""
    if not limit_request.is_set:  # fill the cache before the slider is first moved
        background.add_task(prefetch_past, project, cache, overview)
    else:
        try:
            effects = thresholds.read_effects(
                project, session, cache, overview, limit_request, user.name
            )
            tried = draw_effects(effects)
        except errors.InsufficientDataError as error:
            refused = str(error)
    return render(
        request,
        "threshold.html.j2",
        overview=overview,
        wanted=limit_request,
        tried=tried,
        refused=refused,
        most=MOST_THUMBNAILS,
    )


def prefetch_past(
    project: ProjectContext, cache: LRUCache, overview: thresholds.TypeOverview
) -> None:
    """Read the past of a type into the cache, unless another request does so already.

    A second reader would hold a database connection while it waits.

    Parameters
    ----------
    project : ProjectContext
    cache : LRUCache
    overview : TypeOverview
    """
    locks: KeyedLocks = cache.get("ahead", None, KeyedLocks)
    with locks.try_hold(overview.image_type) as is_free:
        if is_free:
            with project.read_session() as session:
                since = db.extensions.first_night_of_newest(session, overview.image_type, NEWEST)
                goal = TuningGoal(overview.effective, since)
                thresholds.read_goal_past(project, session, cache, overview.image_type, goal)


@router.post("/{image_type}")
def save(
    request: fastapi.Request,
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    cache: deps.Cache,
    image_type: deps.ImageType,
    form: Annotated[NewThresholdEntry, fastapi.Form()],
    user: auth.Tuner,
) -> responses.RedirectResponse:
    """Write new thresholds to the file, as 'qc thresholds tune --write' does.

    Parameters
    ----------
    request, project, session, cache, user : dependencies
    image_type : str
    form : NewThresholdEntry
    """
    if not form.is_set:
        raise errors.InvalidInputError(
            "nothing to save: expected a factor, a rate of false alarms or a recall"
        )
    why = store.clean_line(form.why, "reason", store.LONGEST_NOTE, needed=True)
    if form.digest != project.thresholds.digest:
        raise fastapi.HTTPException(
            409,
            f"{project.thresholds.path.name} has changed since the page was loaded; nothing was "
            "written. Reload the page and try again.",
        )
    overview = thresholds.read_type(project, session, image_type, thresholds.today_of(request))
    since = form.since or db.extensions.first_night_of_newest(session, image_type, NEWEST)
    goal = thresholds.make_goal(form, form.effective, since)
    past = thresholds.read_goal_past(project, session, cache, overview.image_type, goal)
    proposal = proposals.propose_from(past, goal, why, user.name)
    try:
        proposals.write_proposals(project, [proposal])
    except errors.ConfigurationError as error:  # a concurrent change, or the date is in use
        raise fastapi.HTTPException(409, str(error)) from None
    return responses.RedirectResponse(f"/thresholds/{image_type}#entries", 303)


@router.post("/{image_type}/epochs")
def add_intervention(
    project: deps.ReloadedProject,
    session: deps.WriteSession,
    image_type: deps.ImageType,
    scope: Annotated[str, fastapi.Form(max_length=80)],
    since: Annotated[date, fastapi.Form()],
    why: Annotated[str, fastapi.Form()],
    user: auth.Tuner,
) -> responses.RedirectResponse:
    """Add an intervention, as 'qc epochs add' does.

    Parameters
    ----------
    project, session, user : dependencies
    image_type, scope : str
    since : date
    why : str
    """
    epochs.add(session, scope, since, why, who=user.name, instruments=project.instruments)
    return responses.RedirectResponse(f"/thresholds/{image_type}#interventions", 303)


@router.get("/{image_type}/compare")
def comparison_page(
    request: fastapi.Request,
    overview: thresholds.RequestedType,
    comparison: thresholds.RequestedComparison,
) -> responses.HTMLResponse:
    """Show two entries side by side.

    Parameters
    ----------
    request : Request
    overview : TypeOverview
    comparison : ThresholdComparison
    """
    return render(
        request,
        "compare.html.j2",
        overview=overview,
        comparison=comparison,
        most=MOST_THUMBNAILS,
    )
