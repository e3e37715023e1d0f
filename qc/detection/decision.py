"""What the numbers mean. Pure: no file, no clock, no database."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, sqrt

from qc._text import counted
from qc.core.reference import REFERENCE_AMPLE, REFERENCE_NEEDED
from qc.core.verdict import Evidence, Prediction, Status, Verdict
from qc.detection.metrics import METRICS
from qc.detection.thresholds import MetricLimit, Threshold

WORTH_NAMING = 0.5  # a fault that is more probable than not


def rarity(score: float, false_alarms: float) -> float:
    """Return how often a good frame looks as odd as this, by the evidence that is strongest.

    The tail of each kind of evidence is taken for exponential between what is usual among the
    references, which half of the good frames exceed, and the limit, which `false_alarms` of them
    do. So the score is the logarithm of the rate, in units of the limit's.
    """
    return float(min(1.0, false_alarms**score))


def _calibrated(value: float, usual: float, limit: float, false_alarms: float) -> float:
    """Return the score of one piece of evidence: 1 at its limit, see `rarity`.

    A reference that is itself half way to the limit, or beyond, does not move the limit.
    """
    usual = min(usual, limit / 2)
    half = min(log(_HALF) / log(false_alarms), 1.0)
    return max(0.0, 1 - (1 - half) * (limit - value) / (limit - usual))  # exactly 1 at the limit


_HALF = 0.5


def widening(n: int) -> float:
    """Return how many times wider the limits are for a reference of only `n` images.

    All that is held against a limit is in units of the reference's own scatter, or as fine as its
    own sampling, and both are known less well from few. The median absolute deviation has a
    relative standard error of 1.17 / sqrt(n) (Rousseeuw & Croux 1993: 37 % efficiency). Limits
    grow by sqrt(2) of these errors beyond what a hundred images leave: by 20 % at 20, 7 % at 50,
    nothing from 100 on. With fewer than 20 nothing is held against references, and `n` counts
    as 20.
    """
    n = min(max(n, REFERENCE_NEEDED), REFERENCE_AMPLE)
    return 1 + 1.17 * sqrt(2) * (1 / sqrt(n) - 1 / sqrt(REFERENCE_AMPLE))


def limits_for(threshold: Threshold, n: int) -> Threshold:
    """Return the limits that hold against a reference of `n` images: those of the file, widened."""
    factor = widening(n)
    if factor == 1:
        return threshold
    metrics = {
        name: MetricLimit(warn=limit.warn * factor, alarm=limit.alarm * factor)
        for name, limit in threshold.metrics.items()
    }
    return threshold.model_copy(
        update={
            "merge_height": threshold.merge_height * factor,
            "residual": threshold.residual * factor,
            "metrics": metrics,
        }
    )


def sample_words(n: int) -> str:
    """Say how many images a reference has, and what that means for a verdict by it."""
    if n < REFERENCE_NEEDED:
        return f"n = {n}: provisional, {REFERENCE_NEEDED} needed"
    return f"n = {n}" + (f": limits {widening(n):.2f} times as wide" if n < REFERENCE_AMPLE else "")


@dataclass(frozen=True)
class EvidenceRatio:
    """One piece of evidence in units of its limit.

    Attributes
    ----------
    name : str
        ``merge_height``, ``residual``, a metric, ``image_type``, or ``copy``.
    value : float
        What is held against the limit; of a metric against its references, z.
    limit : float
        Widened where the reference is small; of a range, its end on that side.
    ratio : float
        Above 1 is anomalous.
    against : str
        What it is held against: ``references``, ``instrument``, ``classifier`` or
        ``other frames``.
    """

    name: str
    value: float
    limit: float
    ratio: float
    against: str


def weigh(
    evidence: Evidence, threshold: Threshold, absolute: Mapping[str, tuple[float, float]]
) -> tuple[EvidenceRatio, ...]:
    """Return each piece of evidence in units of its limit, the strongest first.

    What is measured against references is left out where there are too few of them to judge by.
    """
    found = [
        *_weighed_absolutely(evidence, absolute),
        *_weighed_type(evidence, threshold),
        *(
            [EvidenceRatio("copy", 1.0, 0.0, _CERTAIN, "other frames")]
            if evidence.duplicate_of
            else []
        ),
    ]
    if evidence.reference_size >= REFERENCE_NEEDED:
        limits = limits_for(threshold, evidence.reference_size)
        pairs = [
            ("merge_height", evidence.merge_height, limits.merge_height),
            ("residual", evidence.residual, limits.residual),
            *((name, evidence.z.get(name), one.alarm) for name, one in limits.metrics.items()),
        ]
        found += [
            EvidenceRatio(name, value, limit, abs(value) / limit, "references")
            for name, value, limit in pairs
            if value is not None
        ]
    return tuple(sorted(found, key=lambda one: -one.ratio))


def _weighed_absolutely(
    evidence: Evidence, absolute: Mapping[str, tuple[float, float]]
) -> list[EvidenceRatio]:
    return [
        EvidenceRatio(
            name,
            value,
            high if not low or value > (low + high) / 2 else low,
            _ratio_to_range(value, low, high),
            "instrument",
        )
        for name, (low, high) in absolute.items()
        if (value := evidence.metrics.get(name)) is not None
    ]


def _weighed_type(evidence: Evidence, threshold: Threshold) -> list[EvidenceRatio]:
    said = evidence.prediction
    return [
        EvidenceRatio(
            "image_type", said.own_probability, threshold.false_alarms, one.score, "classifier"
        )
        for one in _type_findings(evidence, threshold)
        if said is not None and said.own_probability is not None
    ]


@dataclass(frozen=True)
class _Exceedance:
    """One piece of evidence held against its limit."""

    score: float  # 1 = at the limit
    words: str
    worth_saying: bool


def judge(
    evidence: Evidence, threshold: Threshold, absolute: Mapping[str, tuple[float, float]]
) -> Verdict:
    """Hold the evidence against the limits; any one strong piece suffices.

    Parameters
    ----------
    absolute : mapping of metric name to (low, high)
        The instrument's own limits, which hold without any reference.
    """
    enough = evidence.reference_size >= REFERENCE_NEEDED
    findings = [
        *_absolute_findings(evidence, absolute),
        *_duplicate_findings(evidence),
        *_type_findings(evidence, threshold),
    ]
    if enough:  # then an absolute limit that holds says nothing: it has no idea what is usual
        threshold = limits_for(threshold, evidence.reference_size)
        findings = [finding for finding in findings if finding.score > 1]
        findings += [
            *_distance_findings(evidence, threshold),
            *_residual_findings(evidence, threshold),
            *_metric_findings(evidence, threshold),
        ]
    findings.sort(key=lambda finding: -finding.score)
    score = findings[0].score if findings else 0.0
    reasons = [finding.words for finding in findings if finding.worth_saying]
    reasons[1:1] = _kind_words(evidence.prediction, anomalous=score > 1)
    if not enough:
        reasons.append(
            f"provisional: only {counted(evidence.reference_size, 'reference frame')}, "
            f"{REFERENCE_NEEDED} needed: judged by the instrument's own limits alone"
        )
    if score > 1:
        return Verdict(Status.ANOMALOUS, score, tuple(reasons))
    return Verdict(Status.NOMINAL if enough else Status.UNDECIDED, score, tuple(reasons))


def is_anomalous_anyway(
    evidence: Evidence, threshold: Threshold, absolute: Mapping[str, tuple[float, float]]
) -> bool:
    """Say whether `judge` finds an anomaly in what is not held against references.

    Without a word on it: the past of a type is thousands of frames.
    """
    said, metrics = evidence.prediction, evidence.metrics
    own = said.own_probability if said else None
    return (
        bool(evidence.duplicate_of)
        or (own is not None and _type_score(own, threshold) > 1)
        or any(
            _ratio_to_range(metrics[name], low, high) > 1
            for name, (low, high) in absolute.items()
            if name in metrics
        )
    )


def _distance_findings(evidence: Evidence, threshold: Threshold) -> list[_Exceedance]:
    if evidence.merge_height is None:
        return []
    ratio = evidence.merge_height / threshold.merge_height
    words = (
        f"joins its {evidence.reference_size} references at cosine distance "
        f"{evidence.merge_height:.2g}, {ratio:.1f} times the threshold {threshold.merge_height:.2g}"
        f"{_widened_words(evidence)}"
    )
    if evidence.widened:
        words += f" (references: {evidence.widened})"
    score = _calibrated(
        evidence.merge_height,
        evidence.usual_merge_height,
        threshold.merge_height,
        threshold.false_alarms,
    )
    return [_Exceedance(score, words, ratio > 1)]


def _residual_findings(evidence: Evidence, threshold: Threshold) -> list[_Exceedance]:
    if evidence.residual is None:
        return []
    gross = evidence.residual > _GROSS_SIGMA
    far = f"more than {_GROSS_SIGMA}" if gross else f"{evidence.residual:.1f}"
    words = (
        f"{evidence.pattern} stands out, {far} sigma beyond its references "
        f"({threshold.residual:.1f} allowed{_widened_words(evidence)})"
    )
    score = _calibrated(
        evidence.residual, evidence.usual_residual, threshold.residual, threshold.false_alarms
    )
    return [_Exceedance(score, words, score > 1)]


def _metric_findings(evidence: Evidence, threshold: Threshold) -> list[_Exceedance]:
    return [
        _metric_finding(name, evidence, limit, threshold.false_alarms)
        for name, limit in threshold.metrics.items()
        if name in evidence.z
    ]


def _metric_finding(
    name: str, evidence: Evidence, limit: MetricLimit, false_alarms: float
) -> _Exceedance:
    z = evidence.z[name]
    words = f"{_in_words(name, evidence.metrics[name])}, {_distance_in_words(z)} its references"
    if widened := _widened_words(evidence):
        words += f" ({limit.alarm:.1f} allowed{widened})"
    score = _calibrated(abs(z), _USUAL_Z, limit.alarm, false_alarms)
    return _Exceedance(score, words, abs(z) > limit.warn)


def _widened_words(evidence: Evidence) -> str:
    n = evidence.reference_size
    return f", widened for n = {n}" if n < REFERENCE_AMPLE else ""


_USUAL_Z = 0.674  # half of a normal distribution lies within


def _absolute_findings(
    evidence: Evidence, absolute: Mapping[str, tuple[float, float]]
) -> list[_Exceedance]:
    return [
        _absolute_finding(name, evidence.metrics[name], low, high)
        for name, (low, high) in absolute.items()
        if name in evidence.metrics
    ]


def _absolute_finding(name: str, value: float, low: float, high: float) -> _Exceedance:
    ratio = _ratio_to_range(value, low, high)
    words = f"{_in_words(name, value)}, outside the instrument's {low:g} to {high:g}"
    return _Exceedance(ratio, words, ratio > 1)


def _ratio_to_range(value: float, low: float, high: float) -> float:
    """Return the distance from the best value, 1 at the limits: the middle, or 0 if low is 0.

    A range that starts at 0 belongs to a share or a count of something bad. Were its middle the
    best, every healthy frame would stand at the limit.
    """
    best = (low + high) / 2 if low else 0.0
    reach = max(high - best, best - low)
    if reach == 0:
        return 0.0 if value == best else _CERTAIN
    return abs(value - best) / reach


def _duplicate_findings(evidence: Evidence) -> list[_Exceedance]:
    if not evidence.duplicate_of:
        return []
    words = f"has the very same pixels as {evidence.duplicate_of}"
    return [_Exceedance(_CERTAIN, words, worth_saying=True)]


def _type_findings(evidence: Evidence, threshold: Threshold) -> list[_Exceedance]:
    """Hold how improbable the header's type is against the false alarms that are granted."""
    said = evidence.prediction
    if said is None or said.own_probability is None:
        return []
    score = _type_score(said.own_probability, threshold)
    words = (
        f"looks like {said.image_type} ({said.type_probability:.0%}), not like what its header says"
    )
    return [_Exceedance(score, words, score > 1)]


