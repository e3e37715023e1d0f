"""Nearest neighbours, similar frames and projections."""
