"""Tables of the database, as SQLAlchemy models."""

import datetime as dt
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint, orm

from qc.core import enums
from qc.core.frame import Region, Setup
from qc.core.verdict import Status
from qc.db.schema import types

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]
else:  # SQLAlchemy evaluates the annotations, and NumPy takes 0.2 s to import
    FloatArray = Any

VECTOR_INDEX = "ix_embedding_vector_"  # index of one encoder's vectors; its number follows
BEYOND_IDS = 2**31  # PostgreSQL's ids have four bytes; a query for a larger one is an error
SETUP_COLUMNS = (
    *("image_type", "chip", "binning", "read_mode"),
    *("wavelength_nm", "slit_arcsec", "optics"),
)


def text_type(length: int | None = None) -> sa.String:
    """Return the type of a text, sorted by code points whatever the language of the server."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


class Base(orm.DeclarativeBase):
    """Base of all models; names every constraint, so that migrations can refer to it."""

    metadata = sa.MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: text_type(),
        dt.datetime: types.UTCDateTime,
        dict[str, float]: JSON,
        dict[str, Any]: JSON,
        list[str]: JSON,
    }


class FrameRow(Base):
    """File: a processed frame, or a file that failed or was skipped, without header values."""

    __tablename__ = "frame"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    state: orm.Mapped[enums.FrameState] = orm.mapped_column(text_type(16), index=True)
    reason: orm.Mapped[str] = orm.mapped_column(default="")
    path: orm.Mapped[str] = orm.mapped_column(index=True)
    file_bytes: orm.Mapped[int] = orm.mapped_column(sa.BigInteger)
    modified_ns: orm.Mapped[int] = orm.mapped_column(sa.BigInteger)
    processed_at: orm.Mapped[dt.datetime]
    failed_since: orm.Mapped[dt.datetime | None]  # first failure of the unchanged file
    tries: orm.Mapped[int] = orm.mapped_column(default=0, server_default="0")
    retry_at: orm.Mapped[dt.datetime | None] = orm.mapped_column(
        index=True
    )  # None: only after a change
    sha256: orm.Mapped[str | None] = orm.mapped_column(text_type(64), unique=True)
    name: orm.Mapped[str] = orm.mapped_column(index=True)
    instrument: orm.Mapped[str | None]
    observed_at: orm.Mapped[dt.datetime | None] = orm.mapped_column(index=True)
    night: orm.Mapped[dt.date | None] = orm.mapped_column(index=True)
    exposure_s: orm.Mapped[float | None]
    template: orm.Mapped[str | None] = orm.mapped_column(index=True)
    template_number: orm.Mapped[int | None]
    template_size: orm.Mapped[int | None]
    extensions: orm.Mapped[list["ExtensionRow"]] = orm.relationship(
        back_populates="frame", order_by="ExtensionRow.number"
    )

    __table_args__ = (
        # An unprocessed file has one row, however often it is tried. `register_postgresql` adds
        # the condition for PostgreSQL.
        Index(
            "uq_frame_path_unprocessed",
            "path",
            unique=True,
            sqlite_where=state != enums.FrameState.PROCESSED,
        ),
    )


def _observed_at_of_frame(context: Any) -> dt.datetime | None:
    frame_id = context.get_current_parameters()["frame_id"]
    query = sa.select(FrameRow.observed_at).where(FrameRow.id == frame_id)
    observed_at: dt.datetime | None = context.root_connection.scalar(query)
    return observed_at


class ExtensionRow(Base):
    """Extension of a processed frame: one detector's image."""

    __tablename__ = "extension"
    __table_args__ = (
        UniqueConstraint("frame_id", "number"),
        Index("ix_extension_setup", *SETUP_COLUMNS, "observed_at"),
        Index("ix_extension_observed_at", "observed_at", "id"),
        Index("ix_extension_image_type", "image_type", "observed_at", "id"),
    )
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    frame_id: orm.Mapped[int] = orm.mapped_column(ForeignKey("frame.id", ondelete="CASCADE"))
    number: orm.Mapped[int]
    image_type: orm.Mapped[str]
    chip: orm.Mapped[str]
    binning: orm.Mapped[str]
    read_mode: orm.Mapped[str]
    wavelength_nm: orm.Mapped[float | None]
    slit_arcsec: orm.Mapped[float | None]
    optics: orm.Mapped[str]
    frame_class: orm.Mapped[str]
    ny: orm.Mapped[int]
    nx: orm.Mapped[int]
    pixels_sha256: orm.Mapped[str] = orm.mapped_column(text_type(64), index=True)
    promised_light: orm.Mapped[float]
    zero_adu: orm.Mapped[float]
    stretch_adu: orm.Mapped[float]
    metrics: orm.Mapped[dict[str, float]]
    appearance: orm.Mapped[dict[str, float] | None]  # None: measured before the column existed
    gain_e_per_adu: orm.Mapped[float | None]  # None: measured before the column existed
    read_noise_adu: orm.Mapped[float | None]
    light_bottom: orm.Mapped[int | None]
    light_top: orm.Mapped[int | None]
    light_left: orm.Mapped[int | None]
    light_right: orm.Mapped[int | None]
    # Copy of the frame's value: the index of a setup ends with it.
    observed_at: orm.Mapped[dt.datetime | None] = orm.mapped_column(default=_observed_at_of_frame)
    frame: orm.Mapped[FrameRow] = orm.relationship(back_populates="extensions")

    @property
    def light(self) -> Region | None:
        """Return the illuminated rows and columns; None for measurements without them."""
        edges = (self.light_bottom, self.light_top, self.light_left, self.light_right)
        if None in edges:
            return None
        bottom, top, left, right = edges
        return slice(bottom, top), slice(left, right)

    @property
    def setup(self) -> Setup:
        """Return the setup, equal for comparable extensions."""
        return Setup(**{name: getattr(self, name) for name in Setup.__dataclass_fields__})


