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

_CLAIMS = ["image_type", "chip", "binning", "read_mode"]
_SETUP = [*_CLAIMS, "wavelength_nm", "slit_arcsec", "optics"]
_WHEN = ["observed_at", "id"]


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
        batch_op.create_index("ix_extension_observed_at", _WHEN, unique=False)
        batch_op.create_index("ix_extension_image_type", ["image_type", *_WHEN], unique=False)
    for name in ("score", "doubt"):  # with what tells equals apart
        with op.batch_alter_table("verdict", schema=None) as batch_op:
            batch_op.drop_index(f"ix_verdict_{name}")
            batch_op.create_index(f"ix_verdict_{name}", [name, "id"], unique=False)
    if op.get_bind().dialect.name == "postgresql":
        # A planner that takes what makes a setup for independent expects far too few.
        op.execute(
            f"CREATE STATISTICS st_extension_setup (mcv) ON {', '.join(_SETUP)} FROM extension"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP STATISTICS st_extension_setup")
    for name in ("score", "doubt"):
        with op.batch_alter_table("verdict", schema=None) as batch_op:
            batch_op.drop_index(f"ix_verdict_{name}")
            batch_op.create_index(f"ix_verdict_{name}", [name], unique=False)
    with op.batch_alter_table("extension", schema=None) as batch_op:
        batch_op.drop_index("ix_extension_image_type")
        batch_op.drop_index("ix_extension_observed_at")
        batch_op.drop_index("ix_extension_setup")
        batch_op.create_index("ix_extension_setup", _CLAIMS, unique=False)
        batch_op.drop_column("observed_at")
