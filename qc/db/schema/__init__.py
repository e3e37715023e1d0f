"""Tables, column types, engine, migrations and copy to PostgreSQL."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qc.db.schema import copy, engine, migrate, models, revision, types

__all__ = ["copy", "engine", "migrate", "models", "revision", "types"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"qc.db.schema.{name}")
    raise AttributeError(f"module 'qc.db.schema' has no attribute {name!r}")
