"""What may be asked for by name, for the door and for what lies behind it.

Apart from both, as the door must open without loading what lies behind.
"""

from enum import StrEnum


class What(StrEnum):
    """The tables that can be exported."""

    VERDICTS = "verdicts"
    EMBEDDINGS = "embeddings"
    LABELS = "labels"
    METRICS = "metrics"


class Format(StrEnum):
    """The formats that they can be written in."""

    CSV = "csv"
    PARQUET = "parquet"
    VOTABLE = "votable"