class BlockStatisticsRow(Base):
    """Block statistics of one extension: source of its picture and of reference models."""

    __tablename__ = "block_statistics"
    extension_id: orm.Mapped[int] = orm.mapped_column(
        ForeignKey("extension.id", ondelete="CASCADE"), primary_key=True
    )
    above_zero_adu: orm.Mapped[FloatArray] = orm.mapped_column(
        types.BlockArray
    )  # scatter: unchanged


class EncoderRow(Base):
    """Encoder: embeddings are comparable only within one."""

    __tablename__ = "encoder"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    fingerprint: orm.Mapped[str] = orm.mapped_column(unique=True)
    name: orm.Mapped[str]
    stretch: orm.Mapped[str]


class EmbeddingRow(Base):
    """Embedding of one extension by one encoder."""

    __tablename__ = "embedding"
    __table_args__ = (UniqueConstraint("extension_id", "encoder_id"),)
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    extension_id: orm.Mapped[int] = orm.mapped_column(
        ForeignKey("extension.id", ondelete="CASCADE")
    )
    encoder_id: orm.Mapped[int] = orm.mapped_column(ForeignKey("encoder.id"))
    vector: orm.Mapped[FloatArray] = orm.mapped_column(types.Vector)


def doubt(status: Status, score: float) -> float:
    """Return the doubt of a verdict, stored so that an index can sort by it.

    Parameters
    ----------
    status : Status
    score : float
        1 is the limit.

    Returns
    -------
    float
        2 without a decision; else 1 at the limit, and less away from it.
    """
    return 2.0 if status == Status.UNDECIDED else 1 / (1 + abs(score - 1))


def _doubt_of_row(context: Any) -> float:
    row = context.get_current_parameters()
    return doubt(row["status"], row["score"])


