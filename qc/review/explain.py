"""Explanation of a verdict: evidence in units of its limits, and the cost of flagging."""

import datetime as dt
from collections import abc
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings import clustering
from qc import core, db, errors
from qc._text import pluralise
from qc.detection import decision
from qc.detection.thresholds import Threshold
from qc.project import ProjectContext
from qc.review.extension_links import ExtensionLink
from qc.review.frame_detail import find_finding
from qc.tuning import history, label_fit, limits
from qc.tuning.extreme_values import Interval

Doubles = NDArray[np.float64]
Booleans = NDArray[np.bool_]

ReadPastVerdicts = abc.Callable[[str, Threshold], history.PastVerdicts]

MAX_MEMBERS = 24  # references of a cluster that are listed


@dataclass(frozen=True)
class FirstJoin:
    """The first cluster of an extension in the dendrogram with its references.

    Attributes
    ----------
    height : float
        Cosine distance at which the extension joins.
    size : int
        Number of references in the cluster.
    references : int
        Number of all references.
    members : tuple of ExtensionLink
        Newest references of the cluster.
    """

    height: float
    size: int
    references: int
    members: tuple[ExtensionLink, ...]


@dataclass(frozen=True)
class VerdictExplanation:
    """Evidence for and against flagging an extension, by the limits of its night.

    Attributes
    ----------
    name : str
        Name of the frame.
    evidence : tuple of EvidenceRatio
        Evidence in units of its limits, highest ratio first.
    ratio : float
        Highest ratio: all limits scaled by it would just flag the extension.
    since, why, by : date or None, str, str
        Validity, reason and author of the limits.
    catching : mapping of str to float
        By merge height, residual and metric: the limit in the thresholds file that would flag the
        extension by itself.
    trouble : str
        Reason why no explanation is possible; else empty.
    """

    name: str
    number: int
    image_type: str
    status: str
    score: float
    references: str
    evidence: tuple[decision.EvidenceRatio, ...]
    ratio: float
    since: dt.date | None
    why: str
    by: str
    catching: dict[str, float]
    cluster: FirstJoin | None
    trouble: str = ""


