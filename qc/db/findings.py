"""Queries for verdicts together with their frame and label."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    Select,
    func,
    or_,
    select,
)
from sqlalchemy.orm import (
    Bundle,
    Session,
    defer,
)

from qc.core.enums import LabelName
from qc.core.reference import Reference
from qc.core.verdict import Evidence, Prediction, Status
from qc.db.engine import _ROWS_AT_ONCE, of_nights
from qc.db.frames import frame_of
from qc.db.labels import _label_stands, newest_label
from qc.db.models import EncoderRow, ExtensionRow, FrameRow, LabelRow, VerdictRow
from qc.db.references import _same_setup, reference_for
from qc.db.selection import _frame_named
from qc.db.verdicts import _newest_status, newest_verdict_id


@dataclass(frozen=True)
class Finding:
    """An extension with its frame, the newest verdict on it and the newest label, if any."""

    frame: FrameRow
    extension: ExtensionRow
    verdict: VerdictRow
    fingerprint: str
    label: LabelRow | None


def findings(session: Session, first: date, last: date = date.max) -> Iterator[Finding]:
    """Yield every judged extension of these nights, oldest first, with its newest verdict."""
    query = _findings_query().where(*of_nights(first, last))
    for row in session.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)):
        yield Finding(*row)


def findings_without_numbers(session: Session, night: date) -> list[Finding]:
    """Return a night's judged extensions, oldest first, without what was measured of them.

    Asking for a number afterwards is an error: hundreds of questions would be asked of the
    database, one by one.
    """
    numbers = (
        defer(ExtensionRow.metrics, raiseload=True),
        defer(ExtensionRow.appearance, raiseload=True),
        defer(VerdictRow.z, raiseload=True),
        defer(VerdictRow.patterns, raiseload=True),
    )
    query = _findings_query().where(FrameRow.night == night).options(*numbers)
    return [Finding(*row) for row in session.execute(query)]


def findings_named(session: Session, name: str) -> list[Finding]:
    """Return the extensions of the newest frame of an archive name, a file name or a path.

    Raises
    ------
    UnknownFrame
        If no processed frame has that name.
    """
    query = _findings_query().where(FrameRow.id == _frame_named(session, name).id)
    return [Finding(*row) for row in session.execute(query)]


@dataclass(frozen=True)
class SetupMetricValue:
    """A detector number of one of the extensions of a setup.

    Attributes
    ----------
    status : str
        Of the newest verdict.
    label : LabelName or None
        What a person says of it.
    """

    extension_id: int
    at: datetime
    value: float
    status: Status
    label: LabelName | None


def number_alike(
    session: Session, finding: Finding, name: str, first: date, last: date
) -> list[SetupMetricValue]:
    """Return a detector number of every judged extension of one's setup of these nights, by age."""
    value = ExtensionRow.metrics[name].as_float()
    taken = ExtensionRow.observed_at
    query = (
        select(ExtensionRow.id, taken, value, _newest_status(), newest_label())
        .join(ExtensionRow.frame)
        .where(
            *_same_setup(finding.extension.setup, free=frozenset()),
            *of_nights(first, last),
            FrameRow.instrument == finding.frame.instrument,
            value.is_not(None),
        )
        .order_by(taken, ExtensionRow.id)
    )
    return [SetupMetricValue(*row) for row in session.execute(query) if row[3] is not None]


def next_alike(session: Session, finding: Finding, *, later: bool) -> int | None:
    """Return the extension of the same setup that was taken just before, or just after."""
    taken, number, extension = ExtensionRow.observed_at, ExtensionRow.id, finding.extension
    when = finding.frame.observed_at
    if later:
        beyond = (taken >= when, or_(taken > when, number > extension.id))
        order = (taken.asc(), number.asc())
    else:
        beyond = (taken <= when, or_(taken < when, number < extension.id))
        order = (taken.desc(), number.desc())
    same = _same_setup(extension.setup, free=frozenset())
    query = select(number).join(ExtensionRow.frame).where(*same, *beyond)
    same_instrument = query.where(FrameRow.instrument == finding.frame.instrument)
    return session.scalar(same_instrument.order_by(*order).limit(1))