class VerdictRow(Base):
    """Verdict on one extension, with everything needed to repeat it.

    Rows are never overwritten: judging again adds a row, and the newest counts.
    """

    __tablename__ = "verdict"
    __table_args__ = (
        Index("ix_verdict_extension_encoder", "extension_id", "encoder_id"),
        Index("ix_verdict_score", "score", "id"),
        Index("ix_verdict_doubt", "doubt", "id"),
    )
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    extension_id: orm.Mapped[int] = orm.mapped_column(
        ForeignKey("extension.id", ondelete="CASCADE")
    )
    encoder_id: orm.Mapped[int] = orm.mapped_column(ForeignKey("encoder.id"))
    judged_at: orm.Mapped[dt.datetime]
    status: orm.Mapped[Status] = orm.mapped_column(text_type(16))
    score: orm.Mapped[float]
    doubt: orm.Mapped[float] = orm.mapped_column(default=_doubt_of_row, server_default="0")
    reasons: orm.Mapped[list[str]]
    merge_height: orm.Mapped[float | None]
    residual: orm.Mapped[float | None]
    threshold: orm.Mapped[float]  # of the merge height: the file's, or wider for few references
    thresholds_digest: orm.Mapped[str] = orm.mapped_column(text_type(64))
    reference_size: orm.Mapped[int]
    widened: orm.Mapped[str]
    z: orm.Mapped[dict[str, float]]
    patterns: orm.Mapped[dict[str, float] | None]  # None: judged before the column existed
    classifier_digest: orm.Mapped[str | None] = orm.mapped_column(text_type(64))
    predicted_type: orm.Mapped[str | None]
    type_probability: orm.Mapped[float | None]
    predicted_kind: orm.Mapped[str | None]
    kind_probability: orm.Mapped[float | None]
    nearest_id: orm.Mapped[int | None] = orm.mapped_column(
        ForeignKey("extension.id", ondelete="SET NULL")
    )


class ClassifierRow(Base):
    """Classifier with its training set's digest; the newest accepted one of an encoder is used.

    `figures` has its evaluation, `why` the reason of its acceptance or refusal.
    """

    __tablename__ = "classifier"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    digest: orm.Mapped[str] = orm.mapped_column(text_type(64))
    encoder_id: orm.Mapped[int] = orm.mapped_column(ForeignKey("encoder.id"))
    trained_at: orm.Mapped[dt.datetime]
    who: orm.Mapped[str]
    examples_digest: orm.Mapped[str] = orm.mapped_column(text_type(64))
    figures: orm.Mapped[dict[str, Any]]
    accepted: orm.Mapped[bool]
    why: orm.Mapped[str]
    content: orm.Mapped[bytes]


class LabelRow(Base):
    """Label, never overwritten: the newest counts that no later row undoes."""

    __tablename__ = "label"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    extension_id: orm.Mapped[int] = orm.mapped_column(
        ForeignKey("extension.id", ondelete="CASCADE"), index=True
    )
    label: orm.Mapped[enums.LabelName] = orm.mapped_column(text_type(16))
    kind: orm.Mapped[str]
    who: orm.Mapped[str]
    at: orm.Mapped[dt.datetime]
    note: orm.Mapped[str]
    undoes_id: orm.Mapped[int | None] = orm.mapped_column(
        ForeignKey("label.id", ondelete="CASCADE"), unique=True
    )


class IdempotentRequestRow(Base):
    """Label request with the client's key; a repeated request has no further effect."""

    __tablename__ = "request"
    who: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    key: orm.Mapped[str] = orm.mapped_column(text_type(64), primary_key=True)
    at: orm.Mapped[dt.datetime]
    label_ids: orm.Mapped[list[int]] = orm.mapped_column(JSON)  # added by it


class EpochRow(Base):
    """Epoch: from the night of an intervention on, references start anew, unless undone."""

    __tablename__ = "epoch"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    scope: orm.Mapped[str] = orm.mapped_column(index=True)  # an image type, or an instrument's name
    since: orm.Mapped[dt.date]
    why: orm.Mapped[str]
    who: orm.Mapped[str]
    at: orm.Mapped[dt.datetime]
    undoes_id: orm.Mapped[int | None] = orm.mapped_column(ForeignKey("epoch.id"), unique=True)


