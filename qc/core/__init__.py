"""Frozen dataclasses and enums that all packages share; no I/O."""
