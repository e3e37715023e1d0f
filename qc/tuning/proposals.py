"""New limits for an image type, from what was judged of it and what people said."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qc import db
from qc._text import chosen_all, counted
from qc.core.enums import LabelName
from qc.core.reference import REFERENCE_NEEDED
from qc.core.verdict import Evidence
from qc.db.findings import Finding
from qc.detection.decision import is_anomalous_anyway, widening
from qc.detection.thresholds import Threshold, write_entries
from qc.errors import ConfigurationError, IncompleteHeaderError, InsufficientDataError
from qc.figures import plots
from qc.project import Project
from qc.tuning.extreme_values import Interval
from qc.tuning.fit import (
    BAD_NEEDED,
    NOMINAL_NEEDED,
    EvidenceTable,
    InseparableError,
    LimitSet,
    NominalSample,
    TuningResult,
    continuing,
    expected_of_labels,
    limits_of,
    precision_recall,
    share,
    tabulate,
    tune_by_hand,
    tune_to_labels,
)

Doubles = NDArray[np.float64]
Booleans = NDArray[np.bool_]

_NAMED = 3  # of many, in a sentence


@dataclass(frozen=True)
class TuningGoal:
    """What limits are wanted for.

    Attributes
    ----------
    false_alarms : float or None
        The rate per extension that is granted; then nominal frames alone decide.
    recall : float or None
        The part of the frames labelled bad that is to be found. Without either, the labels'
        best F1 where there are enough of them, else the rate that was granted before.
    since : date
        The first night whose frames are looked at.
    effective : date
        The night from which the new limits are to hold.
    factor : float or None
        By which a person scales all present limits; then nothing is fitted.
    """

    effective: date
    since: date = date.min
    false_alarms: float | None = None
    recall: float | None = None
    factor: float | None = None


@dataclass(frozen=True)
class LabelledVerdict:
    """A judged extension, and what people said of it.

    Attributes
    ----------
    absolute : mapping of metric name to (low, high)
        What the instrument can do.
    """

    name: str
    night: date
    evidence: Evidence
    label: LabelName | None
    kind: str
    absolute: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class VerdictHistory:
    """What was judged of an image type, whatever its limits, in order of time.

    Attributes
    ----------
    table : Tabulated
        The evidence of all of them, in columns.
    notes : tuple of str
        On what was not looked at.
    """

    judged: tuple[LabelledVerdict, ...]
    table: EvidenceTable
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TuningCase:
    """A judged extension beside the present limits.

    Attributes
    ----------
    is_flagged_anyway : bool
        Whatever the limits: a copy of another frame, or beyond what the instrument can do.
    ratio : float
        Its strongest evidence in units of the present limits.
    """

    name: str
    night: date
    evidence: Evidence
    label: LabelName | None
    kind: str
    is_flagged_anyway: bool
    ratio: float

    @property
    def is_flagged(self) -> bool:
        """Say whether it is anomalous by the present limits."""
        return self.is_flagged_anyway or self.ratio > 1


@dataclass(frozen=True)
class TuningHistory:
    """An image type's judged extensions, sorted out for tuning; each in order of time.

    Attributes
    ----------
    nominal : tuple of Case
        Labelled good, or let through by the present limits without a label, or flagged a little
        beyond them as the tail of the others goes on.
    bad : tuple of Case
    unexplained : tuple of Case
        Flagged, and nobody said what they are.
    outliers : tuple of Case
        Valid outliers: they were right to stand apart, and are not bad.
    contradictory : tuple of Case
        Labelled good and bad under one name.
    continued : int
        How many of the nominal ones were flagged and not labelled.
    table : Tabulated
        The evidence of `cases`, in columns.
    """

    nominal: tuple[TuningCase, ...]
    bad: tuple[TuningCase, ...]
    unexplained: tuple[TuningCase, ...]
    outliers: tuple[TuningCase, ...]
    contradictory: tuple[TuningCase, ...]
    continued: int
    table: EvidenceTable

    @cached_property
    def cases(self) -> tuple[TuningCase, ...]:
        """Return all of them: the nominal ones, the bad ones, and the others."""
        every = (self.nominal, self.bad, self.unexplained, self.outliers, self.contradictory)
        return tuple(case for some in every for case in some)

    @cached_property
    def is_flagged_anyway(self) -> Booleans:
        """Say of which of the cases: (n,)."""
        return np.array([case.is_flagged_anyway for case in self.cases], bool)

    @cached_property
    def ratio_now(self) -> Doubles:
        """Return the strongest evidence of each case in units of the present limits: (n,)."""
        return np.array([case.ratio for case in self.cases], np.float64)

    @cached_property
    def usable(self) -> NominalSample:
        """Return the evidence of the nominal cases that are not flagged whatever the limits."""
        known = len(self.nominal)
        return NominalSample(self.table.at(np.flatnonzero(~self.is_flagged_anyway[:known])))

    def ratios(self, limits: LimitSet) -> Doubles:
        """Return the strongest evidence of each case in units of some limits: (n,)."""
        return self.table.ratios(limits)

    def is_beyond(self, limits: LimitSet) -> Booleans:
        """Say which of the cases would be anomalous by some limits: (n,)."""
        return self.is_flagged_anyway | (self.ratios(limits) > 1)

    def ratios_to(self, limits: LimitSet) -> tuple[Doubles, Doubles]:
        """Return those of the nominal and of the bad ones; infinite for what is flagged anyway."""
        every = np.where(self.is_flagged_anyway, np.inf, self.ratios(limits))
        known = len(self.nominal)
        return every[:known], every[known : known + len(self.bad)]


@dataclass(frozen=True)
class PastVerdicts:
    """What was judged of an image type, beside the limits that are in force.

    Attributes
    ----------
    notes : tuple of str
        On what was not looked at.
    """

    image_type: str
    present: Threshold
    history: TuningHistory
    notes: tuple[str, ...]


@dataclass(frozen=True)
class VerdictFlip:
    """A past extension that new limits would judge otherwise.

    Attributes
    ----------
    ratio : float
        Its strongest evidence in units of the new limits.
    """

    name: str
    night: date
    label: str
    kind: str
    ratio: float


@dataclass(frozen=True)
class ThresholdProposal:
    """New limits for one image type, and what is to be expected of them.

    Attributes
    ----------
    basis : str
        What they were tuned to, in words.
    merge_height, residual : Interval
        Where these limits might as well lie.
    false_alarms : Interval
        The share of nominal extensions that will be flagged.
    recall, precision : Interval or None
        None where no extension is labelled bad.
    newly_flagged, no_longer_flagged : tuple of Flip
    notes : tuple of str
        What was left out, and what would help.
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
        """Return a table: what, with the present limits, with the proposed, in between what."""
        table = [
            ("merge height", f"{self.present.merge_height:.3g}", *_spelt(self.merge_height, ".3g")),
            ("residual", f"{self.present.residual:.3g}", *_spelt(self.residual, ".3g")),
            (f"{counted(len(self.proposed.metrics), 'metric')}: |z|", *self._metric_words(), ""),
            ("nominal flagged", *self._counts(0), ""),
            ("false alarms", "", *_spelt(self.false_alarms, ".1%")),
        ]
        if self.recall is None or self.precision is None:
            return [*table, ("recall", "", "unknown", "none labelled bad")]
        return [
            *table,
            ("bad found", *self._counts(1), ""),
            ("recall", "", *_spelt(self.recall, ".0%")),
            ("precision", "", *_spelt(self.precision, ".0%")),
        ]

    def _metric_words(self) -> tuple[str, str]:
        """Return the least, median and greatest limit on |z|."""
        words = []
        for metrics in (self.present.metrics, self.proposed.metrics):
            alarms = [limit.alarm for limit in metrics.values()]
            ends = [min(alarms), float(np.median(alarms)), max(alarms)] if alarms else []
            words.append(" / ".join(f"{value:.3g}" for value in ends) or "none")
        return words[0], words[1]

    def _counts(self, group: int) -> tuple[str, str]:
        """Return how many of the nominal (0) or bad ones (1) are flagged, before and after."""
        pairs = [self.history.ratios_to(limits_of(one)) for one in (self.present, self.proposed)]
        before, after = (pair[group] for pair in pairs)
        return (
            f"{int((before > 1).sum())} of {len(before)}",
            f"{int((after > 1).sum())} of {len(after)}",
        )


