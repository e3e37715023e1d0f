"""The tables: declarations, and what a column holds; `database` asks the questions of them."""

from datetime import date, datetime
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    MetaData,
    String,
    Unicode,
    UniqueConstraint,
    select,
)
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from qc.core.enums import Channel, FrameState, LabelName, NotificationKind, Role, Topic
from qc.core.frame import Region, Setup
from qc.core.verdict import Status
from qc.db.types import BlockArray, Halfvec, UTCDateTime, Vector

ischema_names["halfvec"] = Halfvec  # else it is unknown to what reads a database's schema


VECTOR_INDEX = "ix_embedding_vector_"  # an index of one encoder's vectors: then its number


def _string(length: int | None = None) -> String:
    """Return a text's type: sorted by its characters' numbers, whatever a server's language is."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


BEYOND_IDS = 2**31  # PostgreSQL keeps a row's number in four bytes, and refuses to look for more


class Base(DeclarativeBase):
    """Names every constraint, so that a migration can find it again."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: _string(),
        datetime: UTCDateTime,
        dict[str, float]: JSON,
        dict[str, Any]: JSON,
        list[str]: JSON,
    }


class FrameRow(Base):
    """One file seen. What its header says is known only once it has been processed."""

    __tablename__ = "frame"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[FrameState] = mapped_column(_string(16), index=True)
    reason: Mapped[str] = mapped_column(default="")
    path: Mapped[str] = mapped_column(index=True)
    file_bytes: Mapped[int] = mapped_column(BigInteger)
    modified_ns: Mapped[int] = mapped_column(BigInteger)
    processed_at: Mapped[datetime]
    failed_since: Mapped[datetime | None]  # of a file that failed, until it changes
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    retry_at: Mapped[datetime | None] = mapped_column(index=True)  # None: not before it changes
    sha256: Mapped[str | None] = mapped_column(_string(64), unique=True)
    name: Mapped[str] = mapped_column(index=True)
    instrument: Mapped[str | None]
    observed_at: Mapped[datetime | None] = mapped_column(index=True)
    night: Mapped[date | None] = mapped_column(index=True)
    exposure_s: Mapped[float | None]
    template: Mapped[str | None] = mapped_column(index=True)
    template_number: Mapped[int | None]
    template_size: Mapped[int | None]
    extensions: Mapped[list["ExtensionRow"]] = relationship(
        back_populates="frame", order_by="ExtensionRow.number"
    )

    __table_args__ = (
        # A file that was not processed has one row, however often it is tried.
        Index(
            "uq_frame_path_unprocessed",
            "path",
            unique=True,
            sqlite_where=state != FrameState.PROCESSED,
            postgresql_where=state != FrameState.PROCESSED,
        ),
    )


def _when_taken(context: Any) -> datetime | None:
    frame_id = context.get_current_parameters()["frame_id"]
    query = select(FrameRow.observed_at).where(FrameRow.id == frame_id)
    found: datetime | None = context.root_connection.scalar(query)
    return found


SETUP_COLUMNS = (
    *("image_type", "chip", "binning", "read_mode"),
    *("wavelength_nm", "slit_arcsec", "optics"),
)


