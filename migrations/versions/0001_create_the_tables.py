"""create the tables

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "encoder",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("stretch", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_encoder")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_encoder_fingerprint")),
    )
    op.create_table(
        "epoch",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("since", sa.Date(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_epoch")),
    )
    with op.batch_alter_table("epoch", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_epoch_scope"), ["scope"], unique=False)

    op.create_table(
        "frame",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("file_bytes", sa.BigInteger(), nullable=False),
        sa.Column("modified_ns", sa.BigInteger(), nullable=False),
        sa.Column("processed_at", sa.DateTime(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("instrument", sa.String(), nullable=True),
        sa.Column("observed_at", sa.DateTime(), nullable=True),
        sa.Column("night", sa.Date(), nullable=True),
        sa.Column("exposure_s", sa.Double(), nullable=True),
        sa.Column("template", sa.String(), nullable=True),
        sa.Column("template_number", sa.Integer(), nullable=True),
        sa.Column("template_size", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_frame")),
        sa.UniqueConstraint("sha256", name=op.f("uq_frame_sha256")),
    )
    with op.batch_alter_table("frame", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_frame_name"), ["name"], unique=False)
        batch_op.create_index(batch_op.f("ix_frame_night"), ["night"], unique=False)
        batch_op.create_index(batch_op.f("ix_frame_observed_at"), ["observed_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_frame_path"), ["path"], unique=False)
        batch_op.create_index(batch_op.f("ix_frame_template"), ["template"], unique=False)
        batch_op.create_index(
            "uq_frame_path_unprocessed",
            ["path"],
            unique=True,
            sqlite_where=sa.text("state != 'processed'"),
            postgresql_where=sa.text("state != 'processed'"),
        )

    op.create_table(
        "extension",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("frame_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("image_type", sa.String(), nullable=False),
        sa.Column("chip", sa.String(), nullable=False),
        sa.Column("binning", sa.String(), nullable=False),
        sa.Column("read_mode", sa.String(), nullable=False),
        sa.Column("wavelength_nm", sa.Double(), nullable=True),
        sa.Column("slit_arcsec", sa.Double(), nullable=True),
        sa.Column("optics", sa.String(), nullable=False),
        sa.Column("frame_class", sa.String(), nullable=False),
        sa.Column("ny", sa.Integer(), nullable=False),
        sa.Column("nx", sa.Integer(), nullable=False),
        sa.Column("pixels_sha256", sa.String(length=64), nullable=False),
        sa.Column("promised_light", sa.Double(), nullable=False),
        sa.Column("zero_adu", sa.Double(), nullable=False),
        sa.Column("stretch_adu", sa.Double(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["frame_id"], ["frame.id"], name=op.f("fk_extension_frame_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_extension")),
        sa.UniqueConstraint("frame_id", "number", name=op.f("uq_extension_frame_id")),
    )
    with op.batch_alter_table("extension", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_extension_pixels_sha256"), ["pixels_sha256"], unique=False
        )
        batch_op.create_index(
            "ix_extension_setup", ["image_type", "chip", "binning", "read_mode"], unique=False
        )

    op.create_table(
        "block_statistics",
        sa.Column("extension_id", sa.Integer(), nullable=False),
        sa.Column("above_zero_adu", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["extension_id"],
            ["extension.id"],
            name=op.f("fk_block_statistics_extension_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("extension_id", name=op.f("pk_block_statistics")),
    )
    op.create_table(
        "embedding",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("extension_id", sa.Integer(), nullable=False),
        sa.Column("encoder_id", sa.Integer(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["encoder_id"], ["encoder.id"], name=op.f("fk_embedding_encoder_id")
        ),
        sa.ForeignKeyConstraint(
            ["extension_id"],
            ["extension.id"],
            name=op.f("fk_embedding_extension_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_embedding")),
        sa.UniqueConstraint("extension_id", "encoder_id", name=op.f("uq_embedding_extension_id")),
    )
    op.create_table(
        "label",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("extension_id", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["extension_id"],
            ["extension.id"],
            name=op.f("fk_label_extension_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label")),
    )
    with op.batch_alter_table("label", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_label_extension_id"), ["extension_id"], unique=False)

    op.create_table(
        "verdict",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("extension_id", sa.Integer(), nullable=False),
        sa.Column("encoder_id", sa.Integer(), nullable=False),
        sa.Column("judged_at", sa.DateTime(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("merge_height", sa.Double(), nullable=True),
        sa.Column("residual", sa.Double(), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("thresholds_digest", sa.String(length=64), nullable=False),
        sa.Column("reference_size", sa.Integer(), nullable=False),
        sa.Column("widened", sa.String(), nullable=False),
        sa.Column("z", sa.JSON(), nullable=False),
        sa.Column("nearest_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["encoder_id"], ["encoder.id"], name=op.f("fk_verdict_encoder_id")),
        sa.ForeignKeyConstraint(
            ["extension_id"],
            ["extension.id"],
            name=op.f("fk_verdict_extension_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["nearest_id"],
            ["extension.id"],
            name=op.f("fk_verdict_nearest_id"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdict")),
    )
    with op.batch_alter_table("verdict", schema=None) as batch_op:
        batch_op.create_index(
            "ix_verdict_extension_encoder", ["extension_id", "encoder_id"], unique=False
        )

    op.create_table(
        "alert",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("verdict_id", sa.Integer(), nullable=False),
        sa.Column("owed_at", sa.DateTime(), nullable=False),
        sa.Column("sent_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["verdict_id"], ["verdict.id"], name=op.f("fk_alert_verdict_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert")),
        sa.UniqueConstraint("verdict_id", name=op.f("uq_alert_verdict_id")),
    )


def downgrade() -> None:
    op.drop_table("alert")
    with op.batch_alter_table("verdict", schema=None) as batch_op:
        batch_op.drop_index("ix_verdict_extension_encoder")

    op.drop_table("verdict")
    with op.batch_alter_table("label", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_label_extension_id"))

    op.drop_table("label")
    op.drop_table("embedding")
    op.drop_table("block_statistics")
    with op.batch_alter_table("extension", schema=None) as batch_op:
        batch_op.drop_index("ix_extension_setup")
        batch_op.drop_index(batch_op.f("ix_extension_pixels_sha256"))

    op.drop_table("extension")
    with op.batch_alter_table("frame", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_frame_path_unprocessed",
            sqlite_where=sa.text("state != 'processed'"),
            postgresql_where=sa.text("state != 'processed'"),
        )
        batch_op.drop_index(batch_op.f("ix_frame_template"))
        batch_op.drop_index(batch_op.f("ix_frame_path"))
        batch_op.drop_index(batch_op.f("ix_frame_observed_at"))
        batch_op.drop_index(batch_op.f("ix_frame_night"))
        batch_op.drop_index(batch_op.f("ix_frame_name"))

    op.drop_table("frame")
    with op.batch_alter_table("epoch", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_epoch_scope"))

    op.drop_table("epoch")
    op.drop_table("encoder")
