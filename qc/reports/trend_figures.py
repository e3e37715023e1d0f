"""Figures over time: scores, metrics and injection recall of the last nights."""

import datetime as dt
from collections import Counter, abc
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from qc import core, db, detection, io
from qc.db.schema import models
from qc.figures import trends
from qc.monitoring import recall
from qc.reports.pictures import EmbeddedPicture, embed_plot
from qc.summaries import night_range, standing
from qc.summaries.matrix import CalibrationKind

LARGEST_SCORE = 10.0  # higher ones are drawn here, so that the limit at 1 stays visible
MAIN_METRICS = {  # by class of frame; the first measured one is drawn
    "bias": ("bias_level", "light_level"),
    "dark": ("bias_level", "light_level"),
    "flat": ("light_ratio", "light_level"),
    "arc": ("light_ratio", "light_level"),
}
_STATUSES = {
    standing.ExtensionStanding.ANOMALOUS: "anomalous",
    standing.ExtensionStanding.UNDECIDED: "undecided",
}

Event = tuple[dt.datetime, str]  # time and label of an intervention


@dataclass(frozen=True)
class NightTrend:
    """Plots of an image type over the last nights: worst extension of each night."""

    kind: CalibrationKind
    setup: core.Setup
    pictures: tuple[EmbeddedPicture, ...]


@dataclass(frozen=True)
class RecallFigure:
    """Injection recall of an instrument in the last nights.

    Attributes
    ----------
    newest : RecallCount
        Count of the night; zero without an injection test.
    pooled : RecallCount
        Count of all nights in the plot.
    """

    instrument: str
    newest: recall.RecallCount
    pooled: recall.RecallCount
    kinds: tuple[recall.KindRecall, ...]
    drops: tuple[recall.RecallDrop, ...]
    picture: EmbeddedPicture


def draw_trend(
    kind: CalibrationKind,
    findings: abc.Sequence[db.findings.Finding],
    epochs: abc.Sequence[models.EpochRow],
) -> NightTrend:
    """Draw the highest score of each night, and the main metric of the most frequent setup.

    Parameters
    ----------
    kind : CalibrationKind
        Image type.
    findings : sequence of Finding
        Its extensions, oldest first.
    epochs : sequence of EpochRow
        Interventions.

    Returns
    -------
    NightTrend
    """
    [(setup, _)] = Counter(finding.extension.setup for finding in findings).most_common(1)
    of_setup = worst_by_night(finding for finding in findings if finding.extension.setup == setup)
    events = intervention_marks(epochs, {kind.image_type, kind.instrument})
    worst = worst_by_night(findings)
    scores = [min(finding.verdict.score, LARGEST_SCORE) for finding in worst]
    plotted = [_plot("score", worst, scores, "1 = at the limit", events, limit=1.0)]
    if name := main_metric(of_setup[-1]):
        measured = [finding for finding in of_setup if name in finding.extension.metrics]
        values = [finding.extension.metrics[name] for finding in measured]
        plotted.append(_plot(name, measured, values, detection.METRICS[name].unit, events))
    return NightTrend(kind, setup, tuple(plotted))


def draw_recall(
    session: Session, evening: dt.date, instrument: io.Instrument
) -> RecallFigure | None:
    """Draw the injection recall of the last 30 nights.

    Parameters
    ----------
    session : Session
        Open session.
    evening : date
        Last night.
    instrument : Instrument
        Instrument definition.

    Returns
    -------
    RecallFigure or None
        None without an injection test in these nights.
    """
    nights = recall.recall_by_night(session, evening, instrument=instrument.name)
    if not nights:
        return None
    spread = np.array([(night.count.recall, *night.count.interval) for night in nights])
    times = [night_range.midnight(night.night) for night in nights]
    svg = trends.draw_recall_trend(times, spread, limit=instrument.self_test.least_recall)
    has_test = nights[-1].night == evening
    return RecallFigure(
        instrument=instrument.name,
        newest=nights[-1].count if has_test else recall.RecallCount(),
        pooled=sum((night.count for night in nights), recall.RecallCount()),
        kinds=recall.recall_by_kind(session, evening, instrument=instrument.name),
        drops=recall.active_drops(session, [instrument], evening),
        picture=embed_plot("recall", svg),
    )


def draw_setup_metric(
    name: str,
    values: abc.Sequence[db.findings.SetupMetricValue],
    events: abc.Sequence[Event],
    marked: int,
) -> EmbeddedPicture:
    """Draw a metric of a setup over time.

    Parameters
    ----------
    name : str
        Name of the metric.
    values : sequence of SetupMetricValue
        Values, oldest first.
    events : sequence of (datetime, str)
        Interventions.
    marked : int
        Id of the extension that is marked.

    Returns
    -------
    EmbeddedPicture
    """
    ids = [value.extension_id for value in values]
    statuses = []
    for value in values:
        is_bad = value.label == core.LabelName.BAD
        status = value.status.lower()
        if value.label is not None:  # the label overrides the verdict
            status = "anomalous" if is_bad else "nominal"
        statuses.append(status)
    svg = trends.draw_trend(
        [value.at for value in values],
        np.array([value.value for value in values]),
        statuses,
        title=name.replace("_", " "),
        unit=detection.METRICS[name].unit,
        events=events,
        marked=ids.index(marked) if marked in ids else None,
    )
    return embed_plot(name, svg)


def intervention_marks(epochs: abc.Sequence[models.EpochRow], scopes: set[str]) -> list[Event]:
    """Return time and reason of the interventions of some scopes.

    Parameters
    ----------
    epochs : sequence of EpochRow
        Interventions.
    scopes : set of str
        Image types and instruments.

    Returns
    -------
    list of (datetime, str)
    """
    return [
        (night_range.midnight(epoch.since), epoch.why) for epoch in epochs if epoch.scope in scopes
    ]


def worst_by_night(findings: abc.Iterable[db.findings.Finding]) -> list[db.findings.Finding]:
    """Return the extension with the highest score of each night, in the order of the nights."""
    worst: dict[dt.date | None, db.findings.Finding] = {}
    for finding in findings:
        night = finding.frame.night
        if night not in worst or finding.verdict.score > worst[night].verdict.score:
            worst[night] = finding
    return list(worst.values())


def main_metric(finding: db.findings.Finding) -> str:
    """Return the most informative metric of an extension's class of frame; empty for none."""
    extension = finding.extension
    names = MAIN_METRICS.get(extension.frame_class, ("bias_level", "light_level"))
    return next((name for name in names if name in extension.metrics), "")


def _plot(
    name: str,
    findings: abc.Sequence[db.findings.Finding],
    values: abc.Sequence[float],
    unit: str,
    events: abc.Sequence[Event],
    *,
    limit: float | None = None,
) -> EmbeddedPicture:
    svg = trends.draw_trend(
        [finding.frame.observed_at for finding in findings if finding.frame.observed_at],
        np.array(values),
        [_STATUSES.get(standing.standing_of(finding), "nominal") for finding in findings],
        limit=limit,
        title=name.replace("_", " "),
        unit=unit,
        events=events,
    )
    return embed_plot(name, svg)
