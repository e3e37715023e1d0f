"""Reproducible studies behind the published figures."""
