"""Matplotlib figures from arrays."""
