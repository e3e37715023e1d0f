"""Findings: extensions with frame, newest verdict and current label."""

import datetime as dt
from collections import abc
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from qc import core, db
from qc.db import extensions, frames, labels
from qc.db.schema import engine, models


@dataclass(frozen=True)
class Finding:
    """Extension with its frame, newest verdict and current label, if any."""

    frame: models.FrameRow
    extension: models.ExtensionRow
    verdict: models.VerdictRow
    fingerprint: str
    label: models.LabelRow | None


def findings(
    session: orm.Session, first: dt.date, last: dt.date = dt.date.max
) -> abc.Iterator[Finding]:
    """Yield the judged extensions of a range of nights, oldest first.

    Parameters
    ----------
    session : Session
    first, last : date
        First and last night.

    Yields
    ------
    Finding
    """
    query = _findings_query().where(*engine.night_conditions(first, last))
    for row in session.execute(query.execution_options(yield_per=engine.ROWS_PER_FETCH)):
        yield Finding(*row)


def findings_without_metrics(session: orm.Session, night: dt.date) -> list[Finding]:
    """Return a night's judged extensions, oldest first, without metrics.

    Access to their metrics raises an error, as it would query the database for each row.

    Parameters
    ----------
    session : Session
    night : date

    Returns
    -------
    list of Finding
    """
    metrics = (
        orm.defer(models.ExtensionRow.metrics, raiseload=True),
        orm.defer(models.ExtensionRow.appearance, raiseload=True),
        orm.defer(models.VerdictRow.z, raiseload=True),
        orm.defer(models.VerdictRow.patterns, raiseload=True),
    )
    query = _findings_query().where(models.FrameRow.night == night).options(*metrics)
    return [Finding(*row) for row in session.execute(query)]


def findings_named(session: orm.Session, name: str) -> list[Finding]:
    """Return the extensions of the newest frame of a name.

    Parameters
    ----------
    session : Session
    name : str
        Archive name, file name or path.

    Returns
    -------
    list of Finding

    Raises
    ------
    UnknownFrameError
        If no processed frame has the name.
    """
    query = _findings_query().where(models.FrameRow.id == extensions.get_frame(session, name).id)
    return [Finding(*row) for row in session.execute(query)]


@dataclass(frozen=True)
class SetupMetricValue:
    """Metric of one extension of a setup.

    Attributes
    ----------
    at : datetime
        Time of observation.
    status : Status
        Of the newest verdict.
    label : LabelName or None
        Current label.
    """

    extension_id: int
    at: dt.datetime
    value: float
    status: core.Status
    label: core.LabelName | None


def setup_metric_values(
    session: orm.Session, finding: Finding, name: str, first: dt.date, last: dt.date
) -> list[SetupMetricValue]:
    """Return a metric of the judged extensions of a finding's setup, oldest first.

    Parameters
    ----------
    session : Session
    finding : Finding
    name : str
        Name of the metric.
    first, last : date
        First and last night.

    Returns
    -------
    list of SetupMetricValue
    """
    value = models.ExtensionRow.metrics[name].as_float()
    observed_at = models.ExtensionRow.observed_at
    query = (
        sa.select(
            models.ExtensionRow.id,
            observed_at,
            value,
            extensions.newest_status_column(),
            labels.newest_label(),
        )
        .join(models.ExtensionRow.frame)
        .where(
            *db.references.same_setup(finding.extension.setup, free=frozenset()),
            *engine.night_conditions(first, last),
            models.FrameRow.instrument == finding.frame.instrument,
            value.is_not(None),
        )
        .order_by(observed_at, models.ExtensionRow.id)
    )
    return [SetupMetricValue(*row) for row in session.execute(query) if row[3] is not None]


def find_neighbour(session: orm.Session, finding: Finding, *, later: bool) -> int | None:
    """Return the id of the previous or next extension of a finding's setup.

    Parameters
    ----------
    session : Session
    finding : Finding
    later : bool
        True for the next, False for the previous extension.

    Returns
    -------
    int or None
    """
    observed_at, number, extension = (
        models.ExtensionRow.observed_at,
        models.ExtensionRow.id,
        finding.extension,
    )
    when = finding.frame.observed_at
    if later:
        beyond = (observed_at >= when, sa.or_(observed_at > when, number > extension.id))
        order = (observed_at.asc(), number.asc())
    else:
        beyond = (observed_at <= when, sa.or_(observed_at < when, number < extension.id))
        order = (observed_at.desc(), number.desc())
    same = db.references.same_setup(extension.setup, free=frozenset())
    query = sa.select(number).join(models.ExtensionRow.frame).where(*same, *beyond)
    same_instrument = query.where(models.FrameRow.instrument == finding.frame.instrument)
    return session.scalar(same_instrument.order_by(*order).limit(1))