def _type_score(own_probability: float, threshold: Threshold) -> float:
    return log(max(own_probability, _LEAST_PROBABILITY)) / log(threshold.false_alarms)


_LEAST_PROBABILITY = 1e-12  # a classifier that is surer than that has not seen enough


def _kind_words(said: Prediction | None, *, anomalous: bool) -> list[str]:
    """Name the fault, or raise a doubt: the classifier clears nothing, and flags no fault alone."""
    if said is None or said.kind_probability < WORTH_NAMING:
        return []
    if not anomalous and said.own_probability is None:
        return []  # of a type that it has never seen, its doubts are worth nothing
    words = f"looks like {said.kind.replace('_', ' ')} ({said.kind_probability:.0%})"
    words += f", by its {' and '.join(said.because)}" if said.because else ""
    return [words if anomalous else f"a doubt: {words}, though all is within its limits"]


_GROSS_SIGMA = 1000  # how much further says no more


_CERTAIN = 100.0  # no scale, only a rank among the worst: two read-outs never agree in every pixel


def _distance_in_words(z: float) -> str:
    if abs(z) <= _GROSS_SIGMA:
        return f"{z:+.1f} sigma from"
    return f"more than {_GROSS_SIGMA} sigma {'above' if z > 0 else 'below'}"


def _in_words(name: str, value: float) -> str:
    spelled = name.replace("_", " ")
    return f"{spelled} {METRICS[name].show(value) if name in METRICS else f'{value:.4g}'}"
