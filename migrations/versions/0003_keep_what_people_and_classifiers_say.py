"""keep undone labels, classifiers, what they say of an image, and every pattern's strength

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "classifier",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("encoder_id", sa.Integer(), nullable=False),
        sa.Column("trained_at", sa.DateTime(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("examples_digest", sa.String(length=64), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["encoder_id"], ["encoder.id"], name=op.f("fk_classifier_encoder_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_classifier")),
    )
    with op.batch_alter_table("label", schema=None) as batch_op:
        batch_op.add_column(sa.Column("undoes_id", sa.Integer(), nullable=True))
        batch_op.create_foreign_key(
            batch_op.f("fk_label_undoes_id"), "label", ["undoes_id"], ["id"], ondelete="CASCADE"
        )
        batch_op.create_unique_constraint(batch_op.f("uq_label_undoes_id"), ["undoes_id"])
    with op.batch_alter_table("verdict", schema=None) as batch_op:
        batch_op.add_column(sa.Column("patterns", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("classifier_digest", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("predicted_type", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("type_probability", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("predicted_kind", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("kind_probability", sa.Double(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("verdict", schema=None) as batch_op:
        batch_op.drop_column("kind_probability")
        batch_op.drop_column("predicted_kind")
        batch_op.drop_column("type_probability")
        batch_op.drop_column("predicted_type")
        batch_op.drop_column("classifier_digest")
        batch_op.drop_column("patterns")
    with op.batch_alter_table("label", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("uq_label_undoes_id"), type_="unique")
        batch_op.drop_constraint(batch_op.f("fk_label_undoes_id"), type_="foreignkey")
        batch_op.drop_column("undoes_id")
    op.drop_table("classifier")