def findings_of_type(
    session: Session, image_type: str, first: date = date.min
) -> Iterator[Finding]:
    """Yield every judged extension of an image type from a night on, oldest first.

    With what says which it is and what was weighed of it, and nothing else: they are many.
    """
    query = (
        _findings_query()
        .with_only_columns(*(Bundle(name, *columns) for name, columns in _WEIGHED.items()))
        .add_columns(EncoderRow.fingerprint)
        .where(ExtensionRow.image_type == image_type, *of_nights(first))
    )
    for row in session.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)):
        label = row.label if row.label.id else None
        yield Finding(row.frame, row.extension, row.verdict, row.fingerprint, label)


_WEIGHED: Mapping[str, Sequence[Any]] = {
    "frame": (FrameRow.id, FrameRow.name, FrameRow.instrument, FrameRow.night),
    "extension": (
        ExtensionRow.id,
        ExtensionRow.number,
        ExtensionRow.image_type,
        ExtensionRow.chip,
        ExtensionRow.read_mode,
        ExtensionRow.metrics,
    ),
    "verdict": (
        VerdictRow.status,
        VerdictRow.merge_height,
        VerdictRow.residual,
        VerdictRow.patterns,
        VerdictRow.reference_size,
        VerdictRow.widened,
        VerdictRow.z,
        VerdictRow.predicted_type,
        VerdictRow.type_probability,
    ),
    "label": (LabelRow.id, LabelRow.label, LabelRow.kind),
}


def findings_with(session: Session, extension_ids: Sequence[int]) -> list[Finding]:
    """Return these extensions, in this order."""
    query = _findings_query().where(ExtensionRow.id.in_(extension_ids))
    found = {row.ExtensionRow.id: Finding(*row) for row in session.execute(query)}
    return [found[one] for one in extension_ids if one in found]


def image_types_seen(session: Session) -> list[str]:
    """Return the image types of which an extension was processed, by name.

    Each is looked up after the one before: there are few, and of each there are many.
    """
    found: list[str] = []
    least = select(func.min(ExtensionRow.image_type))
    name = session.scalar(least)
    while name is not None:
        found.append(name)
        name = session.scalar(least.where(ExtensionRow.image_type > name))
    return found


def types_among(session: Session, names: Iterable[str]) -> list[str]:
    """Return those of some image types of which an extension was processed, in their order."""
    seen = set(image_types_seen(session))
    return [name for name in names if name in seen]


def newest_word(session: Session, image_type: str) -> tuple[int, int]:
    """Return the ids of the newest verdict and the newest label of an image type; 0 for none.

    As long as they are the same, so is all that can be read of the type.
    """
    verdict, label = (
        session.scalar(  # not its max: PostgreSQL would look at all of the type
            select(table.id)
            .join(ExtensionRow, ExtensionRow.id == table.extension_id)
            .where(ExtensionRow.image_type == image_type)
            .order_by(table.id.desc())
            .limit(1)
        )
        for table in (VerdictRow, LabelRow)
    )
    return verdict or 0, label or 0


def newest_verdict(session: Session) -> int:
    """Return the id of the newest verdict of all; 0 for none."""
    return session.scalar(select(func.max(VerdictRow.id))) or 0


def night_of_newest(session: Session, image_type: str, n: int) -> date:
    """Return the first night of the newest n extensions of a type; of all where there are fewer."""
    nth = (
        select(ExtensionRow.frame_id)
        .where(ExtensionRow.image_type == image_type)
        .order_by(ExtensionRow.observed_at.desc())  # along an index
        .offset(n - 1)
        .limit(1)
    )
    is_all = session.scalar(nth.offset(n)) is None
    night = select(FrameRow.night).where(FrameRow.id == nth.scalar_subquery())
    return date.min if is_all else session.scalar(night) or date.min


def outlier_nights(session: Session, image_type: str, first: date) -> Sequence[date]:
    """Return the nights from one on whose frames of a type people accept as really different."""
    ever = select(LabelRow.extension_id).where(LabelRow.label == LabelName.VALID_OUTLIER)
    query = (
        select(FrameRow.night)
        .join(FrameRow.extensions)
        .where(
            ExtensionRow.id.in_(ever),
            ExtensionRow.image_type == image_type,
            FrameRow.night >= first,
            newest_label() == LabelName.VALID_OUTLIER,
        )
        .order_by(FrameRow.night)
    )
    return [night for night in session.scalars(query) if night is not None]