class ExtensionRow(Base):
    """One detector's image in a processed frame."""

    __tablename__ = "extension"
    __table_args__ = (
        UniqueConstraint("frame_id", "number"),
        Index("ix_extension_setup", *SETUP_COLUMNS, "observed_at"),
        Index("ix_extension_observed_at", "observed_at", "id"),
        Index("ix_extension_image_type", "image_type", "observed_at", "id"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    frame_id: Mapped[int] = mapped_column(ForeignKey("frame.id", ondelete="CASCADE"))
    number: Mapped[int]
    image_type: Mapped[str]
    chip: Mapped[str]
    binning: Mapped[str]
    read_mode: Mapped[str]
    wavelength_nm: Mapped[float | None]
    slit_arcsec: Mapped[float | None]
    optics: Mapped[str]
    frame_class: Mapped[str]
    ny: Mapped[int]
    nx: Mapped[int]
    pixels_sha256: Mapped[str] = mapped_column(_string(64), index=True)
    promised_light: Mapped[float]
    zero_adu: Mapped[float]
    stretch_adu: Mapped[float]
    metrics: Mapped[dict[str, float]]
    appearance: Mapped[dict[str, float] | None]  # None: measured before it was kept
    gain_e_per_adu: Mapped[float | None]  # None: measured before it was kept
    read_noise_adu: Mapped[float | None]
    light_bottom: Mapped[int | None]
    light_top: Mapped[int | None]
    light_left: Mapped[int | None]
    light_right: Mapped[int | None]
    # Its frame's, here too: what a setup had lately is found without reading what it ever had.
    observed_at: Mapped[datetime | None] = mapped_column(default=_when_taken)
    frame: Mapped[FrameRow] = relationship(back_populates="extensions")

    @property
    def light(self) -> Region | None:
        """Return the pixels that light can reach; None if measured before this was kept."""
        edges = (self.light_bottom, self.light_top, self.light_left, self.light_right)
        if None in edges:
            return None
        bottom, top, left, right = edges
        return slice(bottom, top), slice(left, right)

    @property
    def setup(self) -> Setup:
        """Return what must be equal for another extension to be comparable."""
        return Setup(**{name: getattr(self, name) for name in Setup.__dataclass_fields__})


class BlockStatisticsRow(Base):
    """The block statistics of one extension: its picture, and what references are made of."""

    __tablename__ = "block_statistics"
    extension_id: Mapped[int] = mapped_column(
        ForeignKey("extension.id", ondelete="CASCADE"), primary_key=True
    )
    above_zero_adu: Mapped[NDArray[np.float32]] = mapped_column(BlockArray)  # std: as it is


class EncoderRow(Base):
    """One way to make embeddings; two compare only if they share it."""

    __tablename__ = "encoder"
    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    stretch: Mapped[str]


class EmbeddingRow(Base):
    """What one encoder made of one extension."""

    __tablename__ = "embedding"
    __table_args__ = (UniqueConstraint("extension_id", "encoder_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    extension_id: Mapped[int] = mapped_column(ForeignKey("extension.id", ondelete="CASCADE"))
    encoder_id: Mapped[int] = mapped_column(ForeignKey("encoder.id"))
    vector: Mapped[NDArray[np.float32]] = mapped_column(Vector)


def doubt(status: Status, score: float) -> float:
    """Return how doubtful a verdict is: 2 where there is none, else 1 on the limit and less away.

    Kept beside the score so that the most doubtful are found without reading all.
    """
    return 2.0 if status == Status.UNDECIDED else 1 / (1 + abs(score - 1))


def _doubt_of_row(context: Any) -> float:
    row = context.get_current_parameters()
    return doubt(row["status"], row["score"])


class VerdictRow(Base):
    """One judgement of one extension, with all that is needed to understand it later.

    Never overwritten: judging again adds a row, and the newest counts.
    """

    __tablename__ = "verdict"
    __table_args__ = (
        Index("ix_verdict_extension_encoder", "extension_id", "encoder_id"),
        Index("ix_verdict_score", "score", "id"),
        Index("ix_verdict_doubt", "doubt", "id"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    extension_id: Mapped[int] = mapped_column(ForeignKey("extension.id", ondelete="CASCADE"))
    encoder_id: Mapped[int] = mapped_column(ForeignKey("encoder.id"))
    judged_at: Mapped[datetime]
    status: Mapped[Status] = mapped_column(_string(16))
    score: Mapped[float]
    doubt: Mapped[float] = mapped_column(default=_doubt_of_row, server_default="0")
    reasons: Mapped[list[str]]
    merge_height: Mapped[float | None]
    residual: Mapped[float | None]
    threshold: Mapped[float]  # what the merge height was held against: the file's, or wider for few
    thresholds_digest: Mapped[str] = mapped_column(_string(64))
    reference_size: Mapped[int]
    widened: Mapped[str]
    z: Mapped[dict[str, float]]
    patterns: Mapped[dict[str, float] | None]  # None: judged before they were kept
    classifier_digest: Mapped[str | None] = mapped_column(_string(64))
    predicted_type: Mapped[str | None]
    type_probability: Mapped[float | None]
    predicted_kind: Mapped[str | None]
    kind_probability: Mapped[float | None]
    nearest_id: Mapped[int | None] = mapped_column(ForeignKey("extension.id", ondelete="SET NULL"))


class ClassifierRow(Base):
    """A classifier and what it was trained on. Of those accepted for an encoder, the newest acts.

    `figures` and `why` say how good it was, and why it was accepted or refused.
    """

    __tablename__ = "classifier"
    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(_string(64))
    encoder_id: Mapped[int] = mapped_column(ForeignKey("encoder.id"))
    trained_at: Mapped[datetime]
    who: Mapped[str]
    examples_digest: Mapped[str] = mapped_column(_string(64))
    figures: Mapped[dict[str, Any]]
    accepted: Mapped[bool]
    why: Mapped[str]
    content: Mapped[bytes]


class LabelRow(Base):
    """A person's answer. Never overwritten: the newest counts that no later row undoes."""

    __tablename__ = "label"
    id: Mapped[int] = mapped_column(primary_key=True)
    extension_id: Mapped[int] = mapped_column(
        ForeignKey("extension.id", ondelete="CASCADE"), index=True
    )
    label: Mapped[LabelName] = mapped_column(_string(16))
    kind: Mapped[str]
    who: Mapped[str]
    at: Mapped[datetime]
    note: Mapped[str]
    undoes_id: Mapped[int | None] = mapped_column(
        ForeignKey("label.id", ondelete="CASCADE"), unique=True
    )


class IdempotentRequestRow(Base):
    """A request that said something of frames, by a name that the asker gave it.

    One that is sent again, as nobody heard the answer, is known and does nothing.
    """

    __tablename__ = "request"
    who: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(_string(64), primary_key=True)
    at: Mapped[datetime]
    label_ids: Mapped[list[int]] = mapped_column(JSON)  # what it added


class EpochRow(Base):
    """An intervention: from that night on, references start anew, unless a later row undoes it."""

    __tablename__ = "epoch"
    id: Mapped[int] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(index=True)  # an image type, or an instrument's name
    since: Mapped[date]
    why: Mapped[str]
    who: Mapped[str]
    at: Mapped[datetime]
    undoes_id: Mapped[int | None] = mapped_column(ForeignKey("epoch.id"), unique=True)


class AlertRow(Base):
    """Something that people must be told: of a verdict, or of what is no frame's.

    Owed in the same transaction as what it tells of. Told once it belongs to a notice; never, if
    it is silenced, or `settled` says why nobody need be told.
    """

    __tablename__ = "alert"
    id: Mapped[int] = mapped_column(primary_key=True)
    topic: Mapped[Topic] = mapped_column(_string(16))
    verdict_id: Mapped[int | None] = mapped_column(
        ForeignKey("verdict.id", ondelete="CASCADE"), unique=True
    )
    key: Mapped[str | None] = mapped_column(unique=True)  # of what is no verdict: told once
    instrument: Mapped[str | None]
    image_type: Mapped[str | None]
    night: Mapped[date | None]
    words: Mapped[str] = mapped_column(default="", server_default="")
    owed_at: Mapped[datetime]
    notice_id: Mapped[int | None] = mapped_column(
        ForeignKey("notice.id", ondelete="SET NULL"), index=True
    )
    silence_id: Mapped[int | None] = mapped_column(ForeignKey("silence.id", ondelete="SET NULL"))
    settled: Mapped[str] = mapped_column(default="", server_default="")


class NotificationRow(Base):
    """One event as people are told of it: alerts that belong together, and those who hear."""

    __tablename__ = "notice"
    id: Mapped[int] = mapped_column(primary_key=True)
    topic: Mapped[Topic] = mapped_column(_string(16))
    form: Mapped[NotificationKind] = mapped_column(_string(16), default=NotificationKind.EVENT)
    night: Mapped[date | None] = mapped_column(index=True)
    made_at: Mapped[datetime]
    subject: Mapped[str]
    file: Mapped[str | None]  # a report that is sent as it is
    alerts: Mapped[list[AlertRow]] = relationship(order_by=AlertRow.id)
    deliveries: Mapped[list["DeliveryRow"]] = relationship(
        back_populates="notice", order_by="DeliveryRow.id"
    )
    acknowledgements: Mapped[list["AcknowledgementRow"]] = relationship(
        order_by="AcknowledgementRow.id"
    )


class DeliveryRow(Base):
    """A notice owed to one address; tried until it has left, or for days."""

    __tablename__ = "delivery"
    __table_args__ = (UniqueConstraint("notice_id", "channel", "address"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    notice_id: Mapped[int] = mapped_column(ForeignKey("notice.id", ondelete="CASCADE"))
    channel: Mapped[Channel] = mapped_column(_string(16))
    address: Mapped[str]
    owed_at: Mapped[datetime]
    due_at: Mapped[datetime | None] = mapped_column(index=True)  # None: sent, or given up
    tries: Mapped[int] = mapped_column(default=0)
    trouble: Mapped[str] = mapped_column(default="")  # of the last try
    sent_at: Mapped[datetime | None]
    gave_up_at: Mapped[datetime | None]
    notice: Mapped[NotificationRow] = relationship(back_populates="deliveries")


class AcknowledgementRow(Base):
    """A person has seen a notice; nobody else need be told."""

    __tablename__ = "acknowledgement"
    id: Mapped[int] = mapped_column(primary_key=True)
    notice_id: Mapped[int] = mapped_column(ForeignKey("notice.id", ondelete="CASCADE"), index=True)
    who: Mapped[str]
    at: Mapped[datetime]
    note: Mapped[str]


class SilenceRow(Base):
    """No mail for events like a notice's, until a time or until all is well again."""

    __tablename__ = "silence"
    id: Mapped[int] = mapped_column(primary_key=True)
    notice_id: Mapped[int] = mapped_column(ForeignKey("notice.id", ondelete="CASCADE"))
    topic: Mapped[Topic] = mapped_column(_string(16))
    instrument: Mapped[str | None]
    image_types: Mapped[list[str]]
    who: Mapped[str]
    since: Mapped[datetime]
    until: Mapped[datetime | None]
    until_nominal: Mapped[bool]
    note: Mapped[str]
    ended_at: Mapped[datetime | None]
    ended_why: Mapped[str] = mapped_column(default="")


class JobRunRow(Base):
    """What the daemon did and when. A run without an end was cut short, or is going on."""

    __tablename__ = "job_run"
    __table_args__ = (Index("ix_job_run_job_started_at", "job", "started_at"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    job: Mapped[str]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    is_well: Mapped[bool | None]
    words: Mapped[str] = mapped_column(default="")


class ScheduledJobRow(Base):
    """When the daemon's jobs run next: the table of APScheduler's job store, as it wants it."""

    __tablename__ = "scheduled_job"
    id: Mapped[str] = mapped_column(Unicode(191), primary_key=True)
    next_run_time: Mapped[float | None] = mapped_column(Float(25), index=True)
    job_state: Mapped[bytes]


class SelfTestRow(Base):
    """A fault that was put into a good image in memory, and whether it was found."""

    __tablename__ = "self_test"
    id: Mapped[int] = mapped_column(primary_key=True)
    night: Mapped[date] = mapped_column(index=True)
    at: Mapped[datetime]
    instrument: Mapped[str]
    image_type: Mapped[str]
    kind: Mapped[str]
    strength: Mapped[str]
    is_found: Mapped[bool]
    score: Mapped[float]
    frame: Mapped[str]
    reason: Mapped[str]


class AccountRow(Base):
    """Somebody who may use the review pages; while there is none, whoever sits at this machine."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(_string(64), unique=True)
    role: Mapped[Role] = mapped_column(_string(16))
    password: Mapped[str]  # an argon2id digest with its salt
    made_at: Mapped[datetime]


class SessionKeyRow(Base):
    """What opens the pages without a password: a browser's session, or a script's token.

    Only its digest is kept: who reads the database cannot use it.
    """

    __tablename__ = "access_key"
    digest: Mapped[str] = mapped_column(_string(64), primary_key=True)
    account_id: Mapped[int] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    is_session: Mapped[bool]
    made_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]  # None: a token, until it is revoked


class FailedLoginRow(Base):
    """A try to log in that has not succeeded; whose, as a digest, as passwords are typed there."""

    __tablename__ = "login"
    __table_args__ = (
        Index("ix_login_address_at", "address", "at"),
        Index("ix_login_name_digest_at", "name_digest", "at"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    name_digest: Mapped[str] = mapped_column(_string(64))
    address: Mapped[str] = mapped_column(_string(64))
    at: Mapped[datetime]
