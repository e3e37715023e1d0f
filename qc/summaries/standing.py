"""Standing of an extension: its newest verdict, or the label of a person."""

from enum import StrEnum

from qc import core
from qc.db.findings import Finding


class ExtensionStanding(StrEnum):
    """Standing of an extension or an image type, most severe first."""

    ANOMALOUS = "anomalous"
    ABSENT = "absent"
    UNDECIDED = "undecided"
    WARNING = "warning"
    NOMINAL = "nominal"


def standing_of(finding: Finding) -> ExtensionStanding:
    """Return the standing of an extension; the current label overrides the verdict."""
    label = finding.label.label if finding.label is not None else None
    return standing_by(finding.verdict.status, label, has_reasons=bool(finding.verdict.reasons))


def standing_by(status: core.Status, label: str | None, *, has_reasons: bool) -> ExtensionStanding:
    """Return the standing for a verdict and a label.

    Parameters
    ----------
    status : Status
        Status of the newest verdict.
    label : str or None
        Current label.
    has_reasons : bool
        True if the verdict has reasons: a nominal one is a warning then.

    Returns
    -------
    ExtensionStanding
    """
    if label is not None:
        is_bad = label == core.LabelName.BAD
        return ExtensionStanding.ANOMALOUS if is_bad else ExtensionStanding.NOMINAL
    if status == core.Status.NOMINAL and has_reasons:
        return ExtensionStanding.WARNING
    return ExtensionStanding(status.lower())
