"""Completeness, injection test, health and active issues."""
