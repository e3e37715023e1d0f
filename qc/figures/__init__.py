"""Matplotlib figures from arrays, for reports, review pages and notebooks."""

__all__ = [
    "classification",
    "dendrogram",
    "drawing",
    "images",
    "profile",
    "thresholds",
    "trends",
    "verdict",
]
