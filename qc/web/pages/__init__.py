"""HTML pages and the images in them."""

from collections.abc import Iterator
from importlib import import_module

from fastapi import APIRouter

__all__ = [
    "charts",
    "dashboard",
    "explain",
    "frames",
    "images",
    "login",
    "projections",
    "reports",
    "review",
    "similar",
    "thresholds",
    "trends",
]


def routers() -> Iterator[APIRouter]:
    """Yield the routers of the pages."""
    for name in __all__:
        router = getattr(import_module(f"{__name__}.{name}"), "router", None)
        if router is not None:
            yield router
