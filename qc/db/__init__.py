"""Database: the schema in `schema`, and one module of queries per aggregate.

The caller owns the transaction. Modules are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qc.db import (
        accounts,
        block_statistics,
        embeddings,
        extensions,
        findings,
        frames,
        labels,
        operations,
        recording,
        reference_models,
        references,
        schema,
        statistics,
    )

__all__ = [
    "accounts",
    "block_statistics",
    "embeddings",
    "extensions",
    "findings",
    "frames",
    "labels",
    "operations",
    "recording",
    "reference_models",
    "references",
    "schema",
    "statistics",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"qc.db.{name}")
    raise AttributeError(f"module 'qc.db' has no attribute {name!r}")
