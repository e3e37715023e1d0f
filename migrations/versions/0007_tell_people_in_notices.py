"""let alerts gather in notices, notices travel to many, and people answer them

An alert of before is owed still: nothing could be sent.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notice",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("topic", sa.String(length=16), nullable=False),
        sa.Column("form", sa.String(length=16), nullable=False),
        sa.Column("night", sa.Date(), nullable=True),
        sa.Column("made_at", sa.DateTime(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("file", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notice")),
    )
    op.create_index(op.f("ix_notice_night"), "notice", ["night"], unique=False)
    op.create_table(
        "acknowledgement",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("notice_id", sa.Integer(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["notice_id"],
            ["notice.id"],
            name=op.f("fk_acknowledgement_notice_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_acknowledgement")),
    )
    op.create_index(op.f("ix_acknowledgement_notice_id"), "acknowledgement", ["notice_id"])
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("notice_id", sa.Integer(), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("owed_at", sa.DateTime(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("trouble", sa.String(), nullable=False),
        sa.Column("sent_at", sa.DateTime(), nullable=True),
        sa.Column("gave_up_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["notice_id"], ["notice.id"], name=op.f("fk_delivery_notice_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("notice_id", "channel", "address", name=op.f("uq_delivery_notice_id")),
    )
    op.create_index(op.f("ix_delivery_due_at"), "delivery", ["due_at"], unique=False)
    op.create_table(
        "silence",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("notice_id", sa.Integer(), nullable=False),
        sa.Column("topic", sa.String(length=16), nullable=False),
        sa.Column("instrument", sa.String(), nullable=True),
        sa.Column("image_types", sa.JSON(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=True),
        sa.Column("until_nominal", sa.Boolean(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.Column("ended_why", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["notice_id"], ["notice.id"], name=op.f("fk_silence_notice_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_silence")),
    )
    with op.batch_alter_table("alert", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("topic", sa.String(length=16), server_default="verdict", nullable=False)
        )
        batch_op.add_column(sa.Column("key", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("instrument", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("image_type", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("night", sa.Date(), nullable=True))
        batch_op.add_column(sa.Column("words", sa.String(), server_default="", nullable=False))
        batch_op.add_column(sa.Column("notice_id", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("silence_id", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("settled", sa.String(), server_default="", nullable=False))
        batch_op.alter_column("verdict_id", existing_type=sa.INTEGER(), nullable=True)
        batch_op.create_index(batch_op.f("ix_alert_notice_id"), ["notice_id"], unique=False)
        batch_op.create_unique_constraint(batch_op.f("uq_alert_key"), ["key"])
        batch_op.create_foreign_key(
            batch_op.f("fk_alert_notice_id"), "notice", ["notice_id"], ["id"], ondelete="SET NULL"
        )
        batch_op.create_foreign_key(
            batch_op.f("fk_alert_silence_id"),
            "silence",
            ["silence_id"],
            ["id"],
            ondelete="SET NULL",
        )
        batch_op.drop_column("sent_at")
    frame = "FROM verdict JOIN extension ON extension.id = verdict.extension_id "
    frame += "JOIN frame ON frame.id = extension.frame_id WHERE verdict.id = alert.verdict_id"
    op.execute(f"UPDATE alert SET instrument = (SELECT frame.instrument {frame})")  # noqa: S608
    op.execute(f"UPDATE alert SET night = (SELECT frame.night {frame})")  # noqa: S608
    op.execute(f"UPDATE alert SET image_type = (SELECT extension.image_type {frame})")  # noqa: S608
    with op.batch_alter_table("alert", schema=None) as batch_op:
        batch_op.alter_column("topic", server_default=None)


def downgrade() -> None:
    op.execute("DELETE FROM alert WHERE verdict_id IS NULL")
    with op.batch_alter_table("alert", schema=None) as batch_op:
        batch_op.add_column(sa.Column("sent_at", sa.DateTime(), nullable=True))
        batch_op.drop_constraint(batch_op.f("fk_alert_silence_id"), type_="foreignkey")
        batch_op.drop_constraint(batch_op.f("fk_alert_notice_id"), type_="foreignkey")
        batch_op.drop_constraint(batch_op.f("uq_alert_key"), type_="unique")
        batch_op.drop_index(batch_op.f("ix_alert_notice_id"))
        batch_op.alter_column("verdict_id", existing_type=sa.INTEGER(), nullable=False)
        batch_op.drop_column("settled")
        batch_op.drop_column("silence_id")
        batch_op.drop_column("notice_id")
        batch_op.drop_column("words")
        batch_op.drop_column("night")
        batch_op.drop_column("image_type")
        batch_op.drop_column("instrument")
        batch_op.drop_column("key")
        batch_op.drop_column("topic")
    op.drop_table("silence")
    op.drop_table("delivery")
    op.drop_table("acknowledgement")
    op.drop_table("notice")
