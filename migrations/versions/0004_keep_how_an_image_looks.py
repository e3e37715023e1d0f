"""keep how an image looks whatever its header says, so that a classifier need not read pictures

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("extension", schema=None) as batch_op:
        batch_op.add_column(sa.Column("appearance", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("extension", schema=None) as batch_op:
        batch_op.drop_column("appearance")
