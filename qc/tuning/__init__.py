"""Fit of thresholds and threshold proposals."""
