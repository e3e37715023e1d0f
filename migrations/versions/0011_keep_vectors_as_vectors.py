"""keep embeddings as vectors in PostgreSQL, and sort its texts as everywhere else

Revision ID: 0011
Revises: 0010
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_AT_ONCE = 1000
_MISSING = (
    "this server lacks the extension 'vector': install pgvector 0.8 or later for its version of "
    "PostgreSQL (Debian: postgresql-18-pgvector) and let its administrator run "
    "'CREATE EXTENSION vector' in this database"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _create_extension()
        _convert("HALFVEC", lambda stored: str(np.frombuffer(stored, "<f2").tolist()))
        _sort_texts('COLLATE "C"')


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _convert("BYTEA", lambda text: np.array(text.strip("[]").split(","), "<f2").tobytes())
        _sort_texts('COLLATE "default"')


def _create_extension() -> None:
    known = sa.text("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")
    if not op.get_bind().scalar(known):
        raise sa.exc.NotSupportedError("CREATE EXTENSION vector", {}, Exception(_MISSING))
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")


def _convert(kind: str, converted: Callable[[Any], Any]) -> None:
    """Rewrite the column, some rows at a time: PostgreSQL has no cast between the two."""
    connection = op.get_bind()
    op.execute("ALTER TABLE embedding RENAME COLUMN vector TO earlier")
    op.execute(f"ALTER TABLE embedding ADD COLUMN vector {kind}")
    earlier = "earlier::text" if kind == "BYTEA" else "earlier"
    some = sa.text(
        f"SELECT id, {earlier} FROM embedding WHERE id > :last ORDER BY id LIMIT :n"  # noqa: S608
    )
    keep = sa.text(f"UPDATE embedding SET vector = CAST(:new AS {kind}) WHERE id = :id")  # noqa: S608
    last = 0
    while rows := connection.execute(some, {"last": last, "n": _AT_ONCE}).all():
        connection.execute(keep, [{"id": row.id, "new": converted(row.earlier)} for row in rows])
        last = rows[-1].id
    op.execute("ALTER TABLE embedding ALTER COLUMN vector SET NOT NULL")
    op.execute("ALTER TABLE embedding DROP COLUMN earlier")


def _sort_texts(collation: str) -> None:
    """Let texts be sorted by the numbers of their characters, or by the server's language."""
    texts = sa.text(
        "SELECT table_name, column_name, data_type, character_maximum_length"
        " FROM information_schema.columns WHERE table_schema = current_schema()"
        " AND data_type = 'character varying' AND table_name != 'alembic_version'"
        " ORDER BY table_name, ordinal_position"
    )
    changes: dict[str, list[str]] = {}
    for table, column, kind, length in op.get_bind().execute(texts):
        size = f"({length})" if length else ""
        change = f'ALTER COLUMN "{column}" TYPE {kind}{size} {collation}'
        changes.setdefault(table, []).append(change)
    for table, each in changes.items():
        op.execute(f'ALTER TABLE "{table}" {", ".join(each)}')
