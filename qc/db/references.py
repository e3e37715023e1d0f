"""Reference sets: queries for nominal extensions and identical pixels."""

import dataclasses
from collections import abc
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import orm

from qc import core
from qc._time import midnight
from qc.db import extensions, labels
from qc.db.schema import models
from qc.db.schema.engine import night_conditions

if TYPE_CHECKING:
    from qc.db.reference_models import ReferenceModelCache

_TIME_ORDER = (models.ExtensionRow.observed_at, models.FrameRow.name, models.ExtensionRow.id)
_CANDIDATES_PER_QUERY = 400  # candidates among which nominal extensions are selected
_FREE_SLIT = frozenset({"slit_arcsec"})


@dataclasses.dataclass(frozen=True)
class PendingNight:
    """Frames of one night that are judged together and recorded at the end.

    Attributes
    ----------
    references : dict
        Reference sets by instrument and setup, without residual models.
    judged : list of (Frame, Measurement)
        Extensions judged so far, in order.
    """

    references: dict[tuple[str, core.Setup], core.Reference] = dataclasses.field(
        default_factory=dict
    )
    judged: list[tuple[core.Frame, core.Measurement]] = dataclasses.field(default_factory=list)

    def add(self, frame: core.Frame, measurements: abc.Sequence[core.Measurement]) -> None:
        """Add a judged frame.

        Parameters
        ----------
        frame : Frame
        measurements : sequence of Measurement
        """
        self.judged.extend((frame, measurement) for measurement in measurements)

    def reference(
        self, session: orm.Session, frame: core.Frame, setup: core.Setup, fingerprint: str
    ) -> core.Reference:
        """Return the reference set of a setup; query it once.

        Parameters
        ----------
        session : Session
        frame : Frame
        setup : Setup
        fingerprint : str
            Fingerprint of the encoder.

        Returns
        -------
        Reference
        """
        key = (frame.instrument, setup)
        if key not in self.references:
            self.references[key] = find_reference(session, frame, setup, fingerprint)
        return self.references[key]

    def find_duplicate(self, frame: core.Frame, measurement: core.Measurement) -> str:
        """Return the name of another judged frame with identical pixels.

        Parameters
        ----------
        frame : Frame
        measurement : Measurement
            Measurement of an extension of the frame.

        Returns
        -------
        str
            Empty without such a frame.
        """
        for earlier, extension in self.judged:
            is_other = earlier.sha256 != frame.sha256 and earlier.name != frame.name
            is_identical = extension.pixels_sha256 == measurement.pixels_sha256
            if is_other and is_identical and earlier.observed_at <= frame.observed_at:
                return earlier.name
        return ""


def load(
    session: orm.Session,
    frame: core.Frame,
    measurements: abc.Sequence[core.Measurement],
    fingerprint: str,
    model_cache: "ReferenceModelCache",
    night: PendingNight | None = None,
) -> tuple[core.Reference, ...]:
    """Load the reference set of each extension of a frame, with its residual model.

    Parameters
    ----------
    session : Session
        Open read transaction.
    frame : Frame
    measurements : sequence of n Measurement
        Measurements of its extensions.
    fingerprint : str
        Fingerprint of the encoder.
    model_cache : ReferenceModelCache
    night : PendingNight, optional
        Frames of the same night that are judged, but not recorded.

    Returns
    -------
    tuple of n Reference
    """
    night = PendingNight() if night is None else night
    references = []
    for measurement in measurements:
        reference = night.reference(session, frame, measurement.setup, fingerprint)
        duplicate_of = find_duplicate(session, measurement, frame)
        references.append(
            dataclasses.replace(
                reference,
                residual_model=model_cache.find(session, measurement, reference, frame.night),
                duplicate_of=duplicate_of or night.find_duplicate(frame, measurement),
            )
        )
    return tuple(references)


