"""Stored verdicts of an image type, with labels, as the input of threshold tuning."""

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qc import core, db
from qc.detection.decision import is_anomalous_without_references
from qc.detection.thresholds import Threshold
from qc.project import ProjectContext
from qc.tuning import fit, limits
from qc.tuning.limits import EvidenceTable, LimitSet

Doubles = NDArray[np.float64]
Booleans = NDArray[np.bool_]

_OPPOSITES = {core.LabelName.GOOD, core.LabelName.BAD}


@dataclass(frozen=True)
class LabelledVerdict:
    """A judged extension with its label.

    Attributes
    ----------
    absolute : mapping of metric name to (low, high)
        Limits of the instrument.
    """

    name: str
    night: dt.date
    evidence: core.Evidence
    label: core.LabelName | None
    kind: str
    absolute: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class VerdictHistory:
    """The judged extensions of an image type in order of time, independent of its thresholds.

    Attributes
    ----------
    table : EvidenceTable
        Evidence of all of them.
    notes : tuple of str
        Extensions that were left out.
    """

    judged: tuple[LabelledVerdict, ...]
    table: EvidenceTable
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TuningCase:
    """A judged extension, compared with the present limits.

    Attributes
    ----------
    is_flagged_anyway : bool
        True if any limits flag it: a copy of another frame, or beyond the instrument's limits.
    ratio : float
        Strongest evidence in units of the present limits.
    """

    name: str
    night: dt.date
    evidence: core.Evidence
    label: core.LabelName | None
    kind: str
    is_flagged_anyway: bool
    ratio: float

    @property
    def is_flagged(self) -> bool:
        """True if it is anomalous by the present limits."""
        return self.is_flagged_anyway or self.ratio > 1


@dataclass(frozen=True)
class TuningHistory:
    """The judged extensions of an image type, grouped for tuning; each group in order of time.

    Attributes
    ----------
    nominal : tuple of TuningCase
        Labelled good; or unlabelled and either within the present limits or slightly beyond them,
        in continuation of the others' tail.
    bad : tuple of TuningCase
        Labelled bad.
    unexplained : tuple of TuningCase
        Flagged, without a label.
    outliers : tuple of TuningCase
        Valid outliers: correctly flagged, but not bad.
    contradictory : tuple of TuningCase
        Labelled good and bad under the same name.
    continued : int
        Number of nominal cases that were flagged and not labelled.
    table : EvidenceTable
        Evidence of `cases`.
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
        """All cases: the nominal ones, the bad ones, and the others."""
        groups = (self.nominal, self.bad, self.unexplained, self.outliers, self.contradictory)
        return tuple(case for group in groups for case in group)

    @cached_property
    def is_flagged_anyway(self) -> Booleans:
        """Cases that any limits flag: (n,)."""
        return np.array([case.is_flagged_anyway for case in self.cases], bool)

    @cached_property
    def ratio_now(self) -> Doubles:
        """Strongest evidence of each case in units of the present limits: (n,)."""
        return np.array([case.ratio for case in self.cases], np.float64)

    @cached_property
    def usable(self) -> fit.NominalSample:
        """Evidence of the nominal cases, without those that any limits flag."""
        is_flagged = self.is_flagged_anyway[: len(self.nominal)]
        return fit.NominalSample(self.table.select(np.flatnonzero(~is_flagged)))

    def ratios(self, limits: LimitSet) -> Doubles:
        """Return the strongest evidence of each case in units of some limits: (n,)."""
        return self.table.ratios(limits)

    def is_beyond(self, limits: LimitSet) -> Booleans:
        """Return which cases are anomalous by some limits: (n,)."""
        return self.is_flagged_anyway | (self.ratios(limits) > 1)

    def ratios_to(self, limits: LimitSet) -> tuple[Doubles, Doubles]:
        """Return the ratios of the nominal and of the bad cases; infinite if always flagged."""
        ratios = np.where(self.is_flagged_anyway, np.inf, self.ratios(limits))
        n = len(self.nominal)
        return ratios[:n], ratios[n : n + len(self.bad)]


@dataclass(frozen=True)
class PastVerdicts:
    """Judged extensions of an image type, with the limits in force.

    Attributes
    ----------
    notes : tuple of str
        Extensions that were left out.
    """

    image_type: str
    present: Threshold
    history: TuningHistory
    notes: tuple[str, ...]


def read_verdict_history(
    project: ProjectContext, image_type: str, since: dt.date
) -> VerdictHistory:
    """Read the stored verdicts of an image type.

    Parameters
    ----------
    project : ProjectContext
    image_type : str
    since : date
        First night.

    Returns
    -------
    VerdictHistory
        Verdicts by the encoder in use, against large enough references.
    """
    judged, foreign, young = [], 0, 0
    absolute = _AbsoluteLimits(project)
    with project.read_session() as session:
        copies = db.references.find_duplicates(session, image_type, since)
        for finding in db.findings.findings_of_type(session, image_type, since):
            if finding.fingerprint != project.encoder.fingerprint:
                foreign += 1
            elif not is_compared(finding):
                young += 1
            else:
                copy_of = copies.get(finding.extension.id, "")
                judged.append(labelled_verdict(finding, absolute.find(finding), copy_of))
    notes = []
    if foreign:
        notes.append(
            f"last judged with another encoder, so left out: {foreign}; 'qc archive reprocess' "
            "judges them with this one"
        )
    if young:
        notes.append(
            f"judged with fewer than {core.REFERENCE_NEEDED} references, so left out: {young}"
        )
    table = limits.tabulate([verdict.evidence for verdict in judged])
    return VerdictHistory(tuple(judged), table, tuple(notes))


def is_compared(finding: db.findings.Finding) -> bool:
    """Return whether an extension was compared with a large enough reference, by all evidence."""
    verdict = finding.verdict
    is_complete = verdict.merge_height is not None and verdict.residual is not None
    return is_complete and verdict.reference_size >= core.REFERENCE_NEEDED


class _AbsoluteLimits:
    """The instruments' limits, cached per image type, chip and read mode."""

    def __init__(self, project: ProjectContext) -> None:
        self._instruments = {instrument.name: instrument for instrument in project.instruments}
        self._cache: dict[tuple[str, str, str, str], Mapping[str, tuple[float, float]]] = {}

    def find(self, finding: db.findings.Finding) -> Mapping[str, tuple[float, float]]:
        extension, instrument = finding.extension, finding.frame.instrument or ""
        key = instrument, extension.image_type, extension.chip, extension.read_mode
        if key not in self._cache:
            self._cache[key] = self._instruments[instrument].limits_of(*key[1:])
        return self._cache[key]


