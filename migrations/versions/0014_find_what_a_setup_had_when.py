"""find what a setup had when without reading all that it ever had

Revision ID: 0014
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0011"
branch_labels = None
depends_on = None

_SETUP = ["image_type", "chip", "binning", "read_mode"]


def upgrade() -> None:
    with op.batch_alter_table("extension", schema=None) as batch_op:
        batch_op.add_column(sa.Column("observed_at", sa.DateTime(), nullable=True))
    op.execute(
        "UPDATE extension SET observed_at ="
        " (SELECT frame.observed_at FROM frame WHERE frame.id = extension.frame_id)"
    )
    with op.batch_alter_table("extension", schema=None) as batch_op:
        batch_op.drop_index("ix_extension_setup")
        batch_op.create_index("ix_extension_setup", [*_SETUP, "observed_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_extension_observed_at"), ["observed_at"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("extension", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_extension_observed_at"))
        batch_op.drop_index("ix_extension_setup")
        batch_op.create_index("ix_extension_setup", _SETUP, unique=False)
        batch_op.drop_column("observed_at")