def findings_of_type(
    session: orm.Session, image_type: str, first: dt.date = dt.date.min
) -> abc.Iterator[Finding]:
    """Yield the judged extensions of an image type, oldest first, with few columns.

    Parameters
    ----------
    session : Session
    image_type : str
    first : date
        First night.

    Yields
    ------
    Finding
        With identity and evidence only, as there are many.
    """
    query = (
        _findings_query()
        .with_only_columns(
            *(orm.Bundle(name, *columns) for name, columns in _EVIDENCE_COLUMNS.items())
        )
        .add_columns(models.EncoderRow.fingerprint)
        .where(models.ExtensionRow.image_type == image_type, *engine.night_conditions(first))
    )
    for row in session.execute(query.execution_options(yield_per=engine.ROWS_PER_FETCH)):
        label = row.label if row.label.id else None
        yield Finding(row.frame, row.extension, row.verdict, row.fingerprint, label)


_EVIDENCE_COLUMNS: abc.Mapping[str, abc.Sequence[Any]] = {
    "frame": (
        models.FrameRow.id,
        models.FrameRow.name,
        models.FrameRow.instrument,
        models.FrameRow.night,
    ),
    "extension": (
        models.ExtensionRow.id,
        models.ExtensionRow.number,
        models.ExtensionRow.image_type,
        models.ExtensionRow.chip,
        models.ExtensionRow.read_mode,
        models.ExtensionRow.metrics,
    ),
    "verdict": (
        models.VerdictRow.status,
        models.VerdictRow.merge_height,
        models.VerdictRow.residual,
        models.VerdictRow.patterns,
        models.VerdictRow.reference_size,
        models.VerdictRow.widened,
        models.VerdictRow.z,
        models.VerdictRow.predicted_type,
        models.VerdictRow.type_probability,
    ),
    "label": (models.LabelRow.id, models.LabelRow.label, models.LabelRow.kind),
}


def findings_by_id(session: orm.Session, extension_ids: abc.Sequence[int]) -> list[Finding]:
    """Return the findings of some extensions, in their order.

    Parameters
    ----------
    session : Session
    extension_ids : sequence of int
        Ids without a verdict are skipped.

    Returns
    -------
    list of Finding
    """
    query = _findings_query().where(models.ExtensionRow.id.in_(extension_ids))
    by_id = {row.ExtensionRow.id: Finding(*row) for row in session.execute(query)}
    return [by_id[extension_id] for extension_id in extension_ids if extension_id in by_id]


def outlier_nights(session: orm.Session, image_type: str, first: dt.date) -> abc.Sequence[dt.date]:
    """Return the nights with valid outliers of an image type, oldest first.

    Parameters
    ----------
    session : Session
    image_type : str
    first : date
        First night.

    Returns
    -------
    sequence of date
    """
    # Rows with such a label, current or not, limit the evaluation of the current label.
    ever = sa.select(models.LabelRow.extension_id).where(
        models.LabelRow.label == core.LabelName.VALID_OUTLIER
    )
    query = (
        sa.select(models.FrameRow.night)
        .join(models.FrameRow.extensions)
        .where(
            models.ExtensionRow.id.in_(ever),
            models.ExtensionRow.image_type == image_type,
            models.FrameRow.night >= first,
            labels.newest_label() == core.LabelName.VALID_OUTLIER,
        )
        .order_by(models.FrameRow.night)
    )
    return [night for night in session.scalars(query) if night is not None]


@dataclass(frozen=True)
class TrendPoint:
    """Value of one extension in a trend.

    Attributes
    ----------
    at : datetime
        Time of observation.
    status : str
        Of the newest verdict.
    limit : float or None
        Threshold of the merge height.
    """

    at: dt.datetime
    frame: str
    number: int
    night: dt.date
    value: float
    status: str
    encoder: str
    limit: float | None


def metric_trend(
    session: orm.Session, image_type: str, name: str, first: dt.date, last: dt.date
) -> abc.Iterator[TrendPoint]:
    """Yield a metric of the judged extensions of an image type, oldest first.

    Parameters
    ----------
    session : Session
    image_type : str
    name : str
        Name of the metric.
    first, last : date
        First and last night.

    Yields
    ------
    TrendPoint
    """
    yield from _trend_of(
        session, models.ExtensionRow.metrics[name].as_float(), image_type, first, last
    )


def verdict_trend(
    session: orm.Session, image_type: str, name: str, first: dt.date, last: dt.date
) -> abc.Iterator[TrendPoint]:
    """Yield a column of the newest verdicts of an image type, oldest first.

    Parameters
    ----------
    session : Session
    image_type : str
    name : str
        Name of the column: score, merge_height or residual.
    first, last : date
        First and last night.

    Yields
    ------
    TrendPoint
    """
    yield from _trend_of(session, getattr(models.VerdictRow, name), image_type, first, last)


