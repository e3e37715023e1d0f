"""How Alembic meets our tables: on the engine it is given, or on the project's own."""

import os
from typing import Any

from alembic import context
from sqlalchemy import Connection, Engine

from qc.db.schema.engine import connect, for_writing
from qc.db.schema.migrate import is_declared
from qc.db.schema.models import Base
from qc.db.schema.types import BlockArray, UTCDateTime, Vector

# A migration imports nothing of ours: our column types are written as what they are stored as.
_STORED_AS = {
    UTCDateTime: "sa.DateTime()",
    Vector: "sa.LargeBinary()",
    BlockArray: "sa.LargeBinary()",
}


def render_item(kind: str, item: Any, _autogenerate: Any) -> str | bool:
    return _STORED_AS.get(type(item), False) if kind == "type" else False


def engine_to_migrate() -> Engine:
    given = context.config.attributes.get("engine")
    return given if given is not None else connect(os.environ.get("QC_DATABASE", "sqlite:///qc.db"))


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        render_item=render_item,
        include_name=is_declared,
    )
    with context.begin_transaction():
        context.run_migrations()


# One transaction, which takes the write lock first: two upgrades at once wait for each other.
with for_writing(engine_to_migrate()).begin() as connection:
    migrate(connection)
