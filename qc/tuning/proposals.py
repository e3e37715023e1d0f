"""Threshold proposals: new limits for an image type from its stored verdicts and labels."""

import dataclasses
import datetime as dt
from collections import abc
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qc import db, errors
from qc._text import match_names, pluralise
from qc.detection.decision import widening
from qc.detection.thresholds import Threshold
from qc.detection.thresholds_file import write_entries
from qc.figures import thresholds
from qc.project import ProjectContext
from qc.tuning import choice, history, label_fit
from qc.tuning.extreme_values import Interval
from qc.tuning.history import PastVerdicts, TuningCase, TuningHistory
from qc.tuning.limits import LimitSet, limits_of

Doubles = NDArray[np.float64]

_NAMED = 3  # frames named in one sentence


@dataclasses.dataclass(frozen=True)
class VerdictFlip:
    """A past extension whose verdict changes with new limits.

    Attributes
    ----------
    ratio : float
        Strongest evidence in units of the new limits.
    """

    name: str
    night: dt.date
    label: str
    kind: str
    ratio: float


@dataclasses.dataclass(frozen=True)
class ThresholdProposal:
    """New limits for one image type and their expected performance.

    Attributes
    ----------
    basis : str
        Target of the tuning, in words.
    merge_height, residual : Interval
        Ranges of limits that agree with the sample.
    false_alarms : Interval
        Share of nominal extensions that will be flagged.
    recall, precision : Interval or None
        None where no extension is labelled bad.
    newly_flagged, no_longer_flagged : tuple of VerdictFlip
    notes : tuple of str
        Extensions that were left out, and remedies.
    """

    image_type: str
    basis: str
    present: Threshold
    proposed: Threshold
    merge_height: Interval
    residual: Interval
    false_alarms: Interval
    recall: Interval | None
    precision: Interval | None
    newly_flagged: tuple[VerdictFlip, ...]
    no_longer_flagged: tuple[VerdictFlip, ...]
    history: TuningHistory
    notes: tuple[str, ...]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return a table: quantity, with the present limits, with the proposed ones, interval."""
        heights = format_interval(self.merge_height, ".3g")
        residuals = format_interval(self.residual, ".3g")
        metrics = f"{pluralise(len(self.proposed.metrics), 'metric')}: |z|"
        limits = (self.present, self.proposed)
        flagged = [self.history.ratios_to(limits_of(entry)) for entry in limits]
        nominal_counts = [f"{int((n > 1).sum())} of {len(n)}" for n, _ in flagged]
        bad_counts = [f"{int((bad > 1).sum())} of {len(bad)}" for _, bad in flagged]
        table = [
            ("merge height", f"{self.present.merge_height:.3g}", *heights),
            ("residual", f"{self.present.residual:.3g}", *residuals),
            (metrics, summarise_alarms(self.present), summarise_alarms(self.proposed), ""),
            ("nominal flagged", nominal_counts[0], nominal_counts[1], ""),
            ("false alarms", "", *format_interval(self.false_alarms, ".1%")),
        ]
        if self.recall is None or self.precision is None:
            return [*table, ("recall", "", "unknown", "none labelled bad")]
        return [
            *table,
            ("bad found", bad_counts[0], bad_counts[1], ""),
            ("recall", "", *format_interval(self.recall, ".0%")),
            ("precision", "", *format_interval(self.precision, ".0%")),
        ]


def summarise_alarms(threshold: Threshold) -> str:
    """Return the least, median and greatest alarm limit on |z|, as text."""
    alarms = [limit.alarm for limit in threshold.metrics.values()]
    figures = [min(alarms), float(np.median(alarms)), max(alarms)] if alarms else []
    return " / ".join(f"{value:.3g}" for value in figures) or "none"


def format_interval(interval: Interval, form: str) -> tuple[str, str]:
    """Format a value and its interval.

    Parameters
    ----------
    interval : Interval
    form : str
        Format specification of a number.

    Returns
    -------
    value, interval : str
    """
    return format(interval.value, form), f"{interval.low:{form}} to {interval.high:{form}}"


def propose_all(
    project: ProjectContext,
    image_types: abc.Sequence[str],
    goal: choice.TuningGoal,
    reason: str,
    author: str,
    progress: abc.Callable[[int, int], None],
) -> tuple[list[ThresholdProposal], list[str]]:
    """Propose new limits for some image types, or for all processed ones.

    Parameters
    ----------
    project : ProjectContext
    image_types : sequence of str
        Names or patterns; empty for all.
    goal : TuningGoal
    reason, author : str
        Recorded with the new entries.
    progress : callable
        Receives the number of finished types and their total.

    Returns
    -------
    proposals : list of ThresholdProposal
    refused : list of str
        Reasons for the types without a proposal, one sentence each.

    Raises
    ------
    InvalidInputError
        If an image type does not exist.
    InsufficientDataError
        If there is no proposal at all.
    """
    proposals, refused = [], []
    types = select_types(project, image_types)
    for done, image_type in enumerate(types, start=1):
        try:
            proposals.append(propose(project, image_type, goal, reason, author))
        except (errors.InsufficientDataError, errors.IncompleteHeaderError) as error:
            refused.append(str(error))
        progress(done, len(types))
    if not proposals:
        more = f"; and {len(refused) - _NAMED} more like these" if len(refused) > _NAMED else ""
        raise errors.InsufficientDataError(
            "; ".join(refused[:_NAMED]) + more
            or "nothing has been processed; there is no type to tune"
        )
    return proposals, refused


def select_types(project: ProjectContext, names: abc.Sequence[str]) -> abc.Sequence[str]:
    """Return the image types that match some names; all processed ones without names.

    Parameters
    ----------
    project : ProjectContext
    names : sequence of str
        Names or patterns.

    Returns
    -------
    sequence of str
    """
    if names:
        all_types = [name for entry in project.instruments for name in entry.image_types()]
        return match_names(names, all_types, "image type")
    with project.read_session() as session:
        processed = db.extensions.list_image_types(session)
    return [name for name in processed if name in project.thresholds.entries]


def propose(
    project: ProjectContext, image_type: str, goal: choice.TuningGoal, reason: str, author: str
) -> ThresholdProposal:
    """Propose new limits for an image type.

    The stored evidence of every verdict by the encoder in use is judged again, with the present
    and with the new limits.

    Parameters
    ----------
    project : ProjectContext
    image_type : str
    goal : TuningGoal
    reason, author : str
        Recorded with the new entry.

    Returns
    -------
    ThresholdProposal

    Raises
    ------
    InsufficientDataError
        If there are too few frames or labels.
    """
    return propose_from(read_past_verdicts(project, image_type, goal), goal, reason, author)


def read_past_verdicts(
    project: ProjectContext, image_type: str, goal: choice.TuningGoal
) -> PastVerdicts:
    """Read the judged extensions of an image type, with the limits in force.

    Parameters
    ----------
    project : ProjectContext
    image_type : str
    goal : TuningGoal
        Gives the first night, and the night whose limits are the present ones.

    Returns
    -------
    PastVerdicts
    """
    encoder = project.encoder.fingerprint
    present = project.thresholds.threshold(image_type, goal.effective, encoder)
    record = history.read_verdict_history(project, image_type, goal.since)
    cases = history.group_cases(record, present)
    return PastVerdicts(image_type, present, cases, record.notes)


def propose_from(
    past: PastVerdicts, goal: choice.TuningGoal, reason: str, author: str
) -> ThresholdProposal:
    """Propose new limits from past verdicts; see `propose`.

    Parameters
    ----------
    past : PastVerdicts
    goal : TuningGoal
    reason, author : str
        Recorded with the new entry.

    Returns
    -------
    ThresholdProposal

    Raises
    ------
    InsufficientDataError
        If there are too few frames or labels.
    """
    present, cases = past.present, past.history
    choice.check_sample(past.image_type, cases, goal)
    chosen = choice.choose_limits(past.image_type, cases, present, goal)
    proposed = choice.round_entry(present, chosen, goal, f"{reason}; " if reason else "", author)
    limits, spread = limits_of(proposed), chosen.result.spread
    return ThresholdProposal(
        image_type=past.image_type,
        basis=chosen.basis,
        present=present,
        proposed=proposed,
        merge_height=scale_interval(spread, proposed.merge_height),
        residual=scale_interval(spread, proposed.residual),
        false_alarms=chosen.result.false_alarms,
        recall=chosen.recall or _measure_recall(cases, limits),
        precision=chosen.precision or _measure_precision(cases, limits),
        newly_flagged=find_flips(cases, limits_of(present), limits, flagged=True),
        no_longer_flagged=find_flips(cases, limits_of(present), limits, flagged=False),
        history=cases,
        notes=(*past.notes, *_notes(cases)),
    )


def write_proposals(project: ProjectContext, proposals: abc.Sequence[ThresholdProposal]) -> None:
    """Add the proposed limits to the project's thresholds file, all of them or none.

    Parameters
    ----------
    project : ProjectContext
    proposals : sequence of ThresholdProposal

    Raises
    ------
    ConfigurationError
        If the project has no thresholds file, or the file cannot be changed.
    """
    path = project.settings.project / project.settings.thresholds
    if project.thresholds.path != path:
        raise errors.ConfigurationError(
            f"{path}: no such file, and the one that came with the program is not to be changed; "
            f"make one with 'qc db upgrade --project {project.settings.project}'"
        )
    write_entries(
        project.thresholds, {proposal.image_type: proposal.proposed for proposal in proposals}
    )


def proposal_record(proposal: ThresholdProposal) -> dict[str, Any]:
    """Return a proposal as plain values for JSON, with every flip and every limit."""
    cases = proposal.history
    sizes = ("nominal", "bad", "unexplained", "outliers", "contradictory")
    names = ("merge_height", "residual", "false_alarms", "recall", "precision")
    intervals = {name: getattr(proposal, name) for name in names}
    return {
        "image_type": proposal.image_type,
        "basis": proposal.basis,
        "frames": {name: len(getattr(cases, name)) for name in sizes},
        "present": proposal.present.model_dump(mode="json", by_alias=True),
        "proposed": proposal.proposed.model_dump(mode="json", by_alias=True),
        "expected": {
            name: dataclasses.asdict(value) if value else None for name, value in intervals.items()
        },
        "newly_flagged": [dataclasses.asdict(flip) for flip in proposal.newly_flagged],
        "no_longer_flagged": [dataclasses.asdict(flip) for flip in proposal.no_longer_flagged],
        "notes": proposal.notes,
    }


def draw_proposals(proposals: abc.Sequence[ThresholdProposal]) -> bytes:
    """Draw evidence, limits, precision and recall of some proposals, as PNG."""
    return thresholds.draw_tuning([plot_row(proposal) for proposal in proposals])


def plot_row(proposal: ThresholdProposal) -> thresholds.TuningPlotRow:
    """Return the data of a proposal's row of plots."""
    cases = proposal.history
    groups = {"nominal": cases.nominal, "bad": cases.bad, "unlabelled": cases.unexplained}
    curve = None
    if cases.bad:
        nominal, bad = cases.ratios_to(limits_of(proposal.proposed))
        cuts, precision, recall = label_fit.precision_recall(nominal, bad)
        curve = precision, recall, int(np.flatnonzero(cuts <= 1)[0])
    return thresholds.TuningPlotRow(
        title=proposal.image_type,
        merge_heights={
            name: normalised_evidence(group, "merge_height") for name, group in groups.items()
        },
        residuals={name: normalised_evidence(group, "residual") for name, group in groups.items()},
        present=(proposal.present.merge_height, proposal.present.residual),
        proposed=(proposal.proposed.merge_height, proposal.proposed.residual),
        curve=curve,
    )


