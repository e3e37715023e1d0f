"""Nearest neighbours and 2-D projections of stored embeddings."""

__all__ = ["index_file", "nearest", "pgvector", "projection", "similar"]