def _spelt(interval: Interval, form: str) -> tuple[str, str]:
    return format(interval.value, form), f"{interval.low:{form}} to {interval.high:{form}}"


def propose_all(
    project: Project,
    image_types: Sequence[str],
    goal: TuningGoal,
    why: str,
    by: str,
    progress: Callable[[int, int], None],
) -> tuple[list[ThresholdProposal], list[str]]:
    """Propose new limits for some image types, or for all that were ever seen.

    Returns
    -------
    proposals : list of Proposal
    refused : list of str
        Why there is none for the others, a sentence each.

    Raises
    ------
    InvalidAnswer
        If an image type is none.
    CannotTune
        If there is not a single proposal.
    """
    found, refused = [], []
    types = _types(project, image_types)
    for done, image_type in enumerate(types, start=1):
        try:
            found.append(propose(project, image_type, goal, why, by))
        except (InsufficientDataError, IncompleteHeaderError) as error:
            refused.append(str(error))
        progress(done, len(types))
    if not found:
        raise InsufficientDataError(
            _in_short(refused) or "nothing has been processed; there is no type to tune"
        )
    return found, refused


def _in_short(sentences: Sequence[str]) -> str:
    more = f"; and {len(sentences) - _NAMED} more like these" if len(sentences) > _NAMED else ""
    return "; ".join(sentences[:_NAMED]) + more