def labelled_verdict(
    finding: db.findings.Finding, absolute: Mapping[str, tuple[float, float]], copy_of: str
) -> LabelledVerdict:
    """Return a stored verdict with its evidence and label.

    Parameters
    ----------
    finding : Finding
    absolute : mapping of metric name to (low, high)
        Limits of the instrument.
    copy_of : str
        Name of the frame with identical pixels; empty without one.

    Returns
    -------
    LabelledVerdict
    """
    assert finding.frame.night is not None  # set for every judged frame
    return LabelledVerdict(
        name=f"{finding.frame.name}[{finding.extension.number}]",
        night=finding.frame.night,
        evidence=db.findings.evidence_of(finding, copy_of),
        label=finding.label.label if finding.label else None,
        kind=finding.label.kind if finding.label else "",
        absolute=absolute,
    )


def group_cases(record: VerdictHistory, present: Threshold) -> TuningHistory:
    """Group the judged extensions for tuning, given the present limits.

    Parameters
    ----------
    record : VerdictHistory
    present : Threshold
        In force.

    Returns
    -------
    TuningHistory
    """
    ratios = record.table.ratios(limits.limits_of(present)).tolist()
    cases = [
        TuningCase(
            verdict.name,
            verdict.night,
            verdict.evidence,
            verdict.label,
            verdict.kind,
            is_anomalous_without_references(verdict.evidence, present, verdict.absolute),
            ratio,
        )
        for verdict, ratio in zip(record.judged, ratios, strict=True)
    ]
    labels = defaultdict(set)
    for case in cases:
        labels[case.name].add(case.label)
    contradictory = {name for name, answers in labels.items() if answers >= _OPPOSITES}
    rows = [row for row, case in enumerate(cases) if case.name not in contradictory]
    unlabelled = [row for row in rows if cases[row].label is None]
    flagged = [row for row in unlabelled if cases[row].is_flagged]
    good = [row for row in rows if cases[row].label == core.LabelName.GOOD]
    passed = [*good, *(row for row in unlabelled if not cases[row].is_flagged)]
    continued = find_continuing_rows(cases, passed, flagged)
    nominal = sorted((*passed, *continued), key=lambda row: (cases[row].night, cases[row].name))
    unexplained = set(flagged) - set(continued)
    groups = (
        nominal,
        [row for row in rows if cases[row].label == core.LabelName.BAD],
        [row for row in flagged if row in unexplained],
        [row for row in rows if cases[row].label == core.LabelName.VALID_OUTLIER],
        [row for row, case in enumerate(cases) if case.name in contradictory],
    )
    order = np.array([row for group in groups for row in group], np.intp)
    grouped = [tuple(cases[row] for row in group) for group in groups]
    return TuningHistory(
        nominal=grouped[0],
        bad=grouped[1],
        unexplained=grouped[2],
        outliers=grouped[3],
        contradictory=grouped[4],
        continued=len(continued),
        table=record.table.select(order),
    )


def find_continuing_rows(
    cases: Sequence[TuningCase], passed: Sequence[int], flagged: Sequence[int]
) -> list[int]:
    """Return the flagged, unlabelled cases that continue the tail of the nominal ones.

    Parameters
    ----------
    cases : sequence of TuningCase
    passed, flagged : sequence of int
        Indices of the nominal, and of the flagged and unlabelled cases.

    Returns
    -------
    list of int
    """
    doubtful = [row for row in flagged if not cases[row].is_flagged_anyway]
    if len(passed) < fit.NOMINAL_NEEDED or not doubtful:
        return []
    nominal_ratios = present_ratios([cases[row] for row in passed])
    doubtful_ratios = np.array([cases[row].ratio for row in doubtful])
    within = fit.find_continuing(nominal_ratios, doubtful_ratios)
    return [row for row, is_within in zip(doubtful, within, strict=True) if is_within]


def present_ratios(cases: Sequence[TuningCase]) -> Doubles:
    """Return the ratios to the present limits, infinite for cases that any limits flag: (n,)."""
    return np.array([np.inf if case.is_flagged_anyway else case.ratio for case in cases])
