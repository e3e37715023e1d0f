"""Monitoring: calibration completeness, injection test and its recall, health, active issues."""

__all__ = [
    "arrivals",
    "completeness",
    "health",
    "injection_pixels",
    "injection_plan",
    "injection_test",
    "issues",
    "missing",
    "recall",
    "template_sets",
]