@dataclass(frozen=True)
class DetectionCost:
    """Cost of flagging an extension by one limit, or by all limits scaled together.

    Attributes
    ----------
    name : str
        Evidence; ``all`` for all limits together.
    limit : float
        Limit in the thresholds file; the factor for all limits.
    nominal : int
        Past nominal extensions of the type that it would flag, of `nominal_of`.
    rate : Interval
        The same as a share: the expected false-alarm rate.
    bad : int
        Extensions labelled bad that it would flag, of `bad_of`.
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
    """False alarms that flagging an extension would cost, by its image type's past.

    Attributes
    ----------
    now : DetectionCost or None
        Result of the present limits; None without past extensions.
    catches : tuple of DetectionCost
        Alternatives, lowest cost first.
    trouble : str
        Reason why no cost is known; else empty.
    """

    image_type: str
    now: DetectionCost | None
    catches: tuple[DetectionCost, ...]
    notes: tuple[str, ...] = ()
    trouble: str = ""


def explain_verdict(
    project: ProjectContext, session: Session, name: str, number: int | None
) -> VerdictExplanation:
    """Return the evidence of an extension in units of its limits.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    session : Session
        For reading.
    name : str
        Archive name of the frame.
    number : int or None
        Extension; the first one if None.

    Returns
    -------
    VerdictExplanation

    Raises
    ------
    UnknownFrameError
        If there is no such extension.
    """
    finding = find_finding(session, name, number)
    threshold, trouble = find_threshold(project, finding)
    evidence: abc.Sequence[decision.EvidenceRatio] = ()
    if threshold:
        extension = finding.extension
        absolute = {
            metric: bounds
            for instrument in project.instruments
            if instrument.name == finding.frame.instrument
            for metric, bounds in instrument.limits_of(
                extension.image_type, extension.chip, extension.read_mode
            ).items()
        }
        duplicate = db.findings.find_duplicate(session, finding)
        evidence = decision.weigh(db.findings.evidence_of(finding, duplicate), threshold, absolute)
    factor = decision.widening(finding.verdict.reference_size)
    return VerdictExplanation(
        name=finding.frame.name,
        number=finding.extension.number,
        image_type=finding.extension.image_type,
        status=str(finding.verdict.status),
        score=finding.verdict.score,
        references=decision.describe_sample(finding.verdict.reference_size),
        evidence=tuple(evidence),
        ratio=max((piece.ratio for piece in evidence), default=0.0),
        since=threshold.since if threshold else None,
        why=threshold.why if threshold else "",
        by=threshold.by if threshold else "",
        catching={
            piece.name: abs(piece.value) / factor
            for piece in evidence
            if piece.against == "references" and piece.value
        },
        cluster=find_cluster(session, finding),
        trouble=trouble,
    )


def find_threshold(
    project: ProjectContext, finding: db.findings.Finding
) -> tuple[Threshold | None, str]:
    """Return the limits of an extension's night, or the reason why there are none.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    finding : Finding
        Extension.

    Returns
    -------
    (Threshold or None, str)
    """
    night = finding.frame.night or dt.date.max
    entries = project.thresholds.entries.get(finding.extension.image_type, ())
    if not any(entry.encoder == finding.fingerprint for entry in entries):
        return None, f"there are no limits for the encoder {finding.fingerprint}"
    try:
        threshold = project.thresholds.threshold(
            finding.extension.image_type, night, finding.fingerprint
        )
    except errors.IncompleteHeaderError as error:
        return None, str(error)
    return threshold, ""


def find_cluster(session: Session, finding: db.findings.Finding) -> FirstJoin | None:
    """Return the first cluster that an extension joins; None with fewer than two references.

    Parameters
    ----------
    session : Session
        For reading.
    finding : Finding
        Extension.

    Returns
    -------
    FirstJoin or None
    """
    reference = db.findings.reference_of(session, finding)
    count = len(reference.extension_ids)
    embedding = db.embeddings.find_embedding(session, finding.extension.id, finding.fingerprint)
    if count < 2 or embedding is None:
        return None
    tree = clustering.average_linkage(np.vstack([reference.embeddings, embedding]))
    height, members = clustering.find_first_merge(tree, count)
    ids = [reference.extension_ids[index] for index in members.tolist()]  # newest first
    findings = db.findings.findings_by_id(session, ids[:MAX_MEMBERS])
    links = tuple(
        ExtensionLink(
            member.frame.name,
            member.extension.number,
            member.frame.observed_at,
            member.frame.night,
            str(member.verdict.status),
            str(member.label.label) if member.label else "",
        )
        for member in findings
    )
    return FirstJoin(height, len(ids), count, links)


# --- cost of flagging -----------------------------------------------------------------------------


def estimate_flagging_cost(
    project: ProjectContext,
    name: str,
    number: int | None,
    read_cached: ReadPastVerdicts | None = None,
) -> FlaggingCost:
    """Return the false alarms that flagging an extension would cost.

    All past extensions of its image type are compared with the changed limits.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    name : str
        Archive name of the frame.
    number : int or None
        Extension; the first one if None.
    read_cached : callable, optional
        Returns the past verdicts of an image type and some limits; they are read without it.

    Returns
    -------
    FlaggingCost

    Raises
    ------
    UnknownFrameError
        If there is no such extension.
    """
    with project.read_session() as session:
        finding = find_finding(session, name, number)
        threshold, trouble = find_threshold(project, finding)
        image_type = finding.extension.image_type
        if threshold is None:
            return FlaggingCost(image_type, None, (), trouble=trouble)
        evidence = db.findings.evidence_of(finding)
    if evidence.reference_size < core.REFERENCE_NEEDED:
        trouble = f"it was compared with {pluralise(evidence.reference_size, 'reference')}, "
        trouble += f"{core.REFERENCE_NEEDED} needed"
        return FlaggingCost(image_type, None, (), trouble=trouble)
    past = (read_cached or PastVerdictReader(project))(image_type, threshold)
    nominal, bad = split_past(past.history, f"{finding.frame.name}[{finding.extension.number}]")
    if not len(nominal.flagged):
        return FlaggingCost(
            image_type, None, (), past.notes, trouble="nothing nominal of its type is known"
        )
    factor = limits.evidence_ratio(evidence, limits.limits_of(threshold))
    groups = (nominal, bad)
    now = make_cost("now", 1.0, [group.flagged for group in groups])
    together = make_cost("all", factor, [group.flagged_by_factor(factor) for group in groups])
    alone = [
        make_cost(kind, value, [group.flagged_by_limit(kind, value) for group in groups])
        for kind, value in normalise(evidence).items()
        if kind in {"merge_height", "residual", *threshold.metrics}
    ]
    alone.sort(key=lambda cost: (cost.nominal, -cost.bad))
    return FlaggingCost(image_type, now, (together, *alone), past.notes)


@dataclass(frozen=True)
class PastVerdictReader:
    """Reads the past verdicts of an image type from the database."""

    project: ProjectContext

    def __call__(self, image_type: str, threshold: Threshold) -> history.PastVerdicts:
        """Return past verdicts with the cases grouped by some limits.

        Parameters
        ----------
        image_type : str
            Image type.
        threshold : Threshold
            Present limits.

        Returns
        -------
        PastVerdicts
        """
        record = history.read_verdict_history(self.project, image_type, dt.date.min)
        cases = history.group_cases(record, threshold)
        return history.PastVerdicts(image_type, threshold, cases, record.notes)


def make_cost(name: str, limit: float, flagged: abc.Sequence[Booleans]) -> DetectionCost:
    """Count the flagged extensions.

    Parameters
    ----------
    name : str
        Evidence.
    limit : float
        Limit or factor.
    flagged : (nominal, bad) bool arrays
        True for each flagged extension.

    Returns
    -------
    DetectionCost
    """
    nominal, bad = flagged
    return DetectionCost(
        name=name,
        limit=limit,
        nominal=int(nominal.sum()),
        nominal_of=len(nominal),
        rate=label_fit.share_interval(int(nominal.sum()), len(nominal)),
        bad=int(bad.sum()),
        bad_of=len(bad),
    )


@dataclass(frozen=True)
class PastExtensions:
    """Evidence of n past extensions in columns, for fast evaluation of many limits.

    Attributes
    ----------
    flagged : (n,) bool array
        Flagged by the present limits.
    always : (n,) bool array
        Flagged by any limits.
    ratios : (n,) float array
        Evidence in units of the present limits.
    columns : mapping of str to (n,) float array
        Evidence by kind, normalised to ample references.
    """

    flagged: Booleans
    always: Booleans
    ratios: Doubles
    columns: abc.Mapping[str, Doubles]

    def flagged_by_factor(self, factor: float) -> Booleans:
        """Return the extensions that limits scaled by a factor would flag: (n,)."""
        return self.flagged if factor == 1 else self.always | (self.ratios >= factor)

    def flagged_by_limit(self, kind: str, value: float) -> Booleans:
        """Return the extensions that the present limits or another limit would flag.

        Parameters
        ----------
        kind : str
            Evidence.
        value : float
            Its limit, for ample references.

        Returns
        -------
        (n,) bool array
        """
        if kind not in self.columns:
            return self.flagged
        return self.flagged | (self.columns[kind] >= value)


def split_past(past: history.TuningHistory, excluded: str) -> tuple[PastExtensions, PastExtensions]:
    """Return the nominal and the bad past extensions.

    Parameters
    ----------
    past : TuningHistory
        Past extensions.
    excluded : str
        Name of the extension to leave out.

    Returns
    -------
    (PastExtensions, PastExtensions)
    """
    is_other = np.array([case.name != excluded for case in past.cases], bool)
    first, last = len(past.nominal), len(past.nominal) + len(past.bad)
    index = np.arange(len(is_other))
    nominal, bad = is_other & (index < first), is_other & (first <= index) & (index < last)
    return select_past(past, nominal), select_past(past, bad)


def select_past(past: history.TuningHistory, mask: Booleans) -> PastExtensions:
    """Return the past extensions of a mask.

    Parameters
    ----------
    past : TuningHistory
        Past extensions.
    mask : bool array
        True for each selected extension.

    Returns
    -------
    PastExtensions
    """
    always, ratios = past.is_flagged_anyway[mask], past.ratio_now[mask]
    names = ("merge_height", "residual", *past.table.names)
    columns = dict(zip(names, past.table.normalised[mask].T, strict=True))
    return PastExtensions(always | (ratios > 1), always, ratios, columns)


def normalise(evidence: core.Evidence) -> dict[str, float]:
    """Return the evidence by kind as if the references were ample."""
    factor = decision.widening(evidence.reference_size)
    values = {name: abs(z) / factor for name, z in evidence.z.items()}
    if evidence.merge_height is not None:
        values["merge_height"] = evidence.merge_height / factor
    if evidence.residual is not None:
        values["residual"] = evidence.residual / factor
    return {name: value for name, value in values.items() if value}