@dataclass(frozen=True)
class TrendPoint:
    """One number of one extension.

    Attributes
    ----------
    at : datetime
        When it was taken.
    status : str
        Of its newest verdict.
    limit : float or None
        What its merge height was held against.
    """

    at: datetime
    frame: str
    number: int
    night: date
    value: float
    status: str
    encoder: str
    limit: float | None


def metric_seen(
    session: Session, image_type: str, name: str, first: date, last: date
) -> Iterator[TrendPoint]:
    """Yield one metric of every judged extension of a type that has it, oldest first."""
    yield from _seen(session, ExtensionRow.metrics[name].as_float(), image_type, first, last)


def verdict_seen(
    session: Session, image_type: str, name: str, first: date, last: date
) -> Iterator[TrendPoint]:
    """Yield the score, merge height or residual of a type's newest verdicts, oldest first."""
    yield from _seen(session, getattr(VerdictRow, name), image_type, first, last)


def _seen(
    session: Session, value: Any, image_type: str, first: date, last: date
) -> Iterator[TrendPoint]:
    query = (
        select(
            FrameRow.observed_at,
            FrameRow.name,
            ExtensionRow.number,
            FrameRow.night,
            value,
            VerdictRow.status,
            EncoderRow.fingerprint,
            VerdictRow.threshold,
        )
        .join(ExtensionRow, ExtensionRow.frame_id == FrameRow.id)
        .join(VerdictRow, VerdictRow.id == newest_verdict_id())
        .join(EncoderRow, EncoderRow.id == VerdictRow.encoder_id)
        .where(
            ExtensionRow.image_type == image_type,
            *of_nights(first, last),
            value.is_not(None),
        )
        .order_by(ExtensionRow.observed_at, ExtensionRow.id)  # along an index
    )
    for row in session.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)):
        yield TrendPoint(*row)


def copy_of(session: Session, finding: Finding) -> str:
    """Return the name of an earlier frame with the very pixels of a stored extension, or ""."""
    name = session.scalar(
        select(FrameRow.name)
        .join(FrameRow.extensions)
        .where(
            ExtensionRow.pixels_sha256 == finding.extension.pixels_sha256,
            FrameRow.name != finding.frame.name,
            FrameRow.observed_at <= finding.frame.observed_at,
        )
        .limit(1)
    )
    return name or ""


def evidence_of(finding: Finding, duplicate_of: str = "") -> Evidence:
    """Return the evidence that a stored verdict weighed.

    What is usual among its references is not kept: without it the judge comes to the same status,
    and to another score. Nor is how probable its own type was where it looked like another: at
    most what that one left.
    """
    return Evidence(
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


def _prediction_of(finding: Finding) -> Prediction | None:
    verdict = finding.verdict
    if verdict.predicted_type is None or verdict.type_probability is None:
        return None
    is_own = verdict.predicted_type == finding.extension.image_type
    if not is_own and verdict.status == Status.NOMINAL:
        return None  # its own type may be one that the classifier never saw
    own = verdict.type_probability if is_own else 1 - verdict.type_probability
    return Prediction(verdict.predicted_type, verdict.type_probability, own)


def _findings_query() -> Select[FrameRow, ExtensionRow, VerdictRow, str, LabelRow]:
    newest_label_id = (
        select(func.max(LabelRow.id))
        .where(LabelRow.extension_id == ExtensionRow.id, *_label_stands())
        .correlate(ExtensionRow)
        .scalar_subquery()
    )
    return (
        select(FrameRow, ExtensionRow, VerdictRow, EncoderRow.fingerprint, LabelRow)
        .join(ExtensionRow, ExtensionRow.frame_id == FrameRow.id)
        .join(VerdictRow, VerdictRow.id == newest_verdict_id())
        .join(EncoderRow, EncoderRow.id == VerdictRow.encoder_id)
        .outerjoin(LabelRow, LabelRow.id == newest_label_id)
        .order_by(FrameRow.observed_at, FrameRow.id, ExtensionRow.number)
    )


def reference_of(session: Session, finding: Finding) -> Reference:
    """Return what a judged extension would be held against if it were judged today."""
    frame, setup = frame_of(finding.frame), finding.extension.setup
    return reference_for(session, frame, setup, finding.fingerprint)