def _types(project: Project, words: Sequence[str]) -> Sequence[str]:
    if words:
        known = [name for one in project.instruments for name in one.image_types()]
        return chosen_all(words, known, "image type")
    with project.reads() as session:
        seen = db.findings.image_types_seen(session)
    return [name for name in seen if name in project.thresholds.entries]


def propose(
    project: Project, image_type: str, goal: TuningGoal, why: str, by: str
) -> ThresholdProposal:
    """Propose new limits for an image type.

    Every verdict stored with the encoder in use is judged anew, by the present limits and by the
    new ones: its evidence was kept.

    Raises
    ------
    CannotTune
        If too little is known; the message says what.
    """
    return propose_from(read_past(project, image_type, goal), goal, why, by)


def read_past(project: Project, image_type: str, goal: TuningGoal) -> PastVerdicts:
    """Return what was judged of an image type, to try limits on."""
    encoder = project.encoder.fingerprint
    present = project.thresholds.threshold(image_type, goal.effective, encoder)
    record = read_record(project, image_type, goal.since)
    return PastVerdicts(image_type, present, sort_out(record, present), record.notes)


def propose_from(past: PastVerdicts, goal: TuningGoal, why: str, by: str) -> ThresholdProposal:
    """Propose new limits from what has been read; see `propose`."""
    image_type, present, history = past.image_type, past.present, past.history
    _check_known(image_type, history, goal)
    choice = _choose(image_type, history, present, goal)
    proposed = _entry(present, choice, goal, why, by)
    limits = limits_of(proposed)
    return ThresholdProposal(
        image_type=image_type,
        basis=choice.basis,
        present=present,
        proposed=proposed,
        merge_height=_scaled(choice.tuned.spread, proposed.merge_height),
        residual=_scaled(choice.tuned.spread, proposed.residual),
        false_alarms=choice.tuned.false_alarms,
        recall=choice.recall or _recall(history, limits),
        precision=choice.precision or _precision(history, limits),
        newly_flagged=flips(history, limits_of(present), limits, flagged=True),
        no_longer_flagged=flips(history, limits_of(present), limits, flagged=False),
        history=history,
        notes=(*past.notes, *_notes(history)),
    )


def write_proposals(project: Project, proposals: Sequence[ThresholdProposal]) -> None:
    """Add the proposed limits to the project's thresholds file, all of them or none.

    Raises
    ------
    ConfigurationError
        If the project has no such file of its own, or it cannot take them.
    """
    own = project.settings.project / project.settings.thresholds
    if project.thresholds.path != own:
        raise ConfigurationError(
            f"{own}: no such file, and the one that came with the program is not to be changed; "
            f"make one with 'qc db upgrade --project {project.settings.project}'"
        )
    write_entries(project.thresholds, {one.image_type: one.proposed for one in proposals})


def proposal_record(proposal: ThresholdProposal) -> dict[str, Any]:
    """Return a proposal as JSON has it: every flip, every limit."""
    history = proposal.history
    sizes = ("nominal", "bad", "unexplained", "outliers", "contradictory")
    intervals = ("merge_height", "residual", "false_alarms", "recall", "precision")
    known = {name: getattr(proposal, name) for name in intervals}
    return {
        "image_type": proposal.image_type,
        "basis": proposal.basis,
        "frames": {name: len(getattr(history, name)) for name in sizes},
        "present": proposal.present.model_dump(mode="json", by_alias=True),
        "proposed": proposal.proposed.model_dump(mode="json", by_alias=True),
        "expected": {name: asdict(value) if value else None for name, value in known.items()},
        "newly_flagged": [asdict(flip) for flip in proposal.newly_flagged],
        "no_longer_flagged": [asdict(flip) for flip in proposal.no_longer_flagged],
        "notes": proposal.notes,
    }


