"""find the most doubtful verdicts, and know a request that is sent again

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("verdict", schema=None) as batch_op:
        batch_op.add_column(sa.Column("doubt", sa.Double(), server_default="0", nullable=False))
    op.execute(
        "UPDATE verdict SET doubt ="
        " CASE WHEN status = 'UNDECIDED' THEN 2.0 ELSE 1.0 / (1.0 + abs(score - 1.0)) END"
    )
    with op.batch_alter_table("verdict", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_verdict_doubt"), ["doubt"], unique=False)
        batch_op.create_index(batch_op.f("ix_verdict_score"), ["score"], unique=False)
    op.create_table(
        "request",
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("label_ids", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("who", "key", name=op.f("pk_request")),
    )


def downgrade() -> None:
    op.drop_table("request")
    with op.batch_alter_table("verdict", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_verdict_score"))
        batch_op.drop_index(batch_op.f("ix_verdict_doubt"))
        batch_op.drop_column("doubt")
