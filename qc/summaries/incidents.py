"""Incidents of a period: flagged or bad extensions, grouped by template set, chip and type."""

import datetime as dt
from collections import abc, defaultdict
from dataclasses import dataclass

from qc import core, db


@dataclass(frozen=True)
class LabelledCase:
    """Extension that is flagged or labelled bad; small enough to keep thousands."""

    extension_id: int
    frame: str
    number: int
    image_type: str
    chip: str
    instrument: str
    template: str
    night: dt.date
    observed_at: dt.datetime
    score: float
    is_flagged: bool
    reason: str
    label: core.LabelName | None
    kind: str
    author: str
    labelled_at: dt.datetime | None
    note: str

    @property
    def name(self) -> str:
        """Return frame name and HDU number."""
        return f"{self.frame}[{self.number}]"


@dataclass(frozen=True)
class Incident:
    """Cases of one template set, chip and image type, usually one fault; worst first."""

    cases: tuple[LabelledCase, ...]

    @property
    def worst(self) -> LabelledCase:
        """Return the case with the highest score."""
        return self.cases[0]


def case_of(finding: db.findings.Finding) -> LabelledCase:
    """Return a finding as a case."""
    frame, extension, label = finding.frame, finding.extension, finding.label
    assert frame.night is not None  # every processed frame has one
    assert frame.observed_at is not None
    return LabelledCase(
        extension_id=extension.id,
        frame=frame.name,
        number=extension.number,
        image_type=extension.image_type,
        chip=extension.chip,
        instrument=frame.instrument or "",
        template=frame.template or "",
        night=frame.night,
        observed_at=frame.observed_at,
        score=finding.verdict.score,
        is_flagged=finding.verdict.status == core.Status.ANOMALOUS,
        reason=next(iter(finding.verdict.reasons), ""),
        label=core.LabelName(label.label) if label else None,
        kind=label.kind if label else "",
        author=label.who if label else "",
        labelled_at=label.at if label else None,
        note=label.note if label else "",
    )


def group_incidents(cases: abc.Iterable[LabelledCase]) -> tuple[Incident, ...]:
    """Group cases into incidents, worst first."""
    groups: dict[tuple[str, str, str, str], list[LabelledCase]] = defaultdict(list)
    for case in cases:
        template = case.template or case.frame
        groups[case.instrument, template, case.chip, case.image_type].append(case)
    for group in groups.values():
        group.sort(key=lambda case: -case.score)
    incidents = [Incident(tuple(group)) for group in groups.values()]
    incidents.sort(key=lambda incident: (-incident.worst.score, incident.worst.observed_at))
    return tuple(incidents)
