"""From a file to a stored verdict: one frame, batches, backfill of an archive, rejudging."""

__all__ = [
    "archive",
    "backfill",
    "batch",
    "dask_workers",
    "outcomes",
    "process",
    "readers",
    "rejudge",
]