class AlertRow(Base):
    """Alert on a verdict or another event, stored in the same transaction as its cause.

    It is pending until it belongs to a notification, is silenced, or `settled` has a reason why
    it needs no notification.
    """

    __tablename__ = "alert"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    topic: orm.Mapped[enums.Topic] = orm.mapped_column(text_type(16))
    verdict_id: orm.Mapped[int | None] = orm.mapped_column(
        ForeignKey("verdict.id", ondelete="CASCADE"), unique=True
    )
    key: orm.Mapped[str | None] = orm.mapped_column(unique=True)  # of an event other than a verdict
    instrument: orm.Mapped[str | None]
    image_type: orm.Mapped[str | None]
    night: orm.Mapped[dt.date | None]
    words: orm.Mapped[str] = orm.mapped_column(default="", server_default="")
    owed_at: orm.Mapped[dt.datetime]
    notification_id: orm.Mapped[int | None] = orm.mapped_column(
        ForeignKey("notification.id", ondelete="SET NULL"), index=True
    )
    silence_id: orm.Mapped[int | None] = orm.mapped_column(
        ForeignKey("silence.id", ondelete="SET NULL")
    )
    settled: orm.Mapped[str] = orm.mapped_column(default="", server_default="")


class NotificationRow(Base):
    """Notification: alerts of one event, with deliveries and acknowledgements."""

    __tablename__ = "notification"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    topic: orm.Mapped[enums.Topic] = orm.mapped_column(text_type(16))
    form: orm.Mapped[enums.NotificationKind] = orm.mapped_column(
        text_type(16), default=enums.NotificationKind.EVENT
    )
    night: orm.Mapped[dt.date | None] = orm.mapped_column(index=True)
    made_at: orm.Mapped[dt.datetime]
    subject: orm.Mapped[str]
    file: orm.Mapped[str | None]  # report that is sent unchanged
    alerts: orm.Mapped[list[AlertRow]] = orm.relationship(order_by=AlertRow.id)
    deliveries: orm.Mapped[list["DeliveryRow"]] = orm.relationship(
        back_populates="notification", order_by="DeliveryRow.id"
    )
    acknowledgements: orm.Mapped[list["AcknowledgementRow"]] = orm.relationship(
        order_by="AcknowledgementRow.id"
    )


class DeliveryRow(Base):
    """Delivery of a notification to one address, retried until sent or given up."""

    __tablename__ = "delivery"
    __table_args__ = (UniqueConstraint("notification_id", "channel", "address"),)
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    notification_id: orm.Mapped[int] = orm.mapped_column(
        ForeignKey("notification.id", ondelete="CASCADE")
    )
    channel: orm.Mapped[enums.Channel] = orm.mapped_column(text_type(16))
    address: orm.Mapped[str]
    owed_at: orm.Mapped[dt.datetime]
    due_at: orm.Mapped[dt.datetime | None] = orm.mapped_column(
        index=True
    )  # None: sent, or given up
    tries: orm.Mapped[int] = orm.mapped_column(default=0)
    trouble: orm.Mapped[str] = orm.mapped_column(default="")  # error of the last try
    sent_at: orm.Mapped[dt.datetime | None]
    gave_up_at: orm.Mapped[dt.datetime | None]
    notification: orm.Mapped[NotificationRow] = orm.relationship(back_populates="deliveries")


class AcknowledgementRow(Base):
    """Acknowledgement of a notification: it is not escalated further."""

    __tablename__ = "acknowledgement"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    notification_id: orm.Mapped[int] = orm.mapped_column(
        ForeignKey("notification.id", ondelete="CASCADE"), index=True
    )
    who: orm.Mapped[str]
    at: orm.Mapped[dt.datetime]
    note: orm.Mapped[str]


