"""keep an extension's gain, read noise and light-sensitive part, so that it can be judged again

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = {
    "gain_e_per_adu": sa.Double(),
    "read_noise_adu": sa.Double(),
    "light_bottom": sa.Integer(),
    "light_top": sa.Integer(),
    "light_left": sa.Integer(),
    "light_right": sa.Integer(),
}


def upgrade() -> None:
    with op.batch_alter_table("extension", schema=None) as batch_op:
        for name, kind in _COLUMNS.items():
            batch_op.add_column(sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("extension", schema=None) as batch_op:
        for name in reversed(_COLUMNS):
            batch_op.drop_column(name)
