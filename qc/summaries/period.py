"""Period summary: a week or a month of verdicts, labels, losses, changes and performance."""

from collections import abc
from dataclasses import dataclass

from sqlalchemy.orm import Session

from qc import _text, core, db, detection, io
from qc.db.schema import models
from qc.labels import epochs, spot_check
from qc.summaries import ageing, changes, counts, incidents, losses, night_range, performance

_OUTCOMES = {
    "confirmed": "confirmed bad",
    "false_alarms": "false alarms",
    "outliers": "valid outliers",
    "unanswered": "not answered",
}


@dataclass(frozen=True)
class PeriodSummary:
    """Summary of a week or a month.

    Attributes
    ----------
    instruments : tuple of str
        Instruments with frames.
    encoders : tuple of str
        Fingerprints of the encoders of the counted verdicts.
    frames, nights : int
        Judged frames, and nights with frames.
    confirmed, false_alarms, unanswered, missed : tuple of Incident
        Worst first. Missed incidents are confirmed as well.
    failed : tuple of FrameRow
        Files that could not be judged.
    missing : tuple of str
        Messages about missing calibrations.
    is_completeness_checked : bool
        True if the completeness check ran.
    """

    span: night_range.NightRange
    instruments: tuple[str, ...]
    encoders: tuple[str, ...]
    frames: int
    nights: int
    tallies: tuple[counts.VerdictTally, ...]
    confirmed: tuple[incidents.Incident, ...]
    false_alarms: tuple[incidents.Incident, ...]
    unanswered: tuple[incidents.Incident, ...]
    missed: tuple[incidents.Incident, ...]
    incomplete: tuple[losses.IncompleteSet, ...]
    failed: tuple[models.FrameRow, ...]
    missing: tuple[str, ...]
    is_completeness_checked: bool
    limit_changes: tuple[changes.LimitChange, ...]
    interventions: tuple[epochs.EpochEntry, ...]
    injection_test: performance.InjectionTestSummary
    response_times: performance.ResponseTimes
    trainings: tuple[changes.TrainingSummary, ...]
    statements: tuple[spot_check.AcceptanceBound, ...]
    margins: tuple[ageing.LimitMargin, ...]

    def count(self, column: str) -> int:
        """Return the sum of a column of the tallies."""
        return sum(getattr(tally, column) for tally in self.tallies)

    @property
    def summary(self) -> str:
        """Return the summary in a few sentences."""
        judged = _text.pluralise(self.count("judged"), "extension was", "extensions were")
        frames, nights = (
            _text.pluralise(self.frames, "frame"),
            _text.pluralise(self.nights, "night"),
        )
        flagged = "none was flagged"
        if self.count("flagged"):
            outcomes = [
                f"{self.count(column)} {name}"
                for column, name in _OUTCOMES.items()
                if self.count(column)
            ]
            flagged = f"{self.count('flagged')} flagged: " + ", ".join(outcomes)
        sentences = [f"{judged} judged, of {frames} in {nights}; {flagged}."]
        if missed := self.count("missed"):
            sentences.append(f"{_text.pluralise(missed, 'unflagged extension')} labelled bad.")
        lost = [
            _text.pluralise(len(self.failed), "file failed", "files failed") if self.failed else "",
            _text.pluralise(len(self.incomplete), "incomplete set") if self.incomplete else "",
            _text.pluralise(len(self.missing), "missing calibration") if self.missing else "",
        ]
        if any(lost):
            sentences.append(", ".join(filter(None, lost)) + ".")
        return " ".join([*sentences, *self._performance_sentences()])

    def _performance_sentences(self) -> list[str]:
        sentences = []
        if overall := self.injection_test.overall:
            share = f"{100 * overall.share:.1f} %"
            sentences.append(f"The injection test found {share} of {overall.tried} known faults.")
        times = self.response_times
        notifications = _text.pluralise(times.notified, "notification")
        if times.waits:
            median = night_range.format_duration(times.quantile(0.5))
            sentences.append(
                f"{notifications}, {times.unanswered} without an answer; "
                f"median response time {median}."
            )
        elif times.notified:
            sentences.append(f"{notifications}, none answered.")
        if self.limit_changes:
            types = len({name for change in self.limit_changes for name in change.image_types})
            sentences.append(f"Limits of {_text.pluralise(types, 'image type')} changed.")
        return sentences


def read_period(
    session: Session,
    span: night_range.NightRange,
    instruments: abc.Sequence[io.Instrument],
    thresholds: detection.Thresholds,
) -> PeriodSummary:
    """Return the summary of a week or a month.

    Parameters
    ----------
    session : Session
        Open session.
    span : NightRange
        Nights.
    instruments : sequence of Instrument
        Instrument definitions.
    thresholds : Thresholds
        Thresholds file.

    Returns
    -------
    PeriodSummary
    """
    collector = counts.FindingCollector()
    for finding in db.findings.findings(session, span.first, span.last):
        collector.add(finding)
    cases = collector.cases
    bad = [case for case in cases if case.label == core.LabelName.BAD]
    flagged = [case for case in cases if case.is_flagged]
    missing = losses.read_missing(session, span)
    incomplete = losses.read_incomplete_sets(session, span)
    first_draw = spot_check.first_counted_night(span.last)
    return PeriodSummary(
        span=span,
        instruments=tuple(sorted(collector.instruments)),
        encoders=tuple(sorted(collector.encoders)),
        frames=len(collector.frames),
        nights=len(collector.nights),
        tallies=collector.tallies(incomplete),
        confirmed=incidents.group_incidents(bad),
        false_alarms=incidents.group_incidents(
            case for case in flagged if case.label == core.LabelName.GOOD
        ),
        unanswered=incidents.group_incidents(case for case in flagged if not case.label),
        missed=incidents.group_incidents(case for case in bad if not case.is_flagged),
        incomplete=incomplete,
        failed=losses.read_failed(session, span, instruments, collector.instruments),
        missing=missing,
        is_completeness_checked=bool(missing) or losses.was_completeness_checked(session, span),
        limit_changes=changes.find_limit_changes(thresholds, span),
        interventions=changes.read_interventions(session, span),
        injection_test=performance.read_injection_test(session, span),
        response_times=performance.read_response_times(session, span),
        trainings=changes.read_trainings(session, span),
        statements=spot_check.acceptance_bounds(
            spot_check.read_draws(session, first_draw, span.last)
        ),
        margins=ageing.read_margins(session, span.last, thresholds),
    )
