"""Public API: frames, `Detector` without a database, `Project` with one."""

__all__ = ["detector", "frames", "project"]