def draw_proposals(proposals: Sequence[ThresholdProposal]) -> bytes:
    """Draw how odd frames of each type were, the limits, and what they find, as PNG."""
    return plots.tuning([_panel(one) for one in proposals])


def _panel(proposal: ThresholdProposal) -> plots.TuningPlotRow:
    history = proposal.history
    groups = {"nominal": history.nominal, "bad": history.bad, "unlabelled": history.unexplained}
    return plots.TuningPlotRow(
        title=proposal.image_type,
        merge_heights={name: _values(some, "merge_height") for name, some in groups.items()},
        residuals={name: _values(some, "residual") for name, some in groups.items()},
        present=(proposal.present.merge_height, proposal.present.residual),
        proposed=(proposal.proposed.merge_height, proposal.proposed.residual),
        curve=_curve(proposal),
    )


def _values(cases: Sequence[TuningCase], name: str) -> Doubles:
    """Return a kind of evidence as if each reference had been ample: (n,)."""
    found = [
        getattr(case.evidence, name) / widening(case.evidence.reference_size) for case in cases
    ]
    return np.array(found, np.float64)


def _curve(proposal: ThresholdProposal) -> tuple[Doubles, Doubles, int] | None:
    """Return precision and recall of the proposed limits scaled together, and where they are."""
    if not proposal.history.bad:
        return None
    nominal, bad = proposal.history.ratios_to(limits_of(proposal.proposed))
    cuts, precision, recall = precision_recall(nominal, bad)
    return precision, recall, int(np.flatnonzero(cuts <= 1)[0])


def read_record(project: Project, image_type: str, since: date) -> VerdictHistory:
    """Return what was judged of an image type from a night on."""
    judged, foreign, young = [], 0, 0
    absolute = _AbsoluteLimits(project)
    with project.reads() as session:
        copies = db.references.copies(session, image_type, since)
        for one in db.findings.findings_of_type(session, image_type, since):
            if one.fingerprint != project.encoder.fingerprint:
                foreign += 1
            elif not _is_held(one):
                young += 1
            else:
                judged.append(_judged(one, absolute.of(one), copies.get(one.extension.id, "")))
    notes = []
    if foreign:
        notes.append(
            f"last judged with another encoder, so left out: {foreign}; 'qc process --again' "
            "judges them with this one"
        )
    if young:
        notes.append(f"judged with fewer than {REFERENCE_NEEDED} references, so left out: {young}")
    return VerdictHistory(tuple(judged), tabulate([one.evidence for one in judged]), tuple(notes))


def _is_held(finding: Finding) -> bool:
    """Say whether an extension was held against enough references, by all that there is now."""
    verdict = finding.verdict
    known = verdict.merge_height is not None and verdict.residual is not None
    return known and verdict.reference_size >= REFERENCE_NEEDED


class _AbsoluteLimits:
    """The instruments' own limits, looked up once for each way to read out a chip."""

    def __init__(self, project: Project) -> None:
        self._instruments = {one.name: one for one in project.instruments}
        self._known: dict[tuple[str, str, str, str], Mapping[str, tuple[float, float]]] = {}

    def of(self, finding: Finding) -> Mapping[str, tuple[float, float]]:
        one, name = finding.extension, finding.frame.instrument or ""
        key = name, one.image_type, one.chip, one.read_mode
        if key not in self._known:
            self._known[key] = self._instruments[name].limits_of(*key[1:])
        return self._known[key]


def _judged(
    finding: Finding, absolute: Mapping[str, tuple[float, float]], copy_of: str
) -> LabelledVerdict:
    assert finding.frame.night is not None  # it was judged
    return LabelledVerdict(
        name=f"{finding.frame.name}[{finding.extension.number}]",
        night=finding.frame.night,
        evidence=db.findings.evidence_of(finding, copy_of),
        label=finding.label.label if finding.label else None,
        kind=finding.label.kind if finding.label else "",
        absolute=absolute,
    )


def sort_out(record: VerdictHistory, present: Threshold) -> TuningHistory:
    """Return what was judged beside some limits, sorted out for tuning."""
    ratios = record.table.ratios(limits_of(present)).tolist()
    cases = [
        TuningCase(
            one.name,
            one.night,
            one.evidence,
            one.label,
            one.kind,
            is_anomalous_anyway(one.evidence, present, one.absolute),
            ratio,
        )
        for one, ratio in zip(record.judged, ratios, strict=True)
    ]
    return _sorted_out(cases, record.table)


