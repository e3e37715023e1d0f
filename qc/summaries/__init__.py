"""Summaries: a night, a week or month, and trends, as dataclasses; `reports` and `web` show them.

`period` combines `counts`, `incidents`, `losses`, `changes`, `performance` and `ageing`.
"""

__all__ = [
    "ageing",
    "changes",
    "counts",
    "incidents",
    "losses",
    "matrix",
    "night",
    "night_range",
    "performance",
    "period",
    "standing",
    "trends",
]