def _trend_of(
    session: orm.Session, value: Any, image_type: str, first: dt.date, last: dt.date
) -> abc.Iterator[TrendPoint]:
    query = (
        sa.select(
            models.FrameRow.observed_at,
            models.FrameRow.name,
            models.ExtensionRow.number,
            models.FrameRow.night,
            value,
            models.VerdictRow.status,
            models.EncoderRow.fingerprint,
            models.VerdictRow.threshold,
        )
        .join(models.ExtensionRow, models.ExtensionRow.frame_id == models.FrameRow.id)
        .join(models.VerdictRow, models.VerdictRow.id == extensions.newest_verdict_id())
        .join(models.EncoderRow, models.EncoderRow.id == models.VerdictRow.encoder_id)
        .where(
            models.ExtensionRow.image_type == image_type,
            *engine.night_conditions(first, last),
            value.is_not(None),
        )
        .order_by(models.ExtensionRow.observed_at, models.ExtensionRow.id)  # along an index
    )
    for row in session.execute(query.execution_options(yield_per=engine.ROWS_PER_FETCH)):
        yield TrendPoint(*row)


def find_duplicate(session: orm.Session, finding: Finding) -> str:
    """Return the name of an earlier frame with the pixels of a finding's extension.

    Parameters
    ----------
    session : Session
    finding : Finding

    Returns
    -------
    str
        Empty without such a frame.
    """
    name = session.scalar(
        sa.select(models.FrameRow.name)
        .join(models.FrameRow.extensions)
        .where(
            models.ExtensionRow.pixels_sha256 == finding.extension.pixels_sha256,
            models.FrameRow.name != finding.frame.name,
            models.FrameRow.observed_at <= finding.frame.observed_at,
        )
        .limit(1)
    )
    return name or ""


def evidence_of(finding: Finding, duplicate_of: str = "") -> core.Evidence:
    """Return the stored evidence of a verdict.

    The scatter among the references is not stored. Without it the decision has the same status
    and another score. The probability of the own type is not stored either where the classifier
    prefers another type: its upper bound is used.

    Parameters
    ----------
    finding : Finding
    duplicate_of : str
        Name of a frame with identical pixels.

    Returns
    -------
    Evidence
    """
    return core.Evidence(
        merge_height=finding.verdict.merge_height,
        residual=finding.verdict.residual,
        patterns=finding.verdict.patterns or {},
        reference_size=finding.verdict.reference_size,
        widened=finding.verdict.widened,
        metrics=finding.extension.metrics,
        z=finding.verdict.z,
        duplicate_of=duplicate_of,
        prediction=_prediction_of(finding),
    )


def _prediction_of(finding: Finding) -> core.Prediction | None:
    verdict = finding.verdict
    if verdict.predicted_type is None or verdict.type_probability is None:
        return None
    is_own = verdict.predicted_type == finding.extension.image_type
    if not is_own and verdict.status == core.Status.NOMINAL:
        return None  # the classifier may not have been trained with the own type
    own_probability = verdict.type_probability if is_own else 1 - verdict.type_probability
    return core.Prediction(verdict.predicted_type, verdict.type_probability, own_probability)


def _findings_query() -> sa.Select[
    models.FrameRow, models.ExtensionRow, models.VerdictRow, str, models.LabelRow
]:
    newest_label_id = (
        sa.select(sa.func.max(models.LabelRow.id))
        .where(models.LabelRow.extension_id == models.ExtensionRow.id, *labels.is_label_valid())
        .correlate(models.ExtensionRow)
        .scalar_subquery()
    )
    return (
        sa.select(
            models.FrameRow,
            models.ExtensionRow,
            models.VerdictRow,
            models.EncoderRow.fingerprint,
            models.LabelRow,
        )
        .join(models.ExtensionRow, models.ExtensionRow.frame_id == models.FrameRow.id)
        .join(models.VerdictRow, models.VerdictRow.id == extensions.newest_verdict_id())
        .join(models.EncoderRow, models.EncoderRow.id == models.VerdictRow.encoder_id)
        .outerjoin(models.LabelRow, models.LabelRow.id == newest_label_id)
        .order_by(models.FrameRow.observed_at, models.FrameRow.id, models.ExtensionRow.number)
    )


def reference_of(session: orm.Session, finding: Finding) -> core.Reference:
    """Return the reference set of a finding as of today.

    Parameters
    ----------
    session : Session
    finding : Finding

    Returns
    -------
    Reference
    """
    frame, setup = frames.to_frame(finding.frame), finding.extension.setup
    return db.references.find_reference(session, frame, setup, finding.fingerprint)