def find_reference(
    session: orm.Session, frame: core.Frame, setup: core.Setup, fingerprint: str
) -> core.Reference:
    """Return the newest nominal extensions of a setup from earlier nights of the epoch.

    Frames of the same night are excluded, because they may share a fault: decision 0013. With
    fewer than 20 references the slit width may differ; its effect on the light is part of the
    expected light.

    Parameters
    ----------
    session : Session
    frame : Frame
        Frame to be judged.
    setup : Setup
        Setup of its extension.
    fingerprint : str
        Fingerprint of the encoder.

    Returns
    -------
    Reference
        Without residual model and duplicate.
    """
    widened, rows = "", find_nominal(session, frame, setup, fingerprint)
    if len(rows) < core.REFERENCE_NEEDED and setup.slit_arcsec is not None:
        widened, rows = (
            "any slit width",
            find_nominal(session, frame, setup, fingerprint, _FREE_SLIT),
        )
    return core.Reference(
        extension_ids=tuple(row.id for row in rows),
        nights=tuple(row.night for row in rows),
        embeddings=np.stack([row.vector for row in rows]) if rows else np.empty((0, 0), np.float32),
        metrics=tuple(row.metrics for row in rows),
        widened=widened,
    )


def find_nominal(
    session: orm.Session,
    frame: core.Frame,
    setup: core.Setup,
    fingerprint: str,
    free: frozenset[str] = frozenset(),
) -> abc.Sequence[Any]:
    """Return the newest nominal extensions of a setup, at most 200.

    Parameters
    ----------
    session : Session
    frame : Frame
        Frame to be judged; the extensions are of earlier nights.
    setup : Setup
    fingerprint : str
        Fingerprint of the encoder.
    free : frozenset of str
        Fields of the setup that may differ.

    Returns
    -------
    sequence of rows
        Columns ``id``, ``night``, ``metrics`` and ``vector``.
    """
    since = find_epoch_start(session, setup.image_type, frame.instrument, frame.night)
    encoder = sa.select(models.EncoderRow.id).where(models.EncoderRow.fingerprint == fingerprint)
    conditions = [
        models.EmbeddingRow.encoder_id == session.scalar(encoder),
        *same_setup(setup, free),
        models.FrameRow.instrument == frame.instrument,
        models.FrameRow.night < frame.night,
        models.FrameRow.night >= since,
        # Redundant with the nights, but these conditions limit the range of an index.
        models.ExtensionRow.observed_at < frame.observed_at,
        models.ExtensionRow.observed_at >= midnight(since),
    ]
    rows: list[Any] = []
    for ids in newest_embeddings(session, conditions):
        query = (
            sa.select(
                models.ExtensionRow.id,
                models.FrameRow.night,
                models.ExtensionRow.metrics,
                models.EmbeddingRow.vector,
            )
            .join(models.ExtensionRow.frame)
            .join(models.EmbeddingRow, models.EmbeddingRow.extension_id == models.ExtensionRow.id)
            .where(models.EmbeddingRow.id.in_(ids), is_nominal())
            .order_by(*(column.desc() for column in _TIME_ORDER))
            .limit(core.REFERENCE_NEWEST - len(rows))
        )
        rows += session.execute(query)
        if len(rows) == core.REFERENCE_NEWEST:
            break
    return rows


def newest_embeddings(
    session: orm.Session, conditions: abc.Sequence[sa.ColumnElement[bool]]
) -> abc.Iterator[abc.Sequence[int]]:
    """Yield the ids of matching embeddings, newest first, in groups.

    The nominal extensions are selected in a second query. In one query PostgreSQL would read the
    labels and verdicts of all extensions.

    Parameters
    ----------
    session : Session
    conditions : sequence of ColumnElement
        Conditions on embeddings, extensions and frames.

    Yields
    ------
    sequence of int
        At most 400 ids.
    """
    query = (
        sa.select(*_TIME_ORDER, models.EmbeddingRow.id.label("embedding_id"))
        .join(models.ExtensionRow.frame)
        .join(models.EmbeddingRow, models.EmbeddingRow.extension_id == models.ExtensionRow.id)
        .where(*conditions)
        .order_by(*(column.desc() for column in _TIME_ORDER))
        .limit(_CANDIDATES_PER_QUERY)
    )
    rows = session.execute(query).all()
    while rows:
        yield [row.embedding_id for row in rows]
        observed_at, *rest = rows[-1][: len(_TIME_ORDER)]
        older = query.where(
            models.ExtensionRow.observed_at <= observed_at,  # limits the range of an index
            sa.tuple_(*_TIME_ORDER) < (observed_at, *rest),
        )
        is_full = len(rows) == _CANDIDATES_PER_QUERY
        rows = session.execute(older).all() if is_full else []


