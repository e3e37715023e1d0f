"""REST API under ``/api/v1``."""

from collections.abc import Iterator
from importlib import import_module

from fastapi import APIRouter

__all__ = [
    "dashboard",
    "documentation",
    "explain",
    "frames",
    "images",
    "labels",
    "projections",
    "schemas",
    "similar",
    "thresholds",
    "trends",
    "uploads",
]
_MODULES = (  # in the order of the OpenAPI document
    "documentation",
    "dashboard",
    "images",
    "frames",
    "explain",
    "labels",
    "thresholds",
    "trends",
    "similar",
    "projections",
)


def routers() -> Iterator[APIRouter]:
    """Yield the routers of the API."""
    for name in _MODULES:
        yield import_module(f"{__name__}.{name}").router
