"""Why a frame was not flagged: how near it came, and what catching it would cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings.clustering import average_linkage, joined
from qc import db
from qc._text import counted
from qc.core.reference import REFERENCE_NEEDED
from qc.core.verdict import Evidence
from qc.db.findings import Finding
from qc.detection.decision import EvidenceRatio, sample_words, weigh, widening
from qc.detection.thresholds import Threshold
from qc.errors import IncompleteHeaderError
from qc.project import Project
from qc.review.frame_detail import ExtensionLink, finding_of
from qc.tuning.extreme_values import Interval
from qc.tuning.fit import limits_of, ratio, share
from qc.tuning.proposals import PastVerdicts, TuningHistory, read_record, sort_out

Doubles = NDArray[np.float64]
Booleans = NDArray[np.bool_]

Remember = Callable[[str, Threshold], PastVerdicts]

SHOWN = 24  # of the references that it joined


@dataclass(frozen=True)
class FirstJoin:
    """What an extension joins first in the tree of its references of today.

    Attributes
    ----------
    height : float
        Cosine distance at which it does.
    size : int
        How many it joins there, of `references`.
    members : tuple of Link
        The newest of them.
    """

    height: float
    size: int
    references: int
    members: tuple[ExtensionLink, ...]


@dataclass(frozen=True)
class VerdictExplanation:
    """What spoke for and against flagging an extension, by the limits of its night.

    Attributes
    ----------
    name : str
        Of the frame.
    evidence : tuple of Weighed
        The strongest first.
    ratio : float
        The strongest in units of its limit: all limits times this would just have caught it.
    since, why, by : of the limits' entry
    catching : mapping of str to float
        For merge height, residual and each metric: the limit in the thresholds file that would
        have caught it alone.
    trouble : str
        Why nothing can be said; empty where all of the above is there.
    """

    name: str
    number: int
    image_type: str
    status: str
    score: float
    references: str
    evidence: tuple[EvidenceRatio, ...]
    ratio: float
    since: date | None
    why: str
    by: str
    catching: dict[str, float]
    cluster: FirstJoin | None
    trouble: str = ""


@dataclass(frozen=True)
class DetectionCost:
    """What it costs to catch an extension by one limit alone, or by all limits scaled together.

    Attributes
    ----------
    name : str
        The evidence; ``all`` for all limits together.
    limit : float
        In the thresholds file; of all, the factor.
    nominal : int
        Past nominal extensions of the type that it would flag, of `nominal_of`.
    rate : Interval
        That as a share: the false alarms to be expected.
    bad : int
        Of the extensions labelled bad, of `bad_of`.
    """

    name: str
    limit: float
    nominal: int
    nominal_of: int
    rate: Interval
    bad: int
    bad_of: int


@dataclass(frozen=True)
class FlaggingCost:
    """What catching an extension would cost in false alarms, by the past of its image type.

    Attributes
    ----------
    now : Catch or None
        What the present limits do; None where nothing is known.
    catches : tuple of Catch
        The cheapest first.
    trouble : str
        Why nothing can be said; else empty.
    """

    image_type: str
    now: DetectionCost | None
    catches: tuple[DetectionCost, ...]
    notes: tuple[str, ...] = ()
    trouble: str = ""


def read_why(
    project: Project, session: Session, name: str, number: int | None
) -> VerdictExplanation:
    """Return how near an extension came to being flagged.

    Raises
    ------
    UnknownFrame
        If there is no such extension.
    """
    finding = finding_of(session, name, number)
    threshold, trouble = _threshold(project, finding)
    pieces: Sequence[EvidenceRatio] = ()
    if threshold:
        pieces = weigh(_evidence(session, finding), threshold, _absolute(project, finding))
    return VerdictExplanation(
        name=finding.frame.name,
        number=finding.extension.number,
        image_type=finding.extension.image_type,
        status=str(finding.verdict.status),
        score=finding.verdict.score,
        references=sample_words(finding.verdict.reference_size),
        evidence=tuple(pieces),
        ratio=max((one.ratio for one in pieces), default=0.0),
        since=threshold.since if threshold else None,
        why=threshold.why if threshold else "",
        by=threshold.by if threshold else "",
        catching=_catching(finding, pieces),
        cluster=_cluster(session, finding),
        trouble=trouble,
    )


def _threshold(project: Project, finding: Finding) -> tuple[Threshold | None, str]:
    """Return the limits of its night, or why there are none."""
    night = finding.frame.night or date.max
    known = project.thresholds.entries.get(finding.extension.image_type, ())
    if not any(one.encoder == finding.fingerprint for one in known):
        return None, f"there are no limits for the encoder {finding.fingerprint}"
    try:
        found = project.thresholds.threshold(
            finding.extension.image_type, night, finding.fingerprint
        )
    except IncompleteHeaderError as error:
        return None, str(error)
    return found, ""


def _evidence(session: Session, finding: Finding) -> Evidence:
    copy_of = db.findings.copy_of(session, finding)
    return db.findings.evidence_of(finding, copy_of)


def _absolute(project: Project, finding: Finding) -> dict[str, tuple[float, float]]:
    one = finding.extension
    return {
        name: limits
        for instrument in project.instruments
        if instrument.name == finding.frame.instrument
        for name, limits in instrument.limits_of(one.image_type, one.chip, one.read_mode).items()
    }


def _catching(finding: Finding, pieces: Sequence[EvidenceRatio]) -> dict[str, float]:
    """Return the limits of the file that would have caught it, each alone."""
    factor = widening(finding.verdict.reference_size)
    return {
        one.name: abs(one.value) / factor
        for one in pieces
        if one.against == "references" and one.value
    }


def _cluster(session: Session, finding: Finding) -> FirstJoin | None:
    reference = db.findings.reference_of(session, finding)
    m = len(reference.extension_ids)
    own = db.embeddings.find_embedding(session, finding.extension.id, finding.fingerprint)
    if m < 2 or own is None:
        return None
    height, members = joined(average_linkage(np.vstack([reference.embeddings, own])), m)
    ids = [reference.extension_ids[one] for one in members.tolist()]  # the newest first
    found = db.findings.findings_with(session, ids[:SHOWN])
    return FirstJoin(height, len(ids), m, tuple(map(_member, found)))


def _member(finding: Finding) -> ExtensionLink:
    return ExtensionLink(
        finding.frame.name,
        finding.extension.number,
        finding.frame.observed_at,
        finding.frame.night,
        str(finding.verdict.status),
        str(finding.label.label) if finding.label else "",
    )


# --- what it would cost ---------------------------------------------------------------------------


def read_cost(
    project: Project, name: str, number: int | None, remember: Remember | None = None
) -> FlaggingCost:
    """Return what catching an extension would cost: all of its type's past is judged anew.

    Parameters
    ----------
    remember : callable, optional
        Returns the past of an image type beside some limits; it is read where there is none.

    Raises
    ------
    UnknownFrame
        If there is no such extension.
    """
    with project.reads() as session:
        finding = finding_of(session, name, number)
        threshold, trouble = _threshold(project, finding)
        image_type = finding.extension.image_type
        if threshold is None:
            return FlaggingCost(image_type, None, (), trouble=trouble)
        own = db.findings.evidence_of(finding)
    if own.reference_size < REFERENCE_NEEDED:
        few = f"it was held against {counted(own.reference_size, 'reference')}, "
        few += f"{REFERENCE_NEEDED} needed"
        return FlaggingCost(image_type, None, (), trouble=few)
    past = remember(image_type, threshold) if remember else _read(project, image_type, threshold)
    nominal, bad = _known(past.history, f"{finding.frame.name}[{finding.extension.number}]")
    if not len(nominal.flagged):
        return FlaggingCost(
            image_type, None, (), past.notes, trouble="nothing nominal of its type is known"
        )
    factor = ratio(own, limits_of(threshold))
    known = (nominal, bad)
    now = _catch("now", 1.0, [one.flagged for one in known])
    together = _catch("all", factor, [one.beyond(factor) for one in known])
    alone = [
        _catch(kind, value, [one.further(kind, value) for one in known])
        for kind, value in _unwidened(own).items()
        if kind in {"merge_height", "residual", *threshold.metrics}
    ]
    return FlaggingCost(image_type, now, (together, *sorted(alone, key=_dearness)), past.notes)


def _read(project: Project, image_type: str, threshold: Threshold) -> PastVerdicts:
    record = read_record(project, image_type, date.min)
    return PastVerdicts(image_type, threshold, sort_out(record, threshold), record.notes)


def _dearness(catch: DetectionCost) -> tuple[int, int]:
    return catch.nominal, -catch.bad


def _catch(name: str, limit: float, flagged: Sequence[Booleans]) -> DetectionCost:
    nominal, bad = flagged
    return DetectionCost(
        name=name,
        limit=limit,
        nominal=int(nominal.sum()),
        nominal_of=len(nominal),
        rate=share(int(nominal.sum()), len(nominal)),
        bad=int(bad.sum()),
        bad_of=len(bad),
    )


@dataclass(frozen=True)
class _JudgedExtensions:
    """What was judged of n extensions, in columns: many limits are tried on thousands of them.

    Attributes
    ----------
    flagged, anyway : (n,) bool arrays
        By the present limits; whatever they are.
    ratios : (n,) float array
        To the present limits.
    columns : mapping of kind of evidence to (n,) float array
        As if each reference had been ample.
    """

    flagged: Booleans
    anyway: Booleans
    ratios: Doubles
    columns: Mapping[str, Doubles]

    def beyond(self, factor: float) -> Booleans:
        """Say of each whether limits that are all scaled by a factor would flag it."""
        return self.flagged if factor == 1 else self.anyway | (self.ratios >= factor)

    def further(self, kind: str, value: float) -> Booleans:
        """Say of each whether it is flagged now or would be by one limit at a value."""
        if kind not in self.columns:
            return self.flagged
        return self.flagged | (self.columns[kind] >= value)


def _known(history: TuningHistory, but: str) -> tuple[_JudgedExtensions, _JudgedExtensions]:
    """Return the nominal cases and the bad ones, but for one."""
    others = np.array([case.name != but for case in history.cases], bool)
    first, last = len(history.nominal), len(history.nominal) + len(history.bad)
    place = np.arange(len(others))
    nominal, bad = others & (place < first), others & (first <= place) & (place < last)
    return _known_at(history, nominal), _known_at(history, bad)


def _known_at(history: TuningHistory, chosen: Booleans) -> _JudgedExtensions:
    anyway, ratios = history.is_flagged_anyway[chosen], history.ratio_now[chosen]
    names = ("merge_height", "residual", *history.table.names)
    columns = dict(zip(names, history.table.narrowed[chosen].T, strict=True))
    return _JudgedExtensions(anyway | (ratios > 1), anyway, ratios, columns)


def _unwidened(evidence: Evidence) -> dict[str, float]:
    """Return what is held against limits as if the reference had been ample."""
    factor = widening(evidence.reference_size)
    found = {name: abs(z) / factor for name, z in evidence.z.items()}
    if evidence.merge_height is not None:
        found["merge_height"] = evidence.merge_height / factor
    if evidence.residual is not None:
        found["residual"] = evidence.residual / factor
    return {name: value for name, value in found.items() if value}