def _sorted_out(cases: Sequence[TuningCase], table: EvidenceTable) -> TuningHistory:
    said = defaultdict(set)
    for case in cases:
        said[case.name].add(case.label)
    contradictory = {name for name, labels in said.items() if labels >= _OPPOSITES}
    places = [place for place, case in enumerate(cases) if case.name not in contradictory]
    silent = [place for place in places if cases[place].label is None]
    flagged = [place for place in silent if cases[place].is_flagged]
    good = [place for place in places if cases[place].label == LabelName.GOOD]
    passed = [*good, *(place for place in silent if not cases[place].is_flagged)]
    continued = _continued(cases, passed, flagged)
    nominal = sorted((*passed, *continued), key=lambda one: (cases[one].night, cases[one].name))
    rest = set(flagged) - set(continued)
    groups = (
        nominal,
        [place for place in places if cases[place].label == LabelName.BAD],
        [place for place in flagged if place in rest],
        [place for place in places if cases[place].label == LabelName.VALID_OUTLIER],
        [place for place, case in enumerate(cases) if case.name in contradictory],
    )
    nominal_ones, bad, unexplained, outliers, contradicted = (
        tuple(cases[place] for place in group) for group in groups
    )
    in_order = [place for group in groups for place in group]
    return TuningHistory(
        nominal=nominal_ones,
        bad=bad,
        unexplained=unexplained,
        outliers=outliers,
        contradictory=contradicted,
        continued=len(continued),
        table=table.at(np.array(in_order, np.intp)),
    )


_OPPOSITES = {LabelName.GOOD, LabelName.BAD}


def _continued(
    cases: Sequence[TuningCase], passed: Sequence[int], flagged: Sequence[int]
) -> list[int]:
    """Return the flagged frames without a label that go on where the nominal ones leave off."""
    doubtful = [place for place in flagged if not cases[place].is_flagged_anyway]
    if len(passed) < NOMINAL_NEEDED or not doubtful:
        return []
    ratios = np.array([cases[place].ratio for place in doubtful])
    within = continuing(_ratios([cases[place] for place in passed]), ratios)
    return [place for place, is_within in zip(doubtful, within, strict=True) if is_within]


def _ratios(cases: Sequence[TuningCase]) -> Doubles:
    """Return the ratios to the present limits, infinite for what is flagged anyway: (n,)."""
    return np.array([np.inf if case.is_flagged_anyway else case.ratio for case in cases])


def _check_known(image_type: str, history: TuningHistory, goal: TuningGoal) -> None:
    if not history.cases:
        raise InsufficientDataError(
            f"{image_type}: no frame has been judged against {REFERENCE_NEEDED} references with "
            "the encoder in use; there is nothing to tune from"
        )
    usable = int((~history.is_flagged_anyway[: len(history.nominal)]).sum())
    if usable < NOMINAL_NEEDED:
        raise InsufficientDataError(
            f"{image_type}: {counted(usable, 'nominal frame')} judged against {REFERENCE_NEEDED} "
            f"references, {NOMINAL_NEEDED} needed to know how odd a good one may look; the limits "
            "stay"
        )
    if goal.recall is not None and len(history.bad) < BAD_NEEDED:
        raise InsufficientDataError(
            f"{image_type}: {counted(len(history.bad), 'frame')} labelled bad, {BAD_NEEDED} needed "
            "to know the recall of a limit; label some, or use --false-alarms"
        )


@dataclass(frozen=True)
class _LimitChoice:
    """New limits, why they, and the rate of false alarms that they are for."""

    tuned: TuningResult
    basis: str
    rate: float
    recall: Interval | None = None
    precision: Interval | None = None


def _choose(
    image_type: str, history: TuningHistory, present: Threshold, goal: TuningGoal
) -> _LimitChoice:
    if goal.factor is not None:
        return _by_hand(history, present, goal.factor)
    if goal.false_alarms is not None or len(history.bad) < BAD_NEEDED:
        return _by_rate(history, goal.false_alarms or present.false_alarms)
    try:
        return _by_labels(history, present, goal)
    except InseparableError as error:
        raise InsufficientDataError(
            f"{image_type}: {error}; look at the labels again, or use --false-alarms"
        ) from None


