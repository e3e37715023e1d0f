"""rename notices to notifications

Revision ID: 0015
Revises: 0014
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# Table, its foreign key, its index on that key; the index is None where there is none.
_REFERRING = (
    ("alert", "fk_alert_{}_id", "ix_alert_{}_id"),
    ("delivery", "fk_delivery_{}_id", None),
    ("acknowledgement", "fk_acknowledgement_{}_id", "ix_acknowledgement_{}_id"),
    ("silence", "fk_silence_{}_id", None),
)
_COLUMNS = ["channel", "address"]  # of the unique constraint, beside the foreign key


def upgrade() -> None:
    _rename("notice", "notification")


def downgrade() -> None:
    _rename("notification", "notice")


def _rename(old: str, new: str) -> None:
    is_server = op.get_bind().dialect.name == "postgresql"
    op.rename_table(old, new)
    _rename_index("ix_{}_night", old, new, new, "night")
    if is_server:
        op.execute(f"ALTER TABLE {new} RENAME CONSTRAINT pk_{old} TO pk_{new}")
        op.execute(f"ALTER SEQUENCE {old}_id_seq RENAME TO {new}_id_seq")
    for table, key, index in _REFERRING:
        # RENAME COLUMN adapts constraints and indexes. A batch would make the table anew, and
        # SQLite would then clear the rows that refer to it.
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {old}_id TO {new}_id")
        if index:
            _rename_index(index, old, new, table, f"{new}_id")
        if is_server:
            op.execute(
                f"ALTER TABLE {table} RENAME CONSTRAINT {key.format(old)} TO {key.format(new)}"
            )
    unique = "uq_delivery_{}_id"
    if is_server:
        op.execute(
            f"ALTER TABLE delivery RENAME CONSTRAINT {unique.format(old)} TO {unique.format(new)}"
        )
        return
    # SQLite cannot rename a constraint. No table refers to delivery.
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.drop_constraint(unique.format(old), type_="unique")
        batch_op.create_unique_constraint(unique.format(new), [f"{new}_id", *_COLUMNS])


def _rename_index(name: str, old: str, new: str, table: str, column: str) -> None:
    op.drop_index(name.format(old), table)
    op.create_index(name.format(new), table, [column])