def same_setup(setup: core.Setup, free: frozenset[str]) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for extensions of a setup.

    Parameters
    ----------
    setup : Setup
    free : frozenset of str
        Fields that may differ.

    Returns
    -------
    list of ColumnElement
        Not "IS NOT DISTINCT FROM", for which PostgreSQL uses no index.
    """
    names = [name for name in core.Setup.__dataclass_fields__ if name not in free]
    pairs = ((getattr(models.ExtensionRow, name), getattr(setup, name)) for name in names)
    return [column.is_(None) if value is None else column == value for column, value in pairs]


def is_nominal() -> sa.ColumnElement[bool]:
    """Return the condition for nominal extensions: newest label, else newest verdict."""
    label = labels.newest_label()
    status = (
        sa.select(models.VerdictRow.status)
        .where(
            models.VerdictRow.extension_id == models.ExtensionRow.id,
            models.VerdictRow.encoder_id == models.EmbeddingRow.encoder_id,
        )
        .order_by(models.VerdictRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    is_accepted = label.in_((core.LabelName.GOOD, core.LabelName.VALID_OUTLIER))
    return sa.or_(is_accepted, sa.and_(label.is_(None), status == core.Status.NOMINAL))


def find_epoch_start(session: orm.Session, image_type: str, instrument: str, night: date) -> date:
    """Return the first night of the epoch of a night.

    Parameters
    ----------
    session : Session
    image_type, instrument : str
        Possible scopes of an epoch.
    night : date

    Returns
    -------
    date
        The earliest date without an epoch.
    """
    since = session.scalar(
        sa.select(sa.func.max(models.EpochRow.since)).where(
            models.EpochRow.scope.in_((image_type, instrument)),
            models.EpochRow.since <= night,
            *labels.is_epoch_valid(),
        )
    )
    return since or date.min


def find_duplicate(session: orm.Session, measurement: core.Measurement, frame: core.Frame) -> str:
    """Return the name of an earlier recorded frame with identical pixels.

    A frame with another header of the archive is the same frame.

    Parameters
    ----------
    session : Session
    measurement : Measurement
        Measurement of an extension of the frame.
    frame : Frame

    Returns
    -------
    str
        Empty without such a frame.
    """
    name = session.scalar(
        sa.select(models.FrameRow.name)
        .join(models.FrameRow.extensions)
        .where(
            models.ExtensionRow.pixels_sha256 == measurement.pixels_sha256,
            models.FrameRow.sha256 != frame.sha256,
            models.FrameRow.name != frame.name,
            models.FrameRow.observed_at <= frame.observed_at,
            extensions.is_judged(),
        )
        .order_by(models.FrameRow.observed_at, models.FrameRow.name)
        .limit(1)
    )
    return name or ""


def find_duplicates(session: orm.Session, image_type: str, first: date) -> abc.Mapping[int, str]:
    """Return the extensions of an image type with the pixels of an earlier frame.

    Parameters
    ----------
    session : Session
    image_type : str
    first : date
        First night.

    Returns
    -------
    mapping of int to str
        Name of the earlier frame by extension id.
    """
    earlier_extension, earlier = orm.aliased(models.ExtensionRow), orm.aliased(models.FrameRow)
    query = (
        sa.select(models.ExtensionRow.id, earlier.name)
        .join(models.ExtensionRow.frame)
        .join(
            earlier_extension,
            earlier_extension.pixels_sha256 == models.ExtensionRow.pixels_sha256,
        )
        .join(earlier, earlier.id == earlier_extension.frame_id)
        .where(
            models.ExtensionRow.image_type == image_type,
            *night_conditions(first),
            earlier.name != models.FrameRow.name,
            earlier.observed_at <= models.FrameRow.observed_at,
        )
    )
    return {row.id: row.name for row in session.execute(query)}