def _by_rate(history: TuningHistory, rate: float) -> _LimitChoice:
    words = f"tuned from {len(history.usable.table)} nominal frames to {rate:.3g} false alarms"
    told = f"{counted(len(history.bad), 'frame')} labelled bad" if history.bad else "none bad"
    return _LimitChoice(history.usable.tuned_to(rate), f"{words}, {told}", rate)


def _by_hand(history: TuningHistory, present: Threshold, factor: float) -> _LimitChoice:
    tuned = tune_by_hand(limits_of(present), _ratios(history.nominal), factor)
    basis = f"the limits from {present.since} on, times {factor:.3g}"
    return _LimitChoice(tuned, basis, max(tuned.false_alarms.value, _RAREST))


def _by_labels(history: TuningHistory, present: Threshold, goal: TuningGoal) -> _LimitChoice:
    nominal, bad = _ratios(history.nominal), _ratios(history.bad)
    limits, rate = limits_of(present), present.false_alarms
    tuned = tune_to_labels(limits, nominal, bad, false_alarms=rate, recall=goal.recall)
    expected = expected_of_labels(nominal, bad, false_alarms=rate, recall=goal.recall)
    wanted = "the best F1" if goal.recall is None else f"a recall of {goal.recall:g}"
    basis = f"tuned to {wanted} of {len(bad)} bad and {len(nominal)} nominal frames"
    return _LimitChoice(tuned, basis, max(tuned.false_alarms.value, _RAREST), *expected)


_RAREST = 1e-5  # no sample knows of rarer false alarms


def _entry(
    present: Threshold, choice: _LimitChoice, goal: TuningGoal, why: str, by: str
) -> Threshold:
    """Return the entry for the file, its numbers rounded to three digits."""
    limits = choice.tuned.limits
    return Threshold.model_validate(
        {
            "from": goal.effective,
            "encoder": present.encoder,
            "merge_height": _rounded(limits.merge_height),
            "residual": _rounded(limits.residual),
            "false_alarms": _rounded(choice.rate),
            "metrics": {
                name: {"warn": _rounded(limit.warn), "alarm": _rounded(limit.alarm)}
                for name, limit in limits.metrics.items()
            },
            "why": f"{why}; {choice.basis}" if why else choice.basis,
            "by": by,
        }
    )


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _scaled(spread: Interval, value: float) -> Interval:
    return Interval(value, value * spread.low, value * spread.high)


def _recall(history: TuningHistory, limits: LimitSet) -> Interval | None:
    _, bad = history.ratios_to(limits)
    return share(int((bad > 1).sum()), len(bad)) if len(bad) else None


def _precision(history: TuningHistory, limits: LimitSet) -> Interval | None:
    nominal, bad = history.ratios_to(limits)
    found, false = int((bad > 1).sum()), int((nominal > 1).sum())
    return share(found, found + false) if len(bad) else None


def flips(
    history: TuningHistory, one: LimitSet, other: LimitSet, *, flagged: bool
) -> tuple[VerdictFlip, ...]:
    """Return the cases that the other limits flag and the one do not, or the other way.

    The furthest beyond the others first.
    """
    ratios = history.ratios(other)
    beyond = history.is_flagged_anyway | (ratios > 1)
    places = np.flatnonzero((beyond == flagged) & (history.is_beyond(one) != flagged))
    found = [_flip(history.cases[place], float(ratios[place])) for place in places]
    return tuple(sorted(found, key=lambda flip: -flip.ratio))


def _flip(case: TuningCase, far: float) -> VerdictFlip:
    label = str(case.label) if case.label else ""
    return VerdictFlip(case.name, case.night, label, case.kind, far)


def _notes(history: TuningHistory) -> Iterator[str]:
    if history.continued:
        yield (
            f"flagged without a label, and counted as nominal: {history.continued}, which go on "
            "where the others leave off"
        )
    if history.unexplained:
        yield (
            f"flagged without a label, so left out: {len(history.unexplained)} "
            f"({_named(history.unexplained)})"
        )
    if history.outliers:
        yield (
            f"valid outliers, so left out: {len(history.outliers)}, right to stand apart, not bad"
        )
    if history.contradictory:
        yield (
            f"labelled good and bad under one name, so left out: {len(history.contradictory)} "
            f"({_named(history.contradictory)})"
        )


def _named(cases: Sequence[TuningCase]) -> str:
    more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
    return ", ".join(case.name for case in cases[:_NAMED]) + more
