"""Decision rule: evidence and limits to a verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, sqrt

from qc import core
from qc._text import pluralise
from qc.detection.metrics import METRICS
from qc.detection.thresholds import MetricLimit, Threshold

AbsoluteLimits = Mapping[str, tuple[float, float]]

WORTH_NAMING = 0.5  # a predicted fault is named if it is more probable than not
_HALF = 0.5
_USUAL_Z = 0.674  # half of a normal distribution lies within
_GROSS_SIGMA = 1000  # larger deviations are not written out
_CERTAIN = 100.0  # score of identical pixels: a rank only
_LEAST_PROBABILITY = 1e-12  # keeps logarithms finite


@dataclass(frozen=True)
class EvidenceRatio:
    """One piece of evidence in units of its limit.

    Attributes
    ----------
    name : str
        ``merge_height``, ``residual``, a metric, ``image_type``, or ``copy``.
    value : float
        Compared value; for a metric with references, its z-score.
    limit : float
        Limit, widened for few references; for a range, the nearer end.
    ratio : float
        Value in units of the limit; above 1 is anomalous.
    against : str
        Source of the limit: ``references``, ``instrument``, ``classifier`` or
        ``other frames``.
    """

    name: str
    value: float
    limit: float
    ratio: float
    against: str


@dataclass(frozen=True)
class EvidenceScore:
    """One piece of evidence with its score.

    Attributes
    ----------
    score : float
        1 at the limit.
    text : str
        Reason for the verdict.
    is_reason : bool
        True if the verdict lists the reason.
    """

    score: float
    text: str
    is_reason: bool


def decide(evidence: core.Evidence, threshold: Threshold, absolute: AbsoluteLimits) -> core.Verdict:
    """Compare evidence with limits; one exceeded limit makes an extension anomalous.

    Parameters
    ----------
    evidence : Evidence
    threshold : Threshold
        Limits for the image type and night, not widened.
    absolute : mapping of str to (float, float)
        Absolute limits of the instrument by metric.

    Returns
    -------
    Verdict
        UNDECIDED with too few references, unless another limit is exceeded.
    """
    is_enough = evidence.reference_size >= core.REFERENCE_NEEDED
    scores = [
        *score_absolute(evidence, absolute),
        *score_duplicate(evidence),
        *score_image_type(evidence, threshold),
    ]
    if is_enough:
        threshold = widen_limits(threshold, evidence.reference_size)
        # An absolute limit that holds carries no information beside the references.
        scores = [
            *(score for score in scores if score.score > 1),
            *score_distance(evidence, threshold),
            *score_residual(evidence, threshold),
            *score_metrics(evidence, threshold),
        ]
    scores.sort(key=lambda score: -score.score)
    highest = scores[0].score if scores else 0.0
    reasons = [score.text for score in scores if score.is_reason]
    reasons[1:1] = describe_fault(evidence.prediction, is_anomalous=highest > 1)
    if not is_enough:
        reasons.append(
            f"provisional: only {pluralise(evidence.reference_size, 'reference frame')}, "
            f"{core.REFERENCE_NEEDED} needed: judged by the instrument's own limits alone"
        )
    if highest > 1:
        return core.Verdict(core.Status.ANOMALOUS, highest, tuple(reasons))
    status = core.Status.NOMINAL if is_enough else core.Status.UNDECIDED
    return core.Verdict(status, highest, tuple(reasons))


def weigh(
    evidence: core.Evidence, threshold: Threshold, absolute: AbsoluteLimits
) -> tuple[EvidenceRatio, ...]:
    """Return each piece of evidence in units of its limit.

    Parameters
    ----------
    evidence : Evidence
    threshold : Threshold
    absolute : mapping of str to (float, float)

    Returns
    -------
    tuple of EvidenceRatio
        Highest ratio first; without comparisons with too few references.
    """
    ratios = []
    for name, (low, high) in absolute.items():
        if name in evidence.metrics:
            value = evidence.metrics[name]
            end = high if not low or value > (low + high) / 2 else low
            ratio = ratio_to_range(value, low, high)
            ratios.append(EvidenceRatio(name, value, end, ratio, "instrument"))
    if evidence.prediction and evidence.prediction.own_probability is not None:
        probability, limit = evidence.prediction.own_probability, threshold.false_alarms
        score = type_score(probability, threshold)
        ratios.append(EvidenceRatio("image_type", probability, limit, score, "classifier"))
    if evidence.duplicate_of:
        ratios.append(EvidenceRatio("copy", 1.0, 0.0, _CERTAIN, "other frames"))
    if evidence.reference_size >= core.REFERENCE_NEEDED:
        limits = widen_limits(threshold, evidence.reference_size)
        pairs = [
            ("merge_height", evidence.merge_height, limits.merge_height),
            ("residual", evidence.residual, limits.residual),
            *((name, evidence.z.get(name), limit.alarm) for name, limit in limits.metrics.items()),
        ]
        ratios += [
            EvidenceRatio(name, value, limit, abs(value) / limit, "references")
            for name, value, limit in pairs
            if value is not None
        ]
    return tuple(sorted(ratios, key=lambda ratio: -ratio.ratio))


def is_anomalous_without_references(
    evidence: core.Evidence, threshold: Threshold, absolute: AbsoluteLimits
) -> bool:
    """Return True if `decide` finds an anomaly without the references.

    Faster than `decide`, for thousands of past extensions.

    Parameters
    ----------
    evidence : Evidence
    threshold : Threshold
    absolute : mapping of str to (float, float)

    Returns
    -------
    bool
    """
    prediction, metrics = evidence.prediction, evidence.metrics
    probability = prediction.own_probability if prediction else None
    return (
        bool(evidence.duplicate_of)
        or (probability is not None and type_score(probability, threshold) > 1)
        or any(
            ratio_to_range(metrics[name], low, high) > 1
            for name, (low, high) in absolute.items()
            if name in metrics
        )
    )


# --- limits and scores ----------------------------------------------------------------------------


def rarity(score: float, false_alarms: float) -> float:
    """Return the share of nominal extensions with at least this score.

    The tail of each kind of evidence is taken as exponential between its median over the
    references, which half of the nominal extensions exceed, and the limit, which `false_alarms`
    of them exceed. The score is the logarithm of this rate in units of the limit's: decision
    0006.

    Parameters
    ----------
    score : float
    false_alarms : float
        Rate of false alarms at the limit.

    Returns
    -------
    float
    """
    return float(min(1.0, false_alarms**score))


def calibrate(value: float, usual: float, limit: float, false_alarms: float) -> float:
    """Return the score of one piece of evidence.

    Parameters
    ----------
    value : float
        Measured value.
    usual : float
        Median over the references; at most half of the limit is used, so that an odd reference
        set does not move the limit.
    limit : float
        Limit in the unit of `value`.
    false_alarms : float
        Rate of false alarms at the limit.

    Returns
    -------
    float
        1 at the limit, 0 or more; see `rarity`.
    """
    usual = min(usual, limit / 2)
    half = min(log(_HALF) / log(false_alarms), 1.0)
    return max(0.0, 1 - (1 - half) * (limit - value) / (limit - usual))  # exactly 1 at the limit


def widening(n: int) -> float:
    """Return the factor on limits for a reference set of `n` extensions.

    Evidence is measured in units of the scatter of the reference set. The median absolute
    deviation has a relative standard error of 1.17 / sqrt(n) (Rousseeuw & Croux 1993: 37 %
    efficiency). Limits grow by sqrt(2) of these errors beyond those of a hundred extensions: by
    20 % at 20, 7 % at 50, nothing from 100 on. Fewer than 20 count as 20: decision 0021.
    """
    n = min(max(n, core.REFERENCE_NEEDED), core.REFERENCE_AMPLE)
    return 1 + 1.17 * sqrt(2) * (1 / sqrt(n) - 1 / sqrt(core.REFERENCE_AMPLE))


def widen_limits(threshold: Threshold, n: int) -> Threshold:
    """Return the limits for a reference set of `n` extensions.

    Parameters
    ----------
    threshold : Threshold
        Limits of the thresholds file.
    n : int
        Size of the reference set.

    Returns
    -------
    Threshold
        Limits times `widening`.
    """
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


def describe_sample(n: int) -> str:
    """Return the size of a reference set and its effect on the limits, as text."""
    if n < core.REFERENCE_NEEDED:
        return f"n = {n}: provisional, {core.REFERENCE_NEEDED} needed"
    factor = f": limits {widening(n):.2f} times as wide" if n < core.REFERENCE_AMPLE else ""
    return f"n = {n}{factor}"


def ratio_to_range(value: float, low: float, high: float) -> float:
    """Return the distance of a value from the best value of a range.

    The best value is the middle of the range, or 0 if the range begins at 0: such a range
    belongs to a share or number of defects.

    Parameters
    ----------
    value, low, high : float

    Returns
    -------
    float
        1 at the ends of the range.
    """
    best = (low + high) / 2 if low else 0.0
    reach = max(high - best, best - low)
    if reach == 0:
        return 0.0 if value == best else _CERTAIN
    return abs(value - best) / reach


def type_score(own_probability: float, threshold: Threshold) -> float:
    """Return the score of the image type in the header.

    Parameters
    ----------
    own_probability : float
        Probability of the header's image type.
    threshold : Threshold

    Returns
    -------
    float
        1 at the limit.
    """
    return log(max(own_probability, _LEAST_PROBABILITY)) / log(threshold.false_alarms)


# --- kinds of evidence ----------------------------------------------------------------------------


def score_distance(evidence: core.Evidence, threshold: Threshold) -> list[EvidenceScore]:
    """Score the merge height; empty without one.

    Parameters
    ----------
    evidence : Evidence
    threshold : Threshold (widened)

    Returns
    -------
    list of EvidenceScore
    """
    if evidence.merge_height is None:
        return []
    ratio = evidence.merge_height / threshold.merge_height
    text = (
        f"joins its {evidence.reference_size} references at cosine distance "
        f"{evidence.merge_height:.2g}, {ratio:.1f} times the threshold {threshold.merge_height:.2g}"
        f"{_describe_widening(evidence)}"
    )
    if evidence.widened:
        text += f" (references: {evidence.widened})"
    score = calibrate(
        evidence.merge_height,
        evidence.usual_merge_height,
        threshold.merge_height,
        threshold.false_alarms,
    )
    return [EvidenceScore(score, text, ratio > 1)]


def score_residual(evidence: core.Evidence, threshold: Threshold) -> list[EvidenceScore]:
    """Score the residual; empty without one.

    Parameters
    ----------
    evidence : Evidence
    threshold : Threshold (widened)

    Returns
    -------
    list of EvidenceScore
    """
    if evidence.residual is None:
        return []
    is_gross = evidence.residual > _GROSS_SIGMA
    sigma = f"more than {_GROSS_SIGMA}" if is_gross else f"{evidence.residual:.1f}"
    text = (
        f"{evidence.pattern} stands out, {sigma} sigma beyond its references "
        f"({threshold.residual:.1f} allowed{_describe_widening(evidence)})"
    )
    score = calibrate(
        evidence.residual, evidence.usual_residual, threshold.residual, threshold.false_alarms
    )
    return [EvidenceScore(score, text, score > 1)]


def score_metrics(evidence: core.Evidence, threshold: Threshold) -> list[EvidenceScore]:
    """Score each z-score with a limit.

    Parameters
    ----------
    evidence : Evidence
    threshold : Threshold (widened)

    Returns
    -------
    list of EvidenceScore
    """
    scores = []
    for name, limit in threshold.metrics.items():
        if name not in evidence.z:
            continue
        z = evidence.z[name]
        if abs(z) <= _GROSS_SIGMA:
            distance = f"{z:+.1f} sigma from"
        else:
            distance = f"more than {_GROSS_SIGMA} sigma {'above' if z > 0 else 'below'}"
        text = f"{_describe_metric(name, evidence.metrics[name])}, {distance} its references"
        if widened := _describe_widening(evidence):
            text += f" ({limit.alarm:.1f} allowed{widened})"
        score = calibrate(abs(z), _USUAL_Z, limit.alarm, threshold.false_alarms)
        scores.append(EvidenceScore(score, text, abs(z) > limit.warn))
    return scores


def score_absolute(evidence: core.Evidence, absolute: AbsoluteLimits) -> list[EvidenceScore]:
    """Score each metric with an absolute limit.

    Parameters
    ----------
    evidence : Evidence
    absolute : mapping of str to (float, float)

    Returns
    -------
    list of EvidenceScore
    """
    scores = []
    for name, (low, high) in absolute.items():
        if name in evidence.metrics:
            value = evidence.metrics[name]
            ratio = ratio_to_range(value, low, high)
            text = f"{_describe_metric(name, value)}, outside the instrument's {low:g} to {high:g}"
            scores.append(EvidenceScore(ratio, text, ratio > 1))
    return scores


def score_duplicate(evidence: core.Evidence) -> list[EvidenceScore]:
    """Score identical pixels in another frame; empty without such a frame."""
    if not evidence.duplicate_of:
        return []
    text = f"has the very same pixels as {evidence.duplicate_of}"
    return [EvidenceScore(_CERTAIN, text, is_reason=True)]


def score_image_type(evidence: core.Evidence, threshold: Threshold) -> list[EvidenceScore]:
    """Score the image type in the header; empty without a probability by the classifier.

    Parameters
    ----------
    evidence : Evidence
    threshold : Threshold

    Returns
    -------
    list of EvidenceScore
    """
    prediction = evidence.prediction
    if prediction is None or prediction.own_probability is None:
        return []
    score = type_score(prediction.own_probability, threshold)
    text = (
        f"looks like {prediction.image_type} ({prediction.type_probability:.0%}), "
        "not like what its header says"
    )
    return [EvidenceScore(score, text, score > 1)]


def describe_fault(prediction: core.Prediction | None, *, is_anomalous: bool) -> list[str]:
    """Return the predicted fault as a reason, or as a warning of a nominal extension.

    The classifier alone changes no status: decision 0031.

    Parameters
    ----------
    prediction : Prediction or None
        Prediction of the classifier.
    is_anomalous : bool
        True if a limit is exceeded.

    Returns
    -------
    list of str
    """
    if prediction is None or prediction.kind_probability < WORTH_NAMING:
        return []
    if not is_anomalous and prediction.own_probability is None:
        return []  # the classifier was not trained on this image type
    text = f"looks like {prediction.kind.replace('_', ' ')} ({prediction.kind_probability:.0%})"
    text += f", by its {' and '.join(prediction.because)}" if prediction.because else ""
    return [text if is_anomalous else f"a doubt: {text}, though all is within its limits"]


def _describe_widening(evidence: core.Evidence) -> str:
    n = evidence.reference_size
    return f", widened for n = {n}" if n < core.REFERENCE_AMPLE else ""


def _describe_metric(name: str, value: float) -> str:
    number = METRICS[name].show(value) if name in METRICS else f"{value:.4g}"
    return f"{name.replace('_', ' ')} {number}"
