"""let an epoch be undone, as a label can, by another row

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("epoch", schema=None) as batch_op:
        batch_op.add_column(sa.Column("undoes_id", sa.Integer(), nullable=True))
        batch_op.create_foreign_key(
            batch_op.f("fk_epoch_undoes_id"), "epoch", ["undoes_id"], ["id"]
        )
        batch_op.create_unique_constraint(batch_op.f("uq_epoch_undoes_id"), ["undoes_id"])


def downgrade() -> None:
    with op.batch_alter_table("epoch", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("uq_epoch_undoes_id"), type_="unique")
        batch_op.drop_constraint(batch_op.f("fk_epoch_undoes_id"), type_="foreignkey")
        batch_op.drop_column("undoes_id")
