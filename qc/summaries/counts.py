"""Counts of a period: verdicts and labels by image type."""

import collections
import datetime as dt
from collections import abc
from dataclasses import dataclass, field

from qc import core, db
from qc.summaries import incidents, standing
from qc.summaries.losses import IncompleteSet


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


@dataclass
class FindingCollector:
    """Counts findings one by one, and keeps the flagged and bad ones as cases."""

    frames: set[int] = field(default_factory=set)
    nights: set[dt.date] = field(default_factory=set)
    instruments: set[str] = field(default_factory=set)
    encoders: set[str] = field(default_factory=set)
    cases: list[incidents.LabelledCase] = field(default_factory=list)
    counts: dict[str, collections.Counter[str]] = field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )

    def add(self, finding: db.findings.Finding) -> None:
        """Count a finding."""
        frame, label = finding.frame, finding.label
        self.frames.add(frame.id)
        if frame.night:
            self.nights.add(frame.night)
        self.instruments.add(frame.instrument or "")
        self.encoders.add(finding.fingerprint)
        counts = self.counts[finding.extension.image_type]
        counts["judged"] += 1
        counts["undecided"] += standing.standing_of(finding) is standing.ExtensionStanding.UNDECIDED
        is_flagged = finding.verdict.status == core.Status.ANOMALOUS
        if is_flagged or (label is not None and label.label == core.LabelName.BAD):
            self.cases.append(incidents.case_of(finding))
            counts[name_outcome(label.label if label else None, is_flagged=is_flagged)] += 1
            counts["flagged"] += is_flagged

    def tallies(self, incomplete: abc.Sequence[IncompleteSet]) -> tuple[VerdictTally, ...]:
        """Return the counts by image type, with those of incomplete sets."""
        ended_early = collections.Counter(
            name for entry in incomplete for name in entry.image_types
        )
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
