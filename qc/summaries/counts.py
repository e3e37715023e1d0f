"""Counts of a period: verdicts and labels by image type."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from qc import core
from qc.db.findings import Finding
from qc.summaries.incidents import LabelledCase, case_of
from qc.summaries.losses import IncompleteSet
from qc.summaries.standing import ExtensionStanding, standing_of


@dataclass(frozen=True)
class VerdictTally:
    """Verdicts and labels of an image type.

    Attributes
    ----------
    judged, undecided : int
        Extensions with a verdict; with too few references.
    flagged : int
        Extensions judged anomalous: `confirmed` by people, `false_alarms`, valid `outliers` and
        `unanswered` ones.
    missed : int
        Extensions labelled bad and not flagged.
    incomplete : int
        Incomplete template sets.
    """

    image_type: str
    judged: int
    flagged: int
    confirmed: int
    false_alarms: int
    outliers: int
    unanswered: int
    missed: int
    undecided: int
    incomplete: int


class FindingCollector:
    """Counts findings one by one, and keeps the flagged and bad ones as cases."""

    def __init__(self) -> None:
        self.frames: set[int] = set()
        self.nights: set[date] = set()
        self.instruments: set[str] = set()
        self.encoders: set[str] = set()
        self.cases: list[LabelledCase] = []
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, finding: Finding) -> None:
        """Count a finding."""
        frame, label = finding.frame, finding.label
        self.frames.add(frame.id)
        if frame.night:
            self.nights.add(frame.night)
        self.instruments.add(frame.instrument or "")
        self.encoders.add(finding.fingerprint)
        counts = self.counts[finding.extension.image_type]
        counts["judged"] += 1
        counts["undecided"] += standing_of(finding) is ExtensionStanding.UNDECIDED
        is_flagged = finding.verdict.status == core.Status.ANOMALOUS
        if is_flagged or (label is not None and label.label == core.LabelName.BAD):
            self.cases.append(case_of(finding))
            counts[name_outcome(label.label if label else None, is_flagged=is_flagged)] += 1
            counts["flagged"] += is_flagged

    def tallies(self, incomplete: Sequence[IncompleteSet]) -> tuple[VerdictTally, ...]:
        """Return the counts by image type, with those of incomplete sets."""
        ended_early = Counter(name for entry in incomplete for name in entry.image_types)
        return tuple(
            VerdictTally(
                image_type=name,
                judged=counts["judged"],
                flagged=counts["flagged"],
                confirmed=counts["confirmed"],
                false_alarms=counts["false_alarms"],
                outliers=counts["outliers"],
                unanswered=counts["unanswered"],
                missed=counts["missed"],
                undecided=counts["undecided"],
                incomplete=ended_early[name],
            )
            for name, counts in sorted(self.counts.items())
        )


def name_outcome(label: str | None, *, is_flagged: bool) -> str:
    """Return the column of a tally for a case.

    Parameters
    ----------
    label : str or None
        Current label.
    is_flagged : bool
        True if judged anomalous.

    Returns
    -------
    str
    """
    if label is None:
        return "unanswered"
    if label == core.LabelName.BAD:
        return "confirmed" if is_flagged else "missed"
    return "outliers" if label == core.LabelName.VALID_OUTLIER else "false_alarms"
