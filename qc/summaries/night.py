"""Night summary: matrix, anomalies, missing calibrations, failed files and spot check."""

import dataclasses
import datetime as dt
import functools
from collections import Counter, abc, defaultdict
from math import comb

from sqlalchemy.orm import Session

from qc import core, db, io
from qc.db.schema import models
from qc.labels import spot_check
from qc.monitoring import completeness, missing
from qc.summaries import matrix, standing

HISTORY_NIGHTS = 60


@dataclasses.dataclass(frozen=True)
class AnomalyGroup:
    """Anomalies of one template set, chip and image type, usually one fault.

    Attributes
    ----------
    anchor : str
        Link target in the report.
    findings : tuple of Finding
        Worst first.
    frames : int
        Extensions of the chip in the set, anomalous or not.
    """

    anchor: str
    findings: tuple[db.findings.Finding, ...]
    frames: int

    @property
    def worst(self) -> db.findings.Finding:
        """Return the image with the highest score."""
        return self.findings[0]

    @property
    def is_open(self) -> bool:
        """Return True unless all images are labelled good."""
        return any(
            standing.standing_of(finding) is standing.ExtensionStanding.ANOMALOUS
            for finding in self.findings
        )


@dataclasses.dataclass(frozen=True)
class SpotCheckSample:
    """Random sample of a night's nominal extensions, and their labels.

    Attributes
    ----------
    findings : tuple of Finding
        Sample, sorted by setup.
    population : int
        Extensions whose first verdict was nominal.
    answers : tuple of LabelName
        Labels of the sample.
    statements : tuple of AcceptanceBound
        Bounds by image type, from all samples of the last 90 days.
    """

    findings: tuple[db.findings.Finding, ...]
    population: int
    answers: tuple[core.LabelName, ...]
    statements: tuple[spot_check.AcceptanceBound, ...]

    @property
    def bad(self) -> int:
        """Count the extensions labelled bad."""
        return self.answers.count(core.LabelName.BAD)

    @property
    def missed_bound(self) -> int:
        """Return the upper bound on missed anomalies if the sample has none."""
        return missed_count_bound(self.population, len(self.findings))


@dataclasses.dataclass(frozen=True)
class NightSummary:
    """Summary of one night.

    Attributes
    ----------
    evening : date
        Day on which the night began.
    ends : datetime
        End of the night for all instruments.
    kinds : tuple of CalibrationKind
        Image types of the instruments.
    history : tuple of Finding
        Extensions of the last 60 nights, this one included, oldest first.
    matrices : tuple of Matrix
        Of instruments with recent frames; the others are `idle`.
    events : tuple of AnomalyGroup
        Anomalies; open ones first, then worst first.
    absences : tuple of MissingCalibration
        Expected calibrations that did not arrive in time.
    unknown_types : mapping of str to int
        Judged image types that no instrument file describes any more.
    unprocessed : tuple of FrameRow
        Failed and skipped files.
    """

    evening: dt.date
    ends: dt.datetime
    kinds: tuple[matrix.CalibrationKind, ...]
    history: tuple[db.findings.Finding, ...]
    matrices: tuple[matrix.Matrix, ...]
    idle: tuple[str, ...]
    events: tuple[AnomalyGroup, ...]
    absences: tuple[missing.MissingCalibration, ...]
    unknown_types: abc.Mapping[str, int]
    unprocessed: tuple[models.FrameRow, ...]
    sample: SpotCheckSample

    @property
    def names(self) -> abc.Mapping[str, str]:
        """Return the kind in words by image type."""
        return {kind.image_type: kind.name for kind in self.kinds}

    @functools.cached_property
    def findings(self) -> tuple[db.findings.Finding, ...]:
        """Return the judged extensions of the night."""
        return tuple(finding for finding in self.history if finding.frame.night == self.evening)

    @functools.cached_property
    def standings(self) -> Counter[standing.ExtensionStanding]:
        """Count extensions by standing, and missing calibrations; a missing arm counts once."""
        counts = Counter(standing.standing_of(finding) for finding in self.findings)
        counts[standing.ExtensionStanding.ABSENT] = sum(
            not absence.is_mended for absence in self.absences
        )
        return counts

    @property
    def frames(self) -> int:
        """Count the judged frames."""
        return len({finding.frame.id for finding in self.findings})

    @property
    def instruments(self) -> str:
        """Return the names of the instruments with recent frames, or else of all."""
        return ", ".join([table.instrument for table in self.matrices] or self.idle)

    @property
    def failed(self) -> tuple[models.FrameRow, ...]:
        """Return the files that could not be judged."""
        return tuple(row for row in self.unprocessed if row.state == core.FrameState.FAILED)

    @property
    def skipped(self) -> tuple[models.FrameRow, ...]:
        """Return the readable files that are not supported calibrations."""
        return tuple(row for row in self.unprocessed if row.state == core.FrameState.SKIPPED)