class SilenceRow(Base):
    """Silence: no notification of similar alerts until a time, or until a nominal frame."""

    __tablename__ = "silence"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    notification_id: orm.Mapped[int] = orm.mapped_column(
        ForeignKey("notification.id", ondelete="CASCADE")
    )
    topic: orm.Mapped[enums.Topic] = orm.mapped_column(text_type(16))
    instrument: orm.Mapped[str | None]
    image_types: orm.Mapped[list[str]]
    who: orm.Mapped[str]
    since: orm.Mapped[dt.datetime]
    until: orm.Mapped[dt.datetime | None]
    until_nominal: orm.Mapped[bool]
    note: orm.Mapped[str]
    ended_at: orm.Mapped[dt.datetime | None]
    ended_why: orm.Mapped[str] = orm.mapped_column(default="")


class JobRunRow(Base):
    """Run of a job of the daemon; without an end it was interrupted, or is still running."""

    __tablename__ = "job_run"
    __table_args__ = (Index("ix_job_run_job_started_at", "job", "started_at"),)
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    job: orm.Mapped[str]
    started_at: orm.Mapped[dt.datetime]
    ended_at: orm.Mapped[dt.datetime | None]
    is_well: orm.Mapped[bool | None]
    words: orm.Mapped[str] = orm.mapped_column(default="")


class ScheduledJobRow(Base):
    """Scheduled job, in the format of APScheduler's job store."""

    __tablename__ = "scheduled_job"
    id: orm.Mapped[str] = orm.mapped_column(sa.Unicode(191), primary_key=True)
    next_run_time: orm.Mapped[float | None] = orm.mapped_column(sa.Float(25), index=True)
    job_state: orm.Mapped[bytes]


class SelfTestRow(Base):
    """Trial of an injection test: a fault put into a good image, and whether it was detected."""

    __tablename__ = "self_test"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    night: orm.Mapped[dt.date] = orm.mapped_column(index=True)
    at: orm.Mapped[dt.datetime]
    instrument: orm.Mapped[str]
    image_type: orm.Mapped[str]
    kind: orm.Mapped[str]
    strength: orm.Mapped[str]
    is_found: orm.Mapped[bool]
    score: orm.Mapped[float]
    frame: orm.Mapped[str]
    reason: orm.Mapped[str]


class AccountRow(Base):
    """Account of the review pages; without any, this machine alone has access."""

    __tablename__ = "account"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(text_type(64), unique=True)
    role: orm.Mapped[enums.Role] = orm.mapped_column(text_type(16))
    password: orm.Mapped[str]  # an argon2id digest with its salt
    made_at: orm.Mapped[dt.datetime]


class SessionKeyRow(Base):
    """Credentials without a password: a browser's session, or a script's token.

    Only the digest is stored: a reader of the database cannot use it.
    """

    __tablename__ = "access_key"
    digest: orm.Mapped[str] = orm.mapped_column(text_type(64), primary_key=True)
    account_id: orm.Mapped[int] = orm.mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    is_session: orm.Mapped[bool]
    made_at: orm.Mapped[dt.datetime]
    expires_at: orm.Mapped[dt.datetime | None]  # None: a token, valid until revoked


class FailedLoginRow(Base):
    """Failed login, for the rate limit; the name is a digest, as users type passwords there."""

    __tablename__ = "login"
    __table_args__ = (
        Index("ix_login_address_at", "address", "at"),
        Index("ix_login_name_digest_at", "name_digest", "at"),
    )
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name_digest: orm.Mapped[str] = orm.mapped_column(text_type(64))
    address: orm.Mapped[str] = orm.mapped_column(text_type(64))
    at: orm.Mapped[dt.datetime]


def register_postgresql() -> None:
    """Add PostgreSQL's type of vectors and condition of an index to the declarations.

    SQLAlchemy imports the dialect for them, which commands on SQLite do not need.
    """
    from sqlalchemy.dialects.postgresql.base import ischema_names

    ischema_names["halfvec"] = types.Halfvec  # for reflection of the schema
    table: Any = FrameRow.__table__
    [index] = (index for index in table.indexes if index.name == "uq_frame_path_unprocessed")
    index.dialect_kwargs["postgresql_where"] = FrameRow.state != enums.FrameState.PROCESSED
