"""Choice of new limits: by hand, by a rate of false alarms, or by labels."""

from dataclasses import dataclass
from datetime import date

from qc import core, errors
from qc._text import pluralise
from qc.detection.thresholds import Threshold
from qc.tuning import fit, history, label_fit
from qc.tuning.extreme_values import Interval
from qc.tuning.limits import limits_of

RAREST_FALSE_ALARM = 1e-5  # per extension; no sample can measure a smaller rate


@dataclass(frozen=True)
class TuningGoal:
    """Target of the new limits.

    Attributes
    ----------
    false_alarms : float or None
        Granted rate per extension; with it, only nominal frames are used.
    recall : float or None
        Wanted fraction of the frames labelled bad. Without a goal, the best F1 of the labels is
        the target where there are enough labels, else the rate that was granted before.
    since : date
        First night of the frames to use.
    effective : date
        Night from which the new limits apply.
    factor : float or None
        A person's factor on all present limits; with it, nothing is fitted.
    """

    effective: date
    since: date = date.min
    false_alarms: float | None = None
    recall: float | None = None
    factor: float | None = None


def check_sample(image_type: str, cases: history.TuningHistory, goal: TuningGoal) -> None:
    """Check that there are enough frames and labels for a goal.

    Parameters
    ----------
    image_type : str
    cases : TuningHistory
    goal : TuningGoal

    Raises
    ------
    InsufficientDataError
        If there are too few.
    """
    if not cases.cases:
        raise errors.InsufficientDataError(
            f"{image_type}: no frame has been judged against {core.REFERENCE_NEEDED} references "
            "with the encoder in use; there is nothing to tune from"
        )
    usable = int((~cases.is_flagged_anyway[: len(cases.nominal)]).sum())
    if usable < fit.NOMINAL_NEEDED:
        raise errors.InsufficientDataError(
            f"{image_type}: {pluralise(usable, 'nominal frame')} judged against "
            f"{core.REFERENCE_NEEDED} references, {fit.NOMINAL_NEEDED} needed to fit a limit; the "
            "limits stay"
        )
    if goal.recall is not None and len(cases.bad) < label_fit.BAD_NEEDED:
        raise errors.InsufficientDataError(
            f"{image_type}: {pluralise(len(cases.bad), 'frame')} labelled bad, "
            f"{label_fit.BAD_NEEDED} needed to measure the recall of a limit; label some, or use "
            "--false-alarms"
        )


@dataclass(frozen=True)
class LimitChoice:
    """New limits, their basis in words, and the rate of false alarms they are set for."""

    result: fit.TuningResult
    basis: str
    rate: float
    recall: Interval | None = None
    precision: Interval | None = None


def choose_limits(
    image_type: str, cases: history.TuningHistory, present: Threshold, goal: TuningGoal
) -> LimitChoice:
    """Choose new limits by hand, by the rate of false alarms, or by the labels.

    Parameters
    ----------
    image_type : str
    cases : TuningHistory
    present : Threshold
    goal : TuningGoal

    Returns
    -------
    LimitChoice

    Raises
    ------
    InsufficientDataError
        If no limit separates the frames labelled bad from the nominal ones.
    """
    if goal.factor is not None:
        result = label_fit.tune_by_hand(
            limits_of(present), history.present_ratios(cases.nominal), goal.factor
        )
        basis = f"the limits from {present.since} on, times {goal.factor:.3g}"
        return LimitChoice(result, basis, max(result.false_alarms.value, RAREST_FALSE_ALARM))
    if goal.false_alarms is not None or len(cases.bad) < label_fit.BAD_NEEDED:
        rate = goal.false_alarms or present.false_alarms
        bad = f"{pluralise(len(cases.bad), 'frame')} labelled bad" if cases.bad else "none bad"
        basis = f"tuned from {len(cases.usable.table)} nominal frames to {rate:.3g} false alarms"
        return LimitChoice(cases.usable.tune(rate), f"{basis}, {bad}", rate)
    try:
        return choose_by_labels(cases, present, goal)
    except label_fit.InseparableError as error:
        raise errors.InsufficientDataError(
            f"{image_type}: {error}; check the labels, or use --false-alarms"
        ) from None


def choose_by_labels(
    cases: history.TuningHistory, present: Threshold, goal: TuningGoal
) -> LimitChoice:
    """Choose limits for the best F1 or a wanted recall of the labelled frames.

    Parameters
    ----------
    cases : TuningHistory
    present : Threshold
    goal : TuningGoal

    Returns
    -------
    LimitChoice
    """
    nominal, bad = history.present_ratios(cases.nominal), history.present_ratios(cases.bad)
    rate, recall = present.false_alarms, goal.recall
    result = label_fit.tune_to_labels(
        limits_of(present), nominal, bad, false_alarms=rate, recall=recall
    )
    expected = label_fit.expected_of_labels(nominal, bad, false_alarms=rate, recall=recall)
    target = "the best F1" if recall is None else f"a recall of {recall:g}"
    basis = f"tuned to {target} of {len(bad)} bad and {len(nominal)} nominal frames"
    rate = max(result.false_alarms.value, RAREST_FALSE_ALARM)
    return LimitChoice(result, basis, rate, *expected)


def round_entry(
    present: Threshold, choice: LimitChoice, goal: TuningGoal, reason: str, author: str
) -> Threshold:
    """Return the entry for the thresholds file, rounded to three digits.

    Parameters
    ----------
    present : Threshold
    choice : LimitChoice
    goal : TuningGoal
    reason : str
        Prefix of the basis.
    author : str

    Returns
    -------
    Threshold
    """
    limits = choice.result.limits
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
            "why": f"{reason}{choice.basis}",
            "by": author,
        }
    )


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