def read_night(
    session: Session,
    evening: dt.date,
    instruments: abc.Sequence[io.Instrument],
    now: dt.datetime | None = None,
) -> NightSummary:
    """Return the summary of a night.

    Parameters
    ----------
    session : Session
        Open session.
    evening : date
        Day on which the night began.
    instruments : sequence of Instrument
        Instrument definitions.
    now : datetime, optional
        Time, aware: calibrations that are not due yet are not missing. Default: the end of the
        night.

    Returns
    -------
    NightSummary
    """
    first = evening - dt.timedelta(days=HISTORY_NIGHTS - 1)
    history = tuple(db.findings.findings(session, first, evening))
    of_night = tuple(finding for finding in history if finding.frame.night == evening)
    events = group_anomalies(of_night)
    ends = max(instrument.night_ends(evening) for instrument in instruments)
    absences = completeness.find_missing(session, evening, instruments, now or ends)
    newest = matrix.newest_times(history)
    matrices = [
        matrix.matrix_of(instrument, evening, newest, of_night, events, absences)
        for instrument in instruments
    ]
    kinds = tuple(kind for instrument in instruments for kind in matrix.kinds_of(instrument))
    described = {kind.image_type for kind in kinds}
    return NightSummary(
        evening=evening,
        ends=ends,
        kinds=kinds,
        history=history,
        matrices=tuple(table for table in matrices if table.rows),
        idle=tuple(table.instrument for table in matrices if not table.rows),
        events=events,
        absences=absences,
        unknown_types=Counter(
            finding.extension.image_type
            for finding in of_night
            if finding.extension.image_type not in described
        ),
        unprocessed=read_unprocessed(session, matrices),
        sample=read_sample(session, evening, of_night),
    )


def missed_count_bound(population: int, sampled: int) -> int:
    """Return the upper bound on anomalies in a population whose random sample has none.

    The largest number K for which a sample without anomalies has a probability of at least 5 %,
    ``C(N - K, n) / C(N, n) >= 0.05``. It is exact for a finite population (Wright 1991, Exact
    Confidence Bounds when Sampling from Small Finite Universes). The rule of three (Hanley &
    Lippman-Hand 1983, JAMA 249, 1743) is its limit for an infinite one.

    Parameters
    ----------
    population : int
        Number of extensions N.
    sampled : int
        Size of the sample n.

    Returns
    -------
    int
        At 95 % confidence.
    """
    ways = comb(population, sampled)
    return max(
        k
        for k in range(population - sampled + 1)
        if comb(population - k, sampled) >= (1 - spot_check.CONFIDENCE) * ways
    )


def group_anomalies(findings: abc.Sequence[db.findings.Finding]) -> tuple[AnomalyGroup, ...]:
    """Group anomalies by template set, chip and image type; closed groups come last."""
    groups: dict[tuple[str, str, str], list[db.findings.Finding]] = defaultdict(list)
    for finding in findings:
        template = finding.frame.template or finding.frame.name
        groups[template, finding.extension.chip, finding.extension.image_type].append(finding)
    events = []
    for group in groups.values():
        anomalies = sorted(filter(is_anomaly, group), key=lambda finding: -finding.verdict.score)
        if anomalies:
            events.append(AnomalyGroup("", tuple(anomalies), len(group)))
    events.sort(key=lambda event: (not event.is_open, -event.worst.verdict.score))
    return tuple(
        dataclasses.replace(event, anchor=f"event-{n}") for n, event in enumerate(events, start=1)
    )


def is_anomaly(finding: db.findings.Finding) -> bool:
    """Return True for a verdict or label of an anomaly; a good label closes but hides nothing."""
    return (
        finding.verdict.status == core.Status.ANOMALOUS
        or standing.standing_of(finding) is standing.ExtensionStanding.ANOMALOUS
    )


def read_unprocessed(
    session: Session, matrices: abc.Sequence[matrix.Matrix]
) -> tuple[models.FrameRow, ...]:
    """Return the failed and skipped files of a night.

    Parameters
    ----------
    session : Session
        Open session.
    matrices : sequence of Matrix
        Their ends define the night; those without rows count only if all are empty.

    Returns
    -------
    tuple of FrameRow
    """
    in_use = [table for table in matrices if table.rows] or matrices
    start = min(table.ends for table in in_use) - dt.timedelta(days=1)
    end = max(table.ends for table in in_use)
    rows = db.statistics.unprocessed_between(session, start, end)
    return tuple(row for row in rows if start <= db.statistics.estimate_observed_at(row) < end)


def read_sample(
    session: Session, evening: dt.date, findings: abc.Sequence[db.findings.Finding]
) -> SpotCheckSample:
    """Return the spot-check sample of a night.

    Parameters
    ----------
    session : Session
        Open session.
    evening : date
        Night.
    findings : sequence of Finding
        Judged extensions of the night.

    Returns
    -------
    SpotCheckSample
    """
    first = spot_check.first_counted_night(evening)
    draws = spot_check.read_draws(session, first, evening)
    of_night = [draw for draw in draws if draw.night == evening]
    drawn = spot_check.drawn_answers(of_night)
    sample = [finding for finding in findings if finding.extension.id in drawn]
    sample.sort(key=lambda finding: str(finding.extension.setup))
    answers = tuple(answer for answer in drawn.values() if answer)
    bounds = spot_check.acceptance_bounds(draws)
    return SpotCheckSample(tuple(sample), len(of_night), answers, bounds)