def normalised_evidence(cases: abc.Sequence[TuningCase], name: str) -> Doubles:
    """Return one kind of evidence as if each reference were ample.

    Parameters
    ----------
    cases : sequence of n TuningCase
    name : str
        Attribute of the evidence.

    Returns
    -------
    (n,) float array
    """
    values = [
        getattr(case.evidence, name) / widening(case.evidence.reference_size) for case in cases
    ]
    return np.array(values, np.float64)


def scale_interval(spread: Interval, value: float) -> Interval:
    """Return a value with a relative interval.

    Parameters
    ----------
    spread : Interval
        Relative to 1.
    value : float

    Returns
    -------
    Interval
    """
    return Interval(value, value * spread.low, value * spread.high)


def _measure_recall(cases: TuningHistory, limits: LimitSet) -> Interval | None:
    _, bad = cases.ratios_to(limits)
    return label_fit.share_interval(int((bad > 1).sum()), len(bad)) if len(bad) else None


def _measure_precision(cases: TuningHistory, limits: LimitSet) -> Interval | None:
    nominal, bad = cases.ratios_to(limits)
    hits, false = int((bad > 1).sum()), int((nominal > 1).sum())
    return label_fit.share_interval(hits, hits + false) if len(bad) else None


def find_flips(
    cases: TuningHistory, before: LimitSet, after: LimitSet, *, flagged: bool
) -> tuple[VerdictFlip, ...]:
    """Return the cases whose verdict differs between two sets of limits.

    Parameters
    ----------
    cases : TuningHistory
    before, after : LimitSet
    flagged : bool
        True for cases that only `after` flags, False for cases that only `before` flags.

    Returns
    -------
    tuple of VerdictFlip
        The largest ratio to `after` first.
    """
    ratios = cases.ratios(after)
    is_flagged = cases.is_flagged_anyway | (ratios > 1)
    rows = np.flatnonzero((is_flagged == flagged) & (cases.is_beyond(before) != flagged))
    flips = [_flip(cases.cases[row], float(ratios[row])) for row in rows]
    return tuple(sorted(flips, key=lambda flip: -flip.ratio))


def _flip(case: TuningCase, ratio: float) -> VerdictFlip:
    label = str(case.label) if case.label else ""
    return VerdictFlip(case.name, case.night, label, case.kind, ratio)


def _notes(cases: TuningHistory) -> abc.Iterator[str]:
    if cases.continued:
        yield (
            f"flagged without a label, and counted as nominal: {cases.continued}, as they "
            "continue the tail of the others"
        )
    if cases.unexplained:
        yield (
            f"flagged without a label, so left out: {len(cases.unexplained)} "
            f"({name_some(cases.unexplained)})"
        )
    if cases.outliers:
        yield (
            f"valid outliers, so left out: {len(cases.outliers)}, correctly anomalous, but not bad"
        )
    if cases.contradictory:
        yield (
            f"labelled good and bad under one name, so left out: {len(cases.contradictory)} "
            f"({name_some(cases.contradictory)})"
        )


def name_some(cases: abc.Sequence[TuningCase]) -> str:
    """Return the first names of some cases, and the number of the others."""
    more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
    return ", ".join(case.name for case in cases[:_NAMED]) + more
